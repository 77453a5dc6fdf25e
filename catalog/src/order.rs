//! What the order of rows within files is to scans: files whose rows come in order can be read in turn, or merged, instead of sorted.
//!
//! Only files of managed tables count: we have written them all, and the columns that a table is sorted by never change.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};

use crate::catalog::TableMeta;
use crate::scan::balanced_groups;

/// Files that a partition may read at one time, in times of the partitions that there are: each of their streams holds some rows.
const STREAMS_PER_PARTITION_MAX: usize = 4;

/// A column that rows are sorted by: its place in the table, and whether it descends. NULLs are first, or last where it descends.
type SortedBy = (usize, bool);

/// What a plan says beside a file: the order of its rows.
#[derive(Debug, Clone)]
pub struct FileOrder {
    by: Arc<[SortedBy]>,
    /// Of these columns.
    statistics: Vec<ColumnStatistics>,
}

/// The columns that all files of a table are sorted by; none if they may be not.
pub(crate) fn sorted_by(table: &TableMeta) -> Option<Arc<[SortedBy]>> {
    let layout = &table.storage.layout;
    // Others say less of what was written, such as an empty text for NULL.
    if layout.sorted_by.is_empty() || !table.kind.owns_files() || !table.storage.is_parquet() {
        return None;
    }
    layout.sorted_by.iter().map(|by| Some((table.schema.index_of(&by.name).ok()?, by.descending))).collect()
}

impl FileOrder {
    /// The order of a file with these statistics by column.
    pub(crate) fn new(by: &Arc<[SortedBy]>, statistics: &Statistics) -> Self {
        Self { by: Arc::clone(by), statistics: by.iter().map(|(column, _)| statistics.column_statistics[*column].clone()).collect() }
    }

    fn has_no_nulls(&self, place: usize) -> bool {
        self.statistics[place].null_count == Precision::Exact(0)
    }

    /// What the first column begins and ends with, or values beyond that; none if not known.
    fn span(&self) -> Option<Span> {
        let ColumnStatistics { min_value, max_value, .. } = &self.statistics[0];
        let (least, greatest) = (min_value.get_value()?.clone(), max_value.get_value()?.clone());
        // Bounds of numbers say nothing of those that are none.
        if !self.has_no_nulls(0) || least.is_null() || greatest.is_null() || least.data_type().is_floating() {
            return None;
        }
        let descending = self.by[0].1;
        let (first, last) = if descending { (greatest, least) } else { (least, greatest) };
        Some(Span { first, last, descending })
    }

    /// Statistics by which DataFusion sees that files of a group follow each other.
    fn statistics(&self, columns: usize) -> Statistics {
        let mut statistics = Statistics { column_statistics: vec![ColumnStatistics::new_unknown(); columns], ..Statistics::default() };
        for ((column, _), known) in self.by.iter().zip(&self.statistics) {
            statistics.column_statistics[*column] = known.clone();
        }
        statistics
    }
}

/// The values of a file, in its order.
#[derive(Debug)]
struct Span {
    first: ScalarValue,
    last: ScalarValue,
    descending: bool,
}

impl Span {
    fn compare(&self, a: &ScalarValue, b: &ScalarValue) -> Option<Ordering> {
        let ordering = a.partial_cmp(b)?;
        Some(if self.descending { ordering.reverse() } else { ordering })
    }

    /// Whether all rows of the other are behind all of these. Not if they share a value: further columns may have another order then.
    fn is_before(&self, other: &Self) -> bool {
        self.compare(&self.last, &other.first) == Some(Ordering::Less)
    }
}

/// The scan in groups of files whose rows come in order: about `partitions` groups, more if many files overlap. `wanted` says of each column
/// of the order that is asked for, and the last of all further ones, whether NULLs should be first. `None` if the order of a file is not
/// known, or if it would take too many groups.
pub fn in_order(scan: &FileScanConfig, wanted: &[bool], partitions: usize) -> Option<FileScanConfig> {
    if scan.limit.is_some() || scan.output_partitioning.is_some() || !scan.output_ordering.is_empty() {
        return None;
    }
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    for file in scan.file_groups.iter().flat_map(FileGroup::iter) {
        let order = file.extension::<FileOrder>()?.clone();
        // Large files are there in several ranges.
        if seen.insert(file.path().clone()) {
            let mut whole = file.clone();
            whole.range = None;
            files.push((whole, order));
        }
    }
    let by = Arc::clone(&files.first()?.1.by);
    if files.iter().any(|(_, order)| order.by != by) {
        return None;
    }
    let schema = scan.file_source.table_schema().table_schema();
    let nulls_anywhere = |place| files.iter().all(|(_, order)| order.has_no_nulls(place));
    let nulls_anywhere: Vec<bool> = (0..by.len()).map(nulls_anywhere).collect();
    let ordering = |count| {
        LexOrdering::new(by.iter().zip(&nulls_anywhere).enumerate().take(count).map(|(place, (&(column, descending), anywhere))| {
            // Where there are no NULLs, they are first and last.
            let wanted = wanted.get(place).or_else(|| wanted.last()).filter(|_| *anywhere);
            let options = SortOptions { descending, nulls_first: wanted.copied().unwrap_or(!descending) };
            PhysicalSortExpr::new(Arc::new(Column::new(schema.field(column).name(), column)), options)
        }))
    };
    // Less of an order may be known of files that follow each other.
    let less = Some(wanted.len()).filter(|less| *less < by.len());
    let orderings = [Some(by.len()), less].into_iter().flatten().filter_map(ordering).collect();

    let bytes = files.iter().map(|(file, _)| file.object_meta.size).sum::<u64>().max(1);
    let chains = chains(files, STREAMS_PER_PARTITION_MAX * partitions.max(1))?;
    let mut groups = Vec::new();
    for chain in chains {
        let share = chain.iter().map(|(file, _)| file.object_meta.size).sum::<u64>() as u128 * partitions as u128;
        let pieces = usize::try_from(share.div_ceil(u128::from(bytes))).unwrap_or(usize::MAX);
        let follow = chain.len() > 1;
        let files = chain.into_iter().map(|(mut file, order)| {
            file.statistics = follow.then(|| Arc::new(order.statistics(schema.fields().len())));
            file
        });
        groups.extend(balanced_groups(files.collect(), pieces));
    }
    Some(FileScanConfigBuilder::from(scan.clone()).with_file_groups(groups).with_output_ordering(orderings).build())
}

/// Files in rows, each before the next, in few rows; `None` if that is more than `most`.
fn chains(files: Vec<(PartitionedFile, FileOrder)>, most: usize) -> Option<Vec<Vec<(PartitionedFile, FileOrder)>>> {
    let (mut chains, mut known) = (Vec::new(), Vec::new());
    for file in files {
        match file.1.span() {
            Some(span) => known.push((span, file)),
            None => chains.push((None, vec![file])),
        }
    }
    known.sort_by(|(a, _), (b, _)| a.compare(&a.first, &b.first).unwrap_or(Ordering::Equal));
    for (span, file) in known {
        let is_before = |end: &Option<Span>| end.as_ref().is_some_and(|end| end.is_before(&span));
        match chains.iter().position(|(end, _)| is_before(end)) {
            Some(place) => {
                let (end, chain) = &mut chains[place];
                *end = Some(span);
                chain.push(file);
            }
            None if chains.len() >= most => return None,
            None => chains.push((Some(span), vec![file])),
        }
    }
    (chains.len() <= most).then(|| chains.into_iter().map(|(_, chain)| chain).collect())
}

#[cfg(test)]
mod tests;
