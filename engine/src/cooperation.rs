//! Lets go of the thread where operators would not.
//!
//! A task is cancelled at its next pause. DataFusion's scans pause, but a join or an unnest that makes many rows of few can feed an
//! aggregation for hours without one, and then holds its slot after the query is cancelled (datafusion#19358).

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::unnest::UnnestExec;

/// Puts a pause above every operator that may make many rows of few.
#[derive(Debug)]
pub struct PauseAboveJoinsRule;

impl PhysicalOptimizerRule for PauseAboveJoinsRule {
    fn name(&self) -> &str {
        "pause_above_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let pause = |plan: Arc<dyn ExecutionPlan>| {
            Ok(match multiplies(plan.as_ref()) {
                true => Transformed::yes(Arc::new(CooperativeExec::new(plan)) as _),
                false => Transformed::no(plan),
            })
        };
        Ok(plan.transform_up(pause)?.data)
    }
}

fn multiplies(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<CrossJoinExec>()
        || plan.is::<HashJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<PiecewiseMergeJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<UnnestExec>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{session_config, state_builder};

    /// A dropped query ends at its next pause: without one this test does not end for an hour.
    #[tokio::test]
    async fn endless_joins_can_be_cancelled() {
        let context = SessionContext::new_with_state(state_builder(session_config(1), RuntimeEnv::default().into()).build());
        for sql in [
            "SELECT count(*) FROM generate_series(1, 200000) a CROSS JOIN generate_series(1, 200000) b",
            "SELECT count(*) FROM generate_series(1, 200000) a (x) JOIN generate_series(1, 200000) b (y) ON a.x < b.y",
            "SELECT sum(a.x * b.y) FROM generate_series(1, 200000) a (x) JOIN generate_series(1, 200000) b (y) ON a.x % 2 = b.y % 2",
        ] {
            let query = context.sql(sql).await.unwrap().collect();
            assert!(tokio::time::timeout(Duration::from_millis(200), query).await.is_err(), "{sql} ended");
        }
    }
}
