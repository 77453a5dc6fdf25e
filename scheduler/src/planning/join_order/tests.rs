use std::fmt::Write as _;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::{MemTable, TableType};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use tokio::runtime::Builder;

use super::*;
use crate::planning::estimates::with_estimates;

#[expect(clippy::disallowed_methods, reason = "these tests need statistics, not names")]
pub(in crate::planning) fn register(context: &SessionContext, name: &str, table: Arc<dyn TableProvider>) {
    context.register_table(name, table).unwrap();
}

/// Rows in memory, with statistics that need not be true.
#[derive(Debug)]
pub(in crate::planning) struct Told {
    rows: MemTable,
    statistics: Option<Statistics>,
}

#[async_trait]
impl TableProvider for Told {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.rows.scan(state, projection, filters, limit).await
    }

    fn statistics(&self) -> Option<Statistics> {
        self.statistics.clone()
    }
}

/// Columns of numbers: name, least and greatest value.
pub(in crate::planning) type Columns<'a> = &'a [(&'a str, i64, i64)];

pub(in crate::planning) fn table(rows: &[Vec<Option<i64>>], told: Option<usize>, columns: Columns) -> Told {
    let schema = Arc::new(Schema::new(columns.iter().map(|(name, ..)| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>()));
    let column = |index: usize| Arc::new(rows.iter().map(|row| row[index]).collect::<Int64Array>()) as _;
    let batch = RecordBatch::try_new(Arc::clone(&schema), (0..columns.len()).map(column).collect()).unwrap();
    let bounds = |(_, least, greatest): &(&str, i64, i64)| ColumnStatistics {
        min_value: Precision::Inexact(ScalarValue::Int64(Some(*least))),
        max_value: Precision::Inexact(ScalarValue::Int64(Some(*greatest))),
        ..ColumnStatistics::new_unknown()
    };
    let statistics = told.map(|rows| Statistics {
        num_rows: Precision::Inexact(rows),
        total_byte_size: Precision::Absent,
        column_statistics: columns.iter().map(bounds).collect(),
    });
    Told { rows: MemTable::try_new(schema, vec![vec![batch]]).unwrap(), statistics }
}

/// Ours wholly, which chooses the sides and modes of joins otherwise, too.
fn with_estimates_too(broadcast_bytes: usize) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(2).with_option_extension(WindlassOptions::default());
    config.options_mut().optimizer.hash_join_single_partition_threshold = broadcast_bytes;
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    SessionContext::new_with_state(with_estimates(with_join_order(builder)).build())
}

pub(in crate::planning) fn context(with_rule: bool) -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(2).with_option_extension(WindlassOptions::default());
    let builder = SessionStateBuilder::new().with_config(config).with_default_features();
    SessionContext::new_with_state(if with_rule { with_join_order(builder) } else { builder }.build())
}

/// Rows of `a` and `b`, and how many are told to be there.
pub(super) type ToldRows = (Vec<(Option<i64>, Option<i64>)>, usize);

/// Few rows, with NULLs and keys that come again, of a table that may be told to be large.
pub(super) fn told_rows() -> impl Strategy<Value = ToldRows> {
    let key = || prop::option::weighted(0.85, 0i64..4);
    (prop::collection::vec((key(), key()), 0..9), 1usize..1_000_000)
}

/// Tables `t0`, `t1` and so on.
pub(super) fn told_tables(data: &[ToldRows]) -> SessionContext {
    let context = context(true);
    for (number, (rows, told)) in data.iter().enumerate() {
        let rows: Vec<_> = rows.iter().map(|(a, b)| vec![*a, *b]).collect();
        let table = table(&rows, Some(*told), &[("a", 0, *told as i64), ("b", 0, 1 + *told as i64 / 10)]);
        register(&context, &format!("t{number}"), Arc::new(table));
    }
    context
}

/// DataFusion recurses over plans; a test's own thread has a small stack.
pub(in crate::planning) fn on_deep_stack<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let threads = Builder::new_multi_thread().worker_threads(1).thread_stack_size(32 << 20).enable_all().build().unwrap();
    threads.block_on(threads.spawn(work)).unwrap()
}

/// DataFusion's own rule for cross joins is wrong: it makes `=` of `IS NOT DISTINCT FROM`.
fn without_orders() -> SessionContext {
    let mut rules = Optimizer::default().rules;
    rules.retain(|rule| rule.name() != REPLACED);
    let config = SessionConfig::new().with_target_partitions(2);
    SessionContext::new_with_state(
        SessionStateBuilder::new().with_config(config).with_default_features().with_optimizer_rules(rules).build(),
    )
}

#[test]
fn the_rule_takes_the_place_of_datafusions() {
    let names = |with_rule| context(with_rule).state().optimizers().iter().map(|rule| rule.name().to_owned()).collect::<Vec<_>>();
    let expected = names(false).into_iter().map(|name| if name == REPLACED { JoinOrderRule.name().to_owned() } else { name });
    assert_eq!(names(true), expected.collect::<Vec<_>>());
    assert!(names(false).contains(&REPLACED.to_owned()));
}

/// A star: a fact of a million rows, a date of which a year is wanted, a large and a small dimension.
fn star() -> SessionContext {
    let context = context(true);
    let tables: [(&str, usize, Columns); 4] = [
        ("fact", 1_000_000, &[("day", 1, 2000), ("item", 1, 100_000), ("shop", 1, 10), ("amount", 1, 100)]),
        ("days", 2000, &[("day", 1, 2000), ("year", 1, 200)]),
        ("items", 100_000, &[("item", 1, 100_000), ("size", 1, 50)]),
        ("shops", 10, &[("shop", 1, 10), ("area", 1, 3)]),
    ];
    for (name, rows, columns) in tables {
        register(&context, name, Arc::new(table(&[], Some(rows), columns)));
    }
    context
}

pub(in crate::planning) async fn optimized(context: &SessionContext, sql: &str) -> LogicalPlan {
    context.sql(sql).await.unwrap().into_optimized_plan().unwrap()
}

/// Tables of a plan from the first that is read to the last.
fn tables(plan: &LogicalPlan) -> Vec<String> {
    let mut tables = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            tables.push(scan.table_name.table().to_owned());
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .unwrap();
    tables
}

#[tokio::test]
async fn a_selective_dimension_comes_first_and_columns_stay() {
    let context = star();
    let sql = "SELECT * FROM fact JOIN items ON fact.item = items.item JOIN days ON fact.day = days.day WHERE year = 7";
    let plan = optimized(&context, sql).await;
    assert_eq!(tables(&plan), ["days", "fact", "items"], "{plan}");
    let names: Vec<String> = plan.schema().columns().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["fact.day", "fact.item", "fact.shop", "fact.amount", "items.item", "items.size", "days.day", "days.year"]);
    // What was ordered is in order.
    assert!(!JoinOrderRule.rewrite(plan.clone(), &context.state()).unwrap().transformed, "{plan}");
    assert_eq!(context.state().optimize(&plan).unwrap(), plan);
    context.sql("SET windlass.join_order = written").await.unwrap();
    assert_eq!(tables(&optimized(&context, sql).await), ["fact", "items", "days"]);
}

#[tokio::test]
async fn a_semi_join_moves_below_other_joins() {
    let context = star();
    let sql = "SELECT amount FROM fact JOIN items ON fact.item = items.item
        WHERE EXISTS (SELECT 1 FROM days WHERE days.day = fact.day AND year = 7)";
    let plan = optimized(&context, sql).await.to_string();
    let (inner, semi) = (plan.find("Inner Join").unwrap(), plan.find("LeftSemi Join").unwrap());
    assert!(inner < semi, "{plan}");
}

#[tokio::test]
async fn products_under_conditions_become_joins() {
    let context = star();
    for sql in [
        "SELECT amount FROM fact, items WHERE fact.item = items.item",
        "SELECT amount FROM items, days, fact WHERE fact.item = items.item AND days.day = fact.day",
        // An equality in every branch, written either way round.
        "SELECT amount FROM fact, items WHERE (fact.item = items.item AND size = 1 AND shop = 2)
            OR (items.item = fact.item AND size = 3 AND shop = 4)",
    ] {
        let plan = optimized(&context, sql).await.to_string();
        assert!(!plan.contains("Cross Join") && plan.contains("Inner Join: "), "{sql}:\n{plan}");
        assert!(!plan.contains("Inner Join:  Filter"), "{sql}:\n{plan}");
    }
}

#[tokio::test]
async fn columns_equal_to_the_same_column_are_equal() {
    let context = star();
    // The year leaves few days, and through them few shops: no condition is between these two.
    let sql = "SELECT amount FROM fact, shops, days WHERE fact.day = days.day AND fact.day = shops.shop AND year = 7";
    let plan = optimized(&context, sql).await;
    assert_eq!(*tables(&plan).last().unwrap(), "fact", "{plan}");
    assert!(plan.to_string().contains("days.day = shops.shop") || plan.to_string().contains("shops.shop = days.day"), "{plan}");
    // A join compares one column of each class, so that others of the same relation are compared before.
    let sql = "SELECT amount FROM fact, items WHERE fact.item = items.item AND fact.shop = items.item AND amount = 3";
    let plan = optimized(&context, sql).await.to_string();
    assert!(plan.contains("fact.shop = fact.item") || plan.contains("fact.item = fact.shop"), "{plan}");
}

#[tokio::test]
async fn without_statistics_the_written_order_stays() {
    let context = context(true);
    for name in ["p", "q", "r"] {
        register(&context, name, Arc::new(table(&[], None, &[("a", 0, 0), ("b", 0, 0)])));
    }
    // With parentheses too, which DataFusion's own rule takes away.
    for (sql, expected) in [
        ("SELECT 1 FROM p JOIN q ON p.a = q.a JOIN r ON q.b = r.b", ["p", "q", "r"]),
        ("SELECT 1 FROM r JOIN (q JOIN p ON p.a = q.a) ON q.b = r.b", ["r", "q", "p"]),
        ("SELECT 1 FROM p, r, q WHERE p.a = q.a AND q.b = r.b", ["p", "q", "r"]),
    ] {
        assert_eq!(tables(&optimized(&context, sql).await), expected, "{sql}");
    }
}

#[tokio::test]
async fn joins_under_volatile_conditions_stay_where_they_are() {
    let context = star();
    for (condition, expected) in [("size > 0", ["days", "fact", "items"]), ("random() < 0.5", ["fact", "items", "days"])] {
        let sql = format!(
            "SELECT amount FROM fact JOIN items ON fact.item = items.item AND {condition} JOIN days ON fact.day = days.day AND year = 7"
        );
        // As resolved: later DataFusion's own rules move the condition to a table.
        let plan = context.sql(&sql).await.unwrap().logical_plan().clone();
        let plan = context.state().analyzer().execute_and_check(plan, context.state().config_options(), |_, _| {}).unwrap();
        let plan = JoinOrderRule.rewrite(plan, &context.state()).unwrap().data;
        assert_eq!(tables(&plan), expected, "{plan}");
    }
}

/// Queries of tables `t0` to `t4`, whose columns are `a` and `b`.
#[derive(Debug, Clone)]
struct Query {
    /// Tables of the first table's chain of joins, then others after commas.
    from: Vec<(usize, Link, Condition, Condition)>,
    conditions: Vec<(u8, Condition)>,
}

#[derive(Debug, Clone, Copy)]
enum Link {
    Comma,
    Inner,
    Left,
    Right,
    Full,
    Grouped,
}

/// Numbers from which a condition is made.
type Condition = (u8, usize, usize, bool, bool);

impl Query {
    fn sql(&self) -> String {
        let (mut from, mut first) = (String::new(), 0);
        for (number, (table, link, on, more)) in self.from.iter().enumerate() {
            let relation = match link {
                Link::Grouped => format!("(SELECT a, max(b) AS b FROM t{table} GROUP BY a) x{number}"),
                _ => format!("t{table} x{number}"),
            };
            let word = match link {
                _ if number == 0 => "",
                Link::Comma => ", ",
                Link::Inner | Link::Grouped => " JOIN ",
                Link::Left => " LEFT JOIN ",
                Link::Right => " RIGHT JOIN ",
                Link::Full => " FULL JOIN ",
            };
            write!(from, "{word}{relation}").unwrap();
            if number == 0 || matches!(link, Link::Comma) {
                // Conditions of a chain see the tables of this chain only.
                first = number;
                continue;
            }
            let chain = first..number;
            let other = |pick: usize| chain.start + pick % chain.len();
            write!(from, " ON {}", equality(number, other(on.1), on)).unwrap();
            if more.0 % 3 == 0 {
                write!(from, " AND {}", condition(more.0, number, other(more.1), more)).unwrap();
            }
        }
        let count = self.from.len();
        let conditions = self.conditions.iter().map(|(kind, numbers)| {
            let (left, right) = (numbers.1 % count, numbers.2 % count);
            let (a, b) = (column(left, numbers.3), column(right, numbers.4));
            let table = format!("t{}", numbers.2 % 5);
            match kind % 12 {
                0..=3 => equality(left, right, numbers),
                4 => condition(numbers.0, left, right, numbers),
                5 => format!("EXISTS (SELECT 1 FROM {table} y WHERE y.a = {a})"),
                6 => format!("NOT EXISTS (SELECT 1 FROM {table} y WHERE y.b = {a} AND y.a <> {b})"),
                7 => format!("{a} IN (SELECT b FROM {table})"),
                8 => format!("{a} NOT IN (SELECT b FROM {table} WHERE b IS NOT NULL)"),
                9 => format!("{a} >= (SELECT min(a) FROM {table})"),
                10 => format!("(({a} = {b} AND {a} > 1) OR ({b} = {a} AND {b} < 1))"),
                _ => format!("{a} = (SELECT max(y.b) FROM {table} y WHERE y.a = {b})"),
            }
        });
        let conditions: Vec<String> = conditions.collect();
        let filter = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let columns: Vec<String> = (0..count).map(|number| format!("x{number}.a AS a{number}, x{number}.b AS b{number}")).collect();
        format!("SELECT {} FROM {from}{filter}", columns.join(", "))
    }
}

fn column(relation: usize, is_a: bool) -> String {
    format!("x{relation}.{}", if is_a { "a" } else { "b" })
}

fn equality(left: usize, right: usize, (kind, _, _, left_a, right_a): &Condition) -> String {
    let (left, right) = (column(left, *left_a), column(right, *right_a));
    match kind % 8 {
        0 => format!("{left} IS NOT DISTINCT FROM {right}"),
        1 => format!("{left} + 1 = {right}"),
        _ => format!("{left} = {right}"),
    }
}

fn condition(kind: u8, left: usize, right: usize, (_, _, _, left_a, right_a): &Condition) -> String {
    let (left, right) = (column(left, *left_a), column(right, *right_a));
    match kind % 7 {
        0 => format!("{left} < {right}"),
        1 => format!("{left} IS NULL"),
        2 => format!("{left} + {right} = 3"),
        3 => format!("coalesce({left}, 2) = 2"),
        4 => format!("({left} = {right} OR {left} = 1)"),
        5 => format!("{left} BETWEEN 1 AND 2"),
        _ => format!("{left} <> {right}"),
    }
}

fn queries() -> impl Strategy<Value = Query> {
    let links = prop_oneof![
        4 => Just(Link::Comma),
        4 => Just(Link::Inner),
        3 => Just(Link::Left),
        1 => Just(Link::Right),
        1 => Just(Link::Full),
        1 => Just(Link::Grouped),
    ];
    let condition = || (any::<u8>(), 0usize..8, 0usize..8, any::<bool>(), any::<bool>());
    let from = prop::collection::vec((0usize..5, links, condition(), condition()), 2..7);
    let conditions = prop::collection::vec((any::<u8>(), condition()), 1..6);
    (from, conditions).prop_map(|(from, conditions)| Query { from, conditions })
}

async fn rows(context: &SessionContext, sql: &str) -> Result<Vec<String>> {
    Ok(lines(&context.sql(sql).await?.collect().await?))
}

/// Rows as text, in order.
pub(in crate::planning) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::new().with_null("-");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        rows.extend((0..batch.num_rows()).map(|row| columns.iter().map(|column| format!("{} ", column.value(row))).collect::<String>()));
    }
    rows.sort_unstable();
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_order_side_and_mode_gives_the_rows_of_the_written_one(
        data in prop::collection::vec(
            (prop::collection::vec((prop::option::weighted(0.85, 0i64..4), prop::option::weighted(0.85, 0i64..4)), 0..7), 1usize..1_000_000),
            5,
        ),
        query in queries(),
        broadcast_bytes in 0usize..200,
    ) {
        let contexts = [with_estimates_too(broadcast_bytes), without_orders()];
        for (number, (rows, told)) in data.iter().enumerate() {
            let rows: Vec<_> = rows.iter().map(|(a, b)| vec![*a, *b]).collect();
            for context in &contexts {
                // Statistics that are not true lead to every order.
                let table = table(&rows, Some(*told), &[("a", 0, *told as i64), ("b", 0, 1 + *told as i64 / 10)]);
                register(context, &format!("t{number}"), Arc::new(table));
            }
        }
        let sql = query.sql();
        let [with, without] = contexts;
        let text = sql.clone();
        match on_deep_stack(async move { (rows(&with, &text).await, rows(&without, &text).await) }) {
            (Ok(found), Ok(expected)) => prop_assert_eq!(found, expected, "{}", sql),
            // A few shapes of subqueries are not supported, with and without the rule.
            (found, Err(_)) => prop_assume!(found.is_err(), "{}", sql),
            (Err(error), Ok(_)) => prop_assert!(false, "{error}\n{sql}"),
        }
    }
}
