use datafusion::dataframe::DataFrame;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::*;
use crate::planning::join_order::tests::{context, lines, on_deep_stack, register, table};

async fn with_tables(data: &[Vec<(Option<i64>, Option<i64>)>]) -> SessionContext {
    let context = context(true);
    for (number, rows) in data.iter().enumerate() {
        let rows: Vec<_> = rows.iter().map(|(a, b)| vec![*a, *b]).collect();
        register(&context, &format!("t{number}"), Arc::new(table(&rows, None, &[("a", 0, 0), ("b", 0, 0)])));
    }
    context
}

/// How often a plan reads tables.
fn scans(plan: &LogicalPlan) -> usize {
    tables(plan).len()
}

#[tokio::test]
async fn same_rows_are_read_once() {
    let context = with_tables(&[vec![], vec![]]).await;
    for (sql, before, after) in [
        (
            "SELECT (SELECT count(*) FROM t0 WHERE a = 1) AS p, (SELECT max(b) + 1 FROM t0 WHERE a = 2) AS q, (SELECT sum(b) FROM t0) AS r",
            3,
            1,
        ),
        ("SELECT CASE WHEN (SELECT count(*) FROM t0) > 1 THEN (SELECT min(a) FROM t0) END FROM t1", 3, 2),
        (
            "SELECT x.n, y.n FROM (SELECT count(*) AS n FROM t0 WHERE a > 1) x, (SELECT count(DISTINCT a), count(b) AS n FROM t0) y, t1",
            3,
            2,
        ),
        // What the conditions have in common joins the tables.
        (
            "SELECT * FROM (SELECT count(*) AS n FROM t0, t1 WHERE t0.a = t1.a AND t0.b < 3) x,
                (SELECT sum(t1.b) AS s FROM t0, t1 WHERE t0.b >= 3 AND t0.a = t1.a) y",
            4,
            2,
        ),
        // Other tables, other rows, none or many rows, rows by chance, and what depends on the row.
        ("SELECT (SELECT count(*) FROM t0) AS p, (SELECT count(*) FROM t1) AS q", 2, 2),
        ("SELECT (SELECT count(*) FROM t0) AS p, (SELECT count(*) FROM (SELECT a FROM t0 LIMIT 2) v) AS q", 2, 2),
        ("SELECT (SELECT max(b) FROM t0 GROUP BY a) AS p, (SELECT count(*) FROM t0) AS q", 2, 2),
        ("SELECT (SELECT count(*) FROM t0 WHERE random() < 0.5) AS p, (SELECT count(*) FROM t0) AS q", 2, 2),
        ("SELECT (SELECT count(*) FROM t0 WHERE t0.a = t1.a) AS p, (SELECT max(b) FROM t0 WHERE t0.a = t1.a) AS q FROM t1", 3, 3),
        ("SELECT (SELECT count(*) FROM t0 WHERE a IN (SELECT b FROM t1)) AS p, (SELECT count(*) FROM t0) AS q", 3, 3),
        // Computed for rows of the other part, too, it could fail.
        ("SELECT (SELECT sum(10 / a) + avg(10 / a) FROM t0 WHERE a <> 0) AS p, (SELECT count(*) FROM t0 WHERE a = 0) AS q", 2, 2),
        ("SELECT (SELECT sum(10 * a + 1) FROM t0 WHERE a <> 0) AS p, (SELECT count(*) FROM t0 WHERE a = 0) AS q", 2, 1),
        // Alone, different values are found by all tasks together.
        ("SELECT (SELECT count(DISTINCT a) FROM t0 WHERE b = 1) AS p, (SELECT count(DISTINCT a) FROM t0 WHERE b = 2) AS q", 2, 2),
    ] {
        let plan = context.sql(sql).await.unwrap().logical_plan().clone();
        assert_eq!(scans(&plan), before, "{sql}");
        let merged = in_one_pass(plan.clone()).unwrap();
        assert_eq!(scans(&merged), after, "{sql}\n{merged}");
        assert!(merged.schema().iter().map(|(_, field)| field.name()).eq(plan.schema().iter().map(|(_, field)| field.name())), "{sql}");
        assert_eq!(scans(&in_one_pass(merged).unwrap()), after, "{sql}");
    }
}

const FUNCTIONS: [&str; 8] = [
    "count(*)",
    "sum(b) + 1",
    "min(x.a)",
    "avg(b) FILTER (WHERE a > 1)",
    "count(b)",
    "count(*) - count(DISTINCT b)",
    "coalesce(max(a), -1)",
    "sum(a) * count(*)",
];

const ROWS: [&str; 6] = [
    "t0 x",
    "t0 x WHERE a = 1",
    "t0 x WHERE a > b OR b IS NULL",
    "t0 x WHERE a > 0 AND b < 3",
    "t0 x WHERE b < 3 AND a IN (1, 2) AND a > 0",
    "t1 x",
];

/// One subquery: its function and its rows.
type Value = (usize, usize);

fn subquery((function, rows): &Value) -> String {
    format!("(SELECT {} AS v FROM {})", FUNCTIONS[*function], ROWS[*rows])
}

/// A query of values in one list, or of factors.
fn sql(values: &[Value], factors: &[Value], in_case: bool) -> String {
    let values: Vec<String> = values.iter().map(subquery).collect();
    let mut columns: Vec<String> = values.iter().enumerate().map(|(number, value)| format!("{value} AS s{number}")).collect();
    if let ([first, second, ..], true) = (&values[..], in_case) {
        columns.push(format!("CASE WHEN {first} > 1 THEN {second} ELSE a END AS s"));
    }
    columns.push("a AS own".to_owned());
    columns.extend((0..factors.len()).map(|number| format!("f{number}.v AS v{number}")));
    let from = factors.iter().enumerate().map(|(number, factor)| format!(", {} f{number}", subquery(factor)));
    format!("SELECT {} FROM t1{}", columns.join(", "), from.collect::<String>())
}

/// The rows of a query as it is, and with one pass for several.
async fn both(context: &SessionContext, sql: &str) -> Result<[Vec<String>; 2]> {
    let plan = context.sql(sql).await?.logical_plan().clone();
    let merged = in_one_pass(plan.clone())?;
    Ok([lines(&DataFrame::new(context.state(), plan).collect().await?), lines(&DataFrame::new(context.state(), merged).collect().await?)])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn one_pass_gives_the_same_values(
        data in prop::collection::vec(
            prop::collection::vec((prop::option::weighted(0.85, 0i64..4), prop::option::weighted(0.85, 0i64..4)), 0..9),
            2,
        ),
        values in prop::collection::vec((0..FUNCTIONS.len(), 0..ROWS.len()), 0..4),
        factors in prop::collection::vec((0..FUNCTIONS.len(), 0..ROWS.len()), 0..4),
        in_case in any::<bool>(),
    ) {
        let sql = sql(&values, &factors, in_case);
        let text = sql.clone();
        match on_deep_stack(async move { both(&with_tables(&data).await, &text).await }) {
            Ok([without, with]) => prop_assert_eq!(with, without, "{}", sql),
            Err(error) => prop_assert!(false, "{error}\n{sql}"),
        }
    }
}
