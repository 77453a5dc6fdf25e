//! How tasks travel to executors, and how what they leave there is deleted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballista_core::JobId;
use ballista_core::execution_plans::compute_global_output_partition_ids;
use ballista_core::extension::SessionConfigHelperExt;
use ballista_core::serde::protobuf::executor_grpc_client::ExecutorGrpcClient;
use ballista_core::serde::protobuf::{KeyValuePair, LaunchMultiTaskParams, MultiTaskDefinition, RemoveJobDataParams, TaskId};
use ballista_scheduler::cluster::BoundTask;
use ballista_scheduler::state::execution_graph::TaskDescription;
use ballista_scheduler::state::task_builder::restrict_plan_to_partitions;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{AsExecutionPlan, PhysicalExtensionCodec};
use datafusion_proto::protobuf::PhysicalPlanNode;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::session::session_config;

use crate::cluster::{Doom, Executors};

/// The one setting whose default is the executor's own.
const TARGET_PARTITIONS: &str = "datafusion.execution.target_partitions";

/// How long it may take to reach an executor, and how long it may take to answer.
const CONNECT_MAX: Duration = Duration::from_secs(20);
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// How often a quiet connection is looked at.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// Sends tasks to their executors, over one connection to each.
///
/// All tasks of a round that go to one executor go in one message. Of the settings, some 15 kB, only those are sent that differ from the
/// defaults, which are the executor's too: it is of the same build.
pub struct Launcher {
    endpoint: String,
    codec: Arc<dyn PhysicalExtensionCodec>,
    defaults: HashMap<String, Option<String>>,
    executors: Arc<Executors>,
    clients: Mutex<HashMap<String, Client>>,
}

type Client = ExecutorGrpcClient<Channel>;

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Launcher {
    /// Executors report at `endpoint` how tasks end.
    pub fn new(endpoint: &str, codec: Arc<dyn PhysicalExtensionCodec>, executors: Arc<Executors>) -> Self {
        let defaults = session_config(1).to_key_value_pairs().into_iter().filter(|pair| pair.key != TARGET_PARTITIONS);
        let defaults = defaults.map(|pair| (pair.key, pair.value)).collect();
        Self { endpoint: endpoint.to_owned(), codec, defaults, executors, clients: Mutex::default() }
    }

    /// Sends the tasks of a round, without waiting. An executor that cannot be reached is given up: its tasks run again elsewhere.
    pub fn launch(self: &Arc<Self>, bound: Vec<BoundTask>) {
        let mut by_stage: HashMap<(JobId, usize), Vec<BoundTask>> = HashMap::new();
        for bound in bound {
            by_stage.entry((bound.1.key.job_id.clone(), bound.1.key.stage_id)).or_default().push(bound);
        }
        let mut by_executor: HashMap<String, Vec<Slice>> = HashMap::new();
        for mut tasks in by_stage.into_values() {
            tasks.sort_by_key(|(_, task)| task.global_input_partition_ids.first().copied());
            let length = tasks.len().isqrt().max(1);
            while !tasks.is_empty() {
                let rest = tasks.split_off(length.min(tasks.len()));
                let section = Arc::new(Section::of(&tasks));
                for (executor, task) in std::mem::replace(&mut tasks, rest) {
                    by_executor.entry(executor).or_default().push(Slice { task, section: Arc::clone(&section) });
                }
            }
        }
        for (executor, slices) in by_executor {
            tokio::spawn(Arc::clone(self).launch_on(executor, slices));
        }
    }

    async fn launch_on(self: Arc<Self>, executor: String, slices: Vec<Slice>) {
        let Some(mut client) = self.client(&executor) else {
            debug!(executor, "is gone before its tasks came");
            return;
        };
        let multi_tasks: Vec<_> = slices.iter().filter_map(|slice| self.definition(slice)).collect();
        drop(slices);
        if multi_tasks.is_empty() {
            return;
        }
        match client.launch_multi_task(LaunchMultiTaskParams { multi_tasks, scheduler_endpoint: self.endpoint.clone() }).await {
            Ok(answer) => {
                for job in answer.into_inner().failed_jobs {
                    warn!(job, executor, "an executor cannot read a task");
                    self.executors.condemn(&job.into(), Doom::Unreadable);
                }
            }
            Err(error) => self.executors.give_up(&executor, &format!("it does not take tasks: {error}")),
        }
    }

    /// A task as its executor reads it; if it cannot be written down, its job ends.
    fn definition(&self, slice: &Slice) -> Option<MultiTaskDefinition> {
        let task = &slice.task;
        let encoded = slice.plan().and_then(|plan| {
            let mut bytes = Vec::new();
            PhysicalPlanNode::try_from_physical_plan(plan, self.codec.as_ref())?.try_encode(&mut bytes)?;
            Ok(bytes)
        });
        let plan = encoded.inspect_err(|error| {
            warn!(job = %task.key.job_id, stage = task.key.stage_id, %error, "cannot encode a task");
            self.executors.condemn(&task.key.job_id, Doom::Unreadable);
        });
        let outputs = compute_global_output_partition_ids(&task.plan, &task.global_input_partition_ids);
        Some(MultiTaskDefinition {
            task_ids: vec![TaskId {
                task_id: task.key.task_id as u32,
                task_attempt_num: task.task_attempt as u32,
                global_output_partition_ids: outputs.into_iter().map(|partition| partition as u32).collect(),
                vcores_consumed: task.vcores_consumed,
            }],
            job_id: task.key.job_id.to_string(),
            stage_id: task.key.stage_id as u32,
            stage_attempt_num: task.stage_attempt_num as u32,
            plan: plan.ok()?,
            session_id: task.session_id.clone(),
            launch_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            props: self.executors.settings(&task.key.job_id, || self.settings(task.session_config.to_key_value_pairs())).to_vec(),
        })
    }

    fn settings(&self, mut all: Vec<KeyValuePair>) -> Vec<KeyValuePair> {
        all.retain(|pair| self.defaults.get(&pair.key) != Some(&pair.value));
        all
    }

    /// Has executors delete what they have of a job.
    pub fn delete(&self, job: &JobId, holders: &[String]) {
        self.remove(holders, &RemoveJobDataParams { job_id: job.to_string(), remove_stage_ids: Vec::new() });
    }

    /// Has executors delete what they have of some stages of a job, of which there is one at least.
    pub fn delete_stages(&self, job: &JobId, stages: &[u32]) {
        self.remove(&self.executors.holders(job), &RemoveJobDataParams { job_id: job.to_string(), remove_stage_ids: stages.to_vec() });
    }

    fn remove(&self, holders: &[String], files: &RemoveJobDataParams) {
        for executor in holders {
            let Some(mut client) = self.client(executor) else { continue };
            let (executor, files) = (executor.clone(), files.clone());
            tokio::spawn(async move {
                if let Err(error) = client.remove_job_data(files).await {
                    debug!(executor, %error, "an executor did not delete files, and will when they are old");
                }
            });
        }
    }

    /// The connection to an executor, which is made when it is first used; `None` if the executor is gone.
    fn client(&self, executor: &str) -> Option<Client> {
        if let Some(client) = self.clients.lock().get(executor) {
            return Some(client.clone());
        }
        let metadata = self.executors.metadata(executor)?;
        let endpoint = Endpoint::from_shared(format!("http://{}:{}", metadata.host, metadata.grpc_port));
        let endpoint = endpoint.inspect_err(|error| warn!(executor, %error, "an executor's address")).ok()?;
        let endpoint = endpoint.connect_timeout(CONNECT_MAX).timeout(ANSWER_MAX).tcp_nodelay(true);
        let channel = endpoint.http2_keep_alive_interval(KEEPALIVE).keep_alive_while_idle(true).connect_lazy();
        let client = ExecutorGrpcClient::new(channel);
        let client = client.max_encoding_message_size(MESSAGE_BYTES_MAX).max_decoding_message_size(MESSAGE_BYTES_MAX);
        self.clients.lock().insert(executor.to_owned(), client.clone());
        Some(client)
    }

    /// Closes the connections to executors that are gone.
    pub fn retain(&self, alive: impl Fn(&str) -> bool) {
        self.clients.lock().retain(|executor, _| alive(executor));
    }
}

/// Tasks of one stage that are bound at one time and stand side by side.
///
/// To cut a task out of a plan costs as much as the plan has files. So the plan is cut to sections first, as many as each has tasks.
#[derive(Debug)]
struct Section {
    /// All partitions of these tasks, in order.
    partitions: Vec<usize>,
    /// The stage's plan, reduced to them when the first task asks; `None` if that fails.
    plan: OnceLock<Option<Arc<dyn ExecutionPlan>>>,
}

impl Section {
    fn of(tasks: &[BoundTask]) -> Self {
        let mut partitions: Vec<_> = tasks.iter().flat_map(|(_, task)| task.global_input_partition_ids.iter().copied()).collect();
        partitions.sort_unstable();
        Self { partitions, plan: OnceLock::new() }
    }
}

/// A task and where it belongs.
#[derive(Debug)]
struct Slice {
    task: TaskDescription,
    section: Arc<Section>,
}

impl Slice {
    /// The plan of the task's stage, reduced to the partitions that the task reads.
    fn plan(&self) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let (whole, partitions) = (&self.task.plan, &self.task.global_input_partition_ids);
        let cut = || restrict_plan_to_partitions(Arc::clone(whole), &self.section.partitions).ok();
        let places: Option<Vec<_>> = partitions.iter().map(|id| self.section.partitions.binary_search(id).ok()).collect();
        match (self.section.plan.get_or_init(cut), places) {
            // Alone in its section.
            (Some(section), _) if self.section.partitions == *partitions => Ok(Arc::clone(section)),
            (Some(section), Some(places)) => restrict_plan_to_partitions(Arc::clone(section), &places),
            _ => restrict_plan_to_partitions(Arc::clone(whole), partitions),
        }
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::scheduler::TaskKey;
    use datafusion::arrow::array::{AsArray, Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_plan::{collect_partitioned, displayable};
    use datafusion::prelude::SessionContext;
    use windlass_engine::session::set_option;
    use windlass_engine::write::WriteCodec;

    use super::*;

    #[test]
    fn executors_end_up_with_the_settings_of_the_query() {
        let mut query = session_config(1);
        for (name, value) in [("datafusion.execution.batch_size", "100"), ("datafusion.execution.time_zone", "+02:00")] {
            set_option(query.options_mut(), name, value).unwrap();
        }
        let executors = Arc::new(Executors::new(Duration::MAX));
        let launcher = Launcher::new("scheduler:1", Arc::new(WriteCodec::staged()), executors);
        let sent = launcher.settings(query.to_key_value_pairs());
        assert_eq!(sent.len(), 3, "two settings and the partitions: {sent:?}");
        let executor = session_config(8).update_from_key_value_pair(&sent);
        assert_eq!(executor.to_key_value_pairs(), query.to_key_value_pairs());
    }

    /// A stage that gives the number of each of its partitions.
    fn stage(partitions: i64) -> Arc<dyn ExecutionPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = |n| RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![n]))]).unwrap();
        let partitions: Vec<_> = (0..partitions).map(|n| vec![batch(n)]).collect();
        MemorySourceConfig::try_new_exec(&partitions, schema, None).unwrap()
    }

    fn task(plan: &Arc<dyn ExecutionPlan>, task_id: usize, partitions: &[usize]) -> BoundTask {
        let task = TaskDescription {
            session_id: String::new(),
            key: TaskKey { job_id: JobId::new("job"), stage_id: 1, task_id },
            stage_attempt_num: 0,
            task_attempt: 0,
            global_input_partition_ids: partitions.to_vec(),
            vcores_consumed: 1,
            plan: Arc::clone(plan),
            session_config: Arc::new(session_config(1)),
        };
        ("executor".to_owned(), task)
    }

    #[tokio::test]
    async fn a_task_reads_its_partitions_and_no_others_however_it_is_cut() {
        let plan = stage(12);
        // As after a failure: not in order, and with a gap.
        let tasks: Vec<_> = [&[7, 2][..], &[0], &[9, 10, 11], &[4, 5]].into_iter().enumerate().map(|(id, p)| task(&plan, id, p)).collect();
        for length in [1, 2, 4] {
            for section in tasks.chunks(length) {
                let shared = Arc::new(Section::of(section));
                for (_, task) in section {
                    let cut = Slice { task: task.clone(), section: Arc::clone(&shared) }.plan().unwrap();
                    let text = displayable(cut.as_ref()).one_line().to_string();
                    let read = collect_partitioned(cut, SessionContext::new().task_ctx()).await.unwrap();
                    let read: Vec<_> =
                        read.iter().map(|batches| batches[0].column(0).as_primitive::<Int64Type>().value(0) as usize).collect();
                    assert_eq!(read, task.global_input_partition_ids, "{text}");
                }
            }
        }
    }
}
