//! The ticket of a query's rows: opaque to clients, signed, bound to a user and a time.

use std::sync::Arc;

use arrow_flight::sql::{ProstMessageExt, TicketStatementQuery};
use arrow_flight::{FlightInfo, Ticket};
use bytes::Bytes;
use prost::Message;
use windlass_proto::{Kind, Progress, QueryId};

use super::FlightFrontend;
use super::statements::command;
use crate::auth::{Purpose, unix_seconds};
use crate::error::{Error, Result};
use crate::query::Query;
use crate::session::Session;

#[derive(Clone, PartialEq, Message)]
struct TicketBody {
    #[prost(string, tag = "1")]
    query: String,
    #[prost(string, tag = "2")]
    user: String,
    #[prost(uint64, tag = "3")]
    expires: u64,
}

impl FlightFrontend {
    /// The command that names `query` in tickets and poll descriptors.
    pub(super) fn seal(&self, query: &Query) -> Bytes {
        let expires = unix_seconds() + self.options.ticket_seconds;
        let body = TicketBody { query: query.id().to_string(), user: query.user().to_owned(), expires };
        let statement_handle = self.key.sign(Purpose::Ticket, &body).into();
        TicketStatementQuery { statement_handle }.as_any().encode_to_vec().into()
    }

    /// The query that a ticket names. Errors: `Invalid` if we did not write it, `NotFound` when it has expired or the query is gone,
    /// `Denied` for another user.
    pub(super) fn unseal(&self, session: &Session, ticket: &TicketStatementQuery) -> Result<Arc<Query>> {
        let body: TicketBody = self
            .key
            .open(Purpose::Ticket, &ticket.statement_handle)
            .ok_or_else(|| Error::invalid("the ticket is not one of this cluster's").with_hint("run the statement again"))?;
        if body.user != session.user() {
            return Err(Error::new(Kind::Denied, "the ticket belongs to another user"));
        }
        if body.expires < unix_seconds() {
            return Err(gone(&body.query));
        }
        self.coordinator.query(&QueryId::new(&body.query)).ok_or_else(|| gone(&body.query))
    }

    /// The query whose `FlightInfo` a client shows us: by its ticket, or by its metadata while it has no endpoint yet.
    pub(super) fn query_of(&self, session: &Session, info: &FlightInfo) -> Result<Arc<Query>> {
        if let Some(Ticket { ticket }) = info.endpoint.first().and_then(|endpoint| endpoint.ticket.as_ref()) {
            return match command(ticket)? {
                arrow_flight::sql::Command::TicketStatementQuery(ticket) => self.unseal(session, &ticket),
                _ => Err(Error::invalid("the flight is not a query's")),
            };
        }
        let progress = Progress::decode(info.app_metadata.as_ref()).unwrap_or_default();
        let query = self.coordinator.query(&QueryId::new(&progress.query_id)).ok_or_else(|| gone(&progress.query_id))?;
        match query.user() == session.user() {
            true => Ok(query),
            false => Err(Error::new(Kind::Denied, "the query belongs to another user")),
        }
    }
}

fn gone(query: &str) -> Error {
    Error::new(Kind::NotFound, format!("the rows of query '{query}' are gone")).with_hint("run the statement again")
}
