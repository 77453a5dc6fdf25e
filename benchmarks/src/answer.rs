//! Rows as values that can be compared across engines, which differ in types, order and rounding.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::{Hash, Hasher};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::Result;

/// Relative difference that sums of floating-point numbers may have when they were added in another order.
const RELATIVE: f64 = 1e-6;
/// Engines keep another number of digits of an average of decimals.
const ABSOLUTE: f64 = 1e-4;
/// Rows up to which an answer is compared cell by cell; of a larger one, sums are.
const ROWS_KEPT: usize = 200_000;

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

/// A result whose rows come in any order.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// How many rows there are.
    pub count: usize,
    content: Content,
}

#[derive(Debug, PartialEq)]
enum Content {
    /// Cells by row, sorted.
    Rows(Vec<Vec<Cell>>),
    Sums(Sums),
}

/// What is left of many rows: it differs if one row is missing, doubled or has another text or whole number, and if numbers with a fraction
/// differ on the whole or change places.
#[derive(Debug, PartialEq)]
struct Sums {
    /// Sum of hashes of the texts and whole numbers of each row.
    exact: u64,
    /// By column of numbers with a fraction: their sum, and their sum weighted by the row's hash.
    near: Vec<(f64, f64)>,
}

impl Answer {
    /// The rows of `batches`.
    pub fn new(batches: &[RecordBatch]) -> Result<Self> {
        let count = batches.iter().map(RecordBatch::num_rows).sum();
        let content = if count > ROWS_KEPT { Content::Sums(Sums::new(batches)?) } else { Content::Rows(sorted_rows(batches)?) };
        Ok(Self { count, content })
    }

    /// How `self` differs from the right answer; `None` if it does not.
    pub fn difference(&self, right: &Self) -> Option<String> {
        if self.count != right.count {
            return Some(format!("{} rows instead of {}", self.count, right.count));
        }
        match (&self.content, &right.content) {
            (Content::Rows(got), Content::Rows(want)) => {
                let mut pairs = got.iter().zip(want);
                let (got, want) =
                    pairs.find(|(got, want)| got.len() != want.len() || !got.iter().zip(*want).all(|(got, want)| got.is_near(want)))?;
                let shown = |row: &[Cell]| row.iter().map(Cell::to_string).collect::<Vec<_>>().join(", ");
                Some(format!("a row is ({}) instead of ({})", shown(got), shown(want)))
            }
            (Content::Sums(got), Content::Sums(want)) if got.exact == want.exact => got.difference(want),
            _ => Some("other texts or whole numbers in as many rows".into()),
        }
    }
}

/// The first two columns as names and values.
pub fn pairs(batches: &[RecordBatch]) -> Result<Vec<(String, String)>> {
    let rows = sorted_rows(batches)?.into_iter();
    Ok(rows.filter_map(|row| Some((row.first()?.to_string(), row.get(1)?.to_string()))).collect())
}

fn sorted_rows(batches: &[RecordBatch]) -> Result<Vec<Vec<Cell>>> {
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
                match text.parse::<f64>() {
                    // What the standard says is NULL, such as a correlation of one row, is NaN in some systems.
                    Ok(number) if number.is_nan() => Cell::Null,
                    Ok(number) => Cell::Number(number),
                    Err(_) => Cell::Text(text),
                }
            };
            rows.push(columns.iter().zip(&nulls).map(cell).collect());
        }
    }
    rows.sort_by_cached_key(|row: &Vec<Cell>| row.iter().map(Cell::sort_key).collect::<Vec<_>>());
    Ok(rows)
}

impl Sums {
    fn new(batches: &[RecordBatch]) -> Result<Self> {
        let columns = batches.first().map_or(0, RecordBatch::num_columns);
        let mut sums = Self { exact: 0, near: vec![(0.0, 0.0); columns] };
        for batch in batches {
            let mut hashes = vec![0_u64; batch.num_rows()];
            for (number, column) in batch.columns().iter().enumerate().filter(|(_, column)| !has_fraction(column.data_type())) {
                add_hashes(number, column, &mut hashes)?;
            }
            sums.exact = hashes.iter().fold(sums.exact, |sum, hash| sum.wrapping_add(mixed(*hash)));
            for (column, sums) in batch.columns().iter().zip(&mut sums.near).filter(|(column, _)| has_fraction(column.data_type())) {
                let numbers = cast(column, &DataType::Float64)?;
                for (number, hash) in numbers.as_primitive::<Float64Type>().iter().zip(&hashes) {
                    let number = number.filter(|number| !number.is_nan()).unwrap_or_default();
                    sums.0 += number;
                    sums.1 += number * (mixed(*hash) % 1009) as f64;
                }
            }
        }
        Ok(sums)
    }

    fn difference(&self, right: &Self) -> Option<String> {
        let numbers = |sums: &Self| sums.near.iter().flat_map(|(plain, weighted)| [*plain, *weighted]).collect::<Vec<_>>();
        let (got, want) = (numbers(self), numbers(right));
        let (got, want) = got.iter().zip(&want).find(|(got, want)| !Cell::Number(**got).is_near(&Cell::Number(**want)))?;
        Some(format!("numbers of a column sum up to {got} instead of {want}"))
    }
}

fn has_fraction(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) => {
            *scale > 0
        }
        _ => false,
    }
}

/// Adds a hash of each value, the same for equal values of any type, to that of its row.
fn add_hashes(number: usize, column: &ArrayRef, hashes: &mut [u64]) -> Result<()> {
    let mut add = |row: usize, value: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        number.hash(&mut hasher);
        value(&mut hasher);
        if let Some(hash) = hashes.get_mut(row) {
            *hash = hash.wrapping_add(hasher.finish());
        }
    };
    if column.data_type().is_integer() || column.data_type().is_decimal() {
        for (row, value) in cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().iter().enumerate() {
            add(row, &|hasher| value.hash(hasher));
        }
    } else {
        for (row, value) in cast(column, &DataType::LargeUtf8)?.as_string::<i64>().iter().enumerate() {
            add(row, &|hasher| value.hash(hasher));
        }
    }
    Ok(())
}

/// Spreads the differences of a sum of hashes over all bits.
fn mixed(hash: u64) -> u64 {
    crate::generate::noise(0, hash)
}

impl Cell {
    fn is_near(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a == b || (a - b).abs() <= (RELATIVE * a.abs().max(b.abs())).max(ABSOLUTE),
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

    use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray};

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
        let unknown = |number| answer(Arc::new(Float64Array::from(vec![number, Some(1.0)])), [None, Some("a")]);
        assert_eq!(unknown(Some(f64::NAN)).difference(&unknown(None)), None);
        assert!(unknown(Some(0.0)).difference(&unknown(None)).is_some());
        assert!(answer(decimals([100, 250]), [Some("a"), Some("")]).difference(&right).is_some());
        assert_eq!(Answer::new(&[]).unwrap().difference(&right).unwrap(), "0 rows instead of 2");
    }

    #[test]
    fn many_rows_are_compared_by_sums_that_see_each_of_them() {
        let batch = |keys: ArrayRef, texts: ArrayRef, numbers: [f64; 3]| {
            let numbers: ArrayRef = Arc::new(Float64Array::from(numbers.to_vec()));
            Sums::new(&[RecordBatch::try_from_iter([("k", keys), ("t", texts), ("n", numbers)]).unwrap()]).unwrap()
        };
        let right = batch(Arc::new(Int32Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["a", "b", "c"])), [0.1, 0.2, 0.3]);
        let same = batch(Arc::new(Int64Array::from(vec![3, 1, 2])), Arc::new(StringViewArray::from(vec!["c", "a", "b"])), [0.3, 0.1, 0.2]);
        assert_eq!(right.exact, same.exact);
        assert_eq!(same.difference(&right), None);
        let swapped = batch(Arc::new(Int64Array::from(vec![3, 1, 2])), Arc::new(StringArray::from(vec!["c", "b", "a"])), [0.3, 0.1, 0.2]);
        assert_ne!(right.exact, swapped.exact);
        let moved = batch(Arc::new(Int32Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["a", "b", "c"])), [0.2, 0.1, 0.3]);
        assert!(moved.difference(&right).is_some());
    }
}
