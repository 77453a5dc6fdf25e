//! `MSCK REPAIR TABLE`: what the directories hold against what the catalog knows.

use std::collections::{BTreeMap, HashMap, HashSet};

use datafusion::arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt, stream};
use windlass_catalog::KeyPredicate;
use windlass_catalog::catalog::{Contents, DataFile, NewPartition, Partition, TableKind, TableMeta};
use windlass_catalog::ddl::{Noun, RepairMode, TableName};
use windlass_catalog::delta::check_changeable;
use windlass_catalog::discover::{Discover, FoundPartition, Layout, object_path};

use super::partitions::partition_location;
use super::show::check_noun;
use super::{Names, PARTITIONS_MAX, full_name, too_many_partitions};
use crate::error::{Error, Result};

/// Partitions outside of the table's directory that are looked at at the same time.
const OUTSIDERS_AT_ONCE: usize = 16;

/// The difference between a directory and the catalog.
pub(super) struct Comparison {
    /// The table's columns, and new ones behind them if they were asked for.
    pub(super) schema: SchemaRef,
    /// How files spell columns.
    pub(super) mapping: BTreeMap<String, String>,
    /// What to change.
    pub(super) contents: Contents,
    /// Partitions added, partitions removed, files added, files removed. A changed file is removed and added.
    pub(super) counts: [usize; 4],
}

impl Names<'_> {
    /// Commits the difference as one change; returns how many partitions and files came and went.
    ///
    /// Without partition keys the table's files are brought up to date. A partition that lies outside of the table's directory is
    /// looked for where it lies.
    pub(super) async fn repair(&self, name: &TableName, mode: RepairMode) -> Result<[String; 4]> {
        let table = self.table(name).await?;
        check_noun(&table, Noun::Table)?;
        check_changeable(&table)?;
        if table.kind == TableKind::Managed {
            return Err(Error::invalid(format!(
                "table '{}' is managed: it holds what was committed to it, whatever lies in its directory",
                full_name(&table)
            ))
            .with_hint("make an external table over the directory"));
        }
        let Comparison { contents, counts, .. } = self.compare_with_directory(&table, mode, false).await?;
        self.commit(&table, "MSCK REPAIR TABLE", contents).await?;
        Ok(counts.map(|count| count.to_string()))
    }

    /// What an external table's directory holds beside what the catalog knows.
    pub(super) async fn compare_with_directory(&self, table: &TableMeta, mode: RepairMode, grows: bool) -> Result<Comparison> {
        let list = self.catalog().partitions(table, &KeyPredicate::All, PARTITIONS_MAX).await?;
        if list.truncated {
            return Err(too_many_partitions(table));
        }
        let ids: Vec<_> = list.partitions.iter().map(|partition| partition.id).collect();
        let known = self.catalog().files(table, &ids).await?;
        let (schema, partitions, known) = (Some(&table.schema), &list.partitions, &known);
        let layout = Layout::Keys(&table.keys);
        let (storage, properties) = (&table.storage, &table.properties);
        let location = &table.location;
        let discovery = self.compare(Discover { location, layout, schema, grows, partitions, known, storage, properties }).await?;

        let mut found: HashMap<_, _> = discovery.partitions.into_iter().map(|found| (found.values.clone(), found)).collect();
        let mut outsiders = Vec::new();
        for partition in partitions {
            let path = object_path(&partition.location)?;
            // The catalog says where a partition lies; a directory of the same name elsewhere is not it.
            let is_there = |found: &FoundPartition| object_path(&found.location).is_ok_and(|found| found == path);
            if !found.get(&partition.values).is_some_and(is_there) && path != object_path(&partition_location(table, &partition.values)?)? {
                found.remove(&partition.values);
                outsiders.push(partition.clone());
            }
        }
        let look_at = |partition: Partition| async move {
            let layout = Layout::Partition(partition.values.clone());
            let location = &partition.location;
            let grows = false;
            self.compare(Discover { location, layout, schema, grows, partitions: &[], known, storage, properties }).await
        };
        let looked_at: Vec<_> = stream::iter(outsiders).map(look_at).buffer_unordered(OUTSIDERS_AT_ONCE).try_collect().await?;
        found.extend(looked_at.into_iter().flat_map(|discovery| discovery.partitions).map(|found| (found.values.clone(), found)));

        let (contents, counts) = difference(table, mode, partitions, known, found.into_values().collect());
        Ok(Comparison { schema: discovery.schema, mapping: discovery.mapping, contents, counts })
    }
}

/// What to change, and the counts of [`Comparison`].
fn difference(
    table: &TableMeta,
    mode: RepairMode,
    known: &[Partition],
    known_files: &[DataFile],
    mut found: Vec<FoundPartition>,
) -> (Contents, [usize; 4]) {
    let ids: HashMap<_, _> = known.iter().map(|partition| (&partition.values, partition.id)).collect();
    let mut missing: HashMap<i64, HashSet<&str>> = ids.values().map(|id| (*id, HashSet::new())).collect();
    for file in known_files {
        missing.entry(file.partition_id).or_default().insert(&file.file.url);
    }
    let mut contents = Contents::default();
    // A stable order makes the same change of the same difference.
    found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
    let found_ids: HashSet<_> = found.iter().filter_map(|found| ids.get(&found.values)).copied().collect();
    for found in found {
        match ids.get(&found.values) {
            Some(&id) => {
                let missing = missing.entry(id).or_default();
                for url in &found.unchanged {
                    missing.remove(url.as_str());
                }
                contents.add_files.extend(found.files.into_iter().map(|file| DataFile { partition_id: id, file }));
            }
            None if mode != RepairMode::Drop => {
                contents.add_partitions.push(NewPartition { values: found.values, location: found.location, files: found.files });
            }
            None => {}
        }
    }
    for partition in known {
        if mode != RepairMode::Add && !table.keys.is_empty() && !found_ids.contains(&partition.id) {
            contents.remove_partitions.push(partition.id);
        } else {
            let mut gone: Vec<_> = missing.remove(&partition.id).unwrap_or_default().into_iter().collect();
            gone.sort_unstable();
            contents.remove_files.extend(gone.into_iter().map(|url| (partition.id, url.to_owned())));
        }
    }
    let with_new = contents.add_partitions.iter().map(|partition| partition.files.len()).sum::<usize>();
    let removed: HashSet<_> = contents.remove_partitions.iter().collect();
    let with_removed = known_files.iter().filter(|file| removed.contains(&file.partition_id)).count();
    let counts = [
        contents.add_partitions.len(),
        contents.remove_partitions.len(),
        contents.add_files.len() + with_new,
        contents.remove_files.len() + with_removed,
    ];
    (contents, counts)
}
