//! Values of partition keys in their three spellings: typed, as text in Hive paths, and as the store sorts them.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike};
use datafusion::common::ScalarValue;
use serde::Serialize;
use windlass_engine::hive_path::directories;
pub use windlass_engine::hive_path::{escape, format_value, unescape};

use crate::catalog::{KeyType, NULL_PARTITION, PartitionKey};
use crate::error::{Error, Result};

/// Days from 0001-01-01 to 1970-01-01, as `chrono` counts them.
const EPOCH_DAY: i32 = 719_163;

/// Hive's name of a partition, `dt=2024-01-01/region=eu`; empty for a table without keys.
pub fn partition_name(keys: &[PartitionKey], values: &[ScalarValue]) -> String {
    directories(keys.iter().map(|key| key.name.as_str()).zip(values))
}

/// The value as it comes back from a path: the empty string, and the text that spells NULL there, are NULL.
pub(crate) fn canonical(key_type: KeyType, value: ScalarValue) -> Result<ScalarValue> {
    if format_value(&value) == NULL_PARTITION { null(key_type) } else { Ok(value) }
}

/// The value of `key` that `text` spells, where `text` is unescaped. Errors: `Invalid` if it spells none.
pub fn parse_value(key: &PartitionKey, text: &str) -> Result<ScalarValue> {
    if text.is_empty() || text == NULL_PARTITION {
        return null(key.key_type);
    }
    let parsed = match key.key_type {
        KeyType::String => Some(ScalarValue::from(text)),
        KeyType::Int => text.parse().ok().map(|value| ScalarValue::Int32(Some(value))),
        KeyType::BigInt => text.parse().ok().map(|value| ScalarValue::Int64(Some(value))),
        KeyType::Date => parse_date(text).map(|date| ScalarValue::Date32(Some(date.num_days_from_ce() - EPOCH_DAY))),
        KeyType::Timestamp => parse_timestamp(text).map(|micros| ScalarValue::TimestampMicrosecond(Some(micros), None)),
        KeyType::Boolean => text.to_ascii_lowercase().parse().ok().map(|value| ScalarValue::Boolean(Some(value))),
        KeyType::Decimal(precision, scale) => {
            parse_decimal(text, precision, scale).map(|value| ScalarValue::Decimal128(Some(value), precision, scale))
        }
    };
    parsed.ok_or_else(|| Error::Invalid(format!("'{text}' is not a value of partition key '{}', which is a {}", key.name, key.key_type)))
}

/// NULL of a key's type.
pub fn null(key_type: KeyType) -> Result<ScalarValue> {
    ScalarValue::try_from(key_type.data_type()).map_err(|error| Error::Internal(error.to_string()))
}

fn parse_date(text: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

/// Microseconds since 1970. More digits than that are refused: dropping them would make two partitions one.
fn parse_timestamp(text: &str) -> Option<i64> {
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")
        .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f"))
        .ok()
        .or_else(|| parse_date(text).map(|date| date.and_time(NaiveTime::MIN)))?;
    time.nanosecond().is_multiple_of(1000).then(|| time.and_utc().timestamp_micros())
}

/// The unscaled value; none if `text` has digits that the type has no place for.
fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !digits.bytes().any(|b| b.is_ascii_digit()) || !integer.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let all = format!("{integer}{fraction}");
    // The unscaled value has `zeros` more digits than the text; fewer when the scale is negative or the text has too many.
    let zeros = i32::from(scale) - i32::try_from(fraction.len()).ok()?;
    let all = if zeros < 0 {
        let cut = all.len().saturating_sub(zeros.unsigned_abs() as usize);
        let (kept, dropped) = all.split_at(cut);
        dropped.bytes().all(|b| b == b'0').then(|| kept.to_owned())?
    } else {
        all + &"0".repeat(zeros.unsigned_abs() as usize)
    };
    let significant = all.trim_start_matches('0');
    if significant.len() > usize::from(precision) {
        return None;
    }
    let value = if significant.is_empty() { 0 } else { significant.parse::<i128>().ok()? };
    Some(if negative { -value } else { value })
}

/// A non-NULL value as the store keeps it. The store's order of these is the order of the values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub(crate) enum Encoded {
    /// Every number but decimals.
    Integer(i64),
    /// Strings, and decimals as fixed-width digits.
    Text(String),
}

/// What the store keeps for `value`; `None` for NULL. Errors: `Internal` if it is not of the key's type.
pub(crate) fn encode(key: &PartitionKey, value: &ScalarValue) -> Result<Option<Encoded>> {
    Ok(match (key.key_type, value) {
        (_, ScalarValue::Null) => None,
        (KeyType::String, ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text)) => {
            text.clone().map(Encoded::Text)
        }
        (KeyType::Int, ScalarValue::Int32(value)) => value.map(|value| Encoded::Integer(value.into())),
        (KeyType::BigInt, ScalarValue::Int64(value)) => value.map(Encoded::Integer),
        (KeyType::Date, ScalarValue::Date32(days)) => days.map(|days| Encoded::Integer(days.into())),
        (KeyType::Timestamp, ScalarValue::TimestampMicrosecond(micros, None)) => micros.map(Encoded::Integer),
        (KeyType::Boolean, ScalarValue::Boolean(value)) => value.map(|value| Encoded::Integer(value.into())),
        (KeyType::Decimal(precision, scale), ScalarValue::Decimal128(value, p, s)) if (precision, scale) == (*p, *s) => {
            value.map(|value| Encoded::Text(encode_decimal(value)))
        }
        _ => {
            return Err(Error::Internal(format!(
                "value {value:?} has type {}, but partition key '{}' is a {}",
                value.data_type(),
                key.name,
                key.key_type
            )));
        }
    })
}

/// SQLite has no integer of 128 bits. With the sign bit flipped, numbers sort as their unsigned hex digits do.
fn encode_decimal(value: i128) -> String {
    format!("{:032x}", value.cast_unsigned() ^ (1 << 127))
}

/// Undoes the encoding of decimals; none if `text` is not one.
pub(crate) fn decode_decimal(text: &str) -> Option<i128> {
    u128::from_str_radix(text, 16).ok().map(|value| (value ^ (1 << 127)).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(key_type: KeyType) -> PartitionKey {
        PartitionKey { name: "k".to_owned(), key_type, comment: None }
    }

    #[test]
    fn paths_are_escaped_as_hive_does() {
        assert_eq!(escape("a b/c=d:é%\u{1}\u{7f}"), "a b%2Fc%3Dd%3Aé%25%01%7F");
        assert_eq!(escape("\"#'*?\\{[]^}<>|~+&;,!$()@"), "%22%23%27%2A%3F%5C%7B%5B%5D%5E}<>|~+&;,!$()@");
        assert_eq!(unescape("50%"), "50%");
        assert_eq!(unescape("%zz%+1%4"), "%zz%+1%4");
        assert_eq!(unescape("%2f%é%41%25%34"), "/%éA%4");
        // Hive escapes no such character, others do, byte by byte; alone it is one character.
        assert_eq!(unescape("%C3%A9t%C3%A9%2F%E6%97%A5"), "été/日");
        assert_eq!(unescape("%E9t%E9"), "été");
    }

    #[test]
    fn names_of_partitions() {
        let keys = [key(KeyType::Date), key(KeyType::String), key(KeyType::Timestamp), key(KeyType::Decimal(5, 2))];
        let values = ["2024-01-02", "a/b", "2024-01-02 03:04:05.5", "-1.5"];
        let values: Vec<_> = keys.iter().zip(values).map(|(key, text)| parse_value(key, text).unwrap()).collect();
        assert_eq!(partition_name(&keys, &values), "k=2024-01-02/k=a%2Fb/k=2024-01-02 03%3A04%3A05.5/k=-1.50");
        let nulls: Vec<_> = keys.iter().map(|key| parse_value(key, NULL_PARTITION).unwrap()).collect();
        assert!(nulls.iter().all(ScalarValue::is_null));
        assert_eq!(partition_name(&keys[..1], &nulls), format!("k={NULL_PARTITION}"));
        assert_eq!(partition_name(&[], &[]), "");
    }

    #[test]
    fn text_that_spells_no_value_is_refused() {
        let cases = [
            (KeyType::Int, "3000000000"),
            (KeyType::Int, "1.0"),
            (KeyType::Date, "2024-02-30"),
            (KeyType::Date, "20240230"),
            (KeyType::Timestamp, "2024-01-01 25:00:00"),
            (KeyType::Timestamp, "2024-01-01 00:00:00.0000001"),
            (KeyType::Boolean, "maybe"),
            (KeyType::Decimal(4, 2), "1.234"),
            (KeyType::Decimal(4, 2), "100"),
            (KeyType::Decimal(4, -2), "1"),
            (KeyType::Decimal(4, 2), "."),
            (KeyType::Decimal(4, 2), "1e3"),
        ];
        for (key_type, text) in cases {
            let error = parse_value(&key(key_type), text).unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("'k'"), "{error}");
        }
    }

    #[test]
    fn several_spellings_of_one_value() {
        let decimal = key(KeyType::Decimal(6, 2));
        for text in ["12.5", "+12.50", "012.500"] {
            assert_eq!(parse_value(&decimal, text).unwrap(), ScalarValue::Decimal128(Some(1250), 6, 2));
        }
        assert_eq!(parse_value(&key(KeyType::Decimal(4, -2)), "12300").unwrap(), ScalarValue::Decimal128(Some(123), 4, -2));
        assert_eq!(parse_value(&key(KeyType::Int), "007").unwrap(), ScalarValue::Int32(Some(7)));
        assert_eq!(
            parse_value(&key(KeyType::Timestamp), "1970-01-02T00:00:00").unwrap(),
            parse_value(&key(KeyType::Timestamp), "1970-01-02").unwrap()
        );
        assert_eq!(parse_value(&key(KeyType::String), "").unwrap(), ScalarValue::Utf8(None));
    }

    fn value_and_type() -> impl Strategy<Value = (KeyType, ScalarValue)> {
        let decimal = -10i128.pow(20) + 1..10i128.pow(20);
        prop_oneof![
            ".*".prop_filter("the empty string is NULL", |text| !text.is_empty()).prop_map(|v| (KeyType::String, v.into())),
            any::<i32>().prop_map(|v| (KeyType::Int, v.into())),
            any::<i64>().prop_map(|v| (KeyType::BigInt, v.into())),
            (-3_000_000..3_000_000i32).prop_map(|v| (KeyType::Date, ScalarValue::Date32(Some(v)))),
            (-62_000_000_000_000_000..250_000_000_000_000_000i64)
                .prop_map(|v| (KeyType::Timestamp, ScalarValue::TimestampMicrosecond(Some(v), None))),
            any::<bool>().prop_map(|v| (KeyType::Boolean, v.into())),
            decimal.prop_map(|v| (KeyType::Decimal(20, 5), ScalarValue::Decimal128(Some(v), 20, 5))),
        ]
    }

    proptest! {
        #[test]
        fn values_survive_their_paths((key_type, value) in value_and_type()) {
            let text = escape(&format_value(&value));
            prop_assert!(!text.contains('/') && !text.contains('='));
            prop_assert_eq!(parse_value(&key(key_type), &unescape(&text)).unwrap(), value);
        }

        #[test]
        fn decimals_sort_as_their_digits(left: i128, right: i128) {
            prop_assert_eq!(left.cmp(&right), encode_decimal(left).cmp(&encode_decimal(right)));
            prop_assert_eq!(decode_decimal(&encode_decimal(left)), Some(left));
        }
    }
}
