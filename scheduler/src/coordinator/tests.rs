use std::path::Path;
use std::time::Instant;

use datafusion::arrow::array::{Array, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::parquet::arrow::ArrowWriter;
use futures::TryStreamExt;
use url::Url;
use windlass_catalog::SqliteCatalog;
use windlass_engine::{Locations, RuntimeOptions, build_runtime};
use windlass_proto::{Kind, QueryState};

use super::*;
use crate::engines::ExecutorInfo;
use crate::engines::local::LocalEngine;
use crate::error::Error;
use crate::statement::StatementKind;

#[derive(Debug)]
struct OneExecutor;

impl Cluster for OneExecutor {
    fn executors(&self) -> Vec<ExecutorInfo> {
        vec![ExecutorInfo {
            id: "e1".to_owned(),
            address: "localhost:1".to_owned(),
            slots: 2,
            slots_used: 0,
            state: "ACTIVE",
            heartbeat_age_ms: 5,
            version: "0".to_owned(),
            memory_bytes: 0,
        }]
    }
}

/// A coordinator whose engines are both local, with a session and a directory for files.
pub(crate) struct Bench {
    pub(crate) coordinator: Arc<Coordinator>,
    runtime: Arc<RuntimeEnv>,
    pub(crate) session: Arc<Session>,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) async fn bench() -> Bench {
    bench_with(CoordinatorLimits::default()).await
}

async fn bench_with(limits: CoordinatorLimits) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let locations = Locations::new([root.to_str().unwrap().to_owned()]).unwrap();
    let options = RuntimeOptions {
        memory_limit_bytes: 256 << 20,
        spill_dir: root.join("spill"),
        spill_limit_bytes: 1 << 20,
        metadata_cache_bytes: 1 << 20,
    };
    let runtime = build_runtime(&options, &locations).unwrap();
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().await.unwrap());
    let warehouse = Url::from_directory_path(root.join("warehouse")).unwrap();
    let ddl = DdlExecutor::new(Arc::clone(&catalog), locations, Arc::clone(&runtime), warehouse, system::tables());
    let engine: Arc<dyn Engine> = Arc::new(LocalEngine::new(2, Arc::clone(&runtime)).unwrap());
    let (pipelined, staged) = (Arc::clone(&engine), Arc::clone(&engine));
    let parts = Parts { catalog, ddl, local: engine, pipelined, staged, cluster: Arc::new(OneExecutor), runtime: Arc::clone(&runtime) };
    let coordinator = Coordinator::new(parts, limits);
    let session = coordinator.sessions().open("ada").unwrap();
    Bench { coordinator, runtime, session, dir }
}

impl Bench {
    pub(crate) async fn run(&self, sql: &str, parameters: Option<&RecordBatch>) -> Result<Vec<RecordBatch>> {
        let statement = self.coordinator.prepare(&self.session, sql).await?;
        let query = self.coordinator.execute(&self.session, &statement, parameters).await?;
        let rows = query.rows().await?;
        assert_eq!(rows.schema(), query.schema(), "{sql}");
        if parameters.is_none() && statement.kind() == StatementKind::Query {
            assert_eq!(rows.schema(), statement.schema(), "{sql}");
        }
        let batches: Vec<_> = rows.try_collect().await.map_err(Error::from)?;
        assert!(batches.iter().all(|batch| batch.schema() == query.schema()), "{sql}");
        Ok(batches)
    }

    pub(crate) async fn text(&self, sql: &str) -> String {
        match self.run(sql, None).await {
            Ok(batches) => pretty_format_batches(&batches).unwrap().to_string(),
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    async fn number(&self, sql: &str) -> i64 {
        let batches = self.run(sql, None).await.unwrap();
        batches[0].column(0).as_primitive::<Int64Type>().value(0)
    }

    async fn fails(&self, sql: &str) -> Error {
        match self.run(sql, None).await {
            Err(error) => error,
            Ok(_) => panic!("{sql} did not fail"),
        }
    }

    /// A table `t` of two days with three rows each.
    async fn with_table(self) -> Self {
        let root = self.dir.path().canonicalize().unwrap().join("t");
        for day in ["2024-01-01", "2024-01-02"] {
            write(&root.join(format!("dt={day}")), 3);
        }
        let location = Url::from_directory_path(&root).unwrap();
        self.text(&format!("CREATE EXTERNAL TABLE t (n BIGINT) PARTITIONED BY (dt DATE) STORED AS PARQUET LOCATION '{location}'")).await;
        self.text("MSCK REPAIR TABLE t").await;
        self
    }
}

fn write(dir: &Path, rows: i64) {
    std::fs::create_dir_all(dir).unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from_iter_values(0..rows))]).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(dir.join("a.parquet")).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[tokio::test]
async fn promised_schemas_are_streamed() {
    let bench = bench().await;
    for sql in [
        "SELECT 1 AS a UNION ALL SELECT NULL",
        "SELECT count(*) AS n, min(x) AS lo, avg(x) AS a FROM (VALUES (1, 'a'), (2, NULL)) v(x, s)",
        "SELECT version() AS v, now() AS n, current_date AS d",
        "SELECT array_agg(x) AS l, make_array(1, 2) AS m FROM (VALUES (1)) v(x)",
        "SELECT named_struct('a', 1, 'b', 'c') AS st, map(['k'], [1]) AS m",
        "SELECT arrow_cast('d', 'Dictionary(Int32, Utf8)') AS d, arrow_cast('x', 'Utf8View') AS v, arrow_cast(X'00', 'BinaryView') AS b",
        "SELECT arrow_cast([1, 2], 'LargeList(Int64)') AS l, arrow_cast([3, 4], 'FixedSizeList(2, Int64)') AS f",
        "SELECT INTERVAL '1' MONTH + INTERVAL '2' DAY AS i, arrow_cast(1.5, 'Float16') AS h, arrow_cast(1, 'Decimal32(5, 2)') AS d",
        "SELECT 1 AS a, 'x' AS b WHERE false",
        "SELECT * FROM (VALUES (1)) l(a) CROSS JOIN (VALUES (2)) r(a)",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "SHOW TABLES",
        "SHOW ALL",
        "SELECT * FROM system.runtime.queries",
        "SELECT * FROM information_schema.tables",
    ] {
        bench.text(sql).await;
    }
}

#[tokio::test]
async fn hostile_statements_are_refused_quickly_and_large_ones_pass() {
    let bench = bench().await;
    let hostile = [
        format!("SELECT '{}'", "x".repeat(10 << 20)),
        format!("SELECT 1 WHERE {}", vec!["1 = 2"; 20_000].join(" OR ")),
        vec!["SELECT 1"; 20_000].join(" UNION ALL "),
        format!("SELECT {}", vec!["1"; 50_000].join("+")),
        format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("SELECT {}1", "- ".repeat(900)),
    ];
    for sql in hostile {
        let start = Instant::now();
        let error = bench.fails(&sql).await;
        assert_eq!(error.kind(), Kind::Exhausted, "{}: {error}", &sql[..40]);
        assert!(start.elapsed().as_secs() < 5, "{} took {:?}", &sql[..40], start.elapsed());
    }
    let list = (0..100_000).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(bench.number(&format!("SELECT count(*) FROM (VALUES (1), (-1)) v(x) WHERE x IN ({list})")).await, 1);
    let sum = vec!["x"; 1_000].join(" + ");
    assert_eq!(bench.number(&format!("SELECT {sum} FROM (VALUES (2)) v(x)")).await, 2_000);
    let nested = format!("SELECT {}x{} FROM (VALUES (2)) v(x)", "(".repeat(90), ")".repeat(90));
    assert_eq!(bench.number(&nested).await, 2);
    let unions = vec!["SELECT x FROM (VALUES (1)) v(x)"; 190].join(" UNION ALL ");
    assert_eq!(bench.number(&format!("SELECT count(*) FROM ({unions})")).await, 190);
}

#[tokio::test]
async fn parameters_of_known_and_unknown_type() {
    let bench = bench().await;
    let statement = bench
        .coordinator
        .prepare(&bench.session, "SELECT CAST(? AS BIGINT) + 1 AS v, x LIKE ?, ? AS u FROM (VALUES ('a')) v(x) LIMIT ?")
        .await
        .unwrap();
    let types: Vec<_> = statement.parameters().fields().iter().map(|field| field.data_type().clone()).collect();
    assert_eq!(types, [DataType::Int64, DataType::Utf8, DataType::Utf8, DataType::Int64]);
    assert!(statement.parameters().fields().iter().all(|field| field.is_nullable()));

    let column = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as Arc<dyn Array>;
    let rows = |values: Vec<i64>| RecordBatch::try_from_iter([("p", column(values))]).unwrap();
    let results = bench.run("SELECT CAST($1 AS BIGINT) + 1 AS v", Some(&rows(vec![10, 30, 20]))).await.unwrap();
    let values: Vec<_> = results.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert_eq!(values, [11, 31, 21], "one run per row, in order");
    let results = bench.run("SELECT $1 AS v", Some(&rows(vec![7]))).await.unwrap();
    assert_eq!(results[0].column(0).data_type(), &DataType::Int64, "a bare parameter keeps its type");
    assert_eq!(bench.run("SELECT CAST($1 AS INT) + $2", Some(&rows(vec![1]))).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(bench.run("SELECT CAST($1 AS INT)", None).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test]
async fn names_views_and_pruning() {
    let bench = bench().await.with_table().await;
    assert_eq!(bench.number("SELECT count(*) FROM hive.default.t WHERE dt = DATE '2024-01-02'").await, 3);
    bench.text("CREATE DATABASE other").await;
    bench.text("CREATE VIEW other.v AS SELECT n FROM default.t WHERE n > 0").await;
    bench.text("CREATE VIEW w AS SELECT n + 1 AS m FROM t").await;
    bench.text("USE other").await;
    assert_eq!(bench.session.database(), "other");
    assert_eq!(bench.number("SELECT sum(n) FROM v").await, 6);
    assert_eq!(bench.number("SELECT sum(m) FROM default.w").await, 12, "a view's names belong to its own database");
    for (sql, missing) in
        [("SELECT n FROM t", "table 'other.t'"), ("SELECT 1 FROM a.b", "database 'a'"), ("SELECT 1 FROM a.b.c", "catalog 'a'")]
    {
        let error = bench.fails(sql).await;
        assert_eq!((error.kind(), error.to_string()), (Kind::NotFound, format!("{missing} does not exist")), "{sql}");
    }
    bench.text("USE default").await;
    let error = bench.fails("SELECT n,\n  wrong FROM t").await;
    assert_eq!((error.detail().line, error.detail().column), (2, 3), "{error}");

    let plan = bench.text("EXPLAIN SELECT n FROM t WHERE dt = DATE '2024-01-02'").await;
    for part in ["logical_plan", "engine", "local: it reads", "scan", "1 of 2 partitions, 1 of 2 files"] {
        assert!(plan.contains(part), "{part} in\n{plan}");
    }
    let plan = bench.text("EXPLAIN ANALYZE SELECT n FROM t").await;
    assert!(plan.contains("output_rows=6"), "{plan}");
    let tables = bench.text("SELECT table_schema, table_name, table_type FROM information_schema.tables").await;
    for part in ["| default ", "| t ", "VIEW", "runtime", "executors"] {
        assert!(tables.contains(part), "{part} in\n{tables}");
    }
}

#[tokio::test]
async fn settings_are_set_shown_and_apply() {
    let bench = bench().await;
    bench.text("SET windlass.engine = 'staged'").await;
    assert!(bench.text("EXPLAIN SELECT 1").await.contains("'windlass.engine' says so"));
    let shown = bench.run("SHOW windlass.engine", None).await.unwrap();
    assert_eq!(shown[0].column(1).as_string::<i32>().value(0), "staged");
    bench.text("RESET ALL").await;
    let hinted = bench.text("/* windlass.engine = local */ EXPLAIN FORMAT TREE SELECT 1").await;
    assert!(hinted.contains("local: 'windlass.engine' says so") && hinted.contains("┌──"), "{hinted}");
    assert_eq!(bench.fails("/* windlass.engin = local */ SELECT 1").await.kind(), Kind::NotFound);
    assert_eq!(bench.session.get("windlass.engine").unwrap(), "auto");
    assert_eq!(bench.session.get("datafusion.execution.target_partitions").unwrap(), "2");
    assert_eq!(bench.fails("SET datafusion.runtime.memory_limit = '1G'").await.kind(), Kind::NotFound);
    assert_eq!(bench.fails("SHOW nothing").await.kind(), Kind::NotFound);
}

#[tokio::test]
async fn updates_run_once_and_queries_are_recorded() {
    let bench = bench().await;
    let statement = bench.coordinator.prepare(&bench.session, "CREATE DATABASE once").await.unwrap();
    assert_eq!((statement.kind(), statement.schema().fields().len()), (StatementKind::Update, 0));
    let query = bench.coordinator.execute(&bench.session, &statement, None).await.unwrap();
    assert_eq!(query.progress().state(), QueryState::Finished);
    assert!(query.rows().await.unwrap().try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert!(query.rows().await.is_ok(), "reading the rows again runs nothing");
    let again = bench.coordinator.execute(&bench.session, &statement, None).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);

    let error = bench.fails("SELECT 1 / x FROM (VALUES (0)) v(x)").await;
    assert!(error.to_string().to_lowercase().contains("divide by zero"), "{error}");
    let records = bench.coordinator.queries();
    let states: Vec<_> = records.iter().map(|record| record.state).collect();
    assert_eq!(states, [QueryState::Finished, QueryState::Failed, QueryState::Failed]);
    assert_eq!(records[2].error.as_ref().map(|(kind, _)| *kind), Some(Kind::Invalid));
    let listed = bench.text("SELECT state, user, query FROM system.runtime.queries ORDER BY created").await;
    assert!(listed.contains("FAILED") && listed.contains("ada") && listed.contains("CREATE DATABASE once"), "{listed}");
    assert_eq!(bench.number("SELECT CAST(slots AS BIGINT) FROM system.runtime.executors").await, 2);
}

#[tokio::test]
async fn a_long_local_query_runs_until_it_is_read_cancelled_or_late() {
    let bench = bench().await;
    let start = async |sql: &str| {
        let statement = bench.coordinator.prepare(&bench.session, sql).await.unwrap();
        bench.coordinator.execute(&bench.session, &statement, None).await.unwrap()
    };
    let state = |query: &Query| query.record().state;
    let small = start("SELECT value FROM generate_series(1, 1000)").await;
    small.finished().await.unwrap();
    for _ in 0..2 {
        let batches: Vec<_> = small.rows().await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 1000, "few rows can be read again");
    }

    let large = start("SELECT value FROM generate_series(1, 3000000)").await;
    large.ready().await.unwrap();
    assert_eq!((state(&large), large.progress().tasks_running), (QueryState::Running, 1));
    let batches: Vec<_> = large.rows().await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 3_000_000);
    large.finished().await.unwrap();
    assert_eq!((state(&large), large.progress().tasks_done, large.record().rows_returned), (QueryState::Finished, 1, 3_000_000));
    assert_eq!(large.rows().await.err().unwrap().kind(), Kind::NotFound);

    let endless =
        "SELECT sum(a.value * b.value) FROM generate_series(1, 200000) a JOIN generate_series(1, 200000) b ON a.value % 7 = b.value % 7";
    let query = start(endless).await;
    query.cancel().await;
    assert_eq!(state(&query), QueryState::Cancelled);
    let query = start(endless).await;
    let killed = bench.text(&format!("CALL system.kill_query('{}', message => 'too large')", query.id())).await;
    assert!(killed.contains("CANCELLED"), "{killed}");
    let told = query.finished().await.unwrap_err();
    assert_eq!((told.kind(), told.to_string().as_str()), (Kind::Cancelled, "the query was cancelled by 'ada': too large"));
    let gone = bench.fails("CALL system.runtime.kill_query(query_id => 'nobody')").await;
    assert_eq!(gone.kind(), Kind::NotFound);
    bench.text("SET windlass.query_timeout_s = 1").await;
    let began = Instant::now();
    for sql in [endless, "SELECT value FROM generate_series(1, 3000000)"] {
        assert_eq!(start(sql).await.finished().await.unwrap_err().kind(), Kind::Timeout, "{sql}");
    }
    assert!(began.elapsed().as_secs() < 30);
    small.close().await;
    while bench.runtime.memory_pool.reserved() > 0 {
        assert!(began.elapsed().as_secs() < 30, "a query that has ended still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_not_for_queries_is_refused() {
    let bench = bench().await.with_table().await;
    for (sql, kind) in [
        ("SELECT * INTO x FROM t", Kind::Unsupported),
        ("SELECT * FROM '/etc/passwd'", Kind::NotFound),
        ("COPY t TO '/etc/x'", Kind::Denied),
    ] {
        let error = bench.fails(sql).await;
        assert_eq!(error.kind(), kind, "{sql}: {error}");
    }
}
