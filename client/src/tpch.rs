//! TPC-H: data in a Hive layout, the statements that make tables of it, and the 22 queries.
//!
//! Layout under the directory: `lineitem/l_shipyear=1995/l_shipmonth=3/part-1.parquet`, `orders/o_orderyear=1995/…`, one directory of
//! plain files for each other table. The partition columns are derived from `l_shipdate` and `o_orderdate` and live in the path only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use arrow::array::{Int32Array, RecordBatch, RecordBatchReader, UInt32Array};
use arrow::compute::{DatePart, date_part, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator, RegionGenerator,
    SupplierGenerator,
};
use tpchgen_arrow::{CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow};

use crate::error::{Error, Result};

/// Rows of one generated batch: big enough that each of 84 partitions gets a few hundred.
const BATCH_ROWS: usize = 64 * 1024;
/// Bytes that all open Parquet writers may hold together before the fullest ones end their row group.
const WRITER_BYTES_MAX: usize = 512 << 20;
/// Each thread may hold one file per month of seven years open.
const THREADS_MAX: usize = 8;

/// A column that exists in directory names only.
#[derive(Debug, Clone, Copy)]
pub struct PartitionColumn {
    /// Its name.
    pub name: &'static str,
    source: &'static str,
    part: DatePart,
}

/// One of the eight tables.
#[derive(Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Columns that partition it; empty for plain files.
    pub partitioned_by: &'static [PartitionColumn],
    rows_at_scale_1: u64,
    grows: bool,
    schema: fn() -> SchemaRef,
    reader: fn(f64, i32, i32) -> Box<dyn RecordBatchReader + Send>,
}

macro_rules! reader {
    ($arrow:ident, $generator:ident) => {
        |scale, part, parts| Box::new($arrow::new($generator::new(scale, part, parts)).with_batch_size(BATCH_ROWS))
    };
}

const SHIP_YEAR: PartitionColumn = PartitionColumn { name: "l_shipyear", source: "l_shipdate", part: DatePart::Year };
const SHIP_MONTH: PartitionColumn = PartitionColumn { name: "l_shipmonth", source: "l_shipdate", part: DatePart::Month };
const ORDER_YEAR: PartitionColumn = PartitionColumn { name: "o_orderyear", source: "o_orderdate", part: DatePart::Year };

/// The tables, the largest first, so that threads which share the work end together.
pub static TABLES: [Table; 8] = [
    Table {
        name: "lineitem",
        partitioned_by: &[SHIP_YEAR, SHIP_MONTH],
        rows_at_scale_1: 6_001_215,
        grows: true,
        schema: LineItemArrow::schema_ref,
        reader: reader!(LineItemArrow, LineItemGenerator),
    },
    Table {
        name: "orders",
        partitioned_by: &[ORDER_YEAR],
        rows_at_scale_1: 1_500_000,
        grows: true,
        schema: OrderArrow::schema_ref,
        reader: reader!(OrderArrow, OrderGenerator),
    },
    Table {
        name: "partsupp",
        partitioned_by: &[],
        rows_at_scale_1: 800_000,
        grows: true,
        schema: PartSuppArrow::schema_ref,
        reader: reader!(PartSuppArrow, PartSuppGenerator),
    },
    Table {
        name: "part",
        partitioned_by: &[],
        rows_at_scale_1: 200_000,
        grows: true,
        schema: PartArrow::schema_ref,
        reader: reader!(PartArrow, PartGenerator),
    },
    Table {
        name: "customer",
        partitioned_by: &[],
        rows_at_scale_1: 150_000,
        grows: true,
        schema: CustomerArrow::schema_ref,
        reader: reader!(CustomerArrow, CustomerGenerator),
    },
    Table {
        name: "supplier",
        partitioned_by: &[],
        rows_at_scale_1: 10_000,
        grows: true,
        schema: SupplierArrow::schema_ref,
        reader: reader!(SupplierArrow, SupplierGenerator),
    },
    Table {
        name: "nation",
        partitioned_by: &[],
        rows_at_scale_1: 25,
        grows: false,
        schema: NationArrow::schema_ref,
        reader: reader!(NationArrow, NationGenerator),
    },
    Table {
        name: "region",
        partitioned_by: &[],
        rows_at_scale_1: 5,
        grows: false,
        schema: RegionArrow::schema_ref,
        reader: reader!(RegionArrow, RegionGenerator),
    },
];

impl Table {
    /// Rows at a scale; for `lineitem` within a thousandth.
    pub fn rows(&self, scale: f64) -> u64 {
        if self.grows { (self.rows_at_scale_1 as f64 * scale) as u64 } else { self.rows_at_scale_1 }
    }

    /// The columns in the files.
    pub fn schema(&self) -> SchemaRef {
        (self.schema)()
    }

    /// The statements that make this table of the files in `root/<name>`, replacing an older one, in the database in use.
    pub fn ddl(&self, root: &Path) -> Vec<String> {
        let name = self.name;
        let columns =
            self.schema().fields().iter().map(|field| format!("{} {}", field.name(), sql_type(field.data_type()))).collect::<Vec<_>>();
        let keys = self.partitioned_by.iter().map(|key| format!("{} int", key.name)).collect::<Vec<_>>();
        let partitioned_by = if keys.is_empty() { String::new() } else { format!("PARTITIONED BY ({}) ", keys.join(", ")) };
        let location = root.join(name).display().to_string().replace('\'', "''");
        let mut statements = vec![
            format!("DROP TABLE IF EXISTS {name}"),
            format!("CREATE EXTERNAL TABLE {name} ({}) {partitioned_by}STORED AS PARQUET LOCATION '{location}'", columns.join(", ")),
        ];
        if !keys.is_empty() {
            statements.push(format!("MSCK REPAIR TABLE {name}"));
        }
        statements
    }
}

/// What [`generate`] wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volume {
    /// Rows of all tables.
    pub rows: u64,
    /// Files of all tables.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes all tables at `scale` under `root`, and calls `progress` with the rows of every batch.
///
/// Memory is bounded at any scale: batches go to open Parquet writers, the fullest of which ends its row group when all of them together
/// hold 512 MiB. The same scale gives the same rows on any machine; the number of files follows the scale. Blocks: call it off the runtime.
pub fn generate(root: &Path, scale: f64, progress: &(dyn Fn(u64) + Sync)) -> Result<Volume> {
    if !(scale > 0.0 && scale <= 100_000.0) {
        return Err(Error::Usage(format!("scale {scale} is out of range; choose one above 0, such as 0.1")));
    }
    // One file per table and partition for each started unit of scale, up to what threads can share.
    let parts = (scale.ceil() as i32).clamp(1, 64);
    let work: Vec<_> = TABLES.iter().flat_map(|table| (1..=if table.grows { parts } else { 1 }).map(move |part| (table, part))).collect();
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let next = AtomicUsize::new(0);
    let run = || -> Result<Volume> {
        let mut volume = Volume::default();
        while let Some((table, part)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let parts = if table.grows { parts } else { 1 };
            let mut writer = Writer::new(root.join(table.name), table, *part, WRITER_BYTES_MAX / threads)?;
            for batch in (table.reader)(scale, *part, parts) {
                let batch = batch?;
                volume.rows += batch.num_rows() as u64;
                writer.write(&batch)?;
                progress(batch.num_rows() as u64);
            }
            writer.close(&mut volume)?;
        }
        Ok(volume)
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        handles.into_iter().try_fold(Volume::default(), |sum, handle| {
            let volume = handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(Volume { rows: sum.rows + volume.rows, files: sum.files + volume.files, bytes: sum.bytes + volume.bytes })
        })
    })
}

/// The 22 queries with the validation parameters of the specification, by name: `q01` to `q22`.
///
/// Written as for scale 1: q11 keeps its fraction of 0.0001 at any scale.
pub fn queries() -> [(&'static str, &'static str); 22] {
    macro_rules! query {
        ($($name:literal),*) => { [$(($name, include_str!(concat!("tpch/", $name, ".sql")))),*] };
    }
    query!(
        "q01", "q02", "q03", "q04", "q05", "q06", "q07", "q08", "q09", "q10", "q11", "q12", "q13", "q14", "q15", "q16", "q17", "q18",
        "q19", "q20", "q21", "q22"
    )
}

fn sql_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Int32 => "int".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Date32 => "date".into(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        _ => "string".into(),
    }
}

/// One table's open files, by the values of its partition columns.
struct Writer {
    directory: PathBuf,
    table: &'static Table,
    part: i32,
    bytes_max: usize,
    schema: SchemaRef,
    open: BTreeMap<Vec<i32>, (PathBuf, ArrowWriter<File>)>,
}

impl Writer {
    fn new(directory: PathBuf, table: &'static Table, part: i32, bytes_max: usize) -> Result<Self> {
        Ok(Self { directory, table, part, bytes_max, schema: table.schema(), open: BTreeMap::new() })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for (key, rows) in self.keys(batch)? {
            let rows = if rows.len() == batch.num_rows() { batch.clone() } else { take_record_batch(batch, &UInt32Array::from(rows))? };
            self.open(&key)?.write(&rows)?;
        }
        let held: usize = self.open.values().map(|(_, writer)| writer.memory_size()).sum();
        if held > self.bytes_max {
            let fullest = self.open.values_mut().max_by_key(|(_, writer)| writer.memory_size());
            fullest.map_or(Ok(()), |(_, writer)| writer.flush())?;
        }
        Ok(())
    }

    /// The rows of `batch` by partition.
    fn keys(&self, batch: &RecordBatch) -> Result<BTreeMap<Vec<i32>, Vec<u32>>> {
        let mut values = Vec::new();
        for key in self.table.partitioned_by {
            let source = batch.column_by_name(key.source).ok_or_else(|| Error::Format(format!("table has no column '{}'", key.source)))?;
            let part = date_part(source, key.part)?;
            values.push(part.as_any().downcast_ref::<Int32Array>().expect("date parts are int32").clone());
        }
        let mut rows: BTreeMap<Vec<i32>, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.num_rows() {
            let key = values.iter().map(|column| column.value(row)).collect();
            rows.entry(key).or_default().push(row as u32);
        }
        Ok(rows)
    }

    fn open(&mut self, key: &[i32]) -> Result<&mut ArrowWriter<File>> {
        if !self.open.contains_key(key) {
            let mut path = self.directory.clone();
            path.extend(self.table.partitioned_by.iter().zip(key).map(|(column, value)| format!("{}={value}", column.name)));
            fs::create_dir_all(&path).map_err(Error::io(format!("create '{}'", path.display())))?;
            path.push(format!("part-{}.parquet", self.part));
            let file = File::create(&path).map_err(Error::io(format!("create '{}'", path.display())))?;
            self.open.insert(key.to_vec(), (path, writer(file, &self.schema)?));
        }
        Ok(&mut self.open.get_mut(key).expect("inserted above").1)
    }

    fn close(self, volume: &mut Volume) -> Result<()> {
        for (path, writer) in self.open.into_values() {
            writer.close()?;
            volume.files += 1;
            volume.bytes += fs::metadata(&path).map_err(Error::io(format!("read '{}'", path.display())))?.len();
        }
        Ok(())
    }
}

/// Plain Parquet strings instead of a note that says "views": readers choose for themselves.
fn writer(file: File, schema: &Schema) -> Result<ArrowWriter<File>> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    Ok(ArrowWriter::try_new_with_options(file, SchemaRef::new(schema.clone()), options)?)
}

#[cfg(test)]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn partitions_hold_their_own_months_and_all_rows_arrive() {
        let root = tempfile::tempdir().unwrap();
        let seen = std::sync::atomic::AtomicU64::new(0);
        let volume = generate(root.path(), 0.001, &|rows| _ = seen.fetch_add(rows, Ordering::Relaxed)).unwrap();
        assert_eq!(volume.rows, seen.into_inner());
        assert!((8_600..8_750).contains(&volume.rows), "{}", volume.rows);

        let file = root.path().join("lineitem/l_shipyear=1995/l_shipmonth=3/part-1.parquet");
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
        assert_eq!(reader.schema().field_with_name("l_comment").unwrap().data_type(), &DataType::Utf8);
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let dates = batch.column_by_name("l_shipdate").unwrap();
            // 1995-03-01 and 1995-03-31 as days since 1970.
            let dates = dates.as_any().downcast_ref::<arrow::array::Date32Array>().unwrap();
            assert!(dates.values().iter().all(|day| (9_190..=9_220).contains(day)));
        }
    }

    #[test]
    fn ddl_names_every_column_once() {
        let ddl = TABLES[1].ddl(Path::new("/data/it's"));
        assert_eq!(ddl[0], "DROP TABLE IF EXISTS orders");
        assert!(ddl[1].starts_with("CREATE EXTERNAL TABLE orders (o_orderkey bigint, o_custkey bigint, o_orderstatus string, o_totalprice decimal(15, 2), o_orderdate date,"));
        assert!(ddl[1].ends_with("o_comment string) PARTITIONED BY (o_orderyear int) STORED AS PARQUET LOCATION '/data/it''s/orders'"));
        assert_eq!(ddl[2], "MSCK REPAIR TABLE orders");
    }
}
