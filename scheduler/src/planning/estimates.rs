//! How many rows a plan gives, and what is known of its columns.
//!
//! The same formulas serve logical plans, whose joins are ordered by them ([`super::join_order`]), and physical ones: DataFusion chooses
//! the sides and the modes of joins by what [`with_estimates`] tells it.
//!
//! Reading order: this file (columns, filters, groups), [`selectivity`] (conditions), [`joins`] (joins), [`physical`] (operators).

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{Column, ColumnStatistics, ScalarValue, Statistics};
use datafusion::logical_expr::Expr;

pub use self::physical::{bytes_of, with_estimates};
use self::selectivity::Selectivity;

pub(super) mod joins;
mod physical;
pub(super) mod selectivity;

/// Bytes of a value whose type has no fixed width, and of which nothing was recorded.
const TEXT_BYTES: f64 = 24.0;
/// Most bytes that a column counts for: what was recorded may be the size of encoded pages.
const TEXT_BYTES_MAX: f64 = 256.0;
/// Rows of which a key may be a column whose values would fit, at least, into so many numbers for each row.
const KEY_RANGE_PER_ROW_MAX: f64 = 1000.0;
/// Rows of a table that is a list of names more often than not.
const LIST_ROWS: f64 = 100.0;

/// Whether values are different in each row of the table that a column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// There are fewer values than rows.
    No,
    /// There could be as many.
    Perhaps,
    /// As many numbers from the least to the greatest as rows, or it was grouped by.
    Surely,
}

/// What is known of a column.
#[derive(Debug, Clone)]
pub(super) struct ColumnEstimate {
    /// Different values in `rows`, at most.
    pub(super) distinct: f64,
    /// Whether `distinct` was counted, or files tell it; otherwise it may be too many.
    pub(super) is_counted: bool,
    /// Rows before filters on other columns.
    pub(super) rows: f64,
    pub(super) key: Key,
    /// Least and greatest value, of types that are numbers or like numbers.
    pub(super) range: Option<(f64, f64)>,
    /// Whether values between the bounds are whole numbers.
    pub(super) is_discrete: bool,
    /// Share of rows without a value.
    pub(super) nulls: f64,
    /// Bytes of a value.
    pub(super) width: f64,
}

impl ColumnEstimate {
    /// Of a column about which nothing is known but its type.
    pub(super) fn unknown(data_type: &DataType, rows: f64) -> Self {
        Self {
            distinct: guessed_distinct(rows),
            is_counted: false,
            rows,
            key: Key::No,
            range: None,
            is_discrete: false,
            nulls: 0.0,
            width: data_type.primitive_width().map_or(TEXT_BYTES, |width| width as f64),
        }
    }

    /// Of a column with one value.
    pub(super) fn constant(data_type: &DataType, rows: f64) -> Self {
        Self { distinct: 1.0, is_counted: true, ..Self::unknown(data_type, rows) }
    }

    /// Of an expression over columns: it has no more values than they have together.
    pub(super) fn computed<'a>(data_type: &DataType, rows: f64, mut from: impl Iterator<Item = Option<&'a Self>>) -> Self {
        let mut column = Self::unknown(data_type, rows);
        let product = from.try_fold(1.0, |product, column| Some(product * column.filter(|column| column.is_known())?.distinct));
        column.distinct = product.map_or(column.distinct, |product| product.min(column.distinct));
        column
    }

    /// Whether something was recorded that bounds its different values.
    pub(super) fn is_known(&self) -> bool {
        self.is_counted || self.is_discrete && self.range.is_some()
    }

    /// Of a column of a table. Distinct values are used where they are known; else numbers from the least to the greatest bound them.
    fn of_table(data_type: &DataType, statistics: &ColumnStatistics, rows: f64) -> Self {
        let mut column = Self::unknown(data_type, rows);
        if let (Some(bytes), None) = (statistics.byte_size.get_value(), data_type.primitive_width()) {
            column.width = (*bytes as f64 / rows.max(1.0)).clamp(1.0, TEXT_BYTES_MAX);
        }
        let nulls = statistics.null_count.get_value().map_or(0.0, |nulls| *nulls as f64);
        column.nulls = (nulls / rows.max(1.0)).clamp(0.0, 1.0);
        let bound = |value: Option<&ScalarValue>| value.and_then(number);
        column.range = bound(statistics.min_value.get_value()).zip(bound(statistics.max_value.get_value()));
        column.is_discrete = data_type.is_integer() || matches!(data_type, DataType::Date32);
        if let (Some(numbers), true) = (column.numbers(), column.is_discrete) {
            column.distinct = numbers.min(rows - nulls).max(1.0);
            column.key = match rows {
                rows if numbers == rows && nulls == 0.0 => Key::Surely,
                rows if numbers >= rows && numbers <= rows * KEY_RANGE_PER_ROW_MAX => Key::Perhaps,
                _ => Key::No,
            };
        }
        if let Some(distinct) = statistics.distinct_count.get_value() {
            column.distinct = (*distinct as f64).max(1.0);
            column.is_counted = true;
            column.key = if column.distinct >= 0.98 * rows { Key::Surely } else { Key::No };
        }
        column
    }

    /// Whole numbers between the bounds.
    fn numbers(&self) -> Option<f64> {
        self.range.map(|(least, greatest)| greatest - least + 1.0)
    }
}

/// Different values among `rows` of a column about which nothing is known: few rows are mostly different, many mostly not.
pub(super) fn guessed_distinct(rows: f64) -> f64 {
    rows.powf(0.75).max(rows.min(LIST_ROWS)).max(1.0)
}

/// A value as a number, of types whose order is that of these numbers.
pub(super) fn number(value: &ScalarValue) -> Option<f64> {
    use ScalarValue as S;
    Some(match value {
        S::Int8(Some(v)) => f64::from(*v),
        S::Int16(Some(v)) => f64::from(*v),
        S::Int32(Some(v)) | S::Date32(Some(v)) => f64::from(*v),
        S::Int64(Some(v)) | S::Date64(Some(v)) => *v as f64,
        S::UInt8(Some(v)) => f64::from(*v),
        S::UInt16(Some(v)) => f64::from(*v),
        S::UInt32(Some(v)) => f64::from(*v),
        S::UInt64(Some(v)) => *v as f64,
        S::Float32(Some(v)) if v.is_finite() => f64::from(*v),
        S::Float64(Some(v)) if v.is_finite() => *v,
        S::Decimal32(Some(v), _, scale) => f64::from(*v) / 10f64.powi(i32::from(*scale)),
        S::Decimal64(Some(v), _, scale) => *v as f64 / 10f64.powi(i32::from(*scale)),
        S::Decimal128(Some(v), _, scale) => *v as f64 / 10f64.powi(i32::from(*scale)),
        S::TimestampSecond(Some(v), _) => *v as f64 * 1e9,
        S::TimestampMillisecond(Some(v), _) => *v as f64 * 1e6,
        S::TimestampMicrosecond(Some(v), _) => *v as f64 * 1e3,
        S::TimestampNanosecond(Some(v), _) => *v as f64,
        _ => return None,
    })
}

/// What is known of a plan's rows.
#[derive(Debug, Clone)]
pub(super) struct Estimate {
    pub(super) rows: f64,
    /// By column of the plan's schema.
    pub(super) columns: Vec<ColumnEstimate>,
}

impl Estimate {
    /// Of rows about which nothing is known but their number.
    pub(super) fn unknown(schema: &Schema, rows: f64) -> Self {
        Self { rows, columns: schema.fields().iter().map(|field| ColumnEstimate::unknown(field.data_type(), rows)).collect() }
    }

    /// Of rows about which this was recorded. `None` if their number was not.
    pub(super) fn of_statistics(schema: &Schema, statistics: &Statistics) -> Option<Self> {
        let rows = *statistics.num_rows.get_value()? as f64;
        let columns = schema.fields().iter().zip(&statistics.column_statistics);
        let columns: Vec<_> = columns.map(|(field, column)| ColumnEstimate::of_table(field.data_type(), column, rows)).collect();
        (columns.len() == schema.fields().len()).then_some(Self { rows, columns })
    }

    /// Of a part of a table of `rows` rows: what may be a key has values that others refer to in the other parts, too.
    pub(super) fn of_part(mut self, rows: f64) -> Self {
        for column in self.columns.iter_mut().filter(|column| column.key != Key::No && !column.is_counted && column.rows < rows) {
            column.distinct = column.numbers().map_or(column.distinct, |numbers| numbers.min(rows).max(column.distinct));
            column.rows = rows;
        }
        self
    }

    /// Bytes of a row.
    pub(super) fn width(&self) -> f64 {
        self.columns.iter().map(|column| column.width).sum()
    }

    /// After `conjuncts`, whose columns are where `position` says. Bounds of a column that is compared with a value become narrower; other
    /// columns keep their values.
    pub(super) fn filtered(mut self, position: &dyn Fn(&Column) -> Option<usize>, conjuncts: &[&Expr]) -> Self {
        let known = |column: &Column| self.columns.get(position(column)?);
        let selectivity = Selectivity::new(&known);
        let share = selectivity.of_all(conjuncts);
        let narrower = selectivity.bounds(conjuncts);
        for (column, range) in narrower {
            if let Some(known) = position(&column).and_then(|index| self.columns.get_mut(index)) {
                let kept = range.share(known);
                known.distinct = (known.distinct * kept).max(1.0);
                known.rows = (known.rows * kept).max(1.0);
                known.range = range.within(known);
            }
        }
        self.rows = at_least_one(self.rows * share, self.rows);
        self
    }

    /// The columns at `positions`.
    pub(super) fn projected(&self, positions: &[usize]) -> Option<Self> {
        let columns = positions.iter().map(|position| self.columns.get(*position).cloned()).collect::<Option<_>>()?;
        Some(Self { rows: self.rows, columns })
    }

    /// With the further columns of a schema that begins with the present ones.
    pub(super) fn extended(mut self, schema: &Schema) -> Self {
        let rows = self.rows;
        let more = schema.fields().iter().skip(self.columns.len());
        self.columns.extend(more.map(|field| ColumnEstimate::unknown(field.data_type(), rows)));
        self
    }

    pub(super) fn limited(mut self, fetch: Option<usize>) -> Self {
        self.rows = fetch.map_or(self.rows, |fetch| self.rows.min(fetch as f64));
        self
    }

    /// Groups by `keys`, whose columns come first in `schema`.
    pub(super) fn grouped(&self, keys: Vec<ColumnEstimate>, schema: &Schema) -> Self {
        let rows = self.groups(keys.iter());
        let mut grouped = Self::unknown(schema, rows);
        let is_alone = keys.len() == 1;
        for (column, key) in grouped.columns.iter_mut().zip(keys) {
            let distinct = key.distinct.min(rows).max(1.0);
            *column = ColumnEstimate { distinct, rows, key: if is_alone { Key::Surely } else { Key::No }, ..key };
        }
        grouped
    }

    /// How many groups `keys` make; all rows are one if there are none.
    pub(super) fn groups<'a>(&self, keys: impl ExactSizeIterator<Item = &'a ColumnEstimate>) -> f64 {
        if keys.len() == 0 {
            return 1.0;
        }
        at_least_one(keys.map(|key| key.distinct).product::<f64>().min(self.rows), self.rows)
    }

    /// The rows of all `inputs`.
    pub(super) fn union(schema: &Schema, inputs: &[Self]) -> Self {
        let rows = inputs.iter().map(|input| input.rows).sum::<f64>();
        let mut all = Self::unknown(schema, rows);
        for (position, column) in all.columns.iter_mut().enumerate() {
            let Some(parts) = inputs.iter().map(|input| input.columns.get(position)).collect::<Option<Vec<_>>>() else { continue };
            let of_all = |of: &dyn Fn(&ColumnEstimate) -> f64| {
                inputs.iter().zip(&parts).map(|(input, part)| input.rows * of(part)).sum::<f64>() / rows.max(1.0)
            };
            column.nulls = of_all(&|part| part.nulls);
            column.width = of_all(&|part| part.width).max(1.0);
            column.is_discrete = parts.iter().all(|part| part.is_discrete);
            let ranges = parts.iter().map(|part| part.range).reduce(|all, part| {
                let ((a, b), (c, d)) = all.zip(part)?;
                Some((a.min(c), b.max(d)))
            });
            column.range = ranges.flatten();
            let sum = parts.iter().map(|part| part.distinct).sum::<f64>();
            column.distinct = column.numbers().filter(|_| column.is_discrete).map_or(sum, |numbers| sum.min(numbers)).max(1.0);
        }
        all
    }
}

/// `rows`, but not less than one unless there were none to begin with.
pub(super) fn at_least_one(rows: f64, input: f64) -> f64 {
    rows.max(input.min(1.0))
}
