//! How many rows a plan gives, and what is known of its columns.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, FetchType, JoinType, LogicalPlan, TableScan};
use windlass_catalog::provider::HiveTable;

use super::region::Region;
use super::selectivity::Selectivity;

/// Bytes of a value whose type has no fixed width, and of which nothing was recorded.
const TEXT_BYTES: f64 = 24.0;
/// Most bytes that a column counts for: what was recorded may be the size of encoded pages.
const TEXT_BYTES_MAX: f64 = 256.0;
/// Rows of which a key may be a column whose values would fit, at least, into so many numbers for each row.
const KEY_RANGE_PER_ROW_MAX: f64 = 1000.0;

/// Whether values are different in each row of the table that a column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// There are fewer values than rows.
    No,
    /// There could be as many.
    Perhaps,
    /// As many numbers from the least to the greatest as rows, or it was grouped by.
    Surely,
}

/// What is known of a column.
#[derive(Debug, Clone)]
pub(super) struct ColumnEstimate {
    /// Different values in `rows`, at most.
    pub(super) distinct: f64,
    /// Whether `distinct` was counted; otherwise it may be too many.
    pub(super) is_counted: bool,
    /// Rows before filters on other columns.
    pub(super) rows: f64,
    pub(super) key: Key,
    /// Least and greatest value, of types that are numbers or like numbers.
    pub(super) range: Option<(f64, f64)>,
    /// Whether values between the bounds are whole numbers.
    pub(super) is_discrete: bool,
    /// Share of rows without a value.
    pub(super) nulls: f64,
    /// Bytes of a value.
    pub(super) width: f64,
}

impl ColumnEstimate {
    /// Of a column about which nothing is known but its type.
    pub(super) fn unknown(data_type: &DataType, rows: f64) -> Self {
        Self {
            distinct: guessed_distinct(rows),
            is_counted: false,
            rows,
            key: Key::No,
            range: None,
            is_discrete: false,
            nulls: 0.0,
            width: data_type.primitive_width().map_or(TEXT_BYTES, |width| width as f64),
        }
    }

    /// Whether something was recorded that bounds its different values.
    pub(super) fn is_known(&self) -> bool {
        self.is_counted || self.is_discrete && self.range.is_some()
    }

    /// Of a column of a table. Distinct values are used where they were counted; else numbers from the least to the greatest bound them.
    fn of_table(data_type: &DataType, statistics: &ColumnStatistics, rows: f64) -> Self {
        let mut column = Self::unknown(data_type, rows);
        if let (Some(bytes), None) = (statistics.byte_size.get_value(), data_type.primitive_width()) {
            column.width = (*bytes as f64 / rows.max(1.0)).clamp(1.0, TEXT_BYTES_MAX);
        }
        let nulls = statistics.null_count.get_value().map_or(0.0, |nulls| *nulls as f64);
        column.nulls = (nulls / rows.max(1.0)).clamp(0.0, 1.0);
        let bound = |value: Option<&ScalarValue>| value.and_then(number);
        column.range = bound(statistics.min_value.get_value()).zip(bound(statistics.max_value.get_value()));
        column.is_discrete = data_type.is_integer() || matches!(data_type, DataType::Date32);
        if let (Some((least, greatest)), true) = (column.range, column.is_discrete) {
            let numbers = greatest - least + 1.0;
            column.distinct = numbers.min(rows - nulls).max(1.0);
            column.key = match rows {
                rows if numbers == rows && nulls == 0.0 => Key::Surely,
                rows if numbers >= rows && numbers <= rows * KEY_RANGE_PER_ROW_MAX => Key::Perhaps,
                _ => Key::No,
            };
        }
        if let Some(distinct) = statistics.distinct_count.get_value() {
            column.distinct = (*distinct as f64).max(1.0);
            column.is_counted = true;
            column.key = if column.distinct >= 0.98 * rows { Key::Surely } else { Key::No };
        }
        column
    }
}

/// Rows of a table that is a list of names more often than not.
const LIST_ROWS: f64 = 100.0;

/// Different values among `rows` of a column about which nothing is known: few rows are mostly different, many mostly not.
fn guessed_distinct(rows: f64) -> f64 {
    rows.powf(0.75).max(rows.min(LIST_ROWS)).max(1.0)
}

/// A value as a number, of types whose order is that of these numbers.
pub(super) fn number(value: &ScalarValue) -> Option<f64> {
    use ScalarValue as S;
    Some(match value {
        S::Int8(Some(v)) => f64::from(*v),
        S::Int16(Some(v)) => f64::from(*v),
        S::Int32(Some(v)) | S::Date32(Some(v)) => f64::from(*v),
        S::Int64(Some(v)) | S::Date64(Some(v)) => *v as f64,
        S::UInt8(Some(v)) => f64::from(*v),
        S::UInt16(Some(v)) => f64::from(*v),
        S::UInt32(Some(v)) => f64::from(*v),
        S::UInt64(Some(v)) => *v as f64,
        S::Float32(Some(v)) if v.is_finite() => f64::from(*v),
        S::Float64(Some(v)) if v.is_finite() => *v,
        S::Decimal32(Some(v), _, scale) => f64::from(*v) / 10f64.powi(i32::from(*scale)),
        S::Decimal64(Some(v), _, scale) => *v as f64 / 10f64.powi(i32::from(*scale)),
        S::Decimal128(Some(v), _, scale) => *v as f64 / 10f64.powi(i32::from(*scale)),
        S::TimestampSecond(Some(v), _) => *v as f64 * 1e9,
        S::TimestampMillisecond(Some(v), _) => *v as f64 * 1e6,
        S::TimestampMicrosecond(Some(v), _) => *v as f64 * 1e3,
        S::TimestampNanosecond(Some(v), _) => *v as f64,
        _ => return None,
    })
}

/// What is known of a plan's rows.
#[derive(Debug, Clone)]
pub(super) struct Estimate {
    pub(super) rows: f64,
    /// By column of the plan's schema.
    pub(super) columns: Vec<ColumnEstimate>,
}

impl Estimate {
    /// Of a plan. `None` if the rows of a table in it are not known.
    pub(super) fn of(plan: &LogicalPlan) -> Option<Self> {
        let schema = plan.schema();
        Some(match plan {
            LogicalPlan::TableScan(scan) => of_scan(scan)?,
            LogicalPlan::EmptyRelation(empty) => Self::unknown(schema, f64::from(u8::from(empty.produce_one_row))),
            LogicalPlan::Values(values) => Self::unknown(schema, values.values.len() as f64),
            LogicalPlan::Filter(filter) => {
                let conjuncts = split_conjunction(&filter.predicate);
                Self::of(&filter.input)?.filtered(filter.input.schema(), &conjuncts)
            }
            LogicalPlan::Projection(projection) => {
                Self::of(&projection.input)?.projected(projection.input.schema(), &projection.expr, schema)
            }
            LogicalPlan::SubqueryAlias(alias) => Self::of(&alias.input)?,
            LogicalPlan::Subquery(subquery) => Self::of(&subquery.subquery)?,
            LogicalPlan::Sort(sort) => Self::of(&sort.input)?.limited(sort.fetch),
            LogicalPlan::Repartition(repartition) => Self::of(&repartition.input)?,
            LogicalPlan::Limit(limit) => {
                let fetch = match limit.get_fetch_type() {
                    Ok(FetchType::Literal(fetch)) => fetch,
                    _ => None,
                };
                Self::of(&limit.input)?.limited(fetch)
            }
            LogicalPlan::Aggregate(aggregate) => of_aggregate(aggregate, schema)?,
            LogicalPlan::Distinct(distinct) => of_distinct(distinct, schema)?,
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| Some(Self::of(input)?.rows)).collect::<Option<Vec<_>>>()?;
                Self::unknown(schema, inputs.into_iter().sum())
            }
            LogicalPlan::Window(window) => Self::of(&window.input)?.extended(schema),
            LogicalPlan::Join(join) => match Region::of(plan) {
                Some(region) => region.estimate()?,
                None => {
                    let (left, right) = (Self::of(&join.left)?, Self::of(&join.right)?);
                    match join.join_type {
                        JoinType::LeftMark | JoinType::LeftSemi | JoinType::LeftAnti => left.extended(schema),
                        JoinType::RightMark | JoinType::RightSemi | JoinType::RightAnti => Self::unknown(schema, right.rows),
                        _ => Self::unknown(schema, left.rows.max(right.rows)),
                    }
                }
            },
            _ => return None,
        })
    }

    fn unknown(schema: &DFSchema, rows: f64) -> Self {
        let columns = schema.fields().iter().map(|field| ColumnEstimate::unknown(field.data_type(), rows)).collect();
        Self { rows, columns }
    }

    /// Bytes of a row.
    pub(super) fn width(&self) -> f64 {
        self.columns.iter().map(|column| column.width).sum()
    }

    pub(super) fn column(&self, schema: &DFSchema, column: &Column) -> Option<&ColumnEstimate> {
        self.columns.get(schema.maybe_index_of_column(column)?)
    }

    /// After `conjuncts`. Bounds of a column that is compared with a value become narrower; other columns keep their values.
    pub(super) fn filtered(mut self, schema: &DFSchema, conjuncts: &[&Expr]) -> Self {
        let known = |column: &Column| self.column(schema, column);
        let selectivity = Selectivity::new(&known);
        let share = selectivity.of_all(conjuncts);
        let narrower = selectivity.bounds(conjuncts);
        for (column, range) in narrower {
            if let Some(known) = schema.maybe_index_of_column(&column).and_then(|index| self.columns.get_mut(index)) {
                let kept = range.share(known);
                known.distinct = (known.distinct * kept).max(1.0);
                known.rows = (known.rows * kept).max(1.0);
                known.range = range.within(known);
            }
        }
        self.rows = at_least_one(self.rows * share, self.rows);
        self
    }

    fn projected(self, input: &DFSchema, exprs: &[Expr], schema: &DFSchema) -> Self {
        let column = |(expr, field): (&Expr, &Arc<_>)| {
            match expr.clone().unalias_nested().data {
                Expr::Column(column) => self.column(input, &column).cloned(),
                Expr::Literal(..) => {
                    Some(ColumnEstimate { distinct: 1.0, is_counted: true, ..ColumnEstimate::unknown(type_of(field), self.rows) })
                }
                _ => None,
            }
            .unwrap_or_else(|| ColumnEstimate::unknown(type_of(field), self.rows))
        };
        let columns = exprs.iter().zip(schema.fields()).map(column).collect();
        Self { rows: self.rows, columns }
    }

    /// With the further columns of a schema that begins with the present ones.
    fn extended(mut self, schema: &DFSchema) -> Self {
        let rows = self.rows;
        let more = schema.fields().iter().skip(self.columns.len());
        self.columns.extend(more.map(|field| ColumnEstimate::unknown(field.data_type(), rows)));
        self
    }

    fn limited(mut self, fetch: Option<usize>) -> Self {
        self.rows = fetch.map_or(self.rows, |fetch| self.rows.min(fetch as f64));
        self
    }
}

fn type_of(field: &Arc<datafusion::arrow::datatypes::Field>) -> &DataType {
    field.data_type()
}

/// `rows`, but not less than one unless there were none to begin with.
pub(super) fn at_least_one(rows: f64, input: f64) -> f64 {
    rows.max(input.min(1.0))
}

/// Filters of a scan are not counted: a table of ours has been pruned with them, and those that it cannot answer alone stand above it too.
fn of_scan(scan: &TableScan) -> Option<Estimate> {
    let provider = source_as_provider(&scan.source).ok()?;
    let statistics = match provider.downcast_ref::<HiveTable>() {
        Some(table) => table.known_statistics(&unnormalize_cols(scan.filters.iter().cloned())),
        None => provider.statistics().map(Arc::new),
    }?;
    let Statistics { num_rows, column_statistics, .. } = statistics.as_ref();
    let rows = *num_rows.get_value()? as f64;
    let schema = scan.source.schema();
    let all = (0..schema.fields().len()).collect::<Vec<_>>();
    let column = |index: &usize| {
        let statistics = column_statistics.get(*index)?;
        Some(ColumnEstimate::of_table(schema.field(*index).data_type(), statistics, rows))
    };
    let columns = scan.projection.as_ref().unwrap_or(&all).iter().map(column).collect::<Option<Vec<_>>>()?;
    Some(Estimate { rows, columns }.limited(scan.fetch))
}

fn of_aggregate(aggregate: &Aggregate, schema: &DFSchema) -> Option<Estimate> {
    let input = Estimate::of(&aggregate.input)?;
    let known = |expr: &Expr| match expr {
        Expr::Column(column) => input.column(aggregate.input.schema(), column).cloned(),
        _ => None,
    };
    let keys: Vec<Option<ColumnEstimate>> = aggregate.group_expr.iter().map(known).collect();
    let rows = groups(&input, &keys);
    let mut estimate = Estimate::unknown(schema, rows);
    // With grouping sets the columns of the schema are others than the expressions.
    if estimate.columns.len() == keys.len() + aggregate.aggr_expr.len() {
        let alone = keys.len() == 1;
        for (column, key) in estimate.columns.iter_mut().zip(keys) {
            if let Some(key) = key {
                let distinct = key.distinct.min(rows);
                *column = ColumnEstimate { distinct, rows, key: if alone { Key::Surely } else { Key::No }, ..key };
            }
        }
    }
    Some(estimate)
}

fn of_distinct(distinct: &Distinct, schema: &DFSchema) -> Option<Estimate> {
    let input = Estimate::of(match distinct {
        Distinct::All(input) => input,
        Distinct::On(on) => &on.input,
    })?;
    Some(match distinct {
        Distinct::All(_) => {
            let keys: Vec<_> = input.columns.iter().cloned().map(Some).collect();
            Estimate { rows: groups(&input, &keys), ..input }
        }
        Distinct::On(_) => Estimate::unknown(schema, guessed_distinct(input.rows)),
    })
}

/// Groups by `keys`, of which `None` is an expression.
fn groups(input: &Estimate, keys: &[Option<ColumnEstimate>]) -> f64 {
    let values = |key: &Option<ColumnEstimate>| key.as_ref().map_or_else(|| guessed_distinct(input.rows), |key| key.distinct);
    let product: f64 = keys.iter().map(values).product();
    at_least_one(product.min(input.rows), if keys.is_empty() { 1.0 } else { input.rows })
}
