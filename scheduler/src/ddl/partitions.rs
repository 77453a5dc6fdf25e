//! Partitions that are added, moved, emptied and dropped by name.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::common::ScalarValue;
use url::Url;
use windlass_catalog::catalog::{Contents, NewPartition, Partition, TableKind, TableMeta};
use windlass_catalog::ddl::{Condition, NewPartitionSpec, Noun, PartitionValue, PartitionValues, TableName};
use windlass_catalog::delta::check_changeable;
use windlass_catalog::discover::Layout;
use windlass_catalog::{Comparison, KeyPredicate, keys};

use super::files::directory_in;
use super::show::check_noun;
use super::{Names, Outcome, PARTITIONS_MAX, already_exists, full_name, not_found, too_many_partitions};
use crate::error::{Error, Result};

impl Names<'_> {
    pub(super) async fn add_partitions(&self, table: &Arc<TableMeta>, specs: &[NewPartitionSpec], if_not_exists: bool) -> Result<Outcome> {
        let mut contents = Contents::default();
        let mut seen = HashSet::new();
        for spec in specs {
            let values = partition_values(table, &spec.values)?;
            if self.partition_with(table, &values).await?.is_some() || !seen.insert(values.clone()) {
                if if_not_exists {
                    continue;
                }
                return Err(already_exists("partition", keys::partition_name(&table.keys, &values)));
            }
            let location = match &spec.location {
                Some(text) => self.location(text)?,
                None => self.location(&partition_location(table, &values)?)?,
            };
            contents.add_partitions.push(self.read_partition(table, values, location).await?);
        }
        let added = contents.add_partitions.len();
        self.commit(table, "ADD PARTITION", contents).await?;
        Ok(Outcome::Done(Some(format!("{added} of {} partitions added", specs.len()))))
    }

    /// A partition, if it exists.
    async fn partition_with(&self, table: &TableMeta, values: &[ScalarValue]) -> Result<Option<Partition>> {
        let equal = values.iter().enumerate().map(|(key, value)| match value.is_null() {
            true => KeyPredicate::IsNull(key),
            false => KeyPredicate::Compare(key, Comparison::Equal, value.clone()),
        });
        Ok(self.catalog().partitions(table, &KeyPredicate::and(equal), 1).await?.partitions.pop())
    }

    /// The partition that `PARTITION (...)` names in full.
    pub(super) async fn partition(&self, table: &TableMeta, values: &PartitionValues) -> Result<Partition> {
        if table.keys.is_empty() {
            return Err(Error::invalid(format!("table '{}' is not partitioned", full_name(table))));
        }
        let values = partition_values(table, values)?;
        let found = self.partition_with(table, &values).await?;
        found.ok_or_else(|| not_found("partition", keys::partition_name(&table.keys, &values)))
    }

    /// The partition takes the files that lie in its new location.
    pub(super) async fn move_partition(&self, table: &Arc<TableMeta>, values: &PartitionValues, location: &str) -> Result<()> {
        if table.kind == TableKind::Managed {
            return Err(Error::invalid(format!("table '{}' is managed: its partitions cannot be moved", full_name(table))));
        }
        let old = self.partition(table, values).await?;
        let location = self.location(location)?;
        self.check_directory(&location).await?;
        let new = self.read_partition(table, old.values, location).await?;
        self.replace_partition(table, "PARTITION SET LOCATION", old.id, new).await
    }

    /// Files stay where they are, as those of an external table do in Hive.
    pub(super) async fn rename_partition(&self, table: &Arc<TableMeta>, from: &PartitionValues, to: &PartitionValues) -> Result<()> {
        let old = self.partition(table, from).await?;
        let values = partition_values(table, to)?;
        if self.partition_with(table, &values).await?.is_some() {
            return Err(already_exists("partition", keys::partition_name(&table.keys, &values)));
        }
        let files = self.catalog().files(table, &[old.id]).await?.into_iter().map(|file| file.file).collect();
        let new = NewPartition { values, location: old.location, files };
        self.replace_partition(table, "PARTITION RENAME", old.id, new).await
    }

    async fn replace_partition(&self, table: &TableMeta, operation: &str, old: i64, new: NewPartition) -> Result<()> {
        self.commit(table, operation, Contents { remove_partitions: vec![old], add_partitions: vec![new], ..Contents::default() }).await
    }

    /// A partition with the files that lie in its location. A directory that is empty, or not made yet, is a partition without rows.
    pub(super) async fn read_partition(&self, table: &TableMeta, values: Vec<ScalarValue>, location: Url) -> Result<NewPartition> {
        let kept = (&table.storage, &table.properties);
        let discovery = self.discover(location.as_str(), Layout::Partition(values.clone()), Some(&table.schema), kept).await?;
        let files = discovery.partitions.into_iter().flat_map(|found| found.files).collect();
        Ok(NewPartition { values, location: location.into(), files })
    }

    /// Forgets partitions. Their files stay if the table is external.
    pub(super) async fn drop_partitions(&self, table: &TableMeta, specs: &[Vec<Condition>], if_exists: bool) -> Result<Outcome> {
        if table.keys.is_empty() {
            return Err(Error::invalid(format!("table '{}' is not partitioned", full_name(table))));
        }
        let mut ids = BTreeSet::new();
        for conditions in specs {
            let before = ids.len();
            ids.extend(self.partition_ids(table, &predicate(table, conditions)?).await?);
            if ids.len() == before && !if_exists {
                return Err(not_found("partition", describe(conditions)));
            }
        }
        let removed = ids.len();
        let contents = Contents { remove_partitions: ids.into_iter().collect(), ..Contents::default() };
        self.commit(table, "DROP PARTITION", contents).await?;
        Ok(Outcome::Done(Some(format!("{removed} partitions dropped"))))
    }

    /// Takes the rows out of a managed table, or out of some partitions, which stay.
    pub(super) async fn truncate(&self, name: &TableName, conditions: &[Condition]) -> Result<Outcome> {
        let table = self.table(name).await?;
        check_noun(&table, Noun::Table)?;
        check_changeable(&table)?;
        if table.kind != TableKind::Managed {
            return Err(Error::unsupported(format!("table '{}' is external: TRUNCATE leaves its files alone", full_name(&table)))
                .with_hint("use DELETE FROM or INSERT OVERWRITE"));
        }
        let predicate = predicate(&table, conditions)?;
        let empty_partitions = self.partition_ids(&table, &predicate).await?;
        if empty_partitions.is_empty() && !conditions.is_empty() {
            return Err(not_found("partition", describe(conditions)));
        }
        self.commit(&table, "TRUNCATE", Contents { empty_partitions, ..Contents::default() }).await?;
        Ok(Outcome::Done(None))
    }

    /// Partitions that a predicate keeps.
    async fn partition_ids(&self, table: &TableMeta, predicate: &KeyPredicate) -> Result<Vec<i64>> {
        let list = self.catalog().partitions(table, predicate, PARTITIONS_MAX).await?;
        match list.truncated {
            true => Err(too_many_partitions(table)),
            false => Ok(list.partitions.iter().filter(|found| predicate.evaluate(&found.values)).map(|found| found.id).collect()),
        }
    }
}

/// Conditions for messages.
fn describe(conditions: &[Condition]) -> String {
    let one = |condition: &Condition| {
        format!("{} {} {}", condition.key, condition.comparison.operator(), condition.value.as_deref().unwrap_or("NULL"))
    };
    conditions.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A position and a typed value for a key of a table.
pub(super) fn key_value(table: &TableMeta, name: &str, value: &PartitionValue) -> Result<(usize, ScalarValue)> {
    let Some(index) = table.keys.iter().position(|key| key.name == name) else {
        let known = table.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(not_found("partition key", name).with_hint(match table.keys.is_empty() {
            true => format!("table '{}' is not partitioned", full_name(table)),
            false => format!("table '{}' is partitioned by {known}", full_name(table)),
        }));
    };
    let key = &table.keys[index];
    let value = match value {
        Some(text) => keys::parse_value(key, text)?,
        None => keys::null(key.key_type)?,
    };
    Ok((index, value))
}

/// What `PARTITION (...)` keeps. `= NULL` and `<> NULL` are IS NULL and IS NOT NULL here, as in Spark.
pub(super) fn predicate(table: &TableMeta, conditions: &[Condition]) -> Result<KeyPredicate> {
    let one = |condition: &Condition| {
        let (key, value) = key_value(table, &condition.key, &condition.value)?;
        match (value.is_null(), condition.comparison) {
            (false, comparison) => Ok(KeyPredicate::Compare(key, comparison, value)),
            (true, Comparison::Equal) => Ok(KeyPredicate::IsNull(key)),
            (true, Comparison::NotEqual) => Ok(KeyPredicate::IsNotNull(key)),
            (true, _) => Err(Error::invalid(format!("partition key '{}' cannot be compared with NULL in order", condition.key))),
        }
    };
    Ok(KeyPredicate::and(conditions.iter().map(one).collect::<Result<Vec<_>>>()?))
}

/// One typed value per key, in the order of the keys.
fn partition_values(table: &TableMeta, values: &PartitionValues) -> Result<Vec<ScalarValue>> {
    let mut typed = vec![None; table.keys.len()];
    for (name, value) in values {
        let (index, value) = key_value(table, name, value)?;
        if typed[index].replace(value).is_some() {
            return Err(Error::invalid(format!("partition key '{name}' is given twice")));
        }
    }
    let named = typed.into_iter().zip(&table.keys);
    named.map(|(value, key)| value.ok_or_else(|| Error::invalid(format!("partition key '{}' needs a value", key.name)))).collect()
}

/// Where a partition lies unless somebody said otherwise.
pub(super) fn partition_location(table: &TableMeta, values: &[ScalarValue]) -> Result<String> {
    let name = keys::partition_name(&table.keys, values);
    let root = Url::parse(&table.location).map_err(|error| Error::internal(format!("location '{}' is no URL: {error}", table.location)))?;
    let directories: Vec<_> = name.split('/').filter(|part| !part.is_empty()).collect();
    Ok(directory_in(&root, &directories)?.into())
}
