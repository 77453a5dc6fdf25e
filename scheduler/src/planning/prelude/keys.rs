//! Dynamic partition pruning: the keys of a join's small side choose the partitions of the other.
//!
//! For `fact JOIN dim ON fact.dt = dim.d WHERE dim.quarter = 3`, the values of `dim.d` are asked first, and `fact.dt IN (...)` is put
//! below the join. It is true of every row that has a partner, so that it is a right condition wherever the optimizer moves it; where it
//! reaches the scan, the catalog prunes by it and no row is tested.

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::expr_rewriter::unnormalize_col;
use datafusion::logical_expr::{Expr, ExprSchemable, Filter, JoinType, LogicalPlan, LogicalPlanBuilder, TableScan, col, lit};
use windlass_catalog::prune::{IN_LIST_MAX, is_key_only};
use windlass_catalog::scan::ScanReport;

use super::Prelude;
use crate::planning::choice::{Leaves, Scan};
use crate::planning::origins::{
    STEPS_MAX, are_comparable, below, by_position, column_of, equals, has_columns, is_repeatable, narrowed_sides, reads_partners_only,
    sources,
};

/// Partitions that are not worth a query of their own.
const PARTITIONS_MIN: u64 = 4;
/// A side is small if it reads no more than one byte of so many that the other side reads.
const SIDE_RATIO_MIN: u64 = 4;
/// Values that become a list of conditions, as many as a store is asked about; of more, the least and the greatest do.
const VALUES_MAX: usize = IN_LIST_MAX;
/// Name of the values in the queries for them.
const VALUE: &str = "value";

/// One side of one join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Number of the join, in the order of a walk from the top.
    join: usize,
    is_left: bool,
}

/// A side of a join that need not read what has no partner on the other.
struct Reduction<'a> {
    place: Place,
    key: &'a Expr,
    /// Scans that the key comes from, with what it is there.
    targets: Vec<(&'a TableScan, Expr)>,
    /// Plans that have all its values, each with what they are there. The first ones have the fewest.
    sources: Vec<(&'a LogicalPlan, Expr)>,
}

/// Which values a key can have.
enum Values {
    These(Vec<ScalarValue>),
    Between(ScalarValue, ScalarValue),
}

impl Prelude<'_> {
    /// An optimized plan whose scans leave out partitions that joins would leave out. Errors: those of the optimizer.
    pub(super) async fn with_keys(&mut self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let mut conditions = Vec::new();
        for reduction in reductions(&plan)? {
            if let Some(condition) = self.condition(&reduction).await {
                conditions.push((reduction.place, condition));
            }
        }
        if conditions.is_empty() {
            return Ok(plan);
        }
        self.state.optimizer().optimize(with_conditions(plan, &conditions)?, self.state, |_, _| {})
    }

    /// A condition on the key that saves partitions. `None` if there is none, or if it is not worth while.
    async fn condition(&mut self, reduction: &Reduction<'_>) -> Option<Expr> {
        let mut worth = Vec::new();
        for (scan, key) in &reduction.targets {
            let scan = Scan::of(scan)?;
            // A table with more partitions than a scan may keep has no report, and is worth it.
            let report = scan.table().report(self.state, &scan.filters, None).await.ok();
            let is_large = |report: &ScanReport| report.partitions > PARTITIONS_MIN && report.bytes > self.options.local_scan_bytes_max;
            if report.as_ref().is_none_or(is_large) {
                worth.push((scan, key, report));
            }
        }
        let bytes_max = worth.iter().map(|(.., report)| report.as_ref().map_or(u64::MAX, |report| report.bytes / SIDE_RATIO_MIN)).max()?;
        let (source, value) = self.small_source(reduction, bytes_max.min(self.options.prelude_scan_bytes_max)).await?;
        let values = self.values(source, value).await?;
        let mut saves = false;
        for (scan, key, before) in worth {
            let filters = [scan.filters.as_slice(), &[values.condition(key.clone())]].concat();
            let Ok(after) = scan.table().report(self.state, &filters, None).await else { continue };
            let before = before.map_or(after.partitions_total, |before| before.partitions);
            if after.partitions < before {
                self.notes.push(format!(
                    "dynamic pruning: {} {} of {before} partitions, by {}",
                    after.table,
                    after.partitions,
                    values.told(value)
                ));
                saves = true;
            }
        }
        saves.then(|| values.condition(reduction.key.clone()))
    }

    /// The first source that costs at most `bytes_max` and leaves something out.
    async fn small_source<'a>(&self, reduction: &'a Reduction<'_>, bytes_max: u64) -> Option<(&'a LogicalPlan, &'a Expr)> {
        for (source, value) in &reduction.sources {
            let is_repeatable = is_repeatable(source) && !value.is_volatile();
            if is_repeatable && self.cost(source).await.is_some_and(|bytes| bytes <= bytes_max) && is_selective(source) {
                return Some((source, value));
            }
        }
        None
    }

    /// The values of an expression in all rows of a plan, without NULL. `None` if there is no telling.
    async fn values(&mut self, plan: &LogicalPlan, value: &Expr) -> Option<Values> {
        let data_type = value.get_type(plan.schema()).ok()?;
        let builder = LogicalPlanBuilder::from(plan.clone()).project([value.clone().alias(VALUE)]).ok()?;
        let some = builder.clone().distinct().ok()?.limit(0, Some(VALUES_MAX + 1)).ok()?;
        let rows = self.optimized_rows(some).await?;
        if rows.num_rows() <= VALUES_MAX {
            let mut values = column(&rows, 0, &data_type)?;
            values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
            return Some(Values::These(values));
        }
        let bounds = builder.aggregate(Vec::<Expr>::new(), [min(col(VALUE)).alias("least"), max(col(VALUE)).alias("greatest")]).ok()?;
        let rows = self.optimized_rows(bounds).await?;
        let (least, greatest) = (column(&rows, 0, &data_type)?.pop()?, column(&rows, 1, &data_type)?.pop()?);
        Some(Values::Between(least, greatest))
    }

    async fn optimized_rows(&mut self, builder: LogicalPlanBuilder) -> Option<RecordBatch> {
        let plan = self.state.optimizer().optimize(builder.build().ok()?, self.state, |_, _| {}).ok()?;
        self.ask(plan).await
    }
}

/// The values of a column that are not NULL.
fn column(rows: &RecordBatch, index: usize, data_type: &DataType) -> Option<Vec<ScalarValue>> {
    let column = rows.column(index);
    let values = (0..rows.num_rows()).filter(|row| column.is_valid(*row));
    values.map(|row| ScalarValue::try_from_array(column, row).and_then(|value| value.cast_to(data_type)).ok()).collect()
}

impl Values {
    fn condition(&self, key: Expr) -> Expr {
        match self {
            Self::These(values) => match (values.first(), values.last()) {
                (Some(least), Some(greatest)) if values.len() > 1 && least.distance_u64(greatest) == Some(values.len() as u64 - 1) => {
                    key.between(lit(least.clone()), lit(greatest.clone()))
                }
                (Some(_), _) => key.in_list(values.iter().map(|value| lit(value.clone())).collect(), false),
                (None, _) => lit(false),
            },
            Self::Between(least, greatest) => key.between(lit(least.clone()), lit(greatest.clone())),
        }
    }

    fn told(&self, value: &Expr) -> String {
        match self {
            Self::These(values) if values.len() == 1 => format!("1 value of {value}"),
            Self::These(values) => format!("{} values of {value}", values.len()),
            Self::Between(least, greatest) => format!("values of {value} from {least} to {greatest}"),
        }
    }
}

/// All sides of joins that could read less.
fn reductions(plan: &LogicalPlan) -> Result<Vec<Reduction<'_>>> {
    let (mut found, mut joins) = (Vec::new(), 0);
    plan.apply(|node| {
        if let LogicalPlan::Join(join) = node {
            for (left, right) in &join.on {
                let sides = [(true, &join.left, left, &join.right, right), (false, &join.right, right, &join.left, left)];
                for (is_left, side, key, other, value) in sides {
                    if !reads_partners_only(join, is_left) || !are_comparable(key, side, value, other) {
                        continue;
                    }
                    let mut targets = Vec::new();
                    find_targets(side, key, &mut targets, &mut 0);
                    if !targets.is_empty() {
                        found.push(Reduction { place: Place { join: joins, is_left }, key, targets, sources: sources(other, value) });
                    }
                }
            }
            joins += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// Puts conditions below their joins.
fn with_conditions(plan: LogicalPlan, conditions: &[(Place, Expr)]) -> Result<LogicalPlan> {
    let mut joins = 0;
    let filtered = plan.transform_down(|node| {
        let LogicalPlan::Join(mut join) = node else { return Ok(Transformed::no(node)) };
        let mut changed = false;
        for (place, condition) in conditions.iter().filter(|(place, _)| place.join == joins) {
            let side = if place.is_left { &mut join.left } else { &mut join.right };
            *side = LogicalPlan::Filter(Filter::try_new(condition.clone(), side.as_ref().clone().into())?).into();
            changed = true;
        }
        joins += 1;
        let join = LogicalPlan::Join(join);
        Ok(if changed { Transformed::yes(join) } else { Transformed::no(join) })
    })?;
    Ok(filtered.data)
}

/// Scans where `key` is made of partition keys alone, and a condition on it may be moved to.
fn find_targets<'a>(plan: &'a LogicalPlan, key: &Expr, found: &mut Vec<(&'a TableScan, Expr)>, steps: &mut usize) {
    *steps += 1;
    if *steps > STEPS_MAX {
        return;
    }
    match plan {
        LogicalPlan::TableScan(scan) => {
            let key = unnormalize_col(key.clone());
            if Scan::of(scan).is_some_and(|read| read.limit.is_none() && is_key_only(&key, &read.table().meta().keys)) {
                found.push((scan, key));
            }
        }
        LogicalPlan::Join(join) => {
            for (_, side) in narrowed_sides(join) {
                if has_columns(side.schema(), key) {
                    find_targets(side, key, found, steps);
                }
            }
            for (_, side, equal) in equals(join, key) {
                find_targets(side, equal, found, steps);
            }
        }
        LogicalPlan::Union(union) => {
            for input in &union.inputs {
                if let Some(key) = by_position(key, &union.schema, |index| Some(column_of(input.schema(), index))) {
                    find_targets(input, &key, found, steps);
                }
            }
        }
        LogicalPlan::Sort(sort) if sort.fetch.is_some() => {}
        LogicalPlan::Limit(_) | LogicalPlan::Window(_) => {}
        _ => {
            if let Some((input, key)) = below(plan, key) {
                find_targets(input, &key, found, steps);
            }
        }
    }
}

/// Whether a plan leaves something out, or is a list that is soon read. A whole dimension has a partner for every partition.
fn is_selective(plan: &LogicalPlan) -> bool {
    let mut selective = false;
    // The visitor does not fail.
    let _infallible = plan.apply_with_subqueries(|node| {
        selective |= match node {
            LogicalPlan::Filter(_) | LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => true,
            LogicalPlan::Join(join) => matches!(join.join_type, JoinType::LeftSemi | JoinType::RightSemi),
            LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
            LogicalPlan::TableScan(scan) => !scan.filters.is_empty(),
            _ => false,
        };
        Ok(if selective { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    let rows = |scan: &Scan| scan.table().known_statistics(&scan.filters)?.num_rows.get_value().copied();
    selective || Leaves::of(plan).is_ok_and(|leaves| leaves.scans.iter().all(|scan| rows(scan).is_some_and(|rows| rows <= VALUES_MAX)))
}
