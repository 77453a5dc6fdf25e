//! `windlass-executor`: runs tasks for a scheduler.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use tracing::info;
use windlass_engine::process::{Exit, error_chain};
use windlass_engine::{config, memory, telemetry};
use windlass_executor::config::Flags;
use windlass_executor::server::{Ended, Manners};
use windlass_executor::{Error, ExecutorConfig, Result, server};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// What blocked threads get to end before the process does.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Runs tasks of a Windlass cluster
///
/// Settings come from flags, then WINDLASS_EXECUTOR_... variables, then the file, then defaults.
/// Exit codes: 0 stopped when asked, 1 failed, 2 usage or configuration, 3 cannot reach the scheduler at the start.
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
    /// Wait for the scheduler as long as it takes: what a process that lost its scheduler starts itself again with
    #[arg(long, hide = true)]
    rejoin: bool,
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
    // Where the program is now: an upgrade may replace the file while we run.
    let program = std::env::current_exe().map_err(|cause| Error::System { action: "find its own program", cause })?;
    let runtime = tokio::runtime::Runtime::new().map_err(|cause| Error::System { action: "start a runtime", cause })?;
    let manners = Manners { exit_with_parent: cli.exit_with_parent, rejoin: cli.rejoin };
    let ended = runtime.block_on(server::run(config, manners));
    if ended.as_ref().is_ok_and(|ended| *ended == Ended::Forsaken) {
        // The same process from the start: no task, connection, port or memory of the old executor can be left behind.
        let again = (!cli.rejoin).then_some("--rejoin");
        let cause = Command::new(program).args(std::env::args_os().skip(1)).args(again).exec();
        return Err(Error::System { action: "start itself again", cause });
    }
    runtime.shutdown_timeout(SHUTDOWN);
    ended.map(drop)
}
