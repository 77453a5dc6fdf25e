//! The clauses that say how rows are kept in files: `STORED AS`, `USING`, `ROW FORMAT`, and the options of Spark's readers.

use std::collections::BTreeMap;

use datafusion::sql::sqlparser::tokenizer::{Location, Token};
use windlass_engine::formats::{BAD_RECORDS, FileFormat, HEADER_LINES, Storage};
use windlass_engine::layout::{Layout, SortColumn};

use super::ParseError;
use super::cursor::Cursor;
use super::parse::properties;

type Result<T> = std::result::Result<T, ParseError>;

/// What the clauses have said so far.
#[derive(Default)]
pub(super) struct StorageClauses {
    /// After `STORED AS` or `USING`, and where.
    stored_as: Option<(FileFormat, Location)>,
    /// Of `ROW FORMAT SERDE`.
    serde_format: Option<FileFormat>,
    serde: BTreeMap<String, String>,
    is_delimited: bool,
    /// `OpenCSVSerde` has a default of its own.
    is_open_csv: bool,
    /// `CLUSTERED BY` and `SORTED BY`, or what Presto says in `WITH (...)`.
    pub(super) layout: Layout,
}

impl StorageClauses {
    /// Takes a clause if it is one of these.
    pub(super) fn take(&mut self, c: &mut Cursor<'_>) -> Result<bool> {
        if c.eat("ROW FORMAT SERDE") {
            let (format, class) = class(c)?;
            self.serde_format = Some(format);
            self.is_open_csv = class.to_lowercase().contains("opencsv");
            if c.eat("WITH SERDEPROPERTIES") {
                self.serde.extend(properties(c)?);
            }
        } else if c.eat("ROW FORMAT DELIMITED") {
            self.delimited(c)?;
        } else if c.eat("STORED AS INPUTFORMAT") {
            let at = c.position();
            let (format, _) = class(c)?;
            c.expect("OUTPUTFORMAT")?;
            // Hive writes Avro and text with formats of many names.
            c.string("a class name in quotes")?;
            self.stored_as = Some((format, at));
        } else if c.eat("CLUSTERED BY") {
            self.layout.bucketed_by = c.list(|c| c.identifier("a column name"))?;
            if c.eat("SORTED BY") {
                self.layout.sorted_by = c.list(sort_column)?;
            }
            c.expect("INTO")?;
            self.layout.buckets = buckets(c)?;
            c.expect("BUCKETS")?;
        } else if c.eat("SORTED BY") {
            self.layout.sorted_by = c.list(sort_column)?;
        } else if c.eat_any(&["STORED AS", "USING"]) {
            let at = c.position();
            if matches!(c.nth(0), Token::EOF) {
                return Err(c.expected("PARQUET, ORC, DELTA, TEXTFILE, CSV, JSONFILE or AVRO"));
            }
            let name = c.nth(0).to_string();
            if c.eat("TSV") {
                self.serde.entry("separatorChar".to_owned()).or_insert_with(|| "\\t".to_owned());
                self.stored_as = Some((FileFormat::Csv, at));
            } else {
                let format = FileFormat::parse(&name).ok_or_else(|| other_format(c, name.trim_matches('\'')))?;
                c.exact_identifier("a format")?;
                self.stored_as = Some((format, at));
            }
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn delimited(&mut self, c: &mut Cursor<'_>) -> Result<()> {
        self.is_delimited = true;
        let mut nested = false;
        loop {
            let property = if c.eat("FIELDS TERMINATED BY") {
                "field.delim"
            } else if c.eat("ESCAPED BY") {
                "escape.delim"
            } else if c.eat("LINES TERMINATED BY") {
                "line.delim"
            } else if c.eat("NULL DEFINED AS") {
                "serialization.null.format"
            } else if c.eat_any(&["COLLECTION ITEMS TERMINATED BY", "MAP KEYS TERMINATED BY"]) {
                // Columns that would need it are refused.
                nested = true;
                ""
            } else {
                return Ok(());
            };
            let mut text = c.string("a character in quotes")?;
            // Where a backslash escapes, Hive's own NULL has lost its.
            if property == "serialization.null.format" && text == "N" && c.dialect().is_hive_like() {
                text = "\\N".to_owned();
            }
            if !std::mem::take(&mut nested) {
                self.serde.insert(property.to_owned(), text);
            }
        }
    }

    /// What all clauses say together, `options` of Spark's readers included: those that are understood move to where Hive has them.
    ///
    /// Errors: clauses that contradict each other.
    pub(super) fn finish(
        mut self,
        c: &Cursor<'_>,
        options: BTreeMap<String, String>,
        properties: &mut BTreeMap<String, String>,
    ) -> Result<Storage> {
        let stored_as = self.stored_as.map(|(format, _)| format);
        let format = match (stored_as, self.serde_format) {
            (None, None) if self.is_delimited => FileFormat::Text,
            // Athena's word for a table of which it need not be told more.
            (None, None) if properties.get("table_type").is_some_and(|kind| kind.eq_ignore_ascii_case("delta")) => FileFormat::Delta,
            // Serdes of CSV and JSON read text files.
            (None | Some(FileFormat::Text), Some(serde)) => serde,
            (Some(stored), Some(serde)) if stored != serde => {
                let at = self.stored_as.map_or_else(|| c.position(), |(_, at)| at);
                return Err(c.invalid_at(at, format!("the serde is for {serde} files, not for {stored}")));
            }
            (stored, _) => stored.unwrap_or_default(),
        };
        if self.is_open_csv && stored_as != Some(FileFormat::Csv) {
            self.serde.entry("escapeChar".to_owned()).or_insert_with(|| "\\".to_owned());
        }
        if self.is_delimited && format == FileFormat::Csv {
            for (from, to) in [("field.delim", "separatorChar"), ("escape.delim", "escapeChar")] {
                if let Some(value) = self.serde.remove(from) {
                    self.serde.insert(to.to_owned(), value);
                }
            }
        } else if self.is_delimited && format != FileFormat::Text {
            return Err(c.invalid(format!("ROW FORMAT DELIMITED is for text: {format} files have no delimiters")));
        }
        let is_parquet = Storage::of(format).is_parquet();
        for (name, value) in options {
            if is_parquet || !self.option(format, &name, &value, properties) {
                properties.insert(name, value);
            }
        }
        if is_parquet {
            self.serde.clear();
        }
        Ok(Storage { format, serde: self.serde, layout: self.layout })
    }

    /// Understands an option of Spark's or DataFusion's readers.
    fn option(&mut self, format: FileFormat, name: &str, value: &str, properties: &mut BTreeMap<String, String>) -> bool {
        let is_text = format == FileFormat::Text;
        let name = name.to_ascii_lowercase();
        let serde = match name.strip_prefix("format.").unwrap_or(&name) {
            "sep" | "delimiter" if is_text => "field.delim",
            "sep" | "delimiter" => "separatorChar",
            "quote" => "quoteChar",
            "escape" if is_text => "escape.delim",
            "escape" => "escapeChar",
            "nullvalue" | "null_value" => "serialization.null.format",
            "multiline" | "newlines_in_values" => "multiline",
            "header" | "has_header" => {
                let lines = if value.eq_ignore_ascii_case("true") { "1" } else { "0" };
                properties.insert(HEADER_LINES.to_owned(), lines.to_owned());
                return true;
            }
            "mode" => {
                let policy = match value.to_ascii_lowercase().as_str() {
                    "permissive" => "null",
                    "dropmalformed" => "dead_letter",
                    _ => "fail",
                };
                properties.insert(BAD_RECORDS.to_owned(), policy.to_owned());
                return true;
            }
            _ => return false,
        };
        self.serde.insert(serde.to_owned(), value.to_owned());
        true
    }
}

fn buckets(c: &mut Cursor<'_>) -> Result<u32> {
    let number = c.nth(0).clone();
    match &number {
        Token::Number(digits, _) => {
            let buckets = digits.parse().map_err(|_| c.expected("a number of buckets"))?;
            c.eat_token(&number);
            Ok(buckets)
        }
        _ => Err(c.expected("a number of buckets")),
    }
}

/// `a [ASC | DESC]`, with NULLs where Hive has them.
fn sort_column(c: &mut Cursor<'_>) -> Result<SortColumn> {
    let name = c.identifier("a column name")?;
    let descending = c.eat("DESC");
    let _ = !descending && c.eat("ASC");
    let (usual, other) = if descending { ("NULLS LAST", "NULLS FIRST") } else { ("NULLS FIRST", "NULLS LAST") };
    if c.is(other) {
        return Err(c.unsupported(format!("files are sorted as by Hive: {usual}")));
    }
    c.eat(usual);
    Ok(SortColumn { name, descending })
}

/// The order that Presto writes in a text: `a`, `a DESC`.
pub(super) fn presto_sort_column(text: &str) -> SortColumn {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or_default().trim_matches('"').to_lowercase();
    SortColumn { name, descending: words.next().is_some_and(|word| word.eq_ignore_ascii_case("desc")) }
}

/// The format of a serde's or format's class, and its name.
fn class(c: &mut Cursor<'_>) -> Result<(FileFormat, String)> {
    let at = c.position();
    let class = c.string("a class name in quotes")?;
    match FileFormat::of_class(&class) {
        Some(format) => Ok((format, class)),
        None => {
            let error = other_format(c, &class);
            Err(ParseError { line: at.line, column: at.column, ..error })
        }
    }
}

fn other_format(c: &Cursor<'_>, format: &str) -> ParseError {
    c.unsupported(format!("format '{format}' is not supported: only PARQUET, ORC, DELTA, TEXTFILE, CSV, JSONFILE and AVRO are"))
}

/// The class that Hive has for a format's rows.
pub(super) fn serde_class(format: FileFormat) -> &'static str {
    match format {
        FileFormat::Parquet => "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
        FileFormat::Text => "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
        FileFormat::Csv => "org.apache.hadoop.hive.serde2.OpenCSVSerde",
        FileFormat::Json => "org.apache.hadoop.hive.serde2.JsonSerDe",
        FileFormat::Avro => "org.apache.hadoop.hive.serde2.avro.AvroSerDe",
        FileFormat::Orc => "org.apache.hadoop.hive.ql.io.orc.OrcSerde",
        FileFormat::Delta => "io.delta.hive.DeltaStorageHandler",
    }
}
