//! The grammar of statements that write, but for `CREATE TABLE ... AS`, which is the catalog's.
//!
//! `INSERT` and `COPY` are read here, because sqlparser knows only one order of their clauses; expressions and queries are its own.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{
    self, Assignment, AssignmentTarget, BinaryOperator, Expr, FromTable, Ident, MergeAction, MergeClauseKind, MergeInsertKind, ObjectName,
    Query, SetExpr, Statement, TableFactor, TableObject, TableWithJoins, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use windlass_catalog::ddl::{CreateMaterializedView, CreateTable, PartitionValue, RefreshView, TableName};
use windlass_engine::formats::{FileFormat, HEADER_LINES};

use super::materialized::refreshed_schema;
use super::merge::{Merge, When};

/// A statement whose rows go into files.
#[derive(Debug, Clone)]
pub(crate) enum WriteStatement {
    /// `INSERT`
    Insert(Insert),
    /// `CREATE TABLE ... AS`
    Create { table: Box<CreateTable>, query: Box<Statement> },
    /// `CREATE MATERIALIZED VIEW`
    CreateMaterializedView(Box<CreateMaterializedView>),
    /// `REFRESH MATERIALIZED VIEW`
    Refresh(RefreshView),
    /// `COPY ... TO`
    Copy(Copy),
    /// `DELETE`
    Delete(Change),
    /// `UPDATE`, with what each column is set to.
    Update { change: Change, assignments: Vec<(String, Expr)> },
    /// `MERGE`
    Merge(Box<Merge>),
    /// `OPTIMIZE`, with the columns of its curve.
    Optimize { change: Change, curve: Vec<String> },
}

impl WriteStatement {
    /// Columns of the rows that clients get; none if they get the number of rows that were changed.
    pub(crate) fn schema(&self) -> Option<SchemaRef> {
        matches!(self, Self::Refresh(_)).then(refreshed_schema)
    }
}

/// `INSERT {INTO | OVERWRITE} [TABLE] t [(a, b)] [PARTITION (k = 'v', d)] [(a, b)] query`
#[derive(Debug, Clone)]
pub(crate) struct Insert {
    pub(crate) table: TableName,
    /// Whether what is there goes.
    pub(crate) overwrite: bool,
    /// Columns in the order of the query's; empty if it has all in their order.
    pub(crate) columns: Vec<String>,
    /// Keys in `PARTITION (...)`, with values where they have one.
    pub(crate) partition: Vec<(String, Option<PartitionValue>)>,
    pub(crate) query: Box<Query>,
}

/// `COPY {t | (query)} TO 'location' [STORED AS format] [PARTITIONED BY (a, b)] [OPTIONS (...)]`
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) query: Box<Query>,
    pub(crate) location: String,
    pub(crate) format: FileFormat,
    pub(crate) keys: Vec<String>,
    pub(crate) compression: String,
    /// What text files are written with, as a table would say it.
    pub(crate) serde: BTreeMap<String, String>,
    pub(crate) properties: BTreeMap<String, String>,
}

/// Rows of a table that change.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) table: TableName,
    /// The table as it stands in the statement, with its alias.
    pub(crate) from: TableFactor,
    pub(crate) condition: Option<Expr>,
}

/// Reads a statement that begins with a word of one that writes, to the end of the text.
pub(crate) fn parse(mut parser: Parser<'_>) -> Result<WriteStatement, ParserError> {
    let statement = match parser.peek_token().token {
        Token::Word(word) if word.keyword == Keyword::INSERT => WriteStatement::Insert(insert(&mut parser)?),
        Token::Word(word) if word.keyword == Keyword::COPY => WriteStatement::Copy(copy(&mut parser)?),
        Token::Word(word) if word.keyword == Keyword::OPTIMIZE => optimize(&mut parser)?,
        _ => changes(parser.parse_statement()?)?,
    };
    while parser.consume_token(&Token::SemiColon) {}
    match parser.peek_token().token {
        Token::EOF => Ok(statement),
        _ => parser.expected("end of statement", parser.peek_token()),
    }
}

fn insert(parser: &mut Parser<'_>) -> Result<Insert, ParserError> {
    parser.expect_keyword(Keyword::INSERT)?;
    let overwrite = parser.parse_keyword(Keyword::OVERWRITE);
    if !parser.parse_keyword(Keyword::INTO) && !overwrite {
        return parser.expected("INTO or OVERWRITE", parser.peek_token());
    }
    if parser.parse_keyword(Keyword::DIRECTORY) {
        return refused("INSERT OVERWRITE DIRECTORY is not supported: use COPY (query) TO 'location'");
    }
    let _optional = parser.parse_keyword(Keyword::TABLE);
    let table = table_name(&parser.parse_object_name(false)?)?;
    let mut columns = columns(parser)?;
    let mut partition = Vec::new();
    if parser.parse_keyword(Keyword::PARTITION) {
        parser.expect_token(&Token::LParen)?;
        partition = parser.parse_comma_separated(key)?;
        parser.expect_token(&Token::RParen)?;
        if parser.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]) {
            return refused("INSERT ... IF NOT EXISTS is not supported: leave it out");
        }
    }
    if columns.is_empty() {
        columns = self::columns(parser)?;
    }
    if parser.parse_keywords(&[Keyword::DEFAULT, Keyword::VALUES]) {
        return refused("DEFAULT VALUES is not supported: columns have no defaults");
    }
    let mut query = match parser.parse_keyword(Keyword::TABLE) {
        true => super::template::query(&format!("SELECT * FROM {}", parser.parse_object_name(false)?))?,
        false => parser.parse_query()?,
    };
    without_defaults(&mut query);
    if parser.parse_keyword(Keyword::ON) || parser.parse_keyword(Keyword::RETURNING) {
        return refused("ON CONFLICT and RETURNING are not supported: use MERGE INTO");
    }
    Ok(Insert { table, overwrite, columns, partition, query })
}

/// `VALUES (1, DEFAULT)` is `VALUES (1, NULL)`: columns have no other defaults.
fn without_defaults(query: &mut Query) {
    let SetExpr::Values(values) = query.body.as_mut() else { return };
    for value in values.rows.iter_mut().flat_map(|row| &mut row.content) {
        if matches!(value, Expr::Identifier(name) if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("default")) {
            *value = Expr::Value(Value::Null.with_empty_span());
        }
    }
}

/// `WITH a AS (...) INSERT ...`, as sqlparser reads it: Hive and Spark put the common tables of the query in front of the statement.
/// `None` for a query that writes nothing.
pub(crate) fn insert_after_with(query: &Query) -> Option<Result<WriteStatement, ParserError>> {
    let SetExpr::Insert(Statement::Insert(insert)) = query.body.as_ref() else { return None };
    let (TableObject::TableName(table), Some(source)) = (&insert.table, &insert.source) else {
        return Some(refused("INSERT needs a table and a query"));
    };
    let partition = |expr: &Expr| match expr {
        Expr::Identifier(name) => Ok((lower(name), None)),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match (left.as_ref(), literal(right)) {
            (Expr::Identifier(name), Some(value)) => Ok((lower(name), Some(value))),
            _ => refused(&format!("'{expr}' names no partition: write key = 'value'")),
        },
        other => refused(&format!("'{other}' names no partition: write key = 'value'")),
    };
    let column = |name: &ObjectName| name.0.last().and_then(|part| part.as_ident()).map(lower);
    let read = || {
        let mut source = source.clone();
        if source.with.is_none() {
            source.with.clone_from(&query.with);
        } else if query.with.is_some() {
            return refused("the query has a WITH of its own: put all common tables there");
        }
        Ok(WriteStatement::Insert(Insert {
            table: table_name(table)?,
            overwrite: insert.overwrite,
            columns: insert.columns.iter().map(column).collect::<Option<Vec<_>>>().map_or_else(|| refused("name columns"), Ok)?,
            partition: insert.partitioned.iter().flatten().map(partition).collect::<Result<Vec<_>, _>>()?,
            query: source,
        }))
    };
    Some(read())
}

/// `(a, b)`, unless the parenthesis begins a query.
fn columns(parser: &mut Parser<'_>) -> Result<Vec<String>, ParserError> {
    let begins_query = |token: Token| match token {
        Token::Word(word) => matches!(word.keyword, Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::TABLE | Keyword::FROM),
        Token::LParen => true,
        _ => false,
    };
    if parser.peek_token() != Token::LParen || begins_query(parser.peek_nth_token(1).token) {
        return Ok(Vec::new());
    }
    parser.expect_token(&Token::LParen)?;
    let names = parser.parse_comma_separated(|parser| parser.parse_identifier())?;
    parser.expect_token(&Token::RParen)?;
    Ok(names.iter().map(lower).collect())
}

/// `k = 'v'`, or `k`
fn key(parser: &mut Parser<'_>) -> Result<(String, Option<PartitionValue>), ParserError> {
    let name = lower(&parser.parse_identifier()?);
    if !parser.consume_token(&Token::Eq) && !parser.consume_token(&Token::DoubleEq) {
        return Ok((name, None));
    }
    let value = parser.parse_expr()?;
    match literal(&value) {
        Some(value) => Ok((name, Some(value))),
        None => refused(&format!("'{value}' is no value of a partition key: write a literal, such as '2024-01-01'")),
    }
}

/// A literal as text; the outer `None` is another expression, the inner one NULL.
fn literal(expr: &Expr) -> Option<PartitionValue> {
    match expr {
        Expr::Value(value) => text(&value.value),
        Expr::TypedString(typed) => text(&typed.value.value),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => literal(expr)?.map(|digits| Some(format!("-{digits}"))),
        Expr::Nested(inner) => literal(inner),
        _ => None,
    }
}

fn text(value: &Value) -> Option<PartitionValue> {
    match value {
        Value::Null => Some(None),
        Value::Boolean(value) => Some(Some(value.to_string())),
        Value::Number(digits, _) => Some(Some(digits.clone())),
        value => value.clone().into_string().map(Some),
    }
}

fn copy(parser: &mut Parser<'_>) -> Result<Copy, ParserError> {
    parser.expect_keyword(Keyword::COPY)?;
    let query = match parser.consume_token(&Token::LParen) {
        true => {
            let query = parser.parse_query()?;
            parser.expect_token(&Token::RParen)?;
            query
        }
        false => {
            let table = parser.parse_object_name(false)?;
            if parser.peek_keyword(Keyword::FROM) {
                return refused("COPY ... FROM is not supported: make an external table of the files, and INSERT from it");
            }
            super::template::query(&format!("SELECT * FROM {table}"))?
        }
    };
    parser.expect_keyword(Keyword::TO)?;
    let mut copy = Copy {
        query,
        location: parser.parse_literal_string()?,
        format: FileFormat::Parquet,
        keys: Vec::new(),
        compression: String::new(),
        serde: BTreeMap::new(),
        properties: BTreeMap::from([(HEADER_LINES.to_owned(), "1".to_owned())]),
    };
    let mut of_csv = None;
    loop {
        if parser.parse_keywords(&[Keyword::STORED, Keyword::AS]) {
            let name = parser.parse_identifier()?.value;
            copy.format = match name.to_ascii_lowercase().as_str() {
                "parquet" => FileFormat::Parquet,
                "csv" => FileFormat::Csv,
                "json" | "jsonfile" | "jsonl" | "ndjson" => FileFormat::Json,
                "avro" => FileFormat::Avro,
                _ => return refused(&format!("COPY cannot write format '{name}': use PARQUET, CSV, JSON or AVRO")),
            };
        } else if parser.parse_keywords(&[Keyword::PARTITIONED, Keyword::BY]) {
            parser.expect_token(&Token::LParen)?;
            copy.keys = parser.parse_comma_separated(|parser| parser.parse_identifier())?.iter().map(lower).collect();
            parser.expect_token(&Token::RParen)?;
        } else if parser.parse_keyword(Keyword::OPTIONS) {
            parser.expect_token(&Token::LParen)?;
            for (name, value) in parser.parse_comma_separated(option)? {
                match name.as_str() {
                    "compression" | "parquet.compression" | "format.compression" => copy.compression = value,
                    _ => {
                        copy.option(&name, value)?;
                        of_csv = Some(name);
                    }
                }
            }
            parser.expect_token(&Token::RParen)?;
        } else if let (Some(name), true) = (&of_csv, copy.format != FileFormat::Csv) {
            return refused(&format!("COPY has no option '{name}' but of CSV files: add STORED AS CSV, or leave it out"));
        } else {
            return Ok(copy);
        }
    }
}

impl Copy {
    /// Understands an option of CSV files.
    fn option(&mut self, name: &str, value: String) -> Result<(), ParserError> {
        let serde = match name.strip_prefix("format.").unwrap_or(name) {
            "header" | "has_header" => {
                let lines = if value.eq_ignore_ascii_case("true") { "1" } else { "0" };
                self.properties.insert(HEADER_LINES.to_owned(), lines.to_owned());
                return Ok(());
            }
            "delimiter" | "delim" | "sep" => "separatorChar",
            "quote" => "quoteChar",
            "escape" => "escapeChar",
            "null" | "null_value" | "nullvalue" => "serialization.null.format",
            "multiline" => "multiline",
            _ => {
                return refused(&format!(
                    "COPY has no option '{name}': there are 'compression' and, of CSV, 'header', 'delimiter', 'quote', 'escape', 'null' and \
                     'multiline'"
                ));
            }
        };
        self.serde.insert(serde.to_owned(), value);
        Ok(())
    }
}

/// `compression 'zstd'`, with or without quotes around the name and `=` behind it.
fn option(parser: &mut Parser<'_>) -> Result<(String, String), ParserError> {
    let name = match parser.peek_token().token {
        Token::SingleQuotedString(_) => parser.parse_literal_string()?,
        _ => parser.parse_object_name(false)?.to_string(),
    };
    let _optional = parser.consume_token(&Token::Eq);
    Ok((name.to_ascii_lowercase(), parser.parse_literal_string()?))
}

/// What sqlparser has read, less what we do not do.
fn changes(statement: Statement) -> Result<WriteStatement, ParserError> {
    match statement {
        Statement::Delete(delete) => {
            if delete.using.is_some() || !delete.tables.is_empty() {
                return refused("DELETE from a join is not supported: use a subquery in WHERE, or MERGE INTO");
            }
            if delete.returning.is_some() || !delete.order_by.is_empty() || delete.limit.is_some() {
                return refused("DELETE takes a condition and nothing else");
            }
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = delete.from;
            Ok(WriteStatement::Delete(change(from, delete.selection)?))
        }
        Statement::Update(update) => {
            if update.from.is_some() {
                return refused("UPDATE ... FROM is not supported: use MERGE INTO");
            }
            if update.returning.is_some() || !update.order_by.is_empty() || update.limit.is_some() || update.or.is_some() {
                return refused("UPDATE takes SET and a condition and nothing else");
            }
            let assignments = assignments(update.assignments)?;
            Ok(WriteStatement::Update { change: change(vec![update.table], update.selection)?, assignments })
        }
        Statement::Merge(merge) => Ok(WriteStatement::Merge(Box::new(merged(merge)?))),
        other => refused(&format!("'{other}' does not write rows")),
    }
}

/// `OPTIMIZE [TABLE] t [WHERE condition] [ZORDER BY (a, b)]`
fn optimize(parser: &mut Parser<'_>) -> Result<WriteStatement, ParserError> {
    parser.expect_keyword(Keyword::OPTIMIZE)?;
    let _optional = parser.parse_keyword(Keyword::TABLE);
    let mut relation = parser.parse_table_factor()?;
    let is_zorder = |name: &Ident| name.quote_style.is_none() && name.value.eq_ignore_ascii_case("ZORDER");
    // The parser takes the word for another name of the table.
    let alias = if let TableFactor::Table { alias, .. } = &mut relation { alias.take() } else { None };
    let mut curved = alias.as_ref().is_some_and(|alias| is_zorder(&alias.name));
    if alias.is_some() && !curved {
        return refused("OPTIMIZE takes a table, WHERE and ZORDER BY");
    }
    let mut condition = None;
    if !curved {
        condition = if parser.parse_keyword(Keyword::WHERE) { Some(parser.parse_expr()?) } else { None };
        curved = matches!(parser.peek_token().token, Token::Word(word) if is_zorder(&Ident::from(word.value.as_str())));
        if curved {
            parser.next_token();
        }
    }
    let mut curve = Vec::new();
    if curved {
        parser.expect_keyword(Keyword::BY)?;
        let in_parentheses = parser.consume_token(&Token::LParen);
        curve = parser.parse_comma_separated(|parser| parser.parse_identifier())?.iter().map(lower).collect();
        if in_parentheses {
            parser.expect_token(&Token::RParen)?;
        }
    }
    Ok(WriteStatement::Optimize { change: change(vec![TableWithJoins { relation, joins: Vec::new() }], condition)?, curve })
}

fn change(from: Vec<TableWithJoins>, condition: Option<Expr>) -> Result<Change, ParserError> {
    let [TableWithJoins { relation, joins }] = <[_; 1]>::try_from(from).or_else(|_| refused("name one table"))?;
    if !joins.is_empty() {
        return refused("a join cannot be changed: use MERGE INTO");
    }
    Ok(Change { table: target(&relation)?, from: relation, condition })
}

/// The name of a table that is changed.
fn target(table: &TableFactor) -> Result<TableName, ParserError> {
    match table {
        TableFactor::Table { name, args: None, version: None, sample: None, alias, .. }
            if alias.as_ref().is_none_or(|alias| alias.columns.is_empty()) =>
        {
            table_name(name)
        }
        other => refused(&format!("'{other}' cannot be changed: name a table")),
    }
}

fn assignments(assignments: Vec<Assignment>) -> Result<Vec<(String, Expr)>, ParserError> {
    let one = |Assignment { target, value }| match target {
        // A table's name may stand in front.
        AssignmentTarget::ColumnName(name) => match name.0.last().and_then(|part| part.as_ident()) {
            Some(column) => Ok((lower(column), value)),
            None => refused("a column is set by its name"),
        },
        AssignmentTarget::Tuple(_) => refused("set one column at a time"),
    };
    assignments.into_iter().map(one).collect()
}

fn merged(merge: ast::Merge) -> Result<Merge, ParserError> {
    let mut clauses = Vec::new();
    for clause in merge.clauses {
        let (matched, by_source) = match clause.clause_kind {
            MergeClauseKind::Matched => (true, false),
            MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget => (false, false),
            MergeClauseKind::NotMatchedBySource => (false, true),
        };
        let condition = clause.predicate;
        clauses.push(match clause.action {
            MergeAction::Update(update) if matched || by_source => {
                if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                    return refused("conditions of MERGE stand behind WHEN MATCHED AND");
                }
                // `UPDATE SET *` is Spark's.
                When::Update { by_source, condition, set: assignments(update.assignments)? }
            }
            MergeAction::Delete { .. } if matched || by_source => When::Delete { by_source, condition },
            MergeAction::Insert(insert) if !matched && !by_source => {
                let columns = insert.columns.iter().map(|name| name.0.last().and_then(|part| part.as_ident()).map(lower));
                let columns = columns.collect::<Option<Vec<_>>>().map_or_else(|| refused("name columns"), Ok)?;
                let MergeInsertKind::Values(values) = insert.kind else { return refused("INSERT ROW is not supported: use VALUES (...)") };
                let [row] = <[_; 1]>::try_from(values.rows).or_else(|_| refused("MERGE inserts one row per row of its source"))?;
                When::Insert { condition, columns, values: row.content }
            }
            other => return refused(&format!("'{other}' does not fit its WHEN: matched rows are updated or deleted, others inserted")),
        });
    }
    Ok(Merge { table: target(&merge.table)?, target: merge.table, source: merge.source, on: *merge.on, clauses })
}

/// The conditions that are all true where `expr` is.
pub(super) fn conjuncts(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => conjuncts(left).into_iter().chain(conjuncts(right)).collect(),
        Expr::Nested(inner) => conjuncts(inner),
        other => vec![other],
    }
}

/// Our names are in lower case, quoted or not.
fn lower(name: &Ident) -> String {
    name.value.to_lowercase()
}

fn table_name(name: &ObjectName) -> Result<TableName, ParserError> {
    let parts = name.0.iter().map(|part| part.as_ident().map(lower)).collect::<Option<Vec<_>>>().unwrap_or_default();
    let mut parts = parts.into_iter().rev();
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(name), database, catalog, None) => Ok(TableName { catalog, database, name }),
        _ => refused(&format!("'{name}' is no name of a table")),
    }
}

fn refused<T>(message: &str) -> Result<T, ParserError> {
    Err(ParserError::ParserError(message.to_owned()))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;

    use super::*;

    fn read(sql: &str) -> Result<WriteStatement, ParserError> {
        parse(Parser::new(&GenericDialect {}).try_with_sql(sql)?)
    }

    #[test]
    fn inserts_in_every_spelling() {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let fixed = |name: &str, value: &str| (name.to_owned(), Some(Some(value.to_owned())));
        for (sql, overwrite, names, partition) in [
            ("INSERT INTO d.T (A, b) VALUES (1, 2)", false, vec!["a", "b"], vec![]),
            ("INSERT INTO TABLE d.t SELECT 1;", false, vec![], vec![]),
            ("INSERT INTO d.t (SELECT 1)", false, vec![], vec![]),
            (
                "INSERT OVERWRITE TABLE d.t PARTITION (dt = DATE '2024-01-01', R) (a) SELECT 1",
                true,
                vec!["a"],
                vec![fixed("dt", "2024-01-01"), ("r".to_owned(), None)],
            ),
            (
                "INSERT OVERWRITE d.t (a) PARTITION (k = -1, l = NULL) TABLE s",
                true,
                vec!["a"],
                vec![fixed("k", "-1"), ("l".to_owned(), Some(None))],
            ),
        ] {
            let WriteStatement::Insert(insert) = read(sql).unwrap() else { panic!("{sql}") };
            assert_eq!((insert.table.to_string().as_str(), insert.overwrite), ("d.t", overwrite), "{sql}");
            assert_eq!((insert.columns, insert.partition), (columns(&names), partition), "{sql}");
        }
    }

    #[test]
    fn what_is_not_done_says_so() {
        for (sql, words) in [
            ("INSERT t VALUES (1)", "INTO or OVERWRITE"),
            ("INSERT INTO t PARTITION (k > 1) SELECT 1", ""),
            ("INSERT INTO t PARTITION (k = 1 + 1) SELECT 1", "write a literal"),
            ("INSERT OVERWRITE DIRECTORY 'x' SELECT 1", "COPY"),
            ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", "MERGE INTO"),
            ("INSERT INTO t VALUES (1) 2", "end of statement"),
            ("COPY t FROM 'x'", "external table"),
            ("COPY t TO 'x' STORED AS ORC", "PARQUET, CSV, JSON or AVRO"),
            ("DELETE FROM t USING s WHERE t.a = s.a", "MERGE INTO"),
            ("UPDATE t SET a = s.a FROM s", "MERGE INTO"),
            ("UPDATE t JOIN s ON true SET a = 1", "MERGE INTO"),
            ("MERGE INTO t USING s ON true WHEN MATCHED THEN INSERT VALUES (1)", ""),
        ] {
            let error = read(sql).map(|write| panic!("{sql}: {write:?}")).unwrap_err().to_string();
            assert!(error.contains(words), "{sql}: {error}");
        }
    }
}
