//! `PREPARE p FROM ...`, `EXECUTE p USING ...` and `DEALLOCATE PREPARE p`: statements with a name, which a session keeps as text.
//!
//! Values take the places of parameters in the text before it is parsed, so that a statement of any kind can have them.

use std::collections::VecDeque;

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Word};
use windlass_engine::Dialect;

use super::{Action, Parsed, parse};
use crate::error::{Error, Result};
use crate::guard::{self, GuardLimits};

/// A statement that stands for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Execute {
    what: What,
    /// Values of its parameters, as written.
    values: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// The one that the session has under this name.
    Named(String),
    /// `EXECUTE IMMEDIATE '...'`
    Text(String),
}

/// Reads a statement about prepared ones; none if it is another.
pub(super) fn action(sql: &str, tokens: &[TokenWithSpan], dialect: Dialect, limits: &GuardLimits) -> Result<Option<Action>> {
    let mut words = Words { sql, rest: tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect() };
    if words.eat(Keyword::PREPARE) {
        let name = words.name()?;
        let types = matches!(words.peek(), Some(Token::LParen));
        while types && !matches!(words.next(), Some(Token::RParen) | None) {}
        if !words.eat(Keyword::FROM) && !words.eat(Keyword::AS) {
            return Err(words.expected("FROM or AS and a statement"));
        }
        let text = format!("/* windlass.dialect = {dialect} */ {}", words.remaining());
        if let Parsed { action: Action::Prepare { .. } | Action::Deallocate(_) | Action::Execute(_), .. } = parse(&text, dialect, limits)? {
            return Err(Error::invalid("what is prepared is no statement about prepared ones"));
        }
        return Ok(Some(Action::Prepare { name, text }));
    }
    if words.eat(Keyword::DEALLOCATE) {
        words.eat(Keyword::PREPARE);
        let name = words.name()?;
        return words.end().map(|()| Some(Action::Deallocate(name)));
    }
    if !words.eat(Keyword::EXECUTE) {
        return Ok(None);
    }
    let what = match words.eat(Keyword::IMMEDIATE) {
        false => What::Named(words.name()?),
        true => match words.next() {
            Some(Token::SingleQuotedString(text) | Token::DoubleQuotedString(text)) => What::Text(text.clone()),
            _ => return Err(words.expected("a statement in quotes")),
        },
    };
    let values = if words.eat(Keyword::USING) {
        words.values(false)?
    } else if matches!(words.peek(), Some(Token::LParen)) {
        words.next();
        words.values(true)?
    } else {
        Vec::new()
    };
    words.end().map(|()| Some(Action::Execute(Execute { what, values })))
}

impl Execute {
    /// The statement with its values. `prepared` knows statements by name.
    ///
    /// Errors: `NotFound` for a name, `Invalid` for another number of values than there are parameters.
    pub(crate) fn text(&self, dialect: Dialect, limits: &GuardLimits, prepared: impl Fn(&str) -> Result<String>) -> Result<String> {
        let text = match &self.what {
            What::Named(name) => prepared(name)?,
            What::Text(text) => text.clone(),
        };
        let tokens = guard::tokens(&text, dialect, limits)?;
        let (mut whole, mut end, mut marks, mut used) = (String::new(), 0, 0, 0);
        for token in tokens {
            let Token::Placeholder(name) = &token.token else { continue };
            marks += 1;
            let number = if name == "?" { Some(marks) } else { name[1..].parse::<usize>().ok() };
            let value = number.and_then(|number| self.values.get(number.checked_sub(1)?));
            let value = value.ok_or_else(|| {
                Error::invalid(format!("the statement has no value for '{name}': {} were given", self.values.len()))
                    .with_hint("write EXECUTE name USING value, value")
            })?;
            used = used.max(number.unwrap_or_default());
            whole.push_str(&text[end..offset(&text, token.span.start)]);
            whole.push_str(value);
            end = offset(&text, token.span.end);
        }
        if used < self.values.len() {
            return Err(Error::invalid(format!("the statement takes {used} values, not {}", self.values.len())));
        }
        whole.push_str(&text[end..]);
        Ok(whole)
    }
}

/// The byte at which a place begins.
fn offset(text: &str, place: Location) -> usize {
    let line = text.split_inclusive('\n').take(place.line.saturating_sub(1) as usize).map(str::len).sum::<usize>();
    let column = text[line..].char_indices().nth(place.column.saturating_sub(1) as usize);
    column.map_or(text.len(), |(at, _)| line + at)
}

/// The words of a statement that are not read yet.
struct Words<'a> {
    sql: &'a str,
    rest: VecDeque<&'a TokenWithSpan>,
}

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.rest.front().map(|token| &token.token)
    }

    fn next(&mut self) -> Option<&'a Token> {
        self.rest.pop_front().map(|token| &token.token)
    }

    fn eat(&mut self, keyword: Keyword) -> bool {
        let is_next = matches!(self.peek(), Some(Token::Word(Word { keyword: found, quote_style: None, .. })) if *found == keyword);
        if is_next {
            self.next();
        }
        is_next
    }

    /// Names are in lower case, as those of tables.
    fn name(&mut self) -> Result<String> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.next();
                Ok(word.value.to_lowercase())
            }
            _ => Err(self.expected("a name")),
        }
    }

    /// The text from here on.
    fn remaining(&self) -> &'a str {
        self.rest.front().map_or("", |token| &self.sql[offset(self.sql, token.span.start)..])
    }

    /// Values with commas between them, up to the end or a closing parenthesis.
    fn values(&mut self, enclosed: bool) -> Result<Vec<String>> {
        let (mut values, mut depth, mut value) = (Vec::new(), 0_usize, Vec::new());
        while let Some(token) = self.rest.front().copied() {
            match &token.token {
                Token::SemiColon | Token::EOF => break,
                Token::RParen if depth == 0 && enclosed => break,
                Token::Comma if depth == 0 => values.push(self.value(&std::mem::take(&mut value))?),
                other => {
                    match other {
                        Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
                        Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    value.push(token);
                }
            }
            self.next();
        }
        values.push(self.value(&value)?);
        if enclosed && !matches!(self.next(), Some(Token::RParen)) {
            return Err(self.expected("')' after the values"));
        }
        Ok(values)
    }

    /// The text of a value, in parentheses if it has several words.
    fn value(&self, tokens: &[&TokenWithSpan]) -> Result<String> {
        let [first, .., last] = tokens else {
            let one = tokens.first().ok_or_else(|| self.expected("a value"))?;
            return Ok(self.sql[offset(self.sql, one.span.start)..offset(self.sql, one.span.end)].to_owned());
        };
        Ok(format!("({})", &self.sql[offset(self.sql, first.span.start)..offset(self.sql, last.span.end)]))
    }

    fn end(&mut self) -> Result<()> {
        match self.next() {
            None | Some(Token::SemiColon | Token::EOF) => Ok(()),
            Some(_) => Err(self.expected("the end of the statement")),
        }
    }

    fn expected(&self, what: &str) -> Error {
        let error = Error::invalid(format!("cannot parse the statement: expected {what}"));
        match self.rest.front() {
            Some(token) => error.at(token.span.start.line, token.span.start.column),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_proto::Kind;

    use super::*;

    fn run(prepare: &str, execute: &str) -> Result<String> {
        let limits = GuardLimits::default();
        let Action::Prepare { name, text } = parse(prepare, Dialect::Generic, &limits)?.action else { panic!("{prepare}") };
        let Action::Execute(execute) = parse(execute, Dialect::Generic, &limits)?.action else { panic!("{execute}") };
        let known = |wanted: &str| if wanted == name { Ok(text.clone()) } else { Err(Error::new(Kind::NotFound, wanted)) };
        let text = execute.text(Dialect::Generic, &limits, known)?;
        Ok(match text.split_once("*/ ") {
            Some((_, text)) => text.to_owned(),
            None => text,
        })
    }

    #[test]
    fn values_take_the_places_of_parameters() {
        for (prepare, execute, expected) in [
            ("PREPARE p FROM SELECT ?, '?' FROM t\nWHERE a = ?", "EXECUTE p USING 1, 'x''y'", "SELECT 1, '?' FROM t\nWHERE a = 'x''y'"),
            ("PREPARE P (INT, INT) AS SELECT $2 - $1", "EXECUTE p(1 + 2, f(3, 4));", "SELECT (f(3, 4)) - (1 + 2)"),
            ("PREPARE p AS DROP TABLE t", "EXECUTE p", "DROP TABLE t"),
            ("PREPARE p FROM SELECT 'ü', ?", "EXECUTE p USING ARRAY['é', 'b']", "SELECT 'ü', (ARRAY['é', 'b'])"),
            ("PREPARE p FROM SELECT 1", "EXECUTE IMMEDIATE 'SELECT ? + ?' USING 1, -2", "SELECT 1 + (-2)"),
        ] {
            assert_eq!(run(prepare, execute).unwrap(), expected, "{prepare}; {execute}");
        }
        for (prepare, execute) in [
            ("PREPARE p FROM SELECT ?", "EXECUTE p"),
            ("PREPARE p FROM SELECT ?", "EXECUTE p USING 1, 2"),
            ("PREPARE p FROM SELECT ?", "EXECUTE p USING"),
            ("PREPARE p FROM SELECT ?", "EXECUTE p(1"),
            ("PREPARE p FROM SELEC 1", "EXECUTE p"),
            ("PREPARE p FROM EXECUTE q", "EXECUTE p"),
            ("PREPARE p", "EXECUTE p"),
            ("PREPARE p FROM SELECT 1", "EXECUTE p 1"),
        ] {
            assert_eq!(run(prepare, execute).unwrap_err().kind(), Kind::Invalid, "{prepare}; {execute}");
        }
        assert_eq!(run("PREPARE p FROM SELECT 1", "EXECUTE q").unwrap_err().kind(), Kind::NotFound);
    }
}
