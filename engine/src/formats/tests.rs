use std::io::Write;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray, StringViewArray,
    TimestampMicrosecondArray, TimestampNanosecondArray,
};
use datafusion::arrow::datatypes::{Field, TimeUnit};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{ExecutionPlan, collect};
use object_store::ObjectMeta;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use orc_rust::ArrowWriterBuilder;
use orc_rust::compression::CompressionType;

use super::*;

fn words<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn columns<const N: usize>(fields: [(&str, DataType); N]) -> SchemaRef {
    Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
}

/// A table of files in memory.
struct Files {
    store: Arc<dyn ObjectStore>,
    storage: Storage,
    properties: BTreeMap<String, String>,
}

impl Files {
    fn new(format: FileFormat, serde: BTreeMap<String, String>, properties: BTreeMap<String, String>) -> Self {
        Self { store: Arc::new(InMemory::new()), storage: Storage { format, serde, ..Storage::default() }, properties }
    }

    async fn put(&self, name: &str, bytes: impl Into<Vec<u8>>) -> ObjectMeta {
        self.store.put(&name.into(), bytes.into().into()).await.unwrap();
        self.store.head(&name.into()).await.unwrap()
    }

    /// The rows as text, NULL as `-`; with one file cut into ranges at `cuts`.
    async fn read(&self, schema: &SchemaRef, projection: &[usize], files: &[ObjectMeta], cuts: &[u64]) -> Result<Vec<String>, String> {
        let mut groups = Vec::new();
        for file in files {
            let size = file.size;
            let whole = PartitionedFile::new_from_meta(ObjectMeta { e_tag: None, ..file.clone() });
            let whole = whole.with_arrow_schema(self.storage.on_the_wire(&self.properties).unwrap());
            let places: Vec<_> = [0].iter().chain(cuts).chain([&size]).copied().collect();
            groups.extend(places.windows(2).map(|pair| match cuts {
                [] => FileGroup::new(vec![whole.clone()]),
                _ => FileGroup::new(vec![whole.clone().with_range(pair[0] as i64, pair[1] as i64)]),
            }));
        }
        self.read_planned(schema, projection, groups).await
    }

    /// The rows of files as they are planned.
    async fn read_planned(&self, schema: &SchemaRef, projection: &[usize], groups: Vec<FileGroup>) -> Result<Vec<String>, String> {
        let runtime = Arc::new(RuntimeEnv::default());
        let url = ObjectStoreUrl::parse("memory://").unwrap();
        runtime.register_object_store(url.as_ref(), Arc::clone(&self.store));
        let source = self.storage.plan_source(TableSchema::from(Arc::clone(schema))).unwrap();
        let scan = FileScanConfigBuilder::new(url, source)
            .with_file_groups(groups)
            .with_projection_indices(Some(projection.to_vec()))
            .unwrap()
            .build();
        let plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
        let plan = crate::named_files::prepare_scans(plan, &runtime).unwrap();
        let batches = collect(plan, Arc::new(TaskContext::default().with_runtime(runtime))).await.map_err(|error| error.to_string())?;
        Ok(batches.iter().flat_map(rows).collect())
    }

    async fn all(&self, schema: &SchemaRef, bytes: impl Into<Vec<u8>>) -> Result<Vec<String>, String> {
        let file = self.put("t/f", bytes).await;
        let all: Vec<_> = (0..schema.fields().len()).collect();
        self.read(schema, &all, &[file], &[]).await
    }
}

fn rows(batch: &RecordBatch) -> Vec<String> {
    let cell = |column: &Arc<dyn datafusion::arrow::array::Array>, row| match column.is_null(row) {
        true => "-".to_owned(),
        false => array_value_to_string(column, row).unwrap(),
    };
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| cell(column, row)).collect::<Vec<_>>().join("|")).collect()
}

#[tokio::test]
async fn hive_text_is_read_as_hive_wrote_it() {
    let files = Files::new(FileFormat::Text, words([("serialization.format", "1")]), BTreeMap::new());
    let schema = columns([("a", DataType::Int32), ("b", DataType::Utf8View), ("c", DataType::Float64)]);
    let text = "1\u{1}x \"y\"\u{1}1.5\r\n\\N\u{1}\\N\u{1}\n3\u{1}\n4\u{1}z\u{1}2\u{1}extra\n";
    assert_eq!(files.all(&schema, text).await.unwrap(), ["1|x \"y\"|1.5", "-|-|-", "3||-", "4|z|2.0"]);

    let serde = words([("field.delim", ","), ("escape.delim", "\\"), ("serialization.null.format", "nil"), ("line.delim", ";")]);
    let files = Files::new(FileFormat::Text, serde, words([(HEADER_LINES, "1")]));
    assert_eq!(files.all(&schema, "a,b,c;1,x\\,y\\\\,2;nil,nil,nil;5,\\nil,-1").await.unwrap(), ["1|x,y\\|2.0", "-|-|-", "5|nil|-1.0"]);
}

#[tokio::test]
async fn quotes_are_read_in_every_position() {
    let schema = columns([("a", DataType::Utf8View), ("b", DataType::Date32), ("c", DataType::Decimal128(9, 2))]);
    let header = || words([(HEADER_LINES, "1")]);
    let files = Files::new(FileFormat::Csv, BTreeMap::new(), header());
    let text = "\u{feff}a,b,c\n\"x, \"\"y\"\"\",2024-01-31,\"1.25\"\n\n,,\nz\n";
    assert_eq!(files.all(&schema, text).await.unwrap(), ["x, \"y\"|2024-01-31|1.25", "|-|-", "z|-|-"]);

    let serde = words([("separatorChar", "\\t"), ("quoteChar", "'"), ("escapeChar", "\\"), ("multiline", "true")]);
    let files = Files::new(FileFormat::Csv, serde, header());
    let text = "a\tb\tc\n'it\\'s\n two'\t2024-02-01\t3\n'x'y\t\t\n";
    assert_eq!(files.all(&schema, text).await.unwrap(), ["it's\n two|2024-02-01|3.00", "xy|-|-"]);
}

#[tokio::test]
async fn bad_records_fail_with_their_place_or_are_null() {
    let schema = columns([("a", DataType::Int64), ("b", DataType::Utf8View)]);
    let bad = || words([(BAD_RECORDS, "null"), (HEADER_LINES, "1")]);
    let strict = Files::new(FileFormat::Csv, BTreeMap::new(), words([(HEADER_LINES, "1")]));
    let lenient = Files::new(FileFormat::Csv, BTreeMap::new(), bad());
    let text: &[u8] = b"a,b\n1,x\ntwo,y\n3,\"z\n4,\xff\n";
    let error = strict.all(&schema, text).await.unwrap_err();
    assert!(["/t/f", "line 3", "'two'", "'a'"].iter().all(|word| error.contains(word)) || error.contains("line 4"), "{error}");
    assert_eq!(lenient.all(&schema, text).await.unwrap(), ["1|x", "-|y", "3|-", "4|-"]);

    let strict = Files::new(FileFormat::Json, BTreeMap::new(), BTreeMap::new());
    let lenient = Files::new(FileFormat::Json, BTreeMap::new(), bad());
    let text = "{\"a\": 1, \"b\": \"x\"}\n\n{\"a\": 2, \"b\n{\"a\": \"three\", \"b\": true}\n[4]\n{\"a\":5} {\"a\":6}\n{\"b\": 7.5}";
    let error = strict.all(&schema, text).await.unwrap_err();
    assert!(error.contains("/t/f") && error.contains("line 3"), "{error}");
    assert_eq!(lenient.all(&schema, text).await.unwrap(), ["1|x", "-|-", "-|true", "-|-", "-|-", "-|7.5"]);
}

#[tokio::test]
async fn json_is_nested_and_spelled_as_it_likes() {
    let nested = DataType::Struct(vec![Field::new("lat", DataType::Float64, true), Field::new("Tags", DataType::Utf8View, true)].into());
    let schema = columns([("userid", DataType::Utf8View), ("place", nested), ("n", crate::evolution::list_type(DataType::Int32))]);
    let files = Files::new(FileFormat::Json, words([("mapping.userid", "userId")]), BTreeMap::new());
    let text = "{\"userId\": 7, \"place\": {\"lat\": 1, \"Tags\": \"a\"}, \"n\": [1, null], \"other\": 0}\n{\"n\": null}\n";
    let file = files.put("t/f.json", text).await;
    let found = files.read(&schema, &[2, 0], std::slice::from_ref(&file), &[]).await.unwrap();
    assert_eq!(found, ["[1, ]|7", "-|-"]);
    assert_eq!(files.read(&schema, &[], &[file], &[]).await.unwrap(), ["", ""], "rows without any column");
}

#[tokio::test]
async fn text_takes_nested_json_as_it_is_written() {
    let schema = columns([("raw", DataType::Utf8View), ("n", DataType::Int32)]);
    let text = "{\"Raw\": \"x\", \"n\": 1}\n{\"Raw\": {\"a\": [1, \"]\"]}, \"n\": 2}\n{\"n\": \"z\", \"Raw\": [ ]}\n";
    let read = async |properties| Files::new(FileFormat::Json, words([("mapping.raw", "Raw")]), properties).all(&schema, text).await;
    assert_eq!(read(words([(BAD_RECORDS, "null")])).await.unwrap(), ["x|1", "{\"a\": [1, \"]\"]}|2", "[ ]|-"]);
    let error = read(BTreeMap::new()).await.unwrap_err();
    assert!(error.contains("line 3") && error.contains("'n'"), "{error}");
}

#[tokio::test]
async fn ranges_share_the_records_of_a_file() {
    let schema = columns([("a", DataType::Int64)]);
    let lines: Vec<String> = (0..50).map(|number| format!("{}", number * 37 % 1001)).collect();
    for (format, text) in [
        (FileFormat::Csv, format!("a\n{}", lines.join("\n"))),
        (FileFormat::Json, lines.iter().map(|line| format!("{{\"a\": {line}}}\r\n")).collect::<String>()),
    ] {
        let properties = if format == FileFormat::Csv { words([(HEADER_LINES, "1")]) } else { BTreeMap::new() };
        let files = Files::new(format, BTreeMap::new(), properties);
        let file = files.put("t/f", text.clone()).await;
        for cut in 1..text.len() as u64 {
            let found = files.read(&schema, &[0], std::slice::from_ref(&file), &[cut]).await.unwrap();
            let mut found: Vec<_> = found.iter().map(|row| row.parse::<i64>().unwrap()).collect();
            let mut wanted: Vec<_> = lines.iter().map(|line| line.parse::<i64>().unwrap()).collect();
            found.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(found, wanted, "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn compressed_files_are_read_to_their_last_part() {
    let schema = columns([("a", DataType::Int64)]);
    let files = Files::new(FileFormat::Csv, BTreeMap::new(), BTreeMap::new());
    // `echo 1 | gzip`, twice: what `cat a.gz b.gz` gives.
    let part: &[u8] = &[31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 51, 228, 2, 0, 83, 252, 81, 103, 2, 0, 0, 0];
    let mut twice = Vec::new();
    twice.write_all(part).unwrap();
    twice.write_all(part).unwrap();
    let file = files.put("t/f.csv.gz", twice.clone()).await;
    assert_eq!(files.read(&schema, &[0], &[file], &[]).await.unwrap(), ["1", "1"]);
    twice.truncate(part.len() + 12);
    let file = files.put("t/g.csv.GZ", twice).await;
    let error = files.read(&schema, &[0], &[file], &[]).await.unwrap_err();
    assert!(error.contains("t/g.csv.GZ") && error.contains("decompressed"), "{error}");
    let file = files.put("t/empty.gz", Vec::new()).await;
    assert_eq!(files.read(&schema, &[0], &[file], &[]).await.unwrap(), [""; 0]);
    let words = files.storage.on_the_wire(&files.properties).unwrap();
    let planned = |name: &str| PartitionedFile::new(name, 1).with_arrow_schema(Arc::clone(&words));
    assert!(!can_be_cut(&planned("f.gz")) && can_be_cut(&planned("f.csv")));
}

#[tokio::test]
async fn columns_are_inferred_from_samples() {
    let named = |inferred: &Inferred| {
        inferred.schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect::<Vec<_>>().join(", ")
    };
    let files = Files::new(FileFormat::Csv, BTreeMap::new(), words([(HEADER_LINES, "1")]));
    let one = files.put("t/1", "Id,x,d,ts,ok\n1,2,2024-01-01,2024-01-01 10:00:00,true\n").await;
    let two = files.put("t/2", "Id,x,d,ts,ok\n,2.5,,,false\n3,,x,,\n").await;
    let found = infer(&files.store, &[one, two], &files.storage, &files.properties).await.unwrap();
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(named(&found), format!("id Int64, x Float64, d Utf8, ts {time}, ok Boolean"));

    let files = Files::new(FileFormat::Json, BTreeMap::new(), BTreeMap::new());
    let one = files.put("t/1", "{\"userId\": 1, \"z\": {\"b\": [1], \"a\": null}}\n{\"userId\": 2.5}").await;
    let found = infer(&files.store, &[one], &files.storage, &files.properties).await.unwrap();
    assert_eq!(found.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["userid", "z"]);
    assert_eq!(found.schema.field(0).data_type(), &DataType::Float64);
    assert_eq!(found.mapping, words([("mapping.userid", "userId")]));
    let mixed = "{\"p\": {\"x\": 1}, \"n\": 1, \"q\": {\"y\": true}}\n{\"p\": [2], \"n\": null}\n{\"p\": \"s\", \"q\": {}}";
    let mixed = files.put("t/mixed", mixed).await;
    let found = infer(&files.store, &[mixed], &files.storage, &files.properties).await.unwrap();
    assert_eq!(named(&found), "n Int64, p Utf8, q Struct(\"y\": Boolean)");
    let two = files.put("t/2", "{\"a\": 1, \"A\": 2}").await;
    assert!(infer(&files.store, &[two], &files.storage, &files.properties).await.unwrap_err().to_string().contains("'a'"));
}

/// Values that text has to take care of, in columns of many types.
fn awkward() -> RecordBatch {
    let texts = ["plain", "", "a,b", "say \"x\"", "back\\slash", "\\N", "tab\there", "é", " edge "];
    let texts = texts.iter().map(|text| Some(*text)).chain([None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("t", Arc::new(texts.collect::<StringViewArray>())),
        ("n", Arc::new((0..10).map(|n| (n % 3 > 0).then_some(n - 5)).collect::<Int64Array>())),
        ("f", Arc::new((0..10).map(|n| Some(f64::from(n) / 7.0 * 1e10)).collect::<Float64Array>())),
        ("b", Arc::new((0..10).map(|n| Some(n % 2 == 0)).collect::<BooleanArray>())),
        ("d", Arc::new((0..10).map(|n| Some(n * 1000 - 3000)).collect::<Date32Array>())),
        ("s", Arc::new((0..10).map(|n| Some(n * 1_234_567_890_123)).collect::<TimestampMicrosecondArray>())),
        ("m", Arc::new((0..10).map(|n| Some(n * 101 - 300)).collect::<Decimal128Array>().with_precision_and_scale(9, 2).unwrap())),
        ("i", Arc::new((0..10).map(|n| Some(n as i16)).collect::<Int16Array>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

async fn written(files: &Files, batch: &RecordBatch, compression: &str) -> Result<Vec<u8>, String> {
    let words = files.storage.to_write(&files.properties);
    let mut writer = RowWriter::new(&words, &batch.schema(), compression).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    for part in [batch.slice(0, 4), batch.slice(4, batch.num_rows() - 4)] {
        bytes.extend(writer.write(&part).await.map_err(|error| error.to_string())?);
    }
    bytes.extend(writer.finish().await.unwrap());
    Ok(bytes)
}

#[tokio::test]
async fn what_is_written_is_read_again() {
    let batch = awkward();
    let schema = batch.schema();
    let all: Vec<_> = (0..schema.fields().len()).collect();
    let delimited = [("field.delim", ","), ("escape.delim", "\\")];
    let cases = [
        (FileFormat::Text, words(delimited), BTreeMap::new()),
        (FileFormat::Csv, BTreeMap::new(), words([(HEADER_LINES, "1")])),
        (FileFormat::Csv, words([("separatorChar", "\\t"), ("quoteChar", "\'"), ("escapeChar", "\\")]), BTreeMap::new()),
        (FileFormat::Json, words([("mapping.t", "TheText")]), BTreeMap::new()),
        (FileFormat::Avro, words([("mapping.t", "TheText")]), BTreeMap::new()),
    ];
    for (format, serde, properties) in cases {
        let mut files = Files::new(format, serde, properties);
        files.storage.make_writable(schema.fields().len());
        for (compression, name) in [("none", "t/f"), ("zstd", "t/f.zst"), ("gzip", "t/f.gz")] {
            let bytes = written(&files, &batch, compression).await.unwrap();
            let file = files.put(if format == FileFormat::Avro { "t/f.avro" } else { name }, bytes).await;
            let found = files.read(&schema, &all, &[file], &[]).await.unwrap();
            assert_eq!(found, rows(&batch), "{format} {compression}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_again_is_not_written() {
    let text = |text: &str| RecordBatch::try_from_iter([("a", Arc::new(StringViewArray::from(vec![text; 5])) as ArrayRef)]).unwrap();
    let plain = Files::new(FileFormat::Text, BTreeMap::new(), BTreeMap::new());
    for (value, word) in [("a\u{1}b", "ESCAPED BY"), ("\\N", "stands for NULL"), ("a\nb", "end of a line"), ("a\r", "carriage return")] {
        let error = written(&plain, &text(value), "").await.unwrap_err();
        assert!(error.contains("'a'") && error.contains(word), "{value:?}: {error}");
    }
    let csv = Files::new(FileFormat::Csv, BTreeMap::new(), BTreeMap::new());
    assert!(written(&csv, &text("a\nb"), "").await.unwrap_err().contains("multiline"));
    let multiline = Files::new(FileFormat::Csv, words([("multiline", "true")]), BTreeMap::new());
    let bytes = written(&multiline, &text("a\n\"b"), "").await.unwrap();
    assert_eq!(multiline.all(&text("").schema(), bytes).await.unwrap(), ["a\n\"b"; 5]);
    assert!(written(&csv, &text("a"), "lz77").await.unwrap_err().contains("lz77"));
}

#[tokio::test]
async fn bad_records_are_no_rows_but_can_be_asked_for() {
    let schema = columns([("a", DataType::Int64), ("b", DataType::Int64), ("c", DataType::Utf8View)]);
    let text: &[u8] = b"a,b,c\n1,1,x\ntwo,2,y\n3,three,z\n4,4,\xff\n5,5,\"open\n6,6,w\n";
    let json = "{\"a\": 1}\n\n{\"b\": \"x\"}\nnothing\n{\"a\": 4}";
    for (format, text, good, bad) in [
        (FileFormat::Csv, text, vec!["1", "6"], vec!["3|two,2,y", "4|3,three,z", "5|4,4,\u{fffd}", "6|5,5,\"open"]),
        (FileFormat::Json, json.as_bytes(), vec!["1", "4"], vec!["3|{\"b\": \"x\"}", "4|nothing"]),
    ] {
        let files = Files::new(format, BTreeMap::new(), words([(BAD_RECORDS, "dead_letter"), (HEADER_LINES, "1")]));
        let file = files.put("t/f", text).await;
        // Whichever column is asked for.
        assert_eq!(files.read(&schema, &[0], std::slice::from_ref(&file), &[]).await.unwrap(), good);
        assert_eq!(files.read(&schema, &[], std::slice::from_ref(&file), &[]).await.unwrap().len(), good.len());
        let words = files.storage.on_the_wire_if_bad(&files.properties, &schema).unwrap();
        let planned = PartitionedFile::new_from_meta(ObjectMeta { e_tag: None, ..file }).with_arrow_schema(words);
        assert!(!can_be_cut(&planned));
        assert_eq!(files.read_planned(&bad_records_schema(), &[1, 3], vec![FileGroup::new(vec![planned.clone()])]).await.unwrap(), bad);
        let reasons = files.read_planned(&bad_records_schema(), &[0, 2], vec![FileGroup::new(vec![planned])]).await.unwrap();
        assert!(reasons.iter().all(|reason| reason.starts_with("/t/f|") && !reason.contains("byte")), "{reasons:?}");
    }
}

/// Some types and NULLs.
fn mixed(rows: i64) -> RecordBatch {
    let some = |n: &i64| n % 3 > 0;
    let times = (0..rows).map(|n| some(&n).then_some((n - 4) * 123_456_789_012_345));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("Id", Arc::new((0..rows).map(Some).collect::<Int64Array>())),
        ("small", Arc::new((0..rows).map(|n| some(&n).then_some(n as i16 - 5)).collect::<Int16Array>())),
        ("t", Arc::new((0..rows).map(|n| some(&n).then(|| format!("é {}", n % 4))).collect::<StringArray>())),
        ("f", Arc::new((0..rows).map(|n| Some(n as f64 / 7.0)).collect::<Float64Array>())),
        ("b", Arc::new((0..rows).map(|n| some(&n).then_some(n % 2 == 0)).collect::<BooleanArray>())),
        ("d", Arc::new((0..rows).map(|n| Some(n as i32 * 1000 - 3000)).collect::<Date32Array>())),
        ("s", Arc::new(times.collect::<TimestampMicrosecondArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// An ORC file of so many rows per stripe.
pub(super) fn orc(batch: &RecordBatch, stripe_rows: usize, compression: Option<CompressionType>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut writer = ArrowWriterBuilder::new(&mut file, batch.schema());
    if let Some(compression) = compression {
        writer = writer.with_compression(compression);
    }
    let mut writer = writer.try_build().unwrap();
    for start in (0..batch.num_rows()).step_by(stripe_rows) {
        writer.write(&batch.slice(start, stripe_rows.min(batch.num_rows() - start))).unwrap();
        writer.flush_stripe().unwrap();
    }
    writer.close().unwrap();
    file
}

fn orc_files() -> Files {
    Files::new(FileFormat::Orc, BTreeMap::new(), BTreeMap::new())
}

#[tokio::test]
async fn orc_is_read_by_column_and_stripe() {
    let (files, batch) = (orc_files(), mixed(40));
    let want = rows(&batch);
    let view = |field: &Arc<Field>| field.as_ref().clone().with_data_type(crate::evolution::scanned_type(field.data_type()));
    let schema = Arc::new(Schema::new(batch.schema().fields().iter().map(view).collect::<Vec<_>>()));
    let all: Vec<_> = (0..schema.fields().len()).collect();
    use CompressionType::{Lz4, Snappy, Zlib, Zstd};
    for compression in [None, Some(Zlib), Some(Snappy), Some(Zstd), Some(Lz4)] {
        let file = files.put("t/f.orc", orc(&batch, 15, compression)).await;
        assert_eq!(files.read(&schema, &all, std::slice::from_ref(&file), &[]).await.unwrap(), want, "{compression:?}");
        // Each stripe is read by whoever has its beginning.
        let mut sorted = want.clone();
        sorted.sort_unstable();
        for cut in (1..file.size).step_by(97) {
            let mut found = files.read(&schema, &all, std::slice::from_ref(&file), &[cut]).await.unwrap();
            found.sort_unstable();
            assert_eq!(found, sorted, "cut at {cut}");
        }
        let found = files.read(&schema, &[2, 0], std::slice::from_ref(&file), &[]).await.unwrap();
        let cells: Vec<_> = want.iter().map(|row| row.split('|').collect::<Vec<_>>()).collect();
        assert_eq!(found, cells.iter().map(|row| format!("{}|{}", row[2], row[0])).collect::<Vec<_>>());
        assert_eq!(files.read(&schema, &[], &[file], &[40, 50]).await.unwrap().len(), 40, "rows without any column");
    }
    let words = files.storage.on_the_wire(&files.properties).unwrap();
    assert!(can_be_cut(&PartitionedFile::new("t/f.orc", 1).with_arrow_schema(words)));
}

#[tokio::test]
async fn orc_columns_are_found_by_name_and_widened() {
    let files = orc_files();
    let file = files.put("t/f.orc", orc(&mixed(3), 3, None)).await;
    let read = async |schema: SchemaRef| {
        let all: Vec<_> = (0..schema.fields().len()).collect();
        files.read(&schema, &all, std::slice::from_ref(&file), &[]).await
    };
    let evolved = columns([("new", DataType::Utf8View), ("small", DataType::Int64), ("id", DataType::Int64)]);
    assert_eq!(read(evolved).await.unwrap(), ["-|-|0", "-|-4|1", "-|-3|2"]);
    let error = read(columns([("t", DataType::Int64)])).await.unwrap_err();
    assert!(["/t/f.orc", "'t'", "Utf8", "Int64"].iter().all(|word| error.contains(word)), "{error}");

    // Early Hive.
    let numbered = |name: &str, values: [i64; 2]| (name.to_owned(), Arc::new(Int64Array::from(values.to_vec())) as ArrayRef, true);
    let batch = RecordBatch::try_from_iter_with_nullable([numbered("_col0", [1, 2]), numbered("_col1", [3, 4])]).unwrap();
    let file = files.put("t/hive.orc", orc(&batch, 2, None)).await;
    let schema = columns([("a", DataType::Int64), ("b", DataType::Int64), ("c", DataType::Int64)]);
    assert_eq!(files.read(&schema, &[1, 2, 0], std::slice::from_ref(&file), &[]).await.unwrap(), ["3|-|1", "4|-|2"]);
    let footer = orc_footer(files.store.as_ref(), &file, Some(&schema)).await.unwrap();
    assert_eq!((footer.rows(), footer.schema().field(1).name().as_str()), (2, "b"));
    let footer = orc_footer(files.store.as_ref(), &file, None).await.unwrap();
    assert_eq!(footer.schema().field(1).name(), "_col1");
}

#[tokio::test]
async fn orc_times_are_those_of_the_writers_clock() {
    let files = orc_files();
    let times = [Some(1_000_000_000_123_456_000), Some(-4_000_000_000), None];
    let batch =
        RecordBatch::try_from_iter_with_nullable([("s", Arc::new(TimestampNanosecondArray::from(times.to_vec())) as ArrayRef, true)]);
    let file = orc(&batch.unwrap(), 3, None);
    let in_zone = |zone: &[u8; 3]| {
        let place = file.windows(5).position(|bytes| bytes == b"\x1a\x03UTC").unwrap();
        [&file[..place + 2], zone, &file[place + 5..]].concat()
    };
    let schema = columns([("s", DataType::Timestamp(TimeUnit::Microsecond, None))]);
    for zone in [b"UTC", b"EST", b"MST"] {
        assert_eq!(files.all(&schema, in_zone(zone)).await.unwrap(), ["2001-09-09T01:46:40.123456", "1969-12-31T23:59:56", "-"]);
    }
    let error = files.all(&schema, in_zone(b"XYZ")).await.unwrap_err();
    assert!(error.contains("/t/f") && error.contains("'XYZ'"), "{error}");
}

#[tokio::test]
async fn broken_orc_is_an_error_and_never_fewer_rows() {
    let files = orc_files();
    let batch = mixed(12);
    let schema = columns([("id", DataType::Int64), ("t", DataType::Utf8View), ("s", DataType::Timestamp(TimeUnit::Microsecond, None))]);
    assert!(files.all(&schema, "").await.unwrap().is_empty(), "Hive leaves empty files");
    for compression in [None, Some(CompressionType::Zlib)] {
        let whole = orc(&batch, 6, compression);
        for length in 1..whole.len() {
            let error = files.all(&schema, &whole[..length]).await.unwrap_err();
            assert!(error.contains("cannot read file '/t/f'"), "{length}: {error}");
        }
        for place in 3..whole.len() {
            for change in [0x01, 0x10, 0x80, 0xff] {
                let mut broken = whole.clone();
                broken[place] ^= change;
                match files.all(&schema, broken).await {
                    Ok(rows) => assert_eq!(rows.len(), 12, "byte {place} changed by {change}"),
                    Err(error) => assert!(error.contains("cannot read file '/t/f'"), "byte {place} changed by {change}: {error}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn formats_are_told_from_names_and_contents() {
    let files = Files::new(FileFormat::Csv, BTreeMap::new(), BTreeMap::new());
    let found = async |parts: Vec<(&str, &str)>| {
        let mut metas = Vec::new();
        for (name, text) in parts {
            metas.push(files.put(name, text).await);
        }
        let found = sniff(&files.store, &metas).await.map_err(|error| error.to_string())?;
        let separator = found.storage.serde.get("separatorChar").cloned().unwrap_or_default();
        Ok::<_, String>(format!("{} {separator}{}", found.storage.format, if found.properties.is_empty() { "" } else { " header" }))
    };
    for (name, text, wanted) in [
        ("s/1.csv", "id,name\n1,a\n", "CSV  header"),
        ("s/2.csv", "1,a\n2,b\n", "CSV "),
        ("s/3.csv", "id;day\n1;2024-01-01\n", "CSV ; header"),
        ("s/4.tsv", "x\ty\n", "CSV \\t"),
        ("s/5", "{\"a\": 1}\n", "JSONFILE "),
        ("s/6", "a\u{1}b\n", "TEXTFILE "),
        ("s/7", "PAR1...", "PARQUET "),
        ("s/9", "ORC...ORC\u{17}", "ORC "),
        ("s/10", "ORCHID,1\nROSE,2\n", "CSV "),
        ("s/8.json.gz", "", "JSONFILE "),
    ] {
        assert_eq!(found(vec![(name, text)]).await.as_deref(), Ok(wanted), "{name}");
    }
    assert_eq!(found(vec![("u/1.csv", "a,b\nx,y\n"), ("u/2.csv", "a,b\nz,w\n")]).await.as_deref(), Ok("CSV  header"), "alike in all");
    let error = found(vec![("v/1.csv", "1"), ("v/2", "{}")]).await.unwrap_err();
    assert!(error.contains("v/1.csv") && error.contains("v/2"), "{error}");
    assert!(found(vec![("w/1", "\0\0\0")]).await.unwrap_err().contains("no format"));
}

#[test]
fn words_that_cannot_work_are_refused() {
    let plain = columns([("a", DataType::Int64)]);
    let check = |format, serde: BTreeMap<String, String>, properties: BTreeMap<String, String>| {
        Storage { format, serde, ..Storage::default() }.validate(&properties, &plain).map_err(|error| error.to_string())
    };
    let none = BTreeMap::new;
    for delimiter in ["|", "\\001", "\\u0001", "\\t", "9", "124"] {
        assert_eq!(check(FileFormat::Text, words([("field.delim", delimiter)]), none()), Ok(()), "{delimiter}");
    }
    for bad in ["", "ab", "é", "300"] {
        assert!(check(FileFormat::Text, words([("field.delim", bad)]), none()).is_err(), "{bad}");
    }
    assert!(check(FileFormat::Csv, words([("separatorChar", "\"")]), none()).unwrap_err().contains("two meanings"));
    assert!(check(FileFormat::Csv, none(), words([(HEADER_LINES, "one")])).is_err());
    assert!(check(FileFormat::Json, none(), words([(BAD_RECORDS, "skip")])).is_err());
    let nested = columns([("a", crate::evolution::list_type(DataType::Int64))]);
    assert!(Storage::of(FileFormat::Text).validate(&none(), &nested).is_err());
    assert!(Storage::of(FileFormat::Json).validate(&none(), &nested).is_ok());
    for class in [
        "org.apache.hadoop.hive.serde2.OpenCSVSerde",
        "org.openx.data.jsonserde.JsonSerDe",
        "org.apache.hadoop.hive.serde2.avro.AvroSerDe",
        "org.apache.hadoop.hive.ql.io.orc.OrcSerde",
        "org.apache.hadoop.hive.ql.io.orc.OrcInputFormat",
    ] {
        assert!(FileFormat::of_class(class).is_some_and(|format| FileFormat::parse(format.name()) == Some(format)), "{class}");
    }
}
