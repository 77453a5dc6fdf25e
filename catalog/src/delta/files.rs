//! What a version of a log says of its files: partitions, rows that were deleted, statistics.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::thread;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, StructArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use delta_kernel::Engine;
use delta_kernel::actions::deletion_vector::{DeletionVectorDescriptor, DeletionVectorStorageType};
use delta_kernel::engine::arrow_data::ArrowEngineData;
use delta_kernel::scan::{PartitionValuesOptions, StatsOptions};
use url::{Position, Url};
use windlass_engine::annotations::KeptRows;

use super::version::{Log, Version};
use crate::catalog::{DataFile, NewFile, Partition, PartitionKey, Residual, ScanContents, TableMeta, Totals};
use crate::discover::{object_path, object_url};
use crate::error::{Error, Result};
use crate::keys::{canonical, encode, partition_name};
use crate::predicate::KeyPredicate;

/// Files of one version.
const FILES_MAX: usize = 1_000_000;
/// Deleted rows of one version: plans carry their places.
const DELETED_ROWS_MAX: u64 = 1_000_000;
/// Threads that read deletion vectors of one version.
const VECTOR_READERS: usize = 16;
/// What a file takes in memory beside its URL, its vector and its statistics, in bytes.
const FILE_BYTES: usize = 256;
/// Writers cut the digits below a millisecond off the greatest time of a file.
const CUT_OFF_MICROS: i64 = 999;

/// The files of a version.
#[derive(Debug)]
pub(super) struct Files {
    /// Ordered by their values; the id of each is its place.
    partitions: Vec<Partition>,
    /// Ordered by partition, then URL.
    files: Vec<File>,
    /// Places of each partition's files.
    places: Vec<Range<usize>>,
    /// As the kernel gives them, typed: decoded for every file of every column, they would take many times as much.
    statistics: Vec<StructArray>,
    totals: Totals,
}

#[derive(Debug)]
struct File {
    url: String,
    size: u64,
    /// When it was written, by the log.
    written_ms: i64,
    /// Without those that are deleted.
    rows: Option<u64>,
    kept: Option<KeptRows>,
    /// Which of the batches of statistics has its own, and where.
    statistics: (usize, usize),
}

impl Files {
    /// Reads the list of files. Errors: those of reading the log; `Exhausted` above [`FILES_MAX`] files or [`DELETED_ROWS_MAX`] deleted rows.
    pub(super) fn read(log: &Log, version: &Version) -> Result<Self> {
        let engine = log.engine();
        let scan = Arc::clone(version.snapshot())
            .scan_builder()
            .with_stats(StatsOptions::all_struct())
            .with_partition_values(PartitionValuesOptions::with_struct())
            .without_row_transforms()
            .build();
        let scan = scan.map_err(|error| log.unreadable(error))?;
        let mut found = Found::default();
        for batch in scan.scan_metadata(&engine).map_err(|error| log.unreadable(error))? {
            let rows = batch.and_then(|batch| ArrowEngineData::try_from_engine_data(batch.scan_files.apply_selection_vector()?));
            found.add(log, version, rows.map_err(|error| log.unreadable(error))?.record_batch())?;
            if found.files > FILES_MAX {
                return Err(Error::Exhausted(format!("{} has more than {FILES_MAX} files; OPTIMIZE makes few of many", log.name)));
            }
        }
        found.read_vectors(log, &engine)?;
        found.finish(version.keys(), &log.root)
    }

    /// Memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let statistics: usize = self.statistics.iter().map(|batch| batch.get_array_memory_size()).sum();
        let of_file = |file: &File| FILE_BYTES + file.url.len() + file.kept.as_ref().map_or(0, KeptRows::bytes);
        statistics + self.files.iter().map(of_file).sum::<usize>() + self.partitions.len() * FILE_BYTES
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Partitions that `predicate` and then `residual` keep, at most `limit`, and whether there are more.
    pub(super) fn partitions(
        &self,
        predicate: &KeyPredicate,
        residual: Option<Residual<'_>>,
        limit: usize,
    ) -> Result<(Vec<Partition>, bool)> {
        let kept: Vec<_> = self.partitions.iter().filter(|partition| predicate.evaluate(&partition.values)).cloned().collect();
        let mut kept = match residual {
            Some(residual) => residual(kept)?,
            None => kept,
        };
        let truncated = kept.len() > limit;
        kept.truncate(limit);
        Ok((kept, truncated))
    }

    pub(super) fn scan(
        &self,
        table: &TableMeta,
        version: &Version,
        predicate: &KeyPredicate,
        residual: Option<Residual<'_>>,
        limit: usize,
    ) -> Result<ScanContents> {
        let (partitions, truncated) = self.partitions(predicate, residual, limit)?;
        let wanted = partitions.iter().filter(|_| !truncated).map(|partition| partition.id);
        let files = self.data_files(table, version, wanted);
        Ok(ScanContents { files, partitions, analyzed: Vec::new(), totals: self.totals, truncated })
    }

    /// The files of the partitions with these ids.
    pub(super) fn data_files(&self, table: &TableMeta, version: &Version, ids: impl IntoIterator<Item = i64>) -> Vec<DataFile> {
        let places = |id: i64| usize::try_from(id).ok().and_then(|id| self.places.get(id)).cloned().unwrap_or_default();
        let files = ids.into_iter().flat_map(|partition_id| places(partition_id).map(move |place| (partition_id, &self.files[place])));
        let data_file = |(partition_id, file): (i64, &File)| DataFile {
            partition_id,
            file: NewFile {
                url: file.url.clone(),
                size: file.size,
                // The log has a time, but not for certain that of the object. No other file ever gets the name, or at least not with the
                // same time in the log.
                modified_ms: 0,
                etag: Some(file.written_ms.to_string()),
                rows: file.rows,
                statistics: self.statistics(table, version, file),
                kept_rows: file.kept.clone(),
            },
        };
        files.map(data_file).collect()
    }

    /// Statistics by column of the table, which is of this version; none if the log has no number of rows.
    fn statistics(&self, table: &TableMeta, version: &Version, file: &File) -> Option<Arc<Statistics>> {
        let rows = usize::try_from(file.rows?).ok()?;
        let (batch, row) = file.statistics;
        let batch = self.statistics.get(batch)?;
        let part = |name: &str| batch.column_by_name(name).and_then(|part| part.as_struct_opt());
        let (least, greatest, nulls) = (part("minValues"), part("maxValues"), part("nullCount"));
        let is_tight = batch.column_by_name("tightBounds").and_then(|tight| tight.as_boolean_opt());
        let is_tight = is_tight.is_none_or(|tight| tight.is_null(row) || tight.value(row));
        let column = |(name, data_type): (&String, &DataType)| {
            let value = |part: Option<&StructArray>| part.and_then(|part| part.column_by_name(name)).and_then(|array| scalar(array, row));
            // Text and times are cut: they are bounds, but perhaps of no row.
            let bound = |value: Option<ScalarValue>| match value.and_then(|value| value.cast_to(data_type).ok()) {
                Some(value) => Precision::Inexact(value),
                None => Precision::Absent,
            };
            let nulls = match value(nulls).and_then(|nulls| i64::try_from(nulls).ok()).and_then(|nulls| usize::try_from(nulls).ok()) {
                // Of deleted rows, too.
                Some(nulls) if nulls > 0 && (file.kept.is_some() || !is_tight) => Precision::Inexact(nulls.min(rows)),
                Some(nulls) => Precision::Exact(nulls),
                None => Precision::Absent,
            };
            ColumnStatistics {
                null_count: nulls,
                min_value: bound(value(least).map(rounded_down)),
                max_value: bound(value(greatest).and_then(rounded_up)),
                ..ColumnStatistics::new_unknown()
            }
        };
        let columns = version.names().0.iter().zip(table.schema.fields().iter().map(|field| field.data_type()));
        Some(Arc::new(Statistics {
            num_rows: Precision::Exact(rows),
            total_byte_size: Precision::Inexact(usize::try_from(file.size).unwrap_or(usize::MAX)),
            column_statistics: columns.map(column).collect(),
        }))
    }
}

/// A value that is not NULL.
fn scalar(array: &ArrayRef, row: usize) -> Option<ScalarValue> {
    if array.is_null(row) { None } else { ScalarValue::try_from_array(array, row).ok() }
}

/// How much a number may lack that was written with the digits of a `float`, before its column became a `double`.
fn lacking(number: f64) -> f64 {
    number.abs() * f64::from(f32::EPSILON) + f64::from(f32::MIN_POSITIVE)
}

fn rounded_down(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Float64(Some(number)) => ScalarValue::Float64(Some(number - lacking(number))),
        value => value,
    }
}

fn rounded_up(value: ScalarValue) -> Option<ScalarValue> {
    Some(match value {
        ScalarValue::Float64(Some(number)) => ScalarValue::Float64(Some(number + lacking(number))),
        ScalarValue::TimestampMicrosecond(Some(micros), zone) => {
            ScalarValue::TimestampMicrosecond(Some(micros.checked_add(CUT_OFF_MICROS)?), zone)
        }
        value => value,
    })
}

/// What was read so far.
#[derive(Default)]
struct Found {
    partitions: HashMap<Vec<ScalarValue>, Vec<File>>,
    files: usize,
    statistics: Vec<StructArray>,
    vectors: Vec<Vector>,
    deleted_rows: u64,
}

/// Deleted rows of a file.
struct Vector {
    values: Vec<ScalarValue>,
    /// Among the files of its partition.
    place: usize,
    /// Of the file, with those that are deleted.
    rows: u64,
    descriptor: DeletionVectorDescriptor,
}

impl Found {
    fn add(&mut self, log: &Log, version: &Version, batch: &RecordBatch) -> Result<()> {
        let malformed = |error: String| Error::Invalid(format!("the log of {} cannot be read: {error}", log.name));
        let columns = Columns::of(batch, version).map_err(|error| malformed(error.to_string()))?;
        for row in 0..batch.num_rows() {
            let mut values = Vec::with_capacity(columns.keys.len());
            for (key, array) in version.keys().iter().zip(&columns.keys) {
                let value = ScalarValue::try_from_array(array, row).map_err(|error| malformed(error.strip_backtrace()))?;
                values.push(canonical(key.key_type, value)?);
            }
            let path = columns.path.value(row);
            let rows = columns.rows(row);
            let partition = self.partitions.entry(values.clone()).or_default();
            partition.push(File {
                url: url_of(&log.root, path)?,
                size: u64::try_from(columns.size.value(row)).map_err(|_| malformed(format!("file '{path}' has a negative size")))?,
                written_ms: columns.written_ms.value(row),
                rows,
                kept: None,
                statistics: (self.statistics.len(), row),
            });
            self.files += 1;
            if let Some(descriptor) = columns.descriptor(row).map_err(malformed)? {
                let rows = rows.ok_or_else(|| malformed(format!("file '{path}' has deleted rows, but no number of all")))?;
                check_vector(log, path, &descriptor)?;
                self.deleted_rows += u64::try_from(descriptor.cardinality).unwrap_or(u64::MAX).min(DELETED_ROWS_MAX + 1);
                if self.deleted_rows > DELETED_ROWS_MAX {
                    return Err(Error::Exhausted(format!(
                        "{} has more than {DELETED_ROWS_MAX} deleted rows in its 'deletionVectors'; REORG TABLE ... APPLY (PURGE) removes them",
                        log.name
                    )));
                }
                self.vectors.push(Vector { values, place: partition.len() - 1, rows, descriptor });
            }
        }
        // Also an empty one: files know theirs by its place.
        self.statistics.push(columns.statistics.cloned().unwrap_or_else(|| StructArray::new_empty_fields(batch.num_rows(), None)));
        Ok(())
    }

    /// Finds out which rows the files have lost.
    fn read_vectors(&mut self, log: &Log, engine: &dyn Engine) -> Result<()> {
        let read = |vectors: &[Vector]| {
            let kept = |vector: &Vector| {
                let deleted = vector.descriptor.row_indexes(engine.storage_handler(), &log.root).map_err(|error| log.unreadable(error))?;
                let kept = KeptRows::without(vector.rows, &deleted);
                let kept = kept.ok_or_else(|| Error::Invalid(format!("{} has a deletion vector of rows that a file has not", log.name)))?;
                Ok::<_, Error>((kept, vector.rows - deleted.len() as u64))
            };
            vectors.iter().map(kept).collect::<Result<Vec<_>>>()
        };
        let share = self.vectors.len().div_ceil(VECTOR_READERS).max(1);
        let kept = thread::scope(|scope| {
            let readers: Vec<_> = self.vectors.chunks(share).map(|vectors| scope.spawn(move || read(vectors))).collect();
            let read = readers.into_iter().map(|reader| match reader.join() {
                Ok(read) => read,
                Err(_) => Err(Error::Internal(format!("reading the deletion vectors of {} panicked", log.name))),
            });
            read.collect::<Result<Vec<_>>>()
        })?;
        for (Vector { values, place, .. }, (kept, rows)) in self.vectors.drain(..).zip(kept.into_iter().flatten()) {
            if let Some(file) = self.partitions.get_mut(&values).and_then(|files| files.get_mut(place)) {
                (file.kept, file.rows) = (Some(kept), Some(rows));
            }
        }
        Ok(())
    }

    fn finish(self, keys: &[PartitionKey], root: &Url) -> Result<Files> {
        let encoded = |values: &[ScalarValue]| keys.iter().zip(values).map(|(key, value)| encode(key, value)).collect::<Result<Vec<_>>>();
        let mut found =
            self.partitions.into_iter().map(|(values, files)| Ok((encoded(&values)?, values, files))).collect::<Result<Vec<_>>>()?;
        found.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let (mut partitions, mut all, mut places) = (Vec::with_capacity(found.len()), Vec::with_capacity(self.files), Vec::new());
        for (id, (_, values, mut files)) in (0..).zip(found) {
            files.sort_unstable_by(|a, b| a.url.cmp(&b.url));
            partitions.push(Partition {
                id,
                name: partition_name(keys, &values),
                values,
                location: root.to_string(),
                files: files.len() as u64,
                bytes: files.iter().map(|file| file.size).sum(),
                rows: files.iter().map(|file| file.rows).sum(),
            });
            places.push(all.len()..all.len() + files.len());
            all.append(&mut files);
        }
        let totals = Totals {
            partitions: partitions.len() as u64,
            files: all.len() as u64,
            bytes: all.iter().map(|file| file.size).sum(),
            rows: all.iter().map(|file| file.rows).sum(),
        };
        Ok(Files { partitions, files: all, places, statistics: self.statistics, totals })
    }
}

/// The kernel's columns of a list of files.
struct Columns<'a> {
    path: &'a StringArray,
    size: &'a Int64Array,
    written_ms: &'a Int64Array,
    vectors: Option<&'a StructArray>,
    statistics: Option<&'a StructArray>,
    /// Typed as the table's keys.
    keys: Vec<ArrayRef>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch, version: &Version) -> std::result::Result<Self, ArrowError> {
        let missing = |name: &str| ArrowError::SchemaError(format!("the list of files has no '{name}'"));
        let column = |name: &str| batch.column_by_name(name).ok_or_else(|| missing(name));
        let record = |name: &str| batch.column_by_name(name).and_then(|column| column.as_struct_opt());
        let values = record("partitionValues_parsed");
        let key = |(key, name): (&PartitionKey, &String)| {
            let array = values.and_then(|values| values.column_by_name(name)).ok_or_else(|| missing(name))?;
            cast(array, &key.key_type.data_type())
        };
        Ok(Self {
            path: column("path")?.as_string_opt().ok_or_else(|| missing("path"))?,
            size: column("size")?.as_primitive_opt().ok_or_else(|| missing("size"))?,
            written_ms: column("modificationTime")?.as_primitive_opt().ok_or_else(|| missing("modificationTime"))?,
            vectors: record("deletionVector"),
            statistics: record("stats_parsed"),
            keys: version.keys().iter().zip(version.names().1).map(key).collect::<std::result::Result<_, _>>()?,
        })
    }

    fn rows(&self, row: usize) -> Option<u64> {
        let rows = self.statistics?.column_by_name("numRecords")?.as_primitive_opt::<Int64Type>()?;
        if rows.is_null(row) { None } else { u64::try_from(rows.value(row)).ok() }
    }

    /// Where the deleted rows of a file are told; none if it has none.
    fn descriptor(&self, row: usize) -> std::result::Result<Option<DeletionVectorDescriptor>, String> {
        let Some(vectors) = self.vectors.filter(|vectors| vectors.is_valid(row)) else { return Ok(None) };
        let field = |name: &str| vectors.column_by_name(name).filter(|array| array.is_valid(row));
        let text = |name: &str| field(name).and_then(|array| array.as_string_opt::<i32>()).map(|array| array.value(row));
        let number = |name: &str| field(name).and_then(|array| array.as_primitive_opt::<Int32Type>()).map(|array| array.value(row));
        let cardinality = field("cardinality").and_then(|array| array.as_primitive_opt::<Int64Type>()).map(|array| array.value(row));
        let (Some(kind), Some(place), Some(size), Some(cardinality)) =
            (text("storageType"), text("pathOrInlineDv"), number("sizeInBytes"), cardinality)
        else {
            return Ok(None);
        };
        let kind = kind.parse::<DeletionVectorStorageType>().map_err(|error| error.to_string())?;
        let descriptor = DeletionVectorDescriptor::try_new(kind, place, number("offset"), size, cardinality);
        descriptor.map(Some).map_err(|error| error.to_string())
    }
}

/// Refuses a vector that lies in another store: it would be looked for in this one.
fn check_vector(log: &Log, path: &str, descriptor: &DeletionVectorDescriptor) -> Result<()> {
    let is_elsewhere = descriptor.storage_type == DeletionVectorStorageType::PersistedAbsolute
        && !descriptor.path_or_inline_dv.starts_with(&log.root[..Position::BeforePath]);
    match is_elsewhere {
        true => Err(Error::Unsupported(format!(
            "{} cannot be read: file '{path}' has its deletion vector in another store, '{}'",
            log.name, descriptor.path_or_inline_dv
        ))),
        false => Ok(()),
    }
}

/// The URL of a file, spelled as the catalog spells it, from what a log calls its path: a URL, absolute or relative to the table's.
fn url_of(root: &Url, path: &str) -> Result<String> {
    let malformed = |error: url::ParseError| Error::Invalid(format!("path '{path}' of a file in the log of '{root}' is no URL: {error}"));
    let mut url = root.join(path).map_err(malformed)?;
    if let Some(rest) = ["s3a:", "s3n:"].iter().find_map(|scheme| url.as_str().strip_prefix(scheme)) {
        url = Url::parse(&format!("s3:{rest}")).map_err(malformed)?;
    }
    Ok(object_url(&url, &object_path(url.as_str())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_files_are_urls() {
        let root = Url::parse("s3://lake/my%20table/").unwrap();
        let of = |path: &str| url_of(&root, path).unwrap();
        assert_eq!(of("part-0.parquet"), "s3://lake/my%20table/part-0.parquet");
        // A directory called `k=a%2Fb c`.
        assert_eq!(of("k=a%252Fb%20c/part-0.parquet"), "s3://lake/my%20table/k=a%252Fb%20c/part-0.parquet");
        assert_eq!(of("s3a://lake/other/p.parquet"), "s3://lake/other/p.parquet");
        assert_eq!(of("s3://elsewhere/p.parquet"), "s3://elsewhere/p.parquet");
        assert_eq!(url_of(&Url::parse("file:///t/").unwrap(), "file:/u/p").unwrap(), "file:///u/p");
    }

    #[test]
    fn greatest_times_are_those_that_were_cut() {
        let time = |micros| ScalarValue::TimestampMicrosecond(Some(micros), None);
        assert_eq!(rounded_up(time(5_000)), Some(time(5_999)));
        assert_eq!(rounded_up(time(i64::MAX)), None);
        assert_eq!(rounded_up(ScalarValue::from(5)), Some(ScalarValue::from(5)));
    }
}
