//! The `windlass` command as a user runs it.

use std::process::{Command, Stdio};

use windlass_tests::Cluster;
use windlass_tests::cluster::binary;

fn windlass(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary("windlass")).args(arguments).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_from_the_command_line_print_rows_and_exit_codes() {
    let cluster = Cluster::start(1).await;
    let sql = |arguments: &[&str]| windlass(&[&["sql", cluster.uri()], arguments].concat());

    let (code, out, err) = sql(&["-c", "SELECT 1 AS one, 'a,b' AS text, NULL AS nothing; SELECT 2 AS two"]);
    assert_eq!((code, out.as_str()), (Some(0), "one,text,nothing\n1,\"a,b\",\ntwo\n2\n"), "{err}");
    let (_, out, _) = sql(&["--format", "json", "-c", "SELECT 1 AS one, 'é' AS text"]);
    assert_eq!(out, "{\"one\":1,\"text\":\"é\"}\n");
    let (_, out, _) = sql(&["--format", "tsv", "-c", "SELECT 1 AS one, 'b' AS text"]);
    assert_eq!(out, "one\ttext\n1\tb\n");
    let (_, out, _) = sql(&["--format", "markdown", "-c", "SELECT 1 AS one"]);
    assert!(out.contains("| one |") && out.contains("| ---"), "{out}");
    let (_, out, _) = sql(&["--format", "vertical", "-c", "SELECT 1 AS one"]);
    assert!(out.contains("one") && out.contains('1'), "{out}");

    let (code, _, err) = sql(&["-c", "SELECT x FROM nowhere"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("nowhere"), "{err}");
    let (code, _, err) = sql(&["-c", "SELECT 1 +"]);
    assert_eq!(code, Some(1), "{err}");
    let (code, ..) = windlass(&["sql", "--no-such-flag"]);
    assert_eq!(code, Some(2));
    let (code, ..) = windlass(&["sql", "grpc://127.0.0.1:1", "-c", "SELECT 1"]);
    assert_eq!(code, Some(3));

    let file = cluster.data().join("out.parquet");
    let (code, _, err) = sql(&["--format", "parquet", "-o", file.to_str().unwrap(), "-c", "SELECT * FROM (VALUES (1), (2)) AS t (n)"]);
    assert_eq!(code, Some(0), "{err}");
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(file).unwrap()).unwrap();
    assert_eq!(reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
}

#[test]
fn the_demo_runs_all_queries_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (code, out, err) = windlass(&["demo", "--exit", "--scale", "0.01", "--data-dir", directory.path().to_str().unwrap()]);
    assert_eq!(code, Some(0), "{err}");
    assert!((1..=22).all(|query| out.contains(&format!("q{query:02}"))), "{out}");
    assert!(out.contains("adbc_driver_flightsql"), "{out}");
    let (code, out, _) = windlass(&["doctor"]);
    assert_eq!(code, Some(0), "{out}");
}
