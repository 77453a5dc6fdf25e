//! Functions that are short for an expression, as SQL: `bitwise_and(a, b)` is `a & b`.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use datafusion::sql::sqlparser::ast::{
    Array, BinaryOperator, CastKind, DataType, Expr, Function, Ident, Value, ValueWithSpan, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use windlass_engine::Dialect;

use super::{arguments, arguments_of, call, number, taken, text};

/// Name, number of arguments, meaning in every dialect.
const SHORTHANDS: &[(&str, usize, &str)] = &[
    ("array_has_duplicates", 1, "(cardinality($1) > cardinality(array_distinct($1)))"),
    ("array_last", 1, "element_at($1, -1)"),
    ("array_size", 1, "CAST(cardinality($1) AS INT)"),
    ("bitwise_and", 2, "($1 & $2)"),
    ("bitwise_left_shift", 2, "(CAST($1 AS BIGINT) << CAST($2 AS BIGINT))"),
    ("bitwise_or", 2, "($1 | $2)"),
    ("bitwise_right_shift", 2, "shiftrightunsigned(CAST($1 AS BIGINT), CAST($2 AS INT))"),
    ("bitwise_right_shift_arithmetic", 2, "(CAST($1 AS BIGINT) >> CAST($2 AS BIGINT))"),
    ("bitwise_xor", 2, "($1 ^ $2)"),
    ("checksum", 1, "sum(CAST(xxhash64($1) AS DECIMAL(20, 0)))"),
    ("convert_timezone", 3, "from_utc_timestamp(to_utc_timestamp($3, $1), $2)"),
    ("cosine_similarity", 2, "(1 - cosine_distance($1, $2))"),
    ("curdate", 0, "current_date()"),
    ("date_from_unix_date", 1, "CAST(CAST($1 AS INT) AS DATE)"),
    ("datepart", 2, "date_part($1, $2)"),
    ("dayname", 1, "format_datetime($1, 'EEE')"),
    ("dot_product", 2, "inner_product($1, $2)"),
    ("e", 0, "exp(1.0)"),
    ("equal_null", 2, "($1 IS NOT DISTINCT FROM $2)"),
    ("euclidean_distance", 2, "array_distance($1, $2)"),
    ("from_iso8601_date", 1, "CAST($1 AS DATE)"),
    ("from_utf8", 1, "CAST($1 AS VARCHAR)"),
    ("geometric_mean", 1, "exp(avg(ln($1)))"),
    ("get", 2, "CASE WHEN $2 >= 0 THEN element_at($1, $2 + 1) END"),
    ("getbit", 2, "bit_get($1, $2)"),
    ("group_concat", 1, "string_agg($1, ',')"),
    ("ifnull", 2, "coalesce($1, $2)"),
    ("ilike", 2, "($1 ILIKE $2)"),
    ("infinity", 0, "CAST('Infinity' AS DOUBLE)"),
    ("json_array_contains", 2, "array_has(json_get_array($1), to_json($2))"),
    ("json_array_get", 2, "json_get_json($1, $2)"),
    ("json_exists", 2, "(json_extract($1, regexp_replace($2, '^(lax|strict) +', '')) IS NOT NULL)"),
    ("json_format", 1, "CAST($1 AS VARCHAR)"),
    ("json_parse", 1, "json_extract($1, '$')"),
    ("json_query", 2, "json_extract($1, regexp_replace($2, '^(lax|strict) +', ''))"),
    ("json_size", 2, "json_length(json_extract($1, $2))"),
    ("json_value", 2, "json_extract_scalar($1, regexp_replace($2, '^(lax|strict) +', ''))"),
    ("like", 2, "($1 LIKE $2)"),
    ("localtime", 0, "current_time()"),
    ("localtimestamp", 0, "CAST(now() AS TIMESTAMP)"),
    ("make_timestamp", 6, "(CAST(make_date($1, $2, $3) AS TIMESTAMP) + make_interval(0, 0, 0, 0, $4, $5, $6))"),
    ("map_contains_key", 2, "array_has(map_keys($1), $2)"),
    ("max", 2, "slice(array_agg($1 ORDER BY $1 DESC) FILTER (WHERE $1 IS NOT NULL), 1, CAST($2 AS INT))"),
    ("max_by", 3, "slice(array_agg($1 ORDER BY $2 DESC) FILTER (WHERE $2 IS NOT NULL), 1, CAST($3 AS INT))"),
    ("millisecond", 1, "(CAST(date_part('millisecond', $1) AS BIGINT) % 1000)"),
    ("min", 2, "slice(array_agg($1 ORDER BY $1) FILTER (WHERE $1 IS NOT NULL), 1, CAST($2 AS INT))"),
    ("min_by", 3, "slice(array_agg($1 ORDER BY $2) FILTER (WHERE $2 IS NOT NULL), 1, CAST($3 AS INT))"),
    ("nan", 0, "CAST('NaN' AS DOUBLE)"),
    ("nullifzero", 1, "nullif($1, 0)"),
    ("nvl", 2, "coalesce($1, $2)"),
    ("positive", 1, "(+$1)"),
    ("rand", 0, "random()"),
    ("random", 1, "CAST(floor(random() * $1) AS BIGINT)"),
    ("random", 2, "($1 + CAST(floor(random() * ($2 - $1)) AS BIGINT))"),
    ("regexp_substr", 2, "presto_regexp_extract($1, $2)"),
    ("replace", 2, "replace($1, $2, '')"),
    ("rlike", 2, "regexp_like($1, $2)"),
    ("split_to_map", 3, "str_to_map($1, $2, $3)"),
    ("to_binary", 1, "unhex($1)"),
    ("to_iso8601", 1, "CAST($1 AS VARCHAR)"),
    ("to_timestamp_ntz", 1, "CAST($1 AS TIMESTAMP)"),
    ("to_utf8", 1, "CAST($1 AS BYTEA)"),
    ("trim_array", 2, "slice($1, 1, CAST(cardinality($1) AS INT) - $2)"),
    ("try_divide", 2, "($1 / nullif($2, 0))"),
    ("try_element_at", 2, "element_at($1, $2)"),
    ("try_mod", 2, "($1 % nullif($2, 0))"),
    ("typeof", 1, "arrow_typeof($1)"),
    ("zeroifnull", 1, "coalesce($1, 0)"),
];

/// The same in Hive, Spark and Presto.
const WAREHOUSE_SHORTHANDS: &[(&str, usize, &str)] = &[
    ("array_contains", 2, CONTAINS),
    ("array_position", 2, "CAST(CASE WHEN $2 IS NOT NULL AND $1 IS NOT NULL THEN coalesce(array_position($1, $2), 0) END AS BIGINT)"),
    (
        "arrays_overlap",
        2,
        "CASE WHEN array_has_any(array_compact($1), array_compact($2)) THEN true \
         WHEN cardinality($1) > 0 AND cardinality($2) > 0 AND (cardinality(array_compact($1)) < cardinality($1) \
         OR cardinality(array_compact($2)) < cardinality($2)) THEN NULL WHEN $1 IS NOT NULL AND $2 IS NOT NULL THEN false END",
    ),
];

/// NULL where an element that is not known may be the one.
const CONTAINS: &str = "CASE WHEN $2 IS NULL OR $1 IS NULL THEN NULL WHEN array_has($1, $2) THEN true \
     WHEN cardinality(array_compact($1)) < cardinality($1) THEN NULL ELSE false END";

/// The same in Hive and Spark.
const HIVE_SHORTHANDS: &[(&str, usize, &str)] = &[
    ("array_append", 2, "CASE WHEN $1 IS NOT NULL THEN array_append($1, $2) END"),
    ("array_prepend", 2, "CASE WHEN $1 IS NOT NULL THEN array_prepend($2, $1) END"),
    ("log", 1, "ln($1)"),
    ("ltrim", 2, "ltrim($2, $1)"),
    ("position", 2, "locate($1, $2)"),
    ("position", 3, "locate($1, $2, $3)"),
    ("rand", 1, "random()"),
    ("random", 1, "random()"),
    ("rtrim", 2, "rtrim($2, $1)"),
    ("sentences", 2, "sentences($1)"),
    ("sentences", 3, "sentences($1)"),
];

/// The same in Presto.
const PRESTO_SHORTHANDS: &[(&str, usize, &str)] = &[
    ("array_max", 1, "CASE WHEN cardinality(array_compact($1)) = cardinality($1) THEN array_max($1) END"),
    ("array_min", 1, "CASE WHEN cardinality(array_compact($1)) = cardinality($1) THEN array_min($1) END"),
    ("contains", 2, CONTAINS),
    ("from_unixtime", 1, "CAST(to_timestamp($1) AS TIMESTAMP)"),
    ("map", 0, "map(make_array(), make_array())"),
    ("md5", 1, "unhex(md5($1))"),
    ("rand", 1, "CAST(floor(random() * $1) AS BIGINT)"),
    ("sha1", 1, "unhex(sha1($1))"),
    ("split_part", 3, "CASE WHEN cardinality(presto_split($1, $2)) >= $3 THEN split_part($1, $2, $3) END"),
    ("strpos", 3, "CASE WHEN length(substring_index($1, $2, $3)) < length($1) THEN length(substring_index($1, $2, $3)) + 1 ELSE 0 END"),
];

/// Units that may stand without quotes as the first argument of a function of dates.
const UNITS: &[&str] = &["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];

/// Functions that take a unit, with the names they have here.
const OF_UNITS: &[(&str, &str)] = &[
    ("date_add", "date_add"),
    ("date_diff", "date_diff"),
    ("dateadd", "date_add"),
    ("datediff", "date_diff"),
    ("timestampadd", "date_add"),
    ("timestampdiff", "date_diff"),
];

/// Aggregates that take one fraction, and of several make a list.
const PERCENTILES: &[&str] = &["approx_percentile", "approx_percentile_cont", "percentile", "percentile_approx", "percentile_cont"];

type Meanings = HashMap<(&'static str, usize), Expr>;

static MEANINGS: LazyLock<[Meanings; 4]> = LazyLock::new(|| {
    let parsed = |sql: &str| {
        let parser = Parser::new(&GenericDialect {}).try_with_sql(sql);
        parser.and_then(|mut parser| parser.parse_expr()).expect("a test parses every shorthand")
    };
    [SHORTHANDS, WAREHOUSE_SHORTHANDS, HIVE_SHORTHANDS, PRESTO_SHORTHANDS]
        .map(|shorthands| shorthands.iter().map(|(name, arguments, sql)| ((*name, *arguments), parsed(sql))).collect())
});

/// Which lists of shorthands a dialect has, the more special ones first.
fn lists(dialect: Dialect) -> &'static [usize] {
    match dialect {
        Dialect::Hive | Dialect::Spark => &[2, 1, 0],
        Dialect::Presto => &[3, 1, 0],
        Dialect::Generic | Dialect::Ansi => &[0],
    }
}

/// Names of what is short for something else in a dialect.
pub(super) fn names(dialect: Dialect) -> impl Iterator<Item = &'static str> {
    lists(dialect).iter().flat_map(|list| MEANINGS[*list].keys()).map(|(name, _)| *name).chain(["try"])
}

/// What a call of a function with plain arguments is short for.
pub(super) fn expand(name: &str, args: &[Expr], function: &Function, dialect: Dialect) -> Option<Expr> {
    if let Some(percentiles) = percentiles(name, args, function) {
        return Some(percentiles);
    }
    if function.filter.is_some() || function.over.is_some() || function.null_treatment.is_some() || !function.within_group.is_empty() {
        return None;
    }
    if let ("try", [tried]) = (name, args) {
        let mut tried = tried.clone();
        let ControlFlow::Continue(()) = VisitMut::visit(&mut tried, &mut Lenient);
        return Some(tried);
    }
    if let Some(of_unit) = of_unit(name, args) {
        return Some(of_unit);
    }
    let mut meaning = lists(dialect).iter().find_map(|list| MEANINGS[*list].get(&(name, args.len())))?.clone();
    substitute(&mut meaning, args);
    Some(meaning)
}

/// Puts arguments in the place of `$1`, `$2` and so on.
pub(super) fn substitute(meaning: &mut Expr, args: &[Expr]) {
    let ControlFlow::Continue(()) = VisitMut::visit(meaning, &mut Arguments(args));
}

struct Arguments<'a>(&'a [Expr]);

impl VisitorMut for Arguments<'_> {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Value(ValueWithSpan { value: Value::Placeholder(place), .. }) = expr {
            let argument = place[1..].parse::<usize>().ok().and_then(|place| self.0.get(place - 1));
            if let Some(argument) = argument {
                *expr = Expr::Nested(Box::new(argument.clone()));
            }
        }
        ControlFlow::Continue(())
    }
}

/// Makes what can fail in an expression NULL, as far as it has a form that does: casts, divisions, and times in text.
struct Lenient;

impl VisitorMut for Lenient {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Cast { kind: kind @ (CastKind::Cast | CastKind::DoubleColon), .. } => *kind = CastKind::TryCast,
            Expr::BinaryOp { op: BinaryOperator::Divide | BinaryOperator::Modulo, right, .. } => {
                **right = call("nullif", [taken(right), number(0)]);
            }
            Expr::Function(function) => {
                for (fails, lenient) in [("date_parse", "try_date_parse"), ("parse_datetime", "hive_to_timestamp")] {
                    if function.name.to_string().eq_ignore_ascii_case(fails) {
                        function.name = Ident::new(lenient).into();
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// `timestampdiff(DAY, a, b)`.
fn of_unit(name: &str, args: &[Expr]) -> Option<Expr> {
    let (_, own) = OF_UNITS.iter().find(|(spelled, _)| *spelled == name)?;
    let [unit, first, second] = args else { return None };
    let unit = match unit {
        Expr::Identifier(unit) if unit.quote_style.is_none() => text(*UNITS.iter().find(|known| known.eq_ignore_ascii_case(&unit.value))?),
        unit if *own != name => unit.clone(),
        _ => return None,
    };
    Some(call(own, [unit, first.clone(), second.clone()]))
}

/// `approx_percentile(x, ARRAY[0.5, 0.9])`.
fn percentiles(name: &str, args: &[Expr], function: &Function) -> Option<Expr> {
    let [value, fractions, rest @ ..] = args else { return None };
    if !PERCENTILES.contains(&name) {
        return None;
    }
    let fractions = match fractions {
        Expr::Array(Array { elem, .. }) => elem.clone(),
        Expr::Function(list) if ["array", "make_array"].iter().any(|name| list.name.to_string().eq_ignore_ascii_case(name)) => {
            arguments(list)?
        }
        _ => return None,
    };
    let one = |fraction: Expr| {
        let args = [&[value.clone(), fraction], rest].concat();
        Expr::Function(Function { args: arguments_of(args, Vec::new()), ..function.clone() })
    };
    Some(call("make_array", fractions.into_iter().map(one)))
}

/// `CAST(x AS JSON)`: JSON is text.
pub(super) fn cast_to_json(expr: &mut Expr) -> Option<Expr> {
    match expr {
        Expr::Cast { expr, data_type: DataType::JSON, .. } => Some(call("to_json", [taken(expr)])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(sql: &str, dialect: Dialect) -> String {
        let parsed = Parser::new(&GenericDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap();
        let Expr::Function(function) = &parsed else { panic!("{sql}") };
        let args = arguments(function).unwrap();
        expand(&function.name.to_string(), &args, function, dialect).unwrap_or_else(|| parsed.clone()).to_string()
    }

    #[test]
    fn every_shorthand_uses_its_arguments_and_no_others() {
        let of_dialects = WAREHOUSE_SHORTHANDS.iter().chain(HIVE_SHORTHANDS).chain(PRESTO_SHORTHANDS);
        for (name, arguments, sql) in SHORTHANDS.iter().chain(of_dialects) {
            let places: std::collections::BTreeSet<_> = sql.match_indices('$').filter_map(|(at, _)| sql[at + 1..].chars().next()).collect();
            let places = places.into_iter().filter_map(|place| place.to_digit(10)).max().unwrap_or(0) as usize;
            // What says how, and not what, may be left out.
            assert!(places == *arguments || ["rand", "random", "sentences"].contains(name), "{name}");
        }
        assert_eq!(MEANINGS[0].len(), SHORTHANDS.len());
    }

    #[test]
    fn calls_become_what_they_are_short_for() {
        for (sql, expected) in [
            ("bitwise_and(a OR b, $2)", "((a OR b) & ($2))"),
            ("bitwise_and(a)", "bitwise_and(a)"),
            ("array_prepend(a, b)", "array_prepend(a, b)"),
            ("timestampdiff(DAY, a, b)", "date_diff('day', a, b)"),
            ("datediff('day', a, b)", "date_diff('day', a, b)"),
            ("datediff(a, b)", "datediff(a, b)"),
            ("try(CAST(a AS INT) / b)", "TRY_CAST(a AS INT) / nullif(b, 0)"),
            ("try(date_parse(a, b))", "try_date_parse(a, b)"),
            ("approx_percentile(a, ARRAY[0.5, 0.9])", "make_array(approx_percentile(a, 0.5), approx_percentile(a, 0.9))"),
            ("percentile_approx(a, array(0.5), 100) FILTER (WHERE b)", "make_array(percentile_approx(a, 0.5, 100) FILTER (WHERE b))"),
        ] {
            assert_eq!(expanded(sql, Dialect::Generic), expected, "{sql}");
        }
        let prepended = expanded("array_prepend(a, b)", Dialect::Spark);
        assert_eq!(prepended, "CASE WHEN (a) IS NOT NULL THEN array_prepend((b), (a)) END");
    }
}
