//! `OPTIMIZE`: small files of a partition become few large ones, in one commit that changes no row.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use windlass_catalog::Replaces;
use windlass_catalog::catalog::DataFile;
use windlass_catalog::provider::HiveTable;
use windlass_engine::write::{FILE_BYTES, WriteSpec};

use super::super::node::WriteNode;
use super::super::parse::Change;
use super::super::plan::{Counted, Target, WritePlan, Writes, write};
use super::super::template::Parts;
use super::{columns, read_from};
use crate::error::{Error, Result};

/// A file of at least so many bytes stays as it is: half of what new files have.
const LARGE_BYTES: u64 = FILE_BYTES / 2;

impl Writes<'_> {
    pub(in crate::write) async fn optimize(&self, change: &Change) -> Result<(LogicalPlan, WritePlan)> {
        const OPTIMIZE: &str = "OPTIMIZE";
        let touched = self.touched(change).await?;
        let spec = touched.spec(OPTIMIZE)?;
        if change.condition.is_some() && touched.partitions.is_none() && !touched.files.is_empty() {
            return Err(Error::invalid("OPTIMIZE rewrites whole partitions: its condition must be one on partition keys alone"));
        }
        let plan = |target, replaces| WritePlan { target, operation: OPTIMIZE, replaces, counted: Counted::Rows };
        let small = worth_merging(touched.files);
        if small.is_empty() {
            let spec = WriteSpec { location: spec.location, ..WriteSpec::default() };
            let nothing = WriteNode::plan(LogicalPlanBuilder::empty(false).build()?, spec)?;
            return Ok((nothing, plan(Target::Nowhere, Replaces::Nothing)));
        }
        let bytes: u64 = small.iter().map(|file| file.file.size).sum();
        // Without keys each task writes files of its own: only where all have enough for a large one are there several.
        let tasks = u64::try_from(self.context.state().config().target_partitions()).unwrap_or(u64::MAX);
        let spec = WriteSpec { marked: false, exchange: spec.exchange || bytes < FILE_BYTES.saturating_mul(tasks), ..spec };
        let urls: HashSet<&str> = small.iter().map(|file| file.file.url.as_str()).collect();
        let table = touched.table.downcast_ref::<HiveTable>().ok_or_else(|| Error::internal("a table that is optimized has no files"))?;
        let table: Arc<dyn TableProvider> = Arc::new(table.with_files(|url| urls.contains(url)));
        let rows = self.rows(Parts::default().table("t", change.from.clone()).fill(r#"SELECT * FROM ":t""#)?).await?;
        let rows = read_from(rows, &table)?;
        let values = columns(&rows, touched.meta.full_schema().fields())?;
        let files = small.into_iter().map(|file| (file.partition_id, file.file.url)).collect();
        // Rows that others add to these partitions meanwhile are not in the way: only the files themselves must still be there.
        let replaces = Replaces::Files { read_version: i64::MAX, files };
        Ok((write(rows, values, spec)?, plan(Target::Table(touched.meta), replaces)))
    }
}

/// Small files of partitions that have several.
fn worth_merging(files: Vec<DataFile>) -> Vec<DataFile> {
    let mut by_partition = BTreeMap::<i64, Vec<DataFile>>::new();
    for file in files.into_iter().filter(|file| file.file.size < LARGE_BYTES) {
        by_partition.entry(file.partition_id).or_default().push(file);
    }
    by_partition.into_values().filter(|files| files.len() > 1).flatten().collect()
}
