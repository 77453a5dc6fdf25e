//! Rows to text and files, one batch at a time.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write;
use std::ops::ControlFlow;

use arrow::array::{Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, Writer as JsonWriter, WriterBuilder as JsonWriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use comfy_table::{Attribute, Cell, CellAlignment, Table, presets};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::error::{Error, Result};

/// Rows that the table format shows: it must see them all to align them, so it holds them.
const TABLE_ROWS_MAX: usize = 1_000;
/// Bytes of one Parquet row group, which is what a Parquet result holds in memory.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// How rows are written. All but `Table` stream and hold one batch (`Parquet`: one row group).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns, at most 1,000 rows.
    Table,
    /// Comma-separated with a header; NULL is empty, the empty string is "".
    Csv,
    /// Tab-separated with a header; tab, newline and backslash are escaped.
    Tsv,
    /// One JSON object per line.
    Json,
    /// One line per column.
    Vertical,
    /// A Markdown table.
    Markdown,
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

impl Format {
    /// The format that a file's name asks for.
    pub fn of_file(path: &str) -> Option<Self> {
        let (_, extension) = path.rsplit_once('.')?;
        Some(match extension.to_ascii_lowercase().as_str() {
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "json" | "jsonl" | "ndjson" => Self::Json,
            "md" => Self::Markdown,
            "arrow" | "arrows" => Self::Arrow,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }

    /// Whether a terminal would show garbage.
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Arrow | Self::Parquet)
    }
}

/// Writes one result in one format.
pub struct Printer<W: Write + Send> {
    shape: Shape<W>,
    schema: SchemaRef,
    rows: u64,
}

enum Shape<W: Write + Send> {
    Table { sink: W, table: Box<Table>, color: bool },
    Rows { sink: W, style: RowStyle },
    Vertical { sink: W },
    Json(Box<JsonWriter<W, LineDelimited>>),
    Arrow(Box<StreamWriter<W>>),
    Parquet(Box<ArrowWriter<W>>),
}

impl<W: Write + Send> Printer<W> {
    /// Starts a result of `schema`: headers are written here, so that an empty result has them too.
    ///
    /// What a server notes about its columns (Flight SQL type names) stays out of files.
    pub fn new(format: Format, schema: SchemaRef, mut sink: W, color: bool) -> Result<Self> {
        let plain = schema.fields().iter().map(|field| field.as_ref().clone().with_metadata(HashMap::new()));
        let schema = SchemaRef::new(Schema::new(plain.collect::<Vec<_>>()));
        let shape = match format {
            Format::Table => Shape::Table { sink, table: Box::new(table(&schema, color)), color },
            Format::Csv => {
                header(&mut sink, &schema, RowStyle::Csv)?;
                Shape::Rows { sink, style: RowStyle::Csv }
            }
            Format::Tsv => {
                header(&mut sink, &schema, RowStyle::Tsv)?;
                Shape::Rows { sink, style: RowStyle::Tsv }
            }
            Format::Vertical => Shape::Vertical { sink },
            Format::Markdown => {
                header(&mut sink, &schema, RowStyle::Markdown)?;
                let rules = schema.fields().iter().map(|field| if field.data_type().is_numeric() { " ---: |" } else { " --- |" });
                writeln!(sink, "|{}", rules.collect::<String>()).map_err(writing())?;
                Shape::Rows { sink, style: RowStyle::Markdown }
            }
            Format::Json => {
                let writer = JsonWriterBuilder::new().with_explicit_nulls(true).with_timestamp_format(TIMESTAMP.into()).build(sink);
                Shape::Json(Box::new(writer))
            }
            Format::Arrow => Shape::Arrow(Box::new(StreamWriter::try_new(sink, &schema)?)),
            Format::Parquet => {
                let zstd = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(zstd).set_max_row_group_bytes(Some(ROW_GROUP_BYTES)).build();
                Shape::Parquet(Box::new(ArrowWriter::try_new(sink, SchemaRef::clone(&schema), Some(properties))?))
            }
        };
        Ok(Self { shape, schema, rows: 0 })
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Writes one batch; `Break` when the format shows no more rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<ControlFlow<()>> {
        match &mut self.shape {
            Shape::Table { table, color, .. } => {
                let room = TABLE_ROWS_MAX - table.row_count();
                let shown = batch.slice(0, room.min(batch.num_rows()));
                let cells = Cells::new(&shown)?;
                for row in 0..shown.num_rows() {
                    let line = (0..shown.num_columns()).map(|column| table_cell(cells.text(column, row)?, *color));
                    table.add_row(line.collect::<Result<Vec<_>>>()?);
                }
                self.rows += shown.num_rows() as u64;
                return Ok(if shown.num_rows() < batch.num_rows() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
            }
            Shape::Rows { sink, style } => each_row(sink, batch, *style)?,
            Shape::Vertical { sink } => vertical(sink, batch, self.rows)?,
            Shape::Json(writer) => writer.write(batch)?,
            Shape::Arrow(writer) => writer.write(&plain(batch, &self.schema)?)?,
            Shape::Parquet(writer) => writer.write(&plain(batch, &self.schema)?)?,
        }
        self.rows += batch.num_rows() as u64;
        self.flush()?;
        Ok(ControlFlow::Continue(()))
    }

    /// Ends the result; `cut` says that rows were left out on purpose. Returns the sink.
    pub fn finish(self, cut: bool) -> Result<W> {
        let mut sink = match self.shape {
            Shape::Table { mut sink, table, .. } => {
                if !self.schema.fields().is_empty() {
                    writeln!(sink, "{table}").map_err(writing())?;
                }
                if cut {
                    writeln!(sink, "only the first {TABLE_ROWS_MAX} rows are shown; use another format or -o FILE for all")
                        .map_err(writing())?;
                }
                sink
            }
            Shape::Rows { sink, .. } | Shape::Vertical { sink } => sink,
            Shape::Json(mut writer) => {
                writer.finish()?;
                writer.into_inner()
            }
            Shape::Arrow(mut writer) => {
                writer.finish()?;
                writer.into_inner()?
            }
            Shape::Parquet(writer) => writer.into_inner()?,
        };
        sink.flush().map_err(writing())?;
        Ok(sink)
    }

    /// Hands text formats on at once: a reader of a pipe sees rows when they come.
    fn flush(&mut self) -> Result<()> {
        match &mut self.shape {
            Shape::Rows { sink, .. } | Shape::Vertical { sink } => sink.flush().map_err(writing()),
            Shape::Json(writer) => writer.get_mut().flush().map_err(writing()),
            Shape::Table { .. } | Shape::Arrow(_) | Shape::Parquet(_) => Ok(()),
        }
    }
}

/// `batch` under a schema that differs in metadata only.
fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), batch.columns().to_vec(), &options)?)
}

const TIMESTAMP: &str = "%Y-%m-%d %H:%M:%S%.f";
const TIMESTAMP_TZ: &str = "%Y-%m-%d %H:%M:%S%.f%:z";

/// The cells of one batch as text.
pub struct Cells<'a>(Vec<(ArrayFormatter<'a>, Option<NullBuffer>)>);

impl<'a> Cells<'a> {
    /// Prepares the columns of `batch`.
    pub fn new(batch: &'a RecordBatch) -> Result<Self> {
        let options = FormatOptions::new()
            .with_null("NULL")
            .with_timestamp_format(Some(TIMESTAMP))
            .with_datetime_format(Some(TIMESTAMP))
            .with_timestamp_tz_format(Some(TIMESTAMP_TZ));
        let column = |array: &'a arrow::array::ArrayRef| Ok((ArrayFormatter::try_new(array.as_ref(), &options)?, array.logical_nulls()));
        Ok(Self(batch.columns().iter().map(column).collect::<Result<_>>()?))
    }

    /// One cell; `None` is NULL.
    pub fn text(&self, column: usize, row: usize) -> Result<Option<String>> {
        let mut text = String::new();
        Ok(self.write(column, row, &mut text)?.then_some(text))
    }

    /// Appends one cell to `text`; false and nothing if it is NULL.
    fn write(&self, column: usize, row: usize, text: &mut String) -> Result<bool> {
        let (formatter, nulls) = &self.0[column];
        let present = !nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
        if present {
            formatter.value(row).write(text)?;
        }
        Ok(present)
    }
}

fn writing() -> impl FnOnce(std::io::Error) -> Error {
    Error::io("write the rows")
}

/// Writes the names of the columns as a row.
fn header<W: Write>(sink: &mut W, schema: &SchemaRef, row: RowStyle) -> Result<()> {
    let mut text = String::new();
    row.begin(&mut text);
    for (column, field) in schema.fields().iter().enumerate() {
        row.cell(column, Some(field.name()), &mut text);
    }
    row.end(&mut text);
    sink.write_all(text.as_bytes()).map_err(writing())
}

/// Writes a batch as rows: one call to the sink, however many cells.
fn each_row<W: Write>(sink: &mut W, batch: &RecordBatch, row_style: RowStyle) -> Result<()> {
    let cells = Cells::new(batch)?;
    let (mut text, mut value) = (String::new(), String::new());
    for row in 0..batch.num_rows() {
        row_style.begin(&mut text);
        for column in 0..batch.num_columns() {
            value.clear();
            let present = cells.write(column, row, &mut value)?;
            row_style.cell(column, present.then_some(&value), &mut text);
        }
        row_style.end(&mut text);
    }
    sink.write_all(text.as_bytes()).map_err(writing())
}

/// The formats that are a line per row.
#[derive(Debug, Clone, Copy)]
enum RowStyle {
    Csv,
    Tsv,
    Markdown,
}

impl RowStyle {
    fn begin(self, text: &mut String) {
        if matches!(self, Self::Markdown) {
            text.push('|');
        }
    }

    fn cell(self, column: usize, value: Option<&str>, text: &mut String) {
        if column > 0 {
            text.push(match self {
                Self::Csv => ',',
                Self::Tsv => '\t',
                Self::Markdown => '|',
            });
        }
        match (self, value) {
            (Self::Csv | Self::Tsv, None) => {}
            (Self::Csv, Some("")) => text.push_str("\"\""),
            (Self::Csv, Some(value)) if ['"', ',', '\n', '\r'].iter().any(|special| value.contains(*special)) => {
                text.push('"');
                text.push_str(&value.replace('"', "\"\""));
                text.push('"');
            }
            (Self::Csv, Some(value)) => text.push_str(value),
            (Self::Tsv, Some(value)) if ['\\', '\t', '\n', '\r'].iter().any(|special| value.contains(*special)) => {
                let escaped = value.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r");
                text.push_str(&escaped);
            }
            (Self::Tsv, Some(value)) => text.push_str(value),
            (Self::Markdown, value) => {
                text.push(' ');
                text.push_str(&value.unwrap_or("NULL").replace('|', "\\|").replace('\n', "<br>"));
                text.push(' ');
            }
        }
    }

    fn end(self, text: &mut String) {
        self.begin(text);
        text.push('\n');
    }
}

/// Columns that `text` takes on a terminal: a character may take none, one or two.
pub(crate) fn display_width(text: &str) -> usize {
    // A table's column is never narrower than 1.
    if text.is_empty() {
        return 0;
    }
    let mut table = Table::new();
    table.add_row([text]);
    table.column_max_content_widths().first().copied().map_or(0, usize::from)
}

fn vertical<W: Write>(sink: &mut W, batch: &RecordBatch, rows_before: u64) -> Result<()> {
    let cells = Cells::new(batch)?;
    let names: Vec<_> = batch.schema().fields().iter().map(|field| (field.name().clone(), display_width(field.name()))).collect();
    let width = names.iter().map(|(_, width)| *width).max().unwrap_or(0);
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        let _ = writeln!(text, "-[ row {} ]{:-<width$}", rows_before + row as u64 + 1, "");
        for (column, (name, own)) in names.iter().enumerate() {
            let value = cells.text(column, row)?.map_or_else(|| "NULL".into(), printable);
            let mut lines = value.split('\n');
            let _ = writeln!(text, "{name}{:1$} | {2}", "", width - own, lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(text, "{:width$} | {line}", "");
            }
        }
    }
    sink.write_all(text.as_bytes()).map_err(writing())
}

fn table(schema: &SchemaRef, color: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(schema.fields().iter().map(|field| {
        let cell = Cell::new(field.name());
        if color { cell.add_attribute(Attribute::Bold) } else { cell }
    }));
    if color {
        table.enforce_styling()
    } else {
        table.force_no_tty()
    };
    for (column, field) in table.column_iter_mut().zip(schema.fields()) {
        if field.data_type().is_numeric() {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Control characters would move the cursor; a newline stays, at which lines are broken.
fn printable(text: String) -> String {
    let moves = |c: char| c.is_control() && c != '\n';
    if text.contains(moves) { text.replace(moves, "\u{fffd}") } else { text }
}

fn table_cell(text: Option<String>, color: bool) -> Result<Cell> {
    Ok(match text {
        Some(text) => Cell::new(printable(text)),
        None if color => Cell::new("NULL").add_attribute(Attribute::Dim),
        None => Cell::new("NULL"),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::Int32Type;
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

    use super::*;

    fn batch() -> RecordBatch {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-30)])) as ArrayRef, true),
            ("s", Arc::new(StringArray::from(vec![Some("a,\"b\"|\t"), Some(""), None])), true),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 1_500_000])), true),
            ("l", Arc::new(list), true),
        ])
        .unwrap()
    }

    fn printed(format: Format, batch: &RecordBatch) -> Vec<u8> {
        let mut printer = Printer::new(format, batch.schema(), Vec::new(), false).unwrap();
        let cut = printer.write(batch).unwrap().is_break();
        printer.finish(cut).unwrap()
    }

    #[test]
    fn text_formats_tell_null_from_empty_and_quote_what_they_must() {
        let text = |format| String::from_utf8(printed(format, &batch())).unwrap();
        assert_eq!(
            text(Format::Csv),
            "n,s,t,l\n1,\"a,\"\"b\"\"|\t\",1970-01-01 00:00:00,\"[1, NULL]\"\n,\"\",1970-01-01 00:00:00.000001,\n-30,,1970-01-01 00:00:01.500,[]\n"
        );
        assert!(text(Format::Tsv).contains("\n1\ta,\"b\"|\\t\t1970-01-01 00:00:00\t[1, NULL]\n"));
        assert!(text(Format::Markdown).starts_with("| n | s | t | l |\n| ---: | --- | --- | --- |\n| 1 | a,\"b\"\\|\t |"));
        assert!(text(Format::Vertical).contains("-[ row 2 ]-\nn | NULL\ns | \n"));
        assert!(text(Format::Json).contains("{\"n\":null,\"s\":\"\","));
        assert!(text(Format::Table).contains("│ NULL ┆"), "{}", text(Format::Table));
    }

    #[test]
    fn lines_of_a_vertical_value_stand_below_each_other() {
        let columns = ["plan_type", "plan"].map(|name| (name, Arc::new(StringArray::from(vec!["\x1ba\n  b"])) as ArrayRef));
        let text = String::from_utf8(printed(Format::Vertical, &RecordBatch::try_from_iter(columns).unwrap())).unwrap();
        let expected = "-[ row 1 ]---------\nplan_type | \u{fffd}a\n          |   b\nplan      | \u{fffd}a\n          |   b\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn binary_formats_read_back_equal() {
        let arrow = printed(Format::Arrow, &batch());
        let back = arrow::ipc::reader::StreamReader::try_new(arrow.as_slice(), None).unwrap().next().unwrap().unwrap();
        assert_eq!(back, batch());
        let parquet = Bytes::from(printed(Format::Parquet, &batch()));
        let back = ParquetRecordBatchReader::try_new(parquet, 10).unwrap().next().unwrap().unwrap();
        assert_eq!(back, batch());
    }

    #[test]
    fn a_table_cuts_and_says_so() {
        let numbers = Int64Array::from_iter_values(0..TABLE_ROWS_MAX as i64 + 1);
        let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
        let text = String::from_utf8(printed(Format::Table, &batch)).unwrap();
        assert!(text.contains("│ 999 │") && !text.contains("│ 1000 │"), "rows");
        assert!(text.ends_with("use another format or -o FILE for all\n"));
    }
}
