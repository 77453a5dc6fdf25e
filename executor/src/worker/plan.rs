//! Which plans run here, and what is put into them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};
use datafusion_distributed::BroadcastExec;
use futures::TryStreamExt;
use windlass_engine::build_sides::fit_build_sides;
use windlass_engine::named_files::prepare_scans;
use windlass_engine::pipelined::Fate;
use windlass_engine::transparent::{Around, Transparent};

use super::aging::Age;

/// Operators that only read, and the one that writes, under names that nobody else uses. A node that is not known here has not been looked at.
const ALLOWED: &[&str] = &[
    "AggregateExec",
    "AsyncFuncExec",
    "BoundedWindowAggExec",
    "BroadcastExec",
    "ChildrenIsolatorUnionExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "DataSourceExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LazyMemoryExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "NetworkBroadcastExec",
    "NetworkCoalesceExec",
    "NetworkShuffleExec",
    "PackExec",
    "PartialSortExec",
    "PiecewiseMergeJoinExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "RepartitionExec",
    "SortExec",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "UnionExec",
    "UnnestExec",
    "WindowAggExec",
    "WriteExec",
];

/// Makes a decoded stage ready to run as code of an attempt.
///
/// Scans and the operator below the stage's last one are watched: a panic is an error in the stream, nothing is read after the attempt's
/// end, and both compute on the threads of the attempt's age. Rows of scans are counted. The shape stays, because metrics are matched by
/// position.
pub fn prepare(
    plan: Arc<dyn ExecutionPlan>,
    fate: &Fate,
    age: &Arc<Age>,
    read: &RowsRead,
    runtime: &RuntimeEnv,
) -> Result<Arc<dyn ExecutionPlan>> {
    let watch = Watch { fate: fate.clone(), age: Arc::clone(age) };
    plan.apply(|node| match ALLOWED.contains(&operator(node.name())) {
        true => Ok(TreeNodeRecursion::Continue),
        false => Err(DataFusionError::NotImplemented(format!("the pipelined engine does not run {}", node.name()))),
    })?;
    let plan = fit_build_sides(prepare_scans(plan, runtime)?)?;
    let count = Count { watch: watch.clone(), read: read.clone() };
    let watch_scans = |node: Arc<dyn ExecutionPlan>| match node.is::<DataSourceExec>() {
        true => Ok(Transformed::yes(Transparent::wrap(node, &count))),
        false => Ok(Transformed::no(node)),
    };
    let plan = plan.transform_up(watch_scans)?.data;
    // The last operator is taken off and put on again by those who ask for rows.
    match plan.is::<RepartitionExec>() || plan.is::<BroadcastExec>() {
        true => {
            let children = plan.children().into_iter().map(|child| Transparent::wrap(Arc::clone(child), &watch)).collect();
            plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
        }
        false => Ok(Transparent::wrap(plan, &watch)),
    }
}

/// A name without the mode that some operators add to it: `SortExec(TopK)`.
fn operator(name: &str) -> &str {
    name.split_once('(').map_or(name, |(operator, _)| operator)
}

/// Panics of an operator become errors of its attempt, its rows end with the attempt, and are computed on the threads of its age.
#[derive(Debug, Clone)]
struct Watch {
    fate: Fate,
    age: Arc<Age>,
}

impl Around for Watch {
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
        Ok(self.age.rows(self.fate.watch_rows(self.fate.catch(execute)??)))
    }
}

/// Rows that an attempt's scans have read here.
#[derive(Debug, Clone, Default)]
pub struct RowsRead(Arc<AtomicU64>);

impl RowsRead {
    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A scan is watched, and its rows are counted.
#[derive(Debug, Clone)]
struct Count {
    watch: Watch,
    read: RowsRead,
}

impl Around for Count {
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
        let (rows, RowsRead(read)) = (self.watch.rows(execute)?, self.read.clone());
        let schema = rows.schema();
        let counted = rows.inspect_ok(move |batch| {
            read.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted)))
    }
}
