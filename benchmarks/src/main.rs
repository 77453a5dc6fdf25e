//! `windlass-bench`: prints numbers. What says yes or no lives in `tests/`.

mod answer;
mod catalog;
mod contender;
mod estimates;
mod gate;
mod generate;
mod load;
mod oracle;
mod page;
mod process;
mod report;
mod run;
mod scheduler;
mod suite;
mod warehouse;

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
    /// Runs a suite on a running cluster, and on what it is compared with
    Run(Box<run::Args>),
    /// Asks light and heavy queries from many clients at once
    Concurrency(Box<load::ConcurrencyArgs>),
    /// Asks a light query alone and beside heavy ones
    Fairness(Box<load::FairnessArgs>),
    /// Asks for one partition at a time, from one client and from many
    Lookup(Box<load::LookupArgs>),
    /// Plans a one-day query on tables of more and more partitions
    Catalog(catalog::Args),
    /// Repairs and cleans up many files, writes many partitions, and lets many write
    Warehouse(warehouse::Args),
    /// Shows estimated and actual rows of every operator of a suite's queries
    Estimates(estimates::Args),
    /// Hands tasks to simulated executors, to see what a task costs the scheduler
    Scheduler(scheduler::Args),
    /// Puts two reports side by side, query by query
    Compare(report::Args),
    /// Draws reports on a page for a browser
    Report(page::Args),
    /// Runs two builds in turn and fails if the second is slower
    Gate(gate::Args),
    /// Works for a stock datafusion-distributed session, which starts it
    #[command(hide = true)]
    Worker,
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
        Benchmark::Run(args) => runtime.block_on(run::run(*args)),
        Benchmark::Concurrency(args) => runtime.block_on(load::concurrency(*args)),
        Benchmark::Fairness(args) => runtime.block_on(load::fairness(*args)),
        Benchmark::Lookup(args) => runtime.block_on(load::lookup(*args)),
        Benchmark::Catalog(args) => runtime.block_on(catalog::run(args)),
        Benchmark::Warehouse(args) => runtime.block_on(warehouse::run(args)),
        Benchmark::Estimates(args) => runtime.block_on(estimates::run(args)),
        Benchmark::Scheduler(args) => runtime.block_on(scheduler::run(args)),
        Benchmark::Compare(args) => report::compare(&args),
        Benchmark::Report(args) => page::run(&args),
        Benchmark::Gate(args) => runtime.block_on(gate::run(args)),
        Benchmark::Worker => runtime.block_on(contender::distributed::work()),
    }
}
