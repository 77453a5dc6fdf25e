//! Jobs that read a table again and again, each time what is new to them.

use std::collections::HashMap;

use windlass_catalog::catalog::NewContents;
use windlass_catalog::ddl::{Noun, TableName};

use super::show::check_noun;
use super::{Names, PARTITIONS_MAX, Row, too_many_partitions};
use crate::error::Result;

impl Names<'_> {
    /// A line for each file that the table got since the job has read it.
    pub(super) async fn new_files(&self, name: &TableName, job: &str) -> Result<Vec<Row>> {
        let table = self.table(name).await?;
        check_noun(&table, Noun::Table)?;
        let NewContents { contents, to, .. } = self.catalog().new_contents(&table, job, PARTITIONS_MAX).await?;
        if contents.truncated {
            return Err(too_many_partitions(&table));
        }
        let names: HashMap<_, _> = contents.partitions.iter().map(|partition| (partition.id, &partition.name)).collect();
        let line = |file: &windlass_catalog::catalog::DataFile| {
            let partition = names.get(&file.partition_id).map(|name| (*name).clone());
            let rows = file.file.rows.map(|rows| rows.to_string());
            vec![partition, Some(file.file.url.clone()), rows, Some(file.file.size.to_string()), Some(to.to_string())]
        };
        Ok(contents.files.iter().map(line).collect())
    }

    /// Says that a job has read a table up to a version. Returns that version.
    pub(super) async fn advance(&self, name: &TableName, job: &str, version: Option<i64>) -> Result<Row> {
        let table = self.table(name).await?;
        check_noun(&table, Noun::Table)?;
        let version = version.unwrap_or(table.version);
        self.catalog().set_bookmark(&table, job, Some(version).filter(|version| *version != 0)).await?;
        Ok(vec![Some(version.to_string())])
    }
}
