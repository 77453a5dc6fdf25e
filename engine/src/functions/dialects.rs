//! Which function a name means in which dialect.
//!
//! Every function has one name of its own, by which plans carry it to executors, whatever the dialect. What means different things in
//! different systems has a function for each: `hive_...` and `presto_...`; a dialect gives them their plain names.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    AggregateUDF, ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::FUNCTIONS;
use super::operators::DialectPlanner;
use crate::dialect::Dialect;

/// Functions of Spark's that DataFusion's names do not collide with. Left out are names that are DataFusion's, with other corners.
const SPARK: &[&str] = &[
    "array",
    "base64",
    "bin",
    "bit_count",
    "bit_get",
    "bitmap_bit_position",
    "bitmap_bucket_number",
    "bitmap_count",
    "bitwise_not",
    "char",
    "crc32",
    "csc",
    "elt",
    "expm1",
    "format_string",
    "from_utc_timestamp",
    "hex",
    "hypot",
    "if",
    "is_valid_utf8",
    "luhn_check",
    "make_dt_interval",
    "make_interval",
    "make_valid_utf8",
    "map_from_arrays",
    "map_from_entries",
    "mod",
    "monthname",
    "negative",
    "parse_url",
    "pmod",
    "quote",
    "rint",
    "sec",
    "sha1",
    "sha2",
    "shiftleft",
    "shiftright",
    "shiftrightunsigned",
    "shuffle",
    "size",
    "slice",
    "soundex",
    "str_to_map",
    "to_utc_timestamp",
    "try_parse_url",
    "try_url_decode",
    "unbase64",
    "unhex",
    "unix_date",
    "unix_micros",
    "unix_millis",
    "unix_seconds",
    "url_decode",
    "url_encode",
    "width_bucket",
    "xxhash64",
];

/// Functions of Spark's that Hive and Spark mean by a name of DataFusion's, with the names they have here.
const HIVE: &[(&str, &str)] = &[("ceil", "hive_ceil"), ("concat_ws", "hive_concat_ws"), ("floor", "hive_floor")];

/// Names of scalar functions that mean the same in all dialects: one more name for a function.
const ALIASES: &[(&str, &[&str])] = &[
    ("array_avg", &["array_average"]),
    ("arrays_zip", &["zip"]),
    ("ascii", &["codepoint"]),
    ("base64", &["to_base64"]),
    ("ceil", &["ceiling"]),
    ("character_length", &["len"]),
    ("ends_with", &["endswith"]),
    ("format_string", &["format", "printf"]),
    ("hive_to_date", &["try_to_date"]),
    ("hive_to_timestamp", &["try_to_timestamp"]),
    ("if", &["iff"]),
    ("isnan", &["is_nan"]),
    ("levenshtein", &["levenshtein_distance"]),
    ("locate", &["charindex"]),
    ("lower", &["lcase"]),
    ("presto_regexp_extract", &["regexp_extract"]),
    ("presto_regexp_extract_all", &["regexp_extract_all"]),
    ("presto_split", &["split"]),
    ("regexp_instr", &["regexp_position"]),
    ("regexp_like", &["regexp"]),
    ("sha1", &["sha"]),
    ("signum", &["sign"]),
    ("starts_with", &["startswith"]),
    ("to_timestamp", &["from_iso8601_timestamp"]),
    ("to_timestamp_micros", &["timestamp_micros"]),
    ("to_timestamp_millis", &["timestamp_millis"]),
    ("to_timestamp_seconds", &["timestamp_seconds"]),
    ("trunc", &["truncate"]),
    ("unbase64", &["from_base64"]),
    ("unhex", &["from_hex"]),
    ("upper", &["ucase"]),
];

/// The same of aggregates.
const AGGREGATE_ALIASES: &[(&str, &[&str])] = &[
    ("any_value", &["arbitrary"]),
    ("approx_distinct", &["approx_count_distinct"]),
    ("approx_percentile_cont", &["approx_percentile", "percentile_approx"]),
    ("avg", &["try_avg"]),
    ("bit_and", &["bitwise_and_agg"]),
    ("bit_or", &["bitwise_or_agg"]),
    ("bit_xor", &["bitwise_xor_agg"]),
    ("bool_and", &["every"]),
    ("bool_or", &["any", "some"]),
    ("collect_set", &["set_agg"]),
    ("first_value", &["first"]),
    ("last_value", &["last"]),
    ("percentile_cont", &["percentile"]),
    ("stddev", &["std"]),
    ("string_agg", &["listagg"]),
    ("var", &["variance"]),
];

/// Plain names in Hive and Spark, and what they mean there.
const HIVE_NAMES: &[(&str, &str)] = &[
    ("array_remove", "array_remove_all"),
    ("ceil", "hive_ceil"),
    ("ceiling", "hive_ceil"),
    ("concat", "hive_concat"),
    ("concat_ws", "hive_concat_ws"),
    ("date_format", "format_datetime"),
    ("floor", "hive_floor"),
    ("from_unixtime", "hive_from_unixtime"),
    ("regexp_extract", "hive_regexp_extract"),
    ("regexp_extract_all", "hive_regexp_extract_all"),
    ("regexp_replace", "regexp_replace_all"),
    ("reverse", "hive_reverse"),
    ("split", "hive_split"),
    ("to_date", "hive_to_date"),
    ("to_timestamp", "hive_to_timestamp"),
    ("trunc", "hive_trunc"),
];

/// Plain names in Presto, and what they mean there.
const PRESTO_NAMES: &[(&str, &str)] = &[
    ("array_remove", "array_remove_all"),
    ("concat", "hive_concat"),
    ("concat_ws", "hive_concat_ws"),
    ("contains", "array_has"),
    ("date_format", "presto_date_format"),
    ("greatest", "hive_greatest"),
    ("least", "hive_least"),
    ("regexp_replace", "regexp_replace_all"),
    ("repeat", "array_repeat"),
    ("reverse", "hive_reverse"),
    ("to_hex", "hex"),
];

/// What is Hive's and not Spark's.
const ONLY_HIVE_NAMES: &[(&str, &str)] = &[("greatest", "hive_greatest"), ("least", "hive_least")];

/// Aggregates in Hive and Spark, and what they mean there.
const HIVE_AGGREGATE_NAMES: &[(&str, &str)] = &[("kurtosis", "kurtosis_pop")];

/// The functions of Spark's.
pub(super) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let all = datafusion_spark::all_default_scalar_functions();
    let plain = all.iter().filter(|function| SPARK.contains(&function.name())).map(Arc::clone);
    let renamed = all.iter().filter_map(|function| {
        let (_, name) = HIVE.iter().find(|(name, _)| *name == function.name())?;
        Some(Arc::new(ScalarUDF::new_from_impl(Renamed { name, function: Arc::clone(function) })))
    });
    plain.chain(renamed).collect()
}

/// A function with the names that it has in all dialects beside its own.
pub(super) fn aliased(function: &Arc<ScalarUDF>) -> Option<Arc<ScalarUDF>> {
    let (_, aliases) = ALIASES.iter().find(|(name, _)| *name == function.name())?;
    Some(Arc::new(function.as_ref().clone().with_aliases(aliases.iter().copied())))
}

/// An aggregate with the names that it has in all dialects beside its own.
pub(super) fn aliased_aggregate(function: &Arc<AggregateUDF>) -> Option<Arc<AggregateUDF>> {
    let (_, aliases) = AGGREGATE_ALIASES.iter().find(|(name, _)| *name == function.name())?;
    Some(Arc::new(function.as_ref().clone().with_aliases(aliases.iter().copied())))
}

/// Aggregates of Spark's.
pub(super) fn aggregate_functions() -> impl Iterator<Item = Arc<AggregateUDF>> {
    let all = datafusion_spark::all_default_aggregate_functions().into_iter();
    all.filter(|function| ["collect_list", "collect_set", "try_sum"].contains(&function.name()))
}

/// Gives a session the names and operators of a dialect. Executors need none of this.
pub fn with_dialect(mut builder: SessionStateBuilder, dialect: Dialect) -> SessionStateBuilder {
    let renamed = names_of(dialect).iter().flat_map(|names| names.iter()).filter_map(|(name, meant)| {
        let function = own(meant)?;
        Some(Arc::new(function.as_ref().clone().with_aliases([*name])))
    });
    builder.scalar_functions().get_or_insert_default().extend(renamed);
    let renamed = HIVE_AGGREGATE_NAMES.iter().filter(|_| dialect.is_hive_like()).filter_map(|(name, meant)| {
        let function = FUNCTIONS.aggregate.iter().find(|function| function.name() == *meant)?;
        Some(Arc::new(function.as_ref().clone().with_aliases([*name])))
    });
    builder.aggregate_functions().get_or_insert_default().extend(renamed);
    let ansi = builder.config().as_ref().is_some_and(|config| config.options().execution.enable_ansi_mode);
    let checked = matches!(dialect, Dialect::Presto | Dialect::Ansi) || (dialect.is_hive_like() && ansi);
    let planner = DialectPlanner { dialect, lenient: dialect.is_hive_like() && !ansi, checked };
    builder.expr_planners().get_or_insert_default().insert(0, Arc::new(planner));
    builder
}

/// The name that an aggregate has in plans, if this is one more name for it. Called by both in one query, it would be two.
pub fn aggregate_meaning(name: &str) -> Option<&'static str> {
    AGGREGATE_ALIASES.iter().find(|(_, aliases)| aliases.contains(&name)).map(|(meant, _)| *meant)
}

/// The name that a function has in plans, if a dialect knows it by this one.
pub fn meaning(name: &str, dialect: Dialect) -> Option<&'static str> {
    let of_dialect = names_of(dialect).iter().flat_map(|names| names.iter()).find(|(known, _)| *known == name).map(|(_, meant)| *meant);
    let alias = || ALIASES.iter().find(|(_, aliases)| aliases.contains(&name)).map(|(meant, _)| *meant);
    let is_known = |known: &str, aliases: &[String]| known == name || aliases.iter().any(|alias| alias == name);
    let scalar = || FUNCTIONS.scalar.iter().find(|function| is_known(function.name(), function.aliases())).map(|function| function.name());
    let aggregate =
        || FUNCTIONS.aggregate.iter().find(|function| is_known(function.name(), function.aliases())).map(|function| function.name());
    of_dialect.or_else(alias).or_else(scalar).or_else(aggregate)
}

/// Plain names of a dialect, each with the function it means.
fn names_of(dialect: Dialect) -> &'static [&'static [(&'static str, &'static str)]] {
    match dialect {
        Dialect::Hive => &[HIVE_NAMES, ONLY_HIVE_NAMES],
        Dialect::Spark => &[HIVE_NAMES],
        Dialect::Presto => &[PRESTO_NAMES],
        Dialect::Generic | Dialect::Ansi => &[],
    }
}

/// A function by its own name.
pub(super) fn own(name: &str) -> Option<&'static Arc<ScalarUDF>> {
    FUNCTIONS.scalar.iter().find(|function| function.name() == name)
}

/// What takes characters out of text in a dialect, if it is not DataFusion's.
pub(super) fn substring(dialect: Dialect) -> Option<&'static Arc<ScalarUDF>> {
    let name = match dialect {
        Dialect::Hive | Dialect::Spark => "hive_substr",
        Dialect::Presto => "presto_substr",
        Dialect::Generic | Dialect::Ansi => return None,
    };
    own(name)
}

/// A function under another name.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Renamed {
    name: &'static str,
    function: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for Renamed {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(types)
    }

    fn simplify(&self, args: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.function.simplify(args, context)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.function.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_a_function() {
        let exists = |name: &str| FUNCTIONS.scalar.iter().any(|function| function.name() == name);
        for (name, meant) in HIVE_NAMES.iter().chain(ONLY_HIVE_NAMES).chain(PRESTO_NAMES) {
            assert!(exists(meant), "{name} means {meant}");
        }
        for (name, _) in ALIASES {
            assert!(exists(name), "{name}");
        }
        let aggregates = AGGREGATE_ALIASES.iter().map(|(name, _)| name).chain(HIVE_AGGREGATE_NAMES.iter().map(|(_, meant)| meant));
        for name in aggregates {
            assert!(FUNCTIONS.aggregate.iter().any(|function| function.name() == *name), "{name}");
        }
        for name in SPARK {
            assert!(exists(name), "{name}");
        }
    }

    #[test]
    fn no_two_functions_have_one_name() {
        let mut names: Vec<_> = FUNCTIONS.scalar.iter().map(|function| function.name().to_owned()).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
