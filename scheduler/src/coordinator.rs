//! What the front doors call: SQL in, queries out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::execution::runtime_env::RuntimeEnv;
use tracing::{Instrument, info, info_span};
use windlass_catalog::Catalog;
use windlass_catalog::catalog::ViewDefinition;
use windlass_catalog::commit::Cause;
use windlass_catalog::ddl::{Analyze, DdlStatement};
use windlass_catalog::names::TemporaryViews;
use windlass_catalog::scan::ScanReports;
use windlass_engine::WindlassOptions;
use windlass_engine::answer::schema::to_client;
use windlass_engine::session::SETTABLE;
use windlass_engine::telemetry::SPAN_PLAN;
use windlass_proto::QueryId;

use crate::ddl::{self, DdlExecutor, ViewPlanner};
use crate::engines::{Cluster, Engine};
use crate::error::{Error, Result};
use crate::explain::{engine_row, explain, note_rows, with_reports};
use crate::garbage::{self, Collector, GarbageOptions};
use crate::guard::GuardLimits;
use crate::planning::{Engines, Planned, Planner, PlanningLimits, Resolved, functions, settings_schema};
use crate::query::kill::kill;
use crate::query::rows::{Summary, plan_schema};
use crate::query::{Outcome, Present, Queries, Query, QueryHead, QueryLimits, QueryRecord, Work, label, new_query_id};
use crate::readers::{Reader, Readers};
use crate::session::{Session, SessionLimits, Sessions};
use crate::statement::{Action, ExplainMode, Statement, StatementKind};
use crate::system;
use crate::write::{self, Ingest};

/// Name shown as the engine of statements that no engine runs.
const CATALOG_ENGINE: &str = "catalog";

/// Limits of everything a coordinator keeps.
#[derive(Debug, Clone, Default)]
pub struct CoordinatorLimits {
    /// How large a statement may be.
    pub guard: GuardLimits,
    /// How much planning may cost.
    pub planning: PlanningLimits,
    /// How many sessions there may be.
    pub sessions: SessionLimits,
    /// How many queries there may be.
    pub queries: QueryLimits,
    /// When garbage is collected.
    pub garbage: GarbageOptions,
}

/// What a coordinator is made of.
#[derive(Debug)]
pub struct Parts {
    /// Where names are kept.
    pub catalog: Arc<dyn Catalog>,
    /// Runs statements about names.
    pub ddl: DdlExecutor,
    /// Runs queries in this process.
    pub local: Arc<dyn Engine>,
    /// Runs queries on the executors, stages streaming to each other.
    pub pipelined: Arc<dyn Engine>,
    /// Runs queries on the executors, every exchange kept.
    pub staged: Arc<dyn Engine>,
    /// The executors.
    pub cluster: Arc<dyn Cluster>,
    /// Memory and object stores for planning.
    pub runtime: Arc<RuntimeEnv>,
}

/// Sessions, statements and queries of one scheduler.
#[derive(Debug)]
pub struct Coordinator {
    catalog: Arc<dyn Catalog>,
    ddl: Arc<DdlExecutor>,
    planner: Arc<Planner>,
    sessions: Sessions,
    queries: Arc<Queries>,
    readers: Arc<Readers>,
    collector: Arc<Collector>,
}

impl Coordinator {
    /// Must be called inside a tokio runtime.
    pub fn new(parts: Parts, limits: CoordinatorLimits) -> Arc<Self> {
        let queries = Queries::new(limits.queries);
        let system = system::catalog(Arc::clone(&queries), Arc::clone(&parts.cluster), Arc::clone(&parts.catalog));
        let (catalog, runtime) = (Arc::clone(&parts.catalog), Arc::clone(&parts.runtime));
        let readers = Readers::new(Arc::clone(&catalog));
        let reading = (Arc::clone(&queries), Arc::clone(&readers));
        let collector = Collector::new(catalog, runtime, parts.ddl.places(), reading, limits.garbage);
        let engines = Engines { local: parts.local, pipelined: parts.pipelined, staged: parts.staged, cluster: Arc::clone(&parts.cluster) };
        let ddl = Arc::new(parts.ddl);
        let (catalog, names) = (Arc::clone(&parts.catalog), Arc::clone(&ddl));
        let planner = Planner::new(limits.planning, limits.guard, catalog, names, system, parts.runtime, engines);
        Arc::new(Self {
            catalog: parts.catalog,
            ddl,
            planner: Arc::new(planner),
            sessions: Sessions::new(limits.sessions, parts.cluster),
            queries,
            readers,
            collector: Arc::new(collector),
        })
    }

    /// What deletes files that nobody needs.
    pub fn collector(&self) -> &Arc<Collector> {
        &self.collector
    }

    /// All open sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Where names are kept.
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    /// Reads and describes a statement; runs nothing. Errors: everything that is wrong with it but the values of its parameters.
    pub async fn prepare(&self, session: &Arc<Session>, sql: &str) -> Result<Arc<Statement>> {
        let (statement, _) = self.planner.prepare(session, sql).instrument(info_span!(SPAN_PLAN)).await?;
        Ok(Arc::new(statement))
    }

    /// Starts a statement without parameters, as [`Coordinator::prepare`] and [`Coordinator::execute`] would in a row.
    pub async fn submit(&self, session: &Arc<Session>, sql: &str) -> Result<Arc<Query>> {
        let reader = self.readers.begin();
        let (statement, resolved) = self.planner.prepare(session, sql).instrument(info_span!(SPAN_PLAN)).await?;
        self.start(session, &Arc::new(statement), None, resolved, &reader).await
    }

    /// Starts a statement. `parameters` has one column per placeholder and one row per run; results come in the order of the rows.
    ///
    /// A query is planned and runs or waits in the queue when this returns; an update has run to its end, once. Dropping the future
    /// before that cancels either. Errors: those of planning, of admission, and of updates.
    pub async fn execute(
        &self,
        session: &Arc<Session>,
        statement: &Arc<Statement>,
        parameters: Option<&RecordBatch>,
    ) -> Result<Arc<Query>> {
        self.start(session, statement, parameters, None, &self.readers.begin()).await
    }

    async fn start(
        &self,
        session: &Arc<Session>,
        statement: &Arc<Statement>,
        parameters: Option<&RecordBatch>,
        resolved: Option<Resolved>,
        reader: &Reader,
    ) -> Result<Arc<Query>> {
        let work = match statement.action() {
            Action::Query(_) | Action::Write(_) | Action::Explain { mode: ExplainMode::Analyze, .. } => {
                return self.run(session, statement, parameters, resolved, reader).await;
            }
            Action::Explain { mode, .. } => {
                let (planner, session, statement) = (Arc::clone(&self.planner), Arc::clone(session), Arc::clone(statement));
                let (parameters, verbose) = (parameters.cloned(), *mode == ExplainMode::Verbose);
                Work::Statement(Box::pin(async move {
                    let planned = planner.plan(&session, &statement, parameters, resolved).await?;
                    let rows = explain(planned, label(statement.sql()), verbose).await?;
                    Ok(Outcome { rows: Some(rows), affected_rows: None })
                }))
            }
            Action::Names(names) => {
                if let DdlStatement::Analyze(analyze) = names.as_ref()
                    && let Some(query) = self.analyze(session, statement, analyze, reader).await?
                {
                    return Ok(query);
                }
                let planner = SessionPlanner { planner: Arc::clone(&self.planner), session: Arc::clone(session) };
                let head = head(session, statement, CATALOG_ENGINE, statement.schema(), reader);
                let by = Cause { user: session.user().to_owned(), query_id: Some(head.id.to_string()), ..Cause::default() };
                let run = run_names(Arc::clone(&self.ddl), names.as_ref().clone(), by, planner, statement.schema());
                return self.queries.launch(head, Work::Statement(Box::pin(run))).await;
            }
            Action::Vacuum(vacuum) => {
                let (ddl, collector, vacuum) = (Arc::clone(&self.ddl), Arc::clone(&self.collector), vacuum.clone());
                let database = session.database();
                Work::Statement(Box::pin(async move {
                    let table = match &vacuum.table {
                        Some(name) => Some(ddl.table(name, &database).await?),
                        None => None,
                    };
                    let collected = collector.collect(table.as_deref(), vacuum.older_than, vacuum.dry_run).await?;
                    Ok(Outcome { rows: Some(garbage::collected_rows(&collected)?), affected_rows: None })
                }))
            }
            Action::KillQuery(victim) => {
                let (queries, user, victim) = (Arc::clone(&self.queries), session.user().to_owned(), victim.clone());
                Work::Statement(Box::pin(async move {
                    let killed = kill(&queries, &user, &victim).await?;
                    Ok(Outcome { rows: Some(killed), affected_rows: None })
                }))
            }
            Action::Set { name, value } => {
                session.set(name, value)?;
                Work::done()
            }
            Action::Reset(name) => {
                session.reset(name.as_deref())?;
                Work::done()
            }
            Action::Show(name) => Work::rows(settings(session, name.as_deref())?),
            Action::Prepare { name, text } => {
                session.set_prepared(name, Some(text.clone()))?;
                Work::done()
            }
            Action::Deallocate(name) => {
                session.set_prepared(name, None)?;
                Work::done()
            }
            Action::Execute(_) => return Err(Error::internal("EXECUTE stands for no statement")),
        };
        self.queries.launch(head(session, statement, CATALOG_ENGINE, statement.schema(), reader), work).await
    }

    /// Starts to write the rows that a client streams to us.
    pub(crate) async fn ingest(&self, session: &Arc<Session>, ingest: Ingest) -> Result<Arc<Query>> {
        let text = format!("INGEST INTO {}", ingest.table);
        let reader = self.readers.begin();
        let planned = self.planner.plan_ingest(session, ingest).instrument(info_span!(SPAN_PLAN)).await?;
        let head = QueryHead {
            id: new_query_id(),
            session: Arc::clone(session),
            label: label(&text),
            schema: write::result_schema(),
            engine: planned.engine.name(),
            updates: true,
            began_ms: reader.began_ms(),
        };
        self.admit(head, planned, Box::new(|run| run)).await
    }

    /// The query, if it is still remembered.
    pub fn query(&self, id: &QueryId) -> Option<Arc<Query>> {
        self.queries.get(id)
    }

    /// Records of all queries that run or are remembered, oldest first.
    pub fn queries(&self) -> Vec<QueryRecord> {
        self.queries.records()
    }

    /// Refuses new queries and waits, at most for `limit`, until those there are have ended and their rows were read.
    pub async fn drain(&self, limit: Duration) {
        self.queries.drain(limit).await;
    }

    /// Refuses new queries, cancels all and frees their rows; whether some were running.
    pub async fn shut_down(&self) -> bool {
        self.queries.shut_down().await
    }

    async fn run(
        &self,
        session: &Arc<Session>,
        statement: &Arc<Statement>,
        parameters: Option<&RecordBatch>,
        resolved: Option<Resolved>,
        reader: &Reader,
    ) -> Result<Arc<Query>> {
        let mut planned = self.planner.plan(session, statement, parameters.cloned(), resolved).instrument(info_span!(SPAN_PLAN)).await?;
        let (schema, present): (_, Present) = match statement.action() {
            Action::Query(_) => (Arc::clone(&planned.schema), Box::new(|run| run)),
            Action::Write(statement) => (statement.schema().unwrap_or_else(write::result_schema), Box::new(|run| run)),
            _ => {
                let (engine, notes, reports) =
                    (engine_row(&planned), note_rows(&planned).collect::<Vec<_>>(), Arc::new(ScanReports::default()));
                planned.context = with_reports(&planned.context, &reports);
                (plan_schema(), Box::new(move |run| Arc::new(Summary::analyzed(run, engine.clone(), notes.clone(), Arc::clone(&reports)))))
            }
        };
        self.admit(head(session, statement, planned.engine.name(), schema, reader), planned, present).await
    }

    /// Runs the query of an ANALYZE; none if it needs no query.
    async fn analyze(
        &self,
        session: &Arc<Session>,
        statement: &Arc<Statement>,
        analyze: &Analyze,
        reader: &Reader,
    ) -> Result<Option<Arc<Query>>> {
        let views = SessionPlanner { planner: Arc::clone(&self.planner), session: Arc::clone(session) };
        let Some(analysis) = self.ddl.analysis(analyze, &session.database(), &views).await? else { return Ok(None) };
        let plan = async {
            let (query, resolved) = self.planner.prepare(session, &format!("/* windlass.dialect = generic */ {}", analysis.sql())).await?;
            self.planner.plan(session, &Arc::new(query), None, resolved).await
        };
        let planned = plan.instrument(info_span!(SPAN_PLAN)).await?;
        let analysis = Arc::new(analysis);
        let present: Present = Box::new(move |run| {
            let analysis = Arc::clone(&analysis);
            Arc::new(Summary::new(run, move |run| {
                let analysis = Arc::clone(&analysis);
                async move { analysis.keep(run.as_ref()).await }
            }))
        });
        self.admit(head(session, statement, planned.engine.name(), statement.schema(), reader), planned, present).await.map(Some)
    }

    async fn admit(&self, head: QueryHead, planned: Planned, present: Present) -> Result<Arc<Query>> {
        let timeout = WindlassOptions::of(planned.context.state().config_options()).query_timeout_s;
        let work = Work::Plans {
            engine: Arc::clone(&planned.engine),
            plans: planned.queries(&head.id, &head.label),
            present,
            timeout: (timeout > 0).then(|| Duration::from_secs(timeout).saturating_sub(planned.spent)),
        };
        self.queries.launch(head, work).await
    }
}

fn head(session: &Arc<Session>, statement: &Statement, engine: &'static str, schema: SchemaRef, reader: &Reader) -> QueryHead {
    let updates = statement.kind() == StatementKind::Update;
    QueryHead {
        id: new_query_id(),
        session: Arc::clone(session),
        label: label(statement.sql()),
        schema,
        engine,
        updates,
        began_ms: reader.began_ms(),
    }
}

async fn run_names(
    ddl: Arc<DdlExecutor>,
    statement: DdlStatement,
    by: Cause,
    planner: SessionPlanner,
    schema: SchemaRef,
) -> Result<Outcome> {
    let session = &planner.session;
    match ddl.execute(&statement, &session.database(), &by, &planner).await? {
        ddl::Outcome::Rows(found, batches) => {
            let rows = to_client(&concat_batches(&found, &batches)?, &schema)?;
            Ok(Outcome { rows: Some(rows), affected_rows: None })
        }
        ddl::Outcome::Done(remark) => {
            remark.iter().for_each(|remark| info!(remark, "names changed"));
            Ok(Outcome::default())
        }
        ddl::Outcome::UseDatabase(database) => {
            session.set_database(database);
            Ok(Outcome::default())
        }
        ddl::Outcome::TemporaryView(name, view) => {
            session.set_temporary_view(&name, view)?;
            Ok(Outcome::default())
        }
    }
}

/// Plans views as the session's user would.
struct SessionPlanner {
    planner: Arc<Planner>,
    session: Arc<Session>,
}

#[async_trait]
impl ViewPlanner for SessionPlanner {
    async fn plan_schema(&self, view: &ViewDefinition, temporary: Arc<TemporaryViews>) -> Result<SchemaRef> {
        self.planner.columns(&self.session, view, temporary).await
    }

    fn functions(&self) -> BTreeMap<String, &'static str> {
        functions(self.session.dialect())
    }

    fn temporary_views(&self) -> Arc<TemporaryViews> {
        self.session.temporary_views()
    }
}

/// Rows of SHOW for one setting, or for all.
fn settings(session: &Session, name: Option<&str>) -> Result<RecordBatch> {
    let settings = match name {
        Some(name) => vec![(name.to_owned(), session.get(name)?)],
        None => session.settings(),
    };
    let describe = |name: &str| SETTABLE.iter().find(|(known, _)| *known == name).map(|(_, description)| *description);
    let names = StringArray::from_iter_values(settings.iter().map(|(name, _)| name));
    let values = StringArray::from_iter_values(settings.iter().map(|(_, value)| value));
    let descriptions = settings.iter().map(|(name, _)| describe(name)).collect::<StringArray>();
    Ok(RecordBatch::try_new(settings_schema(), vec![Arc::new(names), Arc::new(values), Arc::new(descriptions)])?)
}

#[cfg(test)]
pub(crate) mod tests;
