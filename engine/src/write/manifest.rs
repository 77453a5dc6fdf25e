//! What a write tells of its files: one line each.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{ScalarValue, Statistics};
use datafusion::error::{DataFusionError, Result};
use datafusion_proto_common::protobuf_common;
use prost::Message;

use super::WriteSpec;
use crate::evolution::plain_type;

/// Columns before those of the partition's keys.
const FIXED: [(&str, DataType); 8] = [
    ("path", DataType::Utf8),
    ("directory", DataType::Utf8),
    ("size", DataType::Int64),
    ("modified_ms", DataType::Int64),
    ("etag", DataType::Utf8),
    ("rows", DataType::Int64),
    ("changed", DataType::Int64),
    ("statistics", DataType::Binary),
];

/// A file that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestLine {
    /// Path in its object store.
    pub path: String,
    /// Path of its partition's directory, without a trailing slash.
    pub directory: String,
    /// Bytes.
    pub size: i64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// What the store says identifies the content.
    pub etag: Option<String>,
    /// Rows.
    pub rows: i64,
    /// Sum of the rows' marks.
    pub changed: i64,
    /// By column of the file; none where the format has none.
    pub statistics: Option<Statistics>,
    /// Values of the partition's keys.
    pub keys: Vec<ScalarValue>,
}

/// The columns of the manifest of an input with these columns.
pub fn manifest_schema(input: &Schema, spec: &WriteSpec) -> SchemaRef {
    let first = spec.file_columns(input.fields().len());
    let keys = input.fields()[first..first + spec.keys as usize].iter().enumerate();
    let keys = keys.map(|(index, field)| Field::new(format!("key_{index}"), plain_type(field.data_type()), true));
    let fixed = FIXED.into_iter().map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fixed.chain(keys).collect::<Vec<_>>()))
}

impl ManifestLine {
    /// Lines as rows of [`manifest_schema`].
    pub(super) fn encode(lines: &[Self], schema: &SchemaRef) -> Result<RecordBatch> {
        let text = |get: fn(&Self) -> Option<&str>| Arc::new(lines.iter().map(get).collect::<StringArray>()) as ArrayRef;
        let number = |get: fn(&Self) -> i64| Arc::new(lines.iter().map(|line| Some(get(line))).collect::<Int64Array>()) as ArrayRef;
        let statistics = |line: &Self| line.statistics.as_ref().map(|known| protobuf_common::Statistics::from(known).encode_to_vec());
        let mut columns = vec![
            text(|line| Some(&line.path)),
            text(|line| Some(&line.directory)),
            number(|line| line.size),
            number(|line| line.modified_ms),
            text(|line| line.etag.as_deref()),
            number(|line| line.rows),
            number(|line| line.changed),
            Arc::new(lines.iter().map(statistics).collect::<BinaryArray>()),
        ];
        for (index, field) in schema.fields().iter().skip(FIXED.len()).enumerate() {
            let values = lines.iter().map(|line| line.keys[index].clone());
            columns.push(if lines.is_empty() {
                datafusion::arrow::array::new_empty_array(field.data_type())
            } else {
                ScalarValue::iter_to_array(values)?
            });
        }
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }

    /// The lines in rows that [`encode`](Self::encode) made. Errors: they are something else.
    pub fn decode(batch: &RecordBatch) -> Result<Vec<Self>> {
        let wrong = || DataFusionError::Internal("these rows are no manifest".to_owned());
        let fields = batch.schema();
        if fields.fields().len() < FIXED.len()
            || fields.fields().iter().zip(&FIXED).any(|(field, (_, data_type))| field.data_type() != data_type)
        {
            return Err(wrong());
        }
        let text = |column: usize, row: usize| {
            let column = batch.column(column).as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let number = |column: usize, row: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
        let statistics = |row: usize| {
            let column = batch.column(7).as_binary::<i32>();
            let message = column.is_valid(row).then(|| protobuf_common::Statistics::decode(column.value(row)));
            let message = message.transpose().map_err(|cause| DataFusionError::External(Box::new(cause)))?;
            message.map(|message| Statistics::try_from(&message)).transpose()
        };
        let line = |row: usize| {
            Ok(Self {
                path: text(0, row).ok_or_else(wrong)?,
                directory: text(1, row).ok_or_else(wrong)?,
                size: number(2, row),
                modified_ms: number(3, row),
                etag: text(4, row),
                rows: number(5, row),
                changed: number(6, row),
                statistics: statistics(row)?,
                keys: batch.columns()[FIXED.len()..]
                    .iter()
                    .map(|column| ScalarValue::try_from_array(column, row))
                    .collect::<Result<_>>()?,
            })
        };
        (0..batch.num_rows()).map(line).collect()
    }
}
