//! Threads for parsing and planning: deep recursion needs a large stack, and long planning must not hold up the threads that serve.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use windlass_proto::Kind;

use super::PlanningLimits;
use crate::engines::{Engine, PlannedQuery, Run};
use crate::error::{Error, Result};

/// A bounded number of threads with large stacks, each made for one statement: that costs microseconds, and an idle stack nothing.
#[derive(Debug, Clone)]
pub(super) struct Threads {
    places: Arc<Semaphore>,
    stack_bytes: usize,
    timeout: Duration,
}

impl Threads {
    pub(super) fn new(limits: &PlanningLimits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.threads_max)),
            stack_bytes: limits.stack_bytes,
            timeout: Duration::from_secs(limits.timeout_seconds),
        }
    }

    /// Runs `work` on a thread of its own. Dropping the future stops the work where it next waits.
    ///
    /// Errors: those of the work; `Timeout`, also when no thread was free in time; `Internal` if the work panicked.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let planned = async {
            let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
            let (sender, receiver) = oneshot::channel();
            let cancelled = CancellationToken::new();
            let _guard = cancelled.clone().drop_guard();
            let (runtime, span) = (Handle::current(), Span::current());
            let thread = std::thread::Builder::new().name("windlass-planner".to_owned()).stack_size(self.stack_bytes);
            let body = move || {
                // A thread that is late keeps its place, so that hostile statements cannot pile up.
                let _place = place;
                if let Some(outcome) = runtime.block_on(cancelled.run_until_cancelled_owned(work.instrument(span))) {
                    // Nobody waits any more after a timeout.
                    let _ = sender.send(outcome);
                }
            };
            thread
                .spawn(body)
                .map_err(|cause| Error::new(Kind::Exhausted, format!("cannot start a thread to plan the statement: {cause}")))?;
            receiver.await.unwrap_or_else(|_| Err(Error::internal("planning of the statement panicked; the log says where")))
        };
        let late = || {
            Err(Error::new(Kind::Timeout, format!("planning took longer than {} s", self.timeout.as_secs()))
                .with_hint("make the statement simpler"))
        };
        tokio::time::timeout(self.timeout, planned).await.unwrap_or_else(|_| late())
    }
}

/// An engine that makes its physical plans on these threads.
#[derive(Debug)]
pub(super) struct OnThreads {
    engine: Arc<dyn Engine>,
    threads: Threads,
}

impl OnThreads {
    pub(super) fn new(engine: Arc<dyn Engine>, threads: Threads) -> Self {
        Self { engine, threads }
    }
}

#[async_trait]
impl Engine for OnThreads {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    async fn start(&self, query: PlannedQuery) -> Result<Arc<dyn Run>> {
        let engine = Arc::clone(&self.engine);
        self.threads.run(async move { engine.start(query).await }).await
    }

    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>> {
        let engine = Arc::clone(&self.engine);
        self.threads.run(async move { engine.explain(query).await }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recurse(depth: usize) -> usize {
        let frame = std::hint::black_box([depth; 64]);
        if depth == 0 { 0 } else { 1 + recurse(depth - 1) + frame[0] - depth }
    }

    #[tokio::test]
    async fn stacks_are_large_and_panics_and_delays_are_errors() {
        let threads = Threads::new(&PlanningLimits { threads_max: 1, timeout_seconds: 1, ..PlanningLimits::default() });
        // Some 30 MiB of frames: more than any default stack.
        assert_eq!(threads.run(async { Ok(recurse(50_000)) }).await.unwrap(), 50_000);
        assert_eq!(threads.run(async { Err::<(), _>(Error::invalid("no")) }).await.unwrap_err().kind(), Kind::Invalid);
        assert_eq!(threads.run::<()>(async { panic!("on purpose") }).await.unwrap_err().kind(), Kind::Internal);
        assert_eq!(threads.run::<()>(std::future::pending()).await.unwrap_err().kind(), Kind::Timeout);
        // The place of the one that was late is free again.
        assert_eq!(threads.run(async { Ok(7) }).await.unwrap(), 7);
    }
}
