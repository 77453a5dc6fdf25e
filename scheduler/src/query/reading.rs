//! Reading the rows of a query, and waiting for its end: whoever does keeps it alive.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};
use windlass_engine::answer::messages::Rows;
use windlass_engine::answer::schema::to_client;
use windlass_proto::{Kind, QueryState};

use super::Query;
use crate::engines::Answer;
use crate::error::{Error, Result};

impl Query {
    /// The rows from the first, exactly of [`Query::schema`]; waits until there are some to read. Each call starts again.
    ///
    /// Dropping the last stream before its end cancels a query that still runs: nobody waits for it any more.
    pub async fn rows(self: &Arc<Self>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let batches = self.answer().await?.map(move |rows| rows?.unpack(&schema));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    /// The same, for a client: as messages where executors have made these.
    pub async fn answer(self: &Arc<Self>) -> Result<Answer> {
        let mut reader = Reader::new(self);
        let first = match self.run(0).await? {
            Some(run) => match run.answer().await {
                Ok(rows) => rows,
                Err(error) => return Err(self.broken(error).await),
            },
            None => stream::empty().boxed(),
        };
        let query = Arc::clone(self);
        let rest = stream::try_unfold(1_usize, move |index| {
            let query = Arc::clone(&query);
            async move {
                let Some(run) = query.run(index).await.map_err(external)? else { return Ok(None) };
                match run.answer().await {
                    Ok(rows) => Ok::<_, DataFusionError>(Some((rows, index + 1))),
                    Err(error) => Err(external(query.broken(error).await)),
                }
            }
        });
        let query = Arc::clone(self);
        let answer = first.chain(rest.try_flatten()).then(move |rows| {
            let query = Arc::clone(&query);
            async move {
                let rows = rows.and_then(|rows| match rows {
                    Rows::Batch(batch) => to_client(&batch, &query.schema).map(Rows::Batch),
                    message => Ok(message),
                });
                match rows {
                    Ok(rows) => {
                        query.rows_returned.fetch_add(rows.count(), Ordering::Relaxed);
                        *query.used.lock() = Instant::now();
                        Ok(rows)
                    }
                    Err(error) => Err(external(query.broken(Error::from(error)).await)),
                }
            }
        });
        let end = stream::poll_fn(move |_| {
            reader.completed();
            std::task::Poll::Ready(None)
        });
        Ok(answer.chain(end).boxed())
    }

    /// The reason why a stream broke: the query's own, where it has ended early (cancelled, timed out), or else the stream's, which then
    /// becomes the query's.
    async fn broken(&self, error: Error) -> Error {
        let mut reason = error.in_query(&self.id);
        // Ends a query that runs, before its reader is gone: that must not count as the reason.
        self.cancel_because(reason.clone());
        self.wait(|status| status.state.is_final()).await;
        self.status.send_modify(|status| match &status.error {
            Some(first) => reason = first.clone(),
            None => {
                status.state = if reason.kind() == Kind::Cancelled { QueryState::Cancelled } else { QueryState::Failed };
                status.error = Some(reason.clone());
            }
        });
        reason
    }

    /// Waits until a statement that changes something has ended. Dropping the future before that cancels it. Errors: the statement's.
    pub async fn complete(&self) -> Result<()> {
        let _attended = Attended::new(self);
        let guard = self.cancel.clone().drop_guard();
        let outcome = self.finished().await;
        guard.disarm();
        outcome
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Somebody who reads the rows of a query.
struct Reader {
    query: Arc<Query>,
    complete: bool,
}

impl Reader {
    fn new(query: &Arc<Query>) -> Self {
        query.readers.fetch_add(1, Ordering::AcqRel);
        query.asked.store(true, Ordering::Release);
        Self { query: Arc::clone(query), complete: false }
    }

    fn completed(&mut self) {
        self.complete = true;
        self.query.read.store(true, Ordering::Release);
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        *self.query.used.lock() = Instant::now();
        if self.query.readers.fetch_sub(1, Ordering::AcqRel) == 1 && !self.complete {
            // Does nothing to a query that has ended.
            self.query.cancel_because(Error::new(Kind::Cancelled, "the query was cancelled: nobody reads its rows any more"));
        }
    }
}

/// Somebody who waits for the end of a query, whose rows he may read or not.
struct Attended<'a>(&'a Query);

impl<'a> Attended<'a> {
    fn new(query: &'a Query) -> Self {
        query.readers.fetch_add(1, Ordering::AcqRel);
        Self(query)
    }
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        *self.0.used.lock() = Instant::now();
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
    }
}
