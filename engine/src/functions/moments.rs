//! Aggregates of how values are spread: `skewness`, `kurtosis` and `kurtosis_pop`.
//!
//! Sums of powers of differences from the mean, which two groups can put together without losing digits.
//! Source: Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical moments" (2008).

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, internal_err, not_impl_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

/// All of them.
pub(super) fn aggregates() -> impl Iterator<Item = Arc<AggregateUDF>> {
    [Shape::Skewness, Shape::Kurtosis, Shape::KurtosisPop]
        .into_iter()
        .map(|shape| Arc::new(AggregateUDF::new_from_impl(Spread { shape, signature: Signature::user_defined(Volatility::Immutable) })))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Shape {
    /// Of the values as they are, as in Presto and Spark.
    Skewness,
    /// What the values tell of those they were drawn from, as in Presto and DuckDB; less that of a normal distribution.
    Kurtosis,
    /// Of the values as they are, as in Spark; less that of a normal distribution.
    KurtosisPop,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Spread {
    shape: Shape,
    signature: Signature,
}

/// What the columns of a state are called.
const STATE: [&str; 5] = ["count", "mean", "second", "third", "fourth"];

impl AggregateUDFImpl for Spread {
    fn name(&self) -> &str {
        match self.shape {
            Shape::Skewness => "skewness",
            Shape::Kurtosis => "kurtosis",
            Shape::KurtosisPop => "kurtosis_pop",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [number] if number.is_numeric() || number.is_null() => Ok(vec![DataType::Float64]),
            _ => plan_err!("'{}' takes a number", self.name()),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |part| Arc::new(Field::new(format_state_name(args.name, part), DataType::Float64, true));
        Ok(STATE.map(field).into())
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return not_impl_err!("'{}' does not take DISTINCT", self.name());
        }
        Ok(Box::new(Moments { shape: self.shape, sums: Sums::default() }))
    }
}

/// Of one group: its mean, and sums of powers of the differences from it.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: f64,
    mean: f64,
    second: f64,
    third: f64,
    fourth: f64,
}

impl Sums {
    fn of(value: f64) -> Self {
        Self { count: 1.0, mean: value, ..Self::default() }
    }

    fn and(self, other: Self) -> Self {
        let (a, b, count) = (self.count, other.count, self.count + other.count);
        if b == 0.0 {
            return self;
        }
        let delta = other.mean - self.mean;
        let part = delta / count;
        Self {
            count,
            mean: self.mean + b * part,
            second: self.second + other.second + a * b * delta * part,
            third: self.third + other.third + a * b * (a - b) * delta * part * part + 3.0 * part * (a * other.second - b * self.second),
            fourth: self.fourth
                + other.fourth
                + a * b * (a * a - a * b + b * b) * delta * part * part * part
                + 6.0 * part * part * (a * a * other.second + b * b * self.second)
                + 4.0 * part * (a * other.third - b * self.third),
        }
    }

    /// None for too few values, and for values that do not differ.
    fn shape(&self, shape: Shape) -> Option<f64> {
        let Self { count: n, second, third, fourth, .. } = *self;
        if second == 0.0 {
            return None;
        }
        match shape {
            Shape::Skewness => (n >= 2.0).then(|| n.sqrt() * third / second.powf(1.5)),
            Shape::KurtosisPop => (n >= 2.0).then(|| n * fourth / (second * second) - 3.0),
            Shape::Kurtosis => (n >= 4.0).then(|| {
                let spread = (n - 2.0) * (n - 3.0);
                (n - 1.0) * n * (n + 1.0) / spread * fourth / (second * second) - 3.0 * (n - 1.0) * (n - 1.0) / spread
            }),
        }
    }
}

#[derive(Debug)]
struct Moments {
    shape: Shape,
    sums: Sums,
}

impl Accumulator for Moments {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let numbers = values[0].as_primitive::<Float64Type>().iter().flatten();
        self.sums = numbers.fold(self.sums, |sums, number| sums.and(Sums::of(number)));
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [counts, means, seconds, thirds, fourths] = states else { return internal_err!("a state is five numbers") };
        let part = |column: &ArrayRef, row| column.as_primitive::<Float64Type>().value(row);
        for row in 0..counts.len() {
            self.sums = self.sums.and(Sums {
                count: part(counts, row),
                mean: part(means, row),
                second: part(seconds, row),
                third: part(thirds, row),
                fourth: part(fourths, row),
            });
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let Sums { count, mean, second, third, fourth } = self.sums;
        Ok([count, mean, second, third, fourth].map(ScalarValue::from).into())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.sums.shape(self.shape)))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_give_what_the_whole_gives() {
        let values = [-10.0, -20.0, 100.0, 1000.0, 7.5, 7.5];
        let sums = |values: &[f64]| values.iter().fold(Sums::default(), |sums, value| sums.and(Sums::of(*value)));
        let whole = sums(&values);
        for cut in 0..=values.len() {
            let (one, other) = values.split_at(cut);
            let both = sums(one).and(sums(other));
            for shape in [Shape::Skewness, Shape::Kurtosis, Shape::KurtosisPop] {
                let (both, whole) = (both.shape(shape).unwrap(), whole.shape(shape).unwrap());
                assert!((both - whole).abs() < 1e-9, "{shape:?} cut at {cut}: {both}, not {whole}");
            }
        }
        assert!(sums(&[5.0, 5.0]).shape(Shape::Skewness).is_none() && sums(&[1.0, 2.0, 4.0]).shape(Shape::Kurtosis).is_none());
    }
}
