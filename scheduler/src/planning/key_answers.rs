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

/// Whether an aggregation gives the same for rows that come once as for those that come again and again.
fn ignores_repeats(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => ignores_repeats(&alias.expr),
        Expr::AggregateFunction(AggregateFunction { func, params: AggregateFunctionParams { distinct, .. } }) => {
            *distinct || matches!(func.name(), "min" | "max")
        }
        _ => false,
    }
}

/// The scan below an aggregation that needs no row twice, if all that it reads are keys.
fn scan_of_keys(aggregate: &Aggregate) -> Option<&TableScan> {
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
    let is_volatile = aggregate.group_expr.iter().chain(&aggregate.aggr_expr).any(Expr::is_volatile);
    (only_keys && scan.fetch.is_none() && !is_volatile && aggregate.aggr_expr.iter().all(ignores_repeats)).then_some(scan)
}

fn rows(scan: &TableScan, found: &[Vec<ScalarValue>]) -> LogicalPlan {
    let schema = Arc::clone(&scan.projected_schema);
    let row = |values: &Vec<ScalarValue>| values.iter().map(|value| Expr::Literal(value.clone(), None)).collect();
    match found.is_empty() {
        true => LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema }),
        false => LogicalPlan::Values(Values { schema, values: found.iter().map(row).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use crate::coordinator::tests::{Bench, bench};

    /// A table of three days and a partition without a day, whose files are gone: whoever reads one fails.
    async fn without_files() -> Bench {
        let bench = bench().await;
        for (name, rows) in [("t", "(1, DATE '2024-01-30'), (2, DATE '2024-01-31'), (3, DATE '2024-02-01'), (4, NULL)"), ("none", "")] {
            bench.text(&format!("CREATE TABLE {name} (n BIGINT) PARTITIONED BY (dt DATE)")).await;
            if !rows.is_empty() {
                bench.text(&format!("INSERT INTO {name} VALUES {rows}")).await;
            }
        }
        for partition in std::fs::read_dir(bench.dir.path().join("warehouse/t")).unwrap() {
            std::fs::remove_dir_all(partition.unwrap().path()).unwrap();
        }
        bench
    }

    #[tokio::test]
    async fn questions_about_keys_read_no_files() {
        let bench = without_files().await;
        for (sql, expected) in [
            ("SELECT DISTINCT dt FROM t ORDER BY dt", "[2024-01-30 2024-01-31 2024-02-01 ]"),
            ("SELECT dt FROM t GROUP BY dt ORDER BY dt NULLS FIRST", "[ 2024-01-30 2024-01-31 2024-02-01]"),
            ("SELECT DISTINCT month(dt) AS m FROM t WHERE dt IS NOT NULL ORDER BY m", "[1 2]"),
            ("SELECT max(dt) FROM t WHERE dt < DATE '2024-02-01'", "[2024-01-31]"),
            ("SELECT count(DISTINCT dt) FROM t", "[3]"),
            ("SELECT min(dt) FROM (SELECT dt FROM t WHERE day(dt) > 30) v", "[2024-01-31]"),
            ("SELECT dt FROM t GROUP BY dt HAVING max(month(dt)) = 2", "[2024-02-01]"),
            ("SELECT max(dt) FROM t WHERE dt > DATE '2030-01-01'", "[]"),
            ("SELECT DISTINCT dt FROM none", ""),
            ("SELECT max(dt) FROM none", "[]"),
        ] {
            let cells = bench.text(sql).await;
            let cells: Vec<_> =
                cells.lines().skip(3).filter(|line| line.starts_with('|')).map(|line| line.trim_matches(['|', ' '])).collect();
            let shown = if cells.is_empty() { String::new() } else { format!("[{}]", cells.join(" ")) };
            assert_eq!(shown, expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn questions_about_rows_read_them() {
        let bench = without_files().await;
        for sql in [
            "SELECT dt, count(*) FROM t GROUP BY dt",
            "SELECT sum(month(dt)) FROM t",
            "SELECT DISTINCT dt, n FROM t",
            "SELECT DISTINCT dt FROM t WHERE n > 0",
            "SELECT max(dt), sum(n) FROM t",
            "SELECT dt FROM t",
            "SELECT max(dt + CAST(random() AS INT)) FROM t",
            "SELECT dt + CAST(random() AS INT) FROM t GROUP BY 1",
            "SELECT max(dt) FROM (SELECT dt FROM t LIMIT 2) v",
        ] {
            assert!(bench.run(sql, None).await.is_err(), "{sql}");
        }
    }
}
