//! The grammar of `CALL system.vacuum(...)`.

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::tokenizer::Token;
use windlass_engine::Dialect;

use super::ParseError;
use super::cursor::Cursor;
use super::parse::table_name;
use super::statement::{Age, TableName, Vacuum};
use crate::catalog::{KeyType, PartitionKey};
use crate::keys::parse_value;

type Result<T> = std::result::Result<T, ParseError>;

/// Names of the arguments, in the order in which they may be given without.
const ARGUMENTS: [&str; 3] = ["table", "older_than", "dry_run"];
/// Units of an interval and their milliseconds.
const UNITS: [(&str, i64); 5] = [("SECOND", 1_000), ("MINUTE", 60_000), ("HOUR", 3_600_000), ("DAY", 86_400_000), ("WEEK", 604_800_000)];

/// Reads a call of a procedure; `None` if it is another kind of statement. Errors: `Invalid` with the place of the mistake.
pub fn parse_call(sql: &str, dialect: Dialect) -> Result<Option<Vacuum>> {
    let mut cursor = Cursor::new(sql, dialect)?;
    if !cursor.eat("CALL") {
        return Ok(None);
    }
    let vacuum = call(&mut cursor)?;
    cursor.finish()?;
    Ok(Some(vacuum))
}

fn call(c: &mut Cursor<'_>) -> Result<Vacuum> {
    let at = c.position();
    let procedure = table_name(c)?;
    if procedure.to_string() != "system.vacuum" {
        return Err(c.invalid_at(at, format!("there is no procedure '{procedure}': CALL runs system.vacuum")));
    }
    let mut vacuum = Vacuum { table: None, older_than: None, dry_run: false };
    c.expect_token(&Token::LParen)?;
    if c.eat_token(&Token::RParen) {
        return Ok(vacuum);
    }
    let mut seen = Vec::new();
    loop {
        let at = c.position();
        let name = match c.nth(1) {
            Token::RArrow => c.identifier("the name of an argument")?,
            _ => ARGUMENTS.get(seen.len()).map_or_else(String::new, |name| (*name).to_owned()),
        };
        c.eat_token(&Token::RArrow);
        match name.as_str() {
            _ if seen.contains(&name) => return Err(c.invalid_at(at, format!("argument '{name}' is given twice"))),
            "table" => vacuum.table = Some(table(c)?),
            "older_than" => vacuum.older_than = Some(age(c)?),
            "dry_run" => vacuum.dry_run = truth(c)?,
            _ => return Err(c.invalid_at(at, format!("system.vacuum takes {}", ARGUMENTS.join(", ")))),
        }
        seen.push(name);
        if !c.eat_token(&Token::Comma) {
            break;
        }
    }
    c.expect_token(&Token::RParen)?;
    Ok(vacuum)
}

/// A table's name in quotes, which the name itself may need inside: `'sales.orders'`.
fn table(c: &mut Cursor<'_>) -> Result<TableName> {
    let at = c.position();
    let text = c.string("a table name in quotes, as in table => 'db.t'")?;
    let mut inner = Cursor::new(&text, c.dialect())?;
    let name = table_name(&mut inner).and_then(|name| inner.finish().map(|()| name));
    name.map_err(|_| c.invalid_at(at, format!("'{text}' is no name of a table")))
}

fn truth(c: &mut Cursor<'_>) -> Result<bool> {
    match () {
        () if c.eat("TRUE") => Ok(true),
        () if c.eat("FALSE") => Ok(false),
        () => Err(c.expected("TRUE or FALSE")),
    }
}

/// `INTERVAL '7' DAY`, `INTERVAL '7 days'`, `TIMESTAMP '2024-01-01 00:00:00'`, or the latter's text alone.
fn age(c: &mut Cursor<'_>) -> Result<Age> {
    let at = c.position();
    if !c.eat("INTERVAL") {
        let _ = c.eat_any(&["TIMESTAMP", "DATE"]);
        let text = c.string("INTERVAL '7' DAY, or a time in quotes")?;
        let key = PartitionKey { name: "older_than".to_owned(), key_type: KeyType::Timestamp, comment: None };
        return match parse_value(&key, &text) {
            Ok(ScalarValue::TimestampMicrosecond(Some(micros), _)) => Ok(Age::At(micros.div_euclid(1000))),
            _ => Err(c.invalid_at(at, format!("'{text}' is no time: write TIMESTAMP '2024-01-31 00:00:00', in UTC"))),
        };
    }
    let text = match c.nth(0).clone() {
        token @ Token::Number(..) => {
            c.eat_token(&token);
            token.to_string()
        }
        _ => c.string("a number")?,
    };
    let (number, unit) = match text.trim().split_once(' ') {
        Some((number, unit)) => (number.to_owned(), unit.trim().to_owned()),
        None => (text.trim().to_owned(), c.identifier("a unit such as DAY")?),
    };
    let unit = unit.to_uppercase();
    let unit = UNITS.iter().find(|(name, _)| *name == unit || format!("{name}S") == unit);
    let ms = number.parse::<i64>().ok().filter(|number| *number >= 0).zip(unit).and_then(|(number, (_, ms))| number.checked_mul(*ms));
    ms.map(Age::Ago).ok_or_else(|| {
        c.invalid_at(at, "expected an interval of seconds, minutes, hours, days or weeks, as in INTERVAL '7' DAY".to_owned())
    })
}
