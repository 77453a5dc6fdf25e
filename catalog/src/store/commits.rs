//! Writes and the history they leave.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::Utc;
use futures::future::BoxFuture;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::contents::{self, Changes, Sums, Target};
use super::{bookmarks, count, failed, materialized, noun, partitions, qualified, tables, taken, to_json};
use crate::catalog::{Contents, DataFile, NewTable, TableKind, TableMeta, Totals};
use crate::commit::{Amount, Cause, Commit, EndedWrite, Moment, Replaces, Write, WriteIntent, by_partition, format_time};
use crate::error::{Error, Result};
use crate::predicate::KeyPredicate;

/// When the next change of a table is committed: now, but never before the change that was last, whatever the clock says.
pub(super) async fn next_moment(connection: &mut SqliteConnection, table_id: i64) -> Result<i64> {
    let last = sqlx::query_scalar("SELECT committed_ms FROM commits WHERE table_id = ?1 ORDER BY version DESC LIMIT 1").bind(table_id);
    let last: Option<i64> = last.fetch_optional(connection).await.map_err(failed("read the history"))?;
    Ok(Utc::now().timestamp_millis().max(last.unwrap_or_default()))
}

/// Adds a change to the history. The counters of the table are those after it.
pub(super) async fn record(
    connection: &mut SqliteConnection,
    table_id: i64,
    version: i64,
    committed_ms: i64,
    cause: &Cause,
    changes: Changes,
) -> Result<()> {
    let insert = sqlx::query(
        "INSERT INTO commits (table_id, version, committed_ms, operation, user, query_id, files_added, bytes_added, rows_added,
             files_removed, bytes_removed, rows_removed, partition_count, file_count, byte_count, row_count, uncounted_files)
         SELECT id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, partition_count, file_count, byte_count, row_count, uncounted_files
         FROM tables WHERE id = ?1",
    );
    let insert = insert.bind(table_id).bind(version).bind(committed_ms).bind(&cause.operation).bind(&cause.user).bind(&cause.query_id);
    let bind = |sums: Sums| (sums.files, sums.bytes, sums.known_rows());
    let ((files_added, bytes_added, rows_added), (files_removed, bytes_removed, rows_removed)) =
        (bind(changes.added), bind(changes.removed));
    let insert = insert.bind(files_added).bind(bytes_added).bind(rows_added);
    let insert = insert.bind(files_removed).bind(bytes_removed).bind(rows_removed);
    insert.execute(connection).await.map_err(failed("record a commit"))?;
    Ok(())
}

/// Remembers that a query is about to write.
pub(super) async fn begin(connection: &mut SqliteConnection, intent: &WriteIntent) -> Result<()> {
    let action = "begin a write";
    let insert = sqlx::query("INSERT INTO writes (query_id, location, table_id) VALUES (?1, ?2, ?3)");
    let insert = insert.bind(&intent.query_id).bind(&intent.location).bind(intent.table_id);
    insert.execute(connection).await.map_err(taken("write of query", &intent.query_id, action))?;
    Ok(())
}

/// Ends a write that is committed. Errors: `Abandoned`.
async fn end(connection: &mut SqliteConnection, write: &Write, committed_ms: i64) -> Result<()> {
    let update = sqlx::query_scalar::<_, Option<i64>>("UPDATE writes SET committed_ms = ?2 WHERE query_id = ?1 RETURNING abandoned_ms");
    let update = update.bind(&write.query_id).bind(committed_ms);
    match update.fetch_optional(connection).await.map_err(failed("end a write"))? {
        Some(None) => Ok(()),
        None if write.files.is_empty() => Ok(()),
        // Files that nobody announced may have been taken for garbage.
        _ => Err(Error::Abandoned { query: write.query_id.clone() }),
    }
}

fn intent(row: &SqliteRow) -> Result<WriteIntent, sqlx::Error> {
    Ok(WriteIntent { query_id: row.try_get(0)?, location: row.try_get(1)?, table_id: row.try_get(2)? })
}

/// Writes that were begun and have not ended.
pub(super) async fn open(connection: &mut SqliteConnection) -> Result<Vec<WriteIntent>> {
    let action = "list writes";
    let select =
        sqlx::query("SELECT query_id, location, table_id FROM writes WHERE coalesce(committed_ms, abandoned_ms) IS NULL ORDER BY query_id");
    let rows = select.fetch_all(connection).await.map_err(failed(action))?;
    rows.iter().map(intent).collect::<Result<_, _>>().map_err(failed(action))
}

/// Writes that have ended and are not forgotten.
pub(super) async fn ended(connection: &mut SqliteConnection) -> Result<Vec<EndedWrite>> {
    let action = "list writes";
    let select = sqlx::query(
        "SELECT query_id, location, table_id, committed_ms IS NOT NULL, coalesce(committed_ms, abandoned_ms) AS ended_ms FROM writes
         WHERE ended_ms IS NOT NULL ORDER BY query_id",
    );
    let rows = select.fetch_all(connection).await.map_err(failed(action))?;
    let write = |row: &SqliteRow| Ok(EndedWrite { intent: intent(row)?, committed: row.try_get(3)?, ended_ms: row.try_get(4)? });
    rows.iter().map(write).collect::<Result<_, sqlx::Error>>().map_err(failed(action))
}

/// The table that a query has changed already, which is then what it left of it.
async fn committed(connection: &mut SqliteConnection, query_id: &str) -> Result<Option<Arc<TableMeta>>> {
    let select = sqlx::query_scalar("SELECT table_id FROM commits WHERE query_id = ?1 LIMIT 1").bind(query_id);
    match select.fetch_optional(&mut *connection).await.map_err(failed("read the history"))? {
        Some(table_id) => tables::load(connection, table_id).await,
        None => Ok(None),
    }
}

/// Makes the change that a query intended.
pub(super) async fn commit(connection: &mut SqliteConnection, table: &TableMeta, mut write: Write) -> Result<Arc<TableMeta>> {
    if let Some(done) = committed(connection, &write.query_id).await? {
        return Ok(done);
    }
    let gone = || Error::NotFound { what: noun(table.kind), name: qualified(table) };
    let now = tables::load(connection, table.id).await?.ok_or_else(gone)?;
    check_columns(table, &now)?;
    if write.refresh.is_some() && now.version != table.version {
        // What was computed again was chosen by what the view held.
        return Err(Error::Conflict { table: qualified(&now) });
    }
    end(connection, &write, Utc::now().timestamp_millis()).await?;
    bookmarks::advance(connection, &write.advances).await?;
    commit_beside(connection, &mut write).await?;
    let version = now.version + 1;
    let raise = sqlx::query("UPDATE tables SET version = ?2 WHERE id = ?1").bind(now.id).bind(version);
    raise.execute(&mut *connection).await.map_err(failed("change a table"))?;
    let committed_ms = next_moment(connection, now.id).await?;
    let cause = write.cause();
    if let Some(refresh) = &write.refresh {
        materialized::put(connection, now.id, committed_ms, refresh).await?;
    }
    let contents = replacement(connection, &now, write).await?;
    let target = Target { table_id: now.id, keys: &now.keys, version, committed_ms, owns_files: true };
    let changes = contents::apply(connection, &target, contents).await?;
    record(connection, now.id, version, committed_ms, &cause, changes).await?;
    tables::reload(connection, now.id).await
}

/// Makes the changes that go with another.
fn commit_beside<'a>(connection: &'a mut SqliteConnection, write: &mut Write) -> BoxFuture<'a, Result<()>> {
    let beside = std::mem::take(&mut write.beside);
    Box::pin(async move {
        for (table, write) in beside {
            commit(connection, &table, write).await?;
        }
        Ok(())
    })
}

/// Makes a table that holds what a query wrote, in the place of another.
pub(super) async fn commit_new(
    connection: &mut SqliteConnection,
    table: NewTable,
    replaced: Option<TableMeta>,
    mut write: Write,
) -> Result<Arc<TableMeta>> {
    if let Some(done) = committed(connection, &write.query_id).await? {
        return Ok(done);
    }
    end(connection, &write, Utc::now().timestamp_millis()).await?;
    bookmarks::advance(connection, &write.advances).await?;
    commit_beside(connection, &mut write).await?;
    let cause = write.cause();
    if let Some(replaced) = replaced {
        tables::forget(connection, &replaced, &cause).await?;
    }
    let add_partitions = by_partition(&table.keys, write.files)?.into_iter().map(|(_, partition)| partition).collect();
    let made = tables::create(connection, table, Contents { add_partitions, ..Contents::default() }, &cause).await?;
    if let Some(refresh) = &write.refresh {
        materialized::put(connection, made.id, Utc::now().timestamp_millis(), refresh).await?;
    }
    Ok(made)
}

/// A file that lacks a column, or has it under another name, would be read as NULLs: what the files were written for must still be there.
fn check_columns(then: &TableMeta, now: &TableMeta) -> Result<()> {
    let columns: HashSet<&str> = now.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let has_all = then.schema.fields().iter().all(|field| columns.contains(field.name().as_str()));
    match has_all && then.keys.iter().map(|key| (&key.name, key.key_type)).eq(now.keys.iter().map(|key| (&key.name, key.key_type))) {
        true => Ok(()),
        false => Err(Error::Conflict { table: qualified(now) }),
    }
}

/// What comes and goes in the table as it is now.
async fn replacement(connection: &mut SqliteConnection, table: &TableMeta, write: Write) -> Result<Contents> {
    let new = by_partition(&table.keys, write.files)?;
    let names: Vec<&str> = new.iter().map(|(name, _)| name.as_str()).collect();
    let select = sqlx::query_as::<_, (String, i64)>(
        "SELECT name, id FROM partitions WHERE table_id = ?1 AND removed = 0 AND name IN (SELECT value FROM json_each(?2))",
    );
    let existing = select.bind(table.id).bind(to_json(&names)?).fetch_all(&mut *connection).await.map_err(failed("look up partitions"))?;
    let existing: HashMap<String, i64> = existing.into_iter().collect();

    let mut contents = Contents::default();
    let (replaces, read_version) = match write.replaces {
        Replaces::AsRead { read_version, partitions } => (*partitions, Some(read_version)),
        replaces => (replaces, None),
    };
    match replaces {
        Replaces::Nothing | Replaces::AsRead { .. } => {}
        Replaces::TouchedPartitions => contents.empty_partitions = existing.values().copied().collect(),
        Replaces::Partitions(predicate) => replace_partitions(connection, table, &predicate, &existing, &mut contents).await?,
        Replaces::Table => replace_partitions(connection, table, &KeyPredicate::All, &existing, &mut contents).await?,
        Replaces::Files { read_version, files } => {
            check_unchanged(connection, table, read_version, &files).await?;
            contents.remove_files = files;
        }
    }
    if let Some(read_version) = read_version {
        check_as_read(connection, table, read_version, &names, &contents).await?;
    }
    for (name, partition) in new {
        match existing.get(&name) {
            Some(&partition_id) => contents.add_files.extend(partition.files.into_iter().map(|file| DataFile { partition_id, file })),
            None => contents.add_partitions.push(partition),
        }
    }
    Ok(contents)
}

/// Partitions that get new files are emptied, others go. The one partition of a table without keys stays.
async fn replace_partitions(
    connection: &mut SqliteConnection,
    table: &TableMeta,
    predicate: &KeyPredicate,
    existing: &HashMap<String, i64>,
    contents: &mut Contents,
) -> Result<()> {
    let refilled: HashSet<i64> = existing.values().copied().collect();
    let (replaced, _) = partitions::list(connection, table, predicate, None, usize::MAX).await?;
    let stays = |id: &i64| table.keys.is_empty() || refilled.contains(id);
    (contents.empty_partitions, contents.remove_partitions) = replaced.into_iter().map(|partition| partition.id).partition(stays);
    Ok(())
}

/// Refuses to replace files that are not there any more, or to which others were added: what was read is then not what is replaced.
async fn check_unchanged(connection: &mut SqliteConnection, table: &TableMeta, read_version: i64, files: &[(i64, String)]) -> Result<()> {
    let action = "look for conflicts";
    let there = sqlx::query_scalar::<_, i64>(
        "SELECT count(*) FROM json_each(?1) AS gone
         CROSS JOIN files AS f ON f.partition_id = gone.value ->> 0 AND f.removed = 0 AND f.url = gone.value ->> 1
         CROSS JOIN partitions AS p ON p.id = f.partition_id AND p.table_id = ?2",
    );
    let there = there.bind(to_json(files)?).bind(table.id).fetch_one(&mut *connection).await.map_err(failed(action))?;
    let ids: BTreeSet<i64> = files.iter().map(|(id, _)| *id).collect();
    let more = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT 1 FROM files WHERE partition_id IN (SELECT value FROM json_each(?1)) AND removed = 0 AND added > ?2)",
    );
    let more = more.bind(to_json(&ids)?).bind(read_version).fetch_one(connection).await.map_err(failed(action))?;
    match count(there) == files.len() as u64 && !more {
        true => Ok(()),
        false => Err(Error::Conflict { table: qualified(table) }),
    }
}

/// Refuses to replace partitions that are not as they were read: others were added to, taken from, or dropped.
async fn check_as_read(
    connection: &mut SqliteConnection,
    table: &TableMeta,
    read_version: i64,
    refilled: &[&str],
    contents: &Contents,
) -> Result<()> {
    let ids: Vec<_> = contents.empty_partitions.iter().chain(&contents.remove_partitions).collect();
    let changed = sqlx::query_scalar::<_, bool>(
        "SELECT EXISTS (SELECT 1 FROM files WHERE partition_id IN (SELECT value FROM json_each(?1)) AND (added > ?2 OR removed > ?2))
         OR EXISTS (SELECT 1 FROM partitions WHERE table_id = ?3 AND removed > ?2 AND name IN (SELECT value FROM json_each(?4)))",
    );
    let changed = changed.bind(to_json(&ids)?).bind(read_version).bind(table.id).bind(to_json(refilled)?);
    match changed.fetch_one(connection).await.map_err(failed("look for conflicts"))? {
        true => Err(Error::Conflict { table: qualified(table) }),
        false => Ok(()),
    }
}

/// Keeps the history of a table that goes, or of all tables of a database, and adds what takes it away.
pub(super) async fn bury(
    connection: &mut SqliteConnection,
    database: &str,
    table_id: Option<i64>,
    dropped_ms: i64,
    cause: &Cause,
) -> Result<()> {
    let action = "keep the history of a table";
    let which = "t.database = ?1 AND (?2 IS NULL OR t.id = ?2)";
    let keep = format!(
        "INSERT INTO past_commits SELECT t.id, c.version, t.database, t.name, c.committed_ms, c.operation, c.user, c.query_id,
             c.files_added, c.bytes_added, c.rows_added, c.files_removed, c.bytes_removed, c.rows_removed, ?3
         FROM tables AS t JOIN commits AS c ON c.table_id = t.id WHERE {which}"
    );
    let keep = sqlx::query(AssertSqlSafe(keep)).bind(database).bind(table_id).bind(dropped_ms);
    keep.execute(&mut *connection).await.map_err(failed(action))?;
    let add = format!(
        "INSERT INTO past_commits SELECT t.id, t.version + 1, t.database, t.name,
             max(?3, coalesce((SELECT max(c.committed_ms) FROM commits AS c WHERE c.table_id = t.id), 0)), ?4, ?5, ?6,
             0, 0, 0, t.file_count, t.byte_count, iif(t.uncounted_files = 0, t.row_count, NULL), ?3
         FROM tables AS t WHERE {which}"
    );
    let add = sqlx::query(AssertSqlSafe(add)).bind(database).bind(table_id).bind(dropped_ms);
    let add = add.bind(&cause.operation).bind(&cause.user).bind(&cause.query_id);
    add.execute(connection).await.map_err(failed(action))?;
    Ok(())
}

/// The newest changes of all tables, of those that are gone, too.
pub(super) async fn history(connection: &mut SqliteConnection, limit: i64) -> Result<Vec<Commit>> {
    let action = "read the history";
    let select = sqlx::query(
        "SELECT t.database, t.name, c.version, c.committed_ms, c.operation, c.user, c.query_id, c.files_added, c.bytes_added,
             c.rows_added, c.files_removed, c.bytes_removed, c.rows_removed, c.table_id
         FROM commits AS c JOIN tables AS t ON t.id = c.table_id
         UNION ALL
         SELECT database, name, version, committed_ms, operation, user, query_id, files_added, bytes_added,
             rows_added, files_removed, bytes_removed, rows_removed, table_id FROM past_commits
         ORDER BY 4 DESC, 14, 3 DESC LIMIT ?1",
    );
    let rows = select.bind(limit).fetch_all(connection).await.map_err(failed(action))?;
    let amount = |row: &SqliteRow, first: usize| {
        let (files, bytes) = (row.try_get::<Option<i64>, _>(first)?, row.try_get::<Option<i64>, _>(first + 1)?);
        let rows = row.try_get::<Option<i64>, _>(first + 2)?.map(count);
        Ok::<_, sqlx::Error>(files.zip(bytes).map(|(files, bytes)| Amount { files: count(files), bytes: count(bytes), rows }))
    };
    let commit = |row: &SqliteRow| {
        Ok(Commit {
            database: row.try_get(0)?,
            table: row.try_get(1)?,
            version: row.try_get(2)?,
            committed_ms: row.try_get(3)?,
            cause: Cause { operation: row.try_get(4)?, user: row.try_get(5)?, query_id: row.try_get(6)? },
            added: amount(row, 7)?,
            removed: amount(row, 10)?,
            table_id: row.try_get(13)?,
        })
    };
    rows.iter().map(commit).collect::<Result<_, sqlx::Error>>().map_err(failed(action))
}

/// The table with the contents of a moment.
pub(super) async fn as_of(connection: &mut SqliteConnection, table: &TableMeta, moment: Moment) -> Result<Arc<TableMeta>> {
    let action = "look up a version";
    let name = qualified(table);
    if !table.kind.owns_files() {
        let what = if table.kind == TableKind::View { "a view" } else { "external: others may replace its files" };
        return Err(Error::Unsupported(format!("'{name}' has no versions to read, because it is {what}")));
    }
    let (column, wanted) = match moment {
        Moment::Version(version) => ("version", version),
        Moment::Time(ms) => ("committed_ms", ms),
    };
    // A version is one of the list; a time is after the version that was current.
    let comparison = if matches!(moment, Moment::Version(_)) { "=" } else { "<=" };
    let select = format!(
        "SELECT version FROM commits WHERE table_id = ?1 AND {column} {comparison} ?2 AND file_count IS NOT NULL
         ORDER BY version DESC LIMIT 1"
    );
    let found = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(select)).bind(table.id).bind(wanted);
    if let Some(version) = found.fetch_optional(&mut *connection).await.map_err(failed(action))? {
        return Ok(Arc::new(TableMeta { as_of: Some(version), ..table.clone() }));
    }
    let kept = sqlx::query_as::<_, (i64, i64)>(
        "SELECT version, committed_ms FROM commits WHERE table_id = ?1 AND file_count IS NOT NULL ORDER BY version LIMIT 1",
    );
    let kept = kept.bind(table.id).fetch_optional(connection).await.map_err(failed(action))?;
    let (oldest, since) = kept.ok_or_else(|| Error::NotFound { what: noun(table.kind), name: name.clone() })?;
    Err(Error::Invalid(match moment {
        Moment::Version(version) if version > table.version => {
            format!("table '{name}' has no version {version}: the newest is {}", table.version)
        }
        Moment::Version(version) => {
            format!("version {version} of table '{name}' is not kept: the oldest that is, {oldest}, is of {}", format_time(since))
        }
        Moment::Time(ms) => {
            let (time, since) = (format_time(ms), format_time(since));
            format!("table '{name}' as of {time} is not kept: the oldest version that is, {oldest}, is of {since}")
        }
    }))
}

/// Sums over a table as it was.
pub(super) async fn totals_as_of(connection: &mut SqliteConnection, table: &TableMeta, version: i64) -> Result<Totals> {
    let action = "read the size of a version";
    let select = sqlx::query(
        "SELECT partition_count, file_count, byte_count, row_count, uncounted_files FROM commits
         WHERE table_id = ?1 AND version = ?2 AND file_count IS NOT NULL",
    );
    let row = select.bind(table.id).bind(version).fetch_optional(connection).await.map_err(failed(action))?;
    let row = row.ok_or_else(|| Error::Invalid(format!("version {version} of table '{}' is no longer kept", qualified(table))))?;
    let get = |index: usize| row.try_get::<i64, _>(index).map(count).map_err(failed(action));
    Ok(Totals { partitions: get(0)?, files: get(1)?, bytes: get(2)?, rows: (get(4)? == 0).then_some(get(3)?) })
}

#[cfg(test)]
mod tests;
