//! Databases, views and tables that are created.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::tokenizer::Token;

use super::super::cursor::Cursor;
use super::super::statement::{
    Column, CreateDatabase, CreateMaterializedView, CreateTable, CreateView, DdlStatement, Key, Like, ViewColumn,
};
use super::super::storage::{StorageClauses, presto_sort_column};
use super::super::types::type_name;
use super::{Result, database_name, properties, table_name, value};
use crate::catalog::KeyType;

/// What follows `CREATE`.
pub(super) fn create(c: &mut Cursor<'_>) -> Result<DdlStatement> {
    let or_replace = c.eat("OR REPLACE");
    if c.is_any(&["GLOBAL TEMPORARY", "GLOBAL TEMP"]) {
        return Err(
            c.unsupported("views for all sessions are not temporary here: use CREATE VIEW, or CREATE TEMPORARY VIEW for this session")
        );
    }
    let temporary = c.is_any(&["TEMPORARY VIEW", "TEMP VIEW", "LOCAL TEMPORARY VIEW", "LOCAL TEMP VIEW"]);
    if temporary {
        c.eat("LOCAL");
        c.eat_any(&["TEMPORARY", "TEMP"]);
    }
    if c.eat("VIEW") {
        return create_view(c, or_replace, temporary).map(DdlStatement::CreateView);
    }
    if !temporary && c.eat("MATERIALIZED VIEW") {
        return create_materialized_view(c, or_replace).map(DdlStatement::CreateMaterializedView);
    }
    let external = c.eat("EXTERNAL");
    if c.is("TABLE") {
        c.expect("TABLE")?;
        return create_table(c, or_replace, external).map(DdlStatement::CreateTable);
    }
    if !or_replace && !external && c.eat_any(&["DATABASE", "SCHEMA"]) {
        return create_database(c).map(DdlStatement::CreateDatabase);
    }
    Err(c.unsupported(format!("CREATE {} is not supported: only tables, views and databases can be created", c.nth(0))))
}

fn create_database(c: &mut Cursor<'_>) -> Result<CreateDatabase> {
    let if_not_exists = c.eat("IF NOT EXISTS");
    let mut statement = CreateDatabase { database: database_name(c)?, if_not_exists, comment: None, location: None };
    loop {
        if c.is("COMMENT") {
            statement.comment = c.comment_clause()?;
        } else if c.eat_any(&["LOCATION", "MANAGEDLOCATION"]) {
            statement.location = Some(c.string("a location in quotes")?);
        } else if c.eat_any(&["WITH DBPROPERTIES", "WITH PROPERTIES"]) {
            // Taken for the sake of scripts that say it; nothing reads properties of databases.
            properties(c)?;
        } else {
            return Ok(statement);
        }
    }
}

/// The clauses of all dialects: `PARTITIONED BY (a)` is Spark's, `PARTITIONED ON (a)` Hive's, `WITH (partitioned_by = ARRAY['a'])` Trino's.
fn create_materialized_view(c: &mut Cursor<'_>, or_replace: bool) -> Result<CreateMaterializedView> {
    let mut view = view_head(c, or_replace, false)?;
    let mut keys = Vec::new();
    loop {
        if c.eat_any(&["PARTITIONED BY", "PARTITIONED ON"]) {
            keys = c.list(|c| c.identifier("a column of the query"))?;
        } else if c.eat("WITH") {
            for (name, value) in c.list(presto_property)? {
                match (name.as_str(), value) {
                    ("partitioned_by" | "partitioning", PrestoValue::Texts(names)) => {
                        keys = names.into_iter().map(|name| name.to_lowercase()).collect();
                    }
                    (name, _) => {
                        let message = format!("WITH ({name} = ...) is not supported here: there is partitioned_by = ARRAY['a', ...]");
                        return Err(c.unsupported(message));
                    }
                }
            }
        } else if view_clause(c, &mut view)? {
            return Ok(CreateMaterializedView { view, keys });
        }
    }
}

fn create_view(c: &mut Cursor<'_>, or_replace: bool, temporary: bool) -> Result<CreateView> {
    let mut view = view_head(c, or_replace, temporary)?;
    while !view_clause(c, &mut view)? {}
    Ok(view)
}

/// What a view says before its clauses.
fn view_head(c: &mut Cursor<'_>, or_replace: bool, temporary: bool) -> Result<CreateView> {
    let if_not_exists = c.eat("IF NOT EXISTS");
    let view = table_name(c)?;
    if temporary && view.database.is_some() {
        return Err(c.invalid("a temporary view belongs to its session, not to a database: leave the database out".to_owned()));
    }
    let mut columns = Vec::new();
    if matches!(c.nth(0), Token::LParen) {
        columns = c.list(|c| Ok(ViewColumn { name: c.identifier("a column name")?, comment: c.comment_clause()? }))?;
    }
    let (comment, properties, query, dialect) = (None, BTreeMap::new(), String::new(), c.dialect());
    Ok(CreateView { view, temporary, or_replace, if_not_exists, columns, comment, properties, query, dialect })
}

/// Reads a clause of a view; whether it was the last one, its query.
fn view_clause(c: &mut Cursor<'_>, view: &mut CreateView) -> Result<bool> {
    if c.is("COMMENT") {
        view.comment = c.comment_clause()?;
    } else if c.eat("TBLPROPERTIES") {
        view.properties.extend(properties(c)?);
    } else if c.eat("AS") {
        view.query = c.query()?;
        return Ok(true);
    } else {
        return Err(c.expected("AS and a query"));
    }
    Ok(false)
}

/// What stands in the parentheses after `PARTITIONED BY`.
enum KeyClause {
    Typed(Column),
    Named(String),
}

fn create_table(c: &mut Cursor<'_>, or_replace: bool, external: bool) -> Result<CreateTable> {
    if or_replace && c.is("IF NOT EXISTS") {
        return Err(c.invalid("a table that exists is replaced or left as it is: say OR REPLACE or IF NOT EXISTS".to_owned()));
    }
    let if_not_exists = c.eat("IF NOT EXISTS");
    let mut table = CreateTable { or_replace, if_not_exists, external, ..CreateTable::named(table_name(c)?) };
    if c.eat("LIKE") {
        table.like.push(Like { table: table_name(c)?, after: 0, whole: true });
    } else if matches!(c.nth(0), Token::LParen) {
        let (declared, like) = columns_or_like(c)?;
        (table.columns, table.like) = (Some(declared), like);
    }
    let mut keys = None;
    let mut keys_at = c.position();
    let (mut storage, mut options) = (StorageClauses::default(), BTreeMap::new());
    loop {
        if storage.take(c)? {
            continue;
        }
        if c.is("COMMENT") {
            table.comment = c.comment_clause()?;
        } else if c.eat("PARTITIONED BY") {
            keys_at = c.position();
            keys = Some(c.list(key_clause)?);
        } else if c.eat("LOCATION") {
            table.location = Some(c.string("a location in quotes")?);
        } else if c.eat("TBLPROPERTIES") {
            table.properties.extend(properties(c)?);
        } else if c.eat("OPTIONS") {
            options.extend(properties(c)?);
            // Spark's spelling of LOCATION.
            if let Some(path) = options.remove("path") {
                table.location = Some(path);
            }
        } else if table.like.is_empty() && (c.eat("AS") || c.is_any(&["SELECT", "WITH RECURSIVE"])) {
            table.query = Some(c.query()?);
            break;
        } else if c.is_any(&["SKEWED", "WITH ORDER", "STORED BY", "DISTRIBUTE"]) {
            return Err(c.unsupported(format!("{} is not supported in CREATE TABLE", c.nth(0))));
        } else if c.eat("WITH") {
            keys_at = c.position();
            keys = presto_properties(c, &mut table, &mut storage)?.or(keys);
        } else {
            break;
        }
    }
    table.storage = storage.finish(c, options, &mut table.properties)?;
    if let Some(keys) = keys {
        let by_name = keys.iter().all(|key| matches!(key, KeyClause::Named(_)));
        let at = |message: String| c.invalid_at(keys_at, message);
        table.keys_by_name = by_name;
        // Which columns the others have is not known here.
        let columns = table.columns.as_mut().filter(|_| table.like.is_empty());
        table.keys = Some(resolve_keys(keys, columns).map_err(at)?);
    }
    let names = table.columns.iter().flatten().map(|column| &column.name).chain(table.keys.iter().flatten().map(|key| &key.name));
    let mut seen = BTreeSet::new();
    if let Some(twice) = names.into_iter().find(|name| !seen.insert(name.as_str())) {
        return Err(c.invalid_at(keys_at, format!("column '{twice}' is declared twice")));
    }
    Ok(table)
}

/// `WITH (name = value, ...)` of a table; its keys, if they are among it.
fn presto_properties(c: &mut Cursor<'_>, table: &mut CreateTable, storage: &mut StorageClauses) -> Result<Option<Vec<KeyClause>>> {
    let mut keys = None;
    for (name, value) in c.list(presto_property)? {
        match (name.as_str(), value) {
            ("partitioned_by" | "partitioning", PrestoValue::Texts(names)) => {
                keys = Some(names.into_iter().map(|name| KeyClause::Named(name.to_lowercase())).collect());
            }
            ("external_location" | "location", PrestoValue::Text(text)) => table.location = Some(text),
            ("bucketed_by", PrestoValue::Texts(names)) => {
                storage.layout.bucketed_by = names.iter().map(|name| name.to_lowercase()).collect();
            }
            ("bucket_count", PrestoValue::Text(number)) => {
                storage.layout.buckets = number.parse().map_err(|_| c.invalid(format!("'{number}' is no number of buckets")))?;
            }
            ("sorted_by", PrestoValue::Texts(columns)) => {
                storage.layout.sorted_by = columns.iter().map(|text| presto_sort_column(text)).collect();
            }
            ("format", PrestoValue::Text(format)) if format.eq_ignore_ascii_case("parquet") => {}
            ("parquet_compression" | "write_compression", PrestoValue::Text(name)) => {
                table.properties.insert("parquet.compression".to_owned(), name);
            }
            (name, _) => {
                return Err(c.unsupported(format!(
                    "WITH ({name} = ...) is not supported in CREATE TABLE: there are partitioned_by = ARRAY['a', ...], bucketed_by, \
                     bucket_count, sorted_by, external_location, parquet_compression and format = 'PARQUET'; other formats are said \
                     with STORED AS"
                )));
            }
        }
    }
    Ok(keys)
}

/// What Presto's and Trino's `WITH (...)` says.
enum PrestoValue {
    Text(String),
    Texts(Vec<String>),
}

/// `name = 'value'`, or `name = ARRAY['a', 'b']`
fn presto_property(c: &mut Cursor<'_>) -> Result<(String, PrestoValue)> {
    let name = c.identifier("a property name")?;
    c.expect_token(&Token::Eq)?;
    if !c.eat("ARRAY") {
        return Ok((name, PrestoValue::Text(value(c)?.unwrap_or_default())));
    }
    c.expect_token(&Token::LBracket)?;
    let mut texts = Vec::new();
    while !c.eat_token(&Token::RBracket) {
        texts.push(c.string("a text in quotes")?);
        if !c.eat_token(&Token::Comma) {
            c.expect_token(&Token::RBracket)?;
            break;
        }
    }
    Ok((name, PrestoValue::Texts(texts)))
}

/// Gives keys their types: the declared ones, or those of the columns they name, which then leave the columns.
fn resolve_keys(keys: Vec<KeyClause>, mut columns: Option<&mut Vec<Column>>) -> std::result::Result<Vec<Key>, String> {
    let typed = |column: Column| match key_type(&column.data_type) {
        Some(key_type) => Ok(Key { name: column.name, key_type: Some(key_type), comment: column.comment }),
        None => Err(format!(
            "partition key '{}' cannot be {}: keys are string, int, bigint, date, timestamp, boolean or decimal",
            column.name,
            type_name(&column.data_type)
        )),
    };
    let resolve = |key| match (key, columns.as_mut()) {
        (KeyClause::Typed(column), _) => typed(column),
        (KeyClause::Named(name), None) => Ok(Key { name, key_type: None, comment: None }),
        (KeyClause::Named(name), Some(columns)) => match columns.iter().position(|column| column.name == name) {
            Some(index) => typed(columns.remove(index)),
            None => Err(format!("partition key '{name}' has no type: declare it as '{name} string', or among the columns")),
        },
    };
    keys.into_iter().map(resolve).collect()
}

/// The type a partition key has if it is declared with this one.
pub fn key_type(data_type: &DataType) -> Option<KeyType> {
    Some(match data_type {
        DataType::Utf8 => KeyType::String,
        DataType::Int8 | DataType::Int16 | DataType::Int32 => KeyType::Int,
        DataType::Int64 => KeyType::BigInt,
        DataType::Date32 => KeyType::Date,
        DataType::Timestamp(_, None) => KeyType::Timestamp,
        DataType::Boolean => KeyType::Boolean,
        DataType::Decimal128(precision, scale) => KeyType::Decimal(*precision, *scale),
        _ => return None,
    })
}

fn key_clause(c: &mut Cursor<'_>) -> Result<KeyClause> {
    match c.nth(1) {
        Token::Comma | Token::RParen => c.identifier("a column name").map(KeyClause::Named),
        Token::LParen => Err(c.unsupported("partition transforms are not supported: partition by columns")),
        _ => column(c).map(KeyClause::Typed),
    }
}

pub(super) fn columns(c: &mut Cursor<'_>) -> Result<Vec<Column>> {
    c.list(column)
}

/// `(a INT, LIKE s INCLUDING PROPERTIES, b INT)`, as in Presto.
fn columns_or_like(c: &mut Cursor<'_>) -> Result<(Vec<Column>, Vec<Like>)> {
    let (mut columns, mut like) = (Vec::new(), Vec::new());
    c.list(|c| {
        if !c.eat_before_name("LIKE") {
            columns.push(column(c)?);
            return Ok(());
        }
        let table = table_name(c)?;
        let whole = c.eat("INCLUDING PROPERTIES");
        let _ = !whole && c.eat("EXCLUDING PROPERTIES");
        like.push(Like { table, after: columns.len(), whole });
        Ok(())
    })?;
    Ok((columns, like))
}

pub(super) fn column(c: &mut Cursor<'_>) -> Result<Column> {
    let name = c.identifier("a column name")?;
    c.eat_token(&Token::Colon);
    let mut column = Column { name, data_type: c.data_type()?, comment: None };
    loop {
        if c.is("COMMENT") {
            column.comment = c.comment_clause()?;
        } else if !c.eat_any(&["NOT NULL", "NULL"]) {
            // Nullability is read past: files are not checked for NULLs, and a promise that nobody keeps makes wrong rows.
            return Ok(column);
        }
    }
}
