//! Runs the statements that show or change names against the catalog. Their grammar is in [`windlass_catalog::ddl`].
//!
//! Reading order: this file (entry and names), `show` (what is only read), `change` (what is made, altered and dropped), `new_table` (made
//! of rows), `views`, `partitions`, `files` (where tables lie), `repair` (the difference between a directory and the catalog), `crawl`
//! (tables of which nothing is known), `bookmarks` (what is new to a job), `materialized` (views that keep rows), `analyze` (statistics of
//! values, which take a query).

mod analyze;
mod bookmarks;
mod change;
mod crawl;
mod files;
mod like;
mod materialized;
mod new_table;
mod partitions;
mod repair;
mod show;
#[cfg(test)]
mod tests;
mod views;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::information_schema::{INFORMATION_SCHEMA, INFORMATION_SCHEMA_TABLES};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::future::BoxFuture;
use url::Url;
use windlass_catalog::catalog::{CATALOG, Database, TableMeta, ViewDefinition, is_warehouse};
use windlass_catalog::commit::Cause;
use windlass_catalog::ddl::{DatabaseName, DdlStatement, TableName};
use windlass_catalog::files::Files;
use windlass_catalog::names::TemporaryViews;
use windlass_catalog::{Catalog, Error as CatalogError};
use windlass_engine::{LocationError, Locations};
use windlass_proto::Kind;

pub use self::analyze::Analysis;
use crate::error::{Error, Result};

/// What a statement left for the client.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Rows to show, with the schema of [`output_schema`].
    Rows(SchemaRef, Vec<RecordBatch>),
    /// It is done; perhaps with a remark for the user.
    Done(Option<String>),
    /// The session's current database is this one from now on.
    UseDatabase(String),
    /// The session's view of this name is this one from now on, or there is none.
    TemporaryView(String, Option<ViewDefinition>),
}

/// Plans queries without running them, to learn the columns of views.
#[async_trait]
pub trait ViewPlanner: Send + Sync {
    /// Columns of a view's query, which sees these views of the session. Errors: those of planning it.
    async fn plan_schema(&self, view: &ViewDefinition, temporary: Arc<TemporaryViews>) -> Result<SchemaRef>;

    /// Functions that the session can call, each with what kind of function it is.
    fn functions(&self) -> BTreeMap<String, &'static str> {
        BTreeMap::new()
    }

    /// Views that only the session knows, by name.
    fn temporary_views(&self) -> Arc<TemporaryViews> {
        Arc::default()
    }
}

/// Runs statements that show or change names. One per scheduler; statements may run at the same time.
#[derive(Debug)]
pub struct DdlExecutor {
    catalog: Arc<dyn Catalog>,
    locations: Locations,
    runtime: Arc<RuntimeEnv>,
    warehouse: Url,
    virtual_tables: Vec<TableName>,
}

impl DdlExecutor {
    /// Managed tables of databases without a location of their own go under `warehouse`, a directory URL with a trailing slash.
    ///
    /// `virtual_tables` are fully named tables outside of the catalog that can be shown and described, such as
    /// `system.runtime.queries`; `information_schema` is known without.
    pub fn new(
        catalog: Arc<dyn Catalog>,
        locations: Locations,
        runtime: Arc<RuntimeEnv>,
        warehouse: Url,
        virtual_tables: Vec<TableName>,
    ) -> Self {
        let information_schema = INFORMATION_SCHEMA_TABLES.iter().map(|name| TableName {
            catalog: Some(CATALOG.to_owned()),
            database: Some(INFORMATION_SCHEMA.to_owned()),
            name: (*name).to_owned(),
        });
        Self { catalog, locations, runtime, warehouse, virtual_tables: virtual_tables.into_iter().chain(information_schema).collect() }
    }

    /// Where tables may lie, and where they do unless somebody says otherwise.
    pub fn places(&self) -> (Locations, Url) {
        (self.locations.clone(), self.warehouse.clone())
    }

    /// A table or view that must exist. Errors: `NotFound`.
    pub async fn table(&self, name: &TableName, current_database: &str) -> Result<Arc<TableMeta>> {
        own_catalog(name.catalog.as_deref())?;
        let database = name.database.as_deref().unwrap_or(current_database);
        let found = self.catalog.table(database, &name.name).await?;
        Ok(found.ok_or_else(|| CatalogError::NotFound { what: "table", name: format!("{database}.{}", name.name) })?)
    }

    /// Files that are no table's.
    pub fn files(&self) -> Files {
        Files::new(Arc::clone(&self.catalog), self.locations.clone(), Arc::clone(&self.runtime))
    }

    /// Runs a statement to its end. Changes are committed when it returns; SHOW and DESCRIBE change nothing.
    ///
    /// `by` says in the history who ran it; what it did, the statement says.
    pub fn execute<'a>(
        &'a self,
        statement: &'a DdlStatement,
        current_database: &'a str,
        by: &'a Cause,
        planner: &'a dyn ViewPlanner,
    ) -> BoxFuture<'a, Result<Outcome>> {
        let names = Names { executor: self, current_database, by, planner };
        // In a box, because callers cannot prove to the compiler that the future is `Send`.
        Box::pin(async move { names.execute(statement).await })
    }
}

/// Columns of the rows that a statement returns, all text; `None` if it returns no rows.
///
/// Statements that return rows can be run twice without harm: most only read, and `MSCK REPAIR TABLE`, `ANALYZE` and the procedures that
/// change something find nothing to do, or the same again, the second time.
pub fn output_schema(statement: &DdlStatement) -> Option<SchemaRef> {
    let names: &[&str] = match statement {
        DdlStatement::ShowCatalogs { .. } => &["catalog_name"],
        DdlStatement::ShowDatabases { .. } => &["database_name"],
        DdlStatement::ShowFunctions { .. } => &["function_name", "function_type"],
        DdlStatement::ShowTables { .. } => &["database_name", "table_name", "table_type"],
        DdlStatement::ShowMaterializedViews { .. } => &["database_name", "view_name", "state", "refreshed", "rows"],
        DdlStatement::ShowColumns(_) | DdlStatement::Describe { .. } | DdlStatement::DescribePartition { .. } => {
            &["column_name", "data_type", "extra", "comment"]
        }
        DdlStatement::ShowPartitions { .. } => &["partition_name", "location", "files", "bytes", "rows"],
        DdlStatement::ShowProperties { .. } => &["property", "value"],
        DdlStatement::ShowStats(_) => {
            &["column_name", "data_size", "distinct_values_count", "nulls_fraction", "row_count", "low_value", "high_value"]
        }
        DdlStatement::ShowCreate(_) => &["create_statement"],
        DdlStatement::DescribeDatabase(_) => &["property", "value"],
        DdlStatement::Repair { .. } => &["partitions_added", "partitions_removed", "files_added", "files_removed"],
        DdlStatement::Crawl(_) => &["table_name", "location", "format", "action", "partitions", "files", "columns", "detail"],
        DdlStatement::NewFiles { .. } => &["partition_name", "path", "rows", "bytes", "version"],
        DdlStatement::Advance { .. } => &["version"],
        DdlStatement::Analyze(_) => &["partitions_analyzed", "columns_analyzed", "rows", "partitions_changed"],
        DdlStatement::Use(_)
        | DdlStatement::CreateDatabase(_)
        | DdlStatement::DropDatabase { .. }
        | DdlStatement::CreateTable(_)
        | DdlStatement::CreateView(_)
        | DdlStatement::CreateMaterializedView(_)
        | DdlStatement::Refresh(_)
        | DdlStatement::Drop { .. }
        | DdlStatement::Truncate { .. }
        | DdlStatement::Alter { .. } => return None,
    };
    Some(Arc::new(Schema::new(names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect::<Vec<_>>())))
}

/// One line of what is shown; `None` is NULL.
type Row = Vec<Option<String>>;

fn rows(statement: &DdlStatement, rows: Vec<Row>) -> Result<Outcome> {
    let batch = rows_of(statement, rows)?;
    Ok(Outcome::Rows(batch.schema(), vec![batch]))
}

fn rows_of(statement: &DdlStatement, rows: Vec<Row>) -> Result<RecordBatch> {
    let schema = output_schema(statement).ok_or_else(|| Error::internal("a statement without columns returned rows"))?;
    let column = |index: usize| -> ArrayRef { Arc::new(rows.iter().map(|row| row[index].as_deref()).collect::<StringArray>()) };
    let columns = (0..schema.fields().len()).map(column).collect();
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// One statement's view of the executor.
struct Names<'a> {
    executor: &'a DdlExecutor,
    current_database: &'a str,
    by: &'a Cause,
    planner: &'a dyn ViewPlanner,
}

impl Names<'_> {
    /// Runs a statement, and again if others change its table between its reading and its commit: jobs that add partitions to one table at
    /// the same time should not have to know of each other.
    async fn execute(&self, statement: &DdlStatement) -> Result<Outcome> {
        let (DdlStatement::Alter { table, .. } | DdlStatement::Repair { table, .. } | DdlStatement::Truncate { table, .. }) = statement
        else {
            return self.attempt(statement).await;
        };
        for _ in 1..ATTEMPTS_MAX {
            let before = self.version(table).await?;
            match self.attempt(statement).await {
                Err(error) if error.kind() == Kind::Unavailable && self.version(table).await? != before => {}
                done => return done,
            }
        }
        self.attempt(statement).await
    }

    /// The version of a table; none if there is none.
    async fn version(&self, table: &TableName) -> Result<Option<i64>> {
        Ok(self.find(table).await?.map(|table| table.version))
    }

    async fn attempt(&self, statement: &DdlStatement) -> Result<Outcome> {
        match statement {
            DdlStatement::Use(database) => self.database(database).await.map(|database| Outcome::UseDatabase(database.name)),
            DdlStatement::CreateDatabase(create) => self.create_database(create).await,
            DdlStatement::DropDatabase { database, if_exists, cascade } => self.drop_database(database, *if_exists, *cascade).await,
            DdlStatement::CreateTable(create) => self.create_table(create).await,
            DdlStatement::CreateView(create) => self.create_view(create).await,
            DdlStatement::Drop { table, if_exists, noun } => self.drop_table(table, *if_exists, *noun).await,
            DdlStatement::Alter { table, noun, alteration } => self.alter(table, *noun, alteration).await,
            DdlStatement::Truncate { table, conditions } => self.truncate(table, conditions).await,
            DdlStatement::Repair { table, mode } => {
                let row = self.repair(table, *mode).await?;
                rows(statement, vec![row.map(Some).into()])
            }
            DdlStatement::Analyze(analyze) => rows(statement, vec![self.analyze_size(analyze).await?]),
            DdlStatement::Crawl(crawl) => rows(statement, self.crawl(crawl).await?),
            DdlStatement::NewFiles { table, job } => rows(statement, self.new_files(table, job).await?),
            DdlStatement::Advance { table, job, version } => rows(statement, vec![self.advance(table, job, *version).await?]),
            shown => {
                let shown_rows = self.show(shown).await?;
                rows(statement, shown_rows)
            }
        }
    }

    fn catalog(&self) -> &dyn Catalog {
        self.executor.catalog.as_ref()
    }

    /// Database and name that a name means. Errors: `NotFound` for another catalog than ours.
    fn qualify(&self, table: &TableName) -> Result<(String, String)> {
        own_catalog(table.catalog.as_deref())?;
        Ok((table.database.clone().unwrap_or_else(|| self.current_database.to_owned()), table.name.clone()))
    }

    async fn database(&self, name: &DatabaseName) -> Result<Database> {
        own_catalog(name.catalog.as_deref())?;
        let found = self.catalog().databases().await?.into_iter().find(|database| database.name == name.name);
        Ok(found.ok_or_else(|| CatalogError::NotFound { what: "database", name: name.name.clone() })?)
    }

    async fn find(&self, table: &TableName) -> Result<Option<Arc<TableMeta>>> {
        let (database, name) = self.qualify(table)?;
        Ok(self.catalog().table(&database, &name).await?)
    }

    /// A table or view that must exist.
    async fn table(&self, table: &TableName) -> Result<Arc<TableMeta>> {
        self.executor.table(table, self.current_database).await
    }

    /// The directory URL of a location that a user wrote. Errors: `Denied` outside of the allowed locations.
    fn location(&self, text: &str) -> Result<Url> {
        self.executor.locations.check(text).map_err(not_allowed)
    }
}

fn own_catalog(catalog: Option<&str>) -> Result<()> {
    match catalog {
        None => Ok(()),
        Some(name) if is_warehouse(name) => Ok(()),
        Some(other) => Err(CatalogError::NotFound { what: "catalog", name: other.to_owned() }.into()),
    }
}

fn not_allowed(error: LocationError) -> Error {
    Error::new(error.kind(), error.to_string())
}

fn skipped(what: &str, name: &impl std::fmt::Display) -> Outcome {
    Outcome::Done(Some(format!("{what} '{name}' exists already")))
}

fn absent(what: &str, name: &impl std::fmt::Display) -> Outcome {
    Outcome::Done(Some(format!("{what} '{name}' does not exist")))
}

fn already_exists(what: &'static str, name: String) -> Error {
    CatalogError::AlreadyExists { what, name }.into()
}

fn not_found(what: &'static str, name: impl Into<String>) -> Error {
    CatalogError::NotFound { what, name: name.into() }.into()
}

/// A table's name for messages.
fn full_name(table: &TableMeta) -> String {
    format!("{}.{}", table.database, table.name)
}

/// How often a statement is tried that finds its table changed by another one.
const ATTEMPTS_MAX: usize = 10;

/// How many partitions one statement handles; what a table beyond that needs is a condition.
const PARTITIONS_MAX: usize = 10_000_000;

fn too_many_partitions(table: &TableMeta) -> Error {
    Error::new(Kind::Exhausted, format!("table '{}' has more than {PARTITIONS_MAX} partitions", full_name(table)))
        .with_hint("name the ones that matter with PARTITION (key = value)")
}
