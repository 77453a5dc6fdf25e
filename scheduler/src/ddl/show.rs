//! SHOW and DESCRIBE.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::DateTime;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::stats::Precision;
use datafusion::common::{ScalarValue, Statistics};
use windlass_catalog::KeyPredicate;
use windlass_catalog::catalog::{CATALOG, TableKind, TableMeta, ViewDefinition};
use windlass_catalog::ddl::types::type_name;
use windlass_catalog::ddl::{
    Column, Condition, CreateTable, CreateView, DatabaseName, DdlStatement, Noun, PartitionValues, Pattern, TableName,
};
use windlass_catalog::scan::table_statistics;
use windlass_engine::Dialect;

use super::{Names, PARTITIONS_MAX, Row, not_found, too_many_partitions};
use crate::error::{Error, Result};

impl Names<'_> {
    pub(super) async fn show(&self, statement: &DdlStatement) -> Result<Vec<Row>> {
        match statement {
            DdlStatement::ShowCatalogs { like } => {
                let catalogs = self.executor.virtual_tables.iter().filter_map(|table| table.catalog.clone());
                Ok(names_like(catalogs.chain([CATALOG.to_owned()]), like.as_ref()))
            }
            DdlStatement::ShowDatabases { catalog, like } => {
                self.show_databases(catalog.as_deref().unwrap_or(CATALOG), like.as_ref()).await
            }
            DdlStatement::ShowTables { database, like, views_only } => {
                self.show_tables(database.as_ref(), like.as_ref(), *views_only).await
            }
            DdlStatement::ShowMaterializedViews { database, like } => self.show_materialized_views(database.as_ref(), like.as_ref()).await,
            DdlStatement::ShowFunctions { like } => {
                let functions = self.planner.functions().into_iter();
                let shown = functions.filter(|(name, _)| like.as_ref().is_none_or(|pattern| pattern.matches(name)));
                Ok(shown.map(|(name, kind)| vec![Some(name), Some(kind.to_owned())]).collect())
            }
            DdlStatement::ShowColumns(table) => self.columns(table).await,
            DdlStatement::Describe { table, extended: false } => self.columns(table).await,
            DdlStatement::Describe { table, extended: true } => self.describe_extended(table).await,
            DdlStatement::DescribePartition { table, values } => self.describe_partition(table, values).await,
            DdlStatement::ShowProperties { table, name } => {
                let properties = self.table(table).await?.properties.clone();
                if let Some(name) = name.as_ref().filter(|name| !properties.contains_key(*name)) {
                    return Err(not_found("property", name.as_str()));
                }
                let shown = properties.into_iter().filter(|(property, _)| name.as_ref().is_none_or(|name| name == property));
                Ok(shown.map(|(property, value)| vec![Some(property), Some(value)]).collect())
            }
            DdlStatement::ShowStats(table) => self.show_stats(table).await,
            DdlStatement::ShowPartitions { table, conditions } => self.show_partitions(table, conditions).await,
            DdlStatement::ShowCreate(table) => {
                let table = self.table(table).await?;
                let statement = match table.kind {
                    TableKind::View => CreateView::of(&table).map(|view| view.to_string()),
                    TableKind::MaterializedView => self.create_materialized_view(&table).await?.map(|view| view.to_string()),
                    TableKind::External | TableKind::Managed => Some(CreateTable::of(&table).to_string()),
                };
                Ok(vec![vec![statement]])
            }
            DdlStatement::DescribeDatabase(name) => {
                let database = self.database(name).await?;
                let row = |property: &str, value: Option<String>| vec![Some(property.to_owned()), value];
                let location = self.database_location(&database)?.to_string();
                Ok(vec![row("name", Some(database.name)), row("location", Some(location)), row("comment", database.comment)])
            }
            _ => Err(Error::internal("a statement that changes names was asked to show them")),
        }
    }

    async fn show_databases(&self, catalog: &str, like: Option<&Pattern>) -> Result<Vec<Row>> {
        let tables = self.executor.virtual_tables.iter().filter(|table| table.catalog.as_deref() == Some(catalog));
        let mut names: Vec<_> = tables.filter_map(|table| table.database.clone()).collect();
        if catalog == CATALOG {
            names.extend(self.catalog().databases().await?.into_iter().map(|database| database.name));
        }
        if names.is_empty() {
            return Err(not_found("catalog", catalog));
        }
        Ok(names_like(names, like))
    }

    async fn show_tables(&self, database: Option<&DatabaseName>, like: Option<&Pattern>, views_only: bool) -> Result<Vec<Row>> {
        let current = DatabaseName { catalog: None, name: self.current_database.to_owned() };
        let database = database.unwrap_or(&current);
        let is_like = |name: &str| like.is_none_or(|pattern| pattern.matches(name));
        let row = |name: &str, kind: &str| vec![Some(database.name.clone()), Some(name.to_owned()), Some(kind.to_owned())];
        let catalog = database.catalog.as_deref().unwrap_or(CATALOG);
        let is_here = |table: &&TableName| table.catalog.as_deref() == Some(catalog) && table.database.as_ref() == Some(&database.name);
        let virtual_tables: Vec<_> = self.executor.virtual_tables.iter().filter(is_here).collect();
        if !virtual_tables.is_empty() {
            let shown = virtual_tables.into_iter().filter(|table| !views_only && is_like(&table.name));
            return Ok(shown.map(|table| row(&table.name, "SYSTEM_TABLE")).collect());
        }
        let name = self.database(database).await?.name;
        let tables = self.catalog().tables(Some(&name)).await?;
        let shown = tables.into_iter().filter(|table| is_like(&table.name) && (!views_only || table.kind == TableKind::View));
        let mut rows: Vec<Row> = shown.map(|table| row(&table.name, table.kind.name())).collect();
        let temporary = self.planner.temporary_views();
        let temporary = temporary.keys().filter(|name| is_like(name));
        rows.extend(temporary.map(|name| vec![None, Some(name.clone()), Some("TEMPORARY_VIEW".to_owned())]));
        Ok(rows)
    }

    async fn columns(&self, table: &TableName) -> Result<Vec<Row>> {
        let row = |column: &Column, extra: Option<&str>| {
            vec![Some(column.name.clone()), Some(type_name(&column.data_type)), extra.map(str::to_owned), column.comment.clone()]
        };
        let in_current = table.database.is_none() && table.catalog.is_none();
        let is_virtual = self.executor.virtual_tables.iter().any(|known| {
            let database = table.database.as_deref().or_else(|| in_current.then_some(self.current_database));
            let is_named = known.database.as_deref() == database && known.catalog.as_deref() == table.catalog.as_deref().or(Some(CATALOG));
            // `system.queries` leaves the database out.
            let is_short = table.catalog.is_none() && known.catalog == table.database && known.catalog.as_deref() != Some(CATALOG);
            known.name == table.name && (is_named || is_short)
        });
        if is_virtual {
            let parts = table.catalog.iter().chain(&table.database).chain([&table.name]);
            let name = parts.map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".");
            let sql = format!("SELECT * FROM {name}");
            let default_database = self.current_database.to_owned();
            let schema =
                self.planner.plan_schema(&ViewDefinition { sql, default_database, dialect: Dialect::Generic }, Arc::default()).await?;
            return Ok(schema.fields().iter().map(|field| row(&Column::from_field(field), None)).collect());
        }
        let temporary = self.planner.temporary_views();
        if let Some(view) = temporary.get(&table.name).filter(|_| in_current) {
            let schema = self.planner.plan_schema(view, Arc::clone(&temporary)).await?;
            return Ok(schema.fields().iter().map(|field| row(&Column::from_field(field), None)).collect());
        }
        let table = self.table(table).await?;
        let full = table.full_schema();
        let columns = full.fields().iter().enumerate().map(|(index, field)| {
            let is_key = index >= table.schema.fields().len();
            row(&Column::from_field(field), is_key.then_some("partition key"))
        });
        Ok(columns.collect())
    }

    /// The columns, an empty line, then a line per fact.
    async fn describe_extended(&self, name: &TableName) -> Result<Vec<Row>> {
        let mut rows = self.columns(name).await?;
        let Some(table) = self.find(name).await? else { return Ok(rows) };
        let mut fact = |name: &str, value: String| rows.push(vec![Some(name.to_owned()), Some(value), None, None]);
        fact("", String::new());
        fact("# table", super::full_name(&table));
        fact("kind", table.kind.name().to_owned());
        table.comment.iter().for_each(|comment| fact("comment", comment.clone()));
        if let Some(view) = &table.view {
            fact("query", view.sql.clone());
            fact("query database", view.default_database.clone());
        }
        if table.kind != TableKind::View {
            let totals = self.catalog().totals(&table).await?;
            fact("location", table.location.clone());
            fact("format", table.storage.format.to_string());
            table.storage.serde.iter().for_each(|(name, value)| fact(&format!("serde {name}"), value.clone()));
            let layout = &table.storage.layout;
            if layout.buckets > 0 {
                fact("clustered by", layout.bucketed_by.join(", "));
                fact("buckets", layout.buckets.to_string());
            }
            if !layout.sorted_by.is_empty() {
                fact("sorted by", layout.sorted_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
            }
            fact("partition keys", table.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", "));
            fact("partitions", totals.partitions.to_string());
            fact("files", totals.files.to_string());
            fact("bytes", totals.bytes.to_string());
            fact("rows", totals.rows.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string()));
        }
        fact("version", table.version.to_string());
        table.delta.iter().for_each(|version| fact("version of the log", version.number().to_string()));
        fact("created", DateTime::from_timestamp_millis(table.created_ms).map_or_else(String::new, |time| time.to_rfc3339()));
        table.properties.iter().for_each(|(name, value)| fact(&format!("property {name}"), value.clone()));
        Ok(rows)
    }

    /// The columns, an empty line, then a line per fact.
    async fn describe_partition(&self, name: &TableName, values: &PartitionValues) -> Result<Vec<Row>> {
        let table = self.table(name).await?;
        let partition = self.partition(&table, values).await?;
        let mut rows = self.columns(name).await?;
        let mut fact = |name: &str, value: String| rows.push(vec![Some(name.to_owned()), Some(value), None, None]);
        fact("", String::new());
        fact("# partition", partition.name);
        fact("location", partition.location);
        fact("files", partition.files.to_string());
        fact("bytes", partition.bytes.to_string());
        fact("rows", partition.rows.map_or_else(|| "unknown".to_owned(), |rows| rows.to_string()));
        Ok(rows)
    }

    async fn show_stats(&self, name: &TableName) -> Result<Vec<Row>> {
        let table = self.table(name).await?;
        check_has_files(&table)?;
        let found = self.catalog().scan(&table, &KeyPredicate::All, None, PARTITIONS_MAX).await?;
        match found.truncated {
            true => Err(too_many_partitions(&table)),
            false => stats_rows(&table, &table_statistics(&table, found)?),
        }
    }

    async fn show_partitions(&self, name: &TableName, conditions: &[Condition]) -> Result<Vec<Row>> {
        let table = self.table(name).await?;
        if table.keys.is_empty() {
            return Err(Error::invalid(format!("table '{}' is not partitioned", super::full_name(&table))));
        }
        let predicate = super::partitions::predicate(&table, conditions)?;
        let list = self.catalog().partitions(&table, &predicate, PARTITIONS_MAX).await?;
        if list.truncated {
            return Err(too_many_partitions(&table));
        }
        let kept = list.partitions.into_iter().filter(|partition| predicate.evaluate(&partition.values));
        let row = |partition: windlass_catalog::catalog::Partition| {
            vec![
                Some(partition.name),
                Some(partition.location),
                Some(partition.files.to_string()),
                Some(partition.bytes.to_string()),
                partition.rows.map(|rows| rows.to_string()),
            ]
        };
        Ok(kept.map(row).collect())
    }
}

/// One line per column, and one about the table, as Trino has them. Numbers are those that plans are made with.
fn stats_rows(table: &TableMeta, statistics: &Statistics) -> Result<Vec<Row>> {
    let rows = statistics.num_rows.get_value();
    let schema = table.full_schema();
    let columns = schema.fields().iter().zip(&statistics.column_statistics).map(|(field, column)| {
        let is_fixed = field.data_type().primitive_width().is_some() || *field.data_type() == DataType::Boolean;
        let number = |value: &Precision<usize>| value.get_value().map(|value| value.to_string());
        let bound = |value: &Precision<ScalarValue>| {
            let value = value.get_value().filter(|value| is_fixed && !value.is_null());
            value.map(|value| Ok::<_, Error>(array_value_to_string(&value.to_array()?, 0)?)).transpose()
        };
        let nulls = column.null_count.get_value().zip(rows.filter(|rows| **rows > 0));
        Ok(vec![
            Some(field.name().clone()),
            if is_fixed { None } else { number(&column.byte_size) },
            number(&column.distinct_count),
            nulls.map(|(nulls, rows)| (*nulls as f64 / *rows as f64).to_string()),
            None,
            bound(&column.min_value)?,
            bound(&column.max_value)?,
        ])
    });
    let of_table = vec![None, None, None, None, rows.map(|rows| rows.to_string()), None, None];
    columns.chain([Ok(of_table)]).collect()
}

/// One row per different name, in order.
fn names_like(names: impl IntoIterator<Item = String>, like: Option<&Pattern>) -> Vec<Row> {
    let names: BTreeSet<_> = names.into_iter().filter(|name| like.is_none_or(|pattern| pattern.matches(name))).collect();
    names.into_iter().map(|name| vec![Some(name)]).collect()
}

/// Whether a thing is of another kind than the statement says, said in an error.
pub(super) fn check_noun(table: &TableMeta, said: Noun) -> Result<()> {
    let is = Noun::of(table.kind);
    if is == said {
        return Ok(());
    }
    let words = |noun: Noun| noun.name().to_uppercase();
    Err(Error::invalid(format!("'{}' is a {}", super::full_name(table), is.name())).with_hint(format!(
        "say {} instead of {}",
        words(is),
        words(said)
    )))
}

/// Refuses what keeps no rows.
pub(super) fn check_has_files(table: &TableMeta) -> Result<()> {
    if table.kind == TableKind::View { check_noun(table, Noun::Table) } else { Ok(()) }
}
