use std::sync::{Arc, LazyLock};

use datafusion::execution::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::catalog::NULL_PARTITION;
use crate::keys::parse_value;

static SESSION: LazyLock<SessionState> = LazyLock::new(|| SessionContext::new().state());

fn key(name: &str, key_type: KeyType) -> PartitionKey {
    PartitionKey { name: name.to_owned(), key_type, comment: None }
}

/// A key of each type, and values that partitions have.
fn keys() -> Vec<(PartitionKey, Vec<&'static str>)> {
    let times = ["1969-12-31 23:59:59.999999", "2023-12-31 23:59:59", "2024-01-01", "2024-01-01 12:00:00", "2024-02-29 07:30:00.000001"];
    vec![
        (key("s", KeyType::String), vec!["a", "ab", "abc", "b%", "b_", "é", "2024", "\\"]),
        (key("i", KeyType::Int), vec!["-5", "-3", "0", "1", "2", "3", "2147483647", "-2147483648"]),
        (key("b", KeyType::BigInt), vec!["-3", "0", "2", "3000000000", "9007199254740993", "9223372036854775807"]),
        (key("d", KeyType::Date), vec!["1969-12-31", "1970-01-01", "2023-12-31", "2024-01-01", "2024-02-29", "2024-03-31"]),
        (key("t", KeyType::Timestamp), times.to_vec()),
        (key("z", KeyType::Boolean), vec!["true", "false"]),
        (key("m", KeyType::Decimal(9, 2)), vec!["-2.50", "0", "1", "2.50", "2.51", "9999999.99"]),
    ]
}

fn key_list() -> Vec<PartitionKey> {
    keys().into_iter().map(|(key, _)| key).collect()
}

fn partition(values: Vec<ScalarValue>) -> Partition {
    Partition { id: 0, values, name: String::new(), location: String::new(), files: 0, bytes: 0, rows: None }
}

fn schema() -> DFSchema {
    DFSchema::try_from(key_schema(&key_list())).unwrap()
}

fn simplifier() -> ExprSimplifier {
    ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::new(schema())).with_current_time().build())
}

/// The condition as it reaches scans.
fn coerced(sql: &str) -> Result<Expr> {
    let schema = schema();
    simplifier().coerce(SESSION.create_logical_expr(sql, &schema)?, &schema)
}

fn pruned(sql: &str) -> Pruning {
    Pruning::new(&[coerced(sql).unwrap()], &key_list())
}

#[test]
fn stores_are_asked_exactly() {
    use Comparison::{Equal, GreaterOrEqual, Less, NotEqual};
    let date = |text: &str| parse_value(&key("d", KeyType::Date), text).unwrap();
    let time = |text: &str| parse_value(&key("t", KeyType::Timestamp), text).unwrap();
    let between =
        |key, low, high| KeyPredicate::And(vec![KeyPredicate::Compare(key, GreaterOrEqual, low), KeyPredicate::Compare(key, Less, high)]);
    let year_2024 = between(3, date("2024-01-01"), date("2025-01-01"));
    let cases = [
        ("s = 'a'", KeyPredicate::Compare(0, Equal, "a".into())),
        ("'a' <> s", KeyPredicate::Compare(0, NotEqual, "a".into())),
        ("i < 2.5", KeyPredicate::Compare(1, Less, 3.into())),
        ("i = 2.5", KeyPredicate::Nothing),
        ("i <> 2.5", KeyPredicate::IsNotNull(1)),
        ("i > 3000000000", KeyPredicate::Nothing),
        ("i <= 2147483647", KeyPredicate::IsNotNull(1)),
        ("NOT (i IN (1, 2) OR i IS NULL)", {
            let not = |value: i32| KeyPredicate::Compare(1, NotEqual, value.into());
            KeyPredicate::And(vec![not(1), not(2), KeyPredicate::IsNotNull(1)])
        }),
        ("i NOT IN (1, NULL)", KeyPredicate::Nothing),
        ("i = 1 OR i = 2 OR i IN (3, NULL)", KeyPredicate::In(1, vec![1.into(), 2.into(), 3.into()])),
        ("d BETWEEN '2024-01-01' AND '2024-12-31'", year_2024.clone()),
        ("EXTRACT(YEAR FROM d) = 2024", year_2024.clone()),
        ("date_trunc('year', d) = DATE '2024-01-01'", year_2024),
        ("date_trunc('month', t) = TIMESTAMP '2024-02-01'", between(4, time("2024-02-01"), time("2024-03-01"))),
        ("date_trunc('month', t) = TIMESTAMP '2024-02-02'", KeyPredicate::Nothing),
        ("CAST(t AS DATE) <= DATE '2024-01-01'", KeyPredicate::Compare(4, Less, time("2024-01-02"))),
        ("to_date(t) = DATE '2024-01-01'", between(4, time("2024-01-01"), time("2024-01-02"))),
        ("z", KeyPredicate::Compare(5, Equal, true.into())),
        ("NOT z", KeyPredicate::Compare(5, Equal, false.into())),
        ("z IS NOT TRUE IS FALSE", KeyPredicate::Compare(5, Equal, true.into())),
        ("s LIKE 'ab%'", KeyPredicate::Prefix(0, "ab".to_owned())),
        ("s LIKE 'a\\%'", KeyPredicate::Compare(0, Equal, "a%".into())),
        ("starts_with(s, 'ab')", KeyPredicate::Prefix(0, "ab".to_owned())),
        ("left(s, 2) = 'ab'", KeyPredicate::Prefix(0, "ab".to_owned())),
        ("substr(s, 1, 4) IN ('2023', '2024')", {
            KeyPredicate::Or(["2023", "2024"].map(|year| KeyPredicate::Prefix(0, year.to_owned())).to_vec())
        }),
        ("substring(s FROM 1 FOR 4) <= '2023'", KeyPredicate::Compare(0, Less, "2024".into())),
        ("left(s, 4) >= '20'", KeyPredicate::Compare(0, GreaterOrEqual, "20".into())),
        ("d = '2024-01-01' OR i NOT IN (1) AND t < '2024-01-01'", {
            let left = KeyPredicate::Compare(3, Equal, date("2024-01-01"));
            let right = vec![KeyPredicate::Compare(1, NotEqual, 1.into()), KeyPredicate::Compare(4, Less, time("2024-01-01"))];
            KeyPredicate::Or(vec![KeyPredicate::And(right), left])
        }),
        ("t >= TIMESTAMPTZ '2024-01-01 00:00:00+00:00'", KeyPredicate::Compare(4, GreaterOrEqual, time("2024-01-01"))),
        ("CAST(t AS DATE) IN (DATE '2024-01-01')", between(4, time("2024-01-01"), time("2024-01-02"))),
        ("s IS NOT DISTINCT FROM NULL", KeyPredicate::IsNull(0)),
    ];
    for (sql, expected) in cases {
        let found = pruned(sql);
        assert_eq!(found.predicate, expected, "{sql}");
        assert!(found.residual.is_empty() && found.data.is_empty(), "{sql} leaves {:?} and {:?}", found.residual, found.data);
    }
}

#[test]
fn the_rest_is_evaluated_over_keys() {
    for (sql, expected) in [
        ("s LIKE 'a_c%'", KeyPredicate::Prefix(0, "a".to_owned())),
        ("CAST(s AS INT) > 5", KeyPredicate::All),
        ("length(s) = 2 OR i = 1", KeyPredicate::All),
        ("length(s) = 2 AND i = 1", KeyPredicate::Compare(1, Comparison::Equal, 1.into())),
    ] {
        let found = pruned(sql);
        assert_eq!(found.predicate, expected, "{sql}");
        assert_eq!((found.residual.len(), found.data.len()), (1, 0), "{sql}");
    }
}

#[test]
fn conditions_on_columns_prune_where_they_mention_keys() {
    let schema =
        DFSchema::try_from(Schema::new(vec![Field::new("i", DataType::Int32, true), Field::new("x", DataType::Int32, true)])).unwrap();
    let keys = [key("i", KeyType::Int)];
    let found =
        |sql: &str| Pruning::new(&[simplifier().coerce(SESSION.create_logical_expr(sql, &schema).unwrap(), &schema).unwrap()], &keys);
    let either = found("(i = 1 AND x > 5) OR (i = 2 AND x < 5)");
    assert_eq!(either.predicate, KeyPredicate::In(0, vec![1.into(), 2.into()]));
    assert_eq!((either.residual.len(), either.data.len()), (0, 1));
    assert!(either.implied.is_empty(), "the predicate says it all");
    assert_eq!(found("NOT (i = 1 AND x > 5)").predicate, KeyPredicate::All);
    assert_eq!(found("i = x").predicate, KeyPredicate::All);
    assert_eq!(found("random() < 0.5").data.len(), 1);

    let kept = |sql: &str| {
        let partitions = (0..6).map(|i: i32| partition(vec![i.into()])).collect();
        let kept = found(sql).retain(&*SESSION, &keys, partitions).unwrap();
        kept.into_iter().map(|partition| partition.values[0].to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kept("(i % 4 = 1 AND x > 5) OR (i % 4 = 2 AND x < 5)"), "1 2 5");
    assert_eq!(kept("i % 4 = 1 AND abs(i) < 3 OR x = 7"), "0 1 2 3 4 5", "rows with x = 7 may be anywhere");
    assert_eq!(kept("NOT (i % 4 = 1 AND x > 5)"), "0 1 2 3 4 5");
    assert_eq!(kept("(1 / i > 0 AND x > 5) OR (i = 1 AND x < 5)"), "0 1 2 3 4 5", "an error is for those who read the rows");
}

/// Conditions on one key, or a function of one.
fn simple() -> impl Strategy<Value = String> {
    let op = || select(vec!["=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM"]);
    let number = || {
        let columns = ["i", "b", "m", "CAST(i AS BIGINT)", "CAST(i AS DOUBLE)", "CAST(b AS DOUBLE)", "CAST(b AS REAL)"];
        let functions = [
            "CAST(i AS DECIMAL(12, 1))",
            "CAST(m AS DECIMAL(20, 4))",
            "EXTRACT(YEAR FROM d)",
            "date_part('YEAR', t)",
            "i + 1",
            "CAST(m AS INT)",
        ];
        select([columns.as_slice(), &functions].concat())
    };
    let number_literal = || {
        select(vec![
            "0",
            "-3",
            "2",
            "2.5",
            "-2.5",
            "2.50",
            "CAST(2.5 AS DOUBLE)",
            "CAST(2 AS REAL)",
            "3000000000",
            "1e300",
            "NULL",
            "9007199254740993",
            "1970",
            "2024",
        ])
    };
    let time = || {
        let columns = ["d", "t", "CAST(t AS DATE)", "CAST(d AS TIMESTAMP)", "to_date(t)", "CAST(t AS TIMESTAMPTZ)"];
        let functions = [
            "date_trunc('month', d)",
            "date_trunc('year', t)",
            "date_trunc('quarter', t)",
            "date_trunc('week', t)",
            "date_trunc('day', t)",
            "date_trunc('hour', t)",
            "date_trunc('second', t)",
        ];
        select([columns.as_slice(), &functions].concat())
    };
    let time_literal = || {
        select(vec![
            "DATE '2024-01-01'",
            "DATE '1969-12-31'",
            "DATE '1970-01-01'",
            "TIMESTAMP '2024-01-01 12:00:00'",
            "TIMESTAMP '1969-12-31 23:59:59.5'",
            "TIMESTAMP '2024-02-26'",
            "TIMESTAMPTZ '2024-01-01 02:00:00+02:00'",
            "'2024-02-29'",
            "NULL",
        ])
    };
    let text = || {
        let columns = ["s", "CAST(i AS VARCHAR)", "CAST(d AS VARCHAR)", "upper(s)"];
        let parts = ["left(s, 1)", "substr(s, 1, 2)", "left(substr(s, 1, 3), 2)", "left(s, -1)", "substr(s, 2, 1)", "left(s, 0)"];
        select([columns.as_slice(), &parts].concat())
    };
    let text_literal = || select(vec!["'a'", "'ab'", "'b%'", "'2024-01-01'", "''", "NULL", "'2'"]);
    let pattern = select(vec!["'a%'", "'%'", "'a_'", "'b\\%'", "'b\\_%'", "'ab'", "'a%c'", "''", "NULL", "'\\\\'", "'A%'"]);
    let not = || select(vec!["", "NOT "]);
    let pair = |side: BoxedStrategy<&'static str>, literal: BoxedStrategy<&'static str>| {
        (side, op(), literal, any::<bool>())
            .prop_map(|(side, op, literal, flip)| if flip { format!("{literal} {op} {side}") } else { format!("{side} {op} {literal}") })
    };
    let lists = |side: BoxedStrategy<&'static str>, literal: BoxedStrategy<&'static str>| {
        let list = proptest::collection::vec(literal.clone(), 1..4);
        let member = (side.clone(), not(), list).prop_map(|(side, not, list)| format!("{side} {not}IN ({})", list.join(", ")));
        let range =
            (side, not(), literal.clone(), literal).prop_map(|(side, not, low, high)| format!("{side} {not}BETWEEN {low} AND {high}"));
        prop_oneof![member, range]
    };
    prop_oneof![
        4 => pair(number().boxed(), number_literal().boxed()),
        4 => pair(time().boxed(), time_literal().boxed()),
        2 => pair(text().boxed(), text_literal().boxed()),
        1 => lists(number().boxed(), number_literal().boxed()),
        1 => lists(time().boxed(), time_literal().boxed()),
        1 => lists(text().boxed(), text_literal().boxed()),
        1 => (select(vec!["s", "i", "d", "t", "z", "m", "CAST(t AS DATE)"]), not()).prop_map(|(side, not)| format!("{side} IS {not}NULL")),
        1 => (text(), select(vec!["LIKE", "NOT LIKE", "ILIKE"]), pattern).prop_map(|(side, like, pattern)| format!("{side} {like} {pattern}")),
        1 => select(vec!["z", "z = true", "z <> true", "z > false", "z IS UNKNOWN", "starts_with(s, 'a')", "true", "z IN (true, NULL)", "i = b"]).prop_map(str::to_owned),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    simple().prop_recursive(3, 12, 2, |inner| {
        prop_oneof![
            (inner.clone(), select(vec!["AND", "OR"]), inner.clone()).prop_map(|(a, op, b)| format!("(({a}) {op} ({b}))")),
            inner.clone().prop_map(|a| format!("(NOT ({a}))")),
            (inner, select(vec!["TRUE", "FALSE", "NOT TRUE", "NOT FALSE", "UNKNOWN", "NOT NULL"]))
                .prop_map(|(a, what)| format!("(({a}) IS {what})")),
        ]
    })
}

fn partitions() -> impl Strategy<Value = Vec<Partition>> {
    let value = |(key, texts): (PartitionKey, Vec<&'static str>)| {
        select([texts.as_slice(), &[NULL_PARTITION]].concat()).prop_map(move |text| parse_value(&key, text).unwrap()).boxed()
    };
    let row = keys().into_iter().map(value).collect::<Vec<_>>();
    proptest::collection::vec(row.prop_map(partition), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pruning_keeps_what_evaluation_keeps(sql in condition(), partitions in partitions()) {
        let (keys, schema) = (key_list(), schema());
        let Ok(expr) = coerced(&sql) else { return Ok(()) };
        let batch = key_batch(&keys, &partitions).unwrap();
        let simplified = simplifier().simplify(expr.clone());
        // Each is compared with itself: DataFusion's simplification changes the meaning of some casts.
        for expr in std::iter::once(expr).chain(simplified) {
            let evaluated = SESSION.create_physical_expr(expr.clone(), &schema).and_then(|expr| expr.evaluate(&batch)?.into_array(batch.num_rows()));
            // What cannot be evaluated, such as a number that is no date, is an error with and without pruning.
            let Ok(evaluated) = evaluated else { continue };
            let Some(keeps) = evaluated.as_boolean_opt() else { continue };
            let wanted = partitions.iter().zip(keeps).filter(|(_, keep)| *keep == Some(true)).map(|(partition, _)| partition.clone()).collect::<Vec<_>>();

            let pruning = Pruning::new(std::slice::from_ref(&expr), &keys);
            let asked = partitions.iter().filter(|partition| pruning.predicate.evaluate(&partition.values)).cloned().collect::<Vec<_>>();
            let missed = wanted.iter().find(|partition| !asked.contains(partition));
            prop_assert!(missed.is_none(), "{expr}: {:?} misses {missed:?}", pruning.predicate);
            if pruning.data.is_empty() {
                let kept = pruning.retain(&*SESSION, &keys, asked).unwrap();
                prop_assert_eq!(&kept, &wanted, "{}: {:?}, {:?}", expr, pruning.predicate, pruning.residual);
            }
        }
    }
}
