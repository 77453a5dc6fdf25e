//! A cluster of real processes on loopback with ephemeral ports. It dies with the test process, whatever happens.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use windlass_client::{Connection, Credentials};

use crate::rows;
use crate::sql::cells;

/// How long anything the harness waits for may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// The binary of this name beside the test binary.
///
/// `cargo test --workspace` builds it, because each binary's package has an integration test of its own.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins`", path.display());
    path
}

/// What a cluster consists of.
#[derive(Debug, Default)]
pub struct Options {
    /// Executors of one slot.
    pub executors: usize,
    /// Directories that tables may use beside the cluster's own.
    pub locations: Vec<PathBuf>,
    /// Whether queries may read files that are no table's.
    pub read_files: bool,
    /// Users and passwords; without any, everybody is let in.
    pub users: Vec<(&'static str, &'static str)>,
    /// Whether clients connect with TLS, under the authority of [`Cluster::authority`].
    pub tls: bool,
    /// Where executors report how tasks ended, if not where they register.
    pub advertised_host: Option<&'static str>,
    /// More settings of the scheduler.
    pub scheduler: toml::Table,
    /// Other settings of executors.
    pub executor: toml::Table,
}

/// A running scheduler and its executors. Dropping it kills them and, when the test failed, prints the ends of their logs.
#[derive(Debug)]
pub struct Cluster {
    directory: TempDir,
    options: Options,
    scheduler: Process,
    executors: Vec<Process>,
    started: usize,
    uri: String,
    internal: String,
}

impl Cluster {
    /// A cluster with so many executors of one slot; returns when all are registered.
    pub async fn start(executors: usize) -> Self {
        Self::start_with(executors, &[]).await
    }

    /// [`Cluster::start`] with more directories that tables may use.
    pub async fn start_with(executors: usize, locations: &[&Path]) -> Self {
        let locations = locations.iter().map(|path| path.to_path_buf()).collect();
        Self::start_as(Options { executors, locations, ..Options::default() }).await
    }

    /// A cluster as described.
    pub async fn start_as(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("data")).unwrap();
        let (scheduler, announced) = start_scheduler(directory.path(), &options, &BTreeMap::new());
        let mut cluster = Self {
            uri: format!("{}://{}", if options.tls { "grpc+tls" } else { "grpc" }, announced["flight"]),
            internal: announced["internal"].clone(),
            directory,
            scheduler,
            executors: Vec::new(),
            started: 0,
            options,
        };
        for _ in 0..cluster.options.executors {
            cluster.add_executor().await;
        }
        if cluster.options.users.is_empty() {
            cluster.await_executors(cluster.options.executors).await;
        }
        cluster
    }

    /// Where clients connect.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Where executors register.
    pub fn internal(&self) -> &str {
        &self.internal
    }

    /// Directory that tables of this cluster may use.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A new anonymous session.
    pub async fn connect(&self) -> Connection {
        Connection::connect(&self.uri, self.anonymous()).await.unwrap()
    }

    /// A new anonymous session whose queries run on an engine.
    pub async fn session(&self, engine: &str) -> Connection {
        let connection = self.connect().await;
        cells(&connection, &format!("SET windlass.engine = '{engine}'")).await;
        connection
    }

    /// What a column of the records says of the last query whose text contains this.
    pub async fn record(&self, column: &str, part: &str) -> String {
        let sql = format!(
            "SELECT {column} FROM system.runtime.queries WHERE query LIKE '%{part}%' AND query NOT LIKE '%runtime.queries%' \
             ORDER BY created DESC LIMIT 1"
        );
        self.value(&sql).await.unwrap()
    }

    /// The certificate of the authority that clients of a cluster with TLS must trust. It and what it signed are for tests only.
    pub fn authority() -> PathBuf {
        tls_file("ca.pem")
    }

    fn anonymous(&self) -> Credentials {
        Credentials { tls_ca: self.options.tls.then(Self::authority), ..Credentials::default() }
    }

    /// Asks the scheduler to stop, and does not wait.
    pub fn ask_scheduler_to_stop(&self) {
        kill(self.scheduler.pid(), Signal::SIGTERM).unwrap();
    }

    /// Waits for the end of a scheduler that was asked to stop; its exit code.
    pub fn scheduler_exit(&mut self) -> Option<i32> {
        self.scheduler.wait("SIGTERM")
    }

    /// Starts one more executor; does not wait for its registration.
    pub async fn add_executor(&mut self) {
        self.started += 1;
        let name = format!("executor-{}", self.started);
        let mut config = toml::Table::new();
        config.insert("scheduler".into(), self.internal.clone().into());
        for port in ["port", "grpc_port", "http_port"] {
            config.insert(port.into(), 0.into());
        }
        config.insert("slots".into(), 1.into());
        config.insert("memory_limit_bytes".into(), (1i64 << 30).into());
        config.insert("work_dir".into(), self.work_dir().display().to_string().into());
        config.insert("allowed_locations".into(), allowed(self.directory.path(), &self.options).into());
        config.extend(self.options.executor.clone());
        self.executors.push(Process::start("windlass-executor", &name, self.directory.path(), &config));
    }

    /// Stops the executor that was started first, as if its host hung: its connections stay, and nothing answers.
    pub fn stop_executor(&mut self) {
        kill(self.executors[0].pid(), Signal::SIGSTOP).unwrap();
    }

    /// Asks the executor that was started first to stop, and does not wait.
    pub fn ask_executor_to_stop(&self) {
        kill(self.executors[0].pid(), Signal::SIGTERM).unwrap();
    }

    /// Waits for the end of an executor that was asked to stop; its exit code.
    pub fn executor_exit(&mut self) -> Option<i32> {
        self.executors.remove(0).wait("SIGTERM")
    }

    /// Kills the executor that was started first, as the kernel would when memory runs out.
    pub fn kill_executor(&mut self) {
        self.executors.remove(0).stop(Signal::SIGKILL);
    }

    /// Stops the scheduler with SIGTERM and starts it on the same ports and data.
    pub async fn restart_scheduler(&mut self) {
        assert_eq!(self.scheduler.stop(Signal::SIGTERM), Some(0), "exit code of the scheduler");
        self.start_scheduler();
    }

    /// Kills the scheduler.
    pub fn kill_scheduler(&mut self) {
        self.scheduler.stop(Signal::SIGKILL);
    }

    /// Starts a scheduler that was stopped on the same ports and data.
    pub fn start_scheduler(&mut self) {
        let port = |address: &str| address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let ports = BTreeMap::from([("flight_port", port(&self.uri)), ("internal_port", port(&self.internal))]);
        self.scheduler = start_scheduler(self.directory.path(), &self.options, &ports).0;
    }

    /// Stops everything with SIGTERM; exit codes of the scheduler and the executors.
    pub async fn terminate(&mut self) -> Vec<Option<i32>> {
        let executors: Vec<_> = self.executors.drain(..).map(|mut executor| executor.stop(Signal::SIGTERM)).collect();
        [vec![self.scheduler.stop(Signal::SIGTERM)], executors].concat()
    }

    /// Executor processes that have not ended.
    pub fn live_executors(&self) -> usize {
        self.executors.iter().filter(|executor| kill(executor.pid(), None).is_ok() && !executor.is_zombie()).count()
    }

    /// Waits until the scheduler counts exactly so many executors.
    pub async fn await_executors(&self, count: usize) {
        self.await_value("SELECT count(*) FROM system.runtime.executors", &count.to_string()).await;
    }

    /// Waits until no task holds a slot and no query runs on the executors.
    pub async fn await_idle(&self) {
        self.await_value("SELECT coalesce(sum(slots_used), 0) FROM system.runtime.executors", "0").await;
        self.await_value(
            "SELECT count(*) FROM system.runtime.queries WHERE engine NOT IN ('local', 'catalog') AND state IN ('QUEUED', 'PLANNING', 'RUNNING')",
            "0",
        )
        .await;
    }

    /// Slots that tasks hold now.
    pub async fn slots_used(&self) -> u64 {
        self.value("SELECT coalesce(sum(slots_used), 0) FROM system.runtime.executors").await.unwrap().parse().unwrap()
    }

    async fn value(&self, sql: &str) -> Result<String, windlass_client::Error> {
        let connection = Connection::connect(&self.uri, self.anonymous()).await?;
        let rows = rows::cells(&connection.collect(sql).await?);
        connection.close().await;
        Ok(rows[0][0].clone())
    }

    /// Asks until the first value of the answer is `want`.
    pub async fn await_value(&self, sql: &str, want: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self.value(sql).await;
            if got.as_ref().is_ok_and(|got| got == want) {
                return;
            }
            assert!(Instant::now() < deadline, "{sql}: {got:?} instead of {want} for {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Memory of the scheduler process.
    pub fn scheduler_resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.scheduler.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Time that the executors have computed so far, all together.
    pub fn executor_cpu_time(&self) -> Duration {
        let ticks = |executor: &Process| -> u64 {
            let stat = fs::read_to_string(format!("/proc/{}/stat", executor.pid())).unwrap();
            let after_name = stat.rsplit_once(") ").unwrap().1;
            after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
        };
        // The kernel counts in hundredths of a second.
        Duration::from_millis(10 * self.executors.iter().map(ticks).sum::<u64>())
    }

    /// What the scheduler logged so far.
    pub fn scheduler_log(&self) -> String {
        fs::read_to_string(&self.scheduler.log).unwrap()
    }

    /// What each executor logged so far.
    pub fn executor_logs(&self) -> Vec<String> {
        self.executors.iter().map(|executor| fs::read_to_string(&executor.log).unwrap()).collect()
    }

    /// Directories of executors in their work directory.
    pub fn work_dirs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.work_dir()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }

    fn work_dir(&self) -> PathBuf {
        self.directory.path().join("work")
    }
}

fn tls_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tls").join(name)
}

fn allowed(directory: &Path, options: &Options) -> Vec<String> {
    let own = directory.join("data");
    options.locations.iter().chain([&own]).map(|path| path.display().to_string()).collect()
}

fn start_scheduler(directory: &Path, options: &Options, ports: &BTreeMap<&str, u16>) -> (Process, BTreeMap<String, String>) {
    let mut config = options.scheduler.clone();
    for port in ["flight_port", "internal_port", "http_port"] {
        config.insert(port.into(), i64::from(ports.get(port).copied().unwrap_or(0)).into());
    }
    if let Some(host) = options.advertised_host {
        config.insert("advertised_host".into(), host.into());
    }
    config.insert("data_dir".into(), directory.join("state").display().to_string().into());
    // Executors write there too.
    config.insert("warehouse_dir".into(), directory.join("data/warehouse").display().to_string().into());
    config.insert("allowed_locations".into(), allowed(directory, options).into());
    config.insert("planning".into(), toml::Table::from_iter([("read_files".to_owned(), options.read_files.into())]).into());
    let hash = |password: &str| windlass_scheduler::auth::hash_password(password).unwrap();
    let users = options.users.iter().map(|(name, password)| ((*name).to_owned(), hash(password).into()));
    let auth = toml::Table::from_iter([
        ("allow_anonymous".to_owned(), options.users.is_empty().into()),
        ("users".to_owned(), toml::Value::Table(users.collect())),
    ]);
    let mut front_door = toml::Table::from_iter([("auth".to_owned(), toml::Value::Table(auth))]);
    if options.tls {
        let files = [("certificate", "server.pem"), ("key", "server.key")];
        let files = files.map(|(setting, file)| (setting.to_owned(), tls_file(file).display().to_string().into()));
        front_door.insert("tls".into(), toml::Table::from_iter(files).into());
    }
    config.insert("front_door".into(), front_door.into());
    let mut process = Process::start("windlass-scheduler", "scheduler", directory, &config);
    let line = process.first_line();
    let announced =
        line.split_whitespace().filter_map(|word| word.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned()));
    (process, announced.collect())
}

/// A child process. It ends when its standard input closes, that is at the latest with this process.
#[derive(Debug)]
struct Process {
    child: Child,
    _alive: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    fn start(program: &str, name: &str, directory: &Path, config: &toml::Table) -> Self {
        let file = directory.join(format!("{name}.toml"));
        fs::write(&file, config.to_string()).unwrap();
        let log = directory.join(format!("{name}.log"));
        let mut command = Command::new(binary(program));
        command.arg("--config").arg(file).arg("--exit-with-parent").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::options().create(true).append(true).open(&log).unwrap());
        if program == "windlass-scheduler" {
            command.arg("--announce");
        }
        let mut child = command.spawn().unwrap();
        Self { _alive: child.stdin.take(), child, log }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn is_zombie(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid())).is_ok_and(|stat| stat.contains(") Z "))
    }

    /// The first line it prints; panics with its log if it ends before.
    fn first_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready "), "said '{line}', logged: {}", fs::read_to_string(&self.log).unwrap());
        line
    }

    /// Signals it and waits for its end; its exit code, if it was not killed.
    fn stop(&mut self, signal: Signal) -> Option<i32> {
        let _ = kill(self.pid(), signal);
        self.wait(signal.as_str())
    }

    /// Waits for its end; its exit code, if it was not killed.
    fn wait(&mut self, after: &str) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{} does not end after {after}", self.log.display());
            std::thread::sleep(PAUSE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- {}\n{}", self.log.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}
