//! One file while it is written.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Statistics;
use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use datafusion::parquet::basic::{Compression, GzipLevel, ZstdLevel};
use datafusion::parquet::file::metadata::{ParquetMetaData, SortingColumn};
use datafusion::parquet::file::properties::{EnabledStatistics, WriterProperties};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;

use super::{SortedBy, WriteFormat, WriteSpec};
use crate::evolution::plain_type;
use crate::footer::Footer;
use crate::formats::RowWriter;
use crate::nan::{WRITER, WithoutNan};

/// Rows of a row group: what a scan can leave out, and a task reads at least.
const ROW_GROUP_ROWS: usize = 1024 * 1024;

/// Bytes that a file holds before it is uploaded in parts, and the size of a part. Stores want 5 MiB at least.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// Parts of a file on their way at one time.
const PARTS_MAX: usize = 2;

/// Bytes of bounds in statistics and page indexes. Longer ones prune no better, and every footer holds them all.
const BOUND_BYTES: usize = 64;

/// What is alike in all files of a task.
#[derive(Debug, Clone)]
pub(super) struct FileKind {
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    properties: WriterProperties,
    spec: Arc<WriteSpec>,
}

impl FileKind {
    /// Errors: a compression that there is not; a column without a type.
    pub(super) fn new(store: Arc<dyn ObjectStore>, spec: &Arc<WriteSpec>, schema: SchemaRef) -> Result<Self> {
        let compression = match spec.format() {
            WriteFormat::Parquet => compression(&spec.compression)?,
            // Of another kind, and looked at by another writer.
            _ => Compression::UNCOMPRESSED,
        };
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_statistics_truncate_length(Some(BOUND_BYTES))
            .set_column_index_truncate_length(Some(BOUND_BYTES))
            .set_sorting_columns(sorting_columns(spec, &schema))
            .set_created_by(WRITER.to_owned())
            .build();
        Ok(Self { store, schema, properties, spec: Arc::clone(spec) })
    }
}

/// What a footer says of the order of rows. It counts the leaves of nested columns.
fn sorting_columns(spec: &WriteSpec, schema: &Schema) -> Option<Vec<SortingColumn>> {
    fn leaves(data_type: &DataType) -> usize {
        match data_type {
            DataType::Struct(fields) => fields.iter().map(|field| leaves(field.data_type())).sum(),
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::Map(item, _) => {
                leaves(item.data_type())
            }
            _ => 1,
        }
    }
    let column = |by: &SortedBy| {
        let before: usize = schema.fields().iter().take(by.column as usize).map(|field| leaves(field.data_type())).sum();
        Some(SortingColumn { column_idx: i32::try_from(before).ok()?, descending: by.descending, nulls_first: !by.descending })
    };
    spec.sorted_by.iter().map(column).collect::<Option<Vec<_>>>().filter(|columns| !columns.is_empty())
}

/// The compression that Hive's and Spark's names mean. By default zstd, level 1: it takes a fifth off what Snappy leaves, for a little more
/// of a core, and files are read more often than written.
fn compression(name: &str) -> Result<Compression> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "" | "zstd" => Compression::ZSTD(ZstdLevel::try_new(1)?),
        "snappy" => Compression::SNAPPY,
        "gzip" => Compression::GZIP(GzipLevel::default()),
        "lz4" | "lz4_raw" => Compression::LZ4_RAW,
        "none" | "uncompressed" => Compression::UNCOMPRESSED,
        _ => {
            let message = format!("'{name}' is no compression of Parquet files: use zstd, snappy, gzip, lz4 or uncompressed");
            return Err(DataFusionError::Configuration(message));
        }
    })
}

/// A file that is being written. Dropped before its end, it takes back what it has uploaded.
pub(super) struct OpenFile {
    kind: FileKind,
    path: Path,
    encoder: Encoder,
    without_nan: WithoutNan,
    /// Taken at the end.
    upload: Option<BufWriter>,
    uploaded: usize,
    rows: u64,
    changed: i64,
}

enum Encoder {
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    Other(Box<RowWriter>),
}

/// A file that is whole.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) path: Path,
    pub(super) size: u64,
    pub(super) modified_ms: i64,
    pub(super) etag: Option<String>,
    pub(super) rows: u64,
    pub(super) changed: i64,
    /// None for files without a footer.
    pub(super) statistics: Option<Statistics>,
}

impl OpenFile {
    pub(super) fn new(kind: &FileKind, path: Path) -> Result<Self> {
        let encoder = match kind.spec.format() {
            WriteFormat::Parquet => {
                // Every type of a table has a Parquet type that says it all; Arrow's own would only repeat that text was held as views.
                let options = ArrowWriterOptions::new().with_properties(kind.properties.clone()).with_skip_arrow_metadata(true);
                Encoder::Parquet(Box::new(ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&kind.schema), options)?))
            }
            _ => Encoder::Other(Box::new(RowWriter::new(&kind.spec.words, &kind.schema, &kind.spec.compression)?)),
        };
        let upload = BufWriter::with_capacity(Arc::clone(&kind.store), path.clone(), PART_BYTES).with_max_concurrency(PARTS_MAX);
        let without_nan = WithoutNan::new(&kind.schema);
        Ok(Self { kind: kind.clone(), path, encoder, without_nan, upload: Some(upload), uploaded: 0, rows: 0, changed: 0 })
    }

    /// Adds rows, with the sum of their marks.
    pub(super) async fn write(&mut self, batch: &RecordBatch, changed: i64) -> Result<()> {
        let bytes = match &mut self.encoder {
            Encoder::Parquet(writer) => {
                self.without_nan.see(batch);
                writer.write(batch)?;
                std::mem::take(writer.inner_mut())
            }
            Encoder::Other(writer) => writer.write(batch).await?,
        };
        self.rows += batch.num_rows() as u64;
        self.changed += changed;
        self.upload(bytes).await
    }

    async fn upload(&mut self, bytes: Vec<u8>) -> Result<()> {
        if let Some(upload) = self.upload.as_mut().filter(|_| !bytes.is_empty()) {
            self.uploaded += bytes.len();
            upload.put(Bytes::from(bytes)).await?;
        }
        Ok(())
    }

    /// Bytes that the file would have if it ended now, about.
    pub(super) fn size(&self) -> u64 {
        let encoded = match &self.encoder {
            Encoder::Parquet(writer) => writer.in_progress_size(),
            Encoder::Other(writer) => writer.memory(),
        };
        (self.uploaded + encoded) as u64
    }

    /// Bytes that the file holds in memory.
    pub(super) fn memory(&self) -> usize {
        let encoded = match &self.encoder {
            Encoder::Parquet(writer) => writer.memory_size(),
            Encoder::Other(writer) => writer.memory(),
        };
        encoded + self.uploaded.min(PART_BYTES * (1 + PARTS_MAX))
    }

    /// Completes the file: from now on it can be read.
    pub(super) async fn finish(mut self) -> Result<Written> {
        let (rest, footer) = match &mut self.encoder {
            Encoder::Parquet(writer) => {
                writer.append_key_value_metadata(self.without_nan.said());
                let footer = writer.finish()?;
                (std::mem::take(writer.inner_mut()), Some(footer))
            }
            Encoder::Other(writer) => (writer.finish().await?, None),
        };
        self.upload(rest).await?;
        // Taken first: an upload that fails here takes back its parts itself, and cannot be asked to again.
        if let Some(mut upload) = self.upload.take() {
            upload.shutdown().await?;
        }
        let statistics = footer.map(|footer| self.statistics(&footer)).transpose()?;
        let meta = self.kind.store.head(&self.path).await?;
        Ok(Written {
            path: self.path.clone(),
            size: meta.size,
            modified_ms: meta.last_modified.timestamp_millis(),
            etag: meta.e_tag,
            rows: self.rows,
            changed: self.changed,
            statistics,
        })
    }

    fn statistics(&self, footer: &ParquetMetaData) -> Result<Statistics> {
        let plain = |field: &Arc<Field>| Field::new(field.name(), plain_type(field.data_type()), true);
        let table = Schema::new(self.kind.schema.fields().iter().map(plain).collect::<Vec<_>>());
        let footer = Footer::of(footer).map_err(|reason| DataFusionError::Internal(format!("file '{}' {reason}", self.path)))?;
        Ok(footer.statistics(&table))
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if let (Some(mut upload), Ok(runtime)) = (self.upload.take(), Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::debug!(%error, "cannot take back an upload");
                }
            });
        }
    }
}
