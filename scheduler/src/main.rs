//! `windlass-scheduler`: takes SQL from clients and hands tasks to executors.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};
use tracing::info;
use windlass_engine::config::ConfigError;
use windlass_engine::process::{Exit, error_chain};
use windlass_engine::telemetry::TelemetryError;
use windlass_engine::{config, memory, telemetry};
use windlass_proto::Kind;
use windlass_scheduler::auth::hash_password;
use windlass_scheduler::config::Flags;
use windlass_scheduler::server::{self, Manners};
use windlass_scheduler::{Error, SchedulerConfig};

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Threads that serve executors. They only pass messages on and bind tasks to slots.
const CLUSTER_THREADS: usize = 2;

/// What blocked threads get to end before the process does.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Takes SQL from clients and hands tasks to executors
///
/// Settings come from flags, then WINDLASS_SCHEDULER_... variables, then the file, then defaults.
/// Exit codes: 0 stopped when asked, 1 failed, 2 usage or configuration.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the resulting configuration, secrets masked, and exit
    #[arg(long)]
    print_config: bool,
    /// Read a password from standard input, print what a user's entry in the configuration holds for it, and exit
    #[arg(long)]
    hash_password: bool,
    /// Print one line with the ports when all listen
    #[arg(long)]
    announce: bool,
    /// Stop when standard input ends
    #[arg(long)]
    exit_with_parent: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Why the process ends other than asked, for a person and for a supervisor.
struct Failure {
    exit: Exit,
    message: String,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Usage, message: error_chain(&error) }
    }
}

impl From<TelemetryError> for Failure {
    fn from(error: TelemetryError) -> Self {
        Self { exit: Exit::Usage, message: error_chain(&error) }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = if error.kind() == Kind::Invalid { Exit::Usage } else { Exit::Failed };
        let hint = error.detail().hint.as_str();
        Self { exit, message: if hint.is_empty() { error.to_string() } else { format!("{error}; {hint}") } }
    }
}

fn main() -> ExitCode {
    memory::set_up();
    match run(Cli::parse()) {
        Ok(()) => Exit::Ok.into(),
        Err(Failure { exit, message }) => {
            eprintln!("windlass-scheduler: {message}");
            exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    if cli.hash_password {
        println!("{}", hash_password(&typed_password()?)?);
        return Ok(());
    }
    let config = SchedulerConfig::load(cli.config.as_deref(), &cli.flags)?;
    if cli.print_config {
        print!("{}", config::print(&config).map_err(|cause| Error::internal(format!("cannot print the configuration: {cause}")))?);
        return Ok(());
    }
    config.validate()?;
    telemetry::init(&config.log)?;
    info!(?config, "configuration");
    let no_threads = |cause: std::io::Error| Error::internal(format!("cannot start threads: {cause}"));
    let cluster =
        Builder::new_multi_thread().worker_threads(CLUSTER_THREADS).thread_name("cluster").enable_all().build().map_err(no_threads)?;
    let clients = Runtime::new().map_err(no_threads)?;
    let manners = Manners { announce: cli.announce, exit_with_parent: cli.exit_with_parent };
    let result = clients.block_on(server::run(config, manners, cluster.handle().clone()));
    clients.shutdown_timeout(SHUTDOWN);
    cluster.shutdown_timeout(SHUTDOWN);
    Ok(result?)
}

/// The first line of standard input.
fn typed_password() -> Result<String, Error> {
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|cause| Error::invalid(format!("cannot read a password from standard input: {cause}")))?;
    match line.trim_end_matches(['\r', '\n']) {
        "" => Err(Error::invalid("standard input begins with no password")),
        password => Ok(password.to_owned()),
    }
}
