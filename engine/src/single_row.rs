//! Subqueries that stand for one value give one row, or an error.
//!
//! DataFusion joins such a subquery to the query that holds it, which then has each of its rows as often as the subquery has rows.

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result};
use datafusion::config::ConfigOptions;
use datafusion::functions::core::expr_fn::named_struct;
use datafusion::functions_aggregate::expr_fn::{count, first_value};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery, col, lit};
use datafusion::optimizer::AnalyzerRule;

use crate::expressions::rewrite_expressions;
use crate::functions::only_row::only_row;

/// Counts the rows of every scalar subquery that may have several.
#[derive(Debug)]
pub struct SingleRowRule;

impl AnalyzerRule for SingleRowRule {
    fn name(&self) -> &str {
        "single_row"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite)?.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    rewrite_expressions(plan, check)
}

fn check(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::ScalarSubquery(subquery) = expr else { return Ok(Transformed::no(expr)) };
    let depends_on_row = !subquery.outer_ref_columns.is_empty();
    if subquery.subquery.max_rows().is_some_and(|rows| rows <= 1) || (depends_on_row && is_grouped(&subquery.subquery)) {
        return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
    }
    let (qualifier, field) = subquery.subquery.schema().qualified_field(0);
    let (value, name) = (Expr::Column(Column::new(qualifier.cloned(), field.name())), field.name().clone());
    let counted = vec![count(lit(1)).alias("__rows"), first_value(value, Vec::new()).alias("__value")];
    let counted = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).aggregate(Vec::<Expr>::new(), counted)?;
    // Rows that no row outside asks for may be several: they are looked at behind the join.
    Ok(Transformed::yes(if depends_on_row {
        // Beside it the columns appear that are compared with those outside.
        let both = named_struct(vec![lit("rows"), col("__rows"), lit("value"), col("__value")]).alias("__only");
        let plan = counted.project([both])?.build()?;
        only_row().call(vec![Expr::ScalarSubquery(Subquery { subquery: plan.into(), ..subquery })])
    } else {
        let plan = counted.project([only_row().call(vec![col("__rows"), col("__value")]).alias(name)])?.build()?;
        Expr::ScalarSubquery(Subquery { subquery: plan.into(), ..subquery })
    }))
}

/// Whether an aggregation gives the rows of a subquery: if it depends on the row, DataFusion sees that its keys are those outside.
fn is_grouped(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_grouped(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_grouped(&alias.input),
        LogicalPlan::Filter(filter) => matches!(filter.input.as_ref(), LogicalPlan::Aggregate(_)),
        LogicalPlan::Aggregate(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{session_config, state_builder};

    #[tokio::test]
    async fn a_value_is_one_row_or_an_error() {
        let runtime = Arc::new(RuntimeEnv::default());
        let context = SessionContext::new_with_state(state_builder(session_config(2), runtime).build());
        let run = async |sql: &str| {
            let batches = context.sql(sql).await?.collect().await?;
            Ok::<_, datafusion::error::DataFusionError>(pretty_format_batches(&batches)?.to_string())
        };
        let several = "SELECT value FROM generate_series(1, 3)";
        for sql in [
            format!("SELECT ({several})"),
            format!("SELECT * FROM generate_series(1, 9) t WHERE value > ({several})"),
            format!("SELECT * FROM generate_series(1, 9) t WHERE value = (SELECT max(value) + ({several}) FROM generate_series(1, 2))"),
        ] {
            let error = run(&sql).await.expect_err(&sql).to_string();
            assert!(error.contains("gives 3 rows"), "{sql}: {error}");
        }
        let one = run(&format!("SELECT ({several} WHERE value = 2) AS x, ({several} WHERE value = 7) AS y")).await.unwrap();
        assert!(one.contains("| 2 |   |"), "{one}");
        let each = "SELECT a.value, (SELECT b.x FROM (SELECT value AS x, value % 2 AS value FROM generate_series(1, 3)) b WHERE b.value = a.value) AS n FROM generate_series";
        let found = run(&format!("{each}(0, 0) a UNION ALL {each}(5, 5) a")).await.unwrap();
        assert!(found.contains("| 0     | 2 |") && found.contains("| 5     |   |"), "{found}");
        let error = run(&format!("{each}(1, 1) a")).await.expect_err("two rows").to_string();
        assert!(error.contains("gives 2 rows"), "{error}");
        let some = run(&format!("SELECT count(*) AS n FROM generate_series(1, 9) WHERE value > ({several} LIMIT 1)")).await.unwrap();
        assert!(some.contains("| 8 |"), "{some}");
    }
}
