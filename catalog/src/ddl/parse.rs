//! The grammar.

mod alter;
mod create;

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::tokenizer::Token;
use windlass_engine::Dialect;

use self::alter::{alter, comment_on};
use self::create::create;
pub use self::create::key_type;
use super::ParseError;
use super::cursor::Cursor;
use super::pattern::Pattern;
use super::statement::{
    Analyze, AnalyzeScope, Condition, DatabaseName, DdlStatement, Noun, PartitionValue, PartitionValues, RefreshView, RepairMode, TableName,
};
use crate::predicate::Comparison;

type Result<T> = std::result::Result<T, ParseError>;

/// Reads a statement that shows or changes names; `None` if it is another kind of statement.
///
/// Errors: `Invalid` with the place of the mistake; `Unsupported` for writes, formats that are not known and clauses that would
/// change what a table means.
pub fn parse(sql: &str, dialect: Dialect) -> Result<Option<DdlStatement>> {
    let mut cursor = Cursor::new(sql, dialect)?;
    let Some(statement) = statement(&mut cursor)? else { return Ok(None) };
    cursor.finish()?;
    Ok(Some(statement))
}

fn statement(c: &mut Cursor<'_>) -> Result<Option<DdlStatement>> {
    if c.is("LOAD DATA") {
        return Err(c.unsupported("LOAD DATA is not supported: make an external table of the files, and INSERT from it"));
    }
    let statement = if c.eat("USE") {
        let _ = c.eat_before_name("DATABASE") || c.eat_before_name("SCHEMA");
        DdlStatement::Use(database_name(c)?)
    } else if c.eat("SHOW") {
        return show(c);
    } else if c.eat_any(&["DESCRIBE", "DESC"]) {
        if c.is_any(&["SELECT", "WITH", "VALUES", "FROM", "INSERT"]) || matches!(c.nth(0), Token::LParen) {
            return Ok(None);
        }
        describe(c)?
    } else if c.eat("CREATE") {
        create(c)?
    } else if c.eat("DROP") {
        drop_name(c)?
    } else if c.eat("ALTER TABLE") {
        alter(c, Noun::Table)?
    } else if c.eat("ALTER VIEW") {
        alter(c, Noun::View)?
    } else if c.eat("ALTER MATERIALIZED VIEW") {
        alter(c, Noun::MaterializedView)?
    } else if c.eat("REFRESH MATERIALIZED VIEW") {
        let view = table_name(c)?;
        DdlStatement::Refresh(RefreshView { view, full: c.eat("FULL") })
    } else if c.eat("COMMENT ON") {
        comment_on(c)?
    } else if c.is("ALTER") {
        return Err(c.unsupported("only ALTER TABLE, ALTER VIEW and ALTER MATERIALIZED VIEW are supported"));
    } else if c.eat("TRUNCATE") {
        c.eat_before_name("TABLE");
        let table = table_name(c)?;
        let conditions = if c.eat("PARTITION") { c.list(condition)? } else { Vec::new() };
        DdlStatement::Truncate { table, conditions }
    } else if c.eat("ANALYZE") {
        DdlStatement::Analyze(analyze(c)?)
    } else if c.eat("MSCK") {
        c.eat("REPAIR");
        c.expect("TABLE")?;
        let table = table_name(c)?;
        let mode = if c.eat("DROP PARTITIONS") {
            RepairMode::Drop
        } else if c.eat("SYNC PARTITIONS") {
            RepairMode::Sync
        } else {
            c.eat("ADD PARTITIONS");
            RepairMode::Add
        };
        DdlStatement::Repair { table, mode }
    } else {
        return Ok(None);
    };
    Ok(Some(statement))
}

fn show(c: &mut Cursor<'_>) -> Result<Option<DdlStatement>> {
    let statement = if c.eat("CATALOGS") {
        DdlStatement::ShowCatalogs { like: like(c)? }
    } else if c.eat_any(&["DATABASES", "SCHEMAS"]) {
        let catalog = if c.eat_any(&["FROM", "IN"]) { Some(c.identifier("a catalog name")?) } else { None };
        DdlStatement::ShowDatabases { catalog, like: like(c)? }
    } else if c.is_any(&["TABLES", "VIEWS"]) {
        let views_only = c.is("VIEWS");
        c.eat_any(&["TABLES", "VIEWS"]);
        let database = if c.eat_any(&["FROM", "IN"]) { Some(database_name(c)?) } else { None };
        DdlStatement::ShowTables { database, like: like(c)?, views_only }
    } else if c.eat("MATERIALIZED VIEWS") {
        let database = if c.eat_any(&["FROM", "IN"]) { Some(database_name(c)?) } else { None };
        DdlStatement::ShowMaterializedViews { database, like: like(c)? }
    } else if c.eat("FUNCTIONS") || c.eat_any(&["ALL FUNCTIONS", "SYSTEM FUNCTIONS"]) {
        DdlStatement::ShowFunctions { like: like(c)? }
    } else if c.eat("COLUMNS") {
        if !c.eat_any(&["FROM", "IN"]) {
            return Err(c.expected("FROM"));
        }
        let mut table = table_name(c)?;
        if c.eat_any(&["FROM", "IN"]) {
            if table.database.is_some() {
                return Err(c.invalid("the database is named twice".to_owned()));
            }
            let database = database_name(c)?;
            table = TableName { catalog: database.catalog, database: Some(database.name), name: table.name };
        }
        DdlStatement::ShowColumns(table)
    } else if c.eat("PARTITIONS") {
        c.eat_any(&["FROM", "IN"]);
        let table = table_name(c)?;
        let conditions = if c.eat("PARTITION") { c.list(condition)? } else { Vec::new() };
        DdlStatement::ShowPartitions { table, conditions }
    } else if c.eat("STATS FOR") {
        if matches!(c.nth(0), Token::LParen) {
            return Err(c.unsupported("statistics of a query cannot be shown: name a table, or use EXPLAIN"));
        }
        DdlStatement::ShowStats(table_name(c)?)
    } else if c.eat("TBLPROPERTIES") {
        let table = table_name(c)?;
        let mut names = if matches!(c.nth(0), Token::LParen) { c.list(property_name)? } else { Vec::new() };
        if names.len() > 1 {
            return Err(c.invalid("name one property, or none for all".to_owned()));
        }
        DdlStatement::ShowProperties { table, name: names.pop() }
    } else if c.eat_any(&["CREATE TABLE", "CREATE VIEW", "CREATE MATERIALIZED VIEW"]) {
        DdlStatement::ShowCreate(table_name(c)?)
    } else {
        return Ok(None);
    };
    Ok(Some(statement))
}

/// `[LIKE] 'pattern'`
fn like(c: &mut Cursor<'_>) -> Result<Option<Pattern>> {
    if c.eat("LIKE") || matches!(c.nth(0), Token::SingleQuotedString(_)) {
        return c.string("a pattern in quotes").map(|text| Some(Pattern(text)));
    }
    Ok(None)
}

fn describe(c: &mut Cursor<'_>) -> Result<DdlStatement> {
    if c.eat_before_name("DATABASE") || c.eat_before_name("SCHEMA") {
        c.eat_before_name("EXTENDED");
        return Ok(DdlStatement::DescribeDatabase(database_name(c)?));
    }
    let extended_of = |c: &mut Cursor<'_>| c.eat_before_name("EXTENDED") || c.eat_before_name("FORMATTED");
    let before = extended_of(c);
    c.eat_before_name("TABLE");
    let extended = before | extended_of(c);
    let table = table_name(c)?;
    if c.is("PARTITION") {
        return Ok(DdlStatement::DescribePartition { table, values: partition_values(c)? });
    }
    Ok(DdlStatement::Describe { table, extended })
}

/// Words in names of properties that other systems take credentials in.
const SECRETS: [&str; 6] = ["secret", "password", "access_key", "account_key", "session_token", "sas_token"];

/// `('a' = 'b', c.d = 1, ...)`
pub(super) fn properties(c: &mut Cursor<'_>) -> Result<BTreeMap<String, String>> {
    let pair = |c: &mut Cursor<'_>| {
        let name = property_name(c)?;
        let lower = name.to_ascii_lowercase();
        if SECRETS.iter().any(|word| lower.contains(word)) {
            return Err(c.unsupported(format!(
                "'{name}' is a secret, and who sees a table sees its properties: configure the store on the servers"
            )));
        }
        c.eat_token(&Token::Eq);
        Ok((name, value(c)?.unwrap_or_default()))
    };
    Ok(c.list(pair)?.into_iter().collect())
}

fn property_name(c: &mut Cursor<'_>) -> Result<String> {
    if let Ok(name) = c.string("a property name") {
        return Ok(name);
    }
    let mut name = c.exact_identifier("a property name")?;
    while c.eat_token(&Token::Period) {
        name = format!("{name}.{}", c.exact_identifier("a property name")?);
    }
    Ok(name)
}

/// A literal as text: string, number, `true`, `NULL`, `DATE '...'`, `TIMESTAMP '...'`.
fn value(c: &mut Cursor<'_>) -> Result<PartitionValue> {
    if c.eat("NULL") {
        return Ok(None);
    }
    let _ = c.eat_any(&["DATE", "TIMESTAMP"]);
    if c.is_any(&["TRUE", "FALSE"]) {
        return c.identifier("a value").map(Some);
    }
    let sign = if c.eat_token(&Token::Minus) { "-" } else { "" };
    if let Token::Number(digits, _) = c.nth(0) {
        let text = format!("{sign}{digits}");
        let number = c.nth(0).clone();
        c.eat_token(&number);
        return Ok(Some(text));
    }
    c.string("a value").map(Some)
}

fn condition(c: &mut Cursor<'_>) -> Result<Condition> {
    let key = c.identifier("a partition key")?;
    let comparison = match c.nth(0) {
        Token::Eq | Token::DoubleEq => Comparison::Equal,
        Token::Neq => Comparison::NotEqual,
        Token::Lt => Comparison::Less,
        Token::LtEq => Comparison::LessOrEqual,
        Token::Gt => Comparison::Greater,
        Token::GtEq => Comparison::GreaterOrEqual,
        _ => return Err(c.expected("a comparison, as in (dt = '2024-01-01')")),
    };
    let operator = c.nth(0).clone();
    c.eat_token(&operator);
    Ok(Condition { key, comparison, value: value(c)? })
}

/// `PARTITION (k = v, ...)`, without conditions other than `=`.
fn partition_values(c: &mut Cursor<'_>) -> Result<PartitionValues> {
    c.expect("PARTITION")?;
    c.list(|c| {
        let at = c.position();
        let condition = condition(c)?;
        match condition.comparison {
            Comparison::Equal => Ok((condition.key, condition.value)),
            _ => Err(c.invalid_at(at, format!("one partition has one value for key '{}': use =", condition.key))),
        }
    })
}

fn drop_name(c: &mut Cursor<'_>) -> Result<DdlStatement> {
    if c.eat_any(&["DATABASE", "SCHEMA"]) {
        let if_exists = c.eat("IF EXISTS");
        let database = database_name(c)?;
        let cascade = c.eat("CASCADE");
        c.eat("RESTRICT");
        return Ok(DdlStatement::DropDatabase { database, if_exists, cascade });
    }
    let Some(noun) = noun(c) else {
        return Err(c.unsupported(format!("DROP {} is not supported: only tables, views and databases can be dropped", c.nth(0))));
    };
    let if_exists = c.eat("IF EXISTS");
    let table = table_name(c)?;
    c.eat("PURGE");
    Ok(DdlStatement::Drop { table, if_exists, noun })
}

/// What a thing is called.
fn noun(c: &mut Cursor<'_>) -> Option<Noun> {
    let nouns = [("TABLE", Noun::Table), ("VIEW", Noun::View), ("MATERIALIZED VIEW", Noun::MaterializedView)];
    nouns.into_iter().find(|(words, _)| c.eat(words)).map(|(_, noun)| noun)
}

/// Hive's and Spark's `[TABLE] t [PARTITION (k = v, k2)] COMPUTE STATISTICS [NOSCAN | FOR ALL COLUMNS | FOR COLUMNS a, b]`, Trino's `t`.
fn analyze(c: &mut Cursor<'_>) -> Result<Analyze> {
    if c.is_any(&["TABLES IN", "TABLES FROM"]) {
        return Err(c.unsupported("ANALYZE TABLES is not supported: name one table"));
    }
    let _ = c.eat_before_name("TABLE");
    let table = table_name(c)?;
    let key = |c: &mut Cursor<'_>| {
        let name = c.identifier("a partition key")?;
        let value = if c.eat_token(&Token::Eq) { Some(value(c)?) } else { None };
        Ok((name, value))
    };
    let partition = if c.eat("PARTITION") { c.list(key)? } else { Vec::new() };
    let mut scope = AnalyzeScope::AllColumns;
    if c.is("WITH") {
        return Err(c.unsupported("ANALYZE ... WITH (...) is not supported: use PARTITION (key = value) and FOR COLUMNS a, b"));
    }
    if c.eat("COMPUTE") {
        c.expect("STATISTICS")?;
        if c.eat("NOSCAN") {
            scope = AnalyzeScope::Size;
        } else if c.eat("FOR") {
            let all = c.eat("ALL");
            c.expect("COLUMNS")?;
            // Hive leaves the names of all columns out.
            if !all && matches!(c.nth(0), Token::LParen) {
                scope = AnalyzeScope::Columns(c.list(|c| c.identifier("a column name"))?);
            } else if !all && matches!(c.nth(0), Token::Word(_)) {
                let mut columns = vec![c.identifier("a column name")?];
                while c.eat_token(&Token::Comma) {
                    columns.push(c.identifier("a column name")?);
                }
                scope = AnalyzeScope::Columns(columns);
            }
        }
    }
    Ok(Analyze { table, partition, scope })
}

fn database_name(c: &mut Cursor<'_>) -> Result<DatabaseName> {
    let first = c.identifier("a database name")?;
    if c.eat_token(&Token::Period) {
        return Ok(DatabaseName { catalog: Some(first), name: c.identifier("a database name")? });
    }
    Ok(DatabaseName { catalog: None, name: first })
}

pub(super) fn table_name(c: &mut Cursor<'_>) -> Result<TableName> {
    let mut parts = vec![c.identifier("a table name")?];
    while parts.len() < 3 && c.eat_token(&Token::Period) {
        parts.push(c.identifier("a table name")?);
    }
    let name = parts.pop().unwrap_or_default();
    let database = parts.pop();
    Ok(TableName { catalog: parts.pop(), database, name })
}
