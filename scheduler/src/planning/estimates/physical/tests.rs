use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::prelude::SessionContext;

use super::*;

/// Two tables in memory, of which rows are known, and nothing of their columns but NULLs.
async fn estimated(sql: &str) -> (usize, usize) {
    let context = SessionContext::new_with_state(with_estimates(SessionStateBuilder::new().with_default_features()).build());
    for (name, rows) in [("small", 10i64), ("large", 1000)] {
        let column = Arc::new(Int64Array::from_iter_values(0..rows)) as _;
        let batch = RecordBatch::try_from_iter([("a", Arc::clone(&column)), ("b", column)]).unwrap();
        context.register_batch(name, batch).unwrap();
    }
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let state = context.state();
    let told = state.statistics_registry().unwrap().compute_base(plan.as_ref()).unwrap();
    (*told.num_rows.get_value().unwrap(), *told.total_byte_size.get_value().unwrap())
}

#[tokio::test]
async fn operators_are_estimated() {
    for (sql, rows) in [
        ("SELECT * FROM large", 1000),
        ("SELECT a, b + 1, row_number() OVER (ORDER BY a) FROM large", 1000),
        ("SELECT * FROM large LIMIT 7", 7),
        ("SELECT * FROM large ORDER BY a LIMIT 7", 7),
        ("SELECT a FROM large UNION ALL SELECT b FROM small", 1010),
        ("SELECT count(*) FROM large GROUP BY 1 + 1", 1),
        ("SELECT max(a) FROM large", 1),
        ("SELECT 1 FROM large, small WHERE large.b > small.b", 5000),
        ("SELECT * FROM large CROSS JOIN small", 10_000),
        // A column that the two sides share has all values of the larger table, guessed.
        ("SELECT * FROM large JOIN small ON large.a = small.a", 56),
        ("SELECT * FROM large LEFT JOIN small ON large.a = small.a", 1000),
        ("SELECT * FROM large WHERE a IN (SELECT a FROM small)", 56),
        ("SELECT * FROM small WHERE a NOT IN (SELECT a FROM large WHERE a IS NOT NULL)", 5),
        // Texts and nothing known: a guess; never no rows.
        ("SELECT * FROM small WHERE a = 3 AND b = 4", 1),
    ] {
        let (found, bytes) = estimated(sql).await;
        assert_eq!(found, rows, "{sql}");
        assert!(bytes >= rows, "{sql}: {bytes} bytes");
    }
}
