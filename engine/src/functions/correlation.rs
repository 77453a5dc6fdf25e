//! `corr` by differences from the means. DataFusion's subtracts sums of squares of each group, which leaves nothing of a small spread among
//! large numbers, such as times. NULL for fewer than two rows, and where one side does not vary, as the standard, Presto and Spark say.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::functions_aggregate::correlation::corr_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};

/// The aggregate.
pub(super) fn corr() -> Arc<AggregateUDF> {
    let signature = Signature::exact(vec![DataType::Float64, DataType::Float64], Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(Correlation { signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Correlation {
    signature: Signature,
}

/// What the columns of a state are called.
const STATE: [&str; 6] = ["count", "mean_x", "mean_y", "xx", "yy", "xy"];

impl AggregateUDFImpl for Correlation {
    fn name(&self) -> &str {
        "corr"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |part| Arc::new(Field::new(format_state_name(args.name, part), DataType::Float64, true));
        Ok(STATE.map(field).into())
    }

    fn accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Sums::default()))
    }

    /// Frames that move take rows out again, which differences from a mean do not allow.
    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        corr_udaf().create_sliding_accumulator(args)
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(Groups::default()))
    }
}

/// Of one group: its means, and sums of products of the differences from them.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    count: f64,
    mean_x: f64,
    mean_y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Sums {
    fn of(x: f64, y: f64) -> Self {
        Self { count: 1.0, mean_x: x, mean_y: y, ..Self::default() }
    }

    fn add(&mut self, other: Self) {
        if other.count == 0.0 {
            return;
        }
        let count = self.count + other.count;
        let (x, y) = (other.mean_x - self.mean_x, other.mean_y - self.mean_y);
        let weight = self.count * other.count / count;
        *self = Self {
            count,
            mean_x: self.mean_x + x * other.count / count,
            mean_y: self.mean_y + y * other.count / count,
            xx: self.xx + other.xx + x * x * weight,
            yy: self.yy + other.yy + y * y * weight,
            xy: self.xy + other.xy + x * y * weight,
        };
    }

    fn correlation(&self) -> Option<f64> {
        (self.count >= 2.0 && self.xx != 0.0 && self.yy != 0.0).then(|| (self.xy / (self.xx.sqrt() * self.yy.sqrt())).clamp(-1.0, 1.0))
    }

    fn parts(&self) -> [f64; 6] {
        [self.count, self.mean_x, self.mean_y, self.xx, self.yy, self.xy]
    }
}

/// The pairs of rows without NULL, each with its row.
fn pairs<'a>(values: &'a [ArrayRef], filter: Option<&'a BooleanArray>) -> Result<impl Iterator<Item = (usize, Sums)> + 'a> {
    let [x, y] = values else { return internal_err!("'corr' takes two numbers") };
    let (x, y) = (x.as_primitive::<Float64Type>(), y.as_primitive::<Float64Type>());
    let is_kept = move |row: usize| filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row));
    let rows = (0..x.len()).filter(move |row| x.is_valid(*row) && y.is_valid(*row) && is_kept(*row));
    Ok(rows.map(|row| (row, Sums::of(x.value(row), y.value(row)))))
}

/// The sums in each row of a state.
fn states(values: &[ArrayRef]) -> Result<impl Iterator<Item = Sums> + '_> {
    let [counts, rest @ ..] = values else { return internal_err!("a state is six numbers") };
    let [mean_x, mean_y, xx, yy, xy] = rest else { return internal_err!("a state is six numbers") };
    let part = |column: &ArrayRef, row| column.as_primitive::<Float64Type>().value(row);
    Ok((0..counts.len()).map(move |row| Sums {
        count: part(counts, row),
        mean_x: part(mean_x, row),
        mean_y: part(mean_y, row),
        xx: part(xx, row),
        yy: part(yy, row),
        xy: part(xy, row),
    }))
}

fn columns(all: &[Sums]) -> Vec<ArrayRef> {
    let column = |part: usize| Arc::new(all.iter().map(|sums| Some(sums.parts()[part])).collect::<Float64Array>()) as ArrayRef;
    (0..STATE.len()).map(column).collect()
}

impl Accumulator for Sums {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        pairs(values, None)?.for_each(|(_, pair)| self.add(pair));
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        states(values)?.for_each(|state| self.add(state));
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(self.parts().map(ScalarValue::from).into())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.correlation()))
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }
}

/// The same of many groups.
#[derive(Debug, Default)]
struct Groups {
    sums: Vec<Sums>,
}

impl GroupsAccumulator for Groups {
    fn update_batch(&mut self, values: &[ArrayRef], groups: &[usize], filter: Option<&BooleanArray>, total: usize) -> Result<()> {
        self.sums.resize(total, Sums::default());
        pairs(values, filter)?.for_each(|(row, pair)| self.sums[groups[row]].add(pair));
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.sums.resize(total, Sums::default());
        states(values)?.zip(groups).for_each(|(state, group)| self.sums[*group].add(state));
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        Ok(Arc::new(sums.iter().map(Sums::correlation).collect::<Float64Array>()))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(columns(&emit_to.take_needed(&mut self.sums)))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut sums = vec![Sums::default(); values.first().map_or(0, |values| values.len())];
        pairs(values, filter)?.for_each(|(row, pair)| sums[row] = pair);
        Ok(columns(&sums))
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<Sums>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_spread_among_large_numbers_is_seen() {
        let pairs: Vec<_> = (0..100).map(|n| (1.7e15 + f64::from(n), f64::from(n * 3 % 7))).collect();
        let near: Vec<_> = pairs.iter().map(|(x, y)| (x - 1.7e15, *y)).collect();
        let of = |pairs: &[(f64, f64)]| {
            let mut sums = Sums::default();
            pairs.iter().for_each(|(x, y)| sums.add(Sums::of(*x, *y)));
            sums
        };
        let (far, near) = (of(&pairs).correlation().unwrap(), of(&near).correlation().unwrap());
        assert!((far - near).abs() < 1e-6, "{far}, not {near}");
        let (one, other) = pairs.split_at(37);
        let mut both = of(one);
        both.add(of(other));
        assert!((both.correlation().unwrap() - far).abs() < 1e-6);
        for none in [&[][..], &[(1.0, 2.0)], &[(1.0, 2.0), (1.0, 3.0)], &[(1.0, 2.0), (2.0, 2.0)]] {
            assert_eq!(of(none).correlation(), None, "{none:?}");
        }
    }
}
