//! The 22 TPC-H queries at scale 0.1 against DuckDB's answers (`tests/tpch/answers`) and against DataFusion in this process.

use std::path::{Path, PathBuf};

use datafusion::prelude::SessionContext;
use tokio::sync::OnceCell;
use windlass_client::{Connection, RunningQuery, tpch};
use windlass_tests::cluster::{Cluster, Options};
use windlass_tests::rows;
use windlass_tests::sql::cells;

/// The data set, generated once per test run and kept beside the binaries, since it depends on nothing but the scale.
pub async fn data() -> &'static Path {
    static DATA: OnceCell<PathBuf> = OnceCell::const_new();
    DATA.get_or_init(|| async {
        let directory = windlass_tests::cluster::binary("windlass").parent().unwrap().join("tpch-0.1");
        if !directory.exists() {
            let partial = tempfile::tempdir_in(directory.parent().unwrap()).unwrap();
            tpch::generate(partial.path(), 0.1, &|_| ()).unwrap();
            // Another test process may have been faster; then its data is as good.
            let _ = std::fs::rename(partial.path(), &directory);
        }
        directory
    })
    .await
}

async fn create_tables(connection: &Connection, data: &Path) {
    for table in tpch::TABLES {
        for statement in table.ddl(data) {
            connection.collect(&statement).await.unwrap();
        }
    }
}

/// A cluster with so many executors of one slot and the eight tables.
pub async fn cluster(executors: usize) -> Cluster {
    cluster_as(Options { executors, ..Options::default() }).await
}

/// A cluster as described, with the eight tables.
pub async fn cluster_as(mut options: Options) -> Cluster {
    let data = data().await;
    options.locations.push(data.to_owned());
    let cluster = Cluster::start_as(options).await;
    create_tables(&cluster.connect().await, data).await;
    cluster
}

/// The text of a query.
pub fn query(name: &str) -> &'static str {
    tpch::queries().into_iter().find(|(query, _)| *query == name).unwrap().1
}

/// A query that nobody waits to the end for.
pub const ENDLESS: &str = "SELECT count(*) FROM lineitem a, lineitem b WHERE a.l_comment < b.l_comment";

/// Starts it, and returns when its tasks run.
pub async fn start_endless(connection: &Connection) -> RunningQuery {
    let mut query = connection.start(ENDLESS).await.unwrap();
    while query.progress().tasks_running == 0 {
        query.poll().await.unwrap();
    }
    query
}

/// DuckDB's rows.
pub fn answer(query: &str) -> Vec<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tpch/answers/{query}.psv"));
    std::fs::read_to_string(file).unwrap().lines().skip(1).map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_gives_the_rows_of_duckdb_and_of_one_process() {
    let (data, cluster) = (data().await, cluster(2).await);
    let connection = cluster.connect().await;
    let one_process = SessionContext::new();
    for table in tpch::TABLES {
        let statement = format!("CREATE EXTERNAL TABLE {} STORED AS PARQUET LOCATION '{}/'", table.name, data.join(table.name).display());
        one_process.sql(&statement).await.unwrap();
    }

    for (query, sql) in tpch::queries() {
        let got = cells(&connection, sql).await;
        rows::assert_same(&format!("{query} against DuckDB"), &got, &answer(query));
        let single = one_process.sql(sql).await.unwrap().collect().await.unwrap();
        rows::assert_same(&format!("{query} against one process"), &got, &rows::cells(&single));
    }
    assert_eq!(cluster.slots_used().await, 0, "slots that no task holds");
}
