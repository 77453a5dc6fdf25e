//! Statements: from a command to a running query, to its description, to its rows.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{Any, Command, CommandPreparedStatementQuery, DoPutPreparedStatementResult, DoPutUpdateResult};
use arrow_flight::{FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, PollInfo, SchemaAsIpc, SchemaResult, Ticket};
use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use tonic::{Status, Streaming};
use windlass_engine::answer::messages::{self, Rows};
use windlass_proto::Kind;

use super::connection::Peer;
use super::rpc::Messages;
use super::{FlightFrontend, columns};
use crate::error::{Error, Result};
use crate::query::Query;
use crate::session::Session;
use crate::statement::Statement;

/// How long a poll waits for the end of a query before it tells the progress.
const POLL_WAIT: Duration = Duration::from_millis(500);

/// The Flight SQL command in a descriptor or a ticket.
pub(super) fn command(bytes: &[u8]) -> Result<Command> {
    let any = Any::decode(bytes).map_err(|_| Error::invalid("not a Flight SQL command"))?;
    Command::try_from(any).map_err(|cause| Error::invalid(format!("malformed Flight SQL command: {cause}")))
}

/// A schema as an encapsulated IPC message.
pub(super) fn ipc(schema: &Schema) -> Result<Bytes> {
    let IpcMessage(bytes) = SchemaAsIpc::new(schema, &IpcWriteOptions::default()).try_into()?;
    Ok(bytes)
}

impl FlightFrontend {
    /// `GetFlightInfo`: starts a statement, or describes what a metadata command will answer.
    pub(super) async fn flight_info(&self, session: Arc<Session>, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let command = command(&descriptor.cmd)?;
        match self.start(&session, &command).await? {
            Some(query) => {
                if query.is_update() {
                    // Whether its rows are fetched or not.
                    query.complete().await?;
                }
                self.query_info(&query, descriptor)
            }
            None => metadata_info(&command, descriptor),
        }
    }

    /// `PollFlightInfo`: as `GetFlightInfo`, but the endpoint comes when there are rows to read; until then the answer says how far
    /// it is. A query that runs ends with the connection of whoever polled it last.
    pub(super) async fn poll(&self, session: Arc<Session>, descriptor: FlightDescriptor, peer: Option<Peer>) -> Result<PollInfo> {
        let command = command(&descriptor.cmd)?;
        let started = match &command {
            Command::TicketStatementQuery(ticket) => Some(self.unseal(&session, ticket)?),
            command => self.start(&session, command).await?,
        };
        let Some(query) = started else { return Ok(PollInfo::new().with_info(metadata_info(&command, descriptor)?)) };
        if let Some(peer) = peer {
            query.wanted_until(peer.gone);
        }
        let ended = tokio::time::timeout(POLL_WAIT, query.ready()).await;
        let fraction = query.progress().fraction();
        let mut info = self.query_info(&query, descriptor)?;
        let poll = match ended {
            Ok(outcome) => {
                outcome?;
                PollInfo::new()
            }
            Err(_) => {
                info.endpoint.clear();
                PollInfo::new().with_descriptor(FlightDescriptor::new_cmd(self.seal(&query)))
            }
        };
        Ok(poll.with_info(info).try_with_progress(fraction)?)
    }

    /// `GetSchema`: what the rows will look like; runs nothing.
    pub(super) async fn schema(&self, session: Arc<Session>, descriptor: FlightDescriptor) -> Result<SchemaResult> {
        let schema = match command(&descriptor.cmd)? {
            Command::CommandStatementQuery(query) => columns::of_result(&self.coordinator.prepare(&session, &query.query).await?.schema()),
            Command::CommandPreparedStatementQuery(query) => {
                columns::of_result(&self.prepared.get(&session, &query.prepared_statement_handle)?.statement.schema())
            }
            command => Self::metadata_schema(&command)?,
        };
        Ok(SchemaResult { schema: ipc(&schema)? })
    }

    /// `DoGet`.
    pub(super) async fn rows(&self, session: Arc<Session>, ticket: Ticket) -> Result<Messages<FlightData>> {
        let command = command(&ticket.ticket)?;
        let started = match &command {
            Command::TicketStatementQuery(ticket) => Some(self.unseal(&session, ticket)?),
            command => self.start(&session, command).await?,
        };
        if let Some(query) = started {
            query.keep_after_reading(Duration::from_secs(self.options.linger_seconds));
            let schema = columns::of_result(&query.schema());
            let rows = async move { Ok::<_, Error>(query.answer().await?.map_err(Error::from)) };
            return Ok(sent(schema, stream::once(rows).try_flatten().boxed()));
        }
        let batch = self.metadata(&session, &command).await?;
        Ok(sent(batch.schema(), stream::iter([Ok(Rows::Batch(batch))]).boxed()))
    }

    /// `DoPut`: updates and bound parameters. The answer's metadata.
    pub(super) async fn put(&self, session: Arc<Session>, messages: Streaming<FlightData>) -> Result<Bytes> {
        let mut messages = messages.map_err(FlightError::from).boxed().peekable();
        let empty = || Error::invalid("the stream ended before its first message").with_hint("send at least one batch, which may be empty");
        let first = match std::pin::Pin::new(&mut messages).peek().await.ok_or_else(empty)? {
            Ok(first) => first,
            Err(cause) => return Err(Error::invalid(format!("cannot read the stream: {cause}"))),
        };
        let described = first.flight_descriptor.as_ref().ok_or_else(|| Error::invalid("the first message has no descriptor"))?;
        let command = command(&described.cmd)?;
        // Without a schema in front there are no rows: arrow-go sends updates like that.
        let has_rows = !first.data_header.is_empty();
        let messages = messages.boxed();
        match command {
            Command::CommandStatementUpdate(update) => {
                drain(messages).await;
                let statement = self.coordinator.prepare(&session, &update.query).await?;
                self.update(&session, &statement, None).await
            }
            Command::CommandPreparedStatementUpdate(update) => {
                let prepared = self.prepared.get(&session, &update.prepared_statement_handle)?;
                let parameters = if has_rows { self.parameters(messages).await? } else { None };
                self.update(&prepared.session, &prepared.statement, parameters.as_ref()).await
            }
            Command::CommandPreparedStatementQuery(CommandPreparedStatementQuery { prepared_statement_handle }) => {
                let parameters = if has_rows { self.parameters(messages).await? } else { None };
                self.prepared.bind(&session, &prepared_statement_handle, parameters)?;
                let result = DoPutPreparedStatementResult { prepared_statement_handle: Some(prepared_statement_handle) };
                Ok(result.encode_to_vec().into())
            }
            Command::CommandStatementIngest(ingest) => {
                let result = DoPutUpdateResult { record_count: self.ingest(&session, ingest, messages).await? };
                Ok(result.encode_to_vec().into())
            }
            command => Err(unsupported(&command)),
        }
    }

    /// The query that a command starts; none for metadata commands. Updates have run, once, when this returns.
    async fn start(&self, session: &Arc<Session>, command: &Command) -> Result<Option<Arc<Query>>> {
        match command {
            Command::CommandStatementQuery(query) => self.coordinator.submit(session, &query.query).await.map(Some),
            Command::CommandPreparedStatementQuery(query) => {
                let prepared = self.prepared.get(session, &query.prepared_statement_handle)?;
                self.coordinator.execute(&prepared.session, &prepared.statement, prepared.parameters.as_ref()).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn update(&self, session: &Arc<Session>, statement: &Arc<Statement>, parameters: Option<&RecordBatch>) -> Result<Bytes> {
        let query = self.coordinator.execute(session, statement, parameters).await?;
        let mut unwanted = query.rows().await?;
        while unwanted.try_next().await?.is_some() {}
        query.close().await;
        let result = DoPutUpdateResult { record_count: query.affected_rows().unwrap_or(-1) };
        Ok(result.encode_to_vec().into())
    }

    /// One endpoint, here; more on request of nobody, since Grafana refuses any other number.
    fn query_info(&self, query: &Query, descriptor: FlightDescriptor) -> Result<FlightInfo> {
        let info = FlightInfo::new()
            .try_with_schema(&columns::of_result(&query.schema()))?
            .with_descriptor(descriptor)
            .with_endpoint(FlightEndpoint::new().with_ticket(Ticket { ticket: self.seal(query) }))
            // What DB-API calls `rowcount`.
            .with_total_records(query.affected_rows().unwrap_or(-1))
            .with_total_bytes(-1)
            .with_ordered(true)
            .with_app_metadata(query.progress().encode_to_vec());
        Ok(info)
    }

    /// All rows of a parameter stream; none if it has no columns. Errors: `Exhausted` above the limit.
    async fn parameters(&self, messages: BoxStream<'static, Result<FlightData, FlightError>>) -> Result<Option<RecordBatch>> {
        let mut received = FlightRecordBatchStream::new_from_flight_data(messages);
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let unreadable = |cause: FlightError| Error::invalid(format!("cannot read the parameters: {cause}"));
        while let Some(batch) = received.try_next().await.map_err(unreadable)? {
            bytes += get_record_batch_memory_size(&batch);
            if bytes > self.options.parameter_bytes_max {
                let limit = self.options.parameter_bytes_max;
                return Err(
                    Error::new(Kind::Exhausted, format!("the parameters exceed {limit} bytes")).with_hint("send fewer rows at once")
                );
            }
            batches.push(batch);
        }
        match received.schema() {
            Some(schema) if !schema.fields().is_empty() => Ok(Some(concat_batches(schema, &batches)?)),
            _ => Ok(None),
        }
    }
}

/// The messages of a result: its schema first.
fn sent(schema: SchemaRef, rows: BoxStream<'static, Result<Rows>>) -> Messages<FlightData> {
    let first = FlightData::from(SchemaAsIpc::new(&schema, &IpcWriteOptions::default()));
    let data = |messages::Message { header, body, .. }| FlightData { data_header: header, data_body: body, ..FlightData::default() };
    stream::iter([Ok(first)]).chain(messages::pack(schema, rows).map_ok(data).map_err(Status::from)).boxed()
}

/// Reads a stream to its end, since some clients fail if the answer comes before they have sent all.
async fn drain(mut messages: BoxStream<'static, Result<FlightData, FlightError>>) {
    while let Some(Ok(_)) = messages.next().await {}
}

fn metadata_info(command: &Command, descriptor: FlightDescriptor) -> Result<FlightInfo> {
    let ticket = Ticket { ticket: descriptor.cmd.clone() };
    let schema = FlightFrontend::metadata_schema(command)?;
    let info = FlightInfo::new().try_with_schema(&schema)?;
    Ok(info
        .with_descriptor(descriptor)
        .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
        .with_total_records(-1)
        .with_total_bytes(-1))
}

/// For commands that are not ours to run.
pub(super) fn unsupported(command: &Command) -> Error {
    match command {
        Command::CommandStatementSubstraitPlan(_) => Error::unsupported("Substrait plans are not supported"),
        Command::Unknown(any) if any.type_url.is_empty() => Error::invalid("not a Flight SQL command"),
        command => Error::unsupported(format!("'{}' is not supported here", command.type_url())),
    }
}
