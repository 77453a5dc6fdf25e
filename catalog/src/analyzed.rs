//! What is known of the rows that a scan reads from what ANALYZE found in some of their partitions.

use std::collections::HashSet;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics};
use windlass_engine::functions::sketch::DistinctValues;

use crate::catalog::AnalyzedPartition;

/// Adds what was found in `partitions` to what the files say of a scan of them and others.
///
/// Shape: `columns` are positions among the table's columns; others stay as they are. Everything added is an estimate. Sketches that cannot
/// be read, say of another version, count for nothing.
pub(crate) fn add_analyzed(statistics: &mut Statistics, partitions: &[AnalyzedPartition], columns: impl IntoIterator<Item = usize>) {
    if statistics.num_rows == Precision::Absent && !partitions.is_empty() {
        // Files that do not say how many rows they have.
        let counted = partitions.iter().map(|partition| partition.statistics.num_rows.get_value().copied()).sum::<Option<usize>>();
        statistics.num_rows = counted.map_or(Precision::Absent, Precision::Inexact);
    }
    let Some(rows) = statistics.num_rows.get_value().map(|rows| *rows as f64) else { return };
    for index in columns {
        let Some(column) = statistics.column_statistics.get_mut(index) else { continue };
        let of_column = |partition| Found::of(partition, index);
        let found: Vec<_> = partitions.iter().filter_map(of_column).collect();
        if !found.is_empty() {
            add_found(column, &found, rows);
        }
    }
}

/// What was found of one column in one partition.
struct Found<'a> {
    rows: f64,
    column: &'a ColumnStatistics,
    sketch: &'a [u8],
}

impl<'a> Found<'a> {
    fn of(partition: &'a AnalyzedPartition, index: usize) -> Option<Self> {
        let sketch = partition.sketches.get(index).filter(|sketch| !sketch.is_empty())?;
        let rows = *partition.statistics.num_rows.get_value()? as f64;
        Some(Self { rows, column: partition.statistics.column_statistics.get(index)?, sketch })
    }
}

fn add_found(column: &mut ColumnStatistics, found: &[Found<'_>], rows: f64) {
    let sampled: f64 = found.iter().map(|found| found.rows).sum();
    let sum = |value: fn(&ColumnStatistics) -> Precision<usize>| {
        found.iter().map(|found| value(found.column).get_value().map(|value| *value as f64)).sum::<Option<f64>>()
    };
    let scaled = |sum: f64| Precision::Inexact((sum * rows / sampled.max(1.0)).round() as usize);
    if column.null_count == Precision::Absent {
        column.null_count = sum(|column| column.null_count).map_or(Precision::Absent, scaled);
    }
    // Files tell the bytes of encoded pages.
    if let Some(bytes) = sum(|column| column.byte_size) {
        column.byte_size = scaled(bytes);
    }
    // Bounds of a part say nothing about the rest.
    if sampled >= rows {
        let bound = |merge: fn(&Precision<ScalarValue>, &Precision<ScalarValue>) -> Precision<ScalarValue>,
                     of: fn(&ColumnStatistics) -> &Precision<ScalarValue>| {
            // A partition of which nothing but NULLs is known has none.
            let bounds = found.iter().map(|found| of(found.column)).filter(|bound| **bound != Precision::Absent).cloned();
            bounds.reduce(|a, b| merge(&a, &b)).map_or(Precision::Absent, Precision::to_inexact)
        };
        if column.min_value == Precision::Absent {
            column.min_value = bound(Precision::min, |column| &column.min_value);
        }
        if column.max_value == Precision::Absent {
            column.max_value = bound(Precision::max, |column| &column.max_value);
        }
    }
    if let Ok(distinct) = distinct(found, rows) {
        let nulls = column.null_count.get_value().map_or(0.0, |nulls| *nulls as f64);
        let limit = whole_numbers(column).unwrap_or(f64::INFINITY).min(rows - nulls);
        column.distinct_count = Precision::Inexact(distinct.min(limit).max(0.0).round() as usize);
    }
}

/// From the least to the greatest value of a column of whole numbers or days.
fn whole_numbers(column: &ColumnStatistics) -> Option<f64> {
    let (least, greatest) = (column.min_value.get_value()?, column.max_value.get_value()?);
    let is_whole = least.data_type().is_integer() || least.data_type() == DataType::Date32;
    is_whole.then(|| least.distance(greatest)).flatten().map(|distance| distance as f64 + 1.0)
}

/// Different values among `rows` rows, of which those of `found` are a part.
///
/// The sketches are added up, first every second one, then the rest. What the rest adds tells how the number of values grows with that of
/// rows: not at all for a column whose values are the same in every partition, in step for one whose values never come again. The rows
/// that were not looked at are taken to go on like that. Errors: `Execution` for a sketch that cannot be read.
fn distinct(found: &[Found<'_>], rows: f64) -> Result<f64> {
    let (mut values, mut seen) = (DistinctValues::default(), 0.0);
    let mut add = |first: usize| {
        for part in found.iter().skip(first).step_by(2) {
            values.add(part.sketch)?;
            seen += part.rows;
        }
        Ok::<_, datafusion::error::DataFusionError>((values.estimate(), seen))
    };
    let (half, half_rows) = add(0)?;
    let (all, all_rows) = add(1)?;
    if rows <= all_rows || all_rows == 0.0 {
        return Ok(all);
    }
    let growth = match all_rows > half_rows && half > 0.0 {
        true => (all / half).ln() / (all_rows / half_rows).ln(),
        // Of one partition only: the share of its rows that bring a new value.
        false => all / all_rows,
    };
    Ok(all * (rows / all_rows).powf(growth.clamp(0.0, 1.0)))
}

/// How many different values a partition key has, NULL not counted.
pub(crate) fn distinct_keys<'a>(values: impl Iterator<Item = &'a ScalarValue>) -> usize {
    values.filter(|value| !value.is_null()).collect::<HashSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;
    use windlass_engine::functions::with_functions;

    use super::*;

    /// Partitions of a thousand rows each, in which a column has the values of `value`.
    async fn partitions(count: usize, value: &str) -> Vec<AnalyzedPartition> {
        let state = with_functions(SessionStateBuilder::new_with_default_features()).build();
        let sql = format!(
            "SELECT p, hll_sketch_agg({value}) FROM (SELECT value / 1000 AS p, value AS row FROM range({count} * 1000)) t GROUP BY p ORDER BY p"
        );
        let batches = SessionContext::new_with_state(state).sql(&sql).await.unwrap().collect().await.unwrap();
        let sketches =
            batches.iter().flat_map(|batch| batch.column(1).as_binary::<i64>().iter().flatten().map(<[u8]>::to_vec).collect::<Vec<_>>());
        let column = ColumnStatistics {
            null_count: Precision::Exact(0),
            byte_size: Precision::Exact(8000),
            min_value: Precision::Exact(1.into()),
            ..ColumnStatistics::new_unknown()
        };
        let partition = |(partition_id, sketch)| AnalyzedPartition {
            partition_id,
            statistics: Statistics {
                num_rows: Precision::Exact(1000),
                total_byte_size: Precision::Absent,
                column_statistics: vec![column.clone()],
            },
            sketches: vec![sketch],
        };
        (0..).zip(sketches).map(partition).collect()
    }

    fn merged(found: &[AnalyzedPartition], rows: usize) -> ColumnStatistics {
        let mut statistics = Statistics {
            num_rows: Precision::Inexact(rows),
            total_byte_size: Precision::Absent,
            column_statistics: vec![ColumnStatistics::new_unknown()],
        };
        add_analyzed(&mut statistics, found, [0]);
        statistics.column_statistics.remove(0)
    }

    #[tokio::test]
    async fn what_was_not_looked_at_goes_on_as_it_was_found() {
        for (count, value, rows, expected) in [
            (16, "row % 50", 16_000, 50.0),
            (16, "row % 50", 1_600_000, 50.0),
            (16, "row", 16_000, 16_000.0),
            (16, "row", 1_600_000, 1_600_000.0),
            // Half of each partition's values come again in the next.
            (16, "row / 1000 * 500 + row % 1000", 16_000, 8_500.0),
            // Each partition has one in nine of all values, as if by chance.
            (64, "row * 2654435761 % 4294967296 % 8000", 1_600_000, 8_000.0),
        ] {
            let found = partitions(count, value).await;
            let Precision::Inexact(distinct) = merged(&found, rows).distinct_count else { panic!("{value}") };
            assert!((distinct as f64 / expected).ln().abs() < 0.2, "{value} of {rows}: {distinct}, not {expected}");
        }
        // Of one partition out of many, and of a part of one.
        let found = partitions(1, "row").await;
        assert!(matches!(merged(&found, 100_000).distinct_count, Precision::Inexact(80_000..)));
        assert_eq!(merged(&found, 10).distinct_count, Precision::Inexact(10));
    }

    #[tokio::test]
    async fn files_are_believed_first() {
        let found = partitions(2, "row").await;
        let column = merged(&found, 4000);
        assert_eq!((column.null_count, column.byte_size), (Precision::Inexact(0), Precision::Inexact(32_000)));
        assert_eq!(column.min_value, Precision::Absent);
        assert_eq!(merged(&found, 2000).min_value, Precision::Inexact(1.into()));
        let mut days = ColumnStatistics::new_unknown();
        (days.min_value, days.max_value) =
            (Precision::Inexact(ScalarValue::Date32(Some(10))), Precision::Exact(ScalarValue::Date32(Some(12))));
        assert_eq!(whole_numbers(&days), Some(3.0));
        let mut statistics = Statistics {
            num_rows: Precision::Exact(2000),
            total_byte_size: Precision::Absent,
            column_statistics: vec![ColumnStatistics { null_count: Precision::Exact(1990), ..ColumnStatistics::new_unknown() }],
        };
        add_analyzed(&mut statistics, &found, [0, 7]);
        assert_eq!(statistics.column_statistics[0].null_count, Precision::Exact(1990));
        assert_eq!(statistics.column_statistics[0].distinct_count, Precision::Inexact(10));
        let broken = [AnalyzedPartition { sketches: vec![vec![1, 2]], ..found[0].clone() }];
        assert_eq!(merged(&broken, 2000).distinct_count, Precision::Absent);
        assert_eq!(distinct_keys([ScalarValue::Utf8(None), "a".into(), "a".into(), "b".into()].iter()), 2);
    }
}
