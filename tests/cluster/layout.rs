//! Tables whose rows lie in buckets, in order, or along a curve: files are what Hive expects, and scans make use of them.

use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{PageIndexPolicy, SortingColumn};
use windlass_client::Connection;
use windlass_engine::layout::{bucket_numbers, bucket_of_file};
use windlass_tests::fixtures::files_below;
use windlass_tests::sql::cells;
use windlass_tests::{Cluster, rows};

const ENGINES: [&str; 3] = ["local", "staged", "pipelined"];

/// A session on an engine, in which no side of a join is so small that all tasks get it, and no scan so small that one partition does.
async fn session(cluster: &Cluster, engine: &str) -> Connection {
    let connection = cluster.session(engine).await;
    for setting in ["datafusion.optimizer.hash_join_single_partition_threshold = 0", "datafusion.execution.batch_size = 256"] {
        connection.collect(&format!("SET {setting}")).await.unwrap();
    }
    connection
}

async fn explain(connection: &Connection, sql: &str) -> String {
    cells(connection, &format!("EXPLAIN {sql}")).await.concat().join("\n")
}

/// The files that a table has now, and no others.
async fn files_of(connection: &Connection, root: &Path, table: &str) -> Vec<PathBuf> {
    cells(connection, &format!("CALL system.vacuum(table => '{table}', older_than => INTERVAL '0' SECOND)")).await;
    files_below(root)
}

/// Bucketed by the first column, sorted by the second, which descends; how many rows there are.
fn check_files(files: &[PathBuf], buckets: u32) -> usize {
    let mut count = 0;
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file).unwrap()).unwrap();
        let sorted = [SortingColumn { column_idx: 1, descending: true, nulls_first: false }];
        assert!(reader.metadata().row_groups().iter().all(|group| group.sorting_columns().is_some_and(|columns| *columns == sorted)));
        let bucket = bucket_of_file(file.to_str().unwrap()).unwrap_or_else(|| panic!("{file:?} is of no bucket"));
        let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
        let mut before = None;
        for batch in &batches {
            let numbers = bucket_numbers(&[ArrayRef::clone(batch.column(0))], buckets).unwrap();
            assert!(numbers.values().iter().all(|number| number.unsigned_abs() == bucket), "{file:?} has rows of {numbers:?}");
            for value in batch.column(1).as_primitive::<Int32Type>() {
                assert!(before.is_none_or(|before| before >= value), "{before:?} is before {value:?}");
                before = Some(value);
            }
            count += batch.num_rows();
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_writes_buckets_in_order() {
    let cluster = Cluster::start(2).await;
    for engine in ENGINES {
        let connection = session(&cluster, engine).await;
        let table = format!("t_{engine}");
        let root = cluster.data().join("warehouse").join(&table);
        let made = format!(
            "CREATE TABLE {table} PARTITIONED BY (p) CLUSTERED BY (k) SORTED BY (v DESC) INTO 4 BUCKETS AS
             SELECT CASE WHEN value % 50 = 0 THEN NULL ELSE value END AS k, CAST(value * 7919 % 1009 AS INT) AS v, value % 3 AS p
             FROM generate_series(1, 3000)"
        );
        assert_eq!(cells(&connection, &made).await, [["3000"]]);
        let files = files_of(&connection, &root, &table).await;
        // Of each of three partitions, each bucket is one file.
        assert_eq!((files.len(), check_files(&files, 4)), (12, 3000), "{engine}");
        for sql in [
            format!("INSERT INTO {table} SELECT k, v, p FROM {table} WHERE k < 100"),
            format!("UPDATE {table} SET v = -v, k = k + 1 WHERE k % 7 = 0"),
            format!("DELETE FROM {table} WHERE v % 5 = 0 AND v > 0"),
            format!("OPTIMIZE {table}"),
            format!("MERGE INTO {table} USING (SELECT 9999 AS k) AS s ON {table}.k = s.k WHEN NOT MATCHED THEN INSERT VALUES (9999, 1, 1)"),
            format!("INSERT OVERWRITE {table} SELECT k, v, p FROM {table} WHERE p = 1"),
            format!("INSERT OVERWRITE {table} PARTITION (p = 1) SELECT k, v FROM {table} WHERE v < 500"),
        ] {
            cells(&connection, &sql).await;
            let found = cells(&connection, &format!("SELECT count(*) FROM {table}")).await[0][0].parse::<usize>().unwrap();
            assert!(found > 0 && check_files(&files_of(&connection, &root, &table).await, 4) == found, "{sql}");
        }
        // Nothing is left to merge.
        cells(&connection, &format!("OPTIMIZE {table}")).await;
        let before = files_of(&connection, &root, &table).await;
        cells(&connection, &format!("OPTIMIZE {table}")).await;
        assert_eq!(files_of(&connection, &root, &table).await, before);
    }
    let connection = cluster.connect().await;
    let created = cells(&connection, "SHOW CREATE TABLE t_local").await.concat().concat();
    assert!(created.contains("CLUSTERED BY (`k`) SORTED BY (`v` DESC) INTO 4 BUCKETS"), "{created}");
    let described = cells(&connection, "DESCRIBE EXTENDED t_local").await;
    assert!(described.iter().any(|row| row[..2] == ["sorted by", "v DESC"]), "{described:?}");
    let error = connection.collect("ALTER TABLE t_local CHANGE COLUMN v v BIGINT").await.unwrap_err();
    assert!(error.to_string().contains("laid out by it"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bucketed_tables_are_joined_and_grouped_without_exchange() {
    let cluster = Cluster::start(2).await;
    let setup = cluster.connect().await;
    let rows = |count: i64, step: i64| {
        format!(
            "SELECT CASE WHEN value % 97 = 0 THEN NULL ELSE CAST(value * {step} % 5000 - 2000 AS INT) END AS k,
                    concat('k', CAST(value % 11 AS VARCHAR)) AS s, value AS v
             FROM generate_series(1, {count})"
        )
    };
    for (name, count, step) in [("a", 4000, 7), ("b", 3000, 13), ("c", 1000, 3)] {
        cells(&setup, &format!("CREATE TABLE plain_{name} AS {}", rows(count, step))).await;
    }
    for (name, layout) in [
        ("a", "CLUSTERED BY (k) SORTED BY (v) INTO 4 BUCKETS"),
        ("b", "CLUSTERED BY (k) INTO 8 BUCKETS"),
        ("c", "CLUSTERED BY (k) INTO 4 BUCKETS"),
    ] {
        cells(&setup, &format!("CREATE TABLE {name} {layout} AS SELECT * FROM plain_{name}")).await;
    }
    // In two files per bucket.
    cells(&setup, "INSERT INTO a SELECT * FROM plain_c").await;
    cells(&setup, "INSERT INTO plain_a SELECT * FROM plain_c").await;
    cells(&setup, "CREATE TABLE two CLUSTERED BY (s, k) INTO 4 BUCKETS AS SELECT * FROM plain_a").await;
    cells(&setup, "CREATE TABLE plain_two AS SELECT * FROM plain_a").await;
    cells(&setup, "CREATE TABLE wide CLUSTERED BY (k) INTO 4 BUCKETS AS SELECT CAST(k AS BIGINT) AS k, v FROM plain_b").await;
    cells(&setup, "CREATE TABLE plain_wide AS SELECT CAST(k AS BIGINT) AS k, v FROM plain_b").await;

    // And whether they need an exchange by hash.
    let queries = [
        ("SELECT count(*), sum(x.v + y.v) FROM {a} x JOIN {c} y ON x.k = y.k", false),
        ("SELECT count(*), sum(x.v + y.v) FROM {a} x JOIN {b} y ON x.k = y.k", false),
        ("SELECT count(*), sum(x.v), sum(y.v) FROM {a} x FULL JOIN {b} y ON x.k = y.k AND x.v < y.v", false),
        ("SELECT count(*), sum(x.v) FROM {a} x LEFT JOIN {c} y ON x.k = y.k WHERE x.v % 2 = 0", false),
        ("SELECT count(*), sum(x.v) FROM {b} x WHERE NOT EXISTS (SELECT 1 FROM {c} y WHERE y.k = x.k)", false),
        ("SELECT count(*), sum(n) FROM (SELECT k, count(*) AS n FROM {a} GROUP BY k)", false),
        ("SELECT count(*), sum(n) FROM (SELECT s, k, max(v) AS n FROM {a} GROUP BY s, k)", false),
        ("SELECT count(*), sum(n) FROM (SELECT k, s, max(v) AS n FROM {two} GROUP BY k, s)", false),
        (
            "SELECT count(*), sum(z.v), sum(n) FROM {c} z
             JOIN (SELECT x.k, count(*) AS n FROM {a} x JOIN {b} y ON x.k = y.k GROUP BY x.k) g ON z.k = g.k",
            false,
        ),
        ("SELECT count(*), sum(n) FROM (SELECT k, row_number() OVER (PARTITION BY k ORDER BY v, s) AS n FROM {a})", false),
        ("SELECT x.s, count(*), sum(x.v) FROM {a} x JOIN {c} y ON x.k = y.k JOIN {b} z ON x.k = z.k GROUP BY x.s ORDER BY x.s", true),
        ("SELECT s, count(*) FROM {a} GROUP BY s ORDER BY s", true),
        ("SELECT count(*), sum(x.v + y.v) FROM {a} x JOIN {plain_b} y ON x.k = y.k", true),
        ("SELECT count(*), sum(x.v + y.v) FROM {a} x JOIN {wide} y ON x.k = y.k", true),
        ("SELECT count(*), sum(x.v) FROM {two} x JOIN {two} y ON x.k = y.k AND x.s = y.s", false),
        ("SELECT count(*), sum(x.v) FROM {a} x JOIN {c} y ON x.k = y.k AND x.s = y.s", true),
        ("SELECT count(*), sum(x.v) FROM {a} x JOIN {two} y ON x.k = y.k AND x.s = y.s", true),
        ("SELECT count(*), sum(n) FROM (SELECT s, max(v) AS n FROM {two} GROUP BY s)", true),
    ];
    let plain = |sql: &str| sql.replace("{plain_", "{").replace('{', "plain_").replace('}', "");
    let bucketed = |sql: &str| sql.replace(['{', '}'], "");
    let exchanges = |plan: &str| plan.matches("RepartitionExec: partitioning=Hash").count();
    for engine in ENGINES {
        let connection = session(&cluster, engine).await;
        for prefer_hash_join in [true, false] {
            cells(&connection, &format!("SET datafusion.optimizer.prefer_hash_join = {prefer_hash_join}")).await;
            for (sql, needs_exchange) in queries {
                let what = format!("{engine}, hash joins {prefer_hash_join}: {sql}");
                rows::assert_same(&what, &cells(&connection, &bucketed(sql)).await, &cells(&connection, &plain(sql)).await);
                // Of queries as small as these it does not show its one stage; the next test has a larger one.
                if engine == "pipelined" {
                    continue;
                }
                let (without, with) = (explain(&connection, &bucketed(sql)).await, explain(&connection, &plain(sql)).await);
                assert!(exchanges(&with) > 0, "{what}\n{with}");
                assert_eq!(exchanges(&without) > 0, needs_exchange, "{what}\n{without}");
            }
        }
    }
}

/// Tasks of a pipelined stage share the buckets: those of equal keys meet in one.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_share_buckets() {
    let cluster = Cluster::start(2).await;
    let connection = session(&cluster, "pipelined").await;
    connection.collect("RESET datafusion.execution.batch_size").await.unwrap();
    cells(
        &connection,
        "CREATE TABLE big CLUSTERED BY (k) INTO 4 BUCKETS TBLPROPERTIES ('parquet.compression' = 'uncompressed') AS
         SELECT CAST(value % 50000 AS INT) AS k, md5(CAST(value AS VARCHAR)) AS m FROM generate_series(1, 700000)",
    )
    .await;
    cells(
        &connection,
        "CREATE TABLE small CLUSTERED BY (k) INTO 8 BUCKETS AS SELECT k, count(*) AS n FROM big WHERE k % 10 = 0 GROUP BY k",
    )
    .await;
    for (sql, wanted) in [
        ("SELECT count(*), sum(n), min(n) FROM (SELECT k, count(m) AS n FROM big GROUP BY k)", ["50000", "700000", "14"]),
        ("SELECT count(*), sum(n), max(n) FROM big JOIN small ON big.k = small.k", ["70000", "980000", "14"]),
        ("SELECT count(*), count(n), sum(n) FROM big LEFT JOIN small ON big.k = small.k", ["700000", "70000", "980000"]),
    ] {
        assert_eq!(cells(&connection, sql).await, [wanted], "{sql}");
        let plan = explain(&connection, sql).await;
        assert!(plan.contains("t1: DataSourceExec") && !plan.contains("RepartitionExec: partitioning=Hash"), "{plan}");
    }
}

/// Tables sorted by a whole number with NULLs, a time that descends, a text and a number that may be none; the last is large enough for
/// several partitions.
const SORTED: [(&str, &str); 5] = [
    ("numbers", "SORTED BY (k, v)"),
    ("times", "PARTITIONED BY (p) SORTED BY (t DESC)"),
    ("texts", "SORTED BY (s)"),
    ("reals", "SORTED BY (r DESC, v)"),
    ("large", "SORTED BY (v) TBLPROPERTIES ('parquet.compression' = 'uncompressed')"),
];

#[tokio::test(flavor = "multi_thread")]
async fn files_in_order_are_merged_and_give_the_order_of_a_sort() {
    let cluster = Cluster::start(2).await;
    let setup = session(&cluster, "staged").await;
    for (name, layout) in SORTED {
        let part = |first: i64, last: i64| {
            format!(
                "SELECT CASE WHEN value % 97 = 0 THEN NULL ELSE CAST(value * 7919 % 503 AS INT) END AS k,
                        to_timestamp(1700000000 + value) AS t,
                        CASE WHEN value % 50 = 7 THEN NULL ELSE concat(chr(CAST(64 + value * 31 % 900 AS INT)), md5(CAST(value % 600 AS VARCHAR))) END AS s,
                        CASE WHEN value % 41 = 0 THEN CAST('NaN' AS DOUBLE) WHEN value % 43 = 0 THEN NULL ELSE (value * 17 % 1000 - 500) / 7.0 END AS r,
                        value AS v, value % 2 AS p
                 FROM generate_series({first}, {last})"
            )
        };
        let rows = if name == "large" { 100_000 } else { 1000 };
        cells(&setup, &format!("CREATE TABLE {name} {layout} AS {}", part(2 * rows + 1, 3 * rows))).await;
        // Behind and before those, and among them.
        for (first, last) in [(4 * rows, 5 * rows), (1, 2 * rows), (5 * rows / 2, 4 * rows - 1)] {
            cells(&setup, &format!("INSERT INTO {name} {}", part(first, last))).await;
        }
    }
    // Whether that takes a sort.
    let queries = [
        ("SELECT k, v FROM numbers ORDER BY k NULLS FIRST, v", false),
        ("SELECT k FROM numbers ORDER BY k NULLS FIRST", false),
        ("SELECT v * 2 AS w, k FROM numbers WHERE v % 3 = 0 ORDER BY k NULLS FIRST, v LIMIT 25 OFFSET 10", false),
        ("SELECT k, v FROM numbers WHERE k = 7 ORDER BY v", false),
        ("SELECT k, v FROM numbers ORDER BY k, v", true),
        ("SELECT k, v FROM numbers ORDER BY k NULLS FIRST, v DESC", true),
        ("SELECT k, v FROM numbers ORDER BY v", true),
        ("SELECT k, v, s FROM numbers ORDER BY k NULLS FIRST, v, s", true),
        ("SELECT t FROM times ORDER BY t DESC", false),
        ("SELECT t, p FROM times WHERE p = 1 ORDER BY t DESC NULLS LAST LIMIT 9", false),
        ("SELECT t FROM times ORDER BY t", true),
        ("SELECT s FROM texts ORDER BY s NULLS FIRST", false),
        ("SELECT s FROM texts WHERE s > 'b' ORDER BY s NULLS FIRST LIMIT 40", false),
        ("SELECT upper(s) AS u FROM texts ORDER BY u", true),
        ("SELECT r, v FROM reals ORDER BY r DESC NULLS LAST, v", false),
        ("SELECT r FROM reals ORDER BY r DESC", true),
        ("SELECT v, s FROM large ORDER BY v LIMIT 20 OFFSET 99990", false),
        ("SELECT count(*), sum(n * (v % 10)) FROM (SELECT v, row_number() OVER (ORDER BY v) AS n FROM large)", false),
        ("SELECT v FROM large WHERE v % 4999 = 0 ORDER BY v", false),
        ("SELECT a.v, b.k FROM (SELECT v FROM large ORDER BY v LIMIT 5) a JOIN numbers b ON a.v = b.v ORDER BY a.v, b.k", true),
    ];
    for engine in ENGINES {
        let (connection, sorting) = (session(&cluster, engine).await, session(&cluster, engine).await);
        cells(&sorting, "SET datafusion.optimizer.enable_sort_pushdown = false").await;
        for (sql, needs_sort) in queries {
            assert_eq!(cells(&connection, sql).await, cells(&sorting, sql).await, "{engine}: {sql}");
            // The pipelined engine sorts.
            if engine != "pipelined" {
                let plan = explain(&connection, sql).await;
                assert_eq!(plan.contains("SortExec"), needs_sort, "{engine}: {sql}\n{plan}");
                assert!(explain(&sorting, sql).await.contains("SortExec"), "{engine}: {sql}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_without_wanted_rows_are_not_read() {
    let cluster = Cluster::start(1).await;
    let connection = session(&cluster, "local").await;
    cells(
        &connection,
        "CREATE TABLE t CLUSTERED BY (k, s) INTO 16 BUCKETS AS
         SELECT value % 100 AS k, CASE WHEN value % 10 = 0 THEN NULL ELSE concat('s', CAST(value % 7 AS VARCHAR)) END AS s, value AS v
         FROM generate_series(1, 5000)",
    )
    .await;
    cells(&connection, "CREATE TABLE plain AS SELECT * FROM t").await;
    // At most so many files.
    for (condition, most) in [
        ("k = 5 AND s = 's3'", 1),
        ("s IN ('s3', 's4') AND k = 5", 2),
        ("(k = 1 OR k = 2) AND s IN ('s1', 's2', 's3', 's5')", 8),
        ("k = 5 AND s = 's3' AND v > 100", 1),
        ("k = 5", 16),
        ("k = 5 AND s IS NULL", 16),
        ("k = 5 AND s > 's3'", 16),
        ("k = 5 OR s = 's3'", 16),
    ] {
        let select = |table: &str| format!("SELECT count(*), sum(v) FROM {table} WHERE {condition}");
        assert_eq!(cells(&connection, &select("t")).await, cells(&connection, &select("plain")).await, "{condition}");
        let plan = explain(&connection, &select("t")).await;
        let report = plan.split("default.t: ").nth(1).unwrap_or_else(|| panic!("{plan}"));
        let files: usize = report.split(" partitions, ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(files <= most, "{condition}: {report}");
    }
}

/// Others write the files of an external table as they like: what it says of its buckets is believed for writing only.
#[tokio::test(flavor = "multi_thread")]
async fn buckets_of_external_tables_are_written_and_not_believed() {
    let cluster = Cluster::start(1).await;
    let connection = session(&cluster, "local").await;
    let directory = cluster.data().join("outside");
    fs::create_dir_all(&directory).unwrap();
    cells(
        &connection,
        &format!("CREATE EXTERNAL TABLE t (k INT, v INT) CLUSTERED BY (k) INTO 4 BUCKETS LOCATION '{}'", directory.display()),
    )
    .await;
    cells(&connection, "INSERT INTO t SELECT value, value FROM generate_series(1, 100)").await;
    let mut files = files_below(&directory);
    files.sort();
    assert_eq!(files.len(), 4);
    assert!(files.iter().zip(0..).all(|(file, bucket)| bucket_of_file(file.to_str().unwrap()) == Some(bucket)), "{files:?}");
    // A file with another one's name.
    fs::copy(&files[0], directory.join("000001_0_x_00001.parquet")).unwrap();
    cells(&connection, "MSCK REPAIR TABLE t").await;
    let twice = cells(&connection, "SELECT k FROM t GROUP BY k HAVING count(*) = 2").await;
    assert!(twice.len() > 10, "{twice:?}");
    for row in twice {
        assert_eq!(cells(&connection, &format!("SELECT count(*) FROM t WHERE k = {}", row[0])).await, [["2"]]);
    }
}

/// Pages of a file's column in which a value may be, of how many.
fn pages_with(file: &Path, column: usize, value: i64) -> (usize, usize) {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(fs::File::open(file).unwrap(), options).unwrap();
    let (mut found, mut all) = (0, 0);
    for group in reader.metadata().column_index().unwrap() {
        let parquet::file::page_index::column_index::ColumnIndexMetaData::INT64(pages) = &group[column] else { panic!("BIGINT") };
        for (least, greatest) in pages.min_values_iter().zip(pages.max_values_iter()) {
            all += 1;
            found += usize::from(least.is_some_and(|least| *least <= value) && greatest.is_some_and(|greatest| *greatest >= value));
        }
    }
    (found, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_curve_serves_conditions_on_each_of_its_columns() {
    let cluster = Cluster::start(2).await;
    for engine in ENGINES {
        let connection = session(&cluster, engine).await;
        let table = format!("z_{engine}");
        let root = cluster.data().join("warehouse").join(&table);
        cells(
            &connection,
            &format!(
                "CREATE TABLE {table} AS SELECT value % 1000 AS a, value * 7919 % 999983 AS b, value AS v FROM generate_series(1, 400000)"
            ),
        )
        .await;
        let digest = format!("SELECT count(*), sum(a * b), sum(v) FROM {table}");
        let before = cells(&connection, &digest).await;
        assert_eq!(cells(&connection, &format!("OPTIMIZE {table} ZORDER BY (a, b)")).await, [["400000"]]);
        assert_eq!(cells(&connection, &digest).await, before, "{engine}");
        let files = files_of(&connection, &root, &table).await;
        let [file] = files.as_slice() else { panic!("{files:?}") };
        for (column, value) in [(0, 500), (0, 3), (1, 500_000), (1, 77)] {
            let (found, all) = pages_with(file, column, value);
            assert!(all >= 16 && found * 2 <= all, "{engine}: {found} of {all} pages may have {value} in column {column}");
        }
        let error = connection.collect(&format!("OPTIMIZE {table} ZORDER BY (a, missing)")).await.unwrap_err();
        assert!(error.to_string().contains("column 'missing' does not exist"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_how_rows_would_be_written() {
    let cluster = Cluster::start(1).await;
    let connection = session(&cluster, "staged").await;
    let sql = "CREATE TABLE t PARTITIONED BY (p) CLUSTERED BY (k) SORTED BY (v DESC, k) INTO 4 BUCKETS AS
               SELECT value AS k, value AS v, value % 2 AS p FROM generate_series(1, 10)";
    let plan = explain(&connection, sql).await;
    let write = "format=parquet, keys=1, buckets=4 by [k], sorted_by=[v DESC, k]";
    for part in ["Write: location=", write, "WriteExec: location=", "hive_bucket("] {
        assert!(plan.contains(part), "no '{part}' in {plan}");
    }
    assert!(connection.collect("SELECT * FROM t").await.is_err(), "it was not made");
    assert_eq!(cells(&connection, sql).await, [["10"]]);
    let plan = explain(&connection, "INSERT INTO t PARTITION (p = 0) SELECT v, k FROM t").await;
    assert!(plan.contains(write) && plan.contains("SortExec"), "{plan}");
    let analyzed = cells(&connection, "EXPLAIN ANALYZE CREATE TABLE u AS SELECT * FROM t").await.concat().join("\n");
    assert!(analyzed.contains("WriteExec"), "{analyzed}");
    assert_eq!(cells(&connection, "SELECT count(*) FROM u").await, [["10"]]);
}
