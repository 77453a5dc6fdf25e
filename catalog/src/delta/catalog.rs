//! A catalog in which Delta tables hold what their logs say. All else is the affair of the catalog below it.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::ScalarValue;
use datafusion::execution::runtime_env::RuntimeEnv;
use tracing::warn;

use super::files::Files;
use super::version::Version;
use super::{Logs, called, check_changeable};
use crate::catalog::{
    AnalyzedPartition, Bookmark, Catalog, Contents, DataFile, Database, FilesDigest, MaterializedView, NewContents, NewTable,
    PartitionList, Residual, ScanContents, TableChange, TableMeta, TableSummary, Totals,
};
use crate::commit::{Cause, Commit, EndedWrite, Expired, Moment, Write, WriteIntent};
use crate::error::{Error, Result};
use crate::predicate::KeyPredicate;

/// A [`Catalog`] whose Delta tables are read from their logs.
///
/// A table whose log cannot be read is still found, as it was when it was made, so that it can be described and dropped. Whoever asks what
/// it holds gets the error.
#[derive(Debug, Clone)]
pub struct DeltaCatalog {
    names: Arc<dyn Catalog>,
    logs: Logs,
}

impl DeltaCatalog {
    /// Names are kept in `names`, logs are read through the object stores of `runtime`.
    pub fn new(names: Arc<dyn Catalog>, runtime: Arc<RuntimeEnv>) -> Self {
        Self { names, logs: Logs::new(runtime) }
    }

    /// What a table was found to hold when it was looked up; none if that is for the catalog below to say.
    async fn found(&self, table: &TableMeta) -> Result<Option<(Arc<Version>, Arc<Files>)>> {
        match &table.delta {
            Some(version) => Ok(Some((Arc::clone(version), self.logs.files(table, version).await?))),
            None if table.is_delta() => Err(self.why_unread(table).await),
            None => Ok(None),
        }
    }

    /// Why the log of a table could not be read when it was looked up.
    async fn why_unread(&self, table: &TableMeta) -> Error {
        let again = || Error::Conflict { table: format!("{}.{}", table.database, table.name) };
        self.logs.newest(table).await.err().unwrap_or_else(again)
    }
}

#[async_trait]
impl Catalog for DeltaCatalog {
    fn names_version(&self) -> u64 {
        self.names.names_version()
    }

    fn settled_ms(&self) -> i64 {
        self.names.settled_ms()
    }

    async fn databases(&self) -> Result<Vec<Database>> {
        self.names.databases().await
    }

    async fn create_database(&self, database: Database) -> Result<()> {
        self.names.create_database(database).await
    }

    async fn drop_database(&self, name: &str, cascade: bool, cause: &Cause) -> Result<()> {
        self.names.drop_database(name, cascade, cause).await
    }

    async fn tables(&self, database: Option<&str>) -> Result<Vec<TableSummary>> {
        self.names.tables(database).await
    }

    async fn table(&self, database: &str, name: &str) -> Result<Option<Arc<TableMeta>>> {
        let Some(table) = self.names.table(database, name).await? else { return Ok(None) };
        if !table.is_delta() {
            return Ok(Some(table));
        }
        Ok(Some(match self.logs.newest(&table).await {
            Ok(version) => Arc::new(version.table(&table)),
            Err(error) => {
                warn!(%error, "{} is taken as it was when it was made", called(&table));
                table
            }
        }))
    }

    async fn create_table(&self, table: NewTable, contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>> {
        self.names.create_table(table, contents, cause).await
    }

    async fn replace_table(&self, replaced: &TableMeta, table: NewTable, contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>> {
        self.names.replace_table(replaced, table, contents, cause).await
    }

    async fn change_table(&self, table: &TableMeta, cause: &Cause, change: TableChange) -> Result<Arc<TableMeta>> {
        if !matches!(change, TableChange::Rename { .. } | TableChange::Comment(_) | TableChange::Properties(_)) {
            check_changeable(table)?;
        }
        self.names.change_table(table, cause, change).await
    }

    async fn drop_table(&self, table: &TableMeta, cause: &Cause) -> Result<()> {
        self.names.drop_table(table, cause).await
    }

    async fn begin_write(&self, intent: WriteIntent) -> Result<()> {
        self.names.begin_write(intent).await
    }

    async fn commit_write(&self, table: &TableMeta, write: Write) -> Result<Arc<TableMeta>> {
        check_changeable(table)?;
        self.names.commit_write(table, write).await
    }

    async fn create_table_as(&self, table: NewTable, replaced: Option<&TableMeta>, write: Write) -> Result<Arc<TableMeta>> {
        self.names.create_table_as(table, replaced, write).await
    }

    async fn abandon_write(&self, query_id: &str) -> Result<()> {
        self.names.abandon_write(query_id).await
    }

    async fn open_writes(&self) -> Result<Vec<WriteIntent>> {
        self.names.open_writes().await
    }

    async fn ended_writes(&self) -> Result<Vec<EndedWrite>> {
        self.names.ended_writes().await
    }

    async fn forget_write(&self, query_id: &str) -> Result<()> {
        self.names.forget_write(query_id).await
    }

    async fn materialized_views(&self, over: Option<&[i64]>, limit: usize) -> Result<Vec<MaterializedView>> {
        self.names.materialized_views(over, limit).await
    }

    async fn changed_partitions(&self, table: &TableMeta, since: i64) -> Result<Option<Vec<Vec<ScalarValue>>>> {
        match table.is_delta() {
            true => Ok(None),
            false => self.names.changed_partitions(table, since).await,
        }
    }

    async fn new_contents(&self, table: &TableMeta, job: &str, limit: usize) -> Result<NewContents> {
        check_has_history(table)?;
        self.names.new_contents(table, job, limit).await
    }

    async fn set_bookmark(&self, table: &TableMeta, job: &str, version: Option<i64>) -> Result<()> {
        check_has_history(table)?;
        self.names.set_bookmark(table, job, version).await
    }

    async fn bookmarks(&self) -> Result<Vec<Bookmark>> {
        self.names.bookmarks().await
    }

    async fn history(&self, limit: usize) -> Result<Vec<Commit>> {
        self.names.history(limit).await
    }

    async fn as_of(&self, table: &TableMeta, moment: Moment) -> Result<Arc<TableMeta>> {
        match &table.delta {
            Some(now) => Ok(Arc::new(self.logs.at(table, now, moment).await?.table(table))),
            None if table.is_delta() => Err(self.why_unread(table).await),
            None => self.names.as_of(table, moment).await,
        }
    }

    async fn expire(&self, table: Option<&TableMeta>, until_ms: i64, limit: usize, dry_run: bool) -> Result<Expired> {
        table.map_or(Ok(()), check_changeable)?;
        self.names.expire(table, until_ms, limit, dry_run).await
    }

    async fn forget_garbage(&self, urls: &[String]) -> Result<()> {
        self.names.forget_garbage(urls).await
    }

    async fn garbage_among(&self, urls: &[String]) -> Result<HashSet<String>> {
        self.names.garbage_among(urls).await
    }

    async fn unlisted_among(&self, urls: &[String]) -> Result<HashSet<String>> {
        self.names.unlisted_among(urls).await
    }

    async fn partitions(&self, table: &TableMeta, predicate: &KeyPredicate, limit: usize) -> Result<PartitionList> {
        let Some((_, files)) = self.found(table).await? else { return self.names.partitions(table, predicate, limit).await };
        let (partitions, truncated) = files.partitions(predicate, None, limit)?;
        Ok(PartitionList { partitions, total: files.totals().partitions, truncated })
    }

    async fn scan(
        &self,
        table: &TableMeta,
        predicate: &KeyPredicate,
        residual: Option<Residual<'_>>,
        limit: usize,
    ) -> Result<ScanContents> {
        match self.found(table).await? {
            Some((version, files)) => files.scan(table, &version, predicate, residual, limit),
            None => self.names.scan(table, predicate, residual, limit).await,
        }
    }

    async fn files(&self, table: &TableMeta, partition_ids: &[i64]) -> Result<Vec<DataFile>> {
        match self.found(table).await? {
            Some((version, files)) => Ok(files.data_files(table, &version, partition_ids.iter().copied())),
            None => self.names.files(table, partition_ids).await,
        }
    }

    async fn put_analyzed(&self, table: &TableMeta, found: Vec<(AnalyzedPartition, FilesDigest)>) -> Result<u64> {
        check_changeable(table)?;
        self.names.put_analyzed(table, found).await
    }

    async fn totals(&self, table: &TableMeta) -> Result<Totals> {
        match self.found(table).await? {
            Some((_, files)) => Ok(files.totals()),
            None => self.names.totals(table).await,
        }
    }
}

/// Refuses what asks the catalog for the changes of a table. Errors: `Unsupported`.
fn check_has_history(table: &TableMeta) -> Result<()> {
    match table.is_delta() {
        true => Err(Error::Unsupported(format!(
            "{} is a Delta table, whose changes cannot be read for a job: compare versions with FOR VERSION AS OF",
            called(table)
        ))),
        false => Ok(()),
    }
}
