//! TPC-H: per-query medians of a running cluster, and of what it is compared with, over the same files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ballista_core::extension::SessionStateExt;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::SessionState;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use windlass_client::{Connection, Credentials, tpch};

use crate::Result;

/// `windlass-bench tpch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A running Windlass cluster; makes its tables in database `tpch_bench` over the data directory.
    #[arg(long)]
    uri: Option<String>,
    /// Also runs DataFusion in this process, over the same files.
    #[arg(long)]
    datafusion: bool,
    /// Also runs a stock Ballista cluster, in this process, with as many executors of one slot as there are partitions.
    #[arg(long)]
    ballista: bool,
    /// Directory of the data set; generated if it does not exist.
    #[arg(long, default_value = "tpch-data")]
    data: PathBuf,
    /// Scale of the data set to generate.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Partitions of the compared engines.
    #[arg(long, default_value_t = 2)]
    partitions: usize,
    /// Runs of each query; the median is printed.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only these queries, such as q01,q18.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
    /// Settings of the Windlass session, `name=value`; repeatable.
    #[arg(long = "set")]
    settings: Vec<String>,
}

/// Something that answers a query and returns its number of rows.
enum Contender {
    Windlass(Connection),
    DataFusion(SessionContext),
    Ballista(SessionContext),
}

impl Contender {
    fn name(&self) -> &'static str {
        match self {
            Self::Windlass(_) => "windlass",
            Self::DataFusion(_) => "datafusion",
            Self::Ballista(_) => "ballista",
        }
    }

    async fn run(&self, sql: &str) -> Result<usize> {
        match self {
            Self::Windlass(connection) => {
                Ok(connection.start(sql).await?.rows().try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await?)
            }
            Self::DataFusion(context) | Self::Ballista(context) => {
                let rows = context.sql(sql).await?.execute_stream().await?;
                Ok(rows.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await?)
            }
        }
    }
}

/// Runs each query on every contender in turn, so that noise of the machine meets all alike, and prints a table in milliseconds.
pub async fn run(args: Args) -> Result<()> {
    if !args.data.join("lineitem").exists() {
        eprintln!("generating TPC-H at scale {} in {}", args.scale, args.data.display());
        tpch::generate(&args.data, args.scale, &|_| ())?;
    }
    let data = args.data.canonicalize()?;
    let mut contenders = Vec::new();
    if let Some(uri) = &args.uri {
        contenders.push(Contender::Windlass(connect(uri, &data, &args.settings).await?));
    }
    if args.datafusion {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(args.partitions));
        register(&context, &data).await?;
        contenders.push(Contender::DataFusion(context));
    }
    if args.ballista {
        contenders.push(Contender::Ballista(stock_ballista(args.partitions, &data).await?));
    }
    if contenders.is_empty() {
        return Err("name at least one of --uri, --datafusion, --ballista".into());
    }

    println!("query\t{}\trows", contenders.iter().map(Contender::name).collect::<Vec<_>>().join("\t"));
    let mut totals = vec![Duration::ZERO; contenders.len()];
    for (query, sql) in tpch::queries() {
        if !args.queries.is_empty() && !args.queries.iter().any(|wanted| wanted == query) {
            continue;
        }
        let mut times = vec![Vec::new(); contenders.len()];
        let mut rows = None;
        // The first run warms caches and is not counted.
        for round in 0..=args.runs {
            for (contender, times) in contenders.iter().zip(&mut times) {
                let start = Instant::now();
                let count = contender.run(sql).await.map_err(|error| format!("{query} on {}: {error}", contender.name()))?;
                if round > 0 {
                    times.push(start.elapsed());
                }
                if *rows.get_or_insert(count) != count {
                    return Err(format!("{query}: {} rows from {}, others had {rows:?}", count, contender.name()).into());
                }
            }
        }
        let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
        totals.iter_mut().zip(&medians).for_each(|(total, median)| *total += *median);
        println!("{query}\t{}\t{}", line(&medians), rows.unwrap_or_default());
    }
    println!("total\t{}", line(&totals));
    let ratios = totals.iter().map(|total| format!("{:.2}", totals[0].as_secs_f64() / total.as_secs_f64()));
    println!("{} to it\t{}", contenders[0].name(), ratios.collect::<Vec<_>>().join("\t"));
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn line(times: &[Duration]) -> String {
    times.iter().map(|time| format!("{:.1}", time.as_secs_f64() * 1e3)).collect::<Vec<_>>().join("\t")
}

async fn connect(uri: &str, data: &Path, settings: &[String]) -> Result<Connection> {
    let connection = Connection::connect(uri, Credentials::default()).await?;
    connection.collect("DROP DATABASE IF EXISTS tpch_bench CASCADE").await?;
    connection.collect("CREATE DATABASE tpch_bench").await?;
    connection.collect("USE tpch_bench").await?;
    for table in tpch::TABLES {
        for statement in table.ddl(data) {
            connection.collect(&statement).await?;
        }
    }
    for setting in settings {
        connection.collect(&format!("SET {}", setting.replacen('=', " = ", 1))).await?;
    }
    Ok(connection)
}

/// Registers the tables as DataFusion's own listing tables, with the keys that the directories show.
async fn register(context: &SessionContext, data: &Path) -> Result<()> {
    for table in tpch::TABLES {
        let keys: Vec<&str> = table.partitioned_by.iter().map(|key| key.name).collect();
        let partitioned = if keys.is_empty() { String::new() } else { format!("PARTITIONED BY ({})", keys.join(", ")) };
        let path = data.join(table.name);
        let statement = format!("CREATE EXTERNAL TABLE {} STORED AS PARQUET {partitioned} LOCATION '{}/'", table.name, path.display());
        context.sql(&statement).await?;
    }
    Ok(())
}

/// A scheduler and `executors` executors of one slot with Ballista's defaults, except the partitions, which would be 16.
async fn stock_ballista(executors: usize, data: &Path) -> Result<SessionContext> {
    let port = free_port()?;
    let config = SchedulerConfig { bind_host: "127.0.0.1".into(), bind_port: port, ..SchedulerConfig::default() };
    let cluster = BallistaCluster::new_from_config(&config).await?;
    tokio::spawn(start_server(cluster, ([127, 0, 0, 1], port).into(), Arc::new(config)));
    for _ in 0..executors {
        let work_dir = tempfile::tempdir()?.keep();
        let config = ExecutorProcessConfig {
            bind_host: "127.0.0.1".into(),
            external_host: Some("127.0.0.1".into()),
            port: free_port()?,
            grpc_port: free_port()?,
            scheduler_host: "127.0.0.1".into(),
            scheduler_port: port,
            scheduler_connect_timeout_seconds: 20,
            vcores: 1,
            work_dir: Some(work_dir.display().to_string()),
            ..ExecutorProcessConfig::default()
        };
        tokio::spawn(start_executor_process(Arc::new(config)));
    }
    let mut state = SessionState::new_ballista_state(format!("http://127.0.0.1:{port}"))?;
    state.config_mut().options_mut().execution.target_partitions = executors;
    let context = SessionContext::new_with_state(state);
    register(&context, data).await?;
    Ok(context)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
