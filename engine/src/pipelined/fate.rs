//! Why the rest of an attempt must not run, or its rows must not count.
//!
//! `datafusion-distributed` spawns tasks whose end nobody awaits: a panic in one closes its channel, and its readers take that for the end
//! of the rows. So every thread knows whose code it runs ([`Fate::watch`]), tasks that DataFusion spawns inherit it, and the panic hook,
//! which runs before anything is unwound or closed, notes the panic in the fate. Whoever ends a stream of rows asks the fate first.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::task::{Context, Poll};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::runtime::{JoinSetTracer, set_join_set_tracer};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use windlass_proto::pulse::Pulse;

/// How the text of an error starts that stands for a panic. Errors cross processes as text.
pub const PANICKED: &str = "an operator or function panicked";

/// How the text of an error starts that stopped what nobody waits for any more.
const OVER: &str = "the query is over";

/// Why an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It was read to the end, cancelled or given up.
    Over,
    /// Code that ran for it panicked; the text is the panic's.
    Panicked(String),
    /// It holds more memory than it may and cannot be refused it.
    Exhausted(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Over => f.write_str(OVER),
            Self::Panicked(text) => write!(f, "{PANICKED}: {text}"),
            Self::Exhausted(text) => f.write_str(text),
        }
    }
}

impl From<&Ending> for DataFusionError {
    fn from(ending: &Ending) -> Self {
        match ending {
            Ending::Exhausted(text) => Self::ResourcesExhausted(text.clone()),
            ending => Self::Execution(ending.to_string()),
        }
    }
}

/// Whether an error, possibly of another process, stands for a panic.
pub fn is_panic(error: &DataFusionError) -> bool {
    error.to_string().contains(PANICKED)
}

/// What becomes of one attempt in this process. Cheap to clone; the first ending counts.
#[derive(Clone, Default)]
pub struct Fate(Arc<State>);

#[derive(Default)]
struct State {
    ending: OnceLock<Ending>,
    entered: AtomicU64,
    left: AtomicU64,
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fate").field(&self.ending()).finish()
    }
}

thread_local! {
    /// The fate of the attempt whose code this thread runs.
    static CURRENT: RefCell<Option<Fate>> = const { RefCell::new(None) };
}

impl Fate {
    /// Makes this process note panics. Call once, before anything runs; later calls do nothing.
    pub fn install() {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                note(info);
                previous(info);
            }));
            set_join_set_tracer(&Inherit).expect("nothing else traces the tasks that DataFusion spawns");
        });
    }

    /// Why the attempt ends; none while it runs.
    pub fn ending(&self) -> Option<&Ending> {
        self.0.ending.get()
    }

    /// Whether its code runs, and whether it has since another time.
    pub fn pulse(&self) -> Pulse {
        // In this order, so that code which comes and goes meanwhile is not missed.
        let left = self.0.left.load(Ordering::Acquire);
        Pulse { entered: self.0.entered.load(Ordering::Acquire), left, ..Pulse::default() }
    }

    /// Ends the attempt, unless it has an ending already.
    pub fn end(&self, ending: Ending) {
        // Losing the race to another ending is fine: one is enough.
        let _ = self.0.ending.set(ending);
    }

    /// An error once the attempt has an ending.
    pub fn check(&self) -> Result<()> {
        self.ending().map_or(Ok(()), |ending| Err(ending.into()))
    }

    /// Runs `f` as code of this attempt.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Restore<'a>(Option<Fate>, &'a State);
        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                self.1.left.fetch_add(1, Ordering::Release);
                let previous = self.0.take();
                // The thread may be ending, and its local values with it.
                let _ = CURRENT.try_with(|current| current.replace(previous));
            }
        }
        self.0.entered.fetch_add(1, Ordering::Release);
        let _restore = Restore(CURRENT.with(|current| current.replace(Some(self.clone()))), &self.0);
        f()
    }

    /// A future that runs as code of this attempt.
    pub fn watch<'a, T>(&self, mut future: BoxFuture<'a, T>) -> impl Future<Output = T> + Send + use<'a, T> {
        let fate = self.clone();
        std::future::poll_fn(move |cx| fate.enter(|| future.as_mut().poll(cx)))
    }

    /// Rows that are computed as code of this attempt: a panic is an error, and so is an end after something went wrong elsewhere.
    pub fn watch_rows(&self, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        Box::pin(Watched { schema: rows.schema(), rows: Some(rows), fate: self.clone() })
    }

    /// Runs `f` as code of this attempt; a panic is an error.
    pub fn catch<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        catch_unwind(AssertUnwindSafe(|| self.enter(f))).map_err(|panic| {
            // A panic that another thread passed on ran no hook here.
            self.end(Ending::Panicked(text_of(panic.as_ref())));
            self.ending().map_or_else(|| DataFusionError::Execution(PANICKED.to_owned()), DataFusionError::from)
        })
    }
}

/// The panic hook's part: runs on the thread that panics, before it unwinds.
fn note(info: &PanicHookInfo<'_>) {
    // The thread may be ending, or may panic while it changes the value.
    let fate = CURRENT.try_with(|current| current.try_borrow().ok()?.clone()).ok().flatten();
    if let Some(fate) = fate {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
        fate.end(Ending::Panicked(format!("{}{place}", text_of(info.payload()))));
    }
}

/// What a panic says.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

/// Tasks that DataFusion spawns are code of the attempt that spawned them.
struct Inherit;

fn current() -> Option<Fate> {
    CURRENT.with(|current| current.borrow().clone())
}

impl JoinSetTracer for Inherit {
    fn trace_future(&self, future: BoxFuture<'static, Box<dyn Any + Send>>) -> BoxFuture<'static, Box<dyn Any + Send>> {
        match current() {
            Some(fate) => Box::pin(fate.watch(future)),
            None => future,
        }
    }

    fn trace_block(&self, f: Box<dyn FnOnce() -> Box<dyn Any + Send> + Send>) -> Box<dyn FnOnce() -> Box<dyn Any + Send> + Send> {
        match current() {
            Some(fate) => Box::new(move || fate.enter(f)),
            None => f,
        }
    }
}

struct Watched {
    schema: SchemaRef,
    /// None once it ended: what panicked is not polled again.
    rows: Option<SendableRecordBatchStream>,
    fate: Fate,
}

impl Stream for Watched {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(rows) = &mut this.rows else { return Poll::Ready(None) };
        let polled = match this.fate.check() {
            Ok(()) => this.fate.catch(|| rows.poll_next_unpin(cx)),
            Err(error) => Err(error),
        };
        let last = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(batch)))) => return Poll::Ready(Some(Ok(batch))),
            Ok(Poll::Ready(Some(Err(error)))) => Some(Err(match this.fate.ending() {
                // Some operators report that a task of theirs panicked, in words of their own.
                Some(ending @ Ending::Panicked(_)) => ending.into(),
                _ => error,
            })),
            Ok(Poll::Ready(None)) => this.fate.check().err().map(Err),
            Err(error) => Some(Err(error)),
        };
        this.rows = None;
        Poll::Ready(last)
    }
}

impl RecordBatchStream for Watched {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::arrow::datatypes::Schema;
    use datafusion::common::runtime::SpawnedTask;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    use super::*;

    /// Rows whose sender panics in a task that nobody awaits.
    fn cut_short() -> SendableRecordBatchStream {
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::new_empty(Arc::clone(&schema));
        let started = futures::stream::once(async {
            let (sender, receiver) = tokio::sync::mpsc::channel(1);
            let nested = SpawnedTask::spawn(async move {
                let inner = SpawnedTask::spawn(async move {
                    sender.send(batch).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    panic!("row {} is odd", 7);
                });
                let _ = inner.await;
            });
            futures::stream::unfold((receiver, nested), async |(mut receiver, nested)| {
                Some((Ok(receiver.recv().await?), (receiver, nested)))
            })
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, Box::pin(started.flatten())))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_end_after_a_panic_elsewhere_is_an_error() {
        Fate::install();
        let batches: Vec<_> = cut_short().collect().await;
        assert!(batches.len() == 1 && batches[0].is_ok(), "without a fate it looks like a clean end");
        for _ in 0..100 {
            let fate = Fate::default();
            let batches: Vec<_> = fate.watch_rows(cut_short()).collect().await;
            let error = batches.last().unwrap().as_ref().unwrap_err();
            assert!(is_panic(error) && error.to_string().contains("row 7 is odd at engine/src"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_panic_while_polled_and_an_ending_are_errors() {
        Fate::install();
        let schema = Arc::new(Schema::empty());
        let adapter = |stream| Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), stream));
        let panics = futures::stream::poll_fn(|_| -> Poll<Option<Result<RecordBatch>>> { panic!("now") });
        let batches: Vec<_> = Fate::default().watch_rows(adapter(panics.boxed())).collect().await;
        assert!(batches.len() == 1 && is_panic(batches[0].as_ref().unwrap_err()));

        let fate = Fate::default();
        fate.end(Ending::Exhausted("too much".to_owned()));
        fate.end(Ending::Over);
        let batches: Vec<_> = fate.watch_rows(adapter(futures::stream::pending().boxed())).collect().await;
        assert!(matches!(batches[0], Err(DataFusionError::ResourcesExhausted(ref text)) if text == "too much"));
        // Another attempt's panic is not ours.
        assert!(Fate::default().check().is_ok());
    }

    #[tokio::test]
    async fn code_that_runs_has_a_pulse_and_code_that_waits_has_none() {
        let fate = Fate::default();
        let before = fate.pulse();
        assert!(!before.is_busy());
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let mut waiting = Box::pin(fate.watch(Box::pin(receiver)));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        let waits = fate.pulse();
        assert!(!waits.is_busy() && waits != before);
        assert_eq!(fate.pulse(), waits, "nothing wakes it");
        assert!(fate.enter(|| fate.pulse().is_busy()));
        let panicked = fate.catch(|| -> () { panic!("on purpose") });
        assert!(panicked.is_err() && !fate.pulse().is_busy(), "a panic leaves too");
        drop(sender);
    }
}
