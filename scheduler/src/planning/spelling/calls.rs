//! Functions that are called otherwise, or are something else than functions.

use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, CastKind, DataType, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, Ident, NullTreatment, OrderByExpr, OrderByOptions, TimezoneInfo, Value, ValueWithSpan,
};
use windlass_catalog::catalog::CATALOG;
use windlass_catalog::ddl::types::parse_type;
use windlass_engine::Dialect;
use windlass_engine::functions::aggregate_meaning;

use super::{Speller, arguments, arguments_of, binary, call, json, literals, null, number, shorthands, taken, text};
use crate::error::{Error, Result};

/// Functions of the session, which have one value in a statement.
pub(super) const OF_SESSION: [&str; 7] =
    ["current_catalog", "current_database", "current_schema", "current_timezone", "current_user", "session_user", "user"];

impl Speller<'_> {
    pub(super) fn function(&self, function: &mut Function) -> Result<Option<Expr>> {
        let [name] = function.name.0.as_slice() else { return Ok(None) };
        let Some(name) = name.as_ident().map(|name| name.value.to_ascii_lowercase()) else { return Ok(None) };
        if let Some(value) = self.of_session(&name, function)? {
            return Ok(Some(value));
        }
        if let Some(json) = json::made(&name, function)? {
            return Ok(Some(json));
        }
        within_group(&name, function);
        if let Some(meant) = aggregate_meaning(&name) {
            function.name = Ident::new(meant).into();
        }
        if name == "count" {
            together(function);
        }
        let of_time = matches!(name.as_str(), "localtime" | "localtimestamp") && function.args == FunctionArguments::None;
        let args = if of_time { Some(Vec::new()) } else { arguments(function) };
        let Some(mut args) = args else { return Ok(None) };
        if let ([_], Some(data_type)) = (args.as_slice(), self.cast_function(&name)) {
            let value = args.remove(0);
            return Ok(Some(match self.lenient_casts {
                true if literals::is_whole(&data_type) => cast(CastKind::TryCast, call("whole", [value]), data_type),
                true => cast(CastKind::TryCast, value, data_type),
                false => cast(CastKind::Cast, value, data_type),
            }));
        }
        if let Some(meaning) = shorthands::expand(&name, &args, function, self.dialect) {
            return Ok(Some(meaning));
        }
        if let Some(meaning) = self.meaning(&name, &mut args) {
            return Ok(Some(meaning));
        }
        self.rename(&name, args, function)?;
        Ok(None)
    }

    /// What a call means that is none of a function of that name. Takes the arguments if there is such a meaning.
    fn meaning(&self, name: &str, args: &mut Vec<Expr>) -> Option<Expr> {
        Some(match (name, args.len()) {
            ("isnull", 1) => Expr::Nested(Box::new(Expr::IsNull(Box::new(args.remove(0))))),
            ("isnotnull", 1) => Expr::Nested(Box::new(Expr::IsNotNull(Box::new(args.remove(0))))),
            ("unix_timestamp", 0) => call("to_unixtime", [call("now", [])]),
            // Presto's, whose ELSE may be left out.
            ("if", 2) => call("if", std::mem::take(args).into_iter().chain([null()])),
            ("at_timezone" | "with_timezone", 2) => {
                let (time_zone, timestamp) = (Box::new(args.remove(1)), Box::new(args.remove(0)));
                let mut moved = Expr::AtTimeZone { timestamp, time_zone };
                self.moved(&mut moved);
                moved
            }
            ("encode" | "decode", 2) if self.dialect.is_hive_like() && is_utf8(&args[1]) => {
                let data_type = if name == "encode" { DataType::Bytea } else { DataType::String(None) };
                cast(CastKind::Cast, args.remove(0), data_type)
            }
            ("decode", 3..) => decoded(std::mem::take(args)),
            ("struct", 1..) if self.dialect.is_hive_like() => call("named_struct", self.named(std::mem::take(args))),
            _ => return None,
        })
    }

    /// Names and values of `struct(a, b + 1)`: `a` and `col2` in Spark, `col1` and `col2` in Hive.
    pub(super) fn named(&self, args: Vec<Expr>) -> impl Iterator<Item = Expr> {
        let spark = self.dialect == Dialect::Spark;
        args.into_iter().enumerate().flat_map(move |(place, value)| {
            let name = match &value {
                Expr::Identifier(name) if spark => name.value.clone(),
                Expr::CompoundIdentifier(names) if spark => names.last().map(|name| name.value.clone()).unwrap_or_default(),
                _ => format!("col{}", place + 1),
            };
            [text(name), value]
        })
    }

    /// Calls another function, or the same with other arguments.
    fn rename(&self, name: &str, mut args: Vec<Expr>, function: &mut Function) -> Result<()> {
        match (name, args.len()) {
            // The schema becomes the type that it means.
            ("from_json", 2) => {
                if let Expr::Value(schema) = &args[1]
                    && let Some(schema) = schema.value.clone().into_string()
                {
                    let data_type = parse_type(&schema, self.dialect)
                        .map_err(|error| Error::invalid(format!("cannot read the schema of 'from_json': {error}")))?;
                    args[1] = text(data_type.to_string());
                    function.args = arguments_of(args, Vec::new());
                }
            }
            // Elsewhere than in DataFusion NULLs are last.
            ("array_sort", 1) if !matches!(self.dialect, Dialect::Generic | Dialect::Ansi) => {
                args.extend(["ASC", "NULLS LAST"].map(text));
                function.args = arguments_of(args, Vec::new());
            }
            ("array_sort", 2) if matches!(args[1], Expr::Lambda(_)) => function.name = Ident::new("array_sort_by").into(),
            // Spark's and Hive's word for IGNORE NULLS.
            ("any_value" | "first" | "first_value" | "last" | "last_value", 2) if self.dialect.is_hive_like() => {
                if let Expr::Value(ValueWithSpan { value: Value::Boolean(ignores), .. }) = args.remove(1) {
                    function.null_treatment = (ignores && name != "any_value").then_some(NullTreatment::IgnoreNulls);
                    function.args = arguments_of(args, Vec::new());
                }
            }
            ("date_trunc", 2) if self.dialect.is_hive_like() => {
                if let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(unit), .. }) = &mut args[0] {
                    *unit = literals::unit(unit).to_owned();
                    function.args = arguments_of(args, Vec::new());
                }
            }
            ("grouping_id", 1..) => function.name = Ident::new("grouping").into(),
            ("count_if" | "countif", 1) => {
                let counted = case(vec![CaseWhen { condition: args.remove(0), result: number(1) }], None);
                function.name = Ident::new("count").into();
                function.args = arguments_of(vec![counted], Vec::new());
            }
            ("max_by" | "min_by", 2) => first_by(name, args, function)?,
            _ => {}
        }
        Ok(())
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
        Ok(Some(text(value)))
    }

    /// In Presto a time without zone is in the session's; to DataFusion it is in the zone that is asked for.
    pub(super) fn moved(&self, expr: &mut Expr) {
        if let (Dialect::Presto, Expr::AtTimeZone { timestamp, .. }) = (self.dialect, expr) {
            **timestamp = cast(CastKind::Cast, taken(timestamp), DataType::Timestamp(None, TimezoneInfo::WithTimeZone));
        }
    }

    /// Types that are functions, too: `date('2024-01-01')`.
    fn cast_function(&self, name: &str) -> Option<DataType> {
        Some(match name {
            "date" => DataType::Date,
            "timestamp" => DataType::Timestamp(None, TimezoneInfo::None),
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

/// `max_by(a, b)` is `first_value(a ORDER BY b DESC)` of the rows whose `b` is known. Errors: `Unsupported` over a window.
fn first_by(name: &str, mut args: Vec<Expr>, function: &mut Function) -> Result<()> {
    if function.over.is_some() {
        return Err(Error::unsupported(format!("'{name}' is not supported over a window"))
            .with_hint("use first_value(x) OVER (PARTITION BY ... ORDER BY y)"));
    }
    let by = args.remove(1);
    let options = OrderByOptions { asc: Some(name == "min_by"), nulls_first: Some(false) };
    let known = Expr::IsNotNull(Box::new(Expr::Nested(Box::new(by.clone()))));
    function.filter = Some(Box::new(match function.filter.take() {
        Some(filter) => binary(Expr::Nested(filter), BinaryOperator::And, known),
        None => known,
    }));
    function.name = Ident::new("first_value").into();
    let order = OrderByExpr { expr: by, options, with_fill: None };
    function.args = arguments_of(args, vec![FunctionArgumentClause::OrderBy(vec![order])]);
    Ok(())
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
    let and = |left, right| binary(left, BinaryOperator::And, right);
    let Some(condition) = known.reduce(and) else { return };
    let counted = case(vec![CaseWhen { condition, result: call("struct", exprs) }], None);
    *args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(counted))];
}

/// `listagg(x, ',') WITHIN GROUP (ORDER BY y)` is `string_agg(x, ',' ORDER BY y)`, and `mode() WITHIN GROUP (ORDER BY y)` is `mode(y)`.
fn within_group(name: &str, function: &mut Function) {
    let FunctionArguments::List(FunctionArgumentList { args, clauses, .. }) = &mut function.args else { return };
    match name {
        "listagg" | "string_agg" => {
            // Nothing overflows here.
            clauses.retain(|clause| !matches!(clause, FunctionArgumentClause::OnOverflow(_)));
            if args.len() == 1 {
                args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(text(""))));
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
            None => else_result = Some(sought),
        }
    }
    case(conditions, else_result)
}

fn is_utf8(charset: &Expr) -> bool {
    let Expr::Value(literal) = charset else { return false };
    let name = literal.value.clone().into_string().unwrap_or_default();
    ["utf-8", "utf8", "us-ascii"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

pub(super) fn case(conditions: Vec<CaseWhen>, else_result: Option<Expr>) -> Expr {
    let (case_token, end_token) = (AttachedToken::empty(), AttachedToken::empty());
    Expr::Case { case_token, end_token, operand: None, conditions, else_result: else_result.map(Box::new) }
}

fn cast(kind: CastKind, expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind, expr: Box::new(expr), data_type, array: false, format: None }
}
