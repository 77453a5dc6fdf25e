//! Changes of what tables hold: who writes, what a write leaves and replaces, and what the history says of it.
//!
//! A query that writes says so first ([`Catalog::begin_write`](crate::Catalog::begin_write)), puts files under unique names, and hands
//! them over in one transaction ([`Catalog::commit_write`](crate::Catalog::commit_write)). Until then nobody sees them; if it never comes
//! that far, they are garbage.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use datafusion::common::ScalarValue;

use crate::catalog::{NewFile, NewPartition, PartitionKey, TableMeta};
use crate::error::Result;
use crate::keys::{canonical, partition_name};
use crate::predicate::KeyPredicate;

/// What makes a change, for the history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// The statement's words, such as `INSERT`.
    pub operation: String,
    /// Who ran it; empty if nobody did.
    pub user: String,
    /// The query that did it.
    pub query_id: Option<String>,
}

impl Cause {
    /// The same statement, doing something else.
    #[must_use]
    pub fn doing(&self, operation: &str) -> Self {
        Self { operation: operation.to_owned(), ..self.clone() }
    }
}

impl From<&str> for Cause {
    fn from(operation: &str) -> Self {
        Self { operation: operation.to_owned(), ..Self::default() }
    }
}

/// A query that is about to write files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteIntent {
    /// The query. Names of its files must hold its id: that is how they are found after a crash.
    pub query_id: String,
    /// URL with a trailing slash under which it writes.
    pub location: String,
    /// The table it writes to, unless it makes a new one.
    pub table_id: Option<i64>,
}

/// A write that has ended, and may have left files that no table lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedWrite {
    /// Who wrote where.
    pub intent: WriteIntent,
    /// Whether it was committed; given up otherwise.
    pub committed: bool,
    /// When: milliseconds since 1970.
    pub ended_ms: i64,
}

/// A file that a query wrote, and the partition it belongs to.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenFile {
    /// One value per key, typed as the key.
    pub values: Vec<ScalarValue>,
    /// URL with a trailing slash; used if the partition is new.
    pub partition_location: String,
    /// The file.
    pub file: NewFile,
}

/// What a write replaces.
#[derive(Debug, Clone, PartialEq)]
pub enum Replaces {
    /// Nothing: files are added to whatever the table holds by then.
    Nothing,
    /// The files of the partitions that it has files for, whatever they are by then.
    TouchedPartitions,
    /// The files of the partitions that the predicate keeps, whatever they are by then. A partition that gets no new ones goes.
    Partitions(KeyPredicate),
    /// All files, whatever they are by then. A partition that gets no new ones goes.
    Table,
    /// These files, which it has read. `Conflict` if one is gone, or if one of their partitions got files since.
    Files {
        /// Version of the table that was read.
        read_version: i64,
        /// Partition id and URL.
        files: Vec<(i64, String)>,
    },
    /// Partitions of the table whose rows those of the write were made of. `Conflict` if one of them has got or lost files since, which would
    /// go with the others, or come back.
    AsRead {
        /// Version of the table that was read.
        read_version: i64,
        /// Which.
        partitions: Box<Replaces>,
    },
}

/// What a query changes in a table.
#[derive(Debug, Clone)]
pub struct Write {
    /// The query. A second commit under the same id changes nothing.
    pub query_id: String,
    /// The statement's words: `INSERT`, `INSERT OVERWRITE`, `DELETE`, ...
    pub operation: String,
    /// Who ran it.
    pub user: String,
    /// What goes.
    pub replaces: Replaces,
    /// What comes.
    pub files: Vec<WrittenFile>,
    /// What the rows of a materialized view were made of. Such a write is the only one since `table` was read, or a `Conflict`.
    pub refresh: Option<Refresh>,
    /// Jobs that have read tables on for it, and are moved with it.
    pub advances: Vec<Advance>,
    /// Writes to other tables that are committed with it.
    pub beside: Vec<(Arc<TableMeta>, Write)>,
}

/// How far a job has read a table in a query that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The table.
    pub table_id: i64,
    /// What it is called, with its database.
    pub table: String,
    /// The job.
    pub job: String,
    /// Where it was when the query read it; `Advanced` if it is elsewhere by then.
    pub from: Option<i64>,
    /// Where it is then.
    pub to: i64,
}

/// What the rows of a materialized view are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refresh {
    /// Whether the query gives the same rows as long as its tables hold the same.
    pub repeatable: bool,
    /// What it read, each table and view once.
    pub bases: Vec<BaseVersion>,
}

/// A version of a table or view that a query read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseVersion {
    /// The table or view.
    pub table_id: i64,
    /// What it was called, with its database.
    pub name: String,
    /// The version.
    pub version: i64,
}

impl Write {
    pub(crate) fn cause(&self) -> Cause {
        Cause { operation: self.operation.clone(), user: self.user.clone(), query_id: Some(self.query_id.clone()) }
    }
}

/// Files by the partitions they belong to, with the partitions' Hive names, in the order in which the partitions first appear.
pub(crate) fn by_partition(keys: &[PartitionKey], files: Vec<WrittenFile>) -> Result<Vec<(String, NewPartition)>> {
    let mut partitions = Vec::<(String, NewPartition)>::new();
    let mut places = HashMap::<String, usize>::new();
    for WrittenFile { values, partition_location, file } in files {
        let name = partition_name(keys, &values);
        let place = match places.get(&name) {
            Some(place) => *place,
            None => {
                let values = keys.iter().zip(values).map(|(key, value)| canonical(key.key_type, value)).collect::<Result<_>>()?;
                partitions.push((name.clone(), NewPartition { values, location: partition_location, files: Vec::new() }));
                places.insert(name, partitions.len() - 1);
                partitions.len() - 1
            }
        };
        partitions[place].1.files.push(file);
    }
    Ok(partitions)
}

/// A moment in the life of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Right after the change that made this version.
    Version(i64),
    /// Milliseconds since 1970.
    Time(i64),
}

/// How much came or went in a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their rows, if every file's is known.
    pub rows: Option<u64>,
}

/// One change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Lower-case database name.
    pub database: String,
    /// Lower-case table name.
    pub table: String,
    /// The version it made.
    pub version: i64,
    /// Milliseconds since 1970; never less than those of the version before.
    pub committed_ms: i64,
    /// What made it.
    pub cause: Cause,
    /// What came; none for changes of old, when this was not noted.
    pub added: Option<Amount>,
    /// What went; likewise.
    pub removed: Option<Amount>,
    /// The table's id, which no other table ever has.
    pub table_id: i64,
}

/// What nobody needs any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expired {
    /// Versions that were forgotten.
    pub versions: u64,
    /// URLs of files to delete.
    pub files: Vec<String>,
}

/// A time for messages.
pub(crate) fn format_time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).map_or_else(|| format!("{ms} ms"), |time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
