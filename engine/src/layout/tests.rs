use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Int8Array, Int16Array, Int32Array, Int64Array, StringArray, StringViewArray,
};
use datafusion::arrow::datatypes::{Field, UInt64Type};
use datafusion::prelude::SessionContext;

use super::hash::murmur3;
use super::*;

/// As many buckets as there are hashes that are not negative, nearly.
const ALL: u32 = i32::MAX.cast_unsigned();

fn hash(column: impl Into<ArrayRef>) -> i32 {
    bucket_numbers(&[column.into()], ALL).unwrap().value(0)
}

/// Values whose hashes Trino's tests give, after Hive's own code.
#[test]
fn hashes_are_those_of_hive() {
    let text = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
    let positive = |hash: i32| hash & i32::MAX;
    for (column, expected) in [
        (Arc::new(BooleanArray::from(vec![true])) as ArrayRef, 1),
        (Arc::new(Int8Array::from(vec![i8::MIN])), -128),
        (Arc::new(Int16Array::from(vec![300])), 2_107_031_704),
        (Arc::new(Int16Array::from(vec![i16::MAX])), -684_075_052),
        (Arc::new(Int32Array::from(vec![300_000])), -678_663_480),
        (Arc::new(Int32Array::from(vec![i32::MIN])), 1_194_881_028),
        (Arc::new(Int64Array::from(vec![300_000_000_000])), -888_935_297),
        (Arc::new(Int64Array::from(vec![i64::MIN])), 1_728_983_947),
        (Arc::new(Int64Array::from(vec![i64::MAX])), -536_577_852),
        (Arc::new(Date32Array::from(vec![0])), 1_362_653_161),
        (Arc::new(Date32Array::from(vec![16758])), 8_542_395),
        (Arc::new(Date32Array::from(vec![-6983])), -431_619_185),
        (text(""), -965_378_730),
        (text("test string"), -138_301_454),
        (text("Trino rocks"), -399_107_423),
        (text("\u{5f3a}\u{5927}\u{7684}Trino\u{5f15}\u{64ce}"), 1_784_416_344),
        (text("\u{20ffc}\u{20ffd}\u{20ffe}\u{20fff}"), -697_348_811),
        (Arc::new(Int64Array::from(vec![None])), 0),
        (Arc::new(StringViewArray::from(vec!["test string"])), -138_301_454),
        (Arc::new(BinaryArray::from(vec![b"test string".as_slice()])), -138_301_454),
    ] {
        assert_eq!(hash(Arc::clone(&column)), positive(expected) % i32::MAX, "{column:?}");
    }
    assert_eq!(murmur3(b"Trino rocks"), -399_107_423);
    // Of several columns, as in a list of Hive's: 31 times what was before.
    let pair: [ArrayRef; 2] = [Arc::new(Int32Array::from(vec![1, 10])), Arc::new(Int8Array::from(vec![5, 6]))];
    let expected = [1, 10].map(|number: i32| murmur3(&number.to_be_bytes()).wrapping_mul(31));
    let expected = [expected[0].wrapping_add(5) & i32::MAX, expected[1].wrapping_add(6) & i32::MAX];
    assert_eq!(bucket_numbers(&pair, 8).unwrap().values().to_vec(), expected.map(|hash| hash % 8));
    // What Trino's test expects of all combinations of 1, 10 with 5, 6.
    let all: [ArrayRef; 2] = [Arc::new(Int32Array::from(vec![1, 1, 10, 10])), Arc::new(Int8Array::from(vec![5, 6, 5, 6]))];
    let mut buckets = bucket_numbers(&all, 8).unwrap().values().to_vec();
    buckets.sort_unstable();
    assert_eq!(buckets, [0, 1, 5, 6]);
}

#[test]
fn names_of_files_say_their_bucket() {
    let name = file_name("q1-0-1-ab", Some(3), "parquet");
    assert_eq!(name, "000003_0_q1-0-1-ab_00003.parquet");
    assert_eq!(bucket_of_file(&format!("file:///wh/t/k=1_0_2_00007.x/{name}")), Some(3));
    assert_eq!(bucket_of_file(&file_name("q_0_1", Some(100_000), "csv.gz")), Some(100_000));
    for other in ["part-q1.parquet", "000003_0_x.parquet", "000003_0_x_00004.parquet", "x_0_y_00003.parquet", "", "+3_0_a_+3.parquet"] {
        assert_eq!(bucket_of_file(other), None, "{other}");
    }
    assert_eq!(bucket_of_file(&file_name("q1", None, "parquet")), None);
}

#[test]
fn layouts_that_files_cannot_have_are_refused() {
    let columns = Schema::new(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("d", DataType::Float64, true),
        Field::new("l", DataType::new_list(DataType::Int64, true), true),
    ]);
    let layout = |bucketed_by: &[&str], buckets, sorted_by: &[&str]| Layout {
        bucketed_by: bucketed_by.iter().map(|name| (*name).to_owned()).collect(),
        buckets,
        sorted_by: sorted_by.iter().map(|name| SortColumn { name: (*name).to_owned(), descending: false }).collect(),
    };
    assert_eq!(layout(&["a"], 4, &["d", "a"]).validate(&columns), Ok(()));
    for (layout, word) in [
        (layout(&["x"], 4, &[]), "no column"),
        (layout(&["d"], 4, &[]), "has no bucket"),
        (layout(&["a", "a"], 4, &[]), "twice"),
        (layout(&["a"], 0, &[]), "INTO"),
        (layout(&[], 4, &[]), "CLUSTERED BY"),
        (layout(&["a"], BUCKETS_MAX + 1, &[]), "too many"),
        (layout(&[], 0, &["l"]), "no order"),
        (layout(&[], 0, &["a", "a"]), "twice"),
    ] {
        assert!(layout.validate(&columns).unwrap_err().to_string().contains(word), "{layout:?}");
    }
}

/// Whatever the types and the skew, rows that follow each other on the curve are alike in both columns.
#[tokio::test]
async fn the_curve_keeps_alike_rows_together() {
    let context = SessionContext::new();
    context.register_udf(curve_position().as_ref().clone());
    context.register_udaf(curve_bounds().as_ref().clone());
    let sql =
        "WITH t AS (SELECT power(value % 100, 3) AS a, lpad(CAST(value / 100 AS VARCHAR), 3, '0') AS b FROM generate_series(0, 9999)),
                    bounds AS (SELECT curve_bounds(a) AS a, curve_bounds(b) AS b FROM t)
               SELECT curve_position(bounds.a, t.a, bounds.b, t.b) AS position, t.a, t.b FROM t CROSS JOIN bounds ORDER BY position";
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let rows = datafusion::arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    let positions = rows.column(0).as_primitive::<UInt64Type>();
    assert!(positions.values().is_sorted() && *positions.values().last().unwrap() >= 1 << 63);
    // A hundredth of the rows holds a tenth of each column's values, where a sort by one would hold all of the other.
    let distinct = |column: usize, first: usize| {
        let part = rows.column(column).slice(first, 100);
        let keys = datafusion::arrow::row::RowConverter::new(vec![datafusion::arrow::row::SortField::new(part.data_type().clone())])
            .unwrap()
            .convert_columns(&[part])
            .unwrap();
        keys.iter().map(|row| row.data().to_vec()).collect::<std::collections::HashSet<_>>().len()
    };
    let most = |column| (0..100).map(|part| distinct(column, part * 100)).max().unwrap();
    assert!(most(1) <= 40 && most(2) <= 40, "{} {}", most(1), most(2));
}
