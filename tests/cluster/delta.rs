//! Delta tables: what others commit to a log is there for the next statement, and is read only.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use windlass_tests::cluster::Options;
use windlass_tests::sql::{cells, error};
use windlass_tests::{Cluster, fixtures};

fn commit(table: &Path, version: u64, actions: &[Value]) {
    let log = table.join("_delta_log");
    fs::create_dir_all(&log).unwrap();
    let lines = actions.iter().map(|action| format!("{action}\n")).collect::<String>();
    fs::write(log.join(format!("{version:020}.json")), lines).unwrap();
}

fn begin(features: &[&str]) -> [Value; 2] {
    let column = |name: &str, data_type: &str| json!({"name": name, "type": data_type, "nullable": true, "metadata": {}});
    let schema = json!({"type": "struct", "fields": [column("day", "date"), column("n", "long")]}).to_string();
    let protocol = json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features});
    let format = json!({"provider": "parquet", "options": {}});
    let metadata =
        json!({"id": "t", "format": format, "schemaString": schema, "partitionColumns": ["day"], "configuration": {}, "createdTime": 1});
    [json!({"protocol": protocol}), json!({"metaData": metadata})]
}

/// Writes ten rows of a day, with the numbers from 0 on; returns how a log adds them.
fn day(table: &Path, day: &str) -> Value {
    let directory = table.join(format!("day={day}"));
    fixtures::numbers(&directory, 1, 10);
    let file = fs::read_dir(&directory).unwrap().next().unwrap().unwrap();
    let path = format!("day={day}/{}", file.file_name().into_string().unwrap());
    let stats = json!({"numRecords": 10, "minValues": {"n": 0}, "maxValues": {"n": 9}, "nullCount": {"n": 0}}).to_string();
    json!({"add": {
        "path": path, "partitionValues": {"day": day}, "size": file.metadata().unwrap().len(), "modificationTime": 1, "dataChange": true,
        "stats": stats,
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_others_are_read_and_nothing_is_written() {
    let cluster = Cluster::start(2).await;
    let connection = cluster.connect().await;
    let run = async |sql: &str| drop(cells(&connection, sql).await);
    let table = cluster.data().join("lake/sales");
    let begin_at = |features: &[&str]| [&begin(features)[..], &[day(&table, "2024-01-01")]].concat();
    commit(&table, 0, &begin_at(&["deletionVectors"]));
    fixtures::numbers(&table.join("stray"), 1, 1000);

    let lines = cells(&connection, &format!("CALL system.crawl('{}')", cluster.data().join("lake").display())).await;
    assert_eq!([&lines[0][0], &lines[0][2], &lines[0][3]], ["default.sales", "DELTA", "created"], "{lines:?}");
    let statement = cells(&connection, "SHOW CREATE TABLE sales").await.remove(0).remove(0);
    run("DROP TABLE sales").await;
    run(&statement).await;
    let described = cells(&connection, "DESCRIBE sales").await;
    assert_eq!(described.iter().map(|line| line[..3].join(" ")).collect::<Vec<_>>(), ["n bigint NULL", "day date partition key"]);
    let columns = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'sales' ORDER BY ordinal_position";
    assert_eq!(cells(&connection, columns).await, [["n", "Int64"], ["day", "Date32"]]);

    run("CREATE MATERIALIZED VIEW totals AS SELECT day, sum(n) AS total FROM sales GROUP BY day").await;
    commit(&table, 1, &[day(&table, "2024-01-02")]);
    for engine in ["local", "pipelined", "staged"] {
        run(&format!("SET windlass.engine = '{engine}'")).await;
        let sums = cells(&connection, "SELECT day, sum(n) FROM sales GROUP BY day ORDER BY day").await;
        assert_eq!(sums, [["2024-01-01", "45"], ["2024-01-02", "45"]], "{engine}");
        assert_eq!(cells(&connection, "SELECT count(*), max(day) FROM sales FOR VERSION AS OF 0").await, [["10", "2024-01-01"]]);
        assert_eq!(cells(&connection, "SELECT count(*) FROM sales VERSION AS OF 1 WHERE n > 7").await, [["4"]]);
    }
    assert_eq!(cells(&connection, "SHOW PARTITIONS sales").await.len(), 2);
    let plan = cells(&connection, "EXPLAIN SELECT n FROM sales WHERE day = DATE '2024-01-02'").await.concat().concat();
    assert!(plan.contains("1 of 2 partitions, 1 of 2 files"), "{plan}");
    // Rows 0, 1, 7 and 9 of ten, as a portable Roaring bitmap in Z85; then some that the file has not.
    let deleting = |vector: &str, size: u64, rows: u64| {
        let mut add = day(&table, "2024-01-01");
        add["add"]["deletionVector"] = json!({"storageType": "i", "pathOrInlineDv": vector, "sizeInBytes": size, "cardinality": rows});
        add
    };
    let removed = json!({"remove": {"path": "day=2024-01-01/part-000.parquet", "deletionTimestamp": 2, "dataChange": true}});
    commit(&table, 2, &[removed, deleting("^Bg9^0rr910000000000iXQKl0rr91000935c8Xg000312lk5g", 40, 4)]);
    for engine in ["local", "pipelined", "staged"] {
        run(&format!("SET windlass.engine = '{engine}'")).await;
        let sums = cells(&connection, "SELECT day, count(*), sum(n) FROM sales WHERE n > 0 GROUP BY day ORDER BY day").await;
        assert_eq!(sums, [["2024-01-01", "6", "28"], ["2024-01-02", "9", "45"]], "{engine}");
        assert_eq!(cells(&connection, "SELECT count(*) FROM sales").await, [["16"]]);
        assert_eq!(cells(&connection, "SELECT count(*) FROM sales VERSION AS OF 1").await, [["20"]]);
    }
    commit(&table, 2, &[deleting("^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L", 44, 6)]);
    assert!(error(&connection, "SELECT count(*) FROM sales").await.contains("deletion vector"));
    fs::remove_file(table.join("_delta_log/00000000000000000002.json")).unwrap();
    assert_eq!(cells(&connection, "SELECT count(*) FROM sales").await, [["20"]]);

    for sql in [
        "INSERT INTO sales VALUES (1, DATE '2024-01-01')",
        "INSERT OVERWRITE sales SELECT * FROM sales",
        "DELETE FROM sales WHERE n = 1",
        "DELETE FROM sales WHERE day = DATE '2024-01-01'",
        "UPDATE sales SET n = 1",
        "MERGE INTO sales s USING (SELECT 1 AS n) x ON s.n = x.n WHEN MATCHED THEN DELETE",
        "TRUNCATE TABLE sales",
        "OPTIMIZE sales",
        "MSCK REPAIR TABLE sales",
        "ANALYZE TABLE sales COMPUTE STATISTICS FOR COLUMNS n",
        "ALTER TABLE sales ADD COLUMNS (z INT)",
        "ALTER TABLE sales DROP PARTITION (day = '2024-01-01')",
        "SELECT * FROM sales FOR CHANGES SINCE JOB 'j'",
    ] {
        let message = error(&connection, sql).await;
        assert!(message.contains("'default.sales' is a Delta table"), "{sql}: {message}");
    }
    for (sql, word) in [
        ("SELECT * FROM sales FOR VERSION AS OF 7", "no version 7"),
        ("SELECT * FROM sales FOR TIMESTAMP AS OF '1999-01-01'", "'default.sales'"),
        ("CREATE TABLE x (n INT) USING delta LOCATION '{}'", "'n'"),
        ("CREATE TABLE x (n BIGINT) USING delta", "can only be read"),
        ("CREATE TABLE x USING delta AS SELECT 1 AS n", "can only be read"),
    ] {
        let message = error(&connection, &sql.replace("{}", &table.display().to_string())).await;
        assert!(message.contains(word), "{sql}: {message}");
    }
    run("ALTER TABLE sales RENAME TO sold").await;
    assert_eq!(cells(&connection, "SELECT count(*) FROM sold").await, [["20"]]);

    // Its log is no longer one that we can read.
    commit(&table, 2, &begin(&["fooBar"])[..1]);
    let message = error(&connection, "SELECT count(*) FROM sold").await;
    assert!(message.contains("'default.sold'") && message.contains("fooBar"), "{message}");
    assert_eq!(cells(&connection, "DESCRIBE sold").await.len(), 2);
    run("DROP TABLE sold").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_read_without_a_table() {
    let cluster = Cluster::start_as(Options { executors: 2, read_files: true, ..Options::default() }).await;
    let connection = cluster.connect().await;
    let table = cluster.data().join("sales");
    commit(&table, 0, &[&begin(&[])[..], &[day(&table, "2024-01-01")]].concat());
    commit(&table, 1, &[day(&table, "2024-01-02")]);
    let path = table.display();
    for engine in ["local", "pipelined", "staged"] {
        cells(&connection, &format!("SET windlass.engine = '{engine}'")).await;
        for (moment, rows) in [("", "20"), (", version => 0", "10"), (", timestamp => now() + INTERVAL '1' DAY", "20")] {
            let sql = format!("SELECT count(*), max(n) FROM read_delta('{path}'{moment}) AS s WHERE s.n >= 0");
            assert_eq!(cells(&connection, &sql).await, [[rows, "9"]], "{engine}: {sql}");
        }
    }
    let both =
        format!("SELECT count(*) FROM read_delta('{path}') a JOIN read_delta('{path}', version => 0) b ON a.n = b.n AND a.day > b.day");
    assert_eq!(cells(&connection, &both).await, [["10"]]);
    for (call, word) in [
        (format!("read_delta('{path}', version => 2)"), "no version 2"),
        (format!("read_delta('{path}', 0)"), "'version => ...'"),
        (format!("read_delta('{path}', version => 0, timestamp => now())"), "'version => ...'"),
        (format!("read_parquet('{path}', version => 0)"), "one location in quotes"),
        (format!("read_delta('{path}/day=2024-01-01')"), "no Delta log"),
        ("read_delta('/etc')".to_owned(), "allowed_locations"),
    ] {
        let message = error(&connection, &format!("SELECT * FROM {call}")).await;
        assert!(message.contains(word), "{call}: {message}");
    }
}
