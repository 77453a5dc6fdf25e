//! Files that are no table's, read as one: `read_parquet('location')` and the like. The scheduler spells such a function as a table of
//! [`FILES`], whose name is the location; what lies there is found when the name is looked up.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::Result;
use datafusion::execution::runtime_env::RuntimeEnv;
use url::Url;
use windlass_engine::formats::{FileFormat, HEADER_LINES};
use windlass_engine::{LocationError, Locations};
use windlass_proto::Kind;

use crate::catalog::{Catalog, DataFile, Partition, PartitionKey, ScanContents, Storage, TableKind, TableMeta, Totals};
use crate::delta::describe;
use crate::discover::{Discover, Layout, discover};
use crate::error::Error;
use crate::keys::partition_name;
use crate::provider::HiveTable;

/// Name under which [`Files`] are mounted.
pub const FILES: &str = "files";
/// The id of what is read as a table and is none: no table ever gets it.
pub(crate) const NO_TABLE: i64 = 0;

/// The function that reads what a Delta log says, and therefore also what it said.
pub const READ_DELTA: &str = "read_delta";

/// The functions, each a database of [`FILES`], and the formats that they read.
pub const FUNCTIONS: [(&str, FileFormat); 6] = [
    ("read_avro", FileFormat::Avro),
    ("read_csv", FileFormat::Csv),
    (READ_DELTA, FileFormat::Delta),
    ("read_json", FileFormat::Json),
    ("read_orc", FileFormat::Orc),
    ("read_parquet", FileFormat::Parquet),
];

/// All files under the allowed locations.
#[derive(Debug, Clone)]
pub struct Files {
    catalog: Arc<dyn Catalog>,
    locations: Locations,
    runtime: Arc<RuntimeEnv>,
}

impl Files {
    /// Files under `locations`, opened in `runtime`.
    pub fn new(catalog: Arc<dyn Catalog>, locations: Locations, runtime: Arc<RuntimeEnv>) -> Self {
        Self { catalog, locations, runtime }
    }
}

impl CatalogProvider for Files {
    /// None: there is nothing to list.
    fn schema_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let (_, format) = FUNCTIONS.into_iter().find(|(function, _)| *function == name)?;
        Some(Arc::new(FilesOf { files: self.clone(), format }))
    }
}

#[derive(Debug)]
struct FilesOf {
    files: Files,
    format: FileFormat,
}

#[async_trait]
impl SchemaProvider for FilesOf {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, location: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Files { catalog, locations, runtime } = &self.files;
        let url = locations.check(location).map_err(|error| not_usable(&error))?;
        let store = runtime.object_store_registry.get_store(&url)?;
        if self.format == FileFormat::Delta {
            let version = Arc::new(describe(url.as_str(), store).await?);
            let nothing = meta(location, &url, Storage::of(self.format), BTreeMap::new(), Arc::new(Schema::empty()), Vec::new());
            return Ok(Some(Arc::new(HiveTable::new(Arc::clone(catalog), Arc::new(version.table(&nothing))))));
        }
        let mut storage = Storage::of(self.format);
        // Files of which nobody has said anything usually say it themselves.
        let header = (self.format == FileFormat::Csv).then(|| (HEADER_LINES.to_owned(), "1".to_owned()));
        let properties = BTreeMap::from_iter(header);
        let request = Discover {
            location: url.as_str(),
            layout: Layout::Inferred,
            schema: None,
            grows: false,
            partitions: &[],
            known: &[],
            storage: &storage,
            properties: &properties,
        };
        let found = discover(request, store).await?;
        storage.serde = found.mapping;
        let (mut partitions, mut files) = (Vec::new(), Vec::new());
        for (id, partition) in (0..).zip(found.partitions) {
            partitions.push(Partition {
                id,
                name: partition_name(&found.keys, &partition.values),
                values: partition.values,
                location: partition.location,
                files: partition.files.len() as u64,
                bytes: partition.files.iter().map(|file| file.size).sum(),
                rows: partition.files.iter().map(|file| file.rows).sum(),
            });
            files.extend(partition.files.into_iter().map(|file| DataFile { partition_id: id, file }));
        }
        let totals = Totals {
            partitions: partitions.len() as u64,
            files: files.len() as u64,
            bytes: partitions.iter().map(|partition| partition.bytes).sum(),
            rows: partitions.iter().map(|partition| partition.rows).sum(),
        };
        let meta = meta(location, &url, storage, properties, found.schema, found.keys);
        let contents = ScanContents { partitions, files, totals, ..ScanContents::default() };
        Ok(Some(Arc::new(HiveTable::with_contents(Arc::clone(catalog), Arc::new(meta), contents))))
    }

    fn table_exist(&self, location: &str) -> bool {
        self.files.locations.check(location).is_ok()
    }
}

/// A table that no catalog has.
fn meta(
    name: &str,
    location: &Url,
    storage: Storage,
    properties: BTreeMap<String, String>,
    schema: SchemaRef,
    keys: Vec<PartitionKey>,
) -> TableMeta {
    TableMeta {
        id: NO_TABLE,
        database: FILES.to_owned(),
        name: name.to_owned(),
        kind: TableKind::External,
        location: location.to_string(),
        schema,
        keys,
        comment: None,
        properties,
        storage,
        view: None,
        version: 0,
        created_ms: 0,
        as_of: None,
        delta: None,
    }
}

fn not_usable(error: &LocationError) -> Error {
    match error.kind() {
        Kind::Denied => Error::Denied(error.to_string()),
        Kind::Unsupported => Error::Unsupported(error.to_string()),
        _ => Error::Invalid(error.to_string()),
    }
}
