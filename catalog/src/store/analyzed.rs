//! What ANALYZE found, per partition.

use std::collections::{BTreeSet, HashMap};

use prost::Message;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::contents::{decode_statistics, encode_statistics, files};
use super::decoded::DecodedStatistics;
use super::{failed, to_json};
use crate::catalog::{AnalyzedPartition, DataFile, FilesDigest, TableMeta};
use crate::error::Result;

/// Partitions of one scan whose sketches are read; what the others hold is estimated from these.
const PARTITIONS_READ_MAX: usize = 64;
/// Sketches read for one scan, each at most two kilobytes: of a table with many columns fewer partitions are read, but four.
const SKETCHES_READ_MAX: usize = 512;

/// Sketches by column of the table, as they are kept.
#[derive(Clone, PartialEq, Message)]
struct Sketches {
    #[prost(bytes = "vec", repeated, tag = "1")]
    columns: Vec<Vec<u8>>,
}

/// Keeps what was found in partitions whose files still are those of the digest; returns how many that are.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    decoded: &DecodedStatistics,
    table: &TableMeta,
    found: Vec<(AnalyzedPartition, FilesDigest)>,
) -> Result<u64> {
    let ids: Vec<i64> = found.iter().map(|(partition, _)| partition.partition_id).collect();
    let mut now = HashMap::<i64, Vec<DataFile>>::new();
    for file in files(connection, decoded, table, &ids).await? {
        now.entry(file.partition_id).or_default().push(file);
    }
    let mut known: HashMap<i64, AnalyzedPartition> =
        read(connection, table, &ids).await?.into_iter().map(|known| (known.partition_id, known)).collect();
    let mut kept = 0;
    for (mut partition, digest) in found {
        let id = partition.partition_id;
        if now.get(&id).is_none_or(|files| FilesDigest::of(files) != digest) {
            continue;
        }
        if let Some(known) = known.remove(&id) {
            partition.keep_other_columns(known);
        }
        let insert = sqlx::query("INSERT OR REPLACE INTO analyzed_partitions (partition_id, statistics, sketches) VALUES (?1, ?2, ?3)");
        let sketches = Sketches { columns: partition.sketches }.encode_to_vec();
        let insert = insert.bind(id).bind(encode_statistics(&partition.statistics)).bind(sketches);
        insert.execute(&mut *connection).await.map_err(failed("write statistics"))?;
        kept += 1;
    }
    Ok(kept)
}

/// Forgets what was found in partitions: their files change.
pub(super) async fn forget(connection: &mut SqliteConnection, partition_ids: &BTreeSet<i64>) -> Result<()> {
    let delete = sqlx::query("DELETE FROM analyzed_partitions WHERE partition_id IN (SELECT value FROM json_each(?1))");
    delete.bind(to_json(partition_ids)?).execute(connection).await.map_err(failed("remove statistics"))?;
    Ok(())
}

/// What was found in some of the given partitions, evenly spread over those of which something is known, in the order given.
pub(super) async fn sample(connection: &mut SqliteConnection, table: &TableMeta, partition_ids: &[i64]) -> Result<Vec<AnalyzedPartition>> {
    let query = sqlx::query_scalar(
        "SELECT ids.value FROM json_each(?1) AS ids JOIN analyzed_partitions AS a ON a.partition_id = ids.value ORDER BY ids.key",
    );
    let known: Vec<i64> = query.bind(to_json(partition_ids)?).fetch_all(&mut *connection).await.map_err(failed("look up statistics"))?;
    let limit = (SKETCHES_READ_MAX / table.schema.fields().len().max(1)).clamp(4, PARTITIONS_READ_MAX);
    let count = limit.min(known.len());
    let chosen: Vec<i64> = (0..count).map(|place| known[place * known.len() / count]).collect();
    if chosen.is_empty() { Ok(Vec::new()) } else { read(connection, table, &chosen).await }
}

async fn read(connection: &mut SqliteConnection, table: &TableMeta, partition_ids: &[i64]) -> Result<Vec<AnalyzedPartition>> {
    let query = sqlx::query(
        "SELECT a.partition_id, a.statistics, a.sketches FROM json_each(?1) AS ids
         JOIN analyzed_partitions AS a ON a.partition_id = ids.value ORDER BY ids.key",
    );
    let rows = query.bind(to_json(partition_ids)?).fetch_all(connection).await.map_err(failed("read statistics"))?;
    rows.iter().filter_map(|row| decode(row, table.schema.fields().len()).transpose()).collect()
}

/// `None` for bytes that cannot be read, say of another version: they are no statistics.
fn decode(row: &SqliteRow, columns: usize) -> Result<Option<AnalyzedPartition>> {
    let read = || Ok((row.try_get::<i64, _>(0)?, row.try_get::<&[u8], _>(1)?, row.try_get::<&[u8], _>(2)?));
    let (partition_id, statistics, sketches) = read().map_err(failed("read statistics"))?;
    let decoded = decode_statistics(statistics, columns).zip(Sketches::decode(sketches).ok());
    Ok(decoded.map(|(statistics, Sketches { columns: mut sketches })| {
        sketches.resize_with(columns, Vec::new);
        AnalyzedPartition { partition_id, statistics, sketches }
    }))
}
