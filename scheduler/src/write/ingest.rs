//! Rows that a client streams to us, written like those of a query.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use windlass_catalog::Replaces;
use windlass_catalog::catalog::{NewTable, TableKind, TableMeta};
use windlass_catalog::ddl::{CreateTable, TableName};
use windlass_engine::formats::Storage;
use windlass_proto::Kind;

use super::plan::{Counted, Files, Target, WritePlan, Writes, full_name, stored, table_column, table_spec, write};
use crate::error::{Error, Result};

/// Where the rows of a stream go.
#[derive(Debug)]
pub(crate) struct Ingest {
    /// The table.
    pub(crate) table: TableName,
    /// What happens if there is none.
    pub(crate) if_missing: IfMissing,
    /// What happens if there is one.
    pub(crate) if_exists: IfExists,
    /// The rows.
    pub(crate) rows: IngestRows,
}

/// What becomes of a table that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfMissing {
    Create,
    Fail,
}

/// What becomes of a table that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfExists {
    Fail,
    Append,
    Replace,
}

/// Rows that come through a channel. `None` is the end; a channel that closes before is a stream that broke off.
pub(crate) struct IngestRows {
    schema: SchemaRef,
    /// Taken by the one who reads them: they come once.
    received: Mutex<Option<mpsc::Receiver<Option<RecordBatch>>>>,
}

impl IngestRows {
    pub(crate) fn new(schema: SchemaRef, received: mpsc::Receiver<Option<RecordBatch>>) -> Self {
        Self { schema, received: Mutex::new(Some(received)) }
    }
}

impl fmt::Debug for IngestRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IngestRows").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PartitionStream for IngestRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let broken = || DataFusionError::External(Box::new(Error::new(Kind::Cancelled, "the client's stream broke off")));
        let rows = stream::try_unfold(self.received.lock().take(), move |received| async move {
            let mut received = received.ok_or_else(broken)?;
            Ok(received.recv().await.ok_or_else(broken)?.map(|batch| (batch, Some(received))))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

impl Writes<'_> {
    /// The plan that writes the rows of a stream. Errors: those of names and types.
    pub(crate) async fn ingest(&self, ingest: Ingest) -> Result<(LogicalPlan, WritePlan)> {
        let Ingest { table: name, if_missing, if_exists, rows } = ingest;
        let schema = Arc::clone(&rows.schema);
        let provider = StreamingTable::try_new(Arc::clone(&schema), vec![Arc::new(rows)])?;
        let rows = LogicalPlanBuilder::scan("ingest", provider_as_source(Arc::new(provider)), None)?.build()?;
        match (self.table(&name).await, if_missing, if_exists) {
            (Ok(table), _, IfExists::Fail) => Err(Error::new(Kind::AlreadyExists, format!("table '{}' already exists", full_name(&table)))
                .with_hint("append to it, or replace it")),
            (Ok(table), _, IfExists::Append) => append(rows, table, Replaces::Nothing),
            (Ok(table), _, IfExists::Replace) => self.replace(rows, table).await,
            (Err(error), IfMissing::Create, _) if error.kind() == Kind::NotFound => {
                let table = self.ddl.new_table(&CreateTable::named(name), columns(&rows)?, &self.database(), None).await?;
                let table = table.ok_or_else(|| Error::internal("a table that may not exist does"))?;
                into_new(rows, table, None)
            }
            (Err(error), ..) => Err(error),
        }
    }

    /// A table with the same columns keeps its name, its place and all that is said about it; another one takes its place.
    async fn replace(&self, rows: LogicalPlan, table: Arc<TableMeta>) -> Result<(LogicalPlan, WritePlan)> {
        let columns = columns(&rows)?;
        let full = table.full_schema();
        let is_same =
            |(new, old): (&datafusion::arrow::datatypes::Field, &FieldRef)| (new.name(), new.data_type()) == (old.name(), old.data_type());
        if columns.len() == full.fields().len() && columns.iter().zip(full.fields()).all(is_same) {
            return append(rows, table, Replaces::Table);
        }
        if table.kind != TableKind::Managed {
            return Err(
                Error::unsupported(format!("table '{}' is external and has other columns", full_name(&table))).with_hint("drop it first")
            );
        }
        let new = NewTable {
            database: table.database.clone(),
            name: table.name.clone(),
            kind: TableKind::Managed,
            location: table.location.clone(),
            schema: Arc::new(datafusion::arrow::datatypes::Schema::new(columns)),
            keys: Vec::new(),
            comment: None,
            properties: BTreeMap::new(),
            storage: Storage::default(),
            view: None,
        };
        into_new(rows, new, Some(table))
    }
}

fn columns(rows: &LogicalPlan) -> Result<Vec<datafusion::arrow::datatypes::Field>> {
    rows.schema().fields().iter().map(|field| table_column(field)).collect()
}

fn into_new(rows: LogicalPlan, table: NewTable, replaced: Option<Arc<TableMeta>>) -> Result<(LogicalPlan, WritePlan)> {
    let fields = table.schema.fields().iter().enumerate();
    let values = fields.map(|(column, field)| stored(&rows, column, field)).collect::<Result<Vec<_>>>()?;
    let spec = table_spec(Files::of_new(&table), false);
    let target = Target::NewTable { table: Box::new(table), replaced, refresh: None };
    Ok((write(rows, values, spec)?, WritePlan { target, operation: "INGEST", replaces: Replaces::Nothing, counted: Counted::Rows }))
}

/// Columns find each other by name; those that the stream lacks are NULL.
fn append(rows: LogicalPlan, table: Arc<TableMeta>, replaces: Replaces) -> Result<(LogicalPlan, WritePlan)> {
    let full = table.full_schema();
    let given: Vec<_> = rows.schema().fields().iter().map(|field| field.name().to_lowercase()).collect();
    if let Some(unknown) = given.iter().find(|name| full.column_with_name(name).is_none()) {
        let known = full.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::invalid(format!("table '{}' has no column '{unknown}'", full_name(&table)))
            .with_hint(format!("its columns are {known}")));
    }
    let value = |field: &FieldRef| match given.iter().position(|name| name == field.name()) {
        Some(column) => stored(&rows, column, field),
        None => Ok(lit(datafusion::common::ScalarValue::try_from(field.data_type())?).alias(field.name())),
    };
    let values = full.fields().iter().map(value).collect::<Result<Vec<_>>>()?;
    let spec = table_spec(Files::of(&table), true);
    Ok((write(rows, values, spec)?, WritePlan { target: Target::Table(table), operation: "INGEST", replaces, counted: Counted::Rows }))
}
