//! Modes of joins, before exchanges are planned.
//!
//! A join whose rows come from its build side cannot have it broadcast: each task would give them. `datafusion-distributed` gives both sides
//! an exchange then, in a finished plan: also where rows were exchanged by the same keys already, and too late for what is above, which
//! exchanges rows that lie as it needs them.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

/// DataFusion's rule that chooses modes; ours follows it.
const CHOOSES_MODES: &str = "join_selection";

/// Puts the rule in its place.
pub fn add_rule(rules: &mut Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>) {
    let place = rules.iter().position(|rule| rule.name() == CHOOSES_MODES).map_or(0, |place| place + 1);
    rules.insert(place, Arc::new(PartitionedBuildsRule));
}

/// Partitions joins whose rows come from the build side.
#[derive(Debug)]
struct PartitionedBuildsRule;

impl PhysicalOptimizerRule for PartitionedBuildsRule {
    fn name(&self) -> &str {
        "partitioned_builds"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let partition = |plan: Arc<dyn ExecutionPlan>| match plan.downcast_ref::<HashJoinExec>().filter(|join| must_be_partitioned(join)) {
            Some(join) => Ok(Transformed::yes(join.builder().with_partition_mode(PartitionMode::Partitioned).build_exec()?)),
            None => Ok(Transformed::no(plan)),
        };
        Ok(plan.transform_up(partition)?.data)
    }
}

fn must_be_partitioned(join: &HashJoinExec) -> bool {
    let gives_build_rows =
        matches!(join.join_type(), JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark | JoinType::Full);
    // What is a single partition on both sides stays in one task.
    let is_one_task = join.children().iter().all(|side| side.output_partitioning().partition_count() == 1);
    *join.partition_mode() == PartitionMode::CollectLeft && gives_build_rows && !join.null_aware && !is_one_task
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::datasource::MemTable;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::functions_aggregate::expr_fn::count;
    use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{SessionConfig, SessionContext, col, lit};

    use super::*;

    /// A join of two small tables of four partitions each, grouped by its key.
    async fn grouped(join_type: JoinType) -> String {
        let mut rules = PhysicalOptimizer::new().rules;
        add_rule(&mut rules);
        let config = SessionConfig::new().with_target_partitions(4);
        let state = SessionStateBuilder::new().with_config(config).with_default_features().with_physical_optimizer_rules(rules).build();
        let context = SessionContext::new_with_state(state);
        let table = |column: &str| {
            let numbers = Int64Array::from_iter_values(0..100);
            let batch = RecordBatch::try_from_iter([(column, Arc::new(numbers) as _)]).unwrap();
            let table = MemTable::try_new(batch.schema(), vec![vec![batch]; 4]).unwrap();
            context.read_table(Arc::new(table)).unwrap()
        };
        let joined = table("a").join(table("b"), join_type, &["a"], &["b"], None).unwrap();
        let plan = joined.aggregate(vec![col("a")], vec![count(lit(1))]).unwrap().create_physical_plan().await.unwrap();
        displayable(plan.as_ref()).indent(false).to_string()
    }

    #[tokio::test]
    async fn joins_that_give_build_rows_are_partitioned_before_exchanges_are_planned() {
        for join_type in [JoinType::LeftSemi, JoinType::LeftAnti, JoinType::Left] {
            let plan = grouped(join_type).await;
            let exchanges = plan.matches("partitioning=Hash").count();
            assert!(plan.contains("mode=Partitioned") && exchanges == 2, "{plan}");
        }
        let plan = grouped(JoinType::Inner).await;
        assert!(plan.contains("mode=CollectLeft"), "{plan}");
    }
}
