//! Which engine runs a query.

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::{Expr, LogicalPlan};
use windlass_catalog::provider::HiveTable;
use windlass_engine::{EngineChoice, WindlassOptions};

use super::threads::{OnThreads, Threads};
use crate::engines::Engine;
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
}

impl Engines {
    /// The same engines; they plan on `threads`.
    pub(super) fn on(self, threads: &Threads) -> Self {
        let on = |engine| Arc::new(OnThreads::new(engine, threads.clone())) as _;
        Self { local: on(self.local), pipelined: on(self.pipelined), staged: on(self.staged) }
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
struct Scan {
    provider: Arc<dyn TableProvider>,
    filters: Vec<Expr>,
    limit: Option<usize>,
}

impl Scan {
    fn table(&self) -> &HiveTable {
        self.provider.downcast_ref().expect("only scans of such tables are kept")
    }
}

/// What a plan reads.
#[derive(Default)]
struct Leaves {
    scans: Vec<Scan>,
    /// Whether there are tables of other kinds.
    has_others: bool,
    /// Whether a query refers to itself.
    is_recursive: bool,
}

impl Leaves {
    fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut leaves = Self::default();
        plan.apply_with_subqueries(|node| {
            match node {
                LogicalPlan::TableScan(scan) => {
                    let provider = source_as_provider(&scan.source)?;
                    match provider.is::<HiveTable>() {
                        // As the physical planner hands them to the table.
                        true => {
                            leaves.scans.push(Scan { provider, filters: unnormalize_cols(scan.filters.iter().cloned()), limit: scan.fetch })
                        }
                        false => leaves.has_others = true,
                    }
                }
                LogicalPlan::RecursiveQuery(_) => leaves.is_recursive = true,
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(leaves)
    }
}
