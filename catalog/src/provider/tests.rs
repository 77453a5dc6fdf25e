mod nan;

use std::fs;

use datafusion::arrow::array::{
    Array, ArrayRef, Float32Array, Float64Array, Int32Array, Int32Builder, ListArray, ListBuilder, MapBuilder, MapFieldNames, StringArray,
    StringBuilder, StructArray,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::stats::Precision;
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use datafusion_proto::bytes::{physical_plan_from_bytes, physical_plan_to_bytes};
use parquet::file::properties::WriterProperties;
use windlass_engine::evolution::{list_type, map_type};
use windlass_engine::named_files::prepare_scans;
use windlass_engine::session::session_config;

use super::*;
use crate::catalog::{Contents, DEFAULT_DATABASE, KeyType, NewPartition, NewTable, PartitionKey, TableKind};
use crate::discover::tests::{Files, ints, longs};
use crate::discover::{Discovery, Layout};
use crate::store::SqliteCatalog;

/// A catalog, and a session with the same tables registered by hand.
struct Warehouse {
    catalog: Arc<SqliteCatalog>,
    session: SessionContext,
    reports: Arc<ScanReports>,
}

impl Warehouse {
    async fn new() -> Self {
        Self::with_options(|_| ()).await
    }

    async fn with_options(set: impl FnOnce(&mut WindlassOptions)) -> Self {
        let mut options = WindlassOptions::default();
        set(&mut options);
        let reports = Arc::new(ScanReports::default());
        let config = session_config(4)
            .with_option_extension(options)
            .with_create_default_catalog_and_schema(true)
            .with_default_catalog_and_schema("datafusion", "public")
            .with_extension(Arc::clone(&reports));
        let state =
            SessionStateBuilder::new().with_config(config).with_runtime_env(Arc::new(RuntimeEnv::default())).with_default_features();
        let catalog = Arc::new(SqliteCatalog::in_memory().await.unwrap());
        Self { catalog, session: SessionContext::new_with_state(state.build()), reports }
    }

    #[expect(clippy::disallowed_methods, reason = "tests compare with a table in memory")]
    fn register(&self, name: &str, table: Arc<dyn TableProvider>) {
        self.session.register_table(name, table).unwrap();
    }

    async fn create(&self, name: &str, kind: TableKind, files: &Files, found: Discovery) -> Arc<TableMeta> {
        let new = NewTable {
            database: DEFAULT_DATABASE.to_owned(),
            name: name.to_owned(),
            kind,
            location: files.location(),
            schema: found.schema,
            keys: found.keys,
            comment: None,
            properties: Default::default(),
            storage: Default::default(),
            view: None,
        };
        let partition =
            |found: crate::discover::FoundPartition| NewPartition { values: found.values, location: found.location, files: found.files };
        let contents = Contents { add_partitions: found.partitions.into_iter().map(partition).collect(), ..Default::default() };
        let meta = self.catalog.create_table(new, contents, &"CREATE TABLE".into()).await.unwrap();
        let catalog = Arc::clone(&self.catalog) as Arc<dyn Catalog>;
        self.register(name, Arc::new(HiveTable::new(catalog, Arc::clone(&meta))));
        meta
    }

    async fn rows(&self, sql: &str) -> Result<String> {
        let plan = prepare_scans(self.session.sql(sql).await?.create_physical_plan().await?, &self.session.runtime_env())?;
        let batches = datafusion::physical_plan::collect(plan, self.session.task_ctx()).await?;
        let text = pretty_format_batches(&batches)?.to_string();
        // Rows have no order unless the query gives them one.
        let mut lines = text.lines().skip(3).map(str::to_owned).collect::<Vec<_>>();
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }

    /// Partitions and files that the last scans read.
    fn read(&self) -> Vec<(u64, u64)> {
        self.reports.take().iter().map(|report| (report.partitions, report.files)).collect()
    }
}

fn strings(values: Vec<Option<&str>>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

/// 3 days x 3 regions, one of them NULL and one escaped; 2 files of 10 rows in each. Also as a table in memory, under the name `memory`.
async fn events(warehouse: &Warehouse, kind: TableKind) -> (Files, Arc<TableMeta>) {
    let files = Files::new();
    let (mut ids, mut days, mut regions) = (Vec::new(), Vec::new(), Vec::new());
    for day in 0..3 {
        for (index, (directory, region)) in
            [("eu", Some("eu")), ("a%2Fb c", Some("a/b c")), ("__HIVE_DEFAULT_PARTITION__", None)].into_iter().enumerate()
        {
            for part in 0..2 {
                let first = ((day * 3 + index as i32) * 2 + part) * 10;
                files.write(&format!("dt=2024-01-0{}/region={directory}/{part}.parquet", day + 1), vec![("id", ints(first..first + 10))]);
                ids.extend(first..first + 10);
                days.extend([19_723 + day; 10]);
                regions.extend([region; 10]);
            }
        }
    }
    let found = files.find(Layout::Inferred, None).await.unwrap();
    let meta = warehouse.create("events", kind, &files, found).await;
    let days = Arc::new(datafusion::arrow::array::Date32Array::from(days)) as ArrayRef;
    let batch = RecordBatch::try_from_iter_with_nullable([("id", ints(ids), true), ("dt", days, true), ("region", strings(regions), true)])
        .unwrap();
    warehouse.register("memory", Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap()));
    (files, meta)
}

#[tokio::test]
async fn scans_give_the_rows_and_read_what_they_need() {
    let warehouse = Warehouse::new().await;
    let _files = events(&warehouse, TableKind::External).await;
    for (sql, partitions, files) in [
        ("SELECT * FROM t", 9, 18),
        ("SELECT count(*), count(region), min(id), max(region), count(DISTINCT dt) FROM t", 9, 18),
        ("SELECT id FROM t WHERE dt = '2024-01-02'", 3, 6),
        ("SELECT id, region FROM t WHERE region IS NULL", 3, 6),
        ("SELECT region, dt FROM t WHERE region = 'a/b c' AND dt >= DATE '2024-01-02'", 2, 4),
        ("SELECT * FROM t WHERE length(region) = 2", 3, 6),
        ("SELECT region, sum(id) FROM t WHERE extract(day FROM dt) = 3 GROUP BY region", 3, 6),
        ("SELECT * FROM t WHERE id BETWEEN 35 AND 44", 9, 2),
        ("SELECT * FROM t WHERE id = 37 AND dt = DATE '2024-01-01'", 3, 1),
        ("SELECT * FROM t WHERE id = 37 OR region IS NOT DISTINCT FROM 'eu'", 9, 7),
        ("SELECT id FROM t WHERE dt > DATE '2030-01-01'", 0, 0),
        ("SELECT count(*) FROM t WHERE region NOT IN ('eu')", 3, 6),
        ("SELECT id FROM t WHERE random() < 2 AND dt = '2024-01-01'", 3, 6),
        ("SELECT id FROM t ORDER BY id DESC LIMIT 3", 9, 18),
    ] {
        let found = warehouse.rows(&sql.replace(" t", " events")).await.unwrap();
        assert_eq!(warehouse.read(), [(partitions, files)], "{sql}");
        assert_eq!(found, warehouse.rows(&sql.replace(" t", " memory")).await.unwrap(), "{sql}");
    }
    let join = "SELECT a.id, b.region FROM t a JOIN t b ON a.dt = b.dt AND a.id = b.id + 1 WHERE b.region = 'eu'";
    assert_eq!(
        warehouse.rows(&join.replace(" t ", " events ")).await.unwrap(),
        warehouse.rows(&join.replace(" t ", " memory ")).await.unwrap()
    );
    warehouse.read();
    assert_eq!(warehouse.rows("SELECT 1 FROM events WHERE region = 'eu' LIMIT 15").await.unwrap().lines().count(), 16);
    assert_eq!(warehouse.read(), [(3, 2)], "no more files than the limit needs");
}

#[tokio::test]
async fn only_managed_tables_are_counted_without_reading() {
    for (kind, exact) in [(TableKind::External, false), (TableKind::Managed, true)] {
        let warehouse = Warehouse::new().await;
        let _files = events(&warehouse, kind).await;
        let plan = warehouse.session.sql("SELECT * FROM events").await.unwrap().create_physical_plan().await.unwrap();
        let scan = plan.downcast_ref::<DataSourceExec>().unwrap();
        let statistics = scan.data_source().partition_statistics(None).unwrap();
        assert_eq!(statistics.num_rows, if exact { Precision::Exact(180) } else { Precision::Inexact(180) });
        // A NULL key counts as no value.
        assert_eq!(statistics.column_statistics[2].null_count.get_value(), Some(&60));
        let sql = "SELECT count(*), count(region), min(id), max(id), max(dt) FROM ";
        assert_eq!(warehouse.rows(&format!("{sql} events")).await.unwrap(), warehouse.rows(&format!("{sql} memory")).await.unwrap());
    }
}

#[tokio::test]
async fn files_tell_how_many_different_values_there_are() {
    let (warehouse, files) = (Warehouse::new().await, Files::new());
    let kinds = |rows: i32| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..rows).map(|row| ["F", "O", "P"][(row * row % 7 % 3) as usize])))
    };
    for file in 0..2 {
        files.write(&format!("{file}.parquet"), vec![("id", ints(file * 4000..(file + 1) * 4000)), ("kind", kinds(4000))]);
    }
    // Of so few rows nothing is told.
    files.write("small.parquet", vec![("id", ints(8000..8100)), ("kind", kinds(100))]);
    let meta = warehouse.create("orders", TableKind::Managed, &files, files.find(Layout::Keys(&[]), None).await.unwrap()).await;
    let table = HiveTable::new(Arc::clone(&warehouse.catalog) as _, meta);
    table.bytes(&warehouse.session.state(), &[], None).await.unwrap();
    let found = table.known_statistics(&[]).unwrap();
    let distinct: Vec<_> = found.column_statistics.iter().map(|column| column.distinct_count).collect();
    assert_eq!((found.num_rows, distinct), (Precision::Exact(8100), vec![Precision::Absent, Precision::Inexact(3)]));
}

#[tokio::test]
async fn a_guard_stops_scans_of_too_many_partitions() {
    let warehouse = Warehouse::with_options(|options| options.max_partitions_per_scan = 3).await;
    let _files = events(&warehouse, TableKind::External).await;
    for (sql, advice) in [
        ("SELECT id FROM events WHERE dt > '2024-01-01'", "region = 'eu'"),
        ("SELECT id FROM events WHERE extract(day FROM dt) > 1", "region = 'eu'"),
        ("SELECT id FROM events", "dt = DATE '2024-01-01'"),
        ("SELECT id FROM events WHERE dt > '2024-01-01' AND region <> 'x'", "narrow the conditions, for example to dt = DATE '2024-01-0"),
    ] {
        let error = warehouse.rows(sql).await.unwrap_err().to_string();
        for word in ["'default.events'", "3 of its 9", advice, "windlass.max_partitions_per_scan"] {
            assert!(error.contains(word), "{error} says {word}");
        }
    }
    for within in ["dt = '2024-01-01'", "length(region) = 2"] {
        warehouse.rows(&format!("SELECT id FROM events WHERE {within}")).await.unwrap();
    }
}

#[tokio::test]
async fn columns_may_come_and_widen() {
    let warehouse = Warehouse::new().await;
    let files = Files::new();
    let list =
        |values: Vec<i32>| Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some(values.into_iter().map(Some))])) as ArrayRef;
    files.write("1.parquet", vec![("VendorID", ints([1])), ("f", Arc::new(Float32Array::from(vec![0.5]))), ("l", list(vec![1, 2]))]);
    files.write(
        "2.parquet",
        vec![
            ("late", strings(vec![Some("new")])),
            ("VendorID", longs([1 << 40])),
            ("f", Arc::new(Float64Array::from(vec![0.25]))),
            ("l", list(vec![3])),
        ],
    );
    let found = files.find(Layout::Inferred, None).await.unwrap();
    let meta = warehouse.create("t", TableKind::External, &files, found).await;
    assert_eq!(meta.schema.field(0).data_type(), &DataType::Int64);
    assert_eq!(
        warehouse.rows("SELECT vendorid, f, l, late FROM t").await.unwrap(),
        "+---------------+------+--------+------+\n| 1             | 0.5  | [1, 2] |      |\n| 1099511627776 | 0.25 | [3]    | new  |"
    );
    warehouse.read();
    for (condition, files, rows) in [
        ("vendorid > 5", 1, 1),
        ("late IS NULL", 1, 1),
        ("late = 'new' AND f < 1", 1, 1),
        ("vendorid = 1 OR f = 0.25", 2, 2),
        ("l[1] = 3", 2, 1),
    ] {
        let count = warehouse.rows(&format!("SELECT count(*) AS n FROM t WHERE {condition}")).await.unwrap();
        assert!(count.contains(&format!("| {rows} |")), "{condition}: {count}");
        assert_eq!(warehouse.read(), [(1, files)], "{condition}");
    }
}

#[tokio::test]
async fn plans_survive_the_wire() {
    let warehouse = Warehouse::new().await;
    let files = Files::new();
    for (directory, first) in [("K=1", 0), ("K=__HIVE_DEFAULT_PARTITION__", 10)] {
        files.write(&format!("{directory}/a.parquet"), vec![("VendorID", ints(first..first + 10)), ("K", ints([0; 10]))]);
    }
    let found = files.find(Layout::Inferred, None).await.unwrap();
    warehouse.create("t", TableKind::External, &files, found).await;
    let sql = "SELECT vendorid * 2 AS x, k FROM t WHERE vendorid % 2 = 0 AND vendorid > 4";
    let plan = warehouse.session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    crate::scan::check_leaves(&plan).unwrap();
    let bytes = physical_plan_to_bytes(plan).unwrap();
    let plan =
        prepare_scans(physical_plan_from_bytes(&bytes, &warehouse.session.task_ctx()).unwrap(), &warehouse.session.runtime_env()).unwrap();
    let batches = datafusion::physical_plan::collect(plan, warehouse.session.task_ctx()).await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        let column = |index: usize| batch.column(index).as_any().downcast_ref::<Int32Array>();
        let keys = column(1).unwrap();
        let values = datafusion::arrow::compute::cast(batch.column(0), &DataType::Int32).unwrap();
        let values = values.as_any().downcast_ref::<Int32Array>().unwrap().clone();
        rows.extend(values.iter().flatten().zip(keys.iter()));
    }
    rows.sort_unstable();
    assert_eq!(rows, [(12, Some(1)), (16, Some(1)), (20, None), (24, None), (28, None), (32, None), (36, None)]);
}

#[tokio::test]
async fn replaced_files_are_noticed() {
    let warehouse = Warehouse::new().await;
    let (files, _) = events(&warehouse, TableKind::External).await;
    let name = "dt=2024-01-01/region=eu/0.parquet";
    files.write(name, vec![("id", ints(0..10_000))]);
    assert!(warehouse.rows("SELECT id FROM events").await.is_err());
    fs::remove_file(files.path(name)).unwrap();
    let error = warehouse.rows("SELECT id FROM events").await.unwrap_err().to_string();
    assert!(error.contains("0.parquet"), "{error}");
}

/// A table over files that were registered with other columns than those it has now.
async fn changed_since(warehouse: &Warehouse, files: &Files, then: Vec<Field>, now: Vec<Field>) {
    let keys = [PartitionKey { name: "k".to_owned(), key_type: KeyType::Int, comment: None }];
    let found = files.find(Layout::Keys(&keys), Some(&Arc::new(Schema::new(then)))).await.unwrap();
    let meta = warehouse.create("then", TableKind::External, files, found).await;
    let columns = crate::catalog::TableChange::Columns(Arc::new(Schema::new(now)));
    let meta = warehouse.catalog.change_table(&meta, &"CHANGE COLUMNS".into(), columns).await.unwrap();
    warehouse.register("now", Arc::new(HiveTable::new(Arc::clone(&warehouse.catalog) as Arc<dyn Catalog>, meta)));
}

#[tokio::test]
async fn columns_that_came_later_are_read() {
    let warehouse = Warehouse::new().await;
    let files = Files::new();
    files.write("k=1/a.parquet", vec![("a", ints([1, 2])), ("B", ints([3, 4])), ("K", ints([9, 9])), ("c", strings(vec![Some("x"); 2]))]);
    files.write("k=2/b.parquet", vec![("b", ints([5])), ("A", ints([6])), ("d", ints([7])), ("D", ints([8]))]);
    let column = |name: &str, data_type| Field::new(name, data_type, true);
    let text = || map_type(DataType::Utf8, DataType::Utf8);
    let (then, now) = (
        vec![column("a", DataType::Int32)],
        vec![
            column("a", DataType::Int64),
            column("b", DataType::Int32),
            column("c", DataType::Int32),
            column("d", DataType::Int32),
            column("m", text()),
        ],
    );
    changed_since(&warehouse, &files, then, now).await;
    let rows = "+---+---+---+---+\n| 2 | 4 | 1 |   |\n| 6 | 5 | 2 |   |";
    assert_eq!(warehouse.rows("SELECT a, b, k, m FROM now WHERE b > 3 AND B + A > 5").await.unwrap(), rows, "in every spelling");
    warehouse.read();
    assert_eq!(warehouse.rows("SELECT a FROM now WHERE a > 5").await.unwrap(), "+---+\n| 6 |");
    assert_eq!(warehouse.read(), [(2, 1)], "statistics of a column outlive its type");
    for (sql, file, words) in [
        ("SELECT c FROM now WHERE k = 1", "a.parquet", "column 'c' is Utf8"),
        ("SELECT a FROM now WHERE d = 8", "b.parquet", "'d' and 'D' differ"),
    ] {
        let error = warehouse.rows(sql).await.unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(words), "{error}");
    }
}

/// Columns `m` (map of lists), `s` (struct) and `l` (list of structs), whose fields `fields` are in the file in this order.
fn nested(map_names: [&str; 3], fields: &[&str], number: i32) -> Vec<(&'static str, ArrayRef)> {
    let [entry, key, value] = map_names.map(str::to_owned);
    let names = MapFieldNames { entry, key, value };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), ListBuilder::new(Int32Builder::new()));
    map.keys().append_value(format!("key{number}"));
    map.values().append_value([Some(number), None]);
    map.append(true).unwrap();
    let column = |name: &&str| -> (Arc<Field>, ArrayRef) {
        match *name {
            "x" => (Arc::new(Field::new("x", DataType::Int32, true)), ints([number])),
            name => (Arc::new(Field::new(name, DataType::Utf8, true)), strings(vec![Some(&format!("{name}{number}"))])),
        }
    };
    let record: ArrayRef = Arc::new(StructArray::from(fields.iter().map(column).collect::<Vec<_>>()));
    let item = Arc::new(Field::new("element", record.data_type().clone(), true));
    let list = ListArray::new(item, OffsetBuffer::from_lengths([1]), Arc::clone(&record), None);
    vec![("m", Arc::new(map.finish())), ("s", record), ("l", Arc::new(list))]
}

#[tokio::test]
async fn nested_columns_of_every_writer_are_read() {
    let warehouse = Warehouse::new().await;
    let files = Files::new();
    files.write("k=1/arrow.parquet", nested(["entries", "keys", "values"], &["x", "y"], 1));
    let standard = WriterProperties::builder().set_coerce_types(true).build();
    files.write_with("k=1/standard.parquet", nested(["entries", "key", "value"], &["z", "y", "x"], 2), standard);
    files.write("k=1/old.parquet", nested(["map", "key", "value"], &["y"], 3));
    let record = || {
        DataType::Struct(
            vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true), Field::new("w", DataType::Int8, true)]
                .into(),
        )
    };
    let map = map_type(DataType::Utf8, list_type(DataType::Int64));
    let declared = [("m", map), ("s", record()), ("l", list_type(record()))].map(|(name, data_type)| Field::new(name, data_type, true));
    let keys = [PartitionKey { name: "k".to_owned(), key_type: KeyType::Int, comment: None }];
    let found = files.find(Layout::Keys(&keys), Some(&Arc::new(Schema::new(declared.to_vec())))).await.unwrap();
    warehouse.create("declared", TableKind::External, &files, found).await;
    let rows = warehouse.rows("SELECT m, s, l FROM declared").await.unwrap().replace(' ', "");
    let expected = [
        "|{key1:[1,]}|{x:1,y:y1,w:}|[{x:1,y:y1,w:}]|",
        "|{key2:[2,]}|{x:2,y:y2,w:}|[{x:2,y:y2,w:}]|",
        "|{key3:[3,]}|{x:,y:y3,w:}|[{x:,y:y3,w:}]|",
    ];
    assert_eq!(rows.lines().skip(1).collect::<Vec<_>>(), expected);
    let fields = "SELECT m['key2'][1], s['y'], l[1]['x'] FROM declared WHERE s['x'] = 2";
    assert_eq!(warehouse.rows(fields).await.unwrap().replace(' ', "").lines().last(), Some("|2|y2|2|"));

    let found = files.find(Layout::Inferred, None).await.unwrap();
    warehouse.create("inferred", TableKind::External, &files, found).await;
    let rows = warehouse.rows("SELECT m, s FROM inferred WHERE k = 1").await.unwrap().replace(' ', "");
    assert_eq!(rows.lines().nth(1), Some("|{key1:[1,]}|{x:1,y:y1,z:}|"));

    files.write("k=1/other.parquet", nested(["map", "key", "value"], &["Y"], 3));
    let error = files.find(Layout::Inferred, None).await.unwrap_err().to_string();
    assert!(error.contains("other.parquet") && error.contains("column 's'"), "{error}");
}
