//! The names that one statement sees.
//!
//! DataFusion asks for lists of names without waiting, so a statement starts by loading them; they are cached until any name changes.
//! Tables are looked up in the store when they are used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col};
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;

use crate::catalog::{CATALOG, Catalog, TableKind, TableMeta, ViewDefinition, is_warehouse};
use crate::error::Error;
use crate::information_schema::Described;
use crate::provider::HiveTable;

/// Views that a view may be nested in. A view that refers to itself ends here.
const VIEW_DEPTH_MAX: usize = 32;

/// Databases, their tables and the tables' kinds.
pub type Names = BTreeMap<String, BTreeMap<String, TableKind>>;

/// The names of a catalog, loaded again only after a name has changed.
#[derive(Debug)]
pub struct NamesCache {
    catalog: Arc<dyn Catalog>,
    loaded: Mutex<Option<(u64, Arc<Names>)>>,
}

impl NamesCache {
    /// An empty cache.
    pub fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, loaded: Mutex::new(None) }
    }

    /// The current names.
    pub async fn load(&self) -> crate::Result<Arc<Names>> {
        let version = self.catalog.names_version();
        if let Some((loaded, names)) = &*self.loaded.lock()
            && *loaded == version
        {
            return Ok(Arc::clone(names));
        }
        let mut names = self.catalog.databases().await?.into_iter().map(|database| (database.name, BTreeMap::new())).collect::<Names>();
        for table in self.catalog.tables(None).await? {
            names.entry(table.database).or_default().insert(table.name, table.kind);
        }
        let names = Arc::new(names);
        *self.loaded.lock() = Some((version, Arc::clone(&names)));
        Ok(names)
    }
}

/// Views that one session knows, by lower-case name. Each hides what has its name in the current database.
pub type TemporaryViews = BTreeMap<String, ViewDefinition>;

/// Plans the query of a view.
#[async_trait]
pub trait ViewPlanner: fmt::Debug + Send + Sync {
    /// Plans `view`, whose unqualified names belong to its own default database, with `names` as the session's catalogs.
    async fn plan_view(&self, view: &ViewDefinition, names: Arc<dyn CatalogProviderList>) -> Result<LogicalPlan>;
}

/// The catalogs of one statement: `hive` and what is mounted beside it.
#[derive(Debug, Clone)]
pub struct StatementCatalogs {
    hive: Hive,
    mounted: BTreeMap<String, Arc<dyn CatalogProvider>>,
    databases: BTreeMap<String, Arc<dyn SchemaProvider>>,
}

impl StatementCatalogs {
    /// The catalog `hive`, with `names` loaded for this statement.
    pub fn new(catalog: Arc<dyn Catalog>, names: Arc<Names>, views: Arc<dyn ViewPlanner>) -> Self {
        let (temporary, tables) = (Arc::default(), Arc::default());
        let hive = Hive { catalog, names, views, temporary, current_database: String::new(), depth: 0, tables };
        Self { hive, mounted: BTreeMap::new(), databases: BTreeMap::new() }
    }

    /// The session's own views, which stand before what `current_database` holds.
    pub fn with_temporary(mut self, views: Arc<TemporaryViews>, current_database: &str) -> Self {
        self.hive.temporary = views;
        current_database.clone_into(&mut self.hive.current_database);
        self
    }

    /// Lets a database of another catalog be named without it, unless the warehouse has one of this lower-case name.
    pub fn with_database(mut self, name: &str, database: Option<Arc<dyn SchemaProvider>>) -> Self {
        self.databases.extend(database.map(|database| (name.to_owned(), database)));
        self
    }

    /// What `hive` is read from.
    pub(crate) fn warehouse(&self) -> Arc<dyn Catalog> {
        Arc::clone(&self.hive.catalog)
    }

    /// Mounts one more catalog under a lower-case name.
    pub fn with_catalog(mut self, name: &str, catalog: Arc<dyn CatalogProvider>) -> Self {
        self.mounted.insert(name.to_owned(), catalog);
        self
    }
}

impl CatalogProviderList for StatementCatalogs {
    /// Does nothing: statements that make catalogs do not come here.
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        std::iter::once(CATALOG.to_owned()).chain(self.mounted.keys().cloned()).collect()
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let name = name.to_lowercase();
        let catalog: Arc<dyn CatalogProvider> = match is_warehouse(&name) {
            true => Arc::new(HiveCatalog(self.clone())),
            false => Arc::clone(self.mounted.get(&name)?),
        };
        Some(Arc::new(Described { catalog, all: self.clone() }))
    }
}

/// By database and name.
type TablesByName = HashMap<(String, String), Arc<TableMeta>>;

#[derive(Debug, Clone)]
struct Hive {
    catalog: Arc<dyn Catalog>,
    names: Arc<Names>,
    views: Arc<dyn ViewPlanner>,
    temporary: Arc<TemporaryViews>,
    current_database: String,
    /// Views around the statement that is planned.
    depth: usize,
    /// Those that the statement has asked for, views in it included: all see them as of one moment.
    tables: Arc<Mutex<TablesByName>>,
}

impl Hive {
    async fn table(&self, database: &str, name: &str) -> crate::Result<Option<Arc<TableMeta>>> {
        let key = (database.to_owned(), name.to_lowercase());
        if let Some(known) = self.tables.lock().get(&key) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(found) = self.catalog.table(&key.0, &key.1).await? else { return Ok(None) };
        Ok(Some(Arc::clone(self.tables.lock().entry(key).or_insert(found))))
    }
}

#[derive(Debug)]
struct HiveCatalog(StatementCatalogs);

impl CatalogProvider for HiveCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.0.hive.names.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let database = name.to_lowercase();
        match self.0.hive.names.contains_key(&database) {
            true => Some(Arc::new(HiveDatabase { catalogs: self.0.clone(), database })),
            false => self.0.databases.get(&database).map(Arc::clone),
        }
    }
}

#[derive(Debug)]
struct HiveDatabase {
    catalogs: StatementCatalogs,
    database: String,
}

impl HiveDatabase {
    fn kind(&self, name: &str) -> Option<TableKind> {
        self.catalogs.hive.names.get(&self.database)?.get(&name.to_lowercase()).copied()
    }

    fn temporary(&self, name: &str) -> Option<&ViewDefinition> {
        let hive = &self.catalogs.hive;
        hive.temporary.get(&name.to_lowercase()).filter(|_| hive.current_database == self.database)
    }

    /// The plan of a view, with the columns it was made with. What it means is the same in every session.
    async fn plan_view(&self, meta: &TableMeta, view: &ViewDefinition) -> Result<LogicalPlan> {
        let mut catalogs = self.catalogs.clone();
        catalogs.hive.temporary = Arc::default();
        with_columns(self.plan(&meta.name, view, catalogs).await?, meta)
    }

    async fn plan(&self, name: &str, view: &ViewDefinition, mut catalogs: StatementCatalogs) -> Result<LogicalPlan> {
        catalogs.hive.depth += 1;
        if catalogs.hive.depth > VIEW_DEPTH_MAX {
            let database = &self.database;
            let text = format!("view '{database}.{name}' is nested in {VIEW_DEPTH_MAX} other views; does it refer to itself?");
            return Err(Error::Invalid(text).into());
        }
        catalogs.hive.current_database.clone_from(&view.default_database);
        let views = Arc::clone(&catalogs.hive.views);
        views.plan_view(view, Arc::new(catalogs)).await
    }
}

/// Gives a view's plan the names of its recorded columns, by position. Columns that tables have gained since are left out where the
/// recorded names tell which they are.
fn with_columns(plan: LogicalPlan, meta: &TableMeta) -> Result<LogicalPlan> {
    let wanted = meta.schema.fields();
    let found = plan.schema().columns();
    let by_name = |name: &str| {
        let mut same = found.iter().filter(|column| column.name == name);
        same.next().filter(|_| same.next().is_none())
    };
    let columns = if wanted.len() == found.len() {
        found.iter().collect()
    } else {
        wanted.iter().map(|field| by_name(field.name())).collect::<Option<Vec<_>>>().ok_or_else(|| {
            let (database, name) = (&meta.database, &meta.name);
            Error::Invalid(format!("the tables of view '{database}.{name}' have changed; run CREATE OR REPLACE VIEW"))
        })?
    };
    let named = columns.into_iter().zip(wanted).map(|(column, field)| match column.name == *field.name() {
        true => col(column.clone()),
        false => col(column.clone()).alias(field.name()),
    });
    LogicalPlanBuilder::from(plan).project(named.collect::<Vec<_>>())?.build()
}

#[async_trait]
impl SchemaProvider for HiveDatabase {
    fn table_names(&self) -> Vec<String> {
        let hive = &self.catalogs.hive;
        let tables = hive.names.get(&self.database).into_iter().flat_map(BTreeMap::keys);
        let temporary = hive.temporary.keys().filter(|name| self.temporary(name).is_some());
        tables.chain(temporary).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(view) = self.temporary(name) {
            let plan = self.plan(name, view, self.catalogs.clone()).await?;
            return Ok(Some(Arc::new(ViewTable::new(plan, Some(view.sql.clone())))));
        }
        let hive = &self.catalogs.hive;
        let Some(meta) = hive.table(&self.database, name).await? else {
            return Ok(None);
        };
        let Some(view) = meta.view.as_ref().filter(|_| meta.kind == TableKind::View) else {
            return Ok(Some(Arc::new(HiveTable::of_now(Arc::clone(&hive.catalog), &meta))));
        };
        Ok(Some(match self.plan_view(&meta, view).await {
            Ok(plan) => Arc::new(ViewTable::new(plan, Some(view.sql.clone()))),
            Err(error) => Arc::new(BrokenView { meta: Arc::clone(&meta), error: Arc::new(error) }),
        }))
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        if self.temporary(name).is_some() {
            return Ok(Some(TableType::View));
        }
        Ok(self.kind(name).map(|kind| match kind {
            TableKind::External | TableKind::Managed | TableKind::MaterializedView => TableType::Base,
            TableKind::View => TableType::View,
        }))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.temporary(name).is_some() || self.kind(name).is_some()
    }
}

/// A view whose query cannot be planned any more. It can be listed and described; reading it gives the error.
#[derive(Debug)]
struct BrokenView {
    meta: Arc<TableMeta>,
    error: Arc<DataFusionError>,
}

#[async_trait]
impl TableProvider for BrokenView {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.meta.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.meta.view.as_ref().map(|view| view.sql.as_str())
    }

    async fn scan(&self, _: &dyn Session, _: Option<&Vec<usize>>, _: &[Expr], _: Option<usize>) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Shared(Arc::clone(&self.error)))
    }
}

#[cfg(test)]
mod tests;
