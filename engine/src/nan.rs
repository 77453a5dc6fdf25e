//! NaN in Parquet files: the greatest of all numbers, or the least if its sign is set, as everything that compares here orders them. But
//! writers leave it out of statistics. So bounds of floating point numbers do not hold for all rows, and are taken from a file's footer
//! before anybody prunes by it; the catalog, which [knows better](crate::bounds), keeps them. Files of ours say of which columns they do.

use std::collections::BTreeSet;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Schema};
use datafusion::parquet::basic::{LogicalType, Type};
use datafusion::parquet::errors::Result;
use datafusion::parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData};
use datafusion::parquet::file::page_index::column_index::ColumnIndexMetaData;
use datafusion::parquet::file::statistics::Statistics;

/// What footers of ours call the columns without NaN. Their places follow.
const WITHOUT_NAN: &str = "windlass.without_nan";
/// Who wrote a file of ours.
pub(crate) const WRITER: &str = concat!("windlass ", env!("CARGO_PKG_VERSION"));

/// The columns of floating point numbers of a file that is written, as long as there is no NaN in them.
#[derive(Debug)]
pub(crate) struct WithoutNan(Vec<usize>);

impl WithoutNan {
    pub(crate) fn new(schema: &Schema) -> Self {
        let is_floating = |place: &usize| matches!(schema.field(*place).data_type(), DataType::Float32 | DataType::Float64);
        Self((0..schema.fields().len()).filter(is_floating).collect())
    }

    /// Takes rows of the file into account.
    pub(crate) fn see(&mut self, rows: &RecordBatch) {
        self.0.retain(|place| !may_hold_nan(rows.column(*place)));
    }

    /// What the footer says.
    pub(crate) fn said(&self) -> KeyValue {
        KeyValue::new(WITHOUT_NAN.to_owned(), self.0.iter().map(usize::to_string).collect::<Vec<_>>().join(" "))
    }
}

fn may_hold_nan(column: &dyn Array) -> bool {
    // All are looked at, several at a time: NaN is rare.
    match column.data_type() {
        DataType::Float32 => column.as_primitive::<Float32Type>().values().iter().fold(false, |found, value| found | value.is_nan()),
        DataType::Float64 => column.as_primitive::<Float64Type>().values().iter().fold(false, |found, value| found | value.is_nan()),
        _ => true,
    }
}

/// The leaves of a file whose bounds may leave out NaN.
pub(crate) fn leaves_with_nan(file: &FileMetaData) -> BTreeSet<usize> {
    // Other writers copy words that they do not know.
    let is_ours = file.created_by().is_some_and(|writer| writer.starts_with("windlass "));
    let said = file.key_value_metadata().into_iter().flatten().find(|said| is_ours && said.key == WITHOUT_NAN);
    let without: BTreeSet<usize> =
        said.and_then(|said| said.value.as_deref()).unwrap_or_default().split(' ').flat_map(str::parse).collect();
    let schema = file.schema_descr();
    let is_in_doubt = |leaf: &usize| {
        let column = schema.column(*leaf);
        let is_floating =
            matches!(column.physical_type(), Type::FLOAT | Type::DOUBLE) || matches!(column.logical_type_ref(), Some(LogicalType::Float16));
        is_floating && !without.contains(&schema.get_column_root_idx(*leaf))
    };
    (0..schema.num_columns()).filter(is_in_doubt).collect()
}

/// Whether NaN stands for a bound, as with writers that leave out numbers because of it.
pub(crate) fn has_nan(statistics: &Statistics) -> bool {
    match statistics {
        Statistics::Float(found) => found.min_opt().into_iter().chain(found.max_opt()).any(|bound| bound.is_nan()),
        Statistics::Double(found) => found.min_opt().into_iter().chain(found.max_opt()).any(|bound| bound.is_nan()),
        _ => false,
    }
}

/// The footer, with its page indexes, without the bounds that may leave out NaN.
pub(crate) fn without_wrong_bounds(footer: ParquetMetaData) -> Result<ParquetMetaData> {
    let leaves = leaves_with_nan(footer.file_metadata());
    if leaves.is_empty() {
        return Ok(footer);
    }
    let mut footer = footer.into_builder();
    let mut pages = footer.take_column_index();
    for group in pages.iter_mut().flatten() {
        for (_, column) in group.iter_mut().enumerate().filter(|(leaf, _)| leaves.contains(leaf)) {
            *column = ColumnIndexMetaData::NONE;
        }
    }
    let groups = footer.take_row_groups().into_iter().map(|group| {
        let mut group = group.into_builder();
        let columns = group.take_columns().into_iter().enumerate();
        let columns = columns.map(|(leaf, column)| if leaves.contains(&leaf) { without_bounds(column) } else { Ok(column) });
        group.set_column_metadata(columns.collect::<Result<_>>()?).build()
    });
    let groups = groups.collect::<Result<_>>()?;
    Ok(footer.set_row_groups(groups).set_column_index(pages).build())
}

/// A part of a column whose statistics only count, and of whose values and pages nobody looks anything up.
fn without_bounds(column: ColumnChunkMetaData) -> Result<ColumnChunkMetaData> {
    let counts = column.statistics().map(|found| {
        let (distinct, nulls) = (found.distinct_count_opt(), found.null_count_opt());
        match column.column_type() {
            Type::FLOAT => Statistics::float(None, None, distinct, nulls, false),
            Type::DOUBLE => Statistics::double(None, None, distinct, nulls, false),
            _ => Statistics::fixed_len_byte_array(None, None, distinct, nulls, false),
        }
    });
    // Bloom filters tell zeros apart, which are equal.
    let column = column.into_builder().set_bloom_filter_offset(None).set_bloom_filter_length(None);
    let column = column.set_column_index_offset(None).set_column_index_length(None);
    match counts {
        Some(counts) => column.set_statistics(counts).build(),
        None => column.build(),
    }
}

#[cfg(test)]
mod tests;
