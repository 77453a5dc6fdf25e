//! The grammar of `CALL system.procedure(name => value, ...)`.

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::tokenizer::Token;
use windlass_engine::Dialect;

use super::ParseError;
use super::cursor::Cursor;
use super::parse::table_name;
use super::statement::{Age, Crawl, DdlStatement, KillQuery, TableName, Vacuum};
use crate::catalog::{KeyType, PartitionKey};
use crate::keys::parse_value;

type Result<T> = std::result::Result<T, ParseError>;

/// Units of an interval and their milliseconds.
const UNITS: [(&str, i64); 5] = [("SECOND", 1_000), ("MINUTE", 60_000), ("HOUR", 3_600_000), ("DAY", 86_400_000), ("WEEK", 604_800_000)];

/// The procedures that there are.
const PROCEDURES: [&str; 5] = ["advance", "crawl", "kill_query", "new_files", "vacuum"];

/// A call of a procedure.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    /// `system.vacuum`
    Vacuum(Vacuum),
    /// `system.kill_query`
    KillQuery(KillQuery),
    /// A procedure that shows or changes names.
    Names(Box<DdlStatement>),
}

/// Reads a call of a procedure; `None` if it is another kind of statement. Errors: `Invalid` with the place of the mistake.
pub fn parse_call(sql: &str, dialect: Dialect) -> Result<Option<Call>> {
    let mut cursor = Cursor::new(sql, dialect)?;
    if !cursor.eat("CALL") {
        return Ok(None);
    }
    let call = call(&mut cursor)?;
    cursor.finish()?;
    Ok(Some(call))
}

fn call(c: &mut Cursor<'_>) -> Result<Call> {
    let at = c.position();
    let procedure = table_name(c)?;
    match procedure.to_string().as_str() {
        "system.vacuum" => vacuum(c).map(Call::Vacuum),
        "system.crawl" => crawl(c).map(|crawl| Call::Names(Box::new(DdlStatement::Crawl(crawl)))),
        "system.new_files" => new_files(c).map(|statement| Call::Names(Box::new(statement))),
        "system.kill_query" | "system.runtime.kill_query" => kill_query(c).map(Call::KillQuery),
        "system.advance" => advance(c).map(|statement| Call::Names(Box::new(statement))),
        _ => Err(c.invalid_at(at, format!("there is no procedure '{procedure}': CALL runs system.{}", PROCEDURES.join(", system.")))),
    }
}

fn vacuum(c: &mut Cursor<'_>) -> Result<Vacuum> {
    let mut vacuum = Vacuum { table: None, older_than: None, dry_run: false };
    arguments(c, "system.vacuum", &["table", "older_than", "dry_run"], &[], |c, name| {
        match name {
            "table" => vacuum.table = Some(table(c)?),
            "older_than" => vacuum.older_than = Some(age(c)?),
            _ => vacuum.dry_run = truth(c)?,
        }
        Ok(())
    })?;
    Ok(vacuum)
}

fn crawl(c: &mut Cursor<'_>) -> Result<Crawl> {
    let mut crawl = Crawl { location: String::new(), database: None, table_prefix: String::new(), dry_run: false };
    arguments(c, "system.crawl", &["location", "database", "table_prefix", "dry_run"], &["location"], |c, name| {
        match name {
            "location" => crawl.location = c.string("a location in quotes")?,
            "database" => crawl.database = Some(c.string("a database in quotes")?.to_lowercase()),
            "table_prefix" => crawl.table_prefix = c.string("a prefix in quotes")?.to_lowercase(),
            _ => crawl.dry_run = truth(c)?,
        }
        Ok(())
    })?;
    Ok(crawl)
}

fn kill_query(c: &mut Cursor<'_>) -> Result<KillQuery> {
    let mut kill = KillQuery { query_id: String::new(), message: String::new() };
    arguments(c, "system.kill_query", &["query_id", "message"], &["query_id"], |c, name| {
        match name {
            "query_id" => kill.query_id = c.string("the id of a query in quotes")?,
            _ => kill.message = c.string("a message in quotes")?,
        }
        Ok(())
    })?;
    Ok(kill)
}

fn new_files(c: &mut Cursor<'_>) -> Result<DdlStatement> {
    let (mut name, mut job) = (None, String::new());
    arguments(c, "system.new_files", &["table", "job"], &["table", "job"], |c, argument| {
        match argument {
            "table" => name = Some(table(c)?),
            _ => job = c.string("the name of a job in quotes")?,
        }
        Ok(())
    })?;
    let table = name.ok_or_else(|| c.expected("a table"))?;
    Ok(DdlStatement::NewFiles { table, job })
}

fn advance(c: &mut Cursor<'_>) -> Result<DdlStatement> {
    let (mut name, mut job, mut version) = (None, String::new(), None);
    arguments(c, "system.advance", &["table", "job", "version"], &["table", "job"], |c, argument| {
        match argument {
            "table" => name = Some(table(c)?),
            "job" => job = c.string("the name of a job in quotes")?,
            _ => version = Some(number(c)?),
        }
        Ok(())
    })?;
    let table = name.ok_or_else(|| c.expected("a table"))?;
    Ok(DdlStatement::Advance { table, job, version })
}

/// Reads `(name => value, ...)`. Names may be left out as long as values come in their order. Errors: other names, one twice, or one of
/// `needed` that is missing.
fn arguments(
    c: &mut Cursor<'_>,
    procedure: &str,
    names: &[&str],
    needed: &[&str],
    mut take: impl FnMut(&mut Cursor<'_>, &str) -> Result<()>,
) -> Result<()> {
    // Without arguments the parentheses may be left out.
    let is_bare = matches!(c.nth(0), Token::EOF | Token::SemiColon) && needed.is_empty();
    if !is_bare {
        c.expect_token(&Token::LParen)?;
    }
    let mut seen = Vec::new();
    while !is_bare && !c.eat_token(&Token::RParen) {
        if !seen.is_empty() {
            c.expect_token(&Token::Comma)?;
        }
        let at = c.position();
        let name = match c.nth(1) {
            Token::RArrow => c.identifier("the name of an argument")?,
            _ => names.get(seen.len()).map_or_else(String::new, |name| (*name).to_owned()),
        };
        c.eat_token(&Token::RArrow);
        if seen.contains(&name) {
            return Err(c.invalid_at(at, format!("argument '{name}' is given twice")));
        }
        if !names.contains(&name.as_str()) {
            return Err(c.invalid_at(at, format!("{procedure} takes {}", names.join(", "))));
        }
        take(c, &name)?;
        seen.push(name);
    }
    match needed.iter().find(|name| seen.iter().all(|seen| seen != *name)) {
        Some(missing) => Err(c.invalid(format!("{procedure} needs {missing} => ..."))),
        None => Ok(()),
    }
}

fn number(c: &mut Cursor<'_>) -> Result<i64> {
    let token = c.nth(0).clone();
    match &token {
        Token::Number(digits, _) => {
            let number = digits.parse().map_err(|_| c.expected("a number"))?;
            c.eat_token(&token);
            Ok(number)
        }
        _ => Err(c.expected("a number")),
    }
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
