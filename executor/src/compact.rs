//! Views of text that hold on to no more than they show, before they are written down.
//!
//! A view refers to the page that it was read from, and a batch that is written takes all its pages along: sorted rows would take those of
//! the whole table. Ballista's writer by hash compacts views, its plain writer does not.

use std::sync::Arc;

use ballista_core::execution_plans::ShuffleWriterExec;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{BinaryViewType, ByteViewType, DataType, StringViewType};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;

use crate::transparent::{Around, Transparent};

/// The stage, its rows compacted before a plain writer gets them.
pub fn compact_written_rows(stage: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    if !stage.is::<ShuffleWriterExec>() {
        return Ok(stage);
    }
    Transparent::below(stage, &Compact)
}

#[derive(Debug, Clone)]
struct Compact;

impl Around for Compact {
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
        let rows = execute()?;
        let schema = rows.schema();
        if !schema.fields().iter().any(|field| matches!(field.data_type(), DataType::Utf8View | DataType::BinaryView)) {
            return Ok(rows);
        }
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows.and_then(async |batch| compact(&batch)))))
    }
}

fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => compact_views::<StringViewType>(column),
        DataType::BinaryView => compact_views::<BinaryViewType>(column),
        _ => Arc::clone(column),
    });
    RecordBatch::try_new(batch.schema(), columns.collect()).map_err(DataFusionError::from)
}

/// Copies what is shown if it is less than half of what is held.
fn compact_views<T: ByteViewType>(column: &ArrayRef) -> ArrayRef {
    let views = column.as_byte_view::<T>();
    let held = views.data_buffers().iter().map(|buffer| buffer.len()).sum::<usize>();
    match held > 2 * views.total_buffer_bytes_used() {
        true => Arc::new(views.gc()),
        false => Arc::clone(column),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringViewArray;

    use super::*;

    #[test]
    fn a_batch_holds_what_it_shows() {
        let texts = StringViewArray::from_iter_values((0..1000).map(|number| format!("a text that is not kept in the view: {number}")));
        let few = RecordBatch::try_from_iter([("text", Arc::new(texts.slice(10, 2)) as ArrayRef)]).unwrap();
        let compacted = compact(&few).unwrap();
        assert_eq!(compacted, few);
        let held = |batch: &RecordBatch| batch.column(0).as_string_view().data_buffers().iter().map(|buffer| buffer.len()).sum::<usize>();
        assert!(held(&few) > 30_000 && held(&compacted) < 100);
    }
}
