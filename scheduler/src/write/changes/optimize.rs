//! `OPTIMIZE`: small files of a partition become few large ones, in one commit that changes no row. With `ZORDER BY` all files become ones
//! whose rows are alike in several columns, so that scans can leave files and row groups out by conditions on any of these.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use windlass_catalog::Replaces;
use windlass_catalog::catalog::{DataFile, TableMeta};
use windlass_catalog::provider::HiveTable;
use windlass_engine::layout::{CURVE_COLUMNS_MAX, bucket_of_file, curve_bounds, curve_position, has_order};
use windlass_engine::write::{FILE_BYTES, WriteSpec};

use super::super::parse::Change;
use super::super::plan::{Counted, Target, WritePlan, Writes, full_name, nothing, write};
use super::super::template::Parts;
use super::{columns, place, read_from};
use crate::error::{Error, Result};

/// A file of at least so many bytes stays as it is: half of what new files have.
const LARGE_BYTES: u64 = FILE_BYTES / 2;

impl Writes<'_> {
    pub(in crate::write) async fn optimize(&self, change: &Change, curve: &[String]) -> Result<(LogicalPlan, WritePlan)> {
        const OPTIMIZE: &str = "OPTIMIZE";
        let touched = self.touched(change).await?;
        let spec = touched.spec(OPTIMIZE)?;
        if change.condition.is_some() && touched.partitions.is_none() && !touched.files.is_empty() {
            return Err(Error::invalid("OPTIMIZE rewrites whole partitions: its condition must be one on partition keys alone"));
        }
        let curve = curve_places(&touched.meta, curve)?;
        let plan = |target, replaces| WritePlan { target, operation: OPTIMIZE, replaces, counted: Counted::Rows };
        let chosen = if curve.is_empty() { worth_merging(touched.files, spec.buckets > 0) } else { touched.files };
        if chosen.is_empty() {
            return Ok((nothing(&spec.location)?, plan(Target::Nowhere, Replaces::Nothing)));
        }
        let bytes: u64 = chosen.iter().map(|file| file.file.size).sum();
        // Without keys each task writes files of its own: only where all have enough for a large one are there several.
        let tasks = u64::try_from(self.context.state().config().target_partitions()).unwrap_or(u64::MAX);
        let exchange = spec.exchange || bytes < FILE_BYTES.saturating_mul(tasks);
        let spec = WriteSpec { marked: false, exchange, curved: !curve.is_empty(), ..spec };
        let urls: HashSet<&str> = chosen.iter().map(|file| file.file.url.as_str()).collect();
        let table = touched.table.downcast_ref::<HiveTable>().ok_or_else(|| Error::internal("a table that is optimized has no files"))?;
        let table: Arc<dyn TableProvider> = Arc::new(table.with_files(|url| urls.contains(url)));
        let rows = self.rows(Parts::default().table("t", change.from.clone()).fill(r#"SELECT * FROM ":t""#)?).await?;
        let mut rows = read_from(rows, &table)?;
        let mut values = columns(&rows, touched.meta.full_schema().fields())?;
        if !curve.is_empty() {
            let (with_bounds, position) = with_position(rows, &curve)?;
            rows = with_bounds;
            values.push(position);
        }
        let files = chosen.into_iter().map(|file| (file.partition_id, file.file.url)).collect();
        // Rows that others add to these partitions meanwhile are not in the way: only the files themselves must still be there.
        let replaces = Replaces::Files { read_version: i64::MAX, files };
        Ok((write(rows, values, spec)?, plan(Target::Table(touched.meta), replaces)))
    }
}

/// Small files of partitions that have several; of buckets, if the table has some.
fn worth_merging(files: Vec<DataFile>, in_buckets: bool) -> Vec<DataFile> {
    let mut by_place = BTreeMap::<(i64, Option<u32>), Vec<DataFile>>::new();
    for file in files.into_iter().filter(|file| file.file.size < LARGE_BYTES) {
        let bucket = if in_buckets { bucket_of_file(&file.file.url) } else { None };
        by_place.entry((file.partition_id, bucket)).or_default().push(file);
    }
    by_place.into_values().filter(|files| files.len() > 1).flatten().collect()
}

/// Positions of the columns of a curve.
fn curve_places(table: &TableMeta, names: &[String]) -> Result<Vec<usize>> {
    if !names.is_empty() && !table.storage.layout.sorted_by.is_empty() {
        return Err(Error::invalid(format!("files of table '{}' are sorted: ZORDER BY would give them another order", full_name(table))));
    }
    if names.len() > CURVE_COLUMNS_MAX {
        return Err(Error::invalid(format!("ZORDER BY takes {CURVE_COLUMNS_MAX} columns at most, not {}", names.len())));
    }
    let fields = table.full_schema().fields().to_vec();
    let column = |name: &String| {
        let place = place(table, &fields, name)?;
        if place >= table.schema.fields().len() {
            return Err(Error::invalid(format!("'{name}' is a partition key: all rows of a file have the same"))
                .with_hint("name columns of the files in ZORDER BY"));
        }
        match has_order(fields[place].data_type()) {
            true => Ok(place),
            false => Err(Error::invalid(format!("column '{name}' is {}, which has no order", fields[place].data_type()))),
        }
    };
    names.iter().map(column).collect()
}

/// The rows with what it takes to tell where each lies on the curve of some of their columns, and that. The columns are read once more, for
/// a sample of their values.
fn with_position(rows: LogicalPlan, curve: &[usize]) -> Result<(LogicalPlan, Expr)> {
    let column = |place: &usize| {
        let (relation, field) = rows.schema().qualified_field(*place);
        Expr::Column(Column::new(relation.cloned(), field.name()))
    };
    let name = |place: &usize| format!(":bounds{place}");
    let bounds = curve.iter().map(|place| curve_bounds().call(vec![column(place)]).alias(name(place)));
    let bounds = LogicalPlanBuilder::from(rows.clone()).aggregate(Vec::<Expr>::new(), bounds)?.build()?;
    let values = curve.iter().flat_map(|place| [Expr::Column(Column::new_unqualified(name(place))), column(place)]);
    let position = curve_position().call(values.collect()).alias(POSITION);
    Ok((LogicalPlanBuilder::from(bounds).cross_join(rows)?.build()?, position))
}

/// Name of the column that says where a row lies on the curve.
const POSITION: &str = ":position";
