//! Colours of statements while they are typed.

use reedline::{Color, Highlighter, StyledText};

use crate::complete::is_keyword;
use crate::script::{Quotes, token};

/// Colours keywords, texts, numbers and comments.
pub struct SqlHighlighter(pub Quotes);

impl Highlighter for SqlHighlighter {
    fn highlight(&self, line: &str, _cursor: usize) -> StyledText {
        let mut styled = StyledText::new();
        for (kind, piece) in pieces(line, self.0) {
            let style = match kind {
                Kind::Keyword => Color::Blue.bold(),
                Kind::Text => Color::Green.normal(),
                Kind::Number => Color::Magenta.normal(),
                Kind::Comment => Color::DarkGray.normal(),
                Kind::Other => Color::Default.normal(),
            };
            styled.push((style, piece.to_owned()));
        }
        styled
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keyword,
    Text,
    Number,
    Comment,
    Other,
}

/// All of a line in pieces of one kind.
fn pieces(line: &str, quotes: Quotes) -> Vec<(Kind, &str)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(first) = line[at..].chars().next() {
        let (mut end, is_blank) = token(line, at, first, quotes);
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let kind = match first {
            '\'' => Kind::Text,
            '$' if end > at + 1 => Kind::Text,
            '-' | '/' if is_blank => Kind::Comment,
            first if is_word(first) => {
                end = line[at..].find(|c| !is_word(c)).map_or(line.len(), |length| at + length);
                match is_keyword(&line[at..end]) {
                    true => Kind::Keyword,
                    false if first.is_ascii_digit() => Kind::Number,
                    false => Kind::Other,
                }
            }
            _ => Kind::Other,
        };
        pieces.push((kind, &line[at..end]));
        at = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_has_its_kind_and_none_is_lost() {
        let line = "Select a1, 'é;''x' from \"from\" -- 2";
        let found = pieces(line, Quotes::default());
        assert_eq!(found.iter().map(|(_, piece)| *piece).collect::<String>(), line);
        let of = |kind| found.iter().filter(|(found, _)| *found == kind).map(|(_, piece)| *piece).collect::<Vec<_>>();
        assert_eq!((of(Kind::Keyword), of(Kind::Text), of(Kind::Comment)), (vec!["Select", "from"], vec!["'é;'", "'x'"], vec!["-- 2"]));
        assert_eq!(pieces("limit 10", Quotes::default())[2], (Kind::Number, "10"));
    }
}
