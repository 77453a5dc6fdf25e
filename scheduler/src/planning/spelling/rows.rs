//! Rows that are looked for among rows: `(a, b) IN (SELECT ...)`.

use datafusion::sql::sqlparser::ast::{BinaryOperator, CaseWhen, Expr, Query, SetExpr, TableFactor, Value};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::calls::case;
use super::{null, shorthands};

/// Puts conditions that DataFusion joins by in the place of rows that are looked for where NULL is as good as false.
pub(super) fn conditions(condition: &mut Expr) {
    match condition {
        Expr::Nested(inner) => conditions(inner),
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            conditions(left);
            conditions(right);
        }
        Expr::InSubquery { expr: row, subquery, negated } => {
            if let Expr::Tuple(row) = row.as_ref()
                && let Some(mut found) = exists(row, subquery, *negated)
            {
                if let Expr::Exists { negated: is_not, .. } = &mut found {
                    *is_not = *negated;
                }
                *condition = found;
            }
        }
        _ => {}
    }
}

/// Whether a row is among a query's: NULL where it is among them if NULLs are what they could be.
pub(super) fn found(row: &[Expr], subquery: &Query, negated: bool) -> Option<Expr> {
    let boolean = |value| Expr::Value(Value::Boolean(value).with_empty_span());
    let (certain, possible) = (exists(row, subquery, false)?, exists(row, subquery, true)?);
    let whens = vec![CaseWhen { condition: certain, result: boolean(!negated) }, CaseWhen { condition: possible, result: null() }];
    Some(case(whens, Some(boolean(negated))))
}

/// Whether there is a row that is equal, or one that may be.
fn exists(row: &[Expr], subquery: &Query, maybe: bool) -> Option<Expr> {
    let column = |place: usize| format!("\"row {place}\"");
    let columns = (1..=row.len()).map(column).collect::<Vec<_>>().join(", ");
    let equal = (1..=row.len()).map(|place| format!("${place} = {}", column(place))).collect::<Vec<_>>().join(" AND ");
    let condition = if maybe { format!("({equal}) IS NOT FALSE") } else { equal };
    let sql = format!("EXISTS (SELECT 1 FROM (SELECT 1) AS \"rows\" ({columns}) WHERE {condition})");
    let mut found = Parser::new(&GenericDialect {}).try_with_sql(&sql).and_then(|mut parser| parser.parse_expr()).ok()?;
    shorthands::substitute(&mut found, row);
    let Expr::Exists { subquery: exists, .. } = &mut found else { return None };
    let SetExpr::Select(select) = exists.body.as_mut() else { return None };
    let TableFactor::Derived { subquery: rows, .. } = &mut select.from.first_mut()?.relation else { return None };
    **rows = subquery.clone();
    Some(found)
}
