//! The command line.

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::{demo, doctor, sql, up};

/// Windlass: a cluster that answers SQL over Parquet
///
/// Exit codes: 0 ok, 1 query or cluster error, 2 usage, 3 connection, 130 cancelled.
#[derive(Debug, Parser)]
#[command(name = "windlass", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine and print where it listens
    ///
    /// An executor that ends is started again. When the scheduler ends, so does this, with its exit code.
    Up(up::ClusterOptions),
    /// Run statements, or open a shell
    Sql(Box<sql::Options>),
    /// Show a cluster at work: TPC-H data, 22 queries, a shell
    Demo(demo::Options),
    /// Look for what would stop a cluster here
    Doctor(doctor::Options),
}

impl Cli {
    /// Runs the command.
    pub async fn run(self) -> Result<()> {
        match self.command {
            Command::Up(options) => up::run(options).await,
            Command::Sql(options) => Box::pin(sql::run(*options)).await,
            Command::Demo(options) => Box::pin(demo::run(options)).await,
            Command::Doctor(options) => doctor::run(&options),
        }
    }
}
