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

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::future::Future;
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::common::ScalarValue;
use futures::TryStreamExt;
use moka::future::Cache;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{ConnectOptions, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool};
use tracing::Instrument;

use self::contents::{Changes, Target};
use self::decoded::DecodedStatistics;
use crate::catalog::{
    AnalyzedPartition, Bookmark, Catalog, Contents, DEFAULT_DATABASE, DataFile, Database, FilesDigest, KEYS_MAX, KeyType, MaterializedView,
    NewContents, NewPartition, NewTable, Partition, PartitionList, Residual, ScanContents, TableChange, TableKind, TableMeta, TableSummary,
    Totals, ViewDefinition,
};
use crate::commit::{Cause, Commit, EndedWrite, Expired, Moment, Write, WriteIntent};
use crate::error::{Error, Result};
use crate::keys::decode_decimal;
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
/// Partitions whose keys are tested at once for what the store cannot be asked.
const RESIDUAL_BATCH: usize = 8192;
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
        Self { writer, readers, names_version: Arc::default(), tables: Cache::new(TABLES_CACHED_MAX), decoded: DecodedStatistics::new() }
    }

    /// Runs `work` in one transaction. It goes on if the caller goes away, so that a commit and `names_version` never part.
    async fn write<T, W>(&self, action: &'static str, names: Names, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> WriteFuture<'c, T> + Send + 'static,
    {
        let writer = self.writer.clone();
        let names_version = Arc::clone(&self.names_version);
        let change = async move {
            let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed(action))?;
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
            Ok(TableSummary { database: get(0)?, name: get(1)?, kind: table_kind(&get(2)?)? })
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
        let Some(table) = load_table(&mut connection, key.0).await? else {
            return Ok(None);
        };
        self.tables.insert((table.id, table.version), Arc::clone(&table)).await;
        Ok(Some(table))
    }

    async fn create_table(&self, table: NewTable, contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>> {
        let cause = cause.clone();
        self.write("create a table", Names::Change, move |connection| {
            Box::pin(async move { create_table(connection, table, contents, &cause).await })
        })
        .await
    }

    async fn change_table(&self, table: &TableMeta, cause: &Cause, change: TableChange) -> Result<Arc<TableMeta>> {
        let names = if matches!(change, TableChange::Rename { .. }) { Names::Change } else { Names::Stay };
        let (table, cause) = (table.clone(), cause.clone());
        self.write("change a table", names, move |connection| {
            Box::pin(async move { change_table(connection, &table, &cause, change).await })
        })
        .await
    }

    async fn drop_table(&self, table: &TableMeta, cause: &Cause) -> Result<()> {
        let (table, cause) = (table.clone(), cause.clone());
        self.write("drop a table", Names::Change, move |connection| Box::pin(async move { drop_table(connection, &table, &cause).await }))
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
        let total = totals(&mut snapshot, table).await?.partitions;
        let (partitions, truncated) = partitions(&mut snapshot, table, predicate, None, limit).await?;
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
        let totals = totals(&mut snapshot, table).await?;
        let (partitions, truncated) = partitions(&mut snapshot, table, predicate, residual, limit).await?;
        let ids = partitions.iter().map(|partition| partition.id).collect::<Vec<_>>();
        let (files, analyzed) = match (truncated, table.as_of) {
            (true, _) => Default::default(),
            // What ANALYZE found is of the newest files.
            (false, Some(_)) => (contents::files(&mut snapshot, &self.decoded, table, &ids).await?, Vec::new()),
            (false, None) => {
                (contents::files(&mut snapshot, &self.decoded, table, &ids).await?, analyzed::sample(&mut snapshot, table, &ids).await?)
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
        totals(&mut connection, table).await
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

async fn check_database(connection: &mut SqliteConnection, name: &str) -> Result<()> {
    let found = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM databases WHERE name = ?1)").bind(name);
    if found.fetch_one(connection).await.map_err(failed("look up a database"))? {
        return Ok(());
    }
    Err(Error::NotFound { what: "database", name: name.to_owned() })
}

async fn create_table(connection: &mut SqliteConnection, table: NewTable, mut contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>> {
    let action = "create a table";
    if table.keys.len() > KEYS_MAX {
        let (name, keys) = (&table.name, table.keys.len());
        return Err(Error::Invalid(format!("table '{name}' has {keys} partition keys; at most {KEYS_MAX} are possible")));
    }
    check_database(connection, &table.database).await?;
    let id = reserve_ids(connection, 1).await?;
    let insert = sqlx::query(
        "INSERT INTO tables (id, database, name, kind, location, schema_ipc, keys_json, comment, properties_json, version, created_ms,
             storage_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, ?10, ?11)",
    );
    let insert = insert.bind(id).bind(&table.database).bind(&table.name).bind(table.kind.name()).bind(&table.location);
    let insert = insert.bind(encode_schema(&table.schema)?).bind(to_json(&table.keys)?).bind(&table.comment);
    let committed_ms = Utc::now().timestamp_millis();
    let insert = insert.bind(to_json(&table.properties)?).bind(committed_ms).bind(to_json(&table.storage)?);
    let name = format!("{}.{}", table.database, table.name);
    insert.execute(&mut *connection).await.map_err(taken(noun(table.kind), &name, action))?;

    if let Some(view) = &table.view {
        put_view(connection, id, view).await?;
    }
    if table.kind != TableKind::View && table.keys.is_empty() && contents.add_partitions.is_empty() {
        contents.add_partitions.push(NewPartition { values: vec![], location: table.location.clone(), files: vec![] });
    }
    let target = Target { table_id: id, keys: &table.keys, version: 1, committed_ms, owns_files: table.kind.owns_files() };
    let changes = contents::apply(connection, &target, contents).await?;
    commits::record(connection, id, 1, committed_ms, cause, changes).await?;
    reload_table(connection, id).await
}

/// Forgets a table, but not its history. Files that are ours are garbage.
async fn drop_table(connection: &mut SqliteConnection, table: &TableMeta, cause: &Cause) -> Result<()> {
    let now = Utc::now().timestamp_millis();
    garbage::list_tables(connection, &table.database, Some(table.id), now).await?;
    commits::bury(connection, &table.database, Some(table.id), now, cause).await?;
    let dropped = sqlx::query("DELETE FROM tables WHERE id = ?1").bind(table.id).execute(connection).await;
    match dropped.map_err(failed("drop a table"))?.rows_affected() {
        0 => Err(Error::NotFound { what: noun(table.kind), name: qualified(table) }),
        _ => Ok(()),
    }
}

async fn change_table(connection: &mut SqliteConnection, table: &TableMeta, cause: &Cause, change: TableChange) -> Result<Arc<TableMeta>> {
    let action = "change a table";
    let version = table.version + 1;
    let raise = sqlx::query("UPDATE tables SET version = version + 1 WHERE id = ?1 AND version = ?2").bind(table.id).bind(table.version);
    if raise.execute(&mut *connection).await.map_err(failed(action))?.rows_affected() == 0 {
        return Err(match load_table(connection, table.id).await? {
            Some(_) => Error::Conflict { table: qualified(table) },
            None => Error::NotFound { what: noun(table.kind), name: qualified(table) },
        });
    }
    let committed_ms = commits::next_moment(connection, table.id).await?;
    let mut changes = Changes::default();
    match change {
        TableChange::Rename { database, name } => {
            check_database(connection, &database).await?;
            let update = sqlx::query("UPDATE tables SET database = ?2, name = ?3 WHERE id = ?1").bind(table.id).bind(&database).bind(&name);
            let name = format!("{database}.{name}");
            update.execute(&mut *connection).await.map_err(taken(noun(table.kind), &name, action))?;
        }
        TableChange::Columns(schema) => put_schema(connection, table.id, &schema).await?,
        TableChange::Storage(storage) => {
            let update = sqlx::query("UPDATE tables SET storage_json = ?2 WHERE id = ?1").bind(table.id).bind(to_json(&storage)?);
            update.execute(&mut *connection).await.map_err(failed(action))?;
        }
        TableChange::Keys(keys) => {
            let update = sqlx::query("UPDATE tables SET keys_json = ?2 WHERE id = ?1").bind(table.id).bind(to_json(&keys)?);
            update.execute(&mut *connection).await.map_err(failed(action))?;
        }
        TableChange::Comment(comment) => {
            let update = sqlx::query("UPDATE tables SET comment = ?2 WHERE id = ?1").bind(table.id).bind(&comment);
            update.execute(&mut *connection).await.map_err(failed(action))?;
        }
        TableChange::Location(location) => {
            let update = sqlx::query("UPDATE tables SET location = ?2 WHERE id = ?1").bind(table.id).bind(&location);
            update.execute(&mut *connection).await.map_err(failed(action))?;
            if table.keys.is_empty() {
                let update = sqlx::query("UPDATE partitions SET location = ?2 WHERE table_id = ?1").bind(table.id).bind(&location);
                update.execute(&mut *connection).await.map_err(failed(action))?;
            }
        }
        TableChange::Properties(changes) => {
            let mut properties = table.properties.clone();
            for (name, value) in changes {
                match value {
                    Some(value) => drop(properties.insert(name, value)),
                    None => drop(properties.remove(&name)),
                }
            }
            let update = sqlx::query("UPDATE tables SET properties_json = ?2 WHERE id = ?1").bind(table.id).bind(to_json(&properties)?);
            update.execute(&mut *connection).await.map_err(failed(action))?;
        }
        TableChange::View { view, schema } => {
            put_schema(connection, table.id, &schema).await?;
            put_view(connection, table.id, &view).await?;
        }
        TableChange::Contents(contents) => {
            let owns_files = table.kind.owns_files();
            let target = Target { table_id: table.id, keys: &table.keys, version, committed_ms, owns_files };
            changes = contents::apply(connection, &target, contents).await?;
        }
    }
    commits::record(connection, table.id, version, committed_ms, cause, changes).await?;
    reload_table(connection, table.id).await
}

async fn put_schema(connection: &mut SqliteConnection, table_id: i64, schema: &SchemaRef) -> Result<()> {
    let update = sqlx::query("UPDATE tables SET schema_ipc = ?2 WHERE id = ?1").bind(table_id).bind(encode_schema(schema)?);
    update.execute(connection).await.map_err(failed("change columns"))?;
    Ok(())
}

async fn put_view(connection: &mut SqliteConnection, table_id: i64, view: &ViewDefinition) -> Result<()> {
    let put = sqlx::query("INSERT OR REPLACE INTO views (table_id, query, default_database, dialect) VALUES (?1, ?2, ?3, ?4)");
    let put = put.bind(table_id).bind(&view.sql).bind(&view.default_database).bind(view.dialect.to_string());
    put.execute(connection).await.map_err(failed("write a view"))?;
    Ok(())
}

async fn reload_table(connection: &mut SqliteConnection, id: i64) -> Result<Arc<TableMeta>> {
    let table = load_table(connection, id).await?;
    table.ok_or_else(|| Error::Internal(format!("table {id} vanished inside its own transaction")))
}

async fn load_table(connection: &mut SqliteConnection, id: i64) -> Result<Option<Arc<TableMeta>>> {
    let action = "read a table";
    let query = sqlx::query(
        "SELECT t.*, v.query, v.default_database, v.dialect FROM tables AS t LEFT JOIN views AS v ON v.table_id = t.id WHERE t.id = ?1",
    );
    let Some(row) = query.bind(id).fetch_optional(connection).await.map_err(failed(action))? else {
        return Ok(None);
    };
    let text = |column: &str| row.try_get::<String, _>(column).map_err(failed(action));
    let optional_text = |column: &str| row.try_get::<Option<String>, _>(column).map_err(failed(action));
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(failed(action));
    let view = match (optional_text("query")?, optional_text("default_database")?, optional_text("dialect")?) {
        (Some(sql), Some(default_database), Some(dialect)) => {
            let dialect =
                dialect.parse().map_err(|_| Error::Internal(format!("the catalog holds a view of unknown dialect '{dialect}'")))?;
            Some(ViewDefinition { sql, default_database, dialect })
        }
        _ => None,
    };
    Ok(Some(Arc::new(TableMeta {
        id,
        database: text("database")?,
        name: text("name")?,
        kind: table_kind(&text("kind")?)?,
        location: text("location")?,
        schema: decode_schema(row.try_get("schema_ipc").map_err(failed(action))?)?,
        keys: from_json(&text("keys_json")?)?,
        comment: optional_text("comment")?,
        properties: from_json(&text("properties_json")?)?,
        storage: from_json(&text("storage_json")?)?,
        view,
        version: number("version")?,
        created_ms: number("created_ms")?,
        as_of: None,
        delta: None,
    })))
}

async fn totals(connection: &mut SqliteConnection, table: &TableMeta) -> Result<Totals> {
    let action = "read the size of a table";
    if let Some(version) = table.as_of {
        return commits::totals_as_of(connection, table, version).await;
    }
    let sums = sqlx::query("SELECT partition_count, file_count, byte_count, row_count, uncounted_files FROM tables WHERE id = ?1");
    let row = sums.bind(table.id).fetch_optional(connection).await.map_err(failed(action))?;
    let row = row.ok_or_else(|| Error::NotFound { what: "table", name: qualified(table) })?;
    let get = |index: usize| row.try_get::<i64, _>(index).map(count).map_err(failed(action));
    let rows = (get(4)? == 0).then_some(get(3)?);
    Ok(Totals { partitions: get(0)?, files: get(1)?, bytes: get(2)?, rows })
}

/// Partitions that `predicate` and `residual` keep, at most `limit`, and whether there are more.
async fn partitions(
    connection: &mut SqliteConnection,
    table: &TableMeta,
    predicate: &KeyPredicate,
    residual: Option<Residual<'_>>,
    limit: usize,
) -> Result<(Vec<Partition>, bool)> {
    let (mut query, complete) = partitions_query(table, predicate)?;
    if complete && residual.is_none() {
        // One more than asked for, which tells whether there are more.
        query.push(" LIMIT ").push_bind(integer(limit as u64).saturating_add(1));
    }
    let mut rows = query.build().fetch(connection).map_err(failed("read partitions"));
    let (mut kept, mut batch) = (Vec::new(), Vec::new());
    loop {
        let row = rows.try_next().await?;
        let ended = row.is_none();
        if let Some(row) = row {
            let partition = decode_partition(&row, table)?;
            if complete || predicate.evaluate(&partition.values) {
                batch.push(partition);
            }
        }
        // No larger than what is missing, so that no more is read than that when everything is kept.
        let batch_max = RESIDUAL_BATCH.min((limit - kept.len()).saturating_add(1));
        if batch.len() >= batch_max || ended {
            let batch = mem::take(&mut batch);
            kept.extend(match residual {
                Some(residual) => residual(batch)?,
                None => batch,
            });
            if kept.len() > limit {
                kept.truncate(limit);
                return Ok((kept, true));
            }
            if ended {
                return Ok((kept, false));
            }
        }
    }
}

/// The one query that lists partitions, and whether it says all that the predicate says.
fn partitions_query(table: &TableMeta, predicate: &KeyPredicate) -> Result<(QueryBuilder<Sqlite>, bool)> {
    let columns: String = (0..table.keys.len()).map(|position| format!(", k{position}")).collect();
    let Some(version) = table.as_of else {
        let mut query = QueryBuilder::new("SELECT id, name, location, file_count, byte_count, row_count, uncounted_files");
        query.push(&columns).push(" FROM partitions WHERE removed = 0 AND table_id = ").push_bind(table.id);
        let complete = filter::push_condition(&mut query, &table.keys, predicate)?;
        // The index on the keys begins with `table_id`; with it in front, the order of that index is the order asked for.
        query.push(" ORDER BY table_id").push(columns);
        return Ok((query, complete));
    };
    // Those that still are there are found by their keys, those that went since by when they went. The counters tell of now.
    let mut query = QueryBuilder::new("WITH past AS (");
    let mut complete = true;
    for (branch, gone) in [("", "removed = 0"), (" UNION ALL ", "removed > ")] {
        query.push(branch).push("SELECT * FROM partitions WHERE ").push(gone);
        if !branch.is_empty() {
            query.push_bind(version);
        }
        query.push(" AND added <= ").push_bind(version).push(" AND table_id = ").push_bind(table.id);
        complete &= filter::push_condition(&mut query, &table.keys, predicate)?;
    }
    query.push(") SELECT p.id, p.name, p.location, count(f.url), coalesce(sum(f.size), 0), coalesce(sum(f.row_count), 0),");
    query.push(" count(f.url) - count(f.row_count)").push(&columns);
    query.push(" FROM past AS p LEFT JOIN files AS f ON f.partition_id = p.id AND f.added <= ").push_bind(version);
    query.push(" AND (f.removed = 0 OR f.removed > ").push_bind(version).push(") GROUP BY p.id ORDER BY p.table_id").push(columns);
    Ok((query, complete))
}

fn decode_partition(row: &SqliteRow, table: &TableMeta) -> Result<Partition> {
    let number = |index: usize| row.try_get::<i64, _>(index).map_err(failed("read a partition"));
    let text = |index: usize| row.try_get::<String, _>(index).map_err(failed("read a partition"));
    let values = table.keys.iter().zip(7..).map(|(key, index)| decode_key(row, index, key.key_type)).collect::<Result<_>>()?;
    Ok(Partition {
        id: number(0)?,
        values,
        name: text(1)?,
        location: text(2)?,
        files: count(number(3)?),
        bytes: count(number(4)?),
        rows: (number(6)? == 0).then_some(count(number(5)?)),
    })
}

/// Undoes [`crate::keys::encode`].
fn decode_key(row: &SqliteRow, index: usize, key_type: KeyType) -> Result<ScalarValue> {
    let value = match key_type {
        KeyType::String => row.try_get(index).map(ScalarValue::Utf8),
        KeyType::Int => row.try_get(index).map(ScalarValue::Int32),
        KeyType::BigInt => row.try_get(index).map(ScalarValue::Int64),
        KeyType::Date => row.try_get(index).map(ScalarValue::Date32),
        KeyType::Timestamp => row.try_get(index).map(|micros| ScalarValue::TimestampMicrosecond(micros, None)),
        KeyType::Boolean => row.try_get(index).map(ScalarValue::Boolean),
        KeyType::Decimal(precision, scale) => row.try_get::<Option<&str>, _>(index).and_then(|text| {
            let decode = |text| decode_decimal(text).ok_or_else(|| sqlx::Error::Decode(format!("'{text}' is no decimal").into()));
            Ok(ScalarValue::Decimal128(text.map(decode).transpose()?, precision, scale))
        }),
    };
    value.map_err(failed("read a partition key"))
}

fn table_kind(name: &str) -> Result<TableKind> {
    TableKind::parse(name).ok_or_else(|| Error::Internal(format!("the catalog holds a table of unknown kind '{name}'")))
}

/// Schemas are kept as an Arrow IPC stream without batches: a stable format that keeps all types and metadata.
fn encode_schema(schema: &SchemaRef) -> Result<Vec<u8>> {
    let encode = || StreamWriter::try_new(Vec::new(), schema)?.into_inner();
    encode().map_err(|error: ArrowError| Error::Internal(format!("cannot encode a schema: {error}")))
}

fn decode_schema(bytes: &[u8]) -> Result<SchemaRef> {
    let reader = StreamReader::try_new(bytes, None);
    reader.map(|reader| reader.schema()).map_err(|error| Error::Internal(format!("cannot decode a schema: {error}")))
}

fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::Internal(format!("cannot encode as JSON: {error}")))
}

fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::Internal(format!("the catalog holds malformed JSON: {error}")))
}

#[cfg(test)]
mod tests;
