//! Which share of rows a condition keeps.

use std::collections::HashMap;

use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::utils::{split_binary, split_conjunction};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator};

use super::{ColumnEstimate, number};

/// Shares where nothing better is known.
const UNKNOWN: f64 = 0.2;
/// A text equals a constant. Of many different texts fewer do, but a guess that is too low costs more than one that is too high.
const TEXT_EQUALS: f64 = 0.05;
const ONE_SIDED_RANGE: f64 = 0.3;
const TWO_SIDED_RANGE: f64 = 0.1;
const TEXT_CONTAINS: f64 = 0.1;
const TEXT_BEGINS: f64 = 0.05;
const COLUMNS_ORDERED: f64 = 0.5;

/// Looks up what is known of a column.
type Columns<'a> = dyn Fn(&Column) -> Option<&'a ColumnEstimate> + 'a;

/// Shares of rows under what is known of columns.
pub(in crate::planning) struct Selectivity<'a> {
    columns: &'a Columns<'a>,
}

impl<'a> Selectivity<'a> {
    pub(in crate::planning) fn new(columns: &'a Columns<'a>) -> Self {
        Self { columns }
    }

    /// Of conditions that must all hold, which are taken for independent where columns are known. Of guesses the strongest counts fully,
    /// each further one by half as much.
    pub(in crate::planning) fn of_all(&self, conjuncts: &[&Expr]) -> f64 {
        let (mut known, mut guessed) = (Vec::new(), Vec::new());
        let bounds = self.bounds(conjuncts);
        for (column, range) in &bounds {
            match (self.columns)(column) {
                Some(column) if column.is_known() => known.push(range.share(column)),
                Some(column) => guessed.push(range.share(column)),
                None => guessed.push(UNKNOWN),
            }
        }
        // Of a column that has one value, all others are that it may have it: `year IN (2001, 2002) AND year = 2001`.
        let is_settled = |column: &&Column| bounds.get(*column).is_some_and(|range| range.is_value);
        let counts = |expr: &&&Expr| self.bound(expr).is_none() && !(expr.any_column_refs() && expr.column_refs().iter().all(is_settled));
        guessed.extend(conjuncts.iter().filter(counts).map(|expr| self.of(expr)));
        // In one order always: the product of the same numbers in another differs in the last digit.
        known.sort_unstable_by(f64::total_cmp);
        guessed.sort_unstable_by(f64::total_cmp);
        let exponents = std::iter::successors(Some(1.0), |exponent| Some(exponent / 2.0));
        known.into_iter().chain(guessed.into_iter().zip(exponents).map(|(share, exponent)| share.powf(exponent))).product()
    }

    /// Ranges of columns that are compared with constants.
    pub(in crate::planning) fn bounds(&self, conjuncts: &[&Expr]) -> HashMap<Column, Range> {
        let mut ranges: HashMap<Column, Range> = HashMap::new();
        for (column, range) in conjuncts.iter().filter_map(|expr| self.bound(expr)) {
            let known = ranges.entry(column.clone()).or_default();
            *known = known.and(range);
        }
        ranges
    }

    /// The range that a comparison with a constant leaves.
    fn bound<'e>(&self, expr: &'e Expr) -> Option<(&'e Column, Range)> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let (column, op, value) = match (left.as_ref(), right.as_ref()) {
                    (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
                    (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
                    _ => return None,
                };
                let step = if (self.columns)(column)?.is_discrete { 1.0 } else { 0.0 };
                let range = match op {
                    Operator::Eq => Range::new(Some(value), 0.0, Some(value), 0.0),
                    Operator::Lt => Range::new(None, 0.0, Some(value), -step),
                    Operator::LtEq => Range::new(None, 0.0, Some(value), 0.0),
                    Operator::Gt => Range::new(Some(value), step, None, 0.0),
                    Operator::GtEq => Range::new(Some(value), 0.0, None, 0.0),
                    _ => return None,
                };
                Some((column, range))
            }
            Expr::Between(Between { expr, negated: false, low, high }) => match (expr.as_ref(), low.as_ref(), high.as_ref()) {
                (Expr::Column(column), Expr::Literal(low, _), Expr::Literal(high, _)) => {
                    Some((column, Range::new(Some(low), 0.0, Some(high), 0.0)))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Of one condition.
    fn of(&self, expr: &Expr) -> f64 {
        let share = match expr {
            Expr::Literal(ScalarValue::Boolean(value), _) => f64::from(u8::from(*value == Some(true))),
            Expr::Not(inner) | Expr::IsNotTrue(inner) => 1.0 - self.of(inner),
            Expr::IsTrue(inner) => self.of(inner),
            Expr::IsNull(inner) => self.nulls(inner).unwrap_or(TEXT_EQUALS),
            Expr::IsNotNull(inner) => 1.0 - self.nulls(inner).unwrap_or_default(),
            Expr::InList(list) => {
                let share = (list.list.len() as f64 * self.equals(&list.expr)).min(COLUMNS_ORDERED.max(ONE_SIDED_RANGE));
                if list.negated { 1.0 - share } else { share }
            }
            Expr::Between(Between { negated, .. }) => {
                if *negated {
                    1.0 - TWO_SIDED_RANGE
                } else {
                    TWO_SIDED_RANGE
                }
            }
            Expr::Like(like) => self.like(like),
            Expr::BinaryExpr(BinaryExpr { op: Operator::And, .. }) => self.of_all(&split_conjunction(expr)),
            Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
                let none = split_binary(expr, Operator::Or).into_iter().map(|branch| 1.0 - self.of_all(&[branch])).product::<f64>();
                1.0 - none
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
                Operator::Eq | Operator::IsNotDistinctFrom => self.equals(left).min(self.equals(right)),
                Operator::NotEq | Operator::IsDistinctFrom => 1.0 - self.equals(left).min(self.equals(right)),
                Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => match (is_constant(left), is_constant(right)) {
                    (false, false) => COLUMNS_ORDERED,
                    _ => ONE_SIDED_RANGE,
                },
                _ => UNKNOWN,
            },
            _ => UNKNOWN,
        };
        share.clamp(0.0, 1.0)
    }

    /// Share of rows in which an expression has a given value; 1 for a constant.
    fn equals(&self, expr: &Expr) -> f64 {
        match expr {
            Expr::Column(column) => (self.columns)(column).map_or(TEXT_EQUALS, equals),
            _ if is_constant(expr) => 1.0,
            // It has no more values than its columns have together.
            _ => {
                let known = |column: &Column| (self.columns)(column).filter(|column| column.is_known()).map(|column| column.distinct);
                let values = expr.column_refs().into_iter().map(known).product::<Option<f64>>();
                values.map_or(TEXT_EQUALS, |values| TEXT_EQUALS.max(1.0 / values))
            }
        }
    }

    fn nulls(&self, expr: &Expr) -> Option<f64> {
        match expr {
            Expr::Column(column) => (self.columns)(column).map(|column| column.nulls),
            _ => None,
        }
    }

    fn like(&self, like: &Like) -> f64 {
        let begins = match like.pattern.as_ref() {
            Expr::Literal(pattern, _) => {
                pattern.try_as_str().flatten().is_some_and(|pattern| !pattern.starts_with('%') && !pattern.starts_with('_'))
            }
            _ => false,
        };
        let guess = if begins { TEXT_BEGINS } else { TEXT_CONTAINS };
        // Of one value at least.
        let share = guess.max(self.equals(&like.expr));
        if like.negated { 1.0 - share } else { share }
    }
}

fn is_constant(expr: &Expr) -> bool {
    !expr.any_column_refs()
}

/// Share of a column's rows that have one of its values.
fn equals(column: &ColumnEstimate) -> f64 {
    let share = (1.0 - column.nulls) / column.distinct;
    if column.is_known() { share } else { share.max(TEXT_EQUALS) }
}

/// Values between two constants. Those that are no numbers count by being there.
#[derive(Debug, Clone, Copy)]
pub(in crate::planning) struct Range {
    low: f64,
    high: f64,
    has_low: bool,
    has_high: bool,
    is_value: bool,
}

impl Default for Range {
    fn default() -> Self {
        Self { low: f64::NEG_INFINITY, high: f64::INFINITY, has_low: false, has_high: false, is_value: false }
    }
}

impl Range {
    fn new(low: Option<&ScalarValue>, low_step: f64, high: Option<&ScalarValue>, high_step: f64) -> Self {
        Self {
            low: low.and_then(number).map_or(f64::NEG_INFINITY, |low| low + low_step),
            high: high.and_then(number).map_or(f64::INFINITY, |high| high + high_step),
            has_low: low.is_some(),
            has_high: high.is_some(),
            is_value: low.is_some() && low == high,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            low: self.low.max(other.low),
            high: self.high.min(other.high),
            has_low: self.has_low || other.has_low,
            has_high: self.has_high || other.has_high,
            is_value: self.is_value || other.is_value,
        }
    }

    /// Share of a column's rows in this range.
    pub(in crate::planning) fn share(&self, column: &ColumnEstimate) -> f64 {
        let Some((least, greatest)) = column.range.filter(|_| self.low.is_finite() || self.high.is_finite()) else {
            return match (self.is_value, self.has_low && self.has_high) {
                (true, _) => equals(column),
                (false, true) => TWO_SIDED_RANGE,
                (false, false) => ONE_SIDED_RANGE,
            };
        };
        let (low, high) = (self.low.max(least), self.high.min(greatest));
        let unit = if column.is_discrete { 1.0 } else { 0.0 };
        match greatest - least + unit {
            _ if low > high => 0.0,
            _ if self.is_value => equals(column),
            all if all > 0.0 => (1.0 - column.nulls) * (high - low + unit) / all,
            _ => 1.0 - column.nulls,
        }
    }

    /// What it leaves of a column's bounds.
    pub(in crate::planning) fn within(&self, column: &ColumnEstimate) -> Option<(f64, f64)> {
        column.range.map(|(least, greatest)| (self.low.max(least), self.high.min(greatest))).filter(|(least, greatest)| least <= greatest)
    }
}

#[cfg(test)]
mod tests;
