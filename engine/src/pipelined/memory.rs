//! What one attempt may hold of a process's memory.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation, human_readable_size};

use super::fate::{Ending, Fate};

/// Names of consumers that only count what they hold already: buffers of exchanges, and build sides that every task of a stage reads.
const BUFFERS: [&str; 3] = ["WorkerConnection", "NetworkBoundary", "BroadcastExec["];

fn is_buffer(reservation: &MemoryReservation) -> bool {
    let name = reservation.consumer().name();
    BUFFERS.iter().any(|buffer| name.starts_with(buffer))
}

/// Room beside a process's pool for buffers, which cannot be refused. What does not fit is booked to the pool, so that operators spill.
#[derive(Debug)]
pub struct HeadRoom {
    bytes: usize,
    used: AtomicUsize,
    overflow: Mutex<MemoryReservation>,
}

impl HeadRoom {
    /// Room for `bytes` beside `pool`.
    pub fn new(pool: &Arc<dyn MemoryPool>, bytes: usize) -> Arc<Self> {
        let overflow = MemoryConsumer::new("exchange buffers").register(pool);
        Arc::new(Self { bytes, used: AtomicUsize::new(0), overflow: Mutex::new(overflow) })
    }

    /// Bytes that buffers hold.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn grow(&self, bytes: usize) {
        if self.used.fetch_add(bytes, Ordering::Relaxed) + bytes > self.bytes {
            self.settle();
        }
    }

    fn shrink(&self, bytes: usize) {
        if self.used.fetch_sub(bytes, Ordering::Relaxed) > self.bytes {
            self.settle();
        }
    }

    fn settle(&self) {
        let overflow = self.overflow.lock().unwrap_or_else(PoisonError::into_inner);
        overflow.resize(self.used().saturating_sub(self.bytes));
    }
}

/// A share of a process's pool: what is reserved is booked to both.
#[derive(Debug)]
pub struct Share {
    share: Arc<dyn MemoryPool>,
    process: Arc<dyn MemoryPool>,
}

impl Share {
    /// Memory that both `share` and `process` must have.
    pub fn new(share: Arc<dyn MemoryPool>, process: Arc<dyn MemoryPool>) -> Self {
        Self { share, process }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.share, self.process)
    }
}

impl MemoryPool for Share {
    fn name(&self) -> &str {
        "share"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.share.register(consumer);
        self.process.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.share.unregister(consumer);
        self.process.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.share.grow(reservation, additional);
        self.process.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.share.shrink(reservation, shrink);
        self.process.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.share.try_grow(reservation, additional)?;
        self.process.try_grow(reservation, additional).inspect_err(|_| self.share.shrink(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.share.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.share.memory_limit()
    }
}

/// The memory of one attempt in one process: a share that is divided evenly among operators that can spill, and buffers.
#[derive(Debug)]
pub struct QueryPool {
    operators: Share,
    bytes: usize,
    head_room: Arc<HeadRoom>,
    buffered: AtomicUsize,
    fate: Fate,
}

impl QueryPool {
    /// At most `bytes` of `process`, and as much in buffers: who buffers more ends as exhausted. Nothing is handed out after the ending.
    pub fn new(bytes: usize, process: Arc<dyn MemoryPool>, head_room: Arc<HeadRoom>, fate: Fate) -> Self {
        let operators = Share::new(Arc::new(FairSpillPool::new(bytes)), process);
        Self { operators, bytes, head_room, buffered: AtomicUsize::new(0), fate }
    }

    fn buffer(&self, bytes: usize) {
        self.head_room.grow(bytes);
        let buffered = self.buffered.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if buffered > self.bytes {
            let (buffered, limit) = (human_readable_size(buffered), human_readable_size(self.bytes));
            self.fate.end(Ending::Exhausted(format!(
                "the query holds {buffered} of rows for other executors, which cannot be spilled, and may hold {limit}; \
                 SET windlass.engine = staged keeps them on disk"
            )));
        }
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operators.fmt(f)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.operators.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.operators.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        match is_buffer(reservation) {
            true => self.buffer(additional),
            false => self.operators.grow(reservation, additional),
        }
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        if is_buffer(reservation) {
            self.buffered.fetch_sub(shrink, Ordering::Relaxed);
            return self.head_room.shrink(shrink);
        }
        self.operators.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.fate.check()?;
        if is_buffer(reservation) {
            self.buffer(additional);
            return Ok(());
        }
        self.operators.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.operators.reserved() + self.buffered.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.operators.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::error::DataFusionError;
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn queries_share_and_buffers_are_never_refused() {
        let process: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let head_room = HeadRoom::new(&process, 10);
        let query = |fate: &Fate| -> Arc<dyn MemoryPool> {
            Arc::new(QueryPool::new(80, Arc::clone(&process), Arc::clone(&head_room), fate.clone()))
        };
        let (fate, other) = (Fate::default(), Fate::default());
        let (pool, second) = (query(&fate), query(&other));

        let sorts: Vec<_> = (0..2).map(|i| MemoryConsumer::new(format!("sort {i}")).with_can_spill(true).register(&pool)).collect();
        sorts[0].try_grow(40).unwrap();
        assert!(sorts[0].try_grow(1).is_err(), "half of the share each");
        sorts[1].try_grow(40).unwrap();
        let join = MemoryConsumer::new("join").register(&second);
        assert!(join.try_grow(21).is_err(), "the process has 20 left");
        assert_eq!((second.reserved(), process.reserved()), (0, 80));
        join.try_grow(20).unwrap();

        let buffer = MemoryConsumer::new("NetworkBoundary").register(&pool);
        buffer.grow(10);
        assert_eq!((head_room.used(), process.reserved()), (10, 100));
        buffer.grow(15);
        assert_eq!((head_room.used(), process.reserved()), (25, 115), "what does not fit beside the pool is booked to it");
        buffer.shrink(20);
        assert_eq!((head_room.used(), process.reserved()), (5, 100));
        assert!(fate.check().is_ok());

        let broadcast = MemoryConsumer::new("BroadcastExec[3]").clone_with_new_id().register(&pool);
        broadcast.grow(76);
        assert!(matches!(fate.check(), Err(DataFusionError::ResourcesExhausted(_))));
        assert!(sorts[1].try_grow(0).is_err(), "nothing after the ending");
        assert!(other.check().is_ok());
        drop((sorts, buffer, broadcast, join));
        assert_eq!((head_room.used(), process.reserved(), pool.reserved()), (0, 0, 0));
    }
}
