//! The catalog in one SQLite file.
//!
//! One connection writes, a few read; with a write-ahead log readers never wait. Every change is one `BEGIN IMMEDIATE` transaction that
//! raises the table's version and adds a row to `commits`. What goes is marked with the version it went in, until that is forgotten.
//! A table's name is looked up at every use and what it means is decoded once per version, so there is nothing to invalidate.
//! One process at a time: [`names_version`](Catalog::names_version) is counted in memory.

mod analyzed;
mod bookmarks;
mod commits;
mod contents;
mod decoded;
mod filter;
mod garbage;
mod materialized;
mod partitions;
mod tables;

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::future::Future;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use datafusion::common::ScalarValue;
use moka::future::Cache;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use tracing::Instrument;

use self::decoded::DecodedStatistics;
use crate::catalog::{
    AnalyzedPartition, Bookmark, Catalog, Contents, DEFAULT_DATABASE, DataFile, Database, FilesDigest, MaterializedView, NewContents,
    NewTable, PartitionList, Residual, ScanContents, TableChange, TableKind, TableMeta, TableSummary, Totals,
};
use crate::commit::{Cause, Commit, EndedWrite, Expired, Moment, Write, WriteIntent};
use crate::error::{Error, Result};
use crate::predicate::KeyPredicate;

/// Connections that read at once; further readers wait.
const READERS_MAX: u32 = 4;
/// How long a statement waits for a connection. Longer than any one change takes: adding 100,000 partitions takes seconds.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(300);
/// How long we wait for another process, such as a backup or the `sqlite3` shell, to release the file.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(10);
/// Decoded tables kept, each for one version of one table.
const TABLES_CACHED_MAX: u64 = 10_000;
/// Rows that a connection reads ahead. With the default of 50, its thread and the reader wait for each other most of the time.
const ROWS_BUFFERED: usize = 1024;
/// Page cache of a connection, in KiB. The default of 2 MiB thrashes when rows enter four indexes out of order.
const PAGE_CACHE_KIB: i64 = 32 * 1024;
/// What the write-ahead log keeps on disk after a large commit, in bytes.
const LOG_BYTES_MAX: i64 = 64 * 1024 * 1024;

type WriteFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A [`Catalog`] kept in SQLite.
#[derive(Debug, Clone)]
pub struct SqliteCatalog {
    /// A pool of one: its queue is the order of changes.
    writer: SqlitePool,
    readers: SqlitePool,
    names_version: Arc<AtomicU64>,
    /// When the change that is being made was begun, in milliseconds since 1970; [`i64::MAX`] if there is none.
    changing_since: Arc<AtomicI64>,
    /// By id and version: what is in here never changes.
    tables: Cache<(i64, i64), Arc<TableMeta>>,
    decoded: DecodedStatistics,
}

impl SqliteCatalog {
    /// Opens the store at `path`, makes it if it is missing (readable by its owner only) and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self> {
        let action = "open the catalog file";
        // SQLite gives its log files the mode of the main file, so it is enough to make that one.
        OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(|e| failed(action)(e.into()))?;
        // FULL: a change the user was told of survives a power cut. It costs one sync per change, and changes are rare.
        let options = connect_options().filename(path).journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let writer = pool_options(1).connect_with(options.pragma("journal_size_limit", LOG_BYTES_MAX.to_string())).await;
        let writer = writer.map_err(failed(action))?;
        migrate(&writer).await?;
        let readers = pool_options(READERS_MAX).connect_with(connect_options().filename(path).read_only(true)).await;
        Ok(Self::new(writer, readers.map_err(failed(action))?))
    }

    /// A store in memory that is gone with its last clone.
    pub async fn in_memory() -> Result<Self> {
        // Every connection would be a database of its own, so one does all.
        let pool = pool_options(1).connect_with(connect_options().in_memory(true)).await.map_err(failed("open a catalog in memory"))?;
        migrate(&pool).await?;
        Ok(Self::new(pool.clone(), pool))
    }

    fn new(writer: SqlitePool, readers: SqlitePool) -> Self {
        let changing_since = Arc::new(AtomicI64::new(i64::MAX));
        let (tables, decoded) = (Cache::new(TABLES_CACHED_MAX), DecodedStatistics::new());
        Self { writer, readers, names_version: Arc::default(), changing_since, tables, decoded }
    }

    /// Runs `work` in one transaction. It goes on if the caller goes away, so that a commit and `names_version` never part.
    async fn write<T, W>(&self, action: &'static str, names: Names, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> WriteFuture<'c, T> + Send + 'static,
    {
        let writer = self.writer.clone();
        let (names_version, changing_since) = (Arc::clone(&self.names_version), Arc::clone(&self.changing_since));
        let change = async move {
            let mut connection = writer.acquire().await.map_err(failed(action))?;
            // Until just before the next change gets the connection.
            let _changing = Changing::begin(changing_since);
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
            let result = work(&mut transaction).await?;
            transaction.commit().await.map_err(failed(action))?;
            if names == Names::Change {
                names_version.fetch_add(1, Ordering::Release);
            }
            Ok(result)
        };
        let finished = tokio::spawn(change.in_current_span()).await;
        finished.map_err(|error| Error::Internal(format!("catalog task failed while it tried to {action}: {error}")))?
    }
}

/// A change that is being made, of which there is one at a time.
struct Changing(Arc<AtomicI64>);

impl Changing {
    fn begin(since: Arc<AtomicI64>) -> Self {
        since.store(Utc::now().timestamp_millis(), Ordering::SeqCst);
        Self(since)
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.0.store(i64::MAX, Ordering::SeqCst);
    }
}

/// Whether a change makes lists of names stale.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Change,
    Stay,
}

#[async_trait]
impl Catalog for SqliteCatalog {
    fn names_version(&self) -> u64 {
        self.names_version.load(Ordering::Acquire)
    }

    fn settled_ms(&self) -> i64 {
        // The clock first: a change that begins in between is of later.
        let now = Utc::now().timestamp_millis();
        now.min(self.changing_since.load(Ordering::SeqCst))
    }

    async fn databases(&self) -> Result<Vec<Database>> {
        let rows = sqlx::query("SELECT name, location, comment FROM databases ORDER BY name").fetch_all(&self.readers).await;
        let database = |row: SqliteRow| Ok(Database { name: row.try_get(0)?, location: row.try_get(1)?, comment: row.try_get(2)? });
        rows.and_then(|rows| rows.into_iter().map(database).collect()).map_err(failed("list databases"))
    }

    async fn create_database(&self, database: Database) -> Result<()> {
        let action = "create a database";
        self.write(action, Names::Change, move |connection| {
            Box::pin(async move {
                let insert = sqlx::query("INSERT INTO databases (name, location, comment) VALUES (?1, ?2, ?3)");
                let inserted = insert.bind(&database.name).bind(&database.location).bind(&database.comment).execute(connection).await;
                inserted.map_err(taken("database", &database.name, action))?;
                Ok(())
            })
        })
        .await
    }

    async fn drop_database(&self, name: &str, cascade: bool, cause: &Cause) -> Result<()> {
        let action = "drop a database";
        if name == DEFAULT_DATABASE {
            return Err(Error::Invalid(format!("database '{name}' cannot be dropped: every session starts in it")));
        }
        let (name, cause) = (name.to_owned(), cause.clone());
        self.write(action, Names::Change, move |connection| {
            Box::pin(async move {
                if cascade {
                    let now = Utc::now().timestamp_millis();
                    garbage::list_tables(connection, &name, None, now).await?;
                    commits::bury(connection, &name, None, now, &cause).await?;
                    let tables = sqlx::query("DELETE FROM tables WHERE database = ?1").bind(&name);
                    tables.execute(&mut *connection).await.map_err(failed(action))?;
                } else {
                    let used = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM tables WHERE database = ?1)").bind(&name);
                    if used.fetch_one(&mut *connection).await.map_err(failed(action))? {
                        return Err(Error::Invalid(format!("database '{name}' is not empty; add CASCADE to drop its tables with it")));
                    }
                }
                let dropped = sqlx::query("DELETE FROM databases WHERE name = ?1").bind(&name).execute(connection).await;
                match dropped.map_err(failed(action))?.rows_affected() {
                    0 => Err(Error::NotFound { what: "database", name }),
                    _ => Ok(()),
                }
            })
        })
        .await
    }

    async fn tables(&self, database: Option<&str>) -> Result<Vec<TableSummary>> {
        let action = "list tables";
        let rows = sqlx::query("SELECT database, name, kind FROM tables WHERE database = ?1 OR ?1 IS NULL ORDER BY database, name");
        let rows = rows.bind(database).fetch_all(&self.readers).await.map_err(failed(action))?;
        let summary = |row: &SqliteRow| {
            let get = |index: usize| row.try_get::<String, _>(index).map_err(failed(action));
            Ok(TableSummary { database: get(0)?, name: get(1)?, kind: tables::table_kind(&get(2)?)? })
        };
        rows.iter().map(summary).collect()
    }

    async fn table(&self, database: &str, name: &str) -> Result<Option<Arc<TableMeta>>> {
        let action = "look up a table";
        let key =
            sqlx::query_as::<_, (i64, i64)>("SELECT id, version FROM tables WHERE database = ?1 AND name = ?2").bind(database).bind(name);
        let Some(key) = key.fetch_optional(&self.readers).await.map_err(failed(action))? else {
            return Ok(None);
        };
        if let Some(table) = self.tables.get(&key).await {
            return Ok(Some(table));
        }
        let mut connection = self.readers.acquire().await.map_err(failed(action))?;
        // Another version than we asked for, or none at all, is right too: it is the newer truth.
        let Some(table) = tables::load(&mut connection, key.0).await? else {
            return Ok(None);
        };
        self.tables.insert((table.id, table.version), Arc::clone(&table)).await;
        Ok(Some(table))
    }

    async fn create_table(&self, table: NewTable, contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>> {
        let cause = cause.clone();
        self.write("create a table", Names::Change, move |connection| {
            Box::pin(async move { tables::create(connection, table, contents, &cause).await })
        })
        .await
    }

    async fn replace_table(&self, replaced: &TableMeta, table: NewTable, contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>> {
        let (replaced, cause) = (replaced.clone(), cause.clone());
        self.write("replace a table", Names::Change, move |connection| {
            Box::pin(async move {
                tables::forget(connection, &replaced, &cause).await?;
                tables::create(connection, table, contents, &cause).await
            })
        })
        .await
    }

    async fn change_table(&self, table: &TableMeta, cause: &Cause, change: TableChange) -> Result<Arc<TableMeta>> {
        let names = if matches!(change, TableChange::Rename { .. }) { Names::Change } else { Names::Stay };
        let (table, cause) = (table.clone(), cause.clone());
        self.write("change a table", names, move |connection| {
            Box::pin(async move { tables::change(connection, &table, &cause, change).await })
        })
        .await
    }

    async fn drop_table(&self, table: &TableMeta, cause: &Cause) -> Result<()> {
        let (table, cause) = (table.clone(), cause.clone());
        self.write("drop a table", Names::Change, move |connection| {
            Box::pin(async move { tables::forget(connection, &table, &cause).await })
        })
        .await
    }

    async fn begin_write(&self, intent: WriteIntent) -> Result<()> {
        self.write("begin a write", Names::Stay, move |connection| Box::pin(async move { commits::begin(connection, &intent).await })).await
    }

    async fn commit_write(&self, table: &TableMeta, write: Write) -> Result<Arc<TableMeta>> {
        let table = table.clone();
        self.write("commit a write", Names::Stay, move |connection| {
            Box::pin(async move { commits::commit(connection, &table, write).await })
        })
        .await
    }

    async fn create_table_as(&self, table: NewTable, replaced: Option<&TableMeta>, write: Write) -> Result<Arc<TableMeta>> {
        let replaced = replaced.cloned();
        self.write("create a table", Names::Change, move |connection| Box::pin(commits::commit_new(connection, table, replaced, write)))
            .await
    }

    async fn abandon_write(&self, query_id: &str) -> Result<()> {
        let action = "give up a write";
        let query_id = query_id.to_owned();
        self.write(action, Names::Stay, move |connection| {
            Box::pin(async move {
                let update =
                    sqlx::query("UPDATE writes SET abandoned_ms = ?2 WHERE query_id = ?1 AND coalesce(committed_ms, abandoned_ms) IS NULL");
                let update = update.bind(query_id).bind(Utc::now().timestamp_millis());
                update.execute(connection).await.map_err(failed(action))?;
                Ok(())
            })
        })
        .await
    }

    async fn open_writes(&self) -> Result<Vec<WriteIntent>> {
        let mut connection = self.readers.acquire().await.map_err(failed("list writes"))?;
        commits::open(&mut connection).await
    }

    async fn ended_writes(&self) -> Result<Vec<EndedWrite>> {
        let mut connection = self.readers.acquire().await.map_err(failed("list writes"))?;
        commits::ended(&mut connection).await
    }

    async fn forget_write(&self, query_id: &str) -> Result<()> {
        let action = "forget a write";
        let query_id = query_id.to_owned();
        self.write(action, Names::Stay, move |connection| {
            Box::pin(async move {
                let delete = sqlx::query("DELETE FROM writes WHERE query_id = ?1").bind(query_id);
                delete.execute(connection).await.map_err(failed(action))?;
                Ok(())
            })
        })
        .await
    }

    async fn materialized_views(&self, over: Option<&[i64]>, limit: usize) -> Result<Vec<MaterializedView>> {
        let mut snapshot = self.readers.begin().await.map_err(failed("list materialized views"))?;
        materialized::list(&mut snapshot, over, limit).await
    }

    async fn changed_partitions(&self, table: &TableMeta, since: i64) -> Result<Option<Vec<Vec<ScalarValue>>>> {
        let mut snapshot = self.readers.begin().await.map_err(failed("compare versions"))?;
        materialized::changed_partitions(&mut snapshot, table, since).await
    }

    async fn new_contents(&self, table: &TableMeta, job: &str, limit: usize) -> Result<NewContents> {
        let mut snapshot = self.readers.begin().await.map_err(failed("read what is new"))?;
        bookmarks::new_contents(&mut snapshot, &self.decoded, table, job, limit).await
    }

    async fn set_bookmark(&self, table: &TableMeta, job: &str, version: Option<i64>) -> Result<()> {
        let (table, job) = (table.clone(), job.to_owned());
        self.write("move a bookmark", Names::Stay, move |connection| {
            Box::pin(async move { bookmarks::set(connection, &table, &job, version).await })
        })
        .await
    }

    async fn bookmarks(&self) -> Result<Vec<Bookmark>> {
        let mut connection = self.readers.acquire().await.map_err(failed("list bookmarks"))?;
        bookmarks::list(&mut connection).await
    }

    async fn history(&self, limit: usize) -> Result<Vec<Commit>> {
        let mut connection = self.readers.acquire().await.map_err(failed("read the history"))?;
        commits::history(&mut connection, integer(limit as u64)).await
    }

    async fn as_of(&self, table: &TableMeta, moment: Moment) -> Result<Arc<TableMeta>> {
        let mut connection = self.readers.acquire().await.map_err(failed("look up a version"))?;
        commits::as_of(&mut connection, table, moment).await
    }

    async fn expire(&self, table: Option<&TableMeta>, until_ms: i64, limit: usize, dry_run: bool) -> Result<Expired> {
        let action = "forget old versions";
        let (table_id, limit) = (table.map(|table| table.id), integer(limit as u64));
        if dry_run {
            // All of it happens, and then nothing has happened.
            let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
            let expired = garbage::expire(&mut transaction, table_id, until_ms, limit).await?;
            transaction.rollback().await.map_err(failed(action))?;
            return Ok(expired);
        }
        self.write(action, Names::Stay, move |connection| Box::pin(garbage::expire(connection, table_id, until_ms, limit))).await
    }

    async fn forget_garbage(&self, urls: &[String]) -> Result<()> {
        let urls = urls.to_vec();
        self.write("shorten the list of garbage", Names::Stay, move |connection| {
            Box::pin(async move { garbage::forget(connection, &urls).await })
        })
        .await
    }

    async fn garbage_among(&self, urls: &[String]) -> Result<HashSet<String>> {
        let mut connection = self.readers.acquire().await.map_err(failed("read the list of garbage"))?;
        garbage::among(&mut connection, urls).await
    }

    async fn unlisted_among(&self, urls: &[String]) -> Result<HashSet<String>> {
        let mut connection = self.readers.acquire().await.map_err(failed("look up files"))?;
        garbage::unlisted(&mut connection, urls).await
    }

    async fn partitions(&self, table: &TableMeta, predicate: &KeyPredicate, limit: usize) -> Result<PartitionList> {
        // A transaction, so that the partitions and their number are of one moment.
        let mut snapshot = self.readers.begin().await.map_err(failed("read partitions"))?;
        let table = partitions::as_it_is(&mut snapshot, table).await?;
        let total = partitions::totals(&mut snapshot, &table).await?.partitions;
        let (partitions, truncated) = partitions::list(&mut snapshot, &table, predicate, None, limit).await?;
        Ok(PartitionList { partitions, total, truncated })
    }

    async fn scan(
        &self,
        table: &TableMeta,
        predicate: &KeyPredicate,
        residual: Option<Residual<'_>>,
        limit: usize,
    ) -> Result<ScanContents> {
        let mut snapshot = self.readers.begin().await.map_err(failed("read partitions"))?;
        let table = partitions::as_it_is(&mut snapshot, table).await?;
        let totals = partitions::totals(&mut snapshot, &table).await?;
        let (partitions, truncated) = partitions::list(&mut snapshot, &table, predicate, residual, limit).await?;
        let ids = partitions.iter().map(|partition| partition.id).collect::<Vec<_>>();
        let (files, analyzed) = match (truncated, table.as_of) {
            (true, _) => Default::default(),
            // What ANALYZE found is of the newest files.
            (false, Some(_)) => (contents::files(&mut snapshot, &self.decoded, &table, &ids).await?, Vec::new()),
            (false, None) => {
                (contents::files(&mut snapshot, &self.decoded, &table, &ids).await?, analyzed::sample(&mut snapshot, &table, &ids).await?)
            }
        };
        Ok(ScanContents { partitions, files, analyzed, totals, truncated })
    }

    async fn files(&self, table: &TableMeta, partition_ids: &[i64]) -> Result<Vec<DataFile>> {
        let mut connection = self.readers.acquire().await.map_err(failed("read files"))?;
        contents::files(&mut connection, &self.decoded, table, partition_ids).await
    }

    async fn put_analyzed(&self, table: &TableMeta, found: Vec<(AnalyzedPartition, FilesDigest)>) -> Result<u64> {
        let (table, decoded) = (table.clone(), self.decoded.clone());
        self.write("write statistics", Names::Stay, move |connection| {
            Box::pin(async move { analyzed::put(connection, &decoded, &table, found).await })
        })
        .await
    }

    async fn totals(&self, table: &TableMeta) -> Result<Totals> {
        let mut connection = self.readers.acquire().await.map_err(failed("read the size of a table"))?;
        partitions::totals(&mut connection, table).await
    }
}

fn connect_options() -> SqliteConnectOptions {
    // Bulk inserts are statements of many kilobytes; nobody wants them in a log.
    SqliteConnectOptions::new()
        .foreign_keys(true)
        .busy_timeout(BUSY_WAIT_MAX)
        .pragma("cache_size", (-PAGE_CACHE_KIB).to_string())
        .row_buffer_size(ROWS_BUFFERED)
        .disable_statement_logging()
}

/// Connections stay open: a store in memory lives in its one, and in a file a new one would have cold caches.
fn pool_options(connections_max: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(CONNECTION_WAIT_MAX)
        .acquire_slow_level(log::LevelFilter::Debug)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // SQLite itself ends a transaction for which its disk has no room, and the rollback that follows fails: such a connection would
        // believe in that transaction for ever.
        .after_release(|connection, _| {
            Box::pin(async move {
                connection.ping().await?;
                Ok(!connection.is_in_transaction())
            })
        })
}

async fn migrate(pool: &SqlitePool) -> Result<()> {
    sqlx::migrate!("./migrations").run(pool).await.map_err(|error| failed("bring the catalog's schema up to date")(error.into()))
}

/// Wraps a database error.
fn failed(action: &'static str) -> impl Fn(sqlx::Error) -> Error {
    move |cause| Error::Store { action, cause }
}

/// Wraps a database error; one about uniqueness says that the name is taken.
fn taken(what: &'static str, name: &str, action: &'static str) -> impl Fn(sqlx::Error) -> Error {
    let name = name.to_owned();
    move |cause| match cause.as_database_error() {
        Some(error) if error.is_unique_violation() => Error::AlreadyExists { what, name: name.clone() },
        _ => Error::Store { action, cause },
    }
}

fn qualified(table: &TableMeta) -> String {
    format!("{}.{}", table.database, table.name)
}

/// What a view or a table is called in a message.
fn noun(kind: TableKind) -> &'static str {
    match kind {
        TableKind::View => "view",
        TableKind::MaterializedView => "materialized view",
        TableKind::External | TableKind::Managed => "table",
    }
}

/// SQLite's integers are signed. What we count stays far below 2^63.
fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(integer: i64) -> u64 {
    u64::try_from(integer).unwrap_or_default()
}

/// Takes `count` ids that nobody had and nobody will get again; returns the first.
async fn reserve_ids(connection: &mut SqliteConnection, count: usize) -> Result<i64> {
    let count = integer(count as u64);
    let first = sqlx::query_scalar("UPDATE sequence SET next_id = next_id + ?1 RETURNING next_id - ?1").bind(count);
    first.fetch_one(connection).await.map_err(failed("reserve ids"))
}

fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Internal(format!("cannot encode as JSON: {error}")))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::Internal(format!("the catalog holds malformed JSON: {error}")))
}

#[cfg(test)]
mod tests;
