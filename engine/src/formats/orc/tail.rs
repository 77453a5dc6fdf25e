//! The end of an ORC file: what its columns are and where its stripes lie.
//!
//! The library decodes columns well, but it believes whatever a file says of itself. So its end is read and checked here, and the library
//! is told only what it needs and what holds.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType as ArrowType, Field, FieldRef, Schema, TimeUnit};
use datafusion::error::{DataFusionError, Result};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use orc_rust::compression::{Compression, Decompressor};
use orc_rust::reader::metadata::{FileMetadata, read_metadata};
use orc_rust::schema::{DataType, NamedColumn, RootDataType};
use orc_rust::{ArrowSchemaOptions, TimestampPrecision};
use prost::Message;

use super::wire::{DECIMAL, Footer, LAST_COMPRESSION, LAST_KIND, Metadata, PostScript, STRUCT, StripeInformation, Type, UNION};
use crate::pipelined::{Fate, text_of};

/// Bytes that are read from the end of a file at once: nearly every footer fits, which saves the second request.
const TAIL_BYTES_GUESS: u64 = 64 * 1024;
/// Longest footer, of a file or a stripe.
pub(super) const FOOTER_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most bytes that a block becomes when it is decompressed: its length has so many bits.
const BLOCK_BYTES_MAX: u64 = 1 << 23;
/// Nesting that a type may have.
const DEPTH_MAX: usize = 64;
/// Columns of the files in which Hive keeps changes of transactional tables.
const CHANGES: [&str; 6] = ["operation", "originalTransaction", "bucket", "rowId", "currentTransaction", "row"];

/// What a file says of itself.
pub(super) struct Tail {
    pub(super) footer: Footer,
    /// The Java library made mistakes in its first versions; others began behind them.
    pub(super) writer_version: u32,
    /// Types and compression, as the library has them.
    pub(super) library: FileMetadata,
    /// Where [`Metadata`] lies, and its bytes, if they were read with the rest.
    metadata: (Range<u64>, Option<Bytes>),
}

impl Tail {
    /// Reads the end of a file; nothing if the file is empty, as Hive leaves it of tasks without rows.
    ///
    /// Errors: `Execution` that says what is wrong with the file; those of the store.
    pub(super) async fn read(store: &dyn ObjectStore, file: &ObjectMeta) -> Result<Option<Self>> {
        if file.size == 0 {
            return Ok(None);
        }
        let mut end = store.get_range(&file.location, file.size.saturating_sub(TAIL_BYTES_GUESS)..file.size).await?;
        let last = end.len().checked_sub(1).ok_or_else(|| broken("it has no end"))?;
        let length = usize::from(end[last]);
        let begin = last.checked_sub(length).ok_or_else(|| broken("it is too short"))?;
        let postscript = PostScript::decode(end.slice(begin..last)).map_err(|_| broken("it does not end as one"))?;
        if postscript.magic() != "ORC" {
            return Err(broken("it does not end as one"));
        }
        let block = postscript.compression_block_size.unwrap_or_default();
        if !(0..=LAST_COMPRESSION).contains(&postscript.compression()) || block > BLOCK_BYTES_MAX {
            return Err(broken("it is compressed in an unknown way"));
        }
        let behind = (length + 1) as u64;
        let footer_length = postscript.footer_length();
        if footer_length > FOOTER_BYTES_MAX || footer_length + behind > file.size {
            return Err(broken("its footer is longer than it can be"));
        }
        let footer_end = file.size - behind;
        end.truncate(begin);
        let footer = match usize::try_from(footer_length).ok().and_then(|length| end.len().checked_sub(length)) {
            Some(start) => end.split_off(start),
            None => store.get_range(&file.location, footer_end - footer_length..footer_end).await?,
        };
        let row = Type { kind: Some(STRUCT), ..Type::default() };
        let compression = as_library(&postscript, vec![row])?.compression();
        let metadata_end = footer_end - footer_length;
        let metadata_length = postscript.metadata_length().min(metadata_end);
        let begin = usize::try_from(metadata_length).ok().and_then(|length| end.len().checked_sub(length));
        let metadata = (metadata_end - metadata_length..metadata_end, begin.map(|begin| Bytes::copy_from_slice(&end[begin..])));
        let footer = Footer::decode(decompressed(footer, compression)?).map_err(|_| broken("its footer cannot be decoded"))?;
        check(&footer, file.size)?;
        let library = as_library(&postscript, footer.types.clone())?;
        // Whoever is not the Java library begins to count behind its first mistakes.
        let writer_version = postscript.writer_version();
        Ok(Some(Self { writer_version, library, footer, metadata }))
    }

    /// What the file says of each stripe; nothing if it does not say it of all, or not in a way that can be understood.
    ///
    /// Errors: those of the store.
    pub(super) async fn stripes(&self, store: &dyn ObjectStore, file: &Path) -> Result<Option<Metadata>> {
        let (place, known) = &self.metadata;
        let bytes = match known {
            Some(known) => known.clone(),
            None if place.end - place.start > FOOTER_BYTES_MAX => return Ok(None),
            None => store.get_range(file, place.clone()).await?,
        };
        let metadata = decompressed(bytes, self.compression()).ok().and_then(|bytes| Metadata::decode(bytes).ok());
        Ok(metadata.filter(|metadata| metadata.stripes.len() == self.footer.stripes.len()))
    }

    pub(super) fn root(&self) -> &RootDataType {
        self.library.root_data_type()
    }

    pub(super) fn compression(&self) -> Option<Compression> {
        self.library.compression()
    }

    /// The columns as they are written. Early Hive numbers them, so that they are those of `table` by their places.
    pub(super) fn schema(&self, table: Option<&Schema>, precision: impl Fn(&DataType) -> TimestampPrecision) -> Schema {
        let columns = self.root().children();
        let is_numbered = columns.iter().enumerate().all(|(place, column)| column.name() == format!("_col{place}"));
        let name_at = |place: usize| table.filter(|_| is_numbered)?.fields().get(place).map(|field: &FieldRef| field.name().as_str());
        let field = |(place, column): (usize, &NamedColumn)| {
            let options = ArrowSchemaOptions::new().with_timestamp_precision(precision(column.data_type()));
            let data_type = match column.data_type() {
                DataType::Long { column_index } if self.is_time(*column_index) => ArrowType::Timestamp(TimeUnit::Microsecond, None),
                stored => stored.to_arrow_data_type_with_options(options),
            };
            Field::new(name_at(place).unwrap_or_else(|| column.name()), data_type, true)
        };
        Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>())
    }

    /// Whether numbers are times: Spark keeps those without a zone so.
    fn is_time(&self, index: usize) -> bool {
        let mut attributes = self.footer.types.get(index).into_iter().flat_map(|kind| &kind.attributes);
        attributes.any(|said| (said.key(), said.value()) == ("spark.sql.catalyst.type", "timestamp_ntz"))
    }

    /// Nanoseconds where the column's times are known to be years that these can count, or else microseconds.
    pub(super) fn precision(&self, column: &DataType) -> TimestampPrecision {
        const MILLIS_MAX: i64 = i64::MAX / 1_000_000 - 1000 * 3600 * 24;
        let is_countable = |index: usize| {
            let found = self.footer.statistics.get(index)?;
            let times = match found.number_of_values {
                Some(0) => return Some(true),
                _ => found.timestamps.as_ref()?,
            };
            Some(times.minimum_utc? > -MILLIS_MAX && times.maximum_utc? < MILLIS_MAX)
        };
        let times = timestamps(column);
        match times.into_iter().all(|index| is_countable(index).unwrap_or(false)) {
            true => TimestampPrecision::Nanosecond,
            false => TimestampPrecision::Microsecond,
        }
    }
}

/// The timestamps in a type.
fn timestamps(data_type: &DataType) -> Vec<usize> {
    match data_type {
        DataType::Timestamp { column_index } | DataType::TimestampWithLocalTimezone { column_index } => vec![*column_index],
        DataType::Struct { children, .. } => children.iter().flat_map(|child| timestamps(child.data_type())).collect(),
        DataType::List { child, .. } => timestamps(child),
        DataType::Map { key, value, .. } => [timestamps(key), timestamps(value)].concat(),
        DataType::Union { variants, .. } => variants.iter().flat_map(timestamps).collect(),
        _ => Vec::new(),
    }
}

/// The error of a file that is no whole ORC file.
pub(super) fn broken(reason: &str) -> DataFusionError {
    DataFusionError::Execution(format!("not a whole ORC file: {reason}"))
}

/// Runs code of the library, which panics where a file says what it does not expect.
pub(super) fn caught<T>(decode: impl FnOnce() -> orc_rust::error::Result<T>) -> Result<T> {
    // A fate of its own: the panic is no sign that the query is lost.
    match catch_unwind(AssertUnwindSafe(|| Fate::default().enter(decode))) {
        Ok(decoded) => decoded.map_err(|error| DataFusionError::Execution(error.to_string())),
        Err(panic) => Err(broken(&text_of(panic.as_ref()))),
    }
}

pub(super) fn decompressed(bytes: Bytes, compression: Option<Compression>) -> Result<Bytes> {
    caught(|| {
        let mut plain = Vec::new();
        let read = Decompressor::new(bytes, compression, Vec::new()).read_to_end(&mut plain);
        Ok(read.map(|_| plain))
    })?
    .map(Bytes::from)
    .map_err(|error| broken(&error.to_string()))
}

/// Bytes as they lie in a file: blocks that are not compressed, if it has blocks.
pub(super) fn in_blocks(bytes: &[u8], compression: Option<i32>) -> Bytes {
    const BLOCK_BYTES: usize = 1 << 20;
    if compression.unwrap_or_default() == 0 {
        return Bytes::copy_from_slice(bytes);
    }
    let blocks = bytes.chunks(BLOCK_BYTES).flat_map(|block| {
        let length = u32::try_from(block.len()).expect("a block is short");
        let header = ((length << 1) | 1).to_le_bytes();
        [&header[..3], block].concat()
    });
    blocks.collect()
}

/// A file of these types, compressed like the file at hand. The library takes such knowledge from the end of a file only, so that this makes
/// one, which says nothing else.
fn as_library(postscript: &PostScript, types: Vec<Type>) -> Result<FileMetadata> {
    let footer = in_blocks(&Footer { types, ..Footer::default() }.encode_to_vec(), postscript.compression);
    let postscript =
        PostScript { footer_length: Some(footer.len() as u64), metadata_length: Some(0), ..postscript.clone() }.encode_to_vec();
    let length = u8::try_from(postscript.len()).map_err(|_| broken("its postscript is too long"))?;
    let mut end = Bytes::from([&footer[..], &postscript, &[length]].concat());
    caught(|| read_metadata(&mut end))
}

/// Errors: what would lead the library astray.
fn check(footer: &Footer, size: u64) -> Result<()> {
    if footer.encryption.is_some() {
        return Err(DataFusionError::Execution("it has encrypted columns, which cannot be read".to_owned()));
    }
    check_types(&footer.types)?;
    let unsupported = footer.types.iter().find_map(|found| match found.kind() {
        UNION => Some("a column is a union, which no type of SQL holds"),
        DECIMAL if !(1..=38).contains(&found.precision()) || found.scale() > found.precision() => {
            Some("a column is a decimal of no precision")
        }
        _ => None,
    });
    if let Some(unsupported) = unsupported {
        return Err(DataFusionError::Execution(unsupported.to_owned()));
    }
    if footer.types[0].field_names == CHANGES {
        let message = "it holds changes of a transactional table, which only Hive can read; compact it into a table that is none";
        return Err(DataFusionError::Execution(message.to_owned()));
    }
    let end = |stripe: &StripeInformation| {
        let parts = [stripe.offset(), stripe.index_length(), stripe.data_length(), stripe.footer_length()];
        parts.into_iter().try_fold(0, u64::checked_add)
    };
    if footer.stripes.iter().any(|stripe| end(stripe).is_none_or(|end| end > size)) {
        return Err(broken("one of its stripes lies behind its end"));
    }
    let rows = footer.stripes.iter().try_fold(0, |rows: u64, stripe| rows.checked_add(stripe.number_of_rows()));
    match rows == Some(footer.number_of_rows()) {
        true => Ok(()),
        false => Err(broken("its stripes have not as many rows as its footer says")),
    }
}

/// Types are a tree: each but the first belongs to one before it.
fn check_types(types: &[Type]) -> Result<()> {
    if types.first().map(Type::kind) != Some(STRUCT) {
        return Err(broken("its rows are no structs"));
    }
    let mut depths = HashMap::from([(0, 0)]);
    for (place, whole) in types.iter().enumerate() {
        if !(0..=LAST_KIND).contains(&whole.kind()) {
            return Err(broken("it has a type that is not known"));
        }
        let depth = *depths.get(&place).ok_or_else(|| broken("one of its types belongs to no column"))?;
        for part in &whole.subtypes {
            let part = *part as usize;
            if part <= place || part >= types.len() || depth == DEPTH_MAX || depths.insert(part, depth + 1).is_some() {
                return Err(broken("its types are no tree, or too deep"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_are_no_tree_are_refused() {
        let part_of = |parts: &[&[u32]]| {
            let whole = |parts: &&[u32]| Type { kind: Some(STRUCT), subtypes: parts.to_vec(), ..Type::default() };
            check_types(&parts.iter().map(whole).collect::<Vec<_>>())
        };
        assert!(part_of(&[&[1, 3], &[2], &[], &[]]).is_ok());
        let loops: &[&[u32]] = &[&[1], &[1]];
        for bad in [loops, &[&[0]], &[&[2], &[], &[]], &[&[1, 2], &[2], &[]], &[&[9]], &[]] {
            assert!(part_of(bad).is_err(), "{bad:?}");
        }
        let deep: Vec<_> = (1..1000).map(|next| vec![next]).chain([vec![]]).collect();
        assert!(part_of(&deep.iter().map(Vec::as_slice).collect::<Vec<_>>()).is_err());
    }
}
