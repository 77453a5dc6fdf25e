//! Build sides of joins without equal columns, which are kept in memory as a whole.
//!
//! DataFusion counts each of their batches with all that it was cut from, such as the groups of a whole aggregation; so they are compacted.
//! Of a nested loop join, it reads one that does not fit again, to join it piece by piece. That is wrong where rows of the build side are
//! told from those without a match: each partition of the other side would tell them alone. And it is a panic where rows are exchanged
//! below, which is done once. There, a second reading is an error, as want of memory is elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::joins::{CrossJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions};

use crate::compact::Compact;
use crate::transparent::{Around, Transparent};

/// The plan whose build sides take the memory that they need, and are read once where they have to be. For a plan that is about to run.
pub fn fit_build_sides(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let fit = |plan: Arc<dyn ExecutionPlan>| {
        let (build, probe) = match (plan.downcast_ref::<NestedLoopJoinExec>(), plan.downcast_ref::<CrossJoinExec>()) {
            (Some(join), _) => {
                let build = Transparent::wrap(Arc::clone(join.left()), &Compact);
                (if must_be_read_once(join) { Transparent::wrap(build, &Once::default()) } else { build }, join.right())
            }
            (None, Some(join)) => (Transparent::wrap(Arc::clone(join.left()), &Compact), join.right()),
            (None, None) => return Ok(Transformed::no(plan)),
        };
        let children = vec![build, Arc::clone(probe)];
        Ok(Transformed::yes(plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))?))
    };
    Ok(plan.transform_up(fit)?.data)
}

fn must_be_read_once(join: &NestedLoopJoinExec) -> bool {
    let tells_build_rows =
        matches!(join.join_type(), JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark | JoinType::Full);
    let exchanges = |plan: &Arc<dyn ExecutionPlan>| plan.exists(|node| Ok(node.is::<RepartitionExec>())).unwrap_or(true);
    tells_build_rows && join.right().output_partitioning().partition_count() > 1 || exchanges(join.left())
}

/// Whether an operator was started.
#[derive(Debug, Default)]
struct Once(AtomicBool);

/// A copy of an operator, as a recursive query makes for each of its steps, was not.
impl Clone for Once {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Around for Once {
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
        if self.0.swap(true, Ordering::Relaxed) {
            let why = "the smaller side of a join without equal columns does not fit into memory: select fewer rows or columns of it";
            return Err(DataFusionError::ResourcesExhausted(why.to_owned()));
        }
        execute()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::execution::memory_pool::FairSpillPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::collect;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    const ROWS: i64 = 20_000;

    /// What a query over `wide`, of which rows and texts take 8 MB, and `few`, in four partitions, gives with so much memory.
    #[expect(clippy::disallowed_methods, reason = "tests read tables in memory")]
    async fn outcome(sql: &str, memory: usize) -> Result<String> {
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(memory))).build_arc().unwrap();
        let mut config = SessionConfig::new().with_target_partitions(4).with_batch_size(500);
        config.options_mut().optimizer.join_reordering = false;
        let context = SessionContext::new_with_config_rt(config, runtime);
        let numbers = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        let wide = |values: std::ops::Range<i64>| {
            let texts = StringArray::from_iter_values(values.clone().map(|value| format!("{value:0400}")));
            RecordBatch::try_from_iter([("x", numbers(values.collect())), ("t", Arc::new(texts))]).unwrap()
        };
        let few = |value| vec![RecordBatch::try_from_iter([("y", numbers(vec![value]))]).unwrap()];
        let batches: Vec<_> = (0..ROWS).step_by(1000).map(|start| wide(start..start + 1000)).collect();
        let tables = [("wide", vec![batches]), ("few", [5_000, 9_000, 1_000, 7_000].map(few).to_vec())];
        for (name, partitions) in tables {
            context.register_table(name, Arc::new(MemTable::try_new(partitions[0][0].schema(), partitions)?))?;
        }
        let plan = context.sql(sql).await?.create_physical_plan().await?;
        assert!(plan.exists(|node| Ok(node.is::<NestedLoopJoinExec>()))?, "{sql}");
        Ok(pretty_format_batches(&collect(fit_build_sides(plan)?, context.task_ctx()).await?)?.to_string())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn joins_without_memory_are_right_or_say_so() {
        for (sql, read_again) in [
            ("SELECT count(*), count(y), sum(length(t)) FROM wide LEFT JOIN few ON x < y", false),
            ("SELECT count(*), sum(length(t)) FROM wide WHERE EXISTS (SELECT 1 FROM few WHERE x < y)", false),
            ("SELECT count(*), sum(length(t)) FROM wide WHERE NOT EXISTS (SELECT 1 FROM few WHERE x < y)", false),
            ("SELECT count(*), sum(length(t)) FROM wide JOIN few ON x < y", true),
            ("SELECT count(*), sum(length(t)) FROM (SELECT x, max(t) t FROM wide GROUP BY x) JOIN few ON x < y", false),
        ] {
            let right = outcome(sql, 1 << 30).await.unwrap();
            match outcome(sql, 4 << 20).await {
                Ok(rows) => assert!(read_again && rows == right, "{sql}: {rows}"),
                Err(error) if read_again => panic!("{sql}: {error}"),
                Err(error) => assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{sql}: {error}"),
            }
        }
    }

    /// Each partition cuts ten batches from one of 2 MB.
    #[tokio::test(flavor = "multi_thread")]
    async fn groups_are_counted_once() {
        let sql = "SELECT count(*) FROM (SELECT t FROM wide GROUP BY t) JOIN few ON length(t) < y";
        assert_eq!(outcome(sql, 48 << 20).await.unwrap(), outcome(sql, 1 << 30).await.unwrap());
    }
}
