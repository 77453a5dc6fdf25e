//! What each clause and function becomes.

use datafusion::sql::sqlparser::parser::Parser;
use windlass_engine::session::{session_config, set_option};

use super::*;

fn spelled(dialect: Dialect, sql: &str) -> Result<String> {
    let mut config = session_config(1);
    set_option(config.options_mut(), "windlass.dialect", &dialect.to_string()).unwrap();
    let mut statements = Parser::parse_sql(dialect.grammar(), sql).unwrap();
    respell(&mut statements[0], &config)?;
    Ok(statements[0].to_string())
}

#[test]
fn clauses_of_hive_and_spark() {
    for (sql, expected) in [
        ("SELECT a FROM t GROUP BY a, b WITH ROLLUP", "SELECT a FROM t GROUP BY ROLLUP (a, b)"),
        ("SELECT a FROM t GROUP BY a, b GROUPING SETS ((a, b), ())", "SELECT a FROM t GROUP BY GROUPING SETS ((a, b), ())"),
        ("SELECT a FROM t DISTRIBUTE BY a SORT BY b DESC", "SELECT a FROM t ORDER BY b DESC"),
        ("SELECT a FROM t CLUSTER BY a", "SELECT a FROM t ORDER BY a"),
        ("SELECT a FROM t SEMI JOIN u ON t.a = u.a", "SELECT a FROM t LEFT SEMI JOIN u ON t.a = u.a"),
        ("SELECT a NOT RLIKE 'x' FROM t", "SELECT (NOT regexp_like(a, 'x')) FROM t"),
        ("SELECT int(a), CAST(b AS STRING) FROM t", "SELECT TRY_CAST(whole(a) AS INT), TRY_CAST(b AS STRING) FROM t"),
        (
            "SELECT max_by(a, b) FILTER (WHERE c) FROM t",
            "SELECT first_value(a ORDER BY b DESC NULLS LAST) FILTER (WHERE (c) AND (b) IS NOT NULL) FROM t",
        ),
        ("SELECT a FROM t OFFSET 2 ROWS FETCH NEXT 3 ROWS ONLY", "SELECT a FROM t LIMIT 3 OFFSET 2 ROWS"),
        ("SELECT a FROM t FETCH FIRST ROW ONLY", "SELECT a FROM t LIMIT 1"),
        (
            "SELECT a, b FROM t ORDER BY 2 DESC OFFSET 1 FETCH FIRST 3 ROWS WITH TIES",
            "SELECT a, b FROM t QUALIFY rank() OVER (ORDER BY b DESC) <= 3 + (1) ORDER BY 2 DESC OFFSET 1",
        ),
        ("SELECT TOP 2 WITH TIES a FROM t ORDER BY a", "SELECT a FROM t QUALIFY rank() OVER (ORDER BY a) <= 2 ORDER BY a"),
        (
            "SELECT json_object('a', 1, 'b', json_array(c))",
            "SELECT concat('{', concat_ws(',', concat(to_json(concat('a', '')), ':', coalesce(to_json(1), 'null')), \
             concat(to_json(concat('b', '')), ':', coalesce(concat('[', concat_ws(',', CASE WHEN (c) IS NOT NULL THEN to_json(c) END), ']'), \
             'null'))), '}')",
        ),
        ("SELECT a, A, t.a, \"A\" FROM t", "SELECT a, A AS \"A_1\", t.a, \"A\" FROM t"),
        ("SELECT TRY_CAST(a AS INT), a, b AS a FROM t", "SELECT TRY_CAST(a AS INT) AS \"TRY_CAST(a AS INT)\", a, b AS a FROM t"),
        ("SELECT count(*), count(*), count(*) FROM t", "SELECT count(*), count(*) AS \"count(*)_1\", count(*) AS \"count(*)_2\" FROM t"),
        ("SELECT count_if(a > 1) FROM t", "SELECT count(CASE WHEN a > 1 THEN 1 END) FROM t"),
        ("SELECT listagg(a) WITHIN GROUP (ORDER BY b) FROM t", "SELECT string_agg(a, '' ORDER BY b) FROM t"),
        (
            "SELECT listagg(a, ',' ON OVERFLOW ERROR) WITHIN GROUP (ORDER BY b DESC) FROM t",
            "SELECT string_agg(a, ',' ORDER BY b DESC) FROM t",
        ),
        ("SELECT mode() WITHIN GROUP (ORDER BY b) FROM t", "SELECT mode(b) FROM t"),
        (
            "SELECT a, b AS c FROM t UNION SELECT 1, 2 ORDER BY ALL DESC",
            "SELECT a, b AS c FROM t UNION SELECT 1, 2 ORDER BY 1 DESC, 2 DESC",
        ),
        ("SELECT a BETWEEN '2024-01-01 9:30' AND b FROM t", "SELECT (a >= '2024-01-01 9:30' AND a <= b) FROM t"),
        ("SELECT a BETWEEN '2024-01-01' AND b FROM t", "SELECT a BETWEEN '2024-01-01' AND b FROM t"),
        ("SELECT a MINUS SELECT b", "SELECT a EXCEPT SELECT b"),
        ("SELECT TOP 3 a FROM t", "SELECT a FROM t LIMIT 3"),
        ("SELECT a LIKE '1!%' ESCAPE '!' FROM t", r"SELECT a LIKE '1\%' FROM t"),
        ("SELECT a LIKE ALL ('x%', 'y%') FROM t", "SELECT (a LIKE 'x%' AND a LIKE 'y%') FROM t"),
        (r"SELECT first(a, true), r'\d' FROM t", r"SELECT first_value(a) IGNORE NULLS, '\d' FROM t"),
        ("SELECT struct(t.a, b, 1) FROM t", "SELECT named_struct('a', t.a, 'b', b, 'col3', 1) FROM t"),
        ("SELECT mean(a), avg(a) FROM t", "SELECT mean(a), avg(a) AS \"avg(a)_1\" FROM t"),
        ("SELECT id FROM range(5)", "SELECT id FROM range(5) AS range (id)"),
        (
            "SELECT a FROM t WHERE (a, b) IN (SELECT c, d FROM u)",
            "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM (SELECT c, d FROM u) AS \"rows\" (\"row 1\", \"row 2\") \
             WHERE (a) = \"row 1\" AND (b) = \"row 2\")",
        ),
        (
            "SELECT count(DISTINCT a, b) FROM t",
            "SELECT count(DISTINCT CASE WHEN (a) IS NOT NULL AND (b) IS NOT NULL THEN struct(a, b) END) FROM t",
        ),
        ("SELECT a LIKE ANY ('x%', 'y%') FROM t", "SELECT (a LIKE 'x%' OR a LIKE 'y%') FROM t"),
        ("SELECT EXTRACT(DOW FROM a) FROM t", "SELECT dayofweek(a) FROM t"),
        (
            "SELECT CAST(ROW(1, 'b') AS ROW(x INT, y VARCHAR))",
            "SELECT named_struct('x', TRY_CAST(1 AS INT), 'y', TRY_CAST('b' AS VARCHAR))",
        ),
        ("SELECT CAST(a AS ROW(x INT, y VARCHAR)) FROM t", "SELECT TRY_CAST(a AS STRUCT<x INT, y VARCHAR>) FROM t"),
        ("SELECT * FROM TABLE(sequence(start => 1, stop => 3)) AS s", "SELECT * FROM generate_series(1, 3) AS s"),
        (
            "SELECT * FROM t, LATERAL (SELECT a + 1 AS b) x",
            "SELECT * FROM (t CROSS JOIN LATERAL inline(make_array(named_struct('b', a + 1))) x)",
        ),
        ("SELECT decode(a, 1, 'x', 'y')", "SELECT CASE WHEN a IS NOT DISTINCT FROM 1 THEN 'x' ELSE 'y' END"),
        ("SELECT encode('x', 'UTF-8'), current_database(), current_timezone()", "SELECT CAST('x' AS BYTEA), 'default', '+00:00'"),
        ("SELECT TIMESTAMP '2024-1-5 9:30', DATE '2024-1-5'", "SELECT TIMESTAMP '2024-01-05 09:30:00', DATE '2024-01-05'"),
        ("SELECT array_sort(a, (x, y) -> x - y) FROM t", "SELECT array_sort_by(a, (x, y) -> x - y) FROM t"),
    ] {
        assert_eq!(spelled(Dialect::Spark, sql).unwrap(), expected, "{sql}");
    }
    assert_eq!(spelled(Dialect::Presto, "SELECT CAST(a AS INT)").unwrap(), "SELECT CAST(nearest(a) AS INT)");
    for sql in [
        "SELECT a FROM t FETCH FIRST 2 ROWS WITH TIES",
        "SELECT DISTINCT a FROM t ORDER BY a FETCH FIRST 2 ROWS WITH TIES",
        "SELECT json_object('a', 1, 'b')",
        "SELECT a FROM t LIMIT 1 FETCH FIRST ROW ONLY",
        "SELECT a FROM t SORT BY a ORDER BY b",
        "SELECT a FROM t CLUSTER BY a SORT BY a",
        "SELECT explode(a), explode(b) FROM t",
    ] {
        assert!(spelled(Dialect::Hive, sql).is_err(), "{sql}");
    }
}

#[test]
fn pivots_are_filtered_aggregates_and_stacked_columns() {
    for (sql, expected) in [
        (
            "SELECT * FROM t PIVOT (sum(n) FOR y IN (2023, 2024 AS now))",
            "SELECT * FROM (SELECT * EXCLUDE (\"n\", \"y\"), sum(n) FILTER (WHERE y IS NOT DISTINCT FROM 2023) AS \"2023\", \
             sum(n) FILTER (WHERE y IS NOT DISTINCT FROM 2024) AS \"now\" FROM t GROUP BY ALL) AS \"pivoted\"",
        ),
        (
            "SELECT * FROM t PIVOT (sum(n) AS s, count(*) AS c FOR (y, q) IN ((2023, 'a'))) AS p",
            "SELECT * FROM (SELECT * EXCLUDE (\"n\", \"q\", \"y\"), \
             sum(n) FILTER (WHERE y IS NOT DISTINCT FROM 2023 AND q IS NOT DISTINCT FROM 'a') AS \"2023_a_s\", \
             count(*) FILTER (WHERE y IS NOT DISTINCT FROM 2023 AND q IS NOT DISTINCT FROM 'a') AS \"2023_a_c\" FROM t GROUP BY ALL) AS p",
        ),
        (
            "SELECT * FROM t UNPIVOT (v FOR k IN (a, b AS x))",
            "SELECT * FROM (SELECT * EXCLUDE (\"a\", \"b\") FROM (t CROSS JOIN LATERAL stack(2, 'a', a, 'x', b) AS \"unpivoted\" (k, v)) \
             WHERE v IS NOT NULL) AS \"pivoted\"",
        ),
    ] {
        assert_eq!(spelled(Dialect::Generic, sql).unwrap().replace("( ", "("), expected, "{sql}");
    }
    assert!(spelled(Dialect::Generic, "SELECT * FROM t PIVOT (sum(n) FOR y IN (ANY))").is_err());
}

#[test]
fn parts_of_json_are_compared() {
    for (sql, expected) in [("SELECT a -> 'b' = 'c' AND d", "BinaryOp"), ("SELECT a ->> 'b' -> 'c' IN ('d') IS NULL", "IsNull")] {
        let mut statements = Parser::parse_sql(Dialect::Generic.grammar(), sql).unwrap();
        respell(&mut statements[0], &session_config(1)).unwrap();
        assert_eq!(statements[0].to_string(), sql);
        let ast::Statement::Query(query) = &statements[0] else { panic!("{sql}") };
        let ast::SetExpr::Select(select) = query.body.as_ref() else { panic!("{sql}") };
        let ast::SelectItem::UnnamedExpr(expr) = &select.projection[0] else { panic!("{sql}") };
        let shape = format!("{expr:?}");
        assert!(shape.starts_with(expected), "{sql}: {shape}");
        assert!(!shape.contains("Arrow, right: InList") && !shape.contains("Arrow, right: BinaryOp"), "{sql}: {shape}");
    }
}

#[test]
fn what_follows_a_comparison_with_distinct_is_not_its_operand() {
    let parsed = |sql: &str| Parser::new(Dialect::Generic.grammar()).try_with_sql(sql).unwrap().parse_expr().unwrap();
    for (sql, meant) in [
        ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
        ("p AND a IS NOT DISTINCT FROM b + 1 OR c", "(p AND (a IS NOT DISTINCT FROM b + 1)) OR c"),
        (
            "NOT a IS DISTINCT FROM b OR c AND d IS DISTINCT FROM e OR f",
            "((NOT (a IS DISTINCT FROM b)) OR (c AND (d IS DISTINCT FROM e))) OR f",
        ),
        ("a IS DISTINCT FROM (b AND c)", "a IS DISTINCT FROM (b AND c)"),
    ] {
        let mut expr = parsed(sql);
        distinct_first(&mut expr);
        let mut meant = parsed(meant);
        // Without the parentheses that say what is meant.
        let ControlFlow::Continue(()) = ast::visit_expressions_mut(&mut meant, |expr| {
            if let Expr::Nested(inner) = expr
                && sql != "a IS DISTINCT FROM (b AND c)"
            {
                *expr = std::mem::replace(&mut **inner, null());
            }
            ControlFlow::<std::convert::Infallible>::Continue(())
        });
        assert_eq!(expr, meant, "{sql}");
    }
}

#[test]
fn rows_made_of_lists_join_all_before_them() {
    for (dialect, sql, expected) in [
        (
            Dialect::Hive,
            "SELECT * FROM t, u LATERAL VIEW OUTER explode(b) e AS c",
            "SELECT * FROM (t CROSS JOIN u LEFT OUTER JOIN LATERAL explode(b) AS e (c))",
        ),
        (
            Dialect::Presto,
            "SELECT * FROM t CROSS JOIN UNNEST(b) AS e (c) JOIN u ON c = d",
            "SELECT * FROM (t CROSS JOIN UNNEST(b) AS e (c)) JOIN u ON c = d",
        ),
        (Dialect::Generic, "SELECT * FROM t, UNNEST(b) AS e (c), u", "SELECT * FROM (t CROSS JOIN UNNEST(b) AS e (c)), u"),
        (
            Dialect::Spark,
            "SELECT a, explode(b) AS c FROM t",
            r#"SELECT a, "generated 1".* FROM (t CROSS JOIN LATERAL explode(b) AS "generated 1" (c))"#,
        ),
        (Dialect::Spark, "SELECT explode(array(1))", r#"SELECT "generated 1".* FROM LATERAL explode(array(1)) AS "generated 1""#),
    ] {
        assert_eq!(spelled(dialect, sql).unwrap(), expected, "{sql}");
    }
}
