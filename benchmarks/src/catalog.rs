//! How long a scan of one day takes to plan, and many files to commit, on tables of growing numbers of partitions.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::CatalogProviderList;
use datafusion::catalog::memory::DataSourceExec;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics, plan_err};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use tempfile::TempDir;
use windlass_catalog::catalog::{
    AnalyzedPartition, CATALOG, Contents, DEFAULT_DATABASE, DataFile, FilesDigest, KeyType, NewFile, NewPartition, NewTable, PartitionKey,
    TableChange, TableKind, TableMeta, ViewDefinition,
};
use windlass_catalog::names::{NamesCache, StatementCatalogs, ViewPlanner};
use windlass_catalog::{Catalog, Comparison, KeyPredicate, Replaces, SqliteCatalog, Write, WriteIntent, WrittenFile};
use windlass_engine::session::{session_config, state_builder};

use crate::Result;

/// Regions and hours of a day: every day has as many partitions, so a larger table has more days.
const REGIONS: usize = 10;
const HOURS: usize = 24;
/// Columns of the table, each with statistics in each file.
const COLUMNS: usize = 16;
/// Slots of the imagined cluster.
const SLOTS: usize = 8;
/// Partitions added per commit.
const PARTITIONS_PER_COMMIT: usize = 100_000;
/// Partitions whose sketches are kept per commit.
const ANALYZED_PER_COMMIT: usize = 1_000;
/// 2015-01-01, in days since 1970.
const FIRST_DAY: i32 = 16_436;

/// `windlass-bench catalog`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Table sizes, in partitions.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    partitions: Vec<usize>,
    /// As if ANALYZE had been run on all columns of every partition; takes 33 kB per partition.
    #[arg(long)]
    analyzed: bool,
    /// Plans measured per table, each of another day.
    #[arg(long, default_value_t = 101)]
    runs: usize,
    /// Files of one commit, each of a partition of its own; 0 commits nothing.
    #[arg(long, default_value_t = 10_000)]
    files: usize,
}

/// A table in a store of its own, and how long its plans took.
struct Table {
    partitions: usize,
    load: Duration,
    planner: Planner,
    files: usize,
    first: Duration,
    times: Vec<Duration>,
    _directory: TempDir,
}

/// Generates the tables, plans a query of one day on each in turn, and prints a line about each.
///
/// In turn, so that what else the machine does slows all of them alike. The first plan of a table opens connections and reads the store's
/// pages from disk; it is shown by itself.
pub async fn run(args: Args) -> Result<()> {
    let mut tables = Vec::with_capacity(args.partitions.len());
    for partitions in args.partitions {
        tables.push(Table::generate(partitions, args.analyzed).await?);
    }
    // A stride that is prime visits days all over the table.
    for run in 0..=args.runs {
        for table in &mut tables {
            let days = (table.partitions / (REGIONS * HOURS)).max(1);
            let day = FIRST_DAY + i32::try_from((run * 7919) % days)?;
            let start = Instant::now();
            table.files = table.planner.plan(day).await?;
            match run {
                0 => table.first = start.elapsed(),
                _ => table.times.push(start.elapsed()),
            }
        }
    }
    println!("{:>10} {:>14} {:>6} {:>12} {:>12} {:>12} {:>12}", "partitions", "load", "files", "first", "min", "median", "p90");
    for Table { partitions, load, files, first, times, .. } in &mut tables {
        times.sort();
        let percentile = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
        let [min, median, p90] = [0, 50, 90].map(|percent| milliseconds(percentile(percent).unwrap_or_default()));
        let (load, first) = (milliseconds(*load), milliseconds(*first));
        println!("{partitions:>10} {load:>14} {files:>6} {first:>12} {min:>12} {median:>12} {p90:>12}");
    }
    if args.files > 0 {
        println!("\n{:>10} {:>14} {:>14} {:>14} {:>14} {:>14}", "partitions", "append", "overwrite", "past plan", "vacuum", "again");
        for table in &tables {
            let times = commits(table.planner.catalog.as_ref(), table.partitions.min(args.files)).await?;
            println!("{:>10} {}", table.partitions, times.map(|time| format!("{:>14}", milliseconds(time))).join(" "));
        }
    }
    Ok(())
}

/// Adds a file to each of some partitions, replaces all of theirs, lists these partitions as they were, forgets what went, and tries to again.
async fn commits(catalog: &dyn Catalog, files: usize) -> Result<[Duration; 5]> {
    let table = catalog.table(DEFAULT_DATABASE, "t").await?.ok_or("the table is gone")?;
    let write = |query_id: &str, replaces| -> Result<Write> {
        let written = |number| {
            let NewPartition { values, location, mut files } = partition(number)?;
            let mut file = files.remove(0);
            file.url = format!("{location}part-{query_id}-0.parquet");
            Ok(WrittenFile { values, partition_location: location, file })
        };
        let files = (0..files).map(written).collect::<Result<_>>()?;
        Ok(Write {
            query_id: query_id.to_owned(),
            operation: "INSERT".to_owned(),
            user: String::new(),
            replaces,
            files,
            refresh: None,
            advances: Vec::new(),
            beside: Vec::new(),
        })
    };
    let mut times = [Duration::ZERO; 5];
    for (time, write) in times.iter_mut().zip([write("q1", Replaces::Nothing)?, write("q2", Replaces::TouchedPartitions)?]) {
        let location = table.location.clone();
        catalog.begin_write(WriteIntent { query_id: write.query_id.clone(), location, table_id: Some(table.id) }).await?;
        let start = Instant::now();
        catalog.commit_write(&table, write).await?;
        *time = start.elapsed();
    }
    let day = KeyPredicate::Compare(0, Comparison::Equal, ScalarValue::Date32(Some(FIRST_DAY)));
    let past = TableMeta { as_of: Some(table.version + 1), ..table.as_ref().clone() };
    let start = Instant::now();
    catalog.scan(&past, &day, None, usize::MAX).await?;
    times[2] = start.elapsed();
    for time in &mut times[3..] {
        let start = Instant::now();
        let expired = catalog.expire(None, i64::MAX, usize::MAX, false).await?;
        catalog.forget_garbage(&expired.files).await?;
        *time = start.elapsed();
    }
    Ok(times)
}

impl Table {
    async fn generate(partitions: usize, analyzed: bool) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let catalog = SqliteCatalog::open(&directory.path().join("catalog.db")).await?;
        let start = Instant::now();
        generate(&catalog, partitions).await?;
        if analyzed {
            analyze(&catalog).await?;
        }
        let (load, planner) = (start.elapsed(), Planner::new(Arc::new(catalog)));
        Ok(Self { partitions, load, planner, files: 0, first: Duration::ZERO, times: Vec::new(), _directory: directory })
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// A table with keys `dt date, region string, hr int` and one file per partition.
async fn generate(catalog: &SqliteCatalog, partitions: usize) -> Result<()> {
    let key = |name: &str, key_type| PartitionKey { name: name.to_owned(), key_type, comment: None };
    let fields = (0..COLUMNS).map(|column| Field::new(format!("c{column}"), DataType::Int64, true));
    let table = NewTable {
        database: DEFAULT_DATABASE.to_owned(),
        name: "t".to_owned(),
        kind: TableKind::External,
        location: "file:///nowhere/t/".to_owned(),
        schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
        keys: vec![key("dt", KeyType::Date), key("region", KeyType::String), key("hr", KeyType::Int)],
        comment: None,
        properties: Default::default(),
        storage: Default::default(),
        view: None,
    };
    let mut table = catalog.create_table(table, Contents::default(), &"CREATE TABLE".into()).await?;
    for first in (0..partitions).step_by(PARTITIONS_PER_COMMIT) {
        let last = partitions.min(first + PARTITIONS_PER_COMMIT);
        let add_partitions = (first..last).map(partition).collect::<Result<_>>()?;
        let contents = Contents { add_partitions, ..Default::default() };
        table = catalog.change_table(&table, &"ADD PARTITION".into(), TableChange::Contents(contents)).await?;
    }
    Ok(())
}

/// Keeps a sketch of a thousand values for every column of every partition.
async fn analyze(catalog: &SqliteCatalog) -> Result<()> {
    let state = state_builder(session_config(1), Arc::default()).build();
    let sketch = SessionContext::new_with_state(state).sql("SELECT hll_sketch_agg(value) FROM range(1000)").await?.collect().await?;
    let sketch = sketch[0].column(0).as_binary::<i64>().value(0).to_vec();
    let table = catalog.table(DEFAULT_DATABASE, "t").await?.ok_or("the table is gone")?;
    let found = catalog.scan(&table, &KeyPredicate::All, None, usize::MAX).await?;
    let analyzed = |file: &DataFile| {
        let statistics = file.file.statistics.as_deref().cloned().unwrap_or_default();
        let partition = AnalyzedPartition { partition_id: file.partition_id, statistics, sketches: vec![sketch.clone(); COLUMNS] };
        (partition, FilesDigest::of([file]))
    };
    for files in found.files.chunks(ANALYZED_PER_COMMIT) {
        catalog.put_analyzed(&table, files.iter().map(analyzed).collect()).await?;
    }
    Ok(())
}

fn partition(number: usize) -> Result<NewPartition> {
    let (day, region, hour) = (number / (REGIONS * HOURS), number / HOURS % REGIONS, number % HOURS);
    let day = FIRST_DAY + i32::try_from(day)?;
    let location = format!("file:///nowhere/t/dt={day}/region=r{region}/hr={hour}/");
    let low = i64::try_from(number)? * 1000;
    let column = ColumnStatistics {
        null_count: Precision::Exact(0),
        min_value: Precision::Exact(low.into()),
        max_value: Precision::Exact((low + 999).into()),
        ..ColumnStatistics::new_unknown()
    };
    let statistics = Statistics {
        num_rows: Precision::Exact(1000),
        total_byte_size: Precision::Exact(128_000),
        column_statistics: vec![column; COLUMNS],
    };
    let file = NewFile {
        url: format!("{location}part-0.parquet"),
        size: 64_000,
        modified_ms: 0,
        etag: None,
        rows: Some(1000),
        statistics: Some(Arc::new(statistics)),
        kept_rows: None,
    };
    let values = vec![ScalarValue::Date32(Some(day)), format!("r{region}").as_str().into(), i32::try_from(hour)?.into()];
    Ok(NewPartition { values, location, files: vec![file] })
}

/// A session as the scheduler makes one per statement.
struct Planner {
    catalog: Arc<dyn Catalog>,
    names: NamesCache,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
}

impl Planner {
    fn new(catalog: Arc<dyn Catalog>) -> Self {
        let config = session_config(SLOTS).with_default_catalog_and_schema(CATALOG, DEFAULT_DATABASE);
        Self { names: NamesCache::new(Arc::clone(&catalog)), catalog, config, runtime: Arc::default() }
    }

    /// Plans a query of one day, from its text to operators; returns the files it reads.
    async fn plan(&self, day: i32) -> Result<usize> {
        let catalogs = StatementCatalogs::new(Arc::clone(&self.catalog), self.names.load().await?, Arc::new(NoViews));
        let state = state_builder(self.config.clone(), Arc::clone(&self.runtime)).with_catalog_list(Arc::new(catalogs)).build();
        let day = ScalarValue::Date32(Some(day));
        let plan = SessionContext::new_with_state(state).sql(&format!("SELECT count(*) FROM t WHERE dt = DATE '{day}'")).await?;
        let plan = plan.create_physical_plan().await?;
        let mut files = 0;
        plan.apply(|node| {
            let scan = node.downcast_ref::<DataSourceExec>().and_then(|scan| scan.data_source().downcast_ref::<FileScanConfig>());
            let paths = scan.iter().flat_map(|scan| &scan.file_groups).flat_map(|group| group.iter());
            // Large files are cut at row groups; the cuts are one file.
            files += paths.map(|file| file.path()).collect::<HashSet<_>>().len();
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(files)
    }
}

/// For catalogs that have no views.
#[derive(Debug)]
pub struct NoViews;

#[async_trait]
impl ViewPlanner for NoViews {
    async fn plan_view(&self, _: &ViewDefinition, _: Arc<dyn CatalogProviderList>) -> datafusion::error::Result<LogicalPlan> {
        plan_err!("there are no views in this benchmark")
    }
}
