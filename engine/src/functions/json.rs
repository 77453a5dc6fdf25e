//! JSON text by path, as Hive, Spark and Presto spell it: `$.a[0].b`. What a path leads to is found by the functions of
//! `datafusion-functions-json`, which also are callable by their own names.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
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

    /// All elements of a list make one piece of JSON: that which the path leads to if it is the only one, else a list.
    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let steps = match &args.args[1] {
            ColumnarValue::Scalar(path) => match path.try_as_str().flatten() {
                Some(path) => steps(path)?,
                None => return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(None))),
            },
            ColumnarValue::Array(_) => return exec_err!("the path of '{}' is a constant text", self.name),
        };
        args.return_field = Arc::new(Field::new(self.name, DataType::Utf8, true));
        let Some(each) = steps.iter().position(Option::is_none) else { return self.found(args, steps.into_iter().flatten()) };
        let (mut outer, mut rest) = (steps, Vec::new());
        rest.extend(outer.drain(each..).flatten());
        let constant = matches!(args.args[0], ColumnarValue::Scalar(_));
        let rows = if constant { 1 } else { args.number_rows };
        let (elements, mut of_list) = (udfs::json_get_array_udf(), at(args.clone(), outer.into_iter().flatten()));
        let types: Vec<_> = of_list.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        of_list.return_field = Arc::new(Field::new(elements.name(), elements.return_type(&types)?, true));
        let lists = elements.invoke_with_args(of_list)?.into_array(rows)?;
        let lists = lists.as_list::<i32>();
        args.number_rows = lists.values().len();
        args.args[0] = ColumnarValue::Array(Arc::clone(lists.values()));
        let of_elements = |gives| Self::new(self.name, gives).found(args.clone(), rest.iter().cloned())?.into_array(args.number_rows);
        let (json, alone) = (of_elements(Gives::Json)?, of_elements(self.gives)?);
        let (json, alone) = (json.as_string::<i32>(), alone.as_string::<i32>());
        let joined = (0..rows).map(|row| {
            let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
            let mut found = range.filter(|element| lists.is_valid(row) && json.is_valid(*element));
            match (found.next(), found.clone().next()) {
                (None, _) => None,
                (Some(only), None) => alone.is_valid(only).then(|| alone.value(only).to_owned()),
                (Some(_), Some(_)) if self.gives == Gives::Scalar => None,
                (Some(first), _) => {
                    let all: Vec<_> = std::iter::once(first).chain(found).map(|element| json.value(element)).collect();
                    Some(format!("[{}]", all.join(",")))
                }
            }
        });
        let joined: ArrayRef = Arc::new(joined.collect::<StringArray>());
        match constant {
            true => Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?)),
            false => Ok(ColumnarValue::Array(joined)),
        }
    }
}

impl ByPath {
    /// What steps lead to.
    fn found(&self, args: ScalarFunctionArgs, steps: impl Iterator<Item = ScalarValue>) -> Result<ColumnarValue> {
        let args = at(args, steps);
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

/// Arguments for the library's functions: JSON and steps.
fn at(mut args: ScalarFunctionArgs, steps: impl Iterator<Item = ScalarValue>) -> ScalarFunctionArgs {
    args.arg_fields.truncate(1);
    args.args.truncate(1);
    for step in steps {
        args.arg_fields.push(Arc::new(Field::new("step", step.data_type(), false)));
        args.args.push(ColumnarValue::Scalar(step));
    }
    args
}

/// `text`, but NULL where `json` is an object or a list.
fn without_nested(text: &ArrayRef, json: &ArrayRef) -> Result<ArrayRef> {
    let nested = json.as_string::<i32>().iter().map(|json| Some(json.is_some_and(|json| json.starts_with(['{', '[']))));
    Ok(nullif(text, &nested.collect::<BooleanArray>())?)
}

/// The steps of a path: names, places in lists, and once each element of a list.
fn steps(path: &str) -> Result<Vec<Option<ScalarValue>>> {
    let refused = || exec_err!("'{path}' is no path that is supported: paths are like $.a[0].b, $.a[*].b or $['a b']");
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
            steps.push(Some(ScalarValue::from(&name[..end])));
            rest = &name[end..];
            continue;
        }
        let Some(inside) = rest.strip_prefix('[') else { return refused() };
        let quote = inside.chars().next().filter(|first| matches!(first, '\'' | '"'));
        let ending = quote.map_or_else(|| "]".to_owned(), |quote| format!("{quote}]"));
        let inside = quote.map_or(inside, |quote| &inside[quote.len_utf8()..]);
        let Some((step, after)) = inside.split_once(ending.as_str()) else { return refused() };
        steps.push(match (quote, step.trim().parse::<u32>()) {
            (Some(_), _) => Some(ScalarValue::from(step)),
            (None, Ok(place)) => Some(ScalarValue::from(i64::from(place))),
            (None, Err(_)) if step.trim() == "*" && steps.iter().all(Option::is_some) => None,
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
        let text = |text: &str| Some(ScalarValue::from(text));
        let place = |place: i64| Some(ScalarValue::from(place));
        for (path, expected) in [
            ("$", vec![]),
            ("$.a", vec![text("a")]),
            ("$.a[0].b c", vec![text("a"), place(0), text("b c")]),
            ("$.a[*].b", vec![text("a"), None, text("b")]),
            ("$['a.b'][\"c]\"][ 12 ]", vec![text("a.b"), text("c]"), place(12)]),
        ] {
            assert_eq!(steps(path).unwrap(), expected, "{path}");
        }
        for path in ["", "a", "$a", "$.", "$..a", "$[*][*]", "$.*", "$[", "$[-1]", "$['a'", "$[?(@.a)]"] {
            assert!(steps(path).is_err(), "{path}");
        }
        assert!(steps(&format!("${}", ".a".repeat(200))).is_err());
    }
}
