//! What is made, altered and dropped.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;
use windlass_catalog::catalog::{
    Contents, DEFAULT_DATABASE, Database, NewPartition, NewTable, Partition, PartitionKey, TableChange, TableKind, TableMeta,
    ViewDefinition,
};
use windlass_catalog::ddl::statement::schema_of;
use windlass_catalog::ddl::types::type_name;
use windlass_catalog::ddl::{
    Alteration, Column, ColumnChange, Condition, CreateDatabase, CreateTable, CreateView, DatabaseName, NewPartitionSpec, Noun,
    PartitionValue, PartitionValues, QUERY_DEPTH_MAX, TableName, rewrite_versions,
};
use windlass_catalog::delta::{check_changeable, check_declared};
use windlass_catalog::discover::{self, Discover, Discovery, Layout, object_path, object_url};
use windlass_catalog::{Comparison, Error as CatalogError, KeyPredicate, keys};
use windlass_engine::evolution::reads;
use windlass_engine::formats::{FileFormat, Storage};
use windlass_engine::write::WriteFormat;

use super::show::check_noun;
use super::{Names, Outcome, PARTITIONS_MAX, already_exists, full_name, not_found, too_many_partitions};
use crate::error::{Error, Result};

/// Files in the directory of a table to be made that are looked at.
const FILES_LOOKED_AT_MAX: usize = 1000;

/// Views that one view may stand on, directly or not.
pub(super) const VIEWS_BELOW_MAX: usize = 1000;

impl Names<'_> {
    pub(super) async fn create_database(&self, create: &CreateDatabase) -> Result<Outcome> {
        super::own_catalog(create.database.catalog.as_deref())?;
        let name = create.database.name.clone();
        let location = create.location.as_ref().map(|text| self.location(text)).transpose()?;
        let database = Database { name, location: location.map(Into::into), comment: create.comment.clone() };
        match self.catalog().create_database(database).await {
            Err(CatalogError::AlreadyExists { .. }) if create.if_not_exists => Ok(skipped("database", &create.database)),
            done => done.map(|()| Outcome::Done(None)).map_err(Error::from),
        }
    }

    /// Forgets a database and, with `cascade`, its tables; files of managed tables are garbage.
    pub(super) async fn drop_database(&self, name: &DatabaseName, if_exists: bool, cascade: bool) -> Result<Outcome> {
        let database = match self.database(name).await {
            Err(error) if if_exists && error.kind() == windlass_proto::Kind::NotFound => return Ok(absent("database", name)),
            found => found?.name,
        };
        self.catalog().drop_database(&database, cascade, &self.by.doing("DROP DATABASE")).await?;
        Ok(Outcome::Done(None))
    }

    /// Makes a table.
    ///
    /// With a location the table is external, whether `EXTERNAL` was said or not, so that `DROP TABLE` never deletes files that were
    /// there before. Everything that lies in the location is registered at once, except for partitions in Hive's form (columns and
    /// typed keys), which wait for `MSCK REPAIR TABLE` or `ADD PARTITION` as they do in Hive and Athena.
    pub(super) async fn create_table(&self, create: &CreateTable) -> Result<Outcome> {
        let (database, name) = self.qualify(&create.table)?;
        let parent = self.database(&DatabaseName { catalog: None, name: database.clone() }).await?;
        if self.catalog().table(&database, &name).await?.is_some() {
            return if create.if_not_exists {
                Ok(skipped("table", &create.table))
            } else {
                Err(already_exists("table", format!("{database}.{name}")))
            };
        }
        let kind = if create.external || create.location.is_some() { TableKind::External } else { TableKind::Managed };
        let location = match &create.location {
            Some(text) => self.location(text)?,
            None => self.default_location(&parent, &name)?,
        };
        match kind {
            TableKind::Managed => self.check_empty(&location).await?,
            _ => self.check_directory(&location).await?,
        }

        let schema = create.columns.as_deref().map(schema_of);
        let mut storage = create.storage.clone();
        if kind == TableKind::Managed && WriteFormat::of(storage.format).is_none() {
            let message = format!("table '{database}.{name}' is managed, and {} files can only be read", storage.format);
            return Err(Error::unsupported(message).with_hint("give the directory of the files as LOCATION"));
        }
        if let (TableKind::Managed, Some(columns)) = (kind, &schema) {
            storage.make_writable(columns.fields().len());
        }
        let fits = |columns: &Schema, storage: &Storage| {
            storage.validate(&create.properties, columns).map_err(|error| Error::invalid(error.to_string()))
        };
        schema.as_deref().map_or_else(|| fits(&Schema::empty(), &storage), |columns| fits(columns, &storage))?;
        let declared_keys =
            create.keys.iter().flatten().filter_map(|key| {
                key.key_type.map(|key_type| PartitionKey { name: key.name.clone(), key_type, comment: key.comment.clone() })
            });
        let mut keys: Vec<_> = declared_keys.collect();
        let in_hive_form = schema.is_some() && create.keys.is_some() && !create.keys_by_name;
        let mut contents = Contents::default();
        let schema = match schema {
            declared if storage.format == FileFormat::Delta => {
                let discovery = self.discover(location.as_str(), Layout::Inferred, None, (&create.storage, &create.properties)).await?;
                let found = (discovery.schema.as_ref(), discovery.keys.as_slice());
                check_declared(&format!("{database}.{name}"), declared.as_deref(), create.keys.as_deref(), found)?;
                keys = discovery.keys;
                discovery.schema
            }
            Some(schema) if in_hive_form || kind == TableKind::Managed => schema,
            None if kind == TableKind::Managed => {
                return Err(Error::invalid(format!("table '{database}.{name}' needs columns, or a LOCATION with files to read them from")));
            }
            declared => {
                let untyped = create.keys.as_ref().is_some_and(|wanted| wanted.len() > keys.len());
                let infer = untyped || (declared.is_none() && create.keys.is_none());
                let layout = if infer { Layout::Inferred } else { Layout::Keys(&keys) };
                let kept = (&create.storage, &create.properties);
                let discovery = self.discover(location.as_str(), layout, declared.as_ref(), kept).await?;
                // What the statement says of a field comes before what files seem to say.
                storage.serde = discovery.mapping.into_iter().chain(storage.serde).collect();
                if let Some(wanted) = create.keys.as_ref().filter(|_| untyped) {
                    check_inferred(&discovery.keys, wanted.iter().map(|key| key.name.as_str()).collect(), &location)?;
                }
                let found = discovery.partitions.into_iter();
                contents.add_partitions =
                    found.map(|found| NewPartition { values: found.values, location: found.location, files: found.files }).collect();
                if infer {
                    keys = discovery.keys;
                }
                discovery.schema
            }
        };
        if schema.fields().is_empty() {
            return Err(Error::invalid(format!("table '{database}.{name}' needs a column that is not a partition key")));
        }
        fits(&schema, &storage)?;
        storage.layout.validate(&schema).map_err(|error| Error::invalid(error.to_string()))?;
        let table = NewTable {
            database,
            name,
            kind,
            location: location.into(),
            schema,
            keys,
            comment: create.comment.clone(),
            properties: create.properties.clone(),
            storage,
            view: None,
        };
        match self.catalog().create_table(table, contents, &self.by.doing("CREATE TABLE")).await {
            Err(CatalogError::AlreadyExists { .. }) if create.if_not_exists => Ok(skipped("table", &create.table)),
            done => done.map(|_| Outcome::Done(None)).map_err(Error::from),
        }
    }

    pub(super) async fn create_view(&self, create: &CreateView) -> Result<Outcome> {
        let (database, name) = self.qualify(&create.view)?;
        if create.temporary {
            return match self.planner.temporary_views().contains_key(&name) {
                true if create.if_not_exists => Ok(skipped("view", &create.view)),
                true if !create.or_replace => Err(already_exists("temporary view", name)),
                _ => {
                    let (view, _) = self.plan_view(create, &database, &name).await?;
                    Ok(Outcome::TemporaryView(name, Some(view)))
                }
            };
        }
        let existing = self.catalog().table(&database, &name).await?;
        if let Some(existing) = &existing {
            if create.if_not_exists {
                return Ok(skipped("view", &create.view));
            }
            if !create.or_replace {
                return Err(already_exists("view", format!("{database}.{name}")));
            }
            check_noun(existing, Noun::View)?;
        }
        let (view, schema) = self.plan_view(create, &database, &name).await?;
        if let Some(existing) = existing {
            if existing.comment == create.comment && existing.properties == create.properties {
                self.change(&existing, "CREATE OR REPLACE VIEW", TableChange::View { view, schema }).await?;
                return Ok(Outcome::Done(None));
            }
            self.catalog().drop_table(&existing, &self.by.doing("CREATE OR REPLACE VIEW")).await?;
        }
        let view = NewTable {
            database,
            name,
            kind: TableKind::View,
            location: String::new(),
            schema,
            keys: Vec::new(),
            comment: create.comment.clone(),
            properties: create.properties.clone(),
            storage: Storage::default(),
            view: Some(view),
        };
        match self.catalog().create_table(view, Contents::default(), &self.by.doing("CREATE VIEW")).await {
            Err(CatalogError::AlreadyExists { .. }) if create.if_not_exists => Ok(skipped("view", &create.view)),
            done => done.map(|_| Outcome::Done(None)).map_err(Error::from),
        }
    }

    /// The definition and the columns of a view. Where the statement names the columns otherwise than the query does, the query is
    /// wrapped, so that a stored query alone says what the view's columns are.
    pub(super) async fn plan_view(&self, create: &CreateView, database: &str, name: &str) -> Result<(ViewDefinition, SchemaRef)> {
        let mut view =
            ViewDefinition { sql: create.query.clone(), default_database: self.current_database.to_owned(), dialect: create.dialect };
        self.check_acyclic(&view, (database, name)).await?;
        // What all shall see cannot stand on what one session sees.
        let temporary = if create.temporary { self.planner.temporary_views() } else { Arc::default() };
        let schema = self.planner.plan_schema(&view, temporary).await?;
        if !create.columns.is_empty() && create.columns.len() != schema.fields().len() {
            let (named, selected) = (create.columns.len(), schema.fields().len());
            return Err(Error::invalid(format!("view '{database}.{name}' names {named} columns, but its query has {selected}")));
        }
        if create.columns.iter().zip(schema.fields()).any(|(column, field)| column.name != *field.name()) {
            let columns = create.columns.iter().map(|column| create.dialect.quoted(&column.name)).collect::<Vec<_>>().join(", ");
            // A line of its own for the bracket: the query may end in a comment.
            view.sql = format!("SELECT * FROM (\n{}\n) AS {} ({columns})", view.sql, create.dialect.quoted(name));
        }
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        for (column, field) in create.columns.iter().zip(&mut fields) {
            *field = Column { name: column.name.clone(), data_type: field.data_type().clone(), comment: column.comment.clone() }.to_field();
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = fields.iter().find(|field| !names.insert(field.name().to_lowercase())) {
            return Err(Error::invalid(format!("view '{database}.{name}' would have two columns named '{}'", twice.name()))
                .with_hint("give one of them another name with AS"));
        }
        Ok((view, Arc::new(Schema::new(fields))))
    }

    /// Refuses a view that would be read through itself, which nothing could plan.
    async fn check_acyclic(&self, definition: &ViewDefinition, view: (&str, &str)) -> Result<()> {
        let mut queries = vec![definition.clone()];
        let mut seen = HashSet::new();
        while let Some(query) = queries.pop() {
            for (database, name) in referenced_tables(&query)? {
                if (database.as_str(), name.as_str()) == view {
                    return Err(Error::invalid(format!("view '{}.{}' cannot be read from itself", view.0, view.1)));
                }
                if seen.len() >= VIEWS_BELOW_MAX {
                    return Err(Error::invalid(format!(
                        "view '{}.{}' stands on more than {VIEWS_BELOW_MAX} tables and views",
                        view.0, view.1
                    )));
                }
                if seen.insert((database.clone(), name.clone())) {
                    queries.extend(self.catalog().table(&database, &name).await?.and_then(|table| table.view.clone()));
                }
            }
        }
        Ok(())
    }

    /// Forgets a table or view. Files of external tables stay; those of a managed one are garbage.
    pub(super) async fn drop_table(&self, name: &TableName, if_exists: bool, noun: Noun) -> Result<Outcome> {
        if noun == Noun::View && name.database.is_none() && self.planner.temporary_views().contains_key(&name.name) {
            return Ok(Outcome::TemporaryView(name.name.clone(), None));
        }
        let Some(table) = self.find(name).await? else {
            return if if_exists { Ok(absent(noun.name(), name)) } else { Err(not_found(noun.name(), name.to_string())) };
        };
        check_noun(&table, noun)?;
        let cause = self.by.doing(&format!("DROP {}", noun.name().to_uppercase()));
        match self.catalog().drop_table(&table, &cause).await {
            // Another statement was faster.
            Err(CatalogError::NotFound { .. }) if if_exists => return Ok(absent(noun.name(), name)),
            done => done?,
        }
        Ok(Outcome::Done(None))
    }

    pub(super) async fn alter(&self, name: &TableName, noun: Noun, alteration: &Alteration) -> Result<Outcome> {
        let table = self.table(name).await?;
        let of_any_kind = match alteration {
            Alteration::Rename(_) | Alteration::Comment(_) | Alteration::SetProperties(_) | Alteration::UnsetProperties { .. } => true,
            Alteration::ChangeColumn(change) => change.name.is_none() && change.data_type.is_none(),
            _ => false,
        };
        // Hive and Spark let ALTER TABLE rename views and change their properties; COMMENT ON COLUMN does not say what it is of.
        if !of_any_kind || noun != Noun::Table {
            check_noun(&table, noun)?;
        }
        match alteration {
            Alteration::AddPartitions { if_not_exists, partitions } => {
                return self.add_partitions(&table, partitions, *if_not_exists).await;
            }
            Alteration::DropPartitions { if_exists, specs } => return self.drop_partitions(&table, specs, *if_exists).await,
            Alteration::Rename(new_name) => self.rename(table, new_name).await?,
            Alteration::AddColumns(columns) => {
                let schema = with_columns(&table, columns)?;
                self.change(&table, "ADD COLUMNS", TableChange::Columns(schema)).await?;
            }
            Alteration::SetProperties(properties) => {
                let mut all = table.properties.clone();
                all.extend(properties.clone());
                table.storage.validate(&all, &table.schema).map_err(|error| Error::invalid(error.to_string()))?;
                let properties = properties.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect();
                self.change(&table, "SET TBLPROPERTIES", TableChange::Properties(properties)).await?;
            }
            Alteration::UnsetProperties { names, if_exists } => {
                if let Some(name) = names.iter().find(|name| !*if_exists && !table.properties.contains_key(*name)) {
                    return Err(not_found("property", name.as_str()));
                }
                let properties: BTreeMap<_, _> = names.iter().map(|name| (name.clone(), None)).collect();
                self.change(&table, "UNSET TBLPROPERTIES", TableChange::Properties(properties)).await?;
            }
            Alteration::SetLocation(text) => self.set_location(table, text).await?,
            Alteration::SetPartitionLocation { values, location } => self.move_partition(&table, values, location).await?,
            Alteration::RenamePartition { from, to } => self.rename_partition(&table, from, to).await?,
            Alteration::ChangeColumn(ColumnChange { column, name: None, data_type: None, comment: Some(comment) })
                if table.keys.iter().any(|key| key.name == *column) =>
            {
                let mut keys = table.keys.clone();
                keys.iter_mut().filter(|key| key.name == *column).for_each(|key| key.comment.clone_from(comment));
                self.change(&table, "COMMENT", TableChange::Keys(keys)).await?;
            }
            Alteration::ChangeColumn(change) => {
                let is_empty = self.catalog().totals(&table).await?.files == 0;
                let schema = with_change(&table, change, is_empty)?;
                self.change(&table, "CHANGE COLUMN", TableChange::Columns(schema)).await?;
            }
            Alteration::Comment(comment) => {
                self.change(&table, "COMMENT", TableChange::Comment(comment.clone())).await?;
            }
            Alteration::Query { query, dialect } => {
                let columns = Vec::new();
                let (comment, properties) = (table.comment.clone(), table.properties.clone());
                let create = CreateView {
                    view: TableName::of(&table),
                    temporary: false,
                    or_replace: true,
                    if_not_exists: false,
                    columns,
                    comment,
                    properties,
                    query: query.clone(),
                    dialect: *dialect,
                };
                let (view, schema) = self.plan_view(&create, &table.database, &table.name).await?;
                self.change(&table, "ALTER VIEW", TableChange::View { view, schema }).await?;
            }
        }
        Ok(Outcome::Done(None))
    }

    /// The directory of a managed table follows its name while it is empty; later it stays, because files do not move in one step.
    async fn rename(&self, mut table: Arc<TableMeta>, new_name: &TableName) -> Result<()> {
        super::own_catalog(new_name.catalog.as_deref())?;
        let database = new_name.database.clone().unwrap_or_else(|| table.database.clone());
        let parent = self.database(&DatabaseName { catalog: None, name: database.clone() }).await?;
        if self.catalog().table(&database, &new_name.name).await?.is_some() {
            return Err(already_exists("table", format!("{database}.{}", new_name.name)));
        }
        if let Some(view) = &table.view {
            // A view that stands on this one may wait for a table of the new name.
            self.check_acyclic(view, (&database, &new_name.name)).await?;
        }
        if table.kind == TableKind::Managed && self.catalog().totals(&table).await?.files == 0 {
            let location = self.default_location(&parent, &new_name.name)?;
            self.check_empty(&location).await?;
            table = self.change(&table, "RENAME TO", TableChange::Location(location.into())).await?;
        }
        self.change(&table, "RENAME TO", TableChange::Rename { database, name: new_name.name.clone() }).await?;
        Ok(())
    }

    /// Partitions keep the locations they have, as in Hive; a table without keys takes the files of its new location.
    async fn set_location(&self, mut table: Arc<TableMeta>, text: &str) -> Result<()> {
        if table.kind == TableKind::Managed {
            return Err(Error::invalid(format!("table '{}' is managed: its location cannot be changed", full_name(&table))));
        }
        let location = self.location(text)?;
        self.check_directory(&location).await?;
        if table.keys.is_empty() {
            // The directory is read first, so that a file that does not fit leaves the table as it was.
            let new = self.read_partition(&table, Vec::new(), location.clone()).await?;
            let old = self.catalog().partitions(&table, &KeyPredicate::All, 1).await?.partitions;
            let remove_partitions = old.iter().map(|partition| partition.id).collect();
            let contents = Contents { remove_partitions, add_partitions: vec![new], ..Contents::default() };
            table = self.change(&table, "SET LOCATION", TableChange::Contents(contents)).await?;
        }
        self.change(&table, "SET LOCATION", TableChange::Location(location.into())).await?;
        Ok(())
    }

    async fn add_partitions(&self, table: &Arc<TableMeta>, specs: &[NewPartitionSpec], if_not_exists: bool) -> Result<Outcome> {
        let mut contents = Contents::default();
        let mut seen = HashSet::new();
        for spec in specs {
            let values = partition_values(table, &spec.values)?;
            if self.partition_with(table, &values).await?.is_some() || !seen.insert(values.clone()) {
                if if_not_exists {
                    continue;
                }
                return Err(already_exists("partition", keys::partition_name(&table.keys, &values)));
            }
            let location = match &spec.location {
                Some(text) => self.location(text)?,
                None => self.location(&partition_location(table, &values)?)?,
            };
            contents.add_partitions.push(self.read_partition(table, values, location).await?);
        }
        let added = contents.add_partitions.len();
        self.commit(table, "ADD PARTITION", contents).await?;
        Ok(Outcome::Done(Some(format!("{added} of {} partitions added", specs.len()))))
    }

    /// A partition, if it exists.
    async fn partition_with(&self, table: &TableMeta, values: &[ScalarValue]) -> Result<Option<Partition>> {
        let equal = values.iter().enumerate().map(|(key, value)| match value.is_null() {
            true => KeyPredicate::IsNull(key),
            false => KeyPredicate::Compare(key, Comparison::Equal, value.clone()),
        });
        Ok(self.catalog().partitions(table, &KeyPredicate::and(equal), 1).await?.partitions.pop())
    }

    /// The partition that `PARTITION (...)` names in full.
    pub(super) async fn partition(&self, table: &TableMeta, values: &PartitionValues) -> Result<Partition> {
        if table.keys.is_empty() {
            return Err(Error::invalid(format!("table '{}' is not partitioned", full_name(table))));
        }
        let values = partition_values(table, values)?;
        let found = self.partition_with(table, &values).await?;
        found.ok_or_else(|| not_found("partition", keys::partition_name(&table.keys, &values)))
    }

    /// The partition takes the files that lie in its new location.
    async fn move_partition(&self, table: &Arc<TableMeta>, values: &PartitionValues, location: &str) -> Result<()> {
        if table.kind == TableKind::Managed {
            return Err(Error::invalid(format!("table '{}' is managed: its partitions cannot be moved", full_name(table))));
        }
        let old = self.partition(table, values).await?;
        let location = self.location(location)?;
        self.check_directory(&location).await?;
        let new = self.read_partition(table, old.values, location).await?;
        self.replace_partition(table, "PARTITION SET LOCATION", old.id, new).await
    }

    /// Files stay where they are, as those of an external table do in Hive.
    async fn rename_partition(&self, table: &Arc<TableMeta>, from: &PartitionValues, to: &PartitionValues) -> Result<()> {
        let old = self.partition(table, from).await?;
        let values = partition_values(table, to)?;
        if self.partition_with(table, &values).await?.is_some() {
            return Err(already_exists("partition", keys::partition_name(&table.keys, &values)));
        }
        let files = self.catalog().files(table, &[old.id]).await?.into_iter().map(|file| file.file).collect();
        let new = NewPartition { values, location: old.location, files };
        self.replace_partition(table, "PARTITION RENAME", old.id, new).await
    }

    async fn replace_partition(&self, table: &TableMeta, operation: &str, old: i64, new: NewPartition) -> Result<()> {
        self.commit(table, operation, Contents { remove_partitions: vec![old], add_partitions: vec![new], ..Contents::default() }).await
    }

    /// A partition with the files that lie in its location. A directory that is empty, or not made yet, is a partition without rows.
    async fn read_partition(&self, table: &TableMeta, values: Vec<ScalarValue>, location: Url) -> Result<NewPartition> {
        let kept = (&table.storage, &table.properties);
        let discovery = self.discover(location.as_str(), Layout::Partition(values.clone()), Some(&table.schema), kept).await?;
        let files = discovery.partitions.into_iter().flat_map(|found| found.files).collect();
        Ok(NewPartition { values, location: location.into(), files })
    }

    /// Forgets partitions. Their files stay if the table is external.
    async fn drop_partitions(&self, table: &TableMeta, specs: &[Vec<Condition>], if_exists: bool) -> Result<Outcome> {
        if table.keys.is_empty() {
            return Err(Error::invalid(format!("table '{}' is not partitioned", full_name(table))));
        }
        let mut ids = BTreeSet::new();
        for conditions in specs {
            let before = ids.len();
            ids.extend(self.partition_ids(table, &predicate(table, conditions)?).await?);
            if ids.len() == before && !if_exists {
                return Err(not_found("partition", describe(conditions)));
            }
        }
        let removed = ids.len();
        let contents = Contents { remove_partitions: ids.into_iter().collect(), ..Contents::default() };
        self.commit(table, "DROP PARTITION", contents).await?;
        Ok(Outcome::Done(Some(format!("{removed} partitions dropped"))))
    }

    /// Takes the rows out of a managed table, or out of some partitions, which stay.
    pub(super) async fn truncate(&self, name: &TableName, conditions: &[Condition]) -> Result<Outcome> {
        let table = self.table(name).await?;
        check_noun(&table, Noun::Table)?;
        check_changeable(&table)?;
        if table.kind != TableKind::Managed {
            return Err(Error::unsupported(format!("table '{}' is external: TRUNCATE leaves its files alone", full_name(&table)))
                .with_hint("use DELETE FROM or INSERT OVERWRITE"));
        }
        let predicate = predicate(&table, conditions)?;
        let empty_partitions = self.partition_ids(&table, &predicate).await?;
        if empty_partitions.is_empty() && !conditions.is_empty() {
            return Err(not_found("partition", describe(conditions)));
        }
        self.commit(&table, "TRUNCATE", Contents { empty_partitions, ..Contents::default() }).await?;
        Ok(Outcome::Done(None))
    }

    /// Partitions that a predicate keeps.
    async fn partition_ids(&self, table: &TableMeta, predicate: &KeyPredicate) -> Result<Vec<i64>> {
        let list = self.catalog().partitions(table, predicate, PARTITIONS_MAX).await?;
        match list.truncated {
            true => Err(too_many_partitions(table)),
            false => Ok(list.partitions.iter().filter(|found| predicate.evaluate(&found.values)).map(|found| found.id).collect()),
        }
    }

    /// Commits contents. Nothing to commit is fine.
    pub(super) async fn commit(&self, table: &TableMeta, operation: &str, contents: Contents) -> Result<()> {
        let Contents { add_partitions, remove_partitions, empty_partitions, add_files, remove_files } = &contents;
        let partitions_stay = add_partitions.is_empty() && remove_partitions.is_empty() && empty_partitions.is_empty();
        if !(partitions_stay && add_files.is_empty() && remove_files.is_empty()) {
            self.change(table, operation, TableChange::Contents(contents)).await?;
        }
        Ok(())
    }

    pub(super) async fn change(&self, table: &TableMeta, operation: &str, change: TableChange) -> Result<Arc<TableMeta>> {
        Ok(self.catalog().change_table(table, &self.by.doing(operation), change).await?)
    }

    /// Lists a location of which nothing is recorded, and reads the footers.
    pub(super) async fn discover(
        &self,
        location: &str,
        layout: Layout<'_>,
        schema: Option<&SchemaRef>,
        (storage, properties): (&Storage, &BTreeMap<String, String>),
    ) -> Result<Discovery> {
        self.compare(Discover { location, layout, schema, grows: false, partitions: &[], known: &[], storage, properties }).await
    }

    /// Lists a location and reads the footers that are not known. Files that wait to be deleted, or to be committed, are not there.
    pub(super) async fn compare(&self, request: Discover<'_>) -> Result<Discovery> {
        let store = self.store(&self.location(request.location)?)?;
        let mut discovery = discover::discover(request, store).await?;
        let urls: Vec<_> = discovery.partitions.iter().flat_map(|found| &found.files).map(|file| file.url.clone()).collect();
        let garbage = self.catalog().garbage_among(&urls).await?;
        if !garbage.is_empty() {
            discovery.partitions.iter_mut().for_each(|found| found.files.retain(|file| !garbage.contains(&file.url)));
        }
        Ok(discovery)
    }

    pub(super) fn store(&self, location: &Url) -> Result<Arc<dyn ObjectStore>> {
        Ok(self.executor.runtime.object_store_registry.get_store(location)?)
    }

    /// Where a database's managed tables go.
    pub(super) fn database_location(&self, database: &Database) -> Result<Url> {
        match &database.location {
            Some(location) => self.location(location),
            None if database.name == DEFAULT_DATABASE => Ok(self.executor.warehouse.clone()),
            None => directory_in(&self.executor.warehouse, &[&format!("{}.db", database.name)]),
        }
    }

    pub(super) fn default_location(&self, database: &Database, table: &str) -> Result<Url> {
        self.location(directory_in(&self.database_location(database)?, &[table])?.as_str())
    }

    /// Whoever put files where a managed table will be wants to read them, which it would not. Garbage of an earlier table, or of a
    /// write that failed, may lie there.
    pub(super) async fn check_empty(&self, location: &Url) -> Result<()> {
        let cause = |cause| CatalogError::ObjectStore { url: location.to_string(), cause };
        let path = object_path(location.as_str())?;
        let found: Vec<_> = self.store(location)?.list(Some(&path)).take(FILES_LOOKED_AT_MAX).try_collect().await.map_err(cause)?;
        if found.is_empty() {
            return Ok(());
        }
        let urls: Vec<_> = found.iter().map(|file| object_url(location, &file.location)).collect();
        let garbage = self.catalog().garbage_among(&urls).await?;
        if urls.iter().all(|url| garbage.contains(url)) {
            return Ok(());
        }
        Err(Error::invalid(format!("the table's directory '{location}' is not empty"))
            .with_hint("give the directory as LOCATION of an external table, or empty it"))
    }

    async fn check_directory(&self, location: &Url) -> Result<()> {
        if self.store(location)?.head(&object_path(location.as_str())?).await.is_ok() {
            return Err(Error::invalid(format!("location '{}' is a file", location.as_str().trim_end_matches('/')))
                .with_hint("give the directory that holds the table's files"));
        }
        Ok(())
    }
}

fn skipped(what: &str, name: &impl std::fmt::Display) -> Outcome {
    Outcome::Done(Some(format!("{what} '{name}' exists already")))
}

fn absent(what: &str, name: &impl std::fmt::Display) -> Outcome {
    Outcome::Done(Some(format!("{what} '{name}' does not exist")))
}

/// Tables of our catalog that a query names, with their databases.
pub(super) fn referenced_tables(query: &ViewDefinition) -> Result<Vec<(String, String)>> {
    let grammar = query.dialect.grammar();
    let malformed = |error: ParserError| Error::from(DataFusionError::from(error));
    let mut tokens = Tokenizer::new(grammar, &query.sql).tokenize_with_location().map_err(|error| malformed(error.into()))?;
    rewrite_versions(&mut tokens, query.dialect);
    let mut parser = Parser::new(grammar).with_recursion_limit(QUERY_DEPTH_MAX).with_tokens_with_locations(tokens);
    let mut tables = Vec::new();
    for statement in parser.parse_statements().map_err(malformed)? {
        let (references, _) = resolve_table_references(&Statement::Statement(Box::new(statement)), true)?;
        let own = references.into_iter().filter(|table| super::own_catalog(table.catalog()).is_ok());
        tables.extend(own.map(|table| (table.schema().unwrap_or(&query.default_database).to_lowercase(), table.table().to_lowercase())));
    }
    Ok(tables)
}

/// The directories must have exactly the keys that the statement names.
fn check_inferred(found: &[PartitionKey], wanted: Vec<&str>, location: &Url) -> Result<()> {
    let found: Vec<_> = found.iter().map(|key| key.name.as_str()).collect();
    if found == wanted {
        return Ok(());
    }
    let list = |names: &[&str]| if names.is_empty() { "no keys".to_owned() } else { names.join(", ") };
    Err(Error::invalid(format!("the directories of '{location}' are partitioned by {}, not by {}", list(&found), list(&wanted))))
}

/// The columns with new ones behind them.
fn with_columns(table: &TableMeta, columns: &[Column]) -> Result<SchemaRef> {
    let mut names: BTreeSet<_> = table.full_schema().fields().iter().map(|field| field.name().clone()).collect();
    if let Some(column) = columns.iter().find(|column| !names.insert(column.name.clone())) {
        return Err(already_exists("column", column.name.clone()));
    }
    let new = columns.iter().map(|column| Arc::new(column.to_field()));
    Ok(Arc::new(Schema::new(table.schema.fields().iter().map(Arc::clone).chain(new).collect::<Vec<_>>())))
}

/// The columns with one of them changed.
///
/// Files keep the columns they have: a type may only be widened, and names stay once there are files, since a file that has the old name
/// would be read as NULL.
fn with_change(table: &TableMeta, change: &ColumnChange, is_empty: bool) -> Result<SchemaRef> {
    let name = &change.column;
    if table.keys.iter().any(|key| key.name == *name) {
        return Err(Error::unsupported(format!("column '{name}' is a partition key, which cannot be changed")));
    }
    let Some((index, field)) = table.schema.column_with_name(name) else { return Err(not_found("column", name.as_str())) };
    let mut column = Column::from_field(field);
    let is_other = change.name.is_some() || change.data_type.as_ref().is_some_and(|data_type| *data_type != column.data_type);
    if is_other && table.storage.layout.names(name) {
        let message = format!("column '{name}' cannot be changed: files of table '{}' are laid out by it", full_name(table));
        return Err(Error::unsupported(message).with_hint("make a view that gives it another name or type"));
    }
    if let Some(new_name) = &change.name {
        if table.full_schema().column_with_name(new_name).is_some() {
            return Err(already_exists("column", new_name.clone()));
        }
        if !is_empty {
            let message = format!("column '{name}' cannot be renamed: the files of table '{}' have it under this name", full_name(table));
            return Err(Error::unsupported(message).with_hint("make a view that gives it the other name"));
        }
        column.name.clone_from(new_name);
    }
    if let Some(data_type) = &change.data_type {
        if !is_empty && !reads(data_type, &column.data_type) {
            let (old, new) = (type_name(&column.data_type), type_name(data_type));
            let message = format!("column '{name}' cannot become {new}: files have {old}, which is not always one");
            return Err(Error::unsupported(message).with_hint("make a view that casts it"));
        }
        column.data_type = data_type.clone();
    }
    if let Some(comment) = &change.comment {
        column.comment.clone_from(comment);
    }
    let mut fields = table.schema.fields().to_vec();
    fields[index] = Arc::new(column.to_field());
    Ok(Arc::new(Schema::new(fields)))
}

/// Conditions for messages.
fn describe(conditions: &[Condition]) -> String {
    let one = |condition: &Condition| {
        format!("{} {} {}", condition.key, condition.comparison.operator(), condition.value.as_deref().unwrap_or("NULL"))
    };
    conditions.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A position and a typed value for a key of a table.
pub(super) fn key_value(table: &TableMeta, name: &str, value: &PartitionValue) -> Result<(usize, ScalarValue)> {
    let Some(index) = table.keys.iter().position(|key| key.name == name) else {
        let known = table.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(not_found("partition key", name).with_hint(match table.keys.is_empty() {
            true => format!("table '{}' is not partitioned", full_name(table)),
            false => format!("table '{}' is partitioned by {known}", full_name(table)),
        }));
    };
    let key = &table.keys[index];
    let value = match value {
        Some(text) => keys::parse_value(key, text)?,
        None => keys::null(key.key_type)?,
    };
    Ok((index, value))
}

/// What `PARTITION (...)` keeps. `= NULL` and `<> NULL` are IS NULL and IS NOT NULL here, as in Spark.
pub(super) fn predicate(table: &TableMeta, conditions: &[Condition]) -> Result<KeyPredicate> {
    let one = |condition: &Condition| {
        let (key, value) = key_value(table, &condition.key, &condition.value)?;
        match (value.is_null(), condition.comparison) {
            (false, comparison) => Ok(KeyPredicate::Compare(key, comparison, value)),
            (true, Comparison::Equal) => Ok(KeyPredicate::IsNull(key)),
            (true, Comparison::NotEqual) => Ok(KeyPredicate::IsNotNull(key)),
            (true, _) => Err(Error::invalid(format!("partition key '{}' cannot be compared with NULL in order", condition.key))),
        }
    };
    Ok(KeyPredicate::and(conditions.iter().map(one).collect::<Result<Vec<_>>>()?))
}

/// One typed value per key, in the order of the keys.
fn partition_values(table: &TableMeta, values: &PartitionValues) -> Result<Vec<ScalarValue>> {
    let mut typed = vec![None; table.keys.len()];
    for (name, value) in values {
        let (index, value) = key_value(table, name, value)?;
        if typed[index].replace(value).is_some() {
            return Err(Error::invalid(format!("partition key '{name}' is given twice")));
        }
    }
    let named = typed.into_iter().zip(&table.keys);
    named.map(|(value, key)| value.ok_or_else(|| Error::invalid(format!("partition key '{}' needs a value", key.name)))).collect()
}

/// Where a partition lies unless somebody said otherwise.
pub(super) fn partition_location(table: &TableMeta, values: &[ScalarValue]) -> Result<String> {
    let name = keys::partition_name(&table.keys, values);
    let root = Url::parse(&table.location).map_err(|error| Error::internal(format!("location '{}' is no URL: {error}", table.location)))?;
    let directories: Vec<_> = name.split('/').filter(|part| !part.is_empty()).collect();
    Ok(directory_in(&root, &directories)?.into())
}

/// A directory below another one.
fn directory_in(root: &Url, names: &[&str]) -> Result<Url> {
    let mut url = root.clone();
    url.path_segments_mut().map_err(|()| Error::internal(format!("location '{root}' has no path")))?.pop_if_empty().extend(names).push("");
    Ok(url)
}
