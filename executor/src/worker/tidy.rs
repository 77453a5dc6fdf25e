//! Lets go of what ended tasks leave behind.
//!
//! `datafusion-distributed` keeps tasks in a cache that lets go of a removed entry, with the task's hash tables, only while it is used again.
//! An executor that falls idle after a large join would hold the join's memory until the next query.

use std::time::Duration;

use datafusion_distributed::{ExecuteTaskRequest, ProducerHead, TaskKey, Worker};
use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::sleep;

/// Pause between two uses. The cache looks after itself no more often.
const PAUSE: Duration = Duration::from_millis(310);

/// Uses after a task ended: one takes the entry out, and threads that may still read it must be seen to have moved on.
const USES: usize = 4;

/// Uses the cache a few times after tasks ended.
pub(super) async fn run(worker: Worker, mut tasks: watch::Receiver<usize>) {
    while tasks.changed().await.is_ok() {
        for _ in 0..USES {
            sleep(PAUSE).await;
            use_cache(&worker);
        }
    }
}

/// Asks for a task that does not exist, and does not wait for it. The cache forgets the question after ten minutes.
fn use_cache(worker: &Worker) {
    let task_key = TaskKey { query_id: uuid::Uuid::new_v4(), stage_id: 0, task_number: 0 };
    let request = ExecuteTaskRequest { task_key, target_partition_start: 0, target_partition_end: 0, producer_head: ProducerHead::None };
    let _ = worker.execute_task(request).now_or_never();
}
