//! Clauses of a query: how rows are grouped, ordered, limited and named.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, FunctionArguments, GroupByExpr, GroupByWithModifier, Ident, LimitClause, OrderBy, OrderByExpr,
    OrderByKind, OrderByOptions, Query, SelectItem, SetExpr, SetOperator, Subscript, TopQuantity, Value, ValueWithSpan, VisitMut,
    VisitorMut, WindowSpec, WindowType,
};
use windlass_engine::Dialect;
use windlass_engine::functions::meaning;

use super::{arguments_of, binary, call, number, taken};
use crate::error::{Error, Result};

/// Spells the clauses around a query's body as DataFusion does.
pub(super) fn respell(query: &mut Query) -> Result<()> {
    subtracted(&mut query.body);
    sorted_by(query)?;
    ordered_by_all(query)?;
    fetched(query)?;
    topped(query)
}

/// `GROUP BY a, b WITH ROLLUP` is `GROUP BY ROLLUP (a, b)`.
pub(super) fn grouped(group_by: &mut GroupByExpr) -> Result<()> {
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
    let modifiers = std::mem::take(modifiers);
    let modifier = match modifiers.as_slice() {
        [] => return Ok(()),
        [modifier] => modifier.clone(),
        _ => return Err(Error::invalid("GROUP BY can have one of ROLLUP, CUBE and GROUPING SETS")),
    };
    let GroupByExpr::Expressions(keys, _) = group_by else {
        return Err(Error::unsupported(format!("GROUP BY ALL {modifier} is not supported")).with_hint("name the columns"));
    };
    let sets = keys.iter().map(|key| vec![key.clone()]).collect();
    *keys = vec![match modifier {
        GroupByWithModifier::Rollup => Expr::Rollup(sets),
        GroupByWithModifier::Cube => Expr::Cube(sets),
        GroupByWithModifier::GroupingSets(sets) => sets,
        GroupByWithModifier::Totals => {
            return Err(Error::unsupported("WITH TOTALS is not supported").with_hint("use WITH ROLLUP"));
        }
    }];
    Ok(())
}

/// `MINUS` is `EXCEPT`.
fn subtracted(body: &mut SetExpr) {
    if let SetExpr::SetOperation { op, left, right, .. } = body {
        if *op == SetOperator::Minus {
            *op = SetOperator::Except;
        }
        subtracted(left);
        subtracted(right);
    }
}

/// `FETCH FIRST 5 ROWS ONLY` is `LIMIT 5`.
fn fetched(query: &mut Query) -> Result<()> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.percent {
        return Err(Error::unsupported(format!("{fetch} is not supported")).with_hint(RANK));
    }
    let rows = fetch.quantity.unwrap_or_else(|| number(1));
    if fetch.with_ties {
        return tied(query, rows);
    }
    match query.limit_clause.get_or_insert(LimitClause::LimitOffset { limit: None, offset: None, limit_by: Vec::new() }) {
        LimitClause::LimitOffset { limit: limit @ None, .. } => *limit = Some(rows),
        _ => return Err(Error::invalid("a query has either LIMIT or FETCH")),
    }
    Ok(())
}

/// What to do where ties are not supported.
const RANK: &str = "use rank() OVER (ORDER BY ...) in a subquery";

/// `ORDER BY a FETCH FIRST 5 ROWS WITH TIES` is `QUALIFY rank() OVER (ORDER BY a) <= 5 ORDER BY a`.
fn tied(query: &mut Query, rows: Expr) -> Result<()> {
    let unsupported = |what: &str| Error::unsupported(format!("WITH TIES is not supported of {what}")).with_hint(RANK);
    let SetExpr::Select(select) = query.body.as_mut() else { return Err(unsupported("UNION and the like")) };
    if select.distinct.is_some() || select.qualify.is_some() {
        return Err(unsupported("DISTINCT and QUALIFY"));
    }
    let Some(OrderBy { kind: OrderByKind::Expressions(keys), .. }) = &query.order_by else {
        return Err(Error::invalid("WITH TIES needs ORDER BY, which says what is equal"));
    };
    let mut order_by = keys.clone();
    for OrderByExpr { expr, .. } in &mut order_by {
        // A number is the place of a column only where the query is sorted.
        if let Expr::Value(ValueWithSpan { value: Value::Number(place, _), .. }) = &*expr {
            let item = place.parse().ok().and_then(|place: usize| select.projection.get(place.checked_sub(1)?));
            let Some(SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }) = item else {
                return Err(unsupported("columns by their places in *"));
            };
            *expr = column.clone();
        }
    }
    let last = match &query.limit_clause {
        None => rows,
        Some(LimitClause::LimitOffset { limit: None, offset: Some(offset), .. }) => {
            binary(rows, BinaryOperator::Plus, Expr::Nested(Box::new(offset.value.clone())))
        }
        Some(_) => return Err(Error::invalid("a query has either LIMIT or FETCH")),
    };
    let over = WindowSpec { window_name: None, partition_by: Vec::new(), order_by, window_frame: None };
    if let Expr::Function(mut rank) = call("rank", []) {
        rank.over = Some(WindowType::WindowSpec(over));
        select.qualify = Some(binary(Expr::Function(rank), BinaryOperator::LtEq, last));
    }
    Ok(())
}

/// `SELECT TOP 5 a` is `SELECT a ... LIMIT 5`.
fn topped(query: &mut Query) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let Some(top) = select.top.take() else { return Ok(()) };
    let rows = match &top.quantity {
        Some(TopQuantity::Constant(rows)) => usize::try_from(*rows).ok().map(number),
        Some(TopQuantity::Expr(rows)) => Some(rows.clone()),
        None => None,
    };
    let Some(rows) = rows.filter(|_| !top.percent) else {
        return Err(Error::unsupported(format!("{top} is not supported")).with_hint(RANK));
    };
    if query.limit_clause.is_some() {
        return Err(Error::invalid("a query has either TOP or LIMIT"));
    }
    if top.with_ties {
        return tied(query, rows);
    }
    query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: Vec::new() });
    Ok(())
}

/// `ORDER BY ALL` is by all columns. DataFusion takes plain columns only, and in silence none of a `UNION`.
fn ordered_by_all(query: &mut Query) -> Result<()> {
    let Some(OrderBy { kind, .. }) = &mut query.order_by else { return Ok(()) };
    let options = match kind {
        OrderByKind::All(options) => *options,
        // Most grammars take the word for a column.
        OrderByKind::Expressions(keys) => match keys.as_slice() {
            [OrderByExpr { expr: Expr::Identifier(Ident { value, quote_style: None, .. }), options, .. }]
                if value.eq_ignore_ascii_case("all") =>
            {
                *options
            }
            _ => return Ok(()),
        },
    };
    let mut first = query.body.as_ref();
    loop {
        match first {
            SetExpr::SetOperation { left, .. } => first = left,
            SetExpr::Query(query) => first = &query.body,
            _ => break,
        }
    }
    let columns = match first {
        SetExpr::Select(select) if select.projection.iter().all(is_one_column) => select.projection.len(),
        SetExpr::Values(values) => values.rows.first().map_or(0, |row| row.content.len()),
        _ => {
            return Err(Error::unsupported("ORDER BY ALL is not supported of columns that are not named").with_hint("name them, not *"));
        }
    };
    let key = |place| OrderByExpr { expr: number(place), options, with_fill: None };
    *kind = OrderByKind::Expressions((1..=columns).map(key).collect());
    Ok(())
}

fn is_one_column(item: &SelectItem) -> bool {
    matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. })
}

/// A query's rows are one stream, so what asks for order within each reducer gets it by a total order, and `DISTRIBUTE BY`, which says who
/// the reducers are, says nothing about the rows.
fn sorted_by(query: &mut Query) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let cluster_by = std::mem::take(&mut select.cluster_by);
    let distributed = !std::mem::take(&mut select.distribute_by).is_empty();
    let mut sort_by = std::mem::take(&mut select.sort_by);
    if !cluster_by.is_empty() {
        if distributed || !sort_by.is_empty() {
            return Err(Error::invalid("CLUSTER BY stands for DISTRIBUTE BY and SORT BY: use it without them"));
        }
        let key = |expr| OrderByExpr { expr, options: OrderByOptions::default(), with_fill: None };
        sort_by = cluster_by.into_iter().map(key).collect();
    }
    if sort_by.is_empty() {
        return Ok(());
    }
    if query.order_by.is_some() {
        return Err(Error::invalid("a query has either ORDER BY or SORT BY"));
    }
    query.order_by = Some(OrderBy { kind: OrderByKind::Expressions(sort_by), interpolate: None });
    Ok(())
}

/// Names columns that DataFusion would give the same name, which it refuses: `SELECT a, a`; `SELECT a, CAST(a AS STRING)`, since casts have
/// the name of what they cast; `SELECT mean(a), avg(a)`; and subqueries, which have the name of what they select.
pub(super) fn tell_apart(projection: &mut [SelectItem], dialect: Dialect) {
    let mut names = HashSet::new();
    // What is not cast keeps its name.
    for casts in [false, true] {
        for item in &mut *projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            if matches!(expr, Expr::Cast { .. }) != casts || names.insert(called(expr, dialect)) {
                continue;
            }
            let text = expr.to_string();
            let mut free = std::iter::once(text.clone()).chain((1..).map(|number| format!("{text}_{number}")));
            let Some(name) = free.find(|name| names.insert(name.to_lowercase())) else { continue };
            *item = SelectItem::ExprWithAlias { expr: taken(expr), alias: Ident::with_quote('"', name) };
        }
    }
}

/// A text that is the same for expressions that DataFusion may call the same.
fn called(expr: &Expr, dialect: Dialect) -> String {
    let mut bare = expr.clone();
    let ControlFlow::Continue(()) = VisitMut::visit(&mut bare, &mut Bare(dialect));
    bare.to_string().to_lowercase()
}

/// Leaves out what a name does not tell.
struct Bare(Dialect);

impl VisitorMut for Bare {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Cast { expr: inner, .. } | Expr::Nested(inner) => *expr = taken(inner),
            Expr::TypedString(typed) => *expr = Expr::Value(typed.value.clone()),
            Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => *expr = Expr::Identifier(Ident::new("subquery")),
            Expr::Function(function) => {
                if let Some(name) = meaning(&function.name.to_string().to_lowercase(), self.0) {
                    function.name = Ident::new(name).into();
                }
                if function.args == FunctionArguments::None {
                    function.args = arguments_of(Vec::new(), Vec::new());
                }
            }
            Expr::Value(ValueWithSpan { value, .. }) => {
                if let Value::DoubleQuotedString(text) = value {
                    *value = Value::SingleQuotedString(std::mem::take(text));
                }
            }
            // A part of a struct by its name in quotes.
            Expr::CompoundFieldAccess { root, access_chain } => {
                if let (Expr::Identifier(name), [AccessExpr::Subscript(Subscript::Index { index: Expr::Value(part) })]) =
                    (root.as_ref(), access_chain.as_slice())
                    && let Value::SingleQuotedString(part) = &part.value
                {
                    *expr = Expr::CompoundIdentifier(vec![name.clone(), Ident::new(part)]);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}
