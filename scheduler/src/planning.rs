//! From SQL text to plans: names resolved, parameters bound, optimised once.
//!
//! Every statement gets a session state of its own: what it resolved stays as it was, whatever others change meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{CatalogProvider, CatalogProviderList};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Location, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::expr::{Cast, Placeholder, TryCast};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser;
use datafusion::sql::sqlparser::ast;
use windlass_catalog::Catalog;
use windlass_catalog::catalog::ViewDefinition;
use windlass_catalog::files::FILES;
use windlass_catalog::names::{NamesCache, StatementCatalogs, TemporaryViews, ViewPlanner};
use windlass_catalog::scan::ScanReports;
use windlass_engine::functions::with_dialect;
use windlass_engine::session::state_builder;
use windlass_engine::{Dialect, WindlassOptions};
use windlass_proto::{Kind, QueryId};

use self::buckets::BucketedExchangesRule;
pub use self::choice::Engines;
use self::estimates::with_estimates;
use self::files::name_files;
use self::generators::with_generators;
use self::join_order::{order_joins, with_join_order};
use self::key_answers::answer_from_keys;
use self::materialized::AnyViews;
use self::one_pass::in_one_pass;
use self::prelude::Prelude;
pub(crate) use self::spelling::functions;
use self::spelling::respell;
use self::threads::Threads;
use self::time_travel::{advances, with_time_travel};
use self::types::NestedTypes;
use crate::ddl::DdlExecutor;
use crate::engines::{Engine, PlannedQuery};
use crate::error::{Error, Result};
use crate::garbage::collected_schema;
use crate::guard::GuardLimits;
use crate::query::rows::plan_schema;
use crate::schema::{client_schema, client_type};
use crate::session::{Asker, Session};
use crate::statement::{Action, Parsed, Statement, parse};
use crate::write::{Committing, Ingest, With, WriteNode, WritePlan, WritePlanner, Writes, WritingEngine};
use crate::{ddl, system};

pub mod buckets;
mod choice;
pub mod estimates;
mod files;
mod generators;
pub mod join_order;
mod key_answers;
mod materialized;
mod one_pass;
mod origins;
mod prelude;
pub mod sorted_files;
mod spelling;
mod threads;
mod time_travel;
mod types;

/// How much planning may cost.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanningLimits {
    /// Statements planned at one time.
    pub threads_max: usize,
    /// Stack of a planning thread. Virtual memory: only what is touched is ever taken.
    pub stack_bytes: usize,
    /// Seconds a statement may take to plan, waiting included.
    pub timeout_seconds: u64,
    /// Rows of parameters bound to one query; each is a run of its own.
    pub parameter_rows_max: usize,
    /// Whether queries may read files that are no table's, under the allowed locations: `read_parquet('location')` and the like.
    pub read_files: bool,
}

impl Default for PlanningLimits {
    fn default() -> Self {
        Self { threads_max: 16, stack_bytes: 64 << 20, timeout_seconds: 60, parameter_rows_max: 1_000, read_files: false }
    }
}

/// A query ready to run, once per row of parameters.
pub struct Planned {
    /// The state it was planned in.
    pub context: Arc<SessionContext>,
    /// Optimised plans, at least one.
    pub plans: Vec<LogicalPlan>,
    /// As resolved, before the optimizer.
    pub resolved: LogicalPlan,
    /// Schema of the rows, as clients get it.
    pub schema: SchemaRef,
    /// Who runs it.
    pub engine: Arc<dyn Engine>,
    /// Why that engine.
    pub reason: String,
    /// What parts that ran first have told of the first plan, as lines of EXPLAIN.
    pub notes: Vec<String>,
    /// Time that those parts took.
    pub spent: Duration,
}

/// What a query's names mean: good for one run right away, since it does not see later changes.
pub struct Resolved {
    context: SessionContext,
    plan: LogicalPlan,
    schema: SchemaRef,
    write: Option<WritePlan>,
}

/// Plans statements.
#[derive(Debug)]
pub struct Planner {
    limits: PlanningLimits,
    guard: GuardLimits,
    threads: Threads,
    engines: Engines,
    /// The local engine as it is on a planning thread.
    local: Arc<dyn Engine>,
    catalog: Arc<dyn Catalog>,
    ddl: Arc<DdlExecutor>,
    names: NamesCache,
    any_views: AnyViews,
    system: Arc<dyn CatalogProvider>,
    runtime: Arc<RuntimeEnv>,
}

impl Planner {
    /// A planner over these names, for these engines.
    pub fn new(
        limits: PlanningLimits,
        guard: GuardLimits,
        catalog: Arc<dyn Catalog>,
        ddl: Arc<DdlExecutor>,
        system: Arc<dyn CatalogProvider>,
        runtime: Arc<RuntimeEnv>,
        engines: Engines,
    ) -> Self {
        let names = NamesCache::new(Arc::clone(&catalog));
        let threads = Threads::new(&limits);
        let local = Arc::clone(&engines.local);
        let engines = engines.on(&threads);
        Self { threads, engines, local, limits, guard, catalog, ddl, names, system, runtime, any_views: AnyViews::default() }
    }

    /// Reads and describes a statement; a query comes with its names resolved. Errors: everything that is wrong with it but the values of
    /// its parameters.
    pub async fn prepare(self: &Arc<Self>, session: &Arc<Session>, sql: &str) -> Result<(Statement, Option<Resolved>)> {
        let (planner, session, sql) = (Arc::clone(self), Arc::clone(session), sql.to_owned());
        self.threads
            .run(Box::pin(async move {
                let Parsed { action, placeholders, settings } = planner.read(&session, &sql)?;
                let config = session.config_with(&settings)?;
                let (mut resolved, mut parameter_types) = (None, Vec::new());
                if let Some(planned) = action.planned() {
                    let (described, types) = planner.describe(session.temporary_views(), config, planned, placeholders).await?;
                    (resolved, parameter_types) = (Some(described), types);
                }
                let schema = match &action {
                    Action::Query(_) => resolved.as_ref().map(|resolved| Arc::clone(&resolved.schema)),
                    Action::Explain { .. } => Some(plan_schema()),
                    Action::Names(statement) => ddl::output_schema(statement).map(|schema| client_schema(&schema)),
                    Action::Show(_) => Some(settings_schema()),
                    Action::Vacuum(_) => Some(collected_schema()),
                    // What it returns is the number of rows, which is not what clients call a result.
                    Action::Write(write) => write.schema(),
                    Action::Set { .. } | Action::Reset(_) | Action::Prepare { .. } | Action::Deallocate(_) => None,
                    Action::Execute(_) => return Err(Error::internal("EXECUTE stands for no statement")),
                };
                Ok((Statement::new(sql, action, schema, parameter_types).with_settings(settings), resolved))
            }))
            .await
    }

    /// Reads a statement; in the place of EXECUTE, the one that it names.
    fn read(&self, session: &Session, sql: &str) -> Result<Parsed> {
        let dialect = session.dialect();
        match parse(sql, dialect, &self.guard)? {
            Parsed { action: Action::Execute(execute), .. } => {
                let text = execute.text(dialect, &self.guard, |name| session.prepared(name))?;
                match parse(&text, dialect, &self.guard)? {
                    Parsed { action: Action::Execute(_) | Action::Prepare { .. } | Action::Deallocate(_), .. } => {
                        Err(Error::invalid("what is executed is no statement about prepared ones"))
                    }
                    parsed => Ok(parsed),
                }
            }
            parsed => Ok(parsed),
        }
    }

    /// Plans a query for these parameters and chooses its engine.
    ///
    /// `resolved` saves a statement that was prepared just now from being resolved again. Errors: `Invalid` for parameters that do not fit,
    /// or if the schema is no longer what was promised.
    pub async fn plan(
        self: &Arc<Self>,
        session: &Arc<Session>,
        statement: &Arc<Statement>,
        parameters: Option<RecordBatch>,
        resolved: Option<Resolved>,
    ) -> Result<Planned> {
        let (planner, session, statement) = (Arc::clone(self), Arc::clone(session), Arc::clone(statement));
        self.threads
            .run(Box::pin(async move {
                let action = statement.action().planned().ok_or_else(|| Error::internal("only queries and writes are planned"))?;
                let values = bind(statement.parameter_types(), parameters.as_ref(), planner.limits.parameter_rows_max)?;
                let (context, resolved, known, write) = match resolved {
                    Some(Resolved { context, plan, schema, write }) => {
                        (context, plan, Some(schema).filter(|_| statement.parameter_types().is_empty()), write)
                    }
                    None => {
                        let context = planner.context(session.temporary_views(), session.config_with(statement.settings())?).await?;
                        let (plan, write) = planner.resolve(&context, action).await?;
                        (context, plan, None, write)
                    }
                };
                let context = Arc::new(context);
                let state = context.state();
                let bound = |row: Vec<_>| if row.is_empty() { Ok(resolved.clone()) } else { resolved.clone().with_param_values(row) };
                let mut plans = values.into_iter().map(bound).collect::<Result<Vec<_>, _>>().map_err(located)?;
                if let Some(write) = &write {
                    write.check_runs(plans.len())?;
                    plans = vec![WriteNode::together(plans)?];
                }
                // Not that of the optimized plan: the optimizer may turn a type into one as good, and what leaves the engine is cast back.
                let schemas = match known {
                    Some(schema) => vec![schema],
                    None => plans.iter().map(|plan| row_schema(&state, plan.clone())).collect::<Result<Vec<_>>>()?,
                };
                let schema = Arc::clone(&schemas[0]);
                if let Some(other) = schemas.iter().find(|other| **other != schema) {
                    return Err(Error::internal(format!("rows of parameters give different schemas: {schema} and {other}")));
                }
                let mut views = Vec::new();
                if matches!(action, Action::Query(_)) {
                    for plan in &mut plans {
                        let (used, read) = planner.use_views(state.config(), plan.clone()).await?;
                        *plan = used;
                        views = read;
                    }
                }
                let mut prelude = Prelude::new(&context, &state, &planner.local);
                let (mut optimized, mut notes) = (Vec::with_capacity(plans.len()), Vec::new());
                for plan in &plans {
                    let plan = in_one_pass(plan.clone()).map_err(located)?;
                    let plan = Box::pin(prelude.optimize(&plan)).await.map_err(located)?;
                    let plan = answer_from_keys(&state, plan).await.map_err(located)?;
                    optimized.push(order_joins(&state, plan).await.map_err(located)?);
                    if optimized.len() == 1 {
                        notes = views.drain(..).chain(prelude.take_notes()).collect();
                    }
                }
                let (plans, spent) = (optimized, prelude.elapsed());
                let promised = matches!(statement.action(), Action::Query(_)) && statement.parameter_types().iter().all(Option::is_some);
                if promised && schema != statement.schema() {
                    return Err(Error::invalid("a table of the statement was changed after it was prepared")
                        .with_hint("prepare the statement again"));
                }
                let (mut engine, reason) = planner.engines.choose(&state, &plans[0]).await?;
                if let Some(plan) = write {
                    let writes = Writes { context: &context, catalog: &planner.catalog, ddl: &planner.ddl, planner: &planner };
                    let with = With { advances: advances(&state, &resolved).await?, beside: writes.dead_letters(&state, &plans[0]).await? };
                    engine = planner.writing(engine, Some(Arc::clone(&planner.engines.staged)), plan, with, &session);
                }
                Ok(Planned { context, plans, resolved, schema, engine, reason, notes, spent })
            }))
            .await
    }

    /// Plans to write the rows that a client streams to us.
    pub(crate) async fn plan_ingest(self: &Arc<Self>, session: &Arc<Session>, ingest: Ingest) -> Result<Planned> {
        let (planner, session) = (Arc::clone(self), Arc::clone(session));
        self.threads
            .run(Box::pin(async move {
                let context = planner.context(session.temporary_views(), session.config()).await?;
                let writes = Writes { context: &context, catalog: &planner.catalog, ddl: &planner.ddl, planner: &planner };
                let (resolved, plan) = Box::pin(writes.ingest(ingest)).await?;
                let state = context.state();
                let plans = vec![state.optimize(&resolved)?];
                let schema = row_schema(&state, resolved.clone())?;
                let (engine, reason) = planner.engines.choose(&state, &plans[0]).await?;
                let engine = planner.writing(engine, None, plan, With::default(), &session);
                let (notes, spent) = (Vec::new(), Duration::ZERO);
                Ok(Planned { context: Arc::new(context), plans, resolved, schema, engine, reason, notes, spent })
            }))
            .await
    }

    /// The engine whose runs end with the commit of a write.
    fn writing(
        &self,
        engine: Arc<dyn Engine>,
        second: Option<Arc<dyn Engine>>,
        plan: WritePlan,
        with: With,
        session: &Session,
    ) -> Arc<dyn Engine> {
        let (catalog, runtime, user) = (Arc::clone(&self.catalog), Arc::clone(&self.runtime), session.user().to_owned());
        Arc::new(WritingEngine {
            engine,
            second,
            commit: Arc::new(Committing { plan, with, catalog, runtime, cluster: Arc::clone(&self.engines.cluster), user }),
        })
    }

    /// Columns of a view's query, which sees `temporary` views.
    pub async fn columns(
        self: &Arc<Self>,
        session: &Arc<Session>,
        view: &ViewDefinition,
        temporary: Arc<TemporaryViews>,
    ) -> Result<SchemaRef> {
        let (planner, session, view) = (Arc::clone(self), Arc::clone(session), view.clone());
        self.threads
            .run(Box::pin(async move {
                let query = view_query(&view, &planner.guard)?;
                Ok(planner.describe(temporary, as_written(session.config(), &view), &Action::Query(query), 0).await?.0.schema)
            }))
            .await
    }

    /// The query of a view whose rows are kept: what it means is the same in every session.
    pub(crate) async fn definition(&self, config: &SessionConfig, view: &ViewDefinition) -> Result<LogicalPlan> {
        let context = self.context(Arc::default(), as_written(for_all(config), view)).await?;
        resolve(&context, view_query(view, &self.guard)?.as_ref()).await
    }

    /// The columns of [`Planner::definition`].
    pub(crate) async fn definition_schema(&self, config: &SessionConfig, view: &ViewDefinition) -> Result<SchemaRef> {
        let context = self.context(Arc::default(), as_written(for_all(config), view)).await?;
        row_schema(&context.state(), resolve(&context, view_query(view, &self.guard)?.as_ref()).await?)
    }

    /// Looks up all names of a query or a write.
    async fn resolve(&self, context: &SessionContext, action: &Action) -> Result<(LogicalPlan, Option<WritePlan>)> {
        match action {
            Action::Query(query) => Ok((resolve(context, query).await?, None)),
            Action::Write(write) => {
                let writes = Writes { context, catalog: &self.catalog, ddl: &self.ddl, planner: self };
                let (plan, write) = Box::pin(writes.resolve(write)).await?;
                Ok((plan, Some(write)))
            }
            _ => Err(Error::internal("only queries and writes have names to look up")),
        }
    }

    /// What a query or a write means, and the types of its parameters.
    async fn describe(
        &self,
        temporary: Arc<TemporaryViews>,
        config: SessionConfig,
        action: &Action,
        placeholders: usize,
    ) -> Result<(Resolved, Vec<Option<DataType>>)> {
        let context = self.context(temporary, config).await?;
        let (plan, write) = self.resolve(&context, action).await?;
        let types = parameter_types(&plan, placeholders)?;
        let nulls =
            types.iter().map(|known| ScalarValue::try_from(known.as_ref().unwrap_or(&DataType::Null))).collect::<Result<Vec<_>, _>>()?;
        let bound = if nulls.is_empty() { plan.clone() } else { plan.clone().with_param_values(nulls).map_err(located)? };
        let schema = row_schema(&context.state(), bound)?;
        Ok((Resolved { context, plan, schema, write }, types))
    }

    async fn context(&self, temporary: Arc<TemporaryViews>, config: SessionConfig) -> Result<SessionContext> {
        let views = Views { guard: self.guard.clone(), config: config.clone(), runtime: Arc::clone(&self.runtime) };
        let catalogs = StatementCatalogs::new(Arc::clone(&self.catalog), self.names.load().await?, Arc::new(views));
        let catalogs = catalogs.with_catalog(system::CATALOG, Arc::clone(&self.system));
        let catalogs = catalogs.with_database(system::CATALOG, self.system.schema(system::DATABASE));
        let catalogs = match self.limits.read_files {
            true => catalogs.with_catalog(FILES, Arc::new(self.ddl.files())),
            false => catalogs,
        };
        let catalogs = catalogs.with_temporary(temporary, &config.options().catalog.default_schema);
        let config = config.with_extension(Arc::<ScanReports>::default());
        Ok(context(config, &self.runtime, Arc::new(catalogs)))
    }
}

/// DataFusion's default, which is PostgreSQL's: NULLs are greater than anything.
const NULLS_MAX: &str = "nulls_max";

fn context(mut config: SessionConfig, runtime: &Arc<RuntimeEnv>, catalogs: Arc<dyn CatalogProviderList>) -> SessionContext {
    let dialect = WindlassOptions::of(config.options()).dialect;
    // Where NULLs are sorted, unless the session says so.
    let nulls = &mut config.options_mut().sql_parser.default_null_ordering;
    match dialect {
        Dialect::Hive | Dialect::Spark if nulls == NULLS_MAX => "nulls_min".clone_into(nulls),
        Dialect::Presto if nulls == NULLS_MAX => "nulls_last".clone_into(nulls),
        _ => {}
    }
    let builder = with_estimates(with_join_order(state_builder(config, Arc::clone(runtime))));
    let builder = builder.with_physical_optimizer_rules(sorted_files::rules());
    let builder = builder.with_query_planner(Arc::new(WritePlanner)).with_physical_optimizer_rule(Arc::new(BucketedExchangesRule));
    let builder = with_time_travel(with_generators(with_dialect(builder, dialect), dialect));
    SessionContext::new_with_state(builder.with_type_planner(Arc::new(NestedTypes)).with_catalog_list(catalogs).build())
}

/// Plans the views that a statement names, with the statement's settings.
#[derive(Debug)]
struct Views {
    guard: GuardLimits,
    config: SessionConfig,
    runtime: Arc<RuntimeEnv>,
}

#[async_trait]
impl ViewPlanner for Views {
    async fn plan_view(&self, view: &ViewDefinition, names: Arc<dyn CatalogProviderList>) -> Result<LogicalPlan, DataFusionError> {
        let external = |error: Error| DataFusionError::External(Box::new(error));
        let query = view_query(view, &self.guard).map_err(external)?;
        let context = context(as_written(self.config.clone(), view), &self.runtime, names);
        resolve(&context, &query).await.map_err(external)
    }
}

fn view_query(view: &ViewDefinition, guard: &GuardLimits) -> Result<Box<ast::Statement>> {
    match parse(&view.sql, view.dialect, guard)? {
        Parsed { action: Action::Query(query), placeholders: 0, .. } => Ok(query),
        Parsed { action: Action::Query(_), .. } => Err(Error::invalid("a view cannot have parameters")),
        _ => Err(Error::invalid("a view is made of a query")),
    }
}

impl Planned {
    /// The plans as engines take them.
    pub fn queries(&self, id: &QueryId, label: &str) -> Vec<PlannedQuery> {
        let query = |plan: &LogicalPlan| PlannedQuery {
            id: id.clone(),
            label: label.to_owned(),
            context: Arc::clone(&self.context),
            plan: plan.clone(),
            schema: Arc::clone(&self.schema),
        };
        self.plans.iter().map(query).collect()
    }
}

/// The schema that clients see of a plan's rows. Coercion decides the types of some columns, such as those of a UNION.
fn row_schema(state: &SessionState, plan: LogicalPlan) -> Result<SchemaRef> {
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).map_err(located)?;
    Ok(client_schema(plan.schema().as_arrow()))
}

/// Columns of SHOW for settings. The value is the second one, where clients look for it.
pub fn settings_schema() -> SchemaRef {
    use datafusion::arrow::datatypes::{Field, Schema};
    Arc::new(Schema::new(["name", "value", "description"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec()))
}

/// A configuration in which names and functions mean what they meant where the view was made.
fn as_written(mut config: SessionConfig, view: &ViewDefinition) -> SessionConfig {
    let options = config.options_mut();
    options.catalog.default_schema.clone_from(&view.default_database);
    if let Some(ours) = options.extensions.get_mut::<WindlassOptions>() {
        ours.dialect = view.dialect;
    }
    config
}

/// A configuration in which nobody asks: what is planned with it is kept for everybody.
fn for_all(config: &SessionConfig) -> SessionConfig {
    config.clone().with_extension(Arc::new(Asker(None)))
}

/// Looks all names up. Errors: those of the names, with their place in the text; `Unsupported` for a query that writes.
pub(crate) async fn resolve(context: &SessionContext, query: &ast::Statement) -> Result<LogicalPlan> {
    let (mut query, state) = (query.clone(), context.state());
    respell(&mut query, state.config())?;
    name_files(&mut query, state.catalog_list().catalog(FILES).is_some())?;
    let statement = parser::Statement::Statement(Box::new(query));
    let plan = match state.statement_to_plan(statement.clone()).await {
        Ok(plan) => plan,
        Err(error) => {
            let missing = missing_table(&state, &statement, &error);
            return Err(placed(place(&error), missing.unwrap_or_else(|| Error::from(error))));
        }
    };
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(&plan).map_err(|_| Error::unsupported("a query can only read: SELECT INTO and INSERT are not supported"))?;
    Ok(plan)
}

/// What `error` says if it is about a table that does not exist. DataFusion has one error for all that is wrong with a plan.
fn missing_table(state: &SessionState, statement: &parser::Statement, error: &DataFusionError) -> Option<Error> {
    let (defaults, text) = (&state.config_options().catalog, error.to_string());
    let references = state.resolve_table_references(statement).ok()?.into_iter();
    let mut names = references.map(|reference| reference.resolve(&defaults.default_catalog, &defaults.default_schema));
    let name = names.find(|name| text.contains(&format!("'{name}' not found")))?;
    let (what, missing) = match (state.catalog_list().catalog(&name.catalog), state.schema_for_ref(name.clone())) {
        (None, _) => ("catalog", name.catalog.to_string()),
        (_, Err(_)) => ("database", name.schema.to_string()),
        _ => ("table", format!("{}.{}", name.schema, name.table)),
    };
    Some(Error::new(Kind::NotFound, format!("{what} '{missing}' does not exist")))
}

/// An error of planning with its place in the text.
fn located(error: DataFusionError) -> Error {
    placed(place(&error), Error::from(error))
}

fn place(error: &DataFusionError) -> Option<Location> {
    error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start)
}

fn placed(place: Option<Location>, error: Error) -> Error {
    match place {
        Some(place) => error.at(place.line, place.column),
        None => error,
    }
}

/// What the plan says of its placeholders' types; `None` where it says nothing, or two things.
fn parameter_types(plan: &LogicalPlan, count: usize) -> Result<Vec<Option<DataType>>> {
    let mut hints: Vec<Vec<DataType>> = vec![Vec::new(); count];
    let mut note = |id: &str, data_type: &DataType| {
        let index = id.trim_start_matches('$').parse().ok().filter(|number| (1..=count).contains(number));
        let data_type = client_type(data_type);
        if let Some(hint) = index.map(|number: usize| &mut hints[number - 1])
            && data_type != DataType::Null
            && !hint.contains(&data_type)
        {
            hint.push(data_type);
        }
    };
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            for expr in [&limit.skip, &limit.fetch].into_iter().flatten() {
                if let Expr::Placeholder(placeholder) = expr.as_ref() {
                    note(&placeholder.id, &DataType::Int64);
                }
            }
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                match expr {
                    Expr::Placeholder(Placeholder { id, field: Some(field) }) => note(id, field.data_type()),
                    Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                        if let Expr::Placeholder(Placeholder { id, .. }) = expr.as_ref() {
                            note(id, field.data_type());
                        }
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(hints.into_iter().map(|mut hint| if hint.len() == 1 { hint.pop() } else { None }).collect())
}

/// Values per run, in order of the placeholders, cast to the types that the plan wants.
///
/// Shape: one run per row of `parameters`; one run without values for a statement without placeholders.
fn bind(types: &[Option<DataType>], parameters: Option<&RecordBatch>, rows_max: usize) -> Result<Vec<Vec<ScalarValue>>> {
    if types.is_empty() {
        return Ok(vec![Vec::new()]);
    }
    let bound = parameters.map_or(0, RecordBatch::num_columns);
    let parameters = parameters.filter(|batch| batch.num_columns() == types.len() && batch.num_rows() > 0);
    let parameters =
        parameters.ok_or_else(|| Error::invalid(format!("the statement has {} parameters, and {bound} have values", types.len())))?;
    if parameters.num_rows() > rows_max {
        return Err(Error::new(
            Kind::Exhausted,
            format!("a query takes at most {rows_max} rows of parameters, not {}", parameters.num_rows()),
        ));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = parameters.columns().iter().zip(types).enumerate().map(|(index, (column, data_type))| {
        let cast = match data_type {
            Some(data_type) => cast_with_options(column, data_type, &options),
            None => Ok(Arc::clone(column)),
        };
        cast.map_err(|cause| Error::invalid(format!("parameter {}: {cause}", index + 1)))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let row = |index| columns.iter().map(|column| Ok(ScalarValue::try_from_array(column, index)?)).collect();
    (0..parameters.num_rows()).map(row).collect()
}
