//! Rows of joins.

use std::collections::HashMap;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::JoinType;

use super::{ColumnEstimate, Estimate, Key, at_least_one};
use crate::planning::join_order::search::Relations;

/// Share of the rows with a partner that also fulfil further conditions.
const FILTER: f64 = 0.75;
/// Least share of rows that an anti join is believed to keep. How many values have a partner is known as an upper bound only, and one that
/// is estimated to keep none would make all above it look free.
const ANTI_MIN: f64 = 0.5;
/// More rows than this are all the same, and numbers stay numbers.
pub(in crate::planning) const ROWS_MAX: f64 = 1e60;

/// Columns of several relations that are equal to each other.
pub(in crate::planning) struct Equalities {
    /// By value that is equal; columns with the fewest values first.
    classes: Vec<Vec<Member>>,
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

impl Equalities {
    pub(in crate::planning) fn new<'a>(classes: impl IntoIterator<Item = Vec<(usize, &'a ColumnEstimate)>>) -> Self {
        Self { classes: classes.into_iter().map(|class| members(&class)).collect() }
    }

    /// How many rows of the product of a set of relations, whose `rows` are given, there are for one in which all is equal.
    pub(in crate::planning) fn divisor(&self, set: Relations, rows: impl Fn(usize) -> f64) -> f64 {
        // By relation: the values that its columns must have, all together.
        let mut values: HashMap<usize, Values> = HashMap::new();
        for class in &self.classes {
            let mut joined = class.iter().filter(|member| set.has(member.relation));
            let all: Relations = joined.clone().map(|member| member.relation).collect();
            let Some(fewest) = joined.next() else { continue };
            for member in joined.filter(|member| member.relation != fewest.relation) {
                // The values that filters left are taken for those that the others have.
                let distinct = member.distinct.min(rows(member.relation)).max(fewest.distinct);
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
        divisors.into_iter().product()
    }
}

/// The columns of a class, those with the fewest values first.
///
/// Values that were not counted are at most as many as the column's numbers allow, often far too many: a column that is a key of its table
/// bounds the others, which are taken to refer to it. Among columns that may be keys, that of the smallest table is taken for the key.
/// Where nothing at all is known, that of the smallest table is as well: otherwise each join would be estimated to give more rows.
fn members(class: &[(usize, &ColumnEstimate)]) -> Vec<Member> {
    let keys = class.iter().map(|(_, column)| column).filter(|column| column.key != Key::No);
    let key = keys.min_by(|a, b| b.key.cmp(&a.key).then_with(|| a.rows.total_cmp(&b.rows)));
    let least = class.iter().map(|(_, column)| column.rows).fold(f64::INFINITY, f64::min);
    let distinct = |column: &ColumnEstimate| match key {
        Some(key) if !column.is_counted => column.distinct.min(key.distinct),
        None if !column.is_known() => column.distinct.max(least),
        _ => column.distinct,
    };
    let member =
        |(relation, column): &(usize, &ColumnEstimate)| Member { relation: *relation, distinct: distinct(column), rows: column.rows };
    let mut members: Vec<Member> = class.iter().map(member).collect();
    // Of equal ones the largest table first: it refers to the others.
    members.sort_by(|a, b| a.distinct.total_cmp(&b.distinct).then_with(|| b.rows.total_cmp(&a.rows)));
    members
}

/// A join that answers for each row of one side by itself: what it makes of such a row, a share of it or several rows.
///
/// `on` pairs columns of the side that asks with those of the other, which has `asked` rows. The join is a left, left semi or left anti
/// one, seen from the side that asks.
pub(in crate::planning) fn partners(join_type: JoinType, on: &[(&ColumnEstimate, &ColumnEstimate)], asked: f64, has_filter: bool) -> f64 {
    let equalities = Equalities::new(on.iter().map(|(asking, answer)| vec![(0, *asking), (1, *answer)]));
    let matches = asked / equalities.divisor(Relations::before(2), |relation| if relation == 0 { f64::INFINITY } else { asked });
    let mut found = 1.0f64;
    for (asking, answer) in on {
        let key = [asking, answer].into_iter().filter(|column| column.key != Key::No);
        let bound = key.map(|column| column.distinct).fold(f64::INFINITY, f64::min);
        let distinct = |column: &ColumnEstimate| if column.is_counted { column.distinct } else { column.distinct.min(bound) };
        found = found.min(distinct(answer).min(asked) / distinct(asking).max(1.0));
    }
    if has_filter {
        found *= FILTER;
    }
    match join_type {
        JoinType::LeftSemi => found.max(f64::EPSILON),
        JoinType::LeftAnti => (1.0 - found).max(ANTI_MIN),
        _ => at_least_one(matches, 1.0).min(ROWS_MAX),
    }
}

/// A join of two inputs on pairs of their columns, with the share of rows that a further condition keeps.
pub(in crate::planning) fn joined(
    left: &Estimate,
    right: &Estimate,
    keys: &[(ColumnEstimate, ColumnEstimate)],
    filter: Option<f64>,
    join_type: JoinType,
) -> Estimate {
    let equalities = Equalities::new(keys.iter().map(|(left, right)| vec![(0, left), (1, right)]));
    let divisor = equalities.divisor(Relations::before(2), |relation| if relation == 0 { left.rows } else { right.rows });
    let inner = left.rows * right.rows / divisor * filter.unwrap_or(1.0);
    let on_left: Vec<_> = keys.iter().map(|(left, right)| (left, right)).collect();
    let on_right: Vec<_> = keys.iter().map(|(left, right)| (right, left)).collect();
    let of_left = |join_type| left.rows * partners(join_type, &on_left, right.rows, filter.is_some());
    let of_right = |join_type| right.rows * partners(join_type, &on_right, left.rows, filter.is_some());
    let (rows, input) = match join_type {
        JoinType::Inner => (inner, left.rows * right.rows),
        JoinType::Left => (of_left(join_type), left.rows),
        JoinType::Right => (of_right(JoinType::Left), right.rows),
        JoinType::Full => (of_left(JoinType::Left).max(of_right(JoinType::Left)), left.rows + right.rows),
        JoinType::LeftSemi | JoinType::LeftAnti => (of_left(join_type).min(left.rows), left.rows),
        JoinType::RightSemi | JoinType::RightAnti => (of_right(join_type.swap()).min(right.rows), right.rows),
        JoinType::LeftMark => (left.rows, left.rows),
        JoinType::RightMark => (right.rows, right.rows),
    };
    let rows = at_least_one(rows, input).min(ROWS_MAX);
    let mark = || vec![ColumnEstimate::constant(&DataType::Boolean, rows)];
    let left_unmatched = || partners(JoinType::LeftAnti, &on_left, right.rows, filter.is_some());
    let right_unmatched = || partners(JoinType::LeftAnti, &on_right, left.rows, filter.is_some());
    let columns = match join_type {
        JoinType::Inner => [left.columns.clone(), right.columns.clone()].concat(),
        JoinType::Left => [left.columns.clone(), padded(&right.columns, left_unmatched())].concat(),
        JoinType::Right => [padded(&left.columns, right_unmatched()), right.columns.clone()].concat(),
        JoinType::Full => [padded(&left.columns, right_unmatched()), padded(&right.columns, left_unmatched())].concat(),
        JoinType::LeftSemi | JoinType::LeftAnti => left.columns.clone(),
        JoinType::RightSemi | JoinType::RightAnti => right.columns.clone(),
        JoinType::LeftMark => [left.columns.clone(), mark()].concat(),
        JoinType::RightMark => [right.columns.clone(), mark()].concat(),
    };
    Estimate { rows, columns }
}

/// Columns of the other side of an outer join, which a share of rows has no partner in.
pub(in crate::planning) fn padded(columns: &[ColumnEstimate], unmatched: f64) -> Vec<ColumnEstimate> {
    let padded = |column: &ColumnEstimate| ColumnEstimate { nulls: 1.0 - (1.0 - column.nulls) * (1.0 - unmatched), ..column.clone() };
    columns.iter().map(padded).collect()
}

#[cfg(test)]
mod tests;
