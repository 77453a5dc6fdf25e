//! A write in a plan.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, Union, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use windlass_engine::write::{WriteExec, WriteSpec, manifest_schema};
use windlass_proto::QueryId;

/// Writes the rows of a plan; gives the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriteNode {
    input: LogicalPlan,
    spec: Arc<WriteSpec>,
    schema: DFSchemaRef,
}

impl WriteNode {
    /// The plan that writes the rows of `input`.
    pub(super) fn plan(input: LogicalPlan, spec: WriteSpec) -> Result<LogicalPlan> {
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(Self::new(input, Arc::new(spec))?) }))
    }

    fn new(input: LogicalPlan, spec: Arc<WriteSpec>) -> Result<Self> {
        let schema = manifest_schema(input.schema().as_arrow(), &spec);
        Ok(Self { schema: Arc::new(DFSchema::try_from(schema)?), input, spec })
    }

    /// The write that a plan ends in.
    fn of(plan: &LogicalPlan) -> Result<&Self> {
        let LogicalPlan::Extension(Extension { node }) = plan else { return Err(not_a_write()) };
        node.as_any().downcast_ref().ok_or_else(not_a_write)
    }

    /// The same write, for a query.
    pub(super) fn for_query(plan: &LogicalPlan, query: &QueryId) -> Result<LogicalPlan> {
        let Self { input, spec, .. } = Self::of(plan)?;
        Self::plan(input.clone(), WriteSpec { query: query.to_string(), ..spec.as_ref().clone() })
    }

    /// One write of the rows of several.
    pub(crate) fn together(plans: Vec<LogicalPlan>) -> Result<LogicalPlan> {
        let writes = plans.iter().map(Self::of).collect::<Result<Vec<_>>>()?;
        let [first, ..] = writes.as_slice() else { return Err(not_a_write()) };
        if writes.len() == 1 {
            return Ok(plans[0].clone());
        }
        let rows = writes.iter().map(|write| Arc::new(write.input.clone())).collect();
        let all = Union { inputs: rows, schema: Arc::clone(first.input.schema()) };
        Self::plan(LogicalPlan::Union(all), first.spec.as_ref().clone())
    }
}

fn not_a_write() -> DataFusionError {
    DataFusionError::Internal("the plan does not write".to_owned())
}

impl Hash for WriteNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.spec.hash(state);
    }
}

impl PartialOrd for WriteNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let order = self.spec.cmp(&other.spec);
        if order.is_eq() { self.input.partial_cmp(&other.input) } else { Some(order) }
    }
}

impl UserDefinedLogicalNodeCore for WriteNode {
    fn name(&self) -> &str {
        "Write"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    /// All of them. Without it, the optimizer would not look for columns that are not needed below.
    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.input.schema().fields().iter().map(|field| field.name()).collect::<Vec<_>>();
        write!(f, "Write: {}", self.spec.describe(&names))
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let [input] = <[_; 1]>::try_from(inputs).map_err(|_| not_a_write())?;
        Self::new(input, Arc::clone(&self.spec))
    }
}

/// DataFusion's planner, which also knows writes.
#[derive(Debug)]
pub(crate) struct WritePlanner;

#[async_trait]
impl QueryPlanner for WritePlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Self)]).create_physical_plan(plan, session).await
    }
}

#[async_trait]
impl ExtensionPlanner for WritePlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let (Some(write), [input]) = (node.as_any().downcast_ref::<WriteNode>(), inputs) else { return Ok(None) };
        Ok(Some(Arc::new(WriteExec::try_new(Arc::clone(input), Arc::clone(&write.spec))?)))
    }
}
