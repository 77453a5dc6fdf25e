//! What an ORC file says of its rows, and of those of each stripe.

use datafusion::arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::error::Result;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use orc_rust::TimestampPrecision;
use orc_rust::schema::DataType as OrcType;

use super::tail::Tail;
use super::wire;
use crate::footer::{BOUND_BYTES_MAX, Footer};

/// First version of the Java library whose bounds hold for all stripes, and in which texts are compared as everywhere.
const BOUNDS_SINCE: u32 = 1;
/// First version whose bounds of times tell in which zone.
const TIMES_SINCE: u32 = 6;
/// First version whose bounds of decimals hold.
const DECIMALS_SINCE: u32 = 7;

/// What a file says of itself to the catalog; `table` names the columns of files that only number them.
///
/// Errors: `Execution` that says what is wrong with the file; those of the store.
pub async fn footer(store: &dyn ObjectStore, file: &ObjectMeta, table: Option<&Schema>) -> Result<Footer> {
    let Some(tail) = Tail::read(store, file).await? else { return Ok(Footer::new(0, 0, Schema::empty(), Vec::new())) };
    let bytes = tail.footer.stripes.iter().map(wire::StripeInformation::data_length).fold(0, u64::saturating_add);
    Ok(rows(&tail, &tail.footer.statistics, tail.footer.number_of_rows(), bytes, table))
}

/// What a file says of its stripes, by column of the table; nothing if it does not say it of all.
///
/// Errors: those of the store.
pub(super) async fn stripes(tail: &Tail, store: &dyn ObjectStore, file: &Path, table: &Schema) -> Result<Option<Vec<Statistics>>> {
    let Some(said) = tail.stripes(store, file).await? else { return Ok(None) };
    let stripe = |(said, stripe): (&wire::StripeStatistics, &wire::StripeInformation)| {
        rows(tail, &said.columns, stripe.number_of_rows(), stripe.data_length(), Some(table)).statistics(table)
    };
    Ok(Some(said.stripes.iter().zip(&tail.footer.stripes).map(stripe).collect()))
}

/// What is said of some rows by type.
fn rows(tail: &Tail, said: &[wire::ColumnStatistics], rows: u64, bytes: u64, table: Option<&Schema>) -> Footer {
    // Times of all files of a table are of one type.
    let schema = tail.schema(table, |_| TimestampPrecision::Microsecond);
    let columns = tail.root().children().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| statistics(tail, said, rows, column.data_type(), field.data_type())).collect();
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Footer::new(count(rows), count(bytes), schema, columns)
}

/// Of a column: what holds for every row.
fn statistics(tail: &Tail, said: &[wire::ColumnStatistics], rows: u64, column: &OrcType, data_type: &DataType) -> ColumnStatistics {
    let unknown = ColumnStatistics::new_unknown();
    // Writers do not agree what the values of a nested column are.
    let by_type = Some(said).filter(|found| found.len() == tail.footer.types.len() && !data_type.is_nested());
    let Some(found) = by_type.and_then(|found| found.get(column.column_index())) else { return unknown };
    let nulls = found.number_of_values.and_then(|values| rows.checked_sub(values));
    let nulls = nulls.filter(|nulls| *nulls > 0 || !found.has_null()).and_then(|nulls| usize::try_from(nulls).ok());
    let (min_value, max_value) = bounds(tail, found, column, data_type).unwrap_or_default();
    let text_bytes = found.strings.as_ref().and_then(|found| usize::try_from(found.sum?).ok());
    ColumnStatistics {
        null_count: nulls.map_or(Precision::Absent, Precision::Exact),
        min_value,
        max_value,
        byte_size: text_bytes.map_or(Precision::Absent, Precision::Inexact),
        ..unknown
    }
}

type Bounds = (Precision<ScalarValue>, Precision<ScalarValue>);

fn bounds(tail: &Tail, found: &wire::ColumnStatistics, column: &OrcType, data_type: &DataType) -> Option<Bounds> {
    let since = match data_type {
        DataType::Timestamp(..) => TIMES_SINCE,
        DataType::Decimal128(..) if tail.footer.writer() == 0 => DECIMALS_SINCE,
        _ => BOUNDS_SINCE,
    };
    if found.number_of_values() == 0 || tail.writer_version < since {
        return None;
    }
    let cast = |value: ScalarValue| value.cast_to(data_type).ok().filter(|value| !value.is_null());
    let exact = |min, max| Some((Precision::Exact(cast(min)?), Precision::Exact(cast(max)?)));
    match (data_type, column) {
        (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64, _) | (DataType::Timestamp(..), OrcType::Long { .. }) => {
            let found = found.integers.as_ref()?;
            exact(ScalarValue::Int64(Some(found.minimum?)), ScalarValue::Int64(Some(found.maximum?)))
        }
        // Of a CHAR, writers disagree whether its spaces count.
        (DataType::Utf8, OrcType::String { .. } | OrcType::Varchar { .. }) => {
            let found = found.strings.as_ref()?;
            let text = |bytes: &Option<Vec<u8>>| {
                let bytes = bytes.clone().filter(|bytes| bytes.len() <= BOUND_BYTES_MAX)?;
                String::from_utf8(bytes).ok().map(ScalarValue::from)
            };
            exact(text(&found.minimum)?, text(&found.maximum)?)
        }
        (DataType::Boolean, _) => {
            let (&trues, values) = (found.buckets.as_ref()?.count.first()?, found.number_of_values());
            exact(ScalarValue::from(trues == values), ScalarValue::from(trues > 0))
        }
        (DataType::Decimal128(..), _) => {
            let found = found.decimals.as_ref()?;
            exact(ScalarValue::from(found.minimum.as_deref()?), ScalarValue::from(found.maximum.as_deref()?))
        }
        (DataType::Date32, _) => {
            let found = found.dates.as_ref()?;
            exact(ScalarValue::Date32(Some(found.minimum?)), ScalarValue::Date32(Some(found.maximum?)))
        }
        (DataType::Timestamp(TimeUnit::Microsecond, zone), _) => {
            let found = found.timestamps.as_ref()?;
            // Writers disagree about zones before 1970. Milliseconds lack the last digits of both.
            let min = found.minimum_utc.filter(|min| *min >= 0)?.checked_mul(1000)?;
            let max = found.maximum_utc?.checked_add(1)?.checked_mul(1000)?;
            let time = |time| Precision::Inexact(ScalarValue::TimestampMicrosecond(Some(time), zone.clone()));
            Some((time(min), time(max)))
        }
        // Of floating point numbers, bounds leave out NaN, which is the greatest of them.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;
    use object_store::memory::InMemory;
    use object_store::{ObjectStore, ObjectStoreExt};
    use prost::Message;

    use super::*;

    /// What the footer of a file of ten rows says of one column.
    async fn column(kind: wire::Type, found: wire::ColumnStatistics, writer_version: u32) -> Footer {
        let row = wire::Type { kind: Some(wire::STRUCT), subtypes: vec![1], field_names: vec!["C".to_owned()], ..wire::Type::default() };
        let stripe = wire::StripeInformation { number_of_rows: Some(10), ..wire::StripeInformation::default() };
        let footer = wire::Footer {
            stripes: vec![stripe],
            types: vec![row, kind],
            number_of_rows: Some(10),
            statistics: vec![wire::ColumnStatistics::default(), found],
            ..wire::Footer::default()
        };
        let footer = footer.encode_to_vec();
        let postscript = wire::PostScript {
            footer_length: Some(footer.len() as u64),
            writer_version: Some(writer_version),
            magic: Some("ORC".to_owned()),
            ..wire::PostScript::default()
        };
        let postscript = postscript.encode_to_vec();
        let store = InMemory::new();
        let bytes = [footer, postscript.clone(), vec![postscript.len() as u8]].concat();
        store.put(&"f".into(), bytes.into()).await.unwrap();
        footer_of(&store).await
    }

    async fn footer_of(store: &dyn ObjectStore) -> Footer {
        let file = store.head(&"f".into()).await.unwrap();
        super::footer(store, &file, None).await.unwrap()
    }

    #[tokio::test]
    async fn bounds_hold_or_are_absent() {
        use datafusion::arrow::datatypes::DataType::{Boolean, Date32, Decimal128, Int16, Int32, Timestamp, Utf8};
        let kind = |kind| wire::Type { kind: Some(kind), ..wire::Type::default() };
        let values = || wire::ColumnStatistics { number_of_values: Some(8), ..wire::ColumnStatistics::default() };
        let integers = |min, max| wire::ColumnStatistics {
            integers: Some(wire::IntegerStatistics { minimum: Some(min), maximum: Some(max) }),
            ..values()
        };
        let texts = |min: &str, max: &str| wire::ColumnStatistics {
            strings: Some(wire::StringStatistics { minimum: Some(min.into()), maximum: Some(max.into()), sum: Some(9) }),
            ..values()
        };
        let times = |min, max| wire::ColumnStatistics {
            timestamps: Some(wire::TimestampStatistics { minimum_utc: Some(min), maximum_utc: Some(max) }),
            ..values()
        };
        let dates = || wire::ColumnStatistics { dates: Some(wire::DateStatistics { minimum: Some(-1), maximum: Some(5) }), ..values() };
        let buckets = |trues| wire::ColumnStatistics { buckets: Some(wire::BucketStatistics { count: vec![trues] }), ..values() };
        let decimals = || wire::ColumnStatistics {
            decimals: Some(wire::DecimalStatistics { minimum: Some("-1.5".to_owned()), maximum: Some("20".to_owned()) }),
            ..values()
        };
        let decimal = wire::Type { precision: Some(9), scale: Some(2), ..kind(14) };
        let time = Timestamp(TimeUnit::Microsecond, None);
        let said = wire::Attribute { key: Some("spark.sql.catalyst.type".to_owned()), value: Some("timestamp_ntz".to_owned()) };
        let of_spark = wire::Type { attributes: vec![said], ..kind(4) };
        for (column_kind, found, version, table, want) in [
            (kind(2), integers(-7, 300), 9, Int16, "Exact(Int16(-7)) Exact(Int16(300))"),
            (kind(2), integers(-7, 300), 9, Int32, "Exact(Int32(-7)) Exact(Int32(300))"),
            (kind(2), integers(-7, 300), 0, Int16, "Absent Absent"),
            (kind(2), integers(-7, 70_000), 9, Int16, "Absent Absent"),
            (kind(7), texts("a", "b"), 9, Utf8, "Exact(Utf8(\"a\")) Exact(Utf8(\"b\"))"),
            (kind(7), texts("a", &"b".repeat(200)), 9, Utf8, "Absent Absent"),
            (kind(17), texts("a", "b"), 9, Utf8, "Absent Absent"),
            (kind(9), times(1, 2), 9, time.clone(), "Inexact(TimestampMicrosecond(1000, None)) Inexact(TimestampMicrosecond(3000, None))"),
            (kind(9), times(-1, 2), 9, time.clone(), "Absent Absent"),
            (kind(9), times(1, 2), 5, time.clone(), "Absent Absent"),
            (of_spark, integers(-1, 2), 9, time, "Exact(TimestampMicrosecond(-1, None)) Exact(TimestampMicrosecond(2, None))"),
            (kind(15), dates(), 9, Date32, "Exact(Date32(\"1969-12-31\")) Exact(Date32(\"1970-01-06\"))"),
            (kind(0), buckets(0), 9, Boolean, "Exact(Boolean(false)) Exact(Boolean(false))"),
            (kind(0), buckets(8), 9, Boolean, "Exact(Boolean(true)) Exact(Boolean(true))"),
            (decimal.clone(), decimals(), 9, Decimal128(9, 2), "Exact(Decimal128(-1.50,9,2)) Exact(Decimal128(20.00,9,2))"),
            (decimal, decimals(), 6, Decimal128(9, 2), "Absent Absent"),
        ] {
            let footer = column(column_kind, found, version).await;
            let statistics = footer.statistics(&Schema::new(vec![Field::new("c", table.clone(), true)]));
            let column = &statistics.column_statistics[0];
            assert_eq!(format!("{:?} {:?}", column.min_value, column.max_value), want, "{table}");
            assert_eq!((statistics.num_rows, column.null_count), (Precision::Exact(10), Precision::Exact(2)));
        }
        let odd = wire::ColumnStatistics { number_of_values: Some(10), has_null: Some(true), ..values() };
        let footer = column(kind(4), odd, 9).await;
        let statistics = footer.statistics(&Schema::new(vec![Field::new("c", Int32, true), Field::new("new", Int32, true)]));
        assert_eq!(statistics.column_statistics[0].null_count, Precision::Absent, "it contradicts itself");
        assert_eq!(statistics.column_statistics[1].null_count, Precision::Exact(10), "a column that the file lacks");
    }
}
