//! Materialized views read in the place of the tables below them, where they hold what a query asks for.
//!
//! A view is read only while it is fresh: every table and view that its query reads has the version that the last refresh read. It answers
//! a part of a query that is made of the same rows ([`shape`]): as they are, with further conditions, or grouped by fewer keys. The rest of
//! the query is left as it was.

mod shape;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, Result as PlanResult, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::prelude::SessionConfig;
use parking_lot::Mutex;
use tracing::debug;
use windlass_catalog::Catalog;
use windlass_catalog::catalog::{MaterializedView, TableKind, TableMeta};
use windlass_catalog::provider::HiveTable;
use windlass_engine::evolution::plain_type;
use windlass_engine::session::{UseMaterializedViews, WindlassOptions, meaning, meaning_of};

use self::shape::{Grouped, Rows, Sources, aggregate, key, over};
use super::Planner;
use crate::error::Result;

/// Views that are looked at for one query: each has to be planned.
const VIEWS_MAX: usize = 16;

/// Whether there are materialized views at all, as long as no name changes.
#[derive(Debug, Default)]
pub(super) struct AnyViews(Mutex<Option<(u64, bool)>>);

impl Planner {
    /// The plan of a query, reading materialized views where it can, and a note on each that it reads.
    pub(super) async fn use_views(&self, config: &SessionConfig, plan: LogicalPlan) -> Result<(LogicalPlan, Vec<String>)> {
        let wanted = WindlassOptions::of(config.options()).use_materialized_views;
        if wanted == UseMaterializedViews::Off || !self.has_views().await? {
            return Ok((plan, Vec::new()));
        }
        // They were computed with the defaults.
        let tables = tables_of(&plan)?;
        if tables.is_empty() || meaning_of(config.options()) != meaning() {
            return Ok((plan, Vec::new()));
        }
        let ids: Vec<_> = tables.iter().copied().collect();
        let mut found = self.catalog.materialized_views(Some(&ids), VIEWS_MAX).await?;
        found.retain(|view| is_usable(view, &tables, wanted));
        if found.is_empty() {
            return Ok((plan, Vec::new()));
        }
        // Of two that will do, the one with fewer rows.
        found.sort_by_key(|view| view.rows.unwrap_or(u64::MAX));
        let mut sources = Sources::default();
        let mut views = Vec::new();
        for found in found {
            let Some(definition) = &found.view.view else { continue };
            match self.definition(config, definition).await {
                Ok(plan) => views.extend(Stored::new(&self.catalog, &found.view, &plan, &mut sources)?),
                Err(error) => debug!(view = %found.view.name, %error, "a materialized view cannot be planned"),
            }
        }
        let mut notes = BTreeSet::new();
        let replaced = plan.transform_down_with_subqueries(|node| {
            // What is above these passes all columns on, also those that nobody asks for.
            if matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_))
                && let Some(rows) = sources.rows(&node)
            {
                if sources.asks_for_keys(&rows) {
                    // The catalog knows the answer.
                    return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
                }
                for view in &views {
                    if let Some(answer) = view.answer(&sources, &node, &rows)? {
                        notes.insert(format!("materialized view: {} is read in the place of the tables below it", view.name));
                        return Ok(Transformed::new(answer, true, TreeNodeRecursion::Jump));
                    }
                }
            }
            Ok(Transformed::no(node))
        })?;
        if !replaced.transformed {
            return Ok((replaced.data, Vec::new()));
        }
        // What a view holds may be NULL for all that a schema says, a count too.
        let plan = replaced.data.transform_up_with_subqueries(|node| Ok(Transformed::yes(node.recompute_schema()?)))?.data;
        Ok((plan, notes.into_iter().collect()))
    }

    async fn has_views(&self) -> Result<bool> {
        let version = self.catalog.names_version();
        if let Some((known, any)) = *self.any_views.0.lock()
            && known == version
        {
            return Ok(any);
        }
        let names = self.names.load().await?;
        let any = names.values().flat_map(|tables| tables.values()).any(|kind| *kind == TableKind::MaterializedView);
        *self.any_views.0.lock() = Some((version, any));
        Ok(any)
    }
}

/// The tables that a plan reads as they are now.
fn tables_of(plan: &LogicalPlan) -> PlanResult<BTreeSet<i64>> {
    let mut tables = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<HiveTable>()
            && table.is_current()
        {
            tables.insert(table.meta().id);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(tables)
}

/// Whether a view holds what its query would give now, and that may be what a query over these tables asks for.
fn is_usable(view: &MaterializedView, tables: &BTreeSet<i64>, wanted: UseMaterializedViews) -> bool {
    let base_fits = |kind| match kind {
        TableKind::View => true,
        // Others may have replaced the files.
        TableKind::External => wanted == UseMaterializedViews::All,
        TableKind::Managed | TableKind::MaterializedView => true,
    };
    let fits = |base: &windlass_catalog::catalog::Base| {
        base.now.is_some_and(|(kind, _)| base_fits(kind) && (kind == TableKind::View || tables.contains(&base.read.table_id)))
    };
    view.repeatable && view.is_fresh() && view.bases.iter().all(fits)
}

/// A view whose rows can be read.
struct Stored {
    name: String,
    scan: LogicalPlan,
    rows: Rows,
    /// What its query computes, with the columns that hold it.
    columns: Vec<(Expr, Expr)>,
}

impl Stored {
    /// The view as it is in the version that is fresh; none if nothing can be said of what it computes.
    fn new(catalog: &Arc<dyn Catalog>, view: &Arc<TableMeta>, definition: &LogicalPlan, sources: &mut Sources) -> PlanResult<Option<Self>> {
        // The order of rows is not kept.
        let definition = match definition {
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => sort.input.as_ref(),
            other => other,
        };
        let Some(rows) = sources.rows(definition) else { return Ok(None) };
        let name = TableReference::full(windlass_catalog::catalog::CATALOG, view.database.as_str(), view.name.as_str());
        let table = HiveTable::new(Arc::clone(catalog), Arc::clone(view)).pinned(view.version);
        let scan = LogicalPlanBuilder::scan(name.clone(), provider_as_source(Arc::new(table)), None)?.build()?;
        let stored = view.full_schema();
        let column = |(expr, field): (&Expr, &Arc<datafusion::arrow::datatypes::Field>)| {
            let (place, kept) = stored.column_with_name(&field.name().to_lowercase())?;
            let is_key = place >= view.schema.fields().len();
            // A text of no letters becomes NULL as a partition key. Times of another precision are not what they were.
            let is_same = plain_type(field.data_type()) == *kept.data_type()
                && !(is_key && *kept.data_type() == DataType::Utf8 && !sources.is_partition_key(expr));
            is_same.then(|| (expr.clone(), Expr::Column(Column::new(Some(name.clone()), kept.name()))))
        };
        let columns = rows.columns.iter().zip(definition.schema().fields()).filter_map(column).collect();
        Ok(Some(Self { name: format!("{}.{}", view.database, view.name), scan, rows, columns }))
    }

    /// The plan that gives the rows of `node`, which computes `rows`, from the view.
    fn answer(&self, sources: &Sources, node: &LogicalPlan, rows: &Rows) -> PlanResult<Option<LogicalPlan>> {
        if let Some(plan) = self.filtered(&rows.sources, &rows.conditions, &self.columns)? {
            return self.named(node, plan, &rows.columns, &self.columns);
        }
        let (Some((number, wanted)), LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_)) = (sources.grouped(rows), node) else {
            return Ok(None);
        };
        let (grouped, aggregates): (_, Vec<Expr>) = match sources.grouped(&self.rows) {
            Some((held_number, held)) => {
                let Some(found) = self.regrouped(node, rows, number, wanted, held_number, held)? else { return Ok(None) };
                found
            }
            None => {
                let Some(plan) = self.filtered(&wanted.sources, &wanted.conditions, &self.columns)? else { return Ok(None) };
                let over = |exprs: &[Expr]| exprs.iter().map(|expr| over(expr, &self.columns)).collect::<PlanResult<Option<Vec<_>>>>();
                let (Some(keys), Some(aggregates)) = (over(&wanted.keys)?, over(&wanted.aggregates)?) else { return Ok(None) };
                let names = (0..aggregates.len()).map(|place| at("aggregate", place)).collect();
                (self.group(plan, keys, aggregates)?, names)
            }
        };
        let keys = (0..wanted.keys.len()).map(|place| (key(number, place), at("key", place)));
        let aggregates = aggregates.into_iter().enumerate().map(|(place, expr)| (aggregate(number, place), expr));
        let columns: Vec<_> = keys.chain(aggregates).collect();
        self.named(node, grouped, &rows.columns, &columns)
    }

    /// Groups of the view put together to larger ones, and the aggregates as they are made of theirs.
    fn regrouped(
        &self,
        node: &LogicalPlan,
        rows: &Rows,
        number: usize,
        wanted: &Grouped,
        held_number: usize,
        held: &Grouped,
    ) -> PlanResult<Option<(LogicalPlan, Vec<Expr>)>> {
        let column = |expr: &Expr| self.columns.iter().find(|(known, _)| known == expr).map(|(_, column)| column.clone());
        let keys = held.keys.iter().enumerate().filter_map(|(place, expr)| Some((expr.clone(), column(&key(held_number, place))?)));
        let keys: Vec<_> = keys.collect();
        if wanted.sources != held.sources {
            return Ok(None);
        }
        let Some(plan) = self.restricted(&held.conditions, &wanted.conditions, &keys)? else { return Ok(None) };
        let groups = wanted.keys.iter().map(|expr| over(expr, &keys)).collect::<PlanResult<Option<Vec<_>>>>()?;
        let Some(groups) = groups else { return Ok(None) };
        // The column that holds an aggregate.
        let column_of = |expr: &Expr| {
            let place = held.aggregates.iter().position(|held| held == expr)?;
            column(&aggregate(held_number, place))
        };
        if wanted.keys == held.keys && !(wanted.keys.is_empty() && wanted.conditions != held.conditions) {
            let aggregates: Option<Vec<_>> = wanted.aggregates.iter().map(column_of).collect();
            if let Some(aggregates) = aggregates {
                // Every group is one of the view's. The aggregates stay in scope beside the keys.
                let keys = groups.into_iter().enumerate().map(|(place, expr)| expr.alias(format!("key {place}")));
                let named = aggregates.into_iter().enumerate().map(|(place, expr)| expr.alias(format!("aggregate {place}")));
                let names = (0..wanted.aggregates.len()).map(|place| at("aggregate", place)).collect();
                return Ok(Some((LogicalPlanBuilder::from(plan).project(keys.chain(named))?.build()?, names)));
            }
        }
        let (mut parts, mut aggregates) = (Vec::new(), Vec::new());
        for (place, expr) in wanted.aggregates.iter().enumerate() {
            let output = rows.columns.iter().position(|column| *column == aggregate(number, place));
            let is_double = output.is_some_and(|place| *node.schema().field(place).data_type() == DataType::Float64);
            let Some(whole) = whole(expr, is_double, &held.aggregates, &column_of, &mut parts) else { return Ok(None) };
            aggregates.push(whole);
        }
        Ok(Some((self.group(plan, groups, parts)?, aggregates)))
    }

    /// The view's rows, if it is made of these sources and conditions and perhaps more rows.
    fn filtered(&self, sources: &[(usize, usize)], conditions: &[Expr], columns: &[(Expr, Expr)]) -> PlanResult<Option<LogicalPlan>> {
        match sources == self.rows.sources {
            true => self.restricted(&self.rows.conditions, conditions, columns),
            false => Ok(None),
        }
    }

    /// The view's rows of which all of `wanted` is true, if `held` is true of all of them.
    fn restricted(&self, held: &[Expr], wanted: &[Expr], columns: &[(Expr, Expr)]) -> PlanResult<Option<LogicalPlan>> {
        if held.iter().any(|condition| !wanted.contains(condition)) {
            return Ok(None);
        }
        let mut plan = LogicalPlanBuilder::from(self.scan.clone());
        for condition in wanted.iter().filter(|condition| !held.contains(condition)) {
            let Some(condition) = over(condition, columns)? else { return Ok(None) };
            plan = plan.filter(condition)?;
        }
        plan.build().map(Some)
    }

    /// Groups rows; keys and aggregates are named by their places.
    fn group(&self, plan: LogicalPlan, keys: Vec<Expr>, aggregates: Vec<Expr>) -> PlanResult<LogicalPlan> {
        let keys = keys.into_iter().enumerate().map(|(place, expr)| expr.alias(format!("key {place}")));
        let aggregates = aggregates.into_iter().enumerate().map(|(place, expr)| expr.alias(format!("aggregate {place}")));
        LogicalPlanBuilder::from(plan).aggregate(keys, aggregates)?.build()
    }

    /// The columns of `node` over a plan, under their names and of their types.
    fn named(&self, node: &LogicalPlan, plan: LogicalPlan, exprs: &[Expr], columns: &[(Expr, Expr)]) -> PlanResult<Option<LogicalPlan>> {
        let mut named = Vec::with_capacity(exprs.len());
        for (expr, (relation, field)) in exprs.iter().zip(node.schema().iter()) {
            let Some(expr) = over(expr, columns)? else { return Ok(None) };
            let expr = if expr.get_type(plan.schema())? == *field.data_type() { expr } else { cast(expr, field.data_type().clone()) };
            named.push(expr.alias_qualified(relation.cloned(), field.name()));
        }
        LogicalPlanBuilder::from(plan).project(named)?.build().map(Some)
    }
}

/// The column under which an aggregation of ours gives something.
fn at(what: &str, place: usize) -> Expr {
    Expr::Column(Column::new_unqualified(format!("{what} {place}")))
}

/// An aggregate over rows from those over parts of them, which are in columns of a view that holds `held`. What has to be aggregated for it
/// is added to `parts`.
fn whole(expr: &Expr, is_double: bool, held: &[Expr], column: &impl Fn(&Expr) -> Option<Expr>, parts: &mut Vec<Expr>) -> Option<Expr> {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = expr else { return None };
    if params.distinct || !params.order_by.is_empty() {
        return None;
    }
    let mut part = |expr: Expr| {
        parts.push(expr);
        at("aggregate", parts.len() - 1)
    };
    let of_same = |name: &str| {
        let is_it = |held: &&Expr| matches!(held, Expr::AggregateFunction(held) if held.func.name() == name && held.params == *params);
        held.iter().find(is_it).and_then(column)
    };
    Some(match func.name() {
        "sum" => part(sum(column(expr)?)),
        "min" | "max" => part(func.call(vec![column(expr)?])),
        // Where the view has no groups there are no rows.
        "count" => coalesce(vec![part(sum(column(expr)?)), lit(0_i64)]),
        // A quotient of decimals would be rounded twice.
        "avg" if is_double => {
            let (total, count) = (of_same("sum")?, of_same("count")?);
            cast(part(sum(total)), DataType::Float64) / cast(part(sum(count)), DataType::Float64)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
