//! The catalog `system`: what runs now, as tables. Each is a snapshot, taken when a statement that names it is planned.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::catalog::{CatalogProvider, MemTable, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::Result;
use windlass_catalog::ddl::TableName;

use crate::engines::{Cluster, ExecutorInfo};
use crate::query::{Queries, QueryRecord};

/// Name of the catalog; `system.runtime.queries` in SQL.
pub const CATALOG: &str = "system";
/// Name of its only database.
pub const DATABASE: &str = "runtime";

/// Its tables.
pub fn tables() -> Vec<TableName> {
    TABLES
        .iter()
        .map(|name| TableName { catalog: Some(CATALOG.to_owned()), database: Some(DATABASE.to_owned()), name: (*name).to_owned() })
        .collect()
}

const TABLES: [&str; 2] = ["executors", "queries"];

/// The catalog over these queries and executors.
pub fn catalog(queries: Arc<Queries>, cluster: Arc<dyn Cluster>) -> Arc<dyn CatalogProvider> {
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(DATABASE, Arc::new(Runtime { queries, cluster })).expect("a new catalog takes any database");
    Arc::new(catalog)
}

#[derive(Debug)]
struct Runtime {
    queries: Arc<Queries>,
    cluster: Arc<dyn Cluster>,
}

#[async_trait]
impl SchemaProvider for Runtime {
    fn table_names(&self) -> Vec<String> {
        TABLES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let batch = match name {
            "executors" => executors(&self.cluster.executors())?,
            "queries" => queries(&self.queries.records())?,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)))
    }

    fn table_exist(&self, name: &str) -> bool {
        TABLES.contains(&name)
    }
}

/// Rows from columns, each NULL where it has no value.
fn rows(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<_> = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, column)| column).collect())?)
}

fn texts<'a, T>(items: &'a [T], text: impl Fn(&'a T) -> &'a str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(items.iter().map(text)))
}

fn numbers<T>(items: &[T], number: impl Fn(&T) -> u64) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(items.iter().map(|item| i64::try_from(number(item)).unwrap_or(i64::MAX))))
}

fn executors(all: &[ExecutorInfo]) -> Result<RecordBatch> {
    rows(vec![
        ("executor_id", texts(all, |executor| &executor.id)),
        ("address", texts(all, |executor| &executor.address)),
        ("state", texts(all, |executor| executor.state)),
        ("slots", Arc::new(UInt32Array::from_iter_values(all.iter().map(|executor| executor.slots)))),
        ("slots_used", Arc::new(UInt32Array::from_iter_values(all.iter().map(|executor| executor.slots_used)))),
        ("heartbeat_age_ms", numbers(all, |executor| executor.heartbeat_age_ms)),
        ("version", texts(all, |executor| &executor.version)),
    ])
}

fn queries(all: &[QueryRecord]) -> Result<RecordBatch> {
    let created = TimestampMillisecondArray::from_iter_values(all.iter().map(|query| query.created_ms));
    let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    rows(vec![
        ("query_id", texts(all, |query| query.id.as_str())),
        ("state", texts(all, |query| query.state.name())),
        ("user", texts(all, |query| &query.user)),
        ("query", texts(all, |query| &query.sql)),
        ("engine", texts(all, |query| &query.progress.engine)),
        ("created", Arc::new(created.with_data_type(utc))),
        ("elapsed_ms", numbers(all, |query| query.progress.elapsed_ms)),
        ("progress", Arc::new(Float64Array::from_iter_values(all.iter().map(|query| query.progress.fraction())))),
        ("stages_done", numbers(all, |query| query.progress.stages_done.into())),
        ("stages_total", numbers(all, |query| query.progress.stages_total.into())),
        ("tasks_running", numbers(all, |query| query.progress.tasks_running.into())),
        ("tasks_done", numbers(all, |query| query.progress.tasks_done.into())),
        ("tasks_total", numbers(all, |query| query.progress.tasks_total.into())),
        ("rows_read", numbers(all, |query| query.progress.rows_read)),
        ("bytes_read", numbers(all, |query| query.progress.bytes_read)),
        ("rows_returned", numbers(all, |query| query.rows_returned)),
        ("error_kind", Arc::new(StringArray::from_iter(all.iter().map(|query| query.error.as_ref().map(|(kind, _)| kind.name()))))),
        ("error", Arc::new(StringArray::from_iter(all.iter().map(|query| query.error.as_ref().map(|(_, message)| message))))),
    ])
}
