//! Operators that the parser binds otherwise than they are meant.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

use super::{binary, null, taken};

/// `a -> 'b' = c` compares the part of the JSON, as in PostgreSQL; the parser reads `a -> ('b' = c)`.
pub(super) fn arrow_first(expr: &mut Expr) {
    let Expr::BinaryOp { op: BinaryOperator::Arrow | BinaryOperator::LongArrow, right, .. } = &mut *expr else { return };
    if compared(right).is_none() {
        return;
    }
    let mut comparison = taken(right);
    let mut operand = &mut comparison;
    while compared(operand).is_some() {
        // Asked twice, because a borrow that is returned from a loop lasts too long.
        let Some(first) = compared(operand) else { return };
        operand = first;
    }
    let key = taken(operand);
    *operand = taken(expr);
    if let Expr::BinaryOp { right, .. } = operand {
        **right = key;
    }
    *expr = comparison;
}

/// `a IS DISTINCT FROM b AND c OR d` is `(a IS DISTINCT FROM b) AND c OR d`; the parser reads all that follows as one operand.
pub(super) fn distinct_first(expr: &mut Expr) {
    if swallows(expr) {
        let (operands, operators) = chain(taken(expr));
        *expr = rejoined(operands, operators);
    }
}

/// Whether an `IS DISTINCT FROM` has taken what follows it: then it is at the right end.
fn swallows(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, right: last, .. }
        | Expr::UnaryOp { op: UnaryOperator::Not, expr: last } => swallows(last),
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => {
            matches!(**right, Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. }) || swallows(right)
        }
        _ => false,
    }
}

/// What stands between `AND` and `OR` outside of parentheses, and these.
fn chain(expr: Expr) -> (Vec<Expr>, Vec<BinaryOperator>) {
    let with_first = |rest: Expr, first: &dyn Fn(Box<Expr>) -> Expr| {
        let (mut operands, operators) = chain(rest);
        let own = taken(&mut operands[0]);
        operands[0] = first(Box::new(own));
        (operands, operators)
    };
    match expr {
        Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
            let ((mut operands, mut operators), (more, others)) = (chain(*left), chain(*right));
            operands.extend(more);
            operators.push(op);
            operators.extend(others);
            (operands, operators)
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => with_first(*expr, &|expr| Expr::UnaryOp { op: UnaryOperator::Not, expr }),
        Expr::IsDistinctFrom(left, right) => with_first(*right, &|right| Expr::IsDistinctFrom(left.clone(), right)),
        Expr::IsNotDistinctFrom(left, right) => with_first(*right, &|right| Expr::IsNotDistinctFrom(left.clone(), right)),
        operand => (vec![operand], Vec::new()),
    }
}

/// `AND` binds tighter than `OR`.
fn rejoined(operands: Vec<Expr>, operators: Vec<BinaryOperator>) -> Expr {
    let mut operands = operands.into_iter();
    let (mut whole, mut part) = (None, operands.next().unwrap_or_else(null));
    for (operator, operand) in operators.into_iter().zip(operands) {
        if operator == BinaryOperator::And {
            part = binary(part, operator, operand);
        } else {
            let before = std::mem::replace(&mut part, operand);
            whole = Some(match whole {
                Some(whole) => binary(whole, BinaryOperator::Or, before),
                None => before,
            });
        }
    }
    match whole {
        Some(whole) => binary(whole, BinaryOperator::Or, part),
        None => part,
    }
}

/// The first operand of a comparison.
fn compared(expr: &mut Expr) -> Option<&mut Expr> {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq, Spaceship};
    match expr {
        Expr::BinaryOp { left, op: Eq | NotEq | Lt | LtEq | Gt | GtEq | Spaceship, .. } => Some(left),
        Expr::IsNull(operand)
        | Expr::IsNotNull(operand)
        | Expr::IsTrue(operand)
        | Expr::IsNotTrue(operand)
        | Expr::IsFalse(operand)
        | Expr::IsNotFalse(operand)
        | Expr::IsDistinctFrom(operand, _)
        | Expr::IsNotDistinctFrom(operand, _)
        | Expr::Like { expr: operand, .. }
        | Expr::ILike { expr: operand, .. }
        | Expr::RLike { expr: operand, .. }
        | Expr::SimilarTo { expr: operand, .. }
        | Expr::InList { expr: operand, .. }
        | Expr::InSubquery { expr: operand, .. }
        | Expr::Between { expr: operand, .. } => Some(operand),
        _ => None,
    }
}
