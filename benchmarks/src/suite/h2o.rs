//! Grouping and joining in one process's memory, in the shape of db-benchmark: 10 groupings of one table, and a table joined to a tiny, a
//! middle and an equally large one.

use arrow::array::ArrayRef;

use crate::generate::{Generated, Rows, below, shuffled, unit};

/// Rows of the two large tables at scale 1.
const ROWS: f64 = 1e7;
/// Values of a key that makes few groups.
const GROUPS: u64 = 100;

/// The tables.
pub static TABLES: [Generated; 5] = [
    Generated {
        name: "g",
        key: None,
        rows: large,
        columns: |rows| {
            let many = (rows.total / GROUPS).max(1);
            vec![
                ("id1", rows.text(|row| format!("id{:03}", 1 + below(1, row, GROUPS)))),
                ("id2", rows.text(|row| format!("id{:03}", 1 + below(2, row, GROUPS)))),
                ("id3", rows.text(|row| format!("id{:010}", 1 + below(3, row, many)))),
                ("id4", rows.int(|row| 1 + below(4, row, GROUPS))),
                ("id5", rows.int(|row| 1 + below(5, row, GROUPS))),
                ("id6", rows.int(|row| 1 + below(6, row, many))),
                ("v1", rows.int(|row| 1 + below(7, row, 5))),
                ("v2", rows.int(|row| 1 + below(8, row, 15))),
                ("v3", rows.double(|row| measure(9, row))),
            ]
        },
    },
    Generated {
        name: "j",
        key: None,
        rows: large,
        columns: |rows| {
            let id1 = |row| below(11, row, small(rows.scale));
            let id2 = |row| below(12, row, medium(rows.scale));
            let id3 = |row| shuffled(row, rows.total);
            with_keys(rows, &[&id1, &id2, &id3], ("v1", 13))
        },
    },
    Generated { name: "small", key: None, rows: small, columns: |rows| with_keys(rows, &[&|row| other_key(row, rows)], ("v2", 21)) },
    Generated {
        name: "medium",
        key: None,
        rows: medium,
        columns: |rows| {
            let id1 = |row| below(31, row, small(rows.scale));
            let id2 = |row| other_key(row, rows);
            with_keys(rows, &[&id1, &id2], ("v2", 32))
        },
    },
    Generated {
        name: "big",
        key: None,
        rows: large,
        columns: |rows| {
            let id1 = |row| below(41, row, small(rows.scale));
            let id2 = |row| below(42, row, medium(rows.scale));
            let id3 = |row| other_key(row, rows);
            with_keys(rows, &[&id1, &id2, &id3], ("v2", 43))
        },
    },
];

fn large(scale: f64) -> u64 {
    (ROWS * scale) as u64
}

fn medium(scale: f64) -> u64 {
    (large(scale) / 1_000).max(100)
}

fn small(scale: f64) -> u64 {
    (large(scale) / 1_000_000).max(10)
}

/// The columns of a table that is joined: keys as numbers, the same as text, and a measure with the column's number that makes it.
fn with_keys(rows: &Rows, keys: &[&dyn Fn(u64) -> u64], (name, column): (&'static str, u64)) -> Vec<(&'static str, ArrayRef)> {
    let numbers = ["id1", "id2", "id3"].into_iter().zip(keys).map(|(name, key)| (name, rows.int(key)));
    let texts = ["id4", "id5", "id6"].into_iter().zip(keys).map(|(name, key)| (name, rows.text(|row| format!("id{}", key(row)))));
    numbers.chain(texts).chain([(name, rows.double(|row| measure(column, row)))]).collect()
}

/// Up to 100, with six decimal places.
fn measure(column: u64, row: u64) -> f64 {
    (unit(column, row) * 1e8).floor() / 1e6
}

/// A key of the right side of a join: each comes once, and nine of ten keys of the left side are among them.
fn other_key(row: u64, rows: &Rows) -> u64 {
    rows.total / 10 + shuffled(rows.total - 1 - row, rows.total)
}
