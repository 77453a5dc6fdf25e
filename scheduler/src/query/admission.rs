//! How many queries run at one time, and how many may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use windlass_proto::Kind;

use super::QueryLimits;
use crate::error::{Error, Result};
use crate::metrics::{QUERIES_QUEUED, QUERIES_RUNNING};

/// One gate per engine, so that metadata queries do not wait for large ones; one queue length over both.
#[derive(Debug)]
pub struct Admissions {
    local: Arc<Admission>,
    staged: Arc<Admission>,
}

impl Admissions {
    /// Gates with these limits.
    pub fn new(limits: &QueryLimits) -> Self {
        let waiting = Arc::new(AtomicUsize::new(0));
        let gate = |running_max| {
            let running = Arc::new(Semaphore::new(running_max));
            Arc::new(Admission { running, waiting: Arc::clone(&waiting), waiting_max: limits.queued_max })
        };
        Self { local: gate(limits.local_running_max), staged: gate(limits.staged_running_max) }
    }

    /// The gate of an engine; those on the executors share one, and so do the local one and statements that need none.
    pub fn of(&self, engine: &str) -> Arc<Admission> {
        match engine {
            "pipelined" | "staged" => Arc::clone(&self.staged),
            _ => Arc::clone(&self.local),
        }
    }
}

/// Lets in as many as may run, in the order they came, and a bounded number wait.
#[derive(Debug)]
pub struct Admission {
    running: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    waiting_max: usize,
}

/// A place among the running; dropping it lets the next one in.
#[derive(Debug)]
pub struct Admitted {
    _place: OwnedSemaphorePermit,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        gauge!(QUERIES_RUNNING).decrement(1.0);
    }
}

/// A place in the queue.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
        gauge!(QUERIES_QUEUED).decrement(1.0);
    }
}

impl Admission {
    /// Waits for a place; `on_wait` is told if there is none at once. Dropping the future leaves the queue.
    ///
    /// Errors: `Exhausted` when the queue is full.
    pub async fn enter(&self, on_wait: impl FnOnce()) -> Result<Admitted> {
        let place = match Arc::clone(&self.running).try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let full = self
                    .waiting
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < self.waiting_max).then_some(count + 1))
                    .is_err();
                if full {
                    return Err(Error::new(Kind::Exhausted, format!("{} queries wait already", self.waiting_max))
                        .with_hint("try again when some have ended"));
                }
                gauge!(QUERIES_QUEUED).increment(1.0);
                let _waiting = Waiting(Arc::clone(&self.waiting));
                on_wait();
                Arc::clone(&self.running).acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        gauge!(QUERIES_RUNNING).increment(1.0);
        Ok(Admitted { _place: place })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_and_left_when_dropped() {
        let gates = Admissions::new(&QueryLimits { staged_running_max: 1, queued_max: 1, ..QueryLimits::default() });
        let gate = gates.of("staged");
        let first = gate.enter(|| panic!("no need to wait")).await.unwrap();
        let mut waited = false;
        let mut second = Box::pin(gate.enter(|| waited = true));
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(gate.enter(|| {}).await.unwrap_err().kind(), Kind::Exhausted);
        drop(second);
        assert!(waited);
        let third = gate.enter(|| {});
        drop(first);
        third.await.unwrap();
        gates.of("local").enter(|| panic!("another gate")).await.unwrap();
    }
}
