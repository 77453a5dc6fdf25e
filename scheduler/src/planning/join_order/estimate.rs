//! How many rows a logical plan gives.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::utils::{grouping_set_to_exprlist, split_conjunction};
use datafusion::logical_expr::{Aggregate, Distinct, Expr, ExprSchemable, FetchType, Join, LogicalPlan, TableScan};
use windlass_catalog::provider::HiveTable;

use super::region::Region;
use crate::planning::estimates::joins::joined;
use crate::planning::estimates::selectivity::Selectivity;
use crate::planning::estimates::{ColumnEstimate, Estimate, guessed_distinct};

impl Estimate {
    /// Of a plan. `None` if the rows of a table in it are not known.
    pub(super) fn of(plan: &LogicalPlan) -> Option<Self> {
        let schema = plan.schema();
        Some(match plan {
            LogicalPlan::TableScan(scan) => of_scan(scan)?,
            LogicalPlan::EmptyRelation(empty) => Self::unknown(schema.as_arrow(), f64::from(u8::from(empty.produce_one_row))),
            LogicalPlan::Values(values) => Self::unknown(schema.as_arrow(), values.values.len() as f64),
            LogicalPlan::Filter(filter) => {
                let conjuncts = split_conjunction(&filter.predicate);
                let schema = filter.input.schema();
                Self::of(&filter.input)?.filtered(&|column| schema.maybe_index_of_column(column), &conjuncts)
            }
            LogicalPlan::Projection(projection) => {
                let (input, fields) = (Self::of(&projection.input)?, schema.fields());
                let column = |(expr, field): (&Expr, &FieldRef)| of_expr(&input, projection.input.schema(), expr, field.data_type());
                let columns = projection.expr.iter().zip(fields).map(column).collect();
                Self { rows: input.rows, columns }
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
                let inputs = union.inputs.iter().map(|input| Self::of(input)).collect::<Option<Vec<_>>>()?;
                Self::union(schema.as_arrow(), &inputs)
            }
            LogicalPlan::Window(window) => Self::of(&window.input)?.extended(schema.as_arrow()),
            LogicalPlan::Join(join) => match Region::of(plan) {
                Some(region) => region.estimate()?,
                None => of_join(join)?,
            },
            _ => return None,
        })
    }
}

/// What is known of an expression's values.
fn of_expr(input: &Estimate, schema: &DFSchema, expr: &Expr, data_type: &DataType) -> ColumnEstimate {
    let known = |column: &Column| input.columns.get(schema.maybe_index_of_column(column)?);
    match expr.clone().unalias_nested().data {
        Expr::Column(column) => known(&column).cloned().unwrap_or_else(|| ColumnEstimate::unknown(data_type, input.rows)),
        Expr::Literal(..) => ColumnEstimate::constant(data_type, input.rows),
        expr => ColumnEstimate::computed(data_type, input.rows, expr.column_refs().into_iter().map(known)),
    }
}

/// Filters of a scan are not counted: a table of ours has been pruned with them, and those that it cannot answer alone stand above it too.
fn of_scan(scan: &TableScan) -> Option<Estimate> {
    let provider = source_as_provider(&scan.source).ok()?;
    let table = provider.downcast_ref::<HiveTable>();
    let statistics = match table {
        Some(table) => table.known_statistics(&unnormalize_cols(scan.filters.iter().cloned())),
        None => provider.statistics().map(Arc::new),
    }?;
    let estimate = Estimate::of_statistics(&scan.source.schema(), &statistics)?;
    let estimate = match table.and_then(HiveTable::known_rows) {
        Some(rows) => estimate.of_part(rows as f64),
        None => estimate,
    };
    let estimate = match &scan.projection {
        Some(projection) => estimate.projected(projection)?,
        None => estimate,
    };
    Some(estimate.limited(scan.fetch))
}

fn of_aggregate(aggregate: &Aggregate, schema: &DFSchema) -> Option<Estimate> {
    let input = Estimate::of(&aggregate.input)?;
    // Of grouping sets nearly all groups are those of the finest one.
    let keys = grouping_set_to_exprlist(&aggregate.group_expr).ok()?;
    let keys = keys.into_iter().map(|key| of_typed_expr(&input, aggregate.input.schema(), key)).collect();
    Some(input.grouped(keys, schema.as_arrow()))
}

/// What is known of the values of an expression over the columns of `schema`.
pub(super) fn of_typed_expr(input: &Estimate, schema: &DFSchema, expr: &Expr) -> ColumnEstimate {
    of_expr(input, schema, expr, &expr.get_type(schema).unwrap_or(DataType::Null))
}

fn of_distinct(distinct: &Distinct, schema: &DFSchema) -> Option<Estimate> {
    let input = Estimate::of(match distinct {
        Distinct::All(input) => input,
        Distinct::On(on) => &on.input,
    })?;
    Some(match distinct {
        Distinct::All(_) => Estimate { rows: input.groups(input.columns.iter()), ..input },
        Distinct::On(_) => Estimate::unknown(schema.as_arrow(), guessed_distinct(input.rows)),
    })
}

/// Of a join that belongs to no region.
fn of_join(join: &Join) -> Option<Estimate> {
    let (left, right) = (Estimate::of(&join.left)?, Estimate::of(&join.right)?);
    let key = |(l, r): &(Expr, Expr)| (of_typed_expr(&left, join.left.schema(), l), of_typed_expr(&right, join.right.schema(), r));
    let keys: Vec<_> = join.on.iter().map(key).collect();
    let known = |column: &Column| {
        let left = join.left.schema().maybe_index_of_column(column).and_then(|position| left.columns.get(position));
        left.or_else(|| right.columns.get(join.right.schema().maybe_index_of_column(column)?))
    };
    let share = join.filter.as_ref().map(|filter| Selectivity::new(&known).of_all(&split_conjunction(filter)));
    Some(joined(&left, &right, &keys, share, join.join_type))
}
