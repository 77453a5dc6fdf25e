//! Aggregates of the same rows under different conditions, made in one pass over these rows.
//!
//! `SELECT (SELECT count(*) FROM t WHERE a = 1), (SELECT avg(b) FROM t WHERE a = 2)` reads `t` twice, and so does a product of subqueries that
//! give one row each. Both become `count(*) FILTER (WHERE a = 1), avg(b) FILTER (WHERE a = 2)` of the rows for which one of the conditions
//! holds. It is done to plans as they were resolved, where all conditions of a subquery stand in one filter above its tables; the optimizer
//! then moves what they have in common to where it belongs.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result, internal_err};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::{conjunction, disjunction, split_conjunction};
use datafusion::logical_expr::{Aggregate, Expr, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Projection, Subquery};

use super::origins::{below, by_position, cannot_fail, column_of, is_repeatable, is_volatile};
use super::prelude::tables;

/// Beginning of the names of the aggregates of a pass: no table has such columns.
const NAME: &str = "__pass";

/// Makes one pass of several in every part of a resolved plan.
pub(super) fn in_one_pass(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut passes = 0;
    let merged = plan.transform_down_with_subqueries(|node| {
        let merged = match &node {
            LogicalPlan::Projection(projection) => of_values(projection, &mut passes)?,
            LogicalPlan::Join(join) if is_product(join) => of_product(&node, &mut passes)?,
            _ => None,
        };
        Ok(merged.map_or_else(|| Transformed::no(node), Transformed::yes))
    })?;
    Ok(merged.data)
}

/// Something that gives one row of aggregates.
struct Part<'a> {
    plan: &'a LogicalPlan,
    aggregate: &'a Aggregate,
    conditions: Vec<&'a Expr>,
    /// What the conditions are asked of.
    rows: &'a LogicalPlan,
}

impl<'a> Part<'a> {
    fn of(plan: &'a LogicalPlan) -> Option<Self> {
        let mut node = plan;
        let aggregate = loop {
            node = match node {
                LogicalPlan::Aggregate(aggregate) => break aggregate,
                LogicalPlan::Projection(projection) => &projection.input,
                LogicalPlan::SubqueryAlias(alias) => &alias.input,
                _ => return None,
            };
        };
        let (conditions, rows) = match aggregate.input.as_ref() {
            LogicalPlan::Filter(filter) => (split_conjunction(&filter.predicate), filter.input.as_ref()),
            rows => (Vec::new(), rows),
        };
        let functions = || aggregate.aggr_expr.iter().filter_map(function);
        // Alone, different values are found by all tasks together.
        let only_distinct = functions().all(|function| function.params.distinct);
        let is_one_row = aggregate.group_expr.is_empty() && functions().count() == aggregate.aggr_expr.len() && !only_distinct;
        let is_movable = conditions.iter().all(|condition| !has_subquery(condition));
        // They may be computed for rows of other parts, too.
        let is_defined = functions().all(|function| function.params.args.iter().all(|arg| cannot_fail(arg, rows.schema())));
        (is_one_row && is_movable && is_defined && is_repeatable(rows) && !is_volatile(plan)).then_some(Self {
            plan,
            aggregate,
            conditions,
            rows,
        })
    }

    fn reads_the_same(&self, other: &Self) -> bool {
        let (own, others) = (tables(self.rows), tables(other.rows));
        self.rows == other.rows && own.len() == others.len() && own.iter().zip(&others).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Conditions that are not `common`.
    fn rest(&self, common: &[&Expr]) -> Option<Expr> {
        conjunction(self.conditions.iter().filter(|condition| !common.contains(*condition)).map(|condition| (*condition).clone()))
    }

    /// A column of the part, over the columns of a pass whose aggregates begin with this number.
    fn column(&self, index: usize, pass: usize, first: usize) -> Option<Expr> {
        let (mut plan, mut expr) = (self.plan, column_of(self.plan.schema(), index));
        while !matches!(plan, LogicalPlan::Aggregate(_)) {
            (plan, expr) = below(plan, &expr)?;
        }
        by_position(&expr, &self.aggregate.schema, |position| Some(Expr::Column(Column::from_name(name(pass, first + position)))))
    }
}

fn function(expr: &Expr) -> Option<&AggregateFunction> {
    match expr {
        Expr::Alias(alias) => function(&alias.expr),
        Expr::AggregateFunction(function) => Some(function),
        _ => None,
    }
}

fn has_subquery(expr: &Expr) -> bool {
    let is_subquery =
        |expr: &Expr| matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_));
    expr.exists(|expr| Ok(is_subquery(expr) || matches!(expr, Expr::OuterReferenceColumn(..)))).unwrap_or(true)
}

fn name(pass: usize, number: usize) -> String {
    format!("{NAME}_{pass}_{number}")
}

/// The aggregates of parts that read the same rows.
fn pass(parts: &[&Part], number: usize) -> Result<LogicalPlan> {
    let [first, others @ ..] = parts else { return internal_err!("a pass is made of parts") };
    let is_common = |condition: &&&Expr| others.iter().all(|part| part.conditions.contains(*condition));
    let common: Vec<&Expr> = first.conditions.iter().filter(is_common).copied().collect();
    let rests: Vec<Option<Expr>> = parts.iter().map(|part| part.rest(&common)).collect();
    // Where one part has no other conditions it reads all rows.
    let any = rests.iter().cloned().collect::<Option<Vec<_>>>().and_then(disjunction);
    let mut rows = LogicalPlanBuilder::from(first.rows.clone());
    if let Some(predicate) = conjunction(common.into_iter().cloned().chain(any)) {
        rows = rows.filter(predicate)?;
    }
    let functions =
        parts.iter().zip(&rests).flat_map(|(part, rest)| part.aggregate.aggr_expr.iter().filter_map(function).zip(std::iter::repeat(rest)));
    let functions = functions.enumerate().map(|(position, (function, rest))| {
        let mut function = function.clone();
        let filter = conjunction(rest.iter().cloned().chain(function.params.filter.take().map(|filter| *filter)));
        function.params.filter = filter.map(Box::new);
        Expr::AggregateFunction(function).alias(name(number, position))
    });
    rows.aggregate(Vec::<Expr>::new(), functions.collect::<Vec<_>>())?.build()
}

/// Parts that one pass can make, each with its place, and the number of its first aggregate.
struct Group<'a> {
    parts: Vec<(usize, usize, Part<'a>)>,
    aggregates: usize,
}

/// Parts by what they read, of those that do not read alone.
fn groups<'a>(parts: impl Iterator<Item = (usize, Part<'a>)>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for (place, part) in parts {
        let found = groups.iter().position(|group| group.parts.iter().all(|(.., other)| other.reads_the_same(&part)));
        let aggregates = part.aggregate.aggr_expr.len();
        match found {
            Some(group) => {
                let group = &mut groups[group];
                group.parts.push((place, group.aggregates, part));
                group.aggregates += aggregates;
            }
            None => groups.push(Group { parts: vec![(place, 0, part)], aggregates }),
        }
    }
    groups.retain(|group| group.parts.len() > 1);
    groups
}

impl Group<'_> {
    fn pass(&self, number: usize) -> Result<LogicalPlan> {
        pass(&self.parts.iter().map(|(.., part)| part).collect::<Vec<_>>(), number)
    }
}

/// A projection whose subqueries that stand for values read the same rows.
fn of_values(projection: &Projection, passes: &mut usize) -> Result<Option<LogicalPlan>> {
    let mut subqueries: Vec<Subquery> = Vec::new();
    for expr in &projection.expr {
        expr.apply(|expr| {
            if let Expr::ScalarSubquery(subquery) = expr
                && subquery.outer_ref_columns.is_empty()
                && !subqueries.contains(subquery)
            {
                subqueries.push(subquery.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    let parts = subqueries.iter().enumerate().filter_map(|(place, subquery)| Some((place, Part::of(&subquery.subquery)?)));
    let mut input = LogicalPlanBuilder::from(projection.input.as_ref().clone());
    let mut values: Vec<Option<Expr>> = vec![None; subqueries.len()];
    for group in groups(parts) {
        input = input.cross_join(group.pass(*passes)?)?;
        for (place, first, part) in &group.parts {
            values[*place] = part.column(0, *passes, *first);
        }
        *passes += 1;
    }
    if values.iter().all(Option::is_none) {
        return Ok(None);
    }
    let value = |expr: Expr| {
        let value = match &expr {
            Expr::ScalarSubquery(subquery) => subqueries.iter().position(|other| other == subquery).and_then(|place| values[place].clone()),
            _ => None,
        };
        Ok(value.map_or_else(|| Transformed::no(expr), Transformed::yes))
    };
    let exprs = projection.expr.iter().zip(projection.schema.iter()).map(|(expr, (qualifier, field))| {
        let replaced = expr.clone().unalias().transform_up(value)?.data;
        Ok(match replaced == *expr {
            true => replaced,
            false => replaced.alias_qualified(qualifier.cloned(), field.name()),
        })
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    Ok(Some(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.build()?))?)))
}

fn is_product(join: &Join) -> bool {
    join.join_type == JoinType::Inner && join.on.is_empty() && join.filter.is_none()
}

/// A product of which several factors read the same rows.
fn of_product(plan: &LogicalPlan, passes: &mut usize) -> Result<Option<LogicalPlan>> {
    let mut factors = Vec::new();
    find_factors(plan, &mut factors);
    let groups = groups(factors.iter().enumerate().filter_map(|(place, factor)| Some((place, Part::of(factor)?))));
    if groups.is_empty() {
        return Ok(None);
    }
    let mut made: Vec<Option<LogicalPlan>> = factors.iter().map(|factor| Some((*factor).clone())).collect();
    for group in groups {
        let mut columns = Vec::new();
        for (place, first, part) in &group.parts {
            made[*place] = None;
            for (index, (qualifier, field)) in part.plan.schema().iter().enumerate() {
                let Some(column) = part.column(index, *passes, *first) else { return Ok(None) };
                columns.push(column.alias_qualified(qualifier.cloned(), field.name()));
            }
        }
        let projection = Projection::try_new(columns, Arc::new(group.pass(*passes)?))?;
        let (place, ..) = group.parts[0];
        made[place] = Some(LogicalPlan::Projection(projection));
        *passes += 1;
    }
    let mut made = made.into_iter().flatten();
    let Some(first) = made.next() else { return Ok(None) };
    let product = made.try_fold(LogicalPlanBuilder::from(first), LogicalPlanBuilder::cross_join)?.build()?;
    Ok(Some(LogicalPlan::Projection(Projection::new_from_schema(Arc::new(product), Arc::clone(plan.schema())))))
}

fn find_factors<'a>(plan: &'a LogicalPlan, found: &mut Vec<&'a LogicalPlan>) {
    match plan {
        LogicalPlan::Join(join) if is_product(join) => {
            find_factors(&join.left, found);
            find_factors(&join.right, found);
        }
        _ => found.push(plan),
    }
}

#[cfg(test)]
mod tests;
