//! Sorts of windows that do not lean on what another stage knows.
//!
//! A window wants its rows in the order of its PARTITION BY. Where a filter makes one of these columns constant, DataFusion leaves it out
//! of the sort. But the filter may end up in the stage below, and the executor that gets the window's stage does not know of it: it
//! finds a window whose rows are not in order.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions};

/// Puts constant columns of PARTITION BY into the sort below a window, first: they change no order.
#[derive(Debug)]
pub struct SortByConstantsRule;

impl PhysicalOptimizerRule for SortByConstantsRule {
    fn name(&self) -> &str {
        "sort_by_constants"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let sort_fully = |plan: Arc<dyn ExecutionPlan>| {
            let (Some(keys), [input]) = (partition_by(&plan), &plan.children()[..]) else { return Ok(Transformed::no(plan)) };
            let properties = input.equivalence_properties();
            let constants = keys.iter().filter(|key| properties.is_expr_constant(key).is_some());
            let constants: Vec<_> = constants.map(|key| PhysicalSortExpr::new_default(Arc::clone(key))).collect();
            if constants.is_empty() {
                return Ok(Transformed::no(plan));
            }
            let order = input.output_ordering().into_iter().flatten().cloned();
            let Some(order) = LexOrdering::new(constants.into_iter().chain(order)) else { return Ok(Transformed::no(plan)) };
            let unsorted = match input.downcast_ref::<SortExec>().filter(|sort| sort.fetch().is_none()) {
                Some(sort) => sort.input(),
                None => *input,
            };
            let sort = SortExec::new(order, Arc::clone(unsorted));
            let sort = sort.with_preserve_partitioning(input.output_partitioning().partition_count() > 1);
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(plan.replace_children(vec![Arc::new(sort)], options)?))
        };
        Ok(plan.transform_up(sort_fully)?.data)
    }
}

fn partition_by(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<Arc<dyn PhysicalExpr>>> {
    let windows = match plan.downcast_ref::<WindowAggExec>() {
        Some(window) => window.window_expr(),
        None => plan.downcast_ref::<BoundedWindowAggExec>()?.window_expr(),
    };
    Some(windows.first()?.partition_by().to_vec())
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn sorted_by(sql: &str) -> Vec<(String, String)> {
        let plan = SessionContext::new().sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        let sorts = |plan: &Arc<dyn ExecutionPlan>| {
            let mut sorts = Vec::new();
            plan.apply(|node| {
                sorts.extend(node.downcast_ref::<SortExec>().map(|sort| sort.expr().to_string()));
                Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
            })
            .unwrap();
            sorts
        };
        let fully = SortByConstantsRule.optimize(Arc::clone(&plan), &ConfigOptions::default()).unwrap();
        sorts(&plan).into_iter().zip(sorts(&fully)).collect()
    }

    #[tokio::test]
    async fn constants_are_sorted_by() {
        let rows = "(SELECT column1 a, column2 b, column3 v FROM (VALUES (1, 2, 3), (4, 5, 6)))";
        for window in ["sum(v) OVER (PARTITION BY a, b)", "rank() OVER (PARTITION BY a, b ORDER BY v)"] {
            let sorts = sorted_by(&format!("SELECT {window} FROM {rows} WHERE b = 2")).await;
            let [(left_out, put_in)] = &sorts[..] else { panic!("{sorts:?}") };
            assert!(!left_out.contains("b@") && put_in.starts_with("b@") && put_in.ends_with(left_out), "{sorts:?}");
            let sorts = sorted_by(&format!("SELECT {window} FROM {rows}")).await;
            assert!(sorts.iter().all(|(before, after)| before == after), "{sorts:?}");
        }
    }
}
