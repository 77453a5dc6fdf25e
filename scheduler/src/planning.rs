//! From SQL text to plans: names resolved, parameters bound, optimised once.
//!
//! Every statement gets a session state of its own: what it resolved stays as it was, whatever others change meanwhile.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{CatalogProvider, CatalogProviderList};
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use windlass_catalog::Catalog;
use windlass_catalog::catalog::ViewDefinition;
use windlass_catalog::files::FILES;
use windlass_catalog::names::{NamesCache, StatementCatalogs, TemporaryViews};
use windlass_catalog::scan::ScanReports;
use windlass_engine::answer::schema::client_schema;
use windlass_engine::functions::with_dialect;
use windlass_engine::session::state_builder;
use windlass_engine::{Dialect, WindlassOptions};
use windlass_proto::QueryId;

use self::buckets::BucketedExchangesRule;
pub use self::choice::Engines;
use self::estimates::with_estimates;
use self::generators::with_generators;
use self::join_order::{order_joins, with_join_order};
use self::key_answers::answer_from_keys;
use self::materialized::AnyViews;
pub(crate) use self::names::resolve;
use self::names::{Views, as_written, for_all, located, view_query};
use self::one_pass::in_one_pass;
use self::parameters::{bind, parameter_types};
use self::prelude::Prelude;
pub(crate) use self::spelling::functions;
use self::threads::Threads;
use self::time_travel::{advances, with_time_travel};
use self::types::NestedTypes;
use crate::ddl::DdlExecutor;
use crate::engines::{Engine, PlannedQuery};
use crate::error::{Error, Result};
use crate::garbage::collected_schema;
use crate::guard::GuardLimits;
use crate::query::kill::killed_schema;
use crate::query::rows::plan_schema;
use crate::session::Session;
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
mod lateral_aliases;
mod letter_case;
mod materialized;
mod names;
mod one_pass;
mod origins;
mod parameters;
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

/// Plans, optimised, and what that has shown.
struct Optimized {
    plans: Vec<LogicalPlan>,
    notes: Vec<String>,
    spent: Duration,
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
                    Action::KillQuery(_) => Some(killed_schema()),
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
                let schema = one_schema(&state, &plans, known)?;
                let promised = matches!(statement.action(), Action::Query(_)) && statement.parameter_types().iter().all(Option::is_some);
                if promised && schema != statement.schema() {
                    return Err(Error::invalid("a table of the statement was changed after it was prepared")
                        .with_hint("prepare the statement again"));
                }
                let Optimized { plans, notes, spent } =
                    planner.optimize(&context, &state, plans, matches!(action, Action::Query(_))).await?;
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

    /// Optimises plans, and has parts of them run for it. Those of queries may read materialized views.
    async fn optimize(
        &self,
        context: &Arc<SessionContext>,
        state: &SessionState,
        plans: Vec<LogicalPlan>,
        are_queries: bool,
    ) -> Result<Optimized> {
        let mut prelude = Prelude::new(context, state, &self.local);
        let (mut optimized, mut notes) = (Vec::with_capacity(plans.len()), Vec::new());
        for plan in plans {
            let (plan, views) = if are_queries { self.use_views(state.config(), plan).await? } else { (plan, Vec::new()) };
            let plan = in_one_pass(plan).map_err(located)?;
            let plan = Box::pin(prelude.optimize(&plan)).await.map_err(located)?;
            let plan = answer_from_keys(state, plan).await.map_err(located)?;
            optimized.push(order_joins(state, plan).await.map_err(located)?);
            if optimized.len() == 1 {
                notes = views.into_iter().chain(prelude.take_notes()).collect();
            }
        }
        Ok(Optimized { plans: optimized, notes, spent: prelude.elapsed() })
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

/// The schema that clients see of the rows of all these plans, of which there is one at least; `known` saves finding it out.
///
/// Not that of optimized plans: the optimizer may turn a type into one as good, and what leaves the engine is cast back.
fn one_schema(state: &SessionState, plans: &[LogicalPlan], known: Option<SchemaRef>) -> Result<SchemaRef> {
    let schemas = match known {
        Some(schema) => vec![schema],
        None => plans.iter().map(|plan| row_schema(state, plan.clone())).collect::<Result<Vec<_>>>()?,
    };
    let schema = Arc::clone(&schemas[0]);
    match schemas.iter().find(|other| **other != schema) {
        Some(other) => Err(Error::internal(format!("rows of parameters give different schemas: {schema} and {other}"))),
        None => Ok(schema),
    }
}

/// Columns of SHOW for settings. The value is the second one, where clients look for it.
pub fn settings_schema() -> SchemaRef {
    Arc::new(Schema::new(["name", "value", "description"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec()))
}
