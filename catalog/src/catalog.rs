//! The trait every catalog store implements, and the words it speaks.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::common::{ScalarValue, Statistics};
use serde::{Deserialize, Serialize};
use windlass_engine::Dialect;
use windlass_engine::annotations::KeptRows;
pub use windlass_engine::formats::Storage;

use crate::commit::{BaseVersion, Cause, Commit, EndedWrite, Expired, Moment, Write, WriteIntent};
use crate::delta;
use crate::error::Result;
use crate::predicate::KeyPredicate;

/// Name of the catalog that holds the warehouse; `hive.database.table` in SQL.
pub const CATALOG: &str = "hive";
/// What other systems call the catalog that holds the warehouse: Athena and Spark.
const CATALOG_SYNONYMS: [&str; 2] = ["awsdatacatalog", "spark_catalog"];

/// Whether a name, in any case, means the catalog that holds the warehouse.
pub fn is_warehouse(catalog: &str) -> bool {
    std::iter::once(CATALOG).chain(CATALOG_SYNONYMS).any(|name| name.eq_ignore_ascii_case(catalog))
}

/// Database that exists always and is current in a new session.
pub const DEFAULT_DATABASE: &str = "default";
pub use windlass_engine::hive_path::NULL_PARTITION;
/// Partition keys a table may have; each is a positional, indexed column `k0..k7` in the store.
pub const KEYS_MAX: usize = 8;

/// A namespace of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Lower-case name.
    pub name: String,
    /// Default parent URL of its managed tables, with a trailing slash.
    pub location: Option<String>,
    /// What the user said about it.
    pub comment: Option<String>,
}

/// Who owns the files of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// Others may write the directory; `MSCK REPAIR TABLE` and `ALTER TABLE` tell us.
    External,
    /// Only committed files are visible; `DROP TABLE` deletes them.
    Managed,
    /// A stored query.
    View,
    /// A stored query with its rows as of the last refresh. Only refreshes write them; `DROP MATERIALIZED VIEW` deletes them.
    MaterializedView,
}

impl TableKind {
    /// The name kept in the store and shown by `DESCRIBE EXTENDED`.
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "EXTERNAL_TABLE",
            Self::Managed => "MANAGED_TABLE",
            Self::View => "VIRTUAL_VIEW",
            Self::MaterializedView => "MATERIALIZED_VIEW",
        }
    }

    /// The kind of this name, if it is one.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::External, Self::Managed, Self::View, Self::MaterializedView].into_iter().find(|kind| kind.name() == name)
    }

    /// Whether the files are ours: nobody else changes them, and we delete them.
    pub fn owns_files(self) -> bool {
        matches!(self, Self::Managed | Self::MaterializedView)
    }
}

/// Types a partition key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// `STRING`, `VARCHAR`, `CHAR`.
    String,
    /// `INT`, `SMALLINT`, `TINYINT`.
    Int,
    /// `BIGINT`.
    BigInt,
    /// `DATE`.
    Date,
    /// `TIMESTAMP`: microseconds without zone.
    Timestamp,
    /// `BOOLEAN`.
    Boolean,
    /// `DECIMAL(precision, scale)`, precision at most 38.
    Decimal(u8, i8),
}

impl KeyType {
    /// The Arrow type of the key as a column.
    pub fn data_type(self) -> DataType {
        match self {
            Self::String => DataType::Utf8,
            Self::Int => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Boolean => DataType::Boolean,
            Self::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
        }
    }
}

/// The type as SQL spells it.
impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String => f.write_str("string"),
            Self::Int => f.write_str("int"),
            Self::BigInt => f.write_str("bigint"),
            Self::Date => f.write_str("date"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Boolean => f.write_str("boolean"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
        }
    }
}

/// One partition key of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionKey {
    /// Lower-case column name.
    pub name: String,
    /// Its type.
    pub key_type: KeyType,
    /// What the user said about it.
    pub comment: Option<String>,
}

/// A stored query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewDefinition {
    /// The query's text as written.
    pub sql: String,
    /// Database that unqualified names in it belong to.
    pub default_database: String,
    /// In whose SQL it is written.
    pub dialect: Dialect,
}

/// Everything a name means, except its partitions and files.
#[derive(Debug, Clone)]
pub struct TableMeta {
    /// Never reused.
    pub id: i64,
    /// Lower-case database name.
    pub database: String,
    /// Lower-case table name.
    pub name: String,
    /// Who owns the files.
    pub kind: TableKind,
    /// URL with a trailing slash, `file:///...`; empty for views.
    pub location: String,
    /// Columns kept in files, in order; field metadata `comment` holds comments. For views, the columns of the query.
    pub schema: SchemaRef,
    /// Partition keys, which follow the columns of `schema` in the table's rows.
    pub keys: Vec<PartitionKey>,
    /// What the user said about it.
    pub comment: Option<String>,
    /// `TBLPROPERTIES`.
    pub properties: BTreeMap<String, String>,
    /// How rows are kept in the files.
    pub storage: Storage,
    /// Only for views, materialized or not.
    pub view: Option<ViewDefinition>,
    /// Grows by one with every change of the table, its partitions or its files.
    pub version: i64,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Whose partitions and files are read: those of this version, or the newest ones. Columns are always the newest.
    pub as_of: Option<i64>,
    /// The version of its log that a Delta table was found in: columns, keys, partitions and files are of this one.
    pub delta: Option<Arc<delta::Version>>,
}

impl TableMeta {
    /// Columns followed by partition keys: the schema that queries see.
    pub fn full_schema(&self) -> SchemaRef {
        use datafusion::arrow::datatypes::{Field, Schema};
        let keys = self.keys.iter().map(|key| {
            let field = Field::new(&key.name, key.key_type.data_type(), true);
            Arc::new(match &key.comment {
                Some(comment) => field.with_metadata([("comment".to_owned(), comment.clone())].into()),
                None => field,
            })
        });
        Arc::new(Schema::new(self.schema.fields().iter().map(Arc::clone).chain(keys).collect::<Vec<_>>()))
    }
}

/// A table to be made.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// Database it goes into; must exist.
    pub database: String,
    /// Its name; must be free.
    pub name: String,
    /// Who owns the files.
    pub kind: TableKind,
    /// URL with a trailing slash; empty for views.
    pub location: String,
    /// Columns kept in files.
    pub schema: SchemaRef,
    /// Partition keys, at most [`KEYS_MAX`].
    pub keys: Vec<PartitionKey>,
    /// What the user said about it.
    pub comment: Option<String>,
    /// `TBLPROPERTIES`.
    pub properties: BTreeMap<String, String>,
    /// How rows are kept in the files.
    pub storage: Storage,
    /// Only for views, materialized or not.
    pub view: Option<ViewDefinition>,
}

/// A materialized view and what its rows were made of.
#[derive(Debug, Clone)]
pub struct MaterializedView {
    /// The view.
    pub view: Arc<TableMeta>,
    /// When it was last refreshed: milliseconds since 1970.
    pub refreshed_ms: i64,
    /// Whether the query gives the same rows as long as its tables hold the same.
    pub repeatable: bool,
    /// Rows it holds, if every file's is known.
    pub rows: Option<u64>,
    /// The tables and views that the query reads.
    pub bases: Vec<Base>,
}

impl MaterializedView {
    /// Whether what the query reads is what it read at the last refresh.
    pub fn is_fresh(&self) -> bool {
        self.bases.iter().all(|base| base.now.is_some_and(|(_, version)| version == base.read.version))
    }
}

/// A table or view that a materialized view stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// What the last refresh read.
    pub read: BaseVersion,
    /// What is there now; none if it was dropped.
    pub now: Option<(TableKind, i64)>,
}

/// One line of `SHOW TABLES`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSummary {
    /// Lower-case database name.
    pub database: String,
    /// Lower-case table name.
    pub name: String,
    /// Who owns the files.
    pub kind: TableKind,
}

/// One partition: the values of its keys and where its files lie. A table without keys has exactly one, with no values.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Store's id; never reused.
    pub id: i64,
    /// One value per key, typed as the key; NULL for [`NULL_PARTITION`].
    pub values: Vec<ScalarValue>,
    /// Hive name, `dt=2024-01-01/region=eu`, escaped.
    pub name: String,
    /// URL with a trailing slash.
    pub location: String,
    /// Files known in it.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
    /// Sum of their rows, if every file's is known.
    pub rows: Option<u64>,
}

/// A partition to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPartition {
    /// One value per key.
    pub values: Vec<ScalarValue>,
    /// URL with a trailing slash.
    pub location: String,
    /// Its files.
    pub files: Vec<NewFile>,
}

/// A data file to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct NewFile {
    /// Full URL.
    pub url: String,
    /// Bytes.
    pub size: u64,
    /// Milliseconds since 1970.
    pub modified_ms: i64,
    /// What the store says identifies the content.
    pub etag: Option<String>,
    /// Rows; none when the footer was not read.
    pub rows: Option<u64>,
    /// Statistics by column of [`TableMeta::schema`], in order.
    pub statistics: Option<Arc<Statistics>>,
    /// The rows that are the table's, if not all are; only of Delta tables.
    pub kept_rows: Option<KeptRows>,
}

/// A data file of a partition.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// Partition it belongs to.
    pub partition_id: i64,
    /// What is known of it.
    pub file: NewFile,
}

/// What ANALYZE found in one partition.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalyzedPartition {
    /// The partition.
    pub partition_id: i64,
    /// Rows, and what was found by column of [`TableMeta::schema`]: the sizes of values, NULLs, and bounds where they are of fixed width.
    pub statistics: Statistics,
    /// The different values by column, as sketches; empty where they were not counted.
    pub sketches: Vec<Vec<u8>>,
}

impl AnalyzedPartition {
    /// Takes over the columns of an earlier analysis that this one has not looked at.
    pub(crate) fn keep_other_columns(&mut self, earlier: Self) {
        let mine = self.sketches.iter_mut().zip(&mut self.statistics.column_statistics);
        for ((sketch, column), (earlier_sketch, earlier)) in
            mine.zip(earlier.sketches.into_iter().zip(earlier.statistics.column_statistics))
        {
            if sketch.is_empty() {
                (*sketch, *column) = (earlier_sketch, earlier);
            }
        }
    }
}

/// Tells whether a partition holds the files that it held. Only good within one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesDigest(u64);

impl FilesDigest {
    /// Of all files of a partition, ordered by URL.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a DataFile>) -> Self {
        let mut hasher = DefaultHasher::new();
        for DataFile { file, .. } in files {
            (&file.url, file.size, file.modified_ms, &file.etag).hash(&mut hasher);
        }
        Self(hasher.finish())
    }
}

/// One atomic change of a table. All of it happens or none.
#[derive(Debug, Clone)]
pub enum TableChange {
    /// Moves the name.
    Rename {
        /// New database.
        database: String,
        /// New name; must be free.
        name: String,
        /// New location, if that changes too.
        location: Option<String>,
    },
    /// Replaces columns: those that were there keep their places, and take types that their statistics can be cast to.
    Columns(SchemaRef),
    /// Replaces what is said of how rows are kept in the files.
    Storage(Storage),
    /// Replaces what is said about the partition keys; their names and types stay.
    Keys(Vec<PartitionKey>),
    /// Replaces the comment.
    Comment(Option<String>),
    /// Replaces the location, and what the table holds there.
    Location {
        /// The new one.
        location: String,
        /// Partitions and files that come and go.
        contents: Contents,
    },
    /// Adds or replaces properties; `None` removes one.
    Properties(BTreeMap<String, Option<String>>),
    /// Replaces a view's query and columns.
    View {
        /// The new query.
        view: ViewDefinition,
        /// Its columns.
        schema: SchemaRef,
    },
    /// Changes what the table holds.
    Contents(Contents),
}

/// Partitions and files that come and go in one change.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Partitions to add, with their files. A partition with the same values that exists already is an error.
    pub add_partitions: Vec<NewPartition>,
    /// Partitions to forget, by id, with their files.
    pub remove_partitions: Vec<i64>,
    /// Partitions to take all files out of, by id, before others are added.
    pub empty_partitions: Vec<i64>,
    /// Files to add to existing partitions.
    pub add_files: Vec<DataFile>,
    /// Files to forget: partition id and URL.
    pub remove_files: Vec<(i64, String)>,
}

/// What [`Catalog::partitions`] found.
#[derive(Debug, Clone, Default)]
pub struct PartitionList {
    /// Partitions that the predicate keeps, ordered by their key values.
    pub partitions: Vec<Partition>,
    /// Partitions of the table, kept or not.
    pub total: u64,
    /// Whether there were more than the limit; then `partitions` is cut.
    pub truncated: bool,
}

/// What [`Catalog::scan`] found, all of one moment.
#[derive(Debug, Clone, Default)]
pub struct ScanContents {
    /// Partitions that are kept, ordered by their key values.
    pub partitions: Vec<Partition>,
    /// Their files, ordered by partition, then URL.
    pub files: Vec<DataFile>,
    /// What ANALYZE found in some of them, evenly spread over those that were analyzed.
    pub analyzed: Vec<AnalyzedPartition>,
    /// Sums over the whole table.
    pub totals: Totals,
    /// Whether there were more partitions than the limit; then `partitions` is cut, `files` and `analyzed` are empty.
    pub truncated: bool,
}

/// What a table has got since a job has read it.
#[derive(Debug, Clone, Default)]
pub struct NewContents {
    /// The files that came since and are there, and the partitions that hold them.
    pub contents: ScanContents,
    /// The version up to which the job had read the table; none if it had not, and all there is is new.
    pub from: Option<i64>,
    /// The version up to which it has read with this.
    pub to: i64,
}

/// How far a job has read a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// Lower-case database name.
    pub database: String,
    /// Lower-case table name.
    pub table: String,
    /// The job, as it calls itself.
    pub job: String,
    /// The version up to which it has read.
    pub version: i64,
    /// The table's version now.
    pub newest: i64,
    /// When it was moved last: milliseconds since 1970.
    pub moved_ms: i64,
}

/// The residual of a predicate: drops partitions from a batch of those that the predicate keeps.
pub type Residual<'a> = &'a (dyn Fn(Vec<Partition>) -> Result<Vec<Partition>> + Send + Sync);

/// Where names are kept. Every method is one transaction; changes carry the version they were made for.
#[async_trait]
pub trait Catalog: std::fmt::Debug + Send + Sync {
    /// Grows with every change of any name, so that callers can cache lists of names.
    fn names_version(&self) -> u64;
    /// A moment, in milliseconds since 1970: whatever was changed before it is seen by all who begin to read from now on. Changes carry the
    /// time at which they began to be made, and may be many.
    fn settled_ms(&self) -> i64;

    /// All databases, by name.
    async fn databases(&self) -> Result<Vec<Database>>;
    /// Makes a database. Errors: `AlreadyExists`.
    async fn create_database(&self, database: Database) -> Result<()>;
    /// Forgets a database. Errors: `NotFound`; `Invalid` if it holds tables and `cascade` is false, or if it is the default one.
    async fn drop_database(&self, name: &str, cascade: bool, cause: &Cause) -> Result<()>;

    /// Tables and views of a database, or of all, by name.
    async fn tables(&self, database: Option<&str>) -> Result<Vec<TableSummary>>;
    /// One table or view; `None` if the name is free.
    async fn table(&self, database: &str, name: &str) -> Result<Option<Arc<TableMeta>>>;
    /// Makes a table. A table without keys gets its one partition at once. Errors: `AlreadyExists`, `NotFound` (database), `Invalid`.
    async fn create_table(&self, table: NewTable, contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>>;
    /// Makes a table in the place of another one, in one change. Errors: as those of `drop_table` and `create_table`.
    async fn replace_table(&self, replaced: &TableMeta, table: NewTable, contents: Contents, cause: &Cause) -> Result<Arc<TableMeta>>;
    /// Changes a table. Files that a managed table loses are garbage. Errors: `Conflict` if `table.version` is no longer current;
    /// `AlreadyExists`, `NotFound`.
    async fn change_table(&self, table: &TableMeta, cause: &Cause, change: TableChange) -> Result<Arc<TableMeta>>;
    /// Forgets a table or view, but not its history; files of a managed table are garbage from now on. Errors: `NotFound`.
    async fn drop_table(&self, table: &TableMeta, cause: &Cause) -> Result<()>;

    /// Remembers that a query is about to write, so that after a crash what it left can be found. Errors: `AlreadyExists` (query).
    async fn begin_write(&self, intent: WriteIntent) -> Result<()>;
    /// Changes what a table holds, as the query intended. The version that `table` is of matters only to [`Replaces::Files`]: other
    /// changes in between stay. A second commit of the same query changes nothing and returns the table.
    ///
    /// Errors: `Conflict`; `NotFound` if the table is gone; `Abandoned` if the write was given up, or has files and was never begun.
    ///
    /// [`Replaces::Files`]: crate::Replaces::Files
    async fn commit_write(&self, table: &TableMeta, write: Write) -> Result<Arc<TableMeta>>;
    /// Makes a table that holds what a query wrote, in the place of `replaced`. A second commit of the same query changes nothing and
    /// returns the table. Errors: as those of `drop_table`, `create_table` and `commit_write`.
    async fn create_table_as(&self, table: NewTable, replaced: Option<&TableMeta>, write: Write) -> Result<Arc<TableMeta>>;
    /// Gives a write up: it can no longer be committed, and its files are garbage. Nothing happens if it was committed or never begun.
    async fn abandon_write(&self, query_id: &str) -> Result<()>;
    /// Writes that were begun and neither committed nor given up, by query id.
    async fn open_writes(&self) -> Result<Vec<WriteIntent>>;
    /// Writes that were committed or given up and may have left files that no table lists, by query id.
    async fn ended_writes(&self) -> Result<Vec<EndedWrite>>;
    /// Forgets a write: whatever it has left is gone.
    async fn forget_write(&self, query_id: &str) -> Result<()>;

    /// Materialized views by name, at most `limit`: all, or those that stand on any of these tables.
    async fn materialized_views(&self, over: Option<&[i64]>, limit: usize) -> Result<Vec<MaterializedView>>;
    /// Values of the keys of partitions whose files are others in `table`, as it was or is, than in its version `since`. `None` if that
    /// is no longer kept.
    async fn changed_partitions(&self, table: &TableMeta, since: i64) -> Result<Option<Vec<Vec<ScalarValue>>>>;

    /// What a table has got since a job has read it, at most `limit` partitions. Rows that were only written again are not new; those of
    /// an overwrite are. Errors: `Invalid` if rows were changed since, or if that is no longer known.
    async fn new_contents(&self, table: &TableMeta, job: &str, limit: usize) -> Result<NewContents>;
    /// Says up to which version a job has read a table; none forgets it. Errors: `Invalid` for a version that there is not yet.
    async fn set_bookmark(&self, table: &TableMeta, job: &str, version: Option<i64>) -> Result<()>;
    /// How far jobs have read tables, by table and job.
    async fn bookmarks(&self) -> Result<Vec<Bookmark>>;

    /// The newest changes of all tables, at most `limit`, newest first.
    async fn history(&self, limit: usize) -> Result<Vec<Commit>>;
    /// The table with the contents of a moment. Errors: `Invalid` if there is no such version any more, or yet; `Unsupported` for
    /// tables whose files are not ours.
    async fn as_of(&self, table: &TableMeta, moment: Moment) -> Result<Arc<TableMeta>>;
    /// Forgets versions that ceased to be current by a time, of a table or of all, and returns garbage, at most `limit` files, that no
    /// version has needed since. With `dry_run` nothing changes.
    async fn expire(&self, table: Option<&TableMeta>, until_ms: i64, limit: usize, dry_run: bool) -> Result<Expired>;
    /// Takes files from the list of garbage: they are deleted.
    async fn forget_garbage(&self, urls: &[String]) -> Result<()>;
    /// Those of `urls` that are garbage, or that a write has left that is not committed or that runs.
    async fn garbage_among(&self, urls: &[String]) -> Result<HashSet<String>>;
    /// Those of `urls` that no version of any table holds, and that are not on the list of garbage.
    async fn unlisted_among(&self, urls: &[String]) -> Result<HashSet<String>>;

    /// Partitions that `predicate` may keep, through one indexed query, at most `limit`. The residual of the predicate is the caller's affair.
    async fn partitions(&self, table: &TableMeta, predicate: &KeyPredicate, limit: usize) -> Result<PartitionList>;
    /// Partitions that `predicate` and then `residual` keep, at most `limit`, with their files. Errors: those of `residual`; `NotFound`.
    async fn scan(&self, table: &TableMeta, predicate: &KeyPredicate, residual: Option<Residual<'_>>, limit: usize)
    -> Result<ScanContents>;
    /// Files of the given partitions, ordered by partition as given, then URL.
    async fn files(&self, table: &TableMeta, partition_ids: &[i64]) -> Result<Vec<DataFile>>;
    /// Keeps what ANALYZE found in partitions instead of what was known of the same columns, until their files change. What was found in
    /// files that are no longer those of the partition is left out. Returns of how many partitions something was kept. The table's
    /// version stays.
    async fn put_analyzed(&self, table: &TableMeta, found: Vec<(AnalyzedPartition, FilesDigest)>) -> Result<u64>;
    /// Sums over the whole table, without reading them all.
    async fn totals(&self, table: &TableMeta) -> Result<Totals>;
}

/// Sums over a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Partitions.
    pub partitions: u64,
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Rows, if every file's is known.
    pub rows: Option<u64>,
}
