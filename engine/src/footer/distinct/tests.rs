use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Schema;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::ZstdLevel;
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use datafusion::parquet::file::properties::WriterProperties;

use super::*;
use crate::footer::Footer;

const ROWS: i64 = 40_000;

/// The footer of a file with this column: as it is read, and as its writer knows it.
fn footers(column: &ArrayRef, compression: Compression, groups: usize) -> [ParquetMetaData; 2] {
    let rows = RecordBatch::try_from_iter_with_nullable([("c", Arc::clone(column), true)]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(rows.num_rows().div_ceil(groups)))
        .build();
    let mut file = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut file, rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    let written = writer.close().unwrap();
    [ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(file)).unwrap(), written]
}

fn distinct(footer: &ParquetMetaData) -> Option<usize> {
    let footer = Footer::of(footer).unwrap();
    let table: Schema = footer.schema().clone();
    match footer.statistics(&table).column_statistics[0].distinct_count {
        Precision::Exact(_) => panic!("nobody has counted"),
        Precision::Inexact(distinct) => Some(distinct),
        Precision::Absent => None,
    }
}

/// As if by chance.
fn mixed(row: i64) -> i64 {
    (row.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) as u64 >> 20) as i64
}

fn texts(value: impl Fn(i64) -> String) -> ArrayRef {
    Arc::new(StringArray::from_iter_values((0..ROWS).map(value)))
}

#[test]
fn dictionaries_tell_how_many_values_there_are() {
    let letter = |row: i64| ["F", "O", "P"][(mixed(row) % 3) as usize].to_owned();
    let nulls: ArrayRef = Arc::new(StringArray::from_iter((0..ROWS).map(|row| (mixed(row) % 2 == 0).then(|| letter(row / 2)))));
    let decimals = Decimal128Array::from_iter_values((0..ROWS).map(|row| i128::from(mixed(row) % 50) * 100));
    let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(12, 2).unwrap());
    let columns = [
        (texts(letter), 3.0),
        (nulls, 3.0),
        (texts(|row| format!("Clerk#{:09}", mixed(row) % 1000)), 1000.0),
        (texts(|row| format!("word {}", mixed(row) % 150)), 150.0),
        (texts(|_| "always".to_owned()), 1.0),
        (decimals, 50.0),
        (Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| mixed(row) % 100 * 1_000_003))) as ArrayRef, 100.0),
    ];
    for (column, expected) in &columns {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
            for groups in [1, 2] {
                let [read, written] = footers(column, compression, groups);
                assert_eq!(distinct(&read), distinct(&written));
                let found = distinct(&read).unwrap() as f64;
                let off = (found.max(1.0) / expected).ln().abs();
                assert!(off <= 3f64.ln(), "{found}, not {expected}: {compression} {groups} {}", column.data_type());
            }
        }
    }
}

#[test]
fn of_values_in_runs_there_are_as_many_as_the_dictionary_shows() {
    let places = texts(|row| format!("place {}", row / 100));
    for (compression, least) in [(Compression::UNCOMPRESSED, 390), (Compression::ZSTD(ZstdLevel::default()), 15)] {
        let [read, _] = footers(&places, compression, 1);
        let found = distinct(&read).unwrap();
        assert!((least..=440).contains(&found), "{found} of {compression}");
    }
}

#[test]
fn there_are_more_values_than_a_dictionary_that_became_too_large_holds() {
    let [read, written] = footers(&texts(|row| format!("{row:060}")), Compression::SNAPPY, 1);
    let found = distinct(&read).unwrap();
    assert!((5000..=40_000).contains(&found) && distinct(&written) == Some(found), "{found}");
}

#[test]
fn bounds_of_whole_numbers_tell_more_than_dictionaries() {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
    let referring: ArrayRef = Arc::new(Int64Array::from_iter_values((0..ROWS).map(|row| row / 4)));
    let days: ArrayRef = Arc::new(Date32Array::from_iter_values((0..ROWS).map(|row| (mixed(row) % 365) as i32)));
    // Too few to tell them from headers.
    let few: ArrayRef = Arc::new(StringArray::from(vec!["a"; 100]));
    for column in [keys, referring, days, few] {
        for groups in [1, 2] {
            let [read, _] = footers(&column, Compression::SNAPPY, groups);
            assert_eq!(distinct(&read), None, "{}", column.data_type());
        }
    }
}

#[test]
fn parts_are_counted_together() {
    let part = |rows, distinct, numbers| Part { rows, distinct, numbers };
    let text = |distinct: &[f64]| estimated(distinct.iter().map(|distinct| part(1000.0, Some(*distinct), None)), None, false);
    assert_eq!(text(&[]), None);
    // Of one part what is known of it.
    assert_eq!(text(&[900.0]), Some(900.0));
    // The same few values in all.
    assert_eq!(text(&[3.0, 4.0, 3.0]), Some(4.0));
    // They may be the same, or not.
    assert_eq!(text(&[400.0; 4]), Some(800.0));
    let days = |length: f64| estimated(vec![part(1e6, Some(31.0), Some(300.0)); 12], Some(length), true);
    // Side by side, between the same bounds, and so many that bounds tell more.
    assert_eq!((days(3600.0), days(300.0)), (Some(372.0), Some(31.0)));
    assert_eq!(estimated(vec![part(1e6, Some(31.0), Some(31.0)); 12], Some(365.0), true), None);
    // Rows of a customer that lie together.
    assert_eq!(estimated(vec![part(1000.0, Some(100.0), Some(1e6)); 12], Some(1e6), true), None);
    // Of decimals there are no more than fit between the bounds.
    assert_eq!(estimated(vec![part(1000.0, Some(500.0), Some(900.0)); 12], Some(1000.0), false), Some(1000.0));
    // A quarter of the rows may be unknown.
    let unknown = |rows| estimated([part(1000.0, Some(5.0), None), part(1000.0, Some(5.0), None), part(rows, None, None)], None, false);
    assert_eq!((unknown(600.0), unknown(700.0)), (Some(5.0), None));
}
