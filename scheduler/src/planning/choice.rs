//! Which engine runs a query.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use windlass_catalog::provider::HiveTable;
use windlass_catalog::prune::is_key_only;
use windlass_engine::{EngineChoice, WindlassOptions};

use super::threads::{OnThreads, Threads};
use crate::engines::{Cluster, Engine};
use crate::error::Result;

/// The engines there are.
#[derive(Debug, Clone)]
pub struct Engines {
    /// In this process.
    pub local: Arc<dyn Engine>,
    /// On the executors, stages streaming to each other. Hands on to the staged engine what it cannot run.
    pub pipelined: Arc<dyn Engine>,
    /// On the executors, every exchange kept.
    pub staged: Arc<dyn Engine>,
    /// The executors.
    pub cluster: Arc<dyn Cluster>,
}

impl Engines {
    /// The same engines; they plan on `threads`.
    pub(super) fn on(self, threads: &Threads) -> Self {
        let on = |engine| Arc::new(OnThreads::new(engine, threads.clone())) as _;
        Self { local: on(self.local), pipelined: on(self.pipelined), staged: on(self.staged), cluster: self.cluster }
    }

    /// The engine for an optimized plan, and why. Asks the catalog what it reads, which the physical plan then need not ask again.
    pub async fn choose(&self, state: &SessionState, plan: &LogicalPlan) -> Result<(Arc<dyn Engine>, String)> {
        let options = WindlassOptions::of(state.config_options());
        let leaves = Leaves::of(plan)?;
        let (engine, reason) = match options.engine {
            // No setting makes the executors see what is kept here.
            _ if leaves.is_recursive => (&self.local, "it is recursive: each round needs the rows of the one before".to_owned()),
            _ if leaves.has_others => (&self.local, "it reads tables that only the scheduler has".to_owned()),
            EngineChoice::Local => (&self.local, CHOSEN.to_owned()),
            EngineChoice::Pipelined => (&self.pipelined, CHOSEN.to_owned()),
            EngineChoice::Staged => (&self.staged, CHOSEN.to_owned()),
            EngineChoice::Auto if leaves.scans.is_empty() => (&self.local, "it reads no tables".to_owned()),
            EngineChoice::Auto => {
                let mut bytes = 0;
                for scan in &leaves.scans {
                    bytes += scan.table().bytes(state, &scan.filters, scan.limit).await?;
                }
                let limit = options.local_scan_bytes_max;
                match bytes <= limit {
                    true => (&self.local, format!("it reads {bytes} bytes, at most 'windlass.local_scan_bytes_max' ({limit})")),
                    false => (&self.pipelined, format!("it reads {bytes} bytes, more than 'windlass.local_scan_bytes_max' ({limit})")),
                }
            }
        };
        Ok((Arc::clone(engine), reason))
    }
}

/// Why, where a user says so.
const CHOSEN: &str = "'windlass.engine' says so";

/// A scan of a table with files.
pub(super) struct Scan {
    provider: Arc<dyn TableProvider>,
    projection: Option<Vec<usize>>,
    /// As the physical planner hands them to the table.
    pub(super) filters: Vec<Expr>,
    pub(super) limit: Option<usize>,
}

impl Scan {
    /// `None` if it is of a table of another kind.
    pub(super) fn of(scan: &TableScan) -> Option<Self> {
        let provider = source_as_provider(&scan.source).ok().filter(|provider| provider.is::<HiveTable>())?;
        let filters = unnormalize_cols(scan.filters.iter().cloned());
        Some(Self { provider, projection: scan.projection.clone(), filters, limit: scan.fetch })
    }

    pub(super) fn table(&self) -> &HiveTable {
        self.provider.downcast_ref().expect("only scans of such tables are kept")
    }

    /// Whether no file needs to be read but for the number of its rows.
    pub(super) fn reads_keys_only(&self) -> bool {
        let meta = self.table().meta();
        let is_key = |index: &usize| *index >= meta.schema.fields().len();
        self.projection.as_ref().is_some_and(|columns| columns.iter().all(is_key))
            && self.filters.iter().all(|filter| is_key_only(filter, &meta.keys))
    }
}

/// What a plan reads.
#[derive(Default)]
pub(super) struct Leaves {
    pub(super) scans: Vec<Scan>,
    /// Whether there are tables of other kinds.
    pub(super) has_others: bool,
    /// Whether a query refers to itself.
    pub(super) is_recursive: bool,
}

impl Leaves {
    pub(super) fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut leaves = Self::default();
        plan.apply_with_subqueries(|node| {
            match node {
                LogicalPlan::TableScan(scan) => match Scan::of(scan) {
                    Some(scan) => leaves.scans.push(scan),
                    None => leaves.has_others = true,
                },
                LogicalPlan::RecursiveQuery(_) => leaves.is_recursive = true,
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(leaves)
    }
}
