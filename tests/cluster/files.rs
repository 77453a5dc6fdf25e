//! Data files that are broken, gone, or do not fit: the error names the file and the cluster lives on.

use std::fs;
use std::path::Path;

use windlass_tests::sql::{cells, error};
use windlass_tests::{Cluster, fixtures};

fn create(name: &str, location: &Path) -> String {
    format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{}'", location.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_named() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;

    // Broken before the table is made: the footer cannot be read.
    for (name, damage) in [("empty", 0), ("short", 40)] {
        let directory = cluster.data().join(name);
        fixtures::numbers(&directory, 2, 100);
        let file = directory.join("part-001.parquet");
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..damage]).unwrap();
        let message = error(&connection, &create(name, &directory)).await;
        assert!(message.contains("part-001.parquet"), "{name}: {message}");
    }
    let directory = cluster.data().join("text");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("note.parquet"), "this is not Parquet at all, only named so").unwrap();
    let message = error(&connection, &create("text", &directory)).await;
    assert!(message.contains("note.parquet"), "{message}");

    // Broken afterwards: flipped bytes in the pages, cut, gone.
    for (name, damage) in [("flipped", "flip"), ("cut", "cut"), ("gone", "remove")] {
        let directory = cluster.data().join(name);
        fixtures::numbers(&directory, 2, 50_000);
        connection.collect(&create(name, &directory)).await.unwrap();
        let file = directory.join("part-001.parquet");
        let mut bytes = fs::read(&file).unwrap();
        match damage {
            "flip" => {
                bytes[4..2000].iter_mut().for_each(|byte| *byte ^= 0x5a);
                fs::write(&file, &bytes).unwrap();
            }
            "cut" => fs::write(&file, &bytes[..bytes.len() / 2]).unwrap(),
            _ => fs::remove_file(&file).unwrap(),
        }
        let query = format!("SELECT sum(n), count(DISTINCT k) FROM {name}");
        let message = error(&connection, &query).await;
        assert!(message.contains("part-001.parquet"), "{name}: {message}");
        if damage == "flip" {
            // It is not the file that was registered, and is no better when it is.
            assert!(message.contains("replaced"), "{message}");
            connection.collect(&format!("MSCK REPAIR TABLE {name}")).await.unwrap();
            let message = error(&connection, &query).await;
            assert!(message.contains("part-001.parquet") && !message.contains("replaced"), "{message}");
        }
    }

    // The neighbours' queries go on.
    let directory = cluster.data().join("sound");
    fixtures::numbers(&directory, 2, 1000);
    connection.collect(&create("sound", &directory)).await.unwrap();
    let sum = cells(&connection, "SELECT sum(n) FROM sound").await;
    assert_eq!(sum, [["1999000"]]);
    assert_eq!(cluster.live_executors(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_lie_where_the_configuration_allows() {
    let cluster = Cluster::start(0).await;
    let connection = cluster.connect().await;
    let link = cluster.data().join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    let up = cluster.data().join("../../..");
    for location in [
        "/etc",
        "file:///etc/passwd",
        "/proc/self",
        &link.display().to_string(),
        &up.display().to_string(),
        "http://127.0.0.1/x",
        "s3://b/x",
    ] {
        for statement in [
            format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{location}'"),
            format!("CREATE EXTERNAL TABLE t (x INT) STORED AS PARQUET LOCATION '{location}'"),
            format!("CREATE DATABASE d LOCATION '{location}'"),
        ] {
            let message = error(&connection, &statement).await;
            assert!(message.contains("location") || message.contains("local"), "{statement}: {message}");
        }
    }
    assert!(cells(&connection, "SHOW TABLES").await.is_empty());
    let message = error(&connection, "SELECT * FROM '/etc/passwd'").await;
    assert!(message.contains("does not exist") || message.contains("not found"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_streams_whole_and_the_scheduler_stays_small() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let directory = cluster.data().join("numbers");
    fixtures::numbers(&directory, 10, 1_000_000);
    connection.collect(&create("numbers", &directory)).await.unwrap();
    let before = cluster.scheduler_resident_bytes();
    let query = connection.start("SELECT n, k, n * 2 AS double FROM numbers").await.unwrap();
    let mut rows = query.rows();
    let (mut count, mut sum, mut peak) = (0u64, 0i128, 0);
    while let Some(batch) = futures::TryStreamExt::try_next(&mut rows).await.unwrap() {
        let column = batch.column(0).as_any().downcast_ref::<arrow::array::Int64Array>().unwrap();
        count += batch.num_rows() as u64;
        sum += column.iter().flatten().map(i128::from).sum::<i128>();
        peak = peak.max(cluster.scheduler_resident_bytes());
    }
    assert_eq!((count, sum), (10_000_000, 49_999_995_000_000));
    // The rows are 240 MB; a scheduler that gathered them would show it.
    assert!(peak < before + (150 << 20), "resident: {before} before, {peak} at most");
}
