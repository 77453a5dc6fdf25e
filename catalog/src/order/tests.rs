use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::physical_plan::ParquetSource;
use datafusion::datasource::source::DataSource;
use datafusion::execution::object_store::ObjectStoreUrl;
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1024 * 1024;

/// A file with values from `least` to `greatest` in its first column.
fn file(name: usize, mib: u64, (least, greatest): (i64, i64), nulls: usize, by: &Arc<[SortedBy]>) -> PartitionedFile {
    let column = |least, greatest, nulls| ColumnStatistics {
        null_count: Precision::Exact(nulls),
        min_value: Precision::Exact(ScalarValue::Int64(Some(least))),
        max_value: Precision::Exact(ScalarValue::Int64(Some(greatest))),
        ..ColumnStatistics::new_unknown()
    };
    let statistics = Statistics { column_statistics: vec![column(least, greatest, nulls), column(0, 9, 0)], ..Statistics::default() };
    PartitionedFile::new(format!("{name}.parquet"), mib * MIB).with_extension(FileOrder::new(by, &statistics))
}

fn scan(files: Vec<PartitionedFile>) -> FileScanConfig {
    let schema = Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)]);
    let source = Arc::new(ParquetSource::new(Arc::new(schema)));
    FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file_groups(vec![FileGroup::new(files)]).build()
}

fn names(scan: &FileScanConfig) -> Vec<Vec<String>> {
    scan.file_groups.iter().map(|group| group.iter().map(|file| file.path().to_string()).collect()).collect()
}

/// Whether DataFusion takes the rows for sorted by `a`, or by `a` and `b`.
fn satisfies(scan: &FileScanConfig, columns: usize, options: SortOptions) -> bool {
    let order =
        ["a", "b"].into_iter().zip(0..columns).map(|(name, index)| PhysicalSortExpr::new(Arc::new(Column::new(name, index)), options));
    scan.eq_properties().ordering_satisfy(order).unwrap()
}

const NULLS_FIRST: SortOptions = SortOptions { descending: false, nulls_first: true };
const NULLS_LAST: SortOptions = SortOptions { descending: false, nulls_first: false };

#[test]
fn files_that_follow_each_other_are_one_group_and_others_are_merged() {
    let by: Arc<[SortedBy]> = Arc::new([(0, false), (1, false)]);
    let files = vec![file(2, 1, (20, 29), 0, &by), file(0, 1, (0, 9), 0, &by), file(1, 1, (5, 19), 0, &by), file(3, 1, (29, 31), 0, &by)];
    let files = scan(files);
    let ordered = in_order(&files, &[true], 1).unwrap();
    // The last one begins with the value that another ends with.
    assert_eq!(names(&ordered), [["0.parquet", "2.parquet"], ["1.parquet", "3.parquet"]]);
    for options in [NULLS_FIRST, NULLS_LAST] {
        let ordered = in_order(&files, &[options.nulls_first], 1).unwrap();
        assert!(satisfies(&ordered, 1, options) && satisfies(&ordered, 2, options), "there are no NULLs");
    }
    assert!(!satisfies(&ordered, 1, SortOptions { descending: true, nulls_first: false }));
}

#[test]
fn nulls_come_first_or_last_and_not_between_files() {
    let by: Arc<[SortedBy]> = Arc::new([(0, false)]);
    let files = || vec![file(0, 1, (0, 9), 1, &by), file(1, 1, (20, 29), 0, &by)];
    for nulls_first in [true, false] {
        let ordered = in_order(&scan(files()), &[nulls_first], 1).unwrap();
        assert_eq!(names(&ordered), [["0.parquet"], ["1.parquet"]], "a file with NULLs is read alone");
        assert!(satisfies(&ordered, 1, NULLS_FIRST) && !satisfies(&ordered, 1, NULLS_LAST));
    }
    let descending: Arc<[SortedBy]> = Arc::new([(0, true)]);
    let files = vec![file(0, 1, (0, 9), 0, &descending), file(1, 1, (20, 29), 0, &descending)];
    let ordered = in_order(&scan(files), &[false], 1).unwrap();
    assert_eq!(names(&ordered), [["1.parquet", "0.parquet"]]);
    assert!(satisfies(&ordered, 1, SortOptions { descending: true, nulls_first: false }));
}

#[test]
fn large_files_are_cut_and_too_many_that_overlap_are_sorted() {
    let by: Arc<[SortedBy]> = Arc::new([(0, false)]);
    let ordered = in_order(&scan(vec![file(0, 64, (0, 9), 0, &by), file(1, 64, (20, 29), 0, &by)]), &[false], 4).unwrap();
    assert_eq!(names(&ordered), [["0.parquet"], ["0.parquet"], ["1.parquet"], ["1.parquet"]]);
    assert!(satisfies(&ordered, 1, NULLS_LAST));
    let overlapping = |count| scan((0..count).map(|name| file(name, 1, (0, 9), 0, &by)).collect());
    assert_eq!(in_order(&overlapping(4), &[false], 1).unwrap().file_groups.len(), 4);
    assert!(in_order(&overlapping(5), &[false], 1).is_none());
    assert!(in_order(&scan(vec![PartitionedFile::new("unknown", 1)]), &[false], 4).is_none());
}

proptest! {
    #[test]
    fn every_file_is_read_once_and_groups_are_in_order(spans in prop::collection::vec((-50_i64..50, 0_i64..20, 0_usize..8), 1..40)) {
        let by: Arc<[SortedBy]> = Arc::new([(0, false)]);
        let files = spans.iter().enumerate().map(|(name, (least, width, nulls))| file(name, 0, (*least, least + width), nulls / 7, &by));
        let ordered = in_order(&scan(files.collect()), &[false], 40).unwrap();
        let mut read: Vec<usize> = Vec::new();
        for group in names(&ordered) {
            let places: Vec<usize> = group.iter().map(|name| name.trim_end_matches(".parquet").parse().unwrap()).collect();
            for pair in places.windows(2) {
                let ((before, width, nulls), (after, _, more_nulls)) = (spans[pair[0]], spans[pair[1]]);
                prop_assert!(before + width < after && nulls < 7 && more_nulls < 7, "{:?} and {:?}", spans[pair[0]], spans[pair[1]]);
            }
            read.extend(places);
        }
        read.sort_unstable();
        prop_assert_eq!(read, (0..spans.len()).collect::<Vec<_>>());
    }
}
