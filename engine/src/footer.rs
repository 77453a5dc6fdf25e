//! What the footer of a Parquet or ORC file says of its rows: statistics that hold for every row, by column of a table.
//!
//! The catalog asks when files are discovered, writers when they have written one. [`distinct`]: of how many different values.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::parquet::arrow::{parquet_column, parquet_to_arrow_schema};
use datafusion::parquet::basic::Type as PhysicalType;
use datafusion::parquet::file::metadata::ParquetMetaData;

use self::distinct::together;
use crate::evolution::FileColumns;
use crate::nan::{has_nan, leaves_with_nan};

pub mod distinct;

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
    let mut parts = Vec::with_capacity(metadata.num_row_groups());
    for chunk in metadata.row_groups().iter().map(|group| group.column(leaf)) {
        let Some(statistics) = chunk.statistics() else {
            return unknown;
        };
        let nulls = statistics.null_count_opt();
        counted &= nulls.is_some();
        // Old writers sorted text and unsigned numbers by signed bytes, and lost numbers that came after NaN; INT96 has no order.
        let ordered = statistics.physical_type() != PhysicalType::INT96
            && (!statistics.is_min_max_deprecated() || field.data_type().is_signed_integer() || field.data_type().is_temporal());
        let has_bounds = statistics.min_bytes_opt().is_some() && statistics.max_bytes_opt().is_some();
        let only_nulls = nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(chunk.num_values()));
        bounded &= only_nulls || (has_bounds && ordered && !has_nan(statistics));
        parts.push(distinct::of_chunk(chunk, statistics, field.data_type()));
    }
    let bound = |value: Precision<ScalarValue>| match value.get_value() {
        Some(bound) if bounded && !bound.is_null() && bound.size() - size_of::<ScalarValue>() <= BOUND_BYTES_MAX => {
            // Pruning tells these from bounds of all rows.
            if with_nan.contains(&leaf) { value.to_inexact() } else { value }
        }
        _ => Precision::Absent,
    };
    let distinct_count = together(parts, &found, field.data_type());
    ColumnStatistics {
        null_count: if counted { found.null_count } else { Precision::Absent },
        min_value: bound(found.min_value),
        max_value: bound(found.max_value),
        distinct_count,
        ..unknown
    }
}

#[cfg(test)]
mod tests {
    use datafusion::parquet::data_type::ByteArray;
    use datafusion::parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, RowGroupMetaData};
    use datafusion::parquet::file::statistics::Statistics as Found;
    use datafusion::parquet::schema::parser::parse_message_type;
    use datafusion::parquet::schema::types::SchemaDescriptor;

    use super::*;

    /// What is kept of numbers of different values, by column of a file whose row groups tell these.
    fn distinct(by_group: &[u64]) -> [Precision<usize>; 3] {
        let message = "message rows { REQUIRED INT64 number; REQUIRED INT32 day (DATE); REQUIRED BYTE_ARRAY text (STRING); }";
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(parse_message_type(message).unwrap())));
        let group = |distinct: &u64| {
            let (distinct, [least, most]) = (Some(*distinct), ["a", "z"].map(|text| Some(ByteArray::from(text))));
            let found = [
                Found::int64(Some(1), Some(90), distinct, Some(0), false),
                Found::int32(Some(1), Some(90), distinct, Some(0), false),
                Found::byte_array(least, most, distinct, Some(0), false),
            ];
            let columns = found.into_iter().enumerate().map(|(leaf, found)| {
                ColumnChunkMetaData::builder(schema.column(leaf)).set_num_values(100).set_statistics(found).build().unwrap()
            });
            RowGroupMetaData::builder(Arc::clone(&schema)).set_num_rows(100).set_column_metadata(columns.collect()).build().unwrap()
        };
        let groups: Vec<_> = by_group.iter().map(group).collect();
        let described = FileMetaData::new(1, 100 * groups.len() as i64, None, None, Arc::clone(&schema), None);
        let footer = Footer::of(&ParquetMetaData::new(described, groups)).unwrap();
        assert!(footer.columns.iter().all(|column| matches!(column.min_value, Precision::Exact(_))));
        [0, 1, 2].map(|column| footer.columns[column].distinct_count)
    }

    #[test]
    fn different_values_of_a_row_group_are_not_those_of_the_file() {
        let (told, nothing) = (Precision::Inexact, Precision::Absent);
        assert_eq!(distinct(&[7]), [told(7); 3], "never exact: writers may count what they cannot know");
        assert_eq!(distinct(&[7, 9]), [nothing, nothing, told(12)], "numbers and days have bounds, which tell more; texts are 9 to 16");
    }
}
