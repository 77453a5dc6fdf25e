//! What answers queries: engines of a Windlass cluster, and what they are compared with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use ballista_core::extension::SessionStateExt;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use datafusion::execution::SessionState;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use windlass_client::{Connection, Credentials};

use crate::Result;
use crate::answer::Answer;
use crate::suite::Suite;

/// Something that answers queries.
pub struct Contender {
    /// As tables and reports call it.
    pub name: String,
    /// Version and settings, for the report.
    pub configuration: BTreeMap<String, String>,
    kind: Kind,
}

enum Kind {
    Windlass(Connection),
    Context(SessionContext),
}

impl Contender {
    /// One engine of a running cluster, in a session of its own.
    pub async fn windlass(uri: &str, engine: &str, suite: Suite, data: &Path, settings: &[String], timeout: Duration) -> Result<Self> {
        let connection = Connection::connect(uri, Credentials::default()).await?;
        suite.create(&connection, data).await?;
        let own = [format!("windlass.engine={engine}"), format!("windlass.query_timeout_s={}", timeout.as_secs())];
        for setting in own.iter().chain(settings) {
            let (name, value) = setting.split_once('=').ok_or_else(|| format!("--set takes name=value, not '{setting}'"))?;
            connection.collect(&format!("SET {name} = '{value}'")).await?;
        }
        let mut configuration = pairs(&connection.collect("SHOW ALL").await?)?;
        let slots = "SELECT 'cluster', concat(count(*), ' executors, ', sum(slots), ' slots') FROM system.runtime.executors";
        configuration.extend(pairs(&connection.collect(slots).await?)?);
        configuration.insert("version".into(), windlass_proto::VERSION.into());
        Ok(Self { name: format!("windlass-{engine}"), configuration, kind: Kind::Windlass(connection) })
    }

    /// DataFusion in this process.
    pub async fn datafusion(partitions: usize, suite: Suite, data: &Path) -> Result<Self> {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions));
        suite.register(&context, data).await?;
        let configuration = described(datafusion::DATAFUSION_VERSION, partitions);
        Ok(Self { name: "datafusion".into(), configuration, kind: Kind::Context(context) })
    }

    /// Stock Ballista in this process: a scheduler and `executors` executors of one slot, with Ballista's defaults except the partitions,
    /// which would be 16.
    pub async fn ballista(executors: usize, suite: Suite, data: &Path) -> Result<Self> {
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
        suite.register(&context, data).await?;
        let configuration = described(ballista_core::BALLISTA_VERSION, executors);
        Ok(Self { name: "ballista".into(), configuration, kind: Kind::Context(context) })
    }

    /// Runs a query to its last row.
    pub async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        Ok(match &self.kind {
            Kind::Windlass(connection) => connection.collect(sql).await?,
            Kind::Context(context) => context.sql(sql).await?.execute_stream().await?.try_collect().await?,
        })
    }
}

fn described(version: &str, partitions: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("version".into(), version.to_owned()), ("target_partitions".into(), partitions.to_string())])
}

/// The first two columns as names and values.
fn pairs(batches: &[RecordBatch]) -> Result<BTreeMap<String, String>> {
    let rows = Answer::new(batches)?.rows.into_iter();
    Ok(rows.filter_map(|row| Some((row.first()?.to_string(), row.get(1)?.to_string()))).collect())
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
