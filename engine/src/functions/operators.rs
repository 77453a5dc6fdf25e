//! Operators that mean something else in another dialect, planned with the types of their operands.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_err};
use datafusion::functions::math::expr_fn::trunc;
use datafusion::functions_nested::expr_fn::array_element;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, GetFieldAccess, Operator, ScalarUDF, cast, lit, try_cast, when};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs;

use super::dialects::{own, substring};
use super::patterns::completed_time;
use crate::dialect::Dialect;

/// Plans the operators of one dialect, and those of JSON in all.
#[derive(Debug)]
pub(super) struct DialectPlanner {
    pub dialect: Dialect,
    /// Whether what cannot be computed is NULL.
    pub lenient: bool,
    /// Whether a whole number that there is no room for is an error.
    pub checked: bool,
}

impl ExprPlanner for DialectPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, left, right } = expr;
        // A parameter of a division is no whole number until somebody says so.
        let divided = matches!(op, BinaryOperator::Divide) && self.dialect.is_hive_like();
        let typed = |side| match side {
            Expr::Placeholder(Placeholder { field: None, .. }) if divided => cast(side, DataType::Float64),
            side => side,
        };
        let mut expr = RawBinaryExpr { op, left: typed(left), right: typed(right) };
        let types = (expr.left.get_type(schema), expr.right.get_type(schema));
        let (Ok(left_type), Ok(right_type)) = types else { return Ok(PlannerResult::Original(expr)) };
        if is_comparison(&expr.op) {
            complete(&mut expr.left, &right_type);
            complete(&mut expr.right, &left_type);
        }
        let hive_like = self.dialect.is_hive_like();
        // To Hive and Spark text is a number where it is computed with.
        let counts = |data_type: &DataType| data_type.is_numeric() || data_type.is_string();
        if hive_like
            && is_arithmetic(&expr.op)
            && (left_type.is_string() || right_type.is_string())
            && counts(&left_type)
            && counts(&right_type)
        {
            let number = |side: Expr, data_type: &DataType| match data_type.is_string() {
                true if self.lenient => try_cast(side, DataType::Float64),
                true => cast(side, DataType::Float64),
                false => side,
            };
            let (left, right) = (number(expr.left, &left_type), number(expr.right, &right_type));
            return self.plan_binary_op(RawBinaryExpr { left, right, ..expr }, schema);
        }
        let integers = left_type.is_integer() && right_type.is_integer();
        let binary = |left, op, right| Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
        let numeric = left_type.is_numeric() && right_type.is_numeric();
        if integers
            && self.checked
            && !fits(&expr, (&left_type, &right_type), schema)
            && checked_depth(&expr.left).max(checked_depth(&expr.right)) < CHECKED_MAX
            && let Some(function) = checked(&expr.op)
        {
            let name = format!("{} {} {}", expr.left.schema_name(), expr.op, expr.right.schema_name());
            return Ok(PlannerResult::Planned(function.call(vec![expr.left, expr.right]).alias(name)));
        }
        Ok(PlannerResult::Planned(match expr.op {
            BinaryOperator::Multiply | BinaryOperator::Divide if is_interval(&left_type) && right_type.is_numeric() => {
                let name = format!("{} {} {}", expr.left.schema_name(), expr.op, expr.right.schema_name());
                let factor = cast(expr.right, DataType::Float64);
                let factor = if matches!(expr.op, BinaryOperator::Multiply) { factor } else { lit(1.0) / factor };
                interval_times(expr.left, factor)?.alias(name)
            }
            BinaryOperator::Multiply if left_type.is_numeric() && is_interval(&right_type) => {
                let name = format!("{} * {}", expr.left.schema_name(), expr.right.schema_name());
                interval_times(expr.right, cast(expr.left, DataType::Float64))?.alias(name)
            }
            // JSON as text, which clients can read; `json_get` of its own library gives a union of types.
            BinaryOperator::Arrow => udfs::json_get_json_udf().call(vec![expr.left, expr.right]),
            BinaryOperator::LongArrow => udfs::json_as_text_udf().call(vec![expr.left, expr.right]),
            BinaryOperator::MyIntegerDivide | BinaryOperator::DuckIntegerDivide if numeric => {
                let name = format!("{} DIV {}", expr.left.schema_name(), expr.right.schema_name());
                let quotient = binary(expr.left, Operator::Divide, self.divisor(expr.right, &right_type)?);
                cast(if integers { quotient } else { trunc(vec![quotient]) }, DataType::Int64).alias(name)
            }
            // Hive and Spark know no division of whole numbers but DIV.
            BinaryOperator::Divide if hive_like && numeric => {
                let name = format!("{} / {}", expr.left.schema_name(), expr.right.schema_name());
                let right = self.divisor(expr.right, &right_type)?;
                let float = |side| if integers { cast(side, DataType::Float64) } else { side };
                binary(float(expr.left), Operator::Divide, float(right)).alias(name)
            }
            BinaryOperator::Modulo if hive_like && numeric => {
                let name = format!("{} % {}", expr.left.schema_name(), expr.right.schema_name());
                binary(expr.left, Operator::Modulo, self.divisor(expr.right, &right_type)?).alias(name)
            }
            _ => return Ok(PlannerResult::Original(expr)),
        }))
    }

    /// Places in lists count from 0 in Hive and Spark.
    fn plan_field_access(&self, expr: RawFieldAccessExpr, schema: &DFSchema) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let GetFieldAccess::ListIndex { key } = &expr.field_access else { return Ok(PlannerResult::Original(expr)) };
        if !self.dialect.is_hive_like() || !expr.expr.get_type(schema)?.is_list() {
            return Ok(PlannerResult::Original(expr));
        }
        let key = key.as_ref().clone();
        let place = when(key.clone().gt_eq(lit(0_i64)), cast(key, DataType::Int64) + lit(1_i64)).end()?;
        Ok(PlannerResult::Planned(array_element(expr.expr, place)))
    }

    /// A part that begins within the text is the same in all dialects, and DataFusion's function prunes partitions.
    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        let least = |arg: &Expr, least| matches!(arg, Expr::Literal(ScalarValue::Int64(Some(number)), _) if *number >= least);
        let ordinary = args.get(1).is_some_and(|start| least(start, 1)) && args.get(2).is_none_or(|length| least(length, 0));
        Ok(match substring(self.dialect).filter(|_| !ordinary) {
            Some(function) => PlannerResult::Planned(function.call(args)),
            None => PlannerResult::Original(args),
        })
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | Gt | GtEq | Lt | LtEq | NotEq)
}

/// What stands for an operator if its result must fit.
fn checked(op: &BinaryOperator) -> Option<&'static Arc<ScalarUDF>> {
    own(match op {
        BinaryOperator::Plus => "checked_add",
        BinaryOperator::Minus => "checked_subtract",
        BinaryOperator::Multiply => "checked_multiply",
        _ => return None,
    })
}

/// Operators within operators whose results are checked. Each is a call within a call, for which DataFusion looks for types twice as long as
/// for the one within: 16 of them would take seconds to plan.
const CHECKED_MAX: usize = 6;

/// Checked operators within each other.
fn checked_depth(expr: &Expr) -> usize {
    match expr {
        Expr::Alias(alias) => checked_depth(&alias.expr),
        Expr::BinaryExpr(BinaryExpr { left, right, .. }) => checked_depth(left).max(checked_depth(right)),
        Expr::ScalarFunction(function) if function.name().starts_with("checked_") => {
            1 + function.args.iter().map(checked_depth).max().unwrap_or_default()
        }
        _ => 0,
    }
}

/// Whether the result of whole numbers has room in its type, whatever they are.
fn fits(expr: &RawBinaryExpr, (left_type, right_type): (&DataType, &DataType), schema: &DFSchema) -> bool {
    let (Some(left), Some(right)) = (bits(&expr.left, schema), bits(&expr.right, schema)) else { return false };
    let op = match expr.op {
        BinaryOperator::Plus => Operator::Plus,
        BinaryOperator::Minus => Operator::Minus,
        _ => Operator::Multiply,
    };
    let result = BinaryTypeCoercer::new(left_type, &op, right_type).get_result_type();
    let needed = if op == Operator::Multiply { left + right } else { left.max(right) + 1 };
    result.is_ok_and(|result| result.is_signed_integer() && bits_of(&result).is_some_and(|bits| needed <= bits))
}

/// Bits that the magnitude of a whole number has at most.
fn bits(expr: &Expr, schema: &DFSchema) -> Option<u32> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(number)), _) => Some(u64::BITS - number.unsigned_abs().leading_zeros()),
        Expr::Alias(alias) => bits(&alias.expr, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            Some(bits(left, schema)?.max(bits(right, schema)?) + 1)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Multiply, right }) => Some(bits(left, schema)? + bits(right, schema)?),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Modulo, right }) => Some(bits(left, schema)?.min(bits(right, schema)?)),
        expr => bits_of(&expr.get_type(schema).ok()?),
    }
}

fn bits_of(data_type: &DataType) -> Option<u32> {
    Some(match data_type {
        DataType::Int8 => 7,
        DataType::UInt8 => 8,
        DataType::Int16 => 15,
        DataType::UInt16 => 16,
        DataType::Int32 => 31,
        DataType::UInt32 => 32,
        DataType::Int64 => 63,
        DataType::UInt64 => 64,
        _ => return None,
    })
}

fn is_arithmetic(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Divide, Minus, Modulo, Multiply, Plus};
    matches!(op, Plus | Minus | Multiply | Divide | Modulo)
}

/// Text that is compared with a time may leave parts of it out.
fn complete(text: &mut Expr, data_type: &DataType) {
    if let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = text
        && matches!(data_type, DataType::Timestamp(..) | DataType::Date32)
        && let Some(completed) = completed_time(text)
    {
        *text = completed;
    }
}

fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Interval(_))
}

fn interval_times(interval: Expr, factor: Expr) -> Result<Expr> {
    match own("interval_times") {
        Some(function) => Ok(function.call(vec![interval, factor])),
        None => internal_err!("intervals have no product"),
    }
}

impl DialectPlanner {
    /// What is divided by; NULL in place of 0 where that makes NULL.
    fn divisor(&self, right: Expr, data_type: &DataType) -> Result<Expr> {
        let zero = ScalarValue::new_zero(data_type)?;
        let never_zero = matches!(&right, Expr::Literal(value, _) if *value != zero);
        if !self.lenient || never_zero {
            return Ok(right);
        }
        when(right.clone().eq(Expr::Literal(zero, None)), Expr::Literal(ScalarValue::try_from(data_type)?, None)).otherwise(right)
    }
}
