//! A table of the catalog as DataFusion sees it.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use windlass_engine::WindlassOptions;

use crate::catalog::{Catalog, DataFile, Partition, PartitionList, TableMeta};
use crate::error::Error;
use crate::predicate::KeyPredicate;
use crate::prune::{Pruning, is_key_only};
use crate::scan::{self, ScanFile, ScanReport, ScanReports};

/// A table with files. Its scans read the files that the catalog knows; they list no directory and read no footer.
#[derive(Debug)]
pub struct HiveTable {
    catalog: Arc<dyn Catalog>,
    meta: Arc<TableMeta>,
    schema: SchemaRef,
}

impl HiveTable {
    /// A table that `catalog` holds.
    pub fn new(catalog: Arc<dyn Catalog>, meta: Arc<TableMeta>) -> Self {
        // Comments and spellings are ours: they would make the schema of a result differ from what clients expect.
        let bare = |field: &Arc<Field>| Field::new(field.name(), field.data_type().clone(), true);
        let schema = Arc::new(Schema::new(meta.full_schema().fields().iter().map(bare).collect::<Vec<_>>()));
        Self { catalog, meta, schema }
    }

    /// What the catalog says of it.
    pub fn meta(&self) -> &Arc<TableMeta> {
        &self.meta
    }

    fn name(&self) -> String {
        format!("{}.{}", self.meta.database, self.meta.name)
    }

    /// Partitions that may hold wanted rows. Errors: `Exhausted` if there are too many.
    async fn partitions(&self, state: &dyn Session, pruning: &Pruning) -> Result<PartitionList> {
        let limit = WindlassOptions::of(state.config_options()).max_partitions_per_scan;
        let mut found = self.catalog.partitions(&self.meta, &pruning.predicate, limit).await?;
        if found.truncated {
            return Err(self.too_many(limit, found.total, pruning).into());
        }
        found.partitions = pruning.retain(state, &self.meta.keys, found.partitions)?;
        Ok(found)
    }

    fn too_many(&self, limit: usize, total: u64, pruning: &Pruning) -> Error {
        let free = self.meta.keys.iter().enumerate().find(|(position, _)| !mentions(&pruning.predicate, *position));
        let advice = match (free, self.meta.keys.first()) {
            (Some((_, key)), _) => format!("add a condition on partition key '{}'", key.name),
            (None, Some(key)) => format!("narrow the condition on partition key '{}'", key.name),
            (None, None) => "drop the table and make it again".to_owned(),
        };
        Error::Exhausted(format!(
            "scan of table '{}' needs more than {limit} of its {total} partitions; {advice} or raise 'windlass.max_partitions_per_scan'",
            self.name()
        ))
    }

    async fn files(&self, partitions: &[Partition]) -> Result<Vec<ScanFile>> {
        let ids = partitions.iter().map(|partition| partition.id).collect::<Vec<_>>();
        let values = partitions.iter().map(|partition| (partition.id, &partition.values)).collect::<HashMap<_, _>>();
        let files = self.catalog.files(&self.meta, &ids).await?;
        let file = |found: DataFile| {
            let values = values.get(&found.partition_id).map(|values| values.to_vec());
            let values = values.ok_or_else(|| Error::Internal(format!("file {} is in no partition asked for", found.file.url)))?;
            Ok(ScanFile::new(&self.meta, found.file, values))
        };
        files.into_iter().map(file).collect()
    }
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
        let pruning = Pruning::new(filters, &self.meta.keys);
        let PartitionList { partitions, total, .. } = self.partitions(state, &pruning).await?;
        let mut files = scan::prune_files(state, &self.schema, &pruning.data, self.files(&partitions).await?);
        if let Some(limit) = limit.filter(|_| pruning.data.is_empty()) {
            files = scan::enough_files(files, limit);
        }
        if let Some(reports) = state.config().get_extension::<ScanReports>() {
            reports.add(ScanReport {
                table: self.name(),
                partitions: partitions.len() as u64,
                partitions_total: total,
                files: files.len() as u64,
                files_total: self.catalog.totals(&self.meta).await?.files,
                bytes: files.iter().map(|file| file.file.size).sum(),
            });
        }
        scan::read_files(state, &self.meta, &self.schema, files, projection, limit).await
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
