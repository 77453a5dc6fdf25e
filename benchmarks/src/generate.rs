//! Data that a row number and a column decide: the same on any machine and with any number of threads.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrow::array::{ArrayRef, Date32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use windlass_client::machine;

use crate::Result;

/// Rows made at a time.
const BATCH_ROWS: u64 = 64 * 1024;
/// Rows that a file of a table without keys has at least, if the table has so many.
const FILE_ROWS_MIN: u64 = 500_000;
/// Files that a table without keys has at most.
const FILES_MAX: u64 = 64;
/// What a data set was generated with is kept here, beside its tables.
const SCALE_FILE: &str = "scale";

/// A table that is made of row numbers.
pub struct Generated {
    /// Its name.
    pub name: &'static str,
    /// The column that its directories show; rows are dealt to them in order.
    pub key: Option<Key>,
    /// How many rows it has at a scale.
    pub rows: fn(f64) -> u64,
    /// The columns in the files, for some of the rows.
    pub columns: fn(&Rows) -> Vec<(&'static str, ArrayRef)>,
}

/// A column that exists in directory names only.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Its type as SQL spells it.
    pub sql_type: &'static str,
    /// How many values it has.
    pub values: u64,
    /// The value of a number below that.
    pub value: fn(u64) -> String,
}

/// Some rows of a table.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Their numbers.
    pub range: Range<u64>,
    /// How many rows the table has.
    pub total: u64,
    /// The scale of the data set.
    pub scale: f64,
}

impl Generated {
    /// The columns in the files.
    pub fn schema(&self) -> Result<SchemaRef> {
        Ok(self.batch(&Rows { range: 0..0, total: (self.rows)(1.0), scale: 1.0 })?.schema())
    }

    /// Statements that make the table of the files in `location`, in the database in use.
    pub fn ddl(&self, location: &str) -> Result<Vec<String>> {
        let schema = self.schema()?;
        let columns = schema.fields().iter().map(|field| format!("{} {}", field.name(), sql_type(field.data_type()))).collect::<Vec<_>>();
        let keys = self.key.map_or_else(String::new, |key| format!("PARTITIONED BY ({} {}) ", key.name, key.sql_type));
        let create = format!("CREATE EXTERNAL TABLE {} ({}) {keys}STORED AS PARQUET LOCATION '{location}'", self.name, columns.join(", "));
        let repair = self.key.map(|_| format!("MSCK REPAIR TABLE {}", self.name));
        Ok([create].into_iter().chain(repair).collect())
    }

    fn batch(&self, rows: &Rows) -> Result<RecordBatch> {
        Ok(RecordBatch::try_from_iter_with_nullable((self.columns)(rows).into_iter().map(|(name, values)| (name, values, true)))?)
    }

    /// How many files it has at a scale.
    fn files(&self, scale: f64) -> u64 {
        self.key.map_or_else(|| ((self.rows)(scale) / FILE_ROWS_MIN).clamp(1, FILES_MAX), |key| key.values)
    }

    fn write(&self, directory: &Path, file: u64, scale: f64) -> Result<()> {
        let (total, files) = ((self.rows)(scale), self.files(scale));
        let directory =
            self.key.map_or_else(|| directory.to_path_buf(), |key| directory.join(format!("{}={}", key.name, (key.value)(file))));
        fs::create_dir_all(&directory)?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
        // Plain Parquet, without a note about Arrow's types: readers choose for themselves.
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let name = if self.key.is_some() { 0 } else { file };
        let mut writer =
            ArrowWriter::try_new_with_options(File::create(directory.join(format!("part-{name}.parquet")))?, self.schema()?, options)?;
        let (mut first, end) = (total * file / files, total * (file + 1) / files);
        while first < end {
            let range = first..end.min(first + BATCH_ROWS);
            first = range.end;
            writer.write(&self.batch(&Rows { range, total, scale })?)?;
        }
        writer.close()?;
        Ok(())
    }
}

impl Rows {
    /// A column of 32-bit integers.
    pub fn int(&self, value: impl Fn(u64) -> u64) -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(self.range.clone().map(|row| value(row) as i32)))
    }

    /// A column of 64-bit integers.
    pub fn long(&self, value: impl Fn(u64) -> u64) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(self.range.clone().map(|row| value(row) as i64)))
    }

    /// A column of floating-point numbers.
    pub fn double(&self, value: impl Fn(u64) -> f64) -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(self.range.clone().map(value)))
    }

    /// A column of texts.
    pub fn text(&self, value: impl Fn(u64) -> String) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(self.range.clone().map(value)))
    }

    /// A column of days, counted from 1970.
    pub fn date(&self, value: impl Fn(u64) -> i32) -> ArrayRef {
        Arc::new(Date32Array::from_iter_values(self.range.clone().map(value)))
    }

    /// A column of times without a zone, in seconds since 1970.
    pub fn time(&self, value: impl Fn(u64) -> i64) -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from_iter_values(self.range.clone().map(|row| value(row) * 1_000_000)))
    }
}

/// Writes the tables under `root`, all or nothing. What is there must have been generated at this scale.
pub fn generate(root: &Path, tables: &[Generated], scale: f64) -> Result<()> {
    if let Ok(found) = fs::read_to_string(root.join(SCALE_FILE)) {
        if found.trim().parse() == Ok(scale) {
            return Ok(());
        }
        return Err(format!("'{}' was generated at scale {}; name another directory with --data", root.display(), found.trim()).into());
    }
    if !(scale > 0.0 && scale <= 10_000.0) {
        return Err(format!("scale {scale} is out of range; choose one above 0, such as 0.1").into());
    }
    eprintln!("generating data at scale {scale} in {}", root.display());
    let partial = root.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    let work: Vec<_> = tables.iter().flat_map(|table| (0..table.files(scale)).map(move |file| (table, file))).collect();
    let next = AtomicUsize::new(0);
    let run = || {
        while let Some((table, file)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            table.write(&partial.join(table.name), *file, scale).map_err(|error| format!("cannot write '{}': {error}", table.name))?;
        }
        Ok::<_, String>(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..machine::cores()).map(|_| scope.spawn(run)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    fs::write(partial.join(SCALE_FILE), format!("{scale}\n"))?;
    Ok(fs::rename(&partial, root)?)
}

/// A number that only the column and the row decide, in which neighbours have nothing in common.
pub fn noise(column: u64, row: u64) -> u64 {
    let mut bits = row.wrapping_add(column.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// One of 0 to `end - 1`, each as often.
pub fn below(column: u64, row: u64, end: u64) -> u64 {
    noise(column, row) % end.max(1)
}

/// One of 0 up to 1.
pub fn unit(column: u64, row: u64) -> f64 {
    (noise(column, row) >> 11) as f64 / (1_u64 << 53) as f64
}

/// One of 0 to `end - 1`, number k about (k + 1)^-exponent as often as number 0; `exponent` is not 1.
pub fn zipf(column: u64, row: u64, end: u64, exponent: f64) -> u64 {
    let power = 1.0 - exponent;
    let last = (end as f64 + 1.0).powf(power);
    let value = (1.0 + unit(column, row) * (last - 1.0)).powf(power.recip());
    (value as u64).clamp(1, end) - 1
}

/// Sends 0 to `end - 1` to each other, out of order, for `end` up to a million times a million.
pub fn shuffled(number: u64, end: u64) -> u64 {
    /// A prime; it shares no factor with an `end` that is not its multiple.
    const STRIDE: u64 = 1_000_003;
    (number * STRIDE + end / 3) % end.max(1)
}

fn sql_type(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int32 => "int",
        DataType::Int64 => "bigint",
        DataType::Float64 => "double",
        DataType::Date32 => "date",
        DataType::Timestamp(..) => "timestamp",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_shuffled_once_each_and_zipf_prefers_the_first() {
        assert_eq!((0..1000).map(|number| shuffled(number, 1000)).collect::<HashSet<_>>().len(), 1000);
        let drawn: Vec<_> = (0..10_000).map(|row| zipf(1, row, 1_000_000, 1.5)).collect();
        let share = |key| drawn.iter().filter(|drawn| **drawn == key).count();
        // Of a continuous distribution rounded down: 1 - 2^-0.5 and 2^-0.5 - 3^-0.5.
        assert!((2700..3150).contains(&share(0)), "{}", share(0));
        assert!((1150..1450).contains(&share(1)), "{}", share(1));
        assert!(drawn.iter().all(|drawn| *drawn < 1_000_000));
    }

    #[test]
    fn data_is_whole_and_its_scale_is_remembered() {
        let table = Generated {
            name: "t",
            key: Some(Key { name: "year", sql_type: "int", values: 3, value: |number| (1990 + number).to_string() }),
            rows: |scale| (10.0 * scale) as u64,
            columns: |rows| vec![("n", rows.long(|row| row))],
        };
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        generate(&data, std::slice::from_ref(&table), 1.0).unwrap();
        let rows = |year: &str| {
            let file = File::open(data.join("t").join(year).join("part-0.parquet")).unwrap();
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            reader.metadata().file_metadata().num_rows()
        };
        assert_eq!(["year=1990", "year=1991", "year=1992"].map(rows), [3, 3, 4]);
        generate(&data, std::slice::from_ref(&table), 1.0).unwrap();
        assert!(generate(&data, std::slice::from_ref(&table), 2.0).unwrap_err().to_string().contains("at scale 1"));
        assert_eq!(
            table.ddl("/d/t").unwrap()[0],
            "CREATE EXTERNAL TABLE t (n bigint) PARTITIONED BY (year int) STORED AS PARQUET LOCATION '/d/t'"
        );
    }
}
