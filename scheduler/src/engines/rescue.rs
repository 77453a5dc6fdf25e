//! Rows of executors that are about to go, while their reader takes his time: they wait on this process's disk.
//!
//! An executor that is told to stop waits until its rows were read, but not for ever. So the rows do not wait for their reader there.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::SpillManager;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, SpillMetrics};
use datafusion::physical_plan::spill::spill_pool::{SpillPoolSink, spsc_channel};
use futures::{Stream, TryStreamExt};
use tracing::{info, warn};

/// How often it is looked whether an executor is about to go.
const LOOK: Duration = Duration::from_millis(500);

/// What was read goes from the disk in pieces of so many bytes.
const FILE_BYTES: usize = 64 * 1024 * 1024;

/// Rows wait on the disk as long as this part of the room for spill files is not in use; the rest is for queries.
const SHARE: u64 = 2;

/// Waits until one of the executors that rows come from `drains`.
pub async fn leaving(drains: impl Fn() -> bool) {
    while !drains() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Hands rows on as fast as `send` takes them. Once `leaving` has ended, they come as fast as they can, and wait here.
pub async fn hand_on<E, F>(
    mut rows: impl Stream<Item = Result<RecordBatch, E>> + Unpin,
    mut send: impl FnMut(RecordBatch) -> F,
    leaving: impl Future<Output = ()>,
    (schema, runtime): (&SchemaRef, &Arc<RuntimeEnv>),
) -> Result<(), E>
where
    E: From<DataFusionError>,
    F: Future<Output = Result<(), E>>,
{
    let mut leaving = pin!(leaving);
    let first = loop {
        let Some(batch) = rows.try_next().await? else { return Ok(()) };
        tokio::select! {
            biased;
            sent = send(batch.clone()) => sent?,
            () = &mut leaving => break batch,
        }
    };
    info!("an executor is about to go: rows that wait for their reader come here");
    let metrics = SpillMetrics::new(&ExecutionPlanMetricsSet::new(), 0);
    let (sink, mut kept) = spsc_channel(FILE_BYTES, Arc::new(SpillManager::new(Arc::clone(runtime), metrics, Arc::clone(schema))));
    let rescue = async {
        let mut next = (sink, first);
        loop {
            let (sink, batch) = next;
            let Some(sink) = keep(sink, batch.clone(), &runtime.disk_manager).await else { return Ok::<_, E>(Some(batch)) };
            match rows.try_next().await? {
                Some(batch) => next = (sink, batch),
                None => return Ok(None),
            }
        }
    };
    let hand_on = async {
        while let Some(batch) = kept.try_next().await? {
            send(batch).await?;
        }
        Ok(())
    };
    let (unkept, ()) = tokio::try_join!(rescue, hand_on)?;
    if let Some(batch) = unkept {
        send(batch).await?;
        while let Some(batch) = rows.try_next().await? {
            send(batch).await?;
        }
    }
    Ok(())
}

/// Writes rows to the disk; `None` if there is no room.
async fn keep(sink: SpillPoolSink, batch: RecordBatch, disk: &DiskManager) -> Option<SpillPoolSink> {
    if disk.used_disk_space() > disk.max_temp_directory_size() / SHARE {
        warn!("no room for more rows of executors that are about to go: they go at their reader's pace");
        return None;
    }
    let written = tokio::task::spawn_blocking(move || sink.push_batch(&batch).map(|()| sink)).await;
    match written.map_err(|died| DataFusionError::ExecutionJoin(Box::new(died))).flatten() {
        Ok(sink) => Some(sink),
        Err(error) => {
            warn!(%error, "rows of executors that are about to go cannot be kept: they go at their reader's pace");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use datafusion::arrow::array::{ArrayRef, Int64Array};
    use datafusion::execution::disk_manager::DiskManagerBuilder;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use futures::{StreamExt, TryFutureExt, stream};
    use tokio::sync::{Notify, mpsc};

    use super::*;

    const BATCHES: usize = 200;

    fn batch(n: usize) -> RecordBatch {
        RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from(vec![n as i64; 1000])) as ArrayRef)]).unwrap()
    }

    /// Reads nothing until `until` rows were made or nothing more is, then everything; how many batches were made by then.
    async fn made_before_reading(spill_bytes: u64, is_leaving: bool) -> usize {
        let disk = DiskManagerBuilder::default().with_max_temp_directory_size(spill_bytes);
        let runtime = RuntimeEnvBuilder::new().with_disk_manager_builder(disk).build_arc().unwrap();
        let (made, all_made) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (count, told) = (Arc::clone(&made), Arc::clone(&all_made));
        let rows = stream::iter(0..BATCHES).map(move |n| {
            if count.fetch_add(1, Ordering::Relaxed) + 1 == BATCHES {
                told.notify_one();
            }
            Ok::<_, DataFusionError>(batch(n))
        });
        let (sender, mut reader) = mpsc::channel(1);
        let handing_on = tokio::spawn(async move {
            let send = |batch| sender.send(batch).map_err(|_| DataFusionError::Internal("gone".to_owned()));
            let leaving = async {
                if !is_leaving {
                    std::future::pending().await
                }
            };
            hand_on(rows, send, leaving, (&batch(0).schema(), &runtime)).await?;
            Ok::<_, DataFusionError>(runtime.disk_manager.used_disk_space())
        });
        let _all = tokio::time::timeout(Duration::from_secs(1), all_made.notified()).await;
        let before = made.load(Ordering::Relaxed);
        for n in 0..BATCHES {
            assert_eq!(reader.recv().await.unwrap(), batch(n));
        }
        assert_eq!(reader.recv().await, None);
        assert_eq!(handing_on.await.unwrap().unwrap(), 0, "the disk is free again");
        before
    }

    #[tokio::test]
    async fn rows_come_at_once_when_their_executor_goes_and_in_order() {
        assert_eq!(made_before_reading(1 << 30, true).await, BATCHES);
        assert!(made_before_reading(1 << 30, false).await < 5, "nobody hurries without need");
        let some = made_before_reading(1 << 20, true).await;
        assert!((20..BATCHES / 2).contains(&some), "half of 1 MiB holds {some} batches of 8 kB");
    }

    #[tokio::test]
    async fn an_error_of_the_rows_is_the_error() {
        let runtime = Arc::new(RuntimeEnv::default());
        let rows = stream::iter((0..9).map(|n| if n < 8 { Ok(batch(n)) } else { Err(DataFusionError::External("lost".into())) }));
        // Nobody reads.
        let send = |_| std::future::pending();
        let outcome = hand_on(rows, send, std::future::ready(()), (&batch(0).schema(), &runtime)).await;
        assert!(outcome.unwrap_err().to_string().contains("lost"));
    }
}
