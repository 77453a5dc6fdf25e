//! Rows that are looked for among rows: `(a, b) IN (SELECT ...)`.

use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, TableFactor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::shorthands;

/// Whether a row is among a query's, as a condition: what is unknown is false, and for `NOT IN`, too.
///
/// In a WHERE, where conditions like this stand, that is what SQL says.
pub(super) fn found(row: &[Expr], subquery: &Query, negated: bool) -> Option<Expr> {
    let column = |place: usize| format!("\"row {place}\"");
    let columns = (1..=row.len()).map(column).collect::<Vec<_>>().join(", ");
    let equal = (1..=row.len()).map(|place| format!("${place} = {}", column(place))).collect::<Vec<_>>().join(" AND ");
    let (not, condition) = if negated { ("NOT ", format!("({equal}) IS NOT FALSE")) } else { ("", equal) };
    let sql = format!("{not}EXISTS (SELECT 1 FROM (SELECT 1) AS \"rows\" ({columns}) WHERE {condition})");
    let mut found = Parser::new(&GenericDialect {}).try_with_sql(&sql).and_then(|mut parser| parser.parse_expr()).ok()?;
    shorthands::substitute(&mut found, row);
    let Expr::Exists { subquery: exists, .. } = &mut found else { return None };
    let SetExpr::Select(select) = exists.body.as_mut() else { return None };
    let TableFactor::Derived { subquery: rows, .. } = &mut select.from.first_mut()?.relation else { return None };
    **rows = subquery.clone();
    Some(found)
}
