//! Makes plans that stay right when Ballista changes their joins.
//!
//! Memory: hash joins do not spill, so one whose build side is estimated not to fit becomes a sort-merge join, which does.
//!
//! Modes: Ballista's static planner turns a broadcast join whose rows may come from the build side, or whose build side is too large, into a
//! partitioned one with `target_partitions` partitions. By then everything above it has been planned for the number it had: where that
//! was one, a global aggregation, sort or limit runs once per partition and the rows are wrong. So the mode is chosen here, before
//! DataFusion distributes the plan, and Ballista is told sizes by which it keeps it (`told`).
//!
//! Order: when a stage's inputs are known, Ballista swaps the sides of joins whose build side turned out to be the larger one. The order
//! of the probe side is lost then, but DataFusion sorts below joins that keep it. So sorts are moved above joins. Where that cannot be, and
//! something relies on the order, hash joins are avoided.

use std::sync::Arc;

use ballista_core::config::BallistaConfig;
use datafusion::arrow::compute::SortOptions;
use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, InputOrderMode, ReplaceChildrenOptions};

use crate::engines::windows::SortByConstantsRule;
use crate::planning::estimates::bytes_of;

/// DataFusion's rule that chooses modes; ours follows it.
const CHOOSES_MODES: &str = "join_selection";

/// Which joins may send their build side to every task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broadcast {
    /// Those that Ballista would not change.
    WhereKept,
    /// None.
    Never,
}

/// The session with the rules in their places. A partition of a build side may have `build_bytes_max`.
pub fn with_rules(state: SessionState, broadcast: Broadcast, build_bytes_max: u64) -> SessionState {
    let mut rules = state.physical_optimizers().to_vec();
    let place = rules.iter().position(|rule| rule.name() == CHOOSES_MODES).map_or(0, |place| place + 1);
    rules.insert(place, Arc::new(JoinModesRule { broadcast, build_bytes_max }));
    rules.push(Arc::new(SortAboveJoinsRule));
    rules.push(Arc::new(SortByConstantsRule));
    SessionStateBuilder::new_from_existing(state).with_physical_optimizer_rules(rules).build()
}

/// Whether Ballista would change the mode of a join in a finished plan: estimates can differ from those the rule saw.
pub fn changes_later(plan: &Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> bool {
    plan.exists(|node| Ok(node.downcast_ref::<HashJoinExec>().is_some_and(|join| is_broadcast(join) && !is_kept(join, config))))
        .unwrap_or(true)
}

/// Whether something in a finished plan may rely on an order that a join keeps: what is above it, or who gets the rows.
pub fn relies_on_order(plan: &Arc<dyn ExecutionPlan>) -> bool {
    has_order_of_join(plan) != Some(false)
}

/// Whether the rows of a plan have an order that a join in it keeps; `None` if something in it relies on such an order.
fn has_order_of_join(plan: &Arc<dyn ExecutionPlan>) -> Option<bool> {
    let inputs = plan.children().into_iter().map(has_order_of_join).collect::<Option<Vec<bool>>>()?;
    let keeps = may_swap(plan.as_ref()) && plan.output_ordering().is_some();
    // The first rows of an order are not those of another.
    if inputs.contains(&true) && !is_indifferent(plan.as_ref()) || keeps && plan.fetch().is_some() {
        return None;
    }
    let passes = inputs.iter().zip(plan.maintains_input_order()).any(|(has_order, passes)| *has_order && passes);
    Some(keeps || passes && plan.output_ordering().is_some())
}

/// Whether an operator gives the same rows in whatever order its inputs come. Of a sort that looks at the first part of an order to end
/// early, executors make another one out of what they get.
fn is_indifferent(plan: &dyn ExecutionPlan) -> bool {
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        return *aggregate.input_order_mode() == InputOrderMode::Linear && aggregate.required_input_ordering().iter().all(Option::is_none);
    }
    if let Some(repartition) = plan.downcast_ref::<RepartitionExec>() {
        return !repartition.preserve_order();
    }
    let passes_all = may_swap(plan)
        || plan.is::<ProjectionExec>()
        || plan.is::<FilterExec>()
        || plan.is::<CooperativeExec>()
        || plan.is::<CoalescePartitionsExec>();
    plan.is::<SortExec>() || passes_all && plan.fetch().is_none()
}

#[derive(Debug)]
struct JoinModesRule {
    broadcast: Broadcast,
    build_bytes_max: u64,
}

impl PhysicalOptimizerRule for JoinModesRule {
    fn name(&self) -> &str {
        "join_modes"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let choose = |plan: Arc<dyn ExecutionPlan>| {
            let Some(join) = plan.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(plan)) };
            if is_broadcast(join) && self.broadcast == Broadcast::WhereKept && is_kept(join, config) {
                return Ok(Transformed::no(plan));
            }
            // Sort-merge joins know no null-aware mode.
            let share = bytes_of(join.left().as_ref()).map_or(0, |bytes| bytes / config.execution.target_partitions.max(1) as u64);
            if share > self.build_bytes_max && !join.null_aware {
                return Ok(Transformed::yes(sort_merge(join)?));
            }
            match is_broadcast(join) {
                true => Ok(Transformed::yes(join.builder().with_partition_mode(PartitionMode::Partitioned).build_exec()?)),
                false => Ok(Transformed::no(plan)),
            }
        };
        Ok(plan.transform_up(choose)?.data)
    }
}

/// The same join without a hash table. The rules that follow sort its inputs.
fn sort_merge(join: &HashJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
    let (left, right, on) = (Arc::clone(join.left()), Arc::clone(join.right()), join.on().to_vec());
    let sorts = vec![SortOptions::default(); on.len()];
    let merge = SortMergeJoinExec::try_new(left, right, on, join.filter().cloned(), *join.join_type(), sorts, join.null_equality())?;
    let Some(projection) = &join.projection else { return Ok(Arc::new(merge)) };
    let schema = merge.schema();
    let column = |index: &usize| {
        let name = schema.field(*index).name();
        ProjectionExpr { expr: Arc::new(Column::new(name, *index)), alias: name.clone() }
    };
    Ok(Arc::new(ProjectionExec::try_new(projection.iter().map(column).collect::<Vec<_>>(), Arc::new(merge))?))
}

/// A join with its build side in one partition; Ballista runs null-aware ones in a single task by itself.
fn is_broadcast(join: &HashJoinExec) -> bool {
    *join.partition_mode() == PartitionMode::CollectLeft && !join.null_aware
}

/// Whether only probe rows make rows, and the build side is estimated to be small: what Ballista asks for.
fn is_kept(join: &HashJoinExec, config: &ConfigOptions) -> bool {
    let is_probe_driven =
        matches!(join.join_type(), JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark);
    let limit = config.extensions.get::<BallistaConfig>().map_or(0, BallistaConfig::broadcast_join_threshold_bytes);
    is_probe_driven && bytes_of(join.left().as_ref()).is_some_and(|bytes| 0 < bytes && bytes < limit as u64)
}

#[derive(Debug)]
struct SortAboveJoinsRule;

impl PhysicalOptimizerRule for SortAboveJoinsRule {
    fn name(&self) -> &str {
        "sort_above_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let hoist = |join: Arc<dyn ExecutionPlan>| {
            let Some(ordering) = join.output_ordering().cloned().filter(|_| may_swap(join.as_ref())) else {
                return Ok(Transformed::no(join));
            };
            let [build, probe] = join.children()[..] else { return Ok(Transformed::no(join)) };
            let Some((unsorted, keys)) = without_sort(probe)? else { return Ok(Transformed::no(join)) };
            // A window above may count the keys, of which the join's own ordering leaves out those that follow from others.
            if ordering.len() != keys {
                return Ok(Transformed::no(join));
            }
            let children = vec![Arc::clone(build), unsorted];
            let join = with_inputs(join, children)?;
            let is_partitioned = join.output_partitioning().partition_count() > 1;
            Ok(Transformed::yes(Arc::new(SortExec::new(ordering, join).with_preserve_partitioning(is_partitioned)) as _))
        };
        Ok(plan.transform_up(hoist)?.data)
    }
}

/// Joins whose sides Ballista may swap.
fn may_swap(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<HashJoinExec>() || plan.is::<NestedLoopJoinExec>() || plan.is::<CrossJoinExec>()
}

fn with_inputs(plan: Arc<dyn ExecutionPlan>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// The plan without the sort that gives it its order, and the number of that sort's keys; `None` if something else does.
fn without_sort(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<(Arc<dyn ExecutionPlan>, usize)>> {
    if let Some(sort) = plan.downcast_ref::<SortExec>() {
        return Ok(sort.fetch().is_none().then(|| (Arc::clone(sort.input()), sort.expr().len())));
    }
    let [input] = plan.children()[..] else { return Ok(None) };
    // Such as a window, which would not find its partitions.
    let needs_order = !plan.is::<SortPreservingMergeExec>() && plan.required_input_ordering().iter().any(Option::is_some);
    if plan.fetch().is_some() || plan.maintains_input_order() != [true] || needs_order {
        return Ok(None);
    }
    let Some((input, keys)) = without_sort(input)? else { return Ok(None) };
    let plan = match plan.is::<SortPreservingMergeExec>() {
        true => Arc::new(CoalescePartitionsExec::new(input)),
        false => with_inputs(Arc::clone(plan), vec![input])?,
    };
    Ok(Some((plan, keys)))
}

#[cfg(test)]
mod tests;
