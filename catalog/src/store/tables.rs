//! What the store holds of each table beside its contents.

use std::sync::Arc;

use chrono::Utc;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::ipc::reader::StreamReader;
use datafusion::arrow::ipc::writer::StreamWriter;
use sqlx::{Encode, Row, Sqlite, SqliteConnection, Type};

use super::contents::{self, Changes, Target};
use super::{commits, failed, from_json, garbage, noun, qualified, reserve_ids, taken, to_json};
use crate::catalog::{Contents, KEYS_MAX, NewPartition, NewTable, TableChange, TableKind, TableMeta, ViewDefinition};
use crate::commit::Cause;
use crate::error::{Error, Result};

/// Adds a table with what it has from the start.
pub(super) async fn create(
    connection: &mut SqliteConnection,
    table: NewTable,
    mut contents: Contents,
    cause: &Cause,
) -> Result<Arc<TableMeta>> {
    let action = "create a table";
    if table.keys.len() > KEYS_MAX {
        let (name, keys) = (&table.name, table.keys.len());
        return Err(Error::Invalid(format!("table '{name}' has {keys} partition keys; at most {KEYS_MAX} are possible")));
    }
    check_database(connection, &table.database).await?;
    let id = reserve_ids(connection, 1).await?;
    let insert = sqlx::query(
        "INSERT INTO tables (id, database, name, kind, location, schema_ipc, keys_json, comment, properties_json, version, created_ms,
             storage_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, ?10, ?11)",
    );
    let insert = insert.bind(id).bind(&table.database).bind(&table.name).bind(table.kind.name()).bind(&table.location);
    let insert = insert.bind(encode_schema(&table.schema)?).bind(to_json(&table.keys)?).bind(&table.comment);
    let committed_ms = Utc::now().timestamp_millis();
    let insert = insert.bind(to_json(&table.properties)?).bind(committed_ms).bind(to_json(&table.storage)?);
    let name = format!("{}.{}", table.database, table.name);
    insert.execute(&mut *connection).await.map_err(taken(noun(table.kind), &name, action))?;

    if let Some(view) = &table.view {
        put_view(connection, id, view).await?;
    }
    if table.kind != TableKind::View && table.keys.is_empty() && contents.add_partitions.is_empty() {
        contents.add_partitions.push(NewPartition { values: vec![], location: table.location.clone(), files: vec![] });
    }
    let target = Target { table_id: id, keys: &table.keys, version: 1, committed_ms, owns_files: table.kind.owns_files() };
    let changes = contents::apply(connection, &target, contents).await?;
    commits::record(connection, id, 1, committed_ms, cause, changes).await?;
    reload(connection, id).await
}

/// Changes a table. Errors: `Conflict` if it is not of that version any more.
pub(super) async fn change(
    connection: &mut SqliteConnection,
    table: &TableMeta,
    cause: &Cause,
    change: TableChange,
) -> Result<Arc<TableMeta>> {
    let action = "change a table";
    let version = table.version + 1;
    let raise = sqlx::query("UPDATE tables SET version = version + 1 WHERE id = ?1 AND version = ?2").bind(table.id).bind(table.version);
    if raise.execute(&mut *connection).await.map_err(failed(action))?.rows_affected() == 0 {
        return Err(match load(connection, table.id).await? {
            Some(_) => Error::Conflict { table: qualified(table) },
            None => Error::NotFound { what: noun(table.kind), name: qualified(table) },
        });
    }
    let committed_ms = commits::next_moment(connection, table.id).await?;
    let mut changes = Changes::default();
    match change {
        TableChange::Rename { database, name, location } => {
            check_database(connection, &database).await?;
            if let Some(location) = location {
                put_location(connection, table, &location).await?;
            }
            let update = sqlx::query("UPDATE tables SET database = ?2, name = ?3 WHERE id = ?1").bind(table.id).bind(&database).bind(&name);
            let name = format!("{database}.{name}");
            update.execute(&mut *connection).await.map_err(taken(noun(table.kind), &name, action))?;
        }
        TableChange::Columns(schema) => put_schema(connection, table.id, &schema).await?,
        TableChange::Storage(storage) => {
            put(connection, "UPDATE tables SET storage_json = ?2 WHERE id = ?1", table.id, to_json(&storage)?).await?;
        }
        TableChange::Keys(keys) => {
            put(connection, "UPDATE tables SET keys_json = ?2 WHERE id = ?1", table.id, to_json(&keys)?).await?;
        }
        TableChange::Comment(comment) => {
            put(connection, "UPDATE tables SET comment = ?2 WHERE id = ?1", table.id, comment).await?;
        }
        TableChange::Location { location, contents } => {
            put_location(connection, table, &location).await?;
            changes = apply(connection, table, committed_ms, contents).await?;
        }
        TableChange::Properties(changes) => {
            let mut properties = table.properties.clone();
            for (name, value) in changes {
                match value {
                    Some(value) => drop(properties.insert(name, value)),
                    None => drop(properties.remove(&name)),
                }
            }
            put(connection, "UPDATE tables SET properties_json = ?2 WHERE id = ?1", table.id, to_json(&properties)?).await?;
        }
        TableChange::View { view, schema } => {
            put_schema(connection, table.id, &schema).await?;
            put_view(connection, table.id, &view).await?;
        }
        TableChange::Contents(contents) => changes = apply(connection, table, committed_ms, contents).await?,
    }
    commits::record(connection, table.id, version, committed_ms, cause, changes).await?;
    reload(connection, table.id).await
}

/// Changes what a table holds, in the version after the one that is known.
async fn apply(connection: &mut SqliteConnection, table: &TableMeta, committed_ms: i64, contents: Contents) -> Result<Changes> {
    let (version, owns_files) = (table.version + 1, table.kind.owns_files());
    contents::apply(connection, &Target { table_id: table.id, keys: &table.keys, version, committed_ms, owns_files }, contents).await
}

/// The one partition of a table without keys lies where the table does.
async fn put_location(connection: &mut SqliteConnection, table: &TableMeta, location: &str) -> Result<()> {
    put(connection, "UPDATE tables SET location = ?2 WHERE id = ?1", table.id, location).await?;
    if table.keys.is_empty() {
        put(connection, "UPDATE partitions SET location = ?2 WHERE table_id = ?1", table.id, location).await?;
    }
    Ok(())
}

/// Forgets a table, but not its history. Files that are ours are garbage.
pub(super) async fn forget(connection: &mut SqliteConnection, table: &TableMeta, cause: &Cause) -> Result<()> {
    let now = Utc::now().timestamp_millis();
    garbage::list_tables(connection, &table.database, Some(table.id), now).await?;
    commits::bury(connection, &table.database, Some(table.id), now, cause).await?;
    let dropped = sqlx::query("DELETE FROM tables WHERE id = ?1").bind(table.id).execute(connection).await;
    match dropped.map_err(failed("drop a table"))?.rows_affected() {
        0 => Err(Error::NotFound { what: noun(table.kind), name: qualified(table) }),
        _ => Ok(()),
    }
}

async fn check_database(connection: &mut SqliteConnection, name: &str) -> Result<()> {
    let found = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM databases WHERE name = ?1)").bind(name);
    if found.fetch_one(connection).await.map_err(failed("look up a database"))? {
        return Ok(());
    }
    Err(Error::NotFound { what: "database", name: name.to_owned() })
}

/// Runs a statement about the id of a table and a value.
async fn put<'v, T>(connection: &mut SqliteConnection, statement: &'static str, table_id: i64, value: T) -> Result<()>
where
    T: Encode<'v, Sqlite> + Type<Sqlite>,
{
    let update = sqlx::query(statement).bind(table_id).bind(value);
    update.execute(connection).await.map_err(failed("change a table"))?;
    Ok(())
}

async fn put_schema(connection: &mut SqliteConnection, table_id: i64, schema: &SchemaRef) -> Result<()> {
    put(connection, "UPDATE tables SET schema_ipc = ?2 WHERE id = ?1", table_id, encode_schema(schema)?).await
}

async fn put_view(connection: &mut SqliteConnection, table_id: i64, view: &ViewDefinition) -> Result<()> {
    let put = sqlx::query("INSERT OR REPLACE INTO views (table_id, query, default_database, dialect) VALUES (?1, ?2, ?3, ?4)");
    let put = put.bind(table_id).bind(&view.sql).bind(&view.default_database).bind(view.dialect.to_string());
    put.execute(connection).await.map_err(failed("write a view"))?;
    Ok(())
}

/// What is known of a table that was changed in the same transaction.
pub(super) async fn reload(connection: &mut SqliteConnection, id: i64) -> Result<Arc<TableMeta>> {
    let table = load(connection, id).await?;
    table.ok_or_else(|| Error::Internal(format!("table {id} vanished inside its own transaction")))
}

/// What is known of a table.
pub(super) async fn load(connection: &mut SqliteConnection, id: i64) -> Result<Option<Arc<TableMeta>>> {
    let action = "read a table";
    let query = sqlx::query(
        "SELECT t.*, v.query, v.default_database, v.dialect FROM tables AS t LEFT JOIN views AS v ON v.table_id = t.id WHERE t.id = ?1",
    );
    let Some(row) = query.bind(id).fetch_optional(connection).await.map_err(failed(action))? else {
        return Ok(None);
    };
    let text = |column: &str| row.try_get::<String, _>(column).map_err(failed(action));
    let optional_text = |column: &str| row.try_get::<Option<String>, _>(column).map_err(failed(action));
    let number = |column: &str| row.try_get::<i64, _>(column).map_err(failed(action));
    let view = match (optional_text("query")?, optional_text("default_database")?, optional_text("dialect")?) {
        (Some(sql), Some(default_database), Some(dialect)) => {
            let dialect =
                dialect.parse().map_err(|_| Error::Internal(format!("the catalog holds a view of unknown dialect '{dialect}'")))?;
            Some(ViewDefinition { sql, default_database, dialect })
        }
        _ => None,
    };
    Ok(Some(Arc::new(TableMeta {
        id,
        database: text("database")?,
        name: text("name")?,
        kind: table_kind(&text("kind")?)?,
        location: text("location")?,
        schema: decode_schema(row.try_get("schema_ipc").map_err(failed(action))?)?,
        keys: from_json(&text("keys_json")?)?,
        comment: optional_text("comment")?,
        properties: from_json(&text("properties_json")?)?,
        storage: from_json(&text("storage_json")?)?,
        view,
        version: number("version")?,
        created_ms: number("created_ms")?,
        as_of: None,
        delta: None,
    })))
}

pub(super) fn table_kind(name: &str) -> Result<TableKind> {
    TableKind::parse(name).ok_or_else(|| Error::Internal(format!("the catalog holds a table of unknown kind '{name}'")))
}

/// Schemas are kept as an Arrow IPC stream without batches: a stable format that keeps all types and metadata.
fn encode_schema(schema: &SchemaRef) -> Result<Vec<u8>> {
    let encode = || StreamWriter::try_new(Vec::new(), schema)?.into_inner();
    encode().map_err(|error: ArrowError| Error::Internal(format!("cannot encode a schema: {error}")))
}

fn decode_schema(bytes: &[u8]) -> Result<SchemaRef> {
    let reader = StreamReader::try_new(bytes, None);
    reader.map(|reader| reader.schema()).map_err(|error| Error::Internal(format!("cannot decode a schema: {error}")))
}
