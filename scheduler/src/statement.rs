//! One SQL text: checked, classified, described.

mod bare;
mod intervals;
mod prepared;
mod types;

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace, Word};
use windlass_catalog::ddl::{self, Call, DdlStatement, KillQuery, ParseError, Vacuum, rewrite_versions};
use windlass_engine::Dialect;
use windlass_engine::session::meaning;

pub(crate) use self::prepared::Execute;
use crate::error::{Error, Result};
use crate::guard::{self, GuardLimits};
use crate::write::{self, WriteStatement};

/// Placeholders a statement may have.
const PARAMETERS_MAX: usize = 10_000;

/// Whether a statement returns rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementKind {
    /// Returns rows: SELECT, SHOW, DESCRIBE, EXPLAIN.
    Query,
    /// Changes something and returns a count at most: DDL, SET, USE.
    Update,
}

/// Settings for one statement: names and values.
pub(crate) type Settings = Vec<(String, String)>;

/// A statement that was checked and described; it can be executed many times.
#[derive(Debug)]
pub struct Statement {
    sql: String,
    action: Action,
    settings: Settings,
    schema: Option<SchemaRef>,
    parameter_types: Vec<Option<DataType>>,
    parameters: SchemaRef,
}

impl Statement {
    /// `schema` is that of the rows, if there are any; `parameter_types` has one entry per placeholder, `None` where any type will do.
    pub(crate) fn new(sql: String, action: Action, schema: Option<SchemaRef>, parameter_types: Vec<Option<DataType>>) -> Self {
        let field = |(index, data_type): (usize, &Option<DataType>)| {
            // Clients build vectors from these fields, so each needs a type; text can be cast to most.
            Field::new(format!("${}", index + 1), data_type.clone().unwrap_or(DataType::Utf8), true)
        };
        let parameters = Arc::new(Schema::new(parameter_types.iter().enumerate().map(field).collect::<Vec<_>>()));
        Self { sql, action, settings: Settings::new(), schema, parameter_types, parameters }
    }

    /// The same statement, with settings that were checked.
    pub(crate) fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// The text as it came.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// Whether it returns rows.
    pub fn kind(&self) -> StatementKind {
        if self.schema.is_some() { StatementKind::Query } else { StatementKind::Update }
    }

    /// The schema that its rows will have, exactly; empty for updates. Columns that are nothing but a parameter of unknown type take the
    /// type of the bound value instead.
    pub fn schema(&self) -> SchemaRef {
        self.schema.as_ref().map_or_else(|| Arc::new(Schema::empty()), Arc::clone)
    }

    /// One nullable field per placeholder, in order.
    pub fn parameters(&self) -> SchemaRef {
        Arc::clone(&self.parameters)
    }

    /// Types that values are cast to, in order of the placeholders; `None` keeps the value's own.
    pub(crate) fn parameter_types(&self) -> &[Option<DataType>] {
        &self.parameter_types
    }

    pub(crate) fn action(&self) -> &Action {
        &self.action
    }

    /// What holds for this statement beside the session's settings.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// What a statement asks for.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// Rows of a query.
    Query(Box<ast::Statement>),
    /// Rows of a query, kept as files.
    Write(Box<WriteStatement>),
    /// How a query or a write would run, or how it ran.
    Explain { query: Box<Action>, mode: ExplainMode },
    /// A statement about names.
    Names(Box<DdlStatement>),
    /// `SET name = value`
    Set { name: String, value: String },
    /// `RESET name`, `RESET ALL`
    Reset(Option<String>),
    /// `SHOW name`, `SHOW ALL`
    Show(Option<String>),
    /// `CALL system.vacuum(...)`
    Vacuum(Vacuum),
    /// `CALL system.kill_query(...)`
    KillQuery(KillQuery),
    /// `PREPARE name FROM ...`
    Prepare { name: String, text: String },
    /// `DEALLOCATE PREPARE name`
    Deallocate(String),
    /// `EXECUTE name USING ...`, which stands for another statement until that is read.
    Execute(Execute),
}

impl Action {
    /// The query or write that is planned to run it or to explain it.
    pub(crate) fn planned(&self) -> Option<&Self> {
        match self {
            Self::Query(_) | Self::Write(_) => Some(self),
            Self::Explain { query, .. } => Some(query),
            _ => None,
        }
    }
}

/// What EXPLAIN shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExplainMode {
    /// The plan; the query does not run.
    Plan,
    /// The plan before the optimizer as well.
    Verbose,
    /// The query runs; what it did.
    Analyze,
}

/// A statement that was read, not yet resolved.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) action: Action,
    pub(crate) placeholders: usize,
    /// From comments in front of a query; not checked yet.
    pub(crate) settings: Settings,
}

/// Reads one statement, in the dialect that it names in a comment or else in its session's. Recursion follows the text's nesting, so this
/// belongs on a large stack.
///
/// Errors: `Exhausted` above the limits; `Invalid` with the place of the mistake; `Unsupported` for statements of other engines.
pub(crate) fn parse(sql: &str, session: Dialect, limits: &GuardLimits) -> Result<Parsed> {
    let mut settings = leading_settings(sql)?;
    let stated = settings.iter().rev().find(|(name, _)| name == DIALECT);
    let dialect = stated.map_or(Ok(session), |(_, value)| value.parse())?;
    let mut tokens = guard::tokens(sql, dialect, limits)?;
    let placed = |error: ParseError| Error::new(error.kind, error.message).at(error.line, error.column);
    let first = tokens.iter().find(|token| !matches!(token.token, Token::Whitespace(_)));
    if first.is_some_and(|token| matches!(token.token, Token::Word(Word { keyword: Keyword::CALL, .. })))
        && let Some(call) = ddl::parse_call(sql, dialect).map_err(placed)?
    {
        only_for_queries(&settings)?;
        let action = match call {
            Call::Vacuum(vacuum) => Action::Vacuum(vacuum),
            Call::KillQuery(kill) => Action::KillQuery(kill),
            Call::Names(statement) => Action::Names(statement),
        };
        return Ok(Parsed { action, placeholders: 0, settings });
    }
    if let Some(action) = prepared::action(sql, &tokens, dialect, limits)? {
        only_for_queries(&settings)?;
        return Ok(Parsed { action, placeholders: 0, settings });
    }
    if let Some((mode, format, create)) = explained_create(sql, dialect, &tokens) {
        let Parsed { action, placeholders, settings: of_query } = parse(&create, dialect, limits)?;
        let Action::Write(_) = &action else {
            return Err(Error::unsupported(ONLY_PLANNED).with_hint(EXPLAIN_HINT));
        };
        check_format(mode, format.as_ref())?;
        settings.extend(of_query);
        settings.extend(format.map(|format| (EXPLAIN_FORMAT.to_owned(), format)));
        return Ok(Parsed { action: Action::Explain { query: Box::new(action), mode }, placeholders, settings });
    }
    if let Some(statement) = ddl::parse(sql, dialect).map_err(placed)? {
        if let DdlStatement::CreateTable(create) = &statement
            && let Some(query) = &create.query
        {
            let Parsed { action: Action::Query(query), placeholders: 0, .. } = parse(query, dialect, limits)? else {
                return Err(Error::invalid("the query of CREATE TABLE ... AS cannot have parameters"));
            };
            settings.push((DIALECT.to_owned(), dialect.to_string()));
            let write = WriteStatement::Create { table: Box::new(create.clone()), query };
            return Ok(Parsed { action: Action::Write(Box::new(write)), placeholders: 0, settings });
        }
        let write = match &statement {
            DdlStatement::CreateMaterializedView(create) => Some(WriteStatement::CreateMaterializedView(Box::new(create.clone()))),
            DdlStatement::Refresh(refresh) => Some(WriteStatement::Refresh(refresh.clone())),
            _ => None,
        };
        if let Some(write) = write {
            // Its rows are the same whoever computes them.
            settings.retain(|(name, _)| name != DIALECT);
            settings.extend(meaning());
            return Ok(Parsed { action: Action::Write(Box::new(write)), placeholders: 0, settings });
        }
        only_for_queries(&settings)?;
        return Ok(Parsed { action: Action::Names(Box::new(statement)), placeholders: 0, settings });
    }
    columns_are_selected(&tokens)?;
    bare::complete(&mut tokens);
    types::respell(&mut tokens);
    intervals::together(&mut tokens);
    rewrite_versions(&mut tokens, dialect);
    let placeholders = number_placeholders(&mut tokens)?;
    let words = tokens.iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    let end = words.map(|token| (token.span.end.line, token.span.end.column));
    // Levels of the parser's recursion per level of parentheses.
    let parser = Parser::new(dialect.grammar()).with_recursion_limit(3 * limits.nesting_max);
    let action = action(parser.with_tokens_with_locations(tokens)).map_err(|error| syntax(error, end))?;
    let (action, format) = action?;
    match &action {
        Action::Query(_) | Action::Write(_) | Action::Explain { .. } => {
            settings.extend(format.map(|format| (EXPLAIN_FORMAT.to_owned(), format)));
            // What was read in one dialect is not planned in another when it is executed later.
            settings.retain(|(name, _)| name != DIALECT);
            settings.push((DIALECT.to_owned(), dialect.to_string()));
        }
        _ => only_for_queries(&settings)?,
    }
    Ok(Parsed { action, placeholders, settings })
}

/// The setting that says how text is read.
const DIALECT: &str = "windlass.dialect";

/// The setting that `SET TIME ZONE` changes.
const TIME_ZONE: &str = "datafusion.execution.time_zone";

/// The setting that `EXPLAIN FORMAT` changes for its statement.
const EXPLAIN_FORMAT: &str = "datafusion.explain.format";

/// Settings in the comments before the first word: `/* name = value, ... */`, or the same behind `--`. Other comments say nothing to us.
///
/// They decide how the text behind them is read, so they are read before it; comments look alike in all dialects.
fn leading_settings(sql: &str) -> Result<Settings> {
    let comments = Tokenizer::new(Dialect::Generic.grammar(), leading_comments(sql)).tokenize_with_location().unwrap_or_default();
    let mut settings = Settings::new();
    for token in comments {
        let (Token::Whitespace(Whitespace::MultiLineComment(text))
        | Token::Whitespace(Whitespace::SingleLineComment { comment: text, .. })) = &token.token
        else {
            continue;
        };
        let text = text.trim().trim_start_matches('+').trim_start();
        if !["windlass.", "datafusion."]
            .iter()
            .any(|prefix| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
        {
            continue;
        }
        for setting in text.split(',') {
            let (name, value) = setting.split_once('=').ok_or_else(|| {
                Error::invalid(format!("cannot read setting '{}' in a comment", setting.trim()))
                    .with_hint("write /* name = value, name = value */ before the query")
                    .at(token.span.start.line, token.span.start.column)
            })?;
            settings.push((name.trim().to_ascii_lowercase(), value.trim().trim_matches('\'').to_owned()));
        }
    }
    Ok(settings)
}

/// The text up to its first word. A comment that does not end is left to the reader of the whole.
fn leading_comments(sql: &str) -> &str {
    let mut rest = sql;
    loop {
        rest = rest.trim_start();
        let after = match rest.get(..2) {
            Some("--") => rest.find('\n').map_or(Some(""), |end| Some(&rest[end..])),
            Some("/*") => after_comment(rest),
            _ => None,
        };
        match after {
            Some(after) => rest = after,
            None => return &sql[..sql.len() - rest.len()],
        }
    }
}

/// What follows the comment that a text begins with; comments nest.
fn after_comment(text: &str) -> Option<&str> {
    let (mut depth, mut at) = (0, 0);
    loop {
        let next = at + text[at..].find(['/', '*'])?;
        match text.get(next..next + 2) {
            Some("/*") => (depth, at) = (depth + 1, next + 2),
            Some("*/") if depth == 1 => return Some(&text[next + 2..]),
            Some("*/") => (depth, at) = (depth - 1, next + 2),
            _ => at = next + 1,
        }
    }
}

fn only_for_queries(settings: &Settings) -> Result<()> {
    match settings.iter().find(|(name, _)| name != DIALECT) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Error::invalid(format!("a comment can change setting '{name}' for a query only")).with_hint("use SET for other statements"))
        }
    }
}

/// Refuses `SELECT FROM t`, which the parser takes: it would give rows without columns.
fn columns_are_selected(tokens: &[TokenWithSpan]) -> Result<()> {
    let mut words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    let keyword = |token: &TokenWithSpan| match &token.token {
        Token::Word(Word { keyword, quote_style: None, .. }) => *keyword,
        _ => Keyword::NoKeyword,
    };
    let mut after_dot = false;
    while let Some(word) = words.next() {
        let selects = keyword(word) == Keyword::SELECT && !after_dot;
        after_dot = word.token == Token::Period;
        if selects && words.clone().next().is_none_or(|next| keyword(next) == Keyword::FROM || next.token == Token::RParen) {
            let (line, column) = (word.span.start.line, word.span.start.column);
            return Err(Error::invalid("SELECT names no columns").with_hint("name some, or write SELECT *").at(line, column));
        }
    }
    Ok(())
}

/// The action, and the format in which EXPLAIN shall show it. The outer error is the parser's, the inner one ours.
fn action(mut parser: Parser<'_>) -> Result<Result<(Action, Option<String>)>, ParserError> {
    let first = parser.peek_token();
    let (line, column) = (first.span.start.line, first.span.start.column);
    let refused = |message: &str, hint: &str| Ok(Err(Error::unsupported(message).with_hint(hint).at(line, column)));
    let plain = |action| Ok((action, None));
    let Token::Word(Word { keyword, .. }) = first.token else { return query(parser).map(plain) };
    match keyword {
        Keyword::INSERT | Keyword::COPY | Keyword::DELETE | Keyword::UPDATE | Keyword::MERGE | Keyword::OPTIMIZE => {
            write::parse(parser).map(|write| plain(Action::Write(Box::new(write))))
        }
        Keyword::EXPLAIN | Keyword::DESCRIBE | Keyword::DESC => {
            parser.next_token();
            let (mode, format) = explain_options(&mut parser)?;
            let query = match action(parser)? {
                Ok((query @ (Action::Query(_) | Action::Write(_)), None)) => Box::new(query),
                Ok(_) => return refused(ONLY_PLANNED, EXPLAIN_HINT),
                Err(error) => return Ok(Err(error)),
            };
            Ok(check_format(mode, format.as_ref()).map(|()| (Action::Explain { query, mode }, format)))
        }
        Keyword::SET => {
            parser.next_token();
            if parser.peek_token().token == Token::EOF {
                return Ok(plain(Action::Show(None)));
            }
            let _ = parser.parse_one_of_keywords(&[Keyword::SESSION, Keyword::LOCAL]);
            if parser.parse_keywords(&[Keyword::TIME, Keyword::ZONE]) {
                return Ok(plain(Action::Set { name: TIME_ZONE.to_owned(), value: setting_value(&mut parser)? }));
            }
            let name = setting_name(&mut parser)?;
            if !parser.consume_token(&Token::Eq) {
                parser.expect_keyword(Keyword::TO)?;
            }
            Ok(plain(Action::Set { name, value: setting_value(&mut parser)? }))
        }
        Keyword::RESET => {
            parser.next_token();
            let _ = parser.parse_keyword(Keyword::SESSION);
            Ok(plain(Action::Reset(all_or_name(parser)?)))
        }
        Keyword::SHOW => {
            parser.next_token();
            Ok(plain(Action::Show(all_or_name(parser)?)))
        }
        Keyword::BEGIN | Keyword::START | Keyword::COMMIT | Keyword::ROLLBACK | Keyword::SAVEPOINT | Keyword::ABORT => {
            refused("transactions are not supported: every statement commits by itself", "leave BEGIN and COMMIT out, and use autocommit")
        }
        _ => query(parser).map(plain),
    }
}

/// Tokens of the options of an EXPLAIN, at most.
const EXPLAIN_OPTIONS_MAX: usize = 10;
const ONLY_PLANNED: &str = "only queries and statements that write can be explained";
const EXPLAIN_HINT: &str = "explain the query in it";

/// What stands between EXPLAIN and what it explains.
fn explain_options(parser: &mut Parser<'_>) -> Result<(ExplainMode, Option<String>), ParserError> {
    let (mut mode, mut format) = (ExplainMode::Plan, None);
    loop {
        match () {
            () if parser.parse_keyword(Keyword::ANALYZE) => mode = ExplainMode::Analyze,
            () if parser.parse_keyword(Keyword::VERBOSE) && mode == ExplainMode::Plan => mode = ExplainMode::Verbose,
            // Spark's.
            () if parser.parse_keyword(Keyword::EXTENDED) && mode == ExplainMode::Plan => mode = ExplainMode::Verbose,
            () if mode == ExplainMode::Plan && parser.parse_one_of_keywords(&[Keyword::FORMATTED, Keyword::COST]).is_some() => {}
            () if format.is_none() && parser.parse_keyword(Keyword::FORMAT) => format = Some(explain_format(parser)?),
            () if format.is_none() && has_presto_options(parser) => format = presto_options(parser)?,
            () => return Ok((mode, format)),
        }
    }
}

/// Whether `(TYPE ...)` or `(FORMAT ...)` comes next, and not a query in parentheses.
fn has_presto_options(parser: &Parser<'_>) -> bool {
    let is_option = |word: &Word| ["type", "format"].iter().any(|option| word.value.eq_ignore_ascii_case(option));
    parser.peek_token().token == Token::LParen && matches!(parser.peek_nth_token(1).token, Token::Word(word) if is_option(&word))
}

/// Reads what Presto and Trino write between EXPLAIN and a query. There is one type: it shows what all of theirs do.
fn presto_options(parser: &mut Parser<'_>) -> Result<Option<String>, ParserError> {
    let mut format = None;
    parser.expect_token(&Token::LParen)?;
    loop {
        if parser.parse_keyword(Keyword::FORMAT) {
            format = Some(explain_format(parser)?).filter(|format| format != "text");
        } else {
            let (option, kind) = (parser.parse_identifier()?, parser.parse_identifier()?);
            let known = ["logical", "distributed", "validate", "io"].iter().any(|known| kind.value.eq_ignore_ascii_case(known));
            if !option.value.eq_ignore_ascii_case("type") || !known {
                return Err(ParserError::ParserError(format!("EXPLAIN has no '{option} {kind}' here: Expected: TYPE or FORMAT")));
            }
        }
        if !parser.consume_token(&Token::Comma) {
            parser.expect_token(&Token::RParen)?;
            return Ok(format);
        }
    }
}

fn check_format(mode: ExplainMode, format: Option<&String>) -> Result<()> {
    match (mode, format) {
        (ExplainMode::Analyze, Some(_)) => Err(Error::unsupported("EXPLAIN ANALYZE has one format only").with_hint("leave FORMAT out")),
        _ => Ok(()),
    }
}

/// The options of an EXPLAIN of a `CREATE ...`, which is the catalog's to read, and the text without what is before `CREATE`. What is left
/// stands where it stood.
fn explained_create(sql: &str, dialect: Dialect, tokens: &[TokenWithSpan]) -> Option<(ExplainMode, Option<String>, String)> {
    let words: Vec<_> = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let keyword = |token: &TokenWithSpan| if let Token::Word(word) = &token.token { word.keyword } else { Keyword::NoKeyword };
    let [explain, rest @ ..] = words.as_slice() else { return None };
    let create = rest.iter().take(EXPLAIN_OPTIONS_MAX).position(|token| keyword(token) == Keyword::CREATE)?;
    if keyword(explain) != Keyword::EXPLAIN {
        return None;
    }
    let options = rest[..create].iter().map(|token| (*token).clone()).collect();
    let mut parser = Parser::new(dialect.grammar()).with_tokens_with_locations(options);
    let (mode, format) = explain_options(&mut parser).ok()?;
    end(parser).ok()?;
    let at = rest[create].span.start;
    let (mut line, mut column) = (1, 0);
    let blank = |c: char| {
        column += 1;
        let is_before = (line, column) < (at.line, at.column);
        if c == '\n' {
            (line, column) = (line + 1, 0);
        }
        if is_before && c != '\n' { ' ' } else { c }
    };
    Some((mode, format, sql.chars().map(blank).collect()))
}

/// Reads a query to the end of the text.
fn query(mut parser: Parser<'_>) -> Result<Action, ParserError> {
    let statement = parser.parse_statement()?;
    end(parser)?;
    match statement {
        ast::Statement::Query(query) => match write::insert_after_with(&query) {
            Some(write) => write.map(|write| Action::Write(Box::new(write))),
            None => Ok(Action::Query(Box::new(ast::Statement::Query(query)))),
        },
        other => {
            let text = other.to_string();
            let verb = text.split_whitespace().next().unwrap_or_default();
            Err(ParserError::ParserError(format!("{verb} is not supported here: Expected: a query")))
        }
    }
}

fn end(mut parser: Parser<'_>) -> Result<(), ParserError> {
    let rest = parser.next_token();
    match rest.token {
        Token::EOF => Ok(()),
        _ => parser.expected("end of statement", rest),
    }
}

fn setting_name(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    Ok(parser.parse_object_name(false)?.0.iter().map(|part| part.to_string().to_ascii_lowercase()).collect::<Vec<_>>().join("."))
}

/// The name of a format as the setting takes it.
fn explain_format(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    let name = parser.parse_identifier()?.value.to_ascii_lowercase();
    Ok(if name == "json" { "pgjson".to_owned() } else { name })
}

fn all_or_name(mut parser: Parser<'_>) -> Result<Option<String>, ParserError> {
    // `SHOW SESSION` is Trino's.
    let all = parser.parse_one_of_keywords(&[Keyword::ALL, Keyword::SESSION]).is_some();
    let name = if all { None } else { Some(setting_name(&mut parser)?) };
    end(parser)?;
    Ok(name)
}

/// The rest of the text as a value: a string without its quotes, anything else as written.
fn setting_value(parser: &mut Parser<'_>) -> Result<String, ParserError> {
    let mut value = String::new();
    loop {
        let token = parser.next_token();
        match token.token {
            Token::EOF if value.is_empty() => return parser.expected("a value", token),
            Token::EOF => return Ok(value),
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) if value.is_empty() => {
                return match parser.next_token() {
                    TokenWithSpan { token: Token::EOF, .. } => Ok(text),
                    rest => parser.expected("end of statement", rest),
                };
            }
            other => value.push_str(&other.to_string()),
        }
    }
}

/// Rewrites `?` to `$1`, `$2`, ... and returns how many parameters there are.
fn number_placeholders(tokens: &mut [TokenWithSpan]) -> Result<usize> {
    let (mut marks, mut highest) = (0, 0);
    for token in tokens {
        let start = token.span.start;
        let Token::Placeholder(name) = &mut token.token else { continue };
        if name == "?" {
            marks += 1;
            *name = format!("${marks}");
            continue;
        }
        let number = name[1..].parse().ok().filter(|number| (1..=PARAMETERS_MAX).contains(number));
        let number = number
            .ok_or_else(|| Error::invalid(format!("'{name}' is no parameter; write ? or $1, $2, ...")).at(start.line, start.column))?;
        *name = format!("${number}");
        highest = highest.max(number);
    }
    match (marks, highest) {
        (1.., 1..) => Err(Error::invalid("the statement mixes ? and $1; use one of them")),
        (PARAMETERS_MAX.., _) => Err(Error::invalid(format!("a statement may have at most {PARAMETERS_MAX} parameters"))),
        _ => Ok(marks.max(highest)),
    }
}

/// The parser's words with a place. It gives none when the text ends too early: that is at `end`.
fn syntax(error: ParserError, end: Option<(u64, u64)>) -> Error {
    let text = match error {
        ParserError::RecursionLimitExceeded => {
            return Error::new(windlass_proto::Kind::Exhausted, "the statement nests too deeply")
                .with_hint("take parentheses off, or move inner queries into WITH");
        }
        ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
    };
    let (message, place) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => {
            (message, place.split_once(", Column: ").and_then(|(line, column)| Some((line.parse().ok()?, column.parse().ok()?))))
        }
        None => (text.as_str(), end.filter(|_| text.ends_with("found: EOF"))),
    };
    let message = message.replace("Expected: ", "expected ").replace("found: EOF", "the text ends").replace("found: ", "found ");
    let error = Error::invalid(format!("cannot parse the statement: {message}"));
    match place {
        Some((line, column)) => error.at(line, column),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use windlass_proto::Kind;

    use super::*;

    fn read(sql: &str) -> Result<Parsed> {
        parse(sql, Dialect::Generic, &GuardLimits::default())
    }

    #[test]
    fn statements_are_classified() {
        for sql in ["SELECT 1", "VALUES (1)", "(SELECT 1) UNION (SELECT 2);", "WITH a AS (SELECT 1) SELECT * FROM a", "-- c\nselect 1"] {
            assert!(matches!(read(sql).unwrap().action, Action::Query(_)), "{sql}");
        }
        let explained = |sql: &str| match read(sql).unwrap().action {
            Action::Explain { mode, .. } => mode,
            other => panic!("{sql}: {other:?}"),
        };
        assert_eq!(explained("EXPLAIN SELECT 1"), ExplainMode::Plan);
        assert_eq!(explained("EXPLAIN VERBOSE SELECT 1"), ExplainMode::Verbose);
        assert_eq!(explained("explain analyze verbose SELECT 1"), ExplainMode::Analyze);
        assert_eq!(explained("EXPLAIN (TYPE DISTRIBUTED, FORMAT JSON) SELECT 1"), ExplainMode::Plan);
        assert_eq!(explained("EXPLAIN ANALYZE (format text) SELECT 1"), ExplainMode::Analyze);
        assert_eq!(explained("EXPLAIN EXTENDED SELECT 1"), ExplainMode::Verbose);
        assert_eq!(explained("EXPLAIN FORMATTED SELECT 1"), ExplainMode::Plan);
        assert_eq!(explained("EXPLAIN (SELECT 1)"), ExplainMode::Plan);
        assert_eq!(explained("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1 AS a"), ExplainMode::Analyze);
        assert_eq!(explained("EXPLAIN SELECT create FROM t"), ExplainMode::Plan);
        assert!(read("EXPLAIN CREATE TABLE t (a INT)").is_err() && read("EXPLAIN FAST CREATE TABLE t AS SELECT 1 AS a").is_err());
        assert!(read("EXPLAIN (TYPE FAST) SELECT 1").is_err() && read("EXPLAIN (TYPE IO SELECT 1").is_err());
        assert!(matches!(read("SHOW SESSION").unwrap().action, Action::Show(None)));
        assert!(matches!(read("RESET SESSION a.b").unwrap().action, Action::Reset(Some(name)) if name == "a.b"));
        assert!(matches!(read("SHOW TABLES").unwrap().action, Action::Names(_)));
        assert!(matches!(read("SHOW ALL").unwrap().action, Action::Show(None)));
        assert!(matches!(read("SHOW windlass.engine").unwrap().action, Action::Show(Some(name)) if name == "windlass.engine"));
        assert!(matches!(read("RESET Windlass.Engine").unwrap().action, Action::Reset(Some(name)) if name == "windlass.engine"));
        for (sql, expected) in
            [("SET a.b = 'x y'", "x y"), ("SET a.b TO -1", "-1"), ("SET a.b = +02:00", "+02:00"), ("set a.b = true", "true")]
        {
            assert!(matches!(read(sql).unwrap().action, Action::Set { name, value } if name == "a.b" && value == expected), "{sql}");
        }
    }

    #[test]
    fn what_we_do_not_do_is_refused_by_kind() {
        for sql in ["BEGIN", "LOAD DATA INPATH 'x' INTO TABLE t"] {
            assert_eq!(read(sql).unwrap_err().kind(), Kind::Unsupported, "{sql}");
        }
        for sql in [
            "SELECT FROM WHERE",
            "SELECT 1 WHERE EXISTS (SELECT FROM t)",
            "SELECT",
            "SELCT 1",
            "SELECT 1 FROM",
            "SELECT 1 2",
            "EXPLAIN",
            "SET a =",
            "SELECT 1; SELECT 2",
            "KILL 1",
        ] {
            assert_eq!(read(sql).unwrap_err().kind(), Kind::Invalid, "{sql}");
        }
        let error = read("SELECT *\nFRM t").unwrap_err();
        assert_eq!((error.detail().line, error.detail().column), (2, 1), "{error}");
        let error = read("EXPLAIN\n VERBOSE CREATE TABLE t CLUSTERED AS SELECT 1").unwrap_err();
        assert_eq!((error.detail().line, error.detail().column), (2, 25), "{error}");
        let error = read("SELECT *\n FROM -- x\n").unwrap_err();
        assert_eq!((error.detail().line, error.detail().column), (2, 6), "{error}");
    }

    #[test]
    fn comments_in_front_of_a_query_set() {
        let settings =
            |sql: &str| read(sql).map(|parsed| parsed.settings.into_iter().filter(|(name, _)| name != DIALECT).collect::<Vec<_>>());
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let both = [set("windlass.engine", "staged"), set("datafusion.execution.batch_size", "10")];
        for sql in [
            "/* windlass.engine = staged, datafusion.execution.batch_size = 10 */ SELECT 1",
            "-- a report\n-- Windlass.engine='staged'\n/*+ datafusion.execution.batch_size = 10 */ EXPLAIN SELECT 1",
        ] {
            assert_eq!(settings(sql).unwrap(), both, "{sql}");
        }
        assert!(settings("/* monthly = yes */ SELECT 1 /* windlass.engine = local */").unwrap().is_empty());
        assert_eq!(settings("EXPLAIN FORMAT JSON SELECT 1").unwrap(), [set(EXPLAIN_FORMAT, "pgjson")]);
        for sql in
            ["/* windlass.engine */ SELECT 1", "/* windlass.engine = local */ SET a.b = 1", "/* windlass.engine = local */ SHOW TABLES"]
        {
            assert_eq!(settings(sql).unwrap_err().kind(), Kind::Invalid, "{sql}");
        }
    }

    #[test]
    fn a_comment_says_in_whose_sql_the_rest_is() {
        let sql = "-- a /* report\n/* of /* mine */ */ /* windlass.dialect = spark */ SELECT \"it's\", 'it\\'s', `a b` -- \"";
        let parsed = read(sql).unwrap();
        assert_eq!(parsed.settings, [(DIALECT.to_owned(), "spark".to_owned())]);
        let Action::Query(query) = parsed.action else { panic!("no query") };
        assert_eq!(query.to_string(), "SELECT \"it's\", 'it''s', `a b`");
        assert!(read("/* windlass.dialect = spark */ CREATE VIEW v AS SELECT \"x'\"").is_ok());
        assert_eq!(read("/* windlass.dialect = cobol */ SELECT 1").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(read("/* windlass.dialect = spark SELECT 1").unwrap_err().kind(), Kind::Invalid);
        for (text, comments) in [("-- a", "-- a"), (" /* * / */x/**/", " /* * / */"), ("/*/ x", ""), ("/**/", "/**/"), ("é", "")] {
            assert_eq!(leading_comments(text), comments, "{text}");
        }
    }

    #[test]
    fn placeholders_are_numbered_outside_of_text() {
        let count = |sql: &str| read(sql).map(|parsed| parsed.placeholders);
        assert_eq!(count("SELECT '?', \"c?\", `?`, ? /* ? */ + ? -- ?").unwrap(), 2);
        assert_eq!(count("SELECT $2, $1, $2, $$ ? $$").unwrap(), 2);
        assert_eq!(count("SELECT ?, $1").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(count("SELECT $name").unwrap_err().kind(), Kind::Invalid);
    }
}
