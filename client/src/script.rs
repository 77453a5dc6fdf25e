//! Cuts a script into statements, as a lexer sees it and not as a search for `;` would.

/// One statement of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// Its text with the comments in front of it, which may hold settings, without the final `;`.
    pub sql: &'a str,
    /// The line of the script on which the text starts, from 1.
    pub line: usize,
}

/// How a session reads quotes, which its dialect decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotes {
    /// Whether a backslash hides the quote after it, as in Spark and Hive.
    backslashes: bool,
}

impl Quotes {
    /// What they are after a statement: it may have set or reset the dialect.
    pub fn after(self, sql: &str) -> Self {
        let words = &sql[first_word(sql)..];
        let starts = |word: &str| words.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        match Self::set_in(words) {
            Some(set) if starts("set") => set,
            _ if starts("reset") && words.to_ascii_lowercase().contains(DIALECT) => Self::default(),
            _ => self,
        }
    }

    /// Those of the dialect that `windlass.dialect = ...` names in a text, if it does.
    fn set_in(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (_, rest) = text.split_once(DIALECT)?;
        let rest = rest.trim_start();
        let rest = rest.strip_prefix('=').or_else(|| rest.strip_prefix("to "))?;
        let name = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '\'' | '"'));
        Some(Self { backslashes: name.starts_with("spark") || name.starts_with("hive") })
    }
}

/// The option that chooses a dialect.
const DIALECT: &str = "windlass.dialect";

/// A script in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split<'a> {
    /// In order.
    pub statements: Vec<Statement<'a>>,
    /// Whether the text behind the last `;` is blank (spaces and comments only).
    pub is_complete: bool,
    /// How quotes are read after the script.
    pub quotes: Quotes,
}

/// Splits a script for a session that reads `quotes` so before it. Statements of the script may change that for those after them, and
/// settings in a comment for the statement behind it.
///
/// Quotes `'…'`, `"…"`, `` `…` `` (doubled inside), `e'…'` (with backslashes), `$tag$…$tag$`, `-- …` and nested `/* … */` hide a `;`.
pub fn split(script: &str, mut quotes: Quotes) -> Split<'_> {
    let mut statements = Vec::new();
    let mut current = quotes;
    // Where the statement starts, once it has a word, and where the comments in front of it do.
    let (mut start, mut comments) = (None, None);
    let mut at = 0;
    let mut push = |from: Option<usize>, to: usize| {
        if let Some(from) = from {
            let line = 1 + script[..from].matches('\n').count();
            statements.push(Statement { sql: script[from..to].trim_end(), line });
        }
    };
    while let Some(c) = script[at..].chars().next() {
        let (end, is_blank) = token(script, at, c, current);
        match (c, is_blank) {
            (';', _) => {
                if let Some(start) = start {
                    quotes = quotes.after(&script[start..at]);
                }
                current = quotes;
                push(start.take(), at);
                comments = None;
            }
            (_, true) if c.is_whitespace() => {}
            (_, true) => {
                if start.is_none() && c == '/' {
                    current = Quotes::set_in(&script[at..end]).unwrap_or(current);
                }
                comments = comments.or(Some(at));
            }
            (_, false) => start = start.or(comments).or(Some(at)),
        }
        at = end;
    }
    if let Some(start) = start {
        quotes = quotes.after(&script[start..]);
    }
    push(start, script.len());
    Split { statements, is_complete: start.is_none(), quotes }
}

/// Where the text behind spaces and comments starts.
fn first_word(sql: &str) -> usize {
    let mut at = 0;
    while let Some(c) = sql[at..].chars().next() {
        match token(sql, at, c, Quotes::default()) {
            (end, true) => at = end,
            (_, false) => break,
        }
    }
    at
}

/// Whether a statement returns rows, by its first word; the others change something and return a count or a message at most.
pub fn returns_rows(sql: &str) -> bool {
    const WORDS: [&str; 12] =
        ["select", "with", "values", "show", "describe", "desc", "explain", "analyze", "msck", "table", "from", "call"];
    begins_with(sql, &WORDS)
}

/// Whether a statement returns a plan.
pub fn returns_plan(sql: &str) -> bool {
    begins_with(sql, &["explain"])
}

/// Whether a statement's first word is one of these.
fn begins_with(sql: &str, words: &[&str]) -> bool {
    let mut sql = &sql[first_word(sql)..];
    while let Some(inside) = sql.strip_prefix('(') {
        sql = &inside[first_word(inside)..];
    }
    let end = sql.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(sql.len());
    words.iter().any(|word| word.eq_ignore_ascii_case(&sql[..end]))
}

/// End of the token that starts at `at` with `c`, and whether it is blank. An open quote or comment reaches to the end.
pub(crate) fn token(script: &str, at: usize, c: char, quotes: Quotes) -> (usize, bool) {
    let rest = &script[at..];
    let end_after = |found: Option<usize>, length: usize| found.map_or(script.len(), |index| at + index + length);
    match c {
        '\'' => (quoted(script, at, '\'', quotes.backslashes || is_escape_string(&script[..at])), false),
        '"' => (quoted(script, at, c, quotes.backslashes), false),
        '`' => (quoted(script, at, c, false), false),
        '-' if rest.starts_with("--") => (end_after(rest.find('\n'), 1), true),
        '/' if rest.starts_with("/*") => (block_comment(script, at), true),
        '$' => match dollar_tag(rest) {
            Some(tag) => (end_after(rest[tag.len()..].find(tag).map(|index| index + tag.len()), tag.len()), false),
            None => (at + 1, false),
        },
        _ => (at + c.len_utf8(), c.is_whitespace()),
    }
}

/// A doubled quote needs no care: it ends one quoted piece and starts the next.
fn quoted(script: &str, open: usize, quote: char, backslash: bool) -> usize {
    let mut escaped = false;
    for (index, c) in script[open + 1..].char_indices() {
        match c {
            '\\' if backslash && !escaped => escaped = true,
            c if c == quote && !escaped => return open + 1 + index + c.len_utf8(),
            _ => escaped = false,
        }
    }
    script.len()
}

/// Whether the text before a quote ends in a lone `e`, which makes it a string with backslash escapes.
fn is_escape_string(before: &str) -> bool {
    let mut back = before.chars().rev();
    matches!(back.next(), Some('e' | 'E')) && !back.next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

fn block_comment(script: &str, open: usize) -> usize {
    let bytes = script.as_bytes();
    let (mut depth, mut at) = (0, open);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    script.len()
}

/// The opening `$tag$` at the start of `rest`; `$1` is a parameter and none.
fn dollar_tag(rest: &str) -> Option<&str> {
    let end = rest[1..].find('$')? + 1;
    let name = &rest[1..end];
    let is_tag = !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_tag.then(|| &rest[..=end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(script: &str) -> Vec<&str> {
        split(script, Quotes::default()).statements.into_iter().map(|statement| statement.sql).collect()
    }

    #[test]
    fn semicolons_inside_quotes_and_comments_do_not_split() {
        for one in [
            "select ';', 'it''s;', \";\", `;`",
            "select e'it\\'s;'",
            "select 'back\\'",
            "select $$a;b$$, $t$;$$;$t$",
            "select 1 -- ; not here\n + 1",
            "select 1 /* ; /* ; */ ; */ + 1",
        ] {
            assert_eq!(texts(&format!("{one};select 2")), [one, "select 2"], "{one}");
        }
        assert_eq!(texts("select $1; select $2"), ["select $1", "select $2"]);
        assert_eq!(texts("select date'2020-01-01\\';select 2"), ["select date'2020-01-01\\'", "select 2"]);
    }

    #[test]
    fn the_dialect_of_a_session_decides_what_a_backslash_hides() {
        let spark = r#"select 'it\'s;', "a\";", `\`"#;
        for set in ["SET windlass.dialect = 'spark'", "-- x\nset windlass.dialect=hive", "SET WINDLASS.DIALECT TO \"Spark\""] {
            let script = format!("{set};{spark};select 2;reset windlass.dialect;select '\\';select 3");
            let [first, ..] = texts(&script)[..] else { panic!("{script}") };
            assert_eq!(texts(&script), [first, spark, "select 2", "reset windlass.dialect", "select '\\'", "select 3"], "{set}");
            assert_eq!(Quotes::default().after(set), Quotes { backslashes: true });
        }
        let script = format!("/* windlass.dialect = spark */ {spark};select '\\';select 3");
        assert_eq!(texts(&script)[1..], ["select '\\'", "select 3"]);
        assert_eq!(split(&script, Quotes::default()).quotes, Quotes::default());
        for other in ["set windlass.dialect = presto", "select 'set windlass.dialect = spark'", "set windlass.engine = spark"] {
            assert_eq!(Quotes::default().after(other), Quotes::default(), "{other}");
        }
    }

    #[test]
    fn blank_statements_vanish_and_lines_are_counted() {
        let script = "\n-- é header\n\nselect 1;\n;; /* no */ ;\n  select\n 2 ; -- done\n";
        let expected = [Statement { sql: "-- é header\n\nselect 1", line: 2 }, Statement { sql: "select\n 2", line: 6 }];
        assert_eq!(split(script, Quotes::default()), Split { statements: expected.to_vec(), is_complete: true, quotes: Quotes::default() });
    }

    #[test]
    fn the_first_word_says_whether_rows_come_back() {
        for rows in ["select 1", "/* windlass.engine = local */\n(( SELECT 1", "-- x\nwith a as (select 1) select 2", "from t", "CALL p()"]
        {
            assert!(returns_rows(rows), "{rows}");
        }
        for none in ["", "-- select", "create table t", "selected"] {
            assert!(!returns_rows(none), "{none}");
        }
    }

    #[test]
    fn an_open_quote_keeps_the_shell_waiting() {
        for open in ["select 'a;", "select \"a;", "select 1 /* ;", "select $$;", "select 1"] {
            assert!(!split(open, Quotes::default()).is_complete, "{open}");
        }
        assert!(split("select 1;", Quotes::default()).is_complete);
        assert!(split("  -- nothing", Quotes::default()).is_complete);
        let spark = Quotes { backslashes: true };
        assert!(!split("select 'it\\';", spark).is_complete);
        assert!(split("select 'it\\';", Quotes::default()).is_complete);
    }
}
