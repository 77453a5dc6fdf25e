//! `windlass sql`: statements from the command line, a file, standard input or a person.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::Command;

use tokio::signal::unix::{SignalKind, signal};

use crate::connection::{Connection, Credentials, split_user};
use crate::console::{Console, Settings};
use crate::error::{Error, Result};
use crate::output::Format;
use crate::script::split;
use crate::shell;
use crate::up::{Cluster, ClusterOptions};

/// Flags of `windlass sql`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Cluster to talk to: grpc://host:port or grpc+tls://user@host:port [default: a new one on this machine]
    uri: Option<String>,
    /// Statements to run; may be repeated. Without -c and -f: a shell, or standard input when it is no terminal
    #[arg(short = 'c', value_name = "SQL")]
    commands: Vec<String>,
    /// File of statements to run, after those of -c
    #[arg(short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// How rows are written [default: by the name of -o FILE, else table on a terminal, else csv]
    #[arg(long)]
    format: Option<Format>,
    /// Write rows to FILE; with arrow and parquet those of the last statement only
    #[arg(short = 'o', value_name = "FILE")]
    output: Option<String>,
    /// Print rows, time, bytes and query id of each statement on standard error
    #[arg(long)]
    timing: bool,
    /// User to log in as, unless the address names one; the password comes from WINDLASS_PASSWORD or is asked for
    #[arg(long, env = "WINDLASS_USER")]
    user: Option<String>,
    /// PEM file with the authorities to trust [default: the system's]
    #[arg(long, visible_alias = "ca", env = "WINDLASS_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterOptions,
}

/// Runs the command.
pub async fn run(options: Options) -> Result<()> {
    let scripts = scripts(&options)?;
    let (cluster, uri, user) = match &options.uri {
        Some(uri) => {
            let (uri, user) = split_user(uri)?;
            (None, uri, user.or(options.user))
        }
        None => {
            let cluster = Cluster::start(&options.cluster).await?;
            let uri = cluster.uri();
            (Some(cluster), uri, None)
        }
    };
    let login = match user {
        Some(user) => {
            let password = password(&user).await?;
            Some((user, password))
        }
        None => None,
    };
    let connection = Connection::connect(&uri, Credentials { login, tls_ca: options.tls_ca }).await?;
    let mut settings = Settings::for_terminal();
    settings.format = options.format;
    settings.timing = options.timing;
    settings.write_to(options.output.as_deref())?;
    let mut console = Console::new(connection, settings)?;
    let result = match scripts {
        Some(scripts) => Box::pin(batch(&mut console, &scripts)).await,
        None => Box::pin(shell::run(&mut console)).await,
    };
    console.connection.close().await;
    match cluster {
        // Why a cluster is gone says more than that it is.
        Some(mut cluster) => cluster.stop().await.and(result),
        None => result,
    }
}

/// The texts to run, or nothing for a shell. Each counts its lines from 1.
fn scripts(options: &Options) -> Result<Option<Vec<String>>> {
    let mut scripts = options.commands.clone();
    if let Some(path) = &options.file {
        scripts.push(std::fs::read_to_string(path).map_err(Error::io(format!("read '{}'", path.display())))?);
    } else if scripts.is_empty() {
        if io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut script = String::new();
        io::stdin().read_to_string(&mut script).map_err(Error::io("read statements from standard input"))?;
        scripts.push(script);
    }
    Ok(Some(scripts))
}

/// Runs statements in order and stops at the first that fails, after reporting it with its line.
pub(crate) async fn batch(console: &mut Console, scripts: &[String]) -> Result<()> {
    let (mut statements, mut quotes) = (Vec::new(), console.quotes());
    for script in scripts {
        let split = split(script, quotes);
        statements.extend(split.statements);
        quotes = split.quotes;
    }
    let last = statements.len().saturating_sub(1);
    for (index, statement) in statements.into_iter().enumerate() {
        let outcome = match console.settings.format().is_binary() && index < last {
            true => console.discard(statement.sql).await,
            false => console.execute(statement.sql).await,
        };
        if let Err(error) = outcome {
            return Err(error.located(statement));
        }
    }
    Ok(())
}

/// From the environment, or typed without echo at the terminal, even if statements come from standard input.
async fn password(user: &str) -> Result<String> {
    if let Some(password) = std::env::var_os("WINDLASS_PASSWORD") {
        return password.into_string().map_err(|_| Error::Usage("WINDLASS_PASSWORD is not valid UTF-8".into()));
    }
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|_| Error::Usage(format!("no terminal to ask for the password of '{user}'; set WINDLASS_PASSWORD")))?;
    let mut interrupts = signal(SignalKind::interrupt()).map_err(Error::io("listen to Ctrl-C"))?;
    let reader = terminal.try_clone().map_err(Error::io("read the password"))?;
    let _silent = Silent::new(terminal, &format!("password of '{user}': "))?;
    let line = tokio::task::spawn_blocking(move || BufReader::new(reader).lines().next());
    tokio::select! {
        line = line => match line {
            Ok(Some(line)) => line.map_err(Error::io("read the password")),
            _ => Err(Error::Cancelled),
        },
        _ = interrupts.recv() => Err(Error::Cancelled),
    }
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent(File);

impl Silent {
    fn new(mut terminal: File, prompt: &str) -> Result<Self> {
        let silenced = echo(&terminal, "-echo").and_then(|()| terminal.write_all(prompt.as_bytes()));
        silenced.map_err(Error::io("hide the password while it is typed; set WINDLASS_PASSWORD instead"))?;
        Ok(Self(terminal))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // The line end that was typed did not show either.
        let _ = self.0.write_all(b"\n");
        let _ = echo(&self.0, "echo");
    }
}

fn echo(terminal: &File, setting: &str) -> io::Result<()> {
    let status = Command::new("stty").arg(setting).stdin(terminal.try_clone()?).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("stty {setting}: {status}"))) }
}
