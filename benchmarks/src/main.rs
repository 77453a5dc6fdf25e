//! `windlass-bench`: prints numbers. What says yes or no lives in `tests/`.

mod answer;
mod catalog;
mod contender;
mod estimates;
mod report;
mod run;
mod suite;

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
    /// Runs TPC-H or TPC-DS on a running cluster, and on what it is compared with
    Run(run::Args),
    /// Shows estimated and actual rows of every operator of TPC-H or TPC-DS
    Estimates(estimates::Args),
    /// Puts two reports side by side, query by query
    Compare(report::Args),
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
        Benchmark::Run(args) => runtime.block_on(run::run(args)),
        Benchmark::Estimates(args) => runtime.block_on(estimates::run(args)),
        Benchmark::Compare(args) => report::compare(&args),
    }
}
