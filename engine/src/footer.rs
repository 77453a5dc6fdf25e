//! What the footer of a Parquet or ORC file says of its rows: statistics that hold for every row, by column of a table.
//!
//! The catalog asks when files are discovered, writers when they have written one.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::parquet::arrow::{parquet_column, parquet_to_arrow_schema};
use datafusion::parquet::basic::Type as PhysicalType;
use datafusion::parquet::file::metadata::ParquetMetaData;

use crate::evolution::FileColumns;
use crate::nan::leaves_with_nan;

/// Longest text or binary bound kept as a statistic: longer ones fill the catalog and prune no better.
pub(crate) const BOUND_BYTES_MAX: usize = 128;

/// What a footer says.
#[derive(Debug)]
pub struct Footer {
    rows: usize,
    /// Uncompressed.
    bytes: usize,
    schema: SchemaRef,
    /// By column of `schema`.
    columns: Vec<ColumnStatistics>,
}

impl Footer {
    /// Of a file with these columns.
    pub(crate) fn new(rows: usize, bytes: usize, schema: Schema, columns: Vec<ColumnStatistics>) -> Self {
        Self { rows, bytes, schema: Arc::new(schema), columns }
    }

    /// Reads the footer of a Parquet file. Errors: what is wrong with the file.
    pub fn of(metadata: &ParquetMetaData) -> Result<Self, String> {
        let described = metadata.file_metadata();
        let schema = parquet_to_arrow_schema(described.schema_descr(), described.key_value_metadata())
            .map_err(|error| format!("has a schema that cannot be read: {error}"))?;
        let schema = Arc::new(schema);
        let statistics = DFParquetMetadata::statistics_from_parquet_metadata(metadata, &schema)
            .map_err(|error| format!("has statistics that cannot be read: {}", error.strip_backtrace()))?;
        let found = schema.fields().iter().zip(statistics.column_statistics);
        let with_nan = leaves_with_nan(described);
        let columns = found.map(|(field, found)| trusted(metadata, &schema, field, found, &with_nan)).collect();
        let count = |value: i64| usize::try_from(value).unwrap_or_default();
        Ok(Self {
            rows: metadata.row_groups().iter().map(|group| count(group.num_rows())).sum(),
            bytes: metadata.row_groups().iter().map(|group| count(group.total_byte_size())).sum(),
            schema,
            columns,
        })
    }

    /// Rows of the file.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns as written: views, dictionaries and spelling included.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Statistics by column of a table, whose columns those of the file fit.
    pub fn statistics(&self, table: &Schema) -> Statistics {
        let columns = FileColumns::new(&self.schema);
        let column = |field: &FieldRef| match columns.position(field.name()).unwrap_or_default() {
            Some(index) => {
                let found = &self.columns[index];
                let cast = |value: &Precision<ScalarValue>| value.cast_to(field.data_type()).unwrap_or(Precision::Absent);
                ColumnStatistics { min_value: cast(&found.min_value), max_value: cast(&found.max_value), ..found.clone() }
            }
            // Rows of a file without the column read as NULL.
            None => ColumnStatistics { null_count: Precision::Exact(self.rows), ..ColumnStatistics::new_unknown() },
        };
        Statistics {
            num_rows: Precision::Exact(self.rows),
            total_byte_size: Precision::Inexact(self.bytes),
            column_statistics: table.fields().iter().map(column).collect(),
        }
    }
}

/// Keeps of a column's statistics what holds for every row. DataFusion's summary also speaks when some row groups are silent.
fn trusted(
    metadata: &ParquetMetaData,
    schema: &Schema,
    field: &Field,
    found: ColumnStatistics,
    with_nan: &BTreeSet<usize>,
) -> ColumnStatistics {
    let unknown = ColumnStatistics { byte_size: found.byte_size, ..ColumnStatistics::new_unknown() };
    let Some((leaf, _)) = parquet_column(metadata.file_metadata().schema_descr(), schema, field.name()) else {
        return unknown;
    };
    let mut bounded = true;
    let mut counted = true;
    for chunk in metadata.row_groups().iter().map(|group| group.column(leaf)) {
        let Some(statistics) = chunk.statistics() else {
            return unknown;
        };
        let nulls = statistics.null_count_opt();
        counted &= nulls.is_some();
        // Old writers sorted text and unsigned numbers by signed bytes; INT96 has no order.
        let ordered = statistics.physical_type() != PhysicalType::INT96
            && (!statistics.is_min_max_deprecated()
                || field.data_type().is_signed_integer()
                || field.data_type().is_floating()
                || field.data_type().is_temporal());
        let has_bounds = statistics.min_bytes_opt().is_some() && statistics.max_bytes_opt().is_some();
        let only_nulls = nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(chunk.num_values()));
        bounded &= only_nulls || (has_bounds && ordered);
    }
    let bound = |value: Precision<ScalarValue>| match value.get_value() {
        Some(bound) if bounded && !bound.is_null() && bound.size() - size_of::<ScalarValue>() <= BOUND_BYTES_MAX => {
            // To Bounds, these are none.
            if with_nan.contains(&leaf) { value.to_inexact() } else { value }
        }
        _ => Precision::Absent,
    };
    // Of several row groups it is the greatest number of one of them: of days in order, each has a few. Bounds of numbers tell more.
    let is_of_file = metadata.num_row_groups() < 2 || !(field.data_type().is_integer() || *field.data_type() == DataType::Date32);
    ColumnStatistics {
        null_count: if counted { found.null_count } else { Precision::Absent },
        min_value: bound(found.min_value),
        max_value: bound(found.max_value),
        distinct_count: if is_of_file { found.distinct_count.to_inexact() } else { Precision::Absent },
        ..unknown
    }
}
