//! Queries that have computed here for long make room for those that have not.
//!
//! Stages compute on two sets of threads, each of as many as there are slots. Everything starts on the first; what an attempt computes
//! after it has had its [`YOUNG_TIME`] goes on on the second, where only its like wait for each other. The kernel divides the cores
//! between both, so a short query has half of them beside any number of long ones, and need not be known as short beforehand.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream};
use futures::{Stream, StreamExt};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Time that an attempt may compute per slot before its turn comes after others': what a dashboard's query takes.
const YOUNG_TIME: Duration = Duration::from_millis(200);

/// How long blocked threads get to end.
const THREADS_END: Duration = Duration::from_secs(1);

thread_local! {
    /// Whether this is a thread for the old.
    static IS_OLD: Cell<bool> = const { Cell::new(false) };
    /// Whether time is being taken further up the stack.
    static IS_TIMED: Cell<bool> = const { Cell::new(false) };
}

/// The threads that stages compute on.
#[derive(Debug)]
pub struct Threads {
    young: Runtime,
    old: Runtime,
    slots: u32,
}

impl Threads {
    /// Starts both sets.
    pub fn start(slots: usize) -> io::Result<Self> {
        let set = |name: &str| {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(slots.max(1)).thread_name(name).enable_all();
            builder
        };
        let young = set("pipelined").build()?;
        let old = set("pipelined-old").on_thread_start(|| IS_OLD.set(true)).build()?;
        Ok(Self { young, old, slots: u32::try_from(slots.max(1)).unwrap_or(u32::MAX) })
    }

    /// Where everything starts.
    pub fn young(&self) -> &Handle {
        self.young.handle()
    }

    /// What a new attempt is aged by.
    pub fn ages(&self) -> Ages {
        Ages::new(self.old.handle().clone(), YOUNG_TIME * self.slots)
    }

    /// Stops both sets without waiting for them.
    pub fn stop(self) {
        // Waiting here would block the thread of another runtime.
        std::thread::spawn(move || {
            self.young.shutdown_timeout(THREADS_END);
            self.old.shutdown_timeout(THREADS_END);
        });
    }

    /// Tasks of both sets that have not ended.
    #[cfg(test)]
    pub fn alive_tasks(&self) -> usize {
        self.young.metrics().num_alive_tasks() + self.old.metrics().num_alive_tasks()
    }
}

/// When attempts are old, and where they go then.
#[derive(Debug, Clone)]
pub struct Ages {
    old: Handle,
    young_time: Duration,
}

impl Ages {
    /// Attempts that have computed for `young_time` go to the threads `old`.
    pub fn new(old: Handle, young_time: Duration) -> Self {
        Self { old, young_time }
    }
}

/// How long an attempt has computed in this process.
#[derive(Debug)]
pub struct Age {
    computed_ns: AtomicU64,
    ages: Ages,
}

impl Age {
    /// Of an attempt that has not computed yet.
    pub fn new(ages: Ages) -> Arc<Self> {
        Arc::new(Self { computed_ns: AtomicU64::new(0), ages })
    }

    /// Rows that are computed on the threads of the attempt's age.
    pub fn rows(self: &Arc<Self>, rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
        Box::pin(Aging { schema: rows.schema(), place: Place::Here(rows), age: Arc::clone(self) })
    }

    fn is_old(&self) -> bool {
        Duration::from_nanos(self.computed_ns.load(Ordering::Relaxed)) >= self.ages.young_time
    }

    /// Counts the time that `f` takes, once if it comes here again.
    fn time<T>(&self, f: impl FnOnce() -> T) -> T {
        if IS_TIMED.replace(true) {
            return f();
        }
        let start = Instant::now();
        let result = f();
        IS_TIMED.set(false);
        self.computed_ns.fetch_add(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        result
    }
}

/// Rows that change threads when their attempt gets old.
struct Aging {
    schema: SchemaRef,
    place: Place,
    age: Arc<Age>,
}

enum Place {
    /// Computed by who polls.
    Here(SendableRecordBatchStream),
    /// Computed by a task on the threads for the old, which ends with `None`; it is aborted when this is dropped.
    Moved { rows: mpsc::Receiver<Option<Result<RecordBatch>>>, _task: JoinSet<()> },
    /// Read to the end.
    Ended,
}

fn moved(mut rows: SendableRecordBatchStream, threads: &Handle) -> Place {
    let (sender, receiver) = mpsc::channel(1);
    let mut task = JoinSet::new();
    let send_all = async move {
        while let Some(batch) = rows.next().await {
            if sender.send(Some(batch)).await.is_err() {
                return;
            }
        }
        // Who no longer listens need not be told.
        let _ = sender.send(None).await;
    };
    task.spawn_on(send_all, threads);
    Place::Moved { rows: receiver, _task: task }
}

impl Stream for Aging {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if matches!(this.place, Place::Here(_))
            && this.age.is_old()
            && !IS_OLD.get()
            && let Place::Here(rows) = std::mem::replace(&mut this.place, Place::Ended)
        {
            this.place = moved(rows, &this.age.ages.old);
        }
        match &mut this.place {
            Place::Here(rows) => this.age.time(|| rows.poll_next_unpin(cx)),
            Place::Moved { rows, .. } => match ready!(rows.poll_recv(cx)) {
                Some(Some(batch)) => Poll::Ready(Some(batch)),
                Some(None) => {
                    this.place = Place::Ended;
                    Poll::Ready(None)
                }
                // Its threads were stopped: what came so far is not all.
                None => {
                    this.place = Place::Ended;
                    Poll::Ready(Some(Err(DataFusionError::Execution("a task that computes rows was stopped".to_owned()))))
                }
            },
            Place::Ended => Poll::Ready(None),
        }
    }
}

impl RecordBatchStream for Aging {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
    use futures::stream;

    use super::*;

    /// Endless rows; `true` for each batch that was computed on a thread for the old.
    fn rows(places: mpsc::UnboundedSender<bool>) -> SendableRecordBatchStream {
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::new_empty(Arc::clone(&schema));
        let rows = stream::repeat_with(move || {
            std::thread::sleep(Duration::from_millis(1));
            let _ = places.send(IS_OLD.get());
            Ok(batch.clone())
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }

    #[test]
    fn what_computes_for_long_changes_threads_and_loses_nothing() {
        let threads = Threads::start(1).unwrap();
        let (age, (sender, mut places)) = (Age::new(threads.ages()), mpsc::unbounded_channel());
        // A wrapper within the other: its time counts once, and it need not move again.
        let rows = age.rows(age.rows(rows(sender)));
        let read = rows.take(400).collect::<Vec<_>>();
        assert_eq!(threads.young().block_on(async { tokio::spawn(read).await.unwrap() }).len(), 400);
        let mut seen = Vec::new();
        while let Ok(place) = places.try_recv() {
            seen.push(place);
        }
        let young = seen.iter().position(|old| *old).unwrap();
        assert!((50..=200).contains(&young), "{young} batches of 1 ms and more on the first threads");
        assert!(seen[young..].iter().all(|old| *old), "there is no way back");
    }

    #[test]
    fn rows_cut_short_are_an_error() {
        let threads = Threads::start(1).unwrap();
        let age = Age::new(Ages::new(threads.old.handle().clone(), Duration::ZERO));
        let (sender, _places) = mpsc::unbounded_channel();
        let Threads { young, old, .. } = threads;
        let mut rows = age.rows(rows(sender));
        let last = young.block_on(async {
            rows.next().await.unwrap().unwrap();
            old.shutdown_background();
            loop {
                match rows.next().await {
                    Some(Ok(_)) => {}
                    last => return last,
                }
            }
        });
        assert!(last.unwrap().is_err());
    }
}
