//! Times, intervals and types as the standard writes them.

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, DateTimeField, Expr, Interval, StructBracketKind, StructField, TypedString, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use windlass_engine::functions::completed_time;

use crate::error::{Error, Result};

/// `TIMESTAMP '2024-1-5 9:30'` is `TIMESTAMP '2024-01-05 09:30:00'`.
pub(super) fn complete_typed(typed: &mut TypedString) {
    complete(&mut typed.value, &typed.data_type);
}

/// Adds what a time in text leaves out.
pub(super) fn complete(literal: &mut ValueWithSpan, data_type: &DataType) {
    let is_time = matches!(data_type, DataType::Date | DataType::Timestamp(..) | DataType::TimestampNtz(_) | DataType::Datetime(_));
    if let Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) = &mut literal.value
        && is_time
        && let Some(completed) = completed_time(text)
    {
        *text = completed;
    }
}

/// Whether a type is one of whole numbers.
pub(super) fn is_whole(data_type: &DataType) -> bool {
    matches!(data_type, DataType::TinyInt(_) | DataType::SmallInt(_) | DataType::Int(_) | DataType::Integer(_) | DataType::BigInt(_))
}

/// Whether text is a time that leaves parts out.
pub(super) fn is_short_time(expr: &Expr) -> bool {
    let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text) | Value::DoubleQuotedString(text), .. }) = expr else {
        return false;
    };
    completed_time(text).is_some_and(|completed| completed != *text)
}

/// Text with a prefix, `r'\d'`, `U&'\2603'` or `N'x'`, is text.
pub(super) fn plain(value: &mut Value) {
    if let Value::SingleQuotedRawStringLiteral(text)
    | Value::DoubleQuotedRawStringLiteral(text)
    | Value::UnicodeStringLiteral(text)
    | Value::NationalStringLiteral(text) = value
    {
        *value = Value::SingleQuotedString(std::mem::take(text));
    }
}

/// A pattern of `LIKE` in which a backslash escapes, as DataFusion has it, and nothing else does: `'10!%' ESCAPE '!'` is `'10\%'`. Without
/// `ESCAPE` a backslash escapes in some dialects, and in others is one.
pub(super) fn escaped(pattern: &mut Expr, escape: &mut Option<ValueWithSpan>, backslash_escapes: bool) {
    let Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text) | Value::DoubleQuotedString(text), .. }) = pattern else {
        return;
    };
    let stated = escape.as_ref().and_then(|escape| escape.value.clone().into_string());
    let escape_char = match stated.as_deref() {
        Some(stated) => stated.chars().next(),
        None => backslash_escapes.then_some('\\'),
    };
    if escape_char == Some('\\') {
        return;
    }
    let (mut spelled, mut letters) = (String::with_capacity(text.len()), text.chars());
    while let Some(letter) = letters.next() {
        let plain = if Some(letter) == escape_char { letters.next() } else { (letter == '\\').then_some(letter) };
        match plain {
            Some(plain) => spelled.extend(['\\', plain]),
            None => spelled.push(letter),
        }
    }
    (*text, *escape) = (spelled, None);
}

/// The name of a unit that Spark's `date_trunc` shortens.
pub(super) fn unit(unit: &str) -> &str {
    match unit.to_ascii_lowercase().as_str() {
        "yy" | "yyyy" => "year",
        "mm" | "mon" => "month",
        "dd" => "day",
        _ => unit,
    }
}

/// Units from large to small. One interval has either the first two of them or some of the others.
const UNITS: [&str; 6] = ["YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND"];

/// `INTERVAL '1 02:03' DAY TO MINUTE` is `INTERVAL '1 DAY 02 HOUR 03 MINUTE'`. Errors: text with more or fewer numbers than units.
pub(super) fn of_several_units(interval: &mut Interval) -> Result<()> {
    let Interval { value, leading_field: Some(leading), last_field: Some(last), .. } = interval else { return Ok(()) };
    let place = |field: &DateTimeField| UNITS.iter().position(|unit| unit.eq_ignore_ascii_case(&field.to_string()));
    let (Some(first), Some(end)) = (place(leading), place(last)) else { return Ok(()) };
    let Expr::Value(literal) = value.as_mut() else { return Ok(()) };
    let Value::SingleQuotedString(text) = &mut literal.value else { return Ok(()) };
    let (sign, numbers) = match text.trim().strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.trim()),
    };
    let numbers: Vec<_> = numbers.split(['-', ':', ' ']).collect();
    let units = UNITS.get(first..=end).unwrap_or_default();
    let is_number = |number: &&str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if units.is_empty() || numbers.len() != units.len() || !numbers.iter().all(is_number) {
        return Err(Error::invalid(format!("interval '{text}' does not have the parts of {leading} TO {last}"))
            .with_hint("write it as INTERVAL '1-2' YEAR TO MONTH or INTERVAL '1 02:03:04' DAY TO SECOND"));
    }
    *text = numbers.iter().zip(units).map(|(number, unit)| format!("{sign}{number} {unit}")).collect::<Vec<_>>().join(" ");
    (interval.leading_field, interval.last_field) = (None, None);
    Ok(())
}

/// `ROW(a INT, b VARCHAR)` is `STRUCT<a INT, b VARCHAR>`. The parser knows the words of it only.
pub(super) fn row_type(data_type: &mut DataType) {
    let DataType::Custom(name, words) = &*data_type else { return };
    if !name.to_string().eq_ignore_ascii_case("row") || words.is_empty() || words.len() % 2 != 0 {
        return;
    }
    let field = |pair: &[String]| {
        let parser = Parser::new(&GenericDialect {}).try_with_sql(&pair[1]);
        let field_type = parser.and_then(|mut parser| parser.parse_data_type()).ok()?;
        Some(StructField { field_name: Some(pair[0].as_str().into()), field_type, options: None })
    };
    if let Some(fields) = words.chunks(2).map(field).collect() {
        *data_type = DataType::Struct(fields, StructBracketKind::AngleBrackets);
    }
}

/// Names and values of `CAST(ROW(1, 'b') AS ROW(x INT, y VARCHAR))`, whose fields go by their places.
pub(super) fn row_fields(kind: &CastKind, row: &Expr, data_type: &DataType) -> Option<Vec<Expr>> {
    let (Expr::Function(function), DataType::Struct(fields, _)) = (row, data_type) else { return None };
    let is_row = ["row", "struct"].iter().any(|name| function.name.to_string().eq_ignore_ascii_case(name));
    let values = super::arguments(function).filter(|values| is_row && values.len() == fields.len())?;
    let field = |(value, field): (Expr, &StructField)| {
        let name = field.field_name.as_ref()?.value.to_lowercase();
        let (expr, data_type) = (Box::new(value), field.field_type.clone());
        let value = Expr::Cast { kind: kind.clone(), expr, data_type, array: false, format: None };
        Some([super::text(name), value])
    };
    let fields = values.into_iter().zip(fields).map(field).collect::<Option<Vec<_>>>()?;
    Some(fields.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_several_units_name_each() {
        let spelled = |sql: &str| {
            let parsed = Parser::new(&GenericDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap();
            let Expr::Interval(mut interval) = parsed else { panic!("{sql}") };
            of_several_units(&mut interval).map(|()| interval.to_string())
        };
        for (sql, expected) in [
            ("INTERVAL '1-2' YEAR TO MONTH", "INTERVAL '1 YEAR 2 MONTH'"),
            ("INTERVAL '-1 02:03:04.5' DAY TO SECOND", "INTERVAL '-1 DAY -02 HOUR -03 MINUTE -04.5 SECOND'"),
            ("INTERVAL '2:03' HOUR TO MINUTE", "INTERVAL '2 HOUR 03 MINUTE'"),
            ("INTERVAL '1' DAY", "INTERVAL '1' DAY"),
        ] {
            assert_eq!(spelled(sql).unwrap(), expected, "{sql}");
        }
        for sql in ["INTERVAL '1' YEAR TO MONTH", "INTERVAL '1-x' YEAR TO MONTH", "INTERVAL '1 2' HOUR TO DAY"] {
            assert!(spelled(sql).is_err(), "{sql}");
        }
    }
}
