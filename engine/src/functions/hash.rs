//! `hash` as Spark has it: Murmur3 of 32 bits over the values of a row, each of which begins with the hash of those before. NULL leaves it.
//!
//! Source: Spark 3.5, `Murmur3_x86_32` and `HashExpression`. It differs from the Murmur3 of Hive's buckets in the seed, in the order of
//! bytes and in what is made of the last of them.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array, MapArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::ScalarUDF;

use super::kernel::{Call, Kernel};

/// Spark's seed.
const SEED: u32 = 42;

/// Decimal digits whose unscaled value is hashed as a whole number.
const LONG_DIGITS_MAX: u8 = 18;

/// The function.
pub(super) fn hash() -> Arc<ScalarUDF> {
    Kernel {
        name: "hash",
        aliases: &[],
        takes: "values",
        coerce: |types| (!types.is_empty()).then(|| types.to_vec()),
        returns: |_| DataType::Int32,
        run: |call: &Call| {
            let mut hashes = vec![SEED; call.rows()];
            for column in (0..).take_while(|index| call.has(*index)) {
                add(&mut hashes, call.array(column))?;
            }
            Ok(Arc::new(hashes.into_iter().map(u32::cast_signed).collect::<Int32Array>()))
        },
    }
    .build()
}

/// Mixes the values of a column into the hashes of the columns before.
fn add(hashes: &mut [u32], column: &ArrayRef) -> Result<()> {
    macro_rules! each {
        ($values:expr, |$value:ident, $hash:ident| $mixed:expr) => {
            for (slot, value) in hashes.iter_mut().zip($values.iter()) {
                if let Some($value) = value {
                    let $hash = *slot;
                    *slot = $mixed;
                }
            }
        };
    }
    match column.data_type() {
        DataType::Null => {}
        DataType::Boolean => each!(column.as_boolean(), |value, hash| of_int(i32::from(value), hash)),
        DataType::Int8 => each!(column.as_primitive::<Int8Type>(), |value, hash| of_int(i32::from(value), hash)),
        DataType::Int16 => each!(column.as_primitive::<Int16Type>(), |value, hash| of_int(i32::from(value), hash)),
        DataType::Int32 => each!(column.as_primitive::<Int32Type>(), |value, hash| of_int(value, hash)),
        DataType::Date32 => each!(column.as_primitive::<Date32Type>(), |value, hash| of_int(value, hash)),
        DataType::Int64 => each!(column.as_primitive::<Int64Type>(), |value, hash| of_long(value, hash)),
        // The two zeros are one, and all that is no number is.
        DataType::Float32 => each!(column.as_primitive::<Float32Type>(), |value, hash| {
            of_int(if value.is_nan() { f32::NAN.to_bits() } else { (value + 0.0).to_bits() }.cast_signed(), hash)
        }),
        DataType::Float64 => each!(column.as_primitive::<Float64Type>(), |value, hash| {
            of_long(if value.is_nan() { f64::NAN.to_bits() } else { (value + 0.0).to_bits() }.cast_signed(), hash)
        }),
        DataType::Decimal128(digits, _) if *digits <= LONG_DIGITS_MAX => {
            each!(column.as_primitive::<Decimal128Type>(), |value, hash| of_long(value as i64, hash));
        }
        DataType::Decimal128(..) => {
            each!(column.as_primitive::<Decimal128Type>(), |value, hash| of_bytes(significant(&value.to_be_bytes()), hash));
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            each!(column.as_primitive::<TimestampMicrosecondType>(), |value, hash| of_long(value, hash))
        }
        DataType::Timestamp(_, zone) => add(hashes, &cast(column, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?)?,
        DataType::Utf8View => each!(column.as_string_view(), |value, hash| of_bytes(value.as_bytes(), hash)),
        DataType::BinaryView => each!(column.as_binary_view(), |value, hash| of_bytes(value, hash)),
        DataType::Utf8 | DataType::LargeUtf8 => add(hashes, &cast(column, &DataType::Utf8View)?)?,
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => add(hashes, &cast(column, &DataType::BinaryView)?)?,
        DataType::Date64 => add(hashes, &cast(column, &DataType::Date32)?)?,
        DataType::UInt8 | DataType::UInt16 => add(hashes, &cast(column, &DataType::Int32)?)?,
        DataType::UInt32 | DataType::UInt64 => add(hashes, &cast(column, &DataType::Int64)?)?,
        DataType::Dictionary(_, values) => add(hashes, &cast(column, values)?)?,
        DataType::Struct(_) => {
            let before = hashes.to_vec();
            for field in column.as_struct().columns() {
                add(hashes, field)?;
            }
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                hashes[row] = before[row];
            }
        }
        DataType::List(_) => {
            for (row, hash) in hashes.iter_mut().enumerate().filter(|(row, _)| column.is_valid(*row)) {
                add_each(hash, &[column.as_list::<i32>().value(row)])?;
            }
        }
        DataType::LargeList(_) => {
            for (row, hash) in hashes.iter_mut().enumerate().filter(|(row, _)| column.is_valid(*row)) {
                add_each(hash, &[column.as_list::<i64>().value(row)])?;
            }
        }
        DataType::Map(..) => {
            let map: &MapArray = column.as_map();
            for (row, hash) in hashes.iter_mut().enumerate().filter(|(row, _)| column.is_valid(*row)) {
                add_each(hash, map.value(row).columns())?;
            }
        }
        other => return exec_err!("values of type {other} have no hash here"),
    }
    Ok(())
}

/// Mixes the elements of one list into a hash, or the keys and values of one map in turn.
fn add_each(hash: &mut u32, columns: &[ArrayRef]) -> Result<()> {
    for place in 0..columns.first().map_or(0, |column| column.len()) {
        for column in columns {
            add(std::slice::from_mut(hash), &column.slice(place, 1))?;
        }
    }
    Ok(())
}

/// The bytes of a number that Java's `BigInteger` keeps: without those that only repeat the sign.
fn significant(bytes: &[u8; 16]) -> &[u8] {
    let repeats = |pair: &[u8; 2]| (pair[0] == 0 && pair[1] < 0x80) || (pair[0] == 0xff && pair[1] >= 0x80);
    let first = bytes.array_windows::<2>().take_while(|pair| repeats(pair)).count();
    &bytes[first..]
}

fn of_int(value: i32, hash: u32) -> u32 {
    finished(mixed(hash, value.cast_unsigned()), 4)
}

fn of_long(value: i64, hash: u32) -> u32 {
    let value = value.cast_unsigned();
    finished(mixed(mixed(hash, value as u32), (value >> 32) as u32), 8)
}

/// Spark mixes each byte that is left over by itself, with its sign.
fn of_bytes(bytes: &[u8], hash: u32) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let hash = words.iter().fold(hash, |hash, word| mixed(hash, u32::from_le_bytes(*word)));
    let hash = rest.iter().fold(hash, |hash, byte| mixed(hash, i32::from(byte.cast_signed()).cast_unsigned()));
    finished(hash, bytes.len() as u32)
}

fn mixed(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

fn finished(hash: u32, length: u32) -> u32 {
    let hash = hash ^ length;
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_number_are_those_of_java() {
        let bytes = |number: i128| significant(&number.to_be_bytes()).to_vec();
        assert_eq!((bytes(0), bytes(-1), bytes(127), bytes(128)), (vec![0], vec![0xff], vec![0x7f], vec![0, 0x80]));
        assert_eq!((bytes(-128), bytes(-129), bytes(i128::MIN).len()), (vec![0x80], vec![0xff, 0x7f], 16));
    }
}
