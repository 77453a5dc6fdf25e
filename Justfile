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

# Processes are killed while clients write; needs the packages of tests/s3/requirements.txt
crashes *args:
    tests/crashes/run {{args}}

# Files of pyarrow, DuckDB and, where it is, Spark, and ours; needs the same
interop *args:
    tests/interop/run {{args}}

# Rewrites the expected plans; review the diff like code.
accept:
    INSTA_UPDATE=always cargo test --workspace --test cluster -- plans

bench *args:
    cargo build --release --workspace --bins
    "${CARGO_TARGET_DIR:-target}/release/windlass-bench" {{args}}

# DuckDB, Spark, Sail and the clients of Trino and Presto, for windlass-bench
bench-peers:
    python3 -m venv ~/.cache/windlass/peers
    ~/.cache/windlass/peers/bin/pip install --quiet -r benchmarks/peers/requirements.txt
    python3 -m venv ~/.cache/windlass/peers-sail
    ~/.cache/windlass/peers-sail/bin/pip install --quiet -r benchmarks/peers/sail.txt

# Runs another commit and this checkout in turn; fails above 5 %.
bench-gate *args:
    benchmarks/gate {{args}}

demo *args:
    cargo demo {{args}}

ci:
    .ci/run
