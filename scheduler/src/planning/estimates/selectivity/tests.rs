use datafusion::arrow::datatypes::DataType;
use datafusion::prelude::{col, lit};

use super::*;

fn share(expr: Expr) -> f64 {
    let number = ColumnEstimate {
        distinct: 100.0,
        range: Some((1.0, 100.0)),
        is_discrete: true,
        nulls: 0.1,
        ..ColumnEstimate::unknown(&DataType::Int64, 1000.0)
    };
    let text = ColumnEstimate::unknown(&DataType::Utf8, 1000.0);
    let counted = ColumnEstimate { distinct: 500.0, is_counted: true, ..text.clone() };
    let flag = ColumnEstimate { distinct: 2.0, is_counted: true, ..text.clone() };
    let known = |column: &Column| match column.name.as_str() {
        "number" => Some(&number),
        "text" => Some(&text),
        "counted" => Some(&counted),
        "flag" => Some(&flag),
        _ => None,
    };
    Selectivity::new(&known).of_all(&split_conjunction(&expr))
}

#[test]
fn shares_follow_bounds_and_counts() {
    let near = |expr: Expr, expected: f64| {
        let share = share(expr.clone());
        assert!((share - expected).abs() < 1e-6, "{expr}: {share}, not {expected}");
    };
    near(col("number").eq(lit(7i64)), 0.009);
    near(col("number").eq(lit(700i64)), 0.0);
    near(lit(51i64).lt_eq(col("number")), 0.45);
    // Both bounds of one column are one range, not two independent conditions.
    near(col("number").gt(lit(10i64)).and(col("number").lt_eq(lit(20i64))), 0.09);
    near(col("number").between(lit(11i64), lit(20i64)), 0.09);
    near(col("number").in_list(vec![lit(1i64), lit(2i64)], false), 0.018);
    near(col("number").is_null(), 0.1);
    near(col("number").is_not_null(), 0.9);
    near(col("counted").eq(lit("x")), 0.002);
    near(col("text").eq(lit("x")), TEXT_EQUALS);
    near(col("text").like(lit("x%")), TEXT_BEGINS);
    near(col("text").not_like(lit("%x%")), 1.0 - TEXT_CONTAINS);
    near(col("flag").like(lit("x%")), 0.5);
    near((col("flag") + lit("y")).eq(lit("xy")), 0.5);
    near((col("flag") + col("number")).eq(lit(7i64)), TEXT_EQUALS);
    near((col("flag") + col("text")).eq(lit("xy")), TEXT_EQUALS);
    near(col("number").eq(lit(1i64)).or(col("number").eq(lit(2i64))), 1.0 - 0.991 * 0.991);
    near(col("number").lt(col("other")), COLUMNS_ORDERED);
    near(lit(false), 0.0);
    // The value of a column says all about it.
    let either = col("number").eq(lit(7i64)).or(col("number").eq(lit(9i64)));
    near(either.and(col("number").eq(lit(7i64))), 0.009);
    // Conditions are rarely independent.
    near(col("text").eq(lit("x")).and(col("other").eq(lit("y"))), TEXT_EQUALS * TEXT_EQUALS.sqrt());
}
