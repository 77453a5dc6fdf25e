//! How many tasks the scheduler can hand out, and what one costs it as the cluster and the queries grow.
//!
//! A real scheduler process, real clients and a catalog; the executors are simulated ([`executors`]), and the files of the table do not
//! exist: nobody reads them. Each measurement has a scheduler of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command as AsyncCommand};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use windlass_catalog::catalog::{Contents, DEFAULT_DATABASE, NewFile, NewPartition, NewTable, TableKind};
use windlass_catalog::{Catalog, SqliteCatalog};
use windlass_client::{Connection, Credentials};

use self::executors::{Counts, Kind};
use crate::Result;

mod executors;

/// Connections that clients share.
const CONNECTIONS: usize = 16;

/// Bytes that a file says to have: as many as make a task of its own.
const FILE_BYTES: u64 = 64 << 20;

/// Unit of CPU times in `/proc`, the same on all Linux systems.
const TICK: Duration = Duration::from_millis(10);

/// `windlass-bench scheduler`.
///
/// The last number of each list makes the first measurement; the others are measured with one number changed at a time.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Simulated executors.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000])]
    executors: Vec<usize>,
    /// Slots of each.
    #[arg(long, default_value_t = 4)]
    slots: u32,
    /// Queries at one time.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
    queries: Vec<usize>,
    /// Partitions of each stage.
    #[arg(long, value_delimiter = ',', default_values_t = [256, 16, 64])]
    partitions: Vec<u32>,
    /// Partitions that a task takes at most; 0 is as many as its executor has free slots.
    #[arg(long, default_value_t = 0)]
    task_partitions: u32,
    /// Columns that a query groups by, one after the other: it has one stage more.
    #[arg(long, default_value_t = 3)]
    groupings: usize,
    /// Partitions of an exchange that each task says it has written.
    #[arg(long, default_value_t = 4)]
    outputs: u32,
    /// Seconds before a measurement.
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Seconds of a measurement.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// The scheduler's program [default: beside this one].
    #[arg(long)]
    scheduler: Option<PathBuf>,
    /// Writes the measurements here.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What is measured at one time.
#[derive(Debug, Clone, Copy, Serialize)]
struct Load {
    executors: usize,
    slots: u32,
    queries: usize,
    partitions: u32,
    task_partitions: u32,
    groupings: usize,
    outputs: u32,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
struct Measurement {
    load: Load,
    /// Stages of each query.
    stages: u32,
    /// Tasks that reached an executor, per second.
    bound_per_second: f64,
    /// Tasks whose success reached the scheduler, per second.
    completed_per_second: f64,
    /// Partitions of the tasks that reached an executor, per second: what other engines call tasks.
    partitions_per_second: f64,
    queries_per_second: f64,
    failures: u64,
    /// From sending a query until its end was known, median and 99th percentile.
    query_ms: [f64; 2],
    /// CPU time of the scheduler, per task: planning, binding, sending, and taking note.
    cpu_us_per_task: f64,
    /// Tasks per second of the scheduler's CPU time: what a core of its own would do, whatever else this machine runs.
    tasks_per_cpu_second: f64,
    /// Cores that the scheduler and this process used.
    cores: [f64; 2],
    /// Bytes of plans and settings, per task.
    bytes_per_task: f64,
    /// Tasks per call to an executor.
    tasks_per_launch: f64,
    /// Calls that delete files, per task.
    cleanups_per_task: f64,
    /// Resident memory of the scheduler, each second.
    resident_mib: Vec<f64>,
}

/// Measures one load after the other and prints a line about each.
pub async fn run(args: Args) -> Result<()> {
    let scheduler = match &args.scheduler {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("windlass-scheduler"),
    };
    println!(
        "{:>9} {:>7} {:>10} {:>9} {:>9} {:>12} {:>9} {:>8} {:>9} {:>9} {:>12} {:>11} {:>7} {:>13} {:>19} {:>8}",
        "executors",
        "queries",
        "partitions",
        "bound/s",
        "done/s",
        "partitions/s",
        "queries/s",
        "failures",
        "p50 ms",
        "p99 ms",
        "tasks/CPU s",
        "us CPU/task",
        "ratio",
        "cores (sim)",
        "MiB start half end",
        "kB/task"
    );
    let mut measurements: Vec<Measurement> = Vec::new();
    for load in loads(&args) {
        let measured = measure(&scheduler, load, &args).await?;
        measurements.push(measured);
        print(&measurements);
        if let Some(path) = &args.json {
            fs::write(path, serde_json::to_vec_pretty(&measurements)?)?;
        }
    }
    Ok(())
}

/// The last of each list, and then each other number with the last of the other lists.
fn loads(args: &Args) -> Vec<Load> {
    let last = |numbers: &[usize]| numbers.last().copied().unwrap_or(1);
    let base = Load {
        executors: last(&args.executors),
        slots: args.slots,
        queries: last(&args.queries),
        partitions: args.partitions.last().copied().unwrap_or(1),
        task_partitions: args.task_partitions,
        groupings: args.groupings,
        outputs: args.outputs,
    };
    let executors = args.executors.iter().rev().skip(1).map(|executors| Load { executors: *executors, ..base });
    let queries = args.queries.iter().rev().skip(1).map(|queries| Load { queries: *queries, ..base });
    let partitions = args.partitions.iter().rev().skip(1).map(|partitions| Load { partitions: *partitions, ..base });
    std::iter::once(base).chain(executors).chain(queries).chain(partitions).collect()
}

fn print(measurements: &[Measurement]) {
    let (Some(first), Some(last)) = (measurements.first(), measurements.last()) else { return };
    let Load { executors, queries, partitions, .. } = last.load;
    let memory = |part: usize| last.resident_mib.get((last.resident_mib.len().saturating_sub(1)) * part / 2).copied().unwrap_or(0.0);
    println!(
        "{executors:>9} {queries:>7} {partitions:>10} {:>9.0} {:>9.0} {:>12.0} {:>9.1} {:>8} {:>9.1} {:>9.1} {:>12.0} {:>11.1} {:>7.2} {:>13} {:>19} {:>8.1}",
        last.bound_per_second,
        last.completed_per_second,
        last.partitions_per_second,
        last.queries_per_second,
        last.failures,
        last.query_ms[0],
        last.query_ms[1],
        last.tasks_per_cpu_second,
        last.cpu_us_per_task,
        last.cpu_us_per_task / first.cpu_us_per_task,
        format!("{:.2} ({:.2})", last.cores[0], last.cores[1]),
        format!("{:.0} {:.0} {:.0}", memory(0), memory(1), memory(2)),
        last.bytes_per_task / 1e3,
    );
}

/// What clients have seen since the start of the measurement.
#[derive(Debug, Default)]
struct Seen {
    times: Mutex<Vec<Duration>>,
    failures: AtomicU64,
}

async fn measure(program: &Path, load: Load, args: &Args) -> Result<Measurement> {
    let directory = tempfile::tempdir()?;
    create_table(directory.path(), load).await?;
    let mut scheduler = Scheduler::start(program, directory.path(), load.queries).await?;
    let shutdown = CancellationToken::new();
    let _end = shutdown.clone().drop_guard();

    // The clients' sessions are made before the first executor, whose number they do not depend on then.
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS.min(load.queries) {
        let connection = Connection::connect(&scheduler.flight, Credentials::default()).await?;
        connection.collect("SET windlass.engine = 'staged'").await?;
        connection.collect(&format!("SET datafusion.execution.target_partitions = {}", load.partitions)).await?;
        // Not the default: a scheduler of before can be measured, too.
        if load.task_partitions > 0 {
            connection.collect(&format!("SET ballista.scheduler.max_partitions_per_task = {}", load.task_partitions)).await?;
        }
        connections.push(connection);
    }
    let sql = query(load.groupings);
    let first = connections.first().ok_or("at least one query at a time")?;
    let stages = count_stages(first, &sql).await?;
    let kind = Kind { slots: load.slots, partitions: load.partitions, outputs: load.outputs, last_stage: stages };
    let counts = executors::start(load.executors, kind, &scheduler.internal, &shutdown).await?;

    let seen = Arc::new(Seen::default());
    for client in 0..load.queries {
        let connection = connections[client % connections.len()].clone();
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(ask(connection, sql.clone(), Arc::clone(&seen))));
    }
    tokio::time::sleep(Duration::from_secs(args.warm_up)).await;
    seen.times.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let (before, start) = (Totals::now(&scheduler, &counts)?, Instant::now());
    let mut resident_mib = Vec::new();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..=args.seconds {
        seconds.tick().await;
        resident_mib.push(scheduler.resident_mib()?);
    }
    let (after, elapsed) = (Totals::now(&scheduler, &counts)?, start.elapsed().as_secs_f64());
    let mut times = std::mem::take(&mut *seen.times.lock().unwrap_or_else(PoisonError::into_inner));
    times.sort_unstable();
    let percentile = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).map_or(f64::NAN, ms);
    let since = |total: fn(&Totals) -> u64| (total(&after) - total(&before)) as f64;
    let (completed, bound) = (since(|totals| totals.completed).max(1.0), since(|totals| totals.bound).max(1.0));
    let cpu = (after.scheduler - before.scheduler).as_secs_f64();
    let measurement = Measurement {
        load,
        stages,
        bound_per_second: bound / elapsed,
        completed_per_second: completed / elapsed,
        partitions_per_second: since(|totals| totals.partitions) / elapsed,
        queries_per_second: times.len() as f64 / elapsed,
        failures: seen.failures.load(Ordering::Relaxed),
        query_ms: [percentile(50), percentile(99)],
        cpu_us_per_task: cpu * 1e6 / completed,
        tasks_per_cpu_second: completed / cpu,
        cores: [cpu / elapsed, (after.own - before.own).as_secs_f64() / elapsed],
        bytes_per_task: since(|totals| totals.task_bytes) / bound,
        tasks_per_launch: bound / since(|totals| totals.launches).max(1.0),
        cleanups_per_task: since(|totals| totals.cleanups) / completed,
        resident_mib,
    };
    shutdown.cancel();
    scheduler.child.kill().await?;
    Ok(measurement)
}

fn ms(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Runs the query again and again.
async fn ask(connection: Connection, sql: String, seen: Arc<Seen>) {
    loop {
        let start = Instant::now();
        match connection.collect(&sql).await {
            Ok(_) => seen.times.lock().unwrap_or_else(PoisonError::into_inner).push(start.elapsed()),
            Err(error) => {
                if seen.failures.fetch_add(1, Ordering::Relaxed) == 0 {
                    eprintln!("a query failed: {error}");
                }
                // A scheduler that refuses is not asked in a loop.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// A query that groups by fewer and fewer columns, so that each grouping needs an exchange of its own.
fn query(groupings: usize) -> String {
    let mut sql = format!("SELECT {}, count(*) AS n FROM t GROUP BY {0}", columns(0, groupings));
    for first in 1..groupings {
        sql = format!("SELECT {}, sum(n) AS n FROM ({sql}) GROUP BY {0}", columns(first, groupings));
    }
    sql
}

fn columns(first: usize, end: usize) -> String {
    (first..end).map(|column| format!("c{column}")).collect::<Vec<_>>().join(", ")
}

async fn count_stages(connection: &Connection, sql: &str) -> Result<u32> {
    let mut stages = 0;
    for batch in connection.collect(&format!("EXPLAIN {sql}")).await? {
        let text = batch.column(1).as_string::<i32>();
        stages += text.iter().flatten().flat_map(str::lines).filter(|line| line.starts_with("Stage ")).count();
    }
    if stages < 2 {
        return Err("the query has no exchange".into());
    }
    Ok(u32::try_from(stages)?)
}

/// Puts a table of as many files as a stage shall have partitions into the catalog of a scheduler that is not started yet.
async fn create_table(directory: &Path, load: Load) -> Result<()> {
    let catalog = SqliteCatalog::open(&directory.join("catalog.sqlite")).await?;
    let fields = (0..load.groupings).map(|column| Field::new(format!("c{column}"), DataType::Int64, true));
    let file = |number| NewFile {
        url: format!("file:///nowhere/t/part-{number}.parquet"),
        size: FILE_BYTES,
        modified_ms: 0,
        etag: None,
        rows: Some(1_000_000),
        statistics: None,
        kept_rows: None,
    };
    let files = (0..load.partitions).map(file).collect();
    let table = NewTable {
        database: DEFAULT_DATABASE.to_owned(),
        name: "t".to_owned(),
        kind: TableKind::External,
        location: "file:///nowhere/t/".to_owned(),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        keys: Vec::new(),
        comment: None,
        properties: Default::default(),
        storage: Default::default(),
        view: None,
    };
    let partition = NewPartition { values: Vec::new(), location: table.location.clone(), files };
    catalog.create_table(table, Contents { add_partitions: vec![partition], ..Contents::default() }, &"CREATE TABLE".into()).await?;
    Ok(())
}

/// A scheduler process. It ends with this one.
struct Scheduler {
    child: Child,
    process: u32,
    flight: String,
    internal: String,
}

impl Scheduler {
    async fn start(program: &Path, data_dir: &Path, queries: usize) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(data_dir);
        command.args(["--announce", "--exit-with-parent", "--anonymous", "--flight-port", "0", "--internal-port", "0", "--http-port", "0"]);
        command.args(["--allow-location", "file:///nowhere/", "--log-filter", "error"]);
        command.env("WINDLASS_SCHEDULER_QUERIES__STAGED_RUNNING_MAX", queries.to_string());
        command.env("WINDLASS_SCHEDULER_QUERIES__QUEUED_MAX", queries.to_string());
        // A thousand clients that start at one moment wait for each other's plans.
        command.env("WINDLASS_SCHEDULER_PLANNING__TIMEOUT_SECONDS", "600");
        let mut command = AsyncCommand::from(command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let stdout = child.stdout.take().ok_or("the scheduler has no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?.ok_or("the scheduler did not start")?;
        let port = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            found.map(str::to_owned).ok_or_else(|| format!("the scheduler announced '{line}'"))
        };
        let process = child.id().ok_or("the scheduler has ended")?;
        Ok(Self { process, flight: format!("grpc://{}", port("flight")?), internal: port("internal")?, child })
    }

    fn resident_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no resident memory")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    }
}

/// Totals at one moment.
struct Totals {
    bound: u64,
    completed: u64,
    partitions: u64,
    launches: u64,
    task_bytes: u64,
    cleanups: u64,
    scheduler: Duration,
    own: Duration,
}

impl Totals {
    fn now(scheduler: &Scheduler, counts: &Counts) -> Result<Self> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Ok(Self {
            bound: count(&counts.bound),
            completed: count(&counts.completed),
            partitions: count(&counts.partitions),
            launches: count(&counts.launches),
            task_bytes: count(&counts.task_bytes),
            cleanups: count(&counts.cleanups),
            scheduler: cpu_time(&scheduler.process.to_string())?,
            own: cpu_time("self")?,
        })
    }
}

/// CPU time of a process, the kernel's on its behalf included.
fn cpu_time(process: &str) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may contain anything.
    let (_, fields) = stat.rsplit_once(')').ok_or_else(|| io::Error::other("no process statistics"))?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    let ticks = times.next().ok_or("no user time")?? + times.next().ok_or("no system time")??;
    Ok(TICK * ticks)
}
