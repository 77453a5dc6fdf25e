//! `EXCEPT ALL` and `INTERSECT ALL` count: of three equal rows, one that is taken away leaves two.
//!
//! DataFusion joins both by all columns, so that one row on the right takes all its equals on the left away, or keeps them all.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::common::{Column, NullEquality, Result};
use datafusion::config::ConfigOptions;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, Join, JoinType, LogicalPlan, LogicalPlanBuilder, WindowFrame};
use datafusion::optimizer::AnalyzerRule;

/// Joins rows by all columns and by which of their equals they are.
#[derive(Debug)]
pub struct SetOperationsRule;

impl AnalyzerRule for SetOperationsRule {
    fn name(&self) -> &str {
        "set_operations"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let rewrite = |plan| match plan {
            LogicalPlan::Join(join) if counts(&join) => counted(join).map(Transformed::yes),
            plan => Ok(Transformed::no(plan)),
        };
        plan.transform_up_with_subqueries(rewrite).data()
    }
}

/// Whether a join is a set operation with `ALL`. Without it the left side is distinct, and no condition that is written makes NULLs equal.
fn counts(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && join.on.len() == join.left.schema().fields().len()
        && join.on.len() == join.right.schema().fields().len()
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
        && !join.left.schema().fields().iter().any(|field| field.name() == LEFT)
}

const LEFT: &str = "__left_number";
const RIGHT: &str = "__right_number";

fn counted(join: Join) -> Result<LogicalPlan> {
    let columns: Vec<_> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    let left = numbered(join.left, LEFT)?;
    let right = numbered(join.right, RIGHT)?;
    let number = |name| Expr::Column(Column::new_unqualified(name));
    let on = join.on.into_iter().chain([(number(LEFT), number(RIGHT))]).collect();
    let join = Join::try_new(
        left.into(),
        right.into(),
        on,
        join.filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    LogicalPlanBuilder::from(LogicalPlan::Join(join)).project(columns)?.build()
}

/// Rows with the number of each among its equals.
fn numbered(rows: Arc<LogicalPlan>, name: &str) -> Result<LogicalPlan> {
    let columns = rows.schema().columns().into_iter().map(Expr::Column).collect();
    let number = row_number().partition_by(columns).window_frame(WindowFrame::new(None)).build()?;
    LogicalPlanBuilder::from(Arc::unwrap_or_clone(rows)).window([number.alias(name)])?.build()
}

#[cfg(test)]
mod tests {
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::session::{session_config, state_builder};

    /// Counts and sums of what is left.
    #[tokio::test]
    async fn equal_rows_are_counted() {
        const LEFT: &str = "SELECT column1 AS x, column2 AS y FROM (VALUES (1, 'a'), (1, 'a'), (1, 'a'), (2, NULL), (2, NULL), (3, 'c'))";
        const RIGHT: &str = "SELECT column1 AS p, column2 AS q FROM (VALUES (1, 'a'), (2, NULL), (2, NULL), (2, NULL), (4, 'd'))";
        for (operation, rows, sum) in
            [("EXCEPT ALL", 3, 5), ("INTERSECT ALL", 3, 5), ("EXCEPT", 1, 3), ("INTERSECT", 2, 3), ("UNION ALL", 11, 21)]
        {
            let context = SessionContext::new_with_state(state_builder(session_config(2), Arc::new(RuntimeEnv::default())).build());
            let sql = format!("SELECT count(*) = {rows} AND sum(x) = {sum} AS holds FROM ({LEFT} {operation} {RIGHT})");
            let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
            let shown = datafusion::arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
            assert!(shown.contains("true"), "{operation}\n{shown}");
        }
    }
}
