use datafusion::dataframe::DataFrame;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;

use super::super::tests::{Columns, context, lines, on_deep_stack, optimized, register, table, told_rows, told_tables};
use super::*;

/// Ten million sales of a hundred thousand parts, of which a brand has a hundred.
fn shop() -> SessionContext {
    let context = context(true);
    let tables: [(&str, usize, Columns); 3] = [
        ("sales", 10_000_000, &[("part", 1, 100_000), ("day", 1, 1000), ("amount", 1, 50)]),
        ("parts", 100_000, &[("part", 1, 100_000), ("brand", 1, 1000)]),
        ("days", 1000, &[("day", 1, 1000), ("week", 1, 150)]),
    ];
    for (name, rows, columns) in tables {
        register(&context, name, Arc::new(table(&[], Some(rows), columns)));
    }
    context
}

/// The plan with its groups narrowed, and whether there were any.
fn narrowed(context: &SessionContext, plan: LogicalPlan, limits: Limits) -> Result<(LogicalPlan, bool)> {
    let state = context.state();
    let narrowed = with_needed_groups(&state, plan, limits)?;
    Ok((state.optimizer().optimize(narrowed.data, &state, |_, _| {})?, narrowed.transformed))
}

#[tokio::test]
async fn groups_are_narrowed_where_no_other_is_wanted() {
    let context = shop();
    let few = "(SELECT part, avg(amount) AS mean FROM sales GROUP BY part) g";
    for (sql, expected) in [
        // A correlated subquery, and the same as joins of each kind.
        (
            "SELECT sum(s.amount) FROM sales s, parts p WHERE p.part = s.part AND brand = 7
                AND s.amount < (SELECT avg(amount) FROM sales WHERE part = p.part)"
                .to_owned(),
            true,
        ),
        (format!("SELECT * FROM parts p JOIN {few} ON p.part = g.part WHERE brand = 7"), true),
        (format!("SELECT * FROM (SELECT * FROM parts WHERE brand = 7) p LEFT JOIN {few} ON p.part = g.part"), true),
        (format!("SELECT * FROM (SELECT * FROM parts WHERE brand = 7) p RIGHT JOIN {few} ON p.part = g.part"), false),
        (format!("SELECT * FROM (SELECT * FROM parts WHERE brand = 7) p FULL JOIN {few} ON p.part = g.part"), false),
        ("SELECT * FROM parts WHERE brand = 7 AND part NOT IN (SELECT part FROM sales GROUP BY part HAVING count(*) > 9)".to_owned(), false),
        // The key is made in between.
        ("SELECT * FROM parts p JOIN (SELECT part + 1 AS next, count(*) FROM sales GROUP BY part) g ON p.part = g.next WHERE brand = 7".to_owned(), true),
        // Too many are wanted, or it is no less to read.
        (format!("SELECT * FROM parts p JOIN {few} ON p.part = g.part WHERE brand > 7"), false),
        (format!("SELECT * FROM (SELECT * FROM sales WHERE amount = 1 AND day = 2) p JOIN {few} ON p.part = g.part"), false),
        // Which groups there are depends on the others.
        ("SELECT * FROM parts p JOIN (SELECT part, count(*) AS n FROM sales GROUP BY part ORDER BY n LIMIT 9) g ON p.part = g.part WHERE brand = 7".to_owned(), false),
        ("SELECT * FROM parts p JOIN (SELECT part, rank() OVER (ORDER BY count(*)) FROM sales GROUP BY part) g ON p.part = g.part WHERE brand = 7".to_owned(), false),
        ("SELECT * FROM parts p JOIN (SELECT part, count(*) FROM sales GROUP BY ROLLUP (part)) g ON p.part = g.part WHERE brand = 7".to_owned(), false),
        // What is wanted is known by chance.
        (format!("SELECT * FROM (SELECT * FROM parts WHERE brand = 7 AND random() < 0.5) p JOIN {few} ON p.part = g.part"), false),
        (format!("SELECT * FROM (SELECT * FROM parts LIMIT 7) p JOIN {few} ON p.part = g.part"), false),
    ] {
        let (plan, is_narrowed) = narrowed(&context, optimized(&context, &sql).await, Limits::new(64 << 20)).unwrap();
        assert_eq!(is_narrowed, expected, "{sql}\n{plan}");
    }
}

#[tokio::test]
async fn the_key_reaches_the_relation_that_it_is_of() {
    let context = shop();
    // Weeks of sales: a day belongs to one week, so that the days are left out that are no days of the week.
    let sql = "SELECT * FROM days d JOIN (SELECT week, count(*) FROM sales JOIN days ON sales.day = days.day GROUP BY week) g
        ON d.week = g.week WHERE d.day = 7";
    let (plan, is_narrowed) = narrowed(&context, optimized(&context, sql).await, Limits::new(64 << 20)).unwrap();
    let plan = plan.to_string();
    let (inner, semi) = (plan.rfind("Inner Join").unwrap(), plan.find("LeftSemi Join").unwrap());
    assert!(is_narrowed && inner < semi, "{plan}");
}

/// A query that joins what some tables have with groups of others.
#[derive(Debug, Clone)]
struct Query {
    wanted: usize,
    groups: usize,
    link: usize,
    on: usize,
    condition: usize,
}

const WANTED: [&str; 9] = [
    "(SELECT a, b FROM t0)",
    "(SELECT a, b FROM t0 WHERE b = 1)",
    "(SELECT x.a, y.b FROM t0 x JOIN t1 y ON x.a = y.a)",
    "(SELECT x.a, y.b FROM t0 x LEFT JOIN t1 y ON x.a = y.a)",
    "(SELECT x.a, y.b FROM t0 x FULL JOIN t1 y ON x.b = y.a)",
    "(SELECT a, b FROM t0 WHERE a IN (SELECT b FROM t1))",
    "(SELECT a, max(b) AS b FROM t0 GROUP BY a)",
    "(SELECT a, b FROM t0 UNION ALL SELECT b, a FROM t1)",
    "(SELECT a, b + 1 AS b FROM t0 WHERE a IS NOT NULL)",
];

const GROUPS: [&str; 10] = [
    "(SELECT a, count(*) AS b FROM t2 GROUP BY a)",
    "(SELECT a, b FROM t2 GROUP BY a, b)",
    "(SELECT a, sum(b) AS b FROM t2 GROUP BY a HAVING count(*) > 1)",
    "(SELECT x.a, max(y.b) AS b FROM t2 x JOIN t3 y ON x.a = y.a GROUP BY x.a)",
    "(SELECT y.a, count(x.b) AS b FROM t2 x RIGHT JOIN t3 y ON x.a = y.a GROUP BY y.a)",
    "(SELECT y.a, count(x.b) AS b FROM t2 x LEFT JOIN t3 y ON x.a = y.a GROUP BY y.a)",
    "(SELECT a, count(DISTINCT b) AS b FROM (SELECT a, b FROM t2 UNION ALL SELECT b, a FROM t3) u GROUP BY a)",
    "(SELECT a, max(b) AS b FROM (SELECT a, b, count(*) FROM t2 GROUP BY a, b) u GROUP BY a)",
    "(SELECT a + 1 AS a, min(b) AS b FROM t2 GROUP BY a)",
    "(SELECT g.a, y.b FROM t3 y JOIN (SELECT a, count(*) AS n FROM t2 GROUP BY a) g ON y.b = g.a)",
];

const LINKS: [&str; 6] = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN", "LEFT ANTI JOIN"];

const ON: [&str; 5] =
    ["w.a = g.a", "w.a = g.a AND w.b = g.b", "w.a = g.b", "w.a = g.a AND w.b < g.b", "(w.a IS NOT DISTINCT FROM g.a) AND w.b = g.a"];

const CONDITIONS: [&str; 6] = [
    "true",
    "w.a < 3",
    "w.b < (SELECT avg(b) FROM t2 WHERE t2.a = w.a)",
    "w.b NOT IN (SELECT a FROM t3 WHERE a IS NOT NULL GROUP BY a)",
    "EXISTS (SELECT 1 FROM t3 WHERE t3.a = w.a GROUP BY a HAVING count(*) > 1)",
    "w.b = (SELECT count(*) FROM t3 WHERE t3.b = w.a)",
];

impl Query {
    fn sql(&self) -> String {
        let (wanted, groups, on) = (WANTED[self.wanted], GROUPS[self.groups], ON[self.on]);
        let (link, condition) = (LINKS[self.link], CONDITIONS[self.condition]);
        let columns = if link.ends_with("SEMI JOIN") || link.ends_with("ANTI JOIN") { "w.a, w.b" } else { "w.a AS c, w.b AS d, g.a, g.b" };
        format!("SELECT {columns} FROM {wanted} w {link} {groups} g ON {on} WHERE {condition}")
    }
}

fn queries() -> impl Strategy<Value = Query> {
    let numbers = (0..WANTED.len(), 0..GROUPS.len(), 0..LINKS.len(), 0..ON.len(), 0..CONDITIONS.len());
    numbers.prop_map(|(wanted, groups, link, on, condition)| Query { wanted, groups, link, on, condition })
}

/// The rows of a query as they are, and with all groups narrowed that may be.
async fn both(context: &SessionContext, sql: &str) -> Result<[Vec<String>; 2]> {
    let always = Limits { rows_min: 0.0, share_max: f64::INFINITY, rows_per_read_min: 0.0, bytes_max: f64::INFINITY };
    let plan = context.sql(sql).await?.into_optimized_plan()?;
    let (narrowed, _) = narrowed(context, plan.clone(), always)?;
    let [mut without, mut with] = [Vec::new(), Vec::new()];
    for (plan, rows) in [(plan, &mut without), (narrowed, &mut with)] {
        *rows = lines(&DataFrame::new(context.state(), plan).collect().await?);
    }
    Ok([without, with])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn narrowed_groups_give_the_same_rows(
        data in prop::collection::vec(told_rows(), 4),
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
