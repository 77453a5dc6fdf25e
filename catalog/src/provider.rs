//! A table of the catalog as DataFusion sees it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use windlass_engine::WindlassOptions;

use crate::catalog::{Catalog, DataFile, KeyType, Partition, PartitionKey, Residual, ScanContents, TableMeta, Totals};
use crate::error::Error;
use crate::keys::format_value;
use crate::predicate::KeyPredicate;
use crate::prune::{Pruning, is_key_only};
use crate::scan::{self, ScanFile, ScanReport, ScanReports};

/// Selections that a table remembers. A statement scans a table a few times; the rows of parameters of one statement may be many.
const SELECTIONS_MAX: usize = 16;

/// A table with files. Its scans read the files that the catalog knows; they list no directory and read no footer.
///
/// One value serves one statement: what a scan reads is asked once and stays, however often the statement is planned.
#[derive(Debug)]
pub struct HiveTable {
    catalog: Arc<dyn Catalog>,
    meta: Arc<TableMeta>,
    schema: SchemaRef,
    selected: Mutex<Vec<Arc<Selection>>>,
}

/// What a scan reads.
#[derive(Debug)]
struct Selection {
    filters: Vec<Expr>,
    limit: Option<usize>,
    files: Vec<ScanFile>,
    partitions: u64,
    totals: Totals,
    /// Of all files together, once somebody asked.
    statistics: OnceLock<Option<Arc<Statistics>>>,
}

impl Selection {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.file.size).sum()
    }
}

impl HiveTable {
    /// A table that `catalog` holds.
    pub fn new(catalog: Arc<dyn Catalog>, meta: Arc<TableMeta>) -> Self {
        // Comments and spellings are ours: they would make the schema of a result differ from what clients expect.
        let bare = |field: &Arc<Field>| Field::new(field.name(), field.data_type().clone(), true);
        let schema = Arc::new(Schema::new(meta.full_schema().fields().iter().map(bare).collect::<Vec<_>>()));
        Self { catalog, meta, schema, selected: Mutex::default() }
    }

    /// What the catalog says of it.
    pub fn meta(&self) -> &Arc<TableMeta> {
        &self.meta
    }

    /// Bytes of the files that a scan with these filters and this limit reads. Errors: as those of the scan.
    pub async fn bytes(&self, state: &dyn Session, filters: &[Expr], limit: Option<usize>) -> Result<u64> {
        Ok(self.select(state, filters, limit).await?.bytes())
    }

    /// Statistics of what a scan with these filters reads, or else of the last scan that was asked for. Does not ask the catalog: `None` if
    /// nothing was asked yet, or if the files' rows are not known.
    pub fn known_statistics(&self, filters: &[Expr]) -> Option<Arc<Statistics>> {
        let selection = {
            let selected = self.selected.lock();
            selected.iter().find(|selection| selection.filters == filters).or_else(|| selected.last()).map(Arc::clone)
        }?;
        let merge = || match selection.files.is_empty() {
            true => Some(Statistics { num_rows: Precision::Exact(0), ..Statistics::new_unknown(&self.schema) }),
            false => scan::merged_statistics(&self.meta, &self.schema, &selection.files).ok(),
        };
        selection.statistics.get_or_init(|| merge().map(Arc::new)).clone()
    }

    async fn select(&self, state: &dyn Session, filters: &[Expr], limit: Option<usize>) -> Result<Arc<Selection>> {
        let known = |selection: &&Arc<Selection>| selection.filters == filters && selection.limit == limit;
        if let Some(known) = self.selected.lock().iter().find(known).map(Arc::clone) {
            return Ok(known);
        }
        let pruning = Pruning::new(filters, &self.meta.keys);
        let limit_of_partitions = WindlassOptions::of(state.config_options()).max_partitions_per_scan;
        let residual = |partitions| {
            let kept = pruning.retain(state, &self.meta.keys, partitions);
            kept.map_err(|error| Error::Invalid(format!("cannot evaluate the conditions on partition keys: {}", error.strip_backtrace())))
        };
        let residual = (!pruning.residual.is_empty()).then_some(&residual as Residual<'_>);
        let found = self.catalog.scan(&self.meta, &pruning.predicate, residual, limit_of_partitions).await?;
        if found.truncated {
            return Err(self.too_many(limit_of_partitions, &found, &pruning).into());
        }
        let values = found.partitions.iter().map(|partition| (partition.id, &partition.values)).collect::<HashMap<_, _>>();
        let file = |file: DataFile| ScanFile::new(&self.meta, file.file, values[&file.partition_id].clone());
        let mut files = scan::prune_files(state, &self.schema, &pruning.data, found.files.into_iter().map(file).collect());
        if let Some(limit) = limit.filter(|_| pruning.data.is_empty()) {
            files = scan::enough_files(files, limit);
        }
        let partitions = found.partitions.len() as u64;
        let (filters, statistics) = (filters.to_vec(), OnceLock::new());
        let selection = Arc::new(Selection { filters, limit, files, partitions, totals: found.totals, statistics });
        let mut selected = self.selected.lock();
        if selected.len() == SELECTIONS_MAX {
            selected.remove(0);
        }
        selected.push(Arc::clone(&selection));
        Ok(selection)
    }

    fn name(&self) -> String {
        format!("{}.{}", self.meta.database, self.meta.name)
    }

    /// The error names a key that the query says nothing about, with a value that it has.
    fn too_many(&self, limit: usize, found: &ScanContents, pruning: &Pruning) -> Error {
        let is_free = |(position, key): &(usize, &PartitionKey)| {
            let in_residual = pruning.residual.iter().any(|expr| expr.column_refs().iter().any(|column| column.name == key.name));
            !in_residual && !mentions(&pruning.predicate, *position)
        };
        let free = self.meta.keys.iter().enumerate().find(is_free);
        let example = |position: usize| found.partitions.last().map_or_else(String::new, |last| condition(&self.meta, position, last));
        let advice = match free {
            Some((position, _)) => format!("add a condition such as {}", example(position)),
            None => format!("narrow the conditions, for example to {}", example(0)),
        };
        let (total, name) = (found.totals.partitions, self.name());
        Error::Exhausted(format!(
            "scan of table '{name}' needs more than {limit} of its {total} partitions; {advice}, or raise 'windlass.max_partitions_per_scan'"
        ))
    }
}

/// A condition that a partition satisfies, as SQL.
fn condition(table: &TableMeta, position: usize, partition: &Partition) -> String {
    let (Some(key), Some(value)) = (table.keys.get(position), partition.values.get(position)) else { return String::new() };
    let text = format_value(value);
    let value = match key.key_type {
        _ if value.is_null() => return format!("{} IS NULL", key.name),
        KeyType::String => format!("'{}'", text.replace('\'', "''")),
        KeyType::Date | KeyType::Timestamp => format!("{} '{text}'", key.key_type.to_string().to_uppercase()),
        KeyType::Int | KeyType::BigInt | KeyType::Boolean | KeyType::Decimal(..) => text,
    };
    format!("{} = {value}", key.name)
}

/// Whether `predicate` says something about the key at a position.
fn mentions(predicate: &KeyPredicate, position: usize) -> bool {
    match predicate {
        KeyPredicate::All | KeyPredicate::Nothing => false,
        KeyPredicate::Compare(key, ..)
        | KeyPredicate::In(key, _)
        | KeyPredicate::IsNull(key)
        | KeyPredicate::IsNotNull(key)
        | KeyPredicate::Prefix(key, _) => *key == position,
        KeyPredicate::And(items) | KeyPredicate::Or(items) => items.iter().any(|item| mentions(item, position)),
    }
}

#[async_trait]
impl TableProvider for HiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let selection = self.select(state, filters, limit).await?;
        if let Some(reports) = state.config().get_extension::<ScanReports>() {
            reports.add(ScanReport {
                table: self.name(),
                partitions: selection.partitions,
                partitions_total: selection.totals.partitions,
                files: selection.files.len() as u64,
                files_total: selection.totals.files,
                bytes: selection.bytes(),
            });
        }
        scan::read_files(state, &self.meta, &self.schema, &selection.files, projection, limit).await
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match is_key_only(filter, &self.meta.keys) {
            true => TableProviderFilterPushDown::Exact,
            // Files and row groups without such rows are left out; rows are tested above the scan.
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(support).collect())
    }
}

#[cfg(test)]
mod tests;
