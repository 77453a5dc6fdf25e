//! Functions of lists that choose elements by their places, as Presto and Spark have them.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, UInt64Array};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{concat, take};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::ScalarUDF;

use super::kernel::{Call, Kernel, is_integer};
use crate::evolution::list_type;

/// Elements that a combination may have, as in Presto.
const COMBINATION_MAX: i64 = 5;

/// Combinations of one list, as in Presto.
const COMBINATIONS_MAX: usize = 100_000;

/// Elements that one call may make for a batch of rows.
const PARTS_MAX: usize = 1 << 27;

/// The furthest place of `array_insert`.
const PLACE_MAX: u64 = 1 << 24;

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let kernels = [
        Kernel {
            name: "ngrams",
            aliases: &[],
            takes: "a list and a number of elements",
            coerce: list_and_number,
            returns: |types| list_type(types[0].clone()),
            run: ngrams,
        },
        Kernel {
            name: "combinations",
            aliases: &[],
            takes: "a list and a number of elements",
            coerce: list_and_number,
            returns: |types| list_type(types[0].clone()),
            run: combinations,
        },
        Kernel {
            name: "contains_sequence",
            aliases: &[],
            takes: "two lists of one type",
            coerce: |types| match types {
                [list, sequence] => {
                    let list = listed(list).or_else(|| listed(sequence))?;
                    (sequence.is_null() || sequence.is_list()).then(|| vec![list.clone(), list])
                }
                _ => None,
            },
            returns: |_| DataType::Boolean,
            run: contains_sequence,
        },
        Kernel {
            name: "array_insert",
            aliases: &[],
            takes: "a list, a place from 1, or from the end if it is negative, and an element",
            coerce: |types| match types {
                [list, place, _] if is_integer(place) => {
                    let list = listed(list)?;
                    let element = element_type(&list)?;
                    Some(vec![list, DataType::Int64, element])
                }
                _ => None,
            },
            returns: |types| types[0].clone(),
            run: array_insert,
        },
    ];
    kernels.map(Kernel::build).into()
}

/// The plain type of lists.
fn listed(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) => {
            Some(list_type(element.data_type().clone()))
        }
        _ => None,
    }
}

fn element_type(list: &DataType) -> Option<DataType> {
    match list {
        DataType::List(element) => Some(element.data_type().clone()),
        _ => None,
    }
}

fn list_and_number(types: &[DataType]) -> Option<Vec<DataType>> {
    match types {
        [list, number] if is_integer(number) => Some(vec![listed(list)?, DataType::Int64]),
        _ => None,
    }
}

fn range(list: &ListArray, row: usize) -> std::ops::Range<u64> {
    list.offsets()[row] as u64..list.offsets()[row + 1] as u64
}

/// Lists of lists that are built of the places of their elements.
#[derive(Default)]
struct Nested {
    places: Vec<u64>,
    inner: Vec<usize>,
    outer: Vec<usize>,
    valid: Vec<bool>,
}

/// Errors: more elements than there is memory for.
fn check_parts(name: &str, parts: usize) -> Result<()> {
    if parts > PARTS_MAX { exec_err!("'{name}' would make more than {PARTS_MAX} elements of a few rows") } else { Ok(()) }
}

impl Nested {
    /// Begins a row, which is NULL unless it is valid; whether it is.
    fn begin(&mut self, valid: bool) -> bool {
        self.valid.push(valid);
        if !valid {
            self.outer.push(0);
        }
        valid
    }

    fn finish(self, list: &ListArray) -> Result<ArrayRef> {
        let DataType::List(element) = list.data_type() else { return exec_err!("a list has the type of a list") };
        let values = take(list.values(), &UInt64Array::from(self.places), None)?;
        let inner = ListArray::try_new(Arc::clone(element), OffsetBuffer::from_lengths(self.inner), values, None)?;
        let field = Arc::new(Field::new_list_field(inner.data_type().clone(), true));
        let nulls = NullBuffer::from(self.valid);
        Ok(Arc::new(ListArray::try_new(field, OffsetBuffer::from_lengths(self.outer), Arc::new(inner), Some(nulls))?))
    }
}

/// All lists of so many elements that follow each other; the whole list where it has fewer.
fn ngrams(call: &Call) -> Result<ArrayRef> {
    let (list, numbers) = (call.array(0).as_list::<i32>(), call.integers(1)?);
    let mut nested = Nested::default();
    for row in 0..call.rows() {
        if !nested.begin(list.is_valid(row) && numbers.is_valid(row)) {
            continue;
        }
        let Some(size) = u64::try_from(numbers.value(row)).ok().filter(|size| *size > 0) else {
            return exec_err!("an n-gram has at least one element, not {}", numbers.value(row));
        };
        let range = range(list, row);
        let size = size.min(range.end - range.start);
        let starts = range.start..(range.end - size + 1).max(range.start);
        nested.outer.push((starts.end - starts.start) as usize);
        check_parts("ngrams", nested.places.len().saturating_add((size * (starts.end - starts.start)) as usize))?;
        for start in starts {
            nested.places.extend(start..start + size);
            nested.inner.push(size as usize);
        }
    }
    nested.finish(list)
}

/// All ways to choose so many elements, in the order of their places.
fn combinations(call: &Call) -> Result<ArrayRef> {
    let (list, numbers) = (call.array(0).as_list::<i32>(), call.integers(1)?);
    let mut nested = Nested::default();
    for row in 0..call.rows() {
        if !nested.begin(list.is_valid(row) && numbers.is_valid(row)) {
            continue;
        }
        let size = match numbers.value(row) {
            size @ 0..=COMBINATION_MAX => size as usize,
            size => return exec_err!("a combination has 0 to {COMBINATION_MAX} elements, not {size}"),
        };
        let range = range(list, row);
        let length = (range.end - range.start) as usize;
        if size > length {
            nested.outer.push(0);
            continue;
        }
        let mut chosen: Vec<usize> = (0..size).collect();
        let mut count = 0;
        loop {
            count += 1;
            if count > COMBINATIONS_MAX {
                return exec_err!("a list of {length} elements has more than {COMBINATIONS_MAX} combinations of {size}");
            }
            nested.places.extend(chosen.iter().map(|place| range.start + *place as u64));
            nested.inner.push(size);
            // The last place that can go on does, and those after it follow.
            let Some(moved) = (0..size).rev().find(|place| chosen[*place] < length - size + place) else { break };
            chosen[moved] += 1;
            for place in moved + 1..size {
                chosen[place] = chosen[place - 1] + 1;
            }
        }
        nested.outer.push(count);
        check_parts("combinations", nested.places.len())?;
    }
    nested.finish(list)
}

/// Elements as bytes that are alike where the elements are.
fn comparable(list: &ListArray) -> Result<Rows> {
    let values = list.values();
    Ok(RowConverter::new(vec![SortField::new(values.data_type().clone())])?.convert_columns(std::slice::from_ref(values))?)
}

fn contains_sequence(call: &Call) -> Result<ArrayRef> {
    let (list, sequence) = (call.array(0).as_list::<i32>(), call.array(1).as_list::<i32>());
    let (elements, wanted) = (comparable(list)?, comparable(sequence)?);
    let found = (0..call.rows()).map(|row| {
        (list.is_valid(row) && sequence.is_valid(row)).then(|| {
            let (range, sought) = (range(list, row), range(sequence, row));
            let length = sought.end - sought.start;
            let is_at = |start: u64| (0..length).all(|at| elements.row((start + at) as usize) == wanted.row((sought.start + at) as usize));
            length == 0 || (range.start..(range.end + 1).saturating_sub(length)).any(is_at)
        })
    });
    Ok(Arc::new(found.collect::<BooleanArray>()))
}

/// As in Spark: a place behind the end fills the list up with NULL.
fn array_insert(call: &Call) -> Result<ArrayRef> {
    let (list, places, inserted) = (call.array(0).as_list::<i32>(), call.integers(1)?, call.array(2));
    let values = concat(&[list.values().as_ref(), inserted.as_ref()])?;
    let before = list.values().len() as u64;
    let (mut taken, mut lengths, mut valid) = (Vec::<Option<u64>>::new(), Vec::new(), Vec::new());
    for row in 0..call.rows() {
        valid.push(list.is_valid(row) && places.is_valid(row));
        if !valid[row] {
            lengths.push(0);
            continue;
        }
        let (range, place, element) = (range(list, row), places.value(row), Some(before + row as u64));
        let length = range.end - range.start;
        let far = place.unsigned_abs();
        if far == 0 || far > PLACE_MAX {
            return exec_err!("the place of 'array_insert' is 1 to {PLACE_MAX} or -1 to -{PLACE_MAX}, not {place}");
        }
        let first = taken.len();
        check_parts("array_insert", first + far as usize)?;
        if place > 0 {
            let kept = range.start..range.start + length.min(far - 1);
            taken.extend(kept.clone().map(Some));
            taken.extend(std::iter::repeat_n(None, (far - 1).saturating_sub(length) as usize));
            taken.push(element);
            taken.extend((kept.end..range.end).map(Some));
        } else {
            // The element itself is then the last but so many.
            let kept = range.end - length.min(far - 1)..range.end;
            taken.extend((range.start..kept.start).map(Some));
            taken.push(element);
            taken.extend(std::iter::repeat_n(None, (far - 1).saturating_sub(length) as usize));
            taken.extend(kept.map(Some));
        }
        lengths.push(taken.len() - first);
    }
    let DataType::List(field) = list.data_type() else { return exec_err!("a list has the type of a list") };
    let values = take(&values, &UInt64Array::from(taken), None)?;
    Ok(Arc::new(ListArray::try_new(Arc::clone(field), OffsetBuffer::from_lengths(lengths), values, Some(NullBuffer::from(valid)))?))
}
