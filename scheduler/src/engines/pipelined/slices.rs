//! How many tasks read a scan, and which part each of them reads.

use std::sync::Arc;

use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DistributedLeafExec, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse,
};
use windlass_engine::formats::can_be_cut;

use super::soundness::{file_scan, needs_one_task};
use crate::planning::buckets::is_grouped;

/// Bytes of files below which a slot more is not worth its start.
const SLOT_BYTES_MIN: u64 = 8 * 1024 * 1024;

/// How many tasks a stage may have, as far as one of its nodes says so. A task runs on the `slots` of one executor.
pub fn task_count(event: DesiredTaskCountEvent<'_>, slots: usize) -> Option<Result<DesiredTaskCountEventResponse>> {
    if needs_one_task(event.plan) {
        return Some(Ok(DesiredTaskCountEventResponse::maximum(1)));
    }
    // No rows are no rows in any number of tasks; other leaves that are not sliced would be read by each.
    if event.plan.is::<EmptyExec>() {
        return Some(Ok(DesiredTaskCountEventResponse::desired(1)));
    }
    let tasks = usize::try_from(scanned_bytes(event.plan)?.div_ceil(SLOT_BYTES_MIN * slots as u64)).unwrap_or(usize::MAX).max(1);
    let groups = file_scan(event.plan).filter(|scan| is_grouped(scan)).map(|scan| scan.file_groups.len());
    Some(Ok(DesiredTaskCountEventResponse::desired(tasks.min(groups.unwrap_or(usize::MAX)))))
}

/// Bytes of the files that a node reads itself; `None` if it is no scan of files.
pub fn scanned_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let scan = match plan.downcast_ref::<DistributedLeafExec>() {
        Some(leaf) => file_scan(leaf.original())?,
        None => file_scan(plan)?,
    };
    Some(scan.file_groups.iter().flat_map(FileGroup::iter).map(PartitionedFile::effective_size).sum())
}

/// Gives each task of a stage its part of the files.
///
/// The crate's own way to do it leaves files that are ranges already as they are, and then may have fewer of them than tasks.
pub fn slice(event: ScaleUpLeafNodeEvent<'_>) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
    let scan = file_scan(event.plan)?;
    if event.task_count == 1 {
        return Some(Ok(ScaleUpLeafNodeEventResponse::new(Arc::clone(event.plan))));
    }
    if is_grouped(scan) {
        let of_task = |task| DataSourceExec::from_data_source(groups_of_task(scan, task, event.task_count)) as Arc<dyn ExecutionPlan>;
        let leaf = DistributedLeafExec::try_new(Arc::clone(event.plan), (0..event.task_count).map(of_task));
        return Some(leaf.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))));
    }
    let partitions = event.plan.output_partitioning().partition_count();
    let files: Vec<_> = scan.file_groups.iter().flat_map(FileGroup::iter).collect();
    let slices = cut(&files, event.task_count * partitions);
    let variants = slices.chunks(partitions).map(|groups| {
        let mut scan = scan.clone();
        scan.file_groups = groups.iter().cloned().map(FileGroup::new).collect();
        DataSourceExec::from_data_source(scan) as Arc<dyn ExecutionPlan>
    });
    let leaf = DistributedLeafExec::try_new(Arc::clone(event.plan), variants);
    Some(leaf.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))))
}

/// The part of a scan of buckets that a task reads: whole groups, in turn; those of others are empty. Every scan of a stage has as many groups,
/// in the same order, so that those which belong together meet.
fn groups_of_task(scan: &FileScanConfig, task: usize, tasks: usize) -> FileScanConfig {
    let mut scan = scan.clone();
    let others = scan.file_groups.iter_mut().enumerate().filter(|(place, _)| place % tasks != task);
    others.for_each(|(_, group)| *group = FileGroup::default());
    scan
}

/// Cuts files, in order, into so many pieces of equal bytes; some are empty if there is little to read. Files that must be read whole
/// belong to the piece that they begin in.
fn cut(files: &[&PartitionedFile], pieces: usize) -> Vec<Vec<PartitionedFile>> {
    let total: u64 = files.iter().map(|file| file.effective_size()).sum();
    let share = total.div_ceil(pieces as u64);
    let mut cut = vec![Vec::new(); pieces];
    let mut passed = 0;
    for file in files {
        let (mut start, end) = file.range();
        while start < end {
            let room = share - passed % share;
            let stop = if can_be_cut(file) { end.min(start + room) } else { end };
            let mut part = (*file).clone();
            part.range = ((start, stop) != (0, file.object_meta.size)).then_some(FileRange { start: start as i64, end: stop as i64 });
            let piece = usize::try_from(passed / share).unwrap_or(usize::MAX).min(pieces - 1);
            cut[piece].push(part);
            passed += stop - start;
            start = stop;
        }
    }
    cut
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Schema;
    use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
    use datafusion::execution::object_store::ObjectStoreUrl;
    use datafusion::physical_plan::Partitioning;

    use super::*;

    type Sizes<'a> = &'a [(u64, Option<(i64, i64)>)];

    /// The pieces of files of these sizes and ranges, which are named by their position.
    fn pieces(sizes: Sizes<'_>, count: usize) -> Vec<Vec<(String, u64, u64)>> {
        let mut files = Vec::new();
        for (number, (size, range)) in sizes.iter().enumerate() {
            let mut file = PartitionedFile::new(number.to_string(), *size);
            file.range = range.map(|(start, end)| FileRange { start, end });
            files.push(file);
        }
        let described = |file: &PartitionedFile| (file.path().to_string(), file.range().0, file.range().1);
        cut(&files.iter().collect::<Vec<_>>(), count).iter().map(|piece| piece.iter().map(described).collect()).collect()
    }

    #[test]
    fn groups_of_buckets_keep_their_places() {
        let source = Arc::new(ParquetSource::new(Arc::new(Schema::empty())));
        let groups = (0..5).map(|group| FileGroup::new(vec![PartitionedFile::new(group.to_string(), 10)])).collect();
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups)
            .with_output_partitioning(Some(Partitioning::Hash(Vec::new(), 5)))
            .build();
        assert!(is_grouped(&scan));
        let names = |task| {
            let scan = groups_of_task(&scan, task, 3);
            let name = |group: &FileGroup| group.iter().map(|file| file.path().to_string()).collect::<String>();
            (is_grouped(&scan), scan.file_groups.iter().map(name).collect::<Vec<_>>().join(","))
        };
        assert_eq!((0..3).map(names).collect::<Vec<_>>(), ["0,,,3,", ",1,,,4", ",,2,,"].map(|names| (true, names.to_owned())));
    }

    #[test]
    fn every_byte_is_in_one_piece_and_pieces_are_equal() {
        let file = |name: &str, start, end| (name.to_owned(), start, end);
        assert_eq!(pieces(&[(10, None)], 2), [[file("0", 0, 5)], [file("0", 5, 10)]]);
        assert_eq!(
            pieces(&[(4, None), (10, Some((3, 9))), (2, None)], 3),
            [vec![file("0", 0, 4)], vec![file("1", 3, 7)], vec![file("1", 7, 9), file("2", 0, 2)]]
        );
        assert_eq!(pieces(&[(1, None)], 3), [vec![file("0", 0, 1)], vec![], vec![]]);
        assert_eq!(pieces(&[], 2), [vec![], vec![]]);
        for count in 1..20 {
            let all = pieces(&[(7, None), (100, Some((10, 60))), (13, None)], count);
            let sizes: Vec<u64> = all.iter().map(|piece| piece.iter().map(|(_, start, end)| end - start).sum()).collect();
            assert_eq!((all.len(), sizes.iter().sum::<u64>()), (count, 70));
            assert!(sizes.iter().all(|size| *size <= 70_u64.div_ceil(count as u64)), "{sizes:?}");
        }
    }
}
