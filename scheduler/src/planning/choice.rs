//! Which engine runs a query.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::LogicalPlan;
use windlass_catalog::Catalog;
use windlass_catalog::catalog::TableMeta;
use windlass_catalog::provider::HiveTable;
use windlass_engine::{EngineChoice, WindlassOptions};

use super::Planned;
use crate::engines::Engine;
use crate::error::Result;

/// The engines there are.
#[derive(Debug, Clone)]
pub struct Engines {
    /// In this process.
    pub local: Arc<dyn Engine>,
    /// On the executors.
    pub staged: Arc<dyn Engine>,
}

impl Engines {
    /// The engine for a query, and why.
    pub async fn choose(&self, catalog: &dyn Catalog, planned: &Planned) -> Result<(Arc<dyn Engine>, String)> {
        let options = WindlassOptions::of(planned.context.state().config_options());
        let leaves = Leaves::of(&planned.plans[0])?;
        let (is_local, reason) = match options.engine {
            // No setting makes the executors see what is kept here.
            _ if leaves.has_others => (true, "it reads tables that only the scheduler has".to_owned()),
            EngineChoice::Local | EngineChoice::Staged => (options.engine == EngineChoice::Local, "'windlass.engine' says so".to_owned()),
            EngineChoice::Auto if leaves.tables.is_empty() => (true, "it reads no tables".to_owned()),
            EngineChoice::Auto => {
                let mut bytes = 0;
                for table in leaves.tables.values() {
                    bytes += catalog.totals(table).await?.bytes;
                }
                match bytes <= options.local_scan_bytes_max {
                    true => (true, format!("its tables have {bytes} bytes, at most 'windlass.local_scan_bytes_max'")),
                    false => (false, format!("it reads {} tables of {bytes} bytes together", leaves.tables.len())),
                }
            }
        };
        let engine = if is_local { &self.local } else { &self.staged };
        Ok((Arc::clone(engine), reason))
    }
}

/// What a plan reads.
#[derive(Debug, Default)]
struct Leaves {
    /// Tables with files, by id.
    tables: BTreeMap<i64, Arc<TableMeta>>,
    /// Whether there are tables of other kinds.
    has_others: bool,
}

impl Leaves {
    fn of(plan: &LogicalPlan) -> Result<Self> {
        let mut leaves = Self::default();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                match source_as_provider(&scan.source)?.downcast_ref::<HiveTable>() {
                    Some(table) => drop(leaves.tables.insert(table.meta().id, Arc::clone(table.meta()))),
                    None => leaves.has_others = true,
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(leaves)
    }
}
