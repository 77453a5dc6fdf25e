//! Columns of files that say little of themselves: from the beginnings of some of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::reader::{ValueIter, infer_json_schema, infer_json_schema_from_iterator};
use datafusion::datasource::file_format::FileFormat as _;
use datafusion::datasource::file_format::avro::AvroFormat;
use datafusion::error::{DataFusionError, Result};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore};

use super::records::{self, Block, Ends};
use super::{Delimited, MAPPING, Reading, Storage, delimited};
use crate::evolution::{list_type, plain_type};

/// Files that are looked at, spread over all.
const FILES_MAX: usize = 16;
/// Records of each.
const RECORDS_MAX: usize = 10_000;

/// What files hold, as far as was looked.
#[derive(Debug)]
pub struct Inferred {
    /// Columns under lower-case names.
    pub schema: SchemaRef,
    /// Serde properties that name the fields which files spell otherwise.
    pub mapping: BTreeMap<String, String>,
}

/// Looks at some of the files of a table. Files with footers say their columns themselves; they are not for this.
///
/// Errors: `Execution` if they do not agree, or name a column twice; those of reading them.
pub async fn infer(
    store: &Arc<dyn ObjectStore>,
    files: &[ObjectMeta],
    storage: &Storage,
    properties: &BTreeMap<String, String>,
) -> Result<Inferred> {
    let step = files.len().div_ceil(FILES_MAX).max(1);
    let files: Vec<_> = files.iter().step_by(step).cloned().collect();
    let reading = Reading::of_words(&storage.words(properties)).map_err(|error| DataFusionError::Execution(error.to_string()))?;
    let found = match reading {
        Reading::Delimited(text) => infer_text(store, &files, &text).await?,
        Reading::Json { .. } => infer_json(store, &files).await?,
        Reading::Orc => return Err(DataFusionError::Internal("columns of ORC files are in their footers".to_owned())),
        Reading::Avro { .. } => {
            let state = SessionContext::new().state();
            let schema = AvroFormat.infer_schema(&state, store, &files).await?;
            schema.fields().iter().map(|field| Field::new(field.name(), plain_type(field.data_type()), true)).collect()
        }
    };
    let is_named = !matches!(storage.format, super::FileFormat::Text | super::FileFormat::Csv);
    let mut names = BTreeSet::new();
    let mut mapping = BTreeMap::new();
    let mut fields = Vec::with_capacity(found.len());
    for field in found {
        let name = field.name().trim().to_lowercase();
        if name.is_empty() || !names.insert(name.clone()) {
            let problem = if name.is_empty() { "a column has no name".to_owned() } else { format!("two columns are named '{name}'") };
            return Err(DataFusionError::Execution(format!("{problem} in the files; declare the columns")));
        }
        if is_named && name != *field.name() {
            mapping.insert(format!("{MAPPING}{name}"), field.name().clone());
        }
        fields.push(field.with_name(name));
    }
    Ok(Inferred { schema: Arc::new(Schema::new(fields)), mapping })
}

/// The first records of a file.
pub(super) async fn sample(store: &Arc<dyn ObjectStore>, file: &ObjectMeta, ends: Ends) -> Result<Option<Block>> {
    let mut blocks = records::blocks(Arc::clone(store), file, None, ends, RECORDS_MAX);
    blocks.try_next().await.map_err(|error| {
        let reason = error.strip_backtrace();
        DataFusionError::Execution(format!("cannot read file '/{}': {reason}", file.location))
    })
}

async fn infer_json(store: &Arc<dyn ObjectStore>, files: &[ObjectMeta]) -> Result<Vec<Field>> {
    let mut text = Vec::new();
    for file in files {
        if let Some(block) = sample(store, file, Ends::lines()).await? {
            text.extend_from_slice(block.data());
            text.push(b'\n');
        }
    }
    match infer_json_schema(text.as_slice(), None) {
        Ok((schema, _)) => Ok(known_fields(schema.fields())),
        Err(error) => columns_alone(&text)
            .ok_or_else(|| DataFusionError::Execution(format!("the columns cannot be told from the files ({error}); declare them"))),
    }
}

/// Columns of objects that do not agree about all of them: those that they do not agree about are text. None if some are no objects.
fn columns_alone(text: &[u8]) -> Option<Vec<Field>> {
    let mut objects = ValueIter::new(text, None).collect::<Result<Vec<_>, ArrowError>>().ok()?;
    let mut empty = objects.first()?.clone();
    empty.as_object_mut()?.clear();
    let mut names = BTreeSet::new();
    for object in &objects {
        names.extend(object.as_object()?.keys().cloned());
    }
    let mut fields = Vec::with_capacity(names.len());
    for name in names {
        let alone = objects.iter_mut().filter_map(|object| {
            let (value, mut alone) = (object.as_object_mut()?.remove(&name)?, empty.clone());
            alone.as_object_mut()?.insert(name.clone(), value);
            Some(Ok(alone))
        });
        match infer_json_schema_from_iterator(alone) {
            Ok(schema) => fields.extend(known_fields(schema.fields())),
            Err(_) => fields.push(Field::new(&name, DataType::Utf8, true)),
        }
    }
    Some(fields)
}

/// The fields in the order of their names, because objects have none; without those of which nothing is known.
fn known_fields<'a>(fields: impl IntoIterator<Item = &'a Arc<Field>>) -> Vec<Field> {
    let known = |field: &'a Arc<Field>| Some(Field::new(field.name(), known_type(field.data_type())?, true));
    let mut fields: Vec<_> = fields.into_iter().filter_map(known).collect();
    fields.sort_by(|a, b| a.name().cmp(b.name()));
    fields
}

fn known_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        // NULL wherever it was looked at.
        DataType::Null => DataType::Utf8,
        DataType::List(item) => list_type(known_type(item.data_type())?),
        DataType::Struct(fields) => {
            let fields = known_fields(fields);
            if fields.is_empty() {
                return None;
            }
            DataType::Struct(fields.into())
        }
        other => plain_type(other),
    })
}

/// Columns of delimited text.
pub(super) async fn infer_text(store: &Arc<dyn ObjectStore>, files: &[ObjectMeta], text: &Delimited) -> Result<Vec<Field>> {
    let mut names = Vec::new();
    let mut types: Vec<Option<DataType>> = Vec::new();
    for file in files {
        let with_header = Ends::of(&Delimited { header_lines: 0, ..text.clone() });
        let Some(block) = sample(store, file, with_header).await? else { continue };
        let header = text.header_lines.checked_sub(1).and_then(|last| block.records().nth(last));
        if let Some(header) = header.filter(|_| names.is_empty()) {
            names = delimited::texts(text, header)?;
        }
        let width = block.records().skip(text.header_lines).take(1).map(|record| delimited::texts(text, record));
        let width = width.collect::<Result<Vec<_>>>()?.first().map_or(0, Vec::len).max(names.len());
        types.resize(types.len().max(width), None);
        let Some(block) = sample(store, file, Ends::of(text)).await? else { continue };
        let schema = Schema::new((0..types.len()).map(|place| Field::new(place.to_string(), DataType::Utf8View, true)).collect::<Vec<_>>());
        let decoder = delimited::Decoder::new(text.clone(), Arc::new(schema), (0..types.len()).collect());
        for (known, column) in types.iter_mut().zip(decoder.decode(&block)?.columns()) {
            *known = match (known.take(), type_of(column)) {
                (Some(known), Some(found)) => Some(common(known, found)),
                (known, found) => known.or(found),
            };
        }
    }
    let name = |place: usize| names.get(place).cloned().unwrap_or_else(|| format!("_c{place}"));
    Ok(types.into_iter().enumerate().map(|(place, found)| Field::new(name(place), found.unwrap_or(DataType::Utf8), true)).collect())
}

/// The type of two parts of a column.
fn common(one: DataType, other: DataType) -> DataType {
    match (one, other) {
        (one, other) if one == other => one,
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
        _ => DataType::Utf8,
    }
}

/// The narrowest type that all texts are values of; none if there are none.
fn type_of(texts: &ArrayRef) -> Option<DataType> {
    let length = |text: &str| match text.len() {
        10 => DataType::Date32,
        _ => DataType::Timestamp(TimeUnit::Microsecond, None),
    };
    let values = texts.as_string_view();
    let mut filled = values.iter().flatten().filter(|text| !text.is_empty()).peekable();
    let time = length(filled.peek()?);
    let same = filled.all(|text| length(text) == time);
    let filled: ArrayRef = delimited::without_empty(texts);
    let holds = |data_type: &DataType| {
        let cast = cast_with_options(&filled, data_type, &CastOptions::default());
        cast.is_ok_and(|cast| cast.null_count() == filled.null_count())
    };
    let mut choices = vec![DataType::Int64, DataType::Float64, DataType::Boolean];
    choices.extend(same.then_some(time));
    Some(choices.into_iter().find(holds).unwrap_or(DataType::Utf8))
}
