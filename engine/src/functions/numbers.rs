//! Numbers as text in other bases.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, StringArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Result, exec_datafusion_err, exec_err};
use datafusion::logical_expr::ScalarUDF;

use super::kernel::{Call, Kernel, TEXT, is_integer, is_text};

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let kernels = [
        Kernel {
            name: "conv",
            aliases: &[],
            takes: "a number, the base that it is written in and the base that it shall be written in",
            coerce: |types| match types {
                [number, from, to] if (is_text(number) || is_integer(number)) && is_integer(from) && is_integer(to) => {
                    Some(vec![TEXT, DataType::Int64, DataType::Int64])
                }
                _ => None,
            },
            returns: |_| DataType::Utf8,
            run: |call| {
                let rows = 0..call.rows();
                let converted = rows.map(|row| {
                    let number = call.text_or(0, row, "")?;
                    let bases = call.integer_or(1, row, 0)?.zip(call.integer_or(2, row, 0)?);
                    Ok(number.zip(bases).and_then(|(number, (from, to))| conv(number, from, to)))
                });
                Ok(Arc::new(converted.collect::<Result<StringArray>>()?))
            },
        },
        Kernel {
            name: "from_base",
            aliases: &[],
            takes: "a number as text and the base that it is written in",
            coerce: |types| match types {
                [number, base] if is_text(number) && is_integer(base) => Some(vec![TEXT, DataType::Int64]),
                _ => None,
            },
            returns: |_| DataType::Int64,
            run: |call| {
                let number = |row| {
                    let Some((number, base)) = call.text_or(0, row, "")?.zip(call.integer_or(1, row, 0)?) else { return Ok(None) };
                    let number = i64::from_str_radix(number, checked(base)?);
                    number.map(Some).map_err(|error| exec_datafusion_err!("'from_base' of base {base}: {error}"))
                };
                Ok(Arc::new((0..call.rows()).map(number).collect::<Result<Int64Array>>()?))
            },
        },
        Kernel {
            name: "to_base",
            aliases: &[],
            takes: "a whole number and the base that it shall be written in",
            coerce: |types| (types.len() == 2 && types.iter().all(is_integer)).then(|| vec![DataType::Int64; 2]),
            returns: |_| DataType::Utf8,
            run: to_base,
        },
    ];
    kernels.map(Kernel::build).into()
}

fn checked(base: i64) -> Result<u32> {
    match u32::try_from(base) {
        Ok(base @ 2..=36) => Ok(base),
        _ => exec_err!("a base is a number from 2 to 36, not {base}"),
    }
}

fn to_base(call: &Call) -> Result<ArrayRef> {
    let text = |row| {
        let Some((number, base)) = call.integer_or(0, row, 0)?.zip(call.integer_or(1, row, 0)?) else { return Ok(None) };
        let digits = digits(number.unsigned_abs(), checked(base)?);
        Ok(Some(if number < 0 { format!("-{digits}") } else { digits }))
    };
    Ok(Arc::new((0..call.rows()).map(text).collect::<Result<StringArray>>()?))
}

/// In small letters.
fn digits(mut number: u64, base: u32) -> String {
    let mut digits = Vec::new();
    while number > 0 || digits.is_empty() {
        let digit = u32::try_from(number % u64::from(base)).expect("less than the base");
        digits.push(char::from_digit(digit, base).expect("less than the base"));
        number /= u64::from(base);
    }
    digits.iter().rev().collect()
}

/// As Hive and Spark: of 64 bits without a sign, unless the base to write in is negative; as far as there are digits; too large is all ones.
fn conv(text: &str, from: i64, to: i64) -> Option<String> {
    let text = text.trim();
    let (from, base) = (checked(from).ok()?, checked(to.checked_abs()?).ok()?);
    if text.is_empty() {
        return None;
    }
    let (is_negative, magnitude) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let read = magnitude.chars().map_while(|digit| digit.to_digit(from));
    let number = read.fold(0_u64, |number, digit| {
        number.checked_mul(u64::from(from)).and_then(|number| number.checked_add(u64::from(digit))).unwrap_or(u64::MAX)
    });
    let number = if is_negative { number.wrapping_neg() } else { number };
    let written = match to < 0 && (number as i64) < 0 {
        true => format!("-{}", digits((number as i64).unsigned_abs(), base)),
        false => digits(number, base),
    };
    Some(written.to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_converted_as_hive_does() {
        for (number, from, to, expected) in [
            ("100", 2, 10, Some("4")),
            ("-10", 16, -10, Some("-16")),
            ("-1", 10, 16, Some("FFFFFFFFFFFFFFFF")),
            ("FFFFFFFFFFFFFFFFFF", 16, 10, Some("18446744073709551615")),
            (" 7z9", 8, 10, Some("7")),
            ("x", 10, 2, Some("0")),
            ("", 10, 2, None),
            ("1", 1, 2, None),
            ("1", 10, 37, None),
            ("1", 10, i64::MIN, None),
        ] {
            assert_eq!(conv(number, from, to).as_deref(), expected, "conv('{number}', {from}, {to})");
        }
    }
}
