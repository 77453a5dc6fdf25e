//! Deletes what nobody needs any more: files that tables lost, files of writes that never were committed, and versions out of reach.
//!
//! The catalog says which files those are ([`Catalog::expire`]) and forgets the versions that hold them first, in one transaction; a crash
//! after it leaves files that are still listed as garbage. Nothing is deleted because of where it lies.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::{Position, Url};
use windlass_catalog::catalog::TableMeta;
use windlass_catalog::commit::{EndedWrite, WriteIntent};
use windlass_catalog::ddl::Age;
use windlass_catalog::discover::{object_path, object_url};
use windlass_catalog::{Catalog, Error as CatalogError};
use windlass_engine::Locations;

use crate::error::{Error, Result};
use crate::query::Queries;
use crate::readers::Readers;

/// Files that are taken from the list of garbage at one time.
const FILES_AT_ONCE: usize = 10_000;
/// Files that are looked for at the same time, where deleting left it open whether they are gone.
const LOOKUPS_AT_ONCE: usize = 16;
/// How long after a write was given up tasks of it may still write: an executor that lost its scheduler, or that was told to stop, has
/// stopped long before.
const LAST_FILE_MAX: Duration = Duration::from_secs(15 * 60);

/// When garbage is collected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GarbageOptions {
    /// Seconds for which old versions of tables can be read, and files of dropped tables stay. Files that a running query may read stay
    /// as long as it runs.
    pub retention_s: u64,
    /// Seconds between collections; 0 leaves them to `CALL system.vacuum`.
    pub interval_s: u64,
}

impl Default for GarbageOptions {
    fn default() -> Self {
        Self { retention_s: 7 * 24 * 3600, interval_s: 3600 }
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Versions that can no longer be read.
    pub versions: u64,
    /// Files that tables had lost.
    pub files: u64,
    /// Writes that were not committed, and whose files, if any, are gone.
    pub writes: u64,
}

/// Columns of what `CALL system.vacuum` returns.
pub fn collected_schema() -> SchemaRef {
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(["versions", "files", "writes"].map(field).to_vec()))
}

/// What `CALL system.vacuum` returns.
pub(crate) fn collected_rows(collected: &Collected) -> Result<RecordBatch> {
    let Collected { versions, files, writes } = *collected;
    let column = |count: u64| Arc::new(Int64Array::from(vec![i64::try_from(count).unwrap_or(i64::MAX)])) as ArrayRef;
    Ok(RecordBatch::try_new(collected_schema(), [versions, files, writes].map(column).to_vec())?)
}

/// Collects garbage, one collection at a time.
#[derive(Debug)]
pub struct Collector {
    catalog: Arc<dyn Catalog>,
    runtime: Arc<RuntimeEnv>,
    locations: Locations,
    warehouse: Url,
    queries: Arc<Queries>,
    readers: Arc<Readers>,
    options: GarbageOptions,
    collecting: Mutex<()>,
}

impl Collector {
    /// Files are deleted through the object stores of `runtime`, which lead only where tables may lie: to `locations`.
    pub fn new(
        catalog: Arc<dyn Catalog>,
        runtime: Arc<RuntimeEnv>,
        (locations, warehouse): (Locations, Url),
        (queries, readers): (Arc<Queries>, Arc<Readers>),
        options: GarbageOptions,
    ) -> Self {
        Self { catalog, runtime, locations, warehouse, queries, readers, options, collecting: Mutex::default() }
    }

    /// Gives up all writes that were begun: those of a scheduler that runs no more. To be called before the first query.
    pub async fn give_up_writes(&self) -> Result<()> {
        for write in self.catalog.open_writes().await? {
            info!(query_id = write.query_id, location = write.location, "a write was not committed when the scheduler ended");
            self.catalog.abandon_write(&write.query_id).await?;
        }
        Ok(())
    }

    /// Collects at the set interval until told to stop.
    pub async fn run(&self, stop: CancellationToken) {
        if self.options.interval_s == 0 {
            return;
        }
        let mut ticks = tokio::time::interval(Duration::from_secs(self.options.interval_s));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            match self.collect(None, None, false).await {
                Ok(collected) if collected == Collected::default() => {}
                Ok(Collected { versions, files, writes }) => info!(versions, files, writes, "garbage was collected"),
                Err(error) => warn!(%error, "garbage could not be collected"),
            }
        }
    }

    /// Collects what nobody has needed since a time, by default for the retention: of a table, or of all. With `dry_run` it only counts.
    pub async fn collect(&self, table: Option<&TableMeta>, older_than: Option<Age>, dry_run: bool) -> Result<Collected> {
        let _alone = self.collecting.lock().await;
        let writes = self.clear_writes(table, dry_run).await?;
        let until = self.until(older_than);
        let (mut versions, mut files) = (0, 0);
        loop {
            let limit = if dry_run { usize::MAX } else { FILES_AT_ONCE };
            let expired = self.catalog.expire(table, until, limit, dry_run).await?;
            versions += expired.versions;
            if dry_run {
                return Ok(Collected { versions, files: expired.files.len() as u64, writes });
            }
            let deleted = self.delete(&expired.files).await?;
            self.catalog.forget_garbage(&deleted).await?;
            files += deleted.len() as u64;
            // What could not be deleted is tried again another time, not at once.
            if expired.files.len() < FILES_AT_ONCE || deleted.len() < expired.files.len() {
                return Ok(Collected { versions, files, writes });
            }
        }
    }

    /// What went after this moment stays: in milliseconds since 1970.
    fn until(&self, older_than: Option<Age>) -> i64 {
        let now = Utc::now().timestamp_millis();
        let until = match older_than {
            None => now.saturating_sub_unsigned(self.options.retention_s.saturating_mul(1000)),
            Some(Age::Ago(ms)) => now.saturating_sub(ms),
            Some(Age::At(ms)) => ms,
        };
        // In this order, because a statement is a query before it ceases to be a reader.
        let oldest = self.readers.oldest_ms();
        let oldest = self.queries.running().into_iter().map(|(_, began_ms)| began_ms).fold(oldest, i64::min);
        until.min(oldest.saturating_sub(1))
    }

    /// Deletes the files of writes that never were committed; returns how many such writes are settled.
    async fn clear_writes(&self, table: Option<&TableMeta>, dry_run: bool) -> Result<u64> {
        let concerns = |write: &WriteIntent| table.is_none_or(|table| write.table_id == Some(table.id));
        // In this order, because a query runs before it begins to write.
        let open = self.catalog.open_writes().await?;
        let running: HashSet<_> = self.queries.running().into_iter().map(|(id, _)| id).collect();
        let dead = open.into_iter().filter(|write| concerns(write) && !running.iter().any(|id| write.query_id.starts_with(id.as_str())));
        let dead: Vec<_> = dead.collect();
        let mut ended = self.catalog.ended_writes().await?;
        ended.retain(|write| concerns(&write.intent));
        if dry_run {
            return Ok((dead.len() + ended.iter().filter(|write| !write.committed).count()) as u64);
        }
        let now = Utc::now().timestamp_millis();
        for intent in dead {
            self.catalog.abandon_write(&intent.query_id).await?;
            ended.push(EndedWrite { intent, committed: false, ended_ms: now });
        }
        let mut by_location = BTreeMap::<String, Vec<EndedWrite>>::new();
        for write in ended {
            by_location.entry(write.intent.location.clone()).or_default().push(write);
        }
        let mut settled = 0;
        for (location, writes) in by_location {
            let ids = writes.iter().map(|write| write.intent.query_id.clone()).collect();
            if let Err(error) = self.delete_left(&location, ids).await {
                warn!(location, %error, "files that writes have left could not be deleted");
                continue;
            }
            for EndedWrite { intent, committed, ended_ms } in writes {
                if u128::from(now.abs_diff(ended_ms)) >= LAST_FILE_MAX.as_millis() {
                    self.catalog.forget_write(&intent.query_id).await?;
                    settled += u64::from(!committed);
                }
            }
        }
        Ok(settled)
    }

    /// Deletes what queries have left under a location: files and uploads whose names hold the id of one of them, and which are no table's.
    async fn delete_left(&self, location: &str, query_ids: Vec<String>) -> Result<()> {
        let cause = |cause| Error::from(CatalogError::ObjectStore { url: location.to_owned(), cause });
        let base = Url::parse(location).map_err(|error| Error::internal(format!("'{location}' is no URL: {error}")))?;
        let is_theirs = move |name: &str| query_ids.iter().any(|query_id| name.contains(query_id));
        let files = self.store(location)?.list(Some(&object_path(location)?));
        let files = files.try_filter(|file| std::future::ready(file.location.filename().is_some_and(&is_theirs)));
        let urls: Vec<String> = files.map_ok(|file| object_url(&base, &file.location)).try_collect().await.map_err(cause)?;
        // What a committed write has put into a table lies there, too.
        let left: Vec<String> = self.catalog.unlisted_among(&urls).await?.into_iter().collect();
        let deleted = self.delete(&left).await?.len();
        if deleted < left.len() {
            return Err(Error::internal(format!("{} of {} files are left", left.len() - deleted, left.len())));
        }
        // A store may not allow it, and have a rule of its own for them.
        if let Err(error) = self.locations.abort_uploads(&base, &is_theirs).await {
            warn!(location, %error, "uploads that were cut off cannot be aborted");
        }
        self.blocking(move |locations, warehouse| locations.remove_uploads(&base, warehouse, is_theirs)).await
    }

    /// Does something to directories on a thread that may wait.
    async fn blocking(&self, work: impl FnOnce(&Locations, &Url) -> io::Result<()> + Send + 'static) -> Result<()> {
        let (locations, warehouse) = (self.locations.clone(), self.warehouse.clone());
        let done = tokio::task::spawn_blocking(move || work(&locations, &warehouse)).await;
        let done = done.map_err(|panic| Error::internal(format!("cleaning directories failed: {panic}")))?;
        done.map_err(|error| Error::internal(format!("directories cannot be cleaned: {error}")))
    }

    /// Deletes files, and directories that become empty; returns the files that are gone.
    async fn delete(&self, urls: &[String]) -> Result<Vec<String>> {
        let mut by_store = BTreeMap::<String, Vec<(Path, &String)>>::new();
        for url in urls {
            let parsed = Url::parse(url).map_err(|error| Error::internal(format!("'{url}' on the list of garbage is no URL: {error}")))?;
            by_store.entry(parsed[..Position::BeforePath].to_owned()).or_default().push((object_path(url)?, url));
        }
        let mut gone = Vec::with_capacity(urls.len());
        for (store, files) in by_store {
            let store = match self.store(&store) {
                Ok(store) => store,
                Err(error) => {
                    warn!(store, %error, "garbage lies where nothing may be deleted");
                    continue;
                }
            };
            let deleted = delete_all(&store, files.iter().map(|(path, _)| path.clone()).collect()).await;
            gone.extend(files.into_iter().filter(|(path, _)| deleted.contains(path)).map(|(_, url)| url.clone()));
        }
        let directories: BTreeSet<Url> = gone.iter().filter_map(|url| Url::parse(url).ok()?.join(".").ok()).collect();
        let emptied = move |locations: &Locations, warehouse: &Url| {
            directories.iter().try_for_each(|directory| locations.remove_empty(directory, warehouse))
        };
        if let Err(error) = self.blocking(emptied).await {
            warn!(%error, "empty directories stay");
        }
        Ok(gone)
    }

    fn store(&self, url: &str) -> Result<Arc<dyn ObjectStore>> {
        let url = Url::parse(url).map_err(|error| Error::internal(format!("'{url}' is no URL: {error}")))?;
        Ok(self.runtime.object_store_registry.get_store(&url)?)
    }
}

/// Deletes files of a store; returns those that are gone, which may have been so before.
async fn delete_all(store: &Arc<dyn ObjectStore>, paths: Vec<Path>) -> HashSet<Path> {
    let mut gone = HashSet::with_capacity(paths.len());
    let mut results = store.delete_stream(stream::iter(paths.clone()).map(Ok).boxed());
    while let Some(result) = results.next().await {
        match result {
            Ok(path) => drop(gone.insert(path)),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => warn!(%error, "a file could not be deleted"),
        }
    }
    // An error may be about more than one file, and does not always say which.
    let unsure = paths.into_iter().filter(|path| !gone.contains(path)).collect::<Vec<_>>();
    let look = |path: Path| async move {
        let missing = matches!(store.head(&path).await, Err(object_store::Error::NotFound { .. }));
        missing.then_some(path)
    };
    let missing: Vec<_> = stream::iter(unsure).map(look).buffer_unordered(LOOKUPS_AT_ONCE).filter_map(std::future::ready).collect().await;
    gone.extend(missing);
    gone
}

#[cfg(test)]
mod tests;
