use std::collections::BTreeMap;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int32Array, StringArray};
use datafusion::arrow::datatypes::{DataType, Date32Type, Field, Int32Type, Schema};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::DFSchema;
use datafusion::config::ConfigOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::expressions::{Column, DynamicFilterPhysicalExpr, lit};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::PushedDown;
use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::{ExecutionPlan, collect, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use datafusion_proto::bytes::{physical_plan_from_bytes, physical_plan_to_bytes};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use prost::Message;

use super::super::super::tests::orc;
use super::super::super::{FileFormat, Storage};
use super::super::wire::{
    BucketStatistics, ColumnStatistics, DateStatistics, IntegerStatistics, Metadata, PostScript, StringStatistics, StripeStatistics,
};
use super::*;
use crate::named_files::prepare_scans;

const STRIPE_ROWS: usize = 10;
const STRIPES: usize = 8;

/// Stripes whose values lie together, with some NULLs; the fifth has nothing else, the sixth none.
fn rows() -> RecordBatch {
    let values = 0..STRIPES * STRIPE_ROWS;
    let kept = |row: &usize| match row / STRIPE_ROWS {
        4 => false,
        5 => true,
        _ => row % 7 != 3,
    };
    let value = |row: usize| Some(row).filter(kept);
    let near = |row: usize| (row / STRIPE_ROWS * 3 + row % 5) as i32 - 4;
    let number = |row| value(row).map(near);
    let columns: [(&str, ArrayRef); 5] = [
        ("i", Arc::new(values.clone().map(number).collect::<Int32Array>())),
        ("t", Arc::new(values.clone().map(|row| number(row).map(|n| format!("t{:02}", n + 4))).collect::<StringArray>())),
        ("d", Arc::new(values.clone().map(number).collect::<Date32Array>())),
        ("b", Arc::new(values.clone().map(|row| value(row).map(|row| [0, 3, 6].contains(&(row / STRIPE_ROWS)))).collect::<BooleanArray>())),
        (
            "x",
            Arc::new(values.map(|row| value(row).map(|row| if row % 11 == 0 { f64::NAN } else { row as f64 })).collect::<Float64Array>()),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

/// What Hive and Spark would say of a column of some rows.
fn said_of(column: &ArrayRef) -> ColumnStatistics {
    let values = Some((column.len() - column.null_count()) as u64);
    let said = ColumnStatistics { number_of_values: values, has_null: Some(column.null_count() > 0), ..ColumnStatistics::default() };
    match column.data_type() {
        DataType::Int32 => {
            let values = || column.as_primitive::<Int32Type>().iter().flatten().map(i64::from);
            ColumnStatistics { integers: Some(IntegerStatistics { minimum: values().min(), maximum: values().max() }), ..said }
        }
        DataType::Date32 => {
            let values = || column.as_primitive::<Date32Type>().iter().flatten();
            ColumnStatistics { dates: Some(DateStatistics { minimum: values().min(), maximum: values().max() }), ..said }
        }
        DataType::Boolean => {
            ColumnStatistics { buckets: Some(BucketStatistics { count: vec![column.as_boolean().true_count() as u64] }), ..said }
        }
        DataType::Utf8 => {
            let values = || column.as_string::<i32>().iter().flatten().map(|text| text.as_bytes().to_vec());
            ColumnStatistics { strings: Some(StringStatistics { minimum: values().min(), maximum: values().max(), sum: None }), ..said }
        }
        _ => said,
    }
}

/// The file with what it says of its stripes.
fn with_statistics(file: &[u8], rows: &RecordBatch) -> Vec<u8> {
    let stripe = |stripe: usize| {
        let rows = rows.slice(stripe * STRIPE_ROWS, STRIPE_ROWS);
        let row = ColumnStatistics { number_of_values: Some(STRIPE_ROWS as u64), ..ColumnStatistics::default() };
        StripeStatistics { columns: [row].into_iter().chain(rows.columns().iter().map(said_of)).collect() }
    };
    let metadata = Metadata { stripes: (0..STRIPES).map(stripe).collect() }.encode_to_vec();
    let last = file.len() - 1;
    let postscript = PostScript::decode(&file[last - usize::from(file[last])..last]).unwrap();
    let footer = last - usize::from(file[last]) - postscript.footer_length() as usize;
    let footer_end = footer + postscript.footer_length() as usize;
    let postscript = PostScript { metadata_length: Some(metadata.len() as u64), writer_version: Some(9), ..postscript }.encode_to_vec();
    [&file[..footer], &metadata, &file[footer..footer_end], &postscript, &[postscript.len() as u8]].concat()
}

struct Table {
    runtime: Arc<RuntimeEnv>,
    schema: SchemaRef,
    file: PartitionedFile,
    source: Arc<dyn FileSource>,
}

impl Table {
    /// Of one file, whose numbers are wider and to which a column was added since.
    async fn new() -> Self {
        let store = Arc::new(InMemory::new());
        store.put(&"f.orc".into(), with_statistics(&orc(&rows(), STRIPE_ROWS, None), &rows()).into()).await.unwrap();
        let storage = Storage { format: FileFormat::Orc, ..Storage::default() };
        let meta = store.head(&"f.orc".into()).await.unwrap();
        let meta = object_store::ObjectMeta { e_tag: None, ..meta };
        let file = PartitionedFile::new_from_meta(meta).with_arrow_schema(storage.on_the_wire(&BTreeMap::new()).unwrap());
        let runtime = Arc::new(RuntimeEnv::default());
        runtime.register_object_store(ObjectStoreUrl::parse("memory://").unwrap().as_ref(), store);
        use DataType::{Boolean, Date32, Float64, Int64, Utf8, Utf8View};
        let fields = [("new", Utf8), ("i", Int64), ("t", Utf8View), ("d", Date32), ("b", Boolean), ("x", Float64)];
        let schema = Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()));
        let source = storage.plan_source(Arc::clone(&schema).into()).unwrap();
        Self { runtime, schema, file, source }
    }

    fn scan(&self, condition: Option<&Arc<dyn PhysicalExpr>>) -> Arc<dyn ExecutionPlan> {
        let mut config = ConfigOptions::default();
        config.execution.parquet.pushdown_filters = true;
        let conditions = condition.into_iter().map(Arc::clone).collect();
        let pushed = self.source.try_pushdown_filters(conditions, &config).unwrap();
        assert!(pushed.filters.iter().all(|pushed| matches!(pushed, PushedDown::No)), "rows are still to be filtered");
        let source = pushed.updated_node.unwrap_or_else(|| Arc::clone(&self.source));
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::parse("memory://").unwrap(), source)
            .with_file_groups(vec![FileGroup::new(vec![self.file.clone()])]);
        DataSourceExec::from_data_source(scan.build())
    }

    /// The rows for which it holds, and how many stripes were left out.
    async fn rows(&self, condition: &Arc<dyn PhysicalExpr>, is_pushed: bool) -> (String, usize) {
        let planned = self.scan(Some(condition).filter(|_| is_pushed));
        let context = self.context();
        let sent = physical_plan_from_bytes(&physical_plan_to_bytes(planned).unwrap(), &context).unwrap();
        let scan = prepare_scans(sent, &self.runtime).unwrap();
        let filter = Arc::new(FilterExec::try_new(Arc::clone(condition), Arc::clone(&scan)).unwrap());
        let found = collect(filter, context).await.unwrap();
        let pruned = match scan.metrics().unwrap().sum_by_name("stripes_pruned_statistics") {
            Some(MetricValue::PruningMetrics { pruning_metrics, .. }) => pruning_metrics.pruned(),
            _ => 0,
        };
        (pretty_format_batches(&found).unwrap().to_string(), pruned)
    }

    fn context(&self) -> Arc<TaskContext> {
        Arc::new(TaskContext::default().with_runtime(Arc::clone(&self.runtime)))
    }
}

#[tokio::test]
async fn stripes_that_are_left_out_hold_nothing_that_is_wanted() {
    let table = Table::new().await;
    let session = SessionContext::new();
    let schema = DFSchema::try_from(Arc::clone(&table.schema)).unwrap();
    let simple = [
        ("i > 12", 5),
        ("i < -2", 7),
        ("i = 4", 7),
        ("i <> 4", 1),
        ("i IN (-4, 20)", 6),
        ("i NOT IN (-4, 20)", 1),
        ("i IS NULL", 1),
        ("i IS NOT NULL", 1),
        ("i > 12 OR i IS NULL", 0),
        ("t BETWEEN 't03' AND 't05'", 6),
        ("d >= DATE '1970-01-15'", 5),
        ("b", 4),
        ("NOT b", 3),
        ("new = 'x'", 8),
        ("new IS NULL", 0),
        ("x > 1000", 1),
        ("x < 0", 1),
    ];
    for (text, pruned) in simple {
        let condition = session.parse_sql_expr(text, &schema).unwrap();
        let condition = session.create_physical_expr(condition, &schema).unwrap();
        let (want, _) = table.rows(&condition, false).await;
        let (found, left_out) = table.rows(&condition, true).await;
        assert_eq!(found, want, "{text}");
        assert_eq!(left_out, pruned, "{text}");
    }
    for (first, _) in simple {
        for (second, _) in simple {
            let text = format!("NOT ({first}) OR ({second}) AND i < 15");
            let condition = session.create_physical_expr(session.parse_sql_expr(&text, &schema).unwrap(), &schema).unwrap();
            assert_eq!(table.rows(&condition, true).await.0, table.rows(&condition, false).await.0, "{text}");
        }
    }
}

#[tokio::test]
async fn what_is_learnt_while_rows_are_read_leaves_out_the_rest() {
    let table = Table::new().await;
    let column = || Arc::new(Column::new("i", 1)) as Arc<dyn PhysicalExpr>;
    let learnt = Arc::new(DynamicFilterPhysicalExpr::new(vec![column()], lit(true)));
    let scan = prepare_scans(table.scan(Some(&(Arc::clone(&learnt) as _))), &table.runtime).unwrap();
    let mut rows = execute_stream(scan, table.context()).unwrap();
    let first = rows.next().await.unwrap().unwrap();
    let none = datafusion::physical_expr::expressions::is_null(lit(ScalarValue::Int64(Some(1)))).unwrap();
    learnt.update(none).unwrap();
    let more: Vec<_> = rows.try_collect().await.unwrap();
    // One stripe was on its way.
    let counts = [&first].into_iter().chain(&more).map(RecordBatch::num_rows).collect::<Vec<_>>();
    assert_eq!(counts, [STRIPE_ROWS, STRIPE_ROWS]);
}
