//! Functions of lists and maps, and the greatest of several values, as Hive, Spark and Presto spell them. Each is made of DataFusion's.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::compute::{is_null, nullif, or};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::functions::core::{greatest, least};
use datafusion::functions::string::concat;
use datafusion::functions::unicode::reverse;
use datafusion::functions_nested::concat::array_concat_udf;
use datafusion::functions_nested::extract::array_element_udf;
use datafusion::functions_nested::map_extract::map_extract_udf;
use datafusion::functions_nested::reverse::array_reverse_udf;
use datafusion::functions_nested::sort::array_sort_udf;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::kernel::TEXT;

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    [Composed::Concat, Composed::ElementAt, Composed::Greatest, Composed::Least, Composed::Reverse, Composed::SortArray]
        .map(|composed| {
            Arc::new(ScalarUDF::new_from_impl(Function { composed, signature: Signature::user_defined(Volatility::Immutable) }))
        })
        .into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Composed {
    /// Texts or lists behind each other; NULL if any is.
    Concat,
    /// The element at a place from 1, or from the end if it is negative; the value of a key.
    ElementAt,
    /// Elements in order; NULLs first, or last if the order is descending.
    SortArray,
    /// The greatest value; NULL if any is, unlike DataFusion's and Spark's.
    Greatest,
    /// The least value; NULL if any is.
    Least,
    /// Text or a list from its end.
    Reverse,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    composed: Composed,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        match self.composed {
            Composed::Concat => "hive_concat",
            Composed::ElementAt => "element_at",
            Composed::SortArray => "sort_array",
            Composed::Greatest => "hive_greatest",
            Composed::Least => "hive_least",
            Composed::Reverse => "hive_reverse",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match (self.composed, types) {
            (Composed::Concat, _) => match types.iter().find(|list| list.is_list()) {
                // NULL would become an element.
                Some(list) => {
                    let listed: Vec<_> = types.iter().map(|other| if other.is_null() { list } else { other }.clone()).collect();
                    array_concat_udf().coerce_types(&listed)
                }
                None => concat().coerce_types(types),
            },
            (Composed::Reverse, [list]) if list.is_list() => Ok(types.to_vec()),
            (Composed::Reverse, [_]) => Ok(vec![TEXT]),
            (Composed::Reverse, _) => plan_err!("'reverse' takes text or a list"),
            (Composed::ElementAt, [DataType::Map(..), _]) => map_extract_udf().coerce_types(types),
            (Composed::ElementAt, [list, place]) if list.is_list() && place.is_integer() => Ok(vec![list.clone(), DataType::Int64]),
            (Composed::ElementAt, _) => plan_err!("'element_at' takes a list and a place, or a map and a key"),
            (Composed::SortArray, [list]) if list.is_list() => Ok(vec![list.clone()]),
            (Composed::SortArray, [list, DataType::Boolean]) if list.is_list() => Ok(types.to_vec()),
            (Composed::SortArray, _) => plan_err!("'sort_array' takes a list and perhaps whether the order is ascending"),
            (Composed::Greatest, _) => greatest().coerce_types(types),
            (Composed::Least, _) => least().coerce_types(types),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (self.composed, types) {
            (Composed::ElementAt, [DataType::Map(entries, _), _]) => match entries.data_type() {
                DataType::Struct(fields) if fields.len() == 2 => Ok(fields[1].data_type().clone()),
                other => plan_err!("a map's entries are pairs, not {other}"),
            },
            (Composed::ElementAt, _) => array_element_udf().return_type(types),
            (Composed::Concat, _) => {
                if has_list(types) {
                    array_concat_udf().return_type(types)
                } else {
                    concat().return_type(types)
                }
            }
            (Composed::Reverse, [list]) if list.is_list() => array_reverse_udf().return_type(types),
            (Composed::Reverse, _) => reverse().return_type(types),
            (Composed::SortArray | Composed::Greatest | Composed::Least, _) => Ok(types[0].clone()),
        }
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match (self.composed, args.args[0].data_type()) {
            (Composed::ElementAt, DataType::Map(..)) => {
                let returned = Arc::clone(&args.return_field);
                let list = DataType::List(Arc::new(Field::new_list_field(returned.data_type().clone(), true)));
                args.return_field = Arc::new(Field::new("values", list, true));
                let mut first = args.clone();
                first.args = vec![map_extract_udf().invoke_with_args(args)?, ColumnarValue::Scalar(ScalarValue::from(1_i64))];
                first.arg_fields = vec![Arc::clone(&first.return_field), Arc::new(Field::new("place", DataType::Int64, false))];
                first.return_field = returned;
                array_element_udf().invoke_with_args(first)
            }
            (Composed::ElementAt, _) => array_element_udf().invoke_with_args(args),
            (Composed::SortArray, _) => {
                let ascending = match args.args.get(1) {
                    None | Some(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true)))) => true,
                    Some(ColumnarValue::Scalar(ScalarValue::Boolean(Some(false)))) => false,
                    _ => return exec_err!("the order of 'sort_array' is the constant true or false"),
                };
                let order = if ascending { ["ASC", "NULLS FIRST"] } else { ["DESC", "NULLS LAST"] };
                args.args.truncate(1);
                args.arg_fields.truncate(1);
                for word in order {
                    args.args.push(ColumnarValue::Scalar(ScalarValue::from(word)));
                    args.arg_fields.push(Arc::new(Field::new("order", DataType::Utf8, false)));
                }
                array_sort_udf().invoke_with_args(args)
            }
            (Composed::Concat, _) if args.args.iter().any(|arg| arg.data_type().is_list()) => unless_null(args, &array_concat_udf()),
            (Composed::Concat, _) => unless_null(args, &concat()),
            (Composed::Reverse, list) if list.is_list() => array_reverse_udf().invoke_with_args(args),
            (Composed::Reverse, _) => reverse().invoke_with_args(args),
            (Composed::Greatest, _) => unless_null(args, &greatest()),
            (Composed::Least, _) => unless_null(args, &least()),
        }
    }
}

fn has_list(types: &[DataType]) -> bool {
    types.iter().any(DataType::is_list)
}

/// What a function gives, but NULL where any argument is.
fn unless_null(args: ScalarFunctionArgs, function: &ScalarUDF) -> Result<ColumnarValue> {
    let rows = args.number_rows;
    let mut any = BooleanArray::from(vec![false; rows]);
    for arg in &args.args {
        any = or(&any, &is_null(&arg.to_array(rows)?)?)?;
    }
    let result: ArrayRef = function.invoke_with_args(args)?.into_array(rows)?;
    Ok(ColumnarValue::Array(nullif(&result, &any)?))
}
