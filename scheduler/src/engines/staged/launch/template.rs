//! A stage's plan, written down once for all of its tasks.
//!
//! To cut a plan for a task makes all of its operators anew, from the leaves to the root, and to write it down costs as much again. But tasks
//! differ in what their leaves read, and most plans in nothing else: then only leaves are cut, and put into the place of others in the bytes of
//! the stage. Whether a plan is such a one is not guessed. What Ballista makes of the plan for one task says where the leaves are, and
//! what it makes of it for another must be what comes out.

use std::collections::VecDeque;
use std::sync::Arc;

use ballista_scheduler::state::task_builder::restrict_plan_to_partitions;
use datafusion::error::Result;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec};
use datafusion_proto::protobuf::PhysicalPlanNode;
use prost::{decode_length_delimiter, encode_length_delimiter};

type Plan = Arc<dyn ExecutionPlan>;

/// What a stage's tasks are made of.
#[derive(Debug)]
pub struct Template {
    /// What is cut for each task: leaves of the plan, or all of it.
    parts: Vec<Plan>,
    /// The bytes around the leaves.
    frame: Option<Vec<Piece>>,
}

/// Bytes of a protobuf message.
#[derive(Debug)]
enum Piece {
    /// They are the same in all tasks.
    Same(Vec<u8>),
    /// A message within with a leaf in it; its length comes first.
    Around(Vec<Piece>),
    /// A leaf; its length comes first.
    Leaf,
}

impl Template {
    /// The plan as it is.
    pub fn whole(plan: &Plan) -> Self {
        Self { parts: vec![Arc::clone(plan)], frame: None }
    }

    /// The leaves of the plan and what is around them. Costs what writing the plan down for some tasks does. `None` if tasks differ in more,
    /// or if there are too few to tell.
    pub fn framed(plan: &Plan, codec: &dyn PhysicalExtensionCodec) -> Option<Self> {
        let (mut leaves, sample) = (Vec::new(), [0]);
        let cut_whole = |partitions: &[usize]| restrict_plan_to_partitions(Arc::clone(plan), partitions).ok();
        let sampled = cut_whole(&sample)?;
        leaves_that_differ(plan, &sampled, &mut leaves);
        let cut_leaves = cut(&leaves, &sample).ok()?;
        let mut sought: VecDeque<_> = cut_leaves.iter().map(|leaf| encode(leaf, codec)).collect::<Result<_>>().ok()?;
        let frame = split(&encode(&sampled, codec).ok()?, &mut sought).filter(|_| sought.is_empty())?;
        let template = Self { parts: leaves, frame: Some(frame) };
        // Others, and another number of them.
        let partitions = template.parts.first()?.output_partitioning().partition_count();
        let other = [partitions.checked_sub(2).filter(|id| !sample.contains(id))?, partitions - 1];
        let filled = template.fill(&cut(&template.parts, &other).ok()?, codec).ok()?;
        (filled == encode(&cut_whole(&other)?, codec).ok()?).then_some(template)
    }

    /// What is to be cut for a task.
    pub fn parts(&self) -> &[Plan] {
        &self.parts
    }

    /// The plan of a task for which the parts were cut so.
    pub fn fill(&self, parts: &[Plan], codec: &dyn PhysicalExtensionCodec) -> Result<Vec<u8>> {
        let mut parts = parts.iter().map(|part| encode(part, codec)).collect::<Result<VecDeque<_>>>()?;
        match &self.frame {
            Some(frame) => Ok(join(frame, &mut parts)),
            None => Ok(parts.pop_front().unwrap_or_default()),
        }
    }
}

/// Parts reduced to these of their partitions.
pub fn cut(parts: &[Plan], partitions: &[usize]) -> Result<Vec<Plan>> {
    parts.iter().map(|part| restrict_plan_to_partitions(Arc::clone(part), partitions)).collect()
}

fn encode(plan: &Plan, codec: &dyn PhysicalExtensionCodec) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    PhysicalPlanNode::try_from_physical_plan(Arc::clone(plan), codec)?.try_encode(&mut bytes)?;
    Ok(bytes)
}

/// The leaves of `plan` that are not those of the same plan cut for a task.
fn leaves_that_differ(plan: &Plan, of_task: &Plan, leaves: &mut Vec<Plan>) {
    if Arc::ptr_eq(plan, of_task) {
        return;
    }
    let children = plan.children();
    if children.is_empty() {
        leaves.push(Arc::clone(plan));
    }
    for (child, of_task) in children.into_iter().zip(of_task.children()) {
        leaves_that_differ(child, of_task, leaves);
    }
}

/// Takes messages out of one that has them within, in this order. `None` if it is no message.
fn split(message: &[u8], leaves: &mut VecDeque<Vec<u8>>) -> Option<Vec<Piece>> {
    let (mut pieces, mut done, mut rest) = (Vec::new(), 0, message);
    while !rest.is_empty() {
        let place = |rest: &[u8]| message.len() - rest.len();
        // The field's number and how its value is written.
        let kind = decode_length_delimiter(&mut rest).ok()? & 7;
        match kind {
            0 => {
                decode_length_delimiter(&mut rest).ok()?;
            }
            1 => rest = rest.get(8..)?,
            5 => rest = rest.get(4..)?,
            2 => {
                let before = place(rest);
                let length = decode_length_delimiter(&mut rest).ok()?;
                let (value, behind) = rest.split_at_checked(length)?;
                rest = behind;
                let Some(leaf) = leaves.front() else { continue };
                let piece = if value == leaf {
                    leaves.pop_front();
                    Piece::Leaf
                } else if value.windows(leaf.len().max(1)).any(|bytes| bytes == leaf) {
                    Piece::Around(split(value, leaves)?)
                } else {
                    continue;
                };
                pieces.extend([Piece::Same(message[done..before].to_vec()), piece]);
                done = place(rest);
            }
            _ => return None,
        }
    }
    pieces.push(Piece::Same(message[done..].to_vec()));
    Some(pieces)
}

/// Puts leaves into the places where others were taken out.
fn join(pieces: &[Piece], leaves: &mut VecDeque<Vec<u8>>) -> Vec<u8> {
    let mut message = Vec::new();
    for piece in pieces {
        let within = match piece {
            Piece::Same(bytes) => {
                message.extend_from_slice(bytes);
                continue;
            }
            Piece::Around(pieces) => join(pieces, leaves),
            Piece::Leaf => leaves.pop_front().unwrap_or_default(),
        };
        encode_length_delimiter(within.len(), &mut message).expect("a vector grows");
        message.extend(within);
    }
    message
}

#[cfg(test)]
pub(crate) mod tests {
    use datafusion::arrow::array::{Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use datafusion::common::JoinType;
    use datafusion::datasource::MemTable;
    use datafusion::functions_aggregate::expr_fn::sum;
    use datafusion::prelude::{DataFrame, SessionConfig, SessionContext, col, lit};
    use windlass_engine::codec::OperatorCodec;

    use super::*;

    /// A table that gives the number of each of its partitions.
    pub(crate) fn numbers(context: &SessionContext, partitions: i64) -> DataFrame {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = |n| RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![n]))]).unwrap();
        let partitions = (0..partitions).map(|n| vec![batch(n)]).collect();
        context.read_table(Arc::new(MemTable::try_new(Arc::clone(&schema), partitions).unwrap())).unwrap()
    }

    /// The first part of a plan with as many partitions as the tables have, or more.
    fn stage(plan: Plan) -> Plan {
        match plan.output_partitioning().partition_count() {
            12.. => plan,
            _ => stage(Arc::clone(plan.children()[0])),
        }
    }

    #[tokio::test]
    async fn a_template_gives_what_cutting_the_whole_plan_does_or_is_none() {
        let config = SessionConfig::new().with_target_partitions(12).set_bool("datafusion.optimizer.enable_dynamic_filter_pushdown", false);
        let (context, codec) = (SessionContext::new_with_config(config), OperatorCodec::staged());
        let numbers = || numbers(&context, 12);
        let filtered = || numbers().filter(col("n").gt(lit(3))).unwrap();
        let counted = || filtered().aggregate(vec![col("n")], vec![sum(col("n"))]).unwrap();
        let named = |name| numbers().select(vec![col("n").alias(name)]).unwrap();
        let broadcast = numbers().join(named("m"), JoinType::Inner, &["n"], &["m"], None).unwrap();
        let interleaved = counted().union(counted()).unwrap();
        let union = filtered().union(filtered()).unwrap();
        for (what, rows, in_frame) in [
            ("a filter and a group", counted(), true),
            ("a join with all of the other side", broadcast, true),
            ("parts that meet partition by partition", interleaved, true),
            ("a union", union, false),
            ("a bare table", numbers(), false),
        ] {
            let plan = stage(rows.create_physical_plan().await.unwrap());
            let template = Template::framed(&plan, &codec);
            assert_eq!(template.is_some(), in_frame, "{what}");
            for slice in [&[0][..], &[1], &[11, 3], &[10, 11, 12], &[4, 5, 6, 7, 8], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]] {
                let whole = encode(&cut(std::slice::from_ref(&plan), slice).unwrap()[0], &codec).unwrap();
                for template in [Some(&Template::whole(&plan)), template.as_ref()].into_iter().flatten() {
                    assert!(template.fill(&cut(template.parts(), slice).unwrap(), &codec).unwrap() == whole, "{what}, {slice:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn stages_of_few_partitions_have_no_frame() {
        let context = SessionContext::new();
        for partitions in [1, 2] {
            let plan = numbers(&context, partitions).filter(col("n").gt(lit(0))).unwrap().create_physical_plan().await.unwrap();
            assert!(Template::framed(&plan, &OperatorCodec::staged()).is_none());
        }
    }
}
