//! Small Parquet tables with known content, written the way other systems lay them out, and the files of tables.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Builder, Int64Array, ListBuilder, MapBuilder, MapFieldNames,
    RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
};
use parquet::arrow::ArrowWriter;

/// Rows in each partition of [`events`].
pub const EVENTS_PER_PARTITION: i64 = 10;

/// Values of the key `region` as directory names: plain, NULL, and one that Hive escapes.
pub const REGIONS: [&str; 4] = ["eu", "us", "__HIVE_DEFAULT_PARTITION__", "a%2Fb c"];

/// Writes `events` under `root`: keys `dt` (four days) and `region`, 16 partitions of 10 rows, one file each.
///
/// Row `i` (from 0 over all partitions): `id` = i, `name` = n(i % 7) or NULL where i % 5 = 0, `amount` = i / 2, `price` = 1.25 i,
/// `ts` = 2024-01-01 + i minutes, `flag` = i even, `tags` = the first i % 3 of a, b.
pub fn events(root: &Path) {
    for (position, (day, region)) in (1..=4).flat_map(|day| REGIONS.map(|region| (day, region))).enumerate() {
        let first = position as i64 * EVENTS_PER_PARTITION;
        let file = root.join(format!("dt=2024-01-0{day}/region={region}/part-0.parquet"));
        write(&file, &event_rows(first..first + EVENTS_PER_PARTITION));
    }
}

fn event_rows(ids: std::ops::Range<i64>) -> RecordBatch {
    const MIDNIGHT_US: i64 = 1_704_067_200_000_000;
    let ids: Vec<i64> = ids.collect();
    let mut tags = ListBuilder::new(StringBuilder::new());
    for id in &ids {
        for tag in ["a", "b"].iter().take((id % 3) as usize) {
            tags.values().append_value(tag);
        }
        tags.append(true);
    }
    let names = ids.iter().map(|id| (id % 5 != 0).then(|| format!("n{}", id % 7)));
    let prices = Decimal128Array::from_iter_values(ids.iter().map(|id| i128::from(id * 125))).with_precision_and_scale(12, 2).unwrap();
    let columns: [(&str, ArrayRef); 7] = [
        ("id", Arc::new(Int64Array::from(ids.clone()))),
        ("name", Arc::new(names.collect::<StringArray>())),
        ("amount", Arc::new(Float64Array::from_iter_values(ids.iter().map(|id| *id as f64 / 2.0)))),
        ("price", Arc::new(prices)),
        ("ts", Arc::new(TimestampMicrosecondArray::from_iter_values(ids.iter().map(|id| MIDNIGHT_US + id * 60_000_000)))),
        ("flag", Arc::new(BooleanArray::from_iter(ids.iter().map(|id| Some(id % 2 == 0))))),
        ("tags", Arc::new(tags.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// Writes `evolving` under `root`: partition `v=1` has `id`; `v=2` also `note`; both 3 rows.
pub fn evolving(root: &Path) {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let notes: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), None, Some("z")]));
    write(&root.join("v=1/a.parquet"), &RecordBatch::try_from_iter_with_nullable([("id", Arc::clone(&ids), true)]).unwrap());
    write(&root.join("v=2/b.parquet"), &RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("note", notes, true)]).unwrap());
}

/// Writes `variants` under `root`: the same columns as two writers spell them and name the parts of their maps; `note` is a number in `k=3`.
pub fn variants(root: &Path) {
    let attributes = |[entry, key, value]: [&str; 3], number| -> ArrayRef {
        let names = MapFieldNames { entry: entry.to_owned(), key: key.to_owned(), value: value.to_owned() };
        let mut map = MapBuilder::new(Some(names), StringBuilder::new(), Int32Builder::new());
        map.keys().append_value("a");
        map.values().append_value(number);
        map.append(true).unwrap();
        Arc::new(map.finish())
    };
    let id = |id| -> ArrayRef { Arc::new(Int64Array::from(vec![id])) };
    let note = |text| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let file = |name: &str, columns: [(&str, ArrayRef); 3]| {
        write(&root.join(name), &RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap());
    };
    let spark = attributes(["key_value", "key", "value"], 10);
    file("k=1/a.parquet", [("id", id(1)), ("Note", note("one")), ("attributes", spark)]);
    file("k=2/b.parquet", [("ID", id(2)), ("note", note("two")), ("Attributes", attributes(["entries", "keys", "values"], 20))]);
    file("k=3/c.parquet", [("id", id(3)), ("note", id(3)), ("attributes", attributes(["map", "key", "value"], 30))]);
}

/// Writes `clashing` under `root`: two files whose column `x` is a string and a date.
pub fn clashing(root: &Path) {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let date: ArrayRef = Arc::new(Date32Array::from(vec![1]));
    write(&root.join("a.parquet"), &RecordBatch::try_from_iter([("x", text)]).unwrap());
    write(&root.join("b.parquet"), &RecordBatch::try_from_iter([("x", date)]).unwrap());
}

/// Writes `measures` under `root`: three files of numbers `d`, of which the first two hold a NaN each, that of the second with its sign set.
pub fn measures(root: &Path) {
    for (file, values) in [[Some(1.0), Some(f64::NAN), None], [Some(5.0), Some(-f64::NAN), Some(-0.0)], [Some(9.0), Some(0.0), Some(8.0)]]
        .into_iter()
        .enumerate()
    {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..3).map(|row| file as i64 * 3 + row)));
        let values: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
        let rows = RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("d", values, true)]);
        write(&root.join(format!("{file}.parquet")), &rows.unwrap());
    }
}

/// Writes `numbers` under `root`: `n` = 0, 1, .. over `files` files of `rows` rows each, and `k` = n % 1000.
pub fn numbers(root: &Path, files: i64, rows: i64) {
    for file in 0..files {
        let values: Vec<i64> = (file * rows..(file + 1) * rows).collect();
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(values.iter().map(|n| n % 1000)));
        let values: ArrayRef = Arc::new(Int64Array::from(values));
        write(&root.join(format!("part-{file:03}.parquet")), &RecordBatch::try_from_iter([("n", values), ("k", keys)]).unwrap());
    }
}

/// Writes one batch as a Parquet file, making its directories.
pub fn write(path: &Path, rows: &RecordBatch) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// The files below a directory as an object store sees them: one that was never completed, `name#1` on a disk, is none.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.extend((!entry.path().to_string_lossy().contains('#')).then(|| entry.path())),
        }
    }
    files
}
