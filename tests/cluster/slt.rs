//! Runs `tests/slt/*.slt` on one process (the scheduler's local engine) and on both engines of a scheduler with two executors.

use std::path::Path;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use windlass_client::{Connection, Error};
use windlass_tests::{Cluster, fixtures, rows};

/// A session as sqllogictest sees it. `{data}` in a statement is the directory of the tables.
struct Session {
    connection: Connection,
    data: String,
}

#[async_trait]
impl AsyncDB for Session {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        let query = self.connection.start(&sql.replace("{data}", &self.data)).await?;
        let columns = query.schema()?.fields().len();
        let batches: Vec<RecordBatch> = query.rows().try_collect().await?;
        Ok(DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows: rows::cells(&batches) })
    }

    async fn shutdown(&mut self) {
        self.connection.close().await;
    }
}

async fn run_all(engine: &str, executors: usize) {
    let cluster = Cluster::start(executors).await;
    fixtures::events(&cluster.data().join("events"));
    fixtures::evolving(&cluster.data().join("evolving"));
    fixtures::variants(&cluster.data().join("variants"));
    fixtures::clashing(&cluster.data().join("clashing"));
    fixtures::measures(&cluster.data().join("measures"));
    let setup = cluster.connect().await;
    let location = cluster.data().join("events");
    setup.collect(&format!("CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{}'", location.display())).await.unwrap();

    let mut files: Vec<_> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("slt")).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3, "the SQL files are gone");
    for file in files {
        let mut runner = Runner::new(async || {
            let session = Session { connection: cluster.connect().await, data: cluster.data().display().to_string() };
            session.connection.collect(&format!("SET windlass.engine = '{engine}'")).await?;
            Ok(session)
        });
        runner.add_label(engine);
        if let Err(error) = runner.run_file_async(&file).await {
            panic!("{} on the {engine} engine: {error}", file.display());
        }
        runner.shutdown_async().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_on_one_process() {
    run_all("local", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_on_two_executors() {
    run_all("staged", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slt_pipelined_on_two_executors() {
    run_all("pipelined", 2).await;
}
