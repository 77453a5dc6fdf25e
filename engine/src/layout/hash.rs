//! From values to a bucket, by Hive's hash of version 2: Murmur3 of 32 bits over each value as Java's `ByteBuffer` has it.
//!
//! Source: Hive 3, `ObjectInspectorUtils.getBucketHashCode` and `Murmur3.hash32`.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Date32Type, Int8Type, Int16Type, Int32Type, Int64Type};
use datafusion::common::{Result, ScalarValue, internal_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Hive's seed.
const SEED: u32 = 104_729;

/// Whether Hive's hash of values of a type is known here, and equal values have the same. Zero and minus zero have not.
pub(super) fn is_hashed(data_type: &DataType) -> bool {
    use DataType::{Binary, BinaryView, Boolean, Date32, Int8, Int16, Int32, Int64, Utf8, Utf8View};
    matches!(data_type, Boolean | Int8 | Int16 | Int32 | Int64 | Date32 | Utf8 | Utf8View | Binary | BinaryView)
}

/// The bucket of each row, of which `columns` has as many as they are long. Errors: a type that has no bucket.
pub fn bucket_numbers(columns: &[ArrayRef], buckets: u32) -> Result<Int32Array> {
    let Some(first) = columns.first().filter(|_| buckets > 0) else { return internal_err!("rows without columns have no bucket") };
    let mut codes = vec![0_i32; first.len()];
    for column in columns {
        add(&mut codes, column)?;
    }
    Ok(codes.into_iter().map(|code| Some((code & i32::MAX).rem_euclid(buckets.cast_signed()))).collect())
}

/// Mixes the hashes of a column's values into those of the columns before.
fn add(codes: &mut [i32], column: &ArrayRef) -> Result<()> {
    macro_rules! each {
        ($values:expr, |$value:ident| $hash:expr) => {
            for (code, value) in codes.iter_mut().zip($values.iter()) {
                let hash: i32 = value.map_or(0, |$value| $hash);
                *code = code.wrapping_mul(31).wrapping_add(hash);
            }
        };
    }
    match column.data_type() {
        DataType::Boolean => each!(column.as_boolean(), |value| i32::from(value)),
        DataType::Int8 => each!(column.as_primitive::<Int8Type>(), |value| i32::from(value)),
        DataType::Int16 => each!(column.as_primitive::<Int16Type>(), |value| murmur3(&value.to_be_bytes())),
        DataType::Int32 => each!(column.as_primitive::<Int32Type>(), |value| murmur3(&value.to_be_bytes())),
        DataType::Date32 => each!(column.as_primitive::<Date32Type>(), |value| murmur3(&value.to_be_bytes())),
        DataType::Int64 => each!(column.as_primitive::<Int64Type>(), |value| murmur3(&value.to_be_bytes())),
        DataType::Utf8 => each!(column.as_string::<i32>(), |value| murmur3(value.as_bytes())),
        DataType::Utf8View => each!(column.as_string_view(), |value| murmur3(value.as_bytes())),
        DataType::Binary => each!(column.as_binary::<i32>(), |value| murmur3(value)),
        DataType::BinaryView => each!(column.as_binary_view(), |value| murmur3(value)),
        DataType::Dictionary(_, values) if is_hashed(values) => add(codes, &cast(column, values)?)?,
        other => return plan_err!("values of type {other} have no bucket"),
    }
    Ok(())
}

/// Murmur3, x86, 32 bits, as Hive has it.
pub(super) fn murmur3(bytes: &[u8]) -> i32 {
    let scramble = |word: u32| word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = SEED;
    for word in words {
        hash = (hash ^ scramble(u32::from_le_bytes(*word))).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    // Java's bytes have a sign, which Hive's code for the rest spreads over all higher bits.
    let tail = rest.iter().zip([0, 8, 16]).fold(0, |word, (byte, shift)| word ^ i32::from(byte.cast_signed()).cast_unsigned() << shift);
    hash ^= scramble(tail);
    hash ^= bytes.len() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    (hash ^ (hash >> 16)).cast_signed()
}

static FUNCTION: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::new_from_impl(BucketNumber { signature: Signature::variadic_any(Volatility::Immutable) })));

/// `hive_bucket(n, a, b, ...)`: in which of `n` buckets Hive has a row with these values.
pub fn bucket_number() -> Arc<ScalarUDF> {
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct BucketNumber {
    signature: Signature,
}

impl ScalarUDFImpl for BucketNumber {
    fn name(&self) -> &str {
        "hive_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [count, values @ ..] if count.is_integer() && !values.is_empty() => Ok(DataType::Int32),
            _ => plan_err!("hive_bucket takes a number of buckets and the values of a row"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [ColumnarValue::Scalar(count), values @ ..] = args.args.as_slice() else {
            return plan_err!("hive_bucket takes a number of buckets that is the same for all rows");
        };
        let count = match count.cast_to(&DataType::Int64)? {
            ScalarValue::Int64(Some(count)) if (1..=i64::from(super::BUCKETS_MAX)).contains(&count) => count as u32,
            other => return plan_err!("hive_bucket takes a number from 1 to {}, not {other}", super::BUCKETS_MAX),
        };
        let columns = values.iter().map(|value| value.to_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array(Arc::new(bucket_numbers(&columns, count)?)))
    }
}
