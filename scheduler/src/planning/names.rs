//! What the names of a query mean: tables, views, functions. Errors come with their place in the text.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::CatalogProviderList;
use datafusion::common::Location;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{LogicalPlan, Volatility};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser;
use datafusion::sql::sqlparser::ast;
use windlass_catalog::catalog::ViewDefinition;
use windlass_catalog::files::FILES;
use windlass_catalog::names::ViewPlanner;
use windlass_engine::WindlassOptions;
use windlass_proto::Kind;

use super::context;
use super::files::name_files;
use super::spelling::respell;
use super::{lateral_aliases, letter_case};
use crate::error::{Error, Result};
use crate::guard::GuardLimits;
use crate::session::Asker;
use crate::statement::{Action, Parsed, parse};

/// Looks all names up. Errors: those of the names, with their place in the text; `Unsupported` for a query that writes.
pub(crate) async fn resolve(context: &SessionContext, query: &ast::Statement) -> Result<LogicalPlan> {
    let (mut query, state) = (query.clone(), context.state());
    respell(&mut query, state.config())?;
    name_files(&mut query, state.catalog_list().catalog(FILES).is_some())?;
    let is_volatile = |name: &str| {
        let function = state.scalar_functions().get(name);
        function.is_some_and(|function| function.signature().volatility == Volatility::Volatile)
    };
    let mut aliases = 0;
    let plan = loop {
        let statement = parser::Statement::Statement(Box::new(query.clone()));
        match state.statement_to_plan(statement.clone()).await {
            Ok(plan) => break plan,
            Err(error) if aliases < lateral_aliases::FOUND_MAX && lateral_aliases::found(&mut query, &error, &is_volatile) => aliases += 1,
            Err(error) if aliases < lateral_aliases::FOUND_MAX && letter_case::found(&mut query, &error) => aliases += 1,
            Err(error) => {
                let missing = missing_table(&state, &statement, &error);
                return Err(placed(place(&error), missing.unwrap_or_else(|| Error::from(error))));
            }
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
pub(super) fn located(error: DataFusionError) -> Error {
    placed(place(&error), Error::from(error))
}

/// Where in the text an error of planning is.
pub(super) fn place(error: &DataFusionError) -> Option<Location> {
    error.diagnostic().and_then(|diagnostic| diagnostic.span).map(|span| span.start)
}

fn placed(place: Option<Location>, error: Error) -> Error {
    match place {
        Some(place) => error.at(place.line, place.column),
        None => error,
    }
}

/// Plans the views that a statement names, with the statement's settings.
#[derive(Debug)]
pub(super) struct Views {
    pub(super) guard: GuardLimits,
    pub(super) config: SessionConfig,
    pub(super) runtime: Arc<RuntimeEnv>,
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

/// The query of a view.
pub(super) fn view_query(view: &ViewDefinition, guard: &GuardLimits) -> Result<Box<ast::Statement>> {
    match parse(&view.sql, view.dialect, guard)? {
        Parsed { action: Action::Query(query), placeholders: 0, .. } => Ok(query),
        Parsed { action: Action::Query(_), .. } => Err(Error::invalid("a view cannot have parameters")),
        _ => Err(Error::invalid("a view is made of a query")),
    }
}

/// A configuration in which names and functions mean what they meant where the view was made.
pub(super) fn as_written(mut config: SessionConfig, view: &ViewDefinition) -> SessionConfig {
    let options = config.options_mut();
    options.catalog.default_schema.clone_from(&view.default_database);
    if let Some(ours) = options.extensions.get_mut::<WindlassOptions>() {
        ours.dialect = view.dialect;
    }
    config
}

/// A configuration in which nobody asks: what is planned with it is kept for everybody.
pub(super) fn for_all(config: &SessionConfig) -> SessionConfig {
    config.clone().with_extension(Arc::new(Asker(None)))
}
