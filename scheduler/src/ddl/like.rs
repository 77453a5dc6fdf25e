//! `CREATE TABLE ... LIKE`.

use windlass_catalog::ddl::types::type_name;
use windlass_catalog::ddl::{Column, CreateTable, Key, Like, key_type};
use windlass_engine::formats::Storage;
use windlass_engine::write::WriteFormat;

use super::Names;
use crate::error::{Error, Result};

impl Names<'_> {
    /// A statement that says itself what it says by `LIKE`.
    ///
    /// The new table never takes the files of the other one, nor its place. Errors: `NotFound` for what it shall be like; `Invalid` for
    /// columns that come twice.
    pub(super) async fn spelled_out(&self, create: &CreateTable) -> Result<CreateTable> {
        let mut table = CreateTable { like: Vec::new(), ..create.clone() };
        if create.like.is_empty() {
            return Ok(table);
        }
        let (mut columns, mut inherited) = (table.columns.take().unwrap_or_default(), Vec::new());
        for Like { table: name, after, whole } in create.like.iter().rev() {
            let source = self.table(name).await?;
            let schema = if *whole { &source.schema } else { &source.full_schema() };
            columns.splice(*after..*after, schema.fields().iter().map(|field| Column::from_field(field)));
            if *whole {
                inherited.push(source);
            }
        }
        for source in inherited {
            let keys = source.keys.iter();
            let keys: Vec<_> =
                keys.map(|key| Key { name: key.name.clone(), key_type: Some(key.key_type), comment: key.comment.clone() }).collect();
            match &table.keys {
                None => table.keys = Some(keys).filter(|keys| !keys.is_empty()),
                // Then its keys are columns like others.
                Some(_) => columns.extend(source.keys.iter().map(|key| Column {
                    name: key.name.clone(),
                    data_type: key.key_type.data_type(),
                    comment: key.comment.clone(),
                })),
            }
            // Files that can only be read are of no use to a table that has none yet.
            let is_usable = !source.is_delta() && (table.location.is_some() || WriteFormat::of(source.storage.format).is_some());
            if table.storage == Storage::default() && is_usable {
                table.storage = source.storage.clone();
            }
            for (name, value) in &source.properties {
                table.properties.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        for key in table.keys.iter_mut().flatten().filter(|key| key.key_type.is_none()) {
            let Some(place) = columns.iter().position(|column| column.name == key.name) else {
                return Err(Error::invalid(format!("partition key '{}' is no column", key.name)));
            };
            let column = columns.remove(place);
            let found = type_name(&column.data_type);
            key.key_type = key_type(&column.data_type);
            key.comment = column.comment;
            if key.key_type.is_none() {
                return Err(Error::invalid(format!("partition key '{}' cannot be {found}", key.name))
                    .with_hint("keys are string, int, bigint, date, timestamp, boolean or decimal"));
            }
        }
        let names = columns.iter().map(|column| &column.name).chain(table.keys.iter().flatten().map(|key| &key.name)).collect::<Vec<_>>();
        if let Some(twice) = (1..names.len()).find(|place| names[..*place].contains(&names[*place])) {
            return Err(Error::invalid(format!("column '{}' comes twice", names[twice])));
        }
        table.columns = Some(columns);
        table.keys_by_name = false;
        Ok(table)
    }
}
