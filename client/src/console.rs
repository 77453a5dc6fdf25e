//! Runs statements for a person or a script: live progress, rows to their place, Ctrl-C to the cluster.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use arrow::array::RecordBatch;
use futures::{FutureExt, TryStreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::output::{Cells, Format, Printer};
use crate::progress::{Live, closing};
use crate::query::{Rows, RunningQuery};
use crate::script::{Quotes, returns_plan, returns_rows};

/// Where and how results appear.
#[derive(Debug)]
pub struct Settings {
    /// Format of rows; `None` is what suits their place.
    pub format: Option<Format>,
    /// Vertical instead of a table: `\x`.
    pub expanded: bool,
    /// Print a closing line on standard error.
    pub timing: bool,
    /// Show progress while a query runs.
    pub live: bool,
    /// Rows go here instead of to standard output.
    pub file: Option<(String, File)>,
    /// Program that shows long results on a terminal.
    pub pager: Option<String>,
    /// Colours in tables.
    pub color: bool,
}

impl Settings {
    /// What suits the terminal, if there is one: colours, progress and a pager; else silence.
    pub fn for_terminal() -> Self {
        let terminal = io::stdout().is_terminal();
        let pager = match std::env::var_os("WINDLASS_PAGER") {
            Some(program) => program.into_string().ok().filter(|program| !program.trim().is_empty()),
            None => Some("less -SRFX".into()),
        };
        Self {
            format: None,
            expanded: false,
            timing: false,
            live: io::stderr().is_terminal(),
            file: None,
            pager: pager.filter(|_| terminal),
            color: terminal && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// Sends rows to a new file, or back to standard output.
    pub fn write_to(&mut self, path: Option<&str>) -> Result<()> {
        self.file = match path {
            Some(path) => Some((path.to_string(), File::create(path).map_err(Error::io(format!("create '{path}'")))?)),
            None => None,
        };
        Ok(())
    }

    /// The format that was asked for, else that of the file's name, else tables on a terminal and CSV elsewhere.
    pub fn format(&self) -> Format {
        let format = self.format.unwrap_or_else(|| match &self.file {
            Some((path, _)) => Format::of_file(path).unwrap_or(Format::Csv),
            None if io::stdout().is_terminal() => Format::Table,
            None => Format::Csv,
        });
        if self.expanded && format == Format::Table { Format::Vertical } else { format }
    }
}

/// How a statement went.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Rows that came back; for an update 0.
    pub rows: u64,
}

/// What became of a query's rows.
struct Shown {
    rows: u64,
    /// Whether the format left some out.
    cut: bool,
    /// When the last one had come; a pager may keep its reader for longer.
    at: Instant,
}

/// A connection with a person or a script in front of it.
pub struct Console {
    /// The session that statements run in.
    pub connection: Connection,
    /// Where results go; meta commands change it.
    pub settings: Settings,
    interrupts: Signal,
    quotes: Quotes,
}

impl Console {
    /// From here on Ctrl-C stops queries and no longer the process.
    pub fn new(connection: Connection, settings: Settings) -> Result<Self> {
        let interrupts = signal(SignalKind::interrupt()).map_err(Error::io("listen to Ctrl-C"))?;
        Ok(Self { connection, settings, interrupts, quotes: Quotes::default() })
    }

    /// How the session reads quotes now.
    pub fn quotes(&self) -> Quotes {
        self.quotes
    }

    /// Forgets what Ctrl-C has asked for so far, as of a pager: it was meant for something else than the next statement.
    pub fn forget_interrupts(&mut self) {
        while self.interrupts.recv().now_or_never().is_some() {}
    }

    /// Runs a statement and shows its rows.
    pub async fn execute(&mut self, sql: &str) -> Result<Outcome> {
        let started = Instant::now();
        let query = self.finish(sql).await?;
        self.quotes = self.quotes.after(sql);
        let (shown, said) = match returns_rows(sql) {
            true => (self.show(&query, self.format(sql)).await?, None),
            false => {
                let said = said(&query).await?;
                (Shown { rows: 0, cut: false, at: Instant::now() }, Some(said))
            }
        };
        if self.settings.timing {
            let took = shown.at - started;
            let line = match said {
                Some(said) => format!("{said} in {:.3} s", took.as_secs_f64()),
                None => format!("{}{}", if shown.cut { "first " } else { "" }, closing(shown.rows, took, query.progress())),
            };
            // Nobody may be listening any more; the rows went out well.
            let _ = writeln!(io::stderr(), "{line}");
        }
        Ok(Outcome { rows: shown.rows })
    }

    /// Runs a statement whose rows nobody wants.
    pub async fn discard(&mut self, sql: &str) -> Result<Outcome> {
        let query = self.finish(sql).await?;
        let mut stream = query.rows();
        let mut rows = 0;
        while let Some(batch) = self.next(&query, stream.try_next()).await? {
            rows += batch.num_rows() as u64;
        }
        Ok(Outcome { rows })
    }

    /// Runs a statement until its rows are ready.
    async fn finish(&mut self, sql: &str) -> Result<RunningQuery> {
        let mut live = Live::new(self.settings.live);
        // A call that is dropped is cancelled by gRPC: a statement that was not accepted yet ends with it.
        let mut query = tokio::select! {
            query = self.connection.start(sql) => query?,
            _ = self.interrupts.recv() => return Err(Error::Cancelled),
        };
        while !query.is_complete() {
            live.update(query.progress());
            tokio::select! {
                polled = query.poll() => polled?,
                _ = self.interrupts.recv() => {
                    live.interrupted();
                    return Err(self.cancel(&query).await);
                }
            }
        }
        live.clear();
        Ok(query)
    }

    /// The format of a statement's rows. Plans would make a wide table, most of it blanks.
    fn format(&self, sql: &str) -> Format {
        match self.settings.format() {
            Format::Table if self.settings.format.is_none() && returns_plan(sql) => Format::Vertical,
            format => format,
        }
    }

    /// Writes the rows to their place.
    async fn show(&mut self, query: &RunningQuery, format: Format) -> Result<Shown> {
        let mut stream = query.rows();
        // A query that fails before its first row leaves no header behind, and no pager.
        let first = self.next(query, stream.try_next()).await?;
        let (sink, pager) = self.sink(format)?;
        let printer = Printer::new(format, query.schema()?, sink, self.settings.color)?;
        let printed = self.print(query, printer, first, stream).await;
        let Some(mut pager) = pager else { return printed };
        pager.wait().map_err(Error::io("wait for the pager"))?;
        self.forget_interrupts();
        match printed {
            // Leaving the pager before the end is no error.
            Err(error) if error.exit_code() == 0 => Ok(Shown { rows: 0, cut: true, at: Instant::now() }),
            printed => printed,
        }
    }

    /// Prints `first` and the rest, and closes the printer: on an error, too, so that a pager sees its end.
    async fn print(
        &mut self,
        query: &RunningQuery,
        mut printer: Printer<Box<dyn Write + Send>>,
        first: Option<RecordBatch>,
        mut stream: Rows,
    ) -> Result<Shown> {
        let (mut next, mut cut) = (first, false);
        while let Some(batch) = next {
            cut = printer.write(&batch)? == ControlFlow::Break(());
            next = match cut {
                true => None,
                false => self.next(query, stream.try_next()).await?,
            };
        }
        drop(stream);
        if cut {
            query.cancel().await?;
        }
        let shown = Shown { rows: printer.rows(), cut, at: Instant::now() };
        printer.finish(cut).map(|_| shown)
    }

    /// The next batch, unless Ctrl-C comes first.
    async fn next(
        &mut self,
        query: &RunningQuery,
        batch: impl Future<Output = Result<Option<RecordBatch>>>,
    ) -> Result<Option<RecordBatch>> {
        tokio::select! {
            batch = batch => batch,
            _ = self.interrupts.recv() => Err(self.cancel(query).await),
        }
    }

    /// Asks the cluster to stop the query; a second Ctrl-C no longer waits for its answer.
    async fn cancel(&mut self, query: &RunningQuery) -> Error {
        tokio::select! {
            cancelled = query.cancel() => cancelled.err().unwrap_or(Error::Cancelled),
            _ = self.interrupts.recv() => Error::Cancelled,
        }
    }

    fn sink(&self, format: Format) -> Result<(Box<dyn Write + Send>, Option<Child>)> {
        if let Some((path, file)) = &self.settings.file {
            let file = file.try_clone().map_err(Error::io(format!("write '{path}'")))?;
            return Ok((Box::new(BufWriter::new(file)), None));
        }
        if format.is_binary() && io::stdout().is_terminal() {
            return Err(Error::Usage(
                format!("{format:?} rows are not for a terminal; name a file with -o FILE or \\o FILE").to_lowercase(),
            ));
        }
        let is_paged = matches!(format, Format::Table | Format::Vertical | Format::Markdown);
        if let Some(mut words) = self.settings.pager.as_deref().filter(|_| is_paged).map(str::split_whitespace)
            && let Some(program) = words.next()
            && let Ok(mut child) = Command::new(program).args(words).stdin(Stdio::piped()).spawn()
            && let Some(stdin) = child.stdin.take()
        {
            return Ok((Box::new(BufWriter::new(stdin)), Some(child)));
        }
        Ok((Box::new(BufWriter::new(io::stdout())), None))
    }
}

/// What an update answers, as one line of words.
async fn said(query: &RunningQuery) -> Result<String> {
    let mut words = vec!["ok".to_string()];
    let mut rows = query.rows();
    while let Some(batch) = rows.try_next().await? {
        let cells = Cells::new(&batch)?;
        for row in 0..batch.num_rows() {
            for (column, field) in batch.schema().fields().iter().enumerate() {
                if let Some(text) = cells.text(column, row)? {
                    words.push(if field.data_type().is_numeric() { format!("{} {text}", field.name()) } else { text });
                }
            }
        }
    }
    Ok(words.join(", "))
}
