//! What a query does, and how it is seen through to its end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use futures::FutureExt;
use futures::future::BoxFuture;
use windlass_catalog::scan::ScanReports;
use windlass_proto::{Kind, QueryState};

use super::admission::Admission;
use super::{Query, rows};
use crate::engines::{Engine, PlannedQuery, Run};
use crate::error::{Error, Result};
use crate::session::Session;

/// Makes a run of a run.
pub type Present = Box<dyn Fn(Arc<dyn Run>) -> Arc<dyn Run> + Send + Sync>;

/// What a query does.
pub enum Work {
    /// A plan for an engine.
    Plans {
        /// Who runs it.
        engine: Arc<dyn Engine>,
        /// The plan, once per row of parameters.
        plans: Vec<PlannedQuery>,
        /// Makes of a run what the client reads, as EXPLAIN ANALYZE does.
        present: Present,
        /// Time from admission on; `None` is no limit.
        timeout: Option<Duration>,
    },
    /// Anything else; it has run to its end when [`Queries::launch`] returns.
    Statement(BoxFuture<'static, Result<Outcome>>),
}

impl Work {
    /// A statement that is done already.
    pub fn done() -> Self {
        Self::Statement(Box::pin(async { Ok(Outcome::default()) }))
    }

    /// A statement whose rows are there already.
    pub fn rows(rows: RecordBatch) -> Self {
        Self::Statement(Box::pin(async { Ok(Outcome { rows: Some(rows), affected_rows: None }) }))
    }
}

/// What a statement that no engine ran has given.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Its rows, if it returns any.
    pub rows: Option<RecordBatch>,
    /// Rows that it changed, if that is known.
    pub affected_rows: Option<i64>,
}

/// Sees a query through to its end.
pub(super) async fn drive(query: Arc<Query>, _session: Arc<Session>, admission: Arc<Admission>, work: Work) {
    let work = async {
        let _admitted = admission.enter(|| query.enter(QueryState::Queued)).await?;
        match work {
            Work::Plans { engine, plans, present, timeout: None } => run_plans(&query, engine, plans, present).await,
            Work::Plans { engine, plans, present, timeout: Some(limit) } => {
                tokio::time::timeout(limit, run_plans(&query, engine, plans, present)).await.unwrap_or_else(|_| {
                    Err(Error::new(Kind::Timeout, format!("the query ran longer than {} s", limit.as_secs()))
                        .with_hint("raise it with SET windlass.query_timeout_s, or ask for less"))
                })
            }
            Work::Statement(statement) => {
                query.enter(QueryState::Running);
                let Outcome { rows, affected_rows } = statement.await?;
                query.status.send_modify(|status| {
                    status.runs.extend(rows.map(|rows| Arc::new(rows::Rows(rows)) as Arc<dyn Run>));
                    status.affected_rows = affected_rows;
                });
                Ok(())
            }
        }
    };
    let outcome = tokio::select! {
        biased;
        () = query.cancel.cancelled() => Err(query.cancelled()),
        // Whoever waits for the query would wait for ever.
        outcome = AssertUnwindSafe(work).catch_unwind() => outcome.unwrap_or_else(|panic| Err(Error::panicked("the query", panic.as_ref()))),
    };
    let outcome = match outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            query.stop_runs().await;
            // A write that was being committed could not be stopped any more.
            if query.count_affected() { Ok(()) } else { Err(error) }
        }
    };
    let failed = outcome.is_err();
    query.end(outcome);
    if failed {
        // Nobody gets rows of it any more.
        query.release().await;
    }
}

/// Runs the plans one after another: results come in the order of the parameters, and a query takes one place.
async fn run_plans(query: &Query, engine: Arc<dyn Engine>, plans: Vec<PlannedQuery>, present: Present) -> Result<()> {
    for plan in plans {
        let reports = plan.context.copied_config().get_extension::<ScanReports>().unwrap_or_default();
        drop(reports.take());
        let run = present(engine.start(plan).await?);
        let (read, pruned) = reports.files();
        query.status.send_modify(|status| {
            status.state = QueryState::Running;
            status.files = (status.files.0 + read, status.files.1 + pruned);
            status.runs.push(Arc::clone(&run));
        });
        run.finished().await?;
        query.count_affected();
    }
    Ok(())
}
