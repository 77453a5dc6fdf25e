//! Questions about partition keys alone, such as `SELECT DISTINCT dt` and `max(dt)`, answered by the catalog instead of the files.
//!
//! An aggregation for which it makes no difference how often a row comes needs each combination of keys once. Those of which the catalog
//! has rows are the answer: what others did to files since is not looked at, as long as nobody reads them.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::{Aggregate, EmptyRelation, Expr, LogicalPlan, TableScan, Values};
use datafusion::scalar::ScalarValue;
use windlass_catalog::provider::HiveTable;

/// Combinations of keys that a plan may list; where there are more, files are read.
const COMBINATIONS_MAX: usize = 10_000;

/// Replaces scans of keys that need no files. Asks the catalog what they read, which the physical plan then need not ask again.
///
/// Errors: as those of the scans.
pub async fn answer_from_keys(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut scans: Vec<TableScan> = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            scans.extend(scan_of_keys(aggregate).cloned());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut answers: Vec<(TableScan, Vec<Vec<ScalarValue>>)> = Vec::new();
    for scan in scans {
        let provider = source_as_provider(&scan.source)?;
        let Some(table) = provider.downcast_ref::<HiveTable>() else { continue };
        let columns = scan.projection.as_deref().unwrap_or_default();
        let filters = unnormalize_cols(scan.filters.iter().cloned());
        let found = table.key_combinations(state, &filters, columns).await?;
        answers.extend(found.filter(|found| found.len() <= COMBINATIONS_MAX).map(|found| (scan, found)));
    }
    if answers.is_empty() {
        return Ok(plan);
    }
    let replace = |node: LogicalPlan| match node {
        LogicalPlan::Aggregate(aggregate) => {
            let answer = scan_of_keys(&aggregate).and_then(|scan| answers.iter().find(|(answered, _)| answered == scan));
            let Some((scan, found)) = answer else { return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))) };
            LogicalPlan::Aggregate(aggregate).transform_down(|below| match &below {
                LogicalPlan::TableScan(found_scan) if found_scan == scan => Ok(Transformed::yes(rows(scan, found))),
                _ => Ok(Transformed::no(below)),
            })
        }
        _ => Ok(Transformed::no(node)),
    };
    Ok(plan.transform_down_with_subqueries(replace)?.data)
}

/// The scan below an aggregation that needs no row twice, if all that it reads are keys.
fn scan_of_keys(aggregate: &Aggregate) -> Option<&TableScan> {
    let ignores_repeats = |expr: &Expr| match expr {
        Expr::AggregateFunction(AggregateFunction { func, params: AggregateFunctionParams { distinct, .. } }) => {
            *distinct || matches!(func.name(), "min" | "max")
        }
        _ => false,
    };
    let mut node = aggregate.input.as_ref();
    let scan = loop {
        node = match node {
            LogicalPlan::TableScan(scan) => break scan,
            LogicalPlan::Projection(projection) if !projection.expr.iter().any(Expr::is_volatile) => &projection.input,
            LogicalPlan::Filter(filter) if !filter.predicate.is_volatile() => &filter.input,
            LogicalPlan::SubqueryAlias(alias) => &alias.input,
            _ => return None,
        };
    };
    let provider = source_as_provider(&scan.source).ok()?;
    let table = provider.downcast_ref::<HiveTable>()?;
    let is_key = |column: &usize| *column >= table.meta().schema.fields().len();
    let only_keys = scan.projection.as_ref().is_some_and(|columns| !columns.is_empty() && columns.iter().all(is_key));
    (only_keys && scan.fetch.is_none() && aggregate.aggr_expr.iter().all(ignores_repeats)).then_some(scan)
}

fn rows(scan: &TableScan, found: &[Vec<ScalarValue>]) -> LogicalPlan {
    let schema = Arc::clone(&scan.projected_schema);
    let row = |values: &Vec<ScalarValue>| values.iter().map(|value| Expr::Literal(value.clone(), None)).collect();
    match found.is_empty() {
        true => LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema }),
        false => LogicalPlan::Values(Values { schema, values: found.iter().map(row).collect() }),
    }
}
