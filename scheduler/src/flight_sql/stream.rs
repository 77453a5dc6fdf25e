//! Rows to Flight messages: the promised schema first, then batches of up to two MiB, uncompressed.
//!
//! arrow-flight's own encoder rewrites some types behind the promised schema and splits by the size of shared buffers, which makes
//! thousands of tiny messages of sliced batches; so batches are measured, joined and cut here, and encoded as they are.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow_flight::{FlightData, SchemaAsIpc};
use datafusion::arrow::array::{Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::rpc::Messages;
use crate::error::Result;

/// Batches of fewer bytes wait for others: joining copies them, which costs more than a message does from here on.
const SMALL_BYTES: usize = 256 << 10;
/// Small batches are collected until they take this many bytes.
const MESSAGE_BYTES: usize = 1 << 20;
/// Larger batches are cut; only a single row may exceed this. Plain gRPC clients refuse more than 4 MiB.
const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// How long rows wait for more, so that the first ones are not late.
const HELD_MAX: Duration = Duration::from_millis(10);

/// The messages of a result. `rows` must have the types of `schema`; their field names and metadata are replaced by its own.
pub(super) fn messages(schema: SchemaRef, rows: BoxStream<'static, Result<RecordBatch>>) -> Messages<FlightData> {
    let options = IpcWriteOptions::default();
    let first: FlightData = SchemaAsIpc::new(&schema, &options).into();
    let mut encoder = Encoder { options, tracker: DictionaryTracker::new(false), context: IpcWriteContext::default() };
    let batches = Rebatch { rows, schema, held: Vec::new(), held_bytes: 0, due: None, ready: VecDeque::new(), ended: false };
    let encoded = batches.flat_map(move |batch| match batch.and_then(|batch| encoder.encode(&batch)) {
        Ok(messages) => stream::iter(messages.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(Status::from(error))]),
    });
    stream::iter([Ok(first)]).chain(encoded).boxed()
}

struct Encoder {
    options: IpcWriteOptions,
    tracker: DictionaryTracker,
    context: IpcWriteContext,
}

impl Encoder {
    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<FlightData>> {
        let (dictionaries, rows) = IpcDataGenerator::default().encode(batch, &mut self.tracker, &self.options, &mut self.context)?;
        Ok(dictionaries.into_iter().chain([rows]).map(FlightData::from).collect())
    }
}

/// Joins small batches and cuts large ones.
struct Rebatch {
    rows: BoxStream<'static, Result<RecordBatch>>,
    schema: SchemaRef,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    /// When what is held goes out, full or not.
    due: Option<Pin<Box<Sleep>>>,
    ready: VecDeque<RecordBatch>,
    ended: bool,
}

impl Rebatch {
    fn hold(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), batch.columns().to_vec(), &rows)?;
        let size = bytes(&batch);
        if size >= SMALL_BYTES {
            self.release()?;
            cut(batch, &mut self.ready);
            return Ok(());
        }
        self.held_bytes += size;
        self.held.push(batch);
        match self.held_bytes >= MESSAGE_BYTES {
            true => self.release(),
            false => Ok(()),
        }
    }

    fn release(&mut self) -> Result<()> {
        if !self.held.is_empty() {
            let joined = match self.held.as_slice() {
                [batch] => batch.clone(),
                batches => concat_batches(&self.schema, batches)?,
            };
            self.held.clear();
            self.held_bytes = 0;
            self.due = None;
            cut(joined, &mut self.ready);
        }
        Ok(())
    }
}

impl Stream for Rebatch {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(batch)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let moved = match self.rows.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(batch))) if batch.num_rows() == 0 => Ok(()),
                Poll::Ready(Some(Ok(batch))) => self.hold(&batch),
                Poll::Ready(Some(Err(error))) => Err(error),
                Poll::Ready(None) => {
                    self.ended = true;
                    self.release()
                }
                Poll::Pending if self.held.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.due.get_or_insert_with(|| Box::pin(sleep(HELD_MAX))).as_mut().poll(cx));
                    self.release()
                }
            };
            if let Err(error) = moved {
                self.ended = true;
                self.ready.clear();
                return Poll::Ready(Some(Err(error)));
            }
        }
    }
}

/// Cuts by the mean size of a row; pieces that are still too large, because sizes vary, are cut again.
fn cut(batch: RecordBatch, pieces: &mut VecDeque<RecordBatch>) {
    let size = bytes(&batch);
    if size <= MESSAGE_BYTES_MAX || batch.num_rows() <= 1 {
        pieces.push_back(batch);
        return;
    }
    let step = (batch.num_rows() / size.div_ceil(MESSAGE_BYTES)).clamp(1, batch.num_rows() - 1);
    for start in (0..batch.num_rows()).step_by(step) {
        cut(batch.slice(start, step.min(batch.num_rows() - start)), pieces);
    }
}

/// Bytes that a batch takes on the wire: of a slice only what it covers.
fn bytes(batch: &RecordBatch) -> usize {
    let size = |column: &dyn Array| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    batch.columns().iter().map(|column| size(column.as_ref())).sum()
}

#[cfg(test)]
mod tests {

    use arrow_flight::decode::FlightRecordBatchStream;
    use datafusion::arrow::array::{Int64Array, StringArray};
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use futures::TryStreamExt;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("i", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]))
    }

    fn batch(rows: std::ops::Range<i64>, width: impl Fn(i64) -> usize) -> RecordBatch {
        let strings: StringArray = rows.clone().map(|i| Some("x".repeat(width(i)))).collect();
        RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(rows)), Arc::new(strings)]).unwrap()
    }

    async fn sizes_and_rows(batches: Vec<RecordBatch>) -> (Vec<usize>, i64) {
        let rows = stream::iter(batches.into_iter().map(Ok)).boxed();
        let messages: Vec<FlightData> = messages(schema(), rows).try_collect().await.unwrap();
        let sizes = messages[1..].iter().map(|message| message.data_body.len()).collect();
        let decoded = FlightRecordBatchStream::new_from_flight_data(stream::iter(messages.into_iter().map(Ok)));
        let decoded: Vec<RecordBatch> = decoded.try_collect().await.unwrap();
        let mut next = 0;
        for batch in &decoded {
            let column = batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
            for i in column.values() {
                assert_eq!(*i, next, "rows keep their order");
                next += 1;
            }
        }
        (sizes, next)
    }

    #[tokio::test]
    async fn slices_are_joined_and_large_batches_are_cut() {
        let wide = batch(0..100_000, |_| 10);
        let slices = (0..1000).map(|i| wide.slice(i * 100, 100)).collect();
        let (sizes, rows) = sizes_and_rows(slices).await;
        assert_eq!(rows, 100_000);
        assert!(sizes.len() <= 4, "{sizes:?}");

        let mixed = [0..100, 100..200, 200..60_000, 60_000..60_100].map(|rows| wide.slice(rows.start, rows.len()));
        let (sizes, rows) = sizes_and_rows(mixed.to_vec()).await;
        assert_eq!((sizes.len(), rows), (3, 60_100), "small ones are joined, large ones pass");

        let (sizes, rows) = sizes_and_rows(vec![batch(0..1000, |i| if i == 500 { 5 << 20 } else { 10_000 })]).await;
        assert_eq!(rows, 1000);
        assert_eq!(sizes.iter().filter(|size| **size > MESSAGE_BYTES_MAX + 4096).count(), 1, "only the giant row exceeds: {sizes:?}");
        assert!(sizes.len() < 40, "{sizes:?}");

        assert_eq!(sizes_and_rows(vec![]).await, (vec![], 0));
    }
}
