use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::prelude::SessionContext;

use super::*;

fn file(name: &str, size: u64) -> PartitionedFile {
    PartitionedFile::new(name, size)
}

fn sizes(groups: &[FileGroup]) -> Vec<u64> {
    groups.iter().map(|group| group.iter().map(PartitionedFile::effective_size).sum()).collect()
}

#[test]
fn groups_have_equal_bytes_and_are_worth_a_task() {
    const MIB: u64 = 1024 * 1024;
    let small = balanced_groups((0..100).map(|n| file(&n.to_string(), MIB / 100)).collect(), 16);
    assert_eq!(sizes(&small).len(), 1);
    let medium = balanced_groups(vec![file("a", 20 * MIB)], 16);
    assert_eq!(sizes(&medium).len(), 3);
    let large = balanced_groups(vec![file("a", 100 * MIB), file("b", 20 * MIB), file("c", 40 * MIB)], 4);
    assert_eq!(sizes(&large), [40 * MIB; 4]);
    // Every byte is read once, and whole files are not ranges.
    let ranges = large.iter().flat_map(FileGroup::iter).map(|file| (file.path().to_string(), file.range.clone().map(|r| (r.start, r.end))));
    let mib = MIB as i64;
    let of_a = |from: i64, to: i64| ("a".to_owned(), Some((from * mib, to * mib)));
    let expected = [of_a(0, 40), of_a(40, 80), of_a(80, 100), ("b".to_owned(), None), ("c".to_owned(), None)];
    assert_eq!(ranges.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn only_leaves_that_can_be_shared_pass() {
    let session = SessionContext::new();
    let schema = Arc::new(Schema::new(vec![Field::new("x", DataType::Int32, true)]));
    let plan = |sql: &'static str| {
        let session = session.clone();
        async move { session.sql(sql).await.unwrap().create_physical_plan().await.unwrap() }
    };
    check_leaves(&plan("SELECT * FROM (VALUES (1), (2)) t(x) JOIN (SELECT 1 AS y) ON x = y").await).unwrap();
    check_leaves(&plan("SELECT 1 WHERE false").await).unwrap();
    let stream = Arc::new(StreamingTable::try_new(schema, vec![]).unwrap());
    let stream = session.read_table(stream).unwrap().create_physical_plan().await.unwrap();
    let error = check_leaves(&stream).unwrap_err().to_string();
    assert!(error.contains("'StreamingTableExec'"), "{error}");
}
