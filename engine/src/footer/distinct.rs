//! How many different values a column has, as far as footers tell: an estimate where nobody has counted.
//!
//! Few writers count. But most of them give each value a number, in a dictionary that the pages refer to; how large it is shows in sizes
//! that every footer has.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue};
use datafusion::parquet::basic::{Compression, Encoding, EncodingMask, PageType, Type};
use datafusion::parquet::file::metadata::ColumnChunkMetaData;
use datafusion::parquet::file::statistics::Statistics;

/// Rows for each value, from which on all parts of a column are taken to have the same values. With fewer, as where the rows of a customer
/// lie together, each part may have values of its own.
const REPEATED: f64 = 100.0;
/// Numbers between the bounds of whole numbers for each different one, from which on these are worth knowing: otherwise bounds tell more.
const SPARSE: f64 = 4.0;
/// Share of the rows of which values must be known; the rest is taken to be like them.
const KNOWN: f64 = 0.75;
/// Rows of fewer of which headers of pages are a good part of the bytes.
const ROWS_MIN: f64 = 1000.0;
/// Bytes of the header of a page, and of what compression adds to a page.
const HEADER_BYTES: f64 = 14.0;
const FRAME_BYTES: f64 = 10.0;
/// Bits of the number of a value, at most.
const BITS_MAX: i32 = 32;

/// Some of a column's rows.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Rows with a value.
    pub rows: f64,
    /// Different values, if something is known of them.
    pub distinct: Option<f64>,
    /// As [`numbers`] says.
    pub numbers: Option<f64>,
}

/// Different values of all parts together of a column of which `found` is known. Nothing where too little is known, or where, of whole
/// numbers, bounds tell more.
pub fn together(parts: impl IntoIterator<Item = Part>, found: &ColumnStatistics, data_type: &DataType) -> Precision<usize> {
    let distinct = estimated(parts, numbers(found), are_whole(data_type));
    distinct.map_or(Precision::Absent, |distinct| Precision::Inexact(distinct.round() as usize))
}

fn estimated(parts: impl IntoIterator<Item = Part>, numbers: Option<f64>, are_whole: bool) -> Option<f64> {
    let (mut rows, mut known_rows, mut known) = (0.0, 0.0, 0);
    let (mut most, mut sum, mut are_repeated, mut each) = (0.0f64, 0.0, true, Some(0.0));
    for part in parts.into_iter().filter(|part| part.rows > 0.0) {
        rows += part.rows;
        let Some(distinct) = part.distinct else { continue };
        (known_rows, known) = (known_rows + part.rows, known + 1);
        (most, sum) = (most.max(distinct), sum + distinct);
        are_repeated &= distinct * REPEATED <= part.rows;
        each = each.zip(part.numbers).map(|(each, numbers)| each + numbers);
    }
    if known == 0 || known_rows < KNOWN * rows {
        return None;
    }
    if known == 1 {
        return Some(most);
    }
    let distinct = match numbers.zip(each) {
        // As dense as in the parts: parts that lie side by side add up, those between the same bounds have the same.
        Some((all, each)) if are_repeated => (sum / each * all).clamp(most, sum),
        _ if are_repeated => most,
        // Between what is least possible and what is most.
        all => (most * sum).sqrt().min(all.map_or(f64::INFINITY, |(all, _)| all.max(most))),
    };
    let is_told = !are_whole || are_repeated && numbers.is_some_and(|numbers| distinct * SPARSE <= numbers);
    is_told.then_some(distinct)
}

/// Numbers from the least to the greatest value of a column; of days, decimals and times those by which they are kept.
pub fn numbers(column: &ColumnStatistics) -> Option<f64> {
    let (least, greatest) = (column.min_value.get_value()?, column.max_value.get_value()?);
    let is_floating = matches!(least, ScalarValue::Float16(_) | ScalarValue::Float32(_) | ScalarValue::Float64(_));
    (!is_floating).then(|| least.distance_u64(greatest)).flatten().map(|distance| distance as f64 + 1.0)
}

fn are_whole(data_type: &DataType) -> bool {
    data_type.is_integer() || *data_type == DataType::Date32
}

/// Of a column of this type in a row group.
pub(super) fn of_chunk(chunk: &ColumnChunkMetaData, said: &Statistics, data_type: &DataType) -> Part {
    let nulls = said.null_count_opt().unwrap_or_default() as f64;
    let rows = (chunk.num_values() as f64 - nulls).max(0.0);
    let bounds = match said {
        Statistics::Int32(said) => said.min_opt().zip(said.max_opt()).map(|(least, greatest)| (f64::from(*least), f64::from(*greatest))),
        Statistics::Int64(said) => said.min_opt().zip(said.max_opt()).map(|(least, greatest)| (*least as f64, *greatest as f64)),
        _ => None,
    };
    let numbers = bounds.map(|(least, greatest)| greatest - least + 1.0).filter(|numbers| *numbers >= 1.0);
    // A key must not stop being one because of an estimate.
    let is_told = |distinct: &f64| {
        let is_sparse = numbers.is_some_and(|numbers| distinct * SPARSE <= numbers);
        !are_whole(data_type) || distinct * REPEATED <= rows && is_sparse
    };
    let distinct = match said.distinct_count_opt() {
        Some(counted) => Some(counted as f64),
        None => of_dictionary(chunk, said, rows, nulls).filter(is_told),
    };
    Part { rows, distinct, numbers }
}

/// Values of which there is a dictionary.
///
/// Pages hold for each row the number of its value, in as many bits as the largest one needs. What the bytes have room for bounds the bits,
/// and these the entries, if there are no runs, which take fewer bytes. The compressed dictionary tells how many there are at least.
fn of_dictionary(chunk: &ColumnChunkMetaData, said: &Statistics, rows: f64, nulls: f64) -> Option<f64> {
    if rows < ROWS_MIN {
        return None;
    }
    let value = value_bytes(chunk, said, rows)?;
    let offset = chunk.dictionary_page_offset().filter(|offset| (1..chunk.data_page_offset()).contains(offset))?;
    let is_compressed = chunk.compression() != Compression::UNCOMPRESSED;
    let overhead = if is_compressed { HEADER_BYTES + FRAME_BYTES } else { HEADER_BYTES };
    let at_least = (((chunk.data_page_offset() - offset) as f64 - overhead) / value).clamp(1.0, rows);
    if !holds_all(chunk)? {
        // Between those and as many as rows.
        return Some((at_least * rows).sqrt());
    }
    if !is_compressed {
        return Some(at_least);
    }
    // A bit for each row says whether it has a value, if not all do.
    let levels = if nulls > 0.0 { chunk.num_values() as f64 / 8.0 } else { 0.0 };
    let bytes = chunk.uncompressed_size() as f64 - levels - 2.0 * HEADER_BYTES;
    let least = |bits: i32| if bits == 0 { 1.0 } else { 2f64.powi(bits - 1) + 1.0 };
    let of_rows = |bits: i32| rows * f64::from(bits) / 8.0;
    let bits = (0..=BITS_MAX).take_while(|bits| of_rows(*bits) + least(*bits) * value <= bytes).last().unwrap_or_default();
    let most = 2f64.powi(bits).min((bytes - of_rows(bits)) / value).max(least(bits));
    Some((least(bits) * most).sqrt().max(at_least).min(rows))
}

/// Whether the dictionary holds the values of all pages; it may have become too large. `None` if the footer does not say.
fn holds_all(chunk: &ColumnChunkMetaData) -> Option<bool> {
    let of_data = chunk.page_encoding_stats().map(|pages| {
        let pages = pages.iter().filter(|page| matches!(page.page_type, PageType::DATA_PAGE | PageType::DATA_PAGE_V2));
        EncodingMask::new_from_encodings(pages.map(|page| &page.encoding))
    });
    let data = of_data.as_ref().or_else(|| chunk.page_encoding_stats_mask())?;
    Some(data.is_only(Encoding::RLE_DICTIONARY) || data.is_only(Encoding::PLAIN_DICTIONARY))
}

/// Bytes of a value in a dictionary, on average.
fn value_bytes(chunk: &ColumnChunkMetaData, said: &Statistics, rows: f64) -> Option<f64> {
    /// Before the value itself.
    const LENGTH_BYTES: f64 = 4.0;
    Some(match chunk.column_type() {
        Type::BOOLEAN => return None,
        Type::INT32 | Type::FLOAT => 4.0,
        Type::INT64 | Type::DOUBLE => 8.0,
        Type::INT96 => 12.0,
        Type::FIXED_LEN_BYTE_ARRAY => f64::from(chunk.column_descr().type_length()).max(1.0),
        Type::BYTE_ARRAY => {
            let bounds = || Some((said.min_bytes_opt()?.len() + said.max_bytes_opt()?.len()) as f64 / 2.0);
            let bytes = chunk.unencoded_byte_array_data_bytes().map(|bytes| bytes as f64 / rows);
            LENGTH_BYTES + bytes.or_else(bounds)?
        }
    })
}

#[cfg(test)]
mod tests;
