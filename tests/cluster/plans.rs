//! The distributed plans of the queries of TPC-H and TPC-DS as text (`tests/plans`), from statistics that are made up: no data, no
//! executors.
//!
//! `just accept` rewrites the files of TPC-H, `INSTA_UPDATE=always tests/tpcds/run --plans` those of TPC-DS, whose queries are not part of
//! the repository; the difference is reviewed like code.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use futures::TryStreamExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use windlass_catalog::catalog::{Contents, DEFAULT_DATABASE, KeyType, NewFile, NewPartition, NewTable, PartitionKey, TableKind};
use windlass_catalog::{Catalog, SqliteCatalog};
use windlass_client::tpch;
use windlass_engine::pipelined::BUILD;
use windlass_engine::{Locations, RuntimeOptions, build_runtime};
use windlass_scheduler::coordinator::{Coordinator, CoordinatorLimits, Parts};
use windlass_scheduler::ddl::DdlExecutor;
use windlass_scheduler::engines::local::LocalEngine;
use windlass_scheduler::engines::pipelined::{PipelinedEngine, PipelinedOptions};
use windlass_scheduler::engines::staged::{StagedEngine, StagedOptions};
use windlass_scheduler::engines::{Cluster, ExecutorInfo};
use windlass_scheduler::session::Session;
use windlass_scheduler::system;

/// Scale of the invented data set, and the bytes of an invented row.
const SCALE: f64 = 100.0;
const ROW_BYTES: u64 = 80;

/// Bounds of a column: keys count from 1 to the rows of the table that they name, of which orders has a quarter; seven years of dates.
fn bounds(column: &str) -> Option<(ScalarValue, ScalarValue)> {
    let (_, name) = column.split_once('_')?;
    let rows = |name: &str| tpch::TABLES.iter().find(|table| table.name == name).map(|table| table.rows(SCALE) as i64);
    let greatest = match name {
        "orderkey" => 4 * rows("orders")?,
        "custkey" => rows("customer")?,
        "partkey" => rows("part")?,
        "suppkey" => rows("supplier")?,
        "nationkey" => rows("nation")?,
        "regionkey" => rows("region")?,
        _ if name.ends_with("date") => return Some((ScalarValue::Date32(Some(8035)), ScalarValue::Date32(Some(10591)))),
        _ => return None,
    };
    Some((ScalarValue::Int64(Some(1)), ScalarValue::Int64(Some(greatest))))
}

/// Different values of columns of text that have few, as dictionaries in footers tell.
fn distinct(column: &str) -> Precision<usize> {
    Precision::Inexact(match column {
        "l_linestatus" => 2,
        "l_returnflag" | "o_orderstatus" => 3,
        "l_shipinstruct" => 4,
        "c_mktsegment" | "o_orderpriority" | "p_mfgr" => 5,
        "l_shipmode" => 7,
        "p_brand" => 25,
        "p_container" => 40,
        "p_type" => 150,
        _ => return Precision::Absent,
    })
}

/// A table that exists in the catalog only: one file for a plain one, one per key value for a partitioned one.
struct Invented {
    name: String,
    rows: u64,
    columns: Vec<(Field, ColumnStatistics)>,
    keys: Vec<PartitionKey>,
}

/// The tables of TPC-H at [`SCALE`].
fn tpch_tables() -> Vec<Invented> {
    let column = |field: &Arc<Field>| {
        let (min_value, max_value) = bounds(field.name())
            .map_or((Precision::Absent, Precision::Absent), |(least, greatest)| (Precision::Exact(least), Precision::Exact(greatest)));
        let distinct_count = distinct(field.name());
        let statistics = ColumnStatistics { null_count: Precision::Exact(0), min_value, max_value, distinct_count, ..Default::default() };
        (field.as_ref().clone().with_nullable(true), statistics)
    };
    let table = |table: &tpch::Table| Invented {
        name: table.name.to_owned(),
        rows: table.rows(SCALE),
        columns: table.schema().fields().iter().map(column).collect(),
        keys: table
            .partitioned_by
            .iter()
            .map(|key| PartitionKey { name: key.name.to_owned(), key_type: KeyType::Int, comment: None })
            .collect(),
    };
    tpch::TABLES.iter().map(table).collect()
}

/// The tables of TPC-DS as `tests/tpcds/run --statistics` describes them.
fn tpcds_tables() -> Vec<Invented> {
    let mut tables: Vec<Invented> = Vec::new();
    for line in include_str!("../plans/tpcds/tables.txt").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [name, rows] => {
                let (name, rows) = (name.to_owned(), rows.parse().unwrap());
                tables.push(Invented { name, rows, columns: Vec::new(), keys: Vec::new() });
            }
            [name, kind, distinct, ref bounds @ ..] => {
                let data_type = match kind.strip_prefix("decimal(").and_then(|digits| digits.strip_suffix(')')) {
                    Some(digits) => {
                        let (precision, scale) = digits.split_once(',').unwrap();
                        DataType::Decimal128(precision.parse().unwrap(), scale.parse().unwrap())
                    }
                    None => match kind {
                        "int" => DataType::Int32,
                        "bigint" => DataType::Int64,
                        "date" => DataType::Date32,
                        "string" => DataType::Utf8View,
                        _ => panic!("no type '{kind}'"),
                    },
                };
                let bound = |position: usize| match bounds.get(position).filter(|value| **value != "None") {
                    Some(value) => Precision::Exact(ScalarValue::try_from_string((*value).to_owned(), &data_type).unwrap()),
                    None => Precision::Absent,
                };
                let statistics = ColumnStatistics {
                    null_count: Precision::Exact(0),
                    distinct_count: Precision::Inexact(distinct.parse().unwrap()),
                    min_value: bound(0),
                    max_value: bound(1),
                    ..ColumnStatistics::default()
                };
                tables.last_mut().unwrap().columns.push((Field::new(name, data_type, true), statistics));
            }
            _ => panic!("'{line}' describes nothing"),
        }
    }
    tables
}

async fn create(catalog: &dyn Catalog, table: Invented) {
    let Invented { name, rows, columns, keys } = table;
    let location = format!("file:///data/{name}/");
    let mut values = vec![vec![]];
    for key in &keys {
        let range = if key.name.ends_with("year") { 1992..1999 } else { 1..13 };
        values = values
            .iter()
            .flat_map(|value| range.clone().map(|next| [value.clone(), vec![ScalarValue::Int32(Some(next))]].concat()))
            .collect();
    }
    let rows_each = rows / values.len() as u64;
    let (fields, column_statistics): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let statistics = Statistics {
        num_rows: Precision::Exact(rows_each as usize),
        total_byte_size: Precision::Exact((rows_each * ROW_BYTES) as usize),
        column_statistics,
    };
    let partition = |(number, values): (usize, &Vec<ScalarValue>)| NewPartition {
        values: values.clone(),
        location: location.clone(),
        files: vec![NewFile {
            url: format!("{location}part-{number}.parquet"),
            size: rows_each * ROW_BYTES / 3,
            modified_ms: 0,
            etag: None,
            rows: Some(rows_each),
            statistics: Some(Arc::new(statistics.clone())),
            kept_rows: None,
        }],
    };
    let contents = Contents { add_partitions: values.iter().enumerate().map(partition).collect(), ..Contents::default() };
    let new = NewTable {
        database: DEFAULT_DATABASE.to_owned(),
        name,
        kind: TableKind::External,
        location: location.clone(),
        schema: Arc::new(Schema::new(fields)),
        keys,
        comment: None,
        properties: Default::default(),
        storage: Default::default(),
        view: None,
    };
    catalog.create_table(new, contents, &"CREATE TABLE".into()).await.unwrap();
}

/// Executors that only planners see.
#[derive(Debug)]
struct FourExecutors;

impl Cluster for FourExecutors {
    fn executors(&self) -> Vec<ExecutorInfo> {
        let executor = |number: u64| ExecutorInfo {
            id: number.to_string(),
            address: format!("10.0.0.{number}:31340"),
            slots: 2,
            slots_used: 0,
            state: "ACTIVE",
            heartbeat_age_ms: 0,
            version: BUILD.to_owned(),
            memory_bytes: 64 << 30,
        };
        (1..=4).map(executor).collect()
    }
}

async fn coordinator(directory: &Path, tables: Vec<Invented>) -> Arc<Coordinator> {
    let locations = Locations::new([directory.display().to_string()]).unwrap();
    let options = RuntimeOptions {
        memory_limit_bytes: 64 << 20,
        spill_dir: directory.join("spill"),
        spill_limit_bytes: 1 << 20,
        metadata_cache_bytes: 1 << 20,
    };
    let runtime = build_runtime(&options, &locations).unwrap();
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().await.unwrap());
    for table in tables {
        create(catalog.as_ref(), table).await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (staged, _serving) = StagedEngine::start(StagedOptions::new(listener, endpoint, CancellationToken::new())).await.unwrap();
    let ddl = DdlExecutor::new(
        Arc::clone(&catalog),
        locations,
        Arc::clone(&runtime),
        format!("file://{}/", directory.display()).parse().unwrap(),
        system::tables(),
    );
    let local = Arc::new(LocalEngine::new(1, Arc::clone(&runtime)).unwrap());
    let cluster: Arc<dyn Cluster> = Arc::new(FourExecutors);
    let options = PipelinedOptions {
        threads: 1,
        runtime: Arc::clone(&runtime),
        cluster: Arc::clone(&cluster),
        staged: Arc::clone(&staged) as _,
        key: None,
        stall_timeout: Duration::from_secs(180),
    };
    let pipelined = Arc::new(PipelinedEngine::new(options).unwrap());
    Coordinator::new(Parts { catalog, ddl, local, pipelined, staged, cluster, runtime }, CoordinatorLimits::default())
}

/// The rows of an EXPLAIN that are of these kinds.
fn explained(rows: &[RecordBatch], wanted: &[&str]) -> String {
    let mut text = String::new();
    for batch in rows {
        let (kinds, plans) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        for row in (0..batch.num_rows()).filter(|row| wanted.contains(&kinds.value(*row))) {
            text.push_str(&format!("{}: {}\n", kinds.value(row), plans.value(row)));
        }
    }
    text
}

/// The stages of an EXPLAIN, with the lists of files shortened to their number.
fn stages(rows: &[RecordBatch]) -> String {
    let text = explained(rows, &["engine", "stages", "scan"]);
    let mut short = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("={") {
        let (groups, tail) = after.split_once('}').unwrap();
        short.push_str(&format!("{before}={{{}}}", groups.split(':').next().unwrap()));
        rest = tail;
    }
    short + rest
}

/// What decides how fast a pipelined plan is, a line for each: exchanges, joins, aggregations, sorts, and the tables that are read.
fn outline(rows: &[RecordBatch]) -> String {
    let text = explained(rows, &["engine", "stages"]);
    let lines = text.lines().filter(|line| !line.contains("└──")).filter_map(|line| {
        let start = line.find(char::is_alphabetic)?;
        let (indent, operator) = line.split_at(start);
        let short = match operator.split([':', ' ']).next()? {
            // Of a scan that is cut into tasks, the first one.
            "t0" | "DataSourceExec" => {
                let (_, path) = operator.split_once("data/")?;
                format!("scan {}", path.split('/').next()?)
            }
            "HashJoinExec" | "SortMergeJoinExec" | "NestedLoopJoinExec" => {
                let end = operator.find(", projection=").unwrap_or(operator.len());
                operator[..end].to_owned()
            }
            "AggregateExec" => operator.split(", aggr=").next()?.to_owned(),
            name @ ("BoundedWindowAggExec" | "WindowAggExec" | "UnionExec" | "CrossJoinExec" | "PackExec") => name.to_owned(),
            "SortExec" | "SortPreservingMergeExec" | "engine" => operator.to_owned(),
            _ if operator.starts_with("Stage ") => operator.to_owned(),
            _ => return None,
        };
        Some(format!("{indent}{short}\n"))
    });
    lines.collect()
}

/// What EXPLAIN says of a query.
async fn explain(coordinator: &Arc<Coordinator>, session: &Arc<Session>, sql: &str) -> Vec<RecordBatch> {
    let statement = coordinator.prepare(session, &format!("EXPLAIN {sql}")).await.unwrap();
    let run = coordinator.execute(session, &statement, None).await.unwrap();
    run.rows().await.unwrap().try_collect().await.unwrap()
}

/// Snapshots in a directory of `tests/plans`.
fn snapshots(directory: &str) -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("{}/plans/{directory}", env!("CARGO_MANIFEST_DIR")));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_of_tpch_stay_as_they_were_reviewed() {
    let directory = tempfile::tempdir().unwrap();
    let coordinator = coordinator(&directory.path().canonicalize().unwrap(), tpch_tables()).await;
    let session = coordinator.sessions().open("reviewer").unwrap();
    session.set("datafusion.execution.target_partitions", "8").unwrap();
    for (engine, directory) in [("staged", "tpch"), ("pipelined", "tpch-pipelined")] {
        session.set("windlass.engine", engine).unwrap();
        for (query, sql) in tpch::queries() {
            let rows = explain(&coordinator, &session, sql).await;
            snapshots(directory).bind(|| insta::assert_snapshot!(query, stages(&rows)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tests/tpcds/run --plans brings the queries"]
async fn plans_of_tpcds_stay_as_they_were_reviewed() {
    let queries = std::env::var_os("WINDLASS_TPCDS_QUERIES").expect("tests/tpcds/run --plans says where the queries are");
    let mut queries: Vec<_> = std::fs::read_dir(queries).unwrap().map(|file| file.unwrap().path()).collect();
    queries.sort();
    assert_eq!(queries.len(), 99);
    let directory = tempfile::tempdir().unwrap();
    let coordinator = coordinator(&directory.path().canonicalize().unwrap(), tpcds_tables()).await;
    let session = coordinator.sessions().open("reviewer").unwrap();
    session.set("datafusion.execution.target_partitions", "8").unwrap();
    for query in queries {
        let sql = std::fs::read_to_string(&query).unwrap();
        let name = query.file_stem().unwrap().to_string_lossy().into_owned();
        for (engine, directory) in [("pipelined", "tpcds"), ("staged", "tpcds-staged")] {
            session.set("windlass.engine", engine).unwrap();
            let rows = explain(&coordinator, &session, &sql).await;
            snapshots(directory).bind(|| insta::assert_snapshot!(name.clone(), outline(&rows)));
        }
    }
}
