//! JSON that is made of its parts, `json_object('a' VALUE 1)` and `json_array(1, 'x')`, as a text put together.

use datafusion::sql::sqlparser::ast::{
    CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments,
    JsonNullClause, Value,
};

use super::calls::case;
use super::{arguments, call, text};
use crate::error::{Error, Result};

/// Functions whose text is JSON already.
const OF_JSON: [&str; 4] = ["json_extract", "json_get", "json_get_json", "to_json"];

/// What a call of a constructor makes; `None` for other functions. Errors: `Invalid` for a key without a value.
pub(super) fn made(name: &str, function: &Function) -> Result<Option<Expr>> {
    let (open, close) = match name {
        "json_object" | "json_build_object" => ("{", "}"),
        "json_array" | "json_build_array" => ("[", "]"),
        _ => return Ok(None),
    };
    let FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }) = &function.args else {
        return Ok(None);
    };
    let nulls = match clauses.as_slice() {
        [] => None,
        [FunctionArgumentClause::JsonNullClause(clause)] => Some(clause.clone()),
        [other, ..] => return Err(Error::unsupported(format!("{other} is not supported in '{name}'"))),
    };
    let parts = if open == "{" { members(args)? } else { elements(args)? };
    // The standard leaves NULLs out of lists, and not out of objects.
    let keeps_nulls = match nulls {
        Some(clause) => clause == JsonNullClause::NullOnNull,
        None => open == "{" || name == "json_build_array",
    };
    let part = |(key, value): (Option<Expr>, Expr)| {
        let known = Expr::IsNotNull(Box::new(Expr::Nested(Box::new(value.clone()))));
        let json = if is_json(&value) { value } else { call("to_json", [value]) };
        let json = if keeps_nulls { call("coalesce", [json, text("null")]) } else { json };
        let part = match key {
            Some(key) => call("concat", [call("to_json", [call("concat", [key, text("")])]), text(":"), json]),
            None => json,
        };
        if keeps_nulls { part } else { case(vec![CaseWhen { condition: known, result: part }], None) }
    };
    let parts: Vec<_> = parts.into_iter().map(part).collect();
    let inside = if parts.is_empty() { text("") } else { call("concat_ws", std::iter::once(text(",")).chain(parts)) };
    Ok(Some(call("concat", [text(open), inside, text(close)])))
}

type Parts = Vec<(Option<Expr>, Expr)>;

fn elements(args: &[FunctionArg]) -> Result<Parts> {
    let element = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Ok((None, value.clone())),
        other => Err(Error::invalid(format!("'{other}' is no element of JSON")).with_hint("write json_array(1, 'x')")),
    };
    args.iter().map(element).collect()
}

/// `'a' VALUE 1`, or keys and values in turn.
fn members(args: &[FunctionArg]) -> Result<Parts> {
    let odd = |arg: &FunctionArg| Error::invalid(format!("'{arg}' is no key with a value")).with_hint("write json_object('a' VALUE 1)");
    let (mut members, mut rest) = (Parts::new(), args.iter());
    while let Some(arg) = rest.next() {
        members.push(match arg {
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                let key = if name.quote_style == Some('\'') { text(&name.value) } else { Expr::Identifier(name.clone()) };
                (Some(key), value.clone())
            }
            FunctionArg::Unnamed(FunctionArgExpr::Expr(key)) => match rest.next() {
                Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(value))) => (Some(key.clone()), value.clone()),
                _ => return Err(odd(arg)),
            },
            _ => return Err(odd(arg)),
        });
    }
    Ok(members)
}

/// Whether an argument is JSON and not text to be quoted.
fn is_json(value: &Expr) -> bool {
    let Expr::Function(function) = value else { return false };
    let name = function.name.to_string().to_lowercase();
    let begins = |text: &Expr| matches!(text, Expr::Value(text) if matches!(&text.value, Value::SingleQuotedString(text) if text == "{" || text == "["));
    OF_JSON.contains(&name.as_str())
        || name == "concat" && arguments(function).is_some_and(|args| args.len() == 3 && args.first().is_some_and(begins))
}
