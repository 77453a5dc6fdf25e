//! From a table's files to a plan that reads them, and what is said about it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileGroupPartitioner, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::expressions;
use datafusion::physical_expr::projection::{ProjectionExpr, ProjectionExprs};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use object_store::ObjectMeta;
use parking_lot::Mutex;
use url::{Position, Url};

use crate::analyzed::{add_analyzed, distinct_keys};
use crate::buckets::Buckets;
use windlass_engine::annotations::annotations;
use windlass_engine::bounds::may_satisfy;
use windlass_engine::evolution::scanned_type;
use windlass_engine::file_names::FileNames;
use windlass_engine::footer::distinct::{self, Part, together};
use windlass_engine::formats::can_be_cut;
use windlass_engine::pinned;

use crate::catalog::{DataFile, NewFile, Partition, ScanContents, TableMeta};
use crate::discover::object_path;
use crate::error::{Error, Result};
use crate::order::{FileOrder, sorted_by};
use crate::prune::unqualified;

/// Bytes below which a scan is not cut into one more group: reading them takes less time than starting a task.
const GROUP_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// What a scan leaves out; one line of `EXPLAIN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// `database.table`.
    pub table: String,
    /// Partitions that are read.
    pub partitions: u64,
    /// Partitions of the table.
    pub partitions_total: u64,
    /// Files that are read.
    pub files: u64,
    /// Files of the table.
    pub files_total: u64,
    /// Bytes of the files that are read.
    pub bytes: u64,
}

impl fmt::Display for ScanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, partitions, partitions_total, files, files_total, bytes } = self;
        write!(f, "{table}: {partitions} of {partitions_total} partitions, {files} of {files_total} files, {bytes} bytes")
    }
}

/// Where scans report while a plan is made. A session that has it as an extension of its `SessionConfig` gets the reports.
#[derive(Debug, Default)]
pub struct ScanReports(Mutex<Vec<ScanReport>>);

impl ScanReports {
    pub(crate) fn add(&self, report: ScanReport) {
        self.0.lock().push(report);
    }

    /// Files that the scans so far read, and that they leave out.
    pub fn files(&self) -> (u64, u64) {
        let add = |(read, pruned), report: &ScanReport| (read + report.files, pruned + report.files_total.saturating_sub(report.files));
        self.0.lock().iter().fold((0, 0), add)
    }

    /// The reports so far, in the order of planning.
    pub fn take(&self) -> Vec<ScanReport> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Refuses a plan with a leaf that the staged engine cannot cut into partitions: each of its tasks would read such a leaf as a whole.
pub fn check_leaves(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    let mut strange = None;
    plan.apply(|node| {
        if node.children().is_empty() && !is_known_leaf(node.as_ref()) {
            strange = Some(node.name().to_owned());
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(|error| Error::Internal(error.strip_backtrace()))?;
    match strange {
        Some(name) => Err(Error::Internal(format!("plan has a leaf '{name}', which executors cannot share"))),
        None => Ok(()),
    }
}

fn is_known_leaf(node: &dyn ExecutionPlan) -> bool {
    match node.downcast_ref::<DataSourceExec>() {
        Some(scan) => scan.data_source().is::<FileScanConfig>() || scan.data_source().is::<MemorySourceConfig>(),
        None => node.is::<EmptyExec>() || node.is::<PlaceholderRowExec>(),
    }
}

/// A file with what holds for each of its rows.
#[derive(Debug, Clone)]
pub(crate) struct ScanFile {
    pub(crate) file: NewFile,
    /// Of its partition.
    pub(crate) values: Vec<ScalarValue>,
    /// By column of the table, keys included.
    statistics: Statistics,
}

impl ScanFile {
    pub(crate) fn new(table: &TableMeta, file: NewFile, values: Vec<ScalarValue>) -> Self {
        let rows = file.rows.and_then(|rows| usize::try_from(rows).ok()).map_or(Precision::Absent, Precision::Exact);
        // Where nothing was recorded, its size is what is known.
        let unknown = || Statistics {
            total_byte_size: Precision::Inexact(usize::try_from(file.size).unwrap_or(usize::MAX)),
            ..Statistics::default()
        };
        let recorded = file.statistics.as_deref().cloned().unwrap_or_else(unknown);
        let mut columns = recorded.column_statistics;
        // Nothing was recorded of columns that came later.
        columns.resize_with(table.schema.fields().len(), ColumnStatistics::new_unknown);
        for (column, field) in columns.iter_mut().zip(table.schema.fields()) {
            let scanned = scanned_type(field.data_type());
            for bound in [&mut column.min_value, &mut column.max_value] {
                *bound = std::mem::take(bound).map(as_view);
                // A column may have got a wider type since.
                if bound.get_value().is_some_and(|value| value.data_type() != scanned) {
                    *bound = bound.cast_to(&scanned).unwrap_or(Precision::Absent);
                }
            }
        }
        columns.extend(values.iter().map(|value| constant_column(value, rows)));
        let statistics = Statistics { num_rows: rows, total_byte_size: recorded.total_byte_size, column_statistics: columns };
        Self { file, values, statistics }
    }
}

/// The files of some partitions.
pub(crate) fn scan_files(table: &TableMeta, partitions: &[Partition], files: Vec<DataFile>) -> Vec<ScanFile> {
    let values: HashMap<_, _> = partitions.iter().map(|partition| (partition.id, &partition.values)).collect();
    files.into_iter().map(|file| ScanFile::new(table, file.file, values[&file.partition_id].clone())).collect()
}

/// Statistics of all rows of a table, of which `contents` are all partitions: what plans assume about a scan of all.
pub fn table_statistics(table: &TableMeta, contents: ScanContents) -> Result<Statistics> {
    let files = scan_files(table, &contents.partitions, contents.files);
    let merged = merged_statistics(table, &table.full_schema(), &files);
    let mut merged = merged.map_err(|error| Error::Internal(format!("cannot merge statistics: {}", error.strip_backtrace())))?;
    if files.is_empty() {
        merged.num_rows = Precision::Exact(0);
    }
    add_analyzed(&mut merged, &contents.analyzed, 0..table.schema.fields().len());
    Ok(merged)
}

/// A value of a file's statistics in the type that scans give its column.
fn as_view(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Utf8(text) => ScalarValue::Utf8View(text),
        ScalarValue::Binary(bytes) => ScalarValue::BinaryView(bytes),
        other => other,
    }
}

/// Statistics of a column with the same value in every row. DataFusion's own for partition columns take NULL for a value.
fn constant_column(value: &ScalarValue, rows: Precision<usize>) -> ColumnStatistics {
    if value.is_null() {
        return ColumnStatistics { null_count: rows, ..ColumnStatistics::new_unknown() };
    }
    ColumnStatistics {
        null_count: Precision::Exact(0),
        min_value: Precision::Exact(value.clone()),
        max_value: Precision::Exact(value.clone()),
        distinct_count: Precision::Exact(1),
        ..ColumnStatistics::new_unknown()
    }
}

/// Drops files whose statistics show that no row satisfies all of `filters`.
pub(crate) fn prune_files(state: &dyn Session, schema: &SchemaRef, filters: &[Expr], files: Vec<ScanFile>) -> Vec<ScanFile> {
    let keeps = || {
        let filter = unqualified(conjunction(filters.iter().cloned())?).ok()?;
        let filter = state.create_physical_expr(filter, &DFSchema::try_from(Arc::clone(schema)).ok()?).ok()?;
        may_satisfy(filter, schema, &files.iter().map(|file| &file.statistics).collect::<Vec<_>>())
    };
    // A filter that statistics cannot answer keeps everything; it is evaluated on the rows.
    match keeps() {
        Some(keeps) => files.into_iter().zip(keeps).filter_map(|(file, keep)| keep.then_some(file)).collect(),
        None => files,
    }
}

/// The files that are enough for `limit` rows of any kind.
pub(crate) fn enough_files(mut files: Vec<ScanFile>, limit: usize) -> Vec<ScanFile> {
    let mut rows = 0;
    let enough = files.iter().position(|file| {
        rows += file.statistics.num_rows.get_value().copied().unwrap_or_default();
        rows >= limit
    });
    if let Some(last) = enough {
        files.truncate(last + 1);
    }
    files
}

/// The plan that reads `files`, which belong to `table` and of which `statistics` are known; `words` say how.
///
/// Shape: as many partitions as the session has target partitions, fewer if there is little to read; equal bytes in each.
/// Errors: `Unsupported` if a file lies in another object store than the table.
pub(crate) async fn read_files(
    state: &dyn Session,
    table: &TableMeta,
    schema: &SchemaRef,
    words: Option<SchemaRef>,
    (files, statistics): (&[ScanFile], Statistics),
    projection: Option<&Vec<usize>>,
    limit: Option<usize>,
) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
    let all = (0..schema.fields().len()).collect::<Vec<_>>();
    let projection = projection.unwrap_or(&all);
    if files.is_empty() {
        return Ok(Arc::new(EmptyExec::new(Arc::new(schema.project(projection)?))));
    }
    let base = Url::parse(&table.location).map_err(|error| Error::Internal(format!("location '{}': {error}", table.location)))?;
    let store = &base[..Position::BeforePath];
    let (buckets, sorted_by) = (Buckets::of(table), sorted_by(table));
    // Of the columns that are read alone: they travel with every file.
    let is_read = |column: &String| projection.iter().any(|&index| schema.field(index).name() == column);
    let names = table.delta.iter().flat_map(|version| version.file_names());
    let names: FileNames = names.filter(|(column, _)| is_read(column)).map(|(column, names)| (column.clone(), names.clone())).collect();
    let words = if table.delta.is_some() { annotations(&names, None) } else { words };
    let planned = |file: &ScanFile| -> Result<PartitionedFile> {
        let words = match &file.file.kept_rows {
            Some(rows) => annotations(&names, Some(rows)),
            None => words.clone(),
        };
        let planned = PartitionedFile { arrow_schema: words, ..partitioned_file(store, file)? };
        let planned = match buckets.as_ref().and_then(|buckets| buckets.of_file(&file.file)) {
            Some(bucket) => planned.with_extension(bucket),
            None => planned,
        };
        Ok(match &sorted_by {
            Some(by) => planned.with_extension(FileOrder::new(by, &file.statistics)),
            None => planned,
        })
    };
    let files = files.iter().map(planned).collect::<Result<Vec<_>>>()?;

    let columns = Arc::new(Schema::new(schema.fields()[..table.schema.fields().len()].to_vec()));
    let keys = schema.fields()[columns.fields().len()..].iter().map(Arc::clone).collect::<Vec<_>>();
    let columns = TableSchema::builder(columns).with_table_partition_cols(keys).build();
    let source = table.storage.plan_source(columns.clone()).unwrap_or_else(|| Arc::new(ParquetSource::new(columns)));
    let column = |index: usize| Arc::new(expressions::Column::new(schema.field(index).name(), index));
    let projection = projection.iter().map(|&index| ProjectionExpr::new(column(index), schema.field(index).name()));
    let source = source
        .try_pushdown_projection(&ProjectionExprs::new(projection))?
        .ok_or_else(|| Error::Internal("a scan of files refused a projection".to_owned()))?;

    let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(store)?, source)
        .with_file_groups(balanced_groups(files, state.config().target_partitions()))
        .with_statistics(statistics)
        .with_limit(limit)
        .build();
    if !table.storage.is_parquet() {
        return Ok(DataSourceExec::from_data_source(config));
    }
    let format = ParquetFormat::default().with_options(state.default_table_options().parquet);
    format.create_physical_plan(state, config).await
}

/// Statistics of all files together.
///
/// Files of external tables may be replaced behind our back, so that theirs are good for estimates only. Rows are never counted by them.
pub(crate) fn merged_statistics(table: &TableMeta, schema: &Schema, files: &[ScanFile]) -> datafusion::error::Result<Statistics> {
    let merged = Statistics::try_merge_iter(files.iter().map(|file| &file.statistics), schema)?;
    let mut merged = if table.kind.owns_files() { merged } else { merged.to_inexact() };
    // A least or greatest zero may have either sign.
    for (column, field) in merged.column_statistics.iter_mut().zip(schema.fields()) {
        if field.data_type().is_floating() {
            column.min_value = std::mem::take(&mut column.min_value).to_inexact();
            column.max_value = std::mem::take(&mut column.max_value).to_inexact();
        }
    }
    for (index, (column, field)) in merged.column_statistics.iter_mut().zip(table.schema.fields()).enumerate() {
        let parts = files.iter().map(|file| part_of(&file.statistics, index));
        column.distinct_count = together(parts, column, field.data_type());
    }
    // Those of the files were guessed from bounds, which text does not help with.
    for (key, column) in merged.column_statistics.iter_mut().skip(table.schema.fields().len()).enumerate() {
        column.distinct_count = Precision::Inexact(distinct_keys(files.iter().map(|file| &file.values[key])));
    }
    Ok(merged)
}

/// What is known of the different values of a column in a file.
fn part_of(file: &Statistics, column: usize) -> Part {
    let column = &file.column_statistics[column];
    let count = |count: &Precision<usize>| count.get_value().map(|count| *count as f64);
    let rows = count(&file.num_rows).unwrap_or_default() - count(&column.null_count).unwrap_or_default();
    let distinct = count(&column.distinct_count);
    Part { rows, distinct, numbers: distinct.and_then(|_| distinct::numbers(column)) }
}

/// The file as readers must find it, see [`pinned`]. Statistics stay here: the file has been pruned with them, and they would travel with
/// the plan to every task.
fn partitioned_file(store: &str, ScanFile { file, values, .. }: &ScanFile) -> Result<PartitionedFile> {
    if !file.url.strip_prefix(store).is_some_and(|path| path.starts_with('/')) {
        return Err(Error::Unsupported(format!("file {} does not lie in the object store of its table, '{store}'", file.url)));
    }
    let mark = Duration::from_nanos(u64::from(pinned::mark(&file.url, file.etag.as_deref())));
    let meta = ObjectMeta {
        location: object_path(&file.url)?,
        last_modified: DateTime::from_timestamp_millis(file.modified_ms).unwrap_or_default() + mark,
        size: file.size,
        e_tag: file.etag.clone(),
        version: None,
    };
    Ok(PartitionedFile::new_from_meta(meta).with_partition_values(values.clone()))
}

/// Cuts files, in order, into groups of equal bytes; large files are cut into ranges, if all can be.
pub(crate) fn balanced_groups(files: Vec<PartitionedFile>, target: usize) -> Vec<FileGroup> {
    let bytes = files.iter().map(|file| file.object_meta.size).sum::<u64>();
    let count = usize::try_from(bytes.div_ceil(GROUP_BYTES_MIN)).unwrap_or(usize::MAX).clamp(1, target.max(1));
    if !files.iter().all(can_be_cut) {
        return whole_files(files, count);
    }
    let whole = vec![FileGroup::new(files)];
    let groups = FileGroupPartitioner::new()
        .with_target_partitions(count)
        .with_repartition_file_min_size(0)
        .repartition_file_groups(&whole)
        .filter(|_| count > 1);
    let without_whole_ranges = |group: FileGroup| {
        let files = group.into_inner().into_iter().map(|mut file| {
            if file.range() == (0, file.object_meta.size) {
                file.range = None;
            }
            file
        });
        FileGroup::new(files.collect())
    };
    groups.map_or(whole, |groups| groups.into_iter().map(without_whole_ranges).collect())
}

/// Deals files out, large ones first, each to the group that has the fewest bytes.
fn whole_files(mut files: Vec<PartitionedFile>, count: usize) -> Vec<FileGroup> {
    files.sort_by_key(|file| Reverse(file.object_meta.size));
    let mut groups = vec![(0, Vec::new()); count.min(files.len())];
    for file in files {
        if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += file.object_meta.size;
            group.push(file);
        }
    }
    groups.into_iter().map(|(_, group)| FileGroup::new(group)).collect()
}

#[cfg(test)]
mod tests;
