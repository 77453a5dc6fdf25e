//! Batches that hold on to no more than they show, where they are written down or counted by what they hold.
//!
//! A slice keeps what it was cut from, and a view of text the page that it was read from: rows of a large aggregation, which are handed out
//! as slices, would be written or counted as all of them, many times.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions, UInt64Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{ByteViewType, DataType};
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;

use crate::transparent::Around;

/// Compacts what an operator gives.
#[derive(Debug, Clone)]
pub struct Compact;

impl Around for Compact {
    fn rows(&self, execute: impl FnOnce() -> Result<SendableRecordBatchStream>) -> Result<SendableRecordBatchStream> {
        let rows = execute()?;
        Ok(Box::pin(RecordBatchStreamAdapter::new(rows.schema(), rows.and_then(async |batch| compact(&batch)))))
    }
}

fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(compact_column).collect::<Result<_>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &rows)?)
}

/// Copies what is shown if it is less than half of what is held.
fn compact_column(column: &ArrayRef) -> Result<ArrayRef> {
    let shown = match column.data_type() {
        DataType::Utf8View => shown_bytes(column.as_string_view()),
        DataType::BinaryView => shown_bytes(column.as_binary_view()),
        _ => column.to_data().get_slice_memory_size()?,
    };
    if column.get_array_memory_size() <= 2 * shown {
        return Ok(Arc::clone(column));
    }
    let copy = take(column, &UInt64Array::from_iter_values(0..column.len() as u64), None)?;
    Ok(match copy.data_type() {
        DataType::Utf8View => Arc::new(copy.as_string_view().gc()),
        DataType::BinaryView => Arc::new(copy.as_binary_view().gc()),
        _ => copy,
    })
}

fn shown_bytes<T: ByteViewType>(views: &GenericByteViewArray<T>) -> usize {
    size_of_val(&**views.views()) + views.total_buffer_bytes_used()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringArray, StringViewArray};

    use super::*;

    #[test]
    fn a_batch_holds_what_it_shows() {
        let texts = || (0..10_000).map(|number| format!("a text that is not kept in the view: {number}"));
        let columns: [(&str, ArrayRef); 4] = [
            ("views", Arc::new(StringViewArray::from_iter_values(texts()))),
            ("short", Arc::new(StringViewArray::from_iter_values((0..10_000).map(|number| number.to_string())))),
            ("texts", Arc::new(StringArray::from_iter_values(texts()))),
            ("numbers", Arc::new(Int64Array::from_iter((0..10_000).map(|number| (number % 3 > 0).then_some(number))))),
        ];
        let whole = RecordBatch::try_from_iter(columns).unwrap();
        let few = whole.slice(10, 100);
        let compacted = compact(&few).unwrap();
        assert_eq!(compacted, few);
        for (held, now) in few.columns().iter().zip(compacted.columns()) {
            assert!(held.get_array_memory_size() > 80_000 && now.get_array_memory_size() < 16_000, "{held:?}");
        }
        let untouched = compact(&compacted).unwrap();
        let same = |(one, other): (&ArrayRef, &ArrayRef)| Arc::ptr_eq(one, other);
        assert!(compacted.columns().iter().zip(untouched.columns()).all(same), "what holds little is not copied");
    }
}
