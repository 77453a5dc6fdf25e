//! The one function from a plan's schema to the schema that clients are promised, and the cast that keeps the promise.
//!
//! Clients compare the two literally (name, type, nullability), while logical plans, physical plans and files disagree about
//! nullability and about which of several equal types they use. So every field is nullable, nested ones too, and types that JDBC, ODBC
//! or ADBC cannot read become the nearest one that all of them can.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef};
use datafusion::error::Result;

/// Metadata of a field that clients get to see.
const COMMENT: &str = "comment";

/// The schema that clients get for rows of `schema`. Idempotent.
pub fn client_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| client_field(field)).collect::<Vec<_>>()))
}

/// Casts rows to [`client_schema`] of their schema. Errors: Arrow's where a value does not fit.
pub fn to_client(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast_with_options(column, field.data_type(), &options),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}

fn client_field(field: &Field) -> FieldRef {
    let comment = field.metadata().get_key_value(COMMENT).map(|(key, text)| (key.clone(), text.clone()));
    Arc::new(Field::new(field.name(), client_type(field.data_type()), true).with_metadata(comment.into_iter().collect()))
}

/// The type that clients get for a column of `data_type`.
pub fn client_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => DataType::Decimal128(*precision, *scale),
        DataType::Interval(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::Dictionary(_, values) => client_type(values),
        DataType::RunEndEncoded(_, values) => client_type(values.data_type()),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(client_field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(client_field(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| client_field(field)).collect()),
        DataType::Map(entries, sorted) => DataType::Map(client_entries(entries), *sorted),
        other => other.clone(),
    }
}

/// Entries of a map and their keys are never NULL, by the format.
fn client_entries(entries: &FieldRef) -> FieldRef {
    let DataType::Struct(pair) = entries.data_type() else { return Arc::clone(entries) };
    let pair = pair.iter().enumerate().map(|(index, field)| match index {
        0 => Arc::new(client_field(field).as_ref().clone().with_nullable(false)),
        _ => client_field(field),
    });
    Arc::new(Field::new(entries.name(), DataType::Struct(pair.collect()), false))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::new_null_array;
    use datafusion::arrow::datatypes::Fields;
    use proptest::prelude::*;

    use super::*;

    /// Types as plans have them, nested ones too.
    fn data_type() -> impl Strategy<Value = DataType> {
        let dictionary = DataType::Dictionary(Box::new(DataType::Int16), Box::new(DataType::Utf8View));
        let flat = prop::sample::select(vec![
            DataType::Int64,
            DataType::Utf8,
            DataType::Utf8View,
            DataType::LargeUtf8,
            DataType::BinaryView,
            DataType::Float16,
            DataType::Decimal32(5, 2),
            DataType::Decimal64(12, 3),
            DataType::Decimal256(50, 4),
            DataType::Interval(IntervalUnit::YearMonth),
            DataType::Interval(IntervalUnit::DayTime),
            dictionary,
            DataType::Null,
        ]);
        flat.prop_recursive(3, 8, 3, |inner| {
            let field = inner.prop_map(|data_type| Arc::new(Field::new("item", data_type, true)));
            prop_oneof![
                field.clone().prop_map(DataType::List),
                field.clone().prop_map(DataType::LargeList),
                field.clone().prop_map(|item| DataType::FixedSizeList(item, 2)),
                field.clone().prop_map(DataType::ListView),
                prop::collection::vec(field, 1..3).prop_map(|fields| {
                    let named = |(index, field): (usize, FieldRef)| field.as_ref().clone().with_name(format!("f{index}"));
                    DataType::Struct(fields.into_iter().enumerate().map(named).collect::<Fields>())
                }),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn every_type_reaches_its_client_type(data_type in data_type()) {
            let schema = Arc::new(Schema::new(vec![Field::new("c", data_type.clone(), true)]));
            let promised = client_schema(&schema);
            prop_assert_eq!(&client_schema(&promised), &promised, "idempotent");
            let batch = RecordBatch::try_new(schema, vec![new_null_array(&data_type, 3)]).unwrap();
            let sent = to_client(&batch, &promised).unwrap();
            prop_assert_eq!((sent.schema(), sent.num_rows()), (promised, 3));
        }
    }

    #[test]
    fn nullability_and_metadata_are_uniform() {
        let noisy = |comment| [("comment".to_owned(), comment), ("PARQUET:field_id".to_owned(), "1".to_owned())].into();
        let item = Field::new("item", DataType::Int64, false);
        let schema = Schema::new(vec![Field::new("l", DataType::List(Arc::new(item)), false).with_metadata(noisy("why".to_owned()))]);
        let field = client_schema(&schema).field(0).clone();
        assert_eq!(field.metadata().iter().collect::<Vec<_>>(), [(&"comment".to_owned(), &"why".to_owned())]);
        assert_eq!(field.data_type(), &DataType::List(Arc::new(Field::new("item", DataType::Int64, true))));
        assert!(field.is_nullable());
    }
}
