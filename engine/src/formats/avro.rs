//! Avro files made columns, by DataFusion's source, whose columns have the names that the files have.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{AvroSource, FileOpenFuture, FileScanConfigBuilder, FileSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStore;

use super::json::as_in_files;

/// Opens a file for the columns of `all` at `places`.
pub(super) fn open(
    store: Arc<dyn ObjectStore>,
    file: PartitionedFile,
    all: &SchemaRef,
    places: &[usize],
    fields: &HashMap<String, String>,
    batch_size: usize,
) -> Result<FileOpenFuture> {
    // Without any column, the source would read no rows either.
    let read = if places.is_empty() { &[0][..] } else { places };
    let in_file = TableSchema::from(as_in_files(&all.project(read)?, fields));
    let source = AvroSource::new(in_file).with_batch_size(batch_size);
    // The source asks it nothing.
    let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::clone(&source)).build();
    let opening = source.create_file_opener(store, &scan, 0)?.open(file)?;
    let wanted = Arc::new(all.project(places)?);
    let renamed = move |batch: Result<RecordBatch>| {
        let batch = batch?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns()[..wanted.fields().len()].to_vec();
        Ok(RecordBatch::try_new_with_options(Arc::clone(&wanted), columns, &options)?)
    };
    Ok(async move { Ok(opening.await?.map(renamed).boxed()) }.boxed())
}
