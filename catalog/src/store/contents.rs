//! What tables hold: partitions, files and the sums over them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::slice;
use std::sync::Arc;

use datafusion::common::{ColumnStatistics, Statistics};
use datafusion_proto_common::protobuf_common as protobuf;
use prost::Message;
use sqlx::query_builder::Separated;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row, Sqlite, SqliteConnection};

use super::decoded::DecodedStatistics;
use super::{analyzed, count, failed, garbage, integer, reserve_ids, to_json};
use crate::catalog::{Contents, DataFile, NewFile, NewPartition, PartitionKey, TableMeta};
use crate::error::{Error, Result};
use crate::keys::{Encoded, encode, partition_name};

/// Rows of one INSERT. With at most 17 values each they stay far below SQLite's limit of 32,766 variables.
const ROWS_PER_INSERT: usize = 200;

/// Sums over files, as the counter columns of `tables` and `partitions` hold them; also a change of such sums.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pub(super) files: i64,
    pub(super) bytes: i64,
    rows: i64,
    uncounted: i64,
}

impl Sums {
    fn of(size: u64, rows: Option<u64>) -> Self {
        Self { files: 1, bytes: integer(size), rows: rows.map_or(0, integer), uncounted: rows.is_none().into() }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
            rows: self.rows + other.rows,
            uncounted: self.uncounted + other.uncounted,
        }
    }

    fn minus(self, other: Self) -> Self {
        self.plus(Self { files: -other.files, bytes: -other.bytes, rows: -other.rows, uncounted: -other.uncounted })
    }

    /// Rows, if every file's are known.
    pub(super) fn known_rows(self) -> Option<i64> {
        (self.uncounted == 0).then_some(self.rows)
    }
}

/// Where a change of contents goes.
pub(super) struct Target<'a> {
    pub(super) table_id: i64,
    pub(super) keys: &'a [PartitionKey],
    /// The version that the change makes.
    pub(super) version: i64,
    /// When, in milliseconds since 1970.
    pub(super) committed_ms: i64,
    /// Whether files that go are ours to delete.
    pub(super) owns_files: bool,
}

/// What came and went in a change.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changes {
    pub(super) added: Sums,
    pub(super) removed: Sums,
}

/// Makes one change of a table's contents. Removals come first, so that what goes can be replaced in the same change.
pub(super) async fn apply(connection: &mut SqliteConnection, target: &Target<'_>, contents: Contents) -> Result<Changes> {
    let Contents { add_partitions, remove_partitions, empty_partitions, add_files, remove_files } = contents;
    let removed_ids: BTreeSet<i64> = remove_partitions.into_iter().collect();
    let emptied_ids: BTreeSet<i64> = empty_partitions.into_iter().collect();
    let changed_ids: BTreeSet<i64> = remove_files.iter().map(|(id, _)| *id).chain(add_files.iter().map(|file| file.partition_id)).collect();
    let touched: BTreeSet<i64> = removed_ids.iter().chain(&emptied_ids).chain(&changed_ids).copied().collect();
    let known = partition_sums(connection, target.table_id, &touched).await?;
    let sum = |ids: &BTreeSet<i64>| ids.iter().map(|id| known[id]).fold(Sums::default(), Sums::plus);

    // What to add to the counters of partitions that stay.
    let mut changes = HashMap::<i64, Sums>::new();
    let mut removed = sum(&removed_ids).plus(sum(&emptied_ids));
    if !touched.is_empty() {
        analyzed::forget(connection, &touched).await?;
    }
    if !removed_ids.is_empty() {
        let update = sqlx::query("UPDATE partitions SET removed = ?2 WHERE id IN (SELECT value FROM json_each(?1))");
        let update = update.bind(to_json(&removed_ids)?).bind(target.version);
        update.execute(&mut *connection).await.map_err(failed("remove partitions"))?;
    }
    if !removed_ids.is_empty() || !emptied_ids.is_empty() {
        changes.extend(emptied_ids.iter().map(|id| (*id, Sums::default().minus(known[id]))));
        remove_files_of(connection, target, &removed_ids.union(&emptied_ids).copied().collect()).await?;
    }
    if !remove_files.is_empty() {
        for (id, sums) in remove_single_files(connection, target, &remove_files).await? {
            removed = removed.plus(sums);
            let change = changes.entry(id).or_default();
            *change = change.minus(sums);
        }
    }
    let mut added = insert_partitions(connection, target, &add_partitions).await?;
    for DataFile { partition_id, file } in &add_files {
        let sums = Sums::of(file.size, file.rows);
        added = added.plus(sums);
        let change = changes.entry(*partition_id).or_default();
        *change = change.plus(sums);
    }
    let files: Vec<_> = add_files.iter().map(|file| (file.partition_id, &file.file)).collect();
    insert_files(connection, target.version, &files).await?;
    add_to_partitions(connection, &changes).await?;
    let files_went = !(removed_ids.is_empty() && emptied_ids.is_empty() && remove_files.is_empty());
    if target.owns_files && files_went {
        // What went from one place and came to another is no garbage.
        let here = add_partitions.iter().flat_map(|partition| &partition.files).chain(add_files.iter().map(|file| &file.file));
        garbage::forget(connection, &here.map(|file| file.url.as_str()).collect::<Vec<_>>()).await?;
    }

    let partitions = integer(add_partitions.len() as u64) - integer(removed_ids.len() as u64);
    let sums = added.minus(removed);
    let update = sqlx::query(
        "UPDATE tables SET partition_count = partition_count + ?2, file_count = file_count + ?3, byte_count = byte_count + ?4,
         row_count = row_count + ?5, uncounted_files = uncounted_files + ?6 WHERE id = ?1",
    );
    let update = update.bind(target.table_id).bind(partitions).bind(sums.files).bind(sums.bytes).bind(sums.rows).bind(sums.uncounted);
    update.execute(connection).await.map_err(failed("count the contents of a table"))?;
    Ok(Changes { added, removed })
}

/// Files of some partitions, ordered by partition as given, then URL.
pub(super) async fn files(
    connection: &mut SqliteConnection,
    decoded: &DecodedStatistics,
    table: &TableMeta,
    partition_ids: &[i64],
) -> Result<Vec<DataFile>> {
    let action = "read files";
    let held = match table.as_of {
        None => "removed = 0",
        Some(_) => "added <= ?2 AND (removed = 0 OR removed > ?2)",
    };
    let query = sqlx::query(AssertSqlSafe(format!(
        "SELECT partition_id, url, size, modified_ms, etag, row_count, statistics FROM files
         WHERE partition_id IN (SELECT value FROM json_each(?1)) AND {held} ORDER BY partition_id, url"
    )));
    let rows = query.bind(to_json(partition_ids)?).bind(table.as_of).fetch_all(connection).await.map_err(failed(action))?;
    let mut files = decode_files(&rows, decoded, table).await?;
    let places: HashMap<i64, usize> = partition_ids.iter().zip(0..).map(|(id, place)| (*id, place)).collect();
    // Stable, so that the order by URL stays.
    files.sort_by_key(|file| places.get(&file.partition_id).copied());
    Ok(files)
}

/// Files that came after a version, but for those that came in `rewrites`, and that are there or went in one of these; ordered by
/// partition, then URL.
pub(super) async fn files_since(
    connection: &mut SqliteConnection,
    decoded: &DecodedStatistics,
    table: &TableMeta,
    version: i64,
    rewrites: &[i64],
) -> Result<Vec<DataFile>> {
    let query = sqlx::query(
        "SELECT f.partition_id, f.url, f.size, f.modified_ms, f.etag, f.row_count, f.statistics FROM partitions AS p
         CROSS JOIN files AS f INDEXED BY files_by_version ON f.partition_id = p.id
         WHERE p.table_id = ?1 AND f.added > ?2 AND f.added NOT IN (SELECT value FROM json_each(?3))
         AND (f.removed = 0 OR f.removed IN (SELECT value FROM json_each(?3))) ORDER BY f.partition_id, f.url",
    );
    let rows = query.bind(table.id).bind(version).bind(to_json(rewrites)?).fetch_all(connection).await.map_err(failed("read files"))?;
    decode_files(&rows, decoded, table).await
}

async fn decode_files(rows: &[SqliteRow], decoded: &DecodedStatistics, table: &TableMeta) -> Result<Vec<DataFile>> {
    let mut files = Vec::with_capacity(rows.len());
    for row in rows {
        let read = || Ok((decode_file(row)?, row.try_get::<Option<&[u8]>, _>(6)?.map(Arc::from)));
        let (mut file, statistics) = read().map_err(failed("read a file"))?;
        if let Some(statistics) = statistics {
            file.file.statistics = decoded.get(statistics, table.schema.fields().len()).await;
        }
        files.push(file);
    }
    Ok(files)
}

/// Sums over the files of partitions, each of which must be there.
async fn partition_sums(connection: &mut SqliteConnection, table_id: i64, ids: &BTreeSet<i64>) -> Result<HashMap<i64, Sums>> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let select = sqlx::query_as::<_, (i64, i64, i64, i64, i64)>(
        "SELECT id, file_count, byte_count, row_count, uncounted_files FROM partitions
         WHERE id IN (SELECT value FROM json_each(?2)) AND table_id = ?1 AND removed = 0",
    );
    let found = select.bind(table_id).bind(to_json(ids)?).fetch_all(connection).await.map_err(failed("look up partitions"))?;
    match ids.len() - found.len() {
        0 => Ok(found.into_iter().map(|(id, files, bytes, rows, uncounted)| (id, Sums { files, bytes, rows, uncounted })).collect()),
        // The table's version was checked, so ids that are not there are a caller's mistake.
        missing => Err(Error::Internal(format!("a change names {missing} partitions that the table does not have"))),
    }
}

/// Takes all files out of partitions.
async fn remove_files_of(connection: &mut SqliteConnection, target: &Target<'_>, partition_ids: &BTreeSet<i64>) -> Result<()> {
    let ids = to_json(partition_ids)?;
    if target.owns_files {
        let insert = sqlx::query(
            "INSERT OR IGNORE INTO garbage (url, table_id, removed_ms) SELECT url, ?2, ?3 FROM files
             WHERE partition_id IN (SELECT value FROM json_each(?1)) AND removed = 0",
        );
        let insert = insert.bind(&ids).bind(target.table_id).bind(target.committed_ms);
        insert.execute(&mut *connection).await.map_err(failed("list garbage"))?;
    }
    let update = sqlx::query("UPDATE files SET removed = ?2 WHERE partition_id IN (SELECT value FROM json_each(?1)) AND removed = 0");
    update.bind(&ids).bind(target.version).execute(connection).await.map_err(failed("remove files"))?;
    Ok(())
}

/// Takes files out of their partitions; returns the sums over them by partition.
async fn remove_single_files(
    connection: &mut SqliteConnection,
    target: &Target<'_>,
    files: &[(i64, String)],
) -> Result<HashMap<i64, Sums>> {
    let action = "remove files";
    // CROSS JOIN, so that the files are looked up one by one.
    let update = sqlx::query_as::<_, (i64, String, i64, Option<i64>)>(
        "UPDATE files SET removed = ?2 WHERE rowid IN (
            SELECT f.rowid FROM json_each(?1) AS gone
            CROSS JOIN files AS f ON f.partition_id = gone.value ->> 0 AND f.removed = 0 AND f.url = gone.value ->> 1
         ) RETURNING partition_id, url, size, row_count",
    );
    let gone = update.bind(to_json(files)?).bind(target.version).fetch_all(&mut *connection).await.map_err(failed(action))?;
    let mut sums = HashMap::<i64, Sums>::new();
    for (partition_id, _, size, rows) in &gone {
        let sums = sums.entry(*partition_id).or_default();
        *sums = sums.plus(Sums::of(count(*size), rows.map(count)));
    }
    let gone: HashSet<(i64, &str)> = gone.iter().map(|(id, url, ..)| (*id, url.as_str())).collect();
    if let Some((_, url)) = files.iter().find(|(id, url)| !gone.contains(&(*id, url))) {
        return Err(Error::NotFound { what: "file", name: url.clone() });
    }
    if target.owns_files {
        let insert = sqlx::query("INSERT OR IGNORE INTO garbage (url, table_id, removed_ms) SELECT value ->> 1, ?2, ?3 FROM json_each(?1)");
        let insert = insert.bind(to_json(files)?).bind(target.table_id).bind(target.committed_ms);
        insert.execute(connection).await.map_err(failed("list garbage"))?;
    }
    Ok(sums)
}

/// Adds to the counters of partitions.
async fn add_to_partitions(connection: &mut SqliteConnection, changes: &HashMap<i64, Sums>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let update = sqlx::query(
        "UPDATE partitions SET file_count = file_count + c.files, byte_count = byte_count + c.bytes,
         row_count = row_count + c.counted, uncounted_files = uncounted_files + c.uncounted
         FROM (SELECT value ->> 0 AS id, value ->> 1 AS files, value ->> 2 AS bytes, value ->> 3 AS counted, value ->> 4 AS uncounted
               FROM json_each(?1)) AS c
         WHERE partitions.id = c.id",
    );
    let changes: Vec<_> = changes.iter().map(|(id, sums)| [*id, sums.files, sums.bytes, sums.rows, sums.uncounted]).collect();
    update.bind(to_json(&changes)?).execute(connection).await.map_err(failed("count the files of partitions"))?;
    Ok(())
}

/// A row of `partitions` to be.
struct PartitionRow {
    id: i64,
    name: String,
    location: String,
    sums: Sums,
    keys: Vec<Option<Encoded>>,
}

/// Inserts partitions with their files; returns the sums over the files.
async fn insert_partitions(connection: &mut SqliteConnection, target: &Target<'_>, partitions: &[NewPartition]) -> Result<Sums> {
    let &Target { table_id, keys, version, .. } = target;
    let columns: String = (0..keys.len()).map(|position| format!(", k{position}")).collect();
    let insert = format!(
        "INSERT INTO partitions (id, table_id, added, name, location, file_count, byte_count, row_count, uncounted_files{columns}) "
    );
    let bind = |values: &mut Separated<'_, Sqlite, &'static str>, row: &PartitionRow| {
        values.push_bind(row.id).push_bind(table_id).push_bind(version).push_bind(row.name.clone()).push_bind(row.location.clone());
        values.push_bind(row.sums.files).push_bind(row.sums.bytes).push_bind(row.sums.rows).push_bind(row.sums.uncounted);
        for key in &row.keys {
            match key {
                Some(Encoded::Integer(value)) => values.push_bind(*value),
                Some(Encoded::Text(value)) => values.push_bind(value.clone()),
                None => values.push_bind(None::<i64>),
            };
        }
    };
    if partitions.is_empty() {
        return Ok(Sums::default());
    }
    let mut id = reserve_ids(connection, partitions.len()).await?;
    let mut sums = Sums::default();
    for chunk in partitions.chunks(ROWS_PER_INSERT) {
        let mut rows = Vec::with_capacity(chunk.len());
        let mut files = Vec::new();
        for partition in chunk {
            let row = partition_row(id, keys, partition)?;
            sums = sums.plus(row.sums);
            rows.push(row);
            files.extend(partition.files.iter().map(|file| (id, file)));
            id += 1;
        }
        insert_rows(connection, &insert, &rows, bind, |row| Error::AlreadyExists { what: "partition", name: row.name.clone() }).await?;
        insert_files(connection, version, &files).await?;
    }
    Ok(sums)
}

fn partition_row(id: i64, keys: &[PartitionKey], partition: &NewPartition) -> Result<PartitionRow> {
    if keys.len() != partition.values.len() {
        return Err(Error::Internal(format!("a partition has {} values for {} keys", partition.values.len(), keys.len())));
    }
    Ok(PartitionRow {
        id,
        name: partition_name(keys, &partition.values),
        location: partition.location.clone(),
        sums: partition.files.iter().map(|file| Sums::of(file.size, file.rows)).fold(Sums::default(), Sums::plus),
        keys: keys.iter().zip(&partition.values).map(|(key, value)| encode(key, value)).collect::<Result<_>>()?,
    })
}

async fn insert_files(connection: &mut SqliteConnection, version: i64, files: &[(i64, &NewFile)]) -> Result<()> {
    let insert = "INSERT INTO files (partition_id, added, url, size, modified_ms, etag, row_count, statistics) ";
    let bind = |values: &mut Separated<'_, Sqlite, &'static str>, (partition_id, file): &(i64, &NewFile)| {
        values.push_bind(*partition_id).push_bind(version).push_bind(file.url.clone()).push_bind(integer(file.size));
        values.push_bind(file.modified_ms);
        values.push_bind(file.etag.clone()).push_bind(file.rows.map(integer));
        values.push_bind(file.statistics.as_deref().map(encode_statistics));
    };
    insert_rows(connection, insert, files, bind, |(_, file)| Error::AlreadyExists { what: "file", name: file.url.clone() }).await
}

/// Inserts rows, many per statement. If one breaks a unique index, `taken` makes the error for that very row.
async fn insert_rows<R: Sync>(
    connection: &mut SqliteConnection,
    insert: &str,
    rows: &[R],
    bind: impl Fn(&mut Separated<'_, Sqlite, &'static str>, &R) + Send + Sync,
    taken: impl Fn(&R) -> Error + Send + Sync,
) -> Result<()> {
    let query = |rows: &[R]| {
        let mut query = QueryBuilder::<Sqlite>::new(insert);
        query.push_values(rows, |mut values, row| bind(&mut values, row));
        query
    };
    let unique = |error: &sqlx::Error| error.as_database_error().is_some_and(|error| error.is_unique_violation());
    for chunk in rows.chunks(ROWS_PER_INSERT) {
        match query(chunk).build().execute(&mut *connection).await {
            Err(error) if unique(&error) => {}
            done => {
                done.map_err(failed("insert rows"))?;
                continue;
            }
        }
        // A failed statement leaves nothing behind, so the rows can be tried again to find the culprit.
        for row in chunk {
            let done = query(slice::from_ref(row)).build().execute(&mut *connection).await;
            done.map_err(|error| if unique(&error) { taken(row) } else { failed("insert rows")(error) })?;
        }
    }
    Ok(())
}

/// A file without its statistics.
fn decode_file(row: &SqliteRow) -> Result<DataFile, sqlx::Error> {
    let file = NewFile {
        url: row.try_get(1)?,
        size: count(row.try_get(2)?),
        modified_ms: row.try_get(3)?,
        etag: row.try_get(4)?,
        rows: row.try_get::<Option<i64>, _>(5)?.map(count),
        statistics: None,
        kept_rows: None,
    };
    Ok(DataFile { partition_id: row.try_get(0)?, file })
}

pub(super) fn encode_statistics(statistics: &Statistics) -> Vec<u8> {
    protobuf::Statistics::from(statistics).encode_to_vec()
}

/// Statistics of `columns` columns: those that were added to the table after the file was recorded are unknown. Bytes that
/// cannot be read, say of a DataFusion that wrote them differently, are no statistics.
pub(super) fn decode_statistics(bytes: &[u8], columns: usize) -> Option<Statistics> {
    let message = protobuf::Statistics::decode(bytes).ok()?;
    let mut statistics = Statistics::try_from(&message).ok()?;
    statistics.column_statistics.resize_with(columns, ColumnStatistics::new_unknown);
    Some(statistics)
}
