//! How Hive spells partitions in paths: `dt=2024-01-01/region=eu`, escaped.

use chrono::DateTime;
use datafusion::common::ScalarValue;

/// How NULL is spelled as a partition value in paths.
pub const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// The path of a partition below its table: names of its keys with their values.
pub fn directories<'a>(keys: impl IntoIterator<Item = (&'a str, &'a ScalarValue)>) -> String {
    let parts = keys.into_iter().map(|(key, value)| format!("{}={}", escape(key), escape(&format_value(value))));
    parts.collect::<Vec<_>>().join("/")
}

/// Escapes a key name or value for a path as Hive does: control characters and ``"#%'*/:=?\{[]^`` become `%XX`.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_control() || r##""#%'*/:=?\{[]^"##.contains(c) {
            escaped.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Undoes [`escape`]. Hive escapes ASCII alone; others escape the bytes of UTF-8, which are put together again. Bytes that are none are the
/// characters of these numbers, as in Hive, and anything else than `%XX` is left as it stands.
pub fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let (mut plain, mut bytes) = (parts.next().unwrap_or_default().to_owned(), Vec::new());
    for part in parts {
        let code = part.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())).map(|hex| u8::from_str_radix(hex, 16));
        let rest = match code {
            Some(Ok(code)) => {
                bytes.push(code);
                &part[2..]
            }
            _ => {
                push_bytes(&mut plain, &mut bytes);
                plain.push('%');
                part
            }
        };
        if !rest.is_empty() {
            push_bytes(&mut plain, &mut bytes);
            plain.push_str(rest);
        }
    }
    push_bytes(&mut plain, &mut bytes);
    plain
}

fn push_bytes(plain: &mut String, bytes: &mut Vec<u8>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => plain.push_str(text),
        Err(_) => plain.extend(bytes.iter().map(|byte| char::from(*byte))),
    }
    bytes.clear();
}

/// The text of a value, not yet escaped. NULL and the empty string are one thing in Hive's paths.
pub fn format_value(value: &ScalarValue) -> String {
    match value {
        value if value.is_null() => NULL_PARTITION.to_owned(),
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) if text.is_empty() => {
            NULL_PARTITION.to_owned()
        }
        ScalarValue::TimestampMicrosecond(Some(micros), _) => match DateTime::from_timestamp_micros(*micros) {
            Some(time) => {
                let text = time.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
                text.trim_end_matches('0').strip_suffix('.').unwrap_or_else(|| text.trim_end_matches('0')).to_owned()
            }
            None => value.to_string(),
        },
        value => value.to_string(),
    }
}
