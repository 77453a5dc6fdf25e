//! Rows made text, JSON or Avro: bytes that the readers beside this turn into the same rows.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::arrow_avro::compression::CompressionCodec;
use datafusion::arrow_avro::errors::AvroError;
use datafusion::arrow_avro::writer::format::AvroOcfFormat;
use datafusion::arrow_avro::writer::{AvroWriter, WriterBuilder};
use datafusion::error::{DataFusionError, Result};
use datafusion_datasource::file_compression_type::FileCompressionType;
use futures::{StreamExt, TryStreamExt, stream};

use super::json::as_in_files;
use super::{Delimited, Reading};
use crate::evolution::plain_type;

/// Bytes that are compressed together.
const PLAIN_BYTES: usize = 1024 * 1024;

/// How text spells times, as Hive does.
const TIMESTAMP: &str = "%Y-%m-%d %H:%M:%S%.f";

/// Makes the bytes of one file.
pub(crate) struct RowWriter {
    format: Format,
    compression: FileCompressionType,
    /// What is not compressed yet.
    plain: Vec<u8>,
}

enum Format {
    Delimited(Lines),
    /// Columns as files name them.
    Json(SchemaRef),
    Avro {
        writer: Box<AvroWriter<Buffer>>,
        written: Buffer,
        columns: SchemaRef,
    },
}

/// How the names of files end that are compressed like this, and how that is. Errors: another compression.
fn compression(name: &str) -> Result<(&'static str, FileCompressionType)> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "" | "none" | "uncompressed" => ("", FileCompressionType::UNCOMPRESSED),
        "gzip" | "gz" => (".gz", FileCompressionType::GZIP),
        "zstd" | "zst" => (".zst", FileCompressionType::ZSTD),
        "bzip2" | "bz2" => (".bz2", FileCompressionType::BZIP2),
        "xz" => (".xz", FileCompressionType::XZ),
        _ => {
            let message = format!("'{name}' is no compression of text files: use gzip, zstd, bzip2, xz or none");
            return Err(DataFusionError::Configuration(message));
        }
    })
}

/// How the names of text files end that are compressed like this: readers go by it. Errors: another compression.
pub(crate) fn compressed_extension(name: &str) -> Result<&'static str> {
    Ok(compression(name)?.0)
}

/// The codec of blocks in Avro files.
fn codec(name: &str) -> Result<Option<CompressionCodec>> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "" | "snappy" => Some(CompressionCodec::Snappy),
        "deflate" | "gzip" => Some(CompressionCodec::Deflate),
        "zstd" | "zstandard" => Some(CompressionCodec::ZStandard),
        "none" | "uncompressed" | "null" => None,
        _ => {
            let message = format!("'{name}' is no compression of Avro files: use snappy, deflate, zstd or none");
            return Err(DataFusionError::Configuration(message));
        }
    })
}

impl RowWriter {
    /// Writes rows of these columns as `words` say. Errors: words that are not understood; a type that the format has not.
    pub(crate) fn new(words: &BTreeMap<String, String>, schema: &SchemaRef, compressed: &str) -> Result<Self> {
        let words: HashMap<_, _> = words.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let plain = |field: &Arc<Field>| Field::new(field.name(), plain_type(field.data_type()), true);
        let columns: SchemaRef = Arc::new(Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>()));
        let (format, compression) = match Reading::of_words(&words).map_err(|error| DataFusionError::Configuration(error.to_string()))? {
            Reading::Delimited(text) => {
                let names = columns.fields().iter().map(|field| field.name().clone()).collect();
                (Format::Delimited(Lines { text, names, begun: false }), compression(compressed)?.1)
            }
            Reading::Json { fields, .. } => (Format::Json(as_in_files(&columns, &fields)), compression(compressed)?.1),
            Reading::Avro { fields } => {
                let columns = as_in_files(&columns, &fields);
                let written = Buffer::default();
                let writer = WriterBuilder::new(columns.as_ref().clone()).with_compression(codec(compressed)?);
                let writer = Box::new(writer.build::<_, AvroOcfFormat>(written.clone()).map_err(avro)?);
                (Format::Avro { writer, written, columns }, FileCompressionType::UNCOMPRESSED)
            }
            Reading::Orc => return Err(DataFusionError::NotImplemented("ORC files can only be read".to_owned())),
        };
        Ok(Self { format, compression, plain: Vec::new() })
    }

    /// Bytes that it holds.
    pub(crate) fn memory(&self) -> usize {
        self.plain.capacity()
    }

    /// Takes rows; returns bytes that are ready. Errors: rows that cannot be told from others once they are written.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<Vec<u8>> {
        match &mut self.format {
            Format::Delimited(lines) => lines.write(batch, &mut self.plain)?,
            Format::Json(columns) => {
                let mut writer = LineDelimitedWriter::new(&mut self.plain);
                writer.write(&as_columns(batch, columns)?)?;
                writer.finish()?;
            }
            Format::Avro { writer, written, columns } => {
                // One block each.
                writer.write(&as_columns(batch, columns)?).map_err(avro)?;
                self.plain.append(&mut written.take());
            }
        }
        if self.plain.len() < PLAIN_BYTES { Ok(Vec::new()) } else { self.compressed().await }
    }

    /// The last bytes.
    pub(crate) async fn finish(&mut self) -> Result<Vec<u8>> {
        if let Format::Avro { writer, written, .. } = &mut self.format {
            writer.finish().map_err(avro)?;
            self.plain.append(&mut written.take());
        }
        self.compressed().await
    }

    /// What there is, compressed as a part of its own: such parts make one file.
    async fn compressed(&mut self) -> Result<Vec<u8>> {
        let plain = std::mem::take(&mut self.plain);
        if plain.is_empty() || !self.compression.is_compressed() {
            return Ok(plain);
        }
        let parts = self.compression.convert_to_compress_stream(stream::iter([Ok(Bytes::from(plain))]).boxed())?;
        parts
            .try_fold(Vec::new(), |mut all, part| async move {
                all.extend_from_slice(&part);
                Ok(all)
            })
            .await
    }
}

fn avro(error: AvroError) -> DataFusionError {
    DataFusionError::Execution(format!("rows cannot be written as Avro: {error}"))
}

/// Rows with plain types, under the names that files have for them.
fn as_columns(batch: &RecordBatch, columns: &SchemaRef) -> Result<RecordBatch> {
    let plain = batch.columns().iter().zip(columns.fields()).map(|(column, field)| cast(column, field.data_type()));
    Ok(RecordBatch::try_new(Arc::clone(columns), plain.collect::<std::result::Result<_, _>>()?)?)
}

/// Bytes that a writer has left, for us to take while it goes on.
#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Delimited text.
struct Lines {
    text: Delimited,
    names: Vec<String>,
    /// Whether the header is written.
    begun: bool,
}

impl Lines {
    fn write(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) && self.text.header_lines > 0 {
            for (place, name) in self.names.iter().enumerate() {
                self.begin_field(place, out);
                self.field(name, name, out)?;
            }
            out.extend(std::iter::repeat_n(self.text.terminator, self.text.header_lines));
        }
        let options = FormatOptions::default().with_timestamp_format(Some(TIMESTAMP));
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
        let mut value = String::new();
        for row in 0..batch.num_rows() {
            let start = out.len();
            for (place, (column, values)) in columns.iter().zip(batch.columns()).enumerate() {
                self.begin_field(place, out);
                if values.is_null(row) {
                    out.extend_from_slice(self.text.null.as_deref().unwrap_or_default().as_bytes());
                    continue;
                }
                value.clear();
                write!(value, "{}", column.value(row)).map_err(|_| DataFusionError::Execution("a value has no text".to_owned()))?;
                self.field(&self.names[place], &value, out)?;
            }
            if out.len() == start && self.text.skips_empty {
                out.extend(self.text.quote.into_iter().flat_map(|quote| [quote; 2]));
            }
            if self.text.terminator == b'\n' && out[start..].ends_with(b"\r") {
                return Err(unwritable(
                    self.names.last().map_or("", String::as_str),
                    "ends with a carriage return: text files cannot hold that in the last column",
                ));
            }
            out.push(self.text.terminator);
        }
        Ok(())
    }

    fn begin_field(&self, place: usize, out: &mut Vec<u8>) {
        if place > 0 {
            out.push(self.text.delimiter);
        }
    }

    /// Writes a value so that it is read as it is. Errors: there is no way to.
    fn field(&self, column: &str, value: &str, out: &mut Vec<u8>) -> Result<()> {
        let Delimited { delimiter, quote, escape, terminator, ref null, multiline, .. } = self.text;
        let is_null = null.as_deref() == Some(value);
        let holds = |byte: u8| value.as_bytes().contains(&byte);
        if holds(terminator) && !multiline {
            return Err(unwritable(
                column,
                match quote {
                    Some(_) => "holds the end of a line: CSV can WITH SERDEPROPERTIES ('multiline' = 'true')",
                    None => "holds the end of a line: text files cannot",
                },
            ));
        }
        let start = out.len();
        match (quote, escape) {
            (Some(quote), _) => {
                let special = [Some(delimiter), Some(quote), escape, Some(terminator), Some(b'\r')];
                if !is_null && !special.into_iter().flatten().any(holds) {
                    out.extend_from_slice(value.as_bytes());
                    return Ok(());
                }
                out.push(quote);
                for byte in value.bytes() {
                    out.extend((byte == quote).then_some(quote));
                    out.extend(escape.filter(|escape| *escape == byte));
                    out.push(byte);
                }
                out.push(quote);
            }
            (None, Some(escape)) => {
                for byte in value.bytes() {
                    out.extend((byte == delimiter || byte == escape).then_some(escape));
                    out.push(byte);
                }
                // What stands for NULL does so before escapes are looked at.
                if null.as_ref().is_some_and(|null| !null.is_empty() && null.as_bytes() == &out[start..]) {
                    out.insert(start, escape);
                }
            }
            (None, None) if holds(delimiter) => {
                return Err(unwritable(column, "holds the delimiter: the table's text needs ESCAPED BY"));
            }
            (None, None) if is_null && !value.is_empty() => {
                return Err(unwritable(column, "is the text that stands for NULL: the table's text needs ESCAPED BY"));
            }
            (None, None) => out.extend_from_slice(value.as_bytes()),
        }
        Ok(())
    }
}

fn unwritable(column: &str, why: &str) -> DataFusionError {
    DataFusionError::Execution(format!("a value of column '{column}' {why}"))
}
