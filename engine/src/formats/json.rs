//! JSON lines made columns.

mod texts;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::ReaderBuilder;
use datafusion::error::{DataFusionError, Result};

use super::BadRecords;
use super::records::Block;

/// Makes columns of objects, one per line.
#[derive(Debug)]
pub(super) struct Decoder {
    /// The columns that are wanted.
    schema: SchemaRef,
    /// As files name them.
    fields: SchemaRef,
    bad_records: BadRecords,
    /// Whether columns of text got objects or lists, as they may again.
    has_nested_texts: AtomicBool,
}

/// Columns under the names that files have for them.
pub(super) fn as_in_files(schema: &Schema, fields: &HashMap<String, String>) -> SchemaRef {
    let named = |field: &Arc<Field>| match fields.get(field.name()) {
        Some(name) => Arc::new(field.as_ref().clone().with_name(name)),
        None => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().map(named).collect::<Vec<_>>()))
}

fn is_blank(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
}

impl Decoder {
    pub(super) fn new(schema: SchemaRef, fields: &HashMap<String, String>, bad_records: BadRecords) -> Self {
        Self { fields: as_in_files(&schema, fields), schema, bad_records, has_nested_texts: AtomicBool::new(false) }
    }

    /// Errors: `Execution` that names the line, if lines that cannot be read are errors.
    pub(super) fn decode(&self, block: &Block) -> Result<RecordBatch> {
        let rows = block.records().filter(|line| !is_blank(line)).count();
        if self.fields.fields().is_empty() {
            return self.batch(Vec::new(), rows);
        }
        match self.read(block.data(), rows) {
            Ok(Some(batch)) => self.batch(batch.columns().to_vec(), rows),
            // Line by line, to find the ones that are no objects of their own.
            Ok(None) | Err(_) => self.decode_lines(block, rows),
        }
    }

    fn decode_lines(&self, block: &Block, rows: usize) -> Result<RecordBatch> {
        let mut good = Vec::with_capacity(block.data().len());
        for (index, line) in block.records().enumerate().filter(|(_, line)| !is_blank(line)) {
            let reason = match self.read(line, 1) {
                Ok(Some(_)) => {
                    good.extend_from_slice(line);
                    good.push(b'\n');
                    continue;
                }
                Ok(None) => "it is not one JSON object".to_owned(),
                Err(error) => error.to_string(),
            };
            match self.bad_records {
                BadRecords::Null => good.extend_from_slice(b"{}\n"),
                _ => return Err(DataFusionError::Execution(format!("{}: {reason}", block.place(index)))),
            }
        }
        match self.read(&good, rows)? {
            Some(batch) => self.batch(batch.columns().to_vec(), rows),
            None => Err(DataFusionError::Internal("lines of JSON that were read one by one cannot be read together".to_owned())),
        }
    }

    /// The objects of some text; none if there are not so many as `rows`.
    fn read(&self, text: &[u8], rows: usize) -> std::result::Result<Option<RecordBatch>, ArrowError> {
        let is_lenient = self.bad_records == BadRecords::Null;
        let found = match self.has_nested_texts.load(Ordering::Relaxed) {
            true => None,
            false => Some(self.parse(text, rows, false)),
        };
        if let Some(Ok(found)) = found {
            return Ok(found);
        }
        match (texts::quoted(text, |name| self.is_text(name)), found) {
            (Some(text), _) => {
                self.has_nested_texts.store(true, Ordering::Relaxed);
                self.parse(&text, rows, is_lenient)
            }
            (None, Some(found)) if !is_lenient => found,
            (None, _) => self.parse(text, rows, is_lenient),
        }
    }

    /// Whether a field goes into a column of text.
    fn is_text(&self, name: &[u8]) -> bool {
        let column = std::str::from_utf8(name).ok().and_then(|name| self.fields.column_with_name(name));
        column.is_some_and(|(_, field)| matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
    }

    fn parse(&self, text: &[u8], rows: usize, is_lenient: bool) -> std::result::Result<Option<RecordBatch>, ArrowError> {
        let mut decoder = ReaderBuilder::new(Arc::clone(&self.fields))
            .with_batch_size(rows + 1)
            .with_coerce_primitive(true)
            .with_ignore_type_conflicts(is_lenient)
            .build_decoder()?;
        let used = decoder.decode(text)?;
        if decoder.has_partial_record() || used < text.len() {
            return Ok(None);
        }
        let batch = decoder.flush()?;
        Ok(match batch {
            Some(batch) if batch.num_rows() == rows => Some(batch),
            None if rows == 0 => Some(RecordBatch::new_empty(Arc::clone(&self.fields))),
            _ => None,
        })
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }
}
