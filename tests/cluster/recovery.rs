//! Executors die while queries run, and messages are lost: the rows are right, the query ends, and no slot stays taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use windlass_client::Connection;
use windlass_tests::cluster::{Cluster, Options};
use windlass_tests::rows;
use windlass_tests::sql::cells;

use crate::tpch;

/// What a user waits at most for a query that lost an executor.
const QUERY_TIME_MAX: Duration = Duration::from_secs(60);

/// Partitions per stage: several rounds of tasks for the three slots, so that q18 lasts long enough to be hit in the middle.
const PARTITIONS: usize = 24;
/// Rows per batch: few, for the same reason.
const BATCH_ROWS: usize = 32;

/// A cluster of three with the TPC-H tables, and the rows that q18 must give.
async fn cluster_and_answer() -> (Cluster, Vec<Vec<String>>) {
    let cluster = tpch::cluster(3).await;
    let answer = answer(&cluster).await;
    (cluster, answer)
}

async fn answer(cluster: &Cluster) -> Vec<Vec<String>> {
    let answer = cells(&session(cluster).await, tpch::query("q18")).await;
    assert!(!answer.is_empty());
    answer
}

async fn session(cluster: &Cluster) -> Connection {
    let connection = cluster.session("staged").await;
    connection.collect(&format!("SET datafusion.execution.target_partitions = {PARTITIONS}")).await.unwrap();
    connection.collect(&format!("SET datafusion.execution.batch_size = {BATCH_ROWS}")).await.unwrap();
    connection
}

/// A kill that comes after its query's end is tried again, so many times on average.
const TRIES_PER_KILL: usize = 4;

/// When an executor is killed.
enum Moment {
    /// So long after the start.
    After(Duration),
    /// As soon as this is true of the running query's line in `system.runtime.queries`.
    Seen(&'static str),
}

/// Runs q18, kills one executor at a moment, and checks the rows; whether the query was still running at that moment.
async fn kill_during_q18(cluster: &mut Cluster, answer: &[Vec<String>], what: &str, moment: Moment) -> bool {
    let (connection, watcher) = (session(cluster).await, cluster.connect().await);
    let start = Instant::now();
    let query = tokio::spawn(async move { connection.collect(tpch::query("q18")).await });
    match moment {
        Moment::After(time) => tokio::time::sleep(time).await,
        Moment::Seen(condition) => {
            let sql = format!("SELECT 1 FROM system.runtime.queries WHERE engine = 'staged' AND state = 'RUNNING' AND {condition}");
            while !query.is_finished() && cells(&watcher, &sql).await.is_empty() {}
        }
    }
    let (killed_at, was_running) = (start.elapsed(), !query.is_finished());
    cluster.kill_executor();
    let batches = tokio::time::timeout(QUERY_TIME_MAX, query)
        .await
        .unwrap_or_else(|_| panic!("{what}, killed at {killed_at:?}: still running after {QUERY_TIME_MAX:?}"))
        .unwrap()
        .unwrap_or_else(|error| panic!("{what}, killed at {killed_at:?}: {error}"));
    rows::assert_same(&format!("{what}, killed at {killed_at:?}"), &rows::cells(&batches), answer);
    eprintln!("{what}: killed at {killed_at:?}, running: {was_running}, right rows after {:?}", start.elapsed());
    cluster.add_executor().await;
    cluster.await_executors(3).await;
    cluster.await_idle().await;
    was_running
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_dies_before_and_after_a_stage_completes() {
    let (mut cluster, answer) = cluster_and_answer().await;
    for condition in ["tasks_running > 0", "stages_done > 0", "stages_done > 2"] {
        let was_running = kill_during_q18(&mut cluster, &answer, condition, Moment::Seen(condition)).await;
        assert!(was_running, "'{condition}' was never seen");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executor_dies_while_its_result_waits() {
    let (mut cluster, answer) = cluster_and_answer().await;
    let mut query = session(&cluster).await.start(tpch::query("q18")).await.unwrap();
    while !query.is_complete() {
        query.poll().await.unwrap();
    }
    for _ in 0..3 {
        cluster.kill_executor();
    }
    let batches: Vec<_> = query.rows().try_collect().await.unwrap();
    rows::assert_same("a small result is held by the scheduler", &rows::cells(&batches), &answer);
}

/// The number of random kills is small in CI; `WINDLASS_KILLS=20` runs the acceptance test.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_dies_at_random_moments() {
    let kills: usize = std::env::var_os("WINDLASS_KILLS").map_or(3, |kills| kills.to_str().unwrap().parse().unwrap());
    let (mut cluster, answer) = cluster_and_answer().await;
    let connection = session(&cluster).await;
    let start = Instant::now();
    connection.collect(tpch::query("q18")).await.unwrap();
    let mut whole = start.elapsed();
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    eprintln!("seed {seed}, q18 alone takes {whole:?}");
    let mut state = u64::from(seed) | 1;
    let (mut hits, mut tries) = (0, 0);
    while hits < kills {
        assert!(tries < TRIES_PER_KILL * kills, "only {hits} of {tries} kills hit the running query");
        // A multiplicative generator is random enough to pick a moment, and its seed repeats the run.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = whole.mul_f64(0.9 * (state >> 33) as f64 / f64::from(u32::MAX >> 1));
        match kill_during_q18(&mut cluster, &answer, &format!("random kill {tries}"), Moment::After(moment)).await {
            true => hits += 1,
            // The query takes less time than we measured, as the machine has got less to do.
            false => whole = moment.mul_f64(0.9),
        }
        tries += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_executors_a_query_ends_with_an_error_that_says_so() {
    let mut cluster = tpch::cluster(1).await;
    let connection = cluster.connect().await;
    let query = tpch::start_endless(&connection).await;
    cluster.kill_executor();
    let outcome = tokio::time::timeout(QUERY_TIME_MAX, query.rows().try_collect::<Vec<_>>()).await.expect("the query hangs");
    let error = outcome.expect_err("rows without an executor").to_string();
    assert!(error.contains("executor"), "{error}");
}

/// Another address of this host, where executors report how tasks ended.
const REPORTS: &str = "127.0.0.2";

/// Carries reports to the scheduler, except `losses` of them: their connections break instead.
async fn carry_reports(listener: TcpListener, scheduler: String, losses: Arc<AtomicU32>) {
    while let Ok((executor, _)) = listener.accept().await {
        let (scheduler, losses) = (scheduler.clone(), Arc::clone(&losses));
        tokio::spawn(async move {
            let scheduler = TcpStream::connect(scheduler).await.unwrap();
            let ((mut reports, mut to_executor), (mut answers, mut to_scheduler)) = (executor.into_split(), scheduler.into_split());
            let carried = async {
                let mut bytes = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = reports.read(&mut bytes).await {
                    let lost = losses.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |losses| losses.checked_sub(1));
                    if lost.is_ok() || to_scheduler.write_all(&bytes[..count]).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = carried => {}
                _ = copy(&mut answers, &mut to_executor) => {}
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_end_was_not_reported_runs_again() {
    let options = Options { executors: 3, advertised_host: Some(REPORTS), ..Options::default() };
    let (cluster, losses) = (tpch::cluster_as(options).await, Arc::new(AtomicU32::new(0)));
    let scheduler = cluster.internal().to_owned();
    let port = scheduler.rsplit_once(':').unwrap().1;
    let listener = TcpListener::bind(format!("{REPORTS}:{port}")).await.unwrap();
    tokio::spawn(carry_reports(listener, scheduler, Arc::clone(&losses)));
    let answer = answer(&cluster).await;

    let connection = session(&cluster).await;
    losses.store(2, Ordering::Relaxed);
    let query = connection.collect(tpch::query("q18"));
    let batches = tokio::time::timeout(QUERY_TIME_MAX, query).await.expect("the query hangs").unwrap();
    rows::assert_same("after lost reports", &rows::cells(&batches), &answer);
    assert_eq!(losses.load(Ordering::Relaxed), 0, "no report was lost");
    let log = cluster.scheduler_log();
    assert!(log.contains("an executor does not run a task"), "{log}");
    cluster.await_idle().await;
}
