//! What files say of themselves: lists a location, groups its files into partitions, reads the footer of every new file once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use parquet::arrow::{parquet_column, parquet_to_arrow_schema};
use parquet::basic::Type as PhysicalType;
use parquet::file::metadata::ParquetMetaData;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::{Position, Url};

use crate::catalog::{DataFile, KEYS_MAX, KeyType, NULL_PARTITION, NewFile, PartitionKey};
use crate::error::{Error, Result};
use crate::keys;

/// Directories listed at the same time.
const LISTINGS_MAX: usize = 16;
/// Footers read at the same time.
const FOOTERS_MAX: usize = 32;
/// Bytes read from the end of a file at once: nearly every footer fits, which saves the second request.
const FOOTER_BYTES_GUESS: usize = 64 * 1024;
/// Longest text or binary bound kept as a statistic: longer ones fill the catalog and prune no better.
const BOUND_BYTES_MAX: usize = 128;

/// Field metadata of a column whose name in files is not the lower-case name that queries use: the name in files.
pub const NAME_IN_FILES: &str = "name_in_files";

/// What to look for.
#[derive(Debug)]
pub struct Discover<'a> {
    /// URL with a trailing slash.
    pub location: &'a str,
    /// What its directories mean.
    pub layout: Layout<'a>,
    /// Columns that every file must fit. Without them, the table's columns are the union of the files' columns.
    pub schema: Option<&'a SchemaRef>,
    /// Whether declared columns may take the spelling that files use (`VendorID` for `vendorid`): yes while a table is made; no once it
    /// has files, which would be read under the new spelling.
    pub learn_spelling: bool,
    /// Files recorded before: those with the same size and time of change are not read again.
    pub known: &'a [DataFile],
}

/// What the directories of a location mean.
#[derive(Debug, Clone)]
pub enum Layout<'a> {
    /// `key=value` directories, if there are any, say which keys there are and of which type.
    Inferred,
    /// One directory level per key, in order. Without keys, all files below the location are one partition.
    Keys(&'a [PartitionKey]),
    /// The location is one partition with these values.
    Partition(Vec<ScalarValue>),
}

/// What was found.
#[derive(Debug)]
pub struct Discovery {
    /// The table's columns, without keys: the declared ones, perhaps with [`NAME_IN_FILES`] added, or the union of the files' columns.
    pub schema: SchemaRef,
    /// The declared or inferred keys; none for [`Layout::Partition`].
    pub keys: Vec<PartitionKey>,
    /// Partitions that hold files, ordered by location.
    pub partitions: Vec<FoundPartition>,
}

/// A partition that holds files.
#[derive(Debug)]
pub struct FoundPartition {
    /// One value per key.
    pub values: Vec<ScalarValue>,
    /// URL with a trailing slash.
    pub location: String,
    /// Files that are new or changed, ordered by URL, with statistics.
    pub files: Vec<NewFile>,
    /// URLs of the known files that are as recorded.
    pub unchanged: Vec<String>,
}

/// The path of a URL inside its object store.
pub fn object_path(url: &str) -> Result<Path> {
    let invalid = |cause: String| Error::Invalid(format!("'{url}' is not a usable location: {cause}"));
    let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
    Path::from_url_path(parsed.path()).map_err(|error| invalid(error.to_string()))
}

/// Finds the files of a location.
///
/// Shape: one flat listing per first-level directory, one footer read per file that is not known.
/// Errors: `File` names the file that is no Parquet file, does not fit the schema or lies in a directory that does not fit the keys;
/// `ObjectStore` if listing or reading fails; `Invalid` if no schema is declared and there are no files.
pub async fn discover(request: Discover<'_>, store: Arc<dyn ObjectStore>) -> Result<Discovery> {
    let base = Url::parse(request.location).map_err(|error| Error::Invalid(format!("'{}' is not a URL: {error}", request.location)))?;
    let root = object_path(request.location)?;
    let mut objects = list(store.as_ref(), &root)
        .await
        .map_err(|cause| Error::ObjectStore { url: request.location.to_owned(), cause })?
        .into_iter()
        .map(|meta| Listed { url: url_of(&base, &meta.location), meta })
        .collect::<Vec<_>>();
    objects.sort_unstable_by(|a, b| a.url.cmp(&b.url));

    let (keys, places) = place(&request, &base, &root, &objects)?;
    let known = request.known.iter().map(|known| (known.file.url.as_str(), &known.file)).collect::<HashMap<_, _>>();
    let is_known = |object: &Listed| {
        known.get(object.url.as_str()).is_some_and(|file| file.size == object.meta.size && file.modified_ms == object.modified_ms())
    };
    let footers = stream::iter(objects.iter().filter(|object| !is_known(object)))
        .map(|object| async { Ok::<_, Error>((object.url.as_str(), read_footer(store.as_ref(), object).await?)) })
        // Without it, the compiler does not see that callers' futures may be sent (rust-lang/rust#64552).
        .boxed()
        .buffer_unordered(FOOTERS_MAX)
        .try_collect::<BTreeMap<_, _>>()
        .await?;

    let mut columns = Columns::new(request.schema, request.learn_spelling, &keys);
    for (url, footer) in &footers {
        columns.add(url, &footer.schema)?;
    }
    if request.schema.is_none() && columns.fields.is_empty() {
        let location = request.location;
        return Err(Error::Invalid(format!("'{location}' holds no Parquet files to read the columns from; declare the columns")));
    }
    let schema = columns.finish();

    let mut partitions = Vec::<FoundPartition>::new();
    let mut by_values = HashMap::<Vec<ScalarValue>, usize>::new();
    for (object, place) in objects.iter().zip(places) {
        let index = *by_values.entry(place.values).or_insert_with_key(|values| {
            partitions.push(FoundPartition { values: values.clone(), location: place.location, files: Vec::new(), unchanged: Vec::new() });
            partitions.len() - 1
        });
        match footers.get(object.url.as_str()) {
            Some(footer) => partitions[index].files.push(object.with_footer(footer, &schema)),
            None => partitions[index].unchanged.push(object.url.clone()),
        }
    }
    Ok(Discovery { schema, keys, partitions })
}

/// A visible object.
struct Listed {
    url: String,
    meta: ObjectMeta,
}

impl Listed {
    fn modified_ms(&self) -> i64 {
        self.meta.last_modified.timestamp_millis()
    }

    fn with_footer(&self, footer: &Footer, schema: &Schema) -> NewFile {
        NewFile {
            url: self.url.clone(),
            size: self.meta.size,
            modified_ms: self.modified_ms(),
            etag: self.meta.e_tag.clone(),
            rows: Some(footer.rows as u64),
            statistics: Some(footer.statistics(schema)),
        }
    }
}

/// Files below a directory, those in hidden directories excluded.
async fn list(store: &dyn ObjectStore, root: &Path) -> object_store::Result<Vec<ObjectMeta>> {
    let top = store.list_with_delimiter(Some(root)).await?;
    let below = stream::iter(top.common_prefixes.into_iter().filter(|prefix| is_visible(prefix, root)))
        .map(|prefix| store.list(Some(&prefix)).try_collect::<Vec<_>>())
        .boxed()
        .buffer_unordered(LISTINGS_MAX)
        .try_concat()
        .await?;
    Ok(top.objects.into_iter().chain(below).filter(|object| is_visible(&object.location, root)).collect())
}

/// Hive and Spark hide names that start with `.` or `_`, except that a key's name may start with `_`.
fn is_visible(path: &Path, root: &Path) -> bool {
    let parts = path.prefix_match(root);
    parts.into_iter().flatten().all(|part| {
        let part = part.as_ref();
        !part.starts_with('.') && (!part.starts_with('_') || part.contains('='))
    })
}

fn url_of(base: &Url, path: &Path) -> String {
    /// What a URL parser would change or take for a delimiter.
    const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'\\').add(b'`');
    format!("{}/{}", &base[..Position::BeforePath], utf8_percent_encode(path.as_ref(), ESCAPED))
}

/// Where a file belongs.
struct Place {
    values: Vec<ScalarValue>,
    location: String,
}

/// Keys of the table and the place of every object.
fn place(request: &Discover<'_>, base: &Url, root: &Path, objects: &[Listed]) -> Result<(Vec<PartitionKey>, Vec<Place>)> {
    let everything_in = |values: &[ScalarValue]| {
        objects.iter().map(|_| Place { values: values.to_vec(), location: request.location.to_owned() }).collect::<Vec<_>>()
    };
    let directories = match &request.layout {
        Layout::Partition(values) => return Ok((Vec::new(), everything_in(values))),
        Layout::Keys([]) => return Ok((Vec::new(), everything_in(&[]))),
        Layout::Keys(_) | Layout::Inferred => objects.iter().map(|object| Directories::of(&object.meta.location, root)).collect::<Vec<_>>(),
    };
    let keys = match &request.layout {
        Layout::Keys(keys) => keys.to_vec(),
        _ if directories.iter().all(|found| found.names.is_none()) => return Ok((Vec::new(), everything_in(&[]))),
        _ => infer_keys(objects, &directories)?,
    };
    let expected = keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>();
    let places = objects.iter().zip(directories).map(|(object, found)| {
        let file_error = |reason| Error::File { url: object.url.clone(), reason };
        if found.names.as_ref().is_none_or(|names| *names != expected) {
            let wanted = expected.iter().map(|name| format!("{name}=.../")).collect::<String>();
            return Err(file_error(format!("does not lie in directories '{wanted}' below the table's location")));
        }
        let values = keys
            .iter()
            .zip(&found.values)
            .map(|(key, value)| {
                keys::parse_value(key, value).map_err(|error| file_error(format!("lies in a directory that is no partition: {error}")))
            })
            .collect::<Result<_>>()?;
        Ok(Place { values, location: format!("{}/", url_of(base, &found.path)) })
    });
    let places = places.collect::<Result<_>>()?;
    Ok((keys, places))
}

/// The directories between a location and a file.
struct Directories {
    path: Path,
    /// Lower-case key names; none if some directory is not `key=value`, or there is none.
    names: Option<Vec<String>>,
    /// Values without escapes.
    values: Vec<String>,
}

impl Directories {
    fn of(file: &Path, root: &Path) -> Self {
        let path = file.parent().unwrap_or_else(|| root.clone());
        let parts = path.prefix_match(root).into_iter().flatten().map(|part| part.as_ref().to_owned()).collect::<Vec<_>>();
        let pairs = parts.iter().map(|part| part.split_once('=')).collect::<Option<Vec<_>>>().unwrap_or_default();
        let values = pairs.iter().map(|(_, value)| keys::unescape(value)).collect();
        let names = pairs.iter().map(|(name, _)| keys::unescape(name).to_lowercase()).collect::<Vec<_>>();
        Self { path, names: (!names.is_empty()).then_some(names), values }
    }
}

/// Keys named as in the first file's path; a key whose values are all whole numbers or all dates gets that type.
fn infer_keys(objects: &[Listed], directories: &[Directories]) -> Result<Vec<PartitionKey>> {
    let names = directories.iter().find_map(|found| found.names.clone()).unwrap_or_default();
    if let Some((object, _)) = objects.iter().zip(directories).find(|(_, found)| found.names.as_ref() != Some(&names)) {
        let reason = format!("does not lie in directories of the partition keys '{}' like other files", names.join("', '"));
        return Err(Error::File { url: object.url.clone(), reason });
    }
    if names.len() > KEYS_MAX {
        return Err(Error::Unsupported(format!("a table has at most {KEYS_MAX} partition keys; the directories name {}", names.len())));
    }
    let key = |(position, name): (usize, &String)| {
        let values = directories.iter().map(|found| found.values[position].as_str()).filter(|value| *value != NULL_PARTITION);
        PartitionKey { name: name.clone(), key_type: infer_type(values.collect()), comment: None }
    };
    Ok(names.iter().enumerate().map(key).collect())
}

fn infer_type(values: Vec<&str>) -> KeyType {
    let all = |test: fn(&str) -> bool| !values.is_empty() && values.iter().all(|value| test(value));
    let is_date = |value: &str| value.len() == 10 && value.parse::<chrono::NaiveDate>().is_ok();
    if all(|value| value.parse::<i32>().is_ok()) {
        KeyType::Int
    } else if all(|value| value.parse::<i64>().is_ok()) {
        KeyType::BigInt
    } else if all(is_date) {
        KeyType::Date
    } else {
        KeyType::String
    }
}

/// What a footer says.
struct Footer {
    rows: usize,
    /// Uncompressed.
    bytes: usize,
    /// As written: views, dictionaries and spelling included.
    schema: SchemaRef,
    /// By column of `schema`.
    columns: Vec<ColumnStatistics>,
}

async fn read_footer(store: &dyn ObjectStore, object: &Listed) -> Result<Footer> {
    let file_error = |reason: String| Error::File { url: object.url.clone(), reason };
    let metadata =
        DFParquetMetadata::new(store, &object.meta).with_metadata_size_hint(Some(FOOTER_BYTES_GUESS)).fetch_metadata().await.map_err(
            |error| match error {
                DataFusionError::ObjectStore(cause) => Error::ObjectStore { url: object.url.clone(), cause: *cause },
                error => file_error(format!("is not a whole Parquet file: {}", error.strip_backtrace())),
            },
        )?;
    let described = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(described.schema_descr(), described.key_value_metadata())
        .map_err(|error| file_error(format!("has a schema that cannot be read: {error}")))?;
    let schema = Arc::new(schema);
    let statistics = DFParquetMetadata::statistics_from_parquet_metadata(&metadata, &schema)
        .map_err(|error| file_error(format!("has statistics that cannot be read: {}", error.strip_backtrace())))?;
    let columns =
        schema.fields().iter().zip(statistics.column_statistics).map(|(field, found)| trusted(&metadata, &schema, field, found)).collect();
    let count = |value: i64| usize::try_from(value).unwrap_or_default();
    Ok(Footer {
        rows: metadata.row_groups().iter().map(|group| count(group.num_rows())).sum(),
        bytes: metadata.row_groups().iter().map(|group| count(group.total_byte_size())).sum(),
        schema,
        columns,
    })
}

/// Keeps of a column's statistics what holds for every row. DataFusion's summary also speaks when some row groups are silent.
fn trusted(metadata: &ParquetMetaData, schema: &Schema, field: &Field, found: ColumnStatistics) -> ColumnStatistics {
    let unknown = ColumnStatistics { byte_size: found.byte_size, ..ColumnStatistics::new_unknown() };
    let Some((leaf, _)) = parquet_column(metadata.file_metadata().schema_descr(), schema, field.name()) else {
        return unknown;
    };
    let mut bounded = true;
    let mut counted = true;
    for chunk in metadata.row_groups().iter().map(|group| group.column(leaf)) {
        let Some(statistics) = chunk.statistics() else {
            return unknown;
        };
        let nulls = statistics.null_count_opt();
        counted &= nulls.is_some();
        // Old writers sorted text and unsigned numbers by signed bytes; INT96 has no order.
        let ordered = statistics.physical_type() != PhysicalType::INT96
            && (!statistics.is_min_max_deprecated()
                || field.data_type().is_signed_integer()
                || field.data_type().is_floating()
                || field.data_type().is_temporal());
        let has_bounds = statistics.min_bytes_opt().is_some() && statistics.max_bytes_opt().is_some();
        let only_nulls = nulls.is_some_and(|nulls| i64::try_from(nulls) == Ok(chunk.num_values()));
        bounded &= only_nulls || (has_bounds && ordered);
    }
    let bound = |value: Precision<ScalarValue>| match value.get_value() {
        Some(bound) if bounded && !bound.is_null() && bound.size() - size_of::<ScalarValue>() <= BOUND_BYTES_MAX => {
            // NaN is in no statistics, but is the greatest value.
            if field.data_type().is_floating() { value.to_inexact() } else { value }
        }
        _ => Precision::Absent,
    };
    ColumnStatistics {
        null_count: if counted { found.null_count } else { Precision::Absent },
        min_value: bound(found.min_value),
        max_value: bound(found.max_value),
        distinct_count: found.distinct_count.to_inexact(),
        ..unknown
    }
}

impl Footer {
    /// Statistics by column of the table.
    fn statistics(&self, table: &Schema) -> Statistics {
        let column = |field: &FieldRef| match self.schema.index_of(name_in_files(field)) {
            Ok(index) => {
                let found = &self.columns[index];
                let cast = |value: &Precision<ScalarValue>| match value {
                    Precision::Exact(value) => value.cast_to(field.data_type()).map_or(Precision::Absent, Precision::Exact),
                    Precision::Inexact(value) => value.cast_to(field.data_type()).map_or(Precision::Absent, Precision::Inexact),
                    Precision::Absent => Precision::Absent,
                };
                ColumnStatistics { min_value: cast(&found.min_value), max_value: cast(&found.max_value), ..found.clone() }
            }
            // Rows of a file without the column read as NULL.
            Err(_) => ColumnStatistics { null_count: Precision::Exact(self.rows), ..ColumnStatistics::new_unknown() },
        };
        Statistics {
            num_rows: Precision::Exact(self.rows),
            total_byte_size: Precision::Inexact(self.bytes),
            column_statistics: table.fields().iter().map(column).collect(),
        }
    }
}

/// The name a column has in files.
pub fn name_in_files(field: &Field) -> &str {
    field.metadata().get(NAME_IN_FILES).unwrap_or_else(|| field.name())
}

/// The table's columns while files are added.
struct Columns<'a> {
    fields: Vec<Field>,
    /// Whether the spelling of a column in files is settled.
    spelled: Vec<bool>,
    declared: bool,
    keys: &'a [PartitionKey],
}

impl<'a> Columns<'a> {
    fn new(declared: Option<&SchemaRef>, learn_spelling: bool, keys: &'a [PartitionKey]) -> Self {
        let fields = declared.map(|schema| schema.fields().iter().map(|field| field.as_ref().clone()).collect()).unwrap_or_default();
        let spelled = vec![!learn_spelling; Vec::<Field>::len(&fields)];
        Self { fields, spelled, declared: declared.is_some(), keys }
    }

    fn finish(self) -> SchemaRef {
        Arc::new(Schema::new(self.fields))
    }

    /// Adds a file's columns. Those that the table does not declare, and those named like a key, are left out.
    fn add(&mut self, url: &str, file: &Schema) -> Result<()> {
        let file_error = |reason| Err(Error::File { url: url.to_owned(), reason });
        let mut seen = HashMap::<String, &str>::new();
        for field in file.fields() {
            let (spelling, name, found) = (field.name(), field.name().to_lowercase(), plain_type(field.data_type()));
            if let Some(other) = seen.insert(name.clone(), spelling) {
                return file_error(format!("columns '{other}' and '{spelling}' differ only in upper and lower case"));
            }
            if self.keys.iter().any(|key| key.name == name) {
                continue;
            }
            let Some(index) = self.fields.iter().position(|column| *column.name() == name) else {
                if !self.declared {
                    self.fields.push(spell(Field::new(name, found, true), spelling));
                    self.spelled.push(true);
                }
                continue;
            };
            let column = &self.fields[index];
            if name_in_files(column) != spelling {
                if self.spelled[index] {
                    let expected = name_in_files(column);
                    return file_error(format!("column '{name}' is spelled '{spelling}' here and '{expected}' in other files"));
                }
                self.fields[index] = spell(column.clone(), spelling);
            }
            self.spelled[index] = true;
            let column = &self.fields[index];
            let expected = column.data_type();
            if !(widens(expected, &found) || self.declared && reads_as(expected, &found)) {
                if self.declared || !widens(&found, expected) {
                    return file_error(format!("column '{name}' is {found} here, which cannot be read as {expected}"));
                }
                self.fields[index] = column.clone().with_data_type(found);
            }
        }
        Ok(())
    }
}

/// Records how files spell a column.
fn spell(field: Field, spelling: &str) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.remove(NAME_IN_FILES);
    if field.name() != spelling {
        metadata.insert(NAME_IN_FILES.to_owned(), spelling.to_owned());
    }
    field.with_metadata(metadata)
}

/// The type without views, dictionaries and 64-bit offsets, which are matters of layout; nested fields may be NULL.
fn plain_type(data_type: &DataType) -> DataType {
    let plain = |field: &FieldRef| Field::new(field.name(), plain_type(field.data_type()), true);
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => plain_type(value),
        DataType::RunEndEncoded(_, value) => plain_type(value.data_type()),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            DataType::List(Arc::new(plain(item).with_name(Field::LIST_FIELD_DEFAULT_NAME)))
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain).collect()),
        other => other.clone(),
    }
}

/// Whether every value of `narrow` is a value of `wide`.
fn widens(wide: &DataType, narrow: &DataType) -> bool {
    use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, Null, Timestamp, UInt8, UInt16, UInt32, UInt64};
    match (wide, narrow) {
        (wide, narrow) if wide == narrow => true,
        (_, Null) => true,
        (Int16, Int8 | UInt8) | (Int32, Int8 | Int16 | UInt8 | UInt16) => true,
        (Int64, Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32) => true,
        (UInt16, UInt8) | (UInt32, UInt8 | UInt16) | (UInt64, UInt8 | UInt16 | UInt32) => true,
        (Float64, Float32) => true,
        (Decimal128(wide, wide_scale), Decimal128(narrow, narrow_scale)) => {
            let whole = |precision: u8, scale: i8| i16::from(precision) - i16::from(scale);
            wide_scale >= narrow_scale && whole(*wide, *wide_scale) >= whole(*narrow, *narrow_scale)
        }
        (Timestamp(wide, wide_zone), Timestamp(narrow, narrow_zone)) => {
            let fineness = |unit: &TimeUnit| match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 1,
                TimeUnit::Microsecond => 2,
                TimeUnit::Nanosecond => 3,
            };
            wide_zone == narrow_zone && fineness(wide) >= fineness(narrow)
        }
        _ => false,
    }
}

/// Whether a declared type also stands for a type that writers choose for it: timestamps as nanoseconds (INT96) or as instants in UTC, text
/// without the annotation that says so.
fn reads_as(declared: &DataType, found: &DataType) -> bool {
    match (declared, found) {
        (DataType::Timestamp(_, None), DataType::Timestamp(_, zone)) => zone.as_deref().is_none_or(|zone| matches!(zone, "UTC" | "+00:00")),
        (DataType::Utf8, DataType::Binary) => true,
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests;
