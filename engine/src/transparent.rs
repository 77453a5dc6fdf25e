//! An operator whose rows pass through our hands. Everywhere else it is taken for the operator itself: the plan keeps its shape, by which
//! metrics are matched.

use std::fmt::{self, Debug};
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

/// What is done around an operator.
pub trait Around: Debug + Clone + Send + Sync + 'static {
    /// Starts the operator with `execute`, and returns its rows.
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream>;
}

/// An operator with something around it.
#[derive(Debug)]
pub struct Transparent<A> {
    inner: Arc<dyn ExecutionPlan>,
    around: A,
}

impl<A: Around> Transparent<A> {
    /// Puts `around` around `inner`.
    pub fn wrap(inner: Arc<dyn ExecutionPlan>, around: &A) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { inner, around: around.clone() })
    }

    /// Puts `around` around what `plan` reads.
    pub fn below(plan: Arc<dyn ExecutionPlan>, around: &A) -> Result<Arc<dyn ExecutionPlan>> {
        let children = plan.children().into_iter().map(|child| Self::wrap(Arc::clone(child), around)).collect();
        plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }
}

impl<A: Around> DisplayAs for Transparent<A> {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

impl<A: Around> ExecutionPlan for Transparent<A> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Self::wrap(Arc::clone(&self.inner).replace_children(children, options)?, &self.around))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(&self, f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.around.rows(|| self.inner.execute(partition, context))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }
}
