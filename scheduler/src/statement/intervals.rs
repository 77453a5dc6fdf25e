//! `INTERVAL 5 days 3 hours` of Spark and Hive is `INTERVAL '5 days 3 hours'`.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::bare::{following, keyword};

const UNITS: [&str; 9] = ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "millisecond"];

/// Puts the parts of an interval of several units into one text.
pub(super) fn together(tokens: &mut Vec<TokenWithSpan>) {
    let mut index = 0;
    while index < tokens.len() {
        if keyword(&tokens[index].token) == Keyword::INTERVAL {
            let (mut parts, mut end) = (Vec::new(), index);
            while let Some((part, last)) = part(tokens, end + 1) {
                parts.push(part);
                end = last;
            }
            if parts.len() > 1 {
                let text = TokenWithSpan { token: Token::SingleQuotedString(parts.join(" ")), span: tokens[index].span };
                tokens.splice(index + 1..=end, [text]);
            }
        }
        index += 1;
    }
}

/// A number and its unit, and where they end.
fn part(tokens: &[TokenWithSpan], from: usize) -> Option<(String, usize)> {
    let mut place = following(tokens, from)?;
    let sign = match tokens[place].token {
        Token::Minus => {
            place = following(tokens, place + 1)?;
            "-"
        }
        _ => "",
    };
    let (Token::Number(number, _) | Token::SingleQuotedString(number)) = &tokens[place].token else { return None };
    let last = following(tokens, place + 1)?;
    let Token::Word(unit) = &tokens[last].token else { return None };
    let name = unit.value.to_lowercase();
    UNITS.contains(&name.trim_end_matches('s')).then(|| (format!("{sign}{number} {name}"), last))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;
    use windlass_engine::Dialect;

    use super::*;

    #[test]
    fn several_units_are_one_text() {
        for (sql, expected) in [
            ("a + INTERVAL 5 days 3 hours - b", "a + INTERVAL'5 days 3 hours' - b"),
            ("INTERVAL -1 YEAR '2' MONTHS", "INTERVAL'-1 year 2 months'"),
            ("INTERVAL 1 DAY, INTERVAL '1' HOUR", "INTERVAL 1 DAY, INTERVAL '1' HOUR"),
            ("INTERVAL '1' DAY * 2 days", "INTERVAL '1' DAY * 2 days"),
            ("interval", "interval"),
        ] {
            let mut tokens = Tokenizer::new(Dialect::Spark.grammar(), sql).tokenize_with_location().unwrap();
            together(&mut tokens);
            let spelled: String = tokens.iter().filter(|token| token.token != Token::EOF).map(|token| token.token.to_string()).collect();
            assert_eq!(spelled, expected, "{sql}");
        }
    }
}
