use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::MemTable;
use datafusion::catalog::memory::{MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionContext;
use windlass_engine::Dialect;
use windlass_engine::named_files::prepare_scans;
use windlass_engine::session::session_config;

use super::*;
use crate::catalog::{Contents, DEFAULT_DATABASE, Database, NewTable, TableChange};
use crate::discover::Layout;
use crate::discover::tests::{Files, ints};
use crate::store::SqliteCatalog;

/// Plans views as a scheduler does: in a session of their own.
#[derive(Debug)]
struct Planner;

fn session(catalogs: Arc<dyn CatalogProviderList>, database: &str) -> SessionState {
    let config = session_config(2).with_default_catalog_and_schema(CATALOG, database);
    SessionStateBuilder::new().with_config(config).with_default_features().with_catalog_list(catalogs).build()
}

#[async_trait]
impl ViewPlanner for Planner {
    async fn plan_view(&self, view: &ViewDefinition, names: Arc<dyn CatalogProviderList>) -> Result<LogicalPlan> {
        session(names, &view.default_database).create_logical_plan(&view.sql).await
    }
}

struct Warehouse {
    catalog: Arc<dyn Catalog>,
    names: NamesCache,
    _files: Files,
}

impl Warehouse {
    /// `sales.t` with columns `x` and `y`, one row.
    async fn new() -> Self {
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::in_memory().await.unwrap());
        catalog.create_database(Database { name: "sales".to_owned(), location: None, comment: None }).await.unwrap();
        let files = Files::new();
        files.write("a.parquet", vec![("x", ints([1])), ("Y", ints([2]))]);
        let found = files.find(Layout::Inferred, None).await.unwrap();
        let table = new_table("sales", "t", files.location(), found.schema, None);
        let created = catalog.create_table(table, Contents::default(), &"CREATE TABLE".into()).await.unwrap();
        let partition = catalog.partitions(&created, &crate::KeyPredicate::All, 1).await.unwrap().partitions.remove(0);
        let add_files = found.partitions.into_iter().flat_map(|found| found.files);
        let add_files = add_files.map(|file| crate::catalog::DataFile { partition_id: partition.id, file }).collect();
        catalog.change_table(&created, &"ADD".into(), TableChange::Contents(Contents { add_files, ..Default::default() })).await.unwrap();
        Self { names: NamesCache::new(Arc::clone(&catalog)), catalog, _files: files }
    }

    async fn view(&self, name: &str, columns: &[&str], sql: &str) {
        let schema = Schema::new(columns.iter().map(|name| Field::new(*name, DataType::Int32, true)).collect::<Vec<_>>());
        let view = ViewDefinition { sql: sql.to_owned(), default_database: "sales".to_owned(), dialect: Dialect::Generic };
        self.catalog
            .create_table(
                new_table(DEFAULT_DATABASE, name, String::new(), Arc::new(schema), Some(view)),
                Contents::default(),
                &"CREATE TABLE".into(),
            )
            .await
            .unwrap();
    }

    async fn rows(&self, sql: &str) -> Result<Vec<String>> {
        rows(&self.statement().await?, sql).await
    }

    /// What one statement sees.
    async fn statement(&self) -> Result<SessionContext> {
        let names = self.names.load().await?;
        let table = MemTable::try_new(Arc::new(Schema::new(vec![Field::new("n", DataType::Int32, true)])), vec![vec![]])?;
        let (system, runtime) = (MemoryCatalogProvider::new(), MemorySchemaProvider::new());
        runtime.register_table("queries".to_owned(), Arc::new(table))?;
        system.register_schema("runtime", Arc::new(runtime))?;
        let catalogs = StatementCatalogs::new(Arc::clone(&self.catalog), names, Arc::new(Planner)).with_catalog("system", Arc::new(system));
        Ok(SessionContext::new_with_state(session(Arc::new(catalogs), DEFAULT_DATABASE)))
    }
}

async fn rows(context: &SessionContext, sql: &str) -> Result<Vec<String>> {
    let plan = prepare_scans(context.sql(sql).await?.create_physical_plan().await?, &context.runtime_env())?;
    let batches = datafusion::physical_plan::collect(plan, context.task_ctx()).await?;
    let text = datafusion::arrow::util::pretty::pretty_format_batches(&batches)?.to_string();
    Ok(text.lines().filter(|line| line.starts_with('|')).map(|line| line.replace(' ', "")).collect())
}

fn new_table(database: &str, name: &str, location: String, schema: SchemaRef, view: Option<ViewDefinition>) -> NewTable {
    let kind = if view.is_some() { TableKind::View } else { TableKind::External };
    NewTable {
        database: database.to_owned(),
        name: name.to_owned(),
        kind,
        location,
        schema,
        keys: vec![],
        comment: None,
        properties: BTreeMap::new(),
        storage: Default::default(),
        view,
    }
}

#[tokio::test]
async fn names_are_found_in_any_case_and_in_every_catalog() {
    let warehouse = Warehouse::new().await;
    for table in ["sales.t", "HIVE.Sales.T", "\"SALES\".\"T\""] {
        assert_eq!(warehouse.rows(&format!("SELECT X, y FROM {table}")).await.unwrap(), ["|x|y|", "|1|2|"]);
    }
    assert_eq!(warehouse.rows("SELECT * FROM system.runtime.queries").await.unwrap().len(), 0);
    assert!(warehouse.rows("SELECT * FROM t").await.unwrap_err().to_string().contains("hive.default.t"));
    let listed = warehouse.rows("SELECT table_catalog, table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema <> 'information_schema'").await;
    assert_eq!(listed.unwrap()[1..], ["|hive|sales|t|BASETABLE|", "|system|runtime|queries|BASETABLE|"]);
}

#[tokio::test]
async fn cached_names_follow_changes() {
    let warehouse = Warehouse::new().await;
    let before = warehouse.names.load().await.unwrap();
    assert!(Arc::ptr_eq(&before, &warehouse.names.load().await.unwrap()));
    warehouse.view("v", &["x"], "SELECT 1").await;
    let after = warehouse.names.load().await.unwrap();
    assert_eq!((before["default"].get("v"), after["default"].get("v")), (None, Some(&TableKind::View)));
}

#[tokio::test]
async fn views_are_queries_in_their_own_database() {
    let warehouse = Warehouse::new().await;
    warehouse.view("renamed", &["a", "b"], "SELECT y, x FROM t").await;
    warehouse.view("outer", &["n"], "SELECT a + b FROM default.renamed").await;
    warehouse.view("narrow", &["y"], "SELECT * FROM t").await;
    assert_eq!(warehouse.rows("SELECT * FROM renamed").await.unwrap(), ["|a|b|", "|2|1|"]);
    assert_eq!(warehouse.rows("SELECT n FROM outer WHERE n > 0").await.unwrap(), ["|n|", "|3|"]);
    assert_eq!(warehouse.rows("SELECT * FROM narrow").await.unwrap(), ["|y|", "|2|"]);
}

#[tokio::test]
async fn broken_views_are_listed_and_say_what_is_wrong() {
    let warehouse = Warehouse::new().await;
    warehouse.view("ring", &["x"], "SELECT x FROM default.ring").await;
    warehouse.view("orphan", &["x"], "SELECT x FROM gone").await;
    let ring = warehouse.rows("SELECT * FROM ring").await.unwrap_err().to_string();
    assert!(ring.contains("view 'default.ring'") && ring.contains("refer to itself"), "{ring}");
    let orphan = warehouse.rows("SELECT * FROM orphan").await.unwrap_err().to_string();
    assert!(orphan.contains("hive.sales.gone"), "{orphan}");
    let columns = warehouse.rows("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'default'").await;
    assert_eq!(columns.unwrap()[1..], ["|orphan|x|", "|ring|x|"]);
}

#[tokio::test]
async fn a_statement_sees_each_table_as_of_one_moment() {
    let warehouse = Warehouse::new().await;
    warehouse.view("v", &["n"], "SELECT x AS n FROM t").await;
    let statement = warehouse.statement().await.unwrap();
    let count = |condition: &str| format!("SELECT count(x) AS n FROM sales.t WHERE {condition}");
    assert_eq!(rows(&statement, &count("x = 1")).await.unwrap(), ["|n|", "|1|"]);

    let table = warehouse.catalog.table("sales", "t").await.unwrap().unwrap();
    let partition = warehouse.catalog.partitions(&table, &crate::KeyPredicate::All, 1).await.unwrap().partitions.remove(0);
    let emptied = Contents { empty_partitions: vec![partition.id], ..Default::default() };
    warehouse.catalog.change_table(&table, &"INSERT OVERWRITE".into(), TableChange::Contents(emptied)).await.unwrap();
    for sql in [count("x < 9"), "SELECT count(n) AS n FROM v".to_owned()] {
        assert_eq!(rows(&statement, &sql).await.unwrap(), ["|n|", "|1|"], "{sql}");
        assert_eq!(warehouse.rows(&sql).await.unwrap(), ["|n|", "|0|"], "{sql}");
    }
}
