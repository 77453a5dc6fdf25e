//! Rows as text, one cell a string, so that engines with different types can be compared.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Relative difference that two sums of floating-point numbers may have when they were added in another order.
const TOLERANCE: f64 = 1e-8;

/// The cells of all rows. NULL is `NULL`, empty text is `(empty)`.
pub fn cells(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayFormatter<'_>| match column.value(row).to_string() {
                text if text.is_empty() => "(empty)".to_owned(),
                text => text,
            };
            rows.push(columns.iter().map(cell).collect());
        }
    }
    rows
}

/// Panics, naming the first difference, unless both hold the same rows in the same order; numbers may differ by rounding.
pub fn assert_same(what: &str, got: &[Vec<String>], want: &[Vec<String>]) {
    for (number, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.len() == want.len() && got.iter().zip(want).all(|(got, want)| same_cell(got, want));
        assert!(same, "{what}: row {number} is {got:?}, should be {want:?}");
    }
    assert_eq!(got.len(), want.len(), "{what}: number of rows");
}

/// [`assert_same`] for rows in any order.
pub fn assert_same_set(what: &str, mut got: Vec<Vec<String>>, mut want: Vec<Vec<String>>) {
    got.sort();
    want.sort();
    assert_same(what, &got, &want);
}

fn same_cell(got: &str, want: &str) -> bool {
    if got == want {
        return true;
    }
    match (got.parse::<f64>(), want.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= (TOLERANCE * a.abs().max(b.abs())).max(last_place(got)).max(last_place(want)),
        _ => false,
    }
}

/// One unit of the last place of a decimal with at least four: an average that one engine cuts there goes on in the other.
fn last_place(text: &str) -> f64 {
    match text.split_once('.') {
        Some((_, fraction)) if fraction.len() >= 4 && fraction.bytes().all(|digit| digit.is_ascii_digit()) => {
            0.1f64.powi(fraction.len() as i32)
        }
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_forgiven_and_nothing_else() {
        assert!(same_cell("1.0", "1") && same_cell("53790.12345678", "53790.123456779") && same_cell("NULL", "NULL"));
        assert!(same_cell("0.050144", "0.0501445971") && !same_cell("0.050142", "0.0501445971"));
        assert!(!same_cell("1.001", "1") && !same_cell("NULL", "0") && !same_cell("a", "A"));
    }
}
