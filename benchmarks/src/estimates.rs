//! Estimated against actual rows of every operator of a suite's queries, in one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::common::plan_datafusion_err;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use windlass_catalog::catalog::{Contents, DEFAULT_DATABASE, NewPartition, NewTable, TableKind};
use windlass_catalog::discover::{Discover, FoundPartition, Layout, discover};
use windlass_catalog::names::{NamesCache, StatementCatalogs};
use windlass_catalog::{Catalog, SqliteCatalog};
use windlass_engine::session::{session_config, state_builder};
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
}

/// One operator: what it is, what was expected of it, and what came.
struct Operator {
    text: String,
    /// By the planner, which orders joins by it.
    planner: Option<f64>,
    /// By the statistics of the physical plan, which chooses build sides by it.
    physical: Option<usize>,
    actual: usize,
}

impl Operator {
    /// How many times too many or too few rows an estimate has.
    fn off(&self, estimate: Option<f64>) -> Option<f64> {
        let (estimate, actual) = (estimate?.max(1.0), self.actual.max(1) as f64);
        Some((estimate / actual).max(actual / estimate))
    }
}

/// Plans each query with the catalog's statistics, runs each of its scans, filters, joins and aggregates by itself, and prints a line
/// about each.
pub async fn run(args: Args) -> Result<()> {
    let data = args.suite.data(args.data.as_deref(), args.scale)?;
    let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().await?);
    for table in args.suite.directories(&data)? {
        record(catalog.as_ref(), &table).await?;
    }
    let names = NamesCache::new(Arc::clone(&catalog));
    println!("query\toperator\tplanner\tphysical\tactual\tplanner off\tphysical off");
    for query in args.suite.queries(&data, &args.queries)? {
        let catalogs = StatementCatalogs::new(Arc::clone(&catalog), names.load().await?, Arc::new(NoViews));
        let builder = state_builder(session_config(args.partitions), Arc::new(RuntimeEnv::default()));
        let context = SessionContext::new_with_state(with_join_order(builder).with_catalog_list(Arc::new(catalogs)).build());
        let state = context.state();
        let plan = context.sql(&query.sql).await.map_err(|error| format!("{}: {error}", query.name))?.into_optimized_plan()?;
        let plan = order_joins(&state, plan).await?;
        load_statistics(&state, &plan).await?;
        for node in operators(&plan)? {
            let operator = operator(&state, &node).await.map_err(|error| format!("{}: {error}", query.name))?;
            let (planner, physical) = (operator.off(operator.planner), operator.off(operator.physical.map(|rows| rows as f64)));
            if planner.is_none_or(|off| off >= args.off) {
                let number = |value: Option<f64>, digits| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
                let estimates = [number(operator.planner, 0), number(operator.physical.map(|rows| rows as f64), 0)].join("\t");
                let offs = [number(planner, 1), number(physical, 1)].join("\t");
                println!("{}\t{}\t{estimates}\t{}\t{offs}", query.name, operator.text, operator.actual);
            }
        }
    }
    Ok(())
}

/// Records the Parquet files in a directory as the table of its name; `key=value` directories are its partitions.
async fn record(catalog: &dyn Catalog, directory: &Path) -> Result<()> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let location = format!("file://{}/", fs::canonicalize(directory)?.display());
    let request = Discover { location: &location, layout: Layout::Inferred, schema: None, partitions: &[], known: &[] };
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
        view: None,
    };
    catalog.create_table(table, contents).await?;
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

async fn operator(state: &SessionState, node: &LogicalPlan) -> Result<Operator> {
    let (planner, text) = (estimated_rows(node), node.display().to_string());
    let plan = state.query_planner().create_physical_plan(node, state).await?;
    let physical = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?.num_rows.get_value().copied();
    let rows = execute_stream(plan, state.task_ctx())?;
    let actual = rows.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await;
    let actual = actual.map_err(|error| plan_datafusion_err!("{text}: {error}"))?;
    Ok(Operator { text, planner, physical, actual })
}
