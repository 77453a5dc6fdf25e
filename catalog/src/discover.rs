//! What files say of themselves: lists a location, groups its files into partitions, reads the footer of every new file once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::{Position, Url};
use windlass_engine::evolution::{FileColumns, Mismatch, merge, plain_type};
use windlass_engine::footer::Footer;
use windlass_engine::formats::{self, FileFormat, MAPPING, Storage};

use crate::catalog::{DataFile, KEYS_MAX, KeyType, NULL_PARTITION, NewFile, Partition, PartitionKey};
use crate::delta;
use crate::error::{Error, Result};
use crate::keys;

/// Directories listed at the same time.
const LISTINGS_MAX: usize = 16;
/// Footers read at the same time.
const FOOTERS_MAX: usize = 32;
/// Bytes read from the end of a file at once: nearly every footer fits, which saves the second request.
const FOOTER_BYTES_GUESS: usize = 64 * 1024;

/// What to look for.
#[derive(Debug)]
pub struct Discover<'a> {
    /// URL with a trailing slash.
    pub location: &'a str,
    /// What its directories mean.
    pub layout: Layout<'a>,
    /// Columns that every file must fit. Without them, the table's columns are the union of the files' columns.
    pub schema: Option<&'a SchemaRef>,
    /// Whether columns that new files have beside `schema` are added behind it.
    pub grows: bool,
    /// Partitions recorded before: what lies in their locations is theirs, whatever the directories are called.
    pub partitions: &'a [Partition],
    /// Files recorded before: those with the same size, time of change and tag are not read again.
    pub known: &'a [DataFile],
    /// How rows are kept in the files.
    pub storage: &'a Storage,
    /// `TBLPROPERTIES`, of which some change how files are read.
    pub properties: &'a BTreeMap<String, String>,
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
    /// The table's columns, without keys: the declared ones and what they grew by, or the union of the files' columns.
    pub schema: SchemaRef,
    /// The declared or inferred keys; none for [`Layout::Partition`].
    pub keys: Vec<PartitionKey>,
    /// Partitions that hold files, ordered by location.
    pub partitions: Vec<FoundPartition>,
    /// Properties of the files' reader that were found with the columns.
    pub mapping: BTreeMap<String, String>,
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
/// Errors: `File` names the file that is not of the table's format, does not fit the schema or lies in a directory that does not fit the keys;
/// `ObjectStore` if listing or reading fails; `Invalid` if no schema is declared and there are no files.
pub async fn discover(request: Discover<'_>, store: Arc<dyn ObjectStore>) -> Result<Discovery> {
    if request.storage.format == FileFormat::Delta {
        // What lies there is nobody's: the log lists the files, and is asked whenever they are wanted.
        let found = delta::describe(request.location, store).await?;
        let (schema, keys) = (Arc::clone(found.schema()), found.keys().to_vec());
        return Ok(Discovery { schema, keys, partitions: Vec::new(), mapping: BTreeMap::new() });
    }
    let base = Url::parse(request.location).map_err(|error| Error::Invalid(format!("'{}' is not a URL: {error}", request.location)))?;
    let root = object_path(request.location)?;
    let failed = |cause| Error::ObjectStore { url: request.location.to_owned(), cause };
    let mut listed = list(store.as_ref(), &root).await.map_err(failed)?;
    if listed.is_empty() {
        // It may be one file. Where there is none, there are no files.
        listed.extend(store.head(&root).await.ok());
    }
    let mut objects = listed.into_iter().map(|meta| Listed { url: object_url(&base, &meta.location), meta }).collect::<Vec<_>>();
    objects.sort_unstable_by(|a, b| a.url.cmp(&b.url));

    let (keys, places) = place(&request, &base, &root, &objects)?;
    let (objects, places): (Vec<_>, Vec<_>) = objects.into_iter().zip(places).filter_map(|(object, place)| Some((object, place?))).unzip();
    let known = request.known.iter().map(|known| (known.file.url.as_str(), &known.file)).collect::<HashMap<_, _>>();
    let is_known = |object: &Listed| {
        let same_tag = |file: &NewFile| file.etag.is_none() || object.meta.e_tag.is_none() || file.etag == object.meta.e_tag;
        let same = |file: &NewFile| file.size == object.meta.size && file.modified_ms == object.modified_ms() && same_tag(file);
        known.get(object.url.as_str()).is_some_and(|file| same(file))
    };
    // Files without footers are registered by their sizes.
    let with_footers = |object: &&Listed| request.storage.has_footers() && !is_known(object);
    let footers = stream::iter(objects.iter().filter(with_footers))
        .map(|object| async { Ok::<_, Error>((object.url.as_str(), read_footer(store.as_ref(), object, &request).await?)) })
        // Without it, the compiler does not see that callers' futures may be sent (rust-lang/rust#64552).
        .boxed()
        .buffer_unordered(FOOTERS_MAX)
        .try_collect::<BTreeMap<_, _>>()
        .await?;

    let mut columns = Columns::new(request.schema, request.grows, &keys);
    for (url, footer) in &footers {
        columns.add(url, footer.schema())?;
    }
    let format = request.storage.format;
    if request.storage.has_footers() && request.schema.is_none() && columns.fields.is_empty() {
        let location = request.location;
        return Err(Error::Invalid(format!("'{location}' holds no {format} files to read the columns from; declare the columns")));
    }
    let mut schema = columns.finish();
    let mut mapping = BTreeMap::new();
    if !request.storage.has_footers() {
        (schema, mapping) = infer(&request, &store, &keys, &objects).await?;
    }

    let mut partitions = Vec::<FoundPartition>::new();
    let mut by_values = HashMap::<Vec<ScalarValue>, usize>::new();
    for (object, place) in objects.iter().zip(places) {
        let index = *by_values.entry(place.values).or_insert_with_key(|values| {
            partitions.push(FoundPartition { values: values.clone(), location: place.location, files: Vec::new(), unchanged: Vec::new() });
            partitions.len() - 1
        });
        match footers.get(object.url.as_str()) {
            Some(footer) => partitions[index].files.push(object.with_footer(footer, &schema)),
            None if is_known(object) => partitions[index].unchanged.push(object.url.clone()),
            None => partitions[index].files.push(object.without_footer()),
        }
    }
    Ok(Discovery { schema, keys, partitions, mapping })
}

/// The declared columns, or those that some of the files have; and how files spell what their names do not say.
async fn infer(
    request: &Discover<'_>,
    store: &Arc<dyn ObjectStore>,
    keys: &[PartitionKey],
    objects: &[Listed],
) -> Result<(SchemaRef, BTreeMap<String, String>)> {
    let files = objects.iter().map(|object| object.meta.clone()).collect::<Vec<_>>();
    let mut found = formats::infer(store, &files, request.storage, request.properties).await;
    if let Some(declared) = request.schema {
        // Files that do not agree are read as declared.
        let (schema, mapping) = match found {
            Ok(found) if request.grows => (grown(declared, &found.schema, keys, request.storage.format), found.mapping),
            Ok(found) => (Arc::clone(declared), found.mapping),
            Err(_) => (Arc::clone(declared), BTreeMap::new()),
        };
        let wanted = |name: &str| name.strip_prefix(MAPPING).is_some_and(|column| schema.column_with_name(column).is_some());
        let mapping = mapping.into_iter().filter(|(name, _)| wanted(name)).collect();
        return Ok((schema, mapping));
    }
    if let Ok(found) = &mut found {
        let columns = found.schema.fields().iter().filter(|field| keys.iter().all(|key| key.name != *field.name()));
        found.schema = Arc::new(Schema::new(columns.map(Arc::clone).collect::<Vec<_>>()));
    }
    let location = request.location;
    match found {
        Ok(found) if found.schema.fields().is_empty() => {
            let format = request.storage.format;
            Err(Error::Invalid(format!("'{location}' holds no {format} files to read the columns from; declare the columns")))
        }
        Ok(found) => Ok((found.schema, found.mapping)),
        Err(DataFusionError::ObjectStore(cause)) => Err(Error::ObjectStore { url: location.to_owned(), cause: *cause }),
        Err(error) => Err(Error::Invalid(error.strip_backtrace())),
    }
}

/// The declared columns, then others that files have. Where fields have no names, they are known by what stands before them.
fn grown(declared: &SchemaRef, found: &Schema, keys: &[PartitionKey], format: FileFormat) -> SchemaRef {
    let by_place = matches!(format, FileFormat::Text | FileFormat::Csv);
    let begins_alike = declared.fields().iter().zip(found.fields()).all(|(declared, found)| declared.name() == found.name());
    let is_new =
        |field: &&Arc<Field>| declared.column_with_name(field.name()).is_none() && keys.iter().all(|key| key.name != *field.name());
    let new = found.fields().iter().filter(is_new).filter(|_| !by_place || begins_alike);
    Arc::new(Schema::new(declared.fields().iter().chain(new).map(Arc::clone).collect::<Vec<_>>()))
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

    fn without_footer(&self) -> NewFile {
        NewFile {
            url: self.url.clone(),
            size: self.meta.size,
            modified_ms: self.modified_ms(),
            etag: self.meta.e_tag.clone(),
            rows: None,
            statistics: None,
            kept_rows: None,
        }
    }

    fn with_footer(&self, footer: &Footer, schema: &Schema) -> NewFile {
        NewFile { rows: Some(footer.rows() as u64), statistics: Some(Arc::new(footer.statistics(schema))), ..self.without_footer() }
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
pub(crate) fn is_visible(path: &Path, root: &Path) -> bool {
    let parts = path.prefix_match(root);
    parts.into_iter().flatten().all(|part| {
        let part = part.as_ref();
        !part.starts_with('.') && (!part.starts_with('_') || part.contains('='))
    })
}

/// The URL of a file in the store that `base` lies in, spelled as the catalog spells it: undoes [`object_path`].
pub fn object_url(base: &Url, path: &Path) -> String {
    /// What a URL parser would change or take for a delimiter.
    const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'\\').add(b'`');
    format!("{}/{}", &base[..Position::BeforePath], utf8_percent_encode(path.as_ref(), ESCAPED))
}

/// Where a file belongs.
struct Place {
    values: Vec<ScalarValue>,
    location: String,
}

/// Keys of the table and the place of every object; none for those in the directory of a partition that lies elsewhere.
fn place(request: &Discover<'_>, base: &Url, root: &Path, objects: &[Listed]) -> Result<(Vec<PartitionKey>, Vec<Option<Place>>)> {
    let everything_in = |values: &[ScalarValue]| {
        let place = || Place { values: values.to_vec(), location: request.location.to_owned() };
        objects.iter().map(|_| Some(place())).collect::<Vec<_>>()
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
    let recorded = Recorded::new(request.partitions, &keys, root)?;
    let expected = keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>();
    let places = objects.iter().zip(directories).map(|(object, found)| {
        let file_error = |reason| Error::File { url: object.url.clone(), reason };
        let values = found.spell(&keys);
        if let Some(partition) = recorded.of(&found.path, root, values.as_deref().unwrap_or_default()) {
            return Ok(Some(Place { values: partition.values.clone(), location: partition.location.clone() }));
        }
        if found.names.as_ref().is_none_or(|names| *names != expected) {
            let wanted = expected.iter().map(|name| format!("{name}=.../")).collect::<String>();
            return Err(file_error(format!("does not lie in directories '{wanted}' below the table's location")));
        }
        let values = values.map_err(|error| file_error(format!("lies in a directory that is no partition: {error}")))?;
        if recorded.elsewhere.contains(values.as_slice()) {
            return Ok(None);
        }
        Ok(Some(Place { values, location: format!("{}/", object_url(base, &found.path)) }))
    });
    let places = places.collect::<Result<_>>()?;
    Ok((keys, places))
}

/// Recorded partitions.
struct Recorded<'a> {
    places: HashMap<Path, Vec<&'a Partition>>,
    /// Values of those that do not lie in a directory of their name.
    elsewhere: HashSet<&'a [ScalarValue]>,
}

impl<'a> Recorded<'a> {
    fn new(partitions: &'a [Partition], keys: &[PartitionKey], root: &Path) -> Result<Self> {
        let mut places = HashMap::<Path, Vec<&Partition>>::with_capacity(partitions.len());
        let mut elsewhere = HashSet::new();
        for partition in partitions {
            let path = object_path(&partition.location)?;
            if Directories::at(path.clone(), root).spell(keys).ok().as_ref() != Some(&partition.values) {
                elsewhere.insert(partition.values.as_slice());
            }
            places.entry(path).or_default().push(partition);
        }
        Ok(Self { places, elsewhere })
    }

    /// The partition whose files lie in `directory`, or in one above it. Of several, that with the values that the directories spell.
    fn of(&self, directory: &Path, root: &Path, values: &[ScalarValue]) -> Option<&'a Partition> {
        let mut next = (!self.places.is_empty()).then(|| directory.clone());
        while let Some(path) = next.filter(|path| path.prefix_matches(root)) {
            if let Some(found) = self.places.get(&path) {
                return found.iter().find(|partition| partition.values == values).or_else(|| found.first()).copied();
            }
            next = path.parent();
        }
        None
    }
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
        Self::at(file.parent().unwrap_or_else(|| root.clone()), root)
    }

    fn at(path: Path, root: &Path) -> Self {
        let parts = path.prefix_match(root).into_iter().flatten().map(|part| part.as_ref().to_owned()).collect::<Vec<_>>();
        let pairs = parts.iter().map(|part| part.split_once('=')).collect::<Option<Vec<_>>>().unwrap_or_default();
        let values = pairs.iter().map(|(_, value)| keys::unescape(value)).collect();
        let names = pairs.iter().map(|(name, _)| keys::unescape(name).to_lowercase()).collect::<Vec<_>>();
        Self { path, names: (!names.is_empty()).then_some(names), values }
    }

    /// The values as those of `keys`, in order.
    fn spell(&self, keys: &[PartitionKey]) -> Result<Vec<ScalarValue>> {
        keys.iter().zip(&self.values).map(|(key, value)| keys::parse_value(key, value)).collect()
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

async fn read_footer(store: &dyn ObjectStore, object: &Listed, request: &Discover<'_>) -> Result<Footer> {
    let file_error = |reason: String| Error::File { url: object.url.clone(), reason };
    let is_orc = request.storage.format == FileFormat::Orc;
    let unreadable = |error: DataFusionError| match error {
        DataFusionError::ObjectStore(cause) => Error::ObjectStore { url: object.url.clone(), cause: *cause },
        DataFusionError::Execution(reason) if is_orc => file_error(reason),
        error => file_error(format!("is not a whole Parquet file: {}", error.strip_backtrace())),
    };
    if is_orc {
        return formats::orc_footer(store, &object.meta, request.schema.map(AsRef::as_ref)).await.map_err(unreadable);
    }
    let reader = DFParquetMetadata::new(store, &object.meta).with_metadata_size_hint(Some(FOOTER_BYTES_GUESS));
    let metadata = reader.fetch_metadata().await.map_err(unreadable)?;
    Footer::of(&metadata).map_err(file_error)
}

/// The table's columns while files are added.
struct Columns<'a> {
    fields: Vec<Field>,
    /// How many of them are declared, if any are.
    declared: Option<usize>,
    grows: bool,
    keys: &'a [PartitionKey],
}

impl<'a> Columns<'a> {
    fn new(declared: Option<&SchemaRef>, grows: bool, keys: &'a [PartitionKey]) -> Self {
        let fields = declared.map(|schema| schema.fields().iter().map(|field| field.as_ref().clone()).collect()).unwrap_or_default();
        Self { fields, declared: declared.map(|schema| schema.fields().len()), grows, keys }
    }

    fn finish(self) -> SchemaRef {
        Arc::new(Schema::new(self.fields))
    }

    /// Adds a file's columns. Those that the table does not declare, unless it grows, and those named like a key, are left out.
    fn add(&mut self, url: &str, file: &Schema) -> Result<()> {
        let misfit = |mismatch: Mismatch| Error::File { url: url.to_owned(), reason: mismatch.to_string() };
        let columns = FileColumns::new(file);
        let declared = self.declared.unwrap_or_default();
        self.fields[..declared].iter().try_for_each(|field| columns.find(field).map(drop).map_err(misfit))?;
        if self.declared.is_some() && !self.grows {
            return Ok(());
        }
        for field in file.fields() {
            let (name, found) = (field.name().to_lowercase(), plain_type(field.data_type()));
            if self.keys.iter().any(|key| key.name == name) {
                continue;
            }
            columns.position(&name).map_err(misfit)?;
            match self.fields.iter_mut().enumerate().find(|(_, column)| *column.name() == name) {
                None => self.fields.push(Field::new(name, found, true)),
                Some((place, _)) if place < declared => {}
                Some((_, column)) => {
                    let merged = merge(column.data_type(), &found);
                    let merged = merged.ok_or_else(|| misfit(Mismatch::of_types(&name, &found, column.data_type())))?;
                    *column = column.clone().with_data_type(merged);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
