//! JSON text by path, as Hive, Spark and Presto spell it: `$.a[0].b`. What a path leads to is found by the functions of
//! `datafusion-functions-json`, which also are callable by their own names.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::compute::nullif;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion_functions_json::udfs;

use super::kernel::{TEXT, is_text};

/// Steps that a path may have.
const STEPS_MAX: usize = 100;

/// What a function gives of the value that a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Gives {
    /// Text without quotes, anything else as JSON.
    Text,
    /// JSON.
    Json,
    /// Text without quotes, numbers and booleans; objects and lists are NULL.
    Scalar,
}

/// All of them, with those that they stand on.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    // `json_get`, which gives a union of types that no client can read, stands for the JSON text here.
    let get_json = Arc::unwrap_or_clone(udfs::json_get_json_udf()).with_aliases(["json_get"]);
    let length = Arc::unwrap_or_clone(udfs::json_length_udf()).with_aliases(["json_array_length"]);
    let own = [
        udfs::json_as_text_udf(),
        udfs::json_contains_udf(),
        udfs::json_get_array_udf(),
        udfs::json_get_bool_udf(),
        udfs::json_get_float_udf(),
        udfs::json_get_int_udf(),
        udfs::json_get_str_udf(),
        udfs::json_object_keys_udf(),
    ];
    let by_path = [("get_json_object", Gives::Text), ("json_extract", Gives::Json), ("json_extract_scalar", Gives::Scalar)];
    let by_path = by_path.map(|(name, gives)| Arc::new(ScalarUDF::new_from_impl(ByPath::new(name, gives))));
    own.into_iter().chain([Arc::new(get_json), Arc::new(length)]).chain(by_path).collect()
}

/// The value of one key of JSON text, as `get_json_object` gives it.
pub fn get_json_object(json: Expr, key: Expr) -> Expr {
    udfs::json_as_text_udf().call(vec![json, key])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ByPath {
    name: &'static str,
    gives: Gives,
    signature: Signature,
}

impl ByPath {
    fn new(name: &'static str, gives: Gives) -> Self {
        Self { name, gives, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ByPath {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [json, path] if is_text(json) && is_text(path) => Ok(vec![TEXT, DataType::Utf8]),
            _ => plan_err!("'{}' takes JSON text and a path such as '$.a[0].b'", self.name),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let steps = match &args.args[1] {
            ColumnarValue::Scalar(path) => match path.try_as_str().flatten() {
                Some(path) => steps(path)?,
                None => return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))),
            },
            ColumnarValue::Array(_) => return exec_err!("the path of '{}' is a constant text", self.name),
        };
        args.arg_fields.truncate(1);
        args.args.truncate(1);
        for step in steps {
            args.arg_fields.push(Arc::new(Field::new("step", step.data_type(), false)));
            args.args.push(ColumnarValue::Scalar(step));
        }
        args.return_field = Arc::new(Field::new(self.name, DataType::Utf8, true));
        match self.gives {
            Gives::Text => udfs::json_as_text_udf().invoke_with_args(args),
            Gives::Json => udfs::json_get_json_udf().invoke_with_args(args),
            Gives::Scalar => {
                let rows = args.number_rows;
                let json = udfs::json_get_json_udf().invoke_with_args(args.clone())?.into_array(rows)?;
                let text = udfs::json_as_text_udf().invoke_with_args(args)?.into_array(rows)?;
                Ok(ColumnarValue::Array(without_nested(&text, &json)?))
            }
        }
    }
}

/// `text`, but NULL where `json` is an object or a list.
fn without_nested(text: &ArrayRef, json: &ArrayRef) -> Result<ArrayRef> {
    let nested = json.as_string::<i32>().iter().map(|json| Some(json.is_some_and(|json| json.starts_with(['{', '[']))));
    Ok(nullif(text, &nested.collect::<BooleanArray>())?)
}

/// The steps of a path: names and places in lists.
fn steps(path: &str) -> Result<Vec<ScalarValue>> {
    let refused = || exec_err!("'{path}' is no path that is supported: paths are like $.a[0].b or $['a b']");
    let Some(mut rest) = path.trim().strip_prefix('$') else { return refused() };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if steps.len() == STEPS_MAX {
            return exec_err!("a path has at most {STEPS_MAX} steps");
        }
        if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            if end == 0 || &name[..end] == "*" {
                return refused();
            }
            steps.push(ScalarValue::from(&name[..end]));
            rest = &name[end..];
            continue;
        }
        let Some(inside) = rest.strip_prefix('[') else { return refused() };
        let quote = inside.chars().next().filter(|first| matches!(first, '\'' | '"'));
        let ending = quote.map_or_else(|| "]".to_owned(), |quote| format!("{quote}]"));
        let inside = quote.map_or(inside, |quote| &inside[quote.len_utf8()..]);
        let Some((step, after)) = inside.split_once(ending.as_str()) else { return refused() };
        steps.push(match (quote, step.trim().parse::<u32>()) {
            (Some(_), _) => ScalarValue::from(step),
            (None, Ok(place)) => ScalarValue::from(i64::from(place)),
            (None, Err(_)) => return refused(),
        });
        rest = after;
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_names_and_places() {
        let text = |text: &str| ScalarValue::from(text);
        let place = |place: i64| ScalarValue::from(place);
        for (path, expected) in [
            ("$", vec![]),
            ("$.a", vec![text("a")]),
            ("$.a[0].b c", vec![text("a"), place(0), text("b c")]),
            ("$['a.b'][\"c]\"][ 12 ]", vec![text("a.b"), text("c]"), place(12)]),
        ] {
            assert_eq!(steps(path).unwrap(), expected, "{path}");
        }
        for path in ["", "a", "$a", "$.", "$..a", "$.a[*]", "$.*", "$[", "$[-1]", "$['a'", "$[?(@.a)]"] {
            assert!(steps(path).is_err(), "{path}");
        }
        assert!(steps(&format!("${}", ".a".repeat(200))).is_err());
    }
}
