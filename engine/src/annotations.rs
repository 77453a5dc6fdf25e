//! What a plan says of a Parquet file that the file does not say of itself: how it calls columns, and which of its rows are still the table's. Both travel where plans have a schema of the file, whose metadata nothing else reads.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::physical_plan::parquet::ParquetRowSelection;
use datafusion::error::{DataFusionError, Result};
use datafusion::parquet::arrow::arrow_reader::{RowSelection, RowSelector};

use crate::file_names::{FileName, FileNames};

/// Prefix of the words that say how files call a column and the fields inside of it, by its place among [`FileNames`] and the column. What
/// follows is a name behind [`NAME`], or a number.
const COLUMN: &str = "windlass.column.";
/// Prefix of a name.
const NAME: char = '=';
/// The word that says which rows are left.
const ROWS: &str = "windlass.rows";

/// The rows of a file that are left: the lengths of runs that are and of runs that are not, by turns, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRows(Arc<str>);

impl KeptRows {
    /// All of so many rows but those at the places that `deleted` lists in ascending order; none if they are not that.
    pub fn without(rows: u64, deleted: &[u64]) -> Option<Self> {
        let mut runs = Vec::new();
        let mut next = 0;
        for &place in deleted {
            match place.checked_sub(next)? {
                0 if !runs.is_empty() => *runs.last_mut()? += 1,
                kept => runs.extend([kept, 1]),
            }
            next = place + 1;
        }
        runs.push(rows.checked_sub(next)?);
        Some(Self(runs.iter().map(u64::to_string).collect::<Vec<_>>().join(" ").into()))
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    fn selection(text: &str) -> Option<RowSelection> {
        let run = |(turn, length): (usize, &str)| Some(RowSelector { row_count: length.parse().ok()?, skip: turn % 2 == 1 });
        text.split(' ').enumerate().map(run).collect::<Option<Vec<_>>>().map(RowSelection::from)
    }
}

/// What travels with a file: how it calls columns that the table calls otherwise, and its rows that are left, if not all are.
pub fn annotations(names: &FileNames, rows: Option<&KeptRows>) -> Option<SchemaRef> {
    let word = |(column, place, name): (&String, usize, &FileName)| {
        let name = match name {
            FileName::Name(name) => format!("{NAME}{name}"),
            FileName::Id(id) => id.to_string(),
        };
        (format!("{COLUMN}{place}.{column}"), name)
    };
    let names = names.iter().flat_map(|(column, names)| names.iter().enumerate().map(move |(place, name)| word((column, place, name))));
    let words: HashMap<_, _> = names.chain(rows.map(|rows| (ROWS.to_owned(), rows.0.to_string()))).collect();
    (!words.is_empty()).then(|| Arc::new(Schema::empty().with_metadata(words)))
}

/// How all files of a scan call columns that the table calls otherwise.
pub(crate) fn file_names(scan: &FileScanConfig) -> FileNames {
    let words = scan.file_groups.iter().flat_map(|group| group.files()).find_map(|file| file.arrow_schema.as_ref());
    let names = words.into_iter().flat_map(|words| words.metadata()).filter_map(|(word, name)| {
        let (place, column) = word.strip_prefix(COLUMN)?.split_once('.')?;
        let name = match name.strip_prefix(NAME) {
            Some(name) => FileName::Name(name.to_owned()),
            None => FileName::Id(name.parse().ok()?),
        };
        Some((column.to_owned(), place.parse::<usize>().ok()?, name))
    });
    let mut names = names.collect::<Vec<_>>();
    names.sort_unstable_by_key(|(_, place, _)| *place);
    let mut found = FileNames::new();
    for (column, _, name) in names {
        found.entry(column).or_default().push(name);
    }
    found
}

/// The file as the reader must be asked for it: with the rows that are left.
pub(crate) fn annotated(mut file: PartitionedFile) -> Result<PartitionedFile> {
    let Some(words) = file.arrow_schema.take() else { return Ok(file) };
    let Some(rows) = words.metadata().get(ROWS) else { return Ok(file) };
    let selection = KeptRows::selection(rows).ok_or_else(|| DataFusionError::Internal(format!("'{rows}' says no rows of a file")))?;
    Ok(file.with_extension(ParquetRowSelection::new(selection)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_left_survive_their_words() {
        let left = |rows: u64, deleted: &[u64]| {
            let kept = KeptRows::without(rows, deleted)?;
            let file = PartitionedFile { arrow_schema: annotations(&FileNames::new(), Some(&kept)), ..PartitionedFile::new("f", 1) };
            let file = annotated(file).unwrap();
            assert_eq!(file.arrow_schema, None, "the reader would take it for the file's columns");
            let selection = file.extensions.get::<ParquetRowSelection>().unwrap().selection().clone();
            let mut left = Vec::new();
            let mut next = 0;
            for RowSelector { row_count, skip } in Vec::<RowSelector>::from(selection) {
                left.extend((next..next + row_count as u64).filter(|_| !skip));
                next += row_count as u64;
            }
            assert_eq!(next, rows, "the reader wants to be told of every row");
            Some(left)
        };
        assert_eq!(left(6, &[]).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(left(6, &[0, 1, 4]).unwrap(), [2, 3, 5]);
        assert_eq!(left(4, &[1, 2, 3]).unwrap(), [0]);
        assert_eq!(left(2, &[0, 1]).unwrap(), [0; 0]);
        assert_eq!(left(2, &[2]), None);
        assert_eq!(left(3, &[1, 1]), None);
    }
}
