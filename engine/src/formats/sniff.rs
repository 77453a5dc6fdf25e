//! The format of files of which nothing is known: from their names, or else from how they begin.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::infer::{infer_text, sample};
use super::records::{self, Ends};
use super::{Delimited, FORMAT, FileFormat, HEADER_LINES, Reading, Storage, delimited};

/// Files that are looked into, spread over all.
const FILES_MAX: usize = 8;
/// Records that are looked at for what separates their fields.
const RECORDS_MAX: usize = 100;
/// What separates fields, most likely first.
const SEPARATORS: [u8; 4] = [b',', b'\t', b';', b'|'];

/// How files seem to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sniffed {
    /// The format, with what separates fields.
    pub storage: Storage,
    /// Properties of a table of such files: its header lines.
    pub properties: BTreeMap<String, String>,
}

/// The format that the name of a file says, whatever compressed it.
pub fn format_of_name(name: &str) -> Option<FileFormat> {
    let name = name.to_ascii_lowercase();
    let plain = if records::is_compressed(&name) { name.rsplit_once('.').map_or("", |(plain, _)| plain) } else { &name };
    Some(match plain.rsplit_once('.')?.1 {
        "parquet" | "parq" | "pq" => FileFormat::Parquet,
        "csv" | "tsv" => FileFormat::Csv,
        "json" | "jsonl" | "ndjson" => FileFormat::Json,
        "avro" => FileFormat::Avro,
        "orc" => FileFormat::Orc,
        _ => return None,
    })
}

/// Looks at the names of all files, and into some of those whose names say nothing.
///
/// Errors: `Execution` if they are of several formats, or of one that is not known; those of reading them.
pub async fn sniff(store: &Arc<dyn ObjectStore>, files: &[ObjectMeta]) -> Result<Sniffed> {
    let (named, unnamed): (Vec<_>, Vec<_>) =
        files.iter().map(|file| (file, format_of_name(file.location.as_ref()))).partition(|(_, format)| format.is_some());
    let mut known = None;
    let mut agree = |format: FileFormat, file: &ObjectMeta| {
        let (first, one) = known.get_or_insert_with(|| (format, file.location.clone()));
        match *first == format {
            true => Ok(()),
            false => Err(DataFusionError::Execution(format!(
                "files of several formats lie together: '/{one}' is {first}, '/{}' is {format}",
                file.location
            ))),
        }
    };
    for (file, format) in named {
        format.map_or(Ok(()), |format| agree(format, file))?;
    }
    for (file, _) in spread(&unnamed) {
        agree(format_of_content(store, file).await?, file)?;
    }
    let (format, _) = known.ok_or_else(|| DataFusionError::Execution("there are no files".to_owned()))?;
    let (mut serde, mut properties) = (BTreeMap::new(), BTreeMap::new());
    if format == FileFormat::Csv {
        let some: Vec<_> = spread(files).cloned().collect();
        let separator = separator(store, &some).await?;
        if separator != SEPARATORS[0] {
            let spelled = if separator == b'\t' { "\\t".to_owned() } else { char::from(separator).to_string() };
            serde.insert("separatorChar".to_owned(), spelled);
        }
        if has_header(store, &some, &csv(separator)?).await? {
            properties.insert(HEADER_LINES.to_owned(), "1".to_owned());
        }
    }
    Ok(Sniffed { storage: Storage { format, serde, ..Storage::default() }, properties })
}

fn spread<T>(files: &[T]) -> impl Iterator<Item = &T> {
    files.iter().step_by(files.len().div_ceil(FILES_MAX).max(1))
}

async fn format_of_content(store: &Arc<dyn ObjectStore>, file: &ObjectMeta) -> Result<FileFormat> {
    let unknown = || DataFusionError::Execution(format!("file '/{}' is of no format that is known", file.location));
    let begin = store.get_range(&file.location, 0..file.size.min(4)).await?;
    match begin.as_ref() {
        b"PAR1" => return Ok(FileFormat::Parquet),
        b"Obj\x01" => return Ok(FileFormat::Avro),
        // Text may begin so, too.
        [b'O', b'R', b'C', ..] => {
            let end = store.get_range(&file.location, file.size.saturating_sub(4)..file.size).await?;
            if end.starts_with(b"ORC") {
                return Ok(FileFormat::Orc);
            }
        }
        _ => {}
    }
    let Some(block) = sample(store, file, Ends::lines()).await? else { return Err(unknown()) };
    let first = block.records().map(<[u8]>::trim_ascii).find(|record| !record.is_empty()).ok_or_else(unknown)?;
    match first {
        [b'{', ..] => Ok(FileFormat::Json),
        text if std::str::from_utf8(text).is_err() || text.contains(&0) => Err(unknown()),
        text if text.contains(&1) => Ok(FileFormat::Text),
        _ => Ok(FileFormat::Csv),
    }
}

/// CSV as it usually is.
fn csv(separator: u8) -> Result<Delimited> {
    let words = [(FORMAT, "CSV".to_owned()), ("separatorChar", char::from(separator).to_string())];
    let words: HashMap<_, _> = words.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    match Reading::of_words(&words) {
        Ok(Reading::Delimited(text)) => Ok(text),
        other => Err(DataFusionError::Internal(format!("plain CSV is not understood: {other:?}"))),
    }
}

/// The one that cuts all records into the same number of fields, and into most.
async fn separator(store: &Arc<dyn ObjectStore>, files: &[ObjectMeta]) -> Result<u8> {
    let Some(file) = files.first() else { return Ok(SEPARATORS[0]) };
    let Some(block) = sample(store, file, Ends::lines()).await? else { return Ok(SEPARATORS[0]) };
    let mut best = (1, SEPARATORS[0]);
    for separator in SEPARATORS {
        let text = csv(separator)?;
        let records = block.records().filter(|record| !record.is_empty()).take(RECORDS_MAX);
        let widths: BTreeSet<_> = records.map(|record| delimited::texts(&text, record).map_or(0, |fields| fields.len())).collect();
        if let (Some(&width), 1) = (widths.first(), widths.len())
            && width > best.0
        {
            best = (width, separator);
        }
    }
    Ok(best.1)
}

/// Whether files begin with names: different ones, alike in all files, above values of other types if there is one file only.
async fn has_header(store: &Arc<dyn ObjectStore>, files: &[ObjectMeta], text: &Delimited) -> Result<bool> {
    let (mut firsts, mut found) = (BTreeSet::new(), 0);
    for file in files {
        if let Some(block) = sample(store, file, Ends::of(text)).await? {
            firsts.extend(block.records().next().map(<[u8]>::to_vec));
            found += 1;
        }
    }
    let (Some(first), 1) = (firsts.first(), firsts.len()) else { return Ok(false) };
    let names = delimited::texts(text, first)?;
    let are_names = names.iter().all(|name| !name.trim().is_empty() && name.parse::<f64>().is_err());
    if !are_names || names.iter().collect::<BTreeSet<_>>().len() < names.len() {
        return Ok(false);
    }
    if found > 1 {
        return Ok(true);
    }
    let below = infer_text(store, files, &Delimited { header_lines: 1, ..text.clone() }).await?;
    let all = infer_text(store, files, text).await?;
    Ok(below.iter().zip(&all).any(|(below, all)| *below.data_type() != DataType::Utf8 && below.data_type() != all.data_type()))
}
