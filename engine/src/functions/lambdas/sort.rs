//! Elements in an order that a lambda says.
//!
//! Runs of all lists are merged at the same time, so that each step asks the lambda once, about one pair of each merge.

use std::ops::Range;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, UInt32Array, UInt64Array};
use datafusion::arrow::compute::{cast, take, take_arrays};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::LambdaArgument;

use super::Lists;

/// Two neighbouring runs that become one.
struct Merge {
    /// The row of their list, whose columns the lambda may use.
    row: u32,
    left: Range<usize>,
    right: Range<usize>,
    /// Where the next element goes.
    next: usize,
}

/// The places of the elements in order; equal ones stay as they were.
pub(super) fn order(lists: &Lists, compare: &LambdaArgument) -> Result<UInt64Array> {
    let mut order: Vec<u64> = (0..lists.values.len() as u64).collect();
    let longest = (0..lists.rows()).map(|row| lists.range(row).len()).max().unwrap_or(0);
    let mut length = 1;
    while length < longest {
        let mut merged = order.clone();
        let mut merges: Vec<_> = (0..lists.rows()).flat_map(|row| runs(row, lists.range(row), length)).collect();
        while !merges.is_empty() {
            let stays = is_in_order(lists, &order, &merges, compare)?;
            for (merge, stays) in merges.iter_mut().zip(stays) {
                let from = if stays { &mut merge.left } else { &mut merge.right };
                merged[merge.next] = order[from.start];
                (from.start, merge.next) = (from.start + 1, merge.next + 1);
                if merge.left.is_empty() || merge.right.is_empty() {
                    let rest = if merge.left.is_empty() { merge.right.clone() } else { merge.left.clone() };
                    merged[merge.next..merge.next + rest.len()].copy_from_slice(&order[rest]);
                }
            }
            merges.retain(|merge| !merge.left.is_empty() && !merge.right.is_empty());
        }
        order = merged;
        length *= 2;
    }
    Ok(UInt64Array::from(order))
}

/// Pairs of sorted runs of a list.
fn runs(row: usize, range: Range<usize>, length: usize) -> impl Iterator<Item = Merge> {
    range.clone().step_by(2 * length).filter(move |start| start + length < range.end).map(move |start| {
        let (middle, end) = (start + length, (start + 2 * length).min(range.end));
        Merge { row: row as u32, left: start..middle, right: middle..end, next: start }
    })
}

/// Whether the first of the left elements of each merge may come before the first of the right ones.
fn is_in_order(lists: &Lists, order: &[u64], merges: &[Merge], compare: &LambdaArgument) -> Result<Vec<bool>> {
    let elements = |side: fn(&Merge) -> usize| -> Result<ArrayRef> {
        let places: UInt64Array = merges.iter().map(|merge| Some(order[side(merge)])).collect();
        Ok(take(&lists.values, &places, None)?)
    };
    let compared = compare.evaluate(&[&|| elements(|merge| merge.left.start), &|| elements(|merge| merge.right.start)], |captures| {
        let rows: UInt32Array = merges.iter().map(|merge| Some(merge.row)).collect();
        Ok(take_arrays(captures, &rows, None)?)
    })?;
    let compared = cast(&compared.into_array(merges.len())?, &DataType::Float64)?;
    let compared = compared.as_primitive::<Float64Type>();
    if compared.null_count() > 0 {
        return exec_err!("the lambda of 'array_sort' gives a number for every two elements, not NULL");
    }
    Ok(compared.values().iter().map(|number| *number <= 0.0).collect())
}
