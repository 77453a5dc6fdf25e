//! Casts to text and from text as SQL has them: a space between date and time, and JSON text that becomes a list, a map or a struct.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Cast, TryCast};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, cast, lit};
use datafusion::optimizer::AnalyzerRule;

use crate::expressions::rewrite_expressions;
use crate::functions::{from_json, time_text};

/// Calls functions of ours in the place of casts that Arrow computes otherwise, or not at all.
#[derive(Debug)]
pub struct TextCastsRule;

impl AnalyzerRule for TextCastsRule {
    fn name(&self) -> &str {
        "text_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(rewrite)?.data)
    }
}

fn rewrite(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if matches!(plan, LogicalPlan::TableScan(_)) {
        return Ok(Transformed::no(plan));
    }
    let schema = merge_schema(&plan.inputs());
    rewrite_expressions(plan, |expr| called(expr, &schema))
}

fn called(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let (Expr::Cast(Cast { expr: inner, field }) | Expr::TryCast(TryCast { expr: inner, field })) = &expr else {
        return Ok(Transformed::no(expr));
    };
    // What is not known here, such as a column of an outer query, stays as it is.
    let Ok(from) = inner.get_type(schema) else { return Ok(Transformed::no(expr)) };
    let (inner, to) = (inner.as_ref().clone(), field.data_type());
    Ok(match (from, to) {
        (DataType::Timestamp(..), to) if to.is_string() => {
            let text = time_text().call(vec![inner]);
            Transformed::yes(if *to == DataType::Utf8 { text } else { cast(text, to.clone()) })
        }
        (from, DataType::List(_) | DataType::Map(..) | DataType::Struct(_)) if from.is_string() => {
            Transformed::yes(from_json().call(vec![cast(inner, DataType::Utf8View), lit(to.to_string())]))
        }
        _ => Transformed::no(expr),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{session_config, state_builder};

    #[tokio::test]
    async fn text_is_as_in_sql() {
        let context = SessionContext::new_with_state(state_builder(session_config(1), Arc::new(RuntimeEnv::default())).build());
        for (expr, expected) in [
            ("CAST(TIMESTAMP '2024-05-06 07:08:09.5' AS VARCHAR)", "2024-05-06 07:08:09.5"),
            ("CAST(TIMESTAMP '2024-05-06 00:00:00' AS VARCHAR)", "2024-05-06 00:00:00"),
            ("'at ' || TIMESTAMP '2024-05-06 07:08:09'", "at 2024-05-06 07:08:09"),
            ("CAST(CAST(NULL AS TIMESTAMP) AS VARCHAR) IS NULL", "true"),
            ("CAST('[1, 2]' AS INT[])[2]", "2"),
            ("CAST(concat('{\"a\": ', '7}') AS STRUCT<a INT>)['a']", "7"),
        ] {
            let batches = context.sql(&format!("SELECT {expr} AS v")).await.unwrap().collect().await;
            let shown = pretty_format_batches(&batches.unwrap_or_else(|error| panic!("{expr}: {error}"))).unwrap().to_string();
            assert!(shown.contains(&format!("{expected} ")), "{expr}: not {expected}\n{shown}");
        }
    }
}
