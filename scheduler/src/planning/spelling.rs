//! What Hive, Spark and Presto spell otherwise than DataFusion does, as DataFusion spells it.
//!
//! DataFusion takes none of these, or, `GROUP BY ... WITH ROLLUP`, leaves a part out in silence. What depends on types is not spelling:
//! operators are planned in `windlass_engine::functions`, rows made of lists in [`generators`](super::generators).

mod literals;
mod pivot;
mod precedence;
mod shorthands;

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use datafusion::common::config::ConfigOptions;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    self, AccessExpr, BinaryOperator, CaseWhen, CastKind, DataType, DateTimeField, DuplicateTreatment, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments, GroupByExpr, GroupByWithModifier, Ident, Join,
    JoinConstraint, JoinOperator, LimitClause, ListAggOnOverflow, OrderBy, OrderByExpr, OrderByKind, OrderByOptions, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, SetOperator, TableAlias, TableAliasColumnDef, TableFactor, TableWithJoins,
    UnaryOperator, Value, VisitMut, VisitorMut,
};
use windlass_catalog::catalog::CATALOG;
use windlass_catalog::ddl::types::parse_type;
use windlass_engine::{Dialect, WindlassOptions};

use self::precedence::{arrow_first, distinct_first};
use super::generators::{GENERATORS, is_generator};
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
    functions.extend(OF_SESSION.map(|name| (name.to_owned(), "scalar")));
    functions.extend(["count_if", "max_by", "min_by"].map(|name| (name.to_owned(), "aggregate")));
    functions.extend(GENERATORS.map(|(name, ..)| (name.to_owned(), "table")));
    functions
}

/// Functions of the session, which have one value in a statement.
const OF_SESSION: [&str; 7] =
    ["current_catalog", "current_database", "current_schema", "current_timezone", "current_user", "session_user", "user"];

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
        subtracted(&mut query.body);
        flow(sorted_by(query).and_then(|()| fetched(query)).and_then(|()| ordered_by_all(query)))
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        flow(self.select(select))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            nest(table_with_joins);
        }
        of_one_row(factor);
        called(factor);
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
        grouped(&mut select.group_by)?;
        for view in std::mem::take(&mut select.lateral_views) {
            let Expr::Function(function) = view.lateral_view else {
                return Err(Error::invalid(format!("LATERAL VIEW takes a function such as explode, not '{}'", view.lateral_view)));
            };
            let name = view.lateral_view_name.0.last().and_then(|part| part.as_ident()).cloned();
            let name = name.ok_or_else(|| Error::invalid("LATERAL VIEW needs a name for its rows"))?;
            attach(&mut select.from, lateral(function, name, view.lateral_col_alias)?, view.outer);
        }
        self.generate(select)?;
        tell_apart(&mut select.projection);
        gather(&mut select.from);
        for table in &mut select.from {
            nest(table);
        }
        Ok(())
    }

    /// `SELECT a, explode(b) AS c FROM t` takes its rows from `t LATERAL VIEW explode(b) g AS c`.
    fn generate(&mut self, select: &mut Select) -> Result<()> {
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

    fn expr(&self, expr: &mut Expr) -> Result<()> {
        match expr {
            Expr::RLike { negated, expr: text, pattern, .. } => {
                let matches = call("regexp_like", [std::mem::replace(&mut **text, null()), std::mem::replace(&mut **pattern, null())]);
                *expr = match *negated {
                    true => Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(matches) })),
                    false => matches,
                };
            }
            Expr::UnaryOp { op: op @ UnaryOperator::BangNot, .. } => *op = UnaryOperator::Not,
            Expr::TypedString(typed) => literals::complete_typed(typed),
            Expr::Interval(interval) => literals::of_several_units(interval)?,
            // Comparisons complete times by the type of the other side.
            Expr::Between { expr: middle, negated: false, low, high }
                if [&*low, &*high].into_iter().any(|end| literals::is_short_time(end)) =>
            {
                let compared = |op, end: &Expr| Expr::BinaryOp { left: middle.clone(), op, right: Box::new(end.clone()) };
                let (above, below) = (compared(BinaryOperator::GtEq, low), compared(BinaryOperator::LtEq, high));
                let both = Expr::BinaryOp { left: Box::new(above), op: BinaryOperator::And, right: Box::new(below) };
                *expr = Expr::Nested(Box::new(both));
            }
            Expr::Extract { field: DateTimeField::Dow | DateTimeField::DayOfWeek, expr: time, .. } => {
                let name = match self.dialect {
                    Dialect::Hive | Dialect::Spark => "dayofweek",
                    Dialect::Presto => "day_of_week",
                    Dialect::Generic | Dialect::Ansi => return Ok(()),
                };
                *expr = call(name, [std::mem::replace(&mut **time, null())]);
            }
            Expr::Like { any: true, .. } | Expr::ILike { any: true, .. } => {
                if let Some(any) = like_any(expr) {
                    *expr = any;
                }
            }
            Expr::Cast { data_type: DataType::JSON, .. } => {
                if let Some(json) = shorthands::cast_to_json(expr) {
                    *expr = json;
                }
            }
            Expr::Cast { kind, expr: inner, data_type, .. } => {
                literals::row_type(data_type);
                if self.lenient_casts && matches!(kind, CastKind::Cast | CastKind::DoubleColon) {
                    *kind = CastKind::TryCast;
                }
                if let Expr::Value(literal) = &mut **inner {
                    literals::complete(literal, data_type);
                }
                if let Some(fields) = literals::row_fields(kind, inner, data_type) {
                    *expr = call("named_struct", fields);
                }
            }
            // DataFusion takes the fields of what is no column by text only.
            Expr::CompoundFieldAccess { access_chain, .. } => {
                for access in access_chain {
                    if let AccessExpr::Dot(field @ Expr::Identifier(_)) = access
                        && let Expr::Identifier(name) = &*field
                    {
                        *field = Expr::Value(Value::SingleQuotedString(name.value.clone()).with_empty_span());
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

    fn function(&self, function: &mut Function) -> Result<Option<Expr>> {
        let [name] = function.name.0.as_slice() else { return Ok(None) };
        let Some(name) = name.as_ident().map(|name| name.value.to_ascii_lowercase()) else { return Ok(None) };
        if let Some(value) = self.of_session(&name, function)? {
            return Ok(Some(value));
        }
        within_group(&name, function);
        if name == "count" {
            together(function);
        }
        let Some(mut args) = arguments(function) else { return Ok(None) };
        if let ([_], Some(data_type)) = (args.as_slice(), self.cast_function(&name)) {
            let kind = if self.lenient_casts { CastKind::TryCast } else { CastKind::Cast };
            let expr = Box::new(args.remove(0));
            return Ok(Some(Expr::Cast { kind, expr, data_type, array: false, format: None }));
        }
        if let Some(meaning) = shorthands::expand(&name, &args, function, self.dialect) {
            return Ok(Some(meaning));
        }
        Ok(match (name.as_str(), args.len()) {
            ("isnull", 1) => Some(Expr::Nested(Box::new(Expr::IsNull(Box::new(args.remove(0)))))),
            ("isnotnull", 1) => Some(Expr::Nested(Box::new(Expr::IsNotNull(Box::new(args.remove(0)))))),
            ("unix_timestamp", 0) => Some(call("to_unixtime", [call("now", [])])),
            // Presto's, whose ELSE may be left out.
            ("if", 2) => {
                args.push(null());
                Some(call("if", args))
            }
            // The schema becomes the type that it means.
            ("from_json", 2) => match &args[1] {
                Expr::Value(schema) if let Some(schema) = schema.value.clone().into_string() => {
                    let data_type = parse_type(&schema, self.dialect)
                        .map_err(|error| Error::invalid(format!("cannot read the schema of 'from_json': {error}")))?;
                    args[1] = Expr::Value(Value::SingleQuotedString(data_type.to_string()).with_empty_span());
                    function.args = arguments_of(args, Vec::new());
                    None
                }
                _ => None,
            },
            // Elsewhere than in DataFusion NULLs are last.
            ("array_sort", 1) if !matches!(self.dialect, Dialect::Generic | Dialect::Ansi) => {
                let words = ["ASC", "NULLS LAST"].map(|word| Expr::Value(Value::SingleQuotedString(word.to_owned()).with_empty_span()));
                args.extend(words);
                function.args = arguments_of(args, Vec::new());
                None
            }
            ("array_sort", 2) if matches!(args[1], Expr::Lambda(_)) => {
                function.name = Ident::new("array_sort_by").into();
                None
            }
            ("at_timezone" | "with_timezone", 2) => {
                let (time_zone, timestamp) = (Box::new(args.remove(1)), Box::new(args.remove(0)));
                Some(Expr::AtTimeZone { timestamp, time_zone })
            }
            ("grouping_id", 1..) => {
                function.name = Ident::new("grouping").into();
                None
            }
            ("encode" | "decode", 2) if self.dialect.is_hive_like() && is_utf8(&args[1]) => {
                let data_type = if name == "encode" { DataType::Bytea } else { DataType::String(None) };
                let expr = Box::new(args.remove(0));
                Some(Expr::Cast { kind: CastKind::Cast, expr, data_type, array: false, format: None })
            }
            ("decode", 3..) => Some(decoded(args)),
            ("count_if", 1) => {
                let result = Expr::Value(Value::Number("1".to_owned(), false).with_empty_span());
                let case = Expr::Case {
                    case_token: AttachedToken::empty(),
                    end_token: AttachedToken::empty(),
                    operand: None,
                    conditions: vec![CaseWhen { condition: args.remove(0), result }],
                    else_result: None,
                };
                function.name = Ident::new("count").into();
                function.args = arguments_of(vec![case], Vec::new());
                None
            }
            ("max_by" | "min_by", 2) => {
                if function.over.is_some() {
                    return Err(Error::unsupported(format!("'{name}' is not supported over a window"))
                        .with_hint("use first_value(x) OVER (PARTITION BY ... ORDER BY y)"));
                }
                let by = args.remove(1);
                let options = OrderByOptions { asc: Some(name == "min_by"), nulls_first: Some(false) };
                let known = Expr::IsNotNull(Box::new(Expr::Nested(Box::new(by.clone()))));
                function.filter = Some(Box::new(match function.filter.take() {
                    Some(filter) => {
                        Expr::BinaryOp { left: Box::new(Expr::Nested(filter)), op: BinaryOperator::And, right: Box::new(known) }
                    }
                    None => known,
                }));
                function.name = Ident::new("first_value").into();
                let order = OrderByExpr { expr: by, options, with_fill: None };
                function.args = arguments_of(args, vec![FunctionArgumentClause::OrderBy(vec![order])]);
                None
            }
            _ => None,
        })
    }

    /// `current_user`, with or without parentheses, and its like. Errors: `Unsupported` for the user where rows are kept for all users.
    fn of_session(&self, name: &str, function: &Function) -> Result<Option<Expr>> {
        let is_called = match &function.args {
            // `user` alone is a column more often than not.
            FunctionArguments::None => name != "user",
            _ => arguments(function).is_some_and(|args| args.is_empty()),
        };
        if !is_called || !OF_SESSION.contains(&name) {
            return Ok(None);
        }
        let value = match name {
            "current_catalog" => CATALOG,
            "current_database" | "current_schema" => self.options.catalog.default_schema.as_str(),
            "current_timezone" => self.options.execution.time_zone.as_deref().unwrap_or("UTC"),
            _ => self.user.ok_or_else(|| Error::unsupported(format!("'{name}' is not known where rows are kept for all users")))?,
        };
        Ok(Some(Expr::Value(Value::SingleQuotedString(value.to_owned()).with_empty_span())))
    }

    /// Types that are functions, too: `date('2024-01-01')`.
    fn cast_function(&self, name: &str) -> Option<DataType> {
        Some(match name {
            "date" => DataType::Date,
            "timestamp" => DataType::Timestamp(None, ast::TimezoneInfo::None),
            _ if !self.dialect.is_hive_like() => return None,
            "string" => DataType::String(None),
            "boolean" => DataType::Boolean,
            "tinyint" => DataType::TinyInt(None),
            "smallint" => DataType::SmallInt(None),
            "int" => DataType::Int(None),
            "bigint" => DataType::BigInt(None),
            "float" => DataType::Real,
            "double" => DataType::DoublePrecision,
            _ => return None,
        })
    }
}

/// `a LIKE ANY ('x%', 'y%')` is `(a LIKE 'x%' OR a LIKE 'y%')`.
fn like_any(expr: &Expr) -> Option<Expr> {
    let (Expr::Like { pattern, negated, .. } | Expr::ILike { pattern, negated, .. }) = expr else { return None };
    let Expr::Tuple(patterns) = pattern.as_ref() else { return None };
    let one = |one: &Expr| {
        let mut like = expr.clone();
        if let Expr::Like { any, pattern, negated, .. } | Expr::ILike { any, pattern, negated, .. } = &mut like {
            (*any, **pattern, *negated) = (false, one.clone(), false);
        }
        like
    };
    let or = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::Or, right: Box::new(right) };
    let any = Expr::Nested(Box::new(patterns.iter().map(one).reduce(or)?));
    Some(if *negated { Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(any) })) } else { any })
}

/// `count(DISTINCT a, b)` counts the different pairs in which nothing is NULL.
fn together(function: &mut Function) {
    let FunctionArguments::List(FunctionArgumentList { duplicate_treatment: Some(DuplicateTreatment::Distinct), args, .. }) =
        &mut function.args
    else {
        return;
    };
    let exprs = args.iter().map(|arg| if let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg { Some(expr.clone()) } else { None });
    let Some(exprs) = exprs.collect::<Option<Vec<_>>>().filter(|exprs| exprs.len() > 1) else { return };
    let known = exprs.iter().map(|expr| Expr::IsNotNull(Box::new(Expr::Nested(Box::new(expr.clone())))));
    let and = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) };
    let Some(condition) = known.reduce(and) else { return };
    let conditions = vec![CaseWhen { condition, result: call("struct", exprs) }];
    let (case_token, end_token) = (AttachedToken::empty(), AttachedToken::empty());
    let case = Expr::Case { case_token, end_token, operand: None, conditions, else_result: None };
    *args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(case))];
}

/// `listagg(x, ',') WITHIN GROUP (ORDER BY y)` is `string_agg(x, ',' ORDER BY y)`, and `mode() WITHIN GROUP (ORDER BY y)` is `mode(y)`.
fn within_group(name: &str, function: &mut Function) {
    let FunctionArguments::List(FunctionArgumentList { args, clauses, .. }) = &mut function.args else { return };
    match name {
        "listagg" | "string_agg" => {
            // Nothing overflows here.
            clauses.retain(|clause| *clause != FunctionArgumentClause::OnOverflow(ListAggOnOverflow::Error));
            if args.len() == 1 {
                let nothing = Expr::Value(Value::SingleQuotedString(String::new()).with_empty_span());
                args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(nothing)));
            }
            if !function.within_group.is_empty() {
                clauses.push(FunctionArgumentClause::OrderBy(std::mem::take(&mut function.within_group)));
            }
        }
        "mode" if args.is_empty() && function.within_group.len() == 1 => {
            let values = std::mem::take(&mut function.within_group).into_iter().map(|order| order.expr);
            args.extend(values.map(|value| FunctionArg::Unnamed(FunctionArgExpr::Expr(value))));
        }
        _ => {}
    }
}

/// `decode(x, 1, 'one', 2, 'two', 'more')` is a `CASE` in which NULL is NULL.
fn decoded(args: Vec<Expr>) -> Expr {
    let mut args = args.into_iter();
    let operand = args.next().unwrap_or_else(null);
    let (mut conditions, mut else_result) = (Vec::new(), None);
    while let Some(sought) = args.next() {
        match args.next() {
            Some(result) => {
                let condition = Expr::IsNotDistinctFrom(Box::new(operand.clone()), Box::new(sought));
                conditions.push(CaseWhen { condition, result });
            }
            None => else_result = Some(Box::new(sought)),
        }
    }
    Expr::Case { case_token: AttachedToken::empty(), end_token: AttachedToken::empty(), operand: None, conditions, else_result }
}

fn is_utf8(charset: &Expr) -> bool {
    let Expr::Value(literal) = charset else { return false };
    let name = literal.value.clone().into_string().unwrap_or_default();
    ["utf-8", "utf8", "us-ascii"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Names columns that DataFusion would give the same name, which it refuses: `SELECT a, a`, and `SELECT a, CAST(a AS STRING)`, since casts
/// have the name of what they cast.
fn tell_apart(projection: &mut [SelectItem]) {
    fn uncast(expr: &Expr) -> &Expr {
        match expr {
            Expr::Cast { expr, .. } | Expr::Nested(expr) => uncast(expr),
            expr => expr,
        }
    }
    let mut names = HashSet::new();
    // What is not cast keeps its name.
    for casts in [false, true] {
        for item in &mut *projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            if matches!(expr, Expr::Cast { .. }) != casts || names.insert(uncast(expr).to_string().to_lowercase()) {
                continue;
            }
            let text = expr.to_string();
            let mut free = std::iter::once(text.clone()).chain((1..).map(|number| format!("{text}_{number}")));
            let Some(name) = free.find(|name| names.insert(name.to_lowercase())) else { continue };
            *item = SelectItem::ExprWithAlias { expr: std::mem::replace(expr, null()), alias: Ident::with_quote('"', name) };
        }
    }
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

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

/// `GROUP BY a, b WITH ROLLUP` is `GROUP BY ROLLUP (a, b)`.
fn grouped(group_by: &mut GroupByExpr) -> Result<()> {
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
        Some([Expr::Value(Value::SingleQuotedString(name.to_lowercase()).with_empty_span()), expr.clone()])
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
    if fetch.with_ties || fetch.percent {
        return Err(Error::unsupported(format!("{fetch} is not supported")).with_hint("use rank() OVER (ORDER BY ...) in a subquery"));
    }
    let one = || Expr::Value(Value::Number("1".to_owned(), false).with_empty_span());
    let rows = fetch.quantity.unwrap_or_else(one);
    match query.limit_clause.get_or_insert(LimitClause::LimitOffset { limit: None, offset: None, limit_by: Vec::new() }) {
        LimitClause::LimitOffset { limit: limit @ None, .. } => *limit = Some(rows),
        _ => return Err(Error::invalid("a query has either LIMIT or FETCH")),
    }
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
    let place = |place: usize| Expr::Value(Value::Number(place.to_string(), false).with_empty_span());
    let key = |number| OrderByExpr { expr: place(number), options, with_fill: None };
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

/// A function that makes rows, as a table that sees the tables before it.
fn lateral(function: Function, name: Ident, columns: Vec<Ident>) -> Result<TableFactor> {
    let args = match function.args {
        FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }) if clauses.is_empty() => args,
        _ => return Err(Error::invalid(format!("'{}' takes a list of arguments only", function.name))),
    };
    let columns = columns.into_iter().map(|name| TableAliasColumnDef { name, data_type: None }).collect();
    let alias = Some(TableAlias { explicit: true, name, columns, at: None });
    Ok(TableFactor::Function { lateral: true, name: function.name, args, with_ordinality: false, alias })
}

/// Adds a table that sees all others.
fn attach(from: &mut Vec<TableWithJoins>, relation: TableFactor, outer: bool) {
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

/// Puts each table that makes rows into a join of its own with all before it, which [`generators`](super::generators) plans as one.
fn nest(table: &mut TableWithJoins) {
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

fn empty() -> TableFactor {
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

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;
    use windlass_engine::session::{session_config, set_option};

    use super::*;

    fn spelled(dialect: Dialect, sql: &str) -> Result<String> {
        let mut config = session_config(1);
        set_option(config.options_mut(), "windlass.dialect", &dialect.to_string()).unwrap();
        let mut statements = Parser::parse_sql(dialect.grammar(), sql).unwrap();
        respell(&mut statements[0], &config)?;
        Ok(statements[0].to_string())
    }

    #[test]
    fn clauses_of_hive_and_spark() {
        for (sql, expected) in [
            ("SELECT a FROM t GROUP BY a, b WITH ROLLUP", "SELECT a FROM t GROUP BY ROLLUP (a, b)"),
            ("SELECT a FROM t GROUP BY a, b GROUPING SETS ((a, b), ())", "SELECT a FROM t GROUP BY GROUPING SETS ((a, b), ())"),
            ("SELECT a FROM t DISTRIBUTE BY a SORT BY b DESC", "SELECT a FROM t ORDER BY b DESC"),
            ("SELECT a FROM t CLUSTER BY a", "SELECT a FROM t ORDER BY a"),
            ("SELECT a FROM t SEMI JOIN u ON t.a = u.a", "SELECT a FROM t LEFT SEMI JOIN u ON t.a = u.a"),
            ("SELECT a NOT RLIKE 'x' FROM t", "SELECT (NOT regexp_like(a, 'x')) FROM t"),
            ("SELECT int(a), CAST(b AS STRING) FROM t", "SELECT TRY_CAST(a AS INT), TRY_CAST(b AS STRING) FROM t"),
            (
                "SELECT max_by(a, b) FILTER (WHERE c) FROM t",
                "SELECT first_value(a ORDER BY b DESC NULLS LAST) FILTER (WHERE (c) AND (b) IS NOT NULL) FROM t",
            ),
            ("SELECT a FROM t OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY", "SELECT a FROM t LIMIT 3 OFFSET 2 ROWS"),
            ("SELECT a FROM t FETCH FIRST ROW ONLY", "SELECT a FROM t LIMIT 1"),
            ("SELECT a, A, t.a, \"A\" FROM t", "SELECT a, A AS \"A_1\", t.a, \"A\" FROM t"),
            ("SELECT TRY_CAST(a AS INT), a, b AS a FROM t", "SELECT TRY_CAST(a AS INT) AS \"TRY_CAST(a AS INT)\", a, b AS a FROM t"),
            (
                "SELECT count(*), count(*), count(*) FROM t",
                "SELECT count(*), count(*) AS \"count(*)_1\", count(*) AS \"count(*)_2\" FROM t",
            ),
            ("SELECT count_if(a > 1) FROM t", "SELECT count(CASE WHEN a > 1 THEN 1 END) FROM t"),
            ("SELECT listagg(a) WITHIN GROUP (ORDER BY b) FROM t", "SELECT listagg(a, '' ORDER BY b) FROM t"),
            (
                "SELECT listagg(a, ',' ON OVERFLOW ERROR) WITHIN GROUP (ORDER BY b DESC) FROM t",
                "SELECT listagg(a, ',' ORDER BY b DESC) FROM t",
            ),
            ("SELECT mode() WITHIN GROUP (ORDER BY b) FROM t", "SELECT mode(b) FROM t"),
            (
                "SELECT a, b AS c FROM t UNION SELECT 1, 2 ORDER BY ALL DESC",
                "SELECT a, b AS c FROM t UNION SELECT 1, 2 ORDER BY 1 DESC, 2 DESC",
            ),
            ("SELECT a BETWEEN '2024-01-01 9:30' AND b FROM t", "SELECT (a >= '2024-01-01 9:30' AND a <= b) FROM t"),
            ("SELECT a BETWEEN '2024-01-01' AND b FROM t", "SELECT a BETWEEN '2024-01-01' AND b FROM t"),
            ("SELECT a MINUS SELECT b", "SELECT a EXCEPT SELECT b"),
            (
                "SELECT count(DISTINCT a, b) FROM t",
                "SELECT count(DISTINCT CASE WHEN (a) IS NOT NULL AND (b) IS NOT NULL THEN struct(a, b) END) FROM t",
            ),
            ("SELECT a LIKE ANY ('x%', 'y%') FROM t", "SELECT (a LIKE 'x%' OR a LIKE 'y%') FROM t"),
            ("SELECT EXTRACT(DOW FROM a) FROM t", "SELECT dayofweek(a) FROM t"),
            (
                "SELECT CAST(ROW(1, 'b') AS ROW(x INT, y VARCHAR))",
                "SELECT named_struct('x', TRY_CAST(1 AS INT), 'y', TRY_CAST('b' AS VARCHAR))",
            ),
            ("SELECT CAST(a AS ROW(x INT, y VARCHAR)) FROM t", "SELECT TRY_CAST(a AS STRUCT<x INT, y VARCHAR>) FROM t"),
            ("SELECT * FROM TABLE(sequence(start => 1, stop => 3)) AS s", "SELECT * FROM generate_series(1, 3) AS s"),
            (
                "SELECT * FROM t, LATERAL (SELECT a + 1 AS b) x",
                "SELECT * FROM (t CROSS JOIN LATERAL inline(make_array(named_struct('b', a + 1))) x)",
            ),
            ("SELECT decode(a, 1, 'x', 'y')", "SELECT CASE WHEN a IS NOT DISTINCT FROM 1 THEN 'x' ELSE 'y' END"),
            ("SELECT encode('x', 'UTF-8'), current_database(), current_timezone()", "SELECT CAST('x' AS BYTEA), 'default', '+00:00'"),
            ("SELECT TIMESTAMP '2024-1-5 9:30', DATE '2024-1-5'", "SELECT TIMESTAMP '2024-01-05 09:30:00', DATE '2024-01-05'"),
            ("SELECT array_sort(a, (x, y) -> x - y) FROM t", "SELECT array_sort_by(a, (x, y) -> x - y) FROM t"),
        ] {
            assert_eq!(spelled(Dialect::Spark, sql).unwrap(), expected, "{sql}");
        }
        assert_eq!(spelled(Dialect::Presto, "SELECT CAST(a AS INT)").unwrap(), "SELECT CAST(a AS INT)");
        for sql in [
            "SELECT a FROM t FETCH FIRST 2 ROWS WITH TIES",
            "SELECT a FROM t LIMIT 1 FETCH FIRST ROW ONLY",
            "SELECT a FROM t SORT BY a ORDER BY b",
            "SELECT a FROM t CLUSTER BY a SORT BY a",
            "SELECT explode(a), explode(b) FROM t",
        ] {
            assert!(spelled(Dialect::Hive, sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn pivots_are_filtered_aggregates_and_stacked_columns() {
        for (sql, expected) in [
            (
                "SELECT * FROM t PIVOT (sum(n) FOR y IN (2023, 2024 AS now))",
                "SELECT * FROM (SELECT * EXCLUDE (\"n\", \"y\"), sum(n) FILTER (WHERE y IS NOT DISTINCT FROM 2023) AS \"2023\", \
                 sum(n) FILTER (WHERE y IS NOT DISTINCT FROM 2024) AS \"now\" FROM t GROUP BY ALL) AS \"pivoted\"",
            ),
            (
                "SELECT * FROM t PIVOT (sum(n) AS s, count(*) AS c FOR (y, q) IN ((2023, 'a'))) AS p",
                "SELECT * FROM (SELECT * EXCLUDE (\"n\", \"q\", \"y\"), \
                 sum(n) FILTER (WHERE y IS NOT DISTINCT FROM 2023 AND q IS NOT DISTINCT FROM 'a') AS \"2023_a_s\", \
                 count(*) FILTER (WHERE y IS NOT DISTINCT FROM 2023 AND q IS NOT DISTINCT FROM 'a') AS \"2023_a_c\" FROM t GROUP BY ALL) AS p",
            ),
            (
                "SELECT * FROM t UNPIVOT (v FOR k IN (a, b AS x))",
                "SELECT * FROM (SELECT * EXCLUDE (\"a\", \"b\") FROM (t CROSS JOIN LATERAL stack(2, 'a', a, 'x', b) AS \"unpivoted\" (k, v)) \
                 WHERE v IS NOT NULL) AS \"pivoted\"",
            ),
        ] {
            assert_eq!(spelled(Dialect::Generic, sql).unwrap().replace("( ", "("), expected, "{sql}");
        }
        assert!(spelled(Dialect::Generic, "SELECT * FROM t PIVOT (sum(n) FOR y IN (ANY))").is_err());
    }

    #[test]
    fn parts_of_json_are_compared() {
        for (sql, expected) in [("SELECT a -> 'b' = 'c' AND d", "BinaryOp"), ("SELECT a ->> 'b' -> 'c' IN ('d') IS NULL", "IsNull")] {
            let mut statements = Parser::parse_sql(Dialect::Generic.grammar(), sql).unwrap();
            respell(&mut statements[0], &session_config(1)).unwrap();
            assert_eq!(statements[0].to_string(), sql);
            let ast::Statement::Query(query) = &statements[0] else { panic!("{sql}") };
            let SetExpr::Select(select) = query.body.as_ref() else { panic!("{sql}") };
            let SelectItem::UnnamedExpr(expr) = &select.projection[0] else { panic!("{sql}") };
            let shape = format!("{expr:?}");
            assert!(shape.starts_with(expected), "{sql}: {shape}");
            assert!(!shape.contains("Arrow, right: InList") && !shape.contains("Arrow, right: BinaryOp"), "{sql}: {shape}");
        }
    }

    #[test]
    fn what_follows_a_comparison_with_distinct_is_not_its_operand() {
        let parsed = |sql: &str| Parser::new(Dialect::Generic.grammar()).try_with_sql(sql).unwrap().parse_expr().unwrap();
        for (sql, meant) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("p AND a IS NOT DISTINCT FROM b + 1 OR c", "(p AND (a IS NOT DISTINCT FROM b + 1)) OR c"),
            (
                "NOT a IS DISTINCT FROM b OR c AND d IS DISTINCT FROM e OR f",
                "((NOT (a IS DISTINCT FROM b)) OR (c AND (d IS DISTINCT FROM e))) OR f",
            ),
            ("a IS DISTINCT FROM (b AND c)", "a IS DISTINCT FROM (b AND c)"),
        ] {
            let mut expr = parsed(sql);
            distinct_first(&mut expr);
            let mut meant = parsed(meant);
            // Without the parentheses that say what is meant.
            let ControlFlow::Continue(()) = ast::visit_expressions_mut(&mut meant, |expr| {
                if let Expr::Nested(inner) = expr
                    && sql != "a IS DISTINCT FROM (b AND c)"
                {
                    *expr = std::mem::replace(&mut **inner, null());
                }
                ControlFlow::<std::convert::Infallible>::Continue(())
            });
            assert_eq!(expr, meant, "{sql}");
        }
    }

    #[test]
    fn rows_made_of_lists_join_all_before_them() {
        for (dialect, sql, expected) in [
            (
                Dialect::Hive,
                "SELECT * FROM t, u LATERAL VIEW OUTER explode(b) e AS c",
                "SELECT * FROM (t CROSS JOIN u LEFT OUTER JOIN LATERAL explode(b) AS e (c))",
            ),
            (
                Dialect::Presto,
                "SELECT * FROM t CROSS JOIN UNNEST(b) AS e (c) JOIN u ON c = d",
                "SELECT * FROM (t CROSS JOIN UNNEST(b) AS e (c)) JOIN u ON c = d",
            ),
            (Dialect::Generic, "SELECT * FROM t, UNNEST(b) AS e (c), u", "SELECT * FROM (t CROSS JOIN UNNEST(b) AS e (c)), u"),
            (
                Dialect::Spark,
                "SELECT a, explode(b) AS c FROM t",
                r#"SELECT a, "generated 1".* FROM (t CROSS JOIN LATERAL explode(b) AS "generated 1" (c))"#,
            ),
            (Dialect::Spark, "SELECT explode(array(1))", r#"SELECT "generated 1".* FROM LATERAL explode(array(1)) AS "generated 1""#),
        ] {
            assert_eq!(spelled(dialect, sql).unwrap(), expected, "{sql}");
        }
    }
}
