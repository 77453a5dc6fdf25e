//! The formats of data files: what a table says of its files, in Hive's words, and how its rows are read from them.
//!
//! Parquet is read by DataFusion's own source. The others are planned with DataFusion's sources too, because every engine can send those,
//! but these sources lose half of their options on the wire, know no escapes outside of quotes and no line numbers. So a plan carries the
//! table's words beside each file, and whoever runs the plan reads the file as they say (`source`).
//!
//! Reading order: this file (words and what they mean), `records` (bytes cut into records), `delimited`, `json`, `avro` (records made
//! columns), `orc` (columns, and what files say of them), `bad` (records that cannot be read), `source` (a scan of such files), `infer`
//! (columns of files of which nothing else is known), `sniff` (their format), `writer` (rows made such files).

mod avro;
mod bad;
mod delimited;
mod infer;
mod json;
mod orc;
mod records;
mod sniff;
mod source;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::config::CsvOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfig, FileSource, JsonSource, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use serde::{Deserialize, Serialize};

pub use self::bad::bad_records_schema;
pub use self::infer::{Inferred, infer};
pub use self::orc::footer as orc_footer;
pub use self::sniff::{Sniffed, format_of_name, sniff};
pub(crate) use self::source::FormattedFiles;
pub(crate) use self::writer::{RowWriter, compressed_extension};
use crate::layout::Layout;

/// Property of a table: header lines of each text file.
pub const HEADER_LINES: &str = "skip.header.line.count";
/// Property of a table: what becomes of records that cannot be read, `fail`, `null` or `dead_letter`.
pub const BAD_RECORDS: &str = "windlass.bad_records";
/// Property of a table: where statements that write put the records that they could not read.
pub const BAD_RECORDS_TABLE: &str = "windlass.bad_records_table";
/// Word beside a file of which only records are wanted that cannot be read.
const ONLY_BAD_RECORDS: &str = "windlass.only_bad_records";
/// Properties of a table that change how its files are read.
const READER_PROPERTIES: [&str; 2] = [HEADER_LINES, BAD_RECORDS];
/// Prefix of the serde properties that name a column's field in files, after OpenX's JSON serde.
pub const MAPPING: &str = "mapping.";
/// Key of the format's name among the words that travel with a file.
const FORMAT: &str = "windlass.format";

/// Something about a format that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormatError(String);

/// How the files of a table are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Parquet.
    #[default]
    Parquet,
    /// Hive's delimited text: no quotes, `\001` between fields, `\N` for NULL.
    Text,
    /// Comma-separated values with quotes.
    Csv,
    /// One JSON object per line.
    Json,
    /// Avro object container files.
    Avro,
    /// ORC; read only.
    Orc,
    /// Parquet files that a Delta log lists; read only.
    Delta,
}

impl FileFormat {
    const ALL: [Self; 7] = [Self::Parquet, Self::Text, Self::Csv, Self::Json, Self::Avro, Self::Orc, Self::Delta];

    /// The word after `STORED AS`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parquet => "PARQUET",
            Self::Text => "TEXTFILE",
            Self::Csv => "CSV",
            Self::Json => "JSONFILE",
            Self::Avro => "AVRO",
            Self::Orc => "ORC",
            Self::Delta => "DELTA",
        }
    }

    /// The format of this name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "TEXT" => Some(Self::Text),
            "JSON" => Some(Self::Json),
            name => Self::ALL.into_iter().find(|format| format.name() == name),
        }
    }

    /// The format that a Hive class reads: serde, input or output format. Text has an input format for several serdes.
    pub fn of_class(class: &str) -> Option<Self> {
        let class = class.to_ascii_lowercase();
        let words = [
            ("parquet", Self::Parquet),
            ("opencsv", Self::Csv),
            ("csvserde", Self::Csv),
            ("json", Self::Json),
            ("avro", Self::Avro),
            ("orcserde", Self::Orc),
            ("orcinputformat", Self::Orc),
            ("orcnewinputformat", Self::Orc),
            ("lazysimple", Self::Text),
            ("textinputformat", Self::Text),
            ("textoutputformat", Self::Text),
        ];
        words.into_iter().find(|(word, _)| class.contains(word)).map(|(_, format)| format)
    }
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The format of a table's files with the properties of its reader, named as in Hive's metastore: `field.delim`, `escape.delim`,
/// `line.delim` and `serialization.null.format` of text; `separatorChar`, `quoteChar` and `escapeChar` of CSV; `multiline`;
/// `mapping.<column>` of JSON and Avro.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// The format.
    pub format: FileFormat,
    /// The reader's properties.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub serde: BTreeMap<String, String>,
    /// Where rows lie among and in the files.
    #[serde(default, skip_serializing_if = "Layout::is_none")]
    pub layout: Layout,
}

impl Storage {
    /// Of a format as it usually is.
    pub fn of(format: FileFormat) -> Self {
        Self { format, ..Self::default() }
    }

    /// Whether rows are read from it as by DataFusion's Parquet source.
    pub fn is_parquet(&self) -> bool {
        matches!(self.format, FileFormat::Parquet | FileFormat::Delta)
    }

    /// Whether each file says what its columns are, and what holds for its rows.
    pub fn has_footers(&self) -> bool {
        matches!(self.format, FileFormat::Parquet | FileFormat::Orc)
    }

    /// Checks what a table would say of its files. Errors: a property's value, or a column that the format cannot hold.
    pub fn validate(&self, properties: &BTreeMap<String, String>, columns: &Schema) -> Result<(), FormatError> {
        if self.format == FileFormat::Delta && !self.layout.is_none() {
            return Err(FormatError("a Delta log knows no buckets and no order: leave CLUSTERED BY and SORTED BY out".to_owned()));
        }
        if self.is_parquet() {
            return Ok(());
        }
        Reading::of_words(&self.words(properties))?;
        let holds_nested = !matches!(self.format, FileFormat::Text | FileFormat::Csv);
        match columns.fields().iter().find(|field| !holds_nested && (field.data_type().is_nested() || is_binary(field.data_type()))) {
            Some(field) => {
                Err(FormatError(format!("column '{}' is {}: {} holds plain types only", field.name(), field.data_type(), self.format)))
            }
            None => Ok(()),
        }
    }

    /// What travels with each file of a plan; nothing for Parquet.
    pub fn on_the_wire(&self, properties: &BTreeMap<String, String>) -> Option<SchemaRef> {
        (!self.is_parquet()).then(|| Arc::new(Schema::empty().with_metadata(self.words(properties))))
    }

    /// What travels with a file of which only records are wanted that cannot be read: also the columns that they are no rows of. `None` for
    /// formats without such records.
    pub fn on_the_wire_if_bad(&self, properties: &BTreeMap<String, String>, columns: &Schema) -> Option<SchemaRef> {
        let mut words = self.words(properties);
        words.insert(ONLY_BAD_RECORDS.to_owned(), "true".to_owned());
        let has_records = !matches!(self.format, FileFormat::Parquet | FileFormat::Delta | FileFormat::Avro | FileFormat::Orc);
        has_records.then(|| Arc::new(Schema::new(columns.fields().clone()).with_metadata(words)))
    }

    /// Whether records that cannot be read are left out.
    pub fn drops_bad_records(&self, properties: &BTreeMap<String, String>) -> bool {
        match Reading::of_words(&self.words(properties)) {
            Ok(Reading::Delimited(Delimited { bad_records, .. }) | Reading::Json { bad_records, .. }) => bad_records == BadRecords::Drop,
            Ok(Reading::Avro { .. } | Reading::Orc) | Err(_) => false,
        }
    }

    fn words(&self, properties: &BTreeMap<String, String>) -> HashMap<String, String> {
        let properties = properties.iter().filter(|(name, _)| READER_PROPERTIES.contains(&name.as_str()));
        let all = self.serde.iter().chain(properties).map(|(name, value)| (name.clone(), value.clone()));
        all.chain([(FORMAT.to_owned(), self.format.name().to_owned())]).collect()
    }

    /// What a writer of such files has to know.
    pub fn to_write(&self, properties: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        if self.is_parquet() { BTreeMap::new() } else { self.words(properties).into_iter().collect() }
    }

    /// Says what it must say for rows of so many columns to be read as they were written: CSV has no NULL of its own.
    pub fn make_writable(&mut self, columns: usize) {
        if self.format == FileFormat::Csv {
            // An empty line is no row.
            let null = if columns == 1 { "\\N" } else { "" };
            self.serde.entry("serialization.null.format".to_owned()).or_insert_with(|| null.to_owned());
        }
    }

    /// The source that stands for a scan in plans; none for Parquet.
    pub fn plan_source(&self, schema: TableSchema) -> Option<Arc<dyn FileSource>> {
        // EXPLAIN shows it, and header lines are ours to skip.
        let options = || CsvOptions::default().with_has_header(false);
        Some(match self.format {
            FileFormat::Parquet | FileFormat::Delta => return None,
            FileFormat::Text | FileFormat::Csv => Arc::new(CsvSource::new(schema).with_csv_options(options())),
            FileFormat::Json => Arc::new(JsonSource::new(schema)),
            // Plans are sent without the feature that knows Avro's source.
            FileFormat::Avro => FormattedFiles::planned(Arc::new(JsonSource::new(schema)), "avro"),
            // There is no source of ORC. That of Parquet takes conditions along.
            FileFormat::Orc => FormattedFiles::planned(Arc::new(ParquetSource::new(schema)), "orc"),
        })
    }
}

/// Whether several readers may share a file of a plan, each with a range of its bytes.
pub fn can_be_cut(file: &PartitionedFile) -> bool {
    let is_plain = || !records::is_compressed(file.path().as_ref());
    match source::reading(file) {
        Ok(None) => true,
        // Lines are counted from the beginning.
        Ok(Some(
            Reading::Delimited(Delimited { bad_records: BadRecords::Only, .. }) | Reading::Json { bad_records: BadRecords::Only, .. },
        )) => false,
        Ok(Some(Reading::Delimited(text))) => text.header_lines <= 1 && !text.multiline && is_plain(),
        Ok(Some(Reading::Json { .. })) => is_plain(),
        Ok(Some(Reading::Orc)) => true,
        Ok(Some(Reading::Avro { .. })) | Err(_) => false,
    }
}

/// Whether a scan's files say how they are read, so that they are not read by DataFusion's source.
pub fn says_its_format(scan: &FileScanConfig) -> bool {
    scan.file_groups.iter().flat_map(|group| group.files()).next().is_some_and(|file| !matches!(source::reading(file), Ok(None)))
}

fn is_binary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Binary | DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_))
}

/// What becomes of a record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum BadRecords {
    /// The query fails; the error names the place.
    #[default]
    Fail,
    /// What cannot be read is NULL: a value, or all of a record.
    Null,
    /// A record of which any column cannot be read is no row.
    Drop,
    /// Such records are the rows.
    Only,
}

/// The words of a table, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reading {
    Delimited(Delimited),
    Json { fields: HashMap<String, String>, bad_records: BadRecords },
    Avro { fields: HashMap<String, String> },
    Orc,
}

/// How fields and records of text are told apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Delimited {
    delimiter: u8,
    quote: Option<u8>,
    escape: Option<u8>,
    terminator: u8,
    null: Option<String>,
    header_lines: usize,
    /// Whether a record goes on behind a terminator in quotes.
    multiline: bool,
    /// Whether an empty line is no record.
    skips_empty: bool,
    bad_records: BadRecords,
}

impl Reading {
    /// What EXPLAIN calls it.
    fn file_type(&self) -> &'static str {
        match self {
            Self::Delimited(_) => "csv",
            Self::Json { .. } => "json",
            Self::Avro { .. } => "avro",
            Self::Orc => "orc",
        }
    }

    fn of_words(words: &HashMap<String, String>) -> Result<Self, FormatError> {
        let word = |name: &str| words.get(name).map(String::as_str);
        let byte = |name: &str| word(name).map(|text| one_byte(name, text)).transpose();
        let bad_records = match word(BAD_RECORDS) {
            _ if word(ONLY_BAD_RECORDS).is_some() => BadRecords::Only,
            None => BadRecords::Fail,
            Some(word) if word.eq_ignore_ascii_case("fail") => BadRecords::Fail,
            Some(word) if word.eq_ignore_ascii_case("null") => BadRecords::Null,
            Some(word) if word.eq_ignore_ascii_case("dead_letter") => BadRecords::Drop,
            Some(word) => return Err(FormatError(format!("property '{BAD_RECORDS}' is fail, null or dead_letter, not '{word}'"))),
        };
        let fields = || {
            let pairs = words.iter().filter_map(|(name, field)| Some((name.strip_prefix(MAPPING)?.to_lowercase(), field.clone())));
            pairs.collect::<HashMap<_, _>>()
        };
        let header_lines = word(HEADER_LINES).map_or(Ok(0), |lines| {
            lines.trim().parse().map_err(|_| FormatError(format!("property '{HEADER_LINES}' is a number of lines, not '{lines}'")))
        })?;
        let text = match word(FORMAT).and_then(FileFormat::parse) {
            Some(FileFormat::Json) => return Ok(Self::Json { fields: fields(), bad_records }),
            Some(FileFormat::Avro) => return Ok(Self::Avro { fields: fields() }),
            Some(FileFormat::Orc) => return Ok(Self::Orc),
            Some(FileFormat::Text) => Delimited {
                // Hive's older word is a number.
                delimiter: byte("field.delim")?
                    .or_else(|| word("serialization.format").and_then(|number| number.parse().ok()))
                    .unwrap_or(1),
                quote: None,
                escape: byte("escape.delim")?,
                terminator: byte("line.delim")?.unwrap_or(b'\n'),
                null: Some(word("serialization.null.format").unwrap_or("\\N").to_owned()),
                header_lines,
                multiline: false,
                skips_empty: false,
                bad_records,
            },
            Some(FileFormat::Csv) => {
                let quote = byte("quoteChar")?.unwrap_or(b'"');
                Delimited {
                    delimiter: byte("separatorChar")?.unwrap_or(b','),
                    quote: Some(quote),
                    // Quotes are doubled anyway.
                    escape: byte("escapeChar")?.filter(|escape| *escape != quote),
                    terminator: b'\n',
                    null: word("serialization.null.format").map(str::to_owned),
                    header_lines,
                    multiline: word("multiline").is_some_and(|word| word.eq_ignore_ascii_case("true")),
                    skips_empty: true,
                    bad_records,
                }
            }
            Some(FileFormat::Parquet | FileFormat::Delta) | None => {
                return Err(FormatError("a file of a plan does not say its format".to_owned()));
            }
        };
        let special = [Some(text.delimiter), text.quote, text.escape, Some(text.terminator)];
        let mut given: Vec<u8> = special.into_iter().flatten().collect();
        given.sort_unstable();
        match given.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(FormatError(format!("character {:?} cannot have two meanings in one file", char::from(twice[0])))),
            None => Ok(Self::Delimited(text)),
        }
    }
}

/// The character that a property names: itself, or as Hive's users write what cannot be seen: `\t`, `\001`, `\u0001`, or its number.
fn one_byte(name: &str, text: &str) -> Result<u8, FormatError> {
    let escaped = |rest: &str| match rest {
        "t" => Some(b'\t'),
        "n" => Some(b'\n'),
        "r" => Some(b'\r'),
        "\\" => Some(b'\\'),
        _ => match rest.strip_prefix('u') {
            Some(digits) => u8::from_str_radix(digits, 16).ok(),
            None => u8::from_str_radix(rest, 8).ok(),
        },
    };
    let found = match text.as_bytes() {
        [byte] => Some(*byte),
        [b'\\', ..] => escaped(&text[1..]),
        _ => text.parse().ok(),
    };
    found.filter(u8::is_ascii).ok_or_else(|| FormatError(format!("property '{name}' is one ASCII character, not '{text}'")))
}

#[cfg(test)]
mod tests;
