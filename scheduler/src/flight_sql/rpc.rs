//! The Flight methods: who calls, what every call shares, and where it goes.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo,
    PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, Stream, StreamExt};
use metrics::counter;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, info_span};
use windlass_engine::telemetry::SPAN_CALL;
use windlass_proto::Kind;

use super::FlightFrontend;
use super::connection::Peer;
use crate::error::{Error, Result};
use crate::metrics::RPCS_TOTAL;
use crate::session::Session;

const AUTHORIZATION: &str = "authorization";

/// Messages of an answer.
pub(super) type Messages<T> = BoxStream<'static, Result<T, Status>>;

#[async_trait]
impl FlightService for FlightFrontend {
    type HandshakeStream = Messages<HandshakeResponse>;
    type ListFlightsStream = Messages<FlightInfo>;
    type DoGetStream = Messages<FlightData>;
    type DoPutStream = Messages<PutResult>;
    type DoActionStream = Messages<arrow_flight::Result>;
    type ListActionsStream = Messages<ActionType>;
    type DoExchangeStream = Messages<FlightData>;

    /// Answers without awaiting a message: some drivers send none, and older ones read the header first.
    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Result<Response<Self::HandshakeStream>, Status> {
        let header = authorization(request.metadata())?;
        let token = self.authenticator.handshake(self.coordinator.sessions(), header).await?;
        // Some drivers look for the token in the header, others in the message.
        let message = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let mut response = Response::new(stream::iter([Ok(message)]).boxed());
        set_bearer(response.metadata_mut(), &token);
        Ok(response)
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<FlightInfo>, Status> {
        self.call("GetFlightInfo", request, |session, descriptor| self.flight_info(session, descriptor)).await
    }

    async fn poll_flight_info(&self, request: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        let peer = Peer::of(&request).cloned();
        self.call("PollFlightInfo", request, |session, descriptor| self.poll(session, descriptor, peer)).await
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        self.call("GetSchema", request, |session, descriptor| self.schema(session, descriptor)).await
    }

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        self.call("DoGet", request, |session, ticket| async move { Ok(guarded(self.rows(session, ticket).await?)) }).await
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        self.call("DoPut", request, |session, messages| async move {
            let app_metadata = self.put(session, messages).await?;
            Ok(stream::iter([Ok(PutResult { app_metadata })]).boxed())
        })
        .await
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        self.call("DoAction", request, |session, action| async move {
            let results = self.act(session, action).await?;
            Ok(stream::iter(results.map(|body| Ok(arrow_flight::Result { body }))).boxed())
        })
        .await
    }

    async fn list_actions(&self, request: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        self.call("ListActions", request, |_, _| async { Ok(stream::iter(Self::actions().map(Ok)).boxed()) }).await
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Result<Response<Self::ListFlightsStream>, Status> {
        Err(Error::unsupported("ListFlights is not part of Flight SQL").into())
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoExchangeStream>, Status> {
        Err(Error::unsupported("DoExchange is not part of Flight SQL").into())
    }
}

impl FlightFrontend {
    /// What every call shares: admission, a span, a count, and a panic that costs one call and not the process.
    async fn call<T, R, F>(
        &self,
        method: &'static str,
        request: Request<T>,
        handler: impl FnOnce(Arc<Session>, T) -> F + Send,
    ) -> Result<Response<R>, Status>
    where
        T: Send,
        F: Future<Output = Result<R>> + Send,
    {
        let answered = async {
            let peer = Peer::of(&request).and_then(|peer| peer.address);
            let header = authorization(request.metadata())?;
            let caller = self.authenticator.admit(self.coordinator.sessions(), header, peer).await?;
            let span = info_span!(SPAN_CALL, method, user = caller.session.user(), session = %caller.session.id());
            let handling = handler(Arc::clone(&caller.session), request.into_inner()).instrument(span);
            let answer =
                AssertUnwindSafe(handling).catch_unwind().await.unwrap_or_else(|panic| Err(Error::panicked("the call", panic.as_ref())))?;
            let mut response = Response::new(answer);
            if let Some(token) = &caller.token {
                set_bearer(response.metadata_mut(), token);
            }
            Ok(response)
        };
        let answered: Result<Response<R>> = answered.await;
        let outcome = answered.as_ref().map_or_else(|error| error.kind().name(), |_| "OK");
        counter!(RPCS_TOTAL, "method" => method, "outcome" => outcome).increment(1);
        answered.map_err(Status::from)
    }
}

fn authorization(metadata: &MetadataMap) -> Result<Option<&str>> {
    let malformed = |_| Error::new(Kind::Unauthenticated, "the authorization header is not text");
    metadata.get(AUTHORIZATION).map(|value| value.to_str().map_err(malformed)).transpose()
}

/// Drivers take over a token from any answer, and send it from then on.
fn set_bearer(metadata: &mut MetadataMap, token: &str) {
    let value = MetadataValue::try_from(format!("Bearer {token}")).expect("base64 is ASCII");
    metadata.insert(AUTHORIZATION, value);
}

/// Ends a stream with an error where its source panics.
fn guarded<T: Send + 'static>(messages: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Messages<T> {
    AssertUnwindSafe(messages)
        .catch_unwind()
        .map(|caught| caught.unwrap_or_else(|panic| Err(Error::panicked("the call", panic.as_ref()).into())))
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_stream_is_its_last_message() {
        let rows = stream::iter(0..3).map(|i| if i == 1 { panic!("row {i}") } else { Ok::<_, Status>(i) });
        let seen: Vec<_> = guarded(rows).collect().await;
        assert_eq!(seen.len(), 2);
        let status = seen[1].as_ref().expect_err("panic");
        assert_eq!((status.code(), status.message().contains("row 1")), (tonic::Code::Internal, true));
    }
}
