//! What a condition shuts out is not computed: `WHERE b <> 0 AND 10 / b > 1` and `avg(10 / b) FILTER (WHERE b <> 0)` divide by nothing
//! that is 0.
//!
//! DataFusion computes both sides of AND for all rows unless the left one leaves out most of a batch, and arguments of aggregates before it
//! looks at their filters. `CASE` is what it computes for some rows only, and a filter what passes the one below. Guards of arguments come
//! before the optimizer, which computes what two aggregates share in a step of its own, without filters; those of conditions after it,
//! because it makes AND of such a `CASE`, and scans look for conditions on keys.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::expr::{Cast, Sort};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, when};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::expressions::{self, CaseExpr, CastExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateInputMode};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};

use crate::expressions::rewrite_expressions;

/// Functions with values that they refuse. Others do, too; these are the ones that conditions are written for.
const FAILING: [&str; 11] = [
    "checked_add",
    "checked_multiply",
    "checked_subtract",
    "date_parse",
    "factorial",
    "from_base",
    "make_date",
    "nearest",
    "parse_datetime",
    "to_date",
    "to_timestamp",
];

/// Levels of an expression that are looked at, which bounds the stack that takes; what lies deeper stays as it is.
const DEPTH_MAX: usize = 200;

/// Computes arguments of aggregates and windows that may fail where their `FILTER` holds.
#[derive(Debug)]
pub struct GuardedArgumentsRule;

impl AnalyzerRule for GuardedArgumentsRule {
    fn name(&self) -> &str {
        "guarded_arguments"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(guard_arguments)?.data)
    }
}

fn guard_arguments(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if !matches!(plan, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_)) {
        return Ok(Transformed::no(plan));
    }
    let schema = merge_schema(&plan.inputs());
    let guard = |filter: &Option<Box<Expr>>, exprs: Vec<&mut Expr>| -> Result<bool> {
        let Some(filter) = filter else { return Ok(false) };
        let mut guarded = false;
        for expr in exprs {
            let is_guarded = matches!(expr, Expr::Case(case) if case.when_then_expr.first().is_some_and(|(when, _)| when == filter));
            if !is_guarded && may_fail(expr, &schema) {
                *expr = when(filter.as_ref().clone(), expr.clone()).end()?;
                guarded = true;
            }
        }
        Ok(guarded)
    };
    fn keys(order_by: &mut [Sort]) -> impl Iterator<Item = &mut Expr> {
        order_by.iter_mut().map(|key| &mut key.expr)
    }
    rewrite_expressions(plan, |mut expr| {
        let guarded = match &mut expr {
            Expr::AggregateFunction(function) => {
                let params = &mut function.params;
                guard(&params.filter, params.args.iter_mut().chain(keys(&mut params.order_by)).collect())?
            }
            // The order of a window is one of all rows.
            Expr::WindowFunction(function) => guard(&function.params.filter, function.params.args.iter_mut().collect())?,
            _ => false,
        };
        Ok(if guarded { Transformed::yes(expr) } else { Transformed::no(expr) })
    })
}

/// Whether there may be a row in which an expression is an error.
fn may_fail(expr: &Expr, schema: &DFSchema) -> bool {
    let fails = |expr: &Expr| match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Divide | Operator::Modulo, right }) => {
            let divisor = match right.as_ref() {
                Expr::Cast(Cast { expr, .. }) => expr.as_ref(),
                other => other,
            };
            let constant = if let Expr::Literal(value, _) = divisor { Some(value) } else { None };
            !is_nonzero(constant) && !left.get_type(schema).is_ok_and(|data_type| data_type.is_floating())
        }
        Expr::Cast(Cast { expr, field }) => expr.get_type(schema).map_or(true, |given| cast_may_fail(&given, field.data_type())),
        Expr::ScalarFunction(function) => FAILING.contains(&function.name()),
        _ => false,
    };
    expr.exists(|expr| Ok(fails(expr))).unwrap_or(true)
}

fn is_nonzero(constant: Option<&ScalarValue>) -> bool {
    constant.is_some_and(|value| !value.is_null() && ScalarValue::new_zero(&value.data_type()).is_ok_and(|zero| *value != zero))
}

fn cast_may_fail(given: &DataType, wanted: &DataType) -> bool {
    if given.is_string() {
        return !wanted.is_string();
    }
    let narrower = |given: &DataType| match (given.primitive_width(), wanted.primitive_width()) {
        (Some(given), Some(wanted)) => given > wanted,
        _ => true,
    };
    given.is_numeric() && wanted.is_integer() && (!given.is_integer() || narrower(given))
}

/// Computes sides of AND and OR that may fail where those before leave it open: in projections, which scans may take over later, and in
/// aggregations.
#[derive(Debug)]
pub struct GuardedValuesRule;

impl PhysicalOptimizerRule for GuardedValuesRule {
    fn name(&self) -> &str {
        "guarded_values"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.transform_up(guard_values)?.data)
    }
}

fn guard_values(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let guarded: Option<Arc<dyn ExecutionPlan>> = if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let (schema, mut changed) = (projection.input().schema(), false);
        let exprs = projection.expr().iter().map(|ProjectionExpr { expr, alias }| {
            let guarded = Guarded::value(expr, &schema, 0)?;
            changed |= guarded.changed;
            Ok(ProjectionExpr { expr: guarded.expr, alias: alias.clone() })
        });
        let exprs = exprs.collect::<Result<Vec<_>>>()?;
        match changed {
            true => Some(Arc::new(ProjectionExec::try_new(exprs, Arc::clone(projection.input()))?)),
            false => None,
        }
    } else if let Some(aggregate) = plan.downcast_ref::<AggregateExec>().filter(|one| one.mode().input_mode() == AggregateInputMode::Raw) {
        guard_aggregate(aggregate)?.map(|aggregate| Arc::new(aggregate) as _)
    } else {
        None
    };
    Ok(guarded.map_or_else(|| Transformed::no(plan), Transformed::yes))
}

/// The same in filters, once it is known which conditions scans prune by, and in conditions of joins.
#[derive(Debug)]
pub struct GuardedConditionsRule;

impl PhysicalOptimizerRule for GuardedConditionsRule {
    fn name(&self) -> &str {
        "guarded_conditions"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(plan.transform_up(guard_conditions)?.data)
    }
}

fn guard_conditions(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = plan.downcast_ref::<FilterExec>() else {
        return Ok(guard_join(&plan)?.map_or_else(|| Transformed::no(plan), Transformed::yes));
    };
    let schema = filter.input().schema();
    let conditions = split_conjunction(filter.predicate()).into_iter().map(|condition| Guarded::condition(condition, &schema, 0));
    let conditions = conditions.collect::<Result<Vec<_>>>()?;
    let changed = conditions.iter().any(|condition| condition.changed);
    let (failing, safe): (Vec<_>, Vec<_>) = conditions.into_iter().partition(|condition| condition.fails);
    if failing.is_empty() || (safe.is_empty() && failing.len() == 1 && !changed) {
        return Ok(Transformed::no(plan));
    }
    // A filter of its own, not a `CASE`: what is equal to a constant below it is so for the sorts and windows above.
    let input: Arc<dyn ExecutionPlan> = match safe.is_empty() {
        true => Arc::clone(filter.input()),
        false => Arc::new(FilterExec::try_new(conjunction(safe.into_iter().map(|condition| condition.expr)), Arc::clone(filter.input()))?),
    };
    let failing = failing.into_iter().map(|condition| Ok(condition.expr));
    let failing = failing.reduce(|before, condition| case(before?, condition?, expressions::lit(false)));
    let failing = failing.unwrap_or_else(|| internal_err!("a condition may fail"))?;
    Ok(Transformed::yes(Arc::new(FilterExecBuilder::from(filter).with_predicate(failing).with_input(input).build()?)))
}

/// What a join asks of two rows whose keys are equal. `None`: it stays as it is.
fn guard_join(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let guard = |filter: Option<&JoinFilter>| -> Result<Option<JoinFilter>> {
        let Some(filter) = filter else { return Ok(None) };
        let guarded = Guarded::condition(filter.expression(), filter.schema(), 0)?;
        Ok(guarded.changed.then(|| JoinFilter::new(guarded.expr, filter.column_indices().to_vec(), Arc::clone(filter.schema()))))
    };
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        guard(join.filter())?.map(|filter| join.builder().with_filter(Some(filter)).build_exec()).transpose()
    } else if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
        let rebuild = |filter| Ok(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter)).build()?) as _);
        guard(join.filter())?.map(rebuild).transpose()
    } else if let Some(join) = plan.downcast_ref::<SortMergeJoinExec>() {
        let rebuild = |filter| {
            let (left, right, on) = (Arc::clone(join.left()), Arc::clone(join.right()), join.on().to_vec());
            let (sorts, nulls) = (join.sort_options().to_vec(), join.null_equality());
            Ok(Arc::new(SortMergeJoinExec::try_new(left, right, on, Some(filter), join.join_type(), sorts, nulls)?) as _)
        };
        guard(join.filter().as_ref())?.map(rebuild).transpose()
    } else {
        Ok(None)
    }
}

/// The arguments and filters of an aggregation.
fn guard_aggregate(aggregate: &AggregateExec) -> Result<Option<AggregateExec>> {
    let (schema, mut changed) = (aggregate.input_schema(), false);
    let mut guard = |expr: &Arc<dyn PhysicalExpr>, is_condition| {
        let guarded = if is_condition { Guarded::condition(expr, &schema, 0)? } else { Guarded::value(expr, &schema, 0)? };
        changed |= guarded.changed;
        Ok(guarded.expr)
    };
    let filters = aggregate.filter_expr().iter().map(|filter| filter.as_ref().map(|filter| guard(filter, true)).transpose());
    let filters = filters.collect::<Result<Vec<_>>>()?;
    let functions = aggregate.aggr_expr().iter().map(|function| {
        let all = function.all_expressions();
        let args = all.args.iter().map(|arg| guard(arg, false)).collect::<Result<Vec<_>>>()?;
        let same = args.iter().zip(&all.args).all(|(arg, before)| Arc::ptr_eq(arg, before));
        let rewritten = if same { None } else { function.with_new_expressions(args, all.order_by_exprs).map(Arc::new) };
        Ok(rewritten.unwrap_or_else(|| Arc::clone(function)))
    });
    let functions = functions.collect::<Result<Vec<_>>>()?;
    if !changed {
        return Ok(None);
    }
    let (groups, input) = (aggregate.group_expr().clone(), Arc::clone(aggregate.input()));
    let rebuilt = AggregateExec::try_new(*aggregate.mode(), groups, functions, filters, input, schema)?;
    Ok(Some(rebuilt.with_limit_options(aggregate.limit_options())))
}

/// An expression whose parts that may fail are computed where they matter.
struct Guarded {
    expr: Arc<dyn PhysicalExpr>,
    changed: bool,
    /// Whether it may be an error.
    fails: bool,
}

impl Guarded {
    /// Of a condition, of which it does not matter whether it is false or NULL.
    ///
    /// What cannot fail comes first, since the optimizer has put conditions of several queries together, the outer ones first.
    fn condition(expr: &Arc<dyn PhysicalExpr>, schema: &Schema, depth: usize) -> Result<Self> {
        let binary = expr.downcast_ref::<expressions::BinaryExpr>().filter(|_| depth <= DEPTH_MAX);
        let Some(binary) = binary.filter(|binary| matches!(binary.op(), Operator::And | Operator::Or)) else {
            return Self::value(expr, schema, depth);
        };
        let sides = if *binary.op() == Operator::And { split_conjunction(expr) } else { vec![binary.left(), binary.right()] };
        let sides = sides.into_iter().map(|side| Self::condition(side, schema, depth + 1)).collect::<Result<Vec<_>>>()?;
        if !sides.iter().any(|side| side.fails) {
            return Ok(Self { expr: Arc::clone(expr), changed: false, fails: false });
        }
        let mut sides: Vec<_> = sides.into_iter().map(|side| (side.fails, side.expr)).collect();
        if *binary.op() == Operator::And {
            sides.sort_by_key(|(fails, _)| *fails);
        }
        let guarded = sides.into_iter().map(Ok).reduce(|before, side| {
            let ((before_fails, before), (fails, side)) = (before?, side?);
            let expr: Arc<dyn PhysicalExpr> = match (fails, binary.op()) {
                (false, op) => Arc::new(expressions::BinaryExpr::new(before, *op, side)),
                (true, Operator::And) => case(before, side, expressions::lit(false))?,
                (true, _) => case(before, expressions::lit(true), side)?,
            };
            Ok((before_fails || fails, expr))
        });
        let (_, expr) = guarded.unwrap_or_else(|| internal_err!("AND and OR have sides"))?;
        Ok(Self { expr, changed: true, fails: true })
    }

    /// Of an expression whose NULLs count.
    fn value(expr: &Arc<dyn PhysicalExpr>, schema: &Schema, depth: usize) -> Result<Self> {
        if depth > DEPTH_MAX {
            return Ok(Self { expr: Arc::clone(expr), changed: false, fails: false });
        }
        let children = expr.children().into_iter().map(|child| Self::value(child, schema, depth + 1)).collect::<Result<Vec<_>>>()?;
        let is_guarded = children.last().is_some_and(|child| child.fails);
        let fails = children.iter().any(|child| child.fails) || fails(expr, schema);
        let changed = children.iter().any(|child| child.changed);
        let children: Vec<_> = children.into_iter().map(|child| child.expr).collect();
        if is_guarded
            && let Some(binary) = expr.downcast_ref::<expressions::BinaryExpr>()
            && let op @ (Operator::And | Operator::Or) = *binary.op()
            && let [left, right] = children.as_slice()
        {
            let and = op == Operator::And;
            let settles = if and { expressions::not(Arc::clone(left))? } else { Arc::clone(left) };
            let open: Arc<dyn PhysicalExpr> = Arc::new(expressions::BinaryExpr::new(Arc::clone(left), op, Arc::clone(right)));
            return Ok(Self { expr: case(settles, expressions::lit(!and), open)?, changed: true, fails });
        }
        let expr = if changed { Arc::clone(expr).with_new_children(children)? } else { Arc::clone(expr) };
        Ok(Self { expr, changed, fails })
    }
}

/// `CASE WHEN condition THEN then ELSE otherwise END`
fn case(condition: Arc<dyn PhysicalExpr>, then: Arc<dyn PhysicalExpr>, otherwise: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    Ok(Arc::new(CaseExpr::try_new(None, vec![(condition, then)], Some(otherwise))?))
}

/// Whether an expression may be an error in a row in which its parts are none.
fn fails(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    if let Some(binary) = expr.downcast_ref::<expressions::BinaryExpr>() {
        let divides = matches!(binary.op(), Operator::Divide | Operator::Modulo);
        let constant = binary.right().downcast_ref::<Literal>().map(Literal::value);
        return divides && !is_nonzero(constant) && !expr.data_type(schema).is_ok_and(|data_type| data_type.is_floating());
    }
    if let Some(cast) = expr.downcast_ref::<CastExpr>() {
        let may_fail = |given: DataType| cast_may_fail(&given, cast.cast_type());
        return !cast.cast_options().safe && cast.expr().data_type(schema).map_or(true, may_fail);
    }
    expr.downcast_ref::<ScalarFunctionExpr>().is_some_and(|function| FAILING.contains(&function.name()))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::runtime_env::RuntimeEnv;
    use datafusion::prelude::SessionContext;

    use crate::session::{session_config, state_builder};

    const ROWS: &str = "(VALUES (1, 0, 'a'), (2, 5, 'b'), (3, 2, '7'), (4, NULL, 'x')) t(a, b, s)";

    async fn rows(sql: &str) -> String {
        let context = SessionContext::new_with_state(state_builder(session_config(1), RuntimeEnv::default().into()).build());
        let rows = context.sql(&sql.replace("ROWS2", &ROWS.replace(" t(", " u(")).replace("ROWS", ROWS)).await.unwrap().collect().await;
        let lines = pretty_format_batches(&rows.unwrap_or_else(|error| panic!("{sql}: {error}"))).unwrap().to_string();
        let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>().join(",");
        lines.lines().skip(3).filter(|line| line.starts_with('|')).map(cells).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn what_conditions_shut_out_is_not_computed() {
        for (sql, expected) in [
            ("SELECT a FROM ROWS WHERE b <> 0 AND 10 / b > 2 ORDER BY a", "3"),
            ("SELECT a FROM (SELECT * FROM ROWS WHERE b <> 0) WHERE 10 / b > 2 ORDER BY a", "3"),
            ("SELECT a FROM ROWS WHERE b = 0 OR 10 / b > 4 ORDER BY a", "1 3"),
            ("SELECT a FROM ROWS WHERE b <> 0 AND 10 % b = 0 AND 20 / b < 10 ORDER BY a", "2"),
            ("SELECT a FROM ROWS WHERE s < 'a' AND CAST(s AS INT) = 7", "3"),
            ("SELECT b <> 0 AND 10 / b > 2 FROM ROWS ORDER BY a", "false false true "),
            ("SELECT b = 0 OR 10 / b > 2 FROM ROWS ORDER BY a", "true false true "),
            ("SELECT b <> 0 AND 10 / b > 2, b = 0 OR 10 / b > 2 FROM ROWS WHERE a < 3 ORDER BY a", "false,true false,false"),
            ("SELECT NOT (b <> 0 AND 10 / b > 2) FROM ROWS ORDER BY a", "true true false "),
            ("SELECT avg(10 / b) FILTER (WHERE b <> 0), sum(10 / b) FILTER (WHERE b <> 0) FROM ROWS", "3.5,7"),
            ("SELECT a, sum(10 / b) FILTER (WHERE b <> 0) FROM ROWS GROUP BY a ORDER BY a", "1, 2,2 3,5 4,"),
            ("SELECT count(*) FILTER (WHERE b <> 0 AND 10 / b > 2), sum(a) FILTER (WHERE b <> 0 AND 10 / b > 2) FROM ROWS", "1,3"),
            ("SELECT sum(CASE WHEN b <> 0 AND 10 / b > 2 THEN a END) FROM ROWS", "3"),
            ("SELECT sum(10 / b) FILTER (WHERE b <> 0) OVER (), max(10 / b) FILTER (WHERE b <> 0) OVER () FROM ROWS LIMIT 1", "7,5"),
            ("SELECT array_agg(a ORDER BY 10 / b) FILTER (WHERE b <> 0) FROM ROWS", "[2, 3]"),
            ("SELECT sum(CAST(s AS INT)) FILTER (WHERE s < 'a') FROM ROWS", "7"),
            ("SELECT t.a FROM ROWS JOIN ROWS2 ON t.a = u.a AND t.b + u.b <> 0 AND 10 / (t.b + u.b) = 2 ORDER BY 1", "3"),
            ("SELECT t.a, u.b FROM ROWS LEFT JOIN ROWS2 ON t.a = u.a AND t.b <> 0 AND 10 / t.b = 2 ORDER BY 1", "1, 2,5 3, 4,"),
            ("SELECT count(*) FROM ROWS JOIN ROWS2 ON t.a < u.a AND t.b * u.b <> 0 AND 10 / (t.b * u.b) = 1", "1"),
        ] {
            assert_eq!(rows(sql).await, expected, "{sql}");
        }
    }

    #[tokio::test]
    async fn conditions_that_cannot_fail_stay_as_they_are() {
        let plan = rows("EXPLAIN SELECT a FROM ROWS WHERE b <> 0 AND a / 2 > 1 AND CAST(a AS BIGINT) > 1").await;
        assert!(!plan.contains("CASE"), "{plan}");
    }
}
