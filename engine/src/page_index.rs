//! Page indexes that are read once. DataFusion's Parquet reader keeps footers in the process's cache, but reads the page index of a file
//! that it opened without one for every scan again, which costs more than the footer in tables of many small files.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetSource;
use datafusion::datasource::physical_plan::{FileSource, ParquetFileReaderFactory};
use datafusion::error::Result;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::Result as ParquetResult;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;

/// The source, if it is Parquet through a cache, made to read page indexes together with footers.
pub fn with_page_indexes(source: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
    let parquet = source.downcast_ref::<ParquetSource>().and_then(|parquet| Some((parquet, parquet.parquet_file_reader_factory()?)));
    match parquet {
        Some((parquet, readers)) => {
            Arc::new(parquet.clone().with_parquet_file_reader_factory(Arc::new(IndexedReaders(Arc::clone(readers)))))
        }
        None => source,
    }
}

#[derive(Debug)]
struct IndexedReaders(Arc<dyn ParquetFileReaderFactory>);

impl ParquetFileReaderFactory for IndexedReaders {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        Ok(Box::new(IndexedReader(self.0.create_reader(partition, file, metadata_size_hint, metrics)?)))
    }
}

struct IndexedReader(Box<dyn AsyncFileReader + Send>);

impl AsyncFileReader for IndexedReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.0.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        self.0.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(&'a mut self, options: Option<&'a ArrowReaderOptions>) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let options = options.cloned().unwrap_or_default().with_page_index_policy(PageIndexPolicy::Optional);
        Box::pin(async move { self.0.get_metadata(Some(&options)).await })
    }
}
