//! Leaves without files, as Ballista can give them to some tasks and not to others.
//!
//! A task without a part of `UNION ALL SELECT 7` gets a scan of nothing in its place. Such a scan has metrics, the operator that stands for
//! one row or for none has not, and Ballista refuses the report of a task with more metrics than those of another.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::{Fields, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;

/// Makes rows that need no files scans, all of them.
pub fn as_scans(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let scan = |leaf: Arc<dyn ExecutionPlan>| {
        let is_row = leaf.is::<PlaceholderRowExec>();
        if !is_row && !leaf.is::<EmptyExec>() {
            return Ok(Transformed::no(leaf));
        }
        if leaf.properties().output_partitioning().partition_count() != 1 {
            return Ok(Transformed::no(leaf));
        }
        let schema = if is_row { nullable(&leaf.schema()) } else { leaf.schema() };
        let rows = if is_row { vec![placeholder(&schema)?] } else { Vec::new() };
        Ok(Transformed::yes(DataSourceExec::from_data_source(MemorySourceConfig::try_new(&[rows], schema, None)?) as _))
    };
    Ok(plan.transform_up(scan)?.data)
}

fn placeholder(schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 1)).collect();
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(1)))?)
}

/// A placeholder's values are NULL, whatever its schema says; nobody reads them.
fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Fields>()))
}
