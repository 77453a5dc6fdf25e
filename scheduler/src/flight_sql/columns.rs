//! How a column is described to tools: its SQL type and, for a table's column, where it belongs, as `ARROW:FLIGHT:SQL:*` metadata.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// Field metadata that holds the comment of a column.
const COMMENT: &str = "comment";

/// A result's schema as clients get it everywhere: at prepare, in flight infos and in front of the rows.
pub(super) fn of_result(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| described(field, sql_type(field))).collect::<Vec<_>>()))
}

/// A table's schema as it is listed.
pub(super) fn of_table(catalog: &str, database: &str, table: &str, schema: &Schema) -> Schema {
    let column = |field: &Arc<Field>| {
        let mut facts = sql_type(field);
        facts.extend([("CATALOG_NAME", catalog.to_owned()), ("SCHEMA_NAME", database.to_owned()), ("TABLE_NAME", table.to_owned())]);
        facts.extend(
            [("IS_AUTO_INCREMENT", "0"), ("IS_CASE_SENSITIVE", "1"), ("IS_READ_ONLY", "1"), ("IS_SEARCHABLE", "1")]
                .map(|(k, v)| (k, v.to_owned())),
        );
        // Not for results: JDBC would show the remark as the column's label.
        facts.extend(field.metadata().get(COMMENT).map(|comment| ("REMARKS", comment.clone())));
        described(field, facts)
    };
    Schema::new(schema.fields().iter().map(column).collect::<Vec<_>>())
}

fn described(field: &Field, facts: Vec<(&str, String)>) -> Field {
    let metadata: HashMap<_, _> = facts.into_iter().map(|(key, value)| (format!("ARROW:FLIGHT:SQL:{key}"), value)).collect();
    field.clone().with_metadata(metadata)
}

fn sql_type(field: &Field) -> Vec<(&'static str, String)> {
    let mut facts = vec![("TYPE_NAME", type_name(field.data_type()).to_owned())];
    if let DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) = field.data_type() {
        facts.extend([("PRECISION", precision.to_string()), ("SCALE", scale.to_string())]);
    }
    facts
}

/// The SQL name of a type that clients get.
pub(super) fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INTEGER",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INTEGER UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float16 | DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => "DECIMAL",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "VARBINARY",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL",
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::ListView(_) | DataType::LargeListView(_) => {
            "ARRAY"
        }
        DataType::Struct(_) => "ROW",
        DataType::Map(..) => "MAP",
        DataType::Union(..) => "UNION",
        DataType::Dictionary(_, values) => type_name(values),
        DataType::RunEndEncoded(_, values) => type_name(values.data_type()),
    }
}
