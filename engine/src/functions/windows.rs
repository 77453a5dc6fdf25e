//! Window functions as plans carry them to executors.
//!
//! The wire keeps the name and the arguments of a window function. That it ignores NULLs, or is computed from the other end, as DataFusion
//! does to save a sort, is lost on the way: executors would give other rows than the scheduler does. So one that ignores NULLs is a function
//! of its own, and none is computed from the other end.

use std::sync::Arc;

use ballista_core::extension::ballista_window_functions;
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::NullTreatment;
use datafusion::logical_expr::function::{ExpressionArgs, PartitionEvaluatorArgs, WindowFunctionSimplification, WindowUDFFieldArgs};
use datafusion::logical_expr::{
    Documentation, Expr, LimitEffect, LogicalPlan, PartitionEvaluator, ReversedUDWF, Signature, WindowFunctionDefinition, WindowUDF,
    WindowUDFImpl,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::PhysicalExpr;

use super::FUNCTIONS;
use crate::expressions::rewrite_expressions;

/// Functions that can ignore NULLs, and what they are called then.
const IGNORING: [(&str, &str); 5] = [
    ("first_value", "first_value_ignoring_nulls"),
    ("lag", "lag_ignoring_nulls"),
    ("last_value", "last_value_ignoring_nulls"),
    ("lead", "lead_ignoring_nulls"),
    ("nth_value", "nth_value_ignoring_nulls"),
];

/// All of them.
pub(super) fn functions() -> Vec<Arc<WindowUDF>> {
    let all = ballista_window_functions();
    let carried = |function: &Arc<WindowUDF>, name: &str, ignores_nulls| {
        let aliases = if ignores_nulls { Vec::new() } else { function.aliases().to_vec() };
        let function = Arc::clone(function);
        Arc::new(WindowUDF::new_from_impl(Carried { function, name: name.to_owned(), aliases, ignores_nulls }))
    };
    let ignoring = all.iter().filter_map(|function| ignoring(function.name()).map(|name| carried(function, name, true)));
    all.iter().map(|function| carried(function, function.name(), false)).chain(ignoring).collect()
}

fn ignoring(name: &str) -> Option<&'static str> {
    IGNORING.iter().find(|(plain, _)| *plain == name).map(|(_, ignoring)| *ignoring)
}

/// Calls functions that ignore NULLs by their own names.
#[derive(Debug)]
pub struct IgnoredNullsRule;

impl AnalyzerRule for IgnoredNullsRule {
    fn name(&self) -> &str {
        "ignored_nulls"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite)?.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if !matches!(plan, LogicalPlan::Window(_)) {
        return Ok(Transformed::no(plan));
    }
    rewrite_expressions(plan, |expr| {
        let Expr::WindowFunction(mut window) = expr else { return Ok(Transformed::no(expr)) };
        let own = match (&window.fun, window.params.null_treatment) {
            (WindowFunctionDefinition::WindowUDF(function), Some(NullTreatment::IgnoreNulls)) => {
                ignoring(function.name()).and_then(|name| FUNCTIONS.window.iter().find(|function| function.name() == name))
            }
            _ => None,
        };
        let Some(own) = own else { return Ok(Transformed::no(Expr::WindowFunction(window))) };
        window.fun = WindowFunctionDefinition::WindowUDF(Arc::clone(own));
        window.params.null_treatment = None;
        Ok(Transformed::yes(Expr::WindowFunction(window)))
    })
}

/// A function that says all that it does by its name.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Carried {
    function: Arc<WindowUDF>,
    name: String,
    aliases: Vec<String>,
    ignores_nulls: bool,
}

impl WindowUDFImpl for Carried {
    fn name(&self) -> &str {
        &self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn expressions(&self, args: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.function.inner().expressions(args)
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let ignores_nulls = self.ignores_nulls || args.ignore_nulls();
        let args = PartitionEvaluatorArgs::new(args.input_exprs(), args.input_fields(), args.is_reversed(), ignores_nulls);
        self.function.inner().partition_evaluator(args)
    }

    fn simplify(&self) -> Option<WindowFunctionSimplification> {
        self.function.inner().simplify()
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        self.function.inner().field(args)
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.function.inner().sort_options()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.inner().coerce_types(types)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.function.inner().reverse_expr() {
            ReversedUDWF::Identical => ReversedUDWF::Identical,
            ReversedUDWF::NotSupported | ReversedUDWF::Reversed(_) => ReversedUDWF::NotSupported,
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.inner().documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.function.inner().limit_effect(args)
    }
}
