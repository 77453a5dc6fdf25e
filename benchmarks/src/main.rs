//! `windlass-bench`: prints numbers. What says yes or no lives in `tests/`.

mod catalog;
mod tpch;

use std::error::Error;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use windlass_engine::memory;
use windlass_engine::process::error_chain;

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Result of a benchmark, which ends at the first error whatever it is.
type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Measures Windlass and prints numbers
#[derive(Debug, Parser)]
#[command(name = "windlass-bench", version)]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Plans a one-day query on tables of more and more partitions
    Catalog(catalog::Args),
    /// Runs the 22 queries of TPC-H on a running cluster, and on what it is compared with
    Tpch(tpch::Args),
}

fn main() -> ExitCode {
    memory::set_up();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("windlass-bench: {}", error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let runtime = Runtime::new()?;
    match cli.benchmark {
        Benchmark::Catalog(args) => runtime.block_on(catalog::run(args)),
        Benchmark::Tpch(args) => runtime.block_on(tpch::run(args)),
    }
}
