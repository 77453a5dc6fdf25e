//! Who may ask for stages, where they compute, and what is promised when a stream ends.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::Frame;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body as HttpBody, BoxFuture, Bytes, Service};
use tonic::server::NamedService;
use tonic::{Code, Status};
use windlass_engine::config::Secret;
use windlass_engine::pipelined::QueryToken;

use super::queries::{Attempt, Queries, Refusal, TaskGuard};

/// The call that brings a task its plan and stays open until the query ends.
const CONTROL: &str = "/CoordinatorChannel";

/// Guards a service of stages.
///
/// A stream ends as complete only if nothing went wrong in this process for its query: see [`windlass_engine::pipelined::fate`].
#[derive(Debug, Clone)]
pub struct Door<S> {
    inner: S,
    queries: Arc<Queries>,
    key: Option<Secret>,
    threads: Handle,
}

impl<S> Door<S> {
    /// Lets requests of this cluster through to `inner`, which runs on `threads`.
    pub fn new(inner: S, queries: Arc<Queries>, key: Option<Secret>, threads: Handle) -> Self {
        Self { inner, queries, key, threads }
    }

    fn admit(&self, headers: &HeaderMap) -> Result<Arc<Attempt>, Refusal> {
        let token = QueryToken::of(headers, self.key.as_ref()).map_err(Refusal::Token)?;
        self.queries.attempt(&token)
    }
}

impl<S: NamedService> NamedService for Door<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Door<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;
    type Response = Response<Body>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let attempt = match self.admit(request.headers()) {
            Ok(attempt) => attempt,
            Err(refusal) => return Box::pin(async { Ok(Status::from(refusal).into_http()) }),
        };
        let is_control = request.uri().path().ends_with(CONTROL);
        let request = match is_control {
            true => {
                let task = attempt.task();
                request.map(|body| Body::new(TaskBody { body, _task: task }))
            }
            false => request,
        };
        let (mut inner, threads) = (self.inner.clone(), self.threads.clone());
        Box::pin(async move {
            // What the service spawns stays on its threads. Who hangs up takes the call along.
            let mut call = JoinSet::new();
            let handled = attempt.fate().watch(Box::pin(async move { inner.call(request).await }));
            call.spawn_on(handled, &threads);
            let response = match call.join_next().await {
                Some(Ok(Ok(response))) => response,
                Some(Err(error)) if error.is_panic() => {
                    attempt.objection().unwrap_or_else(|| Status::internal("a request panicked")).into_http()
                }
                _ => Status::from(Refusal::Closed).into_http(),
            };
            Ok(response.map(|body| Body::new(CheckedBody { body, attempt, is_control, ended: false })))
        })
    }
}

/// The request that brings a plan: while it is open, its task lives.
struct TaskBody {
    body: Body,
    _task: TaskGuard,
}

impl HttpBody for TaskBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// A response that breaks off with an error once its attempt has gone wrong.
struct CheckedBody {
    body: Body,
    attempt: Arc<Attempt>,
    /// Carries metrics, which are sent when the query is over.
    is_control: bool,
    ended: bool,
}

impl HttpBody for CheckedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let fails = matches!(&frame, Some(Ok(frame)) if frame.trailers_ref().and_then(Status::from_header_map).is_some_and(|status| status.code() != Code::Ok));
        let objection = self.attempt.objection().filter(|status| !(self.is_control && status.code() == Code::Cancelled));
        match objection {
            // An error of the stream's own says more.
            Some(status) if !fails => {
                self.ended = true;
                let mut trailers = HeaderMap::new();
                Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
            }
            _ => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}
