# What a developer runs; CI runs `just ci`, which is `.ci/run`.

default: build

build:
    cargo build --workspace

lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

deps:
    cargo deny check

test:
    cargo test --workspace

# SQL files on one process and on a cluster
slt:
    cargo test --workspace --test cluster -- slt

cluster:
    cargo test --workspace --test cluster

# The 99 queries of TPC-DS against DuckDB; needs the packages of tests/tpcds/requirements.txt
tpcds *args:
    tests/tpcds/run {{args}}

# Rewrites the expected plans; review the diff like code.
accept:
    INSTA_UPDATE=always cargo test --workspace --test cluster -- plans

bench *args:
    cargo run --release -p windlass-benchmarks --bin windlass-bench -- {{args}}

demo *args:
    cargo demo {{args}}

ci:
    .ci/run
