//! Files that are ours to delete, and versions that nobody reads any more.

use std::collections::HashSet;

use sqlx::SqliteConnection;

use super::{failed, to_json};
use crate::catalog::TableKind;
use crate::commit::Expired;
use crate::error::Result;

/// The version of each table that was current at `?1`; of the table `?2` alone, if that is not NULL. What went in it, or before, is in no
/// version since.
const KEPT: &str = "SELECT table_id, max(version) AS version FROM commits
    WHERE committed_ms <= ?1 AND (?2 IS NULL OR table_id = ?2) GROUP BY table_id";

/// Forgets versions that ceased to be current by a time, and returns garbage that no version has needed since.
pub(super) async fn expire(connection: &mut SqliteConnection, table_id: Option<i64>, until_ms: i64, limit: i64) -> Result<Expired> {
    let action = "forget old versions";
    // Partitions take their files with them. CROSS JOIN keeps to what went, of which there is little.
    let partitions = "DELETE FROM partitions WHERE id IN (
        SELECT p.id FROM kept JOIN partitions AS p ON p.table_id = kept.table_id AND p.removed > 0 AND p.removed <= kept.version)";
    let files = "DELETE FROM files WHERE rowid IN (
        SELECT f.rowid FROM files AS f CROSS JOIN partitions AS p ON p.id = f.partition_id CROSS JOIN kept ON kept.table_id = p.table_id
        WHERE f.removed > 0 AND f.removed <= kept.version)";
    let commits = "DELETE FROM commits WHERE (table_id, version) IN (
        SELECT c.table_id, c.version FROM kept JOIN commits AS c ON c.table_id = kept.table_id AND c.version < kept.version)";
    let past = "DELETE FROM past_commits WHERE dropped_ms <= ?1 AND (?2 IS NULL OR table_id = ?2)";
    sqlx::query(past).bind(until_ms).bind(table_id).execute(&mut *connection).await.map_err(failed(action))?;
    let mut versions = 0;
    for delete in [partitions, files, commits] {
        let delete = format!("WITH kept AS MATERIALIZED ({KEPT}) {delete}");
        let delete = sqlx::query(sqlx::AssertSqlSafe(delete)).bind(until_ms).bind(table_id);
        versions = delete.execute(&mut *connection).await.map_err(failed(action))?.rows_affected();
    }
    Ok(Expired { versions, files: unneeded(connection, table_id, until_ms, limit).await? })
}

/// Garbage that was listed by a time and is in no version that can be read.
async fn unneeded(connection: &mut SqliteConnection, table_id: Option<i64>, until_ms: i64, limit: i64) -> Result<Vec<String>> {
    let action = "read the list of garbage";
    let select = sqlx::query_scalar(
        "SELECT url FROM garbage WHERE removed_ms <= ?1 AND (?2 IS NULL OR table_id = ?2) ORDER BY removed_ms, url LIMIT ?3",
    );
    let listed: Vec<String> = select.bind(until_ms).bind(table_id).bind(limit).fetch_all(&mut *connection).await.map_err(failed(action))?;
    if listed.is_empty() {
        return Ok(listed);
    }
    // One pass over the index of all files: there is none by URL alone, which nothing else would ask.
    let select = sqlx::query_scalar("SELECT DISTINCT url FROM files WHERE url IN (SELECT value FROM json_each(?1))");
    let needed: Vec<String> = select.bind(to_json(&listed)?).fetch_all(&mut *connection).await.map_err(failed(action))?;
    if needed.is_empty() {
        return Ok(listed);
    }
    forget(connection, &needed).await?;
    let needed: HashSet<String> = needed.into_iter().collect();
    Ok(listed.into_iter().filter(|url| !needed.contains(url)).collect())
}

/// Lists the files of a table, or of all tables of a database, before they are forgotten: of those that own their files.
pub(super) async fn list_tables(connection: &mut SqliteConnection, database: &str, table_id: Option<i64>, removed_ms: i64) -> Result<()> {
    let insert = sqlx::query(
        "INSERT OR IGNORE INTO garbage (url, table_id, removed_ms) SELECT f.url, t.id, ?4 FROM tables AS t
         JOIN partitions AS p ON p.table_id = t.id AND p.removed = 0 JOIN files AS f ON f.partition_id = p.id AND f.removed = 0
         WHERE t.database = ?1 AND (?2 IS NULL OR t.id = ?2) AND t.kind IN (?3, ?5)",
    );
    let insert = insert.bind(database).bind(table_id).bind(TableKind::Managed.name()).bind(removed_ms);
    let insert = insert.bind(TableKind::MaterializedView.name());
    insert.execute(connection).await.map_err(failed("list garbage"))?;
    Ok(())
}

/// Takes files from the list.
pub(super) async fn forget<U: serde::Serialize>(connection: &mut SqliteConnection, urls: &[U]) -> Result<()> {
    if !urls.is_empty() {
        let delete = sqlx::query("DELETE FROM garbage WHERE url IN (SELECT value FROM json_each(?1))").bind(to_json(urls)?);
        delete.execute(connection).await.map_err(failed("shorten the list of garbage"))?;
    }
    Ok(())
}

/// Those of some files that are on the list, or that a write has left which is not committed, or which a task has done twice.
pub(super) async fn among(connection: &mut SqliteConnection, urls: &[String]) -> Result<HashSet<String>> {
    let select = sqlx::query_scalar("SELECT url FROM garbage WHERE url IN (SELECT value FROM json_each(?1))");
    let mut found: HashSet<String> = set(select.bind(to_json(urls)?).fetch_all(&mut *connection).await)?;
    let writes: HashSet<String> = set(sqlx::query_scalar("SELECT query_id FROM writes").fetch_all(&mut *connection).await)?;
    let written: Vec<_> = urls.iter().filter(|url| writes.iter().any(|query_id| url.contains(query_id))).collect();
    if !written.is_empty() {
        found.extend(unlisted(connection, &written).await?);
    }
    Ok(found)
}

/// Those of some files that are in no version of a table, and not on the list.
pub(super) async fn unlisted<U: serde::Serialize>(connection: &mut SqliteConnection, urls: &[U]) -> Result<HashSet<String>> {
    let select = sqlx::query_scalar(
        "SELECT value FROM json_each(?1) EXCEPT SELECT url FROM garbage
         EXCEPT SELECT url FROM files WHERE url IN (SELECT value FROM json_each(?1))",
    );
    set(select.bind(to_json(urls)?).fetch_all(connection).await)
}

fn set(found: sqlx::Result<Vec<String>>) -> Result<HashSet<String>> {
    Ok(found.map_err(failed("read the list of garbage"))?.into_iter().collect())
}
