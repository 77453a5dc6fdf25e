//! Rows of every set of a region's relations, from what is known of each relation alone.

use std::collections::HashMap;

use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, JoinType};

use super::estimate::{ColumnEstimate, Estimate, Key, at_least_one};
use super::region::{Lookup, Region, implied_equalities};
use super::search::{Relations, Sizes};
use super::selectivity::Selectivity;

/// Share of an OR that repeats an equality which is counted already.
const UNKNOWN: f64 = 0.2;
/// Share of the rows with a partner that also fulfil a lookup's further conditions.
const LOOKUP_FILTER: f64 = 0.75;
/// Least share of rows that an anti join is believed to keep. How many values have a partner is known as an upper bound only, and one that
/// is estimated to keep none would make all above it look free.
const ANTI_MIN: f64 = 0.5;
/// More rows than this are all the same, and numbers stay numbers.
const ROWS_MAX: f64 = 1e60;

/// Sizes of the joins of a region.
pub(super) struct RegionSizes {
    relations: Vec<RelationSize>,
    /// Columns that are equal to each other, those with the fewest values first.
    classes: Vec<Vec<Member>>,
    /// Other conditions: what they need, and the share of rows they keep.
    conjuncts: Vec<(Relations, f64)>,
    columns: HashMap<Column, ColumnEstimate>,
    broadcast_bytes: f64,
}

struct RelationSize {
    /// For a lookup, what it makes of one row.
    rows: f64,
    width: f64,
}

struct Member {
    relation: usize,
    distinct: f64,
    /// Of the relation's table, before its filters.
    rows: f64,
}

/// Values of a relation's columns that are joined.
struct Values {
    product: f64,
    /// Rows of the relation's table.
    most: f64,
    /// Relations that have a column in each of the classes.
    partners: Relations,
}

impl RegionSizes {
    /// `None` if the rows of a relation are not known.
    pub(super) fn of(region: &Region, broadcast_bytes: f64) -> Option<Self> {
        let mut columns = HashMap::new();
        let mut estimates = Vec::with_capacity(region.relations.len());
        for relation in &region.relations {
            let schema = relation.plan.schema();
            let conjuncts: Vec<&Expr> = relation.conjuncts.iter().collect();
            let estimate = Estimate::of(&relation.plan)?.filtered(schema, &conjuncts);
            if relation.lookup.as_ref().is_none_or(|lookup| lookup.join_type == JoinType::Left) {
                columns.extend(schema.columns().into_iter().zip(estimate.columns.iter().cloned()));
            }
            estimates.push(estimate);
        }
        let size = |(relation, estimate): (&super::region::Relation, &Estimate)| match &relation.lookup {
            None => RelationSize { rows: estimate.rows, width: estimate.width() },
            Some(lookup) => RelationSize {
                rows: partners(lookup, estimate, relation.plan.schema(), &columns),
                width: if lookup.join_type == JoinType::Left { estimate.width() } else { 0.0 },
            },
        };
        let relations: Vec<RelationSize> = region.relations.iter().zip(&estimates).map(size).collect();
        let classes = region.classes.iter().map(|class| members(class, &columns)).collect();
        let known = |column: &Column| columns.get(column);
        let selectivity = Selectivity::new(&known);
        let share = |expr: &Expr| match implied_equalities(expr).is_empty() {
            true => selectivity.of_all(&[expr]),
            false => UNKNOWN,
        };
        let conjuncts = region.conjuncts.iter().map(|conjunct| (conjunct.needs, share(&conjunct.expr))).collect();
        Some(Self { relations, classes, conjuncts, columns, broadcast_bytes })
    }

    /// What is known of all joins together.
    pub(super) fn estimate(&self, region: &Region, schema: &DFSchema) -> Option<Estimate> {
        let rows = self.rows(region.tree.relations());
        let known = |column: &Column| self.columns.get(column).cloned();
        let column = |(column, field): (Column, &std::sync::Arc<datafusion::arrow::datatypes::Field>)| {
            known(&column).unwrap_or_else(|| ColumnEstimate::unknown(field.data_type(), rows))
        };
        Some(Estimate { rows, columns: schema.columns().into_iter().zip(schema.fields()).map(column).collect() })
    }
}

impl Sizes for RegionSizes {
    fn rows(&self, set: Relations) -> f64 {
        let mut rows = set.iter().map(|relation| self.relations[relation].rows).product::<f64>();
        // By relation: the values that its columns must have, all together.
        let mut values: HashMap<usize, Values> = HashMap::new();
        for class in &self.classes {
            let mut joined = class.iter().filter(|member| set.has(member.relation));
            let all: Relations = joined.clone().map(|member| member.relation).collect();
            let Some(fewest) = joined.next() else { continue };
            for member in joined.filter(|member| member.relation != fewest.relation) {
                // The values that filters left are taken for those that the others have.
                let distinct = member.distinct.min(self.relations[member.relation].rows).max(fewest.distinct);
                let known = values.entry(member.relation).or_insert(Values { product: 1.0, most: 1.0, partners: all });
                known.product *= distinct;
                known.most = known.most.max(member.rows).max(distinct);
                known.partners = known.partners.and(all);
            }
        }
        let divisor = |(relation, values): (usize, Values)| match values.partners.without(Relations::one(relation)).is_empty() {
            true => values.product,
            // One other relation has all these columns, and the same combinations: no more than rows.
            false => values.product.min(values.most),
        };
        let mut divisors: Vec<f64> = values.into_iter().map(divisor).collect();
        // In one order always, or the same set would have sizes that differ in the last digit.
        divisors.sort_unstable_by(f64::total_cmp);
        rows /= divisors.into_iter().product::<f64>();
        for (needs, share) in &self.conjuncts {
            if set.contains(*needs) {
                rows *= share;
            }
        }
        rows.clamp(1.0, ROWS_MAX)
    }

    fn width(&self, set: Relations) -> f64 {
        set.iter().map(|relation| self.relations[relation].width).sum::<f64>().max(1.0)
    }

    fn broadcast_bytes(&self) -> f64 {
        self.broadcast_bytes
    }
}

/// The columns of a class, those with the fewest values first.
///
/// Values that were not counted are at most as many as the column's numbers allow, often far too many: a column that is a key of its table
/// bounds the others, which are taken to refer to it. Among columns that may be keys, that of the smallest table is taken for the key.
fn members(class: &[(usize, Column)], columns: &HashMap<Column, ColumnEstimate>) -> Vec<Member> {
    let known: Vec<(usize, &ColumnEstimate)> =
        class.iter().filter_map(|(relation, column)| Some((*relation, columns.get(column)?))).collect();
    let keys = known.iter().map(|(_, column)| column).filter(|column| column.key != Key::No);
    let key = keys.min_by(|a, b| b.key.cmp(&a.key).then_with(|| a.rows.total_cmp(&b.rows)));
    let distinct = |column: &ColumnEstimate| match key {
        Some(key) if !column.is_counted => column.distinct.min(key.distinct),
        _ => column.distinct,
    };
    let member =
        |(relation, column): &(usize, &ColumnEstimate)| Member { relation: *relation, distinct: distinct(column), rows: column.rows };
    let mut members: Vec<Member> = known.iter().map(member).collect();
    // Of equal ones the largest table first: it refers to the others.
    members.sort_by(|a, b| a.distinct.total_cmp(&b.distinct).then_with(|| b.rows.total_cmp(&a.rows)));
    members
}

/// What a lookup makes of one row that asks: a share of it, or several rows.
fn partners(lookup: &Lookup, asked: &Estimate, schema: &DFSchema, columns: &HashMap<Column, ColumnEstimate>) -> f64 {
    let (mut found, mut matches) = (1.0f64, asked.rows);
    for (asking, answer) in &lookup.on {
        let (Expr::Column(asking), Expr::Column(answer)) = (asking, answer) else { continue };
        let (Some(asking), Some(answer)) = (columns.get(asking), asked.column(schema, answer)) else { continue };
        let key = [asking, answer].into_iter().filter(|column| column.key != Key::No);
        let bound = key.map(|column| column.distinct).fold(f64::INFINITY, f64::min);
        let distinct = |column: &ColumnEstimate| if column.is_counted { column.distinct } else { column.distinct.min(bound) };
        found = found.min(distinct(answer).min(asked.rows) / distinct(asking).max(1.0));
        matches = matches.min(asked.rows / distinct(answer).min(asked.rows).max(distinct(asking)).max(1.0));
    }
    if lookup.filter.is_some() {
        found *= LOOKUP_FILTER;
    }
    match lookup.join_type {
        JoinType::LeftSemi => found.max(f64::EPSILON),
        JoinType::LeftAnti => (1.0 - found).max(ANTI_MIN),
        _ => at_least_one(matches, 1.0).min(ROWS_MAX),
    }
}
