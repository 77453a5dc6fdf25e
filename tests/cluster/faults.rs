//! What queries and executors meet beside death: too little memory, errors on the last row, a signal to stop in the middle of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use windlass_client::Rows;
use windlass_tests::cluster::Options;
use windlass_tests::sql::cells;

use crate::tpch;

/// Less than the smaller side of the joins below.
const MEMORY_BYTES: i64 = 48 << 20;

/// Lines of orders at this scale.
const LINES: usize = 600_572;

/// What executors get to stop after a query is cancelled.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_query_beyond_the_memory_of_executors_spills_or_fails_and_they_live() {
    let executor = toml::Table::from_iter([("memory_limit_bytes".to_owned(), MEMORY_BYTES.into())]);
    let cluster = tpch::cluster_as(Options { executors: 2, executor, ..Options::default() }).await;
    let (pipelined, staged) = (cluster.session("pipelined").await, cluster.session("staged").await);
    // Every line with itself: each side is all comments.
    let join = "SELECT count(*), count(DISTINCT a.l_orderkey), sum(length(b.l_comment)) FROM lineitem a JOIN lineitem b
        ON a.l_orderkey = b.l_orderkey AND a.l_linenumber = b.l_linenumber AND a.l_comment = b.l_comment";
    let comments = cells(&pipelined, "SELECT sum(length(l_comment)) FROM lineitem").await[0][0].clone();
    assert_eq!(cells(&pipelined, join).await, [[LINES.to_string(), "150000".to_owned(), comments]]);
    // As many groups as lines, with a text each.
    let groups =
        "SELECT count(*), max(c) FROM (SELECT l_orderkey, l_linenumber, min(l_comment), count(*) AS c FROM lineitem GROUP BY 1, 2)";
    assert_eq!(cells(&staged, groups).await, [[LINES.to_string(), "1".to_owned()]]);
    // One value that holds everything cannot spill, on either engine. A quarter of it, which is a task's part, is more than there is.
    let error = pipelined.collect("SELECT length(string_agg(repeat(l_comment, 16), '')) FROM lineitem").await;
    let error = error.expect_err("there is no room for it").to_string();
    assert!(error.to_lowercase().contains("memory"), "{error}");
    for connection in [&pipelined, &staged] {
        assert_eq!(cells(connection, "SELECT count(*) FROM lineitem").await, [[LINES.to_string()]]);
    }
    assert!(cluster.record("engine", "a.l_comment = b.l_comment").await.contains("staged"));
    assert_eq!(cluster.live_executors(), 2);
    assert!(cluster.executor_logs().iter().all(|log| log.matches("executor starts").count() == 1), "an executor has started again");
    cluster.await_idle().await;
}

/// Errors that come after all other rows, in the first stage, the last, and after rows have reached the reader.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_on_the_last_row_ends_the_query_with_it() {
    let cluster = tpch::cluster(2).await;
    let fails = |condition: &str| format!("CAST(CASE WHEN {condition} THEN 'x' ELSE '1' END AS INT)");
    let (line, group) = (fails("l_orderkey = 600000 AND l_linenumber = 1"), fails("l_suppkey = 1000 AND n > 0"));
    for engine in ["local", "pipelined", "staged"] {
        let connection = cluster.session(engine).await;
        for (number, sql) in [
            format!("SELECT l_orderkey, {line} AS x FROM lineitem"),
            format!("SELECT sum({line}) FROM lineitem"),
            format!("SELECT sum({group}) FROM (SELECT l_suppkey, count(*) AS n FROM lineitem GROUP BY l_suppkey) t"),
            format!("SELECT l_orderkey, {line} FROM lineitem ORDER BY l_orderkey, l_linenumber"),
        ]
        .into_iter()
        .enumerate()
        {
            let sql = format!("/* {engine} {number} */ {sql}");
            let outcome = connection.collect(&sql).await.map(|rows| rows.iter().map(|batch| batch.num_rows()).sum::<usize>());
            let error = outcome.expect_err(&sql).to_string();
            assert!(error.contains("'x'"), "{sql}: {error}");
            assert_eq!(cluster.record("state", &format!("/* {engine} {number} */")).await, "FAILED", "{sql}");
        }
    }
    cluster.await_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_frees_its_executors() {
    let cluster = tpch::cluster(2).await;
    let long = "SELECT a.l_comment FROM lineitem a, lineitem b WHERE a.l_comment < b.l_comment";
    for (engine, how, sql) in [
        ("pipelined", "cancel", tpch::ENDLESS),
        ("pipelined", "drop", long),
        ("pipelined", "timeout", tpch::ENDLESS),
        ("staged", "cancel", tpch::ENDLESS),
        ("staged", "cancel", long),
        ("staged", "timeout", tpch::ENDLESS),
    ] {
        let connection = cluster.session(engine).await;
        if how == "timeout" {
            connection.collect("SET windlass.query_timeout_s = 2").await.unwrap();
        }
        let mut query = connection.start(sql).await.unwrap();
        assert_eq!(cluster.record("engine", "a.l_comment < b.l_comment").await, engine);
        let mut stream = query.rows();
        let busy = cluster.executor_cpu_time();
        if how == "drop" {
            assert!(stream.next().await.unwrap().is_ok());
        }
        let works = async {
            while cluster.executor_cpu_time() <= busy {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(10), works).await.is_ok(), "{engine}, {how}: executors do not work");
        match how {
            "cancel" => query.cancel().await.unwrap(),
            "timeout" => while query.poll().await.is_ok() {},
            _ => {}
        }
        drop(stream);
        tokio::time::sleep(STOP_TIME_MAX).await;
        let idle = cluster.executor_cpu_time();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(cluster.executor_cpu_time() < idle + Duration::from_millis(200), "{engine}, {how}: executors still work");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_is_told_to_stop_ends_its_streams_first() {
    let mut cluster = tpch::cluster(2).await;
    let connection = cluster.session("pipelined").await;
    let mut stream = connection.start("SELECT l_orderkey, l_comment, l_shipinstruct FROM lineitem").await.unwrap().rows();
    let mut count = stream.next().await.unwrap().unwrap().num_rows();
    cluster.ask_executor_to_stop();
    // Others run meanwhile, on the executor that stays.
    for engine in ["pipelined", "staged"] {
        let other = cluster.session(engine).await;
        let counted = cells(&other, "SELECT count(*), count(DISTINCT l_suppkey) FROM lineitem").await;
        assert_eq!(counted, [[LINES.to_string(), "1000".to_owned()]], "{engine}");
    }
    while let Some(batch) = stream.try_next().await.unwrap_or_else(|error| panic!("after {count} rows: {error}")) {
        count += batch.num_rows();
    }
    assert_eq!(count, LINES);
    assert_eq!(cluster.executor_exit(), Some(0));
}

/// Rows of [`LARGE`], read to the end.
async fn read_on(mut rows: Rows, mut count: usize, what: &str) {
    while let Some(batch) = rows.try_next().await.unwrap_or_else(|error| panic!("{what}, after {count} rows: {error}")) {
        count += batch.num_rows();
    }
    assert_eq!(count, LINES, "{what}");
}

/// A result that no scheduler holds: some 30 MB.
const LARGE: &str = "SELECT l_orderkey, l_comment, l_shipinstruct FROM lineitem";

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_is_told_to_stop_keeps_what_others_still_read() {
    let mut cluster = tpch::cluster(2).await;
    let (begun, waiting) = (cluster.session("staged").await, cluster.session("staged").await);
    let mut waiting = waiting.start(LARGE).await.unwrap();
    while !waiting.is_complete() {
        waiting.poll().await.unwrap();
    }
    let mut begun = begun.start(LARGE).await.unwrap().rows();
    let count = begun.next().await.unwrap().unwrap().num_rows();
    cluster.ask_executor_to_stop();
    // Longer than it would take an executor that waits for nobody.
    for _ in 0..3 {
        let counted = cells(&cluster.session("staged").await, "SELECT count(*), count(DISTINCT l_suppkey) FROM lineitem").await;
        assert_eq!(counted, [[LINES.to_string(), "1000".to_owned()]]);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let draining = "SELECT count(*) FROM system.runtime.executors WHERE state = 'DRAINING'";
    assert_eq!(cells(&cluster.connect().await, draining).await, [["1"]]);
    read_on(begun, count, "a result that was being read").await;
    read_on(waiting.rows(), 0, "a result that nobody had read").await;
    let log = cluster.executor_logs().swap_remove(0);
    assert_eq!(cluster.executor_exit(), Some(0));
    assert!(!log.contains("needed for longer"), "{log}");
    assert!(!cluster.scheduler_log().contains("running the query again"), "{}", cluster.scheduler_log());
    cluster.await_executors(1).await;
}

/// An executor that shall go does not wait for those who take their time, and they get their rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_no_executor_that_shall_go() {
    const COPIES: usize = 4;
    // Longer than this test waits for its end.
    let executor = toml::Table::from_iter([("drain_timeout_s".to_owned(), 600.into())]);
    let mut cluster = tpch::cluster_as(Options { executors: 2, executor, ..Options::default() }).await;
    let much = format!("SELECT l_orderkey, l_comment, l_shipinstruct, n_name FROM lineitem CROSS JOIN nation WHERE n_nationkey < {COPIES}");
    let mut readers = Vec::new();
    for engine in ["pipelined", "staged"] {
        let connection = cluster.session(engine).await;
        let mut rows = connection.start(&much).await.unwrap().rows();
        let count = rows.next().await.unwrap().unwrap().num_rows();
        readers.push((engine, connection, rows, count));
    }
    cluster.ask_executor_to_stop();
    assert_eq!(cluster.executor_exit(), Some(0));
    cluster.await_executors(1).await;
    for (engine, _connection, mut rows, mut count) in readers {
        while let Some(batch) = rows.try_next().await.unwrap_or_else(|error| panic!("{engine}, after {count} rows: {error}")) {
            count += batch.num_rows();
        }
        assert_eq!(count, COPIES * LINES, "{engine}");
    }
    assert!(!cluster.scheduler_log().contains("running the query again"), "{}", cluster.scheduler_log());
    cluster.await_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_executor_ends_what_has_begun() {
    let mut cluster = tpch::cluster(1).await;
    let connection = cluster.session("staged").await;
    for setting in ["target_partitions = 8", "batch_size = 64"] {
        connection.collect(&format!("SET datafusion.execution.{setting}")).await.unwrap();
    }
    let query = tokio::spawn(async move {
        let sql = "SELECT count(*), count(DISTINCT l_comment) FROM lineitem JOIN orders ON l_orderkey = o_orderkey";
        cells(&connection, sql).await
    });
    let begun = "SELECT 1 FROM system.runtime.queries WHERE engine = 'staged' AND state = 'RUNNING' AND tasks_running > 0";
    let watcher = cluster.connect().await;
    while !query.is_finished() && cells(&watcher, begun).await.is_empty() {}
    assert!(!query.is_finished(), "the query was too short");
    cluster.ask_executor_to_stop();
    assert_eq!(query.await.unwrap()[0][0], LINES.to_string());
    assert_eq!(cluster.executor_exit(), Some(0));
}

/// Every executor is replaced while queries of all kinds run one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_no_query() {
    let mut cluster = tpch::cluster(2).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for engine in ["staged", "pipelined"] {
        let (connection, done) = (cluster.session(engine).await, Arc::clone(&done));
        clients.push(tokio::spawn(async move {
            let mut queries = 0;
            while !done.load(Ordering::Relaxed) {
                let what = format!("{engine} query {queries}");
                let mut rows = connection.start(LARGE).await.unwrap_or_else(|error| panic!("{what}: {error}")).rows();
                let count =
                    rows.next().await.unwrap_or_else(|| panic!("{what} has no rows")).unwrap_or_else(|error| panic!("{what}: {error}"));
                read_on(rows, count.num_rows(), &what).await;
                let counted = cells(&connection, "SELECT count(DISTINCT l_comment) > 1, count(*) FROM lineitem").await;
                assert_eq!(counted, [["true".to_owned(), LINES.to_string()]], "{what}");
                queries += 1;
            }
            queries
        }));
    }
    for _ in 0..2 {
        cluster.add_executor().await;
        cluster.await_executors(3).await;
        cluster.ask_executor_to_stop();
        assert_eq!(cluster.executor_exit(), Some(0));
        cluster.await_executors(2).await;
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}
