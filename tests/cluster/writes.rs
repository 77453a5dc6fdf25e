//! Statements that write: all rows or none, whatever dies meanwhile; files that other programs understand.

use std::fs;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use windlass_tests::fixtures::files_below;
use windlass_tests::sql::cells;
use windlass_tests::{Cluster, rows};

use crate::tpch;

/// What a user waits at most for a write that lost an executor.
const WRITE_TIME_MAX: Duration = Duration::from_secs(90);

/// How long files stay that nobody committed.
const GONE_AFTER: Duration = Duration::from_secs(40);

/// Rows per batch: few, so that a write lasts long enough to be hit in its middle.
const BATCH_ROWS: usize = 64;

/// What every copy of lineitem must have.
const DIGEST: &str = "count(*), count(DISTINCT l_orderkey * 10 + l_linenumber), sum(l_quantity), min(l_shipdate), max(l_comment)";

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_partitions_in_one_insert() {
    let cluster = Cluster::start(2).await;
    for engine in ["staged", "pipelined"] {
        let connection = cluster.session(engine).await;
        let (source, table) = (format!("numbers_{engine}"), format!("parts_{engine}"));
        cells(&connection, &format!("CREATE TABLE {source} AS SELECT value AS v FROM generate_series(1, 50000)")).await;
        cells(&connection, &format!("CREATE TABLE {table} (v BIGINT) PARTITIONED BY (k INT)")).await;
        let start = Instant::now();
        // Multiplied, so that each partition's rows are far from each other.
        let written = cells(&connection, &format!("INSERT INTO {table} SELECT v, (v * 7919) % 10000 FROM {source}")).await;
        eprintln!("10,000 partitions, {engine}: {:?}", start.elapsed());
        assert_eq!(written, [["50000"]]);
        assert_eq!(cells(&connection, &format!("SHOW PARTITIONS {table}")).await.len(), 10_000);
        let digest =
            format!("SELECT count(*), count(DISTINCT k), sum(v), sum(CASE WHEN k = (v * 7919) % 10000 THEN 0 ELSE 1 END) FROM {table}");
        assert_eq!(cells(&connection, &digest).await, [["50000", "10000", "1250025000", "0"]]);
        // Not one per batch.
        let files = files_below(&cluster.data().join("warehouse").join(&table)).len();
        assert!(files <= 10_000, "{files} files");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_what_hive_and_others_expect() {
    let cluster = Cluster::start(1).await;
    let connection = cluster.session("staged").await;
    cells(&connection, "CREATE TABLE t (v INT, s STRING) PARTITIONED BY (k STRING, d DATE)").await;
    cells(&connection, "INSERT INTO t VALUES (1, 'x', 'a/b c', '2024-01-01'), (2, NULL, NULL, NULL), (3, 'z', '50%', NULL)").await;
    let root = cluster.data().join("warehouse/t");
    let mut found: Vec<_> = files_below(&root)
        .iter()
        .map(|file| {
            let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file).unwrap()).unwrap();
            assert!(reader.metadata().offset_index().is_none_or(|index| !index.is_empty()));
            let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
            let directory = file.parent().unwrap().strip_prefix(&root).unwrap().display().to_string();
            (directory, rows::cells(&batches).concat().join(" "))
        })
        .collect();
    found.sort();
    let expected = [
        ("k=50%25/d=__HIVE_DEFAULT_PARTITION__", "3 z"),
        ("k=__HIVE_DEFAULT_PARTITION__/d=__HIVE_DEFAULT_PARTITION__", "2 NULL"),
        ("k=a%2Fb c/d=2024-01-01", "1 x"),
    ];
    assert_eq!(found, expected.map(|(directory, row)| (directory.to_owned(), row.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_table_do_not_lose_each_others_rows() {
    let cluster = Cluster::start(2).await;
    cells(&cluster.connect().await, "CREATE TABLE t (v BIGINT) PARTITIONED BY (k BIGINT)").await;
    let write = async |writer: u64| {
        let connection = cluster.session(["local", "staged", "pipelined"][writer as usize % 3]).await;
        cells(&connection, &format!("INSERT INTO t VALUES ({writer}, {})", writer % 3)).await
    };
    futures::future::join_all((0..20).map(write)).await;
    assert_eq!(cells(&cluster.connect().await, "SELECT count(*), count(DISTINCT v), sum(v) FROM t").await, [["20", "20", "190"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_dies_while_it_writes() {
    let mut cluster = tpch::cluster(3).await;
    let watcher = cluster.connect().await;
    let expected = cells(&watcher, &format!("SELECT {DIGEST} FROM lineitem")).await;
    for (attempt, engine) in ["staged", "pipelined", "staged", "pipelined"].into_iter().enumerate() {
        let connection = cluster.session(engine).await;
        connection.collect(&format!("SET datafusion.execution.batch_size = {BATCH_ROWS}")).await.unwrap();
        let table = format!("copy_{attempt}");
        let sql = format!("CREATE TABLE {table} PARTITIONED BY (l_shipmode) AS SELECT * FROM lineitem");
        let write = tokio::spawn(async move { connection.collect(&sql).await });
        // Once there are files.
        let root = cluster.data().join("warehouse").join(&table);
        while !write.is_finished() && files_below(&root).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let was_running = !write.is_finished();
        cluster.kill_executor();
        let start = Instant::now();
        let written = tokio::time::timeout(WRITE_TIME_MAX, write).await.expect("it ends").unwrap();
        let written = written.unwrap_or_else(|error| panic!("{engine}, running: {was_running}: {error}"));
        eprintln!("{engine}: running at the kill: {was_running}, written {:?} later", start.elapsed());
        assert_eq!(rows::cells(&written), [[expected[0][0].clone()]]);
        rows::assert_same(&format!("{engine} {attempt}"), &cells(&watcher, &format!("SELECT {DIGEST} FROM {table}")).await, &expected);
        // What the dead one has left of its tasks goes, and what the living ones had begun.
        let files = cells(&watcher, &format!("SELECT files_added FROM system.history WHERE table_name = '{table}'")).await;
        let gone = Instant::now() + GONE_AFTER;
        while files != [[files_below(&root).len().to_string()]] {
            assert!(Instant::now() < gone, "{engine}: {files:?} files were committed, there are {:?}", files_below(&root));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.add_executor().await;
        cluster.await_executors(3).await;
        cluster.await_idle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_dies_before_the_commit_leaves_nothing_to_see() {
    let mut cluster = tpch::cluster(2).await;
    let connection = cluster.session("staged").await;
    cells(&connection, "CREATE TABLE t (l_orderkey BIGINT) PARTITIONED BY (l_shipmode STRING)").await;
    cells(&connection, "INSERT INTO t VALUES (1, 'AIR')").await;
    connection.collect(&format!("SET datafusion.execution.batch_size = {BATCH_ROWS}")).await.unwrap();
    for sql in [
        "CREATE TABLE made PARTITIONED BY (l_shipmode) AS SELECT * FROM lineitem",
        "INSERT OVERWRITE t SELECT l_orderkey, l_shipmode FROM lineitem",
    ] {
        let connection = cluster.session("staged").await;
        connection.collect(&format!("SET datafusion.execution.batch_size = {BATCH_ROWS}")).await.unwrap();
        let before = files_below(&cluster.data().join("warehouse")).len();
        let write = tokio::spawn(async move { connection.collect(sql).await });
        while !write.is_finished() && files_below(&cluster.data().join("warehouse")).len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!write.is_finished(), "'{sql}' ended before the kill");
        cluster.kill_scheduler();
        assert!(write.await.unwrap().is_err());
        cluster.start_scheduler();
        cluster.await_executors(2).await;
        let connection = cluster.connect().await;
        assert!(connection.collect("SELECT * FROM made").await.is_err(), "nobody has committed it");
        assert_eq!(cells(&connection, "SELECT l_orderkey, l_shipmode FROM t").await, [["1", "AIR"]]);
    }
    // What they left behind is in nobody's way.
    let connection = cluster.connect().await;
    let made = cells(&connection, "CREATE TABLE made PARTITIONED BY (l_shipmode) AS SELECT * FROM lineitem").await;
    assert_eq!(made, cells(&connection, "SELECT count(*) FROM lineitem").await);
    assert_eq!(made, cells(&connection, "SELECT count(*) FROM made").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_write_leaves_nothing_to_see() {
    let cluster = tpch::cluster(2).await;
    for engine in ["staged", "pipelined", "local"] {
        let connection = cluster.session(engine).await;
        connection.collect(&format!("SET datafusion.execution.batch_size = {BATCH_ROWS}")).await.unwrap();
        let table = format!("cancelled_{engine}");
        let query = connection.start(&format!("CREATE TABLE {table} PARTITIONED BY (l_shipmode) AS SELECT * FROM lineitem")).await.unwrap();
        let root = cluster.data().join("warehouse").join(&table);
        while files_below(&root).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        query.cancel().await.unwrap();
        let watcher = cluster.connect().await;
        assert!(watcher.collect(&format!("SELECT * FROM {table}")).await.is_err(), "{engine}");
        let state = cells(&watcher, &format!("SELECT state FROM system.runtime.queries WHERE query LIKE 'CREATE TABLE {table} %'")).await;
        assert_eq!(state, [["CANCELLED"]], "{engine}");
        cluster.await_idle().await;
    }
}
