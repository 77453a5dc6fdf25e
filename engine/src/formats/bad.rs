//! Records that cannot be read: told from the others, and made rows of their own.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};

use super::records::Block;

/// Bytes of a record that are kept.
const RECORD_BYTES_MAX: usize = 4096;

/// What is said of a record that cannot be read: the path of its file, its line, why, and how it begins.
pub fn bad_records_schema() -> SchemaRef {
    let field = |(name, data_type)| Field::new(name, data_type, true);
    let columns = [("file", DataType::Utf8), ("line", DataType::Int64), ("reason", DataType::Utf8), ("record", DataType::Utf8)];
    Arc::new(Schema::new(columns.map(field).to_vec()))
}

/// A record that cannot be read.
#[derive(Debug)]
pub(super) struct BadRecord {
    line: Option<u64>,
    reason: String,
    record: String,
}

/// The rows of a block, and the records that are none. `decode` is strict: it fails if any record cannot be read.
pub(super) fn judge(block: &Block, decode: impl Fn(&Block) -> Result<RecordBatch>) -> Result<(RecordBatch, Vec<BadRecord>)> {
    if let Ok(rows) = decode(block) {
        return Ok((rows, Vec::new()));
    }
    let (mut good, mut bad) = (Vec::with_capacity(block.len()), Vec::new());
    for index in 0..block.len() {
        match decode(&block.only(&[index])) {
            Ok(_) => good.push(index),
            Err(error) => bad.push(BadRecord::of(block, index, &error)),
        }
    }
    Ok((decode(&block.only(&good))?, bad))
}

impl BadRecord {
    fn of(block: &Block, index: usize, error: &DataFusionError) -> Self {
        let text = match error {
            DataFusionError::Execution(text) => text.clone(),
            other => other.strip_backtrace(),
        };
        let reason = text.strip_prefix(&format!("{}: ", block.place(index))).unwrap_or(&text).to_owned();
        let record = block.record(index);
        // Every database can keep it.
        let record = String::from_utf8_lossy(&record[..record.len().min(RECORD_BYTES_MAX)]).replace('\0', "\u{fffd}");
        Self { line: block.line(index), reason, record }
    }
}

/// Bad records of a file as rows of [`bad_records_schema`], with the types of `schema`.
pub(super) fn rows(file: &str, bad: &[BadRecord], schema: &SchemaRef) -> Result<RecordBatch> {
    let text = |get: fn(&BadRecord) -> &str| Arc::new(StringArray::from_iter_values(bad.iter().map(get))) as ArrayRef;
    let line = |bad: &BadRecord| bad.line.and_then(|line| i64::try_from(line).ok());
    let columns: [ArrayRef; 4] = [
        Arc::new(StringArray::from_iter_values(bad.iter().map(|_| format!("/{file}")))),
        Arc::new(bad.iter().map(line).collect::<Int64Array>()),
        text(|bad| &bad.reason),
        text(|bad| &bad.record),
    ];
    let columns = columns.iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect::<std::result::Result<_, _>>()?)?)
}
