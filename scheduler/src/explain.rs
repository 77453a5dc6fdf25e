//! EXPLAIN: the plan, the engine with the reason for it, its stages, and what scans leave out.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use windlass_catalog::Catalog;
use windlass_catalog::scan::ScanReports;

use crate::engines::PlannedQuery;
use crate::error::Result;
use crate::planning::{Engines, Planned, Planner};
use crate::query::new_query_id;
use crate::query::rows::plan_rows;

/// The rows of EXPLAIN for the first run of a query. `verbose` shows the plan before the optimizer too.
pub async fn explain(
    planner: &Planner,
    engines: &Engines,
    catalog: &dyn Catalog,
    planned: Planned,
    label: String,
    verbose: bool,
) -> Result<RecordBatch> {
    let (engine, reason) = engines.choose(catalog, &planned).await?;
    let state = planned.context.state();
    let options = &state.config_options().explain;
    let (with_logical, with_physical, with_schema) = (!options.physical_plan_only, !options.logical_plan_only, options.show_schema);
    let plan = &planned.plans[0];
    let mut rows = Vec::new();
    if verbose {
        rows.push(("initial_logical_plan".to_owned(), planned.resolved.display_indent().to_string()));
    }
    if with_logical {
        let text = if with_schema { plan.display_indent_schema().to_string() } else { plan.display_indent().to_string() };
        rows.push(("logical_plan".to_owned(), text));
    }
    if with_physical {
        let reports = Arc::new(ScanReports::default());
        let context = with_reports(&planned.context, &reports);
        let query = PlannedQuery { id: new_query_id(), label, context, plan: plan.clone(), schema: Arc::clone(&planned.schema) };
        rows.push(("engine".to_owned(), format!("{}: {reason}", engine.name())));
        rows.extend(planner.run(async move { engine.explain(query).await }).await?);
        rows.extend(reports.take().into_iter().map(|report| ("scan".to_owned(), report.to_string())));
    }
    plan_rows(&rows)
}

/// The same session, except that its scans tell what they leave out.
fn with_reports(context: &SessionContext, reports: &Arc<ScanReports>) -> Arc<SessionContext> {
    let mut state = context.state();
    let config = state.config().clone().with_extension(Arc::clone(reports));
    *state.config_mut() = config;
    Arc::new(SessionContext::new_with_state(state))
}
