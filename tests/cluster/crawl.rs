//! Tables that are found, and jobs that read what is new in them.

use std::fs;
use std::path::Path;

use windlass_tests::sql::cells;
use windlass_tests::{Cluster, fixtures};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_finds_tables_and_then_only_what_is_new() {
    let cluster = Cluster::start(1).await;
    let connection = cluster.connect().await;
    let lake = cluster.data().join("lake");
    for day in 1..3 {
        fixtures::numbers(&lake.join(format!("numbers/day=2024-01-0{day}")), 1, 10);
    }
    write(&lake.join("orders/a.csv"), "id;name\n1;x\n");
    write(&lake.join("clicks/2024/01/a.json"), "{\"userId\": 1}\n");
    write(&lake.join("mixed/a.csv"), "1,2\n");
    write(&lake.join("mixed/b.parquet"), "no");
    let crawl = |more: &str| format!("CALL system.crawl('{}', database => 'lake'{more})", lake.display());
    connection.collect("CREATE DATABASE lake").await.unwrap();
    let found =
        |lines: Vec<Vec<String>>| lines.into_iter().map(|line| [0, 2, 3, 4, 5, 6].map(|at| line[at].clone()).join(" ")).collect::<Vec<_>>();

    let planned = found(cells(&connection, &crawl(", dry_run => true")).await);
    assert_eq!(planned[0], "lake.clicks JSONFILE would create 0 1 1");
    assert!(cells(&connection, "SHOW TABLES IN lake").await.is_empty());
    let first = cells(&connection, &crawl("")).await;
    assert!(first[1][7].contains("several formats") && first[1][3] == "skipped", "{first:?}");
    let want = [
        "lake.clicks JSONFILE created 0 1 1",
        "NULL NULL skipped NULL NULL NULL",
        "lake.numbers PARQUET created 2 2 2",
        "lake.orders CSV created 0 1 2",
    ];
    assert_eq!(found(first), want);
    assert_eq!(cells(&connection, "SELECT count(*), min(day), sum(n) FROM lake.numbers").await, [["20", "2024-01-01", "90"]]);
    assert_eq!(cells(&connection, "SELECT o.name FROM lake.orders o JOIN lake.clicks c ON c.userid = o.id").await, [["x"]]);

    let unchanged = found(cells(&connection, &crawl("")).await);
    assert!(unchanged.iter().all(|line| line.contains("unchanged 0 0 0") || line.contains("skipped")), "{unchanged:?}");
    fixtures::numbers(&lake.join("numbers/day=2024-01-03"), 1, 10);
    write(&lake.join("clicks/2024/02/b.json"), "{\"userId\": 2, \"newOne\": \"y\"}\n");
    let changed = found(cells(&connection, &crawl("")).await);
    assert_eq!(changed[0], "lake.clicks JSONFILE changed 0 1 1");
    assert_eq!(changed[2..], ["lake.numbers PARQUET changed 1 1 0", "lake.orders CSV unchanged 0 0 0"]);
    assert_eq!(cells(&connection, "SELECT userid, newone FROM lake.clicks ORDER BY userid").await, [["1", "NULL"], ["2", "y"]]);

    connection.collect("CREATE TABLE owned (a INT)").await.unwrap();
    connection.collect("INSERT INTO owned VALUES (1)").await.unwrap();
    let warehouse = cluster.data().join("warehouse");
    let lines = cells(&connection, &format!("CALL system.crawl('{}')", warehouse.display())).await;
    assert!(lines[0][7].contains("belongs to table 'default.owned'"), "{lines:?}");
    let denied = connection.collect("CALL system.crawl('/etc')").await.unwrap_err().to_string();
    assert!(denied.contains("allowed_locations"), "{denied}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_gets_each_row_once() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let run = async |sql: &str| drop(cells(&connection, sql).await);
    run("CREATE TABLE events (id INT, day INT) PARTITIONED BY (day)").await;
    run("CREATE TABLE daily (id INT, day INT)").await;
    run("INSERT INTO events VALUES (1, 1), (2, 2)").await;
    let step = "INSERT INTO daily SELECT * FROM events FOR CHANGES SINCE JOB 'daily'";
    for engine in ["local", "pipelined", "staged"] {
        run(&format!("SET windlass.engine = '{engine}'")).await;
        run(step).await;
        run(step).await;
        assert_eq!(cells(&connection, "SELECT count(*) FROM events FOR CHANGES SINCE JOB 'daily'").await, [["0"]]);
        run("INSERT INTO events VALUES (3, 1), (4, 3)").await;
        run("OPTIMIZE events").await;
        let new = "SELECT id FROM events FOR CHANGES SINCE JOB 'daily' AS new WHERE day IN (1, 3) ORDER BY id";
        assert_eq!(cells(&connection, new).await, [["3"], ["4"]], "{engine}: what was merged is new still");
        assert_eq!(cells(&connection, "CALL system.new_files('events', 'daily')").await.len(), 2);
    }
    run(step).await;
    assert_eq!(cells(&connection, "SELECT count(*), count(DISTINCT id), sum(id) FROM daily").await, [["8", "4", "24"]]);
    let marks = cells(&connection, "SELECT table_name, job, version = newest_version FROM system.bookmarks").await;
    assert_eq!(marks, [["events", "daily", "true"]]);

    // Of many that read for a job at the same time, one is committed at least, and every row arrives once.
    run("INSERT INTO events VALUES (5, 1)").await;
    let others = futures_of(&cluster, 4, step).await;
    assert!(
        others.iter().any(Result::is_ok) && others.iter().filter_map(|done| done.as_ref().err()).all(|error| error.contains("daily")),
        "{others:?}"
    );
    assert_eq!(cells(&connection, "SELECT count(*) FROM daily WHERE id = 5").await, [["1"]]);

    // A statement that fails leaves the job where it was.
    run("INSERT INTO events VALUES (6, 1)").await;
    connection.collect("INSERT INTO daily SELECT id / (day - 1), day FROM events FOR CHANGES SINCE JOB 'daily'").await.unwrap_err();
    assert_eq!(cells(&connection, "SELECT id FROM events FOR CHANGES SINCE JOB 'daily'").await, [["6"]]);
    run("UPDATE events SET id = 7 WHERE id = 6").await;
    let error = connection.collect(step).await.unwrap_err().to_string();
    assert!(error.contains("UPDATE") && error.contains("system.advance"), "{error}");
    run("CALL system.advance('events', 'daily')").await;
    assert_eq!(cells(&connection, "SELECT count(*) FROM events FOR CHANGES SINCE JOB 'daily'").await, [["0"]]);

    // Files that others add count when the catalog knows of them.
    write(&cluster.data().join("logs/a.csv"), "1\n");
    let location = cluster.data().join("logs");
    run(&format!("CREATE EXTERNAL TABLE logs (id INT) STORED AS CSV LOCATION '{}'", location.display())).await;
    run("CREATE TABLE copied AS SELECT * FROM logs FOR CHANGES SINCE JOB 'j'").await;
    write(&cluster.data().join("logs/b.csv"), "2\n");
    assert_eq!(cells(&connection, "SELECT count(*) FROM logs FOR CHANGES SINCE JOB 'j'").await, [["0"]]);
    run("MSCK REPAIR TABLE logs").await;
    assert_eq!(cells(&connection, "SELECT id FROM logs FOR CHANGES SINCE JOB 'j'").await, [["2"]]);
}

/// What becomes of a statement that several sessions run at the same time.
async fn futures_of(cluster: &Cluster, count: usize, sql: &'static str) -> Vec<Result<(), String>> {
    let mut running = Vec::new();
    for _ in 0..count {
        let connection = cluster.connect().await;
        running.push(tokio::spawn(async move { connection.collect(sql).await.map(drop).map_err(|error| error.to_string()) }));
    }
    let mut done = Vec::new();
    for run in running {
        done.push(run.await.unwrap());
    }
    done
}
