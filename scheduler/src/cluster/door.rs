//! What executors may say to the scheduler, and nothing else.
//!
//! Ballista's service also runs plans, changes sessions and cancels jobs for whoever reaches the port; and it panics over a registration
//! that lacks a host or a specification.

use std::sync::Arc;
use std::time::Duration;

use ballista_core::BALLISTA_PROTOCOL_VERSION;
use ballista_core::serde::protobuf::failed_task::FailedReason;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::task_status::Status as TaskState;
use ballista_core::serde::protobuf::{
    CancelJobParams, CancelJobResult, CleanJobDataParams, CleanJobDataResult, CreateUpdateSessionParams, CreateUpdateSessionResult,
    ExecuteQueryParams, ExecuteQueryResult, ExecutorRegistration, ExecutorStoppedParams, ExecutorStoppedResult, FailedTask,
    GetJobMetricsParams, GetJobMetricsResult, GetJobStatusParams, GetJobStatusResult, HeartBeatParams, HeartBeatResult, PollWorkParams,
    PollWorkResult, RegisterExecutorParams, RegisterExecutorResult, RemoveSessionParams, RemoveSessionResult, UpdateTaskStatusParams,
    UpdateTaskStatusResult, executor_resource,
};
use futures::stream::Empty;
use tonic::{Request, Response, Status};
use windlass_engine::pipelined::BUILD;

use super::{BallistaServer, Executors};

/// Bytes of an executor's id at most.
const ID_BYTES_MAX: usize = 64;

/// What the user agent of our executors starts with; their build follows.
const EXECUTOR_AGENT: &str = "windlass-executor/";

/// What precedes the bytes of memory that its tasks share.
const MEMORY_AGENT: &str = "memory/";

/// Ballista's scheduler service, reduced to what executors need.
pub struct ExecutorDoor {
    inner: BallistaServer,
    executors: Arc<Executors>,
}

impl ExecutorDoor {
    /// Forwards to `inner`.
    pub fn new(inner: BallistaServer, executors: Arc<Executors>) -> Self {
        Self { inner, executors }
    }
}

type Answer<T> = Result<Response<T>, Status>;

fn refuse<T>(what: &str) -> Answer<T> {
    Err(Status::permission_denied(format!("this port is for executors and does not {what}; send SQL to the Flight SQL port")))
}

/// The build and the memory that an executor's requests name. Errors: a build that is not ours, or none. Other executors of Ballista's lack
/// our functions and readers, and get only those settings that differ from our defaults.
fn introduction<T>(request: &Request<T>) -> Result<(String, u64), Status> {
    let agent = request.metadata().get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let named = |name| agent.split_whitespace().find_map(|word: &str| word.strip_prefix(name));
    match named(EXECUTOR_AGENT) {
        Some(BUILD) => Ok((BUILD.to_owned(), named(MEMORY_AGENT).and_then(|bytes| bytes.parse().ok()).unwrap_or(0))),
        Some(version) => {
            Err(Status::failed_precondition(format!("executor is version {version}, the scheduler {BUILD}: install the same version")))
        }
        None => Err(Status::failed_precondition(format!("executor does not tell its version: start windlass-executor {BUILD}"))),
    }
}

/// Refuses what Ballista's handlers would panic over or what could not run a task.
fn check(registration: Option<&ExecutorRegistration>) -> Result<(), Status> {
    let registration = registration.ok_or_else(|| Status::invalid_argument("executor sends no registration"))?;
    let id = &registration.id;
    let valid = (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if !valid {
        return Err(Status::invalid_argument(format!("executor id is 1 to {ID_BYTES_MAX} letters, digits, '-' and '_'")));
    }
    if registration.ballista_protocol_version != BALLISTA_PROTOCOL_VERSION {
        let (theirs, ours) = (registration.ballista_protocol_version, BALLISTA_PROTOCOL_VERSION);
        return Err(Status::failed_precondition(format!(
            "executor '{id}' speaks protocol {theirs}, the scheduler {ours}: install the same version"
        )));
    }
    let refused = |what: &str| Err(Status::invalid_argument(format!("executor '{id}' registers without {what}")));
    let resources = registration.specification.iter().flat_map(|specification| &specification.resources);
    let slots = resources.filter_map(|resource| resource.resource).map(|executor_resource::Resource::Vcores(slots)| slots).next_back();
    match registration {
        _ if registration.host.as_ref().is_none_or(String::is_empty) => refused("a host that others can reach it at"),
        _ if slots.unwrap_or(0) == 0 => refused("slots"),
        _ if registration.os_info.is_none() => refused("a description of its system"),
        _ if [registration.port, registration.grpc_port].iter().any(|port| u16::try_from(*port).is_err() || *port == 0) => {
            refused("its ports")
        }
        _ => Ok(()),
    }
}

#[tonic::async_trait]
impl SchedulerGrpc for ExecutorDoor {
    type ExecuteQueryPushStream = Empty<Result<GetJobStatusResult, Status>>;

    async fn register_executor(&self, request: Request<RegisterExecutorParams>) -> Answer<RegisterExecutorResult> {
        let registration = request.get_ref().metadata.as_ref();
        check(registration)?;
        let executor = registration.map(|registration| registration.id.clone()).unwrap_or_default();
        let (version, memory_bytes) = introduction(&request)?;
        let answer = self.inner.register_executor(request).await?;
        self.executors.introduce(&executor, &version, memory_bytes);
        Ok(answer)
    }

    async fn heart_beat_from_executor(&self, request: Request<HeartBeatParams>) -> Answer<HeartBeatResult> {
        check(request.get_ref().metadata.as_ref())?;
        let ((version, memory_bytes), executor) = (introduction(&request)?, request.get_ref().executor_id.clone());
        let answer = self.inner.heart_beat_from_executor(request).await?;
        self.executors.introduce(&executor, &version, memory_bytes);
        Ok(answer)
    }

    async fn update_task_status(&self, request: Request<UpdateTaskStatusParams>) -> Answer<UpdateTaskStatusResult> {
        let reports_lost_input = request.get_ref().task_status.iter().any(|task| {
            let Some(TaskState::Failed(FailedTask { failed_reason, .. })) = &task.status else { return false };
            matches!(failed_reason, Some(FailedReason::FetchPartitionError(_)))
        });
        if reports_lost_input {
            // One executor could not reach another: find out now, not when its heartbeats are missed.
            let executors = Arc::clone(&self.executors);
            tokio::spawn(async move { executors.probe(Duration::ZERO).await });
        }
        let (metadata, extensions, UpdateTaskStatusParams { executor_id, task_status }) = request.into_parts();
        let task_status = self.executors.enter(&executor_id, task_status).await;
        if task_status.is_empty() {
            return Ok(Response::new(UpdateTaskStatusResult { success: true }));
        }
        let request = Request::from_parts(metadata, extensions, UpdateTaskStatusParams { executor_id, task_status });
        SchedulerGrpc::update_task_status(&self.inner, request).await
    }

    async fn executor_stopped(&self, request: Request<ExecutorStoppedParams>) -> Answer<ExecutorStoppedResult> {
        self.inner.executor_stopped(request).await
    }

    async fn poll_work(&self, _: Request<PollWorkParams>) -> Answer<PollWorkResult> {
        refuse("hand out work on request")
    }

    async fn create_update_session(&self, _: Request<CreateUpdateSessionParams>) -> Answer<CreateUpdateSessionResult> {
        refuse("keep sessions")
    }

    async fn remove_session(&self, _: Request<RemoveSessionParams>) -> Answer<RemoveSessionResult> {
        refuse("keep sessions")
    }

    async fn execute_query_push(&self, _: Request<ExecuteQueryParams>) -> Answer<Self::ExecuteQueryPushStream> {
        refuse("run queries")
    }

    async fn execute_query(&self, _: Request<ExecuteQueryParams>) -> Answer<ExecuteQueryResult> {
        refuse("run queries")
    }

    async fn get_job_status(&self, _: Request<GetJobStatusParams>) -> Answer<GetJobStatusResult> {
        refuse("tell of queries")
    }

    async fn get_job_metrics(&self, _: Request<GetJobMetricsParams>) -> Answer<GetJobMetricsResult> {
        refuse("tell of queries")
    }

    async fn cancel_job(&self, _: Request<CancelJobParams>) -> Answer<CancelJobResult> {
        refuse("cancel queries")
    }

    async fn clean_job_data(&self, _: Request<CleanJobDataParams>) -> Answer<CleanJobDataResult> {
        refuse("delete results")
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::serde::protobuf::{ExecutorOperatingSystemSpecification, ExecutorResource, ExecutorSpecification};

    use super::*;

    #[test]
    fn only_executors_of_this_build_are_let_in() {
        let introduced = |agent: Option<&str>| {
            let mut request = Request::new(());
            agent.map(|agent| request.metadata_mut().insert("user-agent", agent.parse().unwrap()));
            introduction(&request)
        };
        let ours = format!("windlass-executor/{BUILD}");
        assert_eq!(introduced(Some(&format!("{ours} memory/7 tonic/0"))).unwrap(), (BUILD.to_owned(), 7));
        assert_eq!(introduced(Some(&ours)).unwrap().1, 0);
        for other in [None, Some("tonic/0"), Some("windlass-executor/"), Some("windlass-executor/0.0.0 memory/7")] {
            assert!(introduced(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn incomplete_registrations_are_refused() {
        let slots = |count| ExecutorSpecification {
            resources: vec![ExecutorResource { resource: Some(executor_resource::Resource::Vcores(count)) }],
        };
        let whole = ExecutorRegistration {
            id: "a-1".to_owned(),
            host: Some("10.0.0.1".to_owned()),
            port: 1,
            grpc_port: 2,
            specification: Some(slots(2)),
            os_info: Some(ExecutorOperatingSystemSpecification::default()),
            ballista_protocol_version: BALLISTA_PROTOCOL_VERSION,
        };
        check(Some(&whole)).unwrap();
        assert!(check(None).is_err());
        for broken in [
            ExecutorRegistration { id: String::new(), ..whole.clone() },
            ExecutorRegistration { id: "../etc".to_owned(), ..whole.clone() },
            ExecutorRegistration { host: None, ..whole.clone() },
            ExecutorRegistration { specification: None, ..whole.clone() },
            ExecutorRegistration { specification: Some(slots(0)), ..whole.clone() },
            ExecutorRegistration { os_info: None, ..whole.clone() },
            ExecutorRegistration { port: 65_536, ..whole.clone() },
            ExecutorRegistration { ballista_protocol_version: BALLISTA_PROTOCOL_VERSION + 1, ..whole.clone() },
        ] {
            assert!(check(Some(&broken)).is_err(), "{broken:?}");
        }
    }
}
