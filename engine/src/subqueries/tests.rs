//! Every place and every shape, with NULLs on both sides.

use std::sync::Arc;

use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;

use crate::session::{session_config, state_builder};

const TABLES: &str = "WITH t(x, k) AS (VALUES (1, 1), (3, 2), (NULL, 3)),
    plain(v) AS (VALUES (1), (2)), nulls(v) AS (VALUES (1), (NULL)), empty(v) AS (SELECT v FROM plain WHERE v > 9),
    s(v, w) AS (VALUES (1, 1), (2, 1), (NULL, 2), (5, 4))";

/// What a query over the tables gives, its values of each row in one line.
async fn rows(sql: &str) -> Result<Vec<String>, datafusion::error::DataFusionError> {
    let context = SessionContext::new_with_state(state_builder(session_config(2), Arc::new(RuntimeEnv::default())).build());
    let batches = context.sql(&format!("{TABLES} {sql}")).await?.collect().await?;
    let shown = pretty_format_batches(&batches)?.to_string();
    let rows = shown.lines().skip(3).filter(|line| line.starts_with('|'));
    let values = |row: &str| {
        let values = row.trim_matches('|').split('|').map(str::trim);
        values.map(|value| if value.is_empty() { "-" } else { value }).collect::<Vec<_>>().join(" ")
    };
    Ok(rows.map(values).collect())
}

/// For each x of 1, 3, NULL: t, f or - for NULL.
async fn values(expr: &str) -> String {
    let sql = format!("SELECT {expr} AS b, k FROM t ORDER BY k");
    let rows = rows(&sql).await.unwrap_or_else(|error| panic!("{expr}: {error}"));
    rows.iter().filter_map(|row| row.chars().next()).collect()
}

#[tokio::test]
async fn values_are_three_valued() {
    for (expr, expected) in [
        ("x IN (SELECT v FROM plain)", "tf-"),
        ("x IN (SELECT v FROM nulls)", "t--"),
        ("x IN (SELECT v FROM empty)", "fff"),
        ("x NOT IN (SELECT v FROM plain)", "ft-"),
        ("x NOT IN (SELECT v FROM nulls)", "f--"),
        ("x NOT IN (SELECT v FROM empty)", "ttt"),
        ("k IN (SELECT v FROM plain)", "ttf"),
        ("x IN (SELECT v FROM s WHERE w = k)", "t-f"),
        ("x NOT IN (SELECT v FROM s WHERE w = k)", "f-t"),
        ("EXISTS (SELECT 1 FROM plain)", "ttt"),
        ("NOT EXISTS (SELECT 1 FROM empty)", "ttt"),
        ("EXISTS (SELECT 1 FROM s WHERE w = k)", "ttf"),
        ("NOT EXISTS (SELECT 1 FROM s WHERE w > k)", "fff"),
        ("EXISTS (SELECT max(v) FROM s WHERE w = k)", "ttt"),
        ("x = ANY (SELECT v FROM nulls)", "t--"),
        ("x <> ALL (SELECT v FROM plain)", "ft-"),
        ("x > ALL (SELECT v FROM plain)", "ft-"),
        ("x > ALL (SELECT v FROM nulls)", "f--"),
        ("x > ALL (SELECT v FROM empty)", "ttt"),
        ("x >= ALL (SELECT v FROM plain WHERE v = 1)", "tt-"),
        ("x < ANY (SELECT v FROM plain)", "tf-"),
        ("x > ANY (SELECT v FROM nulls)", "-t-"),
        ("x > ANY (SELECT v FROM empty)", "fff"),
        ("x = ALL (SELECT v FROM plain)", "ff-"),
        ("x <> ANY (SELECT v FROM plain)", "tt-"),
        ("x > ALL (SELECT v FROM s WHERE w = k)", "f-t"),
        ("x <= ANY (SELECT v FROM s WHERE w > k)", "tt-"),
        ("x = ALL (SELECT max(v) FROM s WHERE w = k)", "f--"),
        ("0 IN (SELECT count(*) FROM s WHERE w = k)", "fft"),
        ("CASE WHEN x IN (SELECT v FROM nulls) THEN true WHEN x NOT IN (SELECT v FROM nulls) THEN false END", "t--"),
        ("(x IN (SELECT v FROM nulls)) IS NULL", "ftt"),
    ] {
        assert_eq!(values(expr).await, expected, "{expr}");
    }
}

#[tokio::test]
async fn subqueries_stand_wherever_expressions_do() {
    for (sql, expected) in [
        ("SELECT k FROM t WHERE (x IN (SELECT v FROM nulls)) IS NULL ORDER BY k", "2, 3"),
        ("SELECT k FROM t WHERE x > ALL (SELECT v FROM plain)", "2"),
        ("SELECT k FROM t WHERE NOT x > ALL (SELECT v FROM plain)", "1"),
        ("SELECT k FROM t WHERE x = ANY (SELECT v FROM plain)", "1"),
        ("SELECT k FROM t WHERE 0 IN (SELECT count(*) FROM s WHERE w = k)", "3"),
        ("SELECT k FROM t WHERE CASE WHEN x IN (SELECT v FROM nulls) THEN false ELSE true END ORDER BY k", "2, 3"),
        ("SELECT sum(CASE WHEN EXISTS (SELECT 1 FROM s WHERE w = k) THEN k END), sum(k + (SELECT max(v) FROM plain)) FROM t", "3 12"),
        ("SELECT EXISTS (SELECT 1 FROM s WHERE w = k) AS b, count(*) FROM t GROUP BY 1 ORDER BY 1", "false 1, true 2"),
        ("SELECT k % 2 AS p FROM t GROUP BY 1 HAVING count(*) > ALL (SELECT v FROM plain WHERE v < 2)", "1"),
        ("SELECT k, max(x) IN (SELECT v FROM plain) FROM t GROUP BY k ORDER BY k", "1 true, 2 false, 3 -"),
        ("SELECT k FROM t ORDER BY x IN (SELECT v FROM plain) NULLS FIRST", "3, 2, 1"),
        ("SELECT k FROM t ORDER BY EXISTS (SELECT 1 FROM s WHERE w = k), k DESC", "3, 2, 1"),
        ("SELECT k FROM t ORDER BY EXISTS (SELECT 1 FROM nulls WHERE v = x), k", "2, 3, 1"),
        ("SELECT k, sum(k) OVER (PARTITION BY EXISTS (SELECT 1 FROM s WHERE w = k)) FROM t ORDER BY k", "1 3, 2 3, 3 3"),
        ("SELECT t.k, s.v FROM t JOIN s ON t.k = s.w AND s.v IN (SELECT v FROM plain) ORDER BY 1, 2", "1 1, 1 2"),
        ("SELECT t.k, s.v FROM t JOIN s ON EXISTS (SELECT 1 FROM plain WHERE plain.v = t.k + s.w AND s.v = 1)", "1 1"),
        ("SELECT t.k, s.v FROM t LEFT JOIN s ON t.k = s.w AND s.v IN (SELECT v FROM plain) ORDER BY 1, 2", "1 1, 1 2, 2 -, 3 -"),
        ("SELECT t.k, s.w FROM t LEFT JOIN s ON t.k = s.w AND t.x IN (SELECT v FROM nulls) ORDER BY 1, 2", "1 1, 1 1, 2 -, 3 -"),
        (
            "SELECT t.k, s.w FROM s RIGHT JOIN t ON t.k = s.w AND EXISTS (SELECT 1 FROM plain WHERE plain.v = s.v) ORDER BY 1, 2",
            "1 1, 1 1, 2 -, 3 -",
        ),
    ] {
        let rows = rows(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(rows.join(", "), expected, "{sql}");
    }
    for sql in [
        "SELECT * FROM t LEFT JOIN s ON EXISTS (SELECT 1 FROM plain WHERE plain.v = t.k + s.w)",
        "SELECT count(*) FROM t GROUP BY ROLLUP (EXISTS (SELECT 1 FROM s WHERE w = k))",
    ] {
        let error = rows(sql).await.expect_err(sql).to_string();
        assert!(error.contains("FROM"), "{sql}: {error}");
    }
}
