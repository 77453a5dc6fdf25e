//! What answers queries: engines of a Windlass cluster, and what they are compared with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::extension::SessionStateExt;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::arrow::array::RecordBatch;
use datafusion::execution::SessionState;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{Stream, TryStreamExt};
use tempfile::TempDir;
use windlass_client::connection::split_user;
use windlass_client::{Connection, Credentials};

use crate::Result;
use crate::answer::pairs;
use crate::contender::distributed::Workers;
use crate::contender::peer::{Peer, Reply, System};
use crate::oracle::{Oracle, OracleKind};
use crate::report::Report;
use crate::suite::Suite;

pub mod distributed;
pub mod peer;

/// What is measured against what.
#[derive(Debug, clap::Args)]
pub struct Setting {
    /// Whose tables and queries.
    #[arg(long, value_enum, default_value = "tpch")]
    pub suite: Suite,
    #[command(flatten)]
    contenders: Contenders,
    /// Whose rows are right.
    #[arg(long, value_enum, default_value = "duckdb")]
    oracle: OracleKind,
    /// Directory of the data set [default: the suite's name and -data]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Scale of data to generate.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Seconds after which a query has failed.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Writes a report here, anew after each measurement.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A setting with its data and everybody started.
pub struct Started {
    /// Where the data is.
    pub data: PathBuf,
    /// Who answers.
    pub contenders: Vec<Contender>,
    /// Who says what is right.
    pub oracle: Oracle,
    /// What was measured so far.
    pub report: Report,
}

impl Setting {
    /// When a query has failed.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Makes or checks the data and starts everybody. `benchmark` is what the report is called.
    pub async fn open(&self, benchmark: &str) -> Result<Started> {
        let data = self.contenders.data(self.suite, self.data.as_deref(), self.scale, self.oracle)?;
        let contenders = self.contenders.start(self.suite, &data, self.timeout()).await?;
        let oracle = self.oracle.start(self.suite, &data).await?;
        let report = Report::new(benchmark, self.oracle.name(), &contenders)?;
        Ok(Started { data, contenders, oracle, report })
    }

    /// Writes the report, if one is wanted.
    pub fn write(&self, report: &Report) -> Result<()> {
        self.json.as_deref().map_or(Ok(()), |path| report.write(path))
    }
}

/// Which contenders there are.
#[derive(Debug, Clone, clap::Args)]
pub struct Contenders {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// DataFusion in this process.
    #[arg(long)]
    datafusion: bool,
    /// A stock Ballista cluster in this process, with as many executors of one slot as there are partitions.
    #[arg(long)]
    ballista: bool,
    /// Stock datafusion-distributed, with as many worker processes as there are partitions.
    #[arg(long)]
    distributed: bool,
    /// DuckDB.
    #[arg(long)]
    duckdb: bool,
    /// Spark, local.
    #[arg(long)]
    spark: bool,
    /// Sail, local.
    #[arg(long)]
    sail: bool,
    /// A Trino cluster that has the tables: trino://user@host:8080/catalog/schema.
    #[arg(long, value_name = "URI")]
    trino: Option<String>,
    /// A Presto cluster that has the tables, in the same form.
    #[arg(long, value_name = "URI")]
    presto: Option<String>,
    /// Partitions, threads or workers of the compared systems.
    #[arg(long, default_value_t = 2)]
    partitions: usize,
}

/// A running Windlass cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// A running Windlass cluster, grpc://[user@]host:port or grpc+tls://...; the tables are made in a database of the suite's name and
    /// `_bench`.
    #[arg(long)]
    uri: Option<String>,
    /// The password of that user.
    #[arg(long, env = "WINDLASS_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// PEM file with the authorities to trust for grpc+tls:// [default: the system's]
    #[arg(long, requires = "uri", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Engines of that cluster, each a contender: auto, local, staged, pipelined.
    #[arg(long = "engine", value_delimiter = ',', default_value = "auto")]
    engines: Vec<String>,
    /// Settings of the Windlass sessions, `name=value`; repeatable.
    #[arg(long = "set", requires = "uri", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Where the cluster finds the data if not where this program does: another path, or s3://bucket/prefix.
    #[arg(long, requires = "uri")]
    location: Option<String>,
    /// A process of the cluster on this machine, such as that of `windlass up`: its peak memory and that of all it started is recorded.
    #[arg(long = "pid", requires = "uri")]
    pids: Vec<u32>,
}

/// Something that answers queries.
pub struct Contender {
    /// As tables and reports call it.
    pub name: String,
    /// Version and settings, for the report.
    pub configuration: BTreeMap<String, String>,
    /// Processes of it on this machine, whose memory and that of their children is its own; none for what runs in this process.
    pub pids: Vec<u32>,
    kind: Kind,
}

enum Kind {
    Windlass(Session),
    Context {
        context: SessionContext,
        /// Where executors in this process keep their shuffles.
        work_dirs: Arc<[TempDir]>,
    },
    Distributed {
        context: SessionContext,
        workers: Arc<Workers>,
    },
    Peer(Peer),
}

/// A session of a Windlass cluster, and how to make another.
struct Session {
    connection: Connection,
    uri: String,
    credentials: Credentials,
    /// What it starts with.
    statements: Vec<String>,
}

impl Contenders {
    /// The data directory: generated or checked, unless only a cluster reads the data, and reads it elsewhere.
    pub fn data(&self, suite: Suite, wanted: Option<&Path>, scale: f64, oracle: OracleKind) -> Result<PathBuf> {
        // The 99 queries are part of the data.
        if self.cluster.location.is_some() && oracle == OracleKind::First && suite != Suite::Tpcds {
            return Ok(PathBuf::new());
        }
        suite.data(wanted, scale)
    }

    /// Starts all that were named, those of the cluster first.
    ///
    /// Errors: one that does not start; none named.
    pub async fn start(&self, suite: Suite, data: &Path, timeout: Duration) -> Result<Vec<Contender>> {
        let mut contenders = Vec::new();
        if let Some(uri) = &self.cluster.uri {
            contenders.extend(self.cluster.start(uri, suite, data, timeout).await?);
        }
        if self.datafusion {
            contenders.push(Contender::datafusion(self.partitions, suite, data).await?);
        }
        if self.ballista {
            contenders.push(Contender::ballista(self.partitions, suite, data).await?);
        }
        if self.distributed {
            contenders.push(Contender::distributed(self.partitions, suite, data).await?);
        }
        let local = [(self.duckdb, System::Duckdb), (self.spark, System::Spark), (self.sail, System::Sail)];
        let local = local.into_iter().filter_map(|(wanted, system)| wanted.then_some((system, None)));
        let remote = [(System::Trino, self.trino.as_deref()), (System::Presto, self.presto.as_deref())];
        for (system, uri) in local.chain(remote.into_iter().filter(|(_, uri)| uri.is_some())) {
            contenders.push(Contender::peer(system, uri, self.partitions, suite, data).await?);
        }
        if contenders.is_empty() {
            return Err(
                "name at least one of --uri, --datafusion, --ballista, --distributed, --duckdb, --spark, --sail, --trino, --presto".into(),
            );
        }
        Ok(contenders)
    }
}

impl ClusterArgs {
    /// The engines of the cluster at `uri`, each in a session of its own.
    async fn start(&self, uri: &str, suite: Suite, data: &Path, timeout: Duration) -> Result<Vec<Contender>> {
        let (uri, user) = split_user(uri)?;
        let login = user.map(|user| (user, self.password.clone().unwrap_or_default()));
        let credentials = Credentials { login, tls_ca: self.tls_ca.clone() };
        let connection = Connection::connect(&uri, credentials.clone()).await?;
        let location = self.location.clone().unwrap_or_else(|| data.display().to_string());
        suite.create(&connection, data, &location).await?;
        connection.close().await;
        let mut contenders = Vec::new();
        for engine in &self.engines {
            let own = [format!("windlass.engine={engine}"), format!("windlass.query_timeout_s={}", timeout.as_secs())];
            let mut statements = vec![format!("USE {}", suite.database())];
            for setting in own.iter().chain(&self.settings) {
                let (name, value) = setting.split_once('=').ok_or_else(|| format!("--set takes name=value, not '{setting}'"))?;
                statements.push(format!("SET {name} = '{value}'"));
            }
            let session = Session::open(uri.clone(), credentials.clone(), statements).await?;
            let mut configuration: BTreeMap<_, _> = pairs(&session.connection.collect("SHOW ALL").await?)?.into_iter().collect();
            let slots = "SELECT 'cluster', concat(count(*), ' executors, ', sum(slots), ' slots') FROM system.runtime.executors";
            configuration.extend(pairs(&session.connection.collect(slots).await?)?);
            configuration.insert("version".into(), windlass_proto::VERSION.into());
            let (name, pids) = (format!("windlass-{engine}"), self.pids.clone());
            contenders.push(Contender { name, configuration, pids, kind: Kind::Windlass(session) });
        }
        Ok(contenders)
    }
}

impl Session {
    async fn open(uri: String, credentials: Credentials, statements: Vec<String>) -> Result<Self> {
        let connection = Connection::connect(&uri, credentials.clone()).await?;
        for statement in &statements {
            connection.collect(statement).await?;
        }
        Ok(Self { connection, uri, credentials, statements })
    }
}

impl Contender {
    /// The only engine of a cluster at `uri` that matters, under another name.
    pub async fn windlass(name: &str, uri: &str, suite: Suite, data: &Path, timeout: Duration) -> Result<Self> {
        let engines = vec!["auto".into()];
        let cluster =
            ClusterArgs { uri: None, password: None, tls_ca: None, engines, settings: Vec::new(), location: None, pids: Vec::new() };
        let contender = cluster.start(uri, suite, data, timeout).await?.pop().ok_or("no engine")?;
        Ok(Self { name: name.to_owned(), ..contender })
    }

    /// DataFusion in this process.
    pub async fn datafusion(partitions: usize, suite: Suite, data: &Path) -> Result<Self> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
        suite.register(&context, data).await?;
        let configuration = described(datafusion::DATAFUSION_VERSION, partitions);
        Ok(Self { name: "datafusion".into(), configuration, pids: Vec::new(), kind: Kind::Context { context, work_dirs: [].into() } })
    }

    /// Stock Ballista in this process: a scheduler and `executors` executors of one slot, with Ballista's defaults except the partitions,
    /// which would be 16.
    pub async fn ballista(executors: usize, suite: Suite, data: &Path) -> Result<Self> {
        let port = free_port()?;
        let config = SchedulerConfig { bind_host: "127.0.0.1".into(), bind_port: port, ..SchedulerConfig::default() };
        let cluster = BallistaCluster::new_from_config(&config).await?;
        tokio::spawn(start_server(cluster, ([127, 0, 0, 1], port).into(), Arc::new(config)));
        let work_dirs = (0..executors).map(|_| tempfile::tempdir()).collect::<Result<Vec<_>, _>>()?;
        for work_dir in &work_dirs {
            let config = ExecutorProcessConfig {
                bind_host: "127.0.0.1".into(),
                external_host: Some("127.0.0.1".into()),
                port: free_port()?,
                grpc_port: free_port()?,
                scheduler_host: "127.0.0.1".into(),
                scheduler_port: port,
                scheduler_connect_timeout_seconds: 20,
                vcores: 1,
                work_dir: Some(work_dir.path().display().to_string()),
                ..ExecutorProcessConfig::default()
            };
            tokio::spawn(start_executor_process(Arc::new(config)));
        }
        let mut state = SessionState::new_ballista_state(format!("http://127.0.0.1:{port}"))?;
        state.config_mut().options_mut().execution.target_partitions = executors;
        let context = SessionContext::new_with_state(state);
        suite.register(&context, data).await?;
        let configuration = described(ballista_core::BALLISTA_VERSION, executors);
        Ok(Self { name: "ballista".into(), configuration, pids: Vec::new(), kind: Kind::Context { context, work_dirs: work_dirs.into() } })
    }

    /// Stock datafusion-distributed with its defaults: this process coordinates, `workers` others work.
    pub async fn distributed(workers: usize, suite: Suite, data: &Path) -> Result<Self> {
        let workers = Workers::start(workers).await?;
        let pids = workers.pids();
        let context = workers.context(pids.len());
        suite.register(&context, data).await?;
        let mut configuration = described(distributed::VERSION, pids.len());
        configuration.insert("workers".into(), pids.len().to_string());
        Ok(Self { name: "distributed".into(), configuration, pids, kind: Kind::Distributed { context, workers: Arc::new(workers) } })
    }

    /// A system that is reached through Python.
    pub async fn peer(system: System, uri: Option<&str>, partitions: usize, suite: Suite, data: &Path) -> Result<Self> {
        let (peer, configuration) = Peer::start(system, uri, partitions, suite, data).await?;
        let pids = peer.pid().await.into_iter().collect();
        Ok(Self { name: system.name().into(), configuration, pids, kind: Kind::Peer(peer) })
    }

    /// The same for one more client, in a session of its own.
    pub async fn session(&self) -> Result<Self> {
        let kind = match &self.kind {
            Kind::Windlass(session) => {
                Kind::Windlass(Session::open(session.uri.clone(), session.credentials.clone(), session.statements.clone()).await?)
            }
            Kind::Context { context, work_dirs } => Kind::Context { context: context.clone(), work_dirs: Arc::clone(work_dirs) },
            Kind::Distributed { context, workers } => Kind::Distributed { context: context.clone(), workers: Arc::clone(workers) },
            Kind::Peer(_) => return Err(format!("{} has one client here", self.name).into()),
        };
        Ok(Self { name: self.name.clone(), configuration: BTreeMap::new(), pids: Vec::new(), kind })
    }

    /// Runs a query to its last row; returns the rows if they are wanted.
    pub async fn run(&self, sql: &str, wanted: bool) -> Result<Reply> {
        let start = Instant::now();
        match &self.kind {
            Kind::Windlass(session) => read(session.connection.start(sql).await?.rows(), start, wanted).await,
            Kind::Context { context, .. } | Kind::Distributed { context, .. } => {
                read(context.sql(sql).await?.execute_stream().await?, start, wanted).await
            }
            Kind::Peer(peer) => peer.ask(sql, wanted).await,
        }
    }
}

async fn read<E>(mut rows: impl Stream<Item = Result<RecordBatch, E>> + Unpin, start: Instant, wanted: bool) -> Result<Reply>
where
    E: std::error::Error + 'static,
{
    let (mut count, mut batches) = (0, wanted.then(Vec::new));
    while let Some(batch) = rows.try_next().await? {
        count += batch.num_rows();
        if let Some(batches) = &mut batches {
            batches.push(batch);
        }
    }
    Ok(Reply { took: start.elapsed(), count, batches })
}

fn described(version: &str, partitions: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("version".into(), version.to_owned()), ("target_partitions".into(), partitions.to_string())])
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
