//! The table that `CREATE TABLE ... AS` makes.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use url::Url;
use windlass_catalog::catalog::{NewTable, PartitionKey, TableKind, TableMeta, ViewDefinition};
use windlass_catalog::commit::Cause;
use windlass_catalog::ddl::types::type_name;
use windlass_catalog::ddl::{CreateTable, DatabaseName, Noun, TableName, key_type};
use windlass_catalog::names::TemporaryViews;
use windlass_engine::write::WriteFormat;

use super::show::check_noun;
use super::{DdlExecutor, Names, ViewPlanner, already_exists, not_allowed};
use crate::error::{Error, Result};

impl DdlExecutor {
    /// The table that a query with these columns makes, perhaps in the place of `replaced`; none if there is one already and that is fine.
    ///
    /// Keys are columns of the query, and follow the others. Errors: those of `CREATE TABLE`; `Invalid` for keys that the query does not
    /// have, and for a directory that is not empty, since its files would belong to the table.
    pub(crate) async fn new_table(
        &self,
        create: &CreateTable,
        mut columns: Vec<Field>,
        current_database: &str,
        replaced: Option<&TableMeta>,
    ) -> Result<Option<NewTable>> {
        let (by, planner) = (Cause::default(), NoViews);
        let names = Names { executor: self, current_database, by: &by, planner: &planner };
        let (database, name) = names.qualify(&create.table)?;
        let parent = names.database(&DatabaseName { catalog: None, name: database.clone() }).await?;
        if replaced.is_none() && names.catalog().table(&database, &name).await?.is_some() {
            return if create.if_not_exists { Ok(None) } else { Err(already_exists("table", format!("{database}.{name}"))) };
        }
        if WriteFormat::of(create.storage.format).is_none() {
            let format = create.storage.format;
            return Err(Error::unsupported(format!("CREATE TABLE ... AS cannot write {format} files, which can only be read")));
        }
        if create.columns.is_some() {
            return Err(Error::invalid("CREATE TABLE ... AS takes its columns from the query")
                .with_hint("leave the columns out, and name them there with AS"));
        }
        let (kind, location) = match &create.location {
            Some(text) => (TableKind::External, self.check_location(text)?),
            None => (TableKind::Managed, names.default_location(&parent, &name)?),
        };
        if !replaced.is_some_and(|replaced| is_place_of(&location, replaced)) {
            names.check_empty(&location).await?;
        }
        if let Some(twice) = (1..columns.len()).find(|place| columns[..*place].iter().any(|before| before.name() == columns[*place].name()))
        {
            return Err(Error::invalid(format!("the query has two columns named '{}'", columns[twice].name()))
                .with_hint("give one of them another name with AS"));
        }
        let mut keys = Vec::new();
        for key in create.keys.iter().flatten() {
            let Some(place) = columns.iter().position(|column| *column.name() == key.name) else {
                return Err(Error::invalid(format!("partition key '{}' is no column of the query", key.name)));
            };
            let column = columns.remove(place);
            let found = key.key_type.or_else(|| key_type(column.data_type()));
            let key_type = found.ok_or_else(|| {
                let found = type_name(column.data_type());
                Error::invalid(format!("partition key '{}' cannot be {found}", key.name))
                    .with_hint("keys are string, int, bigint, date, timestamp, boolean or decimal: use CAST")
            })?;
            keys.push(PartitionKey { name: key.name.clone(), key_type, comment: key.comment.clone() });
        }
        if columns.is_empty() {
            return Err(Error::invalid(format!("table '{database}.{name}' needs a column that is not a partition key")));
        }
        let columns = Schema::new(columns);
        create.storage.layout.validate(&columns).map_err(|error| Error::invalid(error.to_string()))?;
        let mut storage = create.storage.clone();
        storage.make_writable(columns.fields().len());
        storage.validate(&create.properties, &columns).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Some(NewTable {
            database,
            name,
            kind,
            location: location.into(),
            schema: Arc::new(columns),
            keys,
            comment: create.comment.clone(),
            properties: create.properties.clone(),
            view: None,
            storage,
        }))
    }

    /// The table whose place a new one takes, if there is one. Errors: `Invalid` for a view.
    pub(crate) async fn replaced(&self, name: &TableName, current_database: &str) -> Result<Option<Arc<TableMeta>>> {
        let (by, planner) = (Cause::default(), NoViews);
        let names = Names { executor: self, current_database, by: &by, planner: &planner };
        let (database, name) = names.qualify(name)?;
        let replaced = names.catalog().table(&database, &name).await?;
        replaced.iter().try_for_each(|table| check_noun(table, Noun::Table))?;
        Ok(replaced)
    }

    /// The directory URL of a location that a user wrote. Errors: `Denied` outside of the allowed locations.
    pub(crate) fn check_location(&self, text: &str) -> Result<Url> {
        self.locations.check(text).map_err(not_allowed)
    }
}

/// Whether all that lies in a place is a table's, and garbage without it.
pub(super) fn is_place_of(location: &Url, table: &TableMeta) -> bool {
    table.kind != TableKind::External && table.location == location.as_str()
}

/// A table that is made of rows has no views to plan.
struct NoViews;

#[async_trait]
impl ViewPlanner for NoViews {
    async fn plan_schema(&self, _: &ViewDefinition, _: Arc<TemporaryViews>) -> Result<SchemaRef> {
        Err(Error::internal("a new table is no view"))
    }
}
