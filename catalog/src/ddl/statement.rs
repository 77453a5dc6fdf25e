//! What can be said about names. `Display` prints statements that recreate things; [`parse`](super::parse) reads them back as the same
//! statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use windlass_engine::Dialect;
use windlass_engine::formats::Storage;

use super::pattern::Pattern;
use crate::catalog::{CATALOG, KeyType, TableKind, TableMeta};
use crate::predicate::Comparison;

/// One statement that shows or changes names.
#[derive(Debug, Clone, PartialEq)]
pub enum DdlStatement {
    /// `USE db`
    Use(DatabaseName),
    /// `SHOW CATALOGS`
    ShowCatalogs {
        /// Only names like this.
        like: Option<Pattern>,
    },
    /// `SHOW DATABASES`
    ShowDatabases {
        /// Of this catalog instead of `hive`.
        catalog: Option<String>,
        /// Only names like this.
        like: Option<Pattern>,
    },
    /// `SHOW TABLES`, `SHOW VIEWS`
    ShowTables {
        /// Of this database instead of the current one.
        database: Option<DatabaseName>,
        /// Only names like this.
        like: Option<Pattern>,
        /// Whether tables are left out.
        views_only: bool,
    },
    /// `SHOW MATERIALIZED VIEWS`
    ShowMaterializedViews {
        /// Of this database instead of the current one.
        database: Option<DatabaseName>,
        /// Only names like this.
        like: Option<Pattern>,
    },
    /// `SHOW FUNCTIONS`
    ShowFunctions {
        /// Only names like this.
        like: Option<Pattern>,
    },
    /// `SHOW COLUMNS`
    ShowColumns(TableName),
    /// `SHOW PARTITIONS`
    ShowPartitions {
        /// The table.
        table: TableName,
        /// All must hold.
        conditions: Vec<Condition>,
    },
    /// `SHOW CREATE TABLE`, `SHOW CREATE VIEW`, `SHOW CREATE MATERIALIZED VIEW`
    ShowCreate(TableName),
    /// `SHOW TBLPROPERTIES`
    ShowProperties {
        /// The table or view.
        table: TableName,
        /// The one property to show.
        name: Option<String>,
    },
    /// `SHOW STATS FOR`
    ShowStats(TableName),
    /// `DESCRIBE`
    Describe {
        /// The table or view.
        table: TableName,
        /// Whether location, properties and sizes follow the columns.
        extended: bool,
    },
    /// `DESCRIBE t PARTITION (...)`
    DescribePartition {
        /// The table.
        table: TableName,
        /// Key names and values, in any order.
        values: PartitionValues,
    },
    /// `DESCRIBE DATABASE`
    DescribeDatabase(DatabaseName),
    /// `CREATE DATABASE`
    CreateDatabase(CreateDatabase),
    /// `DROP DATABASE`
    DropDatabase {
        /// Its name.
        database: DatabaseName,
        /// Whether its absence is fine.
        if_exists: bool,
        /// Whether its tables go with it.
        cascade: bool,
    },
    /// `CREATE TABLE`
    CreateTable(CreateTable),
    /// `CREATE VIEW`
    CreateView(CreateView),
    /// `CREATE MATERIALIZED VIEW`
    CreateMaterializedView(CreateMaterializedView),
    /// `REFRESH MATERIALIZED VIEW`, `ALTER MATERIALIZED VIEW ... REBUILD`
    Refresh(RefreshView),
    /// `DROP TABLE`, `DROP VIEW`, `DROP MATERIALIZED VIEW`
    Drop {
        /// Its name.
        table: TableName,
        /// Whether its absence is fine.
        if_exists: bool,
        /// What it was called.
        noun: Noun,
    },
    /// `ALTER TABLE`, `ALTER VIEW`, `ALTER MATERIALIZED VIEW`
    Alter {
        /// Its name.
        table: TableName,
        /// What it was called.
        noun: Noun,
        /// What changes.
        alteration: Alteration,
    },
    /// `MSCK REPAIR TABLE`, `ALTER TABLE t RECOVER PARTITIONS`
    Repair {
        /// The table.
        table: TableName,
        /// Which differences count.
        mode: RepairMode,
    },
    /// `ANALYZE TABLE`, `ANALYZE`
    Analyze(Analyze),
    /// `CALL system.crawl(...)`
    Crawl(Crawl),
    /// `CALL system.new_files('t', 'job')`
    NewFiles {
        /// The table.
        table: TableName,
        /// Who has read it.
        job: String,
    },
    /// `CALL system.advance('t', 'job', 7)`
    Advance {
        /// The table.
        table: TableName,
        /// Who has read it.
        job: String,
        /// Up to which version; none for the newest, 0 for not at all.
        version: Option<i64>,
    },
    /// `TRUNCATE TABLE`
    Truncate {
        /// The table.
        table: TableName,
        /// Which partitions: all must hold.
        conditions: Vec<Condition>,
    },
}

/// What a statement calls the thing that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    /// `TABLE`
    Table,
    /// `VIEW`
    View,
    /// `MATERIALIZED VIEW`
    MaterializedView,
}

impl Noun {
    /// What a thing of this kind is called.
    pub fn of(kind: TableKind) -> Self {
        match kind {
            TableKind::External | TableKind::Managed => Self::Table,
            TableKind::View => Self::View,
            TableKind::MaterializedView => Self::MaterializedView,
        }
    }

    /// In lower case, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
        }
    }
}

/// `CALL system.vacuum(table => 'db.t', older_than => INTERVAL '1' DAY, dry_run => true)`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vacuum {
    /// The table; all if absent.
    pub table: Option<TableName>,
    /// What nobody has needed since then goes; by default the server says.
    pub older_than: Option<Age>,
    /// Whether it only says what would go.
    pub dry_run: bool,
}

/// `CALL system.kill_query('id', message => 'why')`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KillQuery {
    /// The query's id, as written.
    pub query_id: String,
    /// What whoever waits for it is told; may be empty.
    pub message: String,
}

/// `CALL system.crawl('location', database => 'd', table_prefix => 'p_', dry_run => true)`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crawl {
    /// Where tables are looked for, as written.
    pub location: String,
    /// Where they are registered; the current database if absent.
    pub database: Option<String>,
    /// What names of new tables begin with.
    pub table_prefix: String,
    /// Whether it only says what it would do.
    pub dry_run: bool,
}

/// A time in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// So many milliseconds ago.
    Ago(i64),
    /// Milliseconds since 1970.
    At(i64),
}

/// `ANALYZE TABLE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analyze {
    /// The table.
    pub table: TableName,
    /// Which partitions: keys with their values, or of any value; none for all partitions.
    pub partition: Vec<(String, Option<PartitionValue>)>,
    /// What is looked at.
    pub scope: AnalyzeScope,
}

/// What `ANALYZE` looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnalyzeScope {
    /// Rows and bytes, which the catalog has from the files' footers: `NOSCAN`.
    Size,
    /// The values of all columns.
    AllColumns,
    /// The values of these columns, in lower case.
    Columns(Vec<String>),
}

/// What an `ALTER` changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Alteration {
    /// `ADD PARTITION`
    AddPartitions {
        /// Whether partitions that exist are left alone instead of being an error.
        if_not_exists: bool,
        /// The partitions.
        partitions: Vec<NewPartitionSpec>,
    },
    /// `DROP PARTITION`; partitions that satisfy all conditions of any list go.
    DropPartitions {
        /// Whether a list that no partition satisfies is fine.
        if_exists: bool,
        /// One list per `PARTITION (...)`.
        specs: Vec<Vec<Condition>>,
    },
    /// `PARTITION (...) SET LOCATION`
    SetPartitionLocation {
        /// Which partition.
        values: PartitionValues,
        /// Where its files lie from now on, as written.
        location: String,
    },
    /// `PARTITION (...) RENAME TO PARTITION (...)`
    RenamePartition {
        /// Which partition.
        from: PartitionValues,
        /// Its new values.
        to: PartitionValues,
    },
    /// `RENAME TO`
    Rename(TableName),
    /// `ADD COLUMNS`
    AddColumns(Vec<Column>),
    /// `CHANGE COLUMN`, `ALTER COLUMN`, `RENAME COLUMN`, `COMMENT ON COLUMN`
    ChangeColumn(ColumnChange),
    /// `COMMENT ON TABLE`, `COMMENT ON VIEW`; `NULL` takes the comment away.
    Comment(Option<String>),
    /// `SET TBLPROPERTIES`
    SetProperties(BTreeMap<String, String>),
    /// `UNSET TBLPROPERTIES`
    UnsetProperties {
        /// Names of the properties.
        names: Vec<String>,
        /// Whether an absent one is fine.
        if_exists: bool,
    },
    /// `SET LOCATION`
    SetLocation(String),
    /// `ALTER VIEW ... AS`
    Query {
        /// The query as written.
        query: String,
        /// In whose SQL.
        dialect: Dialect,
    },
}

/// What becomes of a column. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnChange {
    /// Its lower-case name.
    pub column: String,
    /// Its new one.
    pub name: Option<String>,
    /// Its new type.
    pub data_type: Option<DataType>,
    /// Its new comment; `Some(None)` takes it away.
    pub comment: Option<Option<String>>,
}

/// Which differences between the directory and the catalog `MSCK` mends. Files inside known partitions are brought up to date in
/// every mode: Hive, which lists at query time, needs no statement for those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairMode {
    /// Directories without a partition.
    Add,
    /// Partitions without a directory.
    Drop,
    /// Both.
    Sync,
}

/// A database, perhaps with its catalog. Names are lower-case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseName {
    /// Catalog, if said.
    pub catalog: Option<String>,
    /// The database.
    pub name: String,
}

/// A table or view, perhaps with its database and catalog. Names are lower-case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    /// Catalog, if said.
    pub catalog: Option<String>,
    /// Database, if said.
    pub database: Option<String>,
    /// The table.
    pub name: String,
}

/// A column as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Lower-case name.
    pub name: String,
    /// Its type.
    pub data_type: DataType,
    /// What the user said about it.
    pub comment: Option<String>,
}

impl Column {
    /// The column as a nullable Arrow field whose metadata holds the comment.
    pub fn to_field(&self) -> Field {
        let field = Field::new(&self.name, self.data_type.clone(), true);
        match &self.comment {
            Some(comment) => field.with_metadata([("comment".to_owned(), comment.clone())].into()),
            None => field,
        }
    }

    /// The column that an Arrow field stands for.
    pub fn from_field(field: &Field) -> Self {
        Self { name: field.name().clone(), data_type: field.data_type().clone(), comment: field.metadata().get("comment").cloned() }
    }
}

/// The schema of some columns.
pub fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(Column::to_field).collect::<Vec<_>>()))
}

/// A partition key as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Lower-case name.
    pub name: String,
    /// Its type; none if only the name was given and no column has it: then the directories tell.
    pub key_type: Option<KeyType>,
    /// What the user said about it.
    pub comment: Option<String>,
}

/// `CREATE TABLE`
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    /// Its name.
    pub table: TableName,
    /// Whether a table of that name is replaced.
    pub or_replace: bool,
    /// Whether its presence is fine.
    pub if_not_exists: bool,
    /// Whether `EXTERNAL` was said.
    pub external: bool,
    /// Columns without partition keys; none if the files tell.
    pub columns: Option<Vec<Column>>,
    /// Partition keys; none if `PARTITIONED BY` was not said.
    pub keys: Option<Vec<Key>>,
    /// Whether the keys were named but their types left to the columns or the directories (DataFusion, Spark), not typed (Hive).
    pub keys_by_name: bool,
    /// What the user said about it.
    pub comment: Option<String>,
    /// Where its files lie, as written.
    pub location: Option<String>,
    /// `TBLPROPERTIES` and `OPTIONS`.
    pub properties: BTreeMap<String, String>,
    /// `STORED AS` and `ROW FORMAT`.
    pub storage: Storage,
    /// The query whose rows it gets, as written.
    pub query: Option<String>,
    /// Tables that it is like.
    pub like: Vec<Like>,
}

/// `LIKE s` in `CREATE TABLE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Like {
    /// The table or view whose columns are taken.
    pub table: TableName,
    /// How many of the declared columns come before them.
    pub after: usize,
    /// Whether keys, format and properties are taken, too: as Hive and Spark do, and Presto with `INCLUDING PROPERTIES`.
    pub whole: bool,
}

impl CreateTable {
    /// The statement that says nothing but a name.
    pub fn named(table: TableName) -> Self {
        Self {
            table,
            or_replace: false,
            if_not_exists: false,
            external: false,
            columns: None,
            keys: None,
            keys_by_name: false,
            comment: None,
            location: None,
            properties: BTreeMap::new(),
            storage: Storage::default(),
            query: None,
            like: Vec::new(),
        }
    }

    /// The statement that recreates a table, though not the partitions that lie outside of its location.
    pub fn of(table: &TableMeta) -> Self {
        let keys = table.keys.iter().map(|key| Key { name: key.name.clone(), key_type: Some(key.key_type), comment: key.comment.clone() });
        // A Delta table's log says its columns, and may say others tomorrow.
        let is_declared = !table.is_delta();
        let keys: Vec<_> = keys.filter(|_| is_declared).collect();
        Self {
            table: TableName::of(table),
            or_replace: false,
            if_not_exists: false,
            external: table.kind == TableKind::External,
            columns: is_declared.then(|| table.schema.fields().iter().map(|field| Column::from_field(field)).collect()),
            keys: (!keys.is_empty()).then_some(keys),
            keys_by_name: false,
            comment: table.comment.clone(),
            location: (table.kind == TableKind::External).then(|| table.location.clone()),
            properties: table.properties.clone(),
            storage: table.storage.clone(),
            query: None,
            like: Vec::new(),
        }
    }
}

/// `CREATE VIEW`
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    /// Its name.
    pub view: TableName,
    /// Whether it lives as long as its session.
    pub temporary: bool,
    /// Whether a view of that name is replaced.
    pub or_replace: bool,
    /// Whether its presence is fine.
    pub if_not_exists: bool,
    /// Names for the query's columns; empty for its own.
    pub columns: Vec<ViewColumn>,
    /// What the user said about it.
    pub comment: Option<String>,
    /// `TBLPROPERTIES`.
    pub properties: BTreeMap<String, String>,
    /// The query as written.
    pub query: String,
    /// In whose SQL.
    pub dialect: Dialect,
}

/// A column of a view, as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewColumn {
    /// Lower-case name.
    pub name: String,
    /// What the user said about it.
    pub comment: Option<String>,
}

impl CreateView {
    /// The statement that recreates a view; columns are listed only if there is a comment to keep.
    pub fn of(table: &TableMeta) -> Option<Self> {
        let view = table.view.as_ref()?;
        let columns = table.schema.fields().iter().map(|field| Column::from_field(field));
        let columns: Vec<_> = columns.map(|Column { name, comment, .. }| ViewColumn { name, comment }).collect();
        Some(Self {
            view: TableName::of(table),
            temporary: false,
            or_replace: false,
            if_not_exists: false,
            columns: if columns.iter().any(|column| column.comment.is_some()) { columns } else { Vec::new() },
            comment: table.comment.clone(),
            properties: table.properties.clone(),
            query: view.sql.clone(),
            dialect: view.dialect,
        })
    }
}

/// `CREATE MATERIALIZED VIEW`
#[derive(Debug, Clone, PartialEq)]
pub struct CreateMaterializedView {
    /// What it says as every view does.
    pub view: CreateView,
    /// Columns that its files are partitioned by, in lower case.
    pub keys: Vec<String>,
}

impl CreateMaterializedView {
    /// The statement that recreates a materialized view, whose query gives these columns; they are listed only if there is a comment to keep.
    pub fn of(table: &TableMeta, columns: &[String]) -> Option<Self> {
        let full = table.full_schema();
        let comment = |name: &String| full.field_with_name(name).ok().and_then(|field| Column::from_field(field).comment);
        let columns = columns.iter().map(|name| ViewColumn { name: name.clone(), comment: comment(name) });
        let columns: Vec<_> = columns.collect();
        let view = CreateView {
            columns: if columns.iter().any(|column| column.comment.is_some()) { columns } else { Vec::new() },
            ..CreateView::of(table)?
        };
        Some(Self { view, keys: table.keys.iter().map(|key| key.name.clone()).collect() })
    }
}

/// `REFRESH MATERIALIZED VIEW`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshView {
    /// The view.
    pub view: TableName,
    /// Whether everything is computed again, whatever has changed.
    pub full: bool,
}

/// `CREATE DATABASE`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateDatabase {
    /// Its name.
    pub database: DatabaseName,
    /// Whether its presence is fine.
    pub if_not_exists: bool,
    /// What the user said about it.
    pub comment: Option<String>,
    /// Where its managed tables go, as written.
    pub location: Option<String>,
}

/// Value of a partition key as text; `None` is NULL. The key's type reads it.
pub type PartitionValue = Option<String>;

/// Names and values of keys, in any order.
pub type PartitionValues = Vec<(String, PartitionValue)>;

/// One partition of `ADD PARTITION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPartitionSpec {
    /// Key names and values, in any order.
    pub values: PartitionValues,
    /// Where its files lie, as written; by default a directory of the table.
    pub location: Option<String>,
}

/// One comparison in `PARTITION (...)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Lower-case key name.
    pub key: String,
    /// `key` op `value`.
    pub comparison: Comparison,
    /// The value; `= NULL` is true of NULL keys here, as in Spark.
    pub value: PartitionValue,
}

impl TableName {
    /// The full name of a table.
    pub fn of(table: &TableMeta) -> Self {
        Self { catalog: Some(CATALOG.to_owned()), database: Some(table.database.clone()), name: table.name.clone() }
    }
}
