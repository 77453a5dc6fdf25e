//! What tools ask about names: catalogs, schemas, tables, keys. "Schema" is Flight SQL's word for what SQL here calls a database.

use std::sync::Arc;

use arrow_flight::sql::metadata::{GetCatalogsBuilder, SqlInfoDataBuilder, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Command, CommandGetCatalogs, CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use datafusion::arrow::array::{ArrayRef, BinaryArray, RecordBatch, cast::AsArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use windlass_catalog::catalog::{CATALOG, TableKind};
use windlass_engine::answer::schema::client_schema;

use super::statements::{ipc, unsupported};
use super::{FlightFrontend, columns, sql_info};
use crate::error::{Error, Result};
use crate::session::Session;
use crate::system;

/// Tables that are computed and not stored: catalog, schema, names.
const COMPUTED: [(&str, &str, &[&str]); 2] = [
    (CATALOG, "information_schema", &["columns", "df_settings", "parameters", "routines", "schemata", "tables", "views"]),
    (system::CATALOG, system::DATABASE, &["executors", "history", "materialized_views", "queries"]),
];

/// Types of tables. `TABLE` and not `BASE TABLE`: Power BI shows only the former, other tools take both.
const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";
const MATERIALIZED_VIEW: &str = "MATERIALIZED VIEW";
const SYSTEM_TABLE: &str = "SYSTEM TABLE";

impl FlightFrontend {
    /// Schema of a metadata command's answer. Errors: `Unsupported` for commands that are none.
    pub(super) fn metadata_schema(command: &Command) -> Result<SchemaRef> {
        Ok(match command {
            Command::CommandGetCatalogs(_) => GetCatalogsBuilder::new().schema(),
            Command::CommandGetDbSchemas(command) => command.clone().into_builder().schema(),
            Command::CommandGetTables(command) => command.clone().into_builder().schema(),
            Command::CommandGetTableTypes(_) => CommandGetTableTypes {}.into_builder().schema(),
            Command::CommandGetSqlInfo(_) => Arc::new(SqlInfoDataBuilder::schema().clone()),
            Command::CommandGetXdbcTypeInfo(_) => XdbcTypeInfoDataBuilder::new().schema(),
            Command::CommandGetPrimaryKeys(_) => primary_keys(),
            Command::CommandGetExportedKeys(_) | Command::CommandGetImportedKeys(_) | Command::CommandGetCrossReference(_) => {
                foreign_keys()
            }
            command => return Err(unsupported(command)),
        })
    }

    /// A metadata command's answer.
    pub(super) async fn metadata(&self, session: &Arc<Session>, command: &Command) -> Result<RecordBatch> {
        match command {
            Command::CommandGetCatalogs(command) => catalogs(*command),
            Command::CommandGetDbSchemas(command) => self.schemas(command.clone()).await,
            Command::CommandGetTables(command) => self.tables(session, command).await,
            Command::CommandGetTableTypes(command) => table_types(*command),
            Command::CommandGetSqlInfo(command) => command.clone().into_builder(sql_info::server()?).build().map_err(internal),
            Command::CommandGetXdbcTypeInfo(command) => command.into_builder(sql_info::types()?).build().map_err(internal),
            // There are no keys; an empty answer, because tools open no table without one.
            command => Ok(RecordBatch::new_empty(Self::metadata_schema(command)?)),
        }
    }

    async fn schemas(&self, command: CommandGetDbSchemas) -> Result<RecordBatch> {
        let mut builder = command.into_builder();
        for database in self.coordinator.catalog().databases().await? {
            builder.append(CATALOG, &database.name);
        }
        for (catalog, schema, _) in COMPUTED {
            builder.append(catalog, schema);
        }
        builder.build().map_err(internal)
    }

    async fn tables(&self, session: &Arc<Session>, command: &CommandGetTables) -> Result<RecordBatch> {
        // Names first: schemas are read only of tables that the filters leave.
        let mut builder = CommandGetTables { include_schema: false, ..command.clone() }.into_builder();
        let none = Schema::empty();
        for table in self.coordinator.catalog().tables(None).await? {
            let kind = match table.kind {
                TableKind::External | TableKind::Managed => TABLE,
                TableKind::View => VIEW,
                TableKind::MaterializedView => MATERIALIZED_VIEW,
            };
            builder.append(CATALOG, &table.database, &table.name, kind, &none).map_err(internal)?;
        }
        for (catalog, schema, tables) in COMPUTED {
            for table in tables {
                builder.append(catalog, schema, table, SYSTEM_TABLE, &none).map_err(internal)?;
            }
        }
        let names = builder.build().map_err(internal)?;
        if !command.include_schema {
            return Ok(names);
        }
        let name = |column: usize, row: usize| names.column(column).as_string::<i32>().value(row).to_owned();
        let mut schemas = Vec::with_capacity(names.num_rows());
        for row in 0..names.num_rows() {
            let (catalog, schema, table) = (name(0, row), name(1, row), name(2, row));
            let columns = self.table_schema(session, &catalog, &schema, &table).await?;
            schemas.push(ipc(&columns::of_table(&catalog, &schema, &table, &columns))?);
        }
        let schemas: ArrayRef = Arc::new(BinaryArray::from_iter_values(schemas));
        let all = names.columns().iter().map(Arc::clone).chain([schemas]).collect();
        Ok(RecordBatch::try_new(command.clone().into_builder().schema(), all)?)
    }

    /// The columns of a listed table; none if it was dropped since.
    async fn table_schema(&self, session: &Arc<Session>, catalog: &str, schema: &str, table: &str) -> Result<SchemaRef> {
        if COMPUTED.iter().any(|(c, s, _)| (*c, *s) == (catalog, schema)) {
            let statement = self.coordinator.prepare(session, &format!("SELECT * FROM {catalog}.{schema}.{table}")).await?;
            return Ok(statement.schema());
        }
        let table = self.coordinator.catalog().table(schema, table).await?;
        Ok(table.map_or_else(|| Arc::new(Schema::empty()), |table| client_schema(&table.full_schema())))
    }
}

fn catalogs(command: CommandGetCatalogs) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    builder.append(CATALOG);
    builder.append(system::CATALOG);
    builder.build().map_err(internal)
}

fn table_types(command: CommandGetTableTypes) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    for table_type in [MATERIALIZED_VIEW, SYSTEM_TABLE, TABLE, VIEW] {
        builder.append(table_type);
    }
    builder.build().map_err(internal)
}

fn internal(cause: arrow_flight::error::FlightError) -> Error {
    Error::internal(format!("cannot build a metadata answer: {cause}"))
}

fn primary_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("key_name", DataType::Utf8, true),
    ]))
}

fn foreign_keys() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}
