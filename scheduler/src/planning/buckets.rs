//! Joins and groups by the columns that tables are bucketed by, without an exchange.
//!
//! An exchange by hash sends a row where a function of its keys says, and what stands above several exchanges counts on the function being
//! the same. Files of a bucketed table are where another function, Hive's, says. So the exchanges between two others (of a stage, that is)
//! are taken away together or not at all: where each stands above the files of a bucketed table, all of them have as many groups of
//! buckets, and buckets follow from the same ones of their keys. A side that is bucketed and one that is exchanged never meet.
//!
//! It comes after all rules that look at partitioning, or make something of it: DataFusion takes what the scans claim for its own hash.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::TreeNode;
use datafusion::config::ConfigOptions;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, Distribution, ExecutionPlan, ExecutionPlanProperties, Partitioning, ReplaceChildrenOptions,
};
use windlass_catalog::buckets::{grouped_by_bucket, scanned_buckets};

use super::sorted_files::is_in_order;

/// Groups of buckets per partition that a stage would have otherwise: they are of different sizes, and several executors share them.
const GROUPS_PER_PARTITION: usize = 4;

/// Groups per partition at which an exchange is better: each takes memory.
const GROUPS_PER_PARTITION_MAX: usize = 32;

/// Takes away exchanges that files in buckets make unnecessary.
#[derive(Debug)]
pub struct BucketedExchangesRule;

impl PhysicalOptimizerRule for BucketedExchangesRule {
    fn name(&self) -> &str {
        "bucketed_exchanges"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let reads_buckets = plan.exists(|node| Ok(scan_of(node).is_some_and(|scan| scanned_buckets(scan).is_some())))?;
        if reads_buckets { stage(&plan, config.execution.target_partitions) } else { Ok(plan) }
    }
}

/// Whether the files of a scan are grouped by their buckets: its groups stay as they are, and other scans of its stage have groups to match.
pub fn is_grouped(scan: &FileScanConfig) -> bool {
    // Nobody else declares a hash. The declaration also keeps partitions from taking files from each other.
    matches!(scan.output_partitioning, Some(Partitioning::Hash(..)))
}

fn scan_of(plan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref()
}

/// The exchange, if rows go where the hash of keys says.
fn hash_exchange(plan: &Arc<dyn ExecutionPlan>) -> Option<&RepartitionExec> {
    plan.downcast_ref::<RepartitionExec>().filter(|exchange| matches!(exchange.partitioning(), Partitioning::Hash(..)))
}

fn is_exchange(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>() || plan.is::<SortPreservingMergeExec>()
}

/// The plan whose last stage ends in `root`, with all stages below.
fn stage(root: &Arc<dyn ExecutionPlan>, target_partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let mut exchanges = Vec::new();
    exchanges_below(root, &mut exchanges);
    let known = exchanges.iter().map(|exchange| Bucketed::of(exchange)).collect::<Option<Vec<_>>>();
    let groups = known.and_then(|known| common_groups(&known, target_partitions));
    rebuilt(root, groups.as_ref(), target_partitions)
}

/// How all scans of a stage are read.
#[derive(Debug)]
struct Groups {
    count: usize,
    /// The bucket's columns in the order of the exchanges' keys.
    order: Vec<usize>,
}

/// The exchanges by hash that a stage begins with.
fn exchanges_below<'a>(plan: &'a Arc<dyn ExecutionPlan>, found: &mut Vec<&'a RepartitionExec>) {
    if let Some(exchange) = hash_exchange(plan) {
        found.push(exchange);
    } else if !is_exchange(plan) {
        plan.children().into_iter().for_each(|input| exchanges_below(input, found));
    }
}

fn rebuilt(plan: &Arc<dyn ExecutionPlan>, groups: Option<&Groups>, target_partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
    if let (Some(groups), Some(exchange)) = (groups, hash_exchange(plan)) {
        let input = grouped(exchange.input(), groups, Some(target_partitions))?;
        return input.ok_or_else(|| DataFusionError::Internal("an exchange above buckets is above none".to_owned()));
    }
    let ends_stage = is_exchange(plan);
    let inputs = plan.children().into_iter();
    let inputs = inputs.map(|input| if ends_stage { stage(input, target_partitions) } else { rebuilt(input, groups, target_partitions) });
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    if inputs.iter().zip(plan.children()).all(|(new, old)| Arc::ptr_eq(new, old)) {
        return Ok(Arc::clone(plan));
    }
    match plan.downcast_ref::<HashJoinExec>().filter(|join| groups.is_some() && *join.partition_mode() == PartitionMode::Partitioned) {
        // Its filter for the scans would find the partition of a row by DataFusion's hash.
        Some(join) => join.builder().reset_state().recompute_properties().with_new_children(inputs)?.build_exec(),
        None => with_inputs(plan, inputs),
    }
}

fn with_inputs(plan: &Arc<dyn ExecutionPlan>, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
    Arc::clone(plan).replace_children(inputs, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// An exchange whose rows are in buckets already.
#[derive(Debug)]
struct Bucketed {
    count: usize,
    /// Which of the exchange's keys the bucket follows from, in order.
    keys: Vec<usize>,
    /// Whether there are other keys.
    has_more_keys: bool,
    types: Vec<DataType>,
}

impl Bucketed {
    fn of(exchange: &RepartitionExec) -> Option<Self> {
        let Partitioning::Hash(keys, _) = exchange.partitioning() else { return None };
        if exchange.preserve_order() {
            return None;
        }
        let mut way = exchange.input();
        while let Some(input) = way_down(way) {
            way = input;
        }
        let buckets = scanned_buckets(scan_of(way)?)?;
        let count = buckets.count as usize;
        // The operators themselves say what becomes of the columns.
        let claimed = grouped(exchange.input(), &Groups { count, order: (0..buckets.columns.len()).collect() }, None).ok()??;
        let Partitioning::Hash(columns, _) = claimed.output_partitioning() else { return None };
        let exchange_keys = keys.len();
        let place = |column| keys.iter().position(|key| key.eq(column));
        let keys = columns.iter().map(place).collect::<Option<Vec<_>>>()?;
        let has_more_keys = exchange_keys > keys.len();
        (keys.len() == buckets.columns.len()).then(|| Self { count, keys, has_more_keys, types: buckets.types.clone() })
    }
}

/// The input whose partitions are those of the plan; none if there is no such input, or if the number of partitions matters to the plan.
fn way_down(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    let is_round_robin =
        plan.downcast_ref::<RepartitionExec>().is_some_and(|exchange| matches!(exchange.partitioning(), Partitioning::RoundRobinBatch(_)));
    if is_exchange(plan) && !is_round_robin || plan.fetch().is_some() {
        return None;
    }
    let inputs = plan.children();
    let place = match inputs.len() {
        1 => 0,
        // The first side is read whole by each.
        2 if plan.is::<CrossJoinExec>() || plan.is::<NestedLoopJoinExec>() => 1,
        2 if plan.downcast_ref::<HashJoinExec>().is_some_and(|join| *join.partition_mode() == PartitionMode::CollectLeft) => 1,
        _ => return None,
    };
    let requirements = plan.input_distribution_requirements();
    let any = matches!(requirements.child_distribution(place), Some(Distribution::UnspecifiedDistribution));
    any.then(|| inputs[place])
}

/// The plan below an exchange, reading the buckets of its scan in groups. What else is below is planned for itself, if `target_partitions`
/// says how.
fn grouped(plan: &Arc<dyn ExecutionPlan>, groups: &Groups, target_partitions: Option<usize>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = scan_of(plan) {
        let Some(buckets) = scanned_buckets(scan).filter(|_| scan.limit.is_none() && !is_in_order(scan)) else { return Ok(None) };
        let schema = scan.file_source.table_schema().table_schema();
        let column = |place: &usize| {
            let index = buckets.columns[*place];
            Arc::new(Column::new(schema.field(index).name(), index)) as _
        };
        let scan = FileScanConfigBuilder::from(scan.clone())
            .with_file_groups(grouped_by_bucket(scan, groups.count))
            .with_output_partitioning(Some(Partitioning::Hash(groups.order.iter().map(column).collect(), groups.count)))
            .build();
        return Ok(Some(DataSourceExec::from_data_source(scan)));
    }
    let Some(way) = way_down(plan) else { return Ok(None) };
    let Some(input) = grouped(way, groups, target_partitions)? else { return Ok(None) };
    if plan.is::<RepartitionExec>() {
        return Ok(Some(input));
    }
    let others = |other: &Arc<dyn ExecutionPlan>| match target_partitions {
        _ if Arc::ptr_eq(other, way) => Ok(Arc::clone(&input)),
        None => Ok(Arc::clone(other)),
        Some(target_partitions) => stage(other, target_partitions),
    };
    let inputs = plan.children().into_iter().map(others).collect::<Result<Vec<_>>>()?;
    with_inputs(plan, inputs).map(Some)
}

/// How many groups of buckets all exchanges of a stage can have.
fn common_groups(exchanges: &[Bucketed], target_partitions: usize) -> Option<Groups> {
    let first = exchanges.first()?;
    if exchanges.iter().any(|exchange| (&exchange.keys, &exchange.types) != (&first.keys, &first.types)) {
        return None;
    }
    // Sides of a join must be known to meet by all keys.
    if exchanges.len() > 1 && exchanges.iter().any(|exchange| exchange.has_more_keys) {
        return None;
    }
    let least = exchanges.iter().map(|exchange| exchange.count).min()?;
    // A row's bucket among fewer is the rest of a division of its bucket among more.
    if !exchanges.iter().all(|exchange| exchange.count.is_multiple_of(least)) {
        return None;
    }
    // With few buckets most slots would have nothing to do, which costs more than an exchange. One partition would need no exchange anyway.
    if least < 2 || 2 * least < target_partitions {
        return None;
    }
    let groups = (2..least).find(|groups| least.is_multiple_of(*groups) && *groups >= GROUPS_PER_PARTITION * target_partitions);
    // A number of buckets that cannot be divided.
    let count = groups.unwrap_or(least);
    let mut order: Vec<usize> = (0..first.keys.len()).collect();
    order.sort_by_key(|place| first.keys[*place]);
    (count <= GROUPS_PER_PARTITION_MAX * target_partitions).then_some(Groups { count, order })
}
