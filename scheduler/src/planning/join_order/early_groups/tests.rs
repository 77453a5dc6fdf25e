use datafusion::dataframe::DataFrame;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::prelude::{SessionContext, col};
use proptest::prelude::*;

use super::super::tests::{Columns, context, lines, on_deep_stack, optimized, register, table, told_rows, told_tables};
use super::*;

/// Ten million sales to a thousand customers in ten towns.
fn shop() -> SessionContext {
    let context = context(true);
    let tables: [(&str, usize, Columns); 3] = [
        ("sales", 10_000_000, &[("customer", 1, 1000), ("receipt", 1, 9_000_000), ("day", 1, 2000), ("amount", 1, 50)]),
        ("customers", 1000, &[("customer", 1, 1000), ("town", 1, 10), ("street", 1, 500)]),
        ("days", 2000, &[("day", 1, 2000), ("year", 1, 6)]),
    ];
    for (name, rows, columns) in tables {
        register(&context, name, Arc::new(table(&[], Some(rows), columns)));
    }
    context
}

/// The plan with early groups, and whether there are any.
fn early(context: &SessionContext, plan: LogicalPlan, limits: Limits) -> Result<(LogicalPlan, bool)> {
    let state = context.state();
    let (names, early) = (plan.schema().field_names(), with_early_groups(plan, limits)?);
    let plan = state.optimizer().optimize(early.data, &state, |_, _| {})?;
    assert_eq!(plan.schema().field_names(), names);
    Ok((plan, early.transformed))
}

#[tokio::test]
async fn rows_are_grouped_below_joins_that_keep_most() {
    let context = shop();
    let joined = "FROM sales s JOIN customers c ON s.customer = c.customer";
    for (sql, expected) in [
        (format!("SELECT town, sum(amount), count(*), min(s.day), avg(amount) {joined} GROUP BY town"), true),
        (format!("SELECT town, sum(amount) FILTER (WHERE amount > 3) {joined} JOIN days d ON s.day = d.day GROUP BY town"), true),
        (format!("SELECT count(receipt), max(amount) {joined}"), true),
        (format!("SELECT town, street, s.day / 365, sum(amount) {joined} GROUP BY ROLLUP (town, street, s.day / 365)"), true),
        ("SELECT town, sum(amount) FROM sales s LEFT JOIN customers c ON s.customer = c.customer GROUP BY town".to_owned(), true),
        // The other side of an outer join: a row that has no partner counts, too.
        ("SELECT town, count(amount) FROM sales s RIGHT JOIN customers c ON s.customer = c.customer GROUP BY town".to_owned(), false),
        // Too many groups, or columns of both sides.
        (format!("SELECT town, sum(amount) {joined} AND s.receipt > c.street GROUP BY town"), false),
        (format!("SELECT receipt, town, sum(amount) {joined} GROUP BY receipt, town"), false),
        (format!("SELECT town, sum(amount + street) {joined} GROUP BY town"), false),
        // Some rows have no partner.
        (format!("SELECT town, sum(amount) {joined} AND street > 1 GROUP BY town"), false),
        (format!("SELECT town, sum(amount) {joined} AND c.customer IN (SELECT day FROM days) GROUP BY town"), false),
        // What needs all rows at once, could fail for some of them, or is different each time.
        (format!("SELECT town, count(DISTINCT amount) {joined} GROUP BY town"), false),
        (format!("SELECT town, stddev(amount) {joined} GROUP BY town"), false),
        (format!("SELECT town, array_agg(amount ORDER BY s.day) {joined} GROUP BY town"), false),
        (format!("SELECT town, sum(100 / amount) {joined} GROUP BY town"), false),
        (format!("SELECT town, sum(amount * random()) {joined} GROUP BY town"), false),
        // Nothing to join, or to sum.
        ("SELECT customer, sum(amount) FROM sales GROUP BY customer".to_owned(), false),
        (format!("SELECT DISTINCT town {joined}"), false),
    ] {
        let (plan, is_early) = early(&context, optimized(&context, &sql).await, Limits::default()).unwrap();
        assert_eq!(is_early, expected, "{sql}\n{plan}");
    }
}

#[tokio::test]
async fn the_first_step_is_above_joins_that_leave_rows_out() {
    let context = shop();
    let sql = "SELECT town, sum(amount) FROM sales s JOIN customers c ON s.customer = c.customer JOIN days d ON s.day = d.day
        WHERE year = 3 GROUP BY town";
    let (plan, is_early) = early(&context, optimized(&context, sql).await, Limits::default()).unwrap();
    let plan = plan.to_string();
    let (first, days) = (plan.rfind("Aggregate:").unwrap(), plan.find("days").unwrap());
    assert!(is_early && first < days && plan.matches("Aggregate:").count() == 2, "{plan}");
    // Done is done.
    let again = optimized(&context, sql).await;
    let (once, _) = early(&context, again, Limits::default()).unwrap();
    assert!(!with_early_groups(once, Limits::default()).unwrap().transformed);
}

#[test]
fn conditions_that_always_hold_leave_nothing_out() {
    let source = provider_as_source(Arc::new(table(&[], None, &[("a", 0, 0)])));
    for (filter, expected) in [(lit(true), false), (col("a").eq(lit(1i64)), true)] {
        let scan = LogicalPlanBuilder::scan_with_filters("t", Arc::clone(&source), None, vec![filter]).unwrap().build().unwrap();
        assert_eq!(leaves_rows_out(&scan), expected, "{scan}");
    }
}

/// A query that groups what joins give.
#[derive(Debug, Clone)]
struct Query {
    joins: usize,
    groups: usize,
    functions: Vec<usize>,
}

const JOINS: [&str; 9] = [
    "t0 x JOIN t1 y ON x.a = y.a",
    "t0 x JOIN t1 y ON x.a = y.a JOIN t2 z ON x.b = z.a",
    "t0 x JOIN t1 y ON x.a = y.a AND x.b < y.b JOIN t2 z ON y.b = z.b",
    "t0 x LEFT JOIN t1 y ON x.a = y.a AND x.b > 1",
    "t0 x RIGHT JOIN t1 y ON x.a = y.a",
    "t0 x FULL JOIN t1 y ON x.a = y.a",
    "t0 x CROSS JOIN t1 y",
    "t0 x JOIN (SELECT a, max(b) AS b FROM t1 GROUP BY a) y ON x.a + 1 = y.a",
    "t0 x JOIN t1 y ON (x.a IS NOT DISTINCT FROM y.a) AND x.b IN (SELECT a FROM t2)",
];

const GROUPS: [&str; 9] = [
    "()",
    "y.b",
    "x.a",
    "x.a, y.b",
    "x.a + 1, y.a",
    "x.a + y.a",
    "ROLLUP (x.b, y.b)",
    "GROUPING SETS ((x.a, y.b), (y.a), ())",
    "y.b % 2, x.b % 2",
];

const FUNCTIONS: [&str; 11] = [
    "sum(x.b)",
    "count(*)",
    "count(x.b)",
    "count(y.b)",
    "min(x.a)",
    "max(x.a + x.b)",
    "avg(x.b)",
    "sum(x.b) FILTER (WHERE x.a > 1)",
    "count(*) FILTER (WHERE x.b IS NULL)",
    "sum(CAST(x.a AS DECIMAL(9, 2)))",
    "count(DISTINCT x.b)",
];

impl Query {
    fn sql(&self) -> String {
        let (joins, groups) = (JOINS[self.joins], GROUPS[self.groups]);
        let functions = self.functions.iter().enumerate().map(|(number, function)| format!("{} AS f{number}", FUNCTIONS[*function]));
        let grouped = if groups == "()" { String::new() } else { format!(" GROUP BY {groups}") };
        format!("SELECT {} FROM {joins}{grouped}", functions.collect::<Vec<_>>().join(", "))
    }
}

fn queries() -> impl Strategy<Value = Query> {
    let functions = prop::collection::vec(0..FUNCTIONS.len(), 1..4);
    (0..JOINS.len(), 0..GROUPS.len(), functions).prop_map(|(joins, groups, functions)| Query { joins, groups, functions })
}

/// The rows of a query as they are, and with each aggregation in two steps that can be made so.
async fn both(context: &SessionContext, sql: &str) -> Result<[Vec<String>; 2]> {
    let always = Limits { rows_min: 0.0, groups_max: f64::INFINITY, kept_min: 0.0 };
    let plan = context.sql(sql).await?.into_optimized_plan()?;
    let (with, _) = early(context, plan.clone(), always)?;
    Ok([lines(&DataFrame::new(context.state(), plan).collect().await?), lines(&DataFrame::new(context.state(), with).collect().await?)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn early_groups_give_the_same_rows(
        data in prop::collection::vec(told_rows(), 3),
        query in queries(),
    ) {
        let (context, sql) = (told_tables(&data), query.sql());
        let text = sql.clone();
        match on_deep_stack(async move { both(&context, &text).await }) {
            Ok([without, with]) => prop_assert_eq!(with, without, "{}", sql),
            Err(error) => prop_assert!(false, "{error}\n{sql}"),
        }
    }
}
