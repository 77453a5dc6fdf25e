//! Casts that lose decimal places, kept out of the optimizer's reach.
//!
//! DataFusion rewrites `CAST(d AS INT) = 2` to `d = 2.00`, which is false for 2.50: it takes the cast for one that loses nothing. It does
//! so for every decimal type but the widest, so a cast that goes through that one stays, with the same result.

use datafusion::arrow::datatypes::{DECIMAL256_MAX_PRECISION, DataType};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::expressions::rewrite_expressions;

/// Makes every cast of a decimal to fewer places go through `Decimal256`.
#[derive(Debug)]
pub struct ExactCastsRule;

impl AnalyzerRule for ExactCastsRule {
    fn name(&self) -> &str {
        "exact_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite)?.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    rewrite_expressions(plan, |expr| widen(expr, &schema))
}

fn widen(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (Expr::Cast(Cast { expr: inner, field }) | Expr::TryCast(TryCast { expr: inner, field })) = &expr else {
        return Ok(Transformed::no(expr));
    };
    // What is not known here, such as a column of an outer query, stays as it is.
    let scale = match inner.get_type(schema) {
        Ok(DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale)) => scale,
        _ => return Ok(Transformed::no(expr)),
    };
    let loses = match field.data_type() {
        DataType::Decimal32(_, places) | DataType::Decimal64(_, places) | DataType::Decimal128(_, places) => *places < scale,
        to => to.is_integer() && scale > 0,
    };
    if !loses {
        return Ok(Transformed::no(expr));
    }
    let wide = inner.as_ref().clone().cast_to(&DataType::Decimal256(DECIMAL256_MAX_PRECISION, scale), schema)?;
    Ok(Transformed::yes(match expr {
        Expr::TryCast(cast) => Expr::TryCast(TryCast { expr: Box::new(wide), ..cast }),
        Expr::Cast(cast) => Expr::Cast(Cast { expr: Box::new(wide), ..cast }),
        other => other,
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{session_config, state_builder};

    const VALUES: &str = "(SELECT column1::DECIMAL(9, 2) AS d FROM (VALUES (-2.50), (-0.4), (1.99), (2.00), (2.49), (2.50), (NULL)))";

    async fn count(condition: &str) -> String {
        let state = state_builder(session_config(1), Arc::new(RuntimeEnv::default()));
        let context = SessionContext::new_with_state(state.build());
        let frame = context.sql(&format!("SELECT count(*) AS n FROM {VALUES} WHERE {condition}")).await.unwrap();
        let text = pretty_format_batches(&frame.collect().await.unwrap()).unwrap().to_string();
        text.lines().nth(3).unwrap().trim_matches(['|', ' ']).to_owned()
    }

    #[tokio::test]
    async fn comparisons_see_what_the_cast_makes() {
        for (condition, expected) in [
            ("CAST(d AS INT) = 2", "3"),
            ("CAST(d AS BIGINT) IN (2, 7)", "3"),
            ("TRY_CAST(d AS INT) <> 2", "3"),
            ("CAST(d AS INT) = 0", "1"),
            ("2 >= CAST(d AS SMALLINT)", "6"),
            ("CAST(d AS INT) BETWEEN 1 AND 1", "1"),
            ("CAST(d AS DECIMAL(9, 1)) = 2.5", "2"),
            // Nothing is lost here.
            ("CAST(d AS DECIMAL(12, 4)) = 2.5", "1"),
            ("CAST(d AS DOUBLE) = 2.5", "1"),
            ("EXISTS (SELECT 1 FROM (VALUES (1)) WHERE CAST(d AS INT) = 2)", "3"),
        ] {
            assert_eq!(count(condition).await, expected, "{condition}");
        }
        let state = state_builder(session_config(1), Arc::new(RuntimeEnv::default())).build();
        let frame = SessionContext::new_with_state(state).sql(&format!("SELECT CAST(d AS INT), CAST(d AS INT) + 1 FROM {VALUES}")).await;
        let frame = frame.unwrap();
        let named = frame.schema().clone();
        assert_eq!(frame.into_optimized_plan().unwrap().schema().field_names(), named.field_names());
    }
}
