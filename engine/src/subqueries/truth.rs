//! What a comparison with the rows of a subquery is worth: true, false or NULL.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue, not_impl_err};
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::expr::{Exists, InSubquery, SetComparison, SetQuantifier};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, exists, lit, not, scalar_subquery, when,
};

/// An expression that holds a subquery, as one whose marks are two-valued and whose other subqueries are values. `schema` is that of the rows
/// it is computed over.
pub(super) fn of(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::InSubquery(inside) => Transformed::yes(of_in(inside, schema)?),
        Expr::SetComparison(comparison) => Transformed::yes(match as_in(comparison) {
            Ok(inside) => of_in(inside, schema)?,
            Err(comparison) => of_comparison(*comparison, schema)?,
        }),
        Expr::Exists(Exists { subquery, negated }) if is_one_row(&subquery.subquery) => Transformed::yes(lit(!negated)),
        // One row beside all others, instead of a mark for each.
        Expr::Exists(Exists { subquery, negated }) if subquery.outer_ref_columns.is_empty() => {
            let first = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone()).limit(0, Some(1))?.build()?;
            let is_there = aggregated(&first, if negated { count(lit(1)).eq(lit(0_i64)) } else { count(lit(1)).gt(lit(0_i64)) })?;
            Transformed::yes(is_there)
        }
        expr => Transformed::no(expr),
    })
}

/// `= ANY` and `<> ALL` as `IN` and `NOT IN`.
pub(super) fn as_in(comparison: SetComparison) -> std::result::Result<InSubquery, Box<SetComparison>> {
    match (comparison.op, comparison.quantifier) {
        (Operator::Eq, SetQuantifier::Any) => Ok(InSubquery::new(comparison.expr, comparison.subquery, false)),
        (Operator::NotEq, SetQuantifier::All) => Ok(InSubquery::new(comparison.expr, comparison.subquery, true)),
        _ => Err(Box::new(comparison)),
    }
}

/// Whether a plan gives one row always. Of such a subquery that depends on the row DataFusion forgets the row that it gives of none.
pub(crate) fn is_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Projection(projection) => is_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => is_one_row(&alias.input),
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        _ => false,
    }
}

/// `IN` a subquery that gives one row is a comparison.
pub(super) fn compared(inside: InSubquery) -> Expr {
    if !is_one_row(&inside.subquery.subquery) {
        return Expr::InSubquery(inside);
    }
    let op = if inside.negated { Operator::NotEq } else { Operator::Eq };
    Expr::BinaryExpr(BinaryExpr::new(inside.expr, op, Box::new(Expr::ScalarSubquery(inside.subquery))))
}

/// What `x IN (subquery)` is worth; in it, `IN` is a mark: true for some row, else false.
pub(crate) fn of_in(inside: InSubquery, schema: &DFSchema) -> Result<Expr> {
    let inside = match compared(inside) {
        Expr::InSubquery(inside) => inside,
        compared => return Ok(compared),
    };
    let rows = &inside.subquery.subquery;
    let (expr, value) = (inside.expr.as_ref().clone(), value(rows));
    let (expr_may_be_null, value_may_be_null) = (expr.nullable(schema)?, rows.schema().field(0).is_nullable());
    let mark = Expr::InSubquery(InSubquery { negated: false, ..inside.clone() });
    let unknown = match (inside.subquery.outer_ref_columns.is_empty(), expr_may_be_null, value_may_be_null) {
        (_, false, false) => None,
        _ if expr.is_volatile() => None,
        (true, false, true) => Some(some_value_is_null(rows)?),
        (true, true, false) => Some(expr.is_null().and(is_not_empty(rows)?)),
        (true, true, true) => Some(expr.is_null().and(is_not_empty(rows)?).or(some_value_is_null(rows)?)),
        (false, ..) => Some(for_some_row(rows, outer(expr, schema)?.eq(value).is_null())?),
    };
    let truth = match unknown {
        Some(unknown) => when(mark, lit(true)).when(unknown, lit(ScalarValue::Boolean(None))).otherwise(lit(false))?,
        None => mark,
    };
    Ok(if inside.negated { not(truth) } else { truth })
}

/// What `x > ALL (subquery)` and its like are worth.
pub(super) fn of_comparison(comparison: SetComparison, schema: &DFSchema) -> Result<Expr> {
    let SetComparison { expr, subquery, op, quantifier } = comparison;
    let (expr, rows) = (*expr, &subquery.subquery);
    let compare = |left: &Expr, right: Expr| Expr::BinaryExpr(BinaryExpr::new(Box::new(left.clone()), op, Box::new(right)));
    if is_one_row(rows) {
        return Ok(compare(&expr, Expr::ScalarSubquery(subquery)));
    }
    let value = value(rows);
    if !subquery.outer_ref_columns.is_empty() || rows.schema().field(0).data_type().is_nested() {
        let compared = compare(&outer(expr, schema)?, value);
        let unknown = for_some_row(rows, compared.clone().is_null())?;
        let (decided, found) = match quantifier {
            SetQuantifier::Any => (compared.is_true(), true),
            SetQuantifier::All => (compared.is_false(), false),
        };
        let decided = for_some_row(rows, decided)?;
        return when(decided, lit(found)).when(unknown, lit(ScalarValue::Boolean(None))).otherwise(lit(!found));
    }
    let least = || aggregated(rows, min(value.clone()));
    let greatest = || aggregated(rows, max(value.clone()));
    // Of the values, the one or two that decide; NULL if there are none but NULLs.
    let holds = match (op, quantifier) {
        (Operator::Gt | Operator::GtEq, SetQuantifier::All) | (Operator::Lt | Operator::LtEq, SetQuantifier::Any) => {
            compare(&expr, greatest()?)
        }
        (Operator::Lt | Operator::LtEq, SetQuantifier::All) | (Operator::Gt | Operator::GtEq, SetQuantifier::Any) => {
            compare(&expr, least()?)
        }
        (_, SetQuantifier::All) => compare(&expr, least()?).and(compare(&expr, greatest()?)),
        (_, SetQuantifier::Any) => compare(&expr, least()?).or(compare(&expr, greatest()?)),
    };
    let unless_unknown = |known: bool| when(some_value_is_null(rows)?, lit(ScalarValue::Boolean(None))).otherwise(lit(known));
    Ok(match quantifier {
        SetQuantifier::All => holds.and(unless_unknown(true)?).or(not(is_not_empty(rows)?)),
        SetQuantifier::Any => holds.or(unless_unknown(false)?).and(is_not_empty(rows)?),
    })
}

/// The column of a subquery.
fn value(rows: &LogicalPlan) -> Expr {
    Expr::Column(Column::from(rows.schema().qualified_field(0)))
}

/// One value made of all rows.
fn aggregated(rows: &LogicalPlan, value: Expr) -> Result<Expr> {
    let mut aggregates = Vec::new();
    let value = value.transform_down(|expr| {
        Ok(match expr {
            Expr::AggregateFunction(_) => {
                let name = format!("aggregate_{}", aggregates.len());
                aggregates.push(expr.alias(name.clone()));
                Transformed::new(Expr::Column(Column::new_unqualified(name)), true, TreeNodeRecursion::Jump)
            }
            expr => Transformed::no(expr),
        })
    })?;
    let plan = LogicalPlanBuilder::from(rows.clone()).aggregate(Vec::<Expr>::new(), aggregates)?.project([value.data.alias("value")])?;
    Ok(scalar_subquery(plan.build()?.into()))
}

fn is_not_empty(rows: &LogicalPlan) -> Result<Expr> {
    aggregated(rows, count(lit(1)).gt(lit(0_i64)))
}

fn some_value_is_null(rows: &LogicalPlan) -> Result<Expr> {
    aggregated(rows, count(value(rows)).lt(count(lit(1))))
}

/// Whether a condition holds for some row of a subquery.
pub(crate) fn for_some_row(rows: &Arc<LogicalPlan>, condition: Expr) -> Result<Expr> {
    Ok(exists(LogicalPlanBuilder::from(rows.as_ref().clone()).filter(condition)?.build()?.into()))
}

/// An expression over the rows outside as a subquery sees it.
pub(crate) fn outer(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let outer = expr.transform(|expr| {
        Ok(match expr {
            Expr::Column(column) => Transformed::yes(Expr::OuterReferenceColumn(Arc::clone(schema.field_from_column(&column)?), column)),
            Expr::OuterReferenceColumn(..) => {
                return not_impl_err!("a subquery is compared with a column of a query two levels above: compute it in a subquery of FROM");
            }
            expr => Transformed::no(expr),
        })
    })?;
    Ok(outer.data)
}
