//! What SQL text must not be, checked before any parser recurses over it.
//!
//! DataFusion parses and plans recursively and in time quadratic in the length of an operator chain: 20,000 flat `OR`s overflow its
//! stack, 8,000 take half a minute. So the text is split into tokens, which is linear, and the tokens are counted.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};
use windlass_engine::Dialect;
use windlass_proto::Kind;

use crate::error::{Error, Result};

/// How large and how deep a statement may be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardLimits {
    /// Bytes of text.
    pub bytes_max: usize,
    /// Tokens, white space not counted.
    pub tokens_max: usize,
    /// Parentheses, brackets and CASEs inside each other.
    pub nesting_max: usize,
    /// Operators of one class (logical, comparison, other) in one expression; items of a list are expressions of their own.
    pub chain_max: usize,
    /// Joins and set operations of one query.
    pub branches_max: usize,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 20, tokens_max: 300_000, nesting_max: 100, chain_max: 1_000, branches_max: 200 }
    }
}

/// Splits a statement into tokens and checks them. Trailing semicolons are taken off.
///
/// Errors: `Exhausted` for text above the limits, `Invalid` for text that is no single statement.
pub fn tokens(sql: &str, dialect: Dialect, limits: &GuardLimits) -> Result<Vec<TokenWithSpan>> {
    if sql.len() > limits.bytes_max {
        return Err(too_much("bytes", sql.len(), limits.bytes_max));
    }
    let mut tokens = Tokenizer::new(dialect.grammar(), sql).tokenize_with_location().map_err(|error| {
        Error::invalid(format!("cannot read the statement: {}", error.message)).at(error.location.line, error.location.column)
    })?;
    let ends = |token: &TokenWithSpan| matches!(token.token, Token::Whitespace(_) | Token::SemiColon | Token::EOF);
    while tokens.pop_if(|token| ends(token)).is_some() {}
    let mut count = Count::default();
    for (index, token) in tokens.iter().enumerate() {
        count.add(&token.token, limits).map_err(|error| error.at(token.span.start.line, token.span.start.column))?;
        if count.tokens > limits.tokens_max {
            return Err(too_much("tokens", tokens.len() - index + count.tokens, limits.tokens_max));
        }
    }
    match count.tokens {
        0 => Err(Error::invalid("the statement is empty")),
        _ => Ok(tokens),
    }
}

fn too_much(what: &str, found: usize, limit: usize) -> Error {
    Error::new(Kind::Exhausted, format!("the statement has {found} {what}; at most {limit} are allowed"))
        .with_hint("put long lists of values into IN (...) or VALUES, or split the statement")
}

/// Operators seen so far at one depth.
#[derive(Debug, Default)]
struct Frame {
    is_case: bool,
    logical: usize,
    comparisons: usize,
    others: usize,
    accesses: usize,
    branches: usize,
    in_from: bool,
}

impl Frame {
    fn next_expression(&mut self) {
        (self.logical, self.comparisons, self.others, self.accesses) = (0, 0, 0, 0);
    }
}

#[derive(Debug, Default)]
struct Count {
    tokens: usize,
    frame: Frame,
    outer: Vec<Frame>,
    after_distinct: bool,
}

impl Count {
    fn add(&mut self, token: &Token, limits: &GuardLimits) -> Result<()> {
        if matches!(token, Token::Whitespace(_)) {
            return Ok(());
        }
        self.tokens += 1;
        let after_distinct = std::mem::take(&mut self.after_distinct);
        let frame = &mut self.frame;
        if !matches!(token, Token::Period | Token::DoubleColon | Token::LBracket | Token::RBracket | Token::Word(_)) {
            frame.accesses = 0;
        }
        match token {
            Token::LParen | Token::LBrace => self.open(false, limits)?,
            Token::LBracket => {
                frame.accesses += 1;
                self.open(false, limits)?;
            }
            Token::RParen | Token::RBracket | Token::RBrace => self.close(false),
            Token::SemiColon => {
                return Err(Error::invalid("there is more than one statement in the text").with_hint("send one statement at a time"));
            }
            // Comma joins nest like any join; other commas separate expressions.
            Token::Comma if frame.in_from => frame.branches += 1,
            Token::Comma => frame.next_expression(),
            Token::Word(Word { keyword, .. }) => match keyword {
                Keyword::CASE => self.open(true, limits)?,
                Keyword::END if frame.is_case => self.close(true),
                Keyword::AND | Keyword::OR | Keyword::XOR | Keyword::NOT => frame.logical += 1,
                Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::RLIKE
                | Keyword::REGEXP
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::IN => frame.comparisons += 1,
                Keyword::COLLATE | Keyword::DIV | Keyword::AT => frame.others += 1,
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::MINUS | Keyword::JOIN | Keyword::LATERAL => {
                    frame.branches += 1
                }
                Keyword::DISTINCT => self.after_distinct = true,
                // `a IS DISTINCT FROM b` opens no FROM clause.
                Keyword::FROM if !after_distinct => {
                    frame.in_from = true;
                    frame.next_expression();
                }
                Keyword::SELECT
                | Keyword::WHERE
                | Keyword::GROUP
                | Keyword::HAVING
                | Keyword::ORDER
                | Keyword::LIMIT
                | Keyword::QUALIFY => {
                    frame.in_from = false;
                    frame.next_expression();
                }
                Keyword::ON | Keyword::WHEN | Keyword::THEN | Keyword::ELSE => frame.next_expression(),
                _ => {}
            },
            Token::Period | Token::DoubleColon => frame.accesses += 1,
            Token::Eq | Token::DoubleEq | Token::Neq | Token::Lt | Token::Gt | Token::LtEq | Token::GtEq | Token::Spaceship => {
                frame.comparisons += 1
            }
            token if is_value(token) => {}
            _ => frame.others += 1,
        }
        let frame = &self.frame;
        let chain = frame.logical.max(frame.comparisons).max(frame.others).max(frame.accesses);
        if chain > limits.chain_max {
            return Err(Error::new(Kind::Exhausted, format!("an expression chains more than {} operators", limits.chain_max))
                .with_hint("write IN (...) instead of many ORs, or join with a VALUES list"));
        }
        if frame.branches > limits.branches_max {
            return Err(Error::new(Kind::Exhausted, format!("a query has more than {} joins and set operations", limits.branches_max))
                .with_hint("write VALUES instead of many UNIONs of constants, or split the query"));
        }
        Ok(())
    }

    fn open(&mut self, is_case: bool, limits: &GuardLimits) -> Result<()> {
        if self.outer.len() >= limits.nesting_max {
            return Err(Error::new(Kind::Exhausted, format!("the statement nests deeper than {} levels", limits.nesting_max))
                .with_hint("take parentheses off, or move inner queries into WITH"));
        }
        self.outer.push(std::mem::replace(&mut self.frame, Frame { is_case, ..Frame::default() }));
        Ok(())
    }

    /// Unbalanced text is the parser's to complain about.
    fn close(&mut self, is_case: bool) {
        if self.frame.is_case == is_case
            && let Some(outer) = self.outer.pop()
        {
            self.frame = outer;
        }
    }
}

fn is_value(token: &Token) -> bool {
    matches!(
        token,
        Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Placeholder(_)
            | Token::EOF
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str) -> Result<usize> {
        tokens(sql, Dialect::Generic, &GuardLimits::default()).map(|tokens| tokens.len())
    }

    #[test]
    fn hostile_text_is_refused() {
        let texts = [
            ("bytes", format!("SELECT '{}'", "x".repeat(10 << 20))),
            ("ORs", format!("SELECT 1 WHERE {}", vec!["a = 1"; 20_000].join(" OR "))),
            ("UNIONs", vec!["SELECT 1"; 20_000].join(" UNION ALL ")),
            ("sums", format!("SELECT {}", vec!["1"; 50_000].join("+"))),
            ("parentheses", format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000))),
            ("joins", format!("SELECT 1 FROM t {}", "JOIN t USING (a) ".repeat(10_000))),
            ("comma joins", format!("SELECT 1 FROM t {}", ", t".repeat(10_000))),
            ("casts", format!("SELECT 1{}", "::int".repeat(10_000))),
            ("accesses", format!("SELECT a{}", "[1]".repeat(10_000))),
            ("comparisons", format!("SELECT 1{}", "=1".repeat(10_000))),
            ("cases", format!("SELECT {}1{}", "CASE WHEN true THEN ".repeat(10_000), " END".repeat(10_000))),
            ("tokens", format!("SELECT {}", vec!["1"; 200_000].join(","))),
        ];
        for (what, sql) in texts {
            assert_eq!(check(&sql).expect_err(what).kind(), Kind::Exhausted, "{what}");
        }
    }

    #[test]
    fn long_but_flat_text_passes() {
        let list = vec!["12"; 100_000].join(",");
        check(&format!("SELECT * FROM t WHERE a IN ({list})")).expect("a list is no chain");
        let terms = vec!["t.a.b = 1 + 2"; 900].join(" OR ");
        check(&format!("SELECT {terms}, {terms} FROM t WHERE {terms} ORDER BY {terms}")).expect("each clause counts alone");
        let cases = "WHEN a = 1 THEN 2 ".repeat(5_000);
        check(&format!("SELECT CASE {cases} END, a IS DISTINCT FROM b, {list} FROM t")).expect("branches of a CASE count alone");
    }

    #[test]
    fn one_statement_and_not_less() {
        assert_eq!(check(" ; -- nothing\n").expect_err("empty").kind(), Kind::Invalid);
        assert_eq!(check("SELECT 1; SELECT 2").expect_err("two").kind(), Kind::Invalid);
        check("SELECT ';' ;; ").expect("trailing semicolons");
        let error = check("SELECT 'abc").expect_err("open string");
        assert_eq!((error.kind(), error.detail().line, error.detail().column), (Kind::Invalid, 1, 8));
    }
}
