//! One statement's run, as its client sees it.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{Action, CancelFlightInfoRequest, FlightDescriptor, FlightInfo, PollInfo};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use tokio::time::Instant;
use tonic::Code;
use windlass_proto::{Progress, QueryState};

use crate::connection::Connection;
use crate::error::{Error, Result};

/// Least time between two polls. A cluster holds a poll back until the query ends or something is worth telling; other servers may not.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A statement that the cluster accepted. Drop it to lose interest; [`RunningQuery::cancel`] to stop it.
///
/// Endpoints are fetched over the connection that made the query: a Windlass cluster answers with its own address only.
#[derive(Debug, Clone)]
pub struct RunningQuery {
    connection: Connection,
    info: FlightInfo,
    next: Option<FlightDescriptor>,
    progress: Progress,
    asked: Instant,
}

impl RunningQuery {
    /// Sends `sql`. DDL and settings are over when this returns; a query has been accepted.
    pub(crate) async fn start(connection: Connection, sql: &str) -> Result<Self> {
        let command = CommandStatementQuery { query: sql.to_string(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let mut query = Self { connection, info: FlightInfo::new(), next: None, progress: Progress::default(), asked: Instant::now() };
        let mut client = query.connection.client();
        match client.poll_flight_info(query.connection.request(descriptor.clone())).await {
            Ok(response) => {
                query.connection.adopt(response.metadata());
                query.update(response.into_inner());
            }
            // A Flight SQL server of another make: it answers when the query is planned.
            Err(status) if status.code() == Code::Unimplemented && status.details().is_empty() => {
                let response = client.get_flight_info(query.connection.request(descriptor)).await;
                let response = response.map_err(|status| query.connection.error(&status))?;
                query.connection.adopt(response.metadata());
                query.info = response.into_inner();
            }
            Err(status) => return Err(query.connection.error(&status)),
        }
        Ok(query)
    }

    /// Whether all rows are ready to be fetched.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// Asks how far it is; returns at once when complete. A failed query is an error here.
    pub async fn poll(&mut self) -> Result<()> {
        let Some(descriptor) = self.next.clone() else { return Ok(()) };
        tokio::time::sleep_until(self.asked + POLL_INTERVAL).await;
        self.asked = Instant::now();
        let response = self.connection.client().poll_flight_info(self.connection.request(descriptor)).await;
        let response = response.map_err(|status| self.connection.error(&status))?;
        self.update(response.into_inner());
        Ok(())
    }

    /// The latest snapshot; empty for a server of another make.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The schema of the rows.
    pub fn schema(&self) -> Result<SchemaRef> {
        let schema = self.info.clone().try_decode_schema();
        Ok(schema.map_err(|error| Error::Format(format!("the cluster sent an unreadable schema: {error}")))?.into())
    }

    /// The rows, endpoint by endpoint in order, while they arrive; waits for the query's end where that is not known yet. Dropping the
    /// stream ends the fetch.
    pub fn rows(&self) -> Rows {
        let mut query = self.clone();
        let connection = self.connection.clone();
        let tickets = futures::stream::once(async move {
            while !query.is_complete() {
                query.poll().await?;
            }
            let tickets = query.info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket);
            Ok::<_, Error>(futures::stream::iter(tickets.map(Ok)))
        });
        let streams = tickets.try_flatten().and_then(move |ticket| {
            let connection = connection.clone();
            async move {
                let request = connection.request(ticket);
                let response = connection.client().do_get(request).await.map_err(|status| connection.error(&status))?;
                let messages = response.into_inner().map_err(FlightError::from);
                let batches = FlightRecordBatchStream::new_from_flight_data(messages);
                Ok::<_, Error>(batches.map_err(move |error| Error::from_flight(connection.uri(), error)))
            }
        });
        Rows(streams.try_flatten().boxed())
    }

    /// Asks the cluster to stop the query; returns when it answered or after 5 s.
    pub async fn cancel(&self) -> Result<()> {
        let body = CancelFlightInfoRequest { info: Some(self.info.clone()) }.encode_to_vec().into();
        let action = Action { r#type: "CancelFlightInfo".into(), body };
        let mut client = self.connection.client();
        match tokio::time::timeout(CANCEL_TIMEOUT, client.do_action(self.connection.request(action))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(self.connection.error(&status)),
            Err(_) => Err(Error::connection(self.connection.uri(), "no answer to the cancel request")),
        }
    }

    fn update(&mut self, poll: PollInfo) {
        self.next = poll.flight_descriptor;
        if let Some(info) = poll.info {
            if let Ok(progress) = Progress::decode(info.app_metadata.clone()) {
                self.progress = progress;
            }
            self.info = info;
        }
        if self.next.is_none() {
            self.progress.set_state(QueryState::Finished);
        }
    }
}

/// A query's rows as they arrive.
pub struct Rows(BoxStream<'static, Result<RecordBatch>>);

impl Stream for Rows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}
