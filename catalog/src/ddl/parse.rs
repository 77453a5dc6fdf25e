//! The grammar.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::tokenizer::Token;
use windlass_engine::Dialect;
use windlass_engine::formats::Storage;

use super::ParseError;
use super::cursor::Cursor;
use super::statement::{
    Alteration, Analyze, AnalyzeScope, Column, ColumnChange, Condition, CreateDatabase, CreateMaterializedView, CreateTable, CreateView,
    DatabaseName, DdlStatement, Key, NewPartitionSpec, Noun, PartitionValue, PartitionValues, Pattern, RefreshView, RepairMode, TableName,
    ViewColumn,
};
use super::storage::{StorageClauses, presto_sort_column};
use super::types::type_name;
use crate::catalog::KeyType;
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

fn create(c: &mut Cursor<'_>) -> Result<DdlStatement> {
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
        if or_replace {
            return Err(c.unsupported("CREATE OR REPLACE TABLE is not supported: use DROP TABLE IF EXISTS first"));
        }
        c.expect("TABLE")?;
        return create_table(c, external).map(DdlStatement::CreateTable);
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

fn create_table(c: &mut Cursor<'_>, external: bool) -> Result<CreateTable> {
    let if_not_exists = c.eat("IF NOT EXISTS");
    let mut table = CreateTable {
        table: table_name(c)?,
        if_not_exists,
        external,
        columns: None,
        keys: None,
        keys_by_name: false,
        comment: None,
        location: None,
        properties: BTreeMap::new(),
        storage: Storage::default(),
        query: None,
    };
    if c.is("LIKE") {
        return Err(c.unsupported("CREATE TABLE ... LIKE is not supported: use the output of SHOW CREATE TABLE"));
    }
    if matches!(c.nth(0), Token::LParen) {
        table.columns = Some(columns(c)?);
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
        } else if c.eat("AS") || c.is_any(&["SELECT", "WITH RECURSIVE"]) {
            table.query = Some(c.query()?);
            break;
        } else if c.is_any(&["SKEWED", "WITH ORDER", "STORED BY", "DISTRIBUTE"]) {
            return Err(c.unsupported(format!("{} is not supported in CREATE TABLE", c.nth(0))));
        } else if c.eat("WITH") {
            keys_at = c.position();
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
                            "WITH ({name} = ...) is not supported in CREATE TABLE: there are partitioned_by = ARRAY['a', ...], bucketed_by, bucket_count, sorted_by, external_location, \
                             parquet_compression and format = 'PARQUET'; other formats are said with STORED AS"
                        )));
                    }
                }
            }
        } else {
            break;
        }
    }
    table.storage = storage.finish(c, options, &mut table.properties)?;
    if let Some(keys) = keys {
        let by_name = keys.iter().all(|key| matches!(key, KeyClause::Named(_)));
        let at = |message: String| c.invalid_at(keys_at, message);
        table.keys_by_name = by_name;
        table.keys = Some(resolve_keys(keys, table.columns.as_mut()).map_err(at)?);
    }
    let names = table.columns.iter().flatten().map(|column| &column.name).chain(table.keys.iter().flatten().map(|key| &key.name));
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = names.into_iter().find(|name| !seen.insert(name.as_str())) {
        return Err(c.invalid_at(keys_at, format!("column '{twice}' is declared twice")));
    }
    Ok(table)
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

fn columns(c: &mut Cursor<'_>) -> Result<Vec<Column>> {
    c.list(column)
}

fn column(c: &mut Cursor<'_>) -> Result<Column> {
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

/// `PARTITION (k = v, ...) [LOCATION '...']`
fn new_partition(c: &mut Cursor<'_>) -> Result<NewPartitionSpec> {
    let values = partition_values(c)?;
    let location = if c.eat("LOCATION") { Some(c.string("a location in quotes")?) } else { None };
    Ok(NewPartitionSpec { values, location })
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

fn alter(c: &mut Cursor<'_>, noun: Noun) -> Result<DdlStatement> {
    let table = table_name(c)?;
    if noun == Noun::MaterializedView && c.eat("REBUILD") {
        return Ok(DdlStatement::Refresh(RefreshView { view: table, full: false }));
    }
    if noun == Noun::Table && c.eat("RECOVER PARTITIONS") {
        return Ok(DdlStatement::Repair { table, mode: RepairMode::Add });
    }
    let alteration = if c.eat("RENAME TO") {
        Alteration::Rename(table_name(c)?)
    } else if c.eat("SET TBLPROPERTIES") {
        Alteration::SetProperties(properties(c)?)
    } else if c.eat("UNSET TBLPROPERTIES") {
        let if_exists = c.eat("IF EXISTS");
        Alteration::UnsetProperties { names: c.list(property_name)?, if_exists }
    } else if noun == Noun::MaterializedView {
        return Err(c.expected("RENAME TO, SET TBLPROPERTIES, UNSET TBLPROPERTIES or REBUILD"));
    } else if noun == Noun::View {
        if !c.eat("AS") {
            return Err(c.expected("AS, RENAME TO, SET TBLPROPERTIES or UNSET TBLPROPERTIES"));
        }
        Alteration::Query { query: c.query()?, dialect: c.dialect() }
    } else {
        alter_table(c)?
    };
    Ok(DdlStatement::Alter { table, noun, alteration })
}

/// `COMMENT ON TABLE t IS 'text'`
fn comment_on(c: &mut Cursor<'_>) -> Result<DdlStatement> {
    let comment = |c: &mut Cursor<'_>| {
        c.expect("IS")?;
        if c.eat("NULL") { Ok(None) } else { c.string("the comment in quotes").map(Some) }
    };
    if let Some(noun) = noun(c) {
        let table = table_name(c)?;
        return Ok(DdlStatement::Alter { table, noun, alteration: Alteration::Comment(comment(c)?) });
    }
    if !c.eat("COLUMN") {
        return Err(c.unsupported("only tables, views and columns can be commented on"));
    }
    let mut parts = vec![c.identifier("a table name")?];
    while parts.len() < 4 && c.eat_token(&Token::Period) {
        parts.push(c.identifier("a column name")?);
    }
    let (Some(column), Some(name)) = (parts.pop().filter(|_| !parts.is_empty()), parts.pop()) else {
        return Err(c.expected("table.column"));
    };
    let database = parts.pop();
    let table = TableName { catalog: parts.pop(), database, name };
    let change = ColumnChange { column, name: None, data_type: None, comment: Some(comment(c)?) };
    Ok(DdlStatement::Alter { table, noun: Noun::Table, alteration: Alteration::ChangeColumn(change) })
}

/// Hive's `CHANGE [COLUMN] a b type [COMMENT 'text']`; Spark's `ALTER COLUMN a {COMMENT 'text' | TYPE type}`; `RENAME COLUMN a TO b`.
fn change_column(c: &mut Cursor<'_>) -> Result<Alteration> {
    let rename = c.eat("RENAME COLUMN");
    let hive = !rename && c.eat("CHANGE");
    if !rename && !hive {
        c.expect("ALTER")?;
    }
    c.eat("COLUMN");
    let mut change = ColumnChange { column: c.identifier("a column name")?, name: None, data_type: None, comment: None };
    if rename {
        c.expect("TO")?;
        change.name = Some(c.identifier("a column name")?);
    } else if c.is("COMMENT") && matches!(c.nth(1), Token::SingleQuotedString(_)) {
        change.comment = c.comment_clause()?.map(Some);
    } else if hive {
        let new = column(c)?;
        change.name = Some(new.name).filter(|name| *name != change.column);
        change.data_type = Some(new.data_type);
        change.comment = new.comment.map(Some);
    } else if c.eat_any(&["TYPE", "SET DATA TYPE"]) {
        change.data_type = Some(c.data_type()?);
    } else {
        return Err(c.expected("COMMENT or TYPE"));
    }
    if c.is_any(&["FIRST", "AFTER"]) {
        return Err(c.unsupported("columns cannot change places: name them in the order you want in SELECT"));
    }
    let _ = c.eat_any(&["CASCADE", "RESTRICT"]);
    Ok(Alteration::ChangeColumn(change))
}

fn alter_table(c: &mut Cursor<'_>) -> Result<Alteration> {
    if c.is("PARTITION") {
        let values = partition_values(c)?;
        if c.eat("SET LOCATION") {
            return Ok(Alteration::SetPartitionLocation { values, location: c.string("a location in quotes")? });
        }
        if c.eat("RENAME TO") {
            return Ok(Alteration::RenamePartition { from: values, to: partition_values(c)? });
        }
        return Err(c.unsupported("of a partition only SET LOCATION and RENAME TO PARTITION are supported"));
    }
    if c.is_any(&["CHANGE", "RENAME COLUMN", "ALTER COLUMN"]) {
        return change_column(c);
    }
    if c.eat("SET LOCATION") {
        return c.string("a location in quotes").map(Alteration::SetLocation);
    }
    if c.eat_any(&["ADD COLUMNS", "ADD COLUMN"]) {
        let columns = if matches!(c.nth(0), Token::LParen) { columns(c)? } else { vec![column(c)?] };
        c.eat("CASCADE");
        c.eat("RESTRICT");
        return Ok(Alteration::AddColumns(columns));
    }
    if c.is_any(&["ADD PARTITION", "ADD IF NOT EXISTS"]) {
        c.expect("ADD")?;
        let if_not_exists = c.eat("IF NOT EXISTS");
        let mut partitions = vec![new_partition(c)?];
        while c.eat_token(&Token::Comma) || c.is("PARTITION") {
            partitions.push(new_partition(c)?);
        }
        return Ok(Alteration::AddPartitions { if_not_exists, partitions });
    }
    if c.is_any(&["DROP PARTITION", "DROP IF EXISTS PARTITION"]) {
        c.expect("DROP")?;
        let if_exists = c.eat("IF EXISTS");
        let mut specs = Vec::new();
        while specs.is_empty() || c.eat_token(&Token::Comma) {
            c.expect("PARTITION")?;
            specs.push(c.list(condition)?);
        }
        c.eat("PURGE");
        return Ok(Alteration::DropPartitions { if_exists, specs });
    }
    if c.is_any(&["DROP", "REPLACE", "RENAME", "ALTER", "SET", "CLUSTERED", "EXCHANGE", "TOUCH", "ARCHIVE", "COMPACT"]) {
        return Err(c.unsupported(format!(
            "ALTER TABLE ... {} {} is not supported: partitions can be added, dropped, moved and renamed, columns added and widened, comments, \
             properties, location and name changed",
            c.nth(0),
            c.nth(1)
        )));
    }
    Err(c.expected("ADD, DROP, CHANGE, RENAME TO, SET, UNSET, PARTITION or RECOVER PARTITIONS"))
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
