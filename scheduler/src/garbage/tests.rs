use std::path::PathBuf;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::parquet::arrow::ArrowWriter;
use tokio::sync::oneshot;
use windlass_catalog::catalog::{DEFAULT_DATABASE, NewFile};
use windlass_catalog::{Replaces, Write, WrittenFile};
use windlass_proto::Kind;

use super::*;
use crate::coordinator::tests::{Bench, bench};
use crate::query::{Outcome, QueryHead, Work, new_query_id};

/// A managed table `t` of one column.
async fn lake() -> Bench {
    let bench = bench().await;
    bench.text("CREATE TABLE t (n BIGINT)").await;
    bench
}

impl Bench {
    fn collector(&self) -> &Collector {
        self.coordinator.collector()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("warehouse").join(name)
    }

    /// Leaves a file of some rows in the directory of `t`, as a query would; returns what there is to commit.
    async fn leave(&self, query_id: &str, rows: i64) -> Write {
        let path = self.path(&format!("t/part-{query_id}.parquet"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let numbers = Arc::new(Int64Array::from_iter_values(0..rows)) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let location = Url::from_directory_path(path.parent().unwrap()).unwrap().to_string();
        let intent = WriteIntent { query_id: query_id.to_owned(), location: location.clone(), table_id: None };
        self.collector().catalog.begin_write(intent).await.unwrap();
        let url = Url::from_file_path(&path).unwrap().to_string();
        let size = path.metadata().unwrap().len();
        let file = NewFile { url, size, modified_ms: 0, etag: None, rows: Some(rows.unsigned_abs()), statistics: None, kept_rows: None };
        Write {
            query_id: query_id.to_owned(),
            operation: "INSERT OVERWRITE".to_owned(),
            user: "ada".to_owned(),
            replaces: Replaces::Table,
            files: vec![WrittenFile { values: vec![], partition_location: location, file }],
            refresh: None,
            advances: Vec::new(),
            beside: Vec::new(),
        }
    }

    async fn overwrite(&self, query_id: &str, rows: i64) {
        let write = self.leave(query_id, rows).await;
        let catalog = &self.collector().catalog;
        let table = catalog.table(DEFAULT_DATABASE, "t").await.unwrap().unwrap();
        catalog.commit_write(&table, write).await.unwrap();
    }

    fn has(&self, query_id: &str) -> bool {
        self.path(&format!("t/part-{query_id}.parquet")).exists()
    }

    /// The row of whole numbers that a statement returns.
    async fn row(&self, sql: &str) -> Vec<i64> {
        let batches = self.run(sql, None).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        batches[0].columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)).collect()
    }

    async fn error(&self, sql: &str) -> Error {
        self.run(sql, None).await.expect_err(sql)
    }
}

const NOW: &str = "older_than => INTERVAL '0' SECONDS";

#[tokio::test]
async fn old_versions_are_read_until_their_files_go() {
    let bench = lake().await;
    bench.overwrite("q1", 3).await;
    bench.overwrite("q2", 5).await;
    for (from, rows) in [
        ("t", 5),
        ("t FOR VERSION AS OF 2", 3),
        ("t VERSION AS OF 2 AS old WHERE old.n >= 0", 3),
        ("default.t FOR SYSTEM_VERSION AS OF 1 + 0", 0),
        ("t FOR SYSTEM_TIME AS OF now()", 5),
        ("t TIMESTAMP AS OF TIMESTAMP '2200-01-01 00:00:00' WHERE t.n < 4", 4),
        ("t AS a CROSS JOIN hive.default.t FOR VERSION AS OF 2 AS b", 15),
        ("t FOR VERSION AS OF 2 JOIN (SELECT n AS m FROM t FOR VERSION AS OF 3) ON n = m - 1", 3),
        ("t WHERE n IN (SELECT n FROM t FOR VERSION AS OF 2)", 3),
    ] {
        assert_eq!(bench.row(&format!("SELECT count(*) FROM {from}")).await, [rows], "{from}");
    }
    bench.text("CREATE VIEW before AS SELECT n FROM t VERSION AS OF 2 -- then").await;
    assert_eq!(bench.row("SELECT count(n) FROM before").await, [3]);
    assert_eq!(bench.row("SELECT max(version) AS of FROM (SELECT 7 AS version)").await, [7]);
    for (from, text) in [
        ("t FOR VERSION AS OF 9", "has no version 9: the newest is 3"),
        ("t FOR TIMESTAMP AS OF '1999-01-01'", "as of 1999-01-01T00:00:00.000Z is not kept"),
        ("t FOR VERSION AS OF 'x'", "needs the number of a version"),
        ("t FOR TIMESTAMP AS OF 3", "needs a time"),
        ("t FOR VERSION AS OF n", "VERSION AS OF needs a constant, not n"),
        ("before FOR VERSION AS OF 1", "only tables with files of some kinds have"),
        ("system.queries FOR VERSION AS OF 1", "only tables with files of some kinds have"),
    ] {
        let error = bench.error(&format!("SELECT * FROM {from}")).await;
        assert!(error.to_string().contains(text), "{from}: {error}");
    }

    assert_eq!(bench.row("CALL system.vacuum()").await, [0, 0, 0]);
    let call = |more: &str| format!("CALL system.vacuum(table => 'default.t', {NOW}{more})");
    assert_eq!(bench.row(&call(", dry_run => TRUE")).await, [2, 1, 0]);
    assert!(bench.has("q1") && bench.has("q2"));
    assert_eq!(bench.row(&call("")).await, [2, 1, 0]);
    assert!(!bench.has("q1") && bench.has("q2"));
    assert_eq!(bench.row("SELECT count(*) FROM t").await, [5]);
    let gone = bench.error("SELECT * FROM t FOR VERSION AS OF 2").await;
    assert!(gone.kind() == Kind::Invalid && gone.to_string().contains("the oldest that is, 3,"), "{gone}");
    let newest = bench.row("SELECT rows_added, rows_removed, files_added, version FROM system.history WHERE table_name = 't'").await;
    assert_eq!(newest, [5, 3, 1, 3]);
}

#[tokio::test]
async fn a_dropped_table_makes_room_at_once_and_its_files_go_later() {
    let bench = lake().await;
    bench.overwrite("q1", 3).await;
    bench.text("TRUNCATE TABLE t").await;
    assert_eq!(bench.row("SELECT count(*) FROM t").await, [0]);
    bench.overwrite("q2", 3).await;
    bench.text("DROP TABLE t").await;
    // Its garbage is in the way of nobody, not even of a table over the directory.
    bench.text("CREATE TABLE t (n BIGINT)").await;
    bench.text("DROP TABLE t").await;
    bench.text(&format!("CREATE EXTERNAL TABLE t (n BIGINT) LOCATION '{}'", bench.path("t").display())).await;
    bench.text("MSCK REPAIR TABLE t").await;
    assert_eq!(bench.row("SELECT count(*) FROM t").await, [0]);
    assert_eq!(bench.error("TRUNCATE TABLE t").await.kind(), Kind::Unsupported);
    assert!(bench.has("q1") && bench.has("q2"));
    assert_eq!(bench.row(&format!("CALL system.vacuum({NOW})")).await[1], 2);
    assert!(!bench.has("q1") && !bench.has("q2"));
    let path = bench.path("u/foreign.parquet");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, "x").unwrap();
    assert!(bench.error("CREATE TABLE u (n BIGINT)").await.to_string().contains("not empty"));
}

#[tokio::test]
async fn a_write_of_a_query_that_ended_is_undone() {
    let bench = lake().await;
    let collector = bench.collector();
    bench.overwrite("q1", 3).await;
    bench.leave("q2", 4).await;
    let head = QueryHead {
        id: new_query_id(),
        session: Arc::clone(&bench.session),
        label: "INSERT".to_owned(),
        schema: Arc::new(Schema::empty()),
        engine: "catalog",
        updates: true,
        began_ms: Utc::now().timestamp_millis(),
    };
    let (id, (end, ended)) = (head.id.to_string(), oneshot::channel::<()>());
    let queries = Arc::clone(&collector.queries);
    let work = Work::Statement(Box::pin(async move {
        drop(ended.await);
        Ok(Outcome::default())
    }));
    let running = tokio::spawn(async move { queries.launch(head, work).await.map(drop) });
    while collector.queries.running().is_empty() {
        tokio::task::yield_now().await;
    }
    bench.leave(&id, 5).await;
    bench.overwrite("q3", 1).await;

    assert_eq!(collector.collect(None, Some(Age::Ago(0)), true).await.unwrap().writes, 1);
    assert!(bench.has("q2"));
    collector.collect(None, Some(Age::Ago(0)), false).await.unwrap();
    assert!(!bench.has("q2") && bench.has(&id) && bench.has("q3"));
    assert!(bench.has("q1"), "the query that runs may read what was there when it began");

    end.send(()).unwrap();
    running.await.unwrap().unwrap();
    // As after a restart: what was begun will not end.
    collector.give_up_writes().await.unwrap();
    assert_eq!(collector.catalog.open_writes().await.unwrap(), []);
    tokio::time::sleep(Duration::from_millis(2)).await;
    let collected = collector.collect(None, Some(Age::Ago(0)), false).await.unwrap();
    assert!(!bench.has(&id) && !bench.has("q1") && bench.has("q3"));
    // A task may still write, so that they are not forgotten yet.
    let given_up = collector.catalog.ended_writes().await.unwrap().into_iter().filter(|write| !write.committed).count();
    assert_eq!((collected.files, collected.writes, given_up), (1, 0, 2));
}

#[tokio::test]
async fn files_stay_while_a_statement_that_may_read_them_is_planned() {
    let bench = lake().await;
    let collector = bench.collector();
    bench.overwrite("q1", 3).await;
    let (reader, later) = (collector.readers.begin(), collector.readers.begin());
    bench.overwrite("q2", 3).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    let collect = || collector.collect(None, Some(Age::Ago(0)), false);
    drop(later);
    assert_eq!((collect().await.unwrap().files, bench.has("q1")), (0, true));
    drop(reader);
    assert_eq!((collect().await.unwrap().files, bench.has("q1")), (1, false));
}

#[tokio::test]
async fn nothing_is_deleted_where_tables_may_not_lie() {
    let bench = lake().await;
    bench.overwrite("q1", 3).await;
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    let mut write = bench.leave("q2", 3).await;
    write.files[0].file.url = Url::from_file_path(elsewhere.path()).unwrap().to_string();
    let collector = bench.collector();
    let table = collector.catalog.table(DEFAULT_DATABASE, "t").await.unwrap().unwrap();
    collector.catalog.commit_write(&table, write).await.unwrap();
    bench.text("TRUNCATE TABLE t").await;
    // Somebody was faster with the other one.
    std::fs::remove_file(bench.path("t/part-q1.parquet")).unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(collector.collect(None, Some(Age::Ago(0)), false).await.unwrap().files, 1);
    assert!(elsewhere.path().exists());
    assert_eq!(collector.collect(None, Some(Age::Ago(0)), true).await.unwrap().files, 1, "it is tried again");
}
