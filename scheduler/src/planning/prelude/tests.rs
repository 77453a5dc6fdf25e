use std::fs::File;
use std::path::Path;

use datafusion::arrow::array::{ArrayRef, AsArray, Date32Array, Int64Array, StringArray};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;
use url::Url;

use super::*;
use crate::coordinator::tests::{Bench, bench};

/// Days since 1970 of the first of 2024.
const FIRST_DAY: i32 = 19_723;

/// A fact of 12 days and a partition without a day, 40 rows in each, and the days in a dimension: NULL twice, one day twice, three days that
/// the fact does not have. Queries on them are never too small.
async fn star() -> Bench {
    let bench = bench().await;
    let root = bench.dir.path().canonicalize().unwrap();
    for day in 0..13_i64 {
        let name = if day == 12 { "__HIVE_DEFAULT_PARTITION__".to_owned() } else { format!("2024-01-{:02}", day + 1) };
        let numbers: Vec<i64> = (day * 40..day * 40 + 40).collect();
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from(numbers.clone()))),
            ("x", Arc::new(numbers.iter().map(|n| (n % 7 != 0).then_some(n % 5)).collect::<Int64Array>())),
        ];
        write(&root.join(format!("fact/dt={name}")), &columns);
    }
    let days: Vec<Option<i32>> = (0..15).chain([3]).map(|day| Some(FIRST_DAY + day)).chain([None, None]).collect();
    let texts = days.iter().map(|day| day.map(|day| format!("2024-01-{:02}", day - FIRST_DAY + 1)));
    let columns: [(&str, ArrayRef); 4] = [
        ("d", Arc::new(Date32Array::from(days.clone()))),
        ("q", Arc::new((0..18).map(|row| (row % 6 != 5).then_some(row % 4)).collect::<Int64Array>())),
        ("s", Arc::new(texts.collect::<StringArray>())),
        ("m", Arc::new((0..18).map(Some).collect::<Int64Array>())),
    ];
    write(&root.join("dim"), &columns);
    for (name, columns) in [("fact", "n BIGINT, x BIGINT) PARTITIONED BY (dt DATE"), ("dim", "d DATE, q BIGINT, s STRING, m BIGINT")] {
        let location = Url::from_directory_path(root.join(name)).unwrap();
        bench.text(&format!("CREATE EXTERNAL TABLE {name} ({columns}) STORED AS PARQUET LOCATION '{location}'")).await;
        bench.text(&format!("MSCK REPAIR TABLE {name}")).await;
    }
    bench.text("CREATE VIEW days AS SELECT d AS day, q AS quarter FROM dim WHERE q IS NOT NULL").await;
    bench.text("CREATE VIEW facts AS SELECT dt AS day, n FROM fact").await;
    bench.session.set("windlass.local_scan_bytes_max", "0").unwrap();
    bench
}

fn write(dir: &Path, columns: &[(&str, ArrayRef)]) {
    std::fs::create_dir_all(dir).unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, column)| (*name, Arc::clone(column), true))).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(dir.join("a.parquet")).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// What EXPLAIN says of the parts of a query that run first.
async fn notes(bench: &Bench, sql: &str) -> Vec<String> {
    let mut notes = Vec::new();
    // Settings come before everything else.
    let query = sql.find("SELECT").unwrap();
    let (settings, query) = sql.split_at(query);
    for batch in bench.run(&format!("{settings}EXPLAIN {query}"), None).await.unwrap_or_else(|error| panic!("{sql}: {error}")) {
        let (kinds, plans) = (batch.column(0).as_string::<i32>().clone(), batch.column(1).as_string::<i32>().clone());
        notes.extend((0..batch.num_rows()).filter(|row| kinds.value(*row) == "prelude").map(|row| plans.value(row).to_owned()));
    }
    notes
}

#[tokio::test]
async fn small_sides_choose_partitions_where_no_row_is_lost() {
    let bench = star().await;
    let pruned = [
        ("SELECT sum(n) FROM fact JOIN dim ON dt = d WHERE q = 3", "2 of 13 partitions, by 2 values of dim.d"),
        ("SELECT sum(n) FROM dim, fact WHERE d = dt AND m BETWEEN 2 AND 4", "3 of 13 partitions, by 3 values of dim.d"),
        ("SELECT sum(n) FROM facts JOIN days ON facts.day = days.day WHERE quarter = 3", "2 of 13"),
        ("SELECT count(*) FROM fact WHERE dt IN (SELECT d FROM dim WHERE m = 5)", "1 of 13"),
        ("SELECT count(*) FROM fact WHERE EXISTS (SELECT 1 FROM dim WHERE d = dt AND m = 5 AND q < x)", "1 of 13"),
        ("SELECT d, sum(n) FROM dim LEFT JOIN fact ON d = dt WHERE q = 3 GROUP BY d", "2 of 13"),
        ("SELECT d, sum(n) FROM fact RIGHT JOIN dim ON d = dt WHERE q = 3 GROUP BY d", "2 of 13"),
        ("SELECT d FROM dim WHERE q = 3 AND NOT EXISTS (SELECT 1 FROM fact WHERE dt = d)", "2 of 13"),
        // Through what does not change the key, and what is computed of it alone.
        ("SELECT * FROM (SELECT dt, sum(n) FROM fact GROUP BY dt) JOIN dim ON dt = d WHERE q = 3", "2 of 13"),
        ("SELECT * FROM (SELECT dt FROM fact UNION ALL SELECT dt FROM fact WHERE x = 1) JOIN dim ON dt = d WHERE q = 3", "2 of 13"),
        ("SELECT sum(n) FROM fact JOIN dim ON CAST(dt AS STRING) = s WHERE q = 3", "2 of 13"),
        ("SELECT sum(n) FROM fact JOIN dim ON day(dt) = m WHERE q = 3", "2 of 13"),
        // The fact is known to be equal to another column that the dimension is joined on.
        ("SELECT sum(a.n) FROM fact a JOIN fact b ON a.dt = b.dt AND a.n = b.n JOIN dim ON b.dt = d WHERE q = 3", "2 of 13"),
        // What is left by a limit has the values of what it is taken from.
        ("SELECT sum(n) FROM fact JOIN (SELECT d FROM dim WHERE q = 3 LIMIT 2) ON dt = d", "2 of 13"),
        ("SELECT sum(n) FROM fact JOIN (VALUES (DATE '2024-01-05'), (NULL)) v(d) ON dt = d", "1 of 13"),
        ("SELECT sum(n) FROM fact JOIN dim ON dt = d WHERE m > 100", "0 of 13"),
    ];
    for (sql, expected) in pruned {
        let notes = notes(&bench, sql).await;
        assert!(notes.iter().any(|note| note.starts_with("dynamic pruning: default.fact") && note.contains(expected)), "{sql}: {notes:?}");
    }
    let kept = [
        "SELECT sum(n) FROM fact LEFT JOIN dim ON dt = d AND q = 3",
        "SELECT sum(n) FROM fact FULL JOIN (SELECT * FROM dim WHERE q = 3) ON dt = d",
        "SELECT sum(n) FROM fact WHERE x IN (SELECT q FROM dim)",
        "SELECT sum(n) FROM fact WHERE x NOT IN (SELECT q + random() FROM dim)",
        "SELECT sum(n) FROM fact WHERE dt NOT IN (SELECT s FROM dim)",
        "SELECT sum(n) FROM fact WHERE n NOT IN (SELECT q FROM dim WHERE d = dt)",
        "SELECT sum(n) FROM fact WHERE NOT EXISTS (SELECT 1 FROM dim WHERE d = dt AND q = 3)",
        "SELECT sum(n) FROM fact JOIN dim ON dt IS NOT DISTINCT FROM d WHERE q = 3",
        "SELECT sum(n) FROM fact JOIN dim ON dt = d + CAST(10 * random() AS INT) WHERE q = 3",
        "SELECT sum(n) FROM fact JOIN (SELECT d + CAST(10 * random() AS INT) AS e FROM dim WHERE q = 3) ON dt = e",
        "SELECT * FROM (SELECT * FROM fact LIMIT 50) JOIN dim ON dt = d WHERE q = 3",
        "SELECT sum(n) FROM fact JOIN dim ON x = q WHERE q = 3",
        "SELECT sum(n) FROM fact JOIN dim ON dt = d WHERE q = 3 AND dt < DATE '2024-01-04'",
        "SELECT sum(a.n) FROM fact a JOIN fact b ON a.dt = b.dt WHERE b.x = 3",
        "SELECT sum(n) FROM fact JOIN (SELECT d, row_number() OVER () AS r FROM dim) ON CAST(dt AS STRING) = CAST(r AS STRING)",
        "/* windlass.dynamic_partition_pruning = false */ SELECT sum(n) FROM fact JOIN dim ON dt = d WHERE q = 3",
        "/* windlass.prelude_scan_bytes_max = 10 */ SELECT sum(n) FROM fact JOIN dim ON dt = d WHERE q = 3",
        "/* windlass.local_scan_bytes_max = 1000000 */ SELECT sum(n) FROM fact JOIN dim ON dt = d WHERE q = 3",
    ];
    for sql in kept {
        assert_eq!(notes(&bench, sql).await, Vec::<String>::new(), "{sql}");
    }
}

#[tokio::test]
async fn values_that_do_not_depend_on_the_query_are_constants() {
    let bench = star().await;
    for (sql, expected) in [
        ("SELECT count(*) FROM fact WHERE dt = (SELECT max(dt) FROM fact)", "subquery first: max(fact.dt) is 2024-01-12"),
        (
            "SELECT count(*) FROM fact WHERE dt >= (SELECT min(d) FROM dim WHERE q > (SELECT min(q) + 1 FROM dim))",
            "min(dim.d) is 2024-01-03",
        ),
        ("SELECT n, (SELECT max(m) FROM dim WHERE m > 99) AS v FROM fact LIMIT 3", "max(dim.m) is NULL"),
        ("SELECT sum(n) FROM fact WHERE dt NOT IN (SELECT d FROM dim WHERE q = 3)", "subquery first: d has 2 values"),
        ("SELECT sum(n) FROM fact WHERE dt NOT IN (SELECT d FROM dim WHERE m > 99)", "d has 0 values"),
    ] {
        let notes = notes(&bench, sql).await;
        assert!(notes.iter().any(|note| note.ends_with(expected)), "{sql}: {notes:?}");
    }
    let scan = bench.text("EXPLAIN SELECT count(*) FROM fact WHERE dt = (SELECT max(dt) FROM fact)").await;
    assert!(scan.contains("default.fact: 1 of 13 partitions"), "{scan}");
    // An error is the query's, and only where it needs the value.
    for sql in [
        "SELECT count(*) FROM fact WHERE x = (SELECT m FROM dim)",
        "SELECT count(*) FROM fact WHERE x = (SELECT 1 / (q - q) FROM dim WHERE m = 1)",
    ] {
        assert_eq!(notes(&bench, sql).await, Vec::<String>::new(), "{sql}");
        assert!(bench.run(sql, None).await.is_err(), "{sql}");
    }
    for sql in
        ["SELECT (SELECT max(m) FROM dim WHERE d = dt) FROM fact", "SELECT n FROM fact WHERE x < (SELECT count(*) * random() FROM dim)"]
    {
        assert_eq!(notes(&bench, sql).await, Vec::<String>::new(), "{sql}");
    }
}

#[tokio::test]
async fn each_row_of_parameters_is_pruned_by_its_own_values() {
    let bench = star().await;
    let sql = "SELECT count(*), min(dt) FROM fact JOIN dim ON dt = d WHERE m = $1";
    let batch = RecordBatch::try_from_iter([("m", Arc::new(Int64Array::from_iter_values(0..30)) as ArrayRef)]).unwrap();
    let rows = text_rows(&bench.run(sql, Some(&batch)).await.unwrap());
    let plain = bench.run(&format!("/* windlass.prelude_scan_bytes_max = 0 */ {sql}"), Some(&batch)).await.unwrap();
    assert_eq!(rows, text_rows(&plain));
    assert_eq!(rows.iter().filter(|row| row.starts_with("40 ")).count(), 13);
}

/// Rows as text, in order.
fn text_rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("-");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| format!("{} ", column.value(row))).collect::<String>()));
    }
    rows.sort_unstable();
    rows
}

/// Queries whose joins are on the partition key, or nearly.
fn queries() -> impl Strategy<Value = String> {
    let facts = prop::sample::select(vec![
        "fact",
        "(SELECT dt, x, n FROM fact WHERE x > 1 OR n % 3 = 0)",
        "(SELECT dt, max(x) AS x, sum(n) AS n FROM fact GROUP BY dt)",
        "(SELECT dt, x, n FROM fact WHERE n < 100 UNION ALL SELECT dt, n, x FROM fact WHERE dt > DATE '2024-01-03')",
        "(SELECT DISTINCT dt, x, 1 AS n FROM fact)",
        "(SELECT dt, x, n FROM fact ORDER BY n LIMIT 300)",
        "(SELECT a.dt, b.x, a.n FROM fact a LEFT JOIN fact b ON a.dt = b.dt AND a.n = b.n AND b.x = 2)",
        "(SELECT dt, x, sum(n) OVER (PARTITION BY dt) AS n FROM fact)",
    ]);
    let dims = prop::sample::select(vec![
        "dim",
        "(SELECT d, q, s, m FROM dim WHERE q = 3)",
        "(SELECT d, q, s, m FROM dim WHERE q = 3 OR d IS NULL)",
        "(SELECT d, q, s, m FROM dim WHERE m > 50)",
        "(SELECT d, max(q) AS q, max(s) AS s, count(*) AS m FROM dim WHERE m % 3 = 1 GROUP BY d)",
        "(SELECT d, q, s, m FROM dim WHERE m < 3 UNION ALL SELECT d, q, s, m FROM dim WHERE m > 15)",
        "(SELECT a.d, b.q, b.s, a.m FROM dim a LEFT JOIN dim b ON a.d = b.d AND b.q = 1 WHERE a.m < 6)",
        "(SELECT a.d, b.q, b.s, a.m FROM dim b RIGHT JOIN dim a ON a.m = b.m + 2 WHERE a.q = 2)",
        "(SELECT DISTINCT d, q, s, m FROM dim WHERE d IN (SELECT dt FROM fact WHERE n BETWEEN 70 AND 90))",
        "(SELECT d, q, s, m FROM dim ORDER BY m LIMIT 4)",
    ]);
    let conditions = prop::sample::select(vec![
        "f.dt = g.d",
        "f.dt = g.d AND f.x = g.q",
        "f.dt = g.d AND f.n > 10 * g.m",
        "f.dt = g.d + INTERVAL '1' DAY",
        "CAST(f.dt AS STRING) = g.s",
        "day(f.dt) = g.m",
        "f.dt = coalesce(g.d, DATE '2024-01-02')",
        "f.dt IS NOT DISTINCT FROM g.d",
        "f.dt = g.d AND g.q = 2",
        "f.dt = g.d AND f.dt < DATE '2024-01-09'",
    ]);
    let filters = prop::sample::select(vec![
        "",
        " WHERE f.x < 3",
        " WHERE f.dt >= (SELECT max(d) FROM dim WHERE m < 9)",
        " WHERE f.n > (SELECT avg(m) FROM dim WHERE q = 1) AND f.x IS NOT NULL",
        " WHERE f.dt <> (SELECT min(d) FROM dim WHERE m > 99)",
        " WHERE f.dt IN (SELECT d FROM dim WHERE q = 1)",
        " WHERE f.dt NOT IN (SELECT d FROM dim WHERE q = 1)",
        " WHERE f.dt NOT IN (SELECT d FROM dim WHERE q = 1 AND d IS NOT NULL) OR f.x = 2",
        " WHERE f.x NOT IN (SELECT q FROM dim WHERE m < 3)",
        " WHERE f.x NOT IN (SELECT m FROM dim WHERE m > 99)",
        " WHERE f.dt = (SELECT d FROM dim WHERE q = 3 AND m < 4)",
        " WHERE CASE WHEN f.x > 2 THEN f.x > (SELECT m FROM dim WHERE m < 1) ELSE f.n > (SELECT count(*) FROM fact) END",
    ]);
    (0..9, facts, dims, conditions, filters).prop_map(|(kind, f, g, on, filter)| {
        let both = "f.dt, f.x, f.n, g.d, g.q, g.m";
        match kind {
            0 | 1 => format!("SELECT {both} FROM {f} f JOIN {g} g ON {on}{filter}"),
            2 => format!("SELECT {both} FROM {g} g JOIN {f} f ON {on}{filter}"),
            3 => format!("SELECT {both} FROM {f} f LEFT JOIN {g} g ON {on}{filter}"),
            4 => format!("SELECT {both} FROM {f} f RIGHT JOIN {g} g ON {on}{filter}"),
            5 => format!("SELECT {both} FROM {f} f FULL JOIN {g} g ON {on}{filter}"),
            6 => format!("SELECT f.* FROM {f} f{} EXISTS (SELECT 1 FROM {g} g WHERE {on})", also(filter)),
            7 => format!("SELECT f.* FROM {f} f{} NOT EXISTS (SELECT 1 FROM {g} g WHERE {on})", also(filter)),
            _ => format!("SELECT g.* FROM {g} g WHERE NOT EXISTS (SELECT 1 FROM {f} f WHERE {on})"),
        }
    })
}

fn also(filter: &str) -> String {
    if filter.is_empty() { " WHERE".to_owned() } else { format!("{filter} AND") }
}

#[test]
fn what_runs_first_changes_no_row() {
    // DataFusion recurses over plans; a test's own thread has a small stack.
    let threads = Builder::new_multi_thread().worker_threads(2).thread_stack_size(32 << 20).enable_all().build().unwrap();
    let bench = threads.block_on(star());
    let mut runner = TestRunner::new(Config::with_cases(200));
    let tested = runner.run(&queries(), |sql| {
        let rows = |prefix: &str| threads.block_on(bench.run(&format!("{prefix} {sql}"), None)).map(|batches| text_rows(&batches));
        let (with, without) = (rows(""), rows("/* windlass.prelude_scan_bytes_max = 0 */"));
        match (with, without) {
            (Ok(with), Ok(without)) => prop_assert_eq!(with, without, "{}", sql),
            (Err(with), Err(without)) => prop_assert_eq!(with.kind(), without.kind(), "{}", sql),
            (with, without) => return Err(TestCaseError::fail(format!("{sql}: {with:?} and {without:?}"))),
        }
        Ok(())
    });
    tested.unwrap();
}
