//! Queries that are ended by somebody else than their client.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use windlass_catalog::ddl::KillQuery;
use windlass_proto::{Kind, QueryId};

use super::Queries;
use crate::error::{Error, Result};

/// Columns of what `CALL system.kill_query` returns.
pub fn killed_schema() -> SchemaRef {
    Arc::new(Schema::new(["query_id", "state"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec()))
}

/// Ends a query for `user`, and returns the state that it has then: another than `CANCELLED` if it had ended before. Errors: `NotFound`.
pub async fn kill(queries: &Queries, user: &str, kill: &KillQuery) -> Result<RecordBatch> {
    let query = queries.get(&QueryId::new(kill.query_id.as_str())).ok_or_else(|| {
        Error::new(Kind::NotFound, format!("query '{}' does not exist, or ended long ago", kill.query_id))
            .with_hint("system.queries lists those that run")
    })?;
    let why = if kill.message.is_empty() { String::new() } else { format!(": {}", kill.message) };
    query.cancel_because(Error::new(Kind::Cancelled, format!("the query was cancelled by '{user}'{why}")));
    query.cancel().await;
    let column = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let columns = vec![column(&kill.query_id), column(query.progress().state().name())];
    Ok(RecordBatch::try_new(killed_schema(), columns)?)
}
