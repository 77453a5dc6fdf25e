//! Executors without work: they register, take tasks, and report them successful at once. All of them live in this process.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use ballista_core::BALLISTA_PROTOCOL_VERSION;
use ballista_core::serde::protobuf::executor_grpc_server::{ExecutorGrpc, ExecutorGrpcServer};
use ballista_core::serde::protobuf::executor_resource::Resource;
use ballista_core::serde::protobuf::executor_status::Status as Health;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::task_status::Status as Outcome;
use ballista_core::serde::protobuf::{
    CancelTasksParams, CancelTasksResult, ExecutorOperatingSystemSpecification, ExecutorRegistration, ExecutorResource,
    ExecutorSpecification, ExecutorStatus, HeartBeatParams, LaunchMultiTaskParams, LaunchMultiTaskResult, LaunchTaskParams,
    LaunchTaskResult, RegisterExecutorParams, RemoveJobDataParams, RemoveJobDataResult, ShuffleWritePartition, StopExecutorParams,
    StopExecutorResult, SuccessfulTask, TaskStatus, UpdateTaskStatusParams,
};
use futures::stream::{self, BoxStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use windlass_engine::MESSAGE_BYTES_MAX;
use windlass_engine::roll_call::{self, RunningTasks, TaskName};

use crate::Result;

/// As often as executors do it.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// Tasks that an executor may have taken and not reported. The scheduler gives it no more than it has slots.
const REPORTS_QUEUED_MAX: usize = 10_000;

/// What all executors are.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Slots of each.
    pub slots: u32,
    /// Partitions of every exchange.
    pub partitions: u32,
    /// Partitions of an exchange that each task says it has written, a row to each.
    pub outputs: u32,
    /// The stage that ends a query. Its tasks say that there are no rows: nobody would have them.
    pub last_stage: u32,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Tasks that arrived.
    pub bound: AtomicU64,
    /// Tasks whose success the scheduler has taken note of.
    pub completed: AtomicU64,
    /// Partitions of those that arrived.
    pub partitions: AtomicU64,
    /// Calls that brought tasks.
    pub launches: AtomicU64,
    /// Bytes of the plans and settings that came with tasks.
    pub task_bytes: AtomicU64,
    /// Calls that delete files.
    pub cleanups: AtomicU64,
}

/// Starts so many executors and returns when all are registered at `scheduler`; they end with `shutdown`.
pub async fn start(count: usize, kind: Kind, scheduler: &str, shutdown: &CancellationToken) -> Result<Arc<Counts>> {
    let counts = Arc::new(Counts::default());
    let endpoint = Endpoint::from_shared(format!("http://{scheduler}"))?.tcp_nodelay(true);
    let endpoint = endpoint.user_agent(format!("windlass-executor/{} memory/0", windlass_proto::VERSION))?;
    for number in 0..count {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let registration = registration(number, listener.local_addr()?.port(), kind.slots);
        let client = SchedulerGrpcClient::new(endpoint.connect().await?);
        let (reports, reported) = mpsc::channel(REPORTS_QUEUED_MAX);
        let executor =
            Executor { id: registration.id.as_str().into(), kind, running: Arc::default(), reports, counts: Arc::clone(&counts) };
        let running = Arc::clone(&executor.running);
        let server = Server::builder()
            .add_service(ExecutorGrpcServer::new(executor.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(FlightServiceServer::new(executor))
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown.clone().cancelled_owned());
        tokio::spawn(server);
        client.clone().register_executor(RegisterExecutorParams { metadata: Some(registration.clone()) }).await?;
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(report(
            registration.id.clone(),
            client.clone(),
            reported,
            running,
            Arc::clone(&counts),
        )));
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(beat(registration, client)));
    }
    Ok(counts)
}

fn registration(number: usize, port: u16, slots: u32) -> ExecutorRegistration {
    let slots = ExecutorResource { resource: Some(Resource::Vcores(slots)) };
    ExecutorRegistration {
        id: format!("simulated-{number}"),
        host: Some("127.0.0.1".to_owned()),
        port: port.into(),
        grpc_port: port.into(),
        specification: Some(ExecutorSpecification { resources: vec![slots] }),
        os_info: Some(ExecutorOperatingSystemSpecification::default()),
        ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
    }
}

async fn beat(registration: ExecutorRegistration, mut scheduler: SchedulerGrpcClient<Channel>) {
    loop {
        let beat = HeartBeatParams {
            executor_id: registration.id.clone(),
            metrics: Vec::new(),
            status: Some(ExecutorStatus { status: Some(Health::Active(String::new())) }),
            metadata: Some(registration.clone()),
        };
        if let Err(error) = scheduler.heart_beat_from_executor(beat).await {
            eprintln!("executor {}: heartbeat: {error}", registration.id);
        }
        tokio::time::sleep(HEARTBEAT).await;
    }
}

/// Reports what has been taken; what comes meanwhile goes into one report, as with a real executor.
async fn report(
    id: String,
    mut scheduler: SchedulerGrpcClient<Channel>,
    mut reported: mpsc::Receiver<TaskStatus>,
    running: Arc<Mutex<HashSet<TaskName>>>,
    counts: Arc<Counts>,
) {
    let mut statuses = Vec::new();
    while reported.recv_many(&mut statuses, REPORTS_QUEUED_MAX).await > 0 {
        let ended: Vec<_> = statuses.iter().map(|status| name(&status.job_id, status.stage_id, status.task_id)).collect();
        let report = UpdateTaskStatusParams { executor_id: id.clone(), task_status: std::mem::take(&mut statuses) };
        if let Err(error) = scheduler.update_task_status(report).await {
            eprintln!("executor {id}: report: {error}");
        }
        counts.completed.fetch_add(ended.len() as u64, Ordering::Relaxed);
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        for task in &ended {
            running.remove(task);
        }
    }
}

fn name(job: &str, stage: u32, task: u32) -> TaskName {
    TaskName { job: job.to_owned(), stage: stage.into(), task: task.into() }
}

#[derive(Debug, Clone)]
struct Executor {
    id: Arc<str>,
    kind: Kind,
    running: Arc<Mutex<HashSet<TaskName>>>,
    reports: mpsc::Sender<TaskStatus>,
    counts: Arc<Counts>,
}

impl Executor {
    fn success(&self, job: &str, stage: u32, attempt: u32, task: u32, launched: u64) -> TaskStatus {
        let outputs = if stage == self.kind.last_stage { 0 } else { self.kind.outputs.min(self.kind.partitions) };
        let written = |output| ShuffleWritePartition {
            partition_id: (u64::from(task) + u64::from(output)) % u64::from(self.kind.partitions),
            num_batches: 1,
            num_rows: 1,
            num_bytes: 100,
            file_id: Some(task.into()),
            is_sort_shuffle: true,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        TaskStatus {
            task_id: task,
            job_id: job.to_owned(),
            stage_id: stage,
            stage_attempt_num: attempt,
            launch_time: launched,
            start_exec_time: now,
            end_exec_time: now,
            metrics: Vec::new(),
            status: Some(Outcome::Successful(SuccessfulTask {
                executor_id: self.id.to_string(),
                partitions: (0..outputs).map(written).collect(),
                ..SuccessfulTask::default()
            })),
        }
    }
}

#[async_trait]
impl ExecutorGrpc for Executor {
    async fn launch_multi_task(&self, request: Request<LaunchMultiTaskParams>) -> Result<Response<LaunchMultiTaskResult>, Status> {
        self.counts.launches.fetch_add(1, Ordering::Relaxed);
        for tasks in request.into_inner().multi_tasks {
            let settings = tasks.props.iter().map(|pair| pair.key.len() + pair.value.as_ref().map_or(0, String::len)).sum::<usize>();
            self.counts.task_bytes.fetch_add((tasks.plan.len() + settings) as u64, Ordering::Relaxed);
            self.counts.bound.fetch_add(tasks.task_ids.len() as u64, Ordering::Relaxed);
            for task in tasks.task_ids {
                self.counts.partitions.fetch_add(task.vcores_consumed.into(), Ordering::Relaxed);
                let started = name(&tasks.job_id, tasks.stage_id, task.task_id);
                self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(started);
                let status = self.success(&tasks.job_id, tasks.stage_id, tasks.stage_attempt_num, task.task_id, tasks.launch_time);
                self.reports.try_send(status).map_err(|_| Status::resource_exhausted("more tasks than slots"))?;
            }
        }
        Ok(Response::new(LaunchMultiTaskResult::default()))
    }

    async fn launch_task(&self, _: Request<LaunchTaskParams>) -> Result<Response<LaunchTaskResult>, Status> {
        unserved()
    }

    async fn stop_executor(&self, request: Request<StopExecutorParams>) -> Result<Response<StopExecutorResult>, Status> {
        eprintln!("executor {} is told to stop: {}", self.id, request.get_ref().reason);
        Ok(Response::new(StopExecutorResult::default()))
    }

    async fn cancel_tasks(&self, _: Request<CancelTasksParams>) -> Result<Response<CancelTasksResult>, Status> {
        // All of them have ended.
        Ok(Response::new(CancelTasksResult { cancelled: true }))
    }

    async fn remove_job_data(&self, _: Request<RemoveJobDataParams>) -> Result<Response<RemoveJobDataResult>, Status> {
        self.counts.cleanups.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(RemoveJobDataResult::default()))
    }
}

fn unserved<T>() -> Result<T, Status> {
    Err(Status::unimplemented("simulated executors do not do this"))
}

type Replies<T> = BoxStream<'static, Result<T, Status>>;

/// Only the roll call: nobody reads results, because there are none.
#[async_trait]
impl FlightService for Executor {
    type DoActionStream = Replies<arrow_flight::Result>;
    type DoExchangeStream = Replies<FlightData>;
    type DoGetStream = Replies<FlightData>;
    type DoPutStream = Replies<PutResult>;
    type HandshakeStream = Replies<HandshakeResponse>;
    type ListActionsStream = Replies<ActionType>;
    type ListFlightsStream = Replies<FlightInfo>;

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        if request.get_ref().r#type != roll_call::ACTION {
            return unserved();
        }
        let tasks = self.running.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        let answer = arrow_flight::Result { body: RunningTasks { tasks, jobs: Vec::new() }.to_bytes().into() };
        Ok(Response::new(Box::pin(stream::iter([Ok(answer)]))))
    }

    async fn do_get(&self, _: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        unserved()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        unserved()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        unserved()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        unserved()
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        unserved()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        unserved()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        unserved()
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        unserved()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        unserved()
    }
}
