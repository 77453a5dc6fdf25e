use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{JoinType, NullEquality, ScalarValue, SplitPoint};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{CsvSource, FileGroup, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, RangePartitioning};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::joins::PartitionMode;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use super::*;

type Plan = Arc<dyn ExecutionPlan>;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true)]))
}

fn config(source: Arc<dyn FileSource>, groups: usize) -> FileScanConfig {
    let groups = (0..groups).map(|group| FileGroup::new(vec![PartitionedFile::new(format!("{group}.parquet"), 100)])).collect();
    FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source).with_file_groups(groups).build()
}

fn scan(groups: usize) -> Plan {
    DataSourceExec::from_data_source(config(Arc::new(ParquetSource::new(schema())), groups))
}

fn hash(input: Plan) -> Plan {
    let key = col("k", &input.schema()).unwrap();
    Arc::new(RepartitionExec::try_new(input, Partitioning::Hash(vec![key], 2)).unwrap())
}

fn grouped(mode: AggregateMode, input: Plan) -> Plan {
    let key = (col("k", &input.schema()).unwrap(), "k".to_owned());
    let schema = input.schema();
    Arc::new(AggregateExec::try_new(mode, PhysicalGroupBy::new_single(vec![key]), vec![], vec![], input, schema).unwrap())
}

fn order() -> LexOrdering {
    LexOrdering::new([PhysicalSortExpr::new(col("k", &schema()).unwrap(), SortOptions::default())]).unwrap()
}

fn sort(input: Plan) -> Plan {
    Arc::new(SortExec::new(order(), input).with_preserve_partitioning(true))
}

fn limited(input: Plan) -> Plan {
    input.with_fetch(Some(10)).unwrap()
}

fn joined(build: Plan, probe: Plan) -> Plan {
    let key = || col("k", &schema()).unwrap();
    let (on, mode) = (vec![(key(), key())], PartitionMode::CollectLeft);
    let join = HashJoinExec::try_new(build, probe, on, None, &JoinType::Inner, None, mode, NullEquality::NullEqualsNothing, false);
    Arc::new(join.unwrap())
}

#[test]
fn what_counts_on_the_scan_alone_is_one_task() {
    use AggregateMode::{FinalPartitioned, Partial, Single, SinglePartitioned};
    for plan in [
        grouped(Single, scan(1)),
        grouped(SinglePartitioned, scan(1)),
        grouped(FinalPartitioned, grouped(Partial, scan(1))),
        // No planner cuts at a round robin.
        grouped(Single, Arc::new(RepartitionExec::try_new(scan(1), Partitioning::RoundRobinBatch(1)).unwrap())),
        joined(scan(1), scan(2)),
        Arc::new(SortExec::new(order(), scan(1))),
    ] {
        assert!(needs_one_task(&plan), "{plan:?}");
    }
    for plan in [
        scan(1),
        scan(3),
        hash(scan(3)),
        grouped(Partial, scan(3)),
        grouped(FinalPartitioned, hash(grouped(Partial, scan(3)))),
        grouped(Single, Arc::new(CoalescePartitionsExec::new(scan(3)))),
        joined(Arc::new(CoalescePartitionsExec::new(scan(3))), scan(3)),
        sort(scan(3)),
    ] {
        assert!(!needs_one_task(&plan), "{plan:?}");
    }
}

#[test]
fn a_limit_that_nothing_repeats_is_one_task() {
    for plan in [limited(scan(1)), limited(sort(scan(1))), Arc::new(LocalLimitExec::new(scan(1), 10))] {
        assert!(needs_one_task(&plan), "{plan:?}");
    }
    for plan in [limited(scan(2)), limited(sort(scan(2))), limited(Arc::new(CoalescePartitionsExec::new(scan(2))))] {
        assert!(!needs_one_task(&plan), "{plan:?}");
    }
}

#[test]
fn order_that_survives_an_exchange_is_one_task() {
    assert!(needs_one_task(&hash(sort(scan(1)))));
    assert!(!needs_one_task(&hash(sort(scan(2)))), "several partitions lose their order in the exchange itself");
}

#[test]
fn files_that_cannot_be_sliced_are_one_task() {
    let mut declared = config(Arc::new(ParquetSource::new(schema())), 2);
    declared.output_partitioning = Some(Partitioning::RoundRobinBatch(2));
    for scan in [declared, config(Arc::new(CsvSource::new(schema())), 2)] {
        assert!(needs_one_task(&(DataSourceExec::from_data_source(scan) as Plan)));
    }
}

#[test]
fn ranges_are_refused() {
    let split = SplitPoint::new(vec![ScalarValue::Int64(Some(7))]);
    let ranges = Partitioning::Range(RangePartitioning::try_new(order(), vec![split]).unwrap());
    let exchange: Plan = Arc::new(RepartitionExec::try_new(scan(2), ranges).unwrap());
    assert!(exchanges_otherwise(&(Arc::new(CoalescePartitionsExec::new(exchange)) as Plan)));
    assert!(!exchanges_otherwise(&hash(scan(2))));
}

#[test]
fn limits_are_applied_before_rows_are_broadcast() {
    let rule = |plan| LimitBeforeBroadcastRule.optimize(plan, &ConfigOptions::default()).unwrap();
    let merged = |limit| -> Plan { Arc::new(CoalescePartitionsExec::new(scan(2)).with_fetch(limit)) };
    let plan = rule(joined(merged(Some(10)), scan(2)));
    let build = plan.children()[0].downcast_ref::<GlobalLimitExec>().expect("a limit above the merge");
    assert_eq!((build.skip(), build.fetch()), (0, Some(10)));
    assert!(rule(joined(merged(None), scan(2))).children()[0].is::<CoalescePartitionsExec>());
}
