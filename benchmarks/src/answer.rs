//! Rows as values that can be compared across engines, which differ in types, order and rounding.

use std::fmt;

use arrow::array::RecordBatch;
use arrow::buffer::NullBuffer;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::Result;

/// Relative difference that sums of floating-point numbers may have when they were added in another order.
const RELATIVE: f64 = 1e-6;
/// Engines keep another number of digits of an average of decimals.
const ABSOLUTE: f64 = 1e-4;

/// A cell: a number whatever its type, or text.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// NULL.
    Null,
    /// A number.
    Number(f64),
    /// Anything else as text.
    Text(String),
}

/// The rows of a result, sorted.
#[derive(Debug)]
pub struct Answer {
    /// Cells by row.
    pub rows: Vec<Vec<Cell>>,
}

impl Answer {
    /// The rows of `batches`.
    pub fn new(batches: &[RecordBatch]) -> Result<Self> {
        let options = FormatOptions::default();
        let mut rows = Vec::new();
        for batch in batches {
            let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            let nulls: Vec<_> = batch.columns().iter().map(|column| column.logical_nulls()).collect();
            for row in 0..batch.num_rows() {
                let cell = |(column, nulls): (&ArrayFormatter<'_>, &Option<NullBuffer>)| {
                    if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                        return Cell::Null;
                    }
                    let text = column.value(row).to_string();
                    text.parse().map_or(Cell::Text(text), Cell::Number)
                };
                rows.push(columns.iter().zip(&nulls).map(cell).collect());
            }
        }
        rows.sort_by_cached_key(|row: &Vec<Cell>| row.iter().map(Cell::sort_key).collect::<Vec<_>>());
        Ok(Self { rows })
    }

    /// How `self` differs from the right answer; `None` if it does not.
    pub fn difference(&self, right: &Self) -> Option<String> {
        if self.rows.len() != right.rows.len() {
            return Some(format!("{} rows instead of {}", self.rows.len(), right.rows.len()));
        }
        let mut pairs = self.rows.iter().zip(&right.rows);
        let (got, want) =
            pairs.find(|(got, want)| got.len() != want.len() || !got.iter().zip(*want).all(|(got, want)| got.is_near(want)))?;
        let shown = |row: &[Cell]| row.iter().map(Cell::to_string).collect::<Vec<_>>().join(", ");
        Some(format!("a row is ({}) instead of ({})", shown(got), shown(want)))
    }
}

impl Cell {
    fn is_near(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => {
                a == b || (a - b).abs() <= (RELATIVE * a.abs().max(b.abs())).max(ABSOLUTE) || (a.is_nan() && b.is_nan())
            }
            _ => self == other,
        }
    }

    /// Numbers that are near mostly get the same key, so that their rows meet.
    fn sort_key(&self) -> String {
        match self {
            Self::Number(number) => format!("{number:.2}"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Decimal128Array, Float64Array, StringArray};

    use super::*;

    fn answer(numbers: ArrayRef, texts: [Option<&str>; 2]) -> Answer {
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        Answer::new(&[RecordBatch::try_from_iter_with_nullable([("n", numbers, true), ("t", texts, true)]).unwrap()]).unwrap()
    }

    #[test]
    fn order_type_and_rounding_are_forgiven_and_nothing_else() {
        let decimals = |values: [i128; 2]| Arc::new(Decimal128Array::from_iter_values(values).with_precision_and_scale(12, 2).unwrap());
        let right = answer(decimals([100, 250]), [Some("a"), None]);
        let floats = answer(Arc::new(Float64Array::from(vec![2.500_000_1, 1.0])), [None, Some("a")]);
        assert_eq!(floats.difference(&right), None);
        let wrong = answer(decimals([100, 251]), [Some("a"), None]);
        assert_eq!(wrong.difference(&right).unwrap(), "a row is (2.51, NULL) instead of (2.5, NULL)");
        assert!(answer(decimals([100, 250]), [Some("a"), Some("")]).difference(&right).is_some());
        assert_eq!(Answer { rows: Vec::new() }.difference(&right).unwrap(), "0 rows instead of 2");
    }
}
