//! A position in the tokens of a statement, with the small questions that a grammar asks.

use datafusion::sql::sqlparser::ast::{DataType as SqlType, SetExpr};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use windlass_engine::Dialect;
use windlass_proto::Kind;

use super::versions::rewrite_versions;
use super::{ParseError, QUERY_DEPTH_MAX};

/// Tokens that the longest scalar type has, `timestamp(6) without time zone` or `decimal(38, 10) unsigned`, and some more.
const SCALAR_TYPE_TOKENS_MAX: usize = 12;

/// Tokens of one statement, without white space and comments.
pub(super) struct Cursor<'a> {
    sql: &'a str,
    dialect: Dialect,
    tokens: Vec<TokenWithSpan>,
    index: usize,
}

impl<'a> Cursor<'a> {
    /// Cuts a text into tokens.
    pub(super) fn new(sql: &'a str, dialect: Dialect) -> Result<Self, ParseError> {
        let tokens = Tokenizer::new(dialect.grammar(), sql).tokenize_with_location().map_err(|error| ParseError {
            kind: Kind::Invalid,
            message: lower_first(&error.message),
            line: error.location.line,
            column: error.location.column,
        })?;
        let tokens = tokens.into_iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF)).collect();
        Ok(Self { sql, dialect, tokens, index: 0 })
    }

    /// In whose SQL the text is written.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The token `n` places ahead.
    pub(super) fn nth(&self, n: usize) -> &Token {
        self.tokens.get(self.index + n).map_or(&Token::EOF, |token| &token.token)
    }

    /// Whether these unquoted words come next.
    pub(super) fn is(&self, words: &str) -> bool {
        words
            .split(' ')
            .enumerate()
            .all(|(n, word)| matches!(self.nth(n), Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word)))
    }

    /// Whether any of these words or phrases comes next.
    pub(super) fn is_any(&self, choices: &[&str]) -> bool {
        choices.iter().any(|words| self.is(words))
    }

    /// Takes these unquoted words if they come next.
    pub(super) fn eat(&mut self, words: &str) -> bool {
        let found = self.is(words);
        if found {
            self.index += words.split(' ').count();
        }
        found
    }

    /// Takes the first of these phrases that comes next.
    pub(super) fn eat_any(&mut self, choices: &[&str]) -> bool {
        choices.iter().any(|words| self.eat(words))
    }

    /// Takes a word that may also be a name: only if a name follows it.
    pub(super) fn eat_before_name(&mut self, word: &str) -> bool {
        matches!(self.nth(1), Token::Word(_)) && self.eat(word)
    }

    pub(super) fn expect(&mut self, words: &str) -> Result<(), ParseError> {
        if self.eat(words) { Ok(()) } else { Err(self.expected(words)) }
    }

    pub(super) fn eat_token(&mut self, token: &Token) -> bool {
        let found = self.nth(0) == token;
        if found {
            self.index += 1;
        }
        found
    }

    pub(super) fn expect_token(&mut self, token: &Token) -> Result<(), ParseError> {
        if self.eat_token(token) { Ok(()) } else { Err(self.expected(&format!("'{token}'"))) }
    }

    /// Takes one half of `>>`, which ends two nested types.
    pub(super) fn split_shift_right(&mut self) -> bool {
        match self.tokens.get_mut(self.index) {
            Some(token) if token.token == Token::ShiftRight => {
                token.token = Token::Gt;
                true
            }
            _ => false,
        }
    }

    /// A name in lower case, quoted or not.
    pub(super) fn identifier(&mut self, what: &str) -> Result<String, ParseError> {
        self.exact_identifier(what).map(|name| name.to_lowercase())
    }

    /// A name as written.
    pub(super) fn exact_identifier(&mut self, what: &str) -> Result<String, ParseError> {
        match self.nth(0) {
            Token::Word(word) if !word.value.is_empty() => {
                let name = word.value.clone();
                self.index += 1;
                Ok(name)
            }
            _ => Err(self.expected(what)),
        }
    }

    /// A string literal, in single quotes or, as Hive has it, in double ones.
    pub(super) fn string(&mut self, what: &str) -> Result<String, ParseError> {
        let text = match self.nth(0) {
            Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text.clone(),
            Token::Word(word) if word.quote_style == Some('"') => word.value.clone(),
            _ => return Err(self.expected(what)),
        };
        self.index += 1;
        Ok(text)
    }

    /// `COMMENT 'text'`, if it comes next.
    pub(super) fn comment_clause(&mut self) -> Result<Option<String>, ParseError> {
        if !self.eat("COMMENT") {
            return Ok(None);
        }
        self.eat_token(&Token::Eq);
        self.string("the comment in quotes").map(Some)
    }

    /// Items in parentheses, separated by commas; at least one.
    pub(super) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, ParseError>) -> Result<Vec<T>, ParseError> {
        self.expect_token(&Token::LParen)?;
        let mut items = vec![item(self)?];
        while self.eat_token(&Token::Comma) {
            items.push(item(self)?);
        }
        self.expect_token(&Token::RParen)?;
        Ok(items)
    }

    /// A scalar type, read by sqlparser.
    pub(super) fn scalar_type(&mut self) -> Result<SqlType, ParseError> {
        if !matches!(self.nth(0), Token::Word(_)) {
            return Err(self.expected("a type"));
        }
        let end = self.tokens.len().min(self.index + SCALAR_TYPE_TOKENS_MAX);
        let mut parser = Parser::new(self.dialect.grammar()).with_tokens_with_locations(self.tokens[self.index..end].to_vec());
        let sql_type = parser.parse_data_type().map_err(|error| self.parser_error(&error))?;
        self.index += parser.index();
        Ok(sql_type)
    }

    /// The rest of the statement, which must be a query: its text as written.
    pub(super) fn query(&mut self) -> Result<String, ParseError> {
        let first = self.index;
        let start = self.position();
        let parser = Parser::new(self.dialect.grammar()).with_recursion_limit(QUERY_DEPTH_MAX);
        let mut tokens = self.tokens.split_off(first);
        rewrite_versions(&mut tokens, self.dialect);
        self.tokens.append(&mut tokens.clone());
        let mut parser = parser.with_tokens_with_locations(tokens);
        let query = parser.parse_query().map_err(|error| self.parser_error(&error))?;
        if matches!(*query.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)) {
            return Err(self.invalid_at(start, "a view is a query, not a change of data".to_owned()));
        }
        self.index += parser.index();
        let end = self.tokens[self.index - 1].span.end;
        let text = &self.sql[self.offset(start)..self.offset(end)];
        self.finish()?;
        Ok(text.trim_end().to_owned())
    }

    /// Checks that nothing but semicolons is left.
    pub(super) fn finish(&mut self) -> Result<(), ParseError> {
        while self.eat_token(&Token::SemiColon) {}
        match self.nth(0) {
            Token::EOF => Ok(()),
            _ if self.index > 0 && self.tokens[self.index - 1].token == Token::SemiColon => {
                Err(self.invalid("one statement at a time, please: something follows the semicolon".to_owned()))
            }
            _ => Err(self.expected("the end of the statement")),
        }
    }

    /// Where the next token starts, or the last one ends.
    pub(super) fn position(&self) -> Location {
        match self.tokens.get(self.index) {
            Some(token) => token.span.start,
            None => self.tokens.last().map_or_else(Location::empty, |token| token.span.end),
        }
    }

    /// "expected this, found that".
    pub(super) fn expected(&self, what: &str) -> ParseError {
        let found = match self.nth(0) {
            Token::EOF => "the end".to_owned(),
            token => format!("'{token}'"),
        };
        self.invalid(format!("expected {what}, found {found}"))
    }

    /// `Invalid` at the next token.
    pub(super) fn invalid(&self, message: String) -> ParseError {
        self.invalid_at(self.position(), message)
    }

    /// `Invalid` at an earlier place.
    pub(super) fn invalid_at(&self, at: Location, message: String) -> ParseError {
        ParseError { kind: Kind::Invalid, message, line: at.line, column: at.column }
    }

    /// `Unsupported` at the next token.
    pub(super) fn unsupported(&self, message: impl Into<String>) -> ParseError {
        ParseError { kind: Kind::Unsupported, ..self.invalid(message.into()) }
    }

    /// sqlparser keeps the place in the message's text only.
    fn parser_error(&self, error: &ParserError) -> ParseError {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
            ParserError::RecursionLimitExceeded => "it is nested too deeply",
        };
        let split = text.rsplit_once(" at Line: ").and_then(|(message, place)| {
            let (line, column) = place.split_once(", Column: ")?;
            Some((message, Location { line: line.parse().ok()?, column: column.parse().ok()? }))
        });
        let (message, at) = split.unwrap_or_else(|| (text, self.tokens.last().map_or_else(Location::empty, |token| token.span.end)));
        self.invalid_at(at, lower_first(message).replacen("expected: ", "expected ", 1))
    }

    /// Bytes before a place in the text.
    fn offset(&self, at: Location) -> usize {
        let line_start = match at.line {
            0 | 1 => 0,
            line => {
                self.sql.match_indices('\n').nth(usize::try_from(line).unwrap_or(usize::MAX) - 2).map_or(self.sql.len(), |(i, _)| i + 1)
            }
        };
        let column = usize::try_from(at.column).unwrap_or(usize::MAX).saturating_sub(1);
        self.sql[line_start..].char_indices().nth(column).map_or(self.sql.len(), |(i, _)| line_start + i)
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
