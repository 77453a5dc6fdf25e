//! Rows of every set of a region's relations, from what is known of each relation alone.

use std::collections::HashMap;

use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::{Expr, JoinType};

use super::region::{Lookup, Region, implied_equalities};
use super::search::{Relations, Sizes};
use crate::planning::estimates::joins::{Equalities, ROWS_MAX, padded, partners};
use crate::planning::estimates::selectivity::Selectivity;
use crate::planning::estimates::{ColumnEstimate, Estimate};

/// Share of an OR that repeats an equality which is counted already.
const UNKNOWN: f64 = 0.2;

/// Sizes of the joins of a region.
pub(super) struct RegionSizes {
    relations: Vec<RelationSize>,
    equalities: Equalities,
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

impl RegionSizes {
    /// `None` if the rows of a relation are not known.
    pub(super) fn of(region: &Region, broadcast_bytes: f64) -> Option<Self> {
        let mut columns = HashMap::new();
        let mut estimates = Vec::with_capacity(region.relations.len());
        for relation in &region.relations {
            let schema = relation.plan.schema();
            let conjuncts: Vec<&Expr> = relation.conjuncts.iter().collect();
            let estimate = Estimate::of(&relation.plan)?.filtered(&|column| schema.maybe_index_of_column(column), &conjuncts);
            if relation.lookup.as_ref().is_none_or(|lookup| lookup.join_type == JoinType::Left) {
                columns.extend(schema.columns().into_iter().zip(estimate.columns.iter().cloned()));
            }
            estimates.push(estimate);
        }
        let size = |(relation, estimate): (&super::region::Relation, &Estimate)| match &relation.lookup {
            None => RelationSize { rows: estimate.rows, width: estimate.width() },
            Some(lookup) => RelationSize {
                rows: of_lookup(lookup, lookup.join_type, estimate, relation.plan.schema(), &columns),
                width: if lookup.join_type == JoinType::Left { estimate.width() } else { 0.0 },
            },
        };
        let relations: Vec<RelationSize> = region.relations.iter().zip(&estimates).map(size).collect();
        for (relation, estimate) in region.relations.iter().zip(&estimates) {
            let Some(lookup) = relation.lookup.as_ref().filter(|lookup| lookup.join_type == JoinType::Left) else { continue };
            let schema = relation.plan.schema();
            let unmatched = of_lookup(lookup, JoinType::LeftAnti, estimate, schema, &columns);
            columns.extend(schema.columns().into_iter().zip(padded(&estimate.columns, unmatched)));
        }
        let known = |(relation, column): &(usize, Column)| Some((*relation, columns.get(column)?));
        let equalities = Equalities::new(region.classes.iter().map(|class| class.iter().filter_map(known).collect()));
        let known = |column: &Column| columns.get(column);
        let selectivity = Selectivity::new(&known);
        let share = |expr: &Expr| match implied_equalities(expr).is_empty() {
            true => selectivity.of_all(&[expr]),
            false => UNKNOWN,
        };
        let conjuncts = region.conjuncts.iter().map(|conjunct| (conjunct.needs, share(&conjunct.expr))).collect();
        Some(Self { relations, equalities, conjuncts, columns, broadcast_bytes })
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
        rows /= self.equalities.divisor(set, |relation| self.relations[relation].rows);
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

/// What a lookup makes of one row that asks, were it a join of this type.
fn of_lookup(lookup: &Lookup, join_type: JoinType, asked: &Estimate, schema: &DFSchema, columns: &HashMap<Column, ColumnEstimate>) -> f64 {
    let pair = |(asking, answer): &'_ (Expr, Expr)| match (asking, answer) {
        (Expr::Column(asking), Expr::Column(answer)) => {
            Some((columns.get(asking)?, asked.columns.get(schema.maybe_index_of_column(answer)?)?))
        }
        _ => None,
    };
    let on: Vec<_> = lookup.on.iter().filter_map(pair).collect();
    partners(join_type, &on, asked.rows, lookup.filter.is_some())
}
