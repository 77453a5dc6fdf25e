//! `windlass`: the command line of a Windlass cluster.

use std::process::ExitCode;

use clap::Parser;
use windlass_client::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime needs threads; the system has none left");
    let result = runtime.block_on(cli.run());
    // A pager or a terminal read may still block a thread; nothing waits for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.exit_code() != 0 {
                eprintln!("{}", error.report());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
