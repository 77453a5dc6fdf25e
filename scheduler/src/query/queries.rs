//! All queries that run or are remembered, and what becomes of those that nobody asks for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span, warn};
use windlass_engine::telemetry::SPAN_QUERY;
use windlass_proto::{Kind, QueryId};

use super::admission::Admissions;
use super::work::drive;
use super::{Neglect, Query, QueryHead, QueryRecord, Work};
use crate::error::{Error, Result};

/// How often queries are looked at that nobody asks for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How often queries are looked at during shutdown.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// How many queries there may be, and how long they are kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueryLimits {
    /// Queries that run on the executors at one time.
    pub staged_running_max: usize,
    /// Queries that run in the scheduler at one time.
    pub local_running_max: usize,
    /// Queries that wait for either; one more is refused.
    pub queued_max: usize,
    /// Seconds that results are kept after their last use, and that a running query may go without anybody asking for it or, where it waits
    /// for its reader, taking a row. A query that is polled does not outlive its connection.
    pub unattended_seconds: u64,
    /// Records of queries kept; the oldest finished one is forgotten first.
    pub records_max: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        // Executors share slots and memory among queries: more than a few at one time only makes all of them late.
        Self { staged_running_max: 16, local_running_max: 32, queued_max: 200, unattended_seconds: 300, records_max: 1_000 }
    }
}

/// All queries that run or are remembered.
#[derive(Debug)]
pub struct Queries {
    limits: QueryLimits,
    admissions: Admissions,
    all: Mutex<BTreeMap<QueryId, Arc<Query>>>,
    stopped: CancellationToken,
}

impl Queries {
    /// No queries yet. Must be called inside a tokio runtime, which then ends what nobody asks for.
    pub fn new(limits: QueryLimits) -> Arc<Self> {
        let admissions = Admissions::new(&limits);
        let queries = Arc::new(Self { limits, admissions, all: Mutex::default(), stopped: CancellationToken::new() });
        let weak = Arc::downgrade(&queries);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SWEEP_INTERVAL).await;
                let Some(queries) = weak.upgrade() else { break };
                queries.sweep(Instant::now()).await;
            }
        });
        queries
    }

    /// The query, if it is still remembered.
    pub fn get(&self, id: &QueryId) -> Option<Arc<Query>> {
        self.all.lock().get(id).map(Arc::clone)
    }

    /// Ids of the queries that have not ended, and when their planning began, in milliseconds since 1970.
    pub fn running(&self) -> Vec<(QueryId, i64)> {
        let running = |query: &Arc<Query>| !query.status.borrow().state.is_final();
        self.all().into_iter().filter(running).map(|query| (query.id.clone(), query.began_ms)).collect()
    }

    /// Records of all queries, oldest first.
    pub fn records(&self) -> Vec<QueryRecord> {
        self.all().iter().map(|query| query.record()).collect()
    }

    /// Starts a query; returns when a plan is queued or runs, or when a statement has ended. Dropping the future before that cancels it.
    ///
    /// Errors: those of the plan or statement; `Exhausted` when the queue is full; `Unavailable` during shutdown.
    pub async fn launch(&self, head: QueryHead, work: Work) -> Result<Arc<Query>> {
        if self.stopped.is_cancelled() {
            return Err(Error::new(Kind::Unavailable, "the scheduler is shutting down")
                .with_hint("try again in a moment, perhaps at another scheduler"));
        }
        let admission = self.admissions.of(head.engine);
        let query = Arc::new(Query::new(&head));
        self.insert(&query);
        let guard = query.cancel.clone().drop_guard();
        let is_plan = matches!(work, Work::Plans { .. });
        let span = info_span!(SPAN_QUERY, query_id = %query.id, user = %query.user, engine = query.engine);
        tokio::spawn(drive(Arc::clone(&query), head.session, admission, work).instrument(span));
        match is_plan {
            true => query.accepted().await?,
            false => query.finished().await?,
        }
        guard.disarm();
        Ok(query)
    }

    /// Refuses new queries and waits, at most for `limit`, until those there are have ended and their rows were read.
    pub async fn drain(&self, limit: Duration) {
        self.stopped.cancel();
        let over = async {
            while self.all().iter().any(|query| !query.is_over()) {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        if tokio::time::timeout(limit, over).await.is_err() {
            let left = self.all().iter().filter(|query| !query.is_over()).count();
            warn!(left, limit_s = limit.as_secs(), "queries run or have unread rows after the time given to end");
        }
    }

    /// Refuses new queries, cancels all and frees their rows; whether some were running.
    pub async fn shut_down(&self) -> bool {
        self.stopped.cancel();
        let all = self.all();
        let running = all.iter().any(|query| !query.status.borrow().state.is_final());
        let reason = || Error::new(Kind::Unavailable, "the scheduler was shut down").with_hint("run the statement again in a moment");
        all.iter().for_each(|query| query.cancel_because(reason()));
        join_all(all.iter().map(|query| query.close())).await;
        running
    }

    fn all(&self) -> Vec<Arc<Query>> {
        self.all.lock().values().map(Arc::clone).collect()
    }

    fn insert(&self, query: &Arc<Query>) {
        let mut all = self.all.lock();
        let excess = (all.len() + 1).saturating_sub(self.limits.records_max);
        // Running queries are bounded by admission, so there is always a finished one to forget, if possible one whose rows nobody waits
        // for. Dropping its runs frees its rows.
        for _ in 0..excess {
            let finished = |old: &&Arc<Query>| old.status.borrow().state.is_final();
            let oldest = all.values().find(|old| old.is_over()).or_else(|| all.values().find(finished));
            let Some(id) = oldest.map(|old| old.id.clone()) else { break };
            all.remove(&id);
        }
        all.insert(query.id.clone(), Arc::clone(query));
    }

    pub(super) async fn sweep(&self, now: Instant) {
        let limit = Duration::from_secs(self.limits.unattended_seconds);
        for query in self.all() {
            match query.neglect(now, limit) {
                Some(Neglect::Cancel(reason)) => query.cancel_because(reason),
                Some(Neglect::Close) => query.close().await,
                None => {}
            }
        }
    }
}
