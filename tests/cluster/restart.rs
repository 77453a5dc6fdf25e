//! What survives a scheduler: names, partitions and views; executors come back by themselves.

use std::time::{Duration, Instant};

use windlass_tests::sql::cells;
use windlass_tests::{Cluster, fixtures};

use crate::tpch;

/// Executors give a scheduler up after five heartbeats in a row, three seconds apart.
const SCHEDULER_GIVEN_UP_MAX: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_scheduler_keeps_the_catalog_and_gets_its_executors_back() {
    let mut cluster = Cluster::start(2).await;
    fixtures::events(&cluster.data().join("events"));
    let connection = cluster.connect().await;
    let create = format!("CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{}'", cluster.data().join("events").display());
    for statement in [&create, "CREATE DATABASE other", "CREATE VIEW other.v AS SELECT id FROM default.events WHERE region = 'eu'"] {
        connection.collect(statement).await.unwrap();
    }
    let before = cells(&connection, "SELECT sum(id), count(*) FROM other.v").await;

    cluster.restart_scheduler().await;
    cluster.await_executors(2).await;
    let after = cells(&cluster.connect().await, "SELECT sum(id), count(*) FROM other.v").await;
    assert_eq!(before, after);
    assert_eq!(cluster.live_executors(), 2, "an executor gave up instead of registering again");
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_outlive_a_scheduler_that_is_gone_for_long() {
    let mut cluster = tpch::cluster(2).await;
    let connection = cluster.connect().await;
    let query = tpch::start_endless(&connection).await;
    cluster.kill_scheduler();
    drop((query, connection));
    let killed = Instant::now();
    while !cluster.executor_logs().iter().all(|log| log.contains("waiting for the scheduler")) {
        assert!(killed.elapsed() < SCHEDULER_GIVEN_UP_MAX, "executors hold on to a scheduler that is gone");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cluster.live_executors(), 2, "an executor ended with its scheduler");

    cluster.start_scheduler();
    cluster.await_executors(2).await;
    assert_eq!(cluster.slots_used().await, 0);
    assert_eq!(cluster.work_dirs().len(), 2, "files of forgotten tasks stay: {:?}", cluster.work_dirs());
    assert_eq!(cells(&cluster.session("staged").await, "SELECT count(*) FROM nation").await, [["25"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_leave_cleanly_when_asked() {
    let mut cluster = Cluster::start(1).await;
    let codes = cluster.terminate().await;
    assert_eq!(codes, [Some(0), Some(0)], "exit codes after SIGTERM");
    assert!(cluster.work_dirs().is_empty(), "left behind: {:?}", cluster.work_dirs());
}
