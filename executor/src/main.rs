//! `windlass-executor`: runs tasks for a scheduler.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing::info;
use windlass_engine::process::{Exit, error_chain};
use windlass_engine::{config, memory, telemetry};
use windlass_executor::config::Flags;
use windlass_executor::{Error, ExecutorConfig, Result, server};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// What blocked threads get to end before the process does.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Runs tasks of a Windlass cluster
///
/// Settings come from flags, then WINDLASS_EXECUTOR_... variables, then the file, then defaults.
/// Exit codes: 0 stopped when asked, 1 failed, 2 usage or configuration, 3 cannot reach the scheduler.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the resulting configuration and exit
    #[arg(long)]
    print_config: bool,
    /// Stop when standard input ends
    #[arg(long)]
    exit_with_parent: bool,
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ExitCode {
    memory::set_up();
    match run(Cli::parse()) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            eprintln!("windlass-executor: {}", error_chain(&error));
            error.exit().into()
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let config = ExecutorConfig::load(cli.config.as_deref(), &cli.flags)?;
    if cli.print_config {
        let text = config::print(&config)
            .map_err(|error| Error::System { action: "print the configuration", cause: std::io::Error::other(error) })?;
        print!("{text}");
        return Ok(());
    }
    config.validate()?;
    telemetry::init(&config.log)?;
    info!(?config, "configuration");
    let runtime = tokio::runtime::Runtime::new().map_err(|cause| Error::System { action: "start a runtime", cause })?;
    let result = runtime.block_on(server::run(config, cli.exit_with_parent));
    runtime.shutdown_timeout(SHUTDOWN);
    result
}
