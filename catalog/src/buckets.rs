//! What the buckets of a table are to scans: files without wanted rows are left out, and the others carry the number of their bucket, so
//! that rows of equal keys can be met without an exchange.
//!
//! Only files of managed tables count: we have written them all, and their names are true.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Operator};
use windlass_engine::evolution::{plain_type, scanned_type};
use windlass_engine::layout::{bucket_numbers, bucket_of_file};

use crate::catalog::{NewFile, TableMeta};

/// Combinations of values whose buckets are computed for a scan.
const COMBINATIONS_MAX: usize = 1000;

/// The buckets of a table.
#[derive(Debug, PartialEq, Eq)]
pub struct Buckets {
    /// How many there are.
    pub count: u32,
    /// Positions, among the table's columns, of those that the bucket follows from.
    pub columns: Vec<usize>,
    /// Their types: equal values of other types are in other buckets.
    pub types: Vec<DataType>,
}

/// What a plan says beside a file: the bucket that all of its rows are of.
#[derive(Debug, Clone)]
pub struct FileBucket {
    /// Of the table.
    pub buckets: Arc<Buckets>,
    /// From 0.
    pub number: u32,
}

impl Buckets {
    /// Those of a table; none if it has none, or if its files may not be where they belong.
    pub(crate) fn of(table: &TableMeta) -> Option<Arc<Self>> {
        let layout = &table.storage.layout;
        if layout.buckets == 0 || !table.kind.owns_files() {
            return None;
        }
        let columns = layout.bucketed_by.iter().map(|name| table.schema.index_of(name)).collect::<Result<Vec<_>, _>>().ok()?;
        let types = columns.iter().map(|column| table.schema.field(*column).data_type().clone()).collect();
        Some(Arc::new(Self { count: layout.buckets, columns, types }))
    }

    /// The bucket that a file holds.
    pub(crate) fn of_file(self: &Arc<Self>, file: &NewFile) -> Option<FileBucket> {
        let number = bucket_of_file(&file.url).filter(|number| *number < self.count)?;
        Some(FileBucket { buckets: Arc::clone(self), number })
    }

    /// The buckets in which rows that satisfy all of `filters` may be; `None` for any.
    pub(crate) fn wanted(&self, schema: &Schema, filters: &[Expr]) -> Option<HashSet<u32>> {
        let mut combinations = vec![Vec::new()];
        for (column, data_type) in self.columns.iter().zip(&self.types) {
            let name = schema.field(*column).name();
            let values = filters.iter().flat_map(split_conjunction).find_map(|filter| values_of(filter, name, data_type))?;
            if combinations.len() * values.len() > COMBINATIONS_MAX {
                return None;
            }
            let with =
                |before: &Vec<ScalarValue>| values.iter().map(|value| before.iter().chain([value]).cloned().collect()).collect::<Vec<_>>();
            combinations = combinations.iter().flat_map(with).collect();
        }
        if combinations.is_empty() {
            return Some(HashSet::new());
        }
        let column = |index: usize| ScalarValue::iter_to_array(combinations.iter().map(|values: &Vec<ScalarValue>| values[index].clone()));
        let columns = (0..self.columns.len()).map(column).collect::<Result<Vec<ArrayRef>, _>>().ok()?;
        let numbers = bucket_numbers(&columns, self.count).ok()?;
        Some(numbers.values().iter().map(|number| number.unsigned_abs()).collect())
    }
}

/// All values that a column may have where a condition is true; `None` if there is no list of them.
fn values_of(filter: &Expr, name: &str, data_type: &DataType) -> Option<Vec<ScalarValue>> {
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == name);
    let value = |expr: &Expr| match expr {
        // Of the same type, or else the comparison is one of other values.
        Expr::Literal(value, _) if plain_type(&value.data_type()) == *data_type => value.cast_to(&scanned_type(data_type)).ok(),
        _ => None,
    };
    match filter {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq && is_column(&binary.left) => Some(vec![value(&binary.right)?]),
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq && is_column(&binary.right) => Some(vec![value(&binary.left)?]),
        Expr::BinaryExpr(binary) if binary.op == Operator::Or => {
            let mut values = values_of(&binary.left, name, data_type)?;
            values.extend(values_of(&binary.right, name, data_type)?);
            Some(values)
        }
        Expr::InList(list) if !list.negated && is_column(&list.expr) => list.list.iter().map(value).collect(),
        _ => None,
    }
}

/// The buckets of a scan's files, if all of them are in some.
pub fn scanned_buckets(scan: &FileScanConfig) -> Option<Arc<Buckets>> {
    let mut buckets = scan.file_groups.iter().flat_map(FileGroup::iter).map(|file| file.extension::<FileBucket>());
    let first = Arc::clone(&buckets.next()??.buckets);
    buckets.all(|bucket| bucket.is_some_and(|bucket| bucket.buckets == first)).then_some(first)
}

/// The files of a scan in `count` groups, each with the rows of every `count`-th bucket. No file is cut.
pub fn grouped_by_bucket(scan: &FileScanConfig, count: usize) -> Vec<FileGroup> {
    let mut groups = vec![Vec::new(); count];
    let mut seen = HashSet::new();
    for file in scan.file_groups.iter().flat_map(FileGroup::iter) {
        let Some(bucket) = file.extension::<FileBucket>() else { continue };
        // Large files are there in several ranges.
        if seen.insert(file.path().clone()) {
            let mut whole = file.clone();
            whole.range = None;
            groups[bucket.number as usize % count].push(whole);
        }
    }
    groups.into_iter().map(FileGroup::new).collect()
}
