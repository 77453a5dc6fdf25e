//! Which files or parts of files may hold rows that a condition asks for, by statistics of them.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, ScalarValue, Statistics};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;

/// Columns of which it is considered that they may hold NaN, each of which triples the work; nothing is left out because of others.
const DOUBTS_MAX: usize = 2;

/// Which of some files, or of some parts of a file, may hold rows that satisfy `condition`; none if statistics cannot tell.
///
/// Unlike DataFusion's own pruning, inexact bounds are used, which are recorded only where they are bounds: of text that was cut, or of rows
/// of which some were deleted. Those of floating point numbers leave out NaN, of either sign, so that three cases are looked at: a number
/// within the bounds, and both kinds of NaN. A condition on both sides (`x = 5`, `x BETWEEN 1 AND 2`) so leaves out what `x > 5` cannot.
/// Where there is no NaN, bounds are exact.
pub fn may_satisfy(condition: Arc<dyn PhysicalExpr>, schema: &SchemaRef, statistics: &[&Statistics]) -> Option<Vec<bool>> {
    let is_open = |column: &usize| statistics.iter().any(|found| is_open(&found.column_statistics[*column]));
    let named = collect_columns(&condition).into_iter().filter_map(|column| schema.index_of(column.name()).ok());
    let mut doubts: Vec<usize> = named.filter(is_open).collect();
    doubts.sort_unstable();
    doubts.truncate(DOUBTS_MAX);
    let predicate = PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).build(condition)?;
    let mut kept = vec![false; statistics.len()];
    for case in 0..CASES.len().pow(u32::try_from(doubts.len()).ok()?) {
        let digit = |place: usize| CASES[case / CASES.len().pow(place as u32) % CASES.len()];
        let cases = doubts.iter().enumerate().map(|(place, column)| (*column, digit(place))).collect();
        let found = predicate.prune(&Bounds { schema, statistics, cases }).ok()?;
        kept.iter_mut().zip(found).for_each(|(kept, found)| *kept |= found);
        if kept.iter().all(|kept| *kept) {
            break;
        }
    }
    Some(kept)
}

/// Whether a column may hold floating point numbers that are in no bounds.
fn is_open(column: &ColumnStatistics) -> bool {
    [&column.min_value, &column.max_value].into_iter().any(|bound| match bound {
        Precision::Inexact(value) => value.data_type().is_floating(),
        Precision::Exact(_) | Precision::Absent => false,
    })
}

/// What a value of a column may be that is not all in bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Number,
    Nan,
    NegativeNan,
}

const CASES: [Case; 3] = [Case::Number, Case::Nan, Case::NegativeNan];

#[derive(Debug, Clone, Copy)]
enum End {
    Min,
    Max,
}

/// Statistics as conditions see them.
#[derive(Debug)]
struct Bounds<'a> {
    /// The columns that statistics are of.
    schema: &'a Schema,
    /// One for each file or part.
    statistics: &'a [&'a Statistics],
    /// What the columns hold that are not all in bounds.
    cases: Vec<(usize, Case)>,
}

impl Bounds<'_> {
    fn bounds(&self, column: &Column, end: End) -> Option<ArrayRef> {
        let (index, field) = self.schema.column_with_name(column.name())?;
        let case = self.cases.iter().find(|(column, _)| *column == index).map(|(_, case)| *case);
        let null = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self.statistics.iter().map(|statistics| {
            let column = &statistics.column_statistics[index];
            let bound = match end {
                End::Min => &column.min_value,
                End::Max => &column.max_value,
            };
            let value = match bound {
                Precision::Exact(value) => Some(value.clone()),
                Precision::Inexact(value) if value.data_type().is_floating() => case.and_then(|case| bound_in(case, value, end)),
                Precision::Inexact(value) => Some(value.clone()),
                Precision::Absent => None,
            };
            value.filter(|value| value.data_type() == *field.data_type()).unwrap_or_else(|| null.clone())
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

/// The bound of a column's values in one case. NaN have many spellings, which have an order.
fn bound_in(case: Case, number: &ScalarValue, end: End) -> Option<ScalarValue> {
    let single = |bits| Some(ScalarValue::Float32(Some(f32::from_bits(bits))));
    let double = |bits| Some(ScalarValue::Float64(Some(f64::from_bits(bits))));
    let (is_single, is_nan) = match number {
        ScalarValue::Float32(Some(number)) => (true, number.is_nan()),
        ScalarValue::Float64(Some(number)) => (false, number.is_nan()),
        _ => return None,
    };
    match (case, end) {
        (Case::Number, _) => Some(number.clone()).filter(|_| !is_nan),
        (Case::Nan, End::Min) if is_single => single(0x7f80_0001),
        (Case::Nan, End::Max) if is_single => single(0x7fff_ffff),
        (Case::NegativeNan, End::Min) if is_single => single(0xffff_ffff),
        (Case::NegativeNan, End::Max) if is_single => single(0xff80_0001),
        (Case::Nan, End::Min) => double(0x7ff0_0000_0000_0001),
        (Case::Nan, End::Max) => double(0x7fff_ffff_ffff_ffff),
        (Case::NegativeNan, End::Min) => double(0xffff_ffff_ffff_ffff),
        (Case::NegativeNan, End::Max) => double(0xfff0_0000_0000_0001),
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, End::Min)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, End::Max)
    }

    fn num_containers(&self) -> usize {
        self.statistics.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let (index, _) = self.schema.column_with_name(column.name())?;
        Some(counts(self.statistics.iter().map(|statistics| statistics.column_statistics[index].null_count)))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(counts(self.statistics.iter().map(|statistics| statistics.num_rows)))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn counts(values: impl Iterator<Item = Precision<usize>>) -> ArrayRef {
    let exact = |count| match count {
        Precision::Exact(count) => u64::try_from(count).ok(),
        Precision::Inexact(_) | Precision::Absent => None,
    };
    Arc::new(values.map(exact).collect::<UInt64Array>())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field};
    use datafusion::common::DFSchema;
    use datafusion::logical_expr::{Expr, col, lit};
    use datafusion::prelude::SessionContext;

    use super::*;

    #[test]
    fn bounds_that_leave_out_nan_prune_what_is_bounded_on_both_sides() {
        let of = |min: f64, max: f64| (ScalarValue::from(min), ScalarValue::from(max));
        let single = |min: f32, max: f32| (ScalarValue::from(min), ScalarValue::from(max));
        let column = |(min, max)| ColumnStatistics {
            null_count: Precision::Exact(0),
            min_value: Precision::Inexact(min),
            max_value: Precision::Inexact(max),
            ..ColumnStatistics::new_unknown()
        };
        let file = |x, y, z| Statistics {
            num_rows: Precision::Exact(9),
            column_statistics: [x, y, z].map(column).to_vec(),
            ..Statistics::default()
        };
        // Old writers gave a NaN that came first for both bounds, whatever came then.
        let files = [file(of(1., 2.), single(1., 2.), of(1., 2.)), file(of(5., 9.), single(5., 9.), of(f64::NAN, f64::NAN))];
        let fields = [("x", DataType::Float64), ("y", DataType::Float32), ("z", DataType::Float64)];
        let schema = Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()));
        let found = |condition: Expr| {
            let named = DFSchema::try_from(Arc::clone(&schema)).unwrap();
            let condition = SessionContext::new().create_physical_expr(condition, &named).unwrap();
            may_satisfy(condition, &schema, &files.iter().collect::<Vec<_>>()).unwrap()
        };
        let (all, x, y, z) = ([true; 2], || col("x"), || col("y"), || col("z"));
        assert_eq!(found(x().eq(lit(2.0))), [true, false]);
        assert_eq!(found(x().eq(lit(3.0))), [false; 2]);
        assert_eq!(found(x().between(lit(4.0), lit(6.0))), [false, true]);
        assert_eq!(found(x().in_list(vec![lit(1.0), lit(7.0)], false)), all);
        assert_eq!(found(x().gt(lit(4.0))), all, "NaN is greater");
        assert_eq!(found(x().lt(lit(4.0))), all, "NaN is less if its sign is set");
        assert_eq!(found(x().eq(lit(f64::NAN))), all);
        assert_eq!(found(x().gt(lit(4.0)).and(y().lt(lit(3.0_f32)))), all, "one may be NaN in the same row");
        assert_eq!(found(y().eq(lit(2.0_f32)).and(x().gt(lit(0.0)))), [true, false]);
        assert_eq!(found(z().eq(lit(7.0))), [false, true]);
        assert_eq!(found(x().eq(lit(2.0)).and(y().eq(lit(2.0_f32))).and(z().eq(lit(2.0)))), [true, false]);
        assert_eq!(found(z().eq(lit(0.0)).and(x().gt(lit(0.0))).and(y().gt(lit(0.0_f32)))), all, "the third is not looked at");
    }
}
