//! Grouping and joining in one process's memory, in the shape of db-benchmark: 10 groupings of one table, and a table joined to a tiny, a
//! middle and an equally large one.

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
            vec![
                ("id1", rows.int(id1)),
                ("id2", rows.int(id2)),
                ("id3", rows.int(id3)),
                ("id4", rows.text(|row| format!("id{}", id1(row)))),
                ("id5", rows.text(|row| format!("id{}", id2(row)))),
                ("id6", rows.text(|row| format!("id{}", id3(row)))),
                ("v1", rows.double(|row| measure(13, row))),
            ]
        },
    },
    Generated {
        name: "small",
        key: None,
        rows: small,
        columns: |rows| {
            let id1 = |row| other_key(row, rows);
            vec![("id1", rows.int(id1)), ("id4", rows.text(|row| format!("id{}", id1(row)))), ("v2", rows.double(|row| measure(21, row)))]
        },
    },
    Generated {
        name: "medium",
        key: None,
        rows: medium,
        columns: |rows| {
            let id1 = |row| below(31, row, small(rows.scale));
            let id2 = |row| other_key(row, rows);
            vec![
                ("id1", rows.int(id1)),
                ("id2", rows.int(id2)),
                ("id4", rows.text(|row| format!("id{}", id1(row)))),
                ("id5", rows.text(|row| format!("id{}", id2(row)))),
                ("v2", rows.double(|row| measure(32, row))),
            ]
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
            vec![
                ("id1", rows.int(id1)),
                ("id2", rows.int(id2)),
                ("id3", rows.int(id3)),
                ("id4", rows.text(|row| format!("id{}", id1(row)))),
                ("id5", rows.text(|row| format!("id{}", id2(row)))),
                ("id6", rows.text(|row| format!("id{}", id3(row)))),
                ("v2", rows.double(|row| measure(43, row))),
            ]
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

/// Up to 100, with six decimal places.
fn measure(column: u64, row: u64) -> f64 {
    (unit(column, row) * 1e8).floor() / 1e6
}

/// A key of the right side of a join: each comes once, and nine of ten keys of the left side are among them.
fn other_key(row: u64, rows: &Rows) -> u64 {
    rows.total / 10 + shuffled(rows.total - 1 - row, rows.total)
}
