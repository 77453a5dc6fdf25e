//! `PIVOT` and `UNPIVOT` as queries that DataFusion knows: aggregates of the rows with each value, and rows made of columns.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, ExcludeSelectItem, Expr, ExprWithAlias, Function, GroupByExpr, Ident, NullInclusion, PivotValueSource, Query, Select,
    SelectItem, SetExpr, TableAlias, TableFactor, TableWithJoins, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::relations::{attach, empty, lateral, nest};
use super::{binary, call, number, text};
use crate::error::{Error, Result};

/// Puts a query in the place of a pivoted table. Errors: `Unsupported` for values that a query gives.
pub(super) fn pivoted(factor: &mut TableFactor) -> Result<()> {
    *factor = match factor {
        TableFactor::Pivot { table, aggregate_functions, value_column, value_source, default_on_null, alias } => {
            let PivotValueSource::List(values) = value_source else {
                return Err(Error::unsupported("PIVOT takes its values from a list only").with_hint("write IN (1, 2, ...)"));
            };
            if default_on_null.is_some() {
                return Err(Error::unsupported("PIVOT has no DEFAULT ON NULL here").with_hint("use coalesce in the query around it"));
            }
            let mut used = Names::default();
            let ControlFlow::Continue(()) = value_column.visit(&mut used);
            let ControlFlow::Continue(()) = aggregate_functions.visit(&mut used);
            let mut columns = Vec::new();
            for value in values.iter() {
                let condition = matches(value_column, &value.expr)?;
                for aggregate in aggregate_functions.iter() {
                    let name = column_name(value, (aggregate_functions.len() > 1).then_some(aggregate));
                    columns.push(SelectItem::ExprWithAlias { expr: only_where(&aggregate.expr, &condition)?, alias: name });
                }
            }
            let from = TableWithJoins { relation: std::mem::replace(&mut **table, empty()), joins: Vec::new() };
            derived(selected(used, columns, vec![from], GroupByExpr::All(Vec::new())), alias.take())
        }
        TableFactor::Unpivot { table, value, name, columns, null_inclusion, alias } => {
            let Expr::Identifier(value) = value else {
                return Err(Error::unsupported("UNPIVOT makes one column of values only").with_hint("use LATERAL VIEW stack(...)"));
            };
            let mut used = Names::default();
            let ControlFlow::Continue(()) = columns.visit(&mut used);
            let mut args = vec![number(columns.len())];
            for column in columns.iter() {
                let label = column.alias.as_ref().map_or_else(|| label(&column.expr), |alias| alias.value.clone());
                args.extend([text(label), column.expr.clone()]);
            }
            let Expr::Function(stack) = call("stack", args) else { return Err(Error::internal("a call is a function")) };
            let mut from = vec![TableWithJoins { relation: std::mem::replace(&mut **table, empty()), joins: Vec::new() }];
            attach(&mut from, lateral(stack, Ident::with_quote('"', "unpivoted"), vec![name.clone(), value.clone()])?, false);
            nest(&mut from[0]);
            let mut query = selected(used, Vec::new(), from, GroupByExpr::Expressions(Vec::new(), Vec::new()));
            if *null_inclusion != Some(NullInclusion::IncludeNulls)
                && let SetExpr::Select(select) = query.body.as_mut()
            {
                select.selection = Some(Expr::IsNotNull(Box::new(Expr::Identifier(value.clone()))));
            }
            derived(query, alias.take())
        }
        _ => return Ok(()),
    };
    Ok(())
}

/// Names of columns that expressions use.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Visitor for Names {
    type Break = std::convert::Infallible;

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Identifier(name) => drop(self.0.insert(name.value.to_lowercase())),
            Expr::CompoundIdentifier(parts) => self.0.extend(parts.last().map(|name| name.value.to_lowercase())),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// All columns but the used ones, then others.
fn selected(used: Names, columns: Vec<SelectItem>, from: Vec<TableWithJoins>, group_by: GroupByExpr) -> Box<Query> {
    let parser = Parser::new(&GenericDialect {}).try_with_sql("SELECT *");
    let mut query = parser.and_then(|mut parser| parser.parse_query()).expect("a test parses it");
    if let SetExpr::Select(select) = query.body.as_mut() {
        let Select { projection, from: tables, group_by: groups, .. } = select.as_mut();
        if let [SelectItem::Wildcard(options)] = projection.as_mut_slice() {
            let names = used.0.into_iter().map(|name| Ident::with_quote('"', name).into()).collect();
            options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
        }
        projection.extend(columns);
        (*tables, *groups) = (from, group_by);
    }
    query
}

fn derived(subquery: Box<Query>, alias: Option<TableAlias>) -> TableFactor {
    let name = || TableAlias { explicit: true, name: Ident::with_quote('"', "pivoted"), columns: Vec::new(), at: None };
    TableFactor::Derived { lateral: false, subquery, alias: Some(alias.unwrap_or_else(name)), sample: None }
}

/// Whether the columns have a value.
fn matches(columns: &[Expr], value: &Expr) -> Result<Expr> {
    let same = |column: &Expr, value: &Expr| Expr::IsNotDistinctFrom(Box::new(column.clone()), Box::new(value.clone()));
    let all = match (columns, value) {
        ([column], value) => Some(same(column, value)),
        (columns, Expr::Tuple(values)) if columns.len() == values.len() => {
            let each = columns.iter().zip(values).map(|(column, value)| same(column, value));
            each.reduce(|one, other| binary(one, BinaryOperator::And, other))
        }
        _ => None,
    };
    all.ok_or_else(|| Error::invalid(format!("PIVOT compares {} columns, not '{value}'", columns.len())))
}

/// An aggregate of the rows of which a condition is true.
fn only_where(aggregate: &Expr, condition: &Expr) -> Result<Expr> {
    let Expr::Function(function) = aggregate else {
        return Err(Error::unsupported(format!("PIVOT takes aggregates such as sum(x), not '{aggregate}'"))
            .with_hint("compute with their values in the query around it"));
    };
    let filter = match &function.filter {
        Some(filter) => binary(Expr::Nested(filter.clone()), BinaryOperator::And, Expr::Nested(Box::new(condition.clone()))),
        None => condition.clone(),
    };
    Ok(Expr::Function(Function { filter: Some(Box::new(filter)), ..function.clone() }))
}

/// As in Spark: the value, and the aggregate if there are several.
fn column_name(value: &ExprWithAlias, aggregate: Option<&ExprWithAlias>) -> Ident {
    let named = |named: &ExprWithAlias| named.alias.as_ref().map_or_else(|| label(&named.expr), |alias| alias.value.clone());
    let name = aggregate.map_or_else(|| named(value), |aggregate| format!("{}_{}", named(value), named(aggregate)));
    Ident::with_quote('"', name)
}

/// The text of an expression, without quotes around it.
fn label(expr: &Expr) -> String {
    match expr {
        Expr::Value(ValueWithSpan { value, .. }) => value.clone().into_string().unwrap_or_else(|| value.to_string()),
        Expr::Identifier(name) => name.value.clone(),
        Expr::TypedString(typed) => typed.value.value.clone().into_string().unwrap_or_default(),
        Expr::Tuple(values) => values.iter().map(label).collect::<Vec<_>>().join("_"),
        other => other.to_string(),
    }
}
