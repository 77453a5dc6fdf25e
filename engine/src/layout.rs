//! Where rows lie: in which of a table's buckets, and in which order within a file, as `CLUSTERED BY` and `SORTED BY` say.
//!
//! Buckets are Hive's: a row's bucket follows from Hive's hash of version 2 (`bucketing_version = 2`, Hive 3), and a file's name says its
//! bucket so that Hive, Trino and Spark find it. Reading order: this file (what a table says, names of files), `hash` (from values to a
//! bucket), `curve` (an order that keeps rows together which are alike in several columns).

mod curve;
mod hash;
#[cfg(test)]
mod tests;

use std::fmt;

use datafusion::arrow::datatypes::{DataType, Schema};
use serde::{Deserialize, Serialize};

pub use self::curve::{CURVE_COLUMNS_MAX, curve_aggregates, curve_bounds, curve_position};
pub use self::hash::{bucket_number, bucket_numbers};

/// Buckets that a table may have: each is a file at least, per partition.
pub const BUCKETS_MAX: u32 = 4096;

/// Columns that rows are sorted by, at most.
const SORT_COLUMNS_MAX: usize = 32;

/// How the rows of a table are laid out. Names are those of columns, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Layout {
    /// Columns whose values say which bucket a row belongs to.
    pub bucketed_by: Vec<String>,
    /// Buckets of each partition; 0 for a table without.
    pub buckets: u32,
    /// The order of rows within a file.
    pub sorted_by: Vec<SortColumn>,
}

/// A column that rows are sorted by. NULLs are first, or last where it descends: Hive's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SortColumn {
    /// Its name.
    pub name: String,
    /// Whether the greatest value is first.
    #[serde(default)]
    pub descending: bool,
}

impl fmt::Display for SortColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, if self.descending { " DESC" } else { "" })
    }
}

/// A layout that files cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LayoutError(String);

impl Layout {
    /// Whether rows lie anyhow.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it depends on a column.
    pub fn names(&self, column: &str) -> bool {
        self.bucketed_by.iter().chain(self.sorted_by.iter().map(|sorted| &sorted.name)).any(|name| name == column)
    }

    /// Checks it against the columns that are kept in files.
    pub fn validate(&self, columns: &Schema) -> Result<(), LayoutError> {
        let find = |what: &str, name: &str| {
            let found = columns.field_with_name(name);
            found.map_err(|_| LayoutError(format!("the table is {what} '{name}', which is no column of its files")))
        };
        if self.bucketed_by.is_empty() != (self.buckets == 0) {
            return Err(LayoutError("buckets need columns and a number: CLUSTERED BY (a) INTO 8 BUCKETS".to_owned()));
        }
        if self.buckets > BUCKETS_MAX {
            return Err(LayoutError(format!("{} buckets are too many: there can be {BUCKETS_MAX}", self.buckets)));
        }
        for (index, name) in self.bucketed_by.iter().enumerate() {
            let field = find("clustered by", name)?;
            if !hash::is_hashed(field.data_type()) {
                let message = "which has no bucket: cluster by booleans, whole numbers, dates, texts or binaries";
                return Err(LayoutError(format!("column '{name}' is {}, {message}", field.data_type())));
            }
            if self.bucketed_by[..index].contains(name) {
                return Err(LayoutError(format!("the table is clustered by '{name}' twice")));
            }
        }
        if self.sorted_by.len() > SORT_COLUMNS_MAX {
            return Err(LayoutError(format!("rows are sorted by {SORT_COLUMNS_MAX} columns at most")));
        }
        for (index, SortColumn { name, .. }) in self.sorted_by.iter().enumerate() {
            let field = find("sorted by", name)?;
            if field.data_type().is_nested() {
                return Err(LayoutError(format!("column '{name}' is {}, which has no order", field.data_type())));
            }
            if self.sorted_by[..index].iter().any(|before| before.name == *name) {
                return Err(LayoutError(format!("the table is sorted by '{name}' twice")));
            }
        }
        Ok(())
    }
}

/// The name of a file that holds rows of one bucket, or of a table without buckets.
///
/// Hive and Trino read the bucket from the digits before `_0_`, Spark from those before the extension.
pub fn file_name(unique: &str, bucket: Option<u32>, extension: &str) -> String {
    match bucket {
        Some(bucket) => format!("{bucket:06}_0_{unique}_{bucket:05}.{extension}"),
        None => format!("part-{unique}.{extension}"),
    }
}

/// The bucket of a file of ours, by its path or URL; none if it does not say.
pub fn bucket_of_file(path: &str) -> Option<u32> {
    let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
    let (first, rest) = name.split_once("_0_")?;
    let (_, last) = rest.split_once('.').map_or(rest, |(stem, _)| stem).rsplit_once('_')?;
    let number = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<u32>().ok()).flatten();
    number(first).filter(|bucket| number(last) == Some(*bucket))
}

/// Whether values of a type can be put in an order by [`curve_position`].
pub fn has_order(data_type: &DataType) -> bool {
    !data_type.is_nested() && *data_type != DataType::Null
}
