use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float32Array, Float64Array, Int32Array, StructArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::Field;
use datafusion::common::stats::Precision;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::*;
use crate::footer::Footer;

/// `i`, `d` with NaN in the second half, `f` without, `h` of 16 bits, `s.d` in a struct: none has NaN in its bounds.
fn rows() -> RecordBatch {
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.0), None, Some(-f64::NAN), Some(2.0)]));
    let singles: ArrayRef = Arc::new(Float32Array::from(vec![Some(1.0), None, Some(-0.0), Some(2.0)]));
    let halves = cast(&singles, &DataType::Float16).unwrap();
    let parts = StructArray::from(vec![(Arc::new(Field::new("d", DataType::Float64, true)), Arc::clone(&doubles))]);
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
    let columns = [("i", numbers), ("d", doubles), ("f", singles), ("h", halves), ("s", Arc::new(parts) as _)];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// The footer of a file of these rows, two in a row group, with the words of ours.
fn footer(rows: &RecordBatch, writer: &str) -> ParquetMetaData {
    let properties = WriterProperties::builder()
        .set_created_by(writer.to_owned())
        .set_max_row_group_row_count(Some(2))
        .set_statistics_enabled(EnabledStatistics::Page)
        .build();
    let mut file = Vec::new();
    let mut written = ArrowWriter::try_new(&mut file, rows.schema(), Some(properties)).unwrap();
    let mut without_nan = WithoutNan::new(&rows.schema());
    for place in 0..rows.num_rows() {
        without_nan.see(&rows.slice(place, 1));
        written.write(&rows.slice(place, 1)).unwrap();
    }
    written.append_key_value_metadata(without_nan.said());
    written.close().unwrap();
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.try_parse(&bytes::Bytes::from(file)).unwrap();
    reader.finish().unwrap()
}

#[test]
fn bounds_that_leave_out_nan_are_dropped() {
    // Others may copy our words to files with other rows.
    for (writer, dropped) in [(WRITER, &[1, 3, 4][..]), ("parquet-cpp-arrow version 21.0.0", &[1, 2, 3, 4])] {
        let written = footer(&rows(), writer);
        let kept = without_wrong_bounds(written.clone()).unwrap();
        let groups = written.row_groups().iter().zip(kept.row_groups()).zip(kept.column_index().unwrap());
        for ((before, after), pages) in groups {
            for (leaf, (before, after)) in before.columns().iter().zip(after.columns()).enumerate() {
                let (before, after) = (before.statistics().unwrap(), after.statistics().unwrap());
                let is_dropped = dropped.contains(&leaf);
                assert_eq!(after.min_bytes_opt().is_none() && after.max_bytes_opt().is_none(), is_dropped, "{writer} {leaf}");
                assert_eq!(matches!(pages[leaf], ColumnIndexMetaData::NONE), is_dropped, "{writer} {leaf}");
                assert_eq!(after.null_count_opt(), before.null_count_opt());
            }
        }
        assert_eq!(without_wrong_bounds(kept.clone()).unwrap(), kept);
    }
}

#[test]
fn bounds_without_nan_are_exact() {
    let said = Footer::of(&footer(&rows(), WRITER)).unwrap();
    let said = said.statistics(&rows().schema());
    let is_exact = |place: usize| said.column_statistics[place].max_value.is_exact();
    assert_eq!([0, 1, 2].map(is_exact), [Some(true), Some(false), Some(true)]);
    assert_eq!(said.column_statistics[1].null_count, Precision::Exact(1));
}
