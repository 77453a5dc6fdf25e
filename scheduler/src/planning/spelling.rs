//! What Hive, Spark and Presto spell otherwise than DataFusion does, as DataFusion spells it.
//!
//! DataFusion takes none of these, or, `GROUP BY ... WITH ROLLUP`, leaves a part out in silence. What depends on types is not spelling:
//! operators are planned in `windlass_engine::functions`, rows made of lists in [`generators`](super::generators).

mod calls;
mod clauses;
mod json;
mod lambdas;
mod literals;
mod pivot;
mod precedence;
mod relations;
mod rows;
mod shorthands;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::common::config::ConfigOptions;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::{
    self, AccessExpr, BinaryOperator, CastKind, CeilFloorKind, DataType, DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, Query, Select, TableFactor, UnaryOperator, Value,
    ValueWithSpan, VisitMut, VisitorMut,
};
use windlass_engine::{Dialect, WindlassOptions};

use self::precedence::{arrow_first, distinct_first};
use super::generators::GENERATORS;
use crate::error::{Error, Result};
use crate::session::Asker;

/// Spells a statement as DataFusion does. Errors: `Unsupported` for clauses that have no counterpart, `Invalid` for those that exclude
/// each other.
pub fn respell(statement: &mut ast::Statement, config: &SessionConfig) -> Result<()> {
    let options = config.options();
    let dialect = WindlassOptions::of(options).dialect;
    let lenient_casts = dialect.is_hive_like() && !options.execution.enable_ansi_mode;
    let asker = config.get_extension::<Asker>();
    let user = asker.as_ref().and_then(|asker| asker.0.as_deref());
    match VisitMut::visit(statement, &mut Speller { options, user, dialect, lenient_casts, generated: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Names of functions that a dialect knows beside those of the engine, each with what kind of function it is.
pub fn functions(dialect: Dialect) -> BTreeMap<String, &'static str> {
    let mut functions = windlass_engine::functions::names(dialect);
    functions.extend(shorthands::names(dialect).map(|name| (name.to_owned(), "scalar")));
    functions.extend(["json_array", "json_object"].map(|name| (name.to_owned(), "scalar")));
    functions.extend(calls::OF_SESSION.map(|name| (name.to_owned(), "scalar")));
    functions.extend(["count_if", "countif", "max_by", "min_by"].map(|name| (name.to_owned(), "aggregate")));
    functions.extend(GENERATORS.map(|(name, ..)| (name.to_owned(), "table")));
    functions
}

struct Speller<'a> {
    options: &'a ConfigOptions,
    /// Who asks, where that may say what the rows are.
    user: Option<&'a str>,
    dialect: Dialect,
    /// Whether a value that cannot be cast is NULL.
    lenient_casts: bool,
    /// Tables that were named so far.
    generated: usize,
}

impl VisitorMut for Speller<'_> {
    type Break = Error;

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        flow(clauses::respell(query))
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        select.selection.iter_mut().for_each(rows::conditions);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        flow(self.select(select))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        relations::respell(factor);
        if self.dialect == Dialect::Spark {
            relations::ranged(factor);
        }
        flow(pivot::pivoted(factor))
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        arrow_first(expr);
        distinct_first(expr);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        flow(self.expr(expr))
    }
}

fn flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

impl Speller<'_> {
    fn select(&mut self, select: &mut Select) -> Result<()> {
        clauses::grouped(&mut select.group_by)?;
        relations::lateral_views(select)?;
        self.generate(select)?;
        clauses::tell_apart(&mut select.projection, self.dialect);
        relations::arrange(&mut select.from);
        Ok(())
    }

    fn expr(&self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::RLike { negated, expr: text, pattern, .. } => {
                let matches = call("regexp_like", [taken(text), taken(pattern)]);
                *expr = if *negated { not(matches) } else { matches };
            }
            Expr::UnaryOp { op: op @ UnaryOperator::BangNot, .. } => *op = UnaryOperator::Not,
            Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr: bits } => *expr = call("bitwise_not", [taken(bits)]),
            Expr::TypedString(typed) => literals::complete_typed(typed),
            Expr::Interval(interval) => literals::of_several_units(interval)?,
            // Comparisons complete times by the type of the other side.
            Expr::Between { expr: middle, negated: false, low, high }
                if [&*low, &*high].into_iter().any(|end| literals::is_short_time(end)) =>
            {
                let above = binary(*middle.clone(), BinaryOperator::GtEq, taken(low));
                let below = binary(taken(middle), BinaryOperator::LtEq, taken(high));
                *expr = Expr::Nested(Box::new(binary(above, BinaryOperator::And, below)));
            }
            Expr::Extract { field: DateTimeField::Dow | DateTimeField::DayOfWeek, expr: time, .. } => {
                let name = match self.dialect {
                    Dialect::Hive | Dialect::Spark => "dayofweek",
                    Dialect::Presto => "day_of_week",
                    Dialect::Generic | Dialect::Ansi => return Ok(()),
                };
                *expr = call(name, [taken(time)]);
            }
            Expr::Like { any: true, .. } | Expr::ILike { any: true, .. } => {
                if let Some(any) = like_any(expr) {
                    *expr = any;
                }
            }
            Expr::Like { pattern, .. } | Expr::ILike { pattern, .. } if all_of(pattern).is_some() => {
                if let Some(all) = like_all(expr) {
                    *expr = all;
                }
            }
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                literals::escaped(pattern, escape_char, !matches!(self.dialect, Dialect::Presto | Dialect::Ansi));
            }
            Expr::Value(literal) => literals::plain(&mut literal.value),
            Expr::Struct { values, fields } if fields.is_empty() && self.dialect.is_hive_like() => {
                *expr = call("named_struct", self.named(std::mem::take(values)));
            }
            Expr::AtTimeZone { .. } => self.moved(expr),
            Expr::Lambda(lambda) => lambdas::fields(lambda),
            Expr::InSubquery { expr: row, subquery, negated } => {
                if let Expr::Tuple(row) = row.as_ref()
                    && let Some(found) = rows::found(row, subquery, *negated)
                {
                    *expr = found;
                }
            }
            Expr::Ceil { expr: value, field: CeilFloorKind::Scale(places) } => *expr = rounded("ceil", taken(value), places.clone()),
            Expr::Floor { expr: value, field: CeilFloorKind::Scale(places) } => *expr = rounded("floor", taken(value), places.clone()),
            Expr::Cast { data_type: DataType::JSON, .. } => {
                if let Some(json) = shorthands::cast_to_json(expr) {
                    *expr = json;
                }
            }
            Expr::Cast { kind, expr: inner, data_type, .. } => {
                literals::row_type(data_type);
                let is_lenient = self.lenient_casts && matches!(kind, CastKind::Cast | CastKind::DoubleColon);
                if is_lenient {
                    *kind = CastKind::TryCast;
                }
                if let Expr::Value(literal) = &mut **inner {
                    literals::complete(literal, data_type);
                }
                if let Some(fields) = literals::row_fields(kind, inner, data_type) {
                    *expr = call("named_struct", fields);
                } else if literals::is_whole(data_type) && (is_lenient || self.dialect == Dialect::Presto) {
                    **inner = call(if is_lenient { "whole" } else { "nearest" }, [taken(inner)]);
                }
            }
            // DataFusion takes the fields of what is no column by text only.
            Expr::CompoundFieldAccess { access_chain, .. } => {
                for access in access_chain {
                    if let AccessExpr::Dot(field @ Expr::Identifier(_)) = access
                        && let Expr::Identifier(name) = &*field
                    {
                        *field = text(&name.value);
                    }
                }
            }
            Expr::Function(function) => {
                if let Some(respelled) = self.function(function)? {
                    *expr = respelled;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// `ceil(x, 2)` is `ceil(x * power(10, 2)) / power(10, 2)`.
fn rounded(name: &str, value: Expr, places: ValueWithSpan) -> Expr {
    let factor = call("power", [number(10), Expr::Value(places)]);
    binary(call(name, [binary(Expr::Nested(Box::new(value)), BinaryOperator::Multiply, factor.clone())]), BinaryOperator::Divide, factor)
}

/// `a LIKE ANY ('x%', 'y%')` is `(a LIKE 'x%' OR a LIKE 'y%')`.
fn like_any(expr: &Expr) -> Option<Expr> {
    let (Expr::Like { pattern, .. } | Expr::ILike { pattern, .. }) = expr else { return None };
    let Expr::Tuple(patterns) = pattern.as_ref() else { return None };
    likes(expr, patterns, BinaryOperator::Or)
}

/// `a LIKE ALL ('x%', 'y%')` is `(a LIKE 'x%' AND a LIKE 'y%')`.
fn like_all(expr: &Expr) -> Option<Expr> {
    let (Expr::Like { pattern, .. } | Expr::ILike { pattern, .. }) = expr else { return None };
    likes(expr, &all_of(pattern)?, BinaryOperator::And)
}

/// The parser takes `ALL ('x%', 'y%')` for the call of a function.
fn all_of(pattern: &Expr) -> Option<Vec<Expr>> {
    match pattern {
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("all") => arguments(function),
        _ => None,
    }
}

fn likes(expr: &Expr, patterns: &[Expr], op: BinaryOperator) -> Option<Expr> {
    let (Expr::Like { negated, .. } | Expr::ILike { negated, .. }) = expr else { return None };
    let one = |one: &Expr| {
        let mut like = expr.clone();
        if let Expr::Like { any, pattern, negated, .. } | Expr::ILike { any, pattern, negated, .. } = &mut like {
            (*any, **pattern, *negated) = (false, one.clone(), false);
        }
        like
    };
    let all = Expr::Nested(Box::new(patterns.iter().map(one).reduce(|left, right| binary(left, op.clone(), right))?));
    Some(if *negated { not(all) } else { all })
}

/// The function's arguments, if they are plain expressions.
fn arguments(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }) = &function.args else { return None };
    let expr = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    args.iter().map(expr).collect::<Option<Vec<_>>>().filter(|_| clauses.is_empty())
}

fn arguments_of(args: Vec<Expr>, clauses: Vec<FunctionArgumentClause>) -> FunctionArguments {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses })
}

fn call(name: &str, args: impl IntoIterator<Item = Expr>) -> Expr {
    Expr::Function(Function {
        name: Ident::new(name).into(),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: arguments_of(args.into_iter().collect(), Vec::new()),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn not(expr: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }))
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn number(number: usize) -> Expr {
    Expr::Value(Value::Number(number.to_string(), false).with_empty_span())
}

/// Takes a part out of an expression that is about to be replaced.
fn taken(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, null())
}

fn text(text: impl Into<String>) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.into()).with_empty_span())
}

#[cfg(test)]
mod tests;
