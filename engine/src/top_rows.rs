//! `LIMIT` in subqueries that depend on the row: the best three of each, the newest one.
//!
//! DataFusion joins such a subquery with the rows outside, and then there is no place for a limit that counts anew for each of them.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, not_impl_err};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::expr_fn::first_value;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::{Exists, Sort};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, FetchType, Limit, LogicalPlan, LogicalPlanBuilder, Operator, SkipType, Subquery, WindowFrame, lit,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::decorrelate::PullUpCorrelatedExpr;

use crate::expressions::rewrite_expressions;
use crate::subqueries::truth::is_one_row;

/// Writes limits in subqueries that depend on the row as numbers of rows, and a limit of one in a value as an aggregate.
#[derive(Debug)]
pub struct TopRowsRule;

impl AnalyzerRule for TopRowsRule {
    fn name(&self) -> &str {
        "top_rows"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_down_with_subqueries(|plan| {
            let plan = rewrite_expressions(plan, in_expression)?;
            match plan.data {
                LogicalPlan::Limit(limit) if depends_on_row(&limit.input) => numbered(limit).map(Transformed::yes),
                data => Ok(Transformed { data, ..plan }),
            }
        })
        .data()
    }
}

/// Whether rows of a subquery's plan depend on a row outside. What a LATERAL in it depends on is in it, too.
fn depends_on_row(plan: &LogicalPlan) -> bool {
    let mut depends = false;
    // The visitor does not fail.
    let _ = plan.apply(|plan| {
        depends |= plan.contains_outer_reference();
        Ok(match plan {
            _ if depends => TreeNodeRecursion::Stop,
            LogicalPlan::Subquery(_) => TreeNodeRecursion::Jump,
            _ => TreeNodeRecursion::Continue,
        })
    });
    depends
}

fn in_expression(expr: Expr) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::ScalarSubquery(subquery) => match subquery.subquery.as_ref() {
            LogicalPlan::Limit(limit) if depends_on_row(&limit.input) && bounds(limit)?.1 == Some(1) => {
                let subquery = Subquery { subquery: first(limit)?.into(), ..subquery };
                Transformed::yes(Expr::ScalarSubquery(subquery))
            }
            _ => Transformed::no(Expr::ScalarSubquery(subquery)),
        },
        // Whether there is a row does not depend on which are left out behind it.
        Expr::Exists(Exists { subquery, negated }) => match subquery.subquery.as_ref() {
            LogicalPlan::Limit(limit) if matches!(bounds(limit)?, (0, Some(1..))) => {
                let subquery = Subquery { subquery: Arc::clone(&limit.input), ..subquery };
                Transformed::yes(Expr::Exists(Exists { subquery, negated }))
            }
            _ => Transformed::no(Expr::Exists(Exists { subquery, negated })),
        },
        expr => Transformed::no(expr),
    })
}

/// Rows that a limit leaves out at the beginning, and how many it then takes.
fn bounds(limit: &Limit) -> Result<(usize, Option<usize>)> {
    match (limit.get_skip_type()?, limit.get_fetch_type()?) {
        (SkipType::Literal(skip), FetchType::Literal(fetch)) => Ok((skip, fetch)),
        _ => not_impl_err!("LIMIT and OFFSET of a subquery that depends on the row are constants"),
    }
}

/// What is below a limit: rows, their order, and the columns that the limit gives.
fn ordered(limit: &Limit) -> (&Arc<LogicalPlan>, Vec<Sort>, Vec<Expr>) {
    let columns = limit.input.schema().columns().into_iter().map(Expr::Column).collect();
    match limit.input.as_ref() {
        LogicalPlan::Sort(sort) => (&sort.input, sort.expr.clone(), columns),
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            LogicalPlan::Sort(sort) => (&sort.input, sort.expr.clone(), projection.expr.clone()),
            _ => (&limit.input, Vec::new(), columns),
        },
        _ => (&limit.input, Vec::new(), columns),
    }
}

/// A limit of one row of one column as an aggregate, which is NULL of no rows.
fn first(limit: &Limit) -> Result<LogicalPlan> {
    let (qualifier, field) = limit.input.schema().qualified_field(0);
    let (rows, order, value) = match bounds(limit)? {
        (0, _) => {
            let (rows, order, columns) = ordered(limit);
            (rows.as_ref().clone(), order, columns.into_iter().next())
        }
        _ => (numbered(limit.clone())?, Vec::new(), Some(Expr::Column(Column::new(qualifier.cloned(), field.name())))),
    };
    let value = value.map(|value| first_value(value.unalias(), order).alias("__value"));
    LogicalPlanBuilder::from(rows)
        .aggregate(Vec::<Expr>::new(), value)?
        // Beside it the columns appear that are compared with those outside.
        .project([Expr::Column(Column::new_unqualified("__value")).alias("__first")])?
        .build()
}

/// A limit as a condition on the number of a row among those that belong to the same row outside.
fn numbered(limit: Limit) -> Result<LogicalPlan> {
    let (skip, fetch) = bounds(&limit)?;
    if is_one_row(&limit.input) && skip == 0 && fetch != Some(0) {
        return Ok(Arc::unwrap_or_clone(limit.input));
    }
    let (rows, order, columns) = ordered(&limit);
    let outer: Vec<_> = rows.all_out_ref_exprs();
    let mut pull_up = PullUpCorrelatedExpr::new();
    let rows = rows.as_ref().clone().rewrite(&mut pull_up).data()?;
    let as_outer = |column: &Column| outer.iter().find(|outer| matches!(outer, Expr::OuterReferenceColumn(_, of) if of == column));
    let (mut conditions, mut keys) = (Vec::new(), Vec::new());
    for filter in pull_up.join_filters {
        let key = match &filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
                let of_outer = |expr: &Expr| expr.column_refs().into_iter().all(|column| as_outer(column).is_some());
                let of_rows = |expr: &Expr| expr.column_refs().into_iter().all(|column| rows.schema().has_column(column));
                [(left, right), (right, left)].into_iter().find(|(key, other)| of_rows(key) && of_outer(other)).map(|(key, _)| key)
            }
            _ => None,
        };
        match key {
            Some(key) => keys.push(key.as_ref().clone()),
            None => pull_up.can_pull_up = false,
        }
        let condition = filter.transform(|expr| match &expr {
            Expr::Column(column) => {
                Ok(as_outer(column).map_or_else(|| Transformed::no(expr.clone()), |outer| Transformed::yes(outer.clone())))
            }
            _ => Ok(Transformed::no(expr)),
        });
        conditions.push(condition.data()?);
    }
    if !pull_up.can_pull_up || keys.is_empty() {
        return not_impl_err!(
            "LIMIT in a subquery that depends on the row is supported if columns are equal to columns outside, and in no other way: \
             use row_number() in a subquery of FROM"
        );
    }
    let number = row_number().partition_by(keys).order_by(order).window_frame(WindowFrame::new(None)).build()?;
    let of_row = || Expr::Column(Column::new_unqualified("__number"));
    let last = fetch.map(|fetch| of_row().lt_eq(lit(skip.saturating_add(fetch) as u64)));
    let window = LogicalPlanBuilder::from(rows).window([number.alias("__number")])?;
    let first = (skip > 0).then(|| of_row().gt(lit(skip as u64)));
    let condition = conjunction(conditions.into_iter().chain(first).chain(last)).unwrap_or_else(|| lit(true));
    window.filter(condition)?.project(columns)?.build()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{session_config, state_builder};

    use super::*;

    async fn rows(sql: &str) -> Result<String> {
        const TABLES: &str = "WITH t(k, n) AS (VALUES (1, 'a'), (2, 'b'), (3, 'c')),
            s(k, v, d) AS (VALUES (1, 10, 3), (1, 20, 2), (1, 30, 1), (2, 40, 1), (4, 50, 1), (4, 60, 2))";
        let context = SessionContext::new_with_state(state_builder(session_config(2), Arc::new(RuntimeEnv::default())).build());
        let shown = pretty_format_batches(&context.sql(&format!("{TABLES} {sql}")).await?.collect().await?)?.to_string();
        let rows = shown.lines().skip(3).filter(|line| line.starts_with('|'));
        Ok(rows.map(|row| row.replace('|', " ").split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", "))
    }

    #[tokio::test]
    async fn limits_count_anew_for_each_row() {
        for (sql, expected) in [
            ("SELECT n, v FROM t, LATERAL (SELECT v FROM s WHERE s.k = t.k ORDER BY d LIMIT 2) x ORDER BY 1, 2", "a 20, a 30, b 40"),
            ("SELECT n, v FROM t CROSS JOIN LATERAL (SELECT v, d FROM s WHERE s.k = t.k ORDER BY v DESC LIMIT 1 OFFSET 1) x", "a 20"),
            (
                "SELECT n, x.v FROM t LEFT JOIN LATERAL (SELECT v + 1 AS v FROM s WHERE t.k = s.k ORDER BY v LIMIT 1) x ON true ORDER BY 1",
                "a 11, b 41, c",
            ),
            (
                "SELECT n, c FROM t, LATERAL (SELECT d, count(*) AS c FROM s WHERE s.k = t.k GROUP BY d ORDER BY d DESC LIMIT 1) x ORDER BY 1",
                "a 1, b 1",
            ),
            ("SELECT n, m FROM t, LATERAL (SELECT count(*) AS m FROM s WHERE s.k = t.k LIMIT 1) x ORDER BY 1", "a 3, b 1, c 0"),
            ("SELECT n, (SELECT v FROM s WHERE s.k = t.k ORDER BY d LIMIT 1) AS v FROM t ORDER BY 1", "a 30, b 40, c"),
            ("SELECT n, (SELECT v FROM s WHERE s.k = t.k ORDER BY d LIMIT 1 OFFSET 1) AS v FROM t ORDER BY 1", "a 20, b, c"),
            ("SELECT (SELECT s.k FROM s WHERE s.k = t.k ORDER BY d LIMIT 1) AS k FROM t ORDER BY 1 NULLS LAST", "1, 2, "),
            ("SELECT n FROM t WHERE 20 < (SELECT v FROM s WHERE s.k = t.k AND d > 1 ORDER BY v LIMIT 1) OR n = 'c'", "c"),
            ("SELECT n FROM t WHERE EXISTS (SELECT 1 FROM s WHERE s.k > t.k AND v < 45 LIMIT 1)", "a"),
            ("SELECT n FROM t WHERE 30 IN (SELECT v FROM s WHERE s.k = t.k ORDER BY d LIMIT 1)", "a"),
            ("SELECT n FROM t WHERE 20 IN (SELECT v FROM s WHERE s.k = t.k ORDER BY d LIMIT 1)", ""),
            ("SELECT n FROM t, LATERAL (SELECT v FROM s WHERE s.k = t.k) x ORDER BY v DESC LIMIT 1", "b"),
        ] {
            assert_eq!(rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}")), expected, "{sql}");
        }
        let error = rows("SELECT n, v FROM t, LATERAL (SELECT v FROM s WHERE s.k > t.k LIMIT 2) x").await.expect_err("no equality");
        assert!(error.to_string().contains("row_number()"), "{error}");
    }
}
