//! `time_text(timestamp)`: a time as SQL writes it. [`text_casts`](crate::text_casts) plans with it.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::ScalarUDF;

use super::kernel::Kernel;

/// The function.
pub fn time_text() -> Arc<ScalarUDF> {
    Kernel {
        name: "time_text",
        aliases: &[],
        takes: "a timestamp",
        coerce: |types| matches!(types, [DataType::Timestamp(..)]).then(|| types.to_vec()),
        returns: |_| DataType::Utf8,
        run: |call| {
            let texts = cast(call.array(0), &DataType::Utf8)?;
            Ok(Arc::new(texts.as_string::<i32>().iter().map(|text| text.map(spaced)).collect::<StringArray>()))
        },
    }
    .build()
}

/// `2024-05-06T07:08:09.500Z` is `2024-05-06 07:08:09.5+00:00`.
fn spaced(text: &str) -> String {
    let (date, time) = text.split_once('T').unwrap_or((text, ""));
    let zone = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone);
    let time = if time.contains('.') { time.trim_end_matches('0').trim_end_matches('.') } else { time };
    format!("{date} {time}{}", if zone == "Z" { "+00:00" } else { zone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_legible() {
        for (text, expected) in [
            ("2024-05-06T07:08:09", "2024-05-06 07:08:09"),
            ("2024-05-06T07:08:00.500", "2024-05-06 07:08:00.5"),
            ("-0001-05-06T07:08:09.000Z", "-0001-05-06 07:08:09+00:00"),
            ("2024-05-06T07:08:09.123456-07:00", "2024-05-06 07:08:09.123456-07:00"),
        ] {
            assert_eq!(spaced(text), expected);
        }
    }
}
