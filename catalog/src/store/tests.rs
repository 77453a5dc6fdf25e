use std::collections::BTreeMap;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Statistics};
use proptest::prelude::*;
use windlass_engine::Dialect;

use super::*;
use crate::catalog::{KeyType, NewFile, NewPartition, Partition, PartitionKey, ViewDefinition};
use crate::keys::parse_value;
use crate::predicate::Comparison;

pub(super) fn key(name: &str, key_type: KeyType) -> PartitionKey {
    PartitionKey { name: name.to_owned(), key_type, comment: None }
}

pub(super) fn schema(columns: &[&str]) -> SchemaRef {
    let field = |name: &&str| Field::new(*name, DataType::Int64, true).with_metadata([("comment".to_owned(), "c".to_owned())].into());
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

pub(super) fn new_table(name: &str, keys: Vec<PartitionKey>) -> NewTable {
    NewTable {
        database: DEFAULT_DATABASE.to_owned(),
        name: name.to_owned(),
        kind: TableKind::External,
        location: format!("file:///data/{name}/"),
        schema: schema(&["a", "b"]),
        keys,
        comment: Some("hello".to_owned()),
        properties: [("p".to_owned(), "1".to_owned())].into(),
        storage: Default::default(),
        view: None,
    }
}

pub(super) fn file(url: &str, size: u64, rows: Option<u64>) -> NewFile {
    NewFile { url: url.to_owned(), size, modified_ms: 5, etag: Some("e".to_owned()), rows, statistics: None, kept_rows: None }
}

fn partition(keys: &[PartitionKey], texts: &[&str], files: Vec<NewFile>) -> NewPartition {
    let values = keys.iter().zip(texts).map(|(key, text)| parse_value(key, text).unwrap()).collect();
    NewPartition { values, location: format!("file:///data/{}/", texts.join("/")), files }
}

async fn all(catalog: &SqliteCatalog, table: &TableMeta) -> Vec<Partition> {
    catalog.partitions(table, &KeyPredicate::All, usize::MAX).await.unwrap().partitions
}

async fn add(catalog: &SqliteCatalog, table: &TableMeta, add_partitions: Vec<NewPartition>) -> Result<Arc<TableMeta>> {
    let contents = Contents { add_partitions, ..Default::default() };
    catalog.change_table(table, &"ADD PARTITION".into(), TableChange::Contents(contents)).await
}

#[tokio::test]
async fn a_file_keeps_what_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("catalog.db");
    let keys = vec![key("dt", KeyType::Date), key("n", KeyType::Decimal(10, 2))];
    let made = {
        let catalog = SqliteCatalog::open(&path).await.unwrap();
        let table = catalog.create_table(new_table("t", keys.clone()), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
        add(&catalog, &table, vec![partition(&keys, &["2024-01-01", "-3.5"], vec![file("f", 10, Some(3))])]).await.unwrap()
    };
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);

    let catalog = SqliteCatalog::open(&path).await.unwrap();
    assert_eq!(catalog.databases().await.unwrap().len(), 1);
    let found = catalog.table(DEFAULT_DATABASE, "t").await.unwrap().unwrap();
    assert_eq!(format!("{found:?}"), format!("{made:?}"));
    let partitions = all(&catalog, &found).await;
    assert_eq!(partitions[0].name, "dt=2024-01-01/n=-3.50");
    assert_eq!(partitions[0].rows, Some(3));
    assert_eq!(catalog.totals(&found).await.unwrap(), Totals { partitions: 1, files: 1, bytes: 10, rows: Some(3) });
}

#[tokio::test]
async fn a_full_disk_costs_the_change_that_meets_it_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&directory.path().join("catalog.db")).await.unwrap();
    let keys = vec![key("n", KeyType::Int)];
    let table = catalog.create_table(new_table("t", keys.clone()), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let partitions = || (0..5000).map(|n| partition(&keys, &[&n.to_string()], vec![file(&format!("f{n}"), 10, Some(3))])).collect();
    // No more pages than there are.
    sqlx::query("PRAGMA max_page_count = 1").execute(&catalog.writer).await.unwrap();
    let error = add(&catalog, &table, partitions()).await.unwrap_err();
    assert_eq!(error.kind(), windlass_proto::Kind::Exhausted, "{error:?}");
    assert!(all(&catalog, &table).await.is_empty());
    sqlx::query("PRAGMA max_page_count = 1000000").execute(&catalog.writer).await.unwrap();
    let table = add(&catalog, &table, partitions()).await.unwrap();
    assert_eq!(all(&catalog, &table).await.len(), 5000);
}

#[tokio::test]
async fn databases_come_and_go() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let sales = Database { name: "sales".to_owned(), location: Some("file:///s/".to_owned()), comment: None };
    let before = catalog.names_version();
    catalog.create_database(sales.clone()).await.unwrap();
    assert!(catalog.names_version() > before);
    assert!(matches!(catalog.create_database(sales.clone()).await, Err(Error::AlreadyExists { what: "database", .. })));
    let table = NewTable { database: "sales".to_owned(), ..new_table("t", vec![]) };
    catalog.create_table(table.clone(), Contents::default(), &"CREATE TABLE".into()).await.unwrap();

    assert!(matches!(catalog.drop_database("sales", false, &"DROP DATABASE".into()).await, Err(Error::Invalid(_))));
    assert!(matches!(catalog.drop_database(DEFAULT_DATABASE, true, &"DROP DATABASE".into()).await, Err(Error::Invalid(_))));
    assert_eq!(catalog.databases().await.unwrap()[1], sales);
    catalog.drop_database("sales", true, &"DROP DATABASE".into()).await.unwrap();
    assert!(catalog.table("sales", "t").await.unwrap().is_none());
    assert!(matches!(catalog.drop_database("sales", true, &"DROP DATABASE".into()).await, Err(Error::NotFound { .. })));
    assert!(matches!(
        catalog.create_table(table, Contents::default(), &"CREATE TABLE".into()).await,
        Err(Error::NotFound { what: "database", .. })
    ));
}

#[tokio::test]
async fn tables_change_one_version_at_a_time() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let first = catalog.create_table(new_table("t", vec![]), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    assert!(matches!(
        catalog.create_table(new_table("t", vec![]), Contents::default(), &"CREATE TABLE".into()).await,
        Err(Error::AlreadyExists { what: "table", .. })
    ));
    let properties: BTreeMap<_, _> = [("p".to_owned(), None), ("q".to_owned(), Some("2".to_owned()))].into();
    let second = catalog.change_table(&first, &"SET TBLPROPERTIES".into(), TableChange::Properties(properties)).await.unwrap();
    assert_eq!((second.version, &second.properties), (2, &[("q".to_owned(), "2".to_owned())].into()));

    let names = catalog.names_version();
    let rename = || TableChange::Rename { database: DEFAULT_DATABASE.to_owned(), name: "u".to_owned(), location: None };
    assert!(matches!(catalog.change_table(&first, &"RENAME".into(), rename()).await, Err(Error::Conflict { .. })));
    assert_eq!(catalog.names_version(), names);
    let third = catalog.change_table(&second, &"RENAME".into(), rename()).await.unwrap();
    assert!(catalog.names_version() > names);
    assert!(catalog.table(DEFAULT_DATABASE, "t").await.unwrap().is_none());
    assert_eq!(catalog.table(DEFAULT_DATABASE, "u").await.unwrap().unwrap().version, 3);

    catalog.drop_table(&third, &"DROP TABLE".into()).await.unwrap();
    assert!(matches!(catalog.drop_table(&third, &"DROP TABLE".into()).await, Err(Error::NotFound { .. })));
    assert!(matches!(catalog.change_table(&third, &"RENAME".into(), rename()).await, Err(Error::NotFound { .. })));
    let again = catalog.create_table(new_table("u", vec![]), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    assert!(again.id > third.id);
}

#[tokio::test]
async fn a_table_without_keys_is_one_partition() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let table = catalog.create_table(new_table("t", vec![]), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let partitions = all(&catalog, &table).await;
    assert_eq!((partitions.len(), partitions[0].location.as_str()), (1, "file:///data/t/"));
    let moved = TableChange::Location { location: "file:///elsewhere/".to_owned(), contents: Contents::default() };
    let table = catalog.change_table(&table, &"SET LOCATION".into(), moved).await.unwrap();
    assert_eq!(all(&catalog, &table).await[0].location, "file:///elsewhere/");
}

#[tokio::test]
async fn views_are_kept_and_replaced() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let view = |sql: &str| ViewDefinition { sql: sql.to_owned(), default_database: DEFAULT_DATABASE.to_owned(), dialect: Dialect::Generic };
    let new = NewTable { kind: TableKind::View, location: String::new(), view: Some(view("SELECT 1 a")), ..new_table("v", vec![]) };
    let made = catalog.create_table(new, Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let change = TableChange::View { view: view("SELECT 2 b"), schema: schema(&["b"]) };
    catalog.change_table(&made, &"CREATE OR REPLACE VIEW".into(), change).await.unwrap();
    let found = catalog.table(DEFAULT_DATABASE, "v").await.unwrap().unwrap();
    assert_eq!((found.view.as_ref().unwrap(), &found.schema), (&view("SELECT 2 b"), &schema(&["b"])));
    let summary = TableSummary { database: DEFAULT_DATABASE.to_owned(), name: "v".to_owned(), kind: TableKind::View };
    assert_eq!(catalog.tables(None).await.unwrap(), [summary]);
    assert_eq!(catalog.tables(Some("nowhere")).await.unwrap(), []);
}

#[tokio::test]
async fn contents_change_all_or_nothing() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let keys = vec![key("region", KeyType::String)];
    let table = catalog.create_table(new_table("t", keys.clone()), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    // More than one INSERT holds, so that the culprit below is not in the first.
    let many = (0..450).map(|n| partition(&keys, &[&format!("r{n:03}")], vec![file("f1", 10, Some(1)), file("f2", 20, None)]));
    let table = add(&catalog, &table, many.collect()).await.unwrap();
    assert_eq!(catalog.totals(&table).await.unwrap(), Totals { partitions: 450, files: 900, bytes: 13_500, rows: None });

    let mut clash: Vec<_> = (450..900).map(|n| partition(&keys, &[&format!("r{n:03}")], vec![])).collect();
    clash[300] = partition(&keys, &["r007"], vec![]);
    let error = add(&catalog, &table, clash).await.unwrap_err();
    assert_eq!(error.to_string(), "partition 'region=r007' already exists");

    let first = all(&catalog, &table).await.remove(0);
    let change = |contents| TableChange::Contents(contents);
    let replace = Contents {
        remove_files: vec![(first.id, "f2".to_owned())],
        add_files: vec![
            DataFile { partition_id: first.id, file: file("f2", 21, Some(5)) },
            DataFile { partition_id: first.id, file: file("f0", 1, Some(1)) },
        ],
        ..Default::default()
    };
    let table = catalog.change_table(&table, &"MSCK".into(), change(replace)).await.unwrap();
    let second = all(&catalog, &table).await.remove(1);
    let replaced = all(&catalog, &table).await.remove(0);
    assert_eq!((replaced.files, replaced.bytes, replaced.rows), (3, 32, Some(7)));
    let files = catalog.files(&table, &[second.id, first.id]).await.unwrap();
    let names: Vec<_> = files.iter().map(|file| (file.partition_id, file.file.url.as_str())).collect();
    assert_eq!(names, [(second.id, "f1"), (second.id, "f2"), (first.id, "f0"), (first.id, "f1"), (first.id, "f2")]);

    let twice = Contents { add_files: vec![files[0].clone()], ..Default::default() };
    let error = catalog.change_table(&table, &"INSERT".into(), change(twice)).await.unwrap_err();
    assert_eq!(error.to_string(), "file 'f1' already exists");
    let gone = Contents { remove_files: vec![(second.id, "f9".to_owned())], ..Default::default() };
    assert!(matches!(catalog.change_table(&table, &"MSCK".into(), change(gone)).await, Err(Error::NotFound { what: "file", .. })));

    let rest: Vec<_> = all(&catalog, &table).await.into_iter().skip(1).map(|partition| partition.id).collect();
    let removal = Contents { remove_partitions: rest, ..Default::default() };
    let table = catalog.change_table(&table, &"DROP PARTITION".into(), change(removal)).await.unwrap();
    assert_eq!(catalog.totals(&table).await.unwrap(), Totals { partitions: 1, files: 3, bytes: 32, rows: Some(7) });
    assert_eq!(catalog.files(&table, &[second.id]).await.unwrap(), []);
}

#[tokio::test]
async fn statistics_follow_the_columns() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let column = ColumnStatistics {
        null_count: Precision::Exact(1),
        min_value: Precision::Exact(ScalarValue::Int64(Some(-4))),
        max_value: Precision::Inexact(ScalarValue::Int64(Some(9))),
        ..ColumnStatistics::new_unknown()
    };
    let statistics = Statistics {
        num_rows: Precision::Exact(7),
        total_byte_size: Precision::Absent,
        column_statistics: vec![column.clone(), ColumnStatistics::new_unknown()],
    };
    let with_statistics = NewFile { statistics: Some(Arc::new(statistics.clone())), ..file("f", 1, Some(7)) };
    let contents = Contents { add_partitions: vec![partition(&[], &[], vec![with_statistics])], ..Default::default() };
    let table = catalog.create_table(new_table("t", vec![]), contents, &"CREATE TABLE".into()).await.unwrap();
    let id = all(&catalog, &table).await[0].id;
    let read = async |table: &TableMeta| catalog.files(table, &[id]).await.unwrap()[0].file.statistics.clone();
    assert_eq!(read(&table).await, Some(Arc::new(statistics.clone())));

    let table = catalog.change_table(&table, &"ADD COLUMNS".into(), TableChange::Columns(schema(&["a", "b", "c"]))).await.unwrap();
    let widened = read(&table).await.unwrap();
    assert_eq!((widened.column_statistics.len(), &widened.column_statistics[0]), (3, &column));
}

#[tokio::test]
async fn what_was_analyzed_goes_with_its_files() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let keys = vec![key("n", KeyType::Int)];
    let table = catalog.create_table(new_table("t", keys.clone()), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let parts = (0..100).map(|n| partition(&keys, &[&n.to_string()], vec![file(&format!("f{n}"), 10, Some(3))]));
    let table = add(&catalog, &table, parts.collect()).await.unwrap();
    let ids: Vec<_> = all(&catalog, &table).await.iter().map(|partition| partition.id).collect();
    let files = catalog.files(&table, &ids).await.unwrap();
    let found = |place: usize, sketches: [&str; 2]| {
        let column = ColumnStatistics { min_value: Precision::Exact((place as i64).into()), ..ColumnStatistics::new_unknown() };
        let statistics = Statistics {
            num_rows: Precision::Exact(3),
            total_byte_size: Precision::Absent,
            column_statistics: vec![column, ColumnStatistics::new_unknown()],
        };
        let sketches = sketches.map(|sketch| sketch.as_bytes().to_vec()).into();
        (AnalyzedPartition { partition_id: ids[place], statistics, sketches }, FilesDigest::of(&files[place..=place]))
    };
    let sample = async |table: &TableMeta| catalog.scan(table, &KeyPredicate::All, None, usize::MAX).await.unwrap().analyzed;
    assert!(sample(&table).await.is_empty());

    // What was found in other files is left out; columns that are not looked at again stay.
    let (stale, _) = found(3, ["a", "b"]);
    let mut changed = files[3].clone();
    changed.file.size += 1;
    let first = vec![found(1, ["a", ""]), found(2, ["a", "b"]), (stale, FilesDigest::of([&changed]))];
    assert_eq!(catalog.put_analyzed(&table, first).await.unwrap(), 2);
    assert_eq!(catalog.put_analyzed(&table, vec![found(1, ["", "c"])]).await.unwrap(), 1);
    assert_eq!(sample(&table).await, [found(1, ["a", "c"]).0, found(2, ["a", "b"]).0]);
    assert_eq!(catalog.table(DEFAULT_DATABASE, "t").await.unwrap().unwrap().version, table.version);

    let gone = Contents { remove_files: vec![(ids[1], "f1".to_owned())], ..Default::default() };
    let table = catalog.change_table(&table, &"MSCK".into(), TableChange::Contents(gone)).await.unwrap();
    assert_eq!(sample(&table).await, [found(2, ["a", "b"]).0]);
    let gone = Contents { remove_partitions: vec![ids[2]], ..Default::default() };
    let table = catalog.change_table(&table, &"DROP PARTITION".into(), TableChange::Contents(gone)).await.unwrap();
    assert!(sample(&table).await.is_empty());

    // Of many, some from all over are read.
    catalog.put_analyzed(&table, (3..100).map(|place| found(place, ["a", "b"])).collect()).await.unwrap();
    let places: Vec<_> = sample(&table).await.iter().map(|found| ids.iter().position(|id| *id == found.partition_id).unwrap()).collect();
    assert_eq!((places.len(), &places[..4], &places[60..]), (64, &[3, 4, 6, 7][..], &[93, 95, 96, 98][..]));
    catalog.drop_table(&table, &"DROP TABLE".into()).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM analyzed_partitions").fetch_one(&catalog.readers).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_sees_one_moment() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&directory.path().join("catalog.db")).await.unwrap();
    let keys = vec![key("n", KeyType::Int)];
    let with_file = |n: &str| partition(&keys, &[n], vec![file(n, 1, Some(7))]);
    let contents = Contents { add_partitions: vec![with_file("1"), with_file("2")], ..Default::default() };
    let table = catalog.create_table(new_table("t", keys.clone()), contents, &"CREATE TABLE".into()).await.unwrap();
    // Between the partitions and their files, all of them are replaced.
    let change = |kept: Vec<Partition>| {
        let remove_partitions = kept.iter().map(|partition| partition.id).collect();
        let contents = Contents { remove_partitions, add_partitions: vec![with_file("3")], ..Default::default() };
        let cause = "REPLACE".into();
        let changed = catalog.change_table(&table, &cause, TableChange::Contents(contents));
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(changed))?;
        Ok(kept)
    };
    let seen = catalog.scan(&table, &KeyPredicate::All, Some(&change), 10).await.unwrap();
    assert_eq!((seen.partitions.len(), seen.totals.files), (2, 2));
    assert_eq!(seen.files.iter().map(|file| file.file.url.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    let seen = catalog.scan(&table, &KeyPredicate::All, None, 10).await.unwrap();
    assert_eq!((seen.partitions.len(), seen.files.len(), seen.totals.files), (1, 1, 1));
}

#[tokio::test]
async fn the_limit_is_on_what_the_residual_keeps() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let keys = vec![key("n", KeyType::Int)];
    let table = catalog.create_table(new_table("t", keys.clone()), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let partitions = (0..50).map(|n| partition(&keys, &[&n.to_string()], vec![])).collect();
    let table = add(&catalog, &table, partitions).await.unwrap();
    let sevenths = |found: Vec<Partition>| {
        let keeps = |partition: &Partition| matches!(partition.values[0], ScalarValue::Int32(Some(n)) if n % 7 == 0);
        Ok(found.into_iter().filter(keeps).collect())
    };
    for (limit, kept, truncated) in [(8, 8, false), (7, 7, true), (0, 0, true), (usize::MAX, 8, false)] {
        let seen = catalog.scan(&table, &KeyPredicate::All, Some(&sevenths), limit).await.unwrap();
        assert_eq!((seen.partitions.len(), seen.truncated), (kept, truncated), "limit {limit}");
    }
}

#[tokio::test]
async fn the_limit_cuts_and_says_so() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let keys = vec![key("n", KeyType::Int)];
    let table = catalog.create_table(new_table("t", keys.clone()), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let partitions = (0..20).rev().map(|n| partition(&keys, &[&n.to_string()], vec![])).collect();
    let table = add(&catalog, &table, partitions).await.unwrap();
    let below = |n: i32| KeyPredicate::Compare(0, Comparison::Less, n.into());
    let odd =
        KeyPredicate::or((0..2000).map(|n| KeyPredicate::and([below(n), KeyPredicate::Compare(0, Comparison::Greater, (n - 2).into())])));
    for (predicate, limit, kept, truncated) in
        [(below(6), 6, 6, false), (below(6), 5, 5, true), (odd.clone(), 20, 20, false), (odd, 19, 19, true)]
    {
        let list = catalog.partitions(&table, &predicate, limit).await.unwrap();
        assert_eq!((list.partitions.len(), list.truncated, list.total), (kept, truncated, 20));
        assert!(list.partitions.is_sorted_by_key(|partition| partition.values[0].clone().to_string().parse::<i32>().unwrap()));
    }
}

#[tokio::test]
async fn comparisons_of_leading_keys_use_the_index() {
    let catalog = SqliteCatalog::in_memory().await.unwrap();
    let keys = vec![key("dt", KeyType::Date), key("region", KeyType::String), key("hr", KeyType::Int)];
    let table = catalog.create_table(new_table("t", keys), Contents::default(), &"CREATE TABLE".into()).await.unwrap();
    let date = |day| ScalarValue::Date32(Some(day));
    let day = KeyPredicate::Compare(0, Comparison::Equal, date(9));
    let range = KeyPredicate::and([
        KeyPredicate::Compare(0, Comparison::GreaterOrEqual, date(9)),
        KeyPredicate::Compare(0, Comparison::Less, date(16)),
    ]);
    for (predicate, constraint) in [
        (day.clone(), "table_id=? AND removed=? AND k0=?"),
        (range.clone(), "table_id=? AND removed=? AND k0>? AND k0<?"),
        (KeyPredicate::in_list(0, [date(9), date(11)]), "table_id=? AND removed=? AND k0=?"),
        (KeyPredicate::IsNull(0), "table_id=? AND removed=? AND k0=?"),
        (KeyPredicate::or([range.clone(), KeyPredicate::IsNull(0)]), "table_id=? AND removed=? AND k0>? AND k0<?"),
        (KeyPredicate::and([day, KeyPredicate::Prefix(1, "eu".to_owned())]), "table_id=? AND removed=? AND k0=? AND k1>? AND k1<?"),
    ] {
        let (query, complete) = partitions::select(&table, &predicate).unwrap();
        assert!(complete);
        let explain = format!("EXPLAIN QUERY PLAN {}", query.into_string());
        let plan = sqlx::query(sqlx::AssertSqlSafe(explain)).fetch_all(&catalog.readers).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let lookup = format!("SEARCH partitions USING INDEX partitions_by_keys ({constraint})");
        assert!(plan.contains(&lookup), "{predicate:?}: {plan:?}");
        let sorted = plan.iter().any(|step| step.contains("TEMP B-TREE"));
        assert_eq!(sorted, matches!(predicate, KeyPredicate::Or(_)), "{predicate:?}: {plan:?}");
    }
}

const KEY_TYPES: [KeyType; 7] =
    [KeyType::String, KeyType::Int, KeyType::BigInt, KeyType::Date, KeyType::Timestamp, KeyType::Boolean, KeyType::Decimal(38, 2)];

/// Values that are close to each other or at the ends of their type.
fn value_of(key: usize) -> BoxedStrategy<ScalarValue> {
    let small = -2..3i32;
    match KEY_TYPES[key] {
        KeyType::String => {
            let text = prop_oneof![Just("a"), Just("a\0"), Just("A"), Just("ab"), Just("a\u{10ffff}"), Just("é"), Just("10"), Just("9")];
            text.prop_map(ScalarValue::from).boxed()
        }
        KeyType::Int => prop_oneof![small, Just(i32::MIN)].prop_map(ScalarValue::from).boxed(),
        KeyType::BigInt => prop_oneof![small.prop_map(i64::from), Just(i64::MIN), Just(i64::MAX)].prop_map(ScalarValue::from).boxed(),
        KeyType::Date => small.prop_map(|v| ScalarValue::Date32(Some(v))).boxed(),
        KeyType::Timestamp => small.prop_map(|v| ScalarValue::TimestampMicrosecond(Some(v.into()), None)).boxed(),
        KeyType::Boolean => any::<bool>().prop_map(ScalarValue::from).boxed(),
        KeyType::Decimal(precision, scale) => {
            let most = 10i128.pow(38) - 1;
            let value = prop_oneof![small.prop_map(i128::from), Just(most), Just(-most)];
            value.prop_map(move |v| ScalarValue::Decimal128(Some(v), precision, scale)).boxed()
        }
    }
}

fn nullable_value_of(key: usize) -> impl Strategy<Value = ScalarValue> {
    let null = crate::keys::null(KEY_TYPES[key]).unwrap();
    prop_oneof![4 => value_of(key), 1 => Just(null)]
}

fn predicate() -> impl Strategy<Value = KeyPredicate> {
    let comparison = prop_oneof![
        Just(Comparison::Equal),
        Just(Comparison::NotEqual),
        Just(Comparison::Less),
        Just(Comparison::LessOrEqual),
        Just(Comparison::Greater),
        Just(Comparison::GreaterOrEqual),
    ];
    let leaf = (0..KEY_TYPES.len(), comparison).prop_flat_map(|(key, comparison)| {
        prop_oneof![
            8 => value_of(key).prop_map(move |value| KeyPredicate::Compare(key, comparison, value)),
            4 => prop::collection::vec(value_of(key), 0..4).prop_map(move |values| KeyPredicate::In(key, values)),
            1 => Just(KeyPredicate::IsNull(key)),
            1 => Just(KeyPredicate::IsNotNull(key)),
            1 => prop_oneof![Just(""), Just("a"), Just("a\u{10ffff}"), Just("\u{10ffff}")].prop_map(|p| KeyPredicate::Prefix(0, p.to_owned())),
            1 => Just(KeyPredicate::All),
            1 => Just(KeyPredicate::Nothing),
        ]
    });
    leaf.prop_recursive(4, 24, 4, |inner| {
        let items = prop::collection::vec(inner, 0..4);
        prop_oneof![
            items.clone().prop_map(KeyPredicate::And),
            items.clone().prop_map(KeyPredicate::Or),
            items.clone().prop_map(KeyPredicate::and),
            items.prop_map(KeyPredicate::or),
        ]
    })
}

#[tokio::test]
async fn what_a_long_change_carries_is_not_settled_before_it_is_seen() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = SqliteCatalog::open(&directory.path().join("catalog.db")).await.unwrap();
    let (begun, (end, ended)) = (Arc::new(tokio::sync::Notify::new()), tokio::sync::oneshot::channel::<()>());
    let changing = {
        let (catalog, begun) = (catalog.clone(), Arc::clone(&begun));
        tokio::spawn(async move {
            let change = catalog.write("wait", Names::Stay, move |_| {
                Box::pin(async move {
                    let carried = Utc::now().timestamp_millis();
                    begun.notify_one();
                    ended.await.unwrap();
                    Ok(carried)
                })
            });
            change.await.unwrap()
        })
    };
    begun.notified().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let meanwhile = catalog.settled_ms();
    end.send(()).unwrap();
    assert!(meanwhile <= changing.await.unwrap());
    assert!(catalog.settled_ms() >= meanwhile + 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The store keeps exactly the partitions that the predicate keeps, in the order of their values, NULL first.
    #[test]
    fn sql_agrees_with_evaluation(
        rows in prop::collection::vec((0..KEY_TYPES.len()).map(nullable_value_of).collect::<Vec<_>>(), 1..40),
        predicates in prop::collection::vec(predicate(), 8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let catalog = SqliteCatalog::in_memory().await.unwrap();
            let keys: Vec<_> = KEY_TYPES.iter().zip(0..).map(|(key_type, n)| key(&format!("c{n}"), *key_type)).collect();
            let mut rows = rows;
            rows.sort_by(|left, right| left.partial_cmp(right).unwrap());
            rows.dedup();
            let partition = |values: &Vec<ScalarValue>| NewPartition { values: values.clone(), location: String::new(), files: vec![] };
            let contents = Contents { add_partitions: rows.iter().rev().map(partition).collect(), ..Default::default() };
            let table = catalog.create_table(new_table("t", keys), contents, &"CREATE TABLE".into()).await.unwrap();
            for predicate in predicates {
                let list = catalog.partitions(&table, &predicate, usize::MAX).await.unwrap();
                let kept: Vec<_> = list.partitions.into_iter().map(|partition| partition.values).collect();
                let expected: Vec<_> = rows.iter().filter(|values| predicate.evaluate(values)).cloned().collect();
                assert_eq!(kept, expected, "{predicate:?}");
            }
        });
    }
}
