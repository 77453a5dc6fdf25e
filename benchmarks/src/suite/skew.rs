//! Two columns of the same table as keys: `even`, of which each value comes alike often, and `zipf`, of which one value makes a third of the
//! rows. What an engine loses from one to the other is what a hot key costs it.

use crate::generate::{Generated, below, unit, zipf};

/// Rows of the large table at scale 1.
const ROWS: f64 = 1e7;
/// How steeply frequencies fall.
const EXPONENT: f64 = 1.5;

/// The tables.
pub static TABLES: [Generated; 3] = [
    Generated {
        name: "facts",
        key: None,
        rows: large,
        columns: |rows| {
            let keys = keys(rows.scale);
            vec![
                ("even", rows.int(|row| below(1, row, keys))),
                ("zipf", rows.int(|row| zipf(2, row, keys, EXPONENT))),
                ("member", rows.int(|row| below(3, row, 100_000))),
                ("tag", rows.text(|row| format!("tag {}", below(4, row, 1000)))),
                ("amount", rows.double(|row| (unit(5, row) * 1e6).floor() / 100.0)),
            ]
        },
    },
    Generated {
        name: "items",
        key: None,
        rows: keys,
        columns: |rows| {
            vec![
                ("item", rows.int(|row| row)),
                ("category", rows.text(|row| format!("category {:02}", below(11, row, 25)))),
                ("label", rows.text(|row| format!("item number {row}"))),
            ]
        },
    },
    // With duplicates: a join of hot keys to each other grows with the product of their frequencies.
    Generated {
        name: "visits",
        key: None,
        rows: |_| 100,
        columns: |rows| {
            let keys = keys(rows.scale);
            vec![
                ("even", rows.int(|row| below(21, row, keys))),
                ("zipf", rows.int(|row| zipf(22, row, keys, EXPONENT))),
                ("weight", rows.int(|row| 1 + below(23, row, 9))),
            ]
        },
    },
];

fn large(scale: f64) -> u64 {
    (ROWS * scale) as u64
}

/// How many keys there are.
fn keys(scale: f64) -> u64 {
    (large(scale) / 10).max(1)
}
