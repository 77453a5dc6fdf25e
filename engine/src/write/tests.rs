//! Files that are written are read back here without the rest of the engine.

use std::collections::BTreeMap;

use datafusion::arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::prelude::SessionConfig;
use datafusion_proto::bytes::{physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec};
use futures::StreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use super::*;
use crate::codec::OperatorCodec;
use crate::formats::{FileFormat, HEADER_LINES, Storage};

const MEMORY_BYTES: usize = 64 * 1024 * 1024;

struct Bench {
    store: Arc<InMemory>,
    context: Arc<TaskContext>,
}

fn bench() -> Bench {
    let store = Arc::new(InMemory::new());
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(MEMORY_BYTES))).build_arc().unwrap();
    runtime.register_object_store(&Url::parse("memory:///").unwrap(), Arc::clone(&store) as _);
    let config = SessionConfig::new().with_batch_size(1024);
    Bench { store, context: Arc::new(TaskContext::default().with_session_config(config).with_runtime(runtime)) }
}

fn batch(columns: [(&str, ArrayRef); 2]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn plan(batches: Vec<RecordBatch>, spec: WriteSpec) -> Arc<dyn ExecutionPlan> {
    let schema = batches[0].schema();
    let input = MemorySourceConfig::try_new_exec(&[batches], schema, None).unwrap();
    Arc::new(WriteExec::try_new(input, Arc::new(spec)).unwrap())
}

fn spec(keys: u32) -> WriteSpec {
    WriteSpec { query: "q1".to_owned(), location: "memory:///wh/t/".to_owned(), keys, exchange: keys > 0, ..WriteSpec::default() }
}

impl Bench {
    async fn write(&self, plan: &Arc<dyn ExecutionPlan>) -> Result<Vec<ManifestLine>> {
        let batches: Vec<_> = plan.execute(0, Arc::clone(&self.context))?.try_collect().await?;
        batches.iter().map(ManifestLine::decode).collect::<Result<Vec<_>>>().map(|lines| lines.concat())
    }

    async fn numbers(&self, path: &str) -> Vec<i64> {
        let bytes = self.store.get(&Path::parse(path).unwrap()).await.unwrap().bytes().await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        reader.flat_map(|batch| batch.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    async fn paths(&self) -> Vec<String> {
        self.store.list(None).map(|file| file.unwrap().location.to_string()).collect().await
    }
}

#[tokio::test]
async fn any_number_of_partitions_is_written_in_bounded_memory() {
    let bench = bench();
    // Every partition's rows come in many batches, in no order.
    let rows: i64 = 40_000;
    let number = |i: i64| (i * 7919) % rows;
    let batches = (0..40).map(|part| {
        let numbers: Vec<i64> = (part * 1000..(part + 1) * 1000).map(number).collect();
        let keys = numbers.iter().map(|number| match number % 1000 {
            0 => None,
            1 => Some("a/b=c:d%é".to_owned()),
            key => Some(format!("k{key}")),
        });
        batch([("n", Arc::new(Int64Array::from(numbers.clone()))), ("k", Arc::new(keys.collect::<StringArray>()))])
    });
    let lines = bench.write(&plan(batches.collect(), spec(1))).await.unwrap();

    let mut found = BTreeMap::<Option<String>, Vec<i64>>::new();
    for line in &lines {
        assert!(line.path.starts_with(&format!("{}/part-q1-0-", line.directory)), "{}", line.path);
        let key = line.keys[0].try_as_str().unwrap().map(str::to_owned);
        let numbers = bench.numbers(&line.path).await;
        assert_eq!(numbers.len() as i64, line.rows);
        let statistics = &line.statistics.as_ref().unwrap().column_statistics;
        assert_eq!(statistics.len(), 1);
        assert_eq!(statistics[0].min_value.get_value().unwrap(), &numbers.iter().min().copied().into());
        found.entry(key).or_default().extend(numbers);
    }
    assert_eq!(found.len(), 1000);
    for (key, numbers) in &mut found {
        let rest = match key.as_deref() {
            None => 0,
            Some("a/b=c:d%é") => 1,
            Some(key) => key[1..].parse().unwrap(),
        };
        numbers.sort_unstable();
        assert_eq!(*numbers, (0..rows).filter(|number| number % 1000 == rest).collect::<Vec<_>>(), "{key:?}");
    }
    assert_eq!(lines.len(), 1000, "one file per partition");
    let directories: Vec<_> = lines.iter().map(|line| line.directory.as_str()).collect();
    assert!(directories.contains(&"wh/t/k=__HIVE_DEFAULT_PARTITION__") && directories.contains(&"wh/t/k=a%2Fb%3Dc%3Ad%25é"));
    assert_eq!(bench.context.memory_pool().reserved(), 0);
}

#[tokio::test]
async fn what_an_early_end_has_begun_is_removed() {
    let bench = bench();
    let rows = batch([("n", Arc::new(Int64Array::from(vec![1, 2]))), ("k", Arc::new(StringArray::from(vec!["a", "b"])))]);
    let failing = Arc::new(Failing { rows: rows.clone() });
    let input = datafusion::physical_plan::streaming::StreamingTableExec::try_new(rows.schema(), vec![failing], None, [], false, None);
    let write: Arc<dyn ExecutionPlan> = Arc::new(WriteExec::try_new(Arc::new(input.unwrap()), Arc::new(spec(1))).unwrap());
    assert!(bench.write(&write).await.unwrap_err().to_string().contains("on purpose"));
    for _ in 0..100 {
        if bench.paths().await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("left behind: {:?}", bench.paths().await);
}

/// Gives rows, enough of them for files to be uploaded in parts, and then fails.
#[derive(Debug)]
struct Failing {
    rows: RecordBatch,
}

impl datafusion::physical_plan::streaming::PartitionStream for Failing {
    fn schema(&self) -> &SchemaRef {
        self.rows.schema_ref()
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let failure = Err(DataFusionError::Execution("on purpose".to_owned()));
        let rows = stream::iter([Ok(self.rows.clone()), failure]);
        Box::pin(RecordBatchStreamAdapter::new(self.rows.schema(), rows))
    }
}

#[tokio::test]
async fn marks_are_counted_and_not_written() {
    let bench = bench();
    let rows = batch([("n", Arc::new(Int64Array::from(vec![5, 6, 7]))), ("m", Arc::new(Int64Array::from(vec![1, 0, 2])))]);
    for (format, text) in [(WriteFormat::Csv, "n\n5\n6\n7\n"), (WriteFormat::Json, "{\"n\":5}\n{\"n\":6}\n{\"n\":7}\n")] {
        let storage = Storage::of(if format == WriteFormat::Csv { FileFormat::Csv } else { FileFormat::Json });
        let words = storage.to_write(&BTreeMap::from([(HEADER_LINES.to_owned(), "1".to_owned())]));
        let spec = WriteSpec { marked: true, format: format.into(), words, ..spec(0) };
        let lines = bench.write(&plan(vec![rows.clone()], spec)).await.unwrap();
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!((line.rows, line.changed, line.keys.len()), (3, 3, 0));
        let bytes = bench.store.get(&Path::parse(&line.path).unwrap()).await.unwrap().bytes().await.unwrap();
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), text);
    }
    let nothing = plan(vec![RecordBatch::new_empty(rows.schema())], spec(0));
    assert!(bench.write(&nothing).await.unwrap().is_empty());
}

#[test]
fn it_crosses_the_wire() {
    let rows = batch([("n", Arc::new(Int64Array::from(vec![1]))), ("k", Arc::new(StringArray::from(vec!["a"])))]);
    let schema = rows.schema();
    let input = Arc::new(datafusion::physical_plan::empty::EmptyExec::new(schema));
    let spec = WriteSpec { compression: "snappy".to_owned(), marked: true, ..spec(1) };
    let plan: Arc<dyn ExecutionPlan> = Arc::new(WriteExec::try_new(input, Arc::new(spec)).unwrap());
    let bytes = physical_plan_to_bytes_with_extension_codec(Arc::clone(&plan), &OperatorCodec::staged()).unwrap();
    let read = physical_plan_from_bytes_with_extension_codec(&bytes, &TaskContext::default(), &OperatorCodec::staged()).unwrap();
    let (read, plan) = (read.downcast_ref::<WriteExec>().unwrap(), plan.downcast_ref::<WriteExec>().unwrap());
    assert_eq!((read.spec(), read.schema()), (plan.spec(), plan.schema()));
}
