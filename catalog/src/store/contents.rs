//! What tables hold: partitions, files and the sums over them.

use std::collections::{BTreeSet, HashMap};
use std::slice;
use std::sync::Arc;

use datafusion::common::{ColumnStatistics, Statistics};
use datafusion_proto_common::protobuf_common as protobuf;
use prost::Message;
use sqlx::query_builder::Separated;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::decoded::DecodedStatistics;
use super::{analyzed, count, failed, integer, reserve_ids, to_json};
use crate::catalog::{Contents, DataFile, NewFile, NewPartition, PartitionKey, TableMeta};
use crate::error::{Error, Result};
use crate::keys::{Encoded, encode, partition_name};

/// Rows of one INSERT. With at most 16 values each they stay far below SQLite's limit of 32,766 variables.
const ROWS_PER_INSERT: usize = 200;

/// Sums over files, as the counter columns of `tables` and `partitions` hold them; also a change of such sums.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    files: i64,
    bytes: i64,
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
}

/// Makes one change of a table's contents. Removals come first, so that what goes can be replaced in the same change.
pub(super) async fn apply(connection: &mut SqliteConnection, table_id: i64, keys: &[PartitionKey], contents: Contents) -> Result<()> {
    let Contents { add_partitions, remove_partitions, add_files, remove_files } = contents;
    let mut partitions = integer(add_partitions.len() as u64);
    let mut sums = Sums::default();
    if !remove_partitions.is_empty() {
        let ids: BTreeSet<i64> = remove_partitions.into_iter().collect();
        partitions -= integer(ids.len() as u64);
        sums = sums.minus(delete_partitions(connection, table_id, &ids).await?);
    }
    if !remove_files.is_empty() || !add_files.is_empty() {
        let touched: BTreeSet<i64> = remove_files.iter().map(|(id, _)| *id).chain(add_files.iter().map(|file| file.partition_id)).collect();
        check_partitions(connection, table_id, &touched).await?;
        analyzed::forget(connection, &touched.iter().copied().collect::<Vec<_>>()).await?;
        let mut changes = delete_files(connection, &remove_files).await?;
        for DataFile { partition_id, file } in &add_files {
            let change = changes.entry(*partition_id).or_default();
            *change = change.plus(Sums::of(file.size, file.rows));
        }
        let files: Vec<_> = add_files.iter().map(|file| (file.partition_id, &file.file)).collect();
        insert_files(connection, &files).await?;
        sums = sums.plus(add_to_partitions(connection, &changes).await?);
    }
    sums = sums.plus(insert_partitions(connection, table_id, keys, &add_partitions).await?);
    let update = sqlx::query(
        "UPDATE tables SET partition_count = partition_count + ?2, file_count = file_count + ?3, byte_count = byte_count + ?4,
         row_count = row_count + ?5, uncounted_files = uncounted_files + ?6 WHERE id = ?1",
    );
    let update = update.bind(table_id).bind(partitions).bind(sums.files).bind(sums.bytes).bind(sums.rows).bind(sums.uncounted);
    update.execute(connection).await.map_err(failed("count the contents of a table"))?;
    Ok(())
}

/// Files of some partitions, ordered by partition as given, then URL.
pub(super) async fn files(
    connection: &mut SqliteConnection,
    decoded: &DecodedStatistics,
    table: &TableMeta,
    partition_ids: &[i64],
) -> Result<Vec<DataFile>> {
    let action = "read files";
    let query = sqlx::query(
        "SELECT partition_id, url, size, modified_ms, etag, row_count, statistics FROM files
         WHERE partition_id IN (SELECT value FROM json_each(?1)) ORDER BY partition_id, url",
    );
    let rows = query.bind(to_json(partition_ids)?).fetch_all(connection).await.map_err(failed(action))?;
    let mut files = Vec::with_capacity(rows.len());
    for row in &rows {
        let read = || Ok((decode_file(row)?, row.try_get::<Option<&[u8]>, _>(6)?.map(Arc::from)));
        let (mut file, statistics) = read().map_err(failed("read a file"))?;
        if let Some(statistics) = statistics {
            file.file.statistics = decoded.get(statistics, table.schema.fields().len()).await;
        }
        files.push(file);
    }
    let places: HashMap<i64, usize> = partition_ids.iter().zip(0..).map(|(id, place)| (*id, place)).collect();
    // Stable, so that the order by URL stays.
    files.sort_by_key(|file| places.get(&file.partition_id).copied());
    Ok(files)
}

/// Deletes partitions with their files; returns the sums over what went.
async fn delete_partitions(connection: &mut SqliteConnection, table_id: i64, ids: &BTreeSet<i64>) -> Result<Sums> {
    let delete = sqlx::query_as::<_, (i64, i64, i64, i64)>(
        "DELETE FROM partitions WHERE table_id = ?1 AND id IN (SELECT value FROM json_each(?2))
         RETURNING file_count, byte_count, row_count, uncounted_files",
    );
    let deleted = delete.bind(table_id).bind(to_json(ids)?).fetch_all(connection).await.map_err(failed("remove partitions"))?;
    if deleted.len() != ids.len() {
        return Err(vanished(ids.len() - deleted.len()));
    }
    let sums = deleted.into_iter().map(|(files, bytes, rows, uncounted)| Sums { files, bytes, rows, uncounted });
    Ok(sums.fold(Sums::default(), Sums::plus))
}

async fn check_partitions(connection: &mut SqliteConnection, table_id: i64, ids: &BTreeSet<i64>) -> Result<()> {
    let found =
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM partitions WHERE table_id = ?1 AND id IN (SELECT value FROM json_each(?2))");
    let found = found.bind(table_id).bind(to_json(ids)?).fetch_one(connection).await.map_err(failed("look up partitions"))?;
    match ids.len() - usize::try_from(found).unwrap_or_default() {
        0 => Ok(()),
        missing => Err(vanished(missing)),
    }
}

/// The table's version was checked, so ids that are not there are a caller's mistake.
fn vanished(missing: usize) -> Error {
    Error::Internal(format!("a change names {missing} partitions that the table does not have"))
}

/// Deletes files; returns what to add to the sums of their partitions.
async fn delete_files(connection: &mut SqliteConnection, files: &[(i64, String)]) -> Result<HashMap<i64, Sums>> {
    let mut changes = HashMap::<i64, Sums>::new();
    for (partition_id, url) in files {
        let delete =
            sqlx::query_as::<_, (i64, Option<i64>)>("DELETE FROM files WHERE partition_id = ?1 AND url = ?2 RETURNING size, row_count");
        let deleted = delete.bind(partition_id).bind(url).fetch_optional(&mut *connection).await.map_err(failed("remove files"))?;
        let (size, rows) = deleted.ok_or_else(|| Error::NotFound { what: "file", name: url.clone() })?;
        let change = changes.entry(*partition_id).or_default();
        *change = change.minus(Sums::of(count(size), rows.map(count)));
    }
    Ok(changes)
}

/// Adds to the counters of partitions; returns the sum of all changes.
async fn add_to_partitions(connection: &mut SqliteConnection, changes: &HashMap<i64, Sums>) -> Result<Sums> {
    for (id, change) in changes {
        let update = sqlx::query(
            "UPDATE partitions SET file_count = file_count + ?2, byte_count = byte_count + ?3, row_count = row_count + ?4,
             uncounted_files = uncounted_files + ?5 WHERE id = ?1",
        );
        let update = update.bind(id).bind(change.files).bind(change.bytes).bind(change.rows).bind(change.uncounted);
        update.execute(&mut *connection).await.map_err(failed("count the files of a partition"))?;
    }
    Ok(changes.values().copied().fold(Sums::default(), Sums::plus))
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
async fn insert_partitions(
    connection: &mut SqliteConnection,
    table_id: i64,
    keys: &[PartitionKey],
    partitions: &[NewPartition],
) -> Result<Sums> {
    let columns: String = (0..keys.len()).map(|position| format!(", k{position}")).collect();
    let insert =
        format!("INSERT INTO partitions (id, table_id, name, location, file_count, byte_count, row_count, uncounted_files{columns}) ");
    let bind = |values: &mut Separated<'_, Sqlite, &'static str>, row: &PartitionRow| {
        values.push_bind(row.id).push_bind(table_id).push_bind(row.name.clone()).push_bind(row.location.clone());
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
        insert_files(connection, &files).await?;
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

async fn insert_files(connection: &mut SqliteConnection, files: &[(i64, &NewFile)]) -> Result<()> {
    let insert = "INSERT INTO files (partition_id, url, size, modified_ms, etag, row_count, statistics) ";
    let bind = |values: &mut Separated<'_, Sqlite, &'static str>, (partition_id, file): &(i64, &NewFile)| {
        values.push_bind(*partition_id).push_bind(file.url.clone()).push_bind(integer(file.size)).push_bind(file.modified_ms);
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
