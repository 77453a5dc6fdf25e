//! Partitions as queries ask for them, now and at earlier versions.

use std::borrow::Cow;
use std::mem;

use datafusion::common::ScalarValue;
use futures::TryStreamExt;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::{commits, count, failed, filter, integer, qualified};
use crate::catalog::{KeyType, Partition, Residual, TableMeta, Totals};
use crate::error::{Error, Result};
use crate::keys::decode_decimal;
use crate::predicate::KeyPredicate;

/// Partitions whose keys are tested at once for what the store cannot be asked.
const RESIDUAL_BATCH: usize = 8192;

/// A table as of its newest version is the table as it is: its indexes and counters are of that one, and so is what ANALYZE found.
pub(super) async fn as_it_is<'t>(connection: &mut SqliteConnection, table: &'t TableMeta) -> Result<Cow<'t, TableMeta>> {
    let Some(wanted) = table.as_of else { return Ok(Cow::Borrowed(table)) };
    let newest = sqlx::query_scalar::<_, i64>("SELECT version FROM tables WHERE id = ?1").bind(table.id);
    let newest = newest.fetch_optional(connection).await.map_err(failed("look up a version"))?;
    Ok(match newest == Some(wanted) {
        true => Cow::Owned(TableMeta { as_of: None, ..table.clone() }),
        false => Cow::Borrowed(table),
    })
}

/// The counters of a table.
pub(super) async fn totals(connection: &mut SqliteConnection, table: &TableMeta) -> Result<Totals> {
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
pub(super) async fn list(
    connection: &mut SqliteConnection,
    table: &TableMeta,
    predicate: &KeyPredicate,
    residual: Option<Residual<'_>>,
    limit: usize,
) -> Result<(Vec<Partition>, bool)> {
    let (mut query, complete) = select(table, predicate)?;
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
pub(super) fn select(table: &TableMeta, predicate: &KeyPredicate) -> Result<(QueryBuilder<Sqlite>, bool)> {
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

pub(super) fn decode_partition(row: &SqliteRow, table: &TableMeta) -> Result<Partition> {
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
pub(super) fn decode_key(row: &SqliteRow, index: usize, key_type: KeyType) -> Result<ScalarValue> {
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
