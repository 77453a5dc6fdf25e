use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;

use crate::coordinator::tests::{Bench, bench};

/// Sales by day, in shops, with NULLs everywhere, and views over them.
async fn sales() -> Bench {
    let bench = bench().await;
    for sql in [
        "CREATE TABLE sales (shop BIGINT, item STRING, amount BIGINT, price DOUBLE) PARTITIONED BY (day STRING)",
        "CREATE TABLE shops (id BIGINT, town STRING)",
        "INSERT INTO shops VALUES (0, 'Ulm'), (1, 'Bonn'), (2, NULL), (2, 'Jena'), (NULL, 'Gera')",
        "INSERT INTO sales SELECT CASE WHEN value % 11 = 0 THEN NULL ELSE value % 4 END,
             CASE WHEN value % 7 = 0 THEN '' WHEN value % 5 = 0 THEN NULL ELSE 'i' || CAST(value % 3 AS STRING) END,
             CASE WHEN value % 13 = 0 THEN NULL ELSE value * 31 % 101 END, CAST(value % 17 AS DOUBLE) / 4,
             CASE WHEN value % 19 = 0 THEN NULL ELSE '2024-01-0' || CAST(value % 6 + 1 AS STRING) END FROM generate_series(1, 300)",
        "CREATE MATERIALIZED VIEW by_shop AS SELECT day, shop, item, sum(amount) AS total, count(amount) AS n, count(*) AS lines,
             min(amount) AS low, max(price) AS high, sum(price) AS worth, count(price) AS prices, avg(amount) AS mean,
             count(DISTINCT amount) AS kinds FROM sales WHERE price > 0.5 GROUP BY day, shop, item",
        "CREATE MATERIALIZED VIEW in_towns PARTITIONED BY (day) AS SELECT s.day AS day, town, sum(s.amount) AS total, count(*) AS n
             FROM sales s JOIN shops ON shops.id = s.shop GROUP BY s.day, town HAVING count(*) > 0",
        "CREATE MATERIALIZED VIEW joined AS SELECT s.day, s.item, s.amount, t.town FROM sales AS s, shops AS t WHERE s.shop = t.id",
        "CREATE MATERIALIZED VIEW whole AS SELECT sum(amount) AS total, count(*) AS n, min(item) AS first FROM sales",
        "CREATE MATERIALIZED VIEW left_joined AS SELECT item, town FROM sales LEFT JOIN shops ON shop = id",
        "CREATE MATERIALIZED VIEW by_item PARTITIONED BY (item) AS SELECT shop, sum(amount) AS total, item FROM sales GROUP BY shop, item",
        "CREATE VIEW dear AS SELECT * FROM sales WHERE price > 0.5",
    ] {
        bench.text(sql).await;
    }
    bench
}

/// Rows in order, and which views they were read from.
async fn answer(bench: &Bench, sql: &str, views: &str) -> (Vec<String>, String) {
    bench.session.set("windlass.use_materialized_views", views).unwrap();
    let text = bench.text(sql).await;
    let mut rows: Vec<_> = text.lines().skip(3).map(str::to_owned).collect();
    rows.sort();
    // Settings come before everything else.
    let (settings, query) = sql.split_at(sql.find("SELECT").unwrap());
    (rows, bench.text(&format!("{settings}EXPLAIN {query}")).await)
}

/// The rows are the same with and without views; whether one was read.
async fn is_answered(bench: &Bench, sql: &str) -> bool {
    let (expected, plain) = answer(bench, sql, "off").await;
    let (rows, plan) = answer(bench, sql, "on").await;
    assert_eq!(rows, expected, "{sql}\n{plan}");
    assert!(!plain.contains("materialized view"), "{sql}: {plain}");
    plan.contains("materialized view")
}

#[tokio::test]
async fn views_answer_what_they_hold_and_nothing_else() {
    let bench = sales().await;
    let answered = [
        // The definition itself, in other words.
        "SELECT shop AS s, sum(x.amount) FROM default.sales AS x WHERE 0.5 < x.price GROUP BY day, shop, item",
        "SELECT item, town FROM sales LEFT JOIN shops ON id = shop",
        "SELECT count(DISTINCT amount), avg(amount) FROM dear GROUP BY item, shop, day",
        // Fewer keys, further conditions on keys, keys computed of keys.
        "SELECT day, sum(amount), count(*), count(amount), min(amount), max(price), avg(price), avg(amount) FROM dear GROUP BY day",
        "SELECT substr(day, 1, 9), count(*) FROM dear WHERE shop IN (1, 2) AND item IS NOT NULL GROUP BY substr(day, 1, 9)",
        "SELECT sum(amount), count(*) FROM dear WHERE day = 'no such day'",
        "SELECT DISTINCT shop FROM dear",
        "SELECT shop, total FROM (SELECT shop, sum(amount) AS total FROM dear GROUP BY shop HAVING count(*) > 10) WHERE total > 5 ORDER BY 2",
        "SELECT sum(amount) + 1, count(*) FROM sales",
        "SELECT min(item) FROM sales",
        // Joins, whichever way round.
        "SELECT town, sum(amount) FROM shops JOIN sales ON shop = id GROUP BY town",
        "SELECT town, item, amount FROM shops, sales WHERE id = shop AND day > '2024-01-03' AND amount > 10",
        "SELECT town, max(amount), count(DISTINCT item) FROM shops, sales WHERE id = shop GROUP BY town",
        // Inside of other queries.
        "SELECT * FROM shops WHERE id IN (SELECT shop FROM dear GROUP BY shop HAVING sum(amount) > 100)",
        "SELECT day, count(*) FROM dear GROUP BY day UNION ALL SELECT item, 1 FROM dear GROUP BY item",
    ];
    for sql in answered {
        assert!(is_answered(&bench, sql).await, "{sql}");
    }
    let left_alone = [
        "SELECT day, sum(amount) FROM sales WHERE price > 0.6 GROUP BY day",
        "SELECT day, sum(price) FROM sales GROUP BY day",
        "SELECT shop, count(DISTINCT amount) FROM dear GROUP BY shop",
        "SELECT shop, sum(amount) FROM dear WHERE amount > 3 GROUP BY shop",
        "SELECT shop, stddev(amount) FROM dear GROUP BY shop",
        "SELECT item, town FROM sales RIGHT JOIN shops ON shop = id",
        "SELECT item, town FROM sales LEFT JOIN shops ON shop = id AND town = 'Ulm'",
        "SELECT town, sum(amount) FROM sales JOIN shops ON shop = id JOIN shops AS more USING (town) GROUP BY town",
        "SELECT sum(amount) FROM sales FOR VERSION AS OF 2",
        "SELECT item, count(*) FROM sales WHERE price > 0.5 AND random() < 2 GROUP BY item",
        // As partitions, texts without letters became NULL.
        "SELECT item, sum(amount) FROM sales GROUP BY item",
        "SELECT sum(amount) OVER (PARTITION BY shop) FROM sales",
        "/* datafusion.sql_parser.parse_float_as_decimal = true */ SELECT shop, sum(amount) FROM sales WHERE price > 0.5 GROUP BY shop",
    ];
    for sql in left_alone {
        assert!(!is_answered(&bench, sql).await, "{sql}");
    }
    let sql = "SELECT shop, sum(amount) FROM dear GROUP BY shop";
    assert!(is_answered(&bench, sql).await);
    bench.text("INSERT INTO sales VALUES (1, 'x', 1000, 9, '2024-01-01')").await;
    assert!(!is_answered(&bench, sql).await, "the view is stale");
    bench.text("REFRESH MATERIALIZED VIEW by_shop").await;
    assert!(is_answered(&bench, sql).await);
}

/// A query over the tables that the views are made of.
fn queries() -> impl Strategy<Value = String> {
    let keys = prop::sample::subsequence(vec!["day", "shop", "item", "substr(day, 1, 9)", "shop % 2"], 0..4);
    let aggregates = vec![
        "sum(amount)",
        "count(*)",
        "count(amount)",
        "min(amount)",
        "max(price)",
        "avg(price)",
        "avg(amount)",
        "count(price)",
        "count(DISTINCT amount)",
        "sum(amount) FILTER (WHERE shop = 1)",
        "max(item)",
    ];
    let aggregates = prop::sample::subsequence(aggregates, 1..4);
    let conditions = vec![
        "price > 0.5",
        "0.5 < price",
        "day > '2024-01-02'",
        "shop IS NULL",
        "item IN ('i1', '')",
        "amount < 50",
        "day = item",
        "1 = 0",
    ];
    let conditions = prop::sample::subsequence(conditions, 0..4);
    let from = prop::sample::select(vec!["sales", "dear", "sales JOIN shops ON shop = id", "shops, sales"]);
    let having = prop::sample::select(vec!["", " HAVING count(*) > 3", " HAVING sum(amount) > 100"]);
    (keys, aggregates, conditions, from, having).prop_map(|(keys, aggregates, mut conditions, from, having)| {
        if from == "shops, sales" {
            conditions.push("id = shop");
        }
        let condition = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
        let group = if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) };
        let columns = keys.iter().chain(&aggregates).copied().collect::<Vec<_>>().join(", ");
        format!("SELECT {columns} FROM {from}{condition}{group}{having}")
    })
}

#[test]
fn any_query_gives_the_same_rows_with_and_without() {
    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let bench = runtime.block_on(sales());
    let answered = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 150, failure_persistence: None, ..Config::default() });
    let run = runner.run(&queries(), |sql| {
        answered.set(answered.get() + usize::from(runtime.block_on(is_answered(&bench, &sql))));
        Ok(())
    });
    run.unwrap();
    assert!(answered.get() > 15, "views were read for {} queries only", answered.get());
}
