use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use tokio::sync::Semaphore;
use windlass_engine::answer::schema::client_schema;

use super::*;
use crate::engines::{Engine, PlannedQuery};
use crate::session::tests::NoExecutors;
use crate::session::{SessionLimits, Sessions};

/// Finishes a run for each permit, and counts what was stopped.
#[derive(Debug)]
struct Gated {
    gate: Arc<Semaphore>,
    stopped: Arc<AtomicUsize>,
}

struct GatedRun {
    gate: Arc<Semaphore>,
    stopped: Arc<AtomicUsize>,
    rows: rows::Rows,
}

fn batch() -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap()
}

#[async_trait]
impl Engine for Gated {
    fn name(&self) -> &'static str {
        "staged"
    }

    async fn start(&self, _: PlannedQuery) -> Result<Arc<dyn Run>> {
        Ok(Arc::new(GatedRun { gate: Arc::clone(&self.gate), stopped: Arc::clone(&self.stopped), rows: rows::Rows(batch()) }))
    }

    async fn explain(&self, _: PlannedQuery) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Run for GatedRun {
    fn progress(&self) -> Progress {
        Progress { tasks_total: 1, ..Progress::default() }
    }

    async fn finished(&self) -> Result<()> {
        self.gate.acquire().await.unwrap().forget();
        Ok(())
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        self.rows.rows().await
    }

    async fn analysis(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn cancel(&self) {
        self.stopped.fetch_add(1, Ordering::SeqCst);
    }

    async fn close(&self) {}
}

fn head() -> QueryHead {
    QueryHead {
        id: new_query_id(),
        session: Sessions::new(SessionLimits::default(), Arc::new(NoExecutors)).open("ada").unwrap(),
        label: "SELECT".to_owned(),
        schema: client_schema(&batch().schema()),
        engine: "staged",
        updates: false,
        began_ms: 0,
    }
}

struct Bench {
    queries: Arc<Queries>,
    gate: Arc<Semaphore>,
    stopped: Arc<AtomicUsize>,
}

fn bench(limits: QueryLimits) -> Bench {
    Bench { queries: Queries::new(limits), gate: Arc::new(Semaphore::new(0)), stopped: Arc::default() }
}

impl Bench {
    async fn launch(&self, runs: usize, timeout: Option<Duration>) -> Result<Arc<Query>> {
        let head = head();
        let plan = PlannedQuery {
            id: head.id.clone(),
            label: head.label.clone(),
            context: Arc::new(SessionContext::new()),
            plan: LogicalPlanBuilder::empty(true).build().unwrap(),
            schema: Arc::clone(&head.schema),
        };
        let engine = Arc::new(Gated { gate: Arc::clone(&self.gate), stopped: Arc::clone(&self.stopped) });
        self.queries.launch(head, Work::Plans { engine, plans: vec![plan; runs], present: Box::new(|run| run), timeout }).await
    }

    fn stopped(&self) -> usize {
        self.stopped.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn rows_of_all_runs_follow_each_other_and_can_be_read_again() {
    let bench = bench(QueryLimits::default());
    let query = bench.launch(3, None).await.unwrap();
    assert_eq!(query.progress().state(), QueryState::Running);
    bench.gate.add_permits(3);
    for _ in 0..2 {
        let batches: Vec<_> = query.rows().await.unwrap().try_collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [2, 2, 2]);
        assert_eq!(batches[0].schema(), query.schema());
    }
    query.finished().await.unwrap();
    assert_eq!((query.progress().state(), query.progress().tasks_total), (QueryState::Finished, 3));
    query.close().await;
    assert_eq!(query.rows().await.err().unwrap().kind(), Kind::NotFound);
    assert_eq!(query.record().rows_returned, 12);
}

#[tokio::test]
async fn the_queue_is_ordered_bounded_and_can_be_left() {
    let bench = bench(QueryLimits { staged_running_max: 1, queued_max: 1, ..QueryLimits::default() });
    let first = bench.launch(1, None).await.unwrap();
    let second = bench.launch(1, None).await.unwrap();
    assert_eq!(second.progress().state(), QueryState::Queued);
    assert_eq!(bench.launch(1, None).await.unwrap_err().kind(), Kind::Exhausted);
    second.cancel().await;
    assert_eq!(second.finished().await.unwrap_err().kind(), Kind::Cancelled);
    let third = bench.launch(1, None).await.unwrap();
    bench.gate.add_permits(2);
    first.finished().await.unwrap();
    third.finished().await.unwrap();
    let states: Vec<_> = bench.queries.records().iter().map(|record| record.state).collect();
    assert_eq!(states, [QueryState::Finished, QueryState::Cancelled, QueryState::Failed, QueryState::Finished]);
}

#[tokio::test]
async fn what_nobody_waits_for_is_stopped() {
    let bench = bench(QueryLimits::default());
    let query = bench.launch(2, None).await.unwrap();
    let rows = query.rows().await.unwrap();
    let other = query.rows().await.unwrap();
    drop(rows);
    assert_eq!(query.progress().state(), QueryState::Running, "another reader is left");
    drop(other);
    assert_eq!(query.finished().await.unwrap_err().kind(), Kind::Cancelled);
    query.cancel().await;
    assert!(bench.stopped() > 0);

    let late = bench.launch(1, Some(Duration::from_millis(20))).await.unwrap();
    assert_eq!(late.finished().await.unwrap_err().kind(), Kind::Timeout);
    assert_eq!(late.rows().await.err().unwrap().detail().query_id, late.id().to_string());

    let (polled, gone) = (bench.launch(1, None).await.unwrap(), CancellationToken::new());
    polled.wanted_until(gone.clone());
    bench.queries.sweep(Instant::now() + Duration::from_secs(2)).await;
    assert_eq!(polled.progress().state(), QueryState::Running, "its client may ask again");
    gone.cancel();
    polled.wanted_until(CancellationToken::new());
    bench.queries.sweep(Instant::now() + Duration::from_secs(2)).await;
    assert_eq!(polled.progress().state(), QueryState::Running, "its client asks over another connection");
    polled.wanted_until(gone);
    bench.queries.sweep(Instant::now()).await;
    assert_eq!(polled.progress().state(), QueryState::Running, "its client may be on its way back");
    bench.queries.sweep(Instant::now() + Duration::from_secs(2)).await;
    assert_eq!(polled.finished().await.unwrap_err().kind(), Kind::Cancelled);

    let unattended = bench.launch(1, None).await.unwrap();
    bench.queries.sweep(Instant::now()).await;
    assert_eq!(unattended.progress().state(), QueryState::Running);
    bench.queries.sweep(Instant::now() + Duration::from_secs(301)).await;
    assert_eq!(unattended.finished().await.unwrap_err().kind(), Kind::Cancelled);
    bench.queries.sweep(Instant::now() + Duration::from_secs(301)).await;
    assert!(unattended.status.borrow().released);
}

#[tokio::test]
async fn rows_that_were_read_go_soon_unless_somebody_reads() {
    let bench = bench(QueryLimits::default());
    bench.gate.add_permits(1);
    let query = bench.launch(1, None).await.unwrap();
    query.keep_after_reading(Duration::from_secs(10));
    query.finished().await.unwrap();
    let released_after = async |seconds| {
        bench.queries.sweep(Instant::now() + Duration::from_secs(seconds)).await;
        query.status.borrow().released
    };
    assert!(!query.is_over(), "nobody has come for the rows");
    assert!(!released_after(11).await);
    let mut slow = query.rows().await.unwrap();
    query.rows().await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    assert!(!released_after(11).await, "another reader is left");
    assert!(slow.try_next().await.unwrap().is_some() && slow.try_next().await.unwrap().is_none());
    drop(slow);
    assert!(!released_after(9).await);
    assert!(query.is_over());
    assert!(released_after(11).await);
}

#[tokio::test]
async fn records_are_bounded_and_shutdown_ends_all() {
    let bench = bench(QueryLimits { records_max: 3, ..QueryLimits::default() });
    bench.gate.add_permits(5);
    for _ in 0..5 {
        bench.launch(1, None).await.unwrap().finished().await.unwrap();
    }
    assert_eq!(bench.queries.records().len(), 3);
    let running = bench.launch(1, None).await.unwrap();
    assert!(bench.queries.shut_down().await);
    assert_eq!(running.finished().await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(bench.launch(1, None).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_panic_ends_its_query_and_no_other() {
    let bench = bench(QueryLimits { staged_running_max: 1, ..QueryLimits::default() });
    let error = bench.queries.launch(head(), Work::Statement(Box::pin(async { panic!("on purpose") }))).await.unwrap_err();
    assert!(error.kind() == Kind::Internal && error.to_string().contains("on purpose"), "{error}");
    assert!(bench.queries.running().is_empty());
    bench.queries.launch(head(), Work::done()).await.unwrap();
}
