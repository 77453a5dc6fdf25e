//! Delta tables: directories of Parquet files with a log, in which others write what the table holds.
//!
//! The catalog keeps of such a table that it is one and where it lies. [`DeltaCatalog`] answers for the rest from the log, which the Delta
//! project's own kernel reads through our object stores: a statement that looks a table up gets its newest [`Version`] and stays with it.
//!
//! Reading order: this file (versions, and which of them a statement gets), `version` (what a log says of a table), `files` (what it says
//! of its files), `engine` (how it is read), `catalog` (where tables are asked).

mod catalog;
mod engine;
mod files;
mod version;

use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;
use delta_kernel::history_manager::{HistoryCommitType, latest_version_as_of};
use delta_kernel::{KernelError, Snapshot};
use futures::TryStreamExt;
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::Semaphore;
use tracing::Span;
use url::Url;
use windlass_engine::formats::FileFormat;

pub use self::catalog::DeltaCatalog;
use self::files::Files;
use self::version::{Identity, Log};
pub use self::version::{Version, check_declared};
use crate::catalog::TableMeta;
use crate::commit::{Moment, format_time};
use crate::discover::object_path;
use crate::error::{Error, Result};
use crate::files::NO_TABLE;

/// Directory of a table that holds its log.
pub(crate) const LOG_DIRECTORY: &str = "_delta_log";
/// Tables whose newest version is remembered.
const TABLES_KEPT_MAX: u64 = 10_000;
/// Bytes of lists of files that are remembered, of all versions together.
const FILES_KEPT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Logs read at the same time, each by threads that wait for an object store.
const READS_MAX: usize = 16;

impl TableMeta {
    /// Whether a Delta log says what it holds.
    pub fn is_delta(&self) -> bool {
        self.storage.format == FileFormat::Delta
    }
}

/// Refuses to change what a Delta log says: only the engines that keep the log may. Errors: `Unsupported`.
pub fn check_changeable(table: &TableMeta) -> Result<()> {
    match table.is_delta() {
        true => Err(Error::Unsupported(format!(
            "{} is a Delta table, which is only read: change it with an engine that writes its log",
            called(table)
        ))),
        false => Ok(()),
    }
}

/// The table in messages.
fn called(table: &TableMeta) -> String {
    match table.id {
        NO_TABLE => format!("the Delta table in '{}'", table.name),
        _ => format!("table '{}.{}'", table.database, table.name),
    }
}

/// The columns and keys of the Delta table in a location. Errors: `Invalid` if there is none, `Unsupported` if it has what cannot be read.
pub(crate) async fn describe(location: &str, store: Arc<dyn ObjectStore>) -> Result<Version> {
    let log = Log::new(format!("the Delta table in '{location}'"), location, store)?;
    blocking(move || log.newest(None)).await
}

/// The logs of Delta tables, and what is remembered of them.
#[derive(Debug, Clone)]
struct Logs {
    runtime: Arc<RuntimeEnv>,
    /// By location.
    newest: Cache<String, Arc<Version>>,
    files: Cache<Identity, Arc<Files>>,
    reads: Arc<Semaphore>,
}

impl Logs {
    fn new(runtime: Arc<RuntimeEnv>) -> Self {
        let weigh = |_: &Identity, files: &Arc<Files>| u32::try_from(files.bytes()).unwrap_or(u32::MAX);
        Self {
            runtime,
            newest: Cache::new(TABLES_KEPT_MAX),
            files: Cache::builder().max_capacity(FILES_KEPT_BYTES_MAX).weigher(weigh).build(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        }
    }

    fn log(&self, table: &TableMeta) -> Result<Log> {
        let location = Url::parse(&table.location).map_err(|error| Error::Internal(format!("location '{}': {error}", table.location)))?;
        let store = self.runtime.object_store_registry.get_store(&location).map_err(|error| Error::Denied(error.strip_backtrace()))?;
        Log::new(called(table), &table.location, store)
    }

    /// The newest version of a table: one listing of what follows the version that is known, if there is nothing new.
    async fn newest(&self, table: &TableMeta) -> Result<Arc<Version>> {
        loop {
            let known = self.newest.get(&table.location).await;
            let base = match &known {
                Some(known) => match self.since(table, known).await? {
                    Since::Nothing => return Ok(Arc::clone(known)),
                    Since::Commits => Some(Arc::clone(known)),
                    Since::Another => None,
                },
                None => None,
            };
            // Of those who find a table changed at the same time, one reads its log. The others look again: it may have begun before them.
            let is_known = |now: &Arc<Version>| known.as_ref().is_some_and(|known| Arc::ptr_eq(known, now));
            let read = self.newest.entry_by_ref(&table.location).and_try_compute_with(|now| async {
                if now.is_some_and(|now| !is_known(now.value())) {
                    return Ok::<_, Error>(Op::Nop);
                }
                let log = self.log(table)?;
                let version = self.read(move || log.newest(base.as_deref())).await?;
                let commit = self.commits(table, version.number()).await?.into_iter().next();
                Ok(Op::Put(Arc::new(version.with_commit(commit))))
            });
            if let CompResult::Inserted(read) | CompResult::ReplacedWith(read) = read.await? {
                return Ok(read.into_value());
            }
        }
    }

    /// What came after a version.
    async fn since(&self, table: &TableMeta, known: &Version) -> Result<Since> {
        let mut commits = self.commits(table, known.number()).await?.into_iter();
        // The log may have been removed and begun anew.
        if known.commit().is_none() || commits.next().as_ref() != known.commit() {
            return Ok(Since::Another);
        }
        Ok(if commits.len() == 0 { Since::Nothing } else { Since::Commits })
    }

    /// The commits from a version on, if that is still there; otherwise none.
    async fn commits(&self, table: &TableMeta, version: u64) -> Result<Vec<Commit>> {
        let log = self.log(table)?;
        let directory = object_path(&table.location)?.join(LOG_DIRECTORY);
        let first = directory.clone().join(format!("{version:020}.json"));
        // Right before it: stores list what follows a name.
        let before = Path::parse(first.as_ref().trim_end_matches("json"));
        let before = before.map_err(|error| Error::Invalid(format!("'{first}' is not a usable path: {error}")))?;
        let failed = |cause| Error::ObjectStore { url: format!("{}{LOG_DIRECTORY}/", table.location), cause };
        let found = log.store.list_with_offset(Some(&directory), &before).try_collect::<Vec<_>>().await.map_err(failed)?;
        let is_version = |name: &str| name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit());
        let is_commit = |name: &str| name.strip_suffix(".json").is_some_and(is_version);
        let mut commits: Vec<_> = found
            .into_iter()
            .filter(|file| file.location.filename().is_some_and(is_commit) && file.location.parent().as_ref() == Some(&directory))
            .map(|file| Commit {
                path: file.location,
                size: file.size,
                modified_ms: file.last_modified.timestamp_millis(),
                etag: file.e_tag,
            })
            .collect();
        commits.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if commits.first().is_none_or(|commit| commit.path != first) {
            commits.clear();
        }
        Ok(commits)
    }

    /// The version of a table, of which `now` is the newest, that was current at a moment. Errors: `Invalid` if there is none any more, or
    /// yet.
    async fn at(&self, table: &TableMeta, now: &Arc<Version>, moment: Moment) -> Result<Arc<Version>> {
        let name = called(table);
        let number = match moment {
            Moment::Version(number) => u64::try_from(number)
                .ok()
                .filter(|number| *number <= now.number())
                .ok_or_else(|| Error::Invalid(format!("{name} has no version {number}: the newest is {}", now.number())))?,
            Moment::Time(ms) => {
                let (log, snapshot) = (self.log(table)?, Arc::clone(now.snapshot()));
                let found =
                    self.read(move || Ok(latest_version_as_of(&snapshot, &log.engine(), ms, HistoryCommitType::Recreatable))).await?;
                let missing = |error: KernelError| Error::Invalid(format!("{name} cannot be read as of {}: {error}", format_time(ms)));
                found.map_err(missing)?.version
            }
        };
        if number == now.number() {
            return Ok(Arc::clone(now));
        }
        let log = self.log(table)?;
        let past = self.read(move || {
            let snapshot = Snapshot::builder_for(log.root.as_str()).at_version(number).build(&log.engine());
            log.version(snapshot.map_err(|error| Error::Invalid(format!("version {number} of {name} cannot be read any more: {error}")))?)
        });
        Ok(Arc::new(past.await?))
    }

    /// The files of a version.
    async fn files(&self, table: &TableMeta, version: &Arc<Version>) -> Result<Arc<Files>> {
        let read = self.files.entry_by_ref(version.identity()).and_try_compute_with(|known| async move {
            if known.is_some() {
                return Ok::<_, Error>(Op::Nop);
            }
            let (log, version) = (self.log(table)?, Arc::clone(version));
            Ok(Op::Put(Arc::new(self.read(move || Files::read(&log, &version)).await?)))
        });
        let files = read.await?.into_entry().map(|entry| entry.into_value());
        files.ok_or_else(|| Error::Internal("files of a Delta table that were read are not there".to_owned()))
    }

    /// Runs what waits for an object store on a thread that may.
    async fn read<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let _place = self.reads.acquire().await.expect("the semaphore is never closed");
        blocking(work).await
    }
}

/// What a log got since a version.
enum Since {
    Nothing,
    Commits,
    /// The version is no longer there.
    Another,
}

/// A file of a log that made a version; the same again unless somebody replaced the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Commit {
    path: Path,
    size: u64,
    modified_ms: i64,
    etag: Option<String>,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let span = Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.unwrap_or_else(|error| Err(Error::Internal(format!("reading a Delta log failed: {error}"))))
}

#[cfg(test)]
mod tests;
