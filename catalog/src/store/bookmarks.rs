//! How far jobs have read tables, and what is new to them.

use std::collections::HashMap;

use chrono::Utc;
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;

use super::decoded::DecodedStatistics;
use super::{contents, failed, noun, partitions, qualified, tables, to_json};
use crate::catalog::{Bookmark, DataFile, NewContents, Partition, ScanContents, TableMeta};
use crate::commit::Advance;
use crate::error::{Error, Result};
use crate::predicate::KeyPredicate;

/// Changes that write rows again which were there.
const REWRITES: [&str; 1] = ["OPTIMIZE"];
/// Changes whose files hold both rows that were there and rows that were not.
const MIXTURES: [&str; 4] = ["DELETE", "UPDATE", "MERGE", "PARTITION RENAME"];

/// Characters of a job's name.
const JOB_CHARS_MAX: usize = 200;

/// What came to a table since a job has read it.
pub(super) async fn new_contents(
    connection: &mut SqliteConnection,
    decoded: &DecodedStatistics,
    table: &TableMeta,
    job: &str,
    limit: usize,
) -> Result<NewContents> {
    check_name(job)?;
    let gone = || Error::NotFound { what: noun(table.kind), name: qualified(table) };
    let to = tables::load(connection, table.id).await?.ok_or_else(gone)?.version;
    let from = version(connection, table.id, job).await?;
    let totals = partitions::totals(connection, table).await?;
    let Some(since) = from else {
        let (partitions, truncated) = partitions::list(connection, table, &KeyPredicate::All, None, limit).await?;
        let ids: Vec<_> = partitions.iter().map(|partition| partition.id).collect();
        let files = if truncated { Vec::new() } else { contents::files(connection, decoded, table, &ids).await? };
        return Ok(NewContents { contents: ScanContents { partitions, files, analyzed: Vec::new(), totals, truncated }, from, to });
    };
    if since < to {
        check_history(connection, table, job, since).await?;
    }
    let rewrites = rewrites(connection, table, since).await?;
    let files = contents::files_since(connection, decoded, table, since, &rewrites).await?;
    let mut partitions = partitions_of(connection, table, &files).await?;
    let truncated = partitions.len() > limit;
    partitions.truncate(limit);
    let files = if truncated { Vec::new() } else { files };
    Ok(NewContents { contents: ScanContents { partitions, files, analyzed: Vec::new(), totals, truncated }, from, to })
}

/// Refuses what a list of new files cannot say: changes that are no longer known, and changes of rows.
async fn check_history(connection: &mut SqliteConnection, table: &TableMeta, job: &str, since: i64) -> Result<()> {
    let (name, action) = (qualified(table), "read the history");
    let advice = format!("read the table as a whole, and say so with CALL system.advance('{name}', '{job}')");
    let oldest = sqlx::query_scalar::<_, i64>("SELECT coalesce(min(version), 0) FROM commits WHERE table_id = ?1").bind(table.id);
    let oldest = oldest.fetch_one(&mut *connection).await.map_err(failed(action))?;
    if oldest > since + 1 {
        let lost = oldest - 1;
        return Err(Error::Invalid(format!(
            "job '{job}' has read table '{name}' up to version {since}, but what changed up to version {lost} is no longer known; {advice}"
        )));
    }
    let changed = sqlx::query_as::<_, (i64, String)>(
        "SELECT version, operation FROM commits WHERE table_id = ?1 AND version > ?2 AND files_added > 0
         AND operation IN (SELECT value FROM json_each(?3)) ORDER BY version LIMIT 1",
    );
    let changed = changed.bind(table.id).bind(since).bind(to_json(&MIXTURES)?);
    match changed.fetch_optional(connection).await.map_err(failed(action))? {
        None => Ok(()),
        Some((version, operation)) => Err(Error::Invalid(format!(
            "rows of table '{name}' were changed since job '{job}' has read it ({operation} made version {version}), so that there is no \
             telling which are new; {advice}"
        ))),
    }
}

/// Versions whose files hold no new rows.
async fn rewrites(connection: &mut SqliteConnection, table: &TableMeta, since: i64) -> Result<Vec<i64>> {
    let select = sqlx::query_scalar(
        "SELECT version FROM commits WHERE table_id = ?1 AND version > ?2 AND operation IN (SELECT value FROM json_each(?3))",
    );
    let select = select.bind(table.id).bind(since).bind(to_json(&REWRITES)?);
    select.fetch_all(connection).await.map_err(failed("read the history"))
}

/// The partitions that some files are in, those that went since included, with sums over these files alone.
async fn partitions_of(connection: &mut SqliteConnection, table: &TableMeta, files: &[DataFile]) -> Result<Vec<Partition>> {
    let mut sums = HashMap::<i64, (u64, u64, Option<u64>)>::new();
    for DataFile { partition_id, file } in files {
        let (count, bytes, rows) = sums.entry(*partition_id).or_insert((0, 0, Some(0)));
        (*count, *bytes, *rows) = (*count + 1, *bytes + file.size, rows.zip(file.rows).map(|(all, rows)| all + rows));
    }
    let columns: String = (0..table.keys.len()).map(|position| format!(", k{position}")).collect();
    let select = sqlx::query(sqlx::AssertSqlSafe(format!(
        "SELECT id, name, location, file_count, byte_count, row_count, uncounted_files{columns} FROM partitions
         WHERE id IN (SELECT value FROM json_each(?1)) ORDER BY table_id{columns}, id"
    )));
    let ids: Vec<_> = sums.keys().collect();
    let rows = select.bind(to_json(&ids)?).fetch_all(connection).await.map_err(failed("read partitions"))?;
    let partition = |row: &SqliteRow| {
        let found = partitions::decode_partition(row, table)?;
        let (files, bytes, rows) = sums.get(&found.id).copied().unwrap_or_default();
        Ok(Partition { files, bytes, rows, ..found })
    };
    rows.iter().map(partition).collect()
}

async fn version(connection: &mut SqliteConnection, table_id: i64, job: &str) -> Result<Option<i64>> {
    let select = sqlx::query_scalar("SELECT version FROM bookmarks WHERE table_id = ?1 AND job = ?2").bind(table_id).bind(job);
    select.fetch_optional(connection).await.map_err(failed("read a bookmark"))
}

fn check_name(job: &str) -> Result<()> {
    match job.chars().count() {
        0 => Err(Error::Invalid("a job needs a name".to_owned())),
        long if long > JOB_CHARS_MAX => Err(Error::Invalid(format!("a job's name has at most {JOB_CHARS_MAX} characters, not {long}"))),
        _ => Ok(()),
    }
}

/// Moves a job, or forgets how far it was.
pub(super) async fn set(connection: &mut SqliteConnection, table: &TableMeta, job: &str, version: Option<i64>) -> Result<()> {
    check_name(job)?;
    let Some(version) = version else {
        let delete = sqlx::query("DELETE FROM bookmarks WHERE table_id = ?1 AND job = ?2").bind(table.id).bind(job);
        delete.execute(connection).await.map_err(failed("forget a bookmark"))?;
        return Ok(());
    };
    let gone = || Error::NotFound { what: noun(table.kind), name: qualified(table) };
    let newest = tables::load(connection, table.id).await?.ok_or_else(gone)?.version;
    if !(1..=newest).contains(&version) {
        return Err(Error::Invalid(format!("table '{}' has no version {version}: the newest is {newest}", qualified(table))));
    }
    put(connection, table.id, job, version).await
}

async fn put(connection: &mut SqliteConnection, table_id: i64, job: &str, version: i64) -> Result<()> {
    let put = sqlx::query("INSERT OR REPLACE INTO bookmarks (table_id, job, version, moved_ms) VALUES (?1, ?2, ?3, ?4)");
    let put = put.bind(table_id).bind(job).bind(version).bind(Utc::now().timestamp_millis());
    put.execute(connection).await.map_err(failed("move a bookmark"))?;
    Ok(())
}

/// Moves the jobs for which a write has read. Errors: `Advanced` if another statement was faster.
pub(super) async fn advance(connection: &mut SqliteConnection, advances: &[Advance]) -> Result<()> {
    for Advance { table_id, table, job, from, to } in advances {
        if version(connection, *table_id, job).await? != *from {
            return Err(Error::Advanced { job: job.clone(), table: table.clone() });
        }
        // The table may be gone by now, and its bookmarks with it.
        if tables::load(connection, *table_id).await?.is_some() {
            put(connection, *table_id, job, *to).await?;
        }
    }
    Ok(())
}

pub(super) async fn list(connection: &mut SqliteConnection) -> Result<Vec<Bookmark>> {
    let select = sqlx::query_as::<_, (String, String, String, i64, i64, i64)>(
        "SELECT t.database, t.name, b.job, b.version, t.version, b.moved_ms FROM bookmarks AS b JOIN tables AS t ON t.id = b.table_id
         ORDER BY t.database, t.name, b.job",
    );
    let rows = select.fetch_all(connection).await.map_err(failed("list bookmarks"))?;
    let bookmark = |(database, table, job, version, newest, moved_ms)| Bookmark { database, table, job, version, newest, moved_ms };
    Ok(rows.into_iter().map(bookmark).collect())
}

#[cfg(test)]
mod tests;
