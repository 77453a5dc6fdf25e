//! Intervals times a number, which DataFusion coerces and cannot compute: `INTERVAL '1' DAY * 1.5`.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, IntervalMonthDayNanoArray};
use datafusion::arrow::datatypes::{DataType, Float64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::ScalarUDF;

use super::kernel::Kernel;

const DAYS_PER_MONTH: f64 = 30.0;
const NANOS_PER_DAY: f64 = 24.0 * 60.0 * 60.0 * 1e9;

/// The function that stands for the operator.
pub(super) fn interval_times() -> Arc<ScalarUDF> {
    Kernel {
        name: "interval_times",
        aliases: &[],
        takes: "an interval and a number",
        coerce: |types| match types {
            [DataType::Interval(_), number] if number.is_numeric() || number.is_null() => {
                Some(vec![DataType::Interval(IntervalUnit::MonthDayNano), DataType::Float64])
            }
            _ => None,
        },
        returns: |_| DataType::Interval(IntervalUnit::MonthDayNano),
        run: |call| {
            let intervals = call.array(0).as_primitive::<IntervalMonthDayNanoType>();
            let factors = call.array(1).as_primitive::<Float64Type>();
            let products = intervals.iter().zip(factors).map(|(interval, factor)| match interval.zip(factor) {
                Some((interval, factor)) => {
                    let product = times(interval, factor);
                    product.map(Some).ok_or_else(|| exec_datafusion_err!("an interval times {factor} is out of range"))
                }
                None => Ok(None),
            });
            Ok(Arc::new(products.collect::<Result<IntervalMonthDayNanoArray>>()?))
        },
    }
    .build()
}

/// As in PostgreSQL: parts of a month are days of a month of 30, parts of a day are time.
fn times(interval: IntervalMonthDayNano, factor: f64) -> Option<IntervalMonthDayNano> {
    let months = f64::from(interval.months) * factor;
    let days = f64::from(interval.days) * factor + tidy(months.fract() * DAYS_PER_MONTH);
    let nanos = (interval.nanoseconds as f64).mul_add(factor, (tidy(days.fract() * NANOS_PER_DAY)).round()).round();
    let fits = |number: f64, most: f64| number.is_finite() && number.abs() < most;
    let is_known = fits(months, f64::from(i32::MAX)) && fits(days, f64::from(i32::MAX)) && fits(nanos, i64::MAX as f64);
    is_known.then(|| IntervalMonthDayNano::new(months.trunc() as i32, days.trunc() as i32, nanos as i64))
}

/// A number without what the product of two of them has lost: 0.1 of a month is three days, not a little less.
fn tidy(number: f64) -> f64 {
    const PLACES: f64 = 1e6;
    if (number * PLACES).abs() < f64::MAX { (number * PLACES).round() / PLACES } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_go_to_the_smaller_unit() {
        let hours = |hours: i64| hours * 3_600_000_000_000;
        for ((months, days, nanos), factor, expected) in [
            ((0, 1, 0), 1.5, Some((0, 1, hours(12)))),
            ((1, 0, 0), 0.1, Some((0, 3, 0))),
            ((3, 0, 0), 0.5, Some((1, 15, 0))),
            ((0, 0, hours(1)), 1.0 / 3.0, Some((0, 0, hours(1) / 3))),
            ((0, 2, hours(2)), -2.0, Some((0, -4, hours(-4)))),
            ((1, 0, 0), 1e10, None),
            ((0, 1, 0), f64::NAN, None),
        ] {
            let product = times(IntervalMonthDayNano::new(months, days, nanos), factor);
            let expected = expected.map(|(months, days, nanos)| IntervalMonthDayNano::new(months, days, nanos));
            assert_eq!(product, expected, "{months} months {days} days {nanos} ns times {factor}");
        }
    }
}
