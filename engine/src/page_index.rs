//! How executors open Parquet files: as the plan knows them, with footers that are kept together with their page indexes. DataFusion's reader
//! would read the page index of a file that it opened without one for every scan again, which costs more than the footer in tables of many
//! small files, and would [prune by bounds that leave out NaN](crate::nan).

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::HashMap;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadata, FileMetadataCache};
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::Result as ParquetResult;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use object_store::{ObjectMeta, ObjectStore};

use crate::nan::without_wrong_bounds;
use crate::pinned::PinnedFile;

/// Readers of the Parquet files of one scan.
#[derive(Debug)]
pub(crate) struct PinnedReaders {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) is_local: bool,
    pub(crate) footers: Arc<FileMetadataCache>,
}

impl ParquetFileReaderFactory for PinnedReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let known = file.object_meta.clone();
        let store = PinnedFile::of(Arc::clone(&self.store), known.clone(), self.is_local);
        let reader = DefaultParquetFileReaderFactory::new(store).create_reader(partition, file, metadata_size_hint, metrics)?;
        Ok(Box::new(PinnedReader { reader, file: known, footers: Arc::clone(&self.footers) }))
    }
}

struct PinnedReader {
    reader: Box<dyn AsyncFileReader + Send>,
    file: ObjectMeta,
    footers: Arc<FileMetadataCache>,
}

impl PinnedReader {
    fn kept(&self) -> Option<Arc<ParquetMetaData>> {
        let kept = self.footers.get(&self.file.location).filter(|kept| kept.is_valid_for(&self.file))?;
        kept.file_metadata.as_any().downcast_ref().map(|KeptFooter(footer)| Arc::clone(footer))
    }
}

impl AsyncFileReader for PinnedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.reader.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.reader.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(&'a mut self, options: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let options = options.cloned().unwrap_or_default().with_page_index_policy(PageIndexPolicy::Optional);
        Box::pin(async move {
            if let Some(kept) = self.kept() {
                return Ok(kept);
            }
            let footer = self.reader.get_metadata(Some(&options)).await?;
            let footer = Arc::new(without_wrong_bounds(Arc::unwrap_or_clone(footer))?);
            let kept = Arc::new(KeptFooter(Arc::clone(&footer)));
            self.footers.put(&self.file.location, CachedFileMetadataEntry::new(self.file.clone(), kept));
            Ok(footer)
        })
    }
}

/// A footer whose bounds hold, with its page indexes.
struct KeptFooter(Arc<ParquetMetaData>);

impl FileMetadata for KeptFooter {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn memory_size(&self) -> usize {
        self.0.memory_size()
    }

    fn extra_info(&self) -> HashMap<String, String> {
        HashMap::new()
    }
}
