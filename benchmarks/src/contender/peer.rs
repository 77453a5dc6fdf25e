//! Systems that are reached through Python: one process each, which is asked in lines of JSON and answers in Arrow.

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use windlass_client::machine;

use crate::Result;
use crate::suite::Suite;

const PROGRAM: &str = include_str!("../../peers/peer.py");
/// Assumed where the machine does not tell its memory.
const MEMORY_FALLBACK: u64 = 4 << 30;

/// One of those systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum System {
    /// DuckDB in its process.
    Duckdb,
    /// Spark in its process, `local[partitions]`.
    Spark,
    /// Sail in its process.
    Sail,
    /// A Trino cluster.
    Trino,
    /// A Presto cluster.
    Presto,
}

/// A system with the tables of a suite. It is started again after a query that did not end.
pub struct Peer {
    system: System,
    python: PathBuf,
    setup: String,
    process: Mutex<Option<Process>>,
}

/// What came back from a query.
pub struct Reply {
    /// How long the system took, to its last row in Arrow.
    pub took: Duration,
    /// How many rows there are.
    pub count: usize,
    /// The rows, if they were wanted.
    pub batches: Option<Vec<RecordBatch>>,
}

struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// A line of the program.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Error { error: String },
    Ready { configuration: BTreeMap<String, String> },
    Rows { ms: f64, rows: usize, bytes: Option<usize> },
}

impl System {
    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Duckdb => "duckdb",
            Self::Spark => "spark",
            Self::Sail => "sail",
            Self::Trino => "trino",
            Self::Presto => "presto",
        }
    }

    /// Where what it prints beside its answers goes.
    fn log(self) -> PathBuf {
        env::temp_dir().join(format!("windlass-bench-{}.log", self.name()))
    }
}

/// The Python that has the packages of a system: `WINDLASS_BENCH_PYTHON`, or that of the environments which `just bench-peers` makes.
fn python(system: System) -> PathBuf {
    let environment = if system == System::Sail { "peers-sail" } else { "peers" };
    let own = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/windlass").join(environment).join("bin/python");
    env::var_os("WINDLASS_BENCH_PYTHON").map_or_else(own, PathBuf::from)
}

impl Peer {
    /// Starts a system and tells it of the tables, or for Trino and Presto of the address and schema where they are.
    pub async fn start(
        system: System,
        uri: Option<&str>,
        partitions: usize,
        suite: Suite,
        data: &Path,
    ) -> Result<(Self, BTreeMap<String, String>)> {
        let tables = suite.tables(data)?.into_iter().map(|table| json!({"name": table.name, "path": table.path, "keys": table.keys}));
        let setup = json!({
            "tables": tables.collect::<Vec<_>>(),
            "partitions": partitions,
            "memory_bytes": machine::memory_bytes().unwrap_or(MEMORY_FALLBACK),
            "uri": uri,
        });
        let peer = Self { system, python: python(system), setup: setup.to_string(), process: Mutex::default() };
        let (process, configuration) = peer.launch().await?;
        *peer.process.lock().await = Some(process);
        Ok((peer, configuration))
    }

    /// Its process.
    pub async fn pid(&self) -> Option<u32> {
        self.process.lock().await.as_ref().and_then(|process| process.child.id())
    }

    /// Runs a query. If this is dropped before its end, the process goes with it.
    pub async fn ask(&self, sql: &str, wanted: bool) -> Result<Reply> {
        let mut slot = self.process.lock().await;
        let mut process = match slot.take() {
            Some(process) => process,
            None => self.launch().await?.0,
        };
        let line = self.exchange(&mut process, &json!({"sql": sql, "rows": wanted}).to_string()).await?;
        let reply = match line {
            Line::Rows { ms, rows, bytes } => {
                let took = Duration::from_secs_f64(ms / 1e3);
                let batches = match bytes {
                    Some(bytes) => Some(process.batches(bytes).await?),
                    None => None,
                };
                Ok(Reply { took, count: rows, batches })
            }
            Line::Error { error } => Err(error.into()),
            Line::Ready { .. } => Err("an answer to nothing".into()),
        };
        *slot = Some(process);
        reply
    }

    async fn launch(&self) -> Result<(Process, BTreeMap<String, String>)> {
        let name = self.system.name();
        let mut command = Command::new(&self.python);
        command.args(["-u", "-c", PROGRAM, name]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        command.stderr(File::create(self.system.log())?);
        let mut child = command.spawn().map_err(|error| {
            format!(
                "cannot start '{}' for {name}: {error}; 'just bench-peers' installs it, WINDLASS_BENCH_PYTHON names another",
                self.python.display()
            )
        })?;
        let (input, output) = (child.stdin.take().ok_or("no input")?, BufReader::new(child.stdout.take().ok_or("no output")?));
        let mut process = Process { child, input, output };
        match self.exchange(&mut process, &self.setup).await? {
            Line::Ready { configuration } => Ok((process, configuration)),
            Line::Error { error } => Err(format!("{name} did not start: {error}").into()),
            Line::Rows { .. } => Err(format!("{name} did not start").into()),
        }
    }

    async fn exchange(&self, process: &mut Process, line: &str) -> Result<Line> {
        process.input.write_all(line.as_bytes()).await?;
        process.input.write_all(b"\n").await?;
        let mut answer = String::new();
        if process.output.read_line(&mut answer).await? == 0 {
            return Err(format!("{} ended; see '{}'", self.system.name(), self.system.log().display()).into());
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Process {
    async fn batches(&mut self, bytes: usize) -> Result<Vec<RecordBatch>> {
        let mut stream = vec![0; bytes];
        self.output.read_exact(&mut stream).await?;
        Ok(StreamReader::try_new(stream.as_slice(), None)?.collect::<Result<_, _>>()?)
    }
}
