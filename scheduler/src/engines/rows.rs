//! Streams of rows that a task of its own produces.

use std::future::Future;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, future, stream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::{Error, Result};

/// Batches that a producer may be ahead of its reader.
pub const BATCHES_AHEAD: usize = 4;

/// Runs `produce` on `runtime` and streams what it sends, then its error. Dropping the stream stops it.
///
/// A producer that panics ends the stream with an error: a stream that merely stops would look complete.
pub fn produced<F>(schema: SchemaRef, runtime: &Handle, produce: impl FnOnce(mpsc::Sender<RecordBatch>) -> F) -> SendableRecordBatchStream
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    let mut producer = JoinSet::new();
    producer.spawn_on(produce(sender), runtime);
    let end = stream::once(async move {
        match producer.join_next().await {
            Some(Ok(Ok(()))) => None,
            Some(Ok(Err(error))) => Some(Err(DataFusionError::External(Box::new(error)))),
            Some(Err(stopped)) => Some(Err(DataFusionError::External(Box::new(Error::internal(format!("rows ended early: {stopped}")))))),
            None => None,
        }
    });
    let rows = ReceiverStream::new(receiver).map(Ok).chain(end.filter_map(future::ready));
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::Schema;

    use super::*;

    #[tokio::test]
    async fn errors_and_panics_follow_the_rows() {
        let schema = Arc::new(Schema::empty());
        let batch = RecordBatch::new_empty(Arc::clone(&schema));
        for (panics, text) in [(false, "broken"), (true, "rows ended early")] {
            let one = batch.clone();
            let rows = produced(Arc::clone(&schema), &Handle::current(), async move |sender| {
                sender.send(one).await.unwrap();
                assert!(!panics, "on purpose");
                Err(Error::invalid("broken"))
            });
            let seen: Vec<_> = rows.collect().await;
            assert_eq!(seen.len(), 2);
            assert!(seen[0].is_ok());
            assert!(seen[1].as_ref().unwrap_err().to_string().contains(text));
        }
    }
}
