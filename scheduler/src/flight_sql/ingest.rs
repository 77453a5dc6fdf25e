//! Bulk ingestion: a client streams rows into a table, which takes all of them or none.

use std::sync::Arc;

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use windlass_catalog::ddl::TableName;

use super::FlightFrontend;
use crate::error::{Error, Result};
use crate::session::Session;
use crate::write::{IfExists, IfMissing, Ingest, IngestRows};

/// Batches of a stream that wait to be written; more are left in the connection.
const WAITING_MAX: usize = 2;

impl FlightFrontend {
    /// `DoPut` of `CommandStatementIngest`: how many rows came.
    pub(super) async fn ingest(
        &self,
        session: &Arc<Session>,
        command: CommandStatementIngest,
        messages: BoxStream<'static, Result<FlightData, FlightError>>,
    ) -> Result<i64> {
        let options = command.table_definition_options.unwrap_or_default();
        if command.temporary {
            return Err(Error::unsupported("temporary tables are not supported").with_hint("ingest into a table, and drop it afterwards"));
        }
        if command.transaction_id.is_some() {
            return Err(Error::unsupported("transactions are not supported").with_hint("every ingestion commits on its own"));
        }
        let if_missing = match options.if_not_exist() {
            TableNotExistOption::Create | TableNotExistOption::Unspecified => IfMissing::Create,
            TableNotExistOption::Fail => IfMissing::Fail,
        };
        let if_exists = match options.if_exists() {
            TableExistsOption::Append => IfExists::Append,
            TableExistsOption::Replace => IfExists::Replace,
            TableExistsOption::Fail | TableExistsOption::Unspecified => IfExists::Fail,
        };
        let lower = |name: String| name.to_lowercase();
        let table = TableName { catalog: command.catalog.map(lower), database: command.schema.map(lower), name: lower(command.table) };

        let unreadable = |cause: FlightError| Error::invalid(format!("cannot read the rows: {cause}"));
        let mut received = FlightRecordBatchStream::new_from_flight_data(messages);
        let first = received.try_next().await.map_err(unreadable)?;
        let schema = received.schema().map(Arc::clone).ok_or_else(|| Error::invalid("the stream has no schema"))?;
        let (rows, waiting) = mpsc::channel(WAITING_MAX);
        let ingest = Ingest { table, if_missing, if_exists, rows: IngestRows::new(schema, waiting) };
        let started = self.coordinator.ingest(session, ingest).await;
        let feed = async {
            let mut next = first;
            while let Some(batch) = next {
                // Nobody takes them any more once the query has failed, but some clients fail if the answer comes before they have sent all.
                let _refused = rows.send(Some(batch)).await;
                next = received.try_next().await.map_err(unreadable)?;
            }
            let _refused = rows.send(None).await;
            // Dropped before the end, the channel says that the stream broke off.
            drop(rows);
            Ok(())
        };
        match started {
            Ok(query) => {
                let (fed, written) = tokio::join!(feed, query.complete());
                query.close().await;
                fed.and(written)?;
                Ok(query.affected_rows().unwrap_or(-1))
            }
            Err(error) => {
                let _unwanted: Result<()> = feed.await;
                Err(error)
            }
        }
    }
}
