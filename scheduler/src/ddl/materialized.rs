//! Materialized views as names: what a new one is, what its query stands on, how it is shown.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};
use datafusion::arrow::datatypes::{Field, Schema};
use windlass_catalog::BaseVersion;
use windlass_catalog::catalog::{NewTable, TableKind, TableMeta, ViewDefinition};
use windlass_catalog::commit::Cause;
use windlass_catalog::ddl::{Column, CreateMaterializedView, CreateTable, CreateView, DatabaseName, Key, Noun, Pattern};

use super::show::check_noun;
use super::views::referenced_tables;
use super::{DdlExecutor, Names, Row, ViewPlanner, already_exists, full_name};
use crate::error::{Error, Result};
use crate::write::table_column;

/// Materialized views that are listed.
const VIEWS_SHOWN_MAX: usize = 10_000;

impl DdlExecutor {
    /// The materialized view that a statement makes, and the one whose place it takes; none if there is one already and that is fine.
    ///
    /// Errors: those of planning its query and of making a table for it.
    pub(crate) async fn new_materialized_view(
        &self,
        create: &CreateMaterializedView,
        current_database: &str,
        planner: &dyn ViewPlanner,
    ) -> Result<Option<(NewTable, Option<Arc<TableMeta>>)>> {
        let CreateView { view: name, or_replace, if_not_exists, comment, properties, .. } = &create.view;
        let by = Cause::default();
        let names = Names { executor: self, current_database, by: &by, planner };
        let (database, table) = names.qualify(name)?;
        let replaced = names.catalog().table(&database, &table).await?;
        if let Some(existing) = &replaced {
            if *if_not_exists {
                return Ok(None);
            }
            if !*or_replace {
                return Err(already_exists(Noun::of(existing.kind).name(), full_name(existing)));
            }
            check_noun(existing, Noun::MaterializedView)?;
        }
        let (view, planned) = names.plan_view(&create.view, &database, &table).await?;
        let columns = planned.fields().iter().map(|field| table_column(field)).collect::<Result<Vec<_>>>()?;
        let comment_of = |name: &str| {
            let field = planned.fields().iter().find(|field| field.name().eq_ignore_ascii_case(name));
            field.and_then(|field| Column::from_field(field).comment)
        };
        let keys = create.keys.iter().map(|name| Key { name: name.clone(), key_type: None, comment: comment_of(name) });
        let (comment, properties) = (comment.clone(), properties.clone());
        let keys = (!create.keys.is_empty()).then(|| keys.collect());
        let create = CreateTable { keys, comment, properties, ..CreateTable::named(name.clone()) };
        let made = self.new_table(&create, columns, current_database, replaced.as_deref()).await?;
        let mut made = made.ok_or_else(|| Error::internal("a materialized view may not exist and does"))?;
        let commented = |field: &Arc<Field>| Column { comment: comment_of(field.name()), ..Column::from_field(field) }.to_field();
        made.schema = Arc::new(Schema::new(made.schema.fields().iter().map(commented).collect::<Vec<_>>()));
        (made.kind, made.view) = (TableKind::MaterializedView, Some(view));
        Ok(Some((made, replaced)))
    }

    /// The views that a query reads, directly or through others, as they are now. Those that keep rows are tables to it.
    pub(crate) async fn views_below(&self, definition: &ViewDefinition) -> Result<Vec<BaseVersion>> {
        let mut queries = vec![definition.clone()];
        let mut found = Vec::<BaseVersion>::new();
        while let Some(query) = queries.pop() {
            for (database, name) in referenced_tables(&query)? {
                let Some(view) = self.catalog.table(&database, &name).await?.filter(|table| table.kind == TableKind::View) else {
                    continue;
                };
                if found.iter().all(|known| known.table_id != view.id) {
                    found.push(BaseVersion { table_id: view.id, name: full_name(&view), version: view.version });
                    queries.extend(view.view.clone());
                }
            }
        }
        Ok(found)
    }
}

impl Names<'_> {
    /// The statement that recreates a materialized view. Its columns are listed in the order of its query, if that can still be planned.
    pub(super) async fn create_materialized_view(&self, table: &TableMeta) -> Result<Option<CreateMaterializedView>> {
        let Some(view) = &table.view else { return Ok(None) };
        let columns = match self.planner.plan_schema(view, Arc::default()).await {
            Ok(schema) => schema.fields().iter().map(|field| field.name().to_lowercase()).collect(),
            Err(_) => Vec::new(),
        };
        Ok(CreateMaterializedView::of(table, &columns))
    }

    pub(super) async fn show_materialized_views(&self, database: Option<&DatabaseName>, like: Option<&Pattern>) -> Result<Vec<Row>> {
        let current = DatabaseName { catalog: None, name: self.current_database.to_owned() };
        let name = self.database(database.unwrap_or(&current)).await?.name;
        let views = self.catalog().materialized_views(None, VIEWS_SHOWN_MAX).await?.into_iter();
        let is_shown = |table: &TableMeta| table.database == name && like.is_none_or(|pattern| pattern.matches(&table.name));
        let row = |view: windlass_catalog::catalog::MaterializedView| {
            let refreshed = DateTime::from_timestamp_millis(view.refreshed_ms);
            vec![
                Some(view.view.database.clone()),
                Some(view.view.name.clone()),
                Some(if view.is_fresh() { "fresh" } else { "stale" }.to_owned()),
                refreshed.map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true)),
                view.rows.map(|rows| rows.to_string()),
            ]
        };
        Ok(views.filter(|view| is_shown(&view.view)).map(row).collect())
    }
}
