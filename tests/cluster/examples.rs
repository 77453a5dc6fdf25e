//! Runs the scripts of `docs/examples` and compares the rows that they promise.

use std::fs;
use std::path::Path;

use windlass_tests::{Cluster, rows};

/// A statement of a script, and the rows that follow it as `-->` comments.
struct Step {
    sql: String,
    rows: Vec<String>,
}

/// Statements end where a line ends in a semicolon.
fn steps(script: &str) -> Vec<Step> {
    let (mut steps, mut sql) = (Vec::<Step>::new(), String::new());
    for line in script.lines() {
        if let Some(row) = line.strip_prefix("--> ") {
            steps.last_mut().expect("rows follow a query").rows.push(row.to_owned());
        } else {
            sql = format!("{sql}{line}\n");
            if line.ends_with(';') {
                steps.push(Step { sql: std::mem::take(&mut sql), rows: Vec::new() });
            }
        }
    }
    assert!(sql.trim().is_empty(), "the script ends without a semicolon: {sql}");
    steps
}

async fn run(name: &str) {
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(name)).unwrap();
    for engine in ["pipelined", "staged"] {
        let cluster = Cluster::start(2).await;
        let session = cluster.connect().await;
        session.collect(&format!("SET windlass.engine = '{engine}'")).await.unwrap();
        for Step { sql, rows } in steps(&script.replace("{data}", &cluster.data().display().to_string())) {
            let found = session.collect(&sql).await.unwrap_or_else(|error| panic!("{name} on the {engine} engine: {error}\n{sql}"));
            if !rows.is_empty() {
                let found: Vec<_> = rows::cells(&found).iter().map(|row| row.join(" ")).collect();
                assert_eq!(found, rows, "{name} on the {engine} engine: {sql}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn advertising() {
    run("advertising.sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn social_pins() {
    run("social_pins.sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adtech() {
    run("adtech.sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finance() {
    run("finance.sql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn business() {
    run("business.sql").await;
}
