//! Where the values of an expression come from: through a plan, downwards.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality};
use datafusion::logical_expr::{Aggregate, BinaryExpr, Distinct, Expr, ExprSchemable, Join, JoinType, LogicalPlan, Operator};

use super::estimates::number;

/// Plans that are looked at for where one key comes from: joins can lead to the same plan in many ways.
pub(super) const STEPS_MAX: usize = 256;

/// Whether rows of one side that have no partner make no difference to the join.
pub(super) fn reads_partners_only(join: &Join, is_left: bool) -> bool {
    let only = match join.join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => true,
        JoinType::Left | JoinType::LeftAnti => !is_left,
        JoinType::Right | JoinType::RightAnti => is_left,
        JoinType::Full | JoinType::LeftMark | JoinType::RightMark => false,
    };
    // NULL has partners under the one, and under the other a NULL among those that are asked about changes everything.
    only && join.null_equality == NullEquality::NullEqualsNothing && !join.null_aware
}

/// Whether the values of two expressions are equal in a join exactly where they are to a list. Floating point has zeros and NaNs of several
/// kinds.
pub(super) fn are_comparable(one: &Expr, side: &LogicalPlan, other: &Expr, other_side: &LogicalPlan) -> bool {
    let (Ok(one), Ok(other)) = (one.get_type(side.schema()), other.get_type(other_side.schema())) else { return false };
    let is_exact = one.is_integer()
        || one.is_string()
        || matches!(one, DataType::Boolean | DataType::Date32 | DataType::Timestamp(..) | DataType::Decimal128(..));
    one == other && is_exact
}

/// Plans that have all values of `value` in the rows of `plan`, each with what the value is there; from the plan itself downwards, so that
/// the first ones have the fewest.
pub(super) fn sources<'a>(plan: &'a LogicalPlan, value: &Expr) -> Vec<(&'a LogicalPlan, Expr)> {
    let mut found = Vec::new();
    find_sources(plan, value, &mut found);
    found
}

fn find_sources<'a>(plan: &'a LogicalPlan, value: &Expr, found: &mut Vec<(&'a LogicalPlan, Expr)>) {
    if found.len() == STEPS_MAX {
        return;
    }
    found.push((plan, value.clone()));
    match plan {
        LogicalPlan::Join(join) => {
            for side in [&join.left, &join.right].into_iter().zip(shown_sides(join)).filter_map(|(side, shown)| shown.then_some(side)) {
                // NULL in the place of a column makes other values of an expression.
                let is_outer = matches!(join.join_type, JoinType::Left | JoinType::Right | JoinType::Full);
                if has_columns(side.schema(), value) && (!is_outer || matches!(value, Expr::Column(_))) {
                    find_sources(side, value, found);
                }
            }
            for (_, side, equal) in equals(join, value) {
                find_sources(side, equal, found);
            }
        }
        LogicalPlan::Limit(limit) if has_columns(limit.input.schema(), value) => find_sources(&limit.input, value, found),
        LogicalPlan::Window(window) if has_columns(window.input.schema(), value) => find_sources(&window.input, value, found),
        _ => {
            if let Some((input, value)) = below(plan, value) {
                find_sources(input, &value, found);
            }
        }
    }
}

/// Inputs of a join of which a condition on columns of theirs may be asked below it instead of above it, each with whether it is the left
/// one.
pub(super) fn narrowed_sides(join: &Join) -> impl Iterator<Item = (bool, &LogicalPlan)> {
    let sides = match join.join_type {
        JoinType::Inner => [true, true],
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => [true, false],
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => [false, true],
        JoinType::Full => [false, false],
    };
    let inputs = [(true, join.left.as_ref()), (false, join.right.as_ref())];
    inputs.into_iter().zip(sides).filter_map(|(side, narrowed)| narrowed.then_some(side))
}

/// Which sides of a join its rows have columns of.
fn shown_sides(join: &Join) -> [bool; 2] {
    match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => [true, false],
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => [false, true],
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => [true, true],
    }
}

/// What is equal to `expr` in each row of a join, on the other side from it, and whether that is the left one.
pub(super) fn equals<'a>(join: &'a Join, expr: &Expr) -> impl Iterator<Item = (bool, &'a LogicalPlan, &'a Expr)> {
    let (to_right, to_left) = match join.join_type {
        JoinType::Inner => (true, true),
        JoinType::LeftSemi => (true, false),
        JoinType::RightSemi => (false, true),
        _ => (false, false),
    };
    let other = |(left, right): &'a (Expr, Expr)| match expr {
        expr if to_right && expr == left => Some((false, join.right.as_ref(), right)),
        expr if to_left && expr == right => Some((true, join.left.as_ref(), left)),
        _ => None,
    };
    join.on.iter().filter_map(other).collect::<Vec<_>>().into_iter()
}

/// The input of a node of which each row comes from rows with the same value of an expression, and what that is there.
pub(super) fn below<'a>(plan: &'a LogicalPlan, expr: &Expr) -> Option<(&'a LogicalPlan, Expr)> {
    let found = match plan {
        LogicalPlan::Projection(projection) => {
            let made = |index: usize| projection.expr.get(index).map(|expr| expr.clone().unalias());
            (projection.input.as_ref(), by_position(expr, &projection.schema, made)?)
        }
        LogicalPlan::SubqueryAlias(alias) => {
            (alias.input.as_ref(), by_position(expr, &alias.schema, |index| Some(column_of(alias.input.schema(), index)))?)
        }
        LogicalPlan::Aggregate(Aggregate { input, group_expr, schema, .. }) => {
            let grouped = |index: usize| match group_expr.as_slice() {
                [Expr::GroupingSet(_)] => None,
                exprs => exprs.get(index).map(|expr| expr.clone().unalias()),
            };
            (input.as_ref(), by_position(expr, schema, grouped)?)
        }
        LogicalPlan::Filter(filter) => (filter.input.as_ref(), expr.clone()),
        LogicalPlan::Sort(sort) => (sort.input.as_ref(), expr.clone()),
        LogicalPlan::Distinct(Distinct::All(input)) => (input.as_ref(), expr.clone()),
        _ => return None,
    };
    Some(found)
}

/// `expr` over other columns: those that `made` gives for the positions of its own. `None` if there is none for one of them.
pub(super) fn by_position(expr: &Expr, schema: &DFSchema, made: impl Fn(usize) -> Option<Expr>) -> Option<Expr> {
    let mut complete = true;
    let replaced = expr.clone().transform_up(|expr| {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        match schema.maybe_index_of_column(column).and_then(&made) {
            Some(other) => Ok(Transformed::yes(other)),
            None => {
                complete = false;
                Ok(Transformed::no(expr))
            }
        }
    });
    replaced.ok().map(|replaced| replaced.data).filter(|_| complete)
}

pub(super) fn column_of(schema: &DFSchema, index: usize) -> Expr {
    Expr::Column(Column::from(schema.qualified_field(index)))
}

pub(super) fn has_columns(schema: &DFSchema, expr: &Expr) -> bool {
    expr.column_refs().iter().all(|column| schema.has_column(column))
}

/// Operators and functions that have a value for whatever they are given.
const WITHOUT_ERRORS: [Operator; 13] = {
    use Operator::*;
    [Plus, Minus, Multiply, Eq, NotEq, Lt, LtEq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, And, Or]
};
const FUNCTIONS_WITHOUT_ERRORS: [&str; 2] = ["coalesce", "date_part"];

/// Whether an expression has a value in every row, so that it may be computed for rows that are left out later: `1 / a` has none where
/// `a` is 0.
pub(super) fn cannot_fail(expr: &Expr, schema: &DFSchema) -> bool {
    let may_fail = |expr: &Expr| match expr {
        Expr::Column(_) | Expr::Literal(..) | Expr::Alias(_) | Expr::Case(_) | Expr::TryCast(_) => false,
        Expr::Not(_) | Expr::IsNull(_) | Expr::IsNotNull(_) | Expr::Between(_) | Expr::InList(_) => false,
        Expr::BinaryExpr(BinaryExpr { op: Operator::Divide | Operator::Modulo, right, .. }) => {
            !matches!(right.as_ref(), Expr::Literal(divisor, _) if number(divisor).is_some_and(|divisor| divisor.abs() > 1.0))
        }
        Expr::BinaryExpr(BinaryExpr { op, .. }) => !WITHOUT_ERRORS.contains(op),
        Expr::Cast(cast) => !cast.expr.get_type(schema).is_ok_and(|given| keeps_all(&given, cast.field.data_type())),
        Expr::ScalarFunction(function) => !FUNCTIONS_WITHOUT_ERRORS.contains(&function.name()),
        _ => true,
    };
    !expr.exists(|expr| Ok(may_fail(expr))).unwrap_or(true)
}

/// Whether each number of a type has one in the other.
fn keeps_all(given: &DataType, wanted: &DataType) -> bool {
    match (given, wanted) {
        (given, wanted) if given == wanted => true,
        (given, DataType::Float64) => given.is_numeric(),
        (given, DataType::Int64) => given.is_signed_integer(),
        // No whole number has more digits.
        (given, DataType::Decimal128(digits, scale)) if given.is_integer() => {
            i16::from(*digits) - i16::from(*scale) >= if *given == DataType::Int32 { 10 } else { 20 }
        }
        (DataType::Decimal128(digits, scale), DataType::Decimal128(wanted, wanted_scale)) => {
            wanted_scale >= scale && i16::from(*wanted) - i16::from(*wanted_scale) >= i16::from(*digits) - i16::from(*scale)
        }
        _ => false,
    }
}

/// Whether a plan gives the same rows each time: no row is left out by chance, and no value depends on the order of rows.
pub(super) fn is_repeatable(plan: &LogicalPlan) -> bool {
    let mut repeatable = true;
    // The visitor does not fail.
    let _infallible = plan.apply_with_subqueries(|node| {
        repeatable &= match node {
            LogicalPlan::TableScan(scan) => scan.fetch.is_none(),
            LogicalPlan::Sort(sort) => sort.fetch.is_none(),
            LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.iter().all(|expr| is_ordered_by_nothing(expr, aggregate)),
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Join(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Union(_)
            | LogicalPlan::Values(_)
            | LogicalPlan::EmptyRelation(_)
            | LogicalPlan::Distinct(Distinct::All(_)) => true,
            _ => false,
        };
        Ok(if repeatable { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    repeatable
}

/// Whether an aggregate is the same for any order of its rows. A sum of floating point is not.
fn is_ordered_by_nothing(expr: &Expr, aggregate: &Aggregate) -> bool {
    let Expr::AggregateFunction(function) = expr.clone().unalias() else { return false };
    let is_float = |expr: &Expr| expr.get_type(aggregate.input.schema()).map_or(true, |data_type| data_type.is_floating());
    match function.func.name() {
        "min" | "max" | "count" => true,
        "sum" | "avg" => !function.params.args.iter().any(is_float),
        _ => false,
    }
}

/// Whether some function of a plan gives other values each time.
pub(super) fn is_volatile(plan: &LogicalPlan) -> bool {
    let mut found = false;
    // The visitors do not fail.
    let _infallible = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= expr.is_volatile();
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    found
}
