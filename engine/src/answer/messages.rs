//! Rows as messages of Arrow's IPC format, of up to two MiB, uncompressed and without dictionaries.
//!
//! arrow-flight's own encoder rewrites some types behind the promised schema and splits by the size of shared buffers, which makes
//! thousands of tiny messages of sliced batches; so batches are measured, joined and cut here, and encoded as they are.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use datafusion::arrow::array::{Array, AsArray, LargeBinaryArray, RecordBatch, RecordBatchOptions, UInt64Array};
use datafusion::arrow::buffer::{Buffer, OffsetBuffer};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::arrow::ipc::reader::read_record_batch;
use datafusion::arrow::ipc::root_as_message;
use datafusion::arrow::ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::error::{DataFusionError, Result};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use tokio::time::{Sleep, sleep};

/// Batches of fewer bytes wait for others: joining copies them, which costs more than a message does from here on.
const SMALL_BYTES: usize = 256 << 10;
/// Small batches are collected until they take this many bytes.
const MESSAGE_BYTES: usize = 1 << 20;
/// Larger batches are cut; only a single row may exceed this. Plain gRPC clients refuse more than 4 MiB.
const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// How long rows wait for more, so that the first ones are not late.
const HELD_MAX: Duration = Duration::from_millis(10);

/// Rows on their way to a client.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// As they were made.
    Batch(RecordBatch),
    /// As they will be sent.
    Message(Message),
}

impl Rows {
    /// How many.
    pub fn count(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.num_rows() as u64,
            Self::Message(message) => message.rows,
        }
    }

    /// Bytes that they hold on to.
    pub fn memory_size(&self) -> usize {
        match self {
            Self::Batch(batch) => get_record_batch_memory_size(batch),
            Self::Message(message) => message.header.len() + message.body.len(),
        }
    }

    /// Rows that can be computed with. Errors: a message that is not of `schema`.
    pub fn unpack(self, schema: &SchemaRef) -> Result<RecordBatch> {
        match self {
            Self::Batch(batch) => Ok(batch),
            Self::Message(message) => message.decode(schema),
        }
    }
}

/// A message of Arrow's IPC format that holds rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// How many.
    pub rows: u64,
    /// What it says of the body.
    pub header: Bytes,
    /// The columns.
    pub body: Bytes,
}

/// Schema of batches that carry messages between processes, one each.
pub static MESSAGES: LazyLock<SchemaRef> = LazyLock::new(|| {
    let field = |name, data_type| Field::new(name, data_type, false);
    let bytes = DataType::LargeBinary;
    Arc::new(Schema::new(vec![field("rows", DataType::UInt64), field("header", bytes.clone()), field("body", bytes)]))
});

impl Message {
    /// A batch of [`MESSAGES`]. Copies nothing.
    pub fn into_batch(self) -> Result<RecordBatch> {
        let column = |bytes: Bytes| LargeBinaryArray::new(OffsetBuffer::from_lengths([bytes.len()]), Buffer::from(bytes), None);
        let columns =
            [Arc::new(UInt64Array::from(vec![self.rows])) as _, Arc::new(column(self.header)) as _, Arc::new(column(self.body)) as _];
        Ok(RecordBatch::try_new(Arc::clone(&MESSAGES), columns.into())?)
    }

    /// The message in a batch. Copies nothing. Errors: it carries something else.
    pub fn from_batch(batch: &RecordBatch) -> Result<Self> {
        let carries = |what: &str| DataFusionError::Internal(format!("a batch that should carry one message carries {what}"));
        let [rows, header, body] = batch.columns() else { return Err(carries("other columns")) };
        let (Some(rows), Some(header), Some(body)) =
            (rows.as_primitive_opt::<UInt64Type>(), header.as_binary_opt::<i64>(), body.as_binary_opt::<i64>())
        else {
            return Err(carries("columns of other types"));
        };
        if batch.num_rows() != 1 {
            return Err(carries(&format!("{} rows", batch.num_rows())));
        }
        let bytes = |column: &LargeBinaryArray| {
            let (start, length) = (column.value_offsets()[0] as usize, column.value_length(0) as usize);
            Bytes::from_owner(Owner(column.values().slice_with_length(start, length)))
        };
        Ok(Self { rows: rows.value(0), header: bytes(header), body: bytes(body) })
    }

    fn decode(&self, schema: &SchemaRef) -> Result<RecordBatch> {
        let broken = |cause: String| DataFusionError::Internal(format!("a message of rows cannot be read: {cause}"));
        let header = root_as_message(&self.header).map_err(|cause| broken(cause.to_string()))?;
        let batch = header.header_as_record_batch().ok_or_else(|| broken("it holds no rows".to_owned()))?;
        let body = Buffer::from(self.body.clone());
        Ok(read_record_batch(&body, batch, Arc::clone(schema), &HashMap::new(), None, &header.version())?)
    }
}

struct Owner(Buffer);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The messages of rows, after the first one of a stream, which tells the schema. `rows` must have the types of `schema`; their field names
/// and metadata are replaced by its own.
pub fn pack<E: From<DataFusionError>>(
    schema: SchemaRef,
    rows: BoxStream<'static, Result<Rows, E>>,
) -> impl Stream<Item = Result<Message, E>> + Send + Unpin {
    let mut encoder = Encoder::default();
    let pieces = Rebatch { rows, schema, held: Vec::new(), held_bytes: 0, due: None, ready: VecDeque::new(), ended: false };
    pieces.map(move |piece| match piece? {
        Rows::Batch(batch) => Ok(encoder.encode(&batch)?),
        Rows::Message(message) => Ok(message),
    })
}

struct Encoder {
    options: IpcWriteOptions,
    tracker: DictionaryTracker,
    context: IpcWriteContext,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { options: IpcWriteOptions::default(), tracker: DictionaryTracker::new(false), context: IpcWriteContext::default() }
    }
}

impl Encoder {
    fn encode(&mut self, batch: &RecordBatch) -> Result<Message> {
        let (dictionaries, message) = IpcDataGenerator::default().encode(batch, &mut self.tracker, &self.options, &mut self.context)?;
        if !dictionaries.is_empty() {
            return Err(DataFusionError::Internal("clients are promised no dictionaries".to_owned()));
        }
        let EncodedData { ipc_message, arrow_data } = message;
        Ok(Message { rows: batch.num_rows() as u64, header: ipc_message.into(), body: arrow_data.into() })
    }
}

/// Joins small batches and cuts large ones. Messages pass.
struct Rebatch<E> {
    rows: BoxStream<'static, Result<Rows, E>>,
    schema: SchemaRef,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    /// When what is held goes out, full or not.
    due: Option<Pin<Box<Sleep>>>,
    ready: VecDeque<Rows>,
    ended: bool,
}

impl<E> Rebatch<E> {
    fn hold(&mut self, rows: Rows) -> Result<()> {
        let batch = match rows {
            Rows::Batch(batch) => batch,
            message => {
                self.release()?;
                self.ready.push_back(message);
                return Ok(());
            }
        };
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

impl<E: From<DataFusionError>> Stream for Rebatch<E> {
    type Item = Result<Rows, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(batch)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let moved = match self.rows.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(rows))) if rows.count() == 0 => Ok(()),
                Poll::Ready(Some(Ok(rows))) => self.hold(rows).map_err(E::from),
                Poll::Ready(Some(Err(error))) => Err(error),
                Poll::Ready(None) => {
                    self.ended = true;
                    self.release().map_err(E::from)
                }
                Poll::Pending if self.held.is_empty() => return Poll::Pending,
                Poll::Pending => {
                    ready!(self.due.get_or_insert_with(|| Box::pin(sleep(HELD_MAX))).as_mut().poll(cx));
                    self.release().map_err(E::from)
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
fn cut(batch: RecordBatch, pieces: &mut VecDeque<Rows>) {
    let size = bytes(&batch);
    if size <= MESSAGE_BYTES_MAX || batch.num_rows() <= 1 {
        pieces.push_back(Rows::Batch(batch));
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
    use datafusion::arrow::array::{Int64Array, StringArray};
    use futures::{TryStreamExt, stream};

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("i", DataType::Int64, true), Field::new("s", DataType::Utf8, true)]))
    }

    fn batch(rows: std::ops::Range<i64>, width: impl Fn(i64) -> usize) -> RecordBatch {
        let strings: StringArray = rows.clone().map(|i| Some("x".repeat(width(i)))).collect();
        RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(rows)), Arc::new(strings)]).unwrap()
    }

    async fn sizes_and_rows(batches: Vec<RecordBatch>) -> (Vec<usize>, i64) {
        let rows = stream::iter(batches.into_iter().map(|batch| Ok::<_, DataFusionError>(Rows::Batch(batch)))).boxed();
        let messages: Vec<Message> = pack(schema(), rows).try_collect().await.unwrap();
        let sizes = messages.iter().map(|message| message.body.len()).collect();
        let mut next = 0;
        for message in messages {
            let carried = Message::from_batch(&message.clone().into_batch().unwrap()).unwrap();
            assert_eq!(carried, message);
            let rows = carried.rows as i64;
            let batch = Rows::Message(carried).unpack(&schema()).unwrap();
            assert_eq!(batch.num_rows() as i64, rows);
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

    #[tokio::test]
    async fn messages_pass_between_batches() {
        let packed = |n| Message { rows: n, header: Bytes::from_static(b"header"), body: Bytes::from_static(b"body") };
        let rows = [Rows::Batch(batch(0..3, |_| 1)), Rows::Message(packed(5)), Rows::Message(packed(0)), Rows::Batch(batch(3..4, |_| 1))];
        let rows = stream::iter(rows.map(Ok::<_, DataFusionError>)).boxed();
        let messages: Vec<Message> = pack(schema(), rows).try_collect().await.unwrap();
        assert_eq!(messages.iter().map(|message| message.rows).collect::<Vec<_>>(), [3, 5, 1]);
        assert_eq!(messages[1], packed(5));
        assert!(Rows::Message(packed(1)).unpack(&schema()).is_err());
        assert!(Message::from_batch(&batch(0..1, |_| 1)).is_err());
    }
}
