use std::fs;
use std::path::{Path as FilePath, PathBuf};
use std::sync::LazyLock;

use datafusion::arrow::array::{
    ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array, StringArray, StringViewArray,
};
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::stats::Precision;
use object_store::local::LocalFileSystem;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::*;

/// A directory of Parquet files.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn location(&self) -> String {
        Url::from_directory_path(self.0.path()).unwrap().into()
    }

    pub(crate) fn write(&self, name: &str, columns: Vec<(&str, ArrayRef)>) {
        self.write_with(name, columns, WriterProperties::builder().build());
    }

    pub(crate) fn write_with(&self, name: &str, columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, values)| (name, values, true))).unwrap();
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        let mut writer = ArrowWriter::try_new(fs::File::create(self.path(name)).unwrap(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    async fn infer(&self) -> Result<Discovery> {
        self.find(Layout::Inferred, None).await
    }

    pub(crate) async fn find(&self, layout: Layout<'_>, schema: Option<&SchemaRef>) -> Result<Discovery> {
        let location = &self.location();
        discover(parquet(location, layout, schema, &[]), Arc::new(LocalFileSystem::new())).await
    }
}

/// A question about Parquet files.
fn parquet<'a>(location: &'a str, layout: Layout<'a>, schema: Option<&'a SchemaRef>, known: &'a [DataFile]) -> Discover<'a> {
    static PARQUET: LazyLock<Storage> = LazyLock::new(Storage::default);
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    Discover { location, layout, schema, grows: false, partitions: &[], known, storage: &PARQUET, properties: &NONE }
}

pub(crate) fn ints(values: impl IntoIterator<Item = i32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(values))
}

pub(crate) fn longs(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn file_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

fn assert_blames(error: &Error, file: &str, words: &[&str]) {
    let text = error.to_string();
    assert!(matches!(error, Error::File { url, .. } if file_name(url) == file), "{error:?}");
    assert!(words.iter().all(|word| text.contains(word)), "{text} says {words:?}");
}

#[tokio::test]
async fn directories_make_partitions() {
    let files = Files::new();
    for name in ["n=01/dt=2024-01-01/a.parquet", "n=01/dt=2024-01-01/b.parquet", "n=-7/dt=2024-01-02/a.parquet"] {
        files.write(name, vec![("x", ints([1, 2]))]);
    }
    files.write(&format!("n=3/dt={NULL_PARTITION}/a.parquet"), vec![("x", ints([3])), ("DT", ints([3]))]);
    for hidden in ["_SUCCESS", "n=01/.tmp/a.parquet", "n=01/_temporary/dt=1/a.parquet", "n=01/dt=2024-01-01/.a.parquet.crc"] {
        fs::create_dir_all(files.path(hidden).parent().unwrap()).unwrap();
        fs::write(files.path(hidden), "no Parquet").unwrap();
    }
    let found = files.infer().await.unwrap();
    assert_eq!(
        found.keys.iter().map(|key| (key.name.as_str(), key.key_type)).collect::<Vec<_>>(),
        [("n", KeyType::Int), ("dt", KeyType::Date)]
    );
    assert_eq!(found.schema.fields().len(), 1, "a column named like a key is left out");
    let summary =
        found.partitions.iter().map(|partition| (partition.values[0].clone(), partition.values[1].clone(), partition.files.len()));
    let date = |day| ScalarValue::Date32(Some(day));
    let expected = [(ScalarValue::from(-7), date(19_724), 1), (1.into(), date(19_723), 2), (3.into(), ScalarValue::Date32(None), 1)];
    assert_eq!(summary.collect::<Vec<_>>(), expected);
    assert_eq!(found.partitions[1].location, format!("{}n=01/dt=2024-01-01/", files.location()));
    assert_eq!(found.partitions[1].files[0].rows, Some(2));
}

#[tokio::test]
async fn types_of_keys_are_inferred_from_all_values() {
    let infer = |values: &[&str]| infer_type(values.to_vec());
    assert_eq!(infer(&["1", "-2147483648"]), KeyType::Int);
    assert_eq!(infer(&["1", "2147483648"]), KeyType::BigInt);
    assert_eq!(infer(&["1", "9223372036854775808"]), KeyType::String);
    assert_eq!(infer(&["2024-02-29", "1970-01-01"]), KeyType::Date);
    assert_eq!(infer(&["2024-02-29", "2023-02-29"]), KeyType::String);
    assert_eq!(infer(&["2024-02-29", "1"]), KeyType::String);
    assert_eq!(infer(&[]), KeyType::String);
}

#[tokio::test]
async fn names_are_unescaped_and_locations_are_not() {
    let files = Files::new();
    files.write("c=a%2Fb c%25#é/x y%41.parquet", vec![("x", ints([1]))]);
    let found = files.infer().await.unwrap();
    let partition = &found.partitions[0];
    assert_eq!(partition.values, [ScalarValue::from("a/b c%#é")]);
    assert_eq!(partition.location, format!("{}c=a%252Fb%20c%2525%23%C3%A9/", files.location()));
    let path = object_path(&partition.files[0].url).unwrap();
    assert!(FilePath::new("/").join(path.as_ref()).exists(), "{path}");
}

#[tokio::test]
async fn schemas_are_merged() {
    let files = Files::new();
    let dictionary: DictionaryArray<Int32Type> = ["p", "q"].into_iter().collect();
    let decimal =
        |precision, scale| Arc::new(Decimal128Array::from(vec![1, 2]).with_precision_and_scale(precision, scale).unwrap()) as ArrayRef;
    files
        .write("1.parquet", vec![("vendorId", ints([1, 2])), ("v", Arc::new(StringViewArray::from(vec!["a", "b"]))), ("m", decimal(5, 1))]);
    files.write("2.parquet", vec![("new", Arc::new(dictionary)), ("VendorID", longs([7, 8])), ("m", decimal(9, 3))]);
    let found = files.infer().await.unwrap();
    let columns = found.schema.fields().iter().map(|field| (field.name().as_str(), field.data_type().clone()));
    let expected = [("vendorid", DataType::Int64), ("v", DataType::Utf8), ("m", DataType::Decimal128(9, 3)), ("new", DataType::Utf8)];
    assert_eq!(columns.collect::<Vec<_>>(), expected);
    let statistics = |file: usize| found.partitions[0].files[file].statistics.clone().unwrap().column_statistics.clone();
    assert_eq!(statistics(0)[0].max_value, Precision::Exact(ScalarValue::Int64(Some(2))), "cast to the table's type");
    assert_eq!(statistics(0)[1].min_value, Precision::Exact("a".into()));
    assert_eq!(statistics(0)[2].max_value, Precision::Exact(ScalarValue::Decimal128(Some(200), 9, 3)));
    assert_eq!((&statistics(0)[3].null_count, &statistics(0)[3].max_value), (&Precision::Exact(2), &Precision::Absent));
}

#[tokio::test]
async fn files_that_do_not_fit_are_named() {
    let files = Files::new();
    files.write("1.parquet", vec![("x", ints([1])), ("Name", ints([1]))]);
    files.write("2.parquet", vec![("x", Arc::new(StringArray::from(vec!["a"])))]);
    assert_blames(&files.infer().await.unwrap_err(), "2.parquet", &["'x'", "Utf8", "Int32"]);

    files.write("2.parquet", vec![("other", ints([1])), ("OTHER", ints([1]))]);
    assert_blames(&files.infer().await.unwrap_err(), "2.parquet", &["'other'", "'OTHER'"]);
    let declared = |name: &str| Arc::new(Schema::new(vec![Field::new(name, DataType::Int32, true)]));
    assert_blames(&files.find(Layout::Keys(&[]), Some(&declared("other"))).await.unwrap_err(), "2.parquet", &["'other'", "'OTHER'"]);
    assert!(files.find(Layout::Keys(&[]), Some(&declared("name"))).await.is_ok(), "nobody reads the two");

    files.write("2.parquet", vec![("x", longs([1]))]);
    assert_blames(&files.find(Layout::Keys(&[]), Some(&declared("x"))).await.unwrap_err(), "2.parquet", &["'x'", "Int64", "Int32"]);
    let wider = Arc::new(Schema::new(vec![Field::new("x", DataType::Int64, true)]));
    let found = files.find(Layout::Keys(&[]), Some(&wider)).await.unwrap();
    assert_eq!((found.schema, found.partitions[0].files.len()), (wider, 2));

    files.write("d=1/3.parquet", vec![("x", ints([1]))]);
    assert_blames(&files.infer().await.unwrap_err(), "1.parquet", &["'d'"]);
    let key = [PartitionKey { name: "e".to_owned(), key_type: KeyType::Int, comment: None }];
    assert_blames(&files.find(Layout::Keys(&key), None).await.unwrap_err(), "1.parquet", &["e=..."]);
}

#[tokio::test]
async fn broken_files_are_named() {
    let files = Files::new();
    files.write("good.parquet", vec![("x", ints(0..1000))]);
    let good = fs::read(files.path("good.parquet")).unwrap();
    let mut corrupt = good.clone();
    let end = corrupt.len() - 20;
    corrupt[end - 20..end].fill(0xff);
    for content in [&good[..good.len() - 3], &good[..100], &corrupt, b"", b"PAR1"] {
        fs::write(files.path("broken.parquet"), content).unwrap();
        assert_blames(&files.infer().await.unwrap_err(), "broken.parquet", &["Parquet"]);
    }
}

#[tokio::test]
async fn an_empty_location_has_no_columns() {
    let files = Files::new();
    assert!(matches!(files.infer().await, Err(Error::Invalid(text)) if text.contains("declare the columns")));
    let declared = Arc::new(Schema::new(vec![Field::new("x", DataType::Int32, true)]));
    assert!(files.find(Layout::Inferred, Some(&declared)).await.unwrap().partitions.is_empty());
}

#[tokio::test]
async fn known_files_are_not_read_again() {
    let files = Files::new();
    for name in ["a.parquet", "b.parquet"] {
        files.write(name, vec![("x", ints([1, 2]))]);
    }
    let first = files.infer().await.unwrap();
    let known = first.partitions[0].files.iter().map(|file| DataFile { partition_id: 1, file: file.clone() }).collect::<Vec<_>>();
    // Same size and time, so that nobody looks inside.
    let (path, size) = (files.path("a.parquet"), known[0].file.size as usize);
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, vec![0; size]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    files.write("b.parquet", vec![("x", ints(0..100))]);
    files.write("c.parquet", vec![("x", ints([5]))]);

    let location = &files.location();
    let request = parquet(location, Layout::Keys(&[]), Some(&first.schema), &known);
    let second = discover(request, Arc::new(LocalFileSystem::new())).await.unwrap();
    let partition = &second.partitions[0];
    assert_eq!(partition.unchanged.iter().map(|url| file_name(url)).collect::<Vec<_>>(), ["a.parquet"]);
    assert_eq!(partition.files.iter().map(|file| file.rows).collect::<Vec<_>>(), [Some(100), Some(1)]);
}

#[tokio::test]
async fn statistics_hold_for_every_row_or_are_absent() {
    let files = Files::new();
    let columns = || -> Vec<(&str, ArrayRef)> {
        vec![
            ("silent", ints([1, 2])),
            ("nulls", Arc::new(Int32Array::from(vec![None, None]))),
            ("float", Arc::new(Float64Array::from(vec![1.0, f64::NAN]))),
            ("long", Arc::new(StringArray::from(vec!["x".repeat(500), "y".repeat(500)]))),
            ("text", Arc::new(StringArray::from(vec![Some("b"), None]))),
        ]
    };
    let silent = WriterProperties::builder().set_column_statistics_enabled("silent".into(), EnabledStatistics::None);
    files.write_with("a.parquet", columns(), silent.set_statistics_truncate_length(None).build());
    let found = files.infer().await.unwrap().partitions.remove(0).files.remove(0).statistics.unwrap();
    let [unknown, nulls, float, long, text] = &found.column_statistics[..] else { panic!("five columns") };
    assert_eq!((&unknown.null_count, &unknown.min_value), (&Precision::Absent, &Precision::Absent));
    assert_eq!((&nulls.null_count, &nulls.min_value), (&Precision::Exact(2), &Precision::Absent));
    assert_eq!(float.max_value, Precision::Inexact(ScalarValue::from(1.0)));
    assert_eq!(long.max_value, Precision::Absent);
    assert_eq!(
        (&text.null_count, &text.min_value, &text.max_value),
        (&Precision::Exact(1), &Precision::Exact("b".into()), &Precision::Exact("b".into()))
    );
}
