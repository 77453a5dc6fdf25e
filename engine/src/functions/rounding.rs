//! `bround`: numbers rounded half to even by their decimal digits, as Spark does it. Beside it what else Presto and Spark have of numbers
//! and DataFusion has not.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array};
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::ScalarUDF;

use super::kernel::{Call, Kernel, is_integer};

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let kernels = [
        Kernel {
            name: "bround",
            aliases: &[],
            takes: "a number and perhaps a number of decimal places",
            coerce: |types| {
                let number = |number: &DataType| match number {
                    DataType::Decimal128(..) => Some(number.clone()),
                    integer if integer.is_integer() => Some(DataType::Int64),
                    number => (number.is_numeric() || number.is_null()).then_some(DataType::Float64),
                };
                match types {
                    [value] => Some(vec![number(value)?]),
                    [value, places] if is_integer(places) => Some(vec![number(value)?, DataType::Int64]),
                    _ => None,
                }
            },
            returns: |types| types[0].clone(),
            run: bround,
        },
        Kernel {
            name: "log1p",
            aliases: &[],
            takes: "a number",
            coerce: one_float,
            returns: |_| DataType::Float64,
            run: |call| {
                let logarithms = floats(call).map(|number| number.filter(|number| *number > -1.0).map(f64::ln_1p));
                Ok(Arc::new(logarithms.collect::<Float64Array>()))
            },
        },
        Kernel {
            name: "is_finite",
            aliases: &[],
            takes: "a number",
            coerce: one_float,
            returns: |_| DataType::Boolean,
            run: |call| Ok(Arc::new(floats(call).map(|number| number.map(f64::is_finite)).collect::<BooleanArray>())),
        },
        Kernel {
            name: "is_infinite",
            aliases: &[],
            takes: "a number",
            coerce: one_float,
            returns: |_| DataType::Boolean,
            run: |call| Ok(Arc::new(floats(call).map(|number| number.map(f64::is_infinite)).collect::<BooleanArray>())),
        },
    ];
    kernels.map(Kernel::build).into()
}

fn one_float(types: &[DataType]) -> Option<Vec<DataType>> {
    matches!(types, [number] if number.is_numeric() || number.is_null()).then(|| vec![DataType::Float64])
}

fn floats(call: &Call) -> impl Iterator<Item = Option<f64>> {
    call.array(0).as_primitive::<Float64Type>().iter()
}

fn bround(call: &Call) -> Result<ArrayRef> {
    let places = |row| call.integer_or(1, row, 0);
    let numbers = call.array(0);
    let rows = 0..call.rows();
    Ok(match numbers.data_type() {
        DataType::Int64 => {
            let integers = numbers.as_primitive::<Int64Type>();
            let rounded = rows.map(|row| {
                let Some(places) = places(row)?.filter(|_| integers.is_valid(row)) else { return Ok(None) };
                let rounded = half_even(i128::from(integers.value(row)), 0_i64.saturating_sub(places));
                match i64::try_from(rounded) {
                    Ok(rounded) => Ok(Some(rounded)),
                    Err(_) => exec_err!("'bround' of {} is too large for a whole number", integers.value(row)),
                }
            });
            Arc::new(rounded.collect::<Result<Int64Array>>()?)
        }
        DataType::Decimal128(precision, scale) => {
            let decimals = numbers.as_primitive::<Decimal128Type>();
            let rounded = rows.map(|row| {
                let places = places(row)?.filter(|_| decimals.is_valid(row));
                Ok(places.map(|places| half_even(decimals.value(row), i64::from(*scale).saturating_sub(places))))
            });
            let rounded = rounded.collect::<Result<Decimal128Array>>()?;
            rounded.validate_decimal_precision(*precision)?;
            Arc::new(rounded.with_precision_and_scale(*precision, *scale)?)
        }
        _ => {
            let floats = numbers.as_primitive::<Float64Type>();
            let rounded = rows.map(|row| {
                let places = places(row)?.filter(|_| floats.is_valid(row));
                Ok(places.map(|places| rounded_float(floats.value(row), places)))
            });
            Arc::new(rounded.collect::<Result<Float64Array>>()?)
        }
    })
}

/// A number with so many of its last digits made zeros.
fn half_even(number: i128, digits: i64) -> i128 {
    let Some(unit) = u32::try_from(digits.max(0)).ok().and_then(|digits| 10_i128.checked_pow(digits)) else { return 0 };
    let (whole, rest) = (number / unit, number % unit);
    let up = match (rest.unsigned_abs() * 2).cmp(&unit.unsigned_abs()) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => whole % 2 != 0,
        std::cmp::Ordering::Greater => true,
    };
    (whole + if up { number.signum() } else { 0 }).saturating_mul(unit)
}

/// By the shortest digits that mean the number: `2.345` is a tie, although no float lies there.
fn rounded_float(number: f64, places: i64) -> f64 {
    let text = format!("{number:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return number };
    let fraction = digits.split_once('.').map_or("", |(_, fraction)| fraction);
    let (Ok(unscaled), Ok(exponent)) = (digits.replace('.', "").parse::<i128>(), exponent.parse::<i64>()) else { return number };
    let scale = fraction.len() as i64 - exponent;
    let rounded = half_even(unscaled, scale.saturating_sub(places));
    if rounded == unscaled { number } else { format!("{rounded}e{}", -scale).parse().unwrap_or(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_even_neighbour() {
        for (number, places, expected) in [
            (2.5, 0, 2.0),
            (3.5, 0, 4.0),
            (-2.5, 0, -2.0),
            (2.345, 2, 2.34),
            (2.355, 2, 2.36),
            (25.0, -1, 20.0),
            (1e300, 0, 1e300),
            (6e300, -301, 1e301),
            (1.5e-300, 2, 0.0),
            (0.1 + 0.2, 17, 0.1 + 0.2),
            (f64::INFINITY, 1, f64::INFINITY),
            (7.0, i64::MIN, 0.0),
            (7.5, i64::MAX, 7.5),
        ] {
            assert_eq!(rounded_float(number, places), expected, "bround({number}, {places})");
        }
        assert_eq!((half_even(25, 1), half_even(-35, 1), half_even(5, 1), half_even(99, 3)), (20, -40, 0, 0));
        assert_eq!((half_even(i128::MAX, 40), half_even(7, -3)), (0, 7));
    }
}
