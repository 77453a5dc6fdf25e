//! The distributed plans of the 22 TPC-H queries as text (`tests/plans`), from statistics that are made up: no data, no executors.
//!
//! `just accept` rewrites the files; the difference is reviewed like code.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Schema;
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

/// A table at [`SCALE`]: one file for a plain one, one per key value for a partitioned one.
async fn create(catalog: &dyn Catalog, table: &tpch::Table) {
    let rows = table.rows(SCALE);
    let schema = table.schema();
    let nullable: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let schema = Arc::new(Schema::new(nullable));
    let location = format!("file:///data/{}/", table.name);
    let keys: Vec<PartitionKey> =
        table.partitioned_by.iter().map(|key| PartitionKey { name: key.name.to_owned(), key_type: KeyType::Int, comment: None }).collect();
    let mut values = vec![vec![]];
    for key in &keys {
        let range = if key.name.ends_with("year") { 1992..1999 } else { 1..13 };
        values = values
            .iter()
            .flat_map(|value| range.clone().map(|next| [value.clone(), vec![ScalarValue::Int32(Some(next))]].concat()))
            .collect();
    }
    let rows_each = rows / values.len() as u64;
    let column = |name: &str| {
        let (min_value, max_value) = bounds(name)
            .map_or((Precision::Absent, Precision::Absent), |(least, greatest)| (Precision::Exact(least), Precision::Exact(greatest)));
        ColumnStatistics { null_count: Precision::Exact(0), min_value, max_value, ..ColumnStatistics::default() }
    };
    let statistics = Statistics {
        num_rows: Precision::Exact(rows_each as usize),
        total_byte_size: Precision::Exact((rows_each * ROW_BYTES) as usize),
        column_statistics: schema.fields().iter().map(|field| column(field.name())).collect(),
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
            statistics: Some(statistics.clone()),
        }],
    };
    let contents = Contents { add_partitions: values.iter().enumerate().map(partition).collect(), ..Contents::default() };
    let new = NewTable {
        database: DEFAULT_DATABASE.to_owned(),
        name: table.name.to_owned(),
        kind: TableKind::External,
        location: location.clone(),
        schema,
        keys,
        comment: None,
        properties: Default::default(),
        view: None,
    };
    catalog.create_table(new, contents).await.unwrap();
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

async fn coordinator(directory: &std::path::Path) -> Arc<Coordinator> {
    let locations = Locations::new([directory.display().to_string()]).unwrap();
    let options = RuntimeOptions {
        memory_limit_bytes: 64 << 20,
        spill_dir: directory.join("spill"),
        spill_limit_bytes: 1 << 20,
        metadata_cache_bytes: 1 << 20,
    };
    let runtime = build_runtime(&options, &locations).unwrap();
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().await.unwrap());
    for table in &tpch::TABLES {
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
    };
    let pipelined = Arc::new(PipelinedEngine::new(options).unwrap());
    Coordinator::new(Parts { catalog, ddl, local, pipelined, staged, cluster, runtime }, CoordinatorLimits::default())
}

/// The stages of an EXPLAIN, with the lists of files shortened to their number.
fn stages(rows: &[RecordBatch]) -> String {
    let mut text = String::new();
    for batch in rows {
        let (kinds, plans) = (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        for row in (0..batch.num_rows()).filter(|row| ["engine", "stages", "scan"].contains(&kinds.value(*row))) {
            text.push_str(&format!("{}: {}\n", kinds.value(row), plans.value(row)));
        }
    }
    let mut short = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("={") {
        let (groups, tail) = after.split_once('}').unwrap();
        short.push_str(&format!("{before}={{{}}}", groups.split(':').next().unwrap()));
        rest = tail;
    }
    short + rest
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_of_tpch_stay_as_they_were_reviewed() {
    let directory = tempfile::tempdir().unwrap();
    let coordinator = coordinator(&directory.path().canonicalize().unwrap()).await;
    let session = coordinator.sessions().open("reviewer").unwrap();
    session.set("datafusion.execution.target_partitions", "8").unwrap();
    for (engine, snapshots) in [("staged", "tpch"), ("pipelined", "tpch-pipelined")] {
        session.set("windlass.engine", engine).unwrap();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(format!("{}/plans/{snapshots}", env!("CARGO_MANIFEST_DIR")));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        for (query, sql) in tpch::queries() {
            let statement = coordinator.prepare(&session, &format!("EXPLAIN {sql}")).await.unwrap();
            let run = coordinator.execute(&session, &statement, None).await.unwrap();
            let rows: Vec<_> = run.rows().await.unwrap().try_collect().await.unwrap();
            settings.bind(|| insta::assert_snapshot!(query, stages(&rows)));
        }
    }
}
