//! In whose SQL a session speaks: how its text is cut into tokens and parsed, and which of several meanings of a name it has.

use std::any::TypeId;
use std::fmt;
use std::str::FromStr;

use datafusion::error::{DataFusionError, Result};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Ident, UnaryOperator};
use datafusion::sql::sqlparser::dialect::{Dialect as Grammar, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// A dialect of SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Dialect {
    /// DataFusion's: `"` and `` ` `` quote names.
    #[default]
    Generic,
    /// Spark SQL's: `"` quotes text, `` ` `` names; `\` escapes.
    Spark,
    /// Hive's: quotes as in Spark.
    Hive,
    /// That of Presto, Trino and Athena: `"` quotes names.
    Presto,
    /// The standard's: `"` quotes names, and nothing else does.
    Ansi,
}

impl Dialect {
    const ALL: [(Self, &str); 5] =
        [(Self::Generic, "generic"), (Self::Spark, "spark"), (Self::Hive, "hive"), (Self::Presto, "presto"), (Self::Ansi, "ansi")];

    /// What a tokenizer and a parser need to know.
    pub fn grammar(self) -> &'static dyn Grammar {
        match self {
            Self::Generic => &GenericDialect {},
            Self::Spark => &Like(Self::Spark),
            Self::Hive => &Like(Self::Hive),
            Self::Presto => &Like(Self::Presto),
            Self::Ansi => &Like(Self::Ansi),
        }
    }

    /// A name in quotes.
    pub fn quoted(self, name: &str) -> String {
        let quote = if matches!(self, Self::Presto | Self::Ansi) { '"' } else { '`' };
        format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
    }

    /// Text in quotes.
    pub fn literal(self, text: &str) -> String {
        let text = text.replace('\'', "''");
        format!("'{}'", if self.is_hive_like() { text.replace('\\', r"\\") } else { text })
    }

    /// Whether it descends from Hive: Hive's own and Spark's.
    pub fn is_hive_like(self) -> bool {
        matches!(self, Self::Hive | Self::Spark)
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(dialect, _)| dialect == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Dialect {
    type Err = DataFusionError;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(dialect, _)| *dialect);
        found.ok_or_else(|| {
            DataFusionError::Configuration(format!("'windlass.dialect' is generic, spark, hive, presto or ansi, not '{text}'"))
        })
    }
}

/// sqlparser's generic grammar with another dialect's quotes, escapes and operators. Its own grammars of Hive and Spark lack clauses that
/// both have, such as `UNNEST`, `VALUES` in `FROM` or `EXTRACT`; of Presto it has none.
#[derive(Debug)]
struct Like(Dialect);

/// Methods that answer as the generic grammar does.
macro_rules! as_generic {
    ($($method:ident),* $(,)?) => {
        $(fn $method(&self) -> bool {
            GenericDialect {}.$method()
        })*
    };
}

impl Grammar for Like {
    /// For the parts of the parser that ask who speaks.
    fn dialect(&self) -> TypeId {
        TypeId::of::<GenericDialect>()
    }

    fn is_delimited_identifier_start(&self, quote: char) -> bool {
        quote == if self.0.is_hive_like() { '`' } else { '"' }
    }

    fn is_identifier_start(&self, letter: char) -> bool {
        letter.is_alphabetic() || letter == '_'
    }

    fn is_identifier_part(&self, letter: char) -> bool {
        letter.is_alphabetic() || letter.is_ascii_digit() || matches!(letter, '_' | '$')
    }

    fn supports_string_literal_backslash_escape(&self) -> bool {
        self.0.is_hive_like()
    }

    /// `'\%'` keeps its backslash for `LIKE`.
    fn ignores_wildcard_escapes(&self) -> bool {
        self.0.is_hive_like()
    }

    fn supports_bang_not_operator(&self) -> bool {
        self.0.is_hive_like()
    }

    fn supports_table_sample_before_alias(&self) -> bool {
        self.0.is_hive_like()
    }

    fn supports_lambda_functions(&self) -> bool {
        matches!(self.0, Dialect::Spark | Dialect::Presto)
    }

    fn supports_long_type_as_bigint(&self) -> bool {
        self.0 == Dialect::Spark
    }

    as_generic! {
        supports_bitwise_shift_operators,
        supports_unicode_string_literal,
        supports_group_by_expr,
        supports_group_by_with_modifier,
        supports_left_associative_joins_without_parens,
        supports_window_function_null_treatment_arg,
        supports_window_clause_named_window_reference,
        supports_partition_by_after_order_by,
        supports_filter_during_aggregation,
        supports_select_wildcard_except,
        supports_select_wildcard_exclude,
        supports_select_wildcard_replace,
        supports_select_item_multi_column_alias,
        supports_cte_without_as,
        supports_from_first_select,
        supports_parens_around_table_factor,
        supports_values_as_table_factor,
        supports_limit_comma,
        supports_nested_comments,
        supports_struct_literal,
        supports_empty_projections,
        supports_array_typedef_with_brackets,
        supports_comma_separated_trim,
        supports_extract_comma_syntax,
        allow_extract_custom,
        allow_extract_single_quotes,
    }

    /// `exists(list, x -> ...)` is a function. The parser knows the predicate of subqueries only.
    fn parse_prefix(&self, parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        let keyword = |nth: usize| match &parser.peek_nth_token_ref(nth).token {
            Token::Word(word) if word.quote_style.is_none() => word.keyword,
            _ => Keyword::NoKeyword,
        };
        // The parser takes the two words for one.
        let not = usize::from(keyword(0) == Keyword::NOT);
        let is_function = self.supports_lambda_functions()
            && keyword(not) == Keyword::EXISTS
            && parser.peek_nth_token_ref(not + 1).token == Token::LParen
            && parser.peek_nth_token_ref(not + 2).token != Token::LParen
            && !matches!(keyword(not + 2), Keyword::SELECT | Keyword::WITH | Keyword::VALUES | Keyword::FROM | Keyword::TABLE);
        is_function.then(|| {
            (0..=not).for_each(|_| parser.advance_token());
            let function = parser.parse_function(Ident::new("any_match").into())?;
            Ok(if not == 0 { function } else { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(function) } })
        })
    }

    fn parse_infix(&self, parser: &mut Parser<'_>, left: &Expr, precedence: u8) -> Option<Result<Expr, ParserError>> {
        if !self.0.is_hive_like() || !parser.parse_keyword(Keyword::DIV) {
            return None;
        }
        let right = parser.parse_subexpr(precedence);
        Some(right.map(|right| Expr::BinaryOp {
            left: Box::new(left.clone()),
            op: BinaryOperator::MyIntegerDivide,
            right: Box::new(right),
        }))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;

    #[test]
    fn quotes_and_escapes_are_the_dialects() {
        let tokens = |dialect: Dialect, sql: &str| Tokenizer::new(dialect.grammar(), sql).tokenize();
        let text = |text: &str| Token::SingleQuotedString(text.to_owned());
        for dialect in [Dialect::Spark, Dialect::Hive] {
            assert_eq!(tokens(dialect, r#""it's""#).unwrap(), [Token::DoubleQuotedString("it's".to_owned())]);
            assert_eq!(tokens(dialect, r"'it\'s \\d \%'").unwrap(), [text(r"it's \d \%")]);
            assert!(matches!(&tokens(dialect, "`a b`").unwrap()[..], [Token::Word(word)] if word.value == "a b"));
        }
        for dialect in [Dialect::Presto, Dialect::Ansi, Dialect::Generic] {
            assert!(matches!(&tokens(dialect, r#""a b""#).unwrap()[..], [Token::Word(word)] if word.value == "a b"));
            assert_eq!(tokens(dialect, r"'\'").unwrap(), [text(r"\")]);
        }
        assert!(tokens(Dialect::Ansi, "`a`").map_or(true, |tokens| !matches!(tokens[..], [Token::Word(_)])));
    }

    #[test]
    fn div_binds_as_other_divisions_do() {
        let parse = |sql: &str| Parser::new(Dialect::Hive.grammar()).try_with_sql(sql).unwrap().parse_expr().unwrap();
        let Expr::BinaryOp { op: BinaryOperator::Plus, right, .. } = parse("1 + 7 DIV 2") else { panic!("not a sum") };
        assert!(matches!(*right, Expr::BinaryOp { op: BinaryOperator::MyIntegerDivide, .. }));
        let Expr::BinaryOp { op: BinaryOperator::Plus, left, .. } = parse("7 DIV 2 + 1") else { panic!("not a sum") };
        assert!(matches!(*left, Expr::BinaryOp { op: BinaryOperator::MyIntegerDivide, .. }));
    }

    #[test]
    fn names_round_trip() {
        for (dialect, name) in Dialect::ALL {
            assert_eq!((name.parse::<Dialect>().unwrap(), dialect.to_string()), (dialect, name.to_owned()));
        }
        assert!("mysql".parse::<Dialect>().is_err());
        assert_eq!((Dialect::Hive.quoted("a`b"), Dialect::Presto.quoted("a\"b")), ("`a``b`".to_owned(), "\"a\"\"b\"".to_owned()));
    }
}
