//! Estimates of physical plans, for those of DataFusion's rules that ask for them.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::{Column, JoinSide, Result, ScalarValue, Statistics};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Expr, JoinType, Like, binary_expr};
use datafusion::physical_expr::expressions::{
    self, BinaryExpr, CastExpr, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, JoinOnRef, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::operator_statistics::{ExtendedStatistics, StatisticsProvider, StatisticsRegistry, StatisticsResult};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::union::{InterleaveExec, UnionExec};
use datafusion::prelude::SessionConfig;

use super::joins::joined;
use super::selectivity::Selectivity;
use super::{ColumnEstimate, Estimate};

/// Puts our estimates into a session, where DataFusion's choice of a join's sides and mode asks for them.
pub fn with_estimates(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.config().get_or_insert_with(SessionConfig::new).options_mut().optimizer.use_statistics_registry = true;
    builder.with_statistics_registry(StatisticsRegistry::with_providers(vec![Arc::new(EstimatesProvider)]))
}

/// Estimated bytes of a plan's rows; `None` where nothing is known.
pub fn bytes_of(plan: &dyn ExecutionPlan) -> Option<u64> {
    let registry = StatisticsRegistry::with_providers(vec![Arc::new(EstimatesProvider)]);
    registry.compute(plan).ok()?.base().total_byte_size.get_value().map(|bytes| *bytes as u64)
}

/// Statistics by our formulas. An operator that they do not know gets DataFusion's own, and what is above goes on from there.
#[derive(Debug)]
struct EstimatesProvider;

impl StatisticsProvider for EstimatesProvider {
    fn compute_statistics(&self, plan: &dyn ExecutionPlan, inputs: &[ExtendedStatistics]) -> Result<StatisticsResult> {
        let known = |(input, statistics): (&Arc<dyn ExecutionPlan>, &ExtendedStatistics)| {
            statistics.get_extension::<Estimate>().cloned().or_else(|| Estimate::of_statistics(&input.schema(), statistics.base()))
        };
        let inputs = plan.children().into_iter().zip(inputs).map(known).collect::<Option<Vec<_>>>();
        Ok(match inputs.and_then(|inputs| of_plan(plan, inputs)) {
            Some(estimate) => StatisticsResult::Computed(told(estimate.limited(plan.fetch()), &plan.schema())),
            None => StatisticsResult::Delegate,
        })
    }
}

/// What DataFusion sees: rows and bytes.
fn told(estimate: Estimate, schema: &Schema) -> ExtendedStatistics {
    let rounded = |number: f64| Precision::Inexact(number.round() as usize);
    let statistics = Statistics {
        num_rows: rounded(estimate.rows),
        total_byte_size: rounded(estimate.rows * estimate.width()),
        ..Statistics::new_unknown(schema)
    };
    let mut told = ExtendedStatistics::new(statistics);
    told.set_extension(estimate);
    told
}

/// Of an operator whose inputs give these rows. `None` if it is not known what it does.
fn of_plan(plan: &dyn ExecutionPlan, mut inputs: Vec<Estimate>) -> Option<Estimate> {
    let schema = plan.schema();
    if inputs.is_empty() {
        let statistics = StatisticsContext::new().compute(plan, &StatisticsArgs::new()).ok()?;
        return Estimate::of_statistics(&schema, &statistics);
    }
    if plan.is::<UnionExec>() || plan.is::<InterleaveExec>() {
        return Some(Estimate::union(&schema, &inputs));
    }
    let (right, left) = match inputs.len() {
        1 => (None, inputs.pop()?),
        2 => (inputs.pop(), inputs.pop()?),
        _ => return None,
    };
    if let Some(right) = right {
        let (on, filter, join_type, projection): (&[_], _, _, _) = if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
            (join.on(), join.filter(), *join.join_type(), join.projection.as_ref())
        } else if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
            (join.on(), join.filter().as_ref(), join.join_type(), None)
        } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            (&[], join.filter(), *join.join_type(), join.projection().as_ref())
        } else if plan.is::<CrossJoinExec>() {
            (&[], None, JoinType::Inner, None)
        } else {
            return None;
        };
        return kept(of_join(&left, &right, on, filter, join_type), projection.map(AsRef::as_ref));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let conjuncts = conjuncts(filter.predicate(), &|position| position);
        let filtered = left.filtered(&position, &conjuncts.iter().collect::<Vec<_>>());
        return kept(filtered, filter.projection().as_deref());
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let column = |(expr, field): (_, &FieldRef)| of_expr(&left, expr, field.data_type());
        let exprs = projection.expr().iter().map(|projected| &projected.expr);
        return Some(Estimate { rows: left.rows, columns: exprs.zip(schema.fields()).map(column).collect() });
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let keys = aggregate.group_expr().expr().iter().zip(schema.fields());
        return Some(left.grouped(keys.map(|((expr, _), field)| of_expr(&left, expr, field.data_type())).collect(), &schema));
    }
    // Rows pass; a window adds columns.
    let passes = matches!(plan.cardinality_effect(), CardinalityEffect::Equal) || plan.fetch().is_some();
    (passes && left.columns.len() <= schema.fields().len()).then(|| left.extended(&schema))
}

fn kept(estimate: Estimate, projection: Option<&[usize]>) -> Option<Estimate> {
    match projection {
        Some(projection) => estimate.projected(projection),
        None => Some(estimate),
    }
}

fn of_join(left: &Estimate, right: &Estimate, on: JoinOnRef, filter: Option<&JoinFilter>, join_type: JoinType) -> Estimate {
    let key = |input, expr: &Arc<dyn PhysicalExpr>| of_expr(input, without_casts(expr), &DataType::Null);
    let keys: Vec<_> = on.iter().map(|(l, r)| (key(left, l), key(right, r))).collect();
    let share = filter.map(|filter| {
        let of_both = |position: usize| match &filter.column_indices()[position] {
            column if column.side == JoinSide::Left => column.index,
            column => left.columns.len() + column.index,
        };
        let conjuncts = conjuncts(filter.expression(), &of_both);
        let known = |column: &Column| {
            let position = position(column)?;
            left.columns.get(position).or_else(|| right.columns.get(position - left.columns.len()))
        };
        Selectivity::new(&known).of_all(&conjuncts.iter().collect::<Vec<_>>())
    });
    joined(left, right, &keys, share, join_type)
}

/// What is known of an expression's values.
fn of_expr(input: &Estimate, expr: &Arc<dyn PhysicalExpr>, data_type: &DataType) -> ColumnEstimate {
    if let Some(column) = expr.downcast_ref::<expressions::Column>() {
        return input.columns.get(column.index()).cloned().unwrap_or_else(|| ColumnEstimate::unknown(data_type, input.rows));
    }
    if expr.is::<Literal>() {
        return ColumnEstimate::constant(data_type, input.rows);
    }
    let columns = collect_columns(expr);
    ColumnEstimate::computed(data_type, input.rows, columns.iter().map(|column| input.columns.get(column.index())))
}

/// Keys of different types are compared after casts, which change no number.
fn without_casts(expr: &Arc<dyn PhysicalExpr>) -> &Arc<dyn PhysicalExpr> {
    expr.downcast_ref::<CastExpr>().map_or(expr, |cast| without_casts(cast.expr()))
}

/// Conditions in the words of a logical plan, for [`Selectivity`]. Columns are named by their positions.
fn conjuncts(predicate: &Arc<dyn PhysicalExpr>, position: &dyn Fn(usize) -> usize) -> Vec<Expr> {
    split_conjunction(predicate).into_iter().map(|conjunct| logical(conjunct, position)).collect()
}

fn position(column: &Column) -> Option<usize> {
    column.name.parse().ok()
}

/// What has no such words is a column that nobody knows, or a constant.
fn logical(expr: &Arc<dyn PhysicalExpr>, position: &dyn Fn(usize) -> usize) -> Expr {
    let inner = |expr| Box::new(logical(expr, position));
    if let Some(column) = expr.downcast_ref::<expressions::Column>() {
        Expr::Column(Column::from_name(position(column.index()).to_string()))
    } else if let Some(literal) = expr.downcast_ref::<Literal>() {
        Expr::Literal(literal.value().clone(), None)
    } else if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
        binary_expr(logical(binary.left(), position), *binary.op(), logical(binary.right(), position))
    } else if let Some(not) = expr.downcast_ref::<NotExpr>() {
        Expr::Not(inner(not.arg()))
    } else if let Some(is_null) = expr.downcast_ref::<IsNullExpr>() {
        Expr::IsNull(inner(is_null.arg()))
    } else if let Some(is_not_null) = expr.downcast_ref::<IsNotNullExpr>() {
        Expr::IsNotNull(inner(is_not_null.arg()))
    } else if let Some(list) = expr.downcast_ref::<InListExpr>() {
        let values = list.list().iter().map(|value| logical(value, position)).collect();
        Expr::InList(InList::new(inner(list.expr()), values, list.negated()))
    } else if let Some(like) = expr.downcast_ref::<LikeExpr>() {
        Expr::Like(Like::new(like.negated(), inner(like.expr()), inner(like.pattern()), None, like.case_insensitive()))
    } else if collect_columns(expr).is_empty() {
        Expr::Literal(ScalarValue::Null, None)
    } else {
        Expr::Column(Column::from_name("?"))
    }
}

#[cfg(test)]
mod tests;
