//! What a log says of a table: its columns, its keys, and whether we can read it.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType as ArrowType, Field, Schema, SchemaRef};
use delta_kernel::engine::arrow_conversion::TryIntoArrow;
use delta_kernel::schema::{ColumnMetadataKey, DataType, MetadataValue, PrimitiveType, StructField, StructType};
use delta_kernel::table_features::ColumnMappingMode;
use delta_kernel::{KernelError, Snapshot, SnapshotRef};
use object_store::ObjectStore;
use url::Url;
use windlass_engine::evolution::plain_type;
use windlass_engine::file_names::{FileName, FileNames};

use super::engine::Confined;
use super::{Commit, LOG_DIRECTORY};
use crate::catalog::{KEYS_MAX, KeyType, PartitionKey, TableMeta};
use crate::ddl::{Key, key_type};
use crate::error::{Error, Result};

/// Features that a reader must know, and that we do.
const FEATURES: [&str; 7] =
    ["columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview", "v2Checkpoint", "vacuumProtocolCheck"];

/// What tells a version of a table from any other: the id that the log has for the table, its number, and its file in the log, if that was
/// found: a log may be begun anew.
pub(super) type Identity = (String, u64, Option<Commit>);

/// A Delta table as one version of its log has it.
#[derive(Clone)]
pub struct Version {
    snapshot: SnapshotRef,
    identity: Identity,
    schema: SchemaRef,
    keys: Vec<PartitionKey>,
    /// What the log calls the columns and then the keys, in lists of values and statistics.
    names: Vec<String>,
    file_names: FileNames,
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({} of {})", self.number(), self.snapshot.table_root())
    }
}

impl Version {
    /// Its number.
    pub fn number(&self) -> u64 {
        self.identity.1
    }

    /// Columns kept in files.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Partition keys.
    pub fn keys(&self) -> &[PartitionKey] {
        &self.keys
    }

    /// How files call columns that the table calls otherwise.
    pub fn file_names(&self) -> &FileNames {
        &self.file_names
    }

    /// The table as it is in this version.
    pub(crate) fn table(self: &Arc<Self>, table: &TableMeta) -> TableMeta {
        TableMeta { schema: Arc::clone(&self.schema), keys: self.keys.clone(), delta: Some(Arc::clone(self)), ..table.clone() }
    }

    /// With its file in the log.
    pub(super) fn with_commit(mut self, commit: Option<Commit>) -> Self {
        self.identity.2 = commit;
        self
    }

    pub(super) fn commit(&self) -> Option<&Commit> {
        self.identity.2.as_ref()
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn snapshot(&self) -> &SnapshotRef {
        &self.snapshot
    }

    /// What the log calls the columns, and what it calls the keys.
    pub(super) fn names(&self) -> (&[String], &[String]) {
        self.names.split_at(self.schema.fields().len())
    }
}

/// The log of one table, to be read by threads that may wait.
#[derive(Debug)]
pub(super) struct Log {
    /// The table in messages.
    pub(super) name: String,
    /// With a trailing slash.
    pub(super) root: Url,
    pub(super) store: Arc<dyn ObjectStore>,
}

impl Log {
    pub(super) fn new(name: String, location: &str, store: Arc<dyn ObjectStore>) -> Result<Self> {
        let root = Url::parse(location).map_err(|error| Error::Invalid(format!("'{location}' is not a URL: {error}")))?;
        Ok(Self { name, root, store })
    }

    pub(super) fn engine(&self) -> Confined {
        Confined::new(&self.root, &self.store)
    }

    /// The newest version: what came after `base`, if that is known.
    pub(super) fn newest(&self, base: Option<&Version>) -> Result<Version> {
        let engine = self.engine();
        let followed = base.map(|base| Snapshot::builder_from(Arc::clone(base.snapshot())).build(&engine));
        let snapshot = match followed {
            Some(Ok(snapshot)) => Ok(snapshot),
            // What lies between may have been cleaned up.
            Some(Err(_)) | None => Snapshot::builder_for(self.root.as_str()).build(&engine),
        };
        self.version(snapshot.map_err(|error| self.unreadable(error))?)
    }

    pub(super) fn version(&self, snapshot: SnapshotRef) -> Result<Version> {
        let refused = |what: String| Error::Unsupported(format!("{} cannot be read: {what}", self.name));
        let configuration = snapshot.table_configuration();
        let features = configuration.protocol().reader_features().unwrap_or_default().iter().map(ToString::to_string);
        let unknown = features.filter(|feature| !FEATURES.contains(&feature.as_str())).collect::<Vec<_>>();
        if !unknown.is_empty() {
            return Err(refused(format!(
                "it uses '{}', which Windlass does not know; a copy of the table without it can be read",
                unknown.join("', '")
            )));
        }
        let identity = (format!("{} {}", configuration.metadata().id(), self.root), snapshot.version(), None);
        let partitioned_by = configuration.logical_partition_columns();
        let Columns { schema, keys, names, file_names } =
            columns(&snapshot.schema(), partitioned_by, configuration.column_mapping_mode()).map_err(refused)?;
        Ok(Version { identity, schema, keys, names, file_names, snapshot })
    }

    /// An error of the kernel's.
    pub(super) fn unreadable(&self, error: KernelError) -> Error {
        let name = &self.name;
        match error {
            KernelError::Backtraced { source, .. } => self.unreadable(*source),
            KernelError::ObjectStore(cause) => Error::ObjectStore { url: format!("{}{LOG_DIRECTORY}/", self.root), cause },
            KernelError::Unsupported(reason) | KernelError::InvalidProtocol(reason) => {
                Error::Unsupported(format!("{name} cannot be read: {reason}"))
            }
            KernelError::EmptyLog | KernelError::FileNotFound(_) | KernelError::MissingMetadataAndProtocol => {
                Error::Invalid(format!("{name} cannot be read: there is no Delta log in '{}{LOG_DIRECTORY}/' ({error})", self.root))
            }
            error => Error::Invalid(format!("the log of {name} cannot be read: {error}")),
        }
    }
}

/// What a schema says of a table, as [`Version`] has it.
struct Columns {
    schema: SchemaRef,
    keys: Vec<PartitionKey>,
    names: Vec<String>,
    file_names: FileNames,
}

/// Errors: what is of a kind that we cannot read.
fn columns(found: &StructType, partitioned_by: &[String], mapping: ColumnMappingMode) -> std::result::Result<Columns, String> {
    let (mut fields, mut names, mut file_names) = (Vec::new(), Vec::new(), FileNames::new());
    for field in found.fields().filter(|field| !partitioned_by.contains(field.name())) {
        check_type(field.data_type()).map_err(|what| format!("column '{}' {what}", field.name()))?;
        let arrow: ArrowType = field.data_type().try_into_arrow().map_err(|error| format!("column '{}': {error}", field.name()))?;
        let column = Field::new(field.name().to_lowercase(), plain_type(&arrow), true);
        fields.push(match comment(field) {
            Some(comment) => column.with_metadata([("comment".to_owned(), comment)].into()),
            None => column,
        });
        names.push(physical_name(field, mapping).to_owned());
        let mut here = Vec::new();
        if find_names(field, mapping, &mut here)? {
            file_names.insert(field.name().to_lowercase(), here);
        }
    }
    if partitioned_by.len() > KEYS_MAX {
        return Err(format!("it has {} partition columns; at most {KEYS_MAX} are possible", partitioned_by.len()));
    }
    let mut keys = Vec::new();
    for name in partitioned_by {
        let field = found.field(name).ok_or_else(|| format!("partition column '{name}' is no column"))?;
        let arrow: Option<ArrowType> = field.data_type().try_into_arrow().ok();
        let found = match arrow {
            // Keys have no zones; the log has them in UTC.
            Some(ArrowType::Timestamp(..)) => Some(KeyType::Timestamp),
            arrow => arrow.as_ref().and_then(key_type),
        };
        let key_type = found.ok_or_else(|| format!("partition column '{name}' is {}, which keys cannot be", field.data_type()))?;
        keys.push(PartitionKey { name: name.to_lowercase(), key_type, comment: comment(field) });
        names.push(physical_name(field, mapping).to_owned());
    }
    Ok(Columns { schema: Arc::new(Schema::new(fields)), keys, names, file_names })
}

fn comment(field: &StructField) -> Option<String> {
    match field.metadata().get("comment")? {
        MetadataValue::String(comment) => Some(comment.clone()),
        _ => None,
    }
}

/// What the log calls a field, and files do, unless they number their fields.
fn physical_name(field: &StructField, mapping: ColumnMappingMode) -> &str {
    match field.get_config_value(&ColumnMetadataKey::ColumnMappingPhysicalName) {
        Some(MetadataValue::String(name)) if mapping != ColumnMappingMode::None => name,
        _ => field.name(),
    }
}

/// Adds what files call a field and then those inside of it; returns whether any of them has another name than in the table.
fn find_names(field: &StructField, mapping: ColumnMappingMode, names: &mut Vec<FileName>) -> std::result::Result<bool, String> {
    let is_column = names.is_empty();
    let differs = if mapping == ColumnMappingMode::Id {
        let id = match field.get_config_value(&ColumnMetadataKey::ColumnMappingId) {
            Some(MetadataValue::Number(id)) => i32::try_from(*id).ok(),
            _ => None,
        };
        names.push(FileName::Id(id.ok_or_else(|| format!("it uses 'columnMapping' by 'id', but field '{}' has none", field.name()))?));
        true
    } else {
        let name = physical_name(field, mapping);
        names.push(FileName::Name(name.to_owned()));
        // Columns are found in any case, and called in lower case.
        if is_column { name.to_lowercase() != field.name().to_lowercase() } else { name != field.name() }
    };
    Ok(find_names_inside(field.data_type(), mapping, names)? || differs)
}

fn find_names_inside(data_type: &DataType, mapping: ColumnMappingMode, names: &mut Vec<FileName>) -> std::result::Result<bool, String> {
    match data_type {
        DataType::Array(array) => find_names_inside(array.element_type(), mapping, names),
        DataType::Map(map) => Ok(find_names_inside(map.key_type(), mapping, names)? | find_names_inside(map.value_type(), mapping, names)?),
        DataType::Struct(fields) => fields.fields().try_fold(false, |differs, field| Ok(find_names(field, mapping, names)? || differs)),
        DataType::Primitive(_) | DataType::Variant(_) => Ok(false),
    }
}

/// Errors: what values of a type cannot be read, as the end of a sentence.
fn check_type(data_type: &DataType) -> std::result::Result<(), String> {
    match data_type {
        DataType::Primitive(PrimitiveType::Void | PrimitiveType::IntervalYearMonth | PrimitiveType::IntervalDayTime)
        | DataType::Variant(_) => Err(format!("is {data_type}, which Windlass has no type for")),
        DataType::Primitive(_) => Ok(()),
        DataType::Array(array) => check_type(array.element_type()),
        DataType::Map(map) => check_type(map.key_type()).and_then(|()| check_type(map.value_type())),
        DataType::Struct(fields) => fields.fields().try_for_each(|field| check_type(field.data_type())),
    }
}

/// Checks what a statement says of a Delta table against its log. Errors: `Invalid`, naming the difference.
pub fn check_declared(table: &str, columns: Option<&Schema>, keys: Option<&[Key]>, found: (&Schema, &[PartitionKey])) -> Result<()> {
    let differs = |what: String| Err(Error::Invalid(format!("table '{table}': {what}; leave columns and keys out, the log has them")));
    let (schema, found_keys) = found;
    let in_log = |name: &str| {
        let key = found_keys.iter().find(|key| key.name == name).map(|key| key.key_type.data_type());
        key.or_else(|| schema.field_with_name(name).ok().map(|field| field.data_type().clone()))
    };
    let typed_keys = keys.into_iter().flatten().filter_map(|key| Some((&key.name, key.key_type?.data_type())));
    let declared = columns.into_iter().flat_map(|columns| columns.fields()).map(|field| (field.name(), field.data_type().clone()));
    for (name, declared) in declared.chain(typed_keys) {
        match in_log(name) {
            None => return differs(format!("its log has no column '{name}'")),
            Some(found) if !is_same(&declared, &found) => {
                return differs(format!("its log has column '{name}' as {found}, not {declared}"));
            }
            Some(_) => {}
        }
    }
    let is_declared = |name: &String| {
        columns.is_none_or(|columns| columns.field_with_name(name).is_ok())
            || keys.is_some_and(|keys| keys.iter().any(|key| key.name == *name))
    };
    let mut all = schema.fields().iter().map(|field| field.name()).chain(found_keys.iter().map(|key| &key.name));
    if let Some(missing) = all.find(|name| !is_declared(name)) {
        return differs(format!("its log also has column '{missing}'"));
    }
    let found_names = found_keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>();
    match keys.map(|keys| keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>()) {
        Some(names) if names != found_names => differs(format!("its log has partition keys ({})", found_names.join(", "))),
        _ => Ok(()),
    }
}

/// Whether two types are one to those who declare tables: instants and local times share a name, and small numbers are INT as keys.
fn is_same(declared: &ArrowType, found: &ArrowType) -> bool {
    match (declared, found) {
        (ArrowType::Timestamp(..), ArrowType::Timestamp(..)) => true,
        (ArrowType::Int8 | ArrowType::Int16 | ArrowType::Int32, ArrowType::Int32) => true,
        (declared, found) => declared == found,
    }
}
