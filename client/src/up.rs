//! `windlass up`: a scheduler and executors as child processes on this machine.
//!
//! The data directory holds `catalog` state that outlives the cluster, `logs/` of the last run, `executors/` for shuffle and spill files,
//! and `up.lock`, which the running cluster holds and in which it leaves its address.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::future::select_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, Credentials};
use crate::error::{Error, Result};
use crate::machine;

/// A cold start of all processes; more means something is wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_PAUSE: Duration = Duration::from_millis(50);
/// What a process gets to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Lines of a log that an error repeats.
const LOG_LINES_SHOWN: usize = 15;
/// Assumed where the machine does not tell its memory.
const MEMORY_FALLBACK: u64 = 4 << 30;

/// Flags that describe a cluster on this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterOptions {
    /// Executor processes of a local cluster
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub executors: u16,
    /// Partitions that each executor runs at once [default: cores / executors]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub slots: Option<u16>,
    /// Memory of each executor in bytes [default: 60 % of this machine's / executors]
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<u64>,
    /// Where the catalog, logs and temporary files live [default: ~/.local/share/windlass]
    #[arg(long, env = "WINDLASS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory that tables may use; may be repeated [default: the data directory and the working directory]
    #[arg(long, value_name = "PREFIX")]
    pub allow_location: Vec<PathBuf>,
    /// Port for Flight SQL clients; 0 is any free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub flight_port: u16,
    /// Port for health and metrics; 0 is any free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub http_port: u16,
}

/// A running cluster. Dropping it kills its processes; [`Cluster::stop`] lets them end well.
#[derive(Debug)]
pub struct Cluster {
    /// The scheduler first.
    processes: Vec<Process>,
    flight: String,
    http: String,
    /// Locked for as long as it is open.
    lock: File,
}

#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Its end tells the child that we are gone, however that happened.
    _stdin: Option<ChildStdin>,
}

/// Runs `windlass up` until it is told to stop.
pub async fn run(options: ClusterOptions) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("listen to Ctrl-C"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("listen to SIGTERM"))?;
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&options) => cluster?,
        _ = interrupt.recv() => return Err(Error::Cancelled),
        _ = terminate.recv() => return Err(Error::Cancelled),
    };
    writeln!(io::stdout(), "ready {} http://{}", cluster.uri(), cluster.http).map_err(Error::io("write to standard output"))?;
    let result = loop {
        tokio::select! {
            (name, report) = cluster.next_exit() => match name.as_str() {
                "scheduler" => break Err(Error::Cluster(report)),
                _ => eprintln!("{report}"),
            },
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
        }
    };
    cluster.stop().await;
    result
}

impl Cluster {
    /// Starts the processes and waits until every executor is registered.
    pub async fn start(options: &ClusterOptions) -> Result<Self> {
        let directory = data_directory(options)?;
        let lock = lock(&directory)?;
        let logs = directory.join("logs");
        fs::create_dir_all(&logs).map_err(Error::io(format!("create '{}'", logs.display())))?;
        let allowed = allowed(options, &directory)?;

        let mut command = Command::new(sibling("windlass-scheduler")?);
        command.arg("--announce").arg("--anonymous").arg("--data-dir").arg(&directory);
        command.args([
            "--internal-port",
            "0",
            "--flight-port",
            &options.flight_port.to_string(),
            "--http-port",
            &options.http_port.to_string(),
        ]);
        let mut scheduler = Process::spawn("scheduler", command, &allowed, &logs)?;
        let announced = scheduler.announcement().await?;
        let address = |key: &str| {
            let found = announced.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found.map(str::to_string).ok_or_else(|| Error::Cluster(format!("the scheduler announced no {key} address: '{announced}'")))
        };
        let internal = address("internal")?;
        let mut cluster = Self { flight: address("flight")?, http: address("http")?, processes: vec![scheduler], lock };

        let executors = usize::from(options.executors);
        let slots = options.slots.map_or_else(|| (machine::cores() / executors).max(1), usize::from);
        let memory = options.memory.unwrap_or_else(|| machine::memory_bytes().unwrap_or(MEMORY_FALLBACK) / 10 * 6 / executors as u64);
        for number in 1..=executors {
            let mut command = Command::new(sibling("windlass-executor")?);
            command.args(["--scheduler", &internal, "--port", "0", "--grpc-port", "0", "--http-port", "0"]);
            command.args(["--slots", &slots.to_string(), "--memory-limit-bytes", &memory.to_string()]);
            command.arg("--work-dir").arg(directory.join("executors"));
            cluster.processes.push(Process::spawn(&format!("executor-{number}"), command, &allowed, &logs)?);
        }
        cluster.registered(executors).await?;
        cluster.note_address()?;
        Ok(cluster)
    }

    /// Where clients connect.
    pub fn uri(&self) -> String {
        format!("grpc://{}", self.flight)
    }

    /// Asks all processes to end, waits up to 15 s, then kills what is left.
    pub async fn stop(mut self) {
        for process in &self.processes {
            if let Some(pid) = process.child.id().and_then(|pid| i32::try_from(pid).ok()) {
                // It may have ended by itself meanwhile.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        let all = futures::future::join_all(self.processes.iter_mut().map(|process| process.child.wait()));
        if timeout(STOP_TIMEOUT, all).await.is_err() {
            eprintln!("some processes did not end within {} s and are killed", STOP_TIMEOUT.as_secs());
        }
    }

    /// Waits until a process ends: its name, and what to tell the user.
    async fn next_exit(&mut self) -> (String, String) {
        if self.processes.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.processes.iter_mut().map(|process| Box::pin(process.child.wait()));
        let (status, index, _) = select_all(waits).await;
        let process = self.processes.remove(index);
        (process.name.clone(), process.obituary(status))
    }

    /// Waits until `count` executors are registered.
    async fn registered(&mut self, count: usize) -> Result<()> {
        let uri = self.uri();
        let wait = async {
            let connection = Connection::connect(&uri, Credentials::default()).await?;
            loop {
                let batches = connection.collect("SELECT count(*) FROM system.runtime.executors").await?;
                let seen = batches.first().map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0));
                if usize::try_from(seen).is_ok_and(|seen| seen >= count) {
                    connection.close().await;
                    return Ok(());
                }
                sleep(READY_PAUSE).await;
            }
        };
        let late = async {
            sleep(READY_TIMEOUT).await;
            Err(Error::Cluster(format!(
                "the executors did not register within {} s; see the logs in the data directory",
                READY_TIMEOUT.as_secs()
            )))
        };
        tokio::select! {
            result = wait => result,
            (_, report) = self.next_exit() => Err(Error::Cluster(report)),
            result = late => result,
        }
    }

    /// Leaves the address in the lock file, for the error of a second cluster.
    fn note_address(&mut self) -> Result<()> {
        let uri = self.uri();
        self.lock.write_all(uri.as_bytes()).map_err(Error::io("write the lock file"))
    }
}

impl Process {
    /// Starts a program of ours in a process group of its own, so that Ctrl-C in the terminal reaches only us.
    fn spawn(name: &str, mut command: Command, allowed: &[PathBuf], logs: &Path) -> Result<Self> {
        for prefix in allowed {
            command.arg("--allow-location").arg(prefix);
        }
        let log = logs.join(format!("{name}.log"));
        let file = File::create(&log).map_err(Error::io(format!("create '{}'", log.display())))?;
        command.arg("--exit-with-parent").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(Error::io(format!("start {name}")))?;
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_string(), child, log, _stdin: stdin })
    }

    /// The line on standard output that says the process is ready.
    async fn announcement(&mut self) -> Result<String> {
        let stdout = self.child.stdout.take().expect("standard output is piped and taken once");
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(READY_TIMEOUT, lines.next_line()).await;
        let line = line.map_err(|_| Error::Cluster(format!("{} was not ready within {} s", self.name, READY_TIMEOUT.as_secs())))?;
        match line.map_err(Error::io(format!("read from {}", self.name)))? {
            Some(line) => Ok(line),
            None => {
                let status = self.child.wait().await;
                Err(Error::Cluster(self.obituary(status)))
            }
        }
    }

    /// How it ended, with the end of its log.
    fn obituary(&self, status: io::Result<ExitStatus>) -> String {
        let how = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (_, Some(signal)) => format!("was killed by signal {signal}"),
                _ => "ended".into(),
            },
            Err(error) => format!("is lost: {error}"),
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        format!("{} {how}; its log '{}' ends with\n  {tail}", self.name, self.log.display())
    }
}

/// `~/.local/share/windlass`: catalog of local clusters, shell history.
pub fn user_directory() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Some(base.or_else(|| Some(std::env::home_dir()?.join(".local/share")))?.join("windlass"))
}

/// The cluster's directory, made if absent.
pub fn data_directory(options: &ClusterOptions) -> Result<PathBuf> {
    let wanted = options.data_dir.clone().or_else(user_directory);
    let wanted = wanted.ok_or_else(|| Error::Usage("no home directory; name a data directory with --data-dir".into()))?;
    fs::create_dir_all(&wanted)
        .and_then(|()| wanted.canonicalize())
        .map_err(Error::io(format!("create the data directory '{}'", wanted.display())))
}

/// A program that was built and installed beside this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().map_err(Error::io("find this program"))?;
    let path = here.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::Cluster(format!(
        "'{}' is missing: the three programs belong in one directory; `cargo build --workspace` makes them",
        path.display()
    )))
}

/// Prefixes that tables may use, absolute and free of links.
fn allowed(options: &ClusterOptions, data: &Path) -> Result<Vec<PathBuf>> {
    if options.allow_location.is_empty() {
        let here = std::env::current_dir().map_err(Error::io("find the working directory"))?;
        return Ok(vec![data.to_path_buf(), here]);
    }
    let absolute = |path: &PathBuf| path.canonicalize().map_err(Error::io(format!("allow location '{}'", path.display())));
    options.allow_location.iter().map(absolute).collect()
}

/// Takes the directory for one cluster, or says who has it.
fn lock(directory: &Path) -> Result<File> {
    let path = directory.join("up.lock");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(Error::io(format!("open '{}'", path.display())))?;
    if file.try_lock().is_err() {
        let mut uri = String::new();
        let _ = file.read_to_string(&mut uri);
        let advice = if uri.is_empty() { String::new() } else { format!("connect to it with `windlass sql {uri}`, or ") };
        return Err(Error::Cluster(format!(
            "data directory '{}' belongs to a running cluster; {advice}choose another with --data-dir",
            directory.display()
        )));
    }
    file.set_len(0).map_err(Error::io(format!("write '{}'", path.display())))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_belongs_to_one_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = lock(directory.path()).unwrap();
        first.write_all(b"grpc://127.0.0.1:7").unwrap();
        let refused = lock(directory.path()).unwrap_err().to_string();
        assert!(refused.contains("`windlass sql grpc://127.0.0.1:7`"), "{refused}");
        drop(first);
        lock(directory.path()).unwrap();
    }
}
