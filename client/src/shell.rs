//! The interactive shell: lines in, statements and meta commands out.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::PathBuf;

use reedline::{
    ColumnarMenu, DefaultHinter, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder, Prompt, PromptEditMode, PromptHistorySearch,
    Reedline, ReedlineEvent, ReedlineMenu, Signal, ValidationResult, Validator, default_emacs_keybindings,
};

use crate::complete::{Names, SqlCompleter};
use crate::console::Console;
use crate::error::{Error, Result};
use crate::highlight::SqlHighlighter;
use crate::script::{Quotes, split};
use crate::sql::batch;
use crate::up;

const HISTORY_LINES_MAX: usize = 10_000;
const COMPLETION_MENU: &str = "completion";

/// Meta commands of other shells, and ours.
const DOTTED: &[(&str, &str)] = &[
    ("databases", "l"),
    ("exit", "q"),
    ("help", "?"),
    ("mode", "format"),
    ("output", "o"),
    ("quit", "q"),
    ("read", "i"),
    ("schema", "s"),
    ("tables", "d"),
    ("timer", "timing"),
];

const HELP: &str = "\
Statements end with ';' and may span lines. Ctrl-C cancels a running query, Ctrl-D leaves.
  \\d             tables of the current database        \\l             databases
  \\d TABLE       columns of a table                    \\s TABLE       the statement that makes a table
  \\format NAME   table, csv, tsv, json, vertical, markdown, arrow or parquet; without NAME as at the start
  \\x             one line per column, on and off       \\timing        closing line, on and off
  \\o FILE        rows to FILE; without FILE back here  \\i FILE        run the statements of FILE
  \\?             this help                             \\q             leave
.tables, .mode, .read, .timer and their like of other shells work, too.";

/// Reads and runs until the person leaves. Errors of statements are shown and do not end the shell.
pub async fn run(console: &mut Console) -> Result<()> {
    let names = Names::default();
    names.refresh(&console.connection);
    let mut editor = editor(names.clone())?;
    console.settings.timing = true;
    println!("windlass {} at {}; \\? for help", windlass_proto::VERSION, console.connection.uri());
    loop {
        editor = editor.with_validator(Box::new(WholeStatements(console.quotes())));
        if console.settings.color {
            editor = editor.with_highlighter(Box::new(SqlHighlighter(console.quotes())));
        }
        let line = tokio::task::block_in_place(|| editor.read_line(&SqlPrompt));
        let text = match line.map_err(Error::io("read from the terminal"))? {
            Signal::Success(text) => text,
            Signal::CtrlD => return Ok(()),
            _ => continue,
        };
        let quotes = console.quotes();
        console.forget_interrupts();
        let result = match command(&text) {
            Some(command) if command == "q" => return Ok(()),
            Some(command) => Box::pin(meta(console, &command)).await,
            None => Box::pin(batch(console, std::slice::from_ref(&text))).await,
        };
        match result {
            Err(error) => {
                let _ = writeln!(io::stderr(), "{}", error.report());
                if matches!(error, Error::Connection { .. }) {
                    let _ = writeln!(io::stderr(), "the next statement connects again; what USE and SET did may be lost");
                }
            }
            // A statement may have changed what there is to complete.
            Ok(()) => names.refresh_after(&text, quotes, &console.connection),
        }
    }
}

/// The meta command that a text is, without its backslash; those of DuckDB and SQLite begin with a dot.
fn command(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches(';').trim_end();
    if let Some(command) = text.strip_prefix('\\') {
        return Some(if command == "quit" { "q".to_owned() } else { command.to_owned() });
    }
    if ["exit", "quit"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some("q".to_owned());
    }
    let text = text.strip_prefix('.')?;
    let (word, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (_, own) = DOTTED.iter().find(|(dotted, _)| *dotted == word).unwrap_or(&("", "?"));
    Some(format!("{own} {argument}").trim_end().to_owned())
}

/// One meta command, without its backslash.
async fn meta(console: &mut Console, command: &str) -> Result<()> {
    let (word, argument) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
    let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
    match (word, argument) {
        ("d" | "dt", None) => console.execute("SHOW TABLES").await.map(drop),
        ("d", Some(table)) => console.execute(&format!("DESCRIBE {table}")).await.map(drop),
        ("s", Some(table)) => console.execute(&format!("SHOW CREATE TABLE {table}")).await.map(drop),
        ("l" | "dn", None) => console.execute("SHOW DATABASES").await.map(drop),
        ("x", _) => toggle("vertical rows", &mut console.settings.expanded, argument),
        ("timing", _) => toggle("closing line", &mut console.settings.timing, argument),
        ("format", Some(name)) => {
            let format =
                clap::ValueEnum::from_str(name, true).map_err(|_| Error::Usage(format!("no such format: '{name}'; \\? lists them")))?;
            console.settings.format = Some(format);
            Ok(())
        }
        ("format", None) => {
            console.settings.format = None;
            Ok(())
        }
        ("o", _) => console.settings.write_to(argument),
        ("i", Some(path)) => {
            let script = std::fs::read_to_string(path).map_err(Error::io(format!("read '{path}'")))?;
            batch(console, &[script]).await
        }
        ("?" | "h" | "help", _) => {
            println!("{HELP}");
            Ok(())
        }
        _ => Err(Error::Usage(format!("no such command: '\\{command}'; \\? lists them"))),
    }
}

fn toggle(what: &str, flag: &mut bool, argument: Option<&str>) -> Result<()> {
    *flag = match argument {
        None => !*flag,
        Some("on") => true,
        Some("off") => false,
        Some(other) => return Err(Error::Usage(format!("expected on or off, not '{other}'"))),
    };
    println!("{what}: {}", if *flag { "on" } else { "off" });
    Ok(())
}

fn editor(names: Names) -> Result<Reedline> {
    let mut keys = default_emacs_keybindings();
    let complete = vec![ReedlineEvent::Menu(COMPLETION_MENU.into()), ReedlineEvent::MenuNext];
    keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, ReedlineEvent::UntilFound(complete));
    keys.add_binding(KeyModifiers::SHIFT, KeyCode::BackTab, ReedlineEvent::MenuPrevious);
    let menu = ReedlineMenu::EngineCompleter(Box::new(ColumnarMenu::default().with_name(COMPLETION_MENU)));
    let editor = Reedline::create()
        .with_completer(Box::new(SqlCompleter::new(names)))
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_menu(menu)
        .with_hinter(Box::new(DefaultHinter::default()))
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .use_bracketed_paste(true);
    let Some(file) = history_file() else { return Ok(editor) };
    let history = FileBackedHistory::with_file(HISTORY_LINES_MAX, file.clone());
    let history = history.map_err(|error| Error::Usage(format!("cannot use the history file '{}': {error}", file.display())))?;
    Ok(editor.with_history(Box::new(history)))
}

fn history_file() -> Option<PathBuf> {
    up::user_directory().map(|directory| directory.join("history"))
}

/// Enter runs the text once its last statement is ended, or when it is a meta command.
struct WholeStatements(Quotes);

impl Validator for WholeStatements {
    fn validate(&self, text: &str) -> ValidationResult {
        if command(text).is_some() || split(text, self.0).is_complete { ValidationResult::Complete } else { ValidationResult::Incomplete }
    }
}

struct SqlPrompt;

impl Prompt for SqlPrompt {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        "windlass".into()
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        "".into()
    }

    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        "> ".into()
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        "      -> ".into()
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        format!("(search '{}') ", search.term).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_other_shells_are_understood() {
        for (text, expected) in [
            ("\\d orders;", "d orders"),
            (" \\quit ", "q"),
            ("exit;", "q"),
            (".tables", "d"),
            (".mode csv", "format csv"),
            (".schema  orders", "s  orders"),
            (".nonsense", "?"),
        ] {
            assert_eq!(command(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(command("select .5"), None);
    }
}
