//! Queries whose stages stream to each other: the same rows as elsewhere, early, and nothing left behind. Executors die under them.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use windlass_client::tpch as suite;
use windlass_tests::cluster::{Cluster, Options};
use windlass_tests::sql::cells;
use windlass_tests::{fixtures, rows};

use crate::tpch;

/// What a user waits at most for a query that lost an executor.
const QUERY_TIME_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn tpch_gives_the_rows_of_duckdb() {
    let cluster = tpch::cluster(2).await;
    let mut sums = Vec::new();
    for engine in ["staged", "pipelined", "staged", "pipelined"] {
        let connection = cluster.session(engine).await;
        let start = Instant::now();
        for (name, sql) in suite::queries() {
            let got = cells(&connection, &format!("/* {name} */ {sql}")).await;
            rows::assert_same(&format!("{name}, {engine}"), &got, &tpch::answer(name));
            assert_eq!(cluster.record("engine", &format!("/* {name} */")).await, engine, "{name}");
        }
        sums.push((engine, start.elapsed()));
    }
    eprintln!("22 queries at scale 0.1: {sums:?}");
}

/// Shapes that go wrong when a stage is cut into tasks without care. The tables are large enough to be cut.
#[tokio::test(flavor = "multi_thread")]
async fn cut_stages_give_the_rows_of_one_process() {
    let cluster = tpch::cluster(2).await;
    let (local, pipelined) = (cluster.session("local").await, cluster.session("pipelined").await);
    let explained = cells(&pipelined, "EXPLAIN SELECT l_suppkey, count(*) FROM lineitem GROUP BY l_suppkey").await;
    let stages = explained.iter().find(|row| row[0] == "stages").unwrap();
    assert!(stages[1].contains("tasks=2"), "{}", stages[1]);
    for sql in [
        // Each task must see the same thousand orders, whichever they are.
        "SELECT count(DISTINCT l_orderkey) FROM lineitem JOIN (SELECT o_orderkey FROM orders LIMIT 1000) o ON l_orderkey = o_orderkey",
        "SELECT count(DISTINCT l_orderkey) FROM lineitem, (SELECT o_orderkey AS k FROM orders LIMIT 10) o WHERE l_orderkey + 0 <= k AND l_orderkey >= k",
        "SELECT count(*) FROM (SELECT l_orderkey FROM lineitem LIMIT 100000) l JOIN orders ON l_orderkey = o_orderkey",
        "SELECT count(*), sum(n) FROM (SELECT l_suppkey, count(*) AS n FROM lineitem GROUP BY l_suppkey) t JOIN supplier ON s_suppkey = l_suppkey",
        "SELECT count(*), sum(s) FROM lineitem JOIN (SELECT s_nationkey, count(*) AS s FROM supplier GROUP BY s_nationkey) n ON l_suppkey = s_nationkey",
        "SELECT count(*) FROM part RIGHT JOIN (SELECT max(s_suppkey) AS m FROM supplier) s ON p_partkey = m",
        "SELECT count(*), sum(r) FROM (SELECT row_number() OVER (ORDER BY o_orderkey) AS r FROM orders) t WHERE r % 3 = 0",
        "SELECT count(*), max(r) FROM (SELECT rank() OVER (PARTITION BY s_nationkey ORDER BY s_acctbal) AS r FROM supplier) t",
        "SELECT count(*) FROM orders WHERE o_custkey NOT IN (SELECT c_custkey FROM customer WHERE c_acctbal > 0)",
        "SELECT count(*), count(o_orderkey) FROM customer FULL JOIN orders ON c_custkey = o_custkey AND o_totalprice > 400000",
        "SELECT count(*), count(p_partkey) FROM supplier FULL JOIN part ON s_suppkey * 200 < p_partkey AND p_size > 49",
        "SELECT count(*), count(s_suppkey) FROM nation LEFT JOIN supplier ON s_nationkey > n_nationkey",
        "SELECT count(*), sum(k) FROM (SELECT l_suppkey AS k FROM lineitem UNION ALL SELECT o_custkey FROM orders UNION SELECT s_suppkey FROM supplier) t",
        "SELECT * FROM (SELECT l_orderkey, l_linenumber FROM lineitem ORDER BY 1 DESC, 2 LIMIT 7) t ORDER BY 1, 2",
        "SELECT l_returnflag, count(*) FROM lineitem WHERE l_orderkey IN (SELECT o_orderkey FROM orders WHERE o_totalprice > 300000) GROUP BY 1 ORDER BY 1",
        "SELECT count(*) FROM lineitem l WHERE l_quantity > (SELECT avg(l_quantity) FROM lineitem i WHERE i.l_partkey = l.l_partkey)",
        "SELECT count(*) FROM lineitem WHERE l_orderkey < 0",
        "SELECT l_linenumber, approx_distinct(l_partkey) > 100, count(DISTINCT l_suppkey) FROM lineitem GROUP BY l_linenumber ORDER BY 1",
    ] {
        let want = cells(&local, sql).await;
        rows::assert_same(sql, &cells(&pipelined, sql).await, &want);
        assert_eq!(cluster.record("engine", &sql.replace('\'', "''")).await, "pipelined", "{sql}");
    }
}

/// Rows that are missing after a panic must not look like the end: on the way to an exchange, to the client, and in the last stage.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_on_one_row_is_an_error_on_every_engine() {
    let cluster = tpch::cluster(2).await;
    // The last order's first line wants so much room that, with what the others of its batch want, no vector can be that long.
    let panics = "lpad('a', CASE WHEN l_orderkey = 600000 AND l_linenumber = 1 THEN 9223372036854775807 ELSE 1 END, 'b')";
    for engine in ["local", "staged", "pipelined"] {
        let connection = cluster.session(engine).await;
        for sql in [
            format!("SELECT l_orderkey, {panics} FROM lineitem"),
            format!("SELECT count(*), max({panics}) FROM lineitem"),
            format!("SELECT l_suppkey, count(DISTINCT {panics}) FROM lineitem GROUP BY l_suppkey"),
            format!("SELECT count(*) FROM (SELECT {panics} AS p FROM lineitem) l JOIN orders ON p = o_comment"),
            format!("SELECT {panics} FROM lineitem ORDER BY l_orderkey DESC, l_linenumber LIMIT 3"),
        ] {
            let outcome = connection.collect(&sql).await.map(|rows| rows.iter().map(|batch| batch.num_rows()).sum::<usize>());
            assert!(outcome.is_err(), "{engine}: {outcome:?} rows of {sql}");
        }
        assert_eq!(cells(&connection, "SELECT count(*) FROM lineitem").await, [["600572"]], "{engine} is still at work");
    }
    cluster.await_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_early_and_take_no_room_in_the_scheduler() {
    const COPIES: u64 = 17;
    let cluster = tpch::cluster(2).await;
    let connection = cluster.session("pipelined").await;
    let lines: u64 = cells(&connection, "SELECT count(*) FROM lineitem").await[0][0].parse().unwrap();
    let sql = format!("SELECT l_orderkey, l_partkey, n_nationkey FROM lineitem CROSS JOIN nation WHERE n_nationkey < {COPIES}");
    let start = Instant::now();
    let mut stream = connection.start(&sql).await.unwrap().rows();
    let (mut count, mut resident) = (stream.next().await.unwrap().unwrap().num_rows() as u64, Vec::new());
    let first = start.elapsed();
    // The rest waits until somebody reads it.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let watcher = cluster.connect().await;
    let running = "SELECT count(*) FROM system.runtime.queries WHERE engine = 'pipelined' AND state = 'RUNNING'";
    assert_eq!(cells(&watcher, running).await, [["1"]], "ended before it was read");
    cluster.await_value(&format!("{running} AND rows_read > 0"), "1").await;
    while let Some(batch) = stream.try_next().await.unwrap() {
        let before = count / 1_000_000;
        count += batch.num_rows() as u64;
        if count / 1_000_000 > before {
            resident.push(cluster.scheduler_resident_bytes() >> 20);
        }
    }
    assert_eq!(count, lines * COPIES);
    eprintln!("{count} rows in {:?}, the first after {first:?}, resident MiB of the scheduler {resident:?}", start.elapsed());
    let (early, late) = (resident[0], *resident.last().unwrap());
    assert!(late < early + 64, "the scheduler grows with the rows: {resident:?} MiB");
}

/// Each partition has rows that come before all of the next, and more of them than a connection's buffer holds.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_follow_each_other_are_merged_in_order() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let directory = cluster.data().join("numbers");
    fixtures::numbers(&directory, 8, 1_000_000);
    let create = format!("CREATE EXTERNAL TABLE numbers STORED AS PARQUET LOCATION '{}'", directory.display());
    connection.collect(&create).await.unwrap();
    let sql = "/* windlass.engine = pipelined */ SELECT n, k, n * 2 AS double, n + k AS more FROM numbers ORDER BY n";
    let query = connection.start(sql).await.unwrap();
    let (mut rows, mut next) = (query.rows(), 0_i64);
    let read = async {
        while let Some(batch) = rows.try_next().await.unwrap() {
            for n in batch.column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap().values() {
                assert_eq!(*n, next);
                next += 1;
            }
        }
        next
    };
    assert_eq!(tokio::time::timeout(QUERY_TIME_MAX, read).await, Ok(8_000_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_and_measurements_are_shown() {
    let cluster = tpch::cluster(2).await;
    let connection = cluster.session("pipelined").await;
    let analyzed = cells(&connection, &format!("EXPLAIN ANALYZE {}", tpch::query("q03"))).await;
    let analysis = analyzed.iter().find(|row| row[0] == "analysis").unwrap();
    for part in ["Stage 1", "output_rows=", "HashJoinExec", "bytes_transferred"] {
        assert!(analysis[1].contains(part), "{part} in\n{}", analysis[1]);
    }
    // One stage of one task, which runs below a head that only passes its rows on.
    let sql = "SELECT s_name FROM supplier WHERE s_acctbal > 0";
    let analyzed = cells(&connection, &format!("EXPLAIN ANALYZE {sql}")).await;
    let analysis = analyzed.iter().find(|row| row[0] == "analysis").unwrap();
    assert!(analysis[1].contains("tasks=1") && analysis[1].contains("output_rows="), "{}", analysis[1]);
    cells(&connection, sql).await;
    let record = format!("SELECT engine, rows_read, bytes_read > 0 FROM system.runtime.queries WHERE query = '{sql}'");
    assert_eq!(cells(&connection, &record).await, [["pipelined", "1000", "true"]]);
    // An empty build side: the other side's tasks are never asked for rows.
    let empty = "EXPLAIN ANALYZE SELECT count(*) FROM lineitem JOIN orders ON l_orderkey = o_orderkey WHERE o_totalprice < 0";
    let start = Instant::now();
    assert!(!cells(&connection, empty).await.is_empty());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let alone = tpch::cluster(0).await;
    let connection = alone.session("pipelined").await;
    let explained = cells(&connection, "EXPLAIN SELECT count(*) FROM lineitem").await;
    let engine = explained.iter().find(|row| row[0] == "engine").unwrap();
    assert_eq!(engine[1], "staged, since no executor of this build is active");
}

/// An executor that hangs answers nobody, and is not given up yet: the query does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_gets_no_further_is_run_again() {
    let scheduler = toml::toml! {
        stall_timeout_s = 4
    };
    let mut cluster = tpch::cluster_as(Options { executors: 2, scheduler, ..Options::default() }).await;
    let connection = cluster.session("pipelined").await;
    let text = format!("/* stall */ {}", tpch::query("q18"));
    cluster.stop_executor();
    let start = Instant::now();
    let batches = tokio::time::timeout(2 * QUERY_TIME_MAX, connection.collect(&text)).await.expect("the query hangs").unwrap();
    rows::assert_same("after a stall", &rows::cells(&batches), &tpch::answer("q18"));
    let record = cells(
        &cluster.connect().await,
        "SELECT engine, attempts > 1, rerun_reason FROM system.runtime.queries WHERE query LIKE '%/* stall */%' AND query NOT LIKE '%runtime%'",
    )
    .await;
    eprintln!("right rows after {:?}: {record:?}", start.elapsed());
    assert_eq!(record[0][..2], ["pipelined, then staged", "true"], "{record:?}");
    let log = cluster.scheduler_log();
    assert!(log.contains("has not answered for 4 s"), "{log}");
}

/// A kill that comes after its query's end is tried again, so many times on average.
const TRIES_PER_KILL: usize = 4;

/// Runs a query, kills one executor at a moment, and checks the rows; whether the query was still running at that moment.
async fn kill_during(cluster: &mut Cluster, name: &str, moment: Duration, what: &str) -> bool {
    let connection = cluster.session("pipelined").await;
    let start = Instant::now();
    let text = format!("/* {what} */ {}", tpch::query(name));
    let sql = text.clone();
    let running = tokio::spawn(async move { connection.collect(&sql).await });
    tokio::time::sleep(moment).await;
    let was_running = !running.is_finished();
    cluster.kill_executor();
    let batches = tokio::time::timeout(QUERY_TIME_MAX, running)
        .await
        .unwrap_or_else(|_| panic!("{what}, {name} killed at {moment:?}: still running after {QUERY_TIME_MAX:?}"))
        .unwrap()
        .unwrap_or_else(|error| panic!("{what}, {name} killed at {moment:?}: {error}"));
    rows::assert_same(&format!("{what}, {name} killed at {moment:?}"), &rows::cells(&batches), &tpch::answer(name));
    let engine = cluster.record("engine", &format!("/* {what} */")).await;
    eprintln!("{what}: {name} killed at {moment:?}, running: {was_running}, {engine}, right rows after {:?}", start.elapsed());
    cluster.add_executor().await;
    cluster.await_executors(3).await;
    cluster.await_idle().await;
    was_running
}

/// The number of random kills is small in CI; `WINDLASS_KILLS=20` runs the acceptance test.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_dies_at_random_moments() {
    let kills: usize = std::env::var_os("WINDLASS_KILLS").map_or(2, |kills| kills.to_str().unwrap().parse().unwrap());
    let mut cluster = tpch::cluster(3).await;
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    eprintln!("seed {seed}");
    let mut state = u64::from(seed) | 1;
    for name in ["q09", "q21"] {
        let connection = cluster.session("pipelined").await;
        cells(&connection, tpch::query(name)).await;
        let start = Instant::now();
        cells(&connection, tpch::query(name)).await;
        let mut whole = start.elapsed();
        let (mut hits, mut tries) = (0, 0);
        while hits < kills {
            assert!(tries < TRIES_PER_KILL * kills, "only {hits} of {tries} kills hit the running {name}");
            // A multiplicative generator is random enough to pick a moment, and its seed repeats the run.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let moment = whole.mul_f64(0.9 * (state >> 33) as f64 / f64::from(u32::MAX >> 1));
            match kill_during(&mut cluster, name, moment, &format!("kill {name} {tries}")).await {
                true => hits += 1,
                // The query takes less time than we measured, as the machine has got less to do.
                false => whole = moment.mul_f64(0.9),
            }
            tries += 1;
        }
    }
}
