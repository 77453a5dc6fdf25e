//! `year(t)`, `month(t)` and so on, as Hive, Spark and Presto spell `date_part('year', t)`.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions::datetime::date_part;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// Functions, the part they stand for, and other names of theirs.
const PARTS: [(&str, &str, &[&str]); 11] = [
    ("year", "year", &[]),
    ("quarter", "quarter", &[]),
    ("month", "month", &[]),
    ("week", "week", &["week_of_year", "weekofyear"]),
    ("day", "day", &["day_of_month", "dayofmonth"]),
    ("day_of_year", "doy", &["dayofyear", "doy"]),
    ("day_of_week", "isodow", &["dow"]),
    ("year_of_week", "isoyear", &["yow"]),
    ("hour", "hour", &[]),
    ("minute", "minute", &[]),
    ("second", "second", &[]),
];

/// All of them.
pub(super) fn functions() -> Vec<Arc<ScalarUDF>> {
    let function = |(name, part, aliases): (&'static str, &'static str, &[&str])| {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        Arc::new(ScalarUDF::new_from_impl(CalendarPart { name, part, aliases, signature: Signature::user_defined(Volatility::Immutable) }))
    };
    PARTS.map(function).into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CalendarPart {
    name: &'static str,
    part: &'static str,
    aliases: Vec<String>,
    signature: Signature,
}

impl ScalarUDFImpl for CalendarPart {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Text is read as a timestamp, as Hive does.
    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null] => {
                Ok(vec![DataType::Timestamp(TimeUnit::Microsecond, None)])
            }
            [time] if time.is_temporal() => Ok(vec![time.clone()]),
            _ => plan_err!("{} takes one date, time or timestamp", self.name),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int32)
    }

    /// The optimizer knows `date_part`: it turns a comparison with it into a range, which prunes.
    fn simplify(&self, mut arguments: Vec<Expr>, _context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        arguments.insert(0, Expr::Literal(ScalarValue::from(self.part), None));
        Ok(ExprSimplifyResult::Simplified(date_part().call(arguments)))
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        arguments.args.insert(0, ColumnarValue::Scalar(ScalarValue::from(self.part)));
        let part = datafusion::arrow::datatypes::Field::new("part", DataType::Utf8, false);
        arguments.arg_fields.insert(0, Arc::new(part));
        date_part().invoke_with_args(arguments)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int32Type;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use crate::functions::with_functions;

    #[tokio::test]
    async fn parts_of_dates_times_and_text() {
        let state = with_functions(SessionStateBuilder::new_with_default_features()).build();
        let context = SessionContext::new_with_state(state);
        for (expression, expected) in [
            ("year(DATE '2024-02-29')", 2024),
            ("quarter(DATE '2024-05-01')", 2),
            ("month('2024-02-29')", 2),
            ("weekofyear(DATE '2024-01-08')", 2),
            ("dayofmonth(TIMESTAMP '2024-02-29 10:11:12')", 29),
            ("day_of_year(DATE '2024-02-01')", 32),
            ("day_of_week(DATE '2024-09-01')", 7),
            ("year_of_week(DATE '2024-12-30')", 2025),
            ("hour(TIMESTAMP '2024-02-29 10:11:12')", 10),
            ("minute(column1) FROM (VALUES (TIMESTAMP '2024-02-29 10:11:12'))", 11),
            ("second(column1) FROM (VALUES ('2024-02-29 10:11:12'))", 12),
        ] {
            let batches = context.sql(&format!("SELECT {expression}")).await.unwrap().collect().await.unwrap();
            assert_eq!(batches[0].column(0).as_primitive::<Int32Type>().value(0), expected, "{expression}");
        }
        assert!(context.sql("SELECT year(1)").await.is_err());
    }
}
