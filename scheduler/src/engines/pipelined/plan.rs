//! From a query to a plan whose stages stream to each other, or the reason why there is none that is right and bearable.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SessionState, SessionStateBuilder, TaskContext};
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions};
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DesiredTaskCountEvent, DistributedCodec, DistributedExec, DistributedExt, DistributedLeafExec, NetworkBoundary, NetworkBoundaryExt,
    NetworkCoalesceExec, ScaleUpLeafNodeEvent, SessionStateBuilderExt, Stage, display_plan_ascii,
};
use datafusion_proto::bytes::physical_plan_to_bytes_with_proto_converter;
use datafusion_proto::physical_plan::DeduplicatingProtoConverter;
use uuid::Uuid;
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::answer::pack::PackExec;
use windlass_engine::config::Secret;
use windlass_engine::pipelined::{QueryToken, WorkerChannels, attempt_config};
use windlass_engine::session::WindlassOptions;

use super::joins;
use super::members::Members;
use super::slices::{scanned_bytes, slice, task_count};
use super::soundness::{LimitBeforeBroadcastRule, exchanges_otherwise};
use crate::engines::PlannedQuery;
use crate::engines::windows::SortByConstantsRule;
use crate::planning::estimates::bytes_of;
use crate::planning::sorted_files::SORTED_FILES_RULE;

/// Least partitions of a stage's task: DataFusion makes no exchanges for one, and without exchanges there is nothing to distribute.
const PARTITIONS_MIN: usize = 2;

/// Bytes that a stage of one task may read while other executors idle.
const ONE_TASK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Share of an executor's memory that a query's build sides may be estimated to take: they all live at one time, and do not spill.
const BUILD_SHARE: u64 = 2;

/// Memory of an executor that has not told.
const MEMORY_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Bytes of an encoded stage: a gRPC message carries it.
const STAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// A plan for one attempt. It runs once.
#[derive(Debug)]
pub struct Pipeline {
    /// What runs here; its inputs are stages on executors.
    pub plan: Arc<dyn ExecutionPlan>,
    /// Whether its rows come as messages for clients, in batches of [`MESSAGES`](windlass_engine::answer::messages::MESSAGES).
    pub packed: bool,
    /// The session it runs in.
    pub context: TaskContext,
    /// The executors it runs on.
    pub members: Members,
    /// Stages on executors.
    pub stages: u32,
    /// Their tasks.
    pub tasks: u32,
}

impl Pipeline {
    /// The stages with their tasks.
    pub fn display(&self) -> String {
        display_plan_ascii(self.plan.as_ref(), false)
    }
}

/// Why a query goes to another engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody to run it.
    #[error("no executor of this build is active")]
    NoExecutors,
    /// No number of tasks gives the right rows.
    #[error("it exchanges rows by ranges")]
    Ranges,
    /// One executor would do what all should.
    #[error("one task would read {bytes} bytes alone")]
    OneTask {
        /// Bytes of its files.
        bytes: u64,
    },
    /// Hash tables would not fit.
    #[error("its joins are estimated to hold {bytes} bytes on each executor, and may hold {limit}")]
    Builds {
        /// Estimated bytes.
        bytes: u64,
        /// What there is for them.
        limit: u64,
    },
    /// A stage cannot be sent.
    #[error("a stage takes {bytes} bytes to describe, more than {STAGE_BYTES_MAX}")]
    LargeStage {
        /// Bytes of its encoding.
        bytes: usize,
    },
    /// The planner or the encoder gave up.
    #[error("it cannot be cut into stages: {0}")]
    Planner(String),
}

impl From<DataFusionError> for Refusal {
    fn from(error: DataFusionError) -> Self {
        Self::Planner(error.strip_backtrace())
    }
}

/// Plans a query for these executors.
pub async fn plan(query: &PlannedQuery, members: Members, token: &QueryToken, links: &Links) -> Result<Pipeline, Refusal> {
    if members.is_empty() {
        return Err(Refusal::NoExecutors);
    }
    let state = session(query.context.state(), &members, token, links)?;
    let plan = state.query_planner().create_physical_plan(&query.plan, &state).await?;
    if exchanges_otherwise(&plan) {
        return Err(Refusal::Ranges);
    }
    let plan = merged_where_made(with_light_head(plan)?)?;
    let (plan, packed) = match packed_where_made(&plan, &query.schema)? {
        Some(plan) => (plan, true),
        None => (plan, false),
    };
    let mut pipeline = Pipeline { context: TaskContext::from(&state), plan, packed, members, stages: 0, tasks: 0 };
    check(&mut pipeline, state.config())?;
    Ok(pipeline)
}

/// How attempts reach executors.
#[derive(Debug, Clone)]
pub struct Links {
    /// Connections, shared by all queries.
    pub channels: WorkerChannels,
    /// The cluster's key, if it has one.
    pub key: Option<Secret>,
}

fn session(state: SessionState, members: &Members, token: &QueryToken, links: &Links) -> Result<SessionState, Refusal> {
    let slots = members.slots();
    // The option counts the partitions of all executors.
    let partitions = state.config().target_partitions().div_ceil(members.len()).max(PARTITIONS_MIN);
    let mut config = state.config().clone().with_target_partitions(partitions);
    // Filters that a join or a sort makes while it runs, for scans of the same stage. Elsewhere they filter nothing, and nobody waits.
    config.options_mut().set("datafusion.optimizer.enable_dynamic_filter_pushdown", "true")?;
    config.set_distributed_worker_resolver(members.clone());
    config.set_distributed_compression(WindlassOptions::of(config.options()).exchange_compression.codec(members.are_local()))?;
    let mut config = attempt_config(config, token, links.key.as_ref(), &links.channels)?;
    config.set_distributed_max_tasks_per_stage(members.len())?;
    config.set_distributed_desired_task_count_handler(move |event: DesiredTaskCountEvent<'_>| task_count(event, slots));
    config.set_distributed_scale_up_leaf_node_handler(|event: ScaleUpLeafNodeEvent<'_>| slice(event));
    let mut rules = state.physical_optimizers().to_vec();
    // Files in order give partitions of which one comes after the other. They share connections: those that must wait would fill them.
    rules.retain(|rule| rule.name() != SORTED_FILES_RULE);
    joins::add_rule(&mut rules);
    rules.push(Arc::new(LimitBeforeBroadcastRule));
    rules.push(Arc::new(SortByConstantsRule));
    let builder = SessionStateBuilder::new_from_existing(state).with_config(config).with_physical_optimizer_rules(rules);
    Ok(builder.with_distributed_planner().build())
}

/// Moves a last stage that works hard, or reads files, from this process to an executor.
fn with_light_head(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, Refusal> {
    let head = match plan.downcast_ref::<DistributedExec>() {
        Some(distributed) => distributed.children().into_iter().next().map_or_else(|| Arc::clone(&plan), Arc::clone),
        None => Arc::clone(&plan),
    };
    if of_stage(&head).iter().all(is_light) {
        return Ok(plan);
    }
    let head = match head.output_partitioning().partition_count() {
        1 => head,
        _ => Arc::new(CoalescePartitionsExec::new(head)),
    };
    let below = stages(&head);
    let query_id = below.first().map_or_else(Uuid::new_v4, Stage::query_id);
    let boundary = boundary_of(head, 1, (query_id, below.iter().map(Stage::num).max().unwrap_or(0) + 1))?;
    // Of a plan that is nothing but the exchange, EXPLAIN would not show the stage.
    let head = Arc::new(CoalescePartitionsExec::new(boundary));
    Ok(Arc::new(DistributedExec::new(head).with_metrics_collection(true)))
}

/// Lets each task of a stage whose rows are merged in order merge its own partitions first.
///
/// All partitions of a task come through one connection, whose buffer is limited. A merge that waits for rows of one of them while those of
/// the others fill the buffer would wait forever, as with files that follow each other in the order that is asked for.
fn merged_where_made(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, Refusal> {
    let merge = |node: Arc<dyn ExecutionPlan>| {
        let Some(merge) = node.downcast_ref::<SortPreservingMergeExec>() else { return Ok(Transformed::no(node)) };
        let boundary = merge.input().downcast_ref::<NetworkCoalesceExec>();
        let Some(Stage::Local(stage)) = boundary.map(NetworkBoundary::input_stage) else { return Ok(Transformed::no(node)) };
        let (partitions, tasks) = (stage.plan.output_partitioning().partition_count(), stage.tasks);
        // One task merges them all.
        if partitions < 2 || merge.input().output_partitioning().partition_count() != partitions * tasks {
            return Ok(Transformed::no(node));
        }
        let merging = |input| SortPreservingMergeExec::new(merge.expr().clone(), input).with_fetch(merge.fetch());
        let merged = boundary_of(Arc::new(merging(Arc::clone(&stage.plan))), tasks, (stage.query_id, stage.num))?;
        Ok(Transformed::yes(Arc::new(merging(merged)) as _))
    };
    Ok(plan.transform_up(merge)?.data)
}

/// Lets executors make the messages that clients get, where this process does nothing but hand rows on.
fn packed_where_made(plan: &Arc<dyn ExecutionPlan>, promised: &SchemaRef) -> Result<Option<Arc<dyn ExecutionPlan>>, Refusal> {
    let Some(distributed) = plan.downcast_ref::<DistributedExec>() else { return Ok(None) };
    let [head] = distributed.children()[..] else { return Ok(None) };
    let coalesced = head.downcast_ref::<CoalescePartitionsExec>().filter(|head| head.fetch().is_none());
    let boundary = coalesced.map_or(head, CoalescePartitionsExec::input).downcast_ref::<NetworkCoalesceExec>();
    let Some(Stage::Local(stage)) = boundary.map(NetworkBoundary::input_stage) else { return Ok(None) };
    let packed = PackExec::new(Arc::clone(&stage.plan), Arc::clone(promised));
    let boundary = boundary_of(Arc::new(packed), stage.tasks, (stage.query_id, stage.num))?;
    let head = vec![Arc::new(CoalescePartitionsExec::new(boundary)) as _];
    Ok(Some(Arc::clone(plan).replace_children(head, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?))
}

/// What reads the rows of a stage that has got another last operator; `named` after the query and its number in it.
fn boundary_of(plan: Arc<dyn ExecutionPlan>, tasks: usize, named: (Uuid, usize)) -> PlanResult<Arc<dyn ExecutionPlan>> {
    let boundary = NetworkCoalesceExec::try_new(plan, tasks, 1)?;
    let Stage::Local(stage) = boundary.input_stage() else { return internal_err!("a new stage is not local") };
    let mut stage = stage.clone();
    (stage.query_id, stage.num) = named;
    Ok(boundary.with_input_stage(Stage::Local(stage))?)
}

/// The nodes of the stage that ends here.
fn of_stage(root: &Arc<dyn ExecutionPlan>) -> Vec<Arc<dyn ExecutionPlan>> {
    let mut nodes = Vec::new();
    // The visitor does not fail.
    let _infallible = root.apply(|node| {
        nodes.push(Arc::clone(node));
        Ok(if node.is_network_boundary() { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue })
    });
    nodes
}

/// The stages below, the lowest last.
fn stages(root: &Arc<dyn ExecutionPlan>) -> Vec<Stage> {
    let mut stages = Vec::new();
    // The visitor does not fail.
    let _infallible = root.apply(|node| {
        stages.extend(node.as_network_boundary().map(|boundary| boundary.input_stage().clone()));
        Ok(TreeNodeRecursion::Continue)
    });
    stages
}

/// Operators that this process may run: they pass rows on or make one of many.
fn is_light(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is_network_boundary()
        || node.is::<CoalescePartitionsExec>()
        || node.is::<SortPreservingMergeExec>()
        || node.is::<ProjectionExec>()
        || node.is::<FilterExec>()
        || node.is::<CooperativeExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<LocalLimitExec>()
        || node.is::<EmptyExec>()
        || node.is::<PlaceholderRowExec>()
        || node.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.group_expr().is_empty())
}

/// Counts stages and tasks, and refuses what executors could not bear or not read.
fn check(pipeline: &mut Pipeline, config: &SessionConfig) -> Result<(), Refusal> {
    let mut builds = 0;
    for stage in stages(&pipeline.plan) {
        let (tasks, Some(root)) = (stage.task_count(), stage.local_plan()) else { continue };
        pipeline.stages += 1;
        pipeline.tasks += u32::try_from(tasks).unwrap_or(u32::MAX);
        let nodes = of_stage(root);
        let bytes = nodes.iter().filter_map(scanned_bytes).sum();
        if tasks == 1 && pipeline.members.len() > 1 && bytes > ONE_TASK_BYTES_MAX {
            return Err(Refusal::OneTask { bytes });
        }
        builds += nodes.iter().filter_map(|node| build_bytes(node, tasks)).sum::<u64>();
    }
    let memory_bytes = Some(pipeline.members.memory_bytes()).filter(|bytes| *bytes > 0).unwrap_or(MEMORY_BYTES);
    let limit = memory_bytes / BUILD_SHARE;
    if builds > limit {
        return Err(Refusal::Builds { bytes: builds, limit });
    }
    for node in of_stage(&pipeline.plan) {
        let stage = node.as_network_boundary().and_then(|boundary| boundary.input_stage().local_plan());
        let bytes = stage.map_or(Ok(0), |stage| encoded_bytes(stage, config))?;
        if bytes > STAGE_BYTES_MAX {
            return Err(Refusal::LargeStage { bytes });
        }
    }
    Ok(())
}

/// Estimated bytes that a join keeps in each of a stage's tasks; `None` if it is no such join, or nothing is known.
fn build_bytes(node: &Arc<dyn ExecutionPlan>, tasks: usize) -> Option<u64> {
    let shared_by = match node.downcast_ref::<HashJoinExec>() {
        Some(join) if *join.partition_mode() == PartitionMode::Partitioned => tasks,
        Some(_) => 1,
        None if node.is::<NestedLoopJoinExec>() || node.is::<CrossJoinExec>() => 1,
        None => return None,
    };
    Some(bytes_of(node.children().first()?.as_ref())? / shared_by.max(1) as u64)
}

/// Bytes of a stage and all below it, as the first task gets it. Errors: something in it has no encoding.
fn encoded_bytes(stage: &Arc<dyn ExecutionPlan>, config: &SessionConfig) -> Result<usize, Refusal> {
    let first_slice = |node: Arc<dyn ExecutionPlan>| {
        let slice = node.downcast_ref::<DistributedLeafExec>().and_then(|leaf| leaf.variants().first()).map(Arc::clone);
        Ok(slice.map_or_else(|| Transformed::no(node), Transformed::yes))
    };
    let plan = Arc::clone(stage).transform_up(first_slice)?.data;
    let codec = DistributedCodec::new_combined_with_user(config);
    Ok(physical_plan_to_bytes_with_proto_converter(plan, &codec, &DeduplicatingProtoConverter::default())?.len())
}
