use std::path::Path;

use datafusion::arrow::array::{Array, AsArray, Int64Array};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::SessionContext;
use tempfile::TempDir;
use windlass_catalog::{SqliteCatalog, ddl};
use windlass_engine::{Dialect, RuntimeOptions, build_runtime};

use super::*;

/// An executor over an empty catalog in memory; tables may use the directory `lake`, whose part `warehouse` is for managed ones.
struct Fixture {
    dir: TempDir,
    executor: DdlExecutor,
}

/// Plans queries that name no tables of the catalog.
struct Constants(SessionContext);

#[async_trait]
impl ViewPlanner for Constants {
    async fn plan_schema(&self, view: &ViewDefinition, _: Arc<TemporaryViews>) -> Result<SchemaRef> {
        Ok(Arc::clone(self.0.sql(&view.sql).await?.schema().inner()))
    }
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lake = dir.path().join("lake");
        std::fs::create_dir(&lake).unwrap();
        let locations = Locations::new([lake.display().to_string()]).unwrap();
        let options = RuntimeOptions {
            memory_limit_bytes: 1 << 24,
            spill_dir: dir.path().join("spill"),
            spill_limit_bytes: 1 << 20,
            metadata_cache_bytes: 1 << 20,
        };
        let runtime = build_runtime(&options, &locations).unwrap();
        let warehouse = locations.check(&lake.join("warehouse").display().to_string()).unwrap();
        let catalog = Arc::new(SqliteCatalog::in_memory().await.unwrap());
        let queries = TableName { catalog: Some("system".to_owned()), database: Some("runtime".to_owned()), name: "queries".to_owned() };
        Self { executor: DdlExecutor::new(catalog, locations, runtime, warehouse, vec![queries]), dir }
    }

    fn lake(&self) -> String {
        self.dir.path().join("lake").display().to_string()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("lake").join(name)
    }

    /// Writes a file with one column `A` of some numbers.
    fn write(&self, name: &str, values: &[i64]) {
        self.write_column(name, Arc::new(Int64Array::from(values.to_vec())));
    }

    fn write_column(&self, name: &str, values: ArrayRef) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let batch = RecordBatch::try_from_iter([("A", values)]).unwrap();
        let mut writer = ArrowWriter::try_new(std::fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    async fn try_run(&self, sql: &str) -> Result<Outcome> {
        // `LAKE` in a statement is the directory's path.
        let sql = sql.replace("LAKE", &self.lake());
        let statement = ddl::parse(&sql, Dialect::Generic).unwrap().unwrap();
        let outcome = self.executor.execute(&statement, "default", &Cause::default(), &Constants(SessionContext::new())).await?;
        if let Outcome::Rows(schema, batches) = &outcome {
            assert_eq!(Some(schema), output_schema(&statement).as_ref());
            assert!(batches.iter().all(|batch| batch.schema() == *schema));
        }
        Ok(outcome)
    }

    async fn run(&self, sql: &str) -> Outcome {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    async fn error(&self, sql: &str) -> Error {
        self.try_run(sql).await.expect_err(sql)
    }

    /// Rows of a statement, cells joined by `|`, the lake's path as `LAKE`.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let Outcome::Rows(_, batches) = self.run(sql).await else { panic!("{sql} returned no rows") };
        let row = |batch: &RecordBatch, row| {
            let cells =
                batch.columns().iter().map(|column| column.as_string::<i32>()).map(|c| if c.is_valid(row) { c.value(row) } else { "NULL" });
            cells.collect::<Vec<_>>().join("|").replace(&self.lake(), "LAKE")
        };
        batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|index| row(batch, index)).collect::<Vec<_>>()).collect()
    }

    /// First column only.
    async fn names(&self, sql: &str) -> Vec<String> {
        self.rows(sql).await.into_iter().map(|row| row.split('|').next().unwrap_or_default().to_owned()).collect()
    }
}

fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}

#[tokio::test]
async fn a_table_without_columns_registers_what_is_there() {
    let f = Fixture::new().await;
    f.write("t/y=2023/x.parquet", &[1, 2]);
    f.write("t/y=2024/x.parquet", &[3]);
    f.run("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'LAKE/t'").await;
    assert_eq!(f.rows("DESCRIBE t").await, ["a|bigint|NULL|NULL", "y|int|partition key|NULL"]);
    assert_eq!(f.names("SHOW PARTITIONS t").await, ["y=2023", "y=2024"]);
    assert_eq!(f.names("SHOW PARTITIONS t PARTITION (y > 2023)").await, ["y=2024"]);
    let extended = f.rows("DESCRIBE EXTENDED t").await;
    for fact in ["location|file://LAKE/t/|NULL|NULL", "files|2|NULL|NULL", "rows|3|NULL|NULL", "kind|EXTERNAL_TABLE|NULL|NULL"] {
        assert!(extended.iter().any(|row| row == fact), "{fact} is not in {extended:?}");
    }

    let create = f.rows("SHOW CREATE TABLE t").await.remove(0);
    f.run("DROP TABLE t").await;
    assert!(exists(f.path("t/y=2024/x.parquet")), "files of external tables stay");
    f.run(&create).await;
    assert_eq!(f.rows("SHOW CREATE TABLE t").await, [create]);
    assert_eq!(f.names("SHOW PARTITIONS t").await, [""; 0], "partitions in Hive's form wait for MSCK");
    assert_eq!(f.rows("MSCK REPAIR TABLE t").await, ["2|0|2|0"]);

    f.run("CREATE EXTERNAL TABLE named STORED AS PARQUET PARTITIONED BY (y) LOCATION 'LAKE/t'").await;
    assert_eq!(f.names("SHOW PARTITIONS named").await, ["y=2023", "y=2024"]);
    let error = f.error("CREATE EXTERNAL TABLE wrong STORED AS PARQUET PARTITIONED BY (m) LOCATION 'LAKE/t'").await;
    assert!(error.to_string().contains("partitioned by y, not by m"), "{error}");
    f.run("CREATE TABLE IF NOT EXISTS t (z int)").await;
    assert_eq!(f.error("CREATE TABLE t (z int)").await.kind(), Kind::AlreadyExists);
}

#[tokio::test]
async fn repair_finds_the_difference() {
    let f = Fixture::new().await;
    f.write("t/k=a/1.parquet", &[1]);
    f.write("t/k=b/1.parquet", &[1]);
    f.run("CREATE EXTERNAL TABLE t (a bigint) PARTITIONED BY (k string) LOCATION 'LAKE/t'").await;
    assert_eq!(f.rows("MSCK REPAIR TABLE t").await, ["2|0|2|0"]);
    assert_eq!(f.rows("MSCK REPAIR TABLE t SYNC PARTITIONS").await, ["0|0|0|0"]);

    f.write("t/k=a/1.parquet", &[1, 2, 3]);
    f.write("t/k=a/2.parquet", &[4]);
    f.write("t/k=c/1.parquet", &[5]);
    std::fs::remove_dir_all(f.path("t/k=b")).unwrap();
    assert_eq!(f.rows("MSCK REPAIR TABLE t DROP PARTITIONS").await, ["0|1|2|2"], "a changed file, a new one, a partition with its file");
    assert_eq!(f.names("SHOW PARTITIONS t").await, ["k=a"]);
    assert_eq!(f.rows("MSCK REPAIR TABLE t ADD PARTITIONS").await, ["1|0|1|0"]);
    std::fs::remove_dir_all(f.path("t/k=c")).unwrap();
    assert_eq!(f.rows("MSCK REPAIR TABLE t").await, ["0|0|0|1"], "the partition stays, without its file");
    assert!(f.rows("DESCRIBE EXTENDED t").await.contains(&"rows|4|NULL|NULL".to_owned()));

    f.write("elsewhere/1.parquet", &[6]);
    f.run("ALTER TABLE t ADD PARTITION (k = 'z') LOCATION 'LAKE/elsewhere'").await;
    f.write("elsewhere/2.parquet", &[7]);
    f.write("t/k=z/decoy.parquet", &[8]);
    assert_eq!(f.rows("MSCK REPAIR TABLE t SYNC PARTITIONS").await, ["0|1|1|0"], "k=c went; the new file of k=z is seen where k=z lies");
    std::fs::remove_dir_all(f.path("elsewhere")).unwrap();
    std::fs::remove_dir_all(f.path("t/k=z")).unwrap();
    assert_eq!(f.rows("MSCK REPAIR TABLE t SYNC PARTITIONS").await, ["0|1|0|2"]);
}

#[tokio::test]
async fn partitions_come_and_go() {
    let f = Fixture::new().await;
    f.write("t/dt=2024-01-01/1.parquet", &[1]);
    f.run("CREATE EXTERNAL TABLE t (a bigint) PARTITIONED BY (dt date) LOCATION 'LAKE/t'").await;
    f.run("ALTER TABLE t ADD PARTITION (dt='2024-01-01') PARTITION (dt=DATE '2024-01-02') PARTITION (dt=NULL)").await;
    let shown = f.rows("SHOW PARTITIONS t").await;
    assert!(shown.iter().any(|row| row.starts_with("dt=2024-01-01|file://LAKE/t/dt=2024-01-01/|1|")), "{shown:?}");
    assert!(shown.iter().any(|row| row.starts_with("dt=__HIVE_DEFAULT_PARTITION__|") && row.ends_with("|0|0|0")), "{shown:?}");
    assert_eq!(f.error("ALTER TABLE t ADD PARTITION (dt='2024-01-02')").await.kind(), Kind::AlreadyExists);
    f.run("ALTER TABLE t ADD IF NOT EXISTS PARTITION (dt='2024-01-02') PARTITION (dt='2024-01-03')").await;
    assert_eq!(f.rows("SHOW PARTITIONS t").await.len(), 4);

    assert_eq!(f.error("ALTER TABLE t DROP PARTITION (dt > '2025-01-01')").await.kind(), Kind::NotFound);
    f.run("ALTER TABLE t DROP IF EXISTS PARTITION (dt > '2025-01-01')").await;
    f.run("ALTER TABLE t DROP PARTITION (dt >= '2024-01-02', dt < '2024-01-03'), PARTITION (dt = NULL)").await;
    assert_eq!(f.names("SHOW PARTITIONS t").await, ["dt=2024-01-01", "dt=2024-01-03"]);
    assert!(exists(f.path("t/dt=2024-01-01/1.parquet")));
    for (sql, text) in [
        ("ALTER TABLE t ADD PARTITION (day='2024-01-01')", "partition key 'day' does not exist"),
        ("ALTER TABLE t ADD PARTITION (dt='yesterday')", "'yesterday' is not a value of partition key 'dt'"),
        ("ALTER TABLE t ADD PARTITION (dt='2024-01-09', dt='2024-01-08')", "given twice"),
    ] {
        let error = f.error(sql).await;
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let f = Fixture::new().await;
    f.write_column("t/1.parquet", Arc::new(StringArray::from(vec!["x"])));
    let error = f.error("CREATE EXTERNAL TABLE t (a bigint) LOCATION 'LAKE/t'").await;
    assert!(error.to_string().contains("t/1.parquet") && error.to_string().contains("'a'"), "{error}");
    let cases = [
        ("CREATE EXTERNAL TABLE t LOCATION '/etc'", Kind::Denied),
        ("CREATE EXTERNAL TABLE t LOCATION 's3://bucket/t'", Kind::Denied),
        ("CREATE EXTERNAL TABLE t LOCATION 'hdfs://bucket/t'", Kind::Unsupported),
        ("CREATE EXTERNAL TABLE t LOCATION 'LAKE/t/1.parquet'", Kind::Invalid),
        ("CREATE EXTERNAL TABLE t LOCATION 'LAKE/nothing'", Kind::Invalid),
        ("CREATE TABLE t", Kind::Invalid),
        ("CREATE TABLE none.t (a int)", Kind::NotFound),
        ("CREATE TABLE other.default.t (a int)", Kind::NotFound),
        ("CREATE DATABASE d LOCATION '/etc'", Kind::Denied),
        ("DROP TABLE t", Kind::NotFound),
        ("USE nowhere", Kind::NotFound),
    ];
    for (sql, kind) in cases {
        assert_eq!(f.error(sql).await.kind(), kind, "{sql}");
    }
    f.run("DROP TABLE IF EXISTS t").await;
    assert!(f.names("SHOW TABLES").await.is_empty());
}

#[tokio::test]
async fn managed_tables_hold_what_was_committed_to_them() {
    let f = Fixture::new().await;
    f.run("CREATE DATABASE sales COMMENT 'money'").await;
    f.run("CREATE TABLE sales.t (a bigint COMMENT 'n') TBLPROPERTIES ('k' = 'v')").await;
    let location = |rows: Vec<String>| rows.into_iter().find(|row| row.starts_with("location|"));
    assert_eq!(
        location(f.rows("DESCRIBE EXTENDED sales.t").await).as_deref(),
        Some("location|file://LAKE/warehouse/sales.db/t/|NULL|NULL")
    );
    assert_eq!(f.error("MSCK REPAIR TABLE sales.t").await.kind(), Kind::Invalid);

    f.run("ALTER TABLE sales.t RENAME TO u").await;
    f.run("CREATE TABLE sales.t (b int)").await;
    assert_eq!(
        location(f.rows("DESCRIBE EXTENDED sales.u").await).as_deref(),
        Some("location|file://LAKE/warehouse/sales.db/u/|NULL|NULL")
    );
    assert!(f.rows("DESCRIBE EXTENDED sales.u").await.contains(&"version|2|NULL|NULL".to_owned()), "its name and its place are one change");
    f.run("ALTER TABLE sales.u ADD COLUMNS (c string)").await;
    assert_eq!(f.error("ALTER TABLE sales.u ADD COLUMNS (A int)").await.kind(), Kind::AlreadyExists);
    f.run("ALTER TABLE sales.u SET TBLPROPERTIES ('k' = 'w', 'l' = 'x')").await;
    f.run("ALTER TABLE sales.u UNSET TBLPROPERTIES ('l')").await;
    let create = f.rows("SHOW CREATE TABLE sales.u").await.remove(0);
    assert_eq!(
        create,
        "CREATE TABLE `hive`.`sales`.`u` (\n  `a` bigint COMMENT 'n',\n  `c` string\n)\nSTORED AS PARQUET\nTBLPROPERTIES (\n  'k' = 'w'\n)"
    );

    f.write("warehouse/sales.db/u/1.parquet", &[1]);
    f.write("warehouse/sales.db/v/1.parquet", &[1]);
    assert!(f.error("CREATE TABLE sales.v (a int)").await.to_string().contains("not empty"));
    f.run("DROP TABLE sales.u").await;
    assert!(exists(f.path("warehouse/sales.db/u/1.parquet")), "nobody committed it to the table");

    assert_eq!(f.names("SHOW DATABASES LIKE 's*|x'").await, ["sales"]);
    assert_eq!(f.error("DROP DATABASE sales").await.kind(), Kind::Invalid);
    f.run("DROP DATABASE sales CASCADE").await;
    f.run("DROP DATABASE IF EXISTS sales").await;
}

#[tokio::test]
async fn a_new_location_brings_its_files() {
    let f = Fixture::new().await;
    f.write("old/1.parquet", &[1]);
    f.write("new/1.parquet", &[1, 2]);
    f.run("CREATE EXTERNAL TABLE t LOCATION 'LAKE/old'").await;
    f.run("ALTER TABLE t SET LOCATION 'LAKE/new'").await;
    let extended = f.rows("DESCRIBE EXTENDED t").await;
    for fact in ["location|file://LAKE/new/|NULL|NULL", "files|1|NULL|NULL", "rows|2|NULL|NULL", "version|2|NULL|NULL"] {
        assert!(extended.iter().any(|row| row == fact), "{fact} is not in {extended:?}");
    }
    assert_eq!(f.rows("MSCK REPAIR TABLE t").await, ["0|0|0|0"]);
}

#[tokio::test]
async fn partitions_are_moved_and_renamed() {
    let f = Fixture::new().await;
    f.write("t/k=a/1.parquet", &[1]);
    f.write("t/k=b/1.parquet", &[1, 2]);
    f.write("t/elsewhere/1.parquet", &[1, 2, 3]);
    f.run("CREATE EXTERNAL TABLE t (a bigint) PARTITIONED BY (k string) LOCATION 'LAKE/t'").await;
    f.run("ALTER TABLE t ADD PARTITION (k = 'a') PARTITION (k = 'b')").await;
    f.run("ALTER TABLE t PARTITION (k = 'a') SET LOCATION 'LAKE/t/elsewhere'").await;
    f.run("ALTER TABLE t PARTITION (k = 'b') RENAME TO PARTITION (k = NULL)").await;
    let null = "k=__HIVE_DEFAULT_PARTITION__|file://LAKE/t/k=b/|1";
    let shown = f.rows("SHOW PARTITIONS t").await;
    assert!(shown[0].starts_with(null) && shown[1].starts_with("k=a|file://LAKE/t/elsewhere/|1") && shown[1].ends_with("|3"), "{shown:?}");
    let described = f.rows("DESCRIBE t PARTITION (k = 'a')").await;
    for fact in ["a|bigint|NULL|NULL", "location|file://LAKE/t/elsewhere/|NULL|NULL", "rows|3|NULL|NULL"] {
        assert!(described.iter().any(|row| row == fact), "{fact} is not in {described:?}");
    }
    // Directories that belong to a partition are no others' and no mistake, whatever they are called.
    assert_eq!(f.rows("MSCK REPAIR TABLE t SYNC PARTITIONS").await, ["0|0|0|0"]);
    f.write("t/k=b/2.parquet", &[3]);
    f.write("t/elsewhere/2.parquet", &[4]);
    std::fs::remove_file(f.path("t/elsewhere/1.parquet")).unwrap();
    assert_eq!(f.rows("MSCK REPAIR TABLE t").await, ["0|0|2|1"]);
    // Two partitions may share a directory.
    f.run("ALTER TABLE t ADD PARTITION (k = 'b') LOCATION 'LAKE/t/k=b'").await;
    assert_eq!(f.rows("MSCK REPAIR TABLE t SYNC PARTITIONS").await, ["0|0|0|0"]);
    for (sql, text) in [
        ("ALTER TABLE t PARTITION (k = 'z') SET LOCATION 'LAKE/t'", "'k=z' does not exist"),
        ("ALTER TABLE t PARTITION (k = 'a') RENAME TO PARTITION (k = 'b')", "'k=b' already exists"),
        ("ALTER TABLE t PARTITION (k = 'a') SET LOCATION '/etc'", "/etc"),
        ("DESCRIBE t PARTITION (j = 1)", "partition key 'j'"),
    ] {
        let error = f.error(sql).await.to_string();
        assert!(error.contains(text), "{error}");
    }
}

#[tokio::test]
async fn statements_on_one_table_do_not_hinder_each_other() {
    let f = Fixture::new().await;
    f.run("CREATE EXTERNAL TABLE t (a bigint) PARTITIONED BY (k int) LOCATION 'LAKE/t'").await;
    let adds: Vec<_> = (0..8).map(|k| format!("ALTER TABLE t ADD PARTITION (k = {k})")).collect();
    futures::future::join_all(adds.iter().map(|sql| f.run(sql))).await;
    assert_eq!(f.names("SHOW PARTITIONS t").await.len(), 8);
    let drops = futures::future::join_all((0..4).map(|_| f.run("DROP TABLE IF EXISTS t")));
    drops.await;
}

#[tokio::test]
async fn columns_change_as_far_as_files_allow() {
    let f = Fixture::new().await;
    f.write("t/1.parquet", &[1]);
    f.run("CREATE EXTERNAL TABLE t (a bigint COMMENT 'old') LOCATION 'LAKE/t'").await;
    f.run("ALTER TABLE t CHANGE COLUMN a a bigint COMMENT 'new'").await;
    assert_eq!(f.rows("DESCRIBE t").await, ["a|bigint|NULL|new"]);
    f.run("COMMENT ON COLUMN t.a IS NULL").await;
    assert_eq!(f.rows("DESCRIBE t").await, ["a|bigint|NULL|NULL"]);
    f.run("COMMENT ON TABLE t IS 'numbers'").await;
    assert!(f.rows("DESCRIBE EXTENDED t").await.contains(&"comment|numbers|NULL|NULL".to_owned()));
    for (sql, text) in [
        ("ALTER TABLE t CHANGE a b bigint", "cannot be renamed"),
        ("ALTER TABLE t ALTER COLUMN a TYPE int", "cannot become int: files have bigint"),
        ("ALTER TABLE t CHANGE COLUMN z z int", "column 'z' does not exist"),
    ] {
        let error = f.error(sql).await.to_string();
        assert!(error.contains(text), "{error}");
    }
    f.run("CREATE EXTERNAL TABLE empty (a int, b int) PARTITIONED BY (k int) LOCATION 'LAKE/none'").await;
    f.run("ALTER TABLE empty RENAME COLUMN a TO c").await;
    f.run("ALTER TABLE empty CHANGE b b string").await;
    assert_eq!(f.rows("DESCRIBE empty").await, ["c|int|NULL|NULL", "b|string|NULL|NULL", "k|int|partition key|NULL"]);
    assert_eq!(f.error("ALTER TABLE empty RENAME COLUMN c TO k").await.kind(), Kind::AlreadyExists);
    f.run("ALTER TABLE t SET TBLPROPERTIES ('x.y' = '1', 'z' = '2')").await;
    assert_eq!(f.rows("SHOW TBLPROPERTIES t").await, ["x.y|1", "z|2"]);
    assert_eq!(f.rows("SHOW TBLPROPERTIES t ('z')").await, ["z|2"]);
}

#[tokio::test]
async fn views() {
    let f = Fixture::new().await;
    f.run("CREATE VIEW v (x COMMENT 'one', y) COMMENT 'c' AS SELECT 1 AS x, 'a' AS b").await;
    assert_eq!(f.rows("DESCRIBE v").await, ["x|bigint|NULL|one", "y|string|NULL|NULL"]);
    let create = f.rows("SHOW CREATE VIEW v").await.remove(0);
    assert!(create.ends_with("AS SELECT * FROM (\nSELECT 1 AS x, 'a' AS b\n) AS `v` (`x`, `y`)"), "{create}");
    f.run("DROP VIEW v").await;
    f.run(&create).await;
    assert_eq!(f.rows("SHOW CREATE VIEW v").await, [create], "it is not wrapped again");

    f.run("CREATE OR REPLACE VIEW v AS SELECT 2 AS z").await;
    assert_eq!(f.rows("DESCRIBE v").await, ["z|bigint|NULL|NULL"]);
    f.run("ALTER VIEW v AS SELECT 'text' AS z").await;
    assert_eq!(f.rows("SHOW VIEWS").await, ["default|v|VIRTUAL_VIEW"]);
    for (sql, text) in [
        ("CREATE VIEW v AS SELECT 1", "already exists"),
        ("CREATE VIEW w (a, b) AS SELECT 1", "names 2 columns"),
        ("CREATE VIEW w AS SELECT 1 AS a, 2 AS \"A\"", "two columns"),
        ("CREATE OR REPLACE VIEW v AS SELECT * FROM hive.default.V", "cannot be read from itself"),
        ("DROP TABLE v", "is a view"),
        ("ALTER TABLE v ADD COLUMNS (a int)", "is a view"),
    ] {
        let error = f.error(sql).await;
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
async fn catalogs_beside_ours_are_shown() {
    let f = Fixture::new().await;
    assert_eq!(f.names("SHOW CATALOGS").await, ["hive", "system"]);
    assert_eq!(f.names("SHOW DATABASES").await, ["default", "information_schema"]);
    assert_eq!(f.names("SHOW DATABASES FROM system").await, ["runtime"]);
    assert_eq!(f.rows("SHOW TABLES FROM system.runtime").await, ["runtime|queries|SYSTEM_TABLE"]);
    assert!(f.rows("SHOW TABLES FROM information_schema LIKE 'tab%'").await.len() == 1);
    assert_eq!(f.names("DESCRIBE DATABASE default").await, ["name", "location", "comment"]);
}

#[tokio::test]
async fn what_is_shown_makes_the_same_again() {
    let f = Fixture::new().await;
    f.write("x/day=1/x.parquet", &[1]);
    for (noun, name, made) in [
        (
            "TABLE",
            "t",
            "CREATE TABLE t (`a b` ARRAY<STRUCT<x: MAP<STRING, INT>>> COMMENT 'it''s', c DECIMAL(10, 2), `select` TIMESTAMP(9)) COMMENT 'a\\b'
             PARTITIONED BY (k DECIMAL(5, 1) COMMENT 'key', l DATE) TBLPROPERTIES ('parquet.compression' = 'snappy', 'it''s' = '\"')",
        ),
        ("TABLE", "x", "CREATE EXTERNAL TABLE x (a BIGINT) PARTITIONED BY (day INT) STORED AS PARQUET LOCATION 'LAKE/x'"),
        (
            "TABLE",
            "y",
            "CREATE EXTERNAL TABLE y (a STRING, b INT) ROW FORMAT DELIMITED FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' NULL DEFINED AS 'n/a'
             STORED AS TEXTFILE LOCATION 'LAKE/y' TBLPROPERTIES ('skip.header.line.count' = '1')",
        ),
        ("VIEW", "v", "CREATE VIEW v (one COMMENT 'first', two) COMMENT 'two' TBLPROPERTIES ('a' = 'b') AS SELECT 1 AS a, 'it''s' AS b -- end"),
    ] {
        f.run(made).await;
        f.run(&format!("COMMENT ON {noun} {name} IS 'said later, with ''quotes''\\n'")).await;
        let column = f.names(&format!("DESCRIBE {name}")).await.pop().unwrap();
        f.run(&format!("COMMENT ON COLUMN {name}.{column} IS 'the last one'")).await;
        let (shown, described) = (f.rows(&format!("SHOW CREATE {noun} {name}")).await, f.rows(&format!("DESCRIBE {name}")).await);
        assert!(described.last().unwrap().ends_with("|the last one"), "{described:?}");
        f.run(&format!("DROP {noun} {name}")).await;
        f.run(&shown[0]).await;
        assert_eq!(f.rows(&format!("SHOW CREATE {noun} {name}")).await, shown, "{made}");
        assert_eq!(f.rows(&format!("DESCRIBE {name}")).await, described, "{made}");
    }
}

#[tokio::test]
async fn a_table_takes_the_place_of_another() {
    let f = Fixture::new().await;
    f.run("CREATE OR REPLACE TABLE t (a BIGINT)").await;
    f.run("CREATE OR REPLACE TABLE t (b STRING, c INT) COMMENT 'new'").await;
    assert_eq!(f.names("DESCRIBE t").await, ["b", "c"]);
    f.write("files/part-0.parquet", &[1, 2]);
    f.run("CREATE OR REPLACE TABLE t STORED AS PARQUET LOCATION 'LAKE/files'").await;
    assert_eq!(f.names("DESCRIBE t").await, ["a"]);
    f.run("CREATE OR REPLACE TABLE t (d INT)").await;
    assert_eq!((f.names("DESCRIBE t").await, exists(f.path("files/part-0.parquet"))), (vec!["d".to_owned()], true));
    f.run("CREATE VIEW v AS SELECT 1 AS x").await;
    assert!(f.error("CREATE OR REPLACE TABLE v (a INT)").await.to_string().contains("is a view"));
    assert_eq!(f.names("DESCRIBE v").await, ["x"]);
}
