//! What survives a scheduler: names, partitions and views; executors come back by themselves.

use windlass_tests::{Cluster, fixtures, rows};

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_scheduler_keeps_the_catalog_and_gets_its_executors_back() {
    let mut cluster = Cluster::start(2).await;
    fixtures::events(&cluster.data().join("events"));
    let connection = cluster.connect().await;
    let create = format!("CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{}'", cluster.data().join("events").display());
    for statement in [&create, "CREATE DATABASE other", "CREATE VIEW other.v AS SELECT id FROM default.events WHERE region = 'eu'"] {
        connection.collect(statement).await.unwrap();
    }
    let before = rows::cells(&connection.collect("SELECT sum(id), count(*) FROM other.v").await.unwrap());

    cluster.restart_scheduler().await;
    cluster.await_executors(2).await;
    let after = rows::cells(&cluster.connect().await.collect("SELECT sum(id), count(*) FROM other.v").await.unwrap());
    assert_eq!(before, after);
    assert_eq!(cluster.live_executors(), 2, "an executor gave up instead of registering again");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_leave_cleanly_when_asked() {
    let mut cluster = Cluster::start(1).await;
    let codes = cluster.terminate().await;
    assert_eq!(codes, [Some(0), Some(0)], "exit codes after SIGTERM");
    assert!(cluster.work_dirs().is_empty(), "left behind: {:?}", cluster.work_dirs());
}
