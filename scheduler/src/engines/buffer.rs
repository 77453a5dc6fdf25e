//! Rows between the one that produces them and those that read them.
//!
//! Few rows are kept whole: the producer ends by itself, and everybody may read them, again and again. Above the limit the producer waits
//! for its readers, and rows go when the slowest of them has passed: a reader who comes then is too late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use windlass_engine::answer::messages::Rows;
use windlass_proto::Kind;

use crate::engines::Answer;
use crate::error::{Error, Result};

/// Rows of one run.
#[derive(Debug)]
pub struct Buffer {
    schema: SchemaRef,
    state: watch::Sender<State>,
}

#[derive(Debug)]
struct State {
    bytes_max: usize,
    reservation: MemoryReservation,
    /// With the bytes that are reserved for each: none for one that alone is too large.
    rows: VecDeque<(Rows, usize)>,
    /// Batches that are gone already.
    gone: usize,
    /// The next batch of each reader.
    readers: BTreeMap<u64, usize>,
    readers_ever: u64,
    /// Whether the producer waits for readers.
    full: bool,
    ended: Option<Result<()>>,
}

impl State {
    /// Takes a batch in if there is room; whether anything changed.
    fn take(&mut self, rows: &mut Option<Rows>) -> bool {
        let Some(bytes) = rows.as_ref().map(Rows::memory_size) else { return false };
        if self.ended.is_some() {
            *rows = None;
            return false;
        }
        let mut reserved = self.reserve(bytes);
        if reserved.is_none() {
            self.forget();
            reserved = self.reserve(bytes).or_else(|| self.rows.is_empty().then_some(0));
        }
        let waited = std::mem::replace(&mut self.full, reserved.is_none());
        if let Some(reserved) = reserved {
            self.rows.extend(rows.take().map(|rows| (rows, reserved)));
        }
        reserved.is_some() || !waited
    }

    fn reserve(&self, bytes: usize) -> Option<usize> {
        let fits = self.reservation.size() + bytes <= self.bytes_max && self.reservation.try_grow(bytes).is_ok();
        fits.then_some(bytes)
    }

    /// Lets go of what all readers have passed.
    fn forget(&mut self) {
        let passed = self.readers.values().min().map_or(0, |next| next.saturating_sub(self.gone));
        let bytes: usize = self.rows.drain(..passed).map(|(_, reserved)| reserved).sum();
        self.gone += passed;
        self.reservation.shrink(bytes);
    }

    fn end(&mut self, outcome: Result<()>) {
        self.full = false;
        self.ended.get_or_insert(outcome);
    }
}

impl Buffer {
    /// An empty buffer with its writer. It keeps up to `bytes_max`, less if `pool` has no more to give.
    pub fn new(schema: SchemaRef, bytes_max: usize, pool: &Arc<dyn MemoryPool>) -> (Arc<Self>, Writer) {
        let state = State {
            bytes_max,
            reservation: MemoryConsumer::new("rows to be read").register(pool),
            rows: VecDeque::new(),
            gone: 0,
            readers: BTreeMap::new(),
            readers_ever: 0,
            full: false,
            ended: None,
        };
        let buffer = Arc::new(Self { schema, state: watch::Sender::new(state) });
        (Arc::clone(&buffer), Writer(buffer))
    }

    /// Waits until all rows are produced. Errors: the producer's.
    pub async fn ended(&self) -> Result<()> {
        let mut changes = self.state.subscribe();
        let state = changes.wait_for(|state| state.ended.is_some()).await.expect("the buffer owns the sender");
        state.ended.clone().unwrap_or(Ok(()))
    }

    /// Waits until the producer waits for its readers.
    pub async fn full(&self) {
        let mut changes = self.state.subscribe();
        changes.wait_for(|state| state.full).await.expect("the buffer owns the sender");
    }

    /// The rows from the first, then the producer's error. Errors: `NotFound` when some rows are gone already.
    pub fn read(self: &Arc<Self>) -> Result<SendableRecordBatchStream> {
        let schema = Arc::clone(&self.schema);
        let batches = self.read_as_pushed()?.map(move |rows| rows?.unpack(&schema));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }

    /// The same as they were pushed.
    pub fn read_as_pushed(self: &Arc<Self>) -> Result<Answer> {
        let mut id = None;
        self.state.send_if_modified(|state| {
            if state.gone == 0 {
                state.readers_ever += 1;
                state.readers.insert(state.readers_ever, 0);
                id = Some(state.readers_ever);
            }
            false
        });
        let id = id.ok_or_else(|| {
            Error::new(Kind::NotFound, "the rows were read already, and are too many to be kept").with_hint("run the statement again")
        })?;
        let reader = Reader { changes: self.state.subscribe(), buffer: Arc::clone(self), id };
        let rows = stream::try_unfold(reader, |mut reader| async move {
            let rows = reader.next().await.map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(rows.map(|rows| (rows, reader)))
        });
        Ok(rows.boxed())
    }

    /// Drops all rows. Those who still read get an error.
    pub fn close(&self) {
        self.state.send_modify(|state| {
            state.full = false;
            state.ended = Some(Err(Error::new(Kind::NotFound, "the query is closed")));
            state.gone += state.rows.len() + 1;
            state.rows.clear();
            state.reservation.free();
        });
    }
}

/// The producer's end of a buffer.
#[derive(Debug)]
pub struct Writer(Arc<Buffer>);

impl Writer {
    /// Schema that pushed rows must have.
    pub fn schema(&self) -> &SchemaRef {
        &self.0.schema
    }

    /// Adds rows; waits while there is no room.
    pub async fn push(&self, rows: Rows) {
        let mut changes = self.0.state.subscribe();
        let mut rows = Some(rows);
        loop {
            self.0.state.send_if_modified(|state| state.take(&mut rows));
            if rows.is_none() {
                return;
            }
            changes.changed().await.expect("the buffer owns the sender");
        }
    }

    /// No rows follow.
    pub fn end(self, outcome: Result<()>) {
        self.0.state.send_modify(|state| state.end(outcome));
    }
}

impl Drop for Writer {
    /// Rows that merely stop would look complete.
    fn drop(&mut self) {
        let died = || Err(Error::internal("rows ended early: their producer died; the log of the scheduler says where"));
        self.0.state.send_if_modified(|state| {
            let dies = state.ended.is_none();
            if dies {
                state.end(died());
            }
            dies
        });
    }
}

struct Reader {
    buffer: Arc<Buffer>,
    id: u64,
    changes: watch::Receiver<State>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Rows>> {
        loop {
            let mut found = None;
            self.buffer.state.send_if_modified(|state| {
                let State { rows, gone, readers, ended, .. } = state;
                let next = readers.entry(self.id).or_default();
                match (next.checked_sub(*gone).and_then(|index| rows.get(index)), ended) {
                    (Some((rows, _)), _) => {
                        *next += 1;
                        found = Some(Ok(Some(rows.clone())));
                    }
                    (None, Some(ended)) => found = Some(ended.clone().map(|()| None)),
                    (None, None) => {}
                }
                if found.is_some() && *gone > 0 {
                    state.forget();
                }
                // Only a producer that waits wants to know.
                found.is_some() && state.full
            });
            match found {
                Some(found) => return found,
                None => self.changes.changed().await.expect("the buffer owns the sender"),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.buffer.state.send_if_modified(|state| {
            state.readers.remove(&self.id);
            state.full
        });
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::common::utils::memory::get_record_batch_memory_size;
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use futures::{FutureExt, TryStreamExt};

    use super::*;

    /// Two columns that share their memory, as columns that came in one message do.
    fn batch(n: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![n; 100]));
        RecordBatch::try_from_iter([("n", Arc::clone(&column)), ("m", column)]).unwrap()
    }

    fn buffer(batches: usize) -> (Arc<Buffer>, Writer, Arc<dyn MemoryPool>) {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 20));
        let (buffer, writer) = Buffer::new(batch(0).schema(), batches * get_record_batch_memory_size(&batch(0)), &pool);
        (buffer, writer, pool)
    }

    #[tokio::test]
    async fn few_rows_are_kept_for_everybody() {
        let (buffer, writer, pool) = buffer(3);
        let early = buffer.read().unwrap();
        for n in 0..3 {
            writer.push(Rows::Batch(batch(n))).await;
        }
        assert!(buffer.full().now_or_never().is_none());
        writer.end(Ok(()));
        buffer.ended().await.unwrap();
        for rows in [early, buffer.read().unwrap(), buffer.read().unwrap()] {
            assert_eq!(rows.try_collect::<Vec<_>>().await.unwrap(), [batch(0), batch(1), batch(2)]);
        }
        let late = buffer.read().unwrap();
        buffer.close();
        assert!(late.try_collect::<Vec<_>>().await.is_err(), "rows that are gone are not an end");
        assert!(buffer.read().is_err());
        assert_eq!(pool.reserved(), 0);
    }

    #[tokio::test]
    async fn many_rows_wait_for_the_slowest_reader() {
        let (buffer, writer, pool) = buffer(2);
        let producer = tokio::spawn(async move {
            for n in 0..10 {
                writer.push(Rows::Batch(batch(n))).await;
            }
            writer.end(Err(Error::invalid("last")));
        });
        buffer.full().await;
        let (mut slow, mut fast) = (buffer.read().unwrap(), buffer.read().unwrap());
        assert_eq!(fast.try_next().await.unwrap(), Some(batch(0)));
        assert_eq!(fast.try_next().await.unwrap(), Some(batch(1)));
        tokio::task::yield_now().await;
        assert!(fast.try_next().now_or_never().is_none(), "the other reader holds the rows up");
        assert!(pool.reserved() <= 2 * get_record_batch_memory_size(&batch(0)));
        assert_eq!(slow.try_next().await.unwrap(), Some(batch(0)));
        assert_eq!(fast.try_next().await.unwrap(), Some(batch(2)));
        assert_eq!(pool.reserved(), 2 * get_record_batch_memory_size(&batch(0)), "what goes gives back what it took");
        assert_eq!(buffer.read().err().unwrap().kind(), Kind::NotFound);
        drop(slow);
        for n in 3..10 {
            assert_eq!(fast.try_next().await.unwrap(), Some(batch(n)));
        }
        assert!(fast.try_next().await.unwrap_err().to_string().contains("last"), "the error follows the rows");
        producer.await.unwrap();
    }

    #[tokio::test]
    async fn a_producer_that_dies_is_no_end() {
        let (buffer, writer, _) = buffer(2);
        writer.push(Rows::Batch(batch(0))).await;
        drop(writer);
        assert_eq!(buffer.ended().await.unwrap_err().kind(), Kind::Internal);
        let mut rows = buffer.read().unwrap();
        assert!(rows.try_next().await.unwrap().is_some());
        assert!(rows.try_next().await.is_err());
    }
}
