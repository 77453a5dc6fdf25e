//! What is made, altered and dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use url::Url;
use windlass_catalog::catalog::{Contents, Database, NewPartition, NewTable, PartitionKey, TableChange, TableKind, TableMeta};
use windlass_catalog::ddl::statement::schema_of;
use windlass_catalog::ddl::types::type_name;
use windlass_catalog::ddl::{Alteration, Column, ColumnChange, CreateDatabase, CreateTable, DatabaseName, Noun, TableName};
use windlass_catalog::delta::check_declared;
use windlass_catalog::discover::Layout;
use windlass_catalog::{Error as CatalogError, KeyPredicate};
use windlass_engine::evolution::reads;
use windlass_engine::formats::{FileFormat, Storage};
use windlass_engine::write::WriteFormat;

use super::new_table::is_place_of;
use super::show::check_noun;
use super::{Names, Outcome, absent, already_exists, full_name, not_found, skipped};
use crate::error::{Error, Result};

/// What a new table consists of.
struct Made {
    schema: SchemaRef,
    keys: Vec<PartitionKey>,
    storage: Storage,
    contents: Contents,
}

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
        let replaced = self.catalog().table(&database, &name).await?;
        if let Some(existing) = &replaced {
            match (create.if_not_exists, create.or_replace) {
                (true, _) => return Ok(skipped("table", &create.table)),
                (false, false) => return Err(already_exists("table", format!("{database}.{name}"))),
                (false, true) => check_noun(existing, Noun::Table)?,
            }
        }
        let create = &self.spelled_out(create).await?;
        let kind = if create.external || create.location.is_some() { TableKind::External } else { TableKind::Managed };
        let location = match &create.location {
            Some(text) => self.location(text)?,
            None => self.default_location(&parent, &name)?,
        };
        match kind {
            TableKind::Managed if replaced.as_deref().is_some_and(|replaced| is_place_of(&location, replaced)) => {}
            TableKind::Managed => self.check_empty(&location).await?,
            _ => self.check_directory(&location).await?,
        }

        let full_name = format!("{database}.{name}");
        let Made { schema, keys, storage, contents } = self.made_of(create, &full_name, kind, &location).await?;
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
        if let Some(replaced) = replaced {
            self.catalog().replace_table(&replaced, table, contents, &self.by.doing("CREATE OR REPLACE TABLE")).await?;
            return Ok(Outcome::Done(None));
        }
        match self.catalog().create_table(table, contents, &self.by.doing("CREATE TABLE")).await {
            Err(CatalogError::AlreadyExists { .. }) if create.if_not_exists => Ok(skipped("table", &create.table)),
            done => done.map(|_| Outcome::Done(None)).map_err(Error::from),
        }
    }

    /// What a new table consists of: what the statement says, and what it leaves to the files that lie there.
    async fn made_of(&self, create: &CreateTable, name: &str, kind: TableKind, location: &Url) -> Result<Made> {
        let schema = create.columns.as_deref().map(schema_of);
        let mut storage = create.storage.clone();
        if kind == TableKind::Managed && WriteFormat::of(storage.format).is_none() {
            let message = format!("table '{name}' is managed, and {} files can only be read", storage.format);
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
                check_declared(name, declared.as_deref(), create.keys.as_deref(), found)?;
                keys = discovery.keys;
                discovery.schema
            }
            Some(schema) if in_hive_form || kind == TableKind::Managed => schema,
            None if kind == TableKind::Managed => {
                return Err(Error::invalid(format!("table '{name}' needs columns, or a LOCATION with files to read them from")));
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
                    check_inferred(&discovery.keys, wanted.iter().map(|key| key.name.as_str()).collect(), location)?;
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
            return Err(Error::invalid(format!("table '{name}' needs a column that is not a partition key")));
        }
        fits(&schema, &storage)?;
        storage.layout.validate(&schema).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Made { schema, keys, storage, contents })
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
            Alteration::Query { query, dialect } => self.redefine(&table, query, *dialect).await?,
        }
        Ok(Outcome::Done(None))
    }

    /// The directory of a managed table follows its name while it is empty; later it stays, because files do not move in one step.
    async fn rename(&self, table: Arc<TableMeta>, new_name: &TableName) -> Result<()> {
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
        let mut location = None;
        if table.kind == TableKind::Managed && self.catalog().totals(&table).await?.files == 0 {
            let new = self.default_location(&parent, &new_name.name)?;
            self.check_empty(&new).await?;
            location = Some(new.into());
        }
        self.change(&table, "RENAME TO", TableChange::Rename { database, name: new_name.name.clone(), location }).await?;
        Ok(())
    }

    /// Partitions keep the locations they have, as in Hive; a table without keys takes the files of its new location.
    async fn set_location(&self, table: Arc<TableMeta>, text: &str) -> Result<()> {
        if table.kind == TableKind::Managed {
            return Err(Error::invalid(format!("table '{}' is managed: its location cannot be changed", full_name(&table))));
        }
        let location = self.location(text)?;
        self.check_directory(&location).await?;
        let mut contents = Contents::default();
        if table.keys.is_empty() {
            let new = self.read_partition(&table, Vec::new(), location.clone()).await?;
            let old = self.catalog().partitions(&table, &KeyPredicate::All, 1).await?.partitions;
            let remove_partitions = old.iter().map(|partition| partition.id).collect();
            contents = Contents { remove_partitions, add_partitions: vec![new], ..Contents::default() };
        }
        self.change(&table, "SET LOCATION", TableChange::Location { location: location.into(), contents }).await?;
        Ok(())
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
