//! How tasks travel to executors, and how what they leave there is deleted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ballista_core::JobId;
use ballista_core::execution_plans::{SortShuffleWriterExec, compute_global_output_partition_ids};
use ballista_core::extension::SessionConfigHelperExt;
use ballista_core::serde::protobuf::executor_grpc_client::ExecutorGrpcClient;
use ballista_core::serde::protobuf::{KeyValuePair, LaunchMultiTaskParams, MultiTaskDefinition, RemoveJobDataParams, TaskId};
use ballista_scheduler::cluster::BoundTask;
use ballista_scheduler::state::execution_graph::TaskDescription;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::PhysicalExtensionCodec;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, warn};
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::session::session_config;

use self::template::{Template, cut};
use crate::cluster::{Doom, Executors};

mod template;

/// Tasks of a round and stage from which on it pays to write their plan down once: that costs as much as three of them.
const TEMPLATE_TASKS_MIN: usize = 8;

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
            let Some(stage) = Stage::of(&tasks).map(Arc::new) else { continue };
            tasks.sort_by_key(|(_, task)| task.global_input_partition_ids.first().copied());
            let length = tasks.len().isqrt().max(1);
            while !tasks.is_empty() {
                let rest = tasks.split_off(length.min(tasks.len()));
                let section = Arc::new(Section::of(&stage, &tasks));
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
        let plan = slice.plan(self.codec.as_ref()).inspect_err(|error| {
            warn!(job = %task.key.job_id, stage = task.key.stage_id, %error, "cannot encode a task");
            self.executors.condemn(&task.key.job_id, Doom::Unreadable);
        });
        let outputs = match task.plan.is::<SortShuffleWriterExec>() {
            // It writes to all of its exchange's, which may be thousands, and nobody reads their numbers here.
            true => Vec::new(),
            false => compute_global_output_partition_ids(&task.plan, &task.global_input_partition_ids),
        };
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

/// Tasks of one stage that are bound at one time.
#[derive(Debug)]
struct Stage {
    plan: Arc<dyn ExecutionPlan>,
    tasks: usize,
    /// Made when the first task asks.
    template: OnceLock<Template>,
}

impl Stage {
    fn of(tasks: &[BoundTask]) -> Option<Self> {
        let (_, first) = tasks.first()?;
        Some(Self { plan: Arc::clone(&first.plan), tasks: tasks.len(), template: OnceLock::new() })
    }

    fn template(&self, codec: &dyn PhysicalExtensionCodec) -> &Template {
        self.template.get_or_init(|| {
            let framed = if self.tasks >= TEMPLATE_TASKS_MIN { Template::framed(&self.plan, codec) } else { None };
            framed.unwrap_or_else(|| Template::whole(&self.plan))
        })
    }
}

/// Tasks of a stage that stand side by side.
///
/// To cut a task out of a plan costs as much as the plan has files. So the plan is cut to sections first, as many as each has tasks.
#[derive(Debug)]
struct Section {
    stage: Arc<Stage>,
    /// All partitions of these tasks, in order.
    partitions: Vec<usize>,
    /// What the template wants cut, reduced to them when the first task asks; `None` if that fails.
    parts: OnceLock<Option<Vec<Arc<dyn ExecutionPlan>>>>,
}

impl Section {
    fn of(stage: &Arc<Stage>, tasks: &[BoundTask]) -> Self {
        let mut partitions: Vec<_> = tasks.iter().flat_map(|(_, task)| task.global_input_partition_ids.iter().copied()).collect();
        partitions.sort_unstable();
        Self { stage: Arc::clone(stage), partitions, parts: OnceLock::new() }
    }
}

/// A task and where it belongs.
#[derive(Debug)]
struct Slice {
    task: TaskDescription,
    section: Arc<Section>,
}

impl Slice {
    /// The plan of the task's stage, reduced to the partitions that the task reads, as bytes.
    fn plan(&self, codec: &dyn PhysicalExtensionCodec) -> datafusion::error::Result<Vec<u8>> {
        let (section, partitions) = (&self.section, &self.task.global_input_partition_ids);
        let template = section.stage.template(codec);
        let places: Option<Vec<_>> = partitions.iter().map(|id| section.partitions.binary_search(id).ok()).collect();
        match (section.parts.get_or_init(|| cut(template.parts(), &section.partitions).ok()), places) {
            // Alone in its section.
            (Some(parts), _) if section.partitions == *partitions => template.fill(parts, codec),
            (Some(parts), Some(places)) => template.fill(&cut(parts, &places)?, codec),
            _ => template.fill(&cut(template.parts(), partitions)?, codec),
        }
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::scheduler::TaskKey;
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;
    use datafusion::physical_plan::collect_partitioned;
    use datafusion::prelude::{SessionContext, col, lit};
    use datafusion_proto::physical_plan::AsExecutionPlan;
    use datafusion_proto::protobuf::PhysicalPlanNode;
    use windlass_engine::codec::OperatorCodec;
    use windlass_engine::session::set_option;

    use super::template::tests::numbers;
    use super::*;

    #[test]
    fn executors_end_up_with_the_settings_of_the_query() {
        let mut query = session_config(1);
        for (name, value) in [("datafusion.execution.batch_size", "100"), ("datafusion.execution.time_zone", "+02:00")] {
            set_option(query.options_mut(), name, value).unwrap();
        }
        let executors = Arc::new(Executors::new(Duration::MAX));
        let launcher = Launcher::new("scheduler:1", Arc::new(OperatorCodec::staged()), executors);
        let sent = launcher.settings(query.to_key_value_pairs());
        assert_eq!(sent.len(), 3, "two settings and the partitions: {sent:?}");
        let executor = session_config(8).update_from_key_value_pair(&sent);
        assert_eq!(executor.to_key_value_pairs(), query.to_key_value_pairs());
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
        let (codec, context) = (OperatorCodec::staged(), SessionContext::new());
        let bare = numbers(&context, 12).create_physical_plan().await.unwrap();
        let framed = numbers(&context, 12).filter(col("n").gt_eq(lit(0))).unwrap().create_physical_plan().await.unwrap();
        // As after a failure: not in order, and with gaps.
        let slices = [&[7, 2][..], &[0], &[9, 10, 11], &[4, 5], &[1], &[3], &[6], &[8]];
        for plan in [bare, framed] {
            let tasks: Vec<_> = slices.into_iter().enumerate().map(|(id, slice)| task(&plan, id, slice)).collect();
            for (round, length) in [(2, 1), (4, 2), (8, 1), (8, 4), (8, 8)] {
                let stage = Arc::new(Stage::of(&tasks[..round]).unwrap());
                for section in tasks[..round].chunks(length) {
                    let shared = Arc::new(Section::of(&stage, section));
                    for (_, task) in section {
                        let bytes = Slice { task: task.clone(), section: Arc::clone(&shared) }.plan(&codec).unwrap();
                        let cut =
                            PhysicalPlanNode::try_decode(&bytes).unwrap().try_into_physical_plan(&context.task_ctx(), &codec).unwrap();
                        let read = collect_partitioned(cut, context.task_ctx()).await.unwrap();
                        let read: Vec<_> =
                            read.iter().map(|batches| batches[0].column(0).as_primitive::<Int64Type>().value(0) as usize).collect();
                        assert_eq!(read, task.global_input_partition_ids, "{round} tasks in sections of {length}");
                    }
                }
            }
        }
    }
}
