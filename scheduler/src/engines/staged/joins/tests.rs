use datafusion::prelude::{SessionConfig, SessionContext};

use super::*;

/// The plan of a query over `small` and `large`, without broadcasts.
async fn planned(sql: &str) -> Arc<dyn ExecutionPlan> {
    let config = SessionConfig::new().with_target_partitions(2).set_bool("datafusion.optimizer.join_reordering", false);
    let context = SessionContext::new_with_config(config);
    for (name, rows) in [("small", 5), ("large", 500)] {
        let create = format!("CREATE TABLE {name} AS SELECT value % 7 AS a, value AS b FROM range({rows})");
        context.sql(&create).await.unwrap().collect().await.unwrap();
    }
    let state = with_rules(context.state(), Broadcast::Never, u64::MAX);
    let plan = context.sql(sql).await.unwrap().into_optimized_plan().unwrap();
    state.query_planner().create_physical_plan(&plan, &state).await.unwrap()
}

#[tokio::test]
async fn hash_joins_are_avoided_only_where_their_order_matters() {
    let ranked = "(SELECT a, b, row_number() OVER (PARTITION BY a ORDER BY b) AS place FROM large) AS w";
    for (sql, relies) in [
        (format!("SELECT w.* FROM small JOIN {ranked} ON small.a = w.a ORDER BY w.b, small.b LIMIT 3"), false),
        (format!("SELECT w.a % 2, max(w.a), max(w.b), max(w.place) FROM small JOIN {ranked} ON small.a = w.a GROUP BY 1"), false),
        (format!("SELECT * FROM large JOIN (SELECT w.* FROM small JOIN {ranked} ON small.a = w.a) v ON large.b = v.b ORDER BY v.b"), false),
        // A window counts on it, or whoever gets the rows, or takes some of them.
        (
            format!("SELECT sum(w.place) OVER (PARTITION BY w.a ORDER BY w.b) AS s FROM small JOIN {ranked} ON small.a = w.a ORDER BY s"),
            true,
        ),
        (format!("SELECT w.* FROM small JOIN {ranked} ON small.a = w.a"), true),
        (format!("SELECT max(a), max(b), max(place) FROM (SELECT w.* FROM small JOIN {ranked} ON small.a = w.a LIMIT 3) v"), true),
    ] {
        let plan = planned(&sql).await;
        assert!(plan.exists(|node| Ok(node.is::<HashJoinExec>() && node.output_ordering().is_some())).unwrap(), "{sql}: {plan:?}");
        assert_eq!(relies_on_order(&plan), relies, "{sql}");
    }
}
