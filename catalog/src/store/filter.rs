//! Turns a [`KeyPredicate`] into a condition on the key columns `k0..k7`.

use std::slice;

use datafusion::common::ScalarValue;
use sqlx::{QueryBuilder, Sqlite};

use crate::catalog::{KeyType, PartitionKey};
use crate::error::{Error, Result};
use crate::keys::{Encoded, encode};
use crate::predicate::{KeyPredicate, after_prefix};
use crate::store::to_json;

/// Comparisons that one statement may hold. SQLite refuses expressions deeper than 1,000, and a chain of n terms is n deep.
const TERMS_MAX: usize = 500;

/// Appends ` AND (...)` for each conjunct of `predicate` that there is room for.
///
/// Returns whether that is all of them; if not, the rows must be checked again with [`KeyPredicate::evaluate`].
/// Errors: `Internal` for a key that is not there or a value of another type.
pub(super) fn push_condition(query: &mut QueryBuilder<Sqlite>, keys: &[PartitionKey], predicate: &KeyPredicate) -> Result<bool> {
    let conjuncts = match predicate {
        KeyPredicate::And(items) => items.as_slice(),
        other => slice::from_ref(other),
    };
    let mut room = TERMS_MAX;
    let mut complete = true;
    for conjunct in conjuncts {
        match room.checked_sub(terms(conjunct)) {
            Some(rest) => {
                room = rest;
                query.push(" AND ");
                push(query, keys, conjunct)?;
            }
            None => complete = false,
        }
    }
    Ok(complete)
}

/// Comparisons in a predicate. An IN counts as one however long it is: its list travels as one value.
fn terms(predicate: &KeyPredicate) -> usize {
    match predicate {
        KeyPredicate::And(items) | KeyPredicate::Or(items) => items.iter().map(terms).sum(),
        _ => 1,
    }
}

fn push(query: &mut QueryBuilder<Sqlite>, keys: &[PartitionKey], predicate: &KeyPredicate) -> Result<()> {
    match predicate {
        KeyPredicate::All => drop(query.push("1")),
        KeyPredicate::Nothing => drop(query.push("0")),
        KeyPredicate::Compare(position, comparison, value) => {
            let value = encode_operand(key(keys, *position)?, value)?;
            query.push(format_args!("k{position} {} ", comparison.operator()));
            push_value(query, value);
        }
        KeyPredicate::In(position, values) => {
            let key = key(keys, *position)?;
            let values = values.iter().map(|value| encode_operand(key, value)).collect::<Result<Vec<_>>>()?;
            // A JSON list is one bound value: no limit on its length, and one statement text for all lengths.
            query.push(format_args!("k{position} IN (SELECT value FROM json_each(")).push_bind(to_json(&values)?).push("))");
        }
        KeyPredicate::IsNull(position) => drop(query.push(format_args!("k{position} IS NULL"))),
        KeyPredicate::IsNotNull(position) => drop(query.push(format_args!("k{position} IS NOT NULL"))),
        KeyPredicate::Prefix(position, prefix) => {
            let key = key(keys, *position)?;
            if key.key_type != KeyType::String {
                return Err(Error::Internal(format!("partition key '{}' is a {} and has no prefixes", key.name, key.key_type)));
            }
            query.push(format_args!("(k{position} >= ")).push_bind(prefix.clone());
            if let Some(end) = after_prefix(prefix) {
                query.push(format_args!(" AND k{position} < ")).push_bind(end);
            }
            query.push(")");
        }
        KeyPredicate::And(items) => push_all(query, keys, items, " AND ", "1")?,
        KeyPredicate::Or(items) => push_all(query, keys, items, " OR ", "0")?,
    }
    Ok(())
}

fn push_all(
    query: &mut QueryBuilder<Sqlite>,
    keys: &[PartitionKey],
    items: &[KeyPredicate],
    connective: &str,
    of_none: &str,
) -> Result<()> {
    query.push("(");
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            query.push(connective);
        }
        push(query, keys, item)?;
    }
    if items.is_empty() {
        query.push(of_none);
    }
    query.push(")");
    Ok(())
}

/// Binds one encoded value.
pub(super) fn push_value(query: &mut QueryBuilder<Sqlite>, value: Encoded) {
    match value {
        Encoded::Integer(value) => query.push_bind(value),
        Encoded::Text(value) => query.push_bind(value),
    };
}

fn key(keys: &[PartitionKey], position: usize) -> Result<&PartitionKey> {
    keys.get(position).ok_or_else(|| Error::Internal(format!("there is no partition key at position {position}")))
}

fn encode_operand(key: &PartitionKey, value: &ScalarValue) -> Result<Encoded> {
    encode(key, value)?.ok_or_else(|| Error::Internal(format!("partition key '{}' is compared with NULL", key.name)))
}
