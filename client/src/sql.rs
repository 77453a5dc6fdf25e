//! `windlass sql`: statements from the command line, a file, standard input or a person.

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::connection::{Connection, Credentials};
use crate::console::{Console, Settings};
use crate::error::{Error, Result};
use crate::output::Format;
use crate::script::split;
use crate::shell;
use crate::up::{Cluster, ClusterOptions};

/// Flags of `windlass sql`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Cluster to talk to: grpc://host:port or grpc+tls://host:port [default: a new one on this machine]
    uri: Option<String>,
    /// Statements to run; may be repeated. Without -c and -f: a shell, or standard input when it is no terminal
    #[arg(short = 'c', value_name = "SQL")]
    commands: Vec<String>,
    /// File of statements to run, after those of -c
    #[arg(short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// How rows are written [default: table on a terminal, else csv]
    #[arg(long)]
    format: Option<Format>,
    /// Write rows to FILE; with arrow and parquet those of the last statement only
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<String>,
    /// Print rows, time, bytes and query id of each statement on standard error
    #[arg(long)]
    timing: bool,
    /// User to log in as; the password comes from WINDLASS_PASSWORD or is asked for
    #[arg(long, env = "WINDLASS_USER")]
    user: Option<String>,
    /// PEM file with the authorities to trust [default: the system's]
    #[arg(long, env = "WINDLASS_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterOptions,
}

/// Runs the command.
pub async fn run(options: Options) -> Result<()> {
    let script = script(&options)?;
    let (cluster, uri) = match &options.uri {
        Some(uri) => (None, uri.clone()),
        None => {
            let cluster = Cluster::start(&options.cluster).await?;
            let uri = cluster.uri();
            (Some(cluster), uri)
        }
    };
    let login = options.user.map(|user| password(&user).map(|password| (user, password))).transpose()?;
    let connection = Connection::connect(&uri, Credentials { login, tls_ca: options.tls_ca }).await?;
    let mut settings = Settings::for_terminal();
    settings.format = options.format.unwrap_or(settings.format);
    settings.timing = options.timing;
    settings.write_to(options.output.as_deref())?;
    let mut console = Console::new(connection, settings)?;
    let result = match script {
        Some(script) => Box::pin(batch(&mut console, &script)).await,
        None => Box::pin(shell::run(&mut console)).await,
    };
    console.connection.close().await;
    if let Some(cluster) = cluster {
        cluster.stop().await;
    }
    result
}

/// The text to run, or nothing for a shell.
fn script(options: &Options) -> Result<Option<String>> {
    let mut script = options.commands.iter().map(|command| format!("{command}\n;\n")).collect::<String>();
    if let Some(path) = &options.file {
        // Lines are counted from the start of the file when it is all there is.
        script.push_str(&std::fs::read_to_string(path).map_err(Error::io(format!("read '{}'", path.display())))?);
    } else if options.commands.is_empty() {
        if io::stdin().is_terminal() {
            return Ok(None);
        }
        io::stdin().read_to_string(&mut script).map_err(Error::io("read statements from standard input"))?;
    }
    Ok(Some(script))
}

/// Runs statements in order and stops at the first that fails, after reporting it with its line.
pub(crate) async fn batch(console: &mut Console, script: &str) -> Result<()> {
    let (statements, _) = split(script);
    let last = statements.len().saturating_sub(1);
    for (index, statement) in statements.into_iter().enumerate() {
        let outcome = match console.settings.format.is_binary() && index < last {
            true => console.discard(statement.sql).await,
            false => console.execute(statement.sql).await,
        };
        if let Err(error) = outcome {
            return Err(error.located(statement));
        }
    }
    Ok(())
}

/// From the environment, or typed without echo.
fn password(user: &str) -> Result<String> {
    if let Some(password) = std::env::var_os("WINDLASS_PASSWORD") {
        return password.into_string().map_err(|_| Error::Usage("WINDLASS_PASSWORD is not valid UTF-8".into()));
    }
    if !io::stdin().is_terminal() {
        return Err(Error::Usage("no terminal to ask for a password; set WINDLASS_PASSWORD".into()));
    }
    let echo = |setting: &str| _ = Command::new("stty").arg(setting).stdin(Stdio::inherit()).status();
    eprint!("password of '{user}': ");
    echo("-echo");
    let mut line = String::new();
    let read = io::stdin().read_line(&mut line);
    echo("echo");
    let _ = writeln!(io::stderr());
    read.map_err(Error::io("read the password"))?;
    Ok(line.trim_end_matches(['\n', '\r']).to_string())
}
