//! Types in casts as the parser reads them: `ARRAY(ROW(a INT))` of Presto is `ARRAY<STRUCT<a INT>>`, and `MAP<a, b>` of Spark is `MAP(a, b)`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Whitespace};

use super::bare::{following, keyword};

/// Respells the types behind `CAST(... AS` and `::`.
pub(super) fn respell(tokens: &mut Vec<TokenWithSpan>) {
    // Whether each parenthesis that is open is a cast's.
    let (mut casts, mut before, mut index) = (Vec::new(), Keyword::NoKeyword, 0);
    while index < tokens.len() {
        let token = &tokens[index].token;
        let is_cast = casts.last() == Some(&true);
        let word = keyword(token);
        match token {
            Token::Whitespace(_) => {
                index += 1;
                continue;
            }
            Token::LParen => casts.push(matches!(before, Keyword::CAST | Keyword::TRY_CAST)),
            Token::RParen => {
                casts.pop();
            }
            Token::DoubleColon => nested(tokens, index + 1),
            _ if is_cast && word == Keyword::AS => nested(tokens, index + 1),
            _ => {}
        }
        before = word;
        index += 1;
    }
}

/// Gives the type that begins here the brackets that the parser expects, if it is a nested one.
fn nested(tokens: &mut Vec<TokenWithSpan>, from: usize) {
    // How the brackets that are open close.
    let mut closes: Vec<Token> = Vec::new();
    let mut index = from;
    while let Some(place) = following(tokens, index) {
        let opened = following(tokens, place + 1).filter(|next| matches!(tokens[*next].token, Token::LParen | Token::Lt));
        let brackets = match keyword(&tokens[place].token) {
            Keyword::ARRAY | Keyword::STRUCT | Keyword::ROW => Some((Token::Lt, Token::Gt)),
            Keyword::MAP => Some((Token::LParen, Token::RParen)),
            _ => None,
        };
        index = place + 1;
        if let (Some((open, close)), Some(next)) = (brackets, opened) {
            if keyword(&tokens[place].token) == Keyword::ROW {
                tokens[place].token = Token::make_keyword("STRUCT");
            }
            tokens[next].token = open;
            closes.push(close);
            index = next + 1;
            continue;
        }
        if tokens[place].token == Token::ShiftRight {
            tokens[place].token = Token::Gt;
            let second = TokenWithSpan { token: Token::Gt, span: tokens[place].span };
            tokens.insert(place + 1, second);
            // Two such tokens side by side would be read as one operator again.
            tokens.insert(place + 1, TokenWithSpan { token: Token::Whitespace(Whitespace::Space), span: tokens[place].span });
        }
        match &tokens[place].token {
            Token::LParen if !closes.is_empty() => closes.push(Token::RParen),
            Token::RParen | Token::Gt => match closes.pop() {
                Some(close) => tokens[place].token = close,
                None => return,
            },
            _ => {}
        }
        if closes.is_empty() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use windlass_engine::Dialect;

    use super::*;

    #[test]
    fn brackets_of_types_are_the_parsers() {
        for (sql, expected) in [
            ("CAST(a AS ARRAY(BIGINT))", "CAST(a AS ARRAY<BIGINT>)"),
            ("CAST(a AS ARRAY(ARRAY(DECIMAL(5, 2)))) = b", "CAST(a AS ARRAY<ARRAY<DECIMAL(5, 2)>>) = b"),
            ("TRY_CAST(f(a) AS MAP(VARCHAR, ARRAY(INT)))", "TRY_CAST(f(a) AS MAP(VARCHAR, ARRAY<INT>))"),
            ("CAST(a AS MAP<STRING, MAP<STRING, INT>>)", "CAST(a AS MAP(STRING, MAP(STRING, INT) ))"),
            ("CAST(ROW(1, 2) AS ROW(x INT, y ROW(z INT)))", "CAST(ROW(1, 2) AS STRUCT<x INT, y STRUCT<z INT>>)"),
            ("a::ARRAY(INT) || b", "a::ARRAY<INT> || b"),
            ("CAST(array(1, 2) AS STRING), map(a, b) AS map(k, v)", "CAST(array(1, 2) AS STRING), map(a, b) AS map(k, v)"),
            ("CAST(a AS DECIMAL(5, 2)) > ROW(1)", "CAST(a AS DECIMAL(5, 2)) > ROW(1)"),
        ] {
            let mut tokens = Tokenizer::new(Dialect::Presto.grammar(), sql).tokenize_with_location().unwrap();
            respell(&mut tokens);
            let spelled: String = tokens.iter().filter(|token| token.token != Token::EOF).map(|token| token.token.to_string()).collect();
            assert_eq!(spelled, expected, "{sql}");
        }
    }
}
