//! Estimated against actual rows of every operator of a suite's queries, in one process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, plan_datafusion_err};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, displayable, execute_stream};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use windlass_catalog::catalog::{Contents, DEFAULT_DATABASE, NewPartition, NewTable, TableKind};
use windlass_catalog::discover::{Discover, FoundPartition, Layout, discover};
use windlass_catalog::names::{NamesCache, StatementCatalogs};
use windlass_catalog::{Catalog, SqliteCatalog};
use windlass_engine::formats::Storage;
use windlass_engine::session::{session_config, state_builder};
use windlass_scheduler::planning::estimates::with_estimates;
use windlass_scheduler::planning::join_order::{estimated_rows, load_statistics, order_joins, with_join_order};

use crate::Result;
use crate::catalog::NoViews;
use crate::suite::Suite;

/// `windlass-bench estimates`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The queries, and the data they are asked of.
    #[arg(long)]
    suite: Suite,
    /// Directory of the data set.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Scale of TPC-H data to generate if there is none.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Partitions of every plan.
    #[arg(long, default_value_t = 2)]
    partitions: usize,
    /// Only these queries, such as q01,q18.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
    /// Only operators whose planner estimate is off by this factor or more.
    #[arg(long, default_value_t = 1.0)]
    off: f64,
    /// Instead runs the queries whose plans our estimates change, with them and with DataFusion's own, and prints seconds of CPU.
    #[arg(long, value_name = "RUNS")]
    time: Option<usize>,
}

/// Who estimates: the planner orders joins by what logical plans are estimated to give, and chooses their sides and modes by what
/// physical ones are; DataFusion would choose by its own statistics.
const ESTIMATORS: [&str; 3] = ["planner", "physical", "datafusion"];

/// One operator: what it is, what was expected of it, and what came.
struct Operator {
    text: String,
    /// Rows, by [`ESTIMATORS`].
    estimates: [Option<f64>; 3],
    actual: usize,
}

impl Operator {
    /// How many times too many or too few rows each estimate has.
    fn off(&self) -> [Option<f64>; 3] {
        let actual = self.actual.max(1) as f64;
        self.estimates.map(|estimate| estimate.map(|rows| (rows.max(1.0) / actual).max(actual / rows.max(1.0))))
    }

    /// The first words of what it is.
    fn kind(&self) -> &str {
        self.text.split([':', ' ']).next().unwrap_or_default()
    }
}

/// Plans each query with the catalog's statistics, runs each of its scans, filters, joins and aggregates by itself, and prints a line
/// about each; then how far off each estimator was.
pub async fn run(args: Args) -> Result<()> {
    let data = args.suite.data(args.data.as_deref(), args.scale)?;
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().await?);
    for table in args.suite.directories(&data)? {
        record(catalog.as_ref(), &table).await?;
    }
    let names = NamesCache::new(Arc::clone(&catalog));
    let queries = args.suite.queries(&data, &args.queries)?;
    match args.time {
        Some(_) => println!("query\tours\tdatafusion\tratio"),
        None => println!("query\toperator\t{}\tactual\t{} off", ESTIMATORS.join("\t"), ESTIMATORS.join(" off\t")),
    }
    let mut all = Vec::new();
    for query in queries {
        let failed = |error: DataFusionError| format!("{}: {error}", query.name);
        let catalogs = StatementCatalogs::new(Arc::clone(&catalog), names.load().await?, Arc::new(NoViews));
        let builder = with_join_order(state_builder(session_config(args.partitions), Arc::new(RuntimeEnv::default())));
        let context = SessionContext::new_with_state(with_estimates(builder).with_catalog_list(Arc::new(catalogs)).build());
        let state = context.state();
        let plan = context.sql(&query.sql).await.map_err(failed)?.into_optimized_plan()?;
        let plan = order_joins(&state, plan).await?;
        load_statistics(&state, &plan).await?;
        if let Some(runs) = args.time {
            if let Some([ours, datafusion]) = cpu_seconds(&state, &plan, runs).await.map_err(failed)? {
                println!("{}\t{ours:.2}\t{datafusion:.2}\t{:.2}", query.name, ours / datafusion);
            }
            continue;
        }
        for node in operators(&plan)? {
            let operator = operator(&state, &node).await.map_err(failed)?;
            if operator.off()[0].is_none_or(|off| off >= args.off) {
                let (estimates, offs) = (columns(operator.estimates, 0), columns(operator.off(), 1));
                println!("{}\t{}\t{estimates}\t{}\t{offs}", query.name, operator.text, operator.actual);
            }
            all.push(operator);
        }
    }
    if args.time.is_none() {
        summary(&all);
    }
    Ok(())
}

fn columns(values: [Option<f64>; 3], digits: usize) -> String {
    values.map(|value| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))).join("\t")
}

/// How far off estimates are: half of them at most so far, nine in ten, and all.
fn summary(operators: &[Operator]) {
    let mut kinds: Vec<&str> = operators.iter().map(Operator::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    println!("\noperators\testimator\tknown\tmedian off\tp90 off\tmax off");
    for kind in kinds.into_iter().map(Some).chain([None]) {
        let of_kind: Vec<&Operator> = operators.iter().filter(|operator| kind.is_none_or(|kind| operator.kind() == kind)).collect();
        for (number, estimator) in ESTIMATORS.into_iter().enumerate() {
            let mut offs: Vec<f64> = of_kind.iter().filter_map(|operator| operator.off()[number]).collect();
            offs.sort_unstable_by(f64::total_cmp);
            let share = |share: f64| offs.get(((offs.len() as f64 * share) as usize).min(offs.len().saturating_sub(1))).copied();
            let shares = columns([share(0.5), share(0.9), share(1.0)], 1);
            println!("{}\t{estimator}\t{} of {}\t{shares}", kind.unwrap_or("all"), offs.len(), of_kind.len());
        }
    }
}

/// Least CPU seconds of a query in `runs` runs, planned with our estimates and with DataFusion's own. `None` if both give the same plan.
async fn cpu_seconds(state: &SessionState, plan: &LogicalPlan, runs: usize) -> Result<Option<[f64; 2]>, DataFusionError> {
    let mut own = state.clone();
    own.config_mut().options_mut().optimizer.use_statistics_registry = false;
    let planned = async |state: &SessionState| state.query_planner().create_physical_plan(plan, state).await;
    let text = |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(false).to_string();
    if text(&planned(state).await?) == text(&planned(&own).await?) {
        return Ok(None);
    }
    let mut least = [f64::INFINITY; 2];
    for _ in 0..runs {
        for (least, state) in least.iter_mut().zip([state, &own]) {
            let before = process_cpu_seconds();
            rows(state, planned(state).await?).await?;
            *least = least.min(process_cpu_seconds() - before);
        }
    }
    Ok(Some(least))
}

/// CPU time that this process has used, all threads together, as Linux counts it: in hundredths of a second.
fn process_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command, in parentheses, may have spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Records the Parquet files in a directory as the table of its name; `key=value` directories are its partitions.
async fn record(catalog: &dyn Catalog, directory: &Path) -> Result<()> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let location = format!("file://{}/", fs::canonicalize(directory)?.display());
    let (storage, properties) = (Storage::default(), BTreeMap::new());
    let request = Discover {
        location: &location,
        layout: Layout::Inferred,
        schema: None,
        grows: false,
        partitions: &[],
        known: &[],
        storage: &storage,
        properties: &properties,
    };
    let found = discover(request, RuntimeEnv::default().object_store(ObjectStoreUrl::local_filesystem())?).await?;
    let partition = |found: FoundPartition| NewPartition { values: found.values, location: found.location, files: found.files };
    let contents = Contents { add_partitions: found.partitions.into_iter().map(partition).collect(), ..Contents::default() };
    let table = NewTable {
        database: DEFAULT_DATABASE.to_owned(),
        name,
        kind: TableKind::External,
        location,
        schema: found.schema,
        keys: found.keys,
        comment: None,
        properties: Default::default(),
        storage: Default::default(),
        view: None,
    };
    catalog.create_table(table, contents, &"CREATE TABLE".into()).await?;
    Ok(())
}

/// The nodes of a plan that change how many rows there are, from the root down.
fn operators(plan: &LogicalPlan) -> Result<Vec<LogicalPlan>> {
    let mut found = Vec::new();
    plan.apply(|node| {
        use LogicalPlan as P;
        if matches!(node, P::TableScan(_) | P::Filter(_) | P::Join(_) | P::Aggregate(_) | P::Distinct(_) | P::Union(_)) {
            found.push(node.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

async fn operator(state: &SessionState, node: &LogicalPlan) -> Result<Operator, DataFusionError> {
    let (planner, text) = (estimated_rows(node), node.display().to_string());
    let plan = state.query_planner().create_physical_plan(node, state).await?;
    let registry = state.statistics_registry().cloned().unwrap_or_default();
    let told = [
        registry.compute_base(plan.as_ref())?,
        Statistics::clone(&*StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?),
    ];
    let [physical, datafusion] = told.map(|statistics| statistics.num_rows.get_value().map(|rows| *rows as f64));
    let actual = rows(state, plan).await.map_err(|error| plan_datafusion_err!("{text}: {error}"))?;
    Ok(Operator { text, estimates: [planner, physical, datafusion], actual })
}

/// Runs a plan and counts its rows.
async fn rows(state: &SessionState, plan: Arc<dyn ExecutionPlan>) -> Result<usize, DataFusionError> {
    let rows = execute_stream(plan, state.task_ctx())?;
    rows.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await
}
