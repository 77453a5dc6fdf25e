use std::fs;

use datafusion::arrow::array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampNanosecondArray};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::execution::SessionStateBuilder;
use datafusion::parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use datafusion::prelude::SessionContext;
use datafusion_proto::bytes::{physical_plan_from_bytes, physical_plan_to_bytes};
use serde_json::{Value, json};
use windlass_engine::WindlassOptions;
use windlass_engine::file_names::{FileName, FileNames};
use windlass_engine::formats::Storage;
use windlass_engine::named_files::prepare_scans;
use windlass_engine::session::session_config;
use windlass_proto::Kind;

use super::*;
use crate::catalog::{Catalog, Contents, DEFAULT_DATABASE, KeyType, NewTable, TableChange, TableKind};
use crate::commit::Cause;
use crate::discover::tests::{Files as Directory, ints};
use crate::predicate::KeyPredicate;
use crate::provider::HiveTable;
use crate::scan::ScanReports;
use crate::store::SqliteCatalog;

/// A Delta table that the tests write, and a catalog that has it as `t`.
struct Lake {
    directory: Directory,
    catalog: Arc<dyn Catalog>,
    session: SessionContext,
    reports: Arc<ScanReports>,
}

fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn protocol(features: &[&str]) -> Value {
    json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}})
}

fn column(name: &str, data_type: impl Into<Value>) -> Value {
    json!({"name": name, "type": data_type.into(), "nullable": true, "metadata": {}})
}

fn metadata(id: &str, columns: &[Value], keys: &[&str], configuration: Value) -> Value {
    let schema = json!({"type": "struct", "fields": columns}).to_string();
    let format = json!({"provider": "parquet", "options": {}});
    json!({"metaData": {
        "id": id, "format": format, "schemaString": schema, "partitionColumns": keys, "configuration": configuration, "createdTime": 1,
    }})
}

impl Lake {
    async fn new() -> Self {
        let reports = Arc::new(ScanReports::default());
        let config = session_config(2)
            .with_option_extension(WindlassOptions::default())
            .with_create_default_catalog_and_schema(true)
            .with_default_catalog_and_schema("datafusion", "public")
            .with_extension(Arc::clone(&reports));
        let runtime = Arc::new(RuntimeEnv::default());
        let state = SessionStateBuilder::new().with_config(config).with_runtime_env(Arc::clone(&runtime)).with_default_features();
        let names = Arc::new(SqliteCatalog::in_memory().await.unwrap());
        let catalog = Arc::new(DeltaCatalog::new(names, runtime));
        Self { directory: Directory::new(), catalog, session: SessionContext::new_with_state(state.build()), reports }
    }

    fn commit(&self, version: u64, actions: &[Value]) {
        let log = self.directory.path(LOG_DIRECTORY);
        fs::create_dir_all(&log).unwrap();
        let lines = actions.iter().map(|action| format!("{action}\n")).collect::<String>();
        fs::write(log.join(format!("{version:020}.json")), lines).unwrap();
    }

    /// Writes a file; returns what a log says when it comes.
    fn file(&self, name: &str, path: &str, values: Value, columns: Vec<(&str, ArrayRef)>, stats: Value) -> Value {
        self.directory.write(name, columns);
        let size = fs::metadata(self.directory.path(name)).unwrap().len();
        json!({"add": {
            "path": path, "partitionValues": values, "size": size, "modificationTime": 5, "dataChange": true, "stats": stats.to_string(),
        }})
    }

    /// A file of a column `id` without keys.
    fn ids(&self, name: &str, ids: std::ops::Range<i32>) -> Value {
        let stats = json!({
            "numRecords": ids.len(), "minValues": {"id": ids.start}, "maxValues": {"id": ids.end - 1}, "nullCount": {"id": 0},
        });
        self.file(name, name, json!({}), vec![("id", ints(ids))], stats)
    }

    /// Makes the table `t` of what lies there.
    async fn create(&self) -> Result<Arc<TableMeta>> {
        let location = self.directory.location();
        let store = self.session.runtime_env().object_store_registry.get_store(&Url::parse(&location).unwrap()).unwrap();
        let found = describe(&location, store).await?;
        let table = NewTable {
            database: DEFAULT_DATABASE.to_owned(),
            name: "t".to_owned(),
            kind: TableKind::External,
            location,
            schema: Arc::clone(found.schema()),
            keys: found.keys().to_vec(),
            comment: None,
            properties: Default::default(),
            storage: Storage::of(FileFormat::Delta),
            view: None,
        };
        self.catalog.create_table(table, Contents::default(), &Cause::default()).await?;
        Ok(self.table().await)
    }

    async fn table(&self) -> Arc<TableMeta> {
        self.catalog.table(DEFAULT_DATABASE, "t").await.unwrap().unwrap()
    }

    /// The rows of a query over `t`, run as another process would; and how many files it reads.
    #[expect(clippy::disallowed_methods, reason = "tests look tables up themselves")]
    async fn rows(&self, table: HiveTable, sql: &str) -> datafusion::error::Result<(Vec<String>, u64)> {
        self.session.deregister_table("t")?;
        self.session.register_table("t", Arc::new(table) as Arc<dyn TableProvider>)?;
        let plan = self.session.sql(sql).await?.create_physical_plan().await?;
        let plan = physical_plan_from_bytes(&physical_plan_to_bytes(plan)?, &self.session.task_ctx())?;
        let plan = prepare_scans(plan, &self.session.runtime_env())?;
        let batches = datafusion::physical_plan::collect(plan, self.session.task_ctx()).await?;
        let text = pretty_format_batches(&batches)?.to_string();
        let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(",");
        let mut lines: Vec<_> = text.lines().skip(3).filter(|line| line.starts_with('|')).map(cells).collect();
        lines.sort_unstable();
        Ok((lines, self.reports.take().iter().map(|report| report.files).sum()))
    }

    async fn now(&self, sql: &str) -> (Vec<String>, u64) {
        self.rows(self.hive().await, sql).await.unwrap()
    }

    async fn hive(&self) -> HiveTable {
        HiveTable::new(Arc::clone(&self.catalog), self.table().await)
    }
}

fn remove(path: &str) -> Value {
    json!({"remove": {"path": path, "deletionTimestamp": 9, "dataChange": true}})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_there_is() {
    let lake = Lake::new().await;
    let columns = [column("Id", "integer"), column("k", "string"), column("name", "string"), column("n", "short")];
    let file = |path: &str, k: Value, n: &str, first: i32, name: &str| {
        let stats = json!({
            "numRecords": 10, "minValues": {"Id": first, "name": name}, "maxValues": {"Id": first + 9, "name": name},
            "nullCount": {"Id": 0, "name": 0},
        });
        let columns = vec![("Id", ints(first..first + 10)), ("name", texts(&[Some(name); 10]))];
        lake.file(&path.replace("%25", "%"), path, json!({"k": k, "n": n}), columns, stats)
    };
    let adds = [
        file("k=a%252Fb/a.parquet", json!("a/b"), "1", 0, "x"),
        file("k=a%252Fb/b.parquet", json!("a/b"), "2", 10, "y"),
        file("k=__HIVE_DEFAULT_PARTITION__/c.parquet", Value::Null, "1", 20, "y"),
        file("anywhere.parquet", json!("c"), "1", 30, "z"),
    ];
    let begin = [protocol(&[]), metadata("one", &columns, &["k", "n"], json!({}))];
    lake.commit(0, &[&begin[..], &adds[..]].concat());
    // What lies there is not the table's before the log says so.
    lake.directory.write("stray.parquet", vec![("Id", ints(0..1000))]);

    let table = lake.create().await.unwrap();
    let names: Vec<_> = table.full_schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "name", "k", "n"]);
    assert_eq!(table.keys.iter().map(|key| key.key_type).collect::<Vec<_>>(), [KeyType::String, KeyType::Int]);
    let totals = lake.catalog.totals(&table).await.unwrap();
    assert_eq!((totals.partitions, totals.files, totals.rows), (4, 4, Some(40)));
    let list = lake.catalog.partitions(&table, &KeyPredicate::IsNull(0), 9).await.unwrap();
    assert_eq!((list.partitions[0].name.as_str(), list.total), ("k=__HIVE_DEFAULT_PARTITION__/n=1", 4));

    for (sql, rows, files) in [
        ("SELECT count(*), sum(id) FROM t", vec!["40,780"], 4),
        ("SELECT k, n, count(*) FROM t GROUP BY k, n", vec![",1,10", "a/b,1,10", "a/b,2,10", "c,1,10"], 4),
        ("SELECT min(id), max(id) FROM t WHERE k = 'a/b' AND n = 2", vec!["10,19"], 1),
        ("SELECT id FROM t WHERE id = 25", vec!["25"], 1),
        ("SELECT id FROM t WHERE name = 'z' AND id > 38", vec!["39"], 1),
        ("SELECT id FROM t WHERE name IS NULL", vec![], 0),
        ("SELECT id FROM t WHERE k IS NULL AND id = 20", vec!["20"], 1),
        ("SELECT count(*) FROM t WHERE id > 1000", vec!["0"], 0),
    ] {
        assert_eq!(lake.now(sql).await, (rows.into_iter().map(str::to_owned).collect(), files), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_gets_the_newest_version_and_stays_with_it() {
    let lake = Lake::new().await;
    let begin = [protocol(&[]), metadata("one", &[column("id", "integer")], &[], json!({}))];
    lake.commit(0, &[&begin[..], &[lake.ids("a", 0..10)]].concat());
    let first = lake.create().await.unwrap();
    let again = lake.table().await;
    assert!(Arc::ptr_eq(first.delta.as_ref().unwrap(), again.delta.as_ref().unwrap()), "nothing is read again");

    let statement = lake.hive().await;
    lake.commit(1, &[remove("a"), lake.ids("b", 10..15)]);
    let columns = [column("id", "integer"), column("more", "string")];
    lake.commit(2, &[metadata("one", &columns, &[], json!({})), lake.ids("c", 20..21)]);
    let sum = "SELECT count(*), sum(id) FROM t";
    assert_eq!(lake.rows(statement, sum).await.unwrap(), (vec!["10,45".to_owned()], 1));
    assert_eq!(lake.now(sum).await, (vec!["6,80".to_owned()], 2));
    assert_eq!(lake.now("SELECT * FROM t WHERE id = 20").await.0, ["20,"]);

    // As it was, with the columns of then.
    let past = lake.hive().await.as_logged(Moment::Version(1)).await.unwrap();
    assert_eq!(past.schema().fields().len(), 1);
    assert_eq!(lake.rows(past, "SELECT max(id) FROM t").await.unwrap(), (vec!["14".to_owned()], 1));
    let past = lake.hive().await.as_logged(Moment::Version(0)).await.unwrap();
    assert_eq!(lake.rows(past, sum).await.unwrap().0, ["10,45"]);
    for moment in [Moment::Version(3), Moment::Version(-1), Moment::Time(1000)] {
        let error = lake.hive().await.as_logged(moment).await.unwrap_err().to_string();
        assert!(error.contains("'default.t'"), "{error}");
    }
    let future = lake.hive().await.as_logged(Moment::Time(4_000_000_000_000)).await.unwrap();
    assert_eq!(lake.rows(future, sum).await.unwrap().0, ["6,80"]);

    // A log that is begun anew, with fewer versions and with as many.
    for (version, id) in [(0, "two"), (0, "three")] {
        fs::remove_dir_all(lake.directory.path(LOG_DIRECTORY)).unwrap();
        let begin = [protocol(&[]), metadata(id, &[column("id", "integer")], &[], json!({}))];
        lake.commit(version, &[&begin[..], &[lake.ids(id, 7..8)]].concat());
        assert_eq!(lake.now(sum).await, (vec!["1,7".to_owned()], 1), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_rows_and_renamed_columns_are_not_read() {
    let lake = Lake::new().await;
    let mapped = |name: &str, id: i32, physical: &str, data_type: &str| {
        let metadata = json!({"delta.columnMapping.id": id, "delta.columnMapping.physicalName": physical});
        json!({"name": name, "type": data_type, "nullable": true, "metadata": metadata})
    };
    // `a` was renamed `b`, and another `a` was added.
    let columns = [
        mapped("b", 1, "a", "integer"),
        mapped("a", 2, "col-2", "integer"),
        mapped("at", 3, "at", "timestamp"),
        mapped("k", 4, "col-4", "string"),
    ];
    let configuration =
        json!({"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "4", "delta.enableDeletionVectors": "true"});
    let begin = [protocol(&["columnMapping", "deletionVectors"]), metadata("one", &columns, &["k"], configuration)];
    let stats = json!({"numRecords": 30, "minValues": {"a": 0}, "maxValues": {"a": 29}, "nullCount": {"a": 0}, "tightBounds": false});
    let times = Arc::new(TimestampNanosecondArray::from_iter_values((0..30).map(|second| second * 1_000_000_000))) as ArrayRef;
    let mut file = lake.file("f", "f", json!({"col-4": "x"}), vec![("a", ints(0..30)), ("at", times)], stats);
    // Rows 3, 4, 7, 11, 18 and 29, as a portable Roaring bitmap in Z85.
    file["add"]["deletionVector"] = json!({
        "storageType": "i", "pathOrInlineDv": "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L", "sizeInBytes": 44, "cardinality": 6,
    });
    lake.commit(0, &[&begin[..], &[file]].concat());
    let table = lake.create().await.unwrap();
    let name = |name: &str| vec![FileName::Name(name.to_owned())];
    let renamed = FileNames::from([("b".to_owned(), name("a")), ("a".to_owned(), name("col-2"))]);
    assert_eq!(*table.delta.as_ref().unwrap().file_names(), renamed);
    assert_eq!(lake.catalog.totals(&table).await.unwrap().rows, Some(24));
    for (sql, rows) in [
        ("SELECT count(*), sum(b), count(a), min(k) FROM t", vec!["24,363,0,x"]),
        ("SELECT b FROM t WHERE b IN (3, 5, 29, 28)", vec!["28", "5"]),
        ("SELECT count(*) FROM t WHERE a IS NULL", vec!["24"]),
        ("SELECT count(*) FROM t WHERE a > 5", vec!["0"]),
        ("SELECT b FROM t WHERE at = TIMESTAMP '1970-01-01 00:00:02Z'", vec!["2"]),
    ] {
        assert_eq!(lake.now(sql).await.0, rows, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_found_by_their_names_and_numbers_in_files() {
    let mapped = |name: &str, id: i32, physical: &str, data_type: Value| {
        let metadata = json!({"delta.columnMapping.id": id, "delta.columnMapping.physicalName": physical});
        json!({"name": name, "type": data_type, "nullable": true, "metadata": metadata})
    };
    // `s.x` was renamed `s.y`, and another `s.x` was added; numbers say the same.
    let inside =
        |id: i32| json!({"type": "struct", "fields": [mapped("y", id, "x", json!("long")), mapped("x", id + 1, "new", json!("string"))]});
    let items = json!({"type": "array", "elementType": inside(6), "containsNull": true});
    let columns = [mapped("id", 1, "id", json!("integer")), mapped("s", 2, "col-2", inside(3)), mapped("l", 5, "l", items)];
    let numbered = |name: &str, id: i32, data_type: DataType| {
        Field::new(name, data_type, true).with_metadata([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())].into())
    };
    let record = |id| StructArray::new(vec![numbered("x", id, DataType::Int64)].into(), vec![Arc::new(Int64Array::from(vec![7, 8]))], None);
    let item = Arc::new(Field::new("element", record(6).data_type().clone(), true));
    let list = ListArray::new(Arc::clone(&item), OffsetBuffer::from_lengths([2, 0]), Arc::new(record(6)), None);
    let schema = Schema::new(vec![
        numbered("id", 1, DataType::Int32),
        numbered("col-2", 2, record(3).data_type().clone()),
        numbered("l", 5, DataType::List(item)),
    ]);
    let rows = RecordBatch::try_new(Arc::new(schema), vec![ints(0..2), Arc::new(record(3)), Arc::new(list)]).unwrap();
    for mode in ["name", "id"] {
        let lake = Lake::new().await;
        let configuration = json!({"delta.columnMapping.mode": mode, "delta.columnMapping.maxColumnId": "7"});
        let begin = [protocol(&["columnMapping"]), metadata("one", &columns, &[], configuration)];
        let mut writer = ArrowWriter::try_new(fs::File::create(lake.directory.path("f")).unwrap(), rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let size = fs::metadata(lake.directory.path("f")).unwrap().len();
        let add = json!({"add": {"path": "f", "partitionValues": {}, "size": size, "modificationTime": 5, "dataChange": true}});
        lake.commit(0, &[&begin[..], &[add]].concat());
        lake.create().await.unwrap();
        for (sql, rows) in [
            ("SELECT id, s, l FROM t", vec!["0,{y: 7, x: },[{y: 7, x: }, {y: 8, x: }]", "1,{y: 8, x: },[]"]),
            ("SELECT id FROM t WHERE s['y'] = 8", vec!["1"]),
            ("SELECT count(*) FROM t WHERE s['x'] IS NULL", vec!["2"]),
            ("SELECT sum(s['y']) FROM t", vec!["15"]),
        ] {
            assert_eq!(lake.now(sql).await.0, rows, "{sql} by {mode}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_by_name() {
    let lake = Lake::new().await;
    let id = || column("id", "integer");
    let nothing = lake.create().await.unwrap_err();
    assert!(nothing.kind() == Kind::Invalid && nothing.to_string().contains("no Delta log"), "{nothing}");
    for (version, actions, word) in [
        (0, vec![protocol(&["fooBar"]), metadata("a", &[id()], &[], json!({}))], "fooBar"),
        (0, vec![protocol(&["variantType"]), metadata("b", &[id()], &[], json!({}))], "variantType"),
        (0, vec![protocol(&[]), metadata("e", &[id(), column("v", "void")], &[], json!({}))], "'v' is void"),
        (0, vec![protocol(&[]), metadata("f", &[id(), column("d", "double")], &["d"], json!({}))], "'d' is double"),
    ] {
        lake.commit(version, &actions);
        let error = lake.create().await.unwrap_err();
        assert!(error.kind() == Kind::Unsupported && error.to_string().contains(word), "{error} says {word}");
    }

    lake.commit(0, &[protocol(&[]), metadata("g", &[id()], &[], json!({}))]);
    let table = lake.create().await.unwrap();
    // Only names and words of a table are the catalog's.
    let columns = TableChange::Columns(Arc::clone(&table.schema));
    for error in [
        lake.catalog.change_table(&table, &Cause::default(), columns).await.unwrap_err(),
        lake.catalog.new_contents(&table, "job", 1).await.unwrap_err(),
        lake.catalog.put_analyzed(&table, Vec::new()).await.unwrap_err(),
    ] {
        assert!(error.kind() == Kind::Unsupported && error.to_string().contains("'default.t' is a Delta table"), "{error}");
    }
    // A table that can be read no longer is still there to be dropped.
    lake.commit(1, &[protocol(&["fooBar"])]);
    let error = lake.rows(lake.hive().await, "SELECT count(*) FROM t").await.unwrap_err().to_string();
    assert!(error.contains("'default.t'") && error.contains("fooBar"), "{error}");
    lake.catalog.drop_table(lake.table().await.as_ref(), &Cause::default()).await.unwrap();
}

#[test]
fn statements_agree_with_the_log_or_say_nothing() {
    use crate::ddl::{DdlStatement, parse};
    use datafusion::arrow::datatypes::TimeUnit;
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let schema = Schema::new(vec![Field::new("id", DataType::Int32, true), Field::new("at", utc, true)]);
    let keys = [crate::catalog::PartitionKey { name: "k".to_owned(), key_type: KeyType::String, comment: None }];
    let check = |declared: &str| {
        let sql = format!("CREATE TABLE t {declared} USING delta LOCATION '/x'");
        let Ok(Some(DdlStatement::CreateTable(create))) = parse(&sql, windlass_engine::Dialect::Spark) else { panic!("{sql}") };
        assert_eq!(create.storage.format, FileFormat::Delta);
        let columns = create.columns.as_deref().map(crate::ddl::statement::schema_of);
        check_declared("d.t", columns.as_deref(), create.keys.as_deref(), (&schema, &keys)).err().map(|error| error.to_string())
    };
    for fits in [
        "",
        "(id int, at timestamp, k string) PARTITIONED BY (k)",
        "(id int, at timestamp) PARTITIONED BY (k string)",
        "(id int, at timestamp, k string)",
    ] {
        assert_eq!(check(fits), None, "{fits}");
    }
    for (declared, word) in [
        ("(id bigint, at timestamp, k string)", "column 'id'"),
        ("(id int, k string)", "also has column 'at'"),
        ("(id int, at timestamp, k string, z int)", "no column 'z'"),
        ("(id int, at timestamp, k string) PARTITIONED BY (id)", "partition keys (k)"),
    ] {
        assert!(check(declared).is_some_and(|error| error.contains(word)), "{declared} says {word}");
    }
}
