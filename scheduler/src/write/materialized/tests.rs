use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Builder;
use windlass_proto::Kind;

use crate::coordinator::tests::{Bench, bench};

/// Sales of three days, and the shops they were made in.
async fn shops() -> Bench {
    let bench = bench().await;
    for sql in [
        "CREATE TABLE sales (shop BIGINT, amount BIGINT) PARTITIONED BY (day DATE)",
        "CREATE TABLE shops (id BIGINT, town STRING)",
        "INSERT INTO shops VALUES (1, 'Ulm'), (2, 'Bonn')",
        "INSERT INTO sales VALUES (1, 10, '2024-01-01'), (2, 20, '2024-01-01'), (1, 30, '2024-01-02'), (2, 40, '2024-01-03'), (3, 1, NULL)",
    ] {
        bench.text(sql).await;
    }
    bench
}

/// The cells of a statement's rows, in order, as text.
async fn cells(bench: &Bench, sql: &str) -> Vec<String> {
    let text = bench.text(sql).await;
    let rows = text.lines().filter(|line| line.starts_with('|')).skip(1);
    let mut rows: Vec<_> = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()).collect();
    rows.sort();
    rows
}

/// What a refresh says it did; the view then holds what its query gives.
async fn refresh(bench: &Bench, view: &str, query: &str) -> String {
    let done = cells(bench, &format!("REFRESH MATERIALIZED VIEW {view}")).await.remove(0);
    bench.session.set("windlass.use_materialized_views", "off").unwrap();
    assert_eq!(cells(bench, &format!("SELECT * FROM {view}")).await, cells(bench, query).await, "{view} after {done}");
    assert_eq!(cells(bench, &format!("SELECT state FROM system.materialized_views WHERE view_name = '{view}'")).await, ["fresh"]);
    done
}

#[tokio::test]
async fn only_partitions_that_changed_are_computed_again() {
    let bench = shops().await;
    let query = "SELECT town, sum(amount) AS total, day FROM sales LEFT JOIN shops ON shop = id GROUP BY town, day";
    bench.text(&format!("CREATE MATERIALIZED VIEW v PARTITIONED BY (day) AS {query}")).await;
    assert_eq!(refresh(&bench, "v", query).await, "unchanged 0 0");
    bench.text("INSERT INTO sales VALUES (2, 5, '2024-01-02'), (1, 6, '2024-01-04')").await;
    assert_eq!(cells(&bench, "SELECT state FROM system.materialized_views").await, ["stale"]);
    assert_eq!(refresh(&bench, "v", query).await, "incremental 2 3");
    bench.text("DELETE FROM sales WHERE day IS NULL OR day = '2024-01-01'").await;
    assert_eq!(refresh(&bench, "v", query).await, "incremental 2 0");
    // Two versions later, what came in between and went again is no change.
    bench.text("INSERT INTO sales VALUES (1, 7, '2024-01-05')").await;
    bench.text("DELETE FROM sales WHERE day = '2024-01-05'").await;
    bench.text("INSERT INTO sales VALUES (1, 8, NULL)").await;
    assert_eq!(refresh(&bench, "v", query).await, "incremental 1 1");
    bench.text("COMMENT ON TABLE sales IS 'a new version with the same rows'").await;
    assert_eq!(refresh(&bench, "v", query).await, "incremental 0 0");
    bench.text("OPTIMIZE sales WHERE day = '2024-01-02'").await;
    assert_eq!(refresh(&bench, "v", query).await, "incremental 1 2");
    bench.text("INSERT INTO shops VALUES (3, 'Jena')").await;
    assert!(refresh(&bench, "v", query).await.starts_with("full"), "every partition is joined with the shops");
    assert!(cells(&bench, "REFRESH MATERIALIZED VIEW v FULL").await[0].starts_with("full"));
    let history = "SELECT count(*) FROM system.history WHERE table_name = 'v' AND operation = 'REFRESH MATERIALIZED VIEW'";
    assert_eq!(cells(&bench, history).await, ["7"], "one commit per refresh that did something");
}

#[tokio::test]
async fn what_partitions_do_not_tell_is_computed_whole() {
    let bench = shops().await;
    let queries = [
        ("two_reads", "SELECT a.shop, a.day FROM sales a JOIN sales b ON a.shop = b.shop", true),
        ("outer_side", "SELECT town, day FROM shops LEFT JOIN sales ON shop = id", true),
        ("no_key", "SELECT shop, sum(amount) AS total FROM sales GROUP BY shop", false),
        ("computed", "SELECT shop, day + INTERVAL '1' DAY AS day FROM sales", true),
        ("ranked", "SELECT shop, rank() OVER (ORDER BY amount) AS place, day FROM sales", true),
        (
            "other_key",
            "SELECT a.shop, a.day FROM sales a JOIN sales b ON a.day = b.day AND a.shop = b.shop JOIN sales c ON c.day > a.day",
            true,
        ),
        ("full_side", "SELECT a.shop, a.day FROM sales a FULL JOIN sales b ON a.day = b.day", true),
        ("of_now", "SELECT shop, day FROM sales WHERE day < now()", true),
    ];
    for (name, query, by_day) in queries {
        let keys = if by_day { "PARTITIONED BY (day)" } else { "" };
        let query = query.replace("day + INTERVAL '1' DAY", "CAST(day + INTERVAL '1' DAY AS DATE)");
        bench.text(&format!("CREATE MATERIALIZED VIEW {name} {keys} AS {query}")).await;
        bench.text("INSERT INTO sales VALUES (2, 5, '2024-01-02')").await;
        assert!(refresh(&bench, name, &query).await.starts_with("full"), "{name}");
        let again = refresh(&bench, name, &query).await;
        assert_eq!(again.starts_with("unchanged"), name != "of_now", "{name}: {again}");
    }
    // A view that another one stands on gets another query; a view that keeps rows is a table to others.
    bench.text("CREATE VIEW below AS SELECT shop, day FROM sales WHERE shop = 1").await;
    bench.text("CREATE MATERIALIZED VIEW above PARTITIONED BY (day) AS SELECT * FROM below").await;
    bench.text("CREATE MATERIALIZED VIEW top PARTITIONED BY (day) AS SELECT day, count(*) AS n FROM above GROUP BY day").await;
    bench.text("CREATE OR REPLACE VIEW below AS SELECT shop, day FROM sales WHERE shop = 2").await;
    assert!(refresh(&bench, "above", "SELECT * FROM below").await.starts_with("full"));
    assert!(refresh(&bench, "top", "SELECT count(*) AS n, day FROM above GROUP BY day").await.starts_with("incremental"));
}

/// Queries of two tables by day, and whether a change of any of them leaves other days as they are.
const BY_DAY: &[(&str, bool)] = &[
    ("SELECT a.v AS v, b.v AS w, a.day FROM a JOIN b ON a.day = b.day", true),
    ("SELECT count(*) AS n, sum(w) AS w, day FROM (SELECT b.v AS w, a.day AS day FROM a LEFT JOIN b ON b.day = a.day) GROUP BY day", true),
    ("SELECT b.v, b.day FROM a RIGHT JOIN b ON a.day = b.day AND a.v > 1", true),
    ("SELECT a.v, a.day FROM a, b WHERE a.day = b.day AND a.v < b.v", true),
    ("SELECT v, day FROM a UNION ALL SELECT v + 1, day FROM b", true),
    ("SELECT DISTINCT v, day FROM a UNION SELECT x.v, x.day FROM a x JOIN b y ON x.day = y.day", true),
    ("SELECT v, day FROM a EXCEPT SELECT v, day FROM b", true),
    ("SELECT x.v, x.day FROM a x LEFT ANTI JOIN b y ON x.day = y.day AND x.v = y.v", true),
    ("SELECT v, day FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.v = a.v)", false),
    ("SELECT a.v, a.day FROM a JOIN b ON a.v = b.v", false),
    ("SELECT a.v, b.day FROM a LEFT JOIN b ON a.day = b.day", false),
];

#[test]
fn a_view_of_several_tables_that_change_holds_what_its_query_gives() {
    let runtime = Builder::new_multi_thread().worker_threads(2).thread_stack_size(32 << 20).enable_all().build().unwrap();
    let bench = runtime.block_on(async {
        let bench = bench().await;
        for table in ["a", "b"] {
            bench.text(&format!("CREATE TABLE {table} (v BIGINT) PARTITIONED BY (day STRING)")).await;
            bench.text(&format!("INSERT INTO {table} VALUES (1, '1'), (2, '1'), (2, '2'), (3, '3'), (4, NULL)")).await;
        }
        for (number, (query, _)) in BY_DAY.iter().enumerate() {
            bench.text(&format!("CREATE MATERIALIZED VIEW v{number} PARTITIONED BY (day) AS {query}")).await;
        }
        bench
    });
    let day = prop_oneof![(1..4).prop_map(|day| format!("'{day}'")), Just("NULL".to_owned())];
    let change = (prop_oneof![Just("a"), Just("b")], any::<bool>(), 1..5, day);
    let mut runner = TestRunner::new(Config { cases: 6, failure_persistence: None, ..Config::default() });
    let checked = runner.run(&prop::collection::vec(change, 1..5), |changes| {
        runtime.block_on(async {
            for (table, adds, value, day) in &changes {
                bench
                    .text(&match adds {
                        true => format!("INSERT INTO {table} VALUES ({value}, {day})"),
                        false => format!("DELETE FROM {table} WHERE day IS NOT DISTINCT FROM {day} AND v >= {value}"),
                    })
                    .await;
            }
            for (number, (query, by_day)) in BY_DAY.iter().enumerate() {
                let done = refresh(&bench, &format!("v{number}"), query).await;
                assert!(!by_day || !done.starts_with("full"), "{query} after {changes:?}: {done}");
            }
        });
        Ok(())
    });
    checked.unwrap();
}

#[tokio::test]
async fn a_materialized_view_is_no_table_and_no_view() {
    let bench = shops().await;
    bench.text("CREATE DATABASE d").await;
    bench
        .text("CREATE MATERIALIZED VIEW d.v PARTITIONED BY (day) COMMENT 'by day' AS SELECT day, count(*) AS n FROM sales GROUP BY day")
        .await;
    for (sql, kind) in [
        ("INSERT INTO d.v VALUES (1, NULL)", Kind::Invalid),
        ("DELETE FROM d.v", Kind::Invalid),
        ("TRUNCATE TABLE d.v", Kind::Invalid),
        ("DROP TABLE d.v", Kind::Invalid),
        ("DROP VIEW d.v", Kind::Invalid),
        ("DROP MATERIALIZED VIEW sales", Kind::Invalid),
        ("ALTER TABLE d.v ADD COLUMNS (x INT)", Kind::Invalid),
        ("CREATE OR REPLACE VIEW d.v AS SELECT 1 AS x", Kind::Invalid),
        ("CREATE OR REPLACE MATERIALIZED VIEW sales AS SELECT 1 AS x", Kind::Invalid),
        ("CREATE MATERIALIZED VIEW d.v AS SELECT 1 AS x", Kind::AlreadyExists),
        ("CREATE MATERIALIZED VIEW d.w PARTITIONED BY (x) AS SELECT 1 AS y", Kind::Invalid),
        ("CREATE MATERIALIZED VIEW d.w AS SELECT ? AS y", Kind::Invalid),
        ("CREATE OR REPLACE MATERIALIZED VIEW d.v AS SELECT * FROM d.v", Kind::Invalid),
        ("REFRESH MATERIALIZED VIEW sales", Kind::Invalid),
        ("REFRESH MATERIALIZED VIEW nobody", Kind::NotFound),
    ] {
        let error = bench.run(sql, None).await.expect_err(sql);
        assert_eq!(error.kind(), kind, "{sql}: {error}");
    }
    bench.text("CREATE MATERIALIZED VIEW IF NOT EXISTS d.v AS SELECT 1 AS x").await;
    bench.text("ANALYZE TABLE d.v").await;
    bench.text("COMMENT ON COLUMN d.v.n IS 'how many'").await;
    bench.text("COMMENT ON COLUMN d.v.day IS 'it''s a key'").await;
    bench.text("ALTER MATERIALIZED VIEW d.v SET TBLPROPERTIES ('a' = 'b')").await;
    let shown = async || {
        let batches = bench.run("SHOW CREATE MATERIALIZED VIEW d.v", None).await.unwrap();
        datafusion::arrow::array::AsArray::as_string::<i32>(batches[0].column(0)).value(0).to_owned()
    };
    let first = shown().await;
    assert!(first.contains("PARTITIONED BY (`day`)") && first.contains("`day` COMMENT 'it''s a key'"), "{first}");
    bench.text("CREATE OR REPLACE MATERIALIZED VIEW d.v AS SELECT 1 AS x").await;
    assert_eq!(cells(&bench, "SELECT * FROM d.v").await, ["1"]);
    bench.text("DROP MATERIALIZED VIEW d.v").await;
    bench.text(&first).await;
    assert_eq!(shown().await, first);
    bench.text("ALTER MATERIALIZED VIEW d.v RENAME TO d.w").await;
    assert_eq!(cells(&bench, "SHOW TABLES IN d").await, ["d w MATERIALIZED_VIEW"]);
    bench.text("DROP MATERIALIZED VIEW d.w").await;
    assert!(cells(&bench, "SHOW MATERIALIZED VIEWS IN d").await.is_empty());
}
