//! What a store can be asked about partition keys: a tree of comparisons over key positions.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use datafusion::common::ScalarValue;

/// Comparison of a key with a value of the key's type; NULL keys never satisfy one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// How SQL spells it.
    pub fn operator(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

/// A condition on partition keys. It may keep too many partitions, never too few.
///
/// There is no NOT: whoever builds a predicate pushes negation down to the comparisons. Without it "unknown" and "false" are the same
/// to a filter, so two truth values are enough. Build trees with [`and`](Self::and), [`or`](Self::or) and [`in_list`](Self::in_list),
/// which keep them flat.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyPredicate {
    /// Keeps everything.
    All,
    /// Keeps nothing.
    Nothing,
    /// Key at a position, compared with a non-NULL value.
    Compare(usize, Comparison, ScalarValue),
    /// Key at a position is one of these non-NULL values.
    In(usize, Vec<ScalarValue>),
    /// Key at a position is NULL.
    IsNull(usize),
    /// Key at a position is not NULL.
    IsNotNull(usize),
    /// String key at a position starts with this text.
    Prefix(usize, String),
    /// All of them.
    And(Vec<KeyPredicate>),
    /// Any of them.
    Or(Vec<KeyPredicate>),
}

impl KeyPredicate {
    /// Key at position `key` is one of `values`; NULLs among them keep nothing.
    pub fn in_list(key: usize, values: impl IntoIterator<Item = ScalarValue>) -> Self {
        let mut seen = HashSet::new();
        let mut values: Vec<_> = values.into_iter().filter(|value| !value.is_null() && seen.insert(value.clone())).collect();
        match values.len() {
            0 => Self::Nothing,
            1 => Self::Compare(key, Comparison::Equal, values.remove(0)),
            _ => Self::In(key, values),
        }
    }

    /// All of `items`.
    pub fn and(items: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for item in items {
            match item {
                Self::All => {}
                Self::Nothing => return Self::Nothing,
                Self::And(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        match flat.len() {
            0 => Self::All,
            1 => flat.remove(0),
            _ => Self::And(flat),
        }
    }

    /// Any of `items`. Equalities of one key become one IN, which stays one index lookup however many there are.
    pub fn or(items: impl IntoIterator<Item = Self>) -> Self {
        let mut equalities = BTreeMap::<usize, Vec<ScalarValue>>::new();
        let mut flat = Vec::new();
        let mut place = |item| match item {
            Self::Compare(key, Comparison::Equal, value) => equalities.entry(key).or_default().push(value),
            Self::In(key, values) => equalities.entry(key).or_default().extend(values),
            other => flat.push(other),
        };
        for item in items {
            match item {
                Self::Nothing => {}
                Self::All => return Self::All,
                Self::Or(inner) => inner.into_iter().for_each(&mut place),
                other => place(other),
            }
        }
        flat.extend(equalities.into_iter().map(|(key, values)| Self::in_list(key, values)).filter(|item| *item != Self::Nothing));
        match flat.len() {
            0 => Self::Nothing,
            1 => flat.remove(0),
            _ => Self::Or(flat),
        }
    }

    /// Whether it keeps a partition with these key values. A key or a value of another type than the other one compares as NULL does.
    pub fn evaluate(&self, values: &[ScalarValue]) -> bool {
        let is_null = |key: usize| values.get(key).is_none_or(ScalarValue::is_null);
        let compare = |key: usize, comparison: Comparison, value| {
            values.get(key).and_then(|actual| order(actual, value)).is_some_and(|ordering| comparison.holds(ordering))
        };
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Compare(key, comparison, value) => compare(*key, *comparison, value),
            Self::In(key, list) => list.iter().any(|value| compare(*key, Comparison::Equal, value)),
            Self::IsNull(key) => is_null(*key),
            Self::IsNotNull(key) => !is_null(*key),
            Self::Prefix(key, prefix) => values.get(*key).and_then(text).is_some_and(|text| text.starts_with(prefix)),
            Self::And(items) => items.iter().all(|item| item.evaluate(values)),
            Self::Or(items) => items.iter().any(|item| item.evaluate(values)),
        }
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    value.try_as_str().flatten()
}

/// Order of two values of a key; none if one is NULL. The string types are one type here, as they are to the store.
fn order(left: &ScalarValue, right: &ScalarValue) -> Option<Ordering> {
    match (text(left), text(right)) {
        (Some(left), Some(right)) => Some(left.cmp(right)),
        _ if left.is_null() || right.is_null() => None,
        _ => left.partial_cmp(right),
    }
}

/// The least string above all strings that start with `prefix`; none if there is no such string.
pub(crate) fn after_prefix(prefix: &str) -> Option<String> {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        // A range over `char` steps over the surrogates, which are not characters.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        assert_eq!(after_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(after_prefix("a\u{d7ff}").as_deref(), Some("a\u{e000}"));
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{10ffff}"), None);
        assert_eq!(after_prefix(""), None);
    }

    fn equal(key: usize, value: i32) -> KeyPredicate {
        KeyPredicate::Compare(key, Comparison::Equal, value.into())
    }

    #[test]
    fn trees_stay_flat() {
        let range = KeyPredicate::Compare(0, Comparison::Less, 9.into());
        assert_eq!(KeyPredicate::and([KeyPredicate::All, range.clone()]), range);
        assert_eq!(KeyPredicate::and([range.clone(), KeyPredicate::Nothing]), KeyPredicate::Nothing);
        assert_eq!(KeyPredicate::or([KeyPredicate::Nothing]), KeyPredicate::Nothing);
        assert_eq!(
            KeyPredicate::and([KeyPredicate::and([equal(0, 1), range.clone()]), equal(1, 2)]),
            KeyPredicate::And(vec![equal(0, 1), range.clone(), equal(1, 2)])
        );
        assert_eq!(
            KeyPredicate::or([equal(0, 1), KeyPredicate::or([equal(0, 2), range.clone()]), equal(0, 1)]),
            KeyPredicate::Or(vec![range, KeyPredicate::In(0, vec![1.into(), 2.into()])])
        );
    }

    #[test]
    fn null_satisfies_is_null_only() {
        let null = [ScalarValue::Int32(None)];
        for comparison in [Comparison::Equal, Comparison::NotEqual, Comparison::Less, Comparison::GreaterOrEqual] {
            assert!(!KeyPredicate::Compare(0, comparison, 1.into()).evaluate(&null));
        }
        assert!(KeyPredicate::IsNull(0).evaluate(&null));
        assert_eq!(KeyPredicate::in_list(0, [ScalarValue::Int32(None)]), KeyPredicate::Nothing);
    }
}
