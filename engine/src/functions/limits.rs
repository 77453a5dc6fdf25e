//! Limits on functions whose result is as large as a number says. Their memory is not booked anywhere, and an allocation that fails ends the
//! process with everybody's queries: `lpad(name, id * 1000000000)` must be an error instead.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::length::length;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Characters or elements that one call may make for a batch of rows.
const PARTS_MAX: i128 = 1 << 27;

/// Width that a format may ask for: padding takes its time.
const WIDTH_MAX: i128 = 10_000;

/// How many parts a function makes of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// As many as the argument at this place says.
    Count(usize),
    /// The first argument as often as the second says.
    Repeat,
    /// The widths that a format in the first argument asks for.
    Format,
    /// From the first argument to the second, in steps of the third.
    Range,
}

/// The function itself, or one with a limit around it.
pub fn limited(function: Arc<ScalarUDF>) -> Arc<ScalarUDF> {
    let growth = match function.name() {
        "lpad" | "rpad" | "array_repeat" | "array_resize" => Growth::Count(1),
        "space" => Growth::Count(0),
        "repeat" => Growth::Repeat,
        "format_string" => Growth::Format,
        "range" | "generate_series" => Growth::Range,
        _ => return function,
    };
    Arc::new(ScalarUDF::new_from_impl(Limited { function, growth }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Limited {
    function: Arc<ScalarUDF>,
    growth: Growth,
}

impl Limited {
    /// Parts that a call would make. Dates and other arguments that are no whole numbers make few.
    fn parts(&self, args: &[ColumnarValue], rows: usize) -> Result<i128> {
        let rows = if args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_))) { 1 } else { rows };
        let array = |index: usize| args.get(index).map(|arg| arg.to_array(rows)).transpose();
        let numbers = |index| array(index)?.filter(|array| array.data_type().is_integer()).map(|array| int64(&array)).transpose();
        let sum = |parts: &dyn Fn(usize) -> i128| (0..rows).map(parts).sum();
        Ok(match self.growth {
            Growth::Count(place) => numbers(place)?.map_or(0, |counts| sum(&|row| value(&counts, row).max(0))),
            Growth::Repeat => match (array(0)?, numbers(1)?) {
                (Some(text), Some(counts)) if text.data_type() != &DataType::Null => {
                    let lengths = int64(&length(&text)?)?;
                    sum(&|row| value(&lengths, row) * value(&counts, row).max(0))
                }
                _ => 0,
            },
            Growth::Format => {
                let format = array(0)?.map(|format| cast(&format, &DataType::Utf8)).transpose()?;
                let widths = |text: &str| -> i128 {
                    let numbers = text.split(|letter: char| !letter.is_ascii_digit()).filter(|digits| !digits.is_empty());
                    let widths = numbers.map(|digits| digits.parse().ok().filter(|width| *width <= WIDTH_MAX));
                    widths.map(|width| width.unwrap_or(PARTS_MAX + 1)).sum()
                };
                format.map_or(0, |format| format.as_string::<i32>().iter().flatten().map(widths).sum())
            }
            Growth::Range => match (numbers(0)?, numbers(1)?, numbers(2)?) {
                (Some(stop), None, _) => sum(&|row| value(&stop, row).max(0)),
                (Some(start), Some(stop), step) => {
                    let step = |row| step.as_ref().map_or(1, |step| value(step, row).abs().max(1));
                    sum(&|row| (value(&stop, row) - value(&start, row)).abs() / step(row))
                }
                _ => 0,
            },
        })
    }
}

fn int64(array: &ArrayRef) -> Result<Int64Array> {
    Ok(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

fn value(array: &Int64Array, row: usize) -> i128 {
    if array.is_valid(row) { i128::from(array.value(row)) } else { 0 }
}

impl ScalarUDFImpl for Limited {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.function.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(arg_types)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.function.simplify(args, info)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let parts = self.parts(&args.args, args.number_rows)?;
        if parts > PARTS_MAX {
            let name = self.name();
            return datafusion::common::exec_err!(
                "'{name}' would make {parts} characters or elements for one batch of rows, and at most {PARTS_MAX} are possible; ask for less"
            );
        }
        self.function.invoke_with_args(args)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use crate::functions::with_functions;

    #[tokio::test]
    async fn results_are_as_large_as_they_may_be() {
        let context = SessionContext::new_with_state(with_functions(SessionStateBuilder::new_with_default_features()).build());
        let run = async |expression: &str| {
            let sql = format!("SELECT {expression} FROM (VALUES (1, 'ab'), (2, 'cd'), (NULL, NULL)) t(n, s)");
            context.sql(&sql).await.unwrap().collect().await.map(drop)
        };
        for small in [
            "lpad(s, n + 5)",
            "rpad(s, 9)",
            "repeat(s, 3)",
            "repeat(NULL, 3)",
            "format_string('%09d', n)",
            "array_repeat(n, 4)",
            "range(n, 10)",
            "range(5)",
        ] {
            run(small).await.expect(small);
        }
        for small in ["array_resize([n], 9, 0)", "range(9223372036854775000, -9223372036854775000, -9000000000000000000)"] {
            run(small).await.expect(small);
        }
        for large in [
            "lpad(s, n * 100000000000)",
            "rpad(s, 2000000000)",
            "repeat(s, 90000000)",
            "array_repeat(n, 1000000000)",
            "array_resize([n], 1000000000, 0)",
            "space(n * 1000000000)",
            "format_string('%900000000d', n)",
            "range(n, 10000000000)",
            "generate_series(0, 10000000000, n)",
            "range(4000000000)",
        ] {
            let error = run(large).await.expect_err(large).to_string();
            assert!(error.contains("at most 134217728 are possible"), "{large}: {error}");
        }
    }
}
