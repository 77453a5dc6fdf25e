//! What the parser knows with more words or fewer: `VALUES 1, 2` is `VALUES (1), (2)`, `TABLE t` is `SELECT * FROM t`, `current_user()` is
//! `current_user`, and `1_000` is `1000`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace, Word};

/// Puts in the words that are left out, and leaves out what is too much.
pub(super) fn complete(tokens: &mut Vec<TokenWithSpan>) {
    let mut before = None;
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index].token;
        if matches!(token, Token::Whitespace(_)) {
            index += 1;
            continue;
        }
        if let (Token::Number(number, false), Some(digits)) = (token, tokens.get(index + 1).and_then(|next| grouped(&next.token))) {
            // Else the parser would take the digits for a column's name.
            tokens[index].token = Token::Number(format!("{number}{digits}"), false);
            tokens.remove(index + 1);
            continue;
        }
        let next = following(tokens, index + 1);
        if matches!(keyword(token), Keyword::CURRENT_CATALOG | Keyword::CURRENT_USER | Keyword::SESSION_USER)
            && before != Some(Token::Period)
            && let Some(open) = next.filter(|next| tokens[*next].token == Token::LParen)
            && let Some(close) = following(tokens, open + 1).filter(|close| tokens[*close].token == Token::RParen)
        {
            before = Some(Token::RParen);
            tokens.drain(open..=close);
            index += 1;
            continue;
        }
        if keyword(token) == Keyword::VALUES && before != Some(Token::Period) && next.is_some_and(|next| is_value(&tokens[next].token)) {
            let is_compared = before == Some(Token::LParen) && follows_quantifier(&tokens[..index]);
            before = Some(token.clone());
            let after = enclose(tokens, next.unwrap_or(index));
            index = if is_compared { selected(tokens, index, after) } else { after };
        } else if keyword(token) == Keyword::TABLE
            && before.as_ref().is_none_or(begins_query)
            && next.is_some_and(|next| matches!(tokens[next].token, Token::Word(_)))
        {
            let at = |token| TokenWithSpan { token, span: tokens[index].span };
            let space = || at(Token::Whitespace(Whitespace::Space));
            let words = [at(Token::make_keyword("SELECT")), space(), at(Token::Mul), space(), at(Token::make_keyword("FROM"))];
            let length = words.len();
            before = Some(Token::make_keyword("FROM"));
            tokens.splice(index..=index, words);
            index += length;
        } else {
            before = Some(token.clone());
            index += 1;
        }
    }
}

/// Digits with underscores between them that follow a number.
fn grouped(token: &Token) -> Option<String> {
    let Token::Word(Word { value, quote_style: None, .. }) = token else { return None };
    let is_grouped = value.starts_with('_') && value.ends_with(|last: char| last.is_ascii_digit());
    (is_grouped && value.bytes().all(|byte| byte == b'_' || byte.is_ascii_digit())).then(|| value.replace('_', ""))
}

/// Whether the last parenthesis is that of `> ALL (`: there the parser takes `VALUES` for a function.
fn follows_quantifier(tokens: &[TokenWithSpan]) -> bool {
    let word = tokens.iter().rev().filter(|token| !matches!(token.token, Token::Whitespace(_))).nth(1);
    word.is_some_and(|word| matches!(keyword(&word.token), Keyword::ALL | Keyword::ANY | Keyword::SOME))
}

/// Puts `SELECT * FROM (` and `)` around tokens; what follows them.
fn selected(tokens: &mut Vec<TokenWithSpan>, from: usize, to: usize) -> usize {
    let at = |token, index: usize| TokenWithSpan { token, span: tokens[index].span };
    let close = at(Token::RParen, to.saturating_sub(1));
    let space = || at(Token::Whitespace(Whitespace::Space), from);
    let select = [Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM")].map(|token| at(token, from));
    let open: Vec<_> = select.into_iter().flat_map(|token| [token, space()]).chain([at(Token::LParen, from)]).collect();
    let length = open.len();
    tokens.insert(to, close);
    tokens.splice(from..from, open);
    to + length + 1
}

/// The place of the next token that says something.
pub(super) fn following(tokens: &[TokenWithSpan], from: usize) -> Option<usize> {
    (from..tokens.len()).find(|index| !matches!(tokens[*index].token, Token::Whitespace(_)))
}

pub(super) fn keyword(token: &Token) -> Keyword {
    match token {
        Token::Word(Word { keyword, quote_style: None, .. }) => *keyword,
        _ => Keyword::NoKeyword,
    }
}

/// Whether a value begins so, and nothing else that may follow a column called `values`.
fn is_value(token: &Token) -> bool {
    match token {
        Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => true,
        word => matches!(
            keyword(word),
            Keyword::ARRAY
                | Keyword::CAST
                | Keyword::DATE
                | Keyword::FALSE
                | Keyword::INTERVAL
                | Keyword::MAP
                | Keyword::NULL
                | Keyword::TIMESTAMP
                | Keyword::TRUE
        ),
    }
}

/// Whether a query may begin behind this.
fn begins_query(token: &Token) -> bool {
    matches!(token, Token::LParen | Token::RParen)
        || matches!(
            keyword(token),
            Keyword::ALL
                | Keyword::ANALYZE
                | Keyword::DISTINCT
                | Keyword::EXCEPT
                | Keyword::EXPLAIN
                | Keyword::INTERSECT
                | Keyword::MINUS
                | Keyword::UNION
                | Keyword::VERBOSE
        )
}

/// Whether the last of these tokens may end a value.
fn ends_value(tokens: &[TokenWithSpan]) -> bool {
    let last = tokens.iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_)));
    last.is_some_and(|last| {
        matches!(
            last.token,
            Token::Number(..) | Token::SingleQuotedString(_) | Token::DoubleQuotedString(_) | Token::RParen | Token::RBracket
        ) || matches!(keyword(&last.token), Keyword::NULL | Keyword::TRUE | Keyword::FALSE)
    })
}

/// Puts each of the values from `first` on into parentheses; what follows them.
fn enclose(tokens: &mut Vec<TokenWithSpan>, first: usize) -> usize {
    let (mut depth, mut end, mut commas) = (0_usize, tokens.len(), Vec::new());
    for (index, token) in tokens.iter().enumerate().skip(first) {
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace if depth > 0 => depth -= 1,
            Token::Comma if depth == 0 => commas.push(index),
            Token::RParen | Token::SemiColon | Token::EOF => {
                end = index;
                break;
            }
            // A name behind a value is the table's.
            Token::Word(Word { keyword: Keyword::NoKeyword, .. }) if depth == 0 && index > first && ends_value(&tokens[..index]) => {
                end = index;
                break;
            }
            word if depth == 0
                && matches!(
                    keyword(word),
                    Keyword::AS
                        | Keyword::EXCEPT
                        | Keyword::FETCH
                        | Keyword::INTERSECT
                        | Keyword::LIMIT
                        | Keyword::MINUS
                        | Keyword::OFFSET
                        | Keyword::ORDER
                        | Keyword::UNION
                ) =>
            {
                end = index;
                break;
            }
            _ => {}
        }
    }
    let at = |token, index: usize| TokenWithSpan { token, span: tokens[index].span };
    let mut enclosed = vec![at(Token::LParen, first)];
    for (index, token) in tokens.iter().enumerate().take(end).skip(first) {
        if commas.contains(&index) {
            enclosed.extend([at(Token::RParen, index), token.clone(), at(Token::LParen, index)]);
        } else {
            enclosed.push(token.clone());
        }
    }
    enclosed.push(at(Token::RParen, end.saturating_sub(1)));
    let after = first + enclosed.len();
    tokens.splice(first..end, enclosed);
    after
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use windlass_engine::Dialect;

    use super::*;

    #[test]
    fn words_that_are_left_out_are_put_in_and_no_others() {
        for (sql, expected) in [
            ("VALUES 1, (2), f(3, 4)", "VALUES (1),( (2)),( f(3, 4))"),
            ("SELECT * FROM (VALUES 'a', 'b') AS t", "SELECT * FROM (VALUES ('a'),( 'b')) AS t"),
            ("VALUES DATE '2024-01-01', NULL ORDER BY 1;", "VALUES (DATE '2024-01-01'),( NULL )ORDER BY 1;"),
            ("VALUES (1, 2), (3, 4)", "VALUES (1, 2), (3, 4)"),
            ("SELECT 2 > ALL (VALUES 1, 3) AND b", "SELECT 2 > ALL (SELECT * FROM (VALUES (1),( 3))) AND b"),
            ("SELECT * FROM VALUES 'a', 'b' AS t(x)", "SELECT * FROM VALUES ('a'),( 'b' )AS t(x)"),
            ("SELECT * FROM VALUES 1, 2 t(x)", "SELECT * FROM VALUES (1),( 2 )t(x)"),
            ("SELECT values, t.values, values[1], values + 1 FROM t", "SELECT values, t.values, values[1], values + 1 FROM t"),
            ("TABLE t ORDER BY a", "SELECT * FROM t ORDER BY a"),
            ("(TABLE a) UNION ALL TABLE b.c", "(SELECT * FROM a) UNION ALL SELECT * FROM b.c"),
            ("SELECT * FROM TABLE(f(1))", "SELECT * FROM TABLE(f(1))"),
            ("SELECT current_user ( ), current_user, f()", "SELECT current_user , current_user, f()"),
            ("SELECT 1_000_000 + 2_0, 1 _000, a_1, 1_a", "SELECT 1000000 + 20, 1 _000, a_1, 1_a"),
            ("INSERT INTO TABLE t SELECT 1", "INSERT INTO TABLE t SELECT 1"),
        ] {
            let mut tokens = Tokenizer::new(Dialect::Generic.grammar(), sql).tokenize_with_location().unwrap();
            complete(&mut tokens);
            let spelled: String = tokens.iter().filter(|token| token.token != Token::EOF).map(|token| token.token.to_string()).collect();
            assert_eq!(spelled, expected, "{sql}");
        }
    }
}
