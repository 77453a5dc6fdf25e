//! `windlass up`: a scheduler and executors as child processes on this machine.
//!
//! The data directory holds `catalog` state that outlives the cluster, `logs/` of the last run, `executors/` for shuffle and spill files,
//! and `up.lock`, which the running cluster holds and in which it leaves its address.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::future::{join_all, select_all};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::connection::{Connection, Credentials};
use crate::error::{Error, Result};
use crate::machine;

/// A cold start of all processes; more means something is wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_PAUSE: Duration = Duration::from_millis(50);
/// What a process gets to end by itself before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// An executor that ends sooner after its start does so for a reason that another start does not mend.
const QUICK_END: Duration = Duration::from_secs(10);
/// Quick ends in a row after which an executor is given up.
const QUICK_ENDS_MAX: u32 = 5;
/// Before the first new start; each quick end doubles it.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// Lines of a log that an error repeats.
const LOG_LINES_SHOWN: usize = 15;
/// Characters of each.
const LOG_LINE_CHARS_SHOWN: usize = 200;
/// Bytes at the end of a log that they are looked for in.
const LOG_BYTES_READ: u64 = 64 << 10;
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
    /// Directory or bucket that tables may use; may be repeated [default: the data directory and the working directory]
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
    flight: String,
    http: String,
    /// Each message asks the supervisor to stop, the second one to stop at once.
    stop: mpsc::Sender<()>,
    supervisor: JoinHandle<Result<()>>,
    /// Locked for as long as it is open.
    _lock: File,
}

#[derive(Debug)]
struct Process {
    name: String,
    command: Command,
    log: PathBuf,
    child: Child,
    /// Its end tells the child that we are gone, however that happened.
    _alive: Option<ChildStdin>,
    started: Instant,
    patience: Patience,
    /// When it is started again, if it ended.
    due: Option<Instant>,
}

/// Decides whether a process that ended is started again.
#[derive(Debug, Default)]
struct Patience {
    /// Ends in a row, each soon after its start.
    quick_ends: u32,
}

enum Turn {
    /// The process ended by itself.
    Ended(io::Result<ExitStatus>),
    /// It is time to start it again.
    Due,
}

/// Runs `windlass up` until it is told to stop or the scheduler ends.
pub async fn run(options: ClusterOptions) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::io("listen to Ctrl-C"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("listen to SIGTERM"))?;
    let mut cluster = tokio::select! {
        cluster = Cluster::start(&options) => cluster?,
        _ = interrupt.recv() => return Err(Error::Cancelled),
        _ = terminate.recv() => return Err(Error::Cancelled),
    };
    writeln!(io::stdout(), "ready {} http://{}", cluster.uri(), cluster.http).map_err(Error::io("write to standard output"))?;
    tokio::select! {
        ended = cluster.ended() => return ended,
        _ = interrupt.recv() => notice("stopping; Ctrl-C again does not wait for running queries"),
        _ = terminate.recv() => {}
    }
    tokio::select! {
        stopped = cluster.stop() => stopped,
        _ = interrupt.recv() => cluster.stop().await,
    }
}

impl Cluster {
    /// Starts the processes and waits until every executor is registered.
    pub async fn start(options: &ClusterOptions) -> Result<Self> {
        let directory = data_directory(options)?;
        let mut lock = lock(&directory)?;
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
        let (flight, http) = (address("flight")?, address("http")?);
        let mut processes = vec![scheduler];

        let executors = usize::from(options.executors);
        let slots = options.slots.map_or_else(|| (machine::cores() / executors).max(1), usize::from);
        let memory = options.memory.unwrap_or_else(|| machine::memory_bytes().unwrap_or(MEMORY_FALLBACK) / 10 * 6 / executors as u64);
        for number in 1..=executors {
            let mut command = Command::new(sibling("windlass-executor")?);
            command.args(["--scheduler", &internal, "--port", "0", "--grpc-port", "0", "--http-port", "0"]);
            command.args(["--slots", &slots.to_string(), "--memory-limit-bytes", &memory.to_string()]);
            command.arg("--work-dir").arg(directory.join("executors"));
            processes.push(Process::spawn(&format!("executor-{number}"), command, &allowed, &logs)?);
        }
        let uri = format!("grpc://{flight}");
        registered(&uri, &mut processes).await?;
        // For the error of a second cluster.
        lock.write_all(uri.as_bytes()).map_err(Error::io("write the lock file"))?;
        let (stop, stops) = mpsc::channel(2);
        Ok(Self { flight, http, stop, supervisor: tokio::spawn(supervise(processes, stops)), _lock: lock })
    }

    /// Where clients connect.
    pub fn uri(&self) -> String {
        format!("grpc://{}", self.flight)
    }

    /// Waits until the cluster has ended by itself, which is an error, or after [`Cluster::stop`].
    pub async fn ended(&mut self) -> Result<()> {
        (&mut self.supervisor).await.unwrap_or_else(|error| Err(Error::Cluster(format!("the supervisor of the cluster failed: {error}"))))
    }

    /// Asks all processes to end, waits up to 15 s, then kills what is left; called again meanwhile, kills at once.
    ///
    /// Errors: why the cluster had ended before.
    pub async fn stop(&mut self) -> Result<()> {
        // Without a receiver there is nothing left to stop.
        let _ = self.stop.try_send(());
        self.ended().await
    }
}

/// Keeps the scheduler, which is the first, and the executors behind it running until it is told to stop.
///
/// Errors: `Ended` when the scheduler ends by itself, `Cluster` when no executor stays up.
async fn supervise(mut processes: Vec<Process>, mut stops: mpsc::Receiver<()>) -> Result<()> {
    let result = loop {
        let (turn, index) = tokio::select! {
            next = next_turn(&mut processes) => next,
            _ = stops.recv() => break Ok(()),
        };
        let process = &mut processes[index];
        let failure = match turn {
            Turn::Ended(status) if index == 0 => break Err(process.ended(status)),
            Turn::Ended(status) => {
                let report = process.obituary(&status);
                match process.patience.pause_after(process.started.elapsed()) {
                    Some(pause) => {
                        process.due = Some(Instant::now() + pause);
                        notice(&format!("{report}\nit is started again in {:.1} s", pause.as_secs_f64()));
                        continue;
                    }
                    None => {
                        format!("{report}\nit ended {QUICK_ENDS_MAX} times within {} s of its start and is given up", QUICK_END.as_secs())
                    }
                }
            }
            Turn::Due => match process.restart() {
                Ok(()) => continue,
                Err(error) => error.to_string(),
            },
        };
        notice(&failure);
        processes.remove(index);
        if processes.len() == 1 {
            break Err(Error::Cluster("no executor stays up".into()));
        }
    };
    for process in &processes {
        if let Some(pid) = process.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
    tokio::select! {
        _ = join_all(processes.iter_mut().map(|process| process.child.wait())) => {}
        _ = stops.recv() => {}
        () = sleep(STOP_TIMEOUT) => notice(&format!("some processes did not end within {} s and are killed", STOP_TIMEOUT.as_secs())),
    }
    for process in &mut processes {
        // Fails for those that ended, as they should.
        let _ = process.child.start_kill();
    }
    result
}

/// The first process for which something is to be done.
async fn next_turn(processes: &mut [Process]) -> (Turn, usize) {
    let (turn, index, _) = select_all(processes.iter_mut().map(|process| Box::pin(process.turn()))).await;
    (turn, index)
}

/// Waits until all executors are registered with the scheduler.
async fn registered(uri: &str, processes: &mut [Process]) -> Result<()> {
    let count = processes.len() - 1;
    let wait = async {
        let connection = Connection::connect(uri, Credentials::default()).await?;
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
    let ended = async {
        let waits = processes.iter_mut().map(|process| Box::pin(process.child.wait()));
        let (status, index, _) = select_all(waits).await;
        (status, index)
    };
    tokio::select! {
        result = wait => result,
        (status, index) = ended => Err(processes[index].ended(status)),
        () = sleep(READY_TIMEOUT) => Err(Error::Cluster(format!(
            "the executors did not register within {} s; see the logs in the data directory",
            READY_TIMEOUT.as_secs()
        ))),
    }
}

/// Says something beside whatever the terminal shows. A line editor has it in raw mode, in which lines do not return to the margin.
fn notice(text: &str) {
    let end = if io::stderr().is_terminal() { "\r\n" } else { "\n" };
    let _ = write!(io::stderr(), "{}{end}", text.replace('\n', end));
}

impl Patience {
    /// How long to wait before the next start of a process that has run for `lived`; `None` when there should be none.
    fn pause_after(&mut self, lived: Duration) -> Option<Duration> {
        self.quick_ends = if lived < QUICK_END { self.quick_ends + 1 } else { 1 };
        (self.quick_ends < QUICK_ENDS_MAX).then(|| RESTART_PAUSE * (1 << (self.quick_ends - 1)))
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
        let patience = Patience::default();
        Ok(Self { name: name.to_string(), command, log, child, _alive: stdin, started: Instant::now(), patience, due: None })
    }

    /// Starts it once more; its log goes on.
    fn restart(&mut self) -> Result<()> {
        self.child = self.command.spawn().map_err(Error::io(format!("start {} again", self.name)))?;
        self._alive = self.child.stdin.take();
        (self.started, self.due) = (Instant::now(), None);
        Ok(())
    }

    /// Waits for its end or, after that, for the moment of its next start.
    async fn turn(&mut self) -> Turn {
        match self.due {
            Some(due) => {
                sleep_until(due).await;
                Turn::Due
            }
            None => Turn::Ended(self.child.wait().await),
        }
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
                Err(self.ended(status))
            }
        }
    }

    /// Its end as an error that carries its exit code.
    fn ended(&self, status: io::Result<ExitStatus>) -> Error {
        let code = status.as_ref().ok().and_then(|status| status.code().or_else(|| status.signal().map(|signal| 128 + signal)));
        Error::Ended { report: self.obituary(&status), code: code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1) }
    }

    /// How it ended, with the end of its log.
    fn obituary(&self, status: &io::Result<ExitStatus>) -> String {
        let how = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (_, Some(signal)) => format!("was killed by signal {signal}"),
                _ => "ended".into(),
            },
            Err(error) => format!("is lost: {error}"),
        };
        let log = end_of(&self.log).unwrap_or_default();
        let lines: Vec<_> =
            log.lines().map(|line| line.char_indices().nth(LOG_LINE_CHARS_SHOWN).map_or(line, |(end, _)| &line[..end])).collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n  ");
        format!("{} {how}; its log '{}' ends with\n  {tail}", self.name, self.log.display())
    }
}

/// The last bytes of a file, from the beginning of a line.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let start = file.metadata()?.len().saturating_sub(LOG_BYTES_READ);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_READ).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole_lines = text.split_once('\n').filter(|_| start > 0).map_or(&*text, |(_cut, lines)| lines);
    Ok(whole_lines.to_owned())
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
    let absolute = |path: &PathBuf| match path.to_string_lossy().contains("://") {
        // What may stand there, the programs know.
        true => Ok(path.clone()),
        false => path.canonicalize().map_err(Error::io(format!("allow location '{}'", path.display()))),
    };
    // Executors write tables without a location there.
    options.allow_location.iter().map(absolute).chain([Ok(data.join("warehouse"))]).collect()
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

    #[test]
    fn buckets_are_allowed_as_they_are_named_and_directories_where_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let bucket = PathBuf::from("s3://lake/raw");
        let options = |allow_location| ClusterOptions {
            executors: 1,
            slots: None,
            memory: None,
            data_dir: None,
            allow_location,
            flight_port: 0,
            http_port: 0,
        };
        let found = allowed(&options(vec![bucket.clone(), directory.path().join(".")]), Path::new("/data")).unwrap();
        assert_eq!(found, [bucket, directory.path().canonicalize().unwrap(), PathBuf::from("/data/warehouse")]);
        assert!(allowed(&options(vec![directory.path().join("missing")]), Path::new("/data")).is_err());
    }

    #[test]
    fn of_a_long_log_the_last_lines_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        fs::write(&log, "one\ntwo\n").unwrap();
        assert_eq!(end_of(&log).unwrap(), "one\ntwo\n");
        let line = format!("{}\n", "x".repeat(999));
        fs::write(&log, line.repeat(1000) + "last\n").unwrap();
        let end = end_of(&log).unwrap();
        assert!(end.ends_with("\nlast\n") && end.starts_with(&line) && end.len() <= LOG_BYTES_READ as usize, "{} bytes", end.len());
    }

    #[test]
    fn quick_ends_are_started_again_ever_later_until_given_up() {
        let mut patience = Patience::default();
        let mut pauses = || (patience.pause_after(Duration::from_secs(1))).map(|pause| pause.as_millis());
        assert_eq!([pauses(), pauses(), pauses(), pauses(), pauses()], [Some(500), Some(1_000), Some(2_000), Some(4_000), None]);
        // An hour's work earns a fresh start.
        assert_eq!(patience.pause_after(Duration::from_secs(3_600)), Some(RESTART_PAUSE));
    }
}
