//! EXPLAIN: the plan, the engine with the reason for it, its stages, and what scans leave out.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::common::config::ExplainOptions;
use datafusion::common::format::ExplainFormat;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use windlass_catalog::scan::ScanReports;

use crate::engines::PlannedQuery;
use crate::error::Result;
use crate::planning::Planned;
use crate::query::new_query_id;
use crate::query::rows::plan_rows;

/// The rows of EXPLAIN for the first run of a query. `verbose` shows the plan before the optimizer too.
pub async fn explain(planned: Planned, label: String, verbose: bool) -> Result<RecordBatch> {
    let state = planned.context.state();
    let options = &state.config_options().explain;
    // A tree is drawn of physical plans only.
    let with_logical = !options.physical_plan_only && options.format != ExplainFormat::Tree;
    let plan = &planned.plans[0];
    let mut rows = Vec::new();
    if verbose {
        rows.push(("initial_logical_plan".to_owned(), logical_text(&planned.resolved, options)));
    }
    if with_logical {
        rows.push(("logical_plan".to_owned(), logical_text(plan, options)));
    }
    if !options.logical_plan_only {
        let reports = Arc::new(ScanReports::default());
        let context = with_reports(&planned.context, &reports);
        let query = PlannedQuery { id: new_query_id(), label, context, plan: plan.clone(), schema: Arc::clone(&planned.schema) };
        let plans = planned.engine.explain(query).await?;
        let handed_on = plans.iter().any(|(kind, _)| kind == ENGINE);
        rows.extend((!handed_on).then(|| engine_row(&planned)));
        rows.extend(note_rows(&planned));
        rows.extend(plans);
        rows.extend(scan_rows(&reports));
    }
    plan_rows(&rows)
}

/// The kind of the row that says who runs the query.
const ENGINE: &str = "engine";

/// Who runs the query, and why.
pub fn engine_row(planned: &Planned) -> (String, String) {
    (ENGINE.to_owned(), format!("{}: {}", planned.engine.name(), planned.reason))
}

/// What parts of the query that ran first have told.
pub fn note_rows(planned: &Planned) -> impl Iterator<Item = (String, String)> {
    planned.notes.iter().map(|note| ("prelude".to_owned(), note.clone()))
}

/// What the scans leave out.
pub fn scan_rows(reports: &ScanReports) -> impl Iterator<Item = (String, String)> {
    reports.take().into_iter().map(|report| ("scan".to_owned(), report.to_string()))
}

/// The same session, except that its scans tell what they leave out.
pub fn with_reports(context: &SessionContext, reports: &Arc<ScanReports>) -> Arc<SessionContext> {
    let mut state = context.state();
    let config = state.config().clone().with_extension(Arc::clone(reports));
    *state.config_mut() = config;
    Arc::new(SessionContext::new_with_state(state))
}

fn logical_text(plan: &LogicalPlan, options: &ExplainOptions) -> String {
    match options.format {
        ExplainFormat::PostgresJSON => plan.display_pg_json().to_string(),
        ExplainFormat::Graphviz => plan.display_graphviz().to_string(),
        ExplainFormat::Indent | ExplainFormat::Tree if options.show_schema => plan.display_indent_schema().to_string(),
        ExplainFormat::Indent | ExplainFormat::Tree => plan.display_indent().to_string(),
    }
}

/// A physical plan as EXPLAIN shows it. There is no JSON of those.
pub fn physical_text(plan: &dyn ExecutionPlan, options: &ExplainOptions) -> String {
    let plan = displayable(plan)
        .set_show_statistics(options.show_statistics)
        .set_show_schema(options.show_schema)
        .set_tree_maximum_render_width(options.tree_maximum_render_width);
    match options.format {
        ExplainFormat::Tree => plan.tree_render().to_string(),
        ExplainFormat::Graphviz => plan.graphviz().to_string(),
        ExplainFormat::Indent | ExplainFormat::PostgresJSON => plan.indent(false).to_string(),
    }
}
