//! Conditions on partition keys: the part a store can be asked, and the rest, which is evaluated over the keys it returns.
//!
//! Every comparison of a non-decreasing function of a key with a constant becomes one or two bounds on the key itself: `f(k) >= c` holds
//! from the first key on whose `f` reaches `c`. So `year(dt) = 2024`, `CAST(ts AS DATE) < ...`, `left(dt, 7) = '2024-01'` and `id = 2.5`
//! all reach the index.

use std::ops::Neg;

use chrono::{Datelike, Months, NaiveDate};
use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{InList, Like, ScalarFunction};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{Between, Expr, Operator};

use crate::catalog::{KeyType, Partition, PartitionKey};
use crate::predicate::{Comparison, KeyPredicate, after_prefix};

/// Members of an IN list that a store is asked about; longer lists are evaluated over the keys.
pub const IN_LIST_MAX: usize = 1000;
/// Whole numbers below this are exact as DOUBLE.
const DOUBLE_EXACT: f64 = 9_007_199_254_740_992.0;
/// Digits of whole numbers as DOUBLE or REAL: more than any exact type has, as casts back need not be exact.
const FLOAT_DIGITS: u32 = 400;
/// Whole numbers below this are exact as REAL.
const REAL_EXACT: f64 = 16_777_216.0;

/// A scan's filters, sorted by who evaluates them.
#[derive(Debug, Clone)]
pub struct Pruning {
    /// What the store is asked. It keeps every partition that may hold wanted rows.
    pub predicate: KeyPredicate,
    /// Conditions on keys only that `predicate` does not express exactly; see [`Pruning::retain`].
    pub residual: Vec<Expr>,
    /// What follows for keys from conditions that need columns, too, where `predicate` does not say it all. A hint: it may fail where the
    /// condition itself is never evaluated.
    pub implied: Vec<Expr>,
    /// Conditions that need columns of files.
    pub data: Vec<Expr>,
}

impl Pruning {
    /// Sorts `filters`, all of which must hold.
    pub fn new(filters: &[Expr], keys: &[PartitionKey]) -> Self {
        let mut conditions = Vec::new();
        let (mut residual, mut implied, mut data) = (Vec::new(), Vec::new(), Vec::new());
        for filter in filters.iter().flat_map(split_conjunction) {
            let condition = truth(filter, true, keys);
            if !is_key_only(filter, keys) {
                data.push(filter.clone());
                implied.extend(key_part(filter, keys).filter(|part| !truth(part, true, keys).exact));
            } else if !condition.exact {
                residual.push(filter.clone());
            }
            conditions.push(condition);
        }
        Self { predicate: all_of(conditions).predicate, residual, implied, data }
    }

    /// Whether [`Pruning::retain`] may drop anything.
    pub fn has_more(&self) -> bool {
        !self.residual.is_empty() || !self.implied.is_empty()
    }

    /// Drops the partitions for which the residual, or what is implied, is not true. Errors: those of evaluating the residual.
    pub fn retain(&self, state: &dyn Session, keys: &[PartitionKey], mut partitions: Vec<Partition>) -> Result<Vec<Partition>> {
        if let Some(residual) = conjunction(self.residual.iter().cloned()) {
            partitions = keep_where(state, keys, residual, partitions)?;
        }
        match conjunction(self.implied.iter().cloned()) {
            Some(implied) => keep_where(state, keys, implied, partitions.clone()).or(Ok(partitions)),
            None => Ok(partitions),
        }
    }
}

/// Drops the partitions for which a condition on keys is not true.
fn keep_where(state: &dyn Session, keys: &[PartitionKey], condition: Expr, partitions: Vec<Partition>) -> Result<Vec<Partition>> {
    if partitions.is_empty() {
        return Ok(partitions);
    }
    let batch = key_batch(keys, &partitions)?;
    let schema = DFSchema::try_from(batch.schema())?;
    let keeps = state.create_physical_expr(unqualified(condition)?, &schema)?.evaluate(&batch)?.into_array(batch.num_rows())?;
    let keeps = keeps.as_boolean();
    let kept = partitions.into_iter().enumerate().filter(|(row, _)| keeps.is_valid(*row) && keeps.value(*row));
    Ok(kept.map(|(_, partition)| partition).collect())
}

/// A condition on keys only that holds wherever `expr` does: `f(k) AND x > 0 OR g(k) AND y > 0` implies `f(k) OR g(k)`.
fn key_part(expr: &Expr, keys: &[PartitionKey]) -> Option<Expr> {
    match expr {
        _ if is_key_only(expr, keys) => Some(expr.clone()),
        Expr::BinaryExpr(binary) => match (binary.op, key_part(&binary.left, keys), key_part(&binary.right, keys)) {
            (Operator::And, Some(left), Some(right)) => Some(left.and(right)),
            (Operator::And, one, None) | (Operator::And, None, one) => one,
            (Operator::Or, Some(left), Some(right)) => Some(left.or(right)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether `expr` can be evaluated from partition keys alone, with the same result each time.
pub fn is_key_only(expr: &Expr, keys: &[PartitionKey]) -> bool {
    let columns = expr.column_refs();
    let needs_more = expr.exists(|node| {
        Ok(matches!(
            node,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::ScalarSubquery(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Placeholder(_)
                | Expr::ScalarVariable(..)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::Unnest(_)
        ))
    });
    !columns.is_empty()
        && columns.iter().all(|column| keys.iter().any(|key| key.name == column.name))
        && !expr.is_volatile()
        && needs_more.is_ok_and(|needs_more| !needs_more)
}

fn key_schema(keys: &[PartitionKey]) -> Schema {
    Schema::new(keys.iter().map(|key| Field::new(&key.name, key.key_type.data_type(), true)).collect::<Vec<_>>())
}

/// Key values as columns, one row per partition, of which there must be some.
fn key_batch(keys: &[PartitionKey], partitions: &[Partition]) -> Result<RecordBatch> {
    let column = |position: usize| ScalarValue::iter_to_array(partitions.iter().map(|partition| partition.values[position].clone()));
    let columns = (0..keys.len()).map(column).collect::<Result<_>>()?;
    Ok(RecordBatch::try_new(key_schema(keys).into(), columns)?)
}

/// Names without table qualifiers.
pub(crate) fn unqualified(expr: Expr) -> Result<Expr> {
    let unqualify = |node: Expr| {
        Ok(match node {
            Expr::Column(column) if column.relation.is_some() => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
            node => Transformed::no(node),
        })
    };
    Ok(expr.transform(unqualify)?.data)
}

/// Partitions for which something holds.
struct Condition {
    predicate: KeyPredicate,
    /// Whether it holds for all of them; otherwise it holds for no other.
    exact: bool,
}

impl Condition {
    fn exact(predicate: KeyPredicate) -> Self {
        Self { predicate, exact: true }
    }

    fn at_most(predicate: KeyPredicate) -> Self {
        Self { predicate, exact: false }
    }
}

/// Partitions for which `expr` is `want`: not the other value, and not NULL.
fn truth(expr: &Expr, want: bool, keys: &[PartitionKey]) -> Condition {
    let unknown = Condition::at_most(KeyPredicate::All);
    let operands = |left: &Expr, right: &Expr| vec![truth(left, want, keys), truth(right, want, keys)];
    match expr {
        Expr::Alias(alias) => truth(&alias.expr, want, keys),
        Expr::Not(inner) => truth(inner, !want, keys),
        Expr::BinaryExpr(binary) => match (binary.op, want) {
            (Operator::And, true) | (Operator::Or, false) => all_of(operands(&binary.left, &binary.right)),
            (Operator::Or, true) | (Operator::And, false) => any_of(operands(&binary.left, &binary.right)),
            (op, _) => comparison(&binary.left, op, &binary.right, want, keys).unwrap_or(unknown),
        },
        Expr::Between(Between { expr, negated, low, high }) => {
            let want = want != *negated;
            let bound = |op, bound| comparison(expr, op, bound, want, keys).unwrap_or(Condition::at_most(KeyPredicate::All));
            let bounds = vec![bound(Operator::GtEq, low), bound(Operator::LtEq, high)];
            if want { all_of(bounds) } else { any_of(bounds) }
        }
        Expr::InList(InList { expr, list, negated }) => in_list(expr, list, want != *negated, keys).unwrap_or(unknown),
        Expr::Like(like) if !like.case_insensitive => like_prefix(like, want != like.negated, keys).unwrap_or(unknown),
        Expr::IsNull(inner) => null_test(inner, want, keys).unwrap_or(unknown),
        Expr::IsNotNull(inner) => null_test(inner, !want, keys).unwrap_or(unknown),
        Expr::IsTrue(inner) if want => truth(inner, true, keys),
        Expr::IsNotTrue(inner) if !want => truth(inner, true, keys),
        Expr::IsFalse(inner) if want => truth(inner, false, keys),
        Expr::IsNotFalse(inner) if !want => truth(inner, false, keys),
        Expr::Literal(ScalarValue::Boolean(value), _) => {
            Condition::exact(if *value == Some(want) { KeyPredicate::All } else { KeyPredicate::Nothing })
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if want && func.name() == "starts_with" => {
            match (plain_text(args.first(), keys), args.get(1).and_then(constant)) {
                (Some(key), Some(prefix)) => match prefix.try_as_str() {
                    Some(Some(prefix)) => Condition::exact(starting(key, prefix.to_owned())),
                    Some(None) => Condition::exact(KeyPredicate::Nothing),
                    None => unknown,
                },
                _ => unknown,
            }
        }
        Expr::Column(_) | Expr::Cast(_) => match monotone(expr, keys) {
            Some(function) if matches!(function.domain, Domain::Boolean) => {
                function.compare(Operator::Eq, &want.into(), keys).unwrap_or(unknown)
            }
            _ => unknown,
        },
        _ => unknown,
    }
}

fn all_of(conditions: Vec<Condition>) -> Condition {
    let exact = conditions.iter().all(|condition| condition.exact);
    let predicate = KeyPredicate::and(conditions.into_iter().map(|condition| condition.predicate));
    Condition { exact: exact || predicate == KeyPredicate::Nothing, predicate }
}

fn any_of(conditions: Vec<Condition>) -> Condition {
    let exact = conditions.iter().all(|condition| condition.exact);
    Condition { exact, predicate: KeyPredicate::or(conditions.into_iter().map(|condition| condition.predicate)) }
}

/// `None` if the sides are not a function of a key and a constant.
fn comparison(left: &Expr, op: Operator, right: &Expr, want: bool, keys: &[PartitionKey]) -> Option<Condition> {
    let (function, op, value) = match (monotone(left, keys), constant(right)) {
        (Some(function), Some(value)) => (function, op, value),
        _ => (monotone(right, keys)?, op.swap()?, constant(left)?),
    };
    let equal_or_both_null = match op {
        Operator::IsNotDistinctFrom => want,
        Operator::IsDistinctFrom => !want,
        _ if value.is_null() => return comparison_of(op).map(|_| Condition::exact(KeyPredicate::Nothing)),
        _ => return function.compare(if want { op } else { op.negate()? }, &value, keys),
    };
    let key = function.key;
    Some(match (equal_or_both_null, value.is_null()) {
        (true, true) => Condition::exact(KeyPredicate::IsNull(key)),
        (false, true) => Condition::exact(KeyPredicate::IsNotNull(key)),
        (true, false) => function.compare(Operator::Eq, &value, keys)?,
        (false, false) => any_of(vec![function.compare(Operator::NotEq, &value, keys)?, Condition::exact(KeyPredicate::IsNull(key))]),
    })
}

fn in_list(expr: &Expr, list: &[Expr], member: bool, keys: &[PartitionKey]) -> Option<Condition> {
    let function = monotone(expr, keys)?;
    let values = list.iter().map(constant).collect::<Option<Vec<_>>>()?;
    let has_null = values.iter().any(ScalarValue::is_null);
    if !member && has_null {
        // `x NOT IN (..., NULL)` is never true.
        return Some(Condition::exact(KeyPredicate::Nothing));
    }
    if values.len() > IN_LIST_MAX {
        return Some(Condition::at_most(KeyPredicate::IsNotNull(function.key)));
    }
    let op = if member { Operator::Eq } else { Operator::NotEq };
    let tests = values.iter().filter(|value| !value.is_null());
    let tests = tests.map(|value| function.compare(op, value, keys)).collect::<Option<Vec<_>>>()?;
    Some(if member { any_of(tests) } else { all_of(tests) })
}

fn null_test(expr: &Expr, is_null: bool, keys: &[PartitionKey]) -> Option<Condition> {
    // The functions are NULL for NULL and for nothing else.
    let key = monotone(expr, keys)?.key;
    Some(Condition::exact(if is_null { KeyPredicate::IsNull(key) } else { KeyPredicate::IsNotNull(key) }))
}

/// A string key itself.
fn plain_text(expr: Option<&Expr>, keys: &[PartitionKey]) -> Option<usize> {
    let function = monotone(expr?, keys)?;
    matches!(function.domain, Domain::Text { chars: None }).then_some(function.key)
}

fn starting(key: usize, prefix: String) -> KeyPredicate {
    if prefix.is_empty() { KeyPredicate::IsNotNull(key) } else { KeyPredicate::Prefix(key, prefix) }
}

fn like_prefix(like: &Like, want: bool, keys: &[PartitionKey]) -> Option<Condition> {
    let key = plain_text(Some(&like.expr), keys)?;
    if like.escape_char.is_some_and(|escape| escape != '\\') {
        return None;
    }
    let pattern = constant(&like.pattern)?;
    let Some(pattern) = pattern.try_as_str()? else {
        return Some(Condition::exact(KeyPredicate::Nothing));
    };
    if !want {
        return Some(Condition::at_most(KeyPredicate::IsNotNull(key)));
    }
    let mut prefix = String::new();
    let mut chars = pattern.chars();
    loop {
        match chars.next() {
            None => return Some(Condition::exact(KeyPredicate::Compare(key, Comparison::Equal, prefix.into()))),
            Some('%') if chars.as_str().chars().all(|c| c == '%') => return Some(Condition::exact(starting(key, prefix))),
            Some('%' | '_') => return Some(Condition::at_most(starting(key, prefix))),
            Some('\\') => match chars.next() {
                Some(escaped) => prefix.push(escaped),
                None => return Some(Condition::at_most(starting(key, prefix))),
            },
            Some(c) => prefix.push(c),
        }
    }
}

fn constant(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value.clone()),
        Expr::Alias(alias) => constant(&alias.expr),
        Expr::Cast(cast) => constant(&cast.expr)?.cast_to(cast.field.data_type()).ok(),
        _ => None,
    }
}

/// A non-decreasing function of one key, NULL exactly where the key is. Its values, like the key's, are counted by whole numbers.
struct Monotone {
    key: usize,
    /// From the key outwards.
    steps: Vec<Step>,
    domain: Domain,
}

/// What the whole numbers that count a function's values mean.
#[derive(Debug, Clone, Copy)]
enum Domain {
    /// Not counted; compared as text, of which only so many characters are kept, or all.
    Text { chars: Option<usize> },
    /// 0 and 1.
    Boolean,
    /// Units of the `scale`th decimal place, of numbers with at most `digits` digits before the point.
    Number { scale: u32, digits: u32 },
    /// Ticks since 1970, so many per day.
    Time { per_day: i128 },
}

/// One step of a [`Monotone`], over counts.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Times a factor.
    Multiply(i128),
    /// By a divisor, rounded down.
    Divide(i128),
    /// The calendar year of a time with so many ticks per day.
    Year(i128),
    /// Down to a multiple of so many ticks, shifted by the second number of ticks.
    Floor(i128, i128),
    /// Down to the first day of a span of so many months, with so many ticks per day.
    Months(i32, i128),
}

impl Step {
    /// The first count from which on this step reaches `count`.
    fn first(self, count: i128) -> i128 {
        match self {
            Self::Multiply(factor) => div_ceil(count, factor),
            Self::Divide(divisor) => count.saturating_mul(divisor),
            Self::Year(per_day) => first_of_month(count.saturating_mul(12)).saturating_mul(per_day),
            Self::Floor(size, shift) => div_ceil(count.saturating_add(shift), size).saturating_mul(size).saturating_sub(shift),
            Self::Months(span, per_day) => {
                let day = div_ceil(count, per_day);
                let Some(date) = i32::try_from(day).ok().and_then(NaiveDate::from_epoch_days) else {
                    return count;
                };
                let month = i128::from(date.year()) * 12 + i128::from(date.month0());
                let span = i128::from(span);
                let begins = first_of_month(month.div_euclid(span) * span);
                let first = if begins == day { day } else { first_of_month((month.div_euclid(span) + 1) * span) };
                first.saturating_mul(per_day)
            }
        }
    }
}

/// Days since 1970 of the first day of a month, counted from the year 0; far away if no calendar has it.
fn first_of_month(month: i128) -> i128 {
    /// Days in the ten million years before and after 1970.
    const FAR: i128 = 3_652_425_000;
    let year = i32::try_from(month.div_euclid(12)).ok();
    let date = year.and_then(|year| NaiveDate::from_ymd_opt(year, 1, 1)).and_then(|date| {
        let months = u32::try_from(month.rem_euclid(12)).ok()?;
        date.checked_add_months(Months::new(months))
    });
    date.map_or(if month < 0 { -FAR } else { FAR }, |date| i128::from(date.to_epoch_days()))
}

fn div_ceil(count: i128, divisor: i128) -> i128 {
    count.saturating_neg().div_euclid(divisor).neg()
}

fn pow10(exponent: u32) -> Option<i128> {
    10i128.checked_pow(exponent)
}

fn per_day(unit: TimeUnit) -> i128 {
    86_400
        * match unit {
            TimeUnit::Second => 1,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond => 1_000_000,
            TimeUnit::Nanosecond => 1_000_000_000,
        }
}

/// `None` if `expr` is not a non-decreasing function of one key that we know.
fn monotone(expr: &Expr, keys: &[PartitionKey]) -> Option<Monotone> {
    match expr {
        Expr::Alias(alias) => monotone(&alias.expr, keys),
        Expr::Column(column) => {
            let key = keys.iter().position(|key| key.name == column.name)?;
            Some(Monotone { key, steps: Vec::new(), domain: Domain::of(keys[key].key_type)? })
        }
        Expr::Cast(cast) => monotone(&cast.expr, keys)?.cast(cast.field.data_type()),
        Expr::ScalarFunction(ScalarFunction { func, args }) => match (func.name(), args.as_slice()) {
            ("to_date", [inner]) => {
                let function = monotone(inner, keys)?;
                matches!(function.domain, Domain::Time { .. }).then(|| function.cast(&DataType::Date32))?
            }
            ("year", [inner]) => monotone(inner, keys)?.year(),
            ("date_part", [part, inner]) => {
                let part = constant(part)?;
                part.try_as_str()??.eq_ignore_ascii_case("year").then(|| monotone(inner, keys)?.year())?
            }
            ("left", [inner, chars]) => monotone(inner, keys)?.first_chars(&constant(chars)?),
            ("substr", [inner, from, chars]) if integer(&constant(from)?) == Some(1) => {
                monotone(inner, keys)?.first_chars(&constant(chars)?)
            }
            ("date_trunc", [unit, inner]) => monotone(inner, keys)?.truncate(constant(unit)?.try_as_str()??),
            _ => None,
        },
        _ => None,
    }
}

impl Domain {
    fn of(key_type: KeyType) -> Option<Self> {
        Some(match key_type {
            KeyType::String => Self::Text { chars: None },
            KeyType::Boolean => Self::Boolean,
            KeyType::Int => Self::Number { scale: 0, digits: 10 },
            KeyType::BigInt => Self::Number { scale: 0, digits: 19 },
            KeyType::Decimal(precision, scale) => {
                let scale = u32::try_from(scale).ok()?;
                Self::Number { scale, digits: u32::from(precision).checked_sub(scale)? }
            }
            KeyType::Date => Self::Time { per_day: 1 },
            KeyType::Timestamp => Self::Time { per_day: per_day(TimeUnit::Microsecond) },
        })
    }

    /// The first counts whose values are at least `value`, and above it. `None` if the two cannot be compared exactly.
    fn locate(self, value: &ScalarValue) -> Option<(i128, i128)> {
        let fraction = |numerator: i128, denominator: i128| (div_ceil(numerator, denominator), numerator.div_euclid(denominator) + 1);
        let float = |value: f64, exact: f64| {
            // Negative zero is a value of its own, below zero.
            let usable = value.abs() < exact && !(value == 0.0 && value.is_sign_negative());
            usable.then(|| (value.ceil() as i128, value.floor() as i128 + 1))
        };
        match self {
            Self::Text { .. } => None,
            Self::Boolean => match value {
                ScalarValue::Boolean(Some(value)) => Some((i128::from(*value), i128::from(*value) + 1)),
                _ => None,
            },
            Self::Number { scale, .. } => match value {
                ScalarValue::Float64(Some(value)) if scale == 0 => float(*value, DOUBLE_EXACT),
                ScalarValue::Float32(Some(value)) if scale == 0 => float(f64::from(*value), REAL_EXACT),
                ScalarValue::Decimal128(Some(value), _, places) => {
                    let scaled = value.checked_mul(pow10(scale)?)?;
                    Some(fraction(scaled, pow10(u32::try_from(*places).ok()?)?))
                }
                value => Some(fraction(integer(value)?.checked_mul(pow10(scale)?)?, 1)),
            },
            Self::Time { per_day: ticks } => {
                let (count, unit) = match value {
                    ScalarValue::Date32(Some(days)) => (i128::from(*days), 1),
                    // An instant has this count in every zone; that of the function's values is UTC if they have one.
                    ScalarValue::TimestampSecond(Some(count), _) => (i128::from(*count), per_day(TimeUnit::Second)),
                    ScalarValue::TimestampMillisecond(Some(count), _) => (i128::from(*count), per_day(TimeUnit::Millisecond)),
                    ScalarValue::TimestampMicrosecond(Some(count), _) => (i128::from(*count), per_day(TimeUnit::Microsecond)),
                    ScalarValue::TimestampNanosecond(Some(count), _) => (i128::from(*count), per_day(TimeUnit::Nanosecond)),
                    _ => return None,
                };
                Some(fraction(count * ticks, unit))
            }
        }
    }
}

fn integer(value: &ScalarValue) -> Option<i128> {
    match value {
        ScalarValue::Int8(value) => value.map(i128::from),
        ScalarValue::Int16(value) => value.map(i128::from),
        ScalarValue::Int32(value) => value.map(i128::from),
        ScalarValue::Int64(value) => value.map(i128::from),
        ScalarValue::UInt8(value) => value.map(i128::from),
        ScalarValue::UInt16(value) => value.map(i128::from),
        ScalarValue::UInt32(value) => value.map(i128::from),
        ScalarValue::UInt64(value) => value.map(i128::from),
        _ => None,
    }
}

impl Monotone {
    fn then(mut self, step: Step, domain: Domain) -> Self {
        self.steps.push(step);
        self.domain = domain;
        self
    }

    /// Casts that keep the order and lose no value, and the one to DATE, which rounds down.
    fn cast(self, to: &DataType) -> Option<Self> {
        match (self.domain, to) {
            (Domain::Text { .. }, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) | (Domain::Boolean, DataType::Boolean) => {
                Some(self)
            }
            (Domain::Number { scale: 0, digits: ..=10 }, DataType::Int32)
            | (Domain::Number { scale: 0, digits: ..=19 }, DataType::Int64) => Some(self),
            (Domain::Number { scale: 0, .. }, DataType::Float64 | DataType::Float32) => {
                Some(Self { domain: Domain::Number { scale: 0, digits: FLOAT_DIGITS }, ..self })
            }
            (Domain::Number { scale, digits }, DataType::Decimal128(precision, places)) => {
                let places = u32::try_from(*places).ok()?;
                let more = places.checked_sub(scale)?;
                let fits = u32::from(*precision) >= digits + places;
                fits.then_some(self)?.then(Step::Multiply(pow10(more)?), Domain::Number { scale: places, digits }).into()
            }
            (Domain::Time { per_day: 1 }, DataType::Date32) => Some(self),
            (Domain::Time { per_day }, DataType::Date32) => Some(self.then(Step::Divide(per_day), Domain::Time { per_day: 1 })),
            (Domain::Time { per_day: from }, DataType::Timestamp(unit, zone)) if zone.as_deref().is_none_or(is_utc) => {
                let to = per_day(*unit);
                (to >= from).then(|| self.then(Step::Multiply(to / from), Domain::Time { per_day: to }))
            }
            _ => None,
        }
    }

    /// The first so many characters of a text.
    fn first_chars(self, chars: &ScalarValue) -> Option<Self> {
        let Domain::Text { chars: before } = self.domain else { return None };
        // A negative number counts from the end.
        let chars = usize::try_from(integer(chars)?).ok()?;
        Some(Self { domain: Domain::Text { chars: Some(before.map_or(chars, |before| before.min(chars))) }, ..self })
    }

    fn year(self) -> Option<Self> {
        match self.domain {
            Domain::Time { per_day } => Some(self.then(Step::Year(per_day), Domain::Number { scale: 0, digits: 7 })),
            _ => None,
        }
    }

    fn truncate(self, unit: &str) -> Option<Self> {
        let Domain::Time { per_day } = self.domain else { return None };
        // DATE is made a timestamp before it is truncated.
        let step = match unit.to_ascii_lowercase().as_str() {
            _ if per_day == 1 => return None,
            "year" => Step::Months(12, per_day),
            "quarter" => Step::Months(3, per_day),
            "month" => Step::Months(1, per_day),
            // Weeks start on Monday; 1970 started on a Thursday.
            "week" => Step::Floor(7 * per_day, 3 * per_day),
            "day" => Step::Floor(per_day, 0),
            "hour" => Step::Floor(per_day / 24, 0),
            "minute" => Step::Floor(per_day / 1_440, 0),
            "second" => Step::Floor(per_day / 86_400, 0),
            _ => return None,
        };
        let domain = self.domain;
        Some(self.then(step, domain))
    }

    /// Partitions where the function compares so with a value that is not NULL.
    fn compare(&self, op: Operator, value: &ScalarValue, keys: &[PartitionKey]) -> Option<Condition> {
        let key = self.key;
        if let Domain::Text { chars } = self.domain {
            return compare_text(key, chars, comparison_of(op)?, value.try_as_str()??);
        }
        let (from, above) = self.domain.locate(value)?;
        let first = |count: i128| self.steps.iter().rev().fold(count, |count, step| step.first(count));
        let (from, above) = (first(from), first(above));
        let range = Counts::of(keys[key].key_type)?;
        let since = |count: i128| match count {
            count if count <= range.min => KeyPredicate::IsNotNull(key),
            count if count > range.max => KeyPredicate::Nothing,
            count => KeyPredicate::Compare(key, Comparison::GreaterOrEqual, range.value(count)),
        };
        let before = |count: i128| match count {
            count if count <= range.min => KeyPredicate::Nothing,
            count if count > range.max => KeyPredicate::IsNotNull(key),
            count => KeyPredicate::Compare(key, Comparison::Less, range.value(count)),
        };
        let one = from.checked_add(1) == Some(above) && from >= range.min && from <= range.max;
        let predicate = match op {
            Operator::GtEq => since(from),
            Operator::Gt => since(above),
            Operator::Lt => before(from),
            Operator::LtEq => before(above),
            Operator::Eq if one => KeyPredicate::Compare(key, Comparison::Equal, range.value(from)),
            Operator::Eq if from >= above => KeyPredicate::Nothing,
            Operator::Eq => return Some(all_of(vec![Condition::exact(since(from)), Condition::exact(before(above))])),
            Operator::NotEq if one => KeyPredicate::Compare(key, Comparison::NotEqual, range.value(from)),
            Operator::NotEq if from >= above => KeyPredicate::IsNotNull(key),
            Operator::NotEq => return Some(any_of(vec![Condition::exact(before(from)), Condition::exact(since(above))])),
            _ => return None,
        };
        Some(Condition::exact(predicate))
    }
}

/// Partitions where the first `chars` characters of a text key compare so with `value`.
fn compare_text(key: usize, chars: Option<usize>, comparison: Comparison, value: &str) -> Option<Condition> {
    let whole = |comparison| KeyPredicate::Compare(key, comparison, value.into());
    let length = value.chars().count();
    let predicate = match chars {
        // A longer text cannot be cut to something between it and the value.
        Some(chars) if length == chars => {
            let beyond = || match after_prefix(value) {
                Some(end) => KeyPredicate::Compare(key, Comparison::GreaterOrEqual, end.into()),
                None => KeyPredicate::Nothing,
            };
            let until = || match after_prefix(value) {
                Some(end) => KeyPredicate::Compare(key, Comparison::Less, end.into()),
                None => KeyPredicate::IsNotNull(key),
            };
            match comparison {
                Comparison::Equal => starting(key, value.to_owned()),
                Comparison::NotEqual => KeyPredicate::or([whole(Comparison::Less), beyond()]),
                Comparison::Greater => beyond(),
                Comparison::LessOrEqual => until(),
                Comparison::Less | Comparison::GreaterOrEqual => whole(comparison),
            }
        }
        Some(chars) if length > chars => return None,
        _ => whole(comparison),
    };
    Some(Condition::exact(predicate))
}

fn is_utc(zone: &str) -> bool {
    matches!(zone, "UTC" | "+00:00")
}

fn comparison_of(op: Operator) -> Option<Comparison> {
    Some(match op {
        Operator::Eq => Comparison::Equal,
        Operator::NotEq => Comparison::NotEqual,
        Operator::Lt => Comparison::Less,
        Operator::LtEq => Comparison::LessOrEqual,
        Operator::Gt => Comparison::Greater,
        Operator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// How the values of a key type are counted.
struct Counts {
    min: i128,
    max: i128,
    key_type: KeyType,
}

impl Counts {
    fn of(key_type: KeyType) -> Option<Self> {
        let (min, max) = match key_type {
            KeyType::String => return None,
            KeyType::Boolean => (0, 1),
            KeyType::Int | KeyType::Date => (i32::MIN.into(), i32::MAX.into()),
            KeyType::BigInt | KeyType::Timestamp => (i64::MIN.into(), i64::MAX.into()),
            KeyType::Decimal(precision, _) => {
                let end = pow10(precision.into())?;
                (1 - end, end - 1)
            }
        };
        Some(Self { min, max, key_type })
    }

    /// The value with this count, which must lie between `min` and `max`.
    fn value(&self, count: i128) -> ScalarValue {
        let (short, long) = (i32::try_from(count).ok(), i64::try_from(count).ok());
        match self.key_type {
            KeyType::String => ScalarValue::Utf8(None),
            KeyType::Boolean => ScalarValue::Boolean(Some(count == 1)),
            KeyType::Int => ScalarValue::Int32(short),
            KeyType::Date => ScalarValue::Date32(short),
            KeyType::BigInt => ScalarValue::Int64(long),
            KeyType::Timestamp => ScalarValue::TimestampMicrosecond(long, None),
            KeyType::Decimal(precision, scale) => ScalarValue::Decimal128(Some(count), precision, scale),
        }
    }
}

#[cfg(test)]
mod tests;
