//! `t FOR VERSION AS OF 3`, `t FOR CHANGES SINCE JOB 'j'`, `t FOR BAD RECORDS` in a query: clauses after a table's name, which sqlparser does not know everywhere.
//!
//! They are rewritten to an argument of the table, `t(version_as_of => 3)`, which it does; planning reads it from there.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};
use windlass_engine::Dialect;

/// Name of the argument that says a version by its number.
pub const VERSION_AS_OF: &str = "version_as_of";
/// Name of the argument that says a version by a time when it was current.
pub const TIMESTAMP_AS_OF: &str = "timestamp_as_of";

/// Name of the argument that says a job to which all rows are new that the table got since it was read for it.
pub const CHANGES_SINCE_JOB: &str = "changes_since_job";

/// Name of the argument that asks for the records of a table's files that cannot be read.
pub const BAD_RECORDS_OF: &str = "bad_records";

/// Tokens that the expression behind `AS OF` may have.
const EXPRESSION_TOKENS_MAX: usize = 64;
/// How deep it may nest.
const EXPRESSION_DEPTH_MAX: usize = 20;

/// Rewrites `[FOR] {VERSION | SYSTEM_VERSION} AS OF n`, `[FOR] {TIMESTAMP | SYSTEM_TIME} AS OF t` `[FOR] CHANGES SINCE JOB 'j'` and
/// `FOR BAD RECORDS` wherever they follow a name.
pub fn rewrite_versions(tokens: &mut Vec<TokenWithSpan>, dialect: Dialect) {
    let mut index = 0;
    while index < tokens.len() {
        match clause(tokens, index, dialect) {
            Some(Clause { argument, value, end }) => {
                let at = |token| TokenWithSpan { token, span: tokens[index].span };
                let mut call = vec![at(Token::LParen), at(Token::make_word(argument, None)), at(Token::RArrow)];
                call.extend(value);
                call.push(TokenWithSpan { token: Token::RParen, span: tokens[end - 1].span });
                let length = call.len();
                tokens.splice(index..end, call);
                index += length;
            }
            None => index += 1,
        }
    }
}

/// A clause that was found.
struct Clause {
    argument: &'static str,
    /// Its expression.
    value: Vec<TokenWithSpan>,
    /// What follows it.
    end: usize,
}

/// The clause that begins at `index`, if one does.
fn clause(tokens: &[TokenWithSpan], index: usize, dialect: Dialect) -> Option<Clause> {
    let word = |at: usize| match &tokens.get(at)?.token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.as_str()),
        _ => None,
    };
    let next = |at: usize| (at + 1..tokens.len()).find(|at| !matches!(tokens[*at].token, Token::Whitespace(_)));
    let is = |at: usize, text: &str| word(at).is_some_and(|word| word.eq_ignore_ascii_case(text));
    // `SELECT version AS of FROM t` names a column.
    let follows_name = || tokens[..index].iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_))).is_some_and(ends_name);
    let kind = if is(index, "FOR") { next(index)? } else { index };
    if kind != index && is(kind, "BAD") && next(kind).is_some_and(|next| is(next, "RECORDS")) && follows_name() {
        let end = next(kind)? + 1;
        let value = vec![TokenWithSpan { token: Token::make_word("true", None), span: tokens[end - 1].span }];
        return Some(Clause { argument: BAD_RECORDS_OF, value, end });
    }
    let (argument, words) = match word(kind)?.to_ascii_uppercase().as_str() {
        "VERSION" | "SYSTEM_VERSION" => (VERSION_AS_OF, ["AS", "OF"]),
        "TIMESTAMP" | "SYSTEM_TIME" => (TIMESTAMP_AS_OF, ["AS", "OF"]),
        "CHANGES" => (CHANGES_SINCE_JOB, ["SINCE", "JOB"]),
        _ => return None,
    };
    let (one, two) = (next(kind)?, next(next(kind)?)?);
    let expression = next(two)?;
    let starts_value = !matches!(&tokens[expression].token, Token::Comma | Token::RParen) && !is(expression, "FROM");
    if !(is(one, words[0]) && is(two, words[1]) && follows_name() && starts_value) {
        return None;
    }
    let rest = tokens[expression..].iter().take(EXPRESSION_TOKENS_MAX).cloned().collect();
    let parser = Parser::new(dialect.grammar()).with_recursion_limit(EXPRESSION_DEPTH_MAX);
    let mut parser = parser.with_tokens_with_locations(rest);
    parser.parse_expr().ok()?;
    let end = expression + parser.index();
    Some(Clause { argument, value: tokens[expression..end].to_vec(), end })
}

fn ends_name(token: &TokenWithSpan) -> bool {
    match &token.token {
        Token::Word(Word { quote_style: Some(_), .. }) => true,
        Token::Word(Word { keyword, .. }) => !matches!(keyword, Keyword::SELECT | Keyword::DISTINCT | Keyword::ALL),
        _ => false,
    }
}
