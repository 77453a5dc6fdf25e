//! What stands in `FROM`: rows made of lists, tables that are functions, joins.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgumentList, FunctionArguments, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, TableWithJoins,
};

use super::{Speller, call, null, text};
use crate::error::{Error, Result};
use crate::planning::generators::is_generator;

/// `LATERAL VIEW explode(a) t AS b` is a table that sees all before it.
pub(super) fn lateral_views(select: &mut Select) -> Result<()> {
    for view in std::mem::take(&mut select.lateral_views) {
        let Expr::Function(function) = view.lateral_view else {
            return Err(Error::invalid(format!("LATERAL VIEW takes a function such as explode, not '{}'", view.lateral_view)));
        };
        let name = view.lateral_view_name.0.last().and_then(|part| part.as_ident()).cloned();
        let name = name.ok_or_else(|| Error::invalid("LATERAL VIEW needs a name for its rows"))?;
        attach(&mut select.from, lateral(function, name, view.lateral_col_alias)?, view.outer);
    }
    Ok(())
}

impl Speller<'_> {
    /// `SELECT a, explode(b) AS c FROM t` takes its rows from `t LATERAL VIEW explode(b) g AS c`.
    pub(super) fn generate(&mut self, select: &mut Select) -> Result<()> {
        let mut makers = select.projection.iter().enumerate().filter_map(|(place, item)| {
            let (function, columns) = match item {
                SelectItem::UnnamedExpr(Expr::Function(function)) => (function, Vec::new()),
                SelectItem::ExprWithAlias { expr: Expr::Function(function), alias } => (function, vec![alias.clone()]),
                SelectItem::ExprWithAliases { expr: Expr::Function(function), aliases } => (function, aliases.clone()),
                _ => return None,
            };
            is_generator(&function.name).then(|| (place, function.clone(), columns))
        });
        let Some((place, function, columns)) = makers.next() else { return Ok(()) };
        if makers.next().is_some() {
            return Err(Error::unsupported("one SELECT can make rows of one list only").with_hint("use LATERAL VIEW for each list"));
        }
        self.generated += 1;
        let name = Ident::with_quote('"', format!("generated {}", self.generated));
        attach(&mut select.from, lateral(function, name.clone(), columns)?, false);
        // A star takes the new columns with all others.
        if select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_))) {
            select.projection.remove(place);
        } else {
            let all = SelectItemQualifiedWildcardKind::ObjectName(name.into());
            select.projection[place] = SelectItem::QualifiedWildcard(all, Default::default());
        }
        Ok(())
    }
}

/// Gives tables that make rows the joins that [`generators`](crate::planning::generators) plans.
pub(super) fn arrange(from: &mut Vec<TableWithJoins>) {
    gather(from);
    from.iter_mut().for_each(nest);
}

/// Spells a table as DataFusion does.
pub(super) fn respell(factor: &mut TableFactor) {
    if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
        nest(table_with_joins);
    }
    of_one_row(factor);
    called(factor);
}

/// `LATERAL (SELECT a + 1 AS b)`, which reads no table, is a row made of the rows before it.
fn of_one_row(factor: &mut TableFactor) {
    let TableFactor::Derived { lateral: true, subquery, alias, sample: None } = factor else { return };
    let Query { with: None, body, order_by: None, limit_clause: None, .. } = subquery.as_ref() else { return };
    let SetExpr::Select(select) = body.as_ref() else { return };
    let is_plain = select.from.is_empty()
        && select.distinct.is_none()
        && select.selection.is_none()
        && select.having.is_none()
        && select.qualify.is_none()
        && matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let field = |(place, item): (usize, &SelectItem)| {
        let (expr, name) = match item {
            SelectItem::ExprWithAlias { expr, alias } => (expr, alias.value.clone()),
            SelectItem::UnnamedExpr(expr @ Expr::Identifier(name)) => (expr, name.value.clone()),
            SelectItem::UnnamedExpr(expr) => (expr, format!("col{place}")),
            _ => return None,
        };
        Some([text(name.to_lowercase()), expr.clone()])
    };
    let fields: Option<Vec<_>> = select.projection.iter().enumerate().map(field).collect();
    let Some(fields) = fields.filter(|_| is_plain) else { return };
    let row = call("make_array", [call("named_struct", fields.into_iter().flatten())]);
    let Expr::Function(function) = call("inline", [row]) else { return };
    let FunctionArguments::List(FunctionArgumentList { args, .. }) = function.args else { return };
    *factor = TableFactor::Function { lateral: true, name: function.name, args, with_ordinality: false, alias: alias.take() };
}

/// `TABLE(sequence(1, 3))` is `generate_series(1, 3)`.
fn called(factor: &mut TableFactor) {
    let TableFactor::TableFunction { expr: Expr::Function(function), alias } = factor else { return };
    let FunctionArguments::List(FunctionArgumentList { args, .. }) = &function.args else { return };
    let is_sequence = function.name.to_string().eq_ignore_ascii_case("sequence");
    let name = if is_sequence { Ident::new("generate_series").into() } else { function.name.clone() };
    let unnamed = |arg: &FunctionArg| match arg {
        FunctionArg::Named { arg, .. } if is_sequence => FunctionArg::Unnamed(arg.clone()),
        other => other.clone(),
    };
    let args = args.iter().map(unnamed).collect();
    *factor = TableFactor::Function { lateral: false, name, args, with_ordinality: false, alias: alias.take() };
}

/// The column of Spark's `range(5)` is called `id`.
pub(super) fn ranged(factor: &mut TableFactor) {
    let (TableFactor::Table { name, alias, args: Some(_), .. } | TableFactor::Function { name, alias, .. }) = factor else { return };
    if name.to_string().eq_ignore_ascii_case("range") {
        let alias = alias.get_or_insert_with(|| TableAlias { explicit: true, name: Ident::new("range"), columns: Vec::new(), at: None });
        if alias.columns.is_empty() {
            alias.columns.push(TableAliasColumnDef { name: Ident::new("id"), data_type: None });
        }
    }
}

/// A function that makes rows, as a table that sees the tables before it.
pub(super) fn lateral(function: Function, name: Ident, columns: Vec<Ident>) -> Result<TableFactor> {
    let args = match function.args {
        FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }) if clauses.is_empty() => args,
        _ => return Err(Error::invalid(format!("'{}' takes a list of arguments only", function.name))),
    };
    let columns = columns.into_iter().map(|name| TableAliasColumnDef { name, data_type: None }).collect();
    let alias = Some(TableAlias { explicit: true, name, columns, at: None });
    Ok(TableFactor::Function { lateral: true, name: function.name, args, with_ordinality: false, alias })
}

/// Adds a table that sees all others.
pub(super) fn attach(from: &mut Vec<TableWithJoins>, relation: TableFactor, outer: bool) {
    let join_operator = if outer { JoinOperator::LeftOuter(JoinConstraint::None) } else { JoinOperator::CrossJoin(JoinConstraint::None) };
    match crossed(std::mem::take(from)) {
        Some(mut tables) => {
            tables.joins.push(Join { relation, global: false, join_operator });
            from.push(tables);
        }
        None => from.push(TableWithJoins { relation, joins: Vec::new() }),
    }
}

/// The tables of a list as joins.
fn crossed(from: Vec<TableWithJoins>) -> Option<TableWithJoins> {
    from.into_iter().reduce(|mut left, right| {
        let join_operator = JoinOperator::CrossJoin(JoinConstraint::None);
        left.joins.push(Join { relation: factor(right), global: false, join_operator });
        left
    })
}

fn factor(table: TableWithJoins) -> TableFactor {
    match table.joins.is_empty() {
        true => table.relation,
        false => TableFactor::NestedJoin { table_with_joins: Box::new(table), alias: None },
    }
}

/// `FROM a, UNNEST(a.b)` is `FROM a CROSS JOIN UNNEST(a.b)`.
fn gather(from: &mut Vec<TableWithJoins>) {
    for table in std::mem::take(from) {
        match makes_rows(&table.relation) {
            true => {
                attach(from, table.relation, false);
                from.iter_mut().for_each(|gathered| gathered.joins.extend(table.joins.iter().cloned()));
            }
            false => from.push(table),
        }
    }
}

/// Puts each table that makes rows into a join of its own with all before it, which [`generators`](crate::planning::generators) plans as one.
pub(super) fn nest(table: &mut TableWithJoins) {
    for join in std::mem::take(&mut table.joins) {
        let generates = makes_rows(&join.relation);
        table.joins.push(Join { join_operator: semi_joined(join.join_operator), ..join });
        if generates {
            let relation = std::mem::replace(&mut table.relation, empty());
            let nested = TableWithJoins { relation, joins: std::mem::take(&mut table.joins) };
            table.relation = TableFactor::NestedJoin { table_with_joins: Box::new(nested), alias: None };
        }
    }
}

pub(super) fn empty() -> TableFactor {
    TableFactor::TableFunction { expr: null(), alias: None }
}

/// `SEMI JOIN` is `LEFT SEMI JOIN`.
fn semi_joined(operator: JoinOperator) -> JoinOperator {
    match operator {
        JoinOperator::Semi(constraint) => JoinOperator::LeftSemi(constraint),
        JoinOperator::Anti(constraint) => JoinOperator::LeftAnti(constraint),
        other => other,
    }
}

/// Whether a table's rows are made of columns of the tables before it.
fn makes_rows(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::UNNEST { .. } => true,
        TableFactor::Function { name, .. } | TableFactor::Table { name, args: Some(_), .. } => is_generator(name),
        _ => false,
    }
}
