//! What materialized views are made of.

use std::collections::HashMap;

use datafusion::common::ScalarValue;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::{failed, integer, partitions, tables, to_json};
use crate::catalog::{Base, MaterializedView, TableMeta};
use crate::commit::{BaseVersion, Refresh};
use crate::error::Result;

/// Notes what the rows of a view are made of from now on.
pub(super) async fn put(connection: &mut SqliteConnection, view_id: i64, refreshed_ms: i64, refresh: &Refresh) -> Result<()> {
    let action = "note a refresh";
    // Takes what was noted before with it.
    let delete = sqlx::query("DELETE FROM refreshes WHERE view_id = ?1").bind(view_id);
    delete.execute(&mut *connection).await.map_err(failed(action))?;
    let insert = sqlx::query("INSERT INTO refreshes (view_id, refreshed_ms, repeatable) VALUES (?1, ?2, ?3)");
    let insert = insert.bind(view_id).bind(refreshed_ms).bind(refresh.repeatable);
    insert.execute(&mut *connection).await.map_err(failed(action))?;
    for BaseVersion { table_id, name, version } in &refresh.bases {
        let insert = sqlx::query("INSERT INTO refresh_bases (view_id, table_id, name, version) VALUES (?1, ?2, ?3, ?4)");
        let insert = insert.bind(view_id).bind(table_id).bind(name).bind(version);
        insert.execute(&mut *connection).await.map_err(failed(action))?;
    }
    Ok(())
}

/// Materialized views by name: all, or those that stand on any of these tables.
pub(super) async fn list(connection: &mut SqliteConnection, over: Option<&[i64]>, limit: usize) -> Result<Vec<MaterializedView>> {
    let action = "list materialized views";
    let over = over.map(to_json).transpose()?;
    let select = sqlx::query_as::<_, (i64, i64, bool)>(
        "SELECT r.view_id, r.refreshed_ms, r.repeatable FROM refreshes AS r JOIN tables AS t ON t.id = r.view_id
         WHERE ?1 IS NULL OR r.view_id IN (SELECT view_id FROM refresh_bases WHERE table_id IN (SELECT value FROM json_each(?1)))
         ORDER BY t.database, t.name LIMIT ?2",
    );
    let found = select.bind(over).bind(integer(limit as u64)).fetch_all(&mut *connection).await.map_err(failed(action))?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = found.iter().map(|(id, ..)| *id).collect();
    let select = sqlx::query(
        "SELECT b.view_id, b.table_id, b.name, b.version, t.kind, t.version FROM refresh_bases AS b LEFT JOIN tables AS t ON t.id = b.table_id
         WHERE b.view_id IN (SELECT value FROM json_each(?1)) ORDER BY b.view_id, b.name",
    );
    let rows = select.bind(to_json(&ids)?).fetch_all(&mut *connection).await.map_err(failed(action))?;
    let mut bases = HashMap::<i64, Vec<Base>>::new();
    for row in rows {
        let number = |column: usize| row.try_get::<i64, _>(column).map_err(failed(action));
        let read = BaseVersion { table_id: number(1)?, name: row.try_get(2).map_err(failed(action))?, version: number(3)? };
        let now = match row.try_get::<Option<&str>, _>(4).map_err(failed(action))? {
            Some(kind) => Some((tables::table_kind(kind)?, number(5)?)),
            None => None,
        };
        bases.entry(number(0)?).or_default().push(Base { read, now });
    }
    let mut views = Vec::with_capacity(found.len());
    for (id, refreshed_ms, repeatable) in found {
        let Some(view) = tables::load(connection, id).await? else { continue };
        let rows = partitions::totals(connection, &view).await?.rows;
        views.push(MaterializedView { view, refreshed_ms, repeatable, rows, bases: bases.remove(&id).unwrap_or_default() });
    }
    Ok(views)
}

/// Values of the keys of partitions whose files are not those of version `since`; `None` if that is no longer kept.
pub(super) async fn changed_partitions(
    connection: &mut SqliteConnection,
    table: &TableMeta,
    since: i64,
) -> Result<Option<Vec<Vec<ScalarValue>>>> {
    let action = "compare versions";
    let kept = sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT 1 FROM commits WHERE table_id = ?1 AND version = ?2)");
    if !kept.bind(table.id).bind(since).fetch_one(&mut *connection).await.map_err(failed(action))? {
        return Ok(None);
    }
    let keys: Vec<_> = (0..table.keys.len()).map(|position| format!(", p.k{position}")).collect();
    // What came and went in between is in neither.
    let select = format!(
        "SELECT DISTINCT p.table_id{} FROM partitions AS p CROSS JOIN files AS f ON f.partition_id = p.id WHERE p.table_id = ?1
         AND ((f.added > ?2 AND f.added <= ?3 AND (f.removed = 0 OR f.removed > ?3))
              OR (f.added <= ?2 AND f.removed > ?2 AND f.removed <= ?3))",
        keys.concat()
    );
    let select = sqlx::query(AssertSqlSafe(select)).bind(table.id).bind(since).bind(table.as_of.unwrap_or(table.version));
    let rows = select.fetch_all(connection).await.map_err(failed(action))?;
    let values = |row| table.keys.iter().enumerate().map(|(place, key)| partitions::decode_key(row, place + 1, key.key_type)).collect();
    rows.iter().map(values).collect::<Result<_>>().map(Some)
}
