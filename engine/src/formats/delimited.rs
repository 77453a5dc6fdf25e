//! Records of text made columns.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayBuilder, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringViewArray, StringViewBuilder,
};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::error::{DataFusionError, Result};

use super::records::Block;
use super::{BadRecords, Delimited};

/// Makes columns of text.
#[derive(Debug)]
pub(super) struct Decoder {
    text: Delimited,
    /// The columns that are wanted.
    schema: SchemaRef,
    /// Their places in a record, in ascending order.
    places: Vec<usize>,
}

impl Decoder {
    pub(super) fn new(text: Delimited, schema: SchemaRef, places: Vec<usize>) -> Self {
        Self { text, schema, places }
    }

    /// Errors: `Execution` that names the record, if records that cannot be read are errors.
    pub(super) fn decode(&self, block: &Block) -> Result<RecordBatch> {
        let mut texts = self.places.iter().map(|_| StringViewBuilder::with_capacity(block.len())).collect::<Vec<_>>();
        // The records that became rows.
        let mut rows = Vec::with_capacity(block.len());
        for (index, record) in block.records().enumerate() {
            if record.is_empty() && self.text.skips_empty {
                continue;
            }
            let row = rows.len();
            rows.push(index);
            let mut wanted = self.places.iter().zip(&mut texts).peekable();
            let read = self.fields(record, |place, field| {
                let Some((_, text)) = wanted.next_if(|(wanted, _)| **wanted == place) else { return Ok(wanted.peek().is_some()) };
                text.append_option(field.map(std::str::from_utf8).transpose().map_err(|_| "it is not UTF-8")?);
                Ok(wanted.peek().is_some())
            });
            match (read, self.text.bad_records) {
                (Ok(()), _) | (Err(_), BadRecords::Null) => {}
                (Err(reason), _) => return Err(bad(block, index, reason)),
            }
            // Fields that the record lacks.
            for text in texts.iter_mut().filter(|text| text.len() == row) {
                text.append_null();
            }
        }
        let columns = texts.into_iter().zip(self.schema.fields()).map(|(mut text, field)| {
            let text: ArrayRef = Arc::new(text.finish());
            self.typed(&text, field.name(), field.data_type(), block, &rows)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// Calls `each` with the place and the value of every field until it wants no more. Errors: what is wrong with the record.
    fn fields<'a>(
        &self,
        record: &'a [u8],
        mut each: impl FnMut(usize, Option<&[u8]>) -> std::result::Result<bool, &'static str>,
    ) -> std::result::Result<(), &'static str> {
        let Delimited { delimiter, quote, escape, ref null, .. } = self.text;
        let mut unescaped = Vec::new();
        let mut rest: &'a [u8] = record;
        for place in 0.. {
            let field;
            let mut is_null = false;
            if quote.is_some() && rest.first().copied() == quote {
                unescaped.clear();
                let end = unquote(rest, quote, escape, delimiter, &mut unescaped)?;
                field = unescaped.as_slice();
                rest = &rest[end..];
            } else {
                let end = end_of_field(rest, delimiter, escape);
                let raw = &rest[..end];
                // A NULL is looked for before escapes are: Hive's own is one.
                is_null = null.as_ref().is_some_and(|null| null.as_bytes() == raw);
                field = match escape.filter(|escape| raw.contains(escape)) {
                    Some(escape) => {
                        unescaped.clear();
                        unescape(raw, escape, &mut unescaped);
                        unescaped.as_slice()
                    }
                    None => raw,
                };
                rest = &rest[end..];
            }
            if !each(place, (!is_null).then_some(field))? {
                return Ok(());
            }
            match rest.split_first() {
                Some((_, next)) => rest = next,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn typed(&self, text: &ArrayRef, name: &str, data_type: &DataType, block: &Block, rows: &[usize]) -> Result<ArrayRef> {
        if matches!(data_type, DataType::Utf8View) {
            return Ok(Arc::clone(text));
        }
        let text = if matches!(data_type, DataType::Utf8 | DataType::LargeUtf8) { Arc::clone(text) } else { without_empty(text) };
        let values = cast_with_options(&text, data_type, &CastOptions::default())?;
        if self.text.bad_records == BadRecords::Null || values.null_count() == text.null_count() {
            return Ok(values);
        }
        let index = (0..values.len()).find(|index| values.is_null(*index) && text.is_valid(*index)).unwrap_or_default();
        let found = array_value_to_string(&text, index)?;
        Err(bad(block, rows[index], &format!("'{found}' in column '{name}' is not {data_type}")))
    }
}

/// The fields of one record as text, NULL as nothing.
pub(super) fn texts(text: &Delimited, record: &[u8]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let decoder = Decoder::new(text.clone(), Arc::new(Schema::empty()), Vec::new());
    let read = decoder.fields(record, |_, field| {
        found.push(String::from_utf8_lossy(field.unwrap_or_default()).into_owned());
        Ok(true)
    });
    read.map(|()| found).map_err(|reason| DataFusionError::Execution(reason.to_owned()))
}

fn bad(block: &Block, index: usize, reason: &str) -> DataFusionError {
    DataFusionError::Execution(format!("{}: {reason}", block.place(index)))
}

/// The column with NULL for empty texts: nothing but text can be empty.
pub(super) fn without_empty(text: &ArrayRef) -> ArrayRef {
    let text = text.as_string_view().iter().map(|text| text.filter(|text| !text.is_empty()));
    Arc::new(text.collect::<StringViewArray>())
}

fn end_of_field(rest: &[u8], delimiter: u8, escape: Option<u8>) -> usize {
    let Some(escape) = escape else { return rest.iter().position(|byte| *byte == delimiter).unwrap_or(rest.len()) };
    let mut at = 0;
    while at < rest.len() && rest[at] != delimiter {
        at += if rest[at] == escape { 2 } else { 1 };
    }
    at.min(rest.len())
}

fn unescape(raw: &[u8], escape: u8, out: &mut Vec<u8>) {
    let mut bytes = raw.iter();
    while let Some(byte) = bytes.next() {
        // An escape at the end stands for itself.
        out.push(if *byte == escape { *bytes.next().unwrap_or(byte) } else { *byte });
    }
}

/// Reads a field that begins with a quote; returns its length up to the delimiter.
fn unquote(
    rest: &[u8],
    quote: Option<u8>,
    escape: Option<u8>,
    delimiter: u8,
    out: &mut Vec<u8>,
) -> std::result::Result<usize, &'static str> {
    let mut at = 1;
    loop {
        match rest.get(at).copied() {
            None => return Err("a quote is not closed (if values hold line ends, say 'multiline' = 'true' in SERDEPROPERTIES)"),
            Some(byte) if Some(byte) == escape => {
                out.push(rest.get(at + 1).copied().unwrap_or(byte));
                at += 2;
            }
            Some(byte) if Some(byte) == quote => {
                if rest.get(at + 1).copied() != quote {
                    break;
                }
                out.push(byte);
                at += 2;
            }
            Some(byte) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    // What follows the closing quote belongs to the field all the same.
    let tail = &rest[at + 1..];
    let length = tail.iter().position(|byte| *byte == delimiter).unwrap_or(tail.len());
    out.extend_from_slice(&tail[..length]);
    Ok(at + 1 + length)
}
