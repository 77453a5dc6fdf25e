//! The catalog `system`: what runs now and what changed, as tables. Each is a snapshot, taken when a statement that names it is planned.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::catalog::{CatalogProvider, MemTable, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::Result;
use windlass_catalog::Catalog;
use windlass_catalog::catalog::{Bookmark, MaterializedView};
use windlass_catalog::commit::{Amount, Commit};
use windlass_catalog::ddl::TableName;

use crate::engines::{Cluster, ExecutorInfo};
use crate::query::{Queries, QueryRecord};

/// Name of the catalog; `system.runtime.queries` in SQL, or `system.queries`.
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

const TABLES: [&str; 5] = ["bookmarks", "executors", "history", "materialized_views", "queries"];

/// Changes of tables that `history` shows: the newest.
const HISTORY_ROWS_MAX: usize = 100_000;

/// Materialized views that `materialized_views` shows: the first by name.
const VIEWS_MAX: usize = 10_000;

/// The catalog over these queries, executors and tables.
pub fn catalog(queries: Arc<Queries>, cluster: Arc<dyn Cluster>, names: Arc<dyn Catalog>) -> Arc<dyn CatalogProvider> {
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(DATABASE, Arc::new(Runtime { queries, cluster, names })).expect("a new catalog takes any database");
    Arc::new(catalog)
}

#[derive(Debug)]
struct Runtime {
    queries: Arc<Queries>,
    cluster: Arc<dyn Cluster>,
    names: Arc<dyn Catalog>,
}

#[async_trait]
impl SchemaProvider for Runtime {
    fn table_names(&self) -> Vec<String> {
        TABLES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let batch = match name {
            "bookmarks" => bookmarks(&self.names.bookmarks().await?)?,
            "executors" => executors(&self.cluster.executors())?,
            "history" => history(&self.names.history(HISTORY_ROWS_MAX).await?)?,
            "materialized_views" => materialized_views(&self.names.materialized_views(None, VIEWS_MAX).await?)?,
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
        ("memory_bytes", numbers(all, |executor| executor.memory_bytes)),
    ])
}

fn bookmarks(all: &[Bookmark]) -> Result<RecordBatch> {
    rows(vec![
        ("database_name", texts(all, |bookmark| &bookmark.database)),
        ("table_name", texts(all, |bookmark| &bookmark.table)),
        ("job", texts(all, |bookmark| &bookmark.job)),
        ("version", Arc::new(Int64Array::from_iter_values(all.iter().map(|bookmark| bookmark.version)))),
        ("newest_version", Arc::new(Int64Array::from_iter_values(all.iter().map(|bookmark| bookmark.newest)))),
        ("moved", times(all, |bookmark| bookmark.moved_ms)),
    ])
}

fn times<T>(items: &[T], time_ms: impl Fn(&T) -> i64) -> ArrayRef {
    let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    Arc::new(TimestampMillisecondArray::from_iter_values(items.iter().map(time_ms)).with_data_type(utc))
}

fn history(all: &[Commit]) -> Result<RecordBatch> {
    let amounts = |amount: fn(&Commit) -> Option<Amount>, count: fn(Amount) -> Option<u64>| -> ArrayRef {
        let count = |commit| amount(commit).and_then(count).map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        Arc::new(all.iter().map(count).collect::<Int64Array>())
    };
    rows(vec![
        ("database_name", texts(all, |commit| &commit.database)),
        ("table_name", texts(all, |commit| &commit.table)),
        ("version", Arc::new(Int64Array::from_iter_values(all.iter().map(|commit| commit.version)))),
        ("committed", times(all, |commit| commit.committed_ms)),
        ("operation", texts(all, |commit| &commit.cause.operation)),
        ("user", texts(all, |commit| &commit.cause.user)),
        ("query_id", Arc::new(all.iter().map(|commit| commit.cause.query_id.as_deref()).collect::<StringArray>())),
        ("rows_added", amounts(|commit| commit.added, |amount| amount.rows)),
        ("rows_removed", amounts(|commit| commit.removed, |amount| amount.rows)),
        ("files_added", amounts(|commit| commit.added, |amount| Some(amount.files))),
        ("files_removed", amounts(|commit| commit.removed, |amount| Some(amount.files))),
        ("bytes_added", amounts(|commit| commit.added, |amount| Some(amount.bytes))),
        ("bytes_removed", amounts(|commit| commit.removed, |amount| Some(amount.bytes))),
        ("table_id", Arc::new(Int64Array::from_iter_values(all.iter().map(|commit| commit.table_id)))),
    ])
}

fn materialized_views(all: &[MaterializedView]) -> Result<RecordBatch> {
    // `sales.orders@12, sales.shops@3`
    let bases = |view: &MaterializedView| {
        let names = view.bases.iter().map(|base| format!("{}@{}", base.read.name, base.read.version));
        names.collect::<Vec<_>>().join(", ")
    };
    rows(vec![
        ("database_name", texts(all, |view| &view.view.database)),
        ("view_name", texts(all, |view| &view.view.name)),
        ("state", texts(all, |view| if view.is_fresh() { "fresh" } else { "stale" })),
        ("refreshed", times(all, |view| view.refreshed_ms)),
        ("rows", Arc::new(all.iter().map(|view| view.rows.and_then(|rows| i64::try_from(rows).ok())).collect::<Int64Array>())),
        ("base_versions", Arc::new(StringArray::from_iter_values(all.iter().map(bases)))),
        ("repeatable", Arc::new(all.iter().map(|view| Some(view.repeatable)).collect::<BooleanArray>())),
    ])
}

fn queries(all: &[QueryRecord]) -> Result<RecordBatch> {
    rows(vec![
        ("query_id", texts(all, |query| query.id.as_str())),
        ("state", texts(all, |query| query.state.name())),
        ("user", texts(all, |query| &query.user)),
        ("query", texts(all, |query| &query.sql)),
        ("engine", texts(all, |query| &query.progress.engine)),
        ("created", times(all, |query| query.created_ms)),
        ("elapsed_ms", numbers(all, |query| query.progress.elapsed_ms)),
        ("progress", Arc::new(Float64Array::from_iter_values(all.iter().map(|query| query.progress.fraction())))),
        ("stages_done", numbers(all, |query| query.progress.stages_done.into())),
        ("stages_total", numbers(all, |query| query.progress.stages_total.into())),
        ("tasks_running", numbers(all, |query| query.progress.tasks_running.into())),
        ("tasks_done", numbers(all, |query| query.progress.tasks_done.into())),
        ("tasks_total", numbers(all, |query| query.progress.tasks_total.into())),
        ("rows_read", numbers(all, |query| query.progress.rows_read)),
        ("bytes_read", numbers(all, |query| query.progress.bytes_read)),
        ("files_read", numbers(all, |query| query.progress.files_read)),
        ("files_pruned", numbers(all, |query| query.progress.files_pruned)),
        ("row_groups_pruned", numbers(all, |query| query.progress.row_groups_pruned)),
        ("attempts", numbers(all, |query| query.progress.attempts.into())),
        (
            "rerun_reason",
            Arc::new(StringArray::from_iter(
                all.iter().map(|query| Some(query.progress.rerun_reason.as_str()).filter(|reason| !reason.is_empty())),
            )),
        ),
        ("rows_returned", numbers(all, |query| query.rows_returned)),
        ("error_kind", Arc::new(StringArray::from_iter(all.iter().map(|query| query.error.as_ref().map(|(kind, _)| kind.name()))))),
        ("error", Arc::new(StringArray::from_iter(all.iter().map(|query| query.error.as_ref().map(|(_, message)| message))))),
    ])
}
