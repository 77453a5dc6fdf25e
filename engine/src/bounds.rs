//! Which files or parts of files may hold rows that a condition asks for, by statistics of them.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::Schema;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, ScalarValue, Statistics};

/// Statistics of files, or of parts of a file, as conditions see them.
///
/// Unlike DataFusion's own, these use inexact bounds, which are recorded only where they are bounds: of text that was cut, or of rows of which
/// some were deleted. Not so those of floating point numbers, which leave out NaN; where there is none, bounds are exact.
#[derive(Debug)]
pub struct Bounds<'a> {
    /// The columns that statistics are of.
    pub schema: &'a Schema,
    /// One for each file or part.
    pub statistics: Vec<&'a Statistics>,
}

impl Bounds<'_> {
    fn bounds(&self, column: &Column, bound: impl Fn(&ColumnStatistics) -> &Precision<ScalarValue>) -> Option<ArrayRef> {
        let (index, field) = self.schema.column_with_name(column.name())?;
        let null = ScalarValue::try_from(field.data_type()).ok()?;
        let values = self.statistics.iter().map(|statistics| {
            let value = match bound(&statistics.column_statistics[index]) {
                Precision::Exact(value) => Some(value),
                Precision::Inexact(value) => Some(value).filter(|value| !value.data_type().is_floating()),
                Precision::Absent => None,
            };
            value.filter(|value| value.data_type() == *field.data_type()).unwrap_or(&null).clone()
        });
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| &statistics.min_value)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bounds(column, |statistics| &statistics.max_value)
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
