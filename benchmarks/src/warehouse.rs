//! What keeping a warehouse costs: many files that are looked through, many partitions that are written at once, many writers of one table.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::record_batch::RecordBatch;
use futures::future::try_join_all;
use parquet::arrow::ArrowWriter;
use windlass_client::{Connection, Credentials};

use crate::Result;
use crate::process::{forget_peaks, peaks};
use crate::report::milliseconds;

/// Where all of it is made; dropped before and after.
const DATABASE: &str = "warehouse_bench";
/// Files in a partition that is looked through: more links than this to one file are not for every file system.
const FILES_PER_PARTITION: usize = 100;
/// How often what changes nothing is done.
const RUNS: usize = 3;
/// Rows that a partition gets.
const ROWS_PER_PARTITION: usize = 100;

/// `windlass-bench warehouse`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A running Windlass cluster on this machine, grpc://host:port.
    #[arg(long)]
    uri: String,
    /// A directory in which tables of the cluster may lie; what is made there is removed.
    #[arg(long)]
    directory: PathBuf,
    /// Files of the table that is looked through.
    #[arg(long, default_value_t = 100_000)]
    files: usize,
    /// Partitions that one statement writes.
    #[arg(long, default_value_t = 10_000)]
    partitions: usize,
    /// Writers of one table.
    #[arg(long, default_value_t = 20)]
    writers: usize,
    /// Statements of each.
    #[arg(long, default_value_t = 5)]
    statements: usize,
    /// Engines that write.
    #[arg(long = "engine", value_delimiter = ',', default_value = "pipelined,staged")]
    engines: Vec<String>,
    /// A process of the cluster, such as that of `windlass up`: the peak memory of all it started is printed.
    #[arg(long = "pid")]
    pids: Vec<u32>,
}

/// Does each thing in turn and prints how long it took.
pub async fn run(args: Args) -> Result<()> {
    let connection = connect(&args).await?;
    let clear = format!("DROP DATABASE IF EXISTS {DATABASE} CASCADE");
    for sql in [&clear, &format!("CREATE DATABASE {DATABASE}")] {
        connection.collect(sql).await?;
    }
    println!("what\tcount\tms");
    let files = tempfile::tempdir_in(&args.directory)?;
    look_through(&args, &connection, files.path()).await?;
    for engine in &args.engines {
        write_partitions(&args, &connection, engine).await?;
    }
    write_together(&args).await?;
    connection.collect(&clear).await?;
    connection.collect("CALL system.vacuum(older_than => INTERVAL '0' SECONDS)").await?;
    Ok(())
}

async fn connect(args: &Args) -> Result<Connection> {
    Ok(Connection::connect(&args.uri, Credentials::default()).await?)
}

/// Runs a statement and prints its time.
async fn timed(connection: &Connection, what: &str, count: usize, sql: &str) -> Result<Vec<RecordBatch>> {
    let start = Instant::now();
    let rows = connection.collect(sql).await?;
    println!("{what}\t{count}\t{:.0}", milliseconds(start.elapsed()));
    Ok(rows)
}

/// Registers the files of a table, and then does what changes nothing any more.
async fn look_through(args: &Args, connection: &Connection, directory: &Path) -> Result<()> {
    let batch = RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from_iter_values(0..10)) as ArrayRef)])?;
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None)?;
    writer.write(&batch)?;
    let bytes = writer.into_inner()?;
    for first in (0..args.files).step_by(FILES_PER_PARTITION) {
        let partition = directory.join(format!("k={}", first / FILES_PER_PARTITION));
        fs::create_dir(&partition)?;
        let original = partition.join(format!("{first}.parquet"));
        fs::write(&original, &bytes)?;
        for file in first + 1..args.files.min(first + FILES_PER_PARTITION) {
            fs::hard_link(&original, partition.join(format!("{file}.parquet")))?;
        }
    }
    let table = format!("{DATABASE}.looked_through");
    let location = directory.display();
    connection
        .collect(&format!("CREATE EXTERNAL TABLE {table} (v BIGINT) PARTITIONED BY (k INT) STORED AS PARQUET LOCATION '{location}'"))
        .await?;
    let repair = format!("MSCK REPAIR TABLE {table}");
    timed(connection, "MSCK REPAIR of new files", args.files, &repair).await?;
    for _ in 0..RUNS {
        timed(connection, "MSCK REPAIR without change", args.files, &repair).await?;
    }
    for _ in 0..RUNS {
        timed(connection, "vacuum without change", args.files, "CALL system.vacuum()").await?;
    }
    expect(&connection.collect(&format!("SELECT count(*) FROM {table} WHERE k = 0")).await?, 10 * args.files.min(FILES_PER_PARTITION))
}

/// One INSERT of many partitions, whose rows lie far from each other.
async fn write_partitions(args: &Args, connection: &Connection, engine: &str) -> Result<()> {
    let (source, table, rows) =
        (format!("{DATABASE}.source_{engine}"), format!("{DATABASE}.written_{engine}"), args.partitions * ROWS_PER_PARTITION);
    for sql in [
        format!("SET windlass.engine = '{engine}'"),
        format!("CREATE TABLE {source} AS SELECT value AS v FROM generate_series(1, {rows})"),
        format!("CREATE TABLE {table} (v BIGINT) PARTITIONED BY (k INT)"),
    ] {
        connection.collect(&sql).await?;
    }
    forget_peaks(&args.pids);
    let insert = format!("INSERT INTO {table} SELECT v, (v * 7919) % {} FROM {source}", args.partitions);
    let written = timed(connection, &format!("partitions in one INSERT, {engine}"), args.partitions, &insert).await?;
    for (process, bytes) in peaks(&args.pids) {
        println!("  peak memory of {process}\t\t{} MiB", bytes >> 20);
    }
    expect(&written, rows)?;
    connection.collect("SET windlass.engine = 'auto'").await?;
    expect(&connection.collect(&format!("SELECT count(*) FROM {table}")).await?, rows)
}

/// Many writers of one table at the same time, each with a connection of its own.
async fn write_together(args: &Args) -> Result<()> {
    let (table, count) = (format!("{DATABASE}.shared"), args.writers * args.statements);
    let connection = connect(args).await?;
    connection.collect(&format!("CREATE TABLE {table} (v BIGINT) PARTITIONED BY (k BIGINT)")).await?;
    let start = Instant::now();
    let write = async |writer: usize| -> Result<()> {
        let connection = connect(args).await?;
        for statement in 0..args.statements {
            connection.collect(&format!("INSERT INTO {table} VALUES ({statement}, {})", writer % 3)).await?;
        }
        Ok(())
    };
    try_join_all((0..args.writers).map(write)).await?;
    println!("INSERTs by {} writers\t{count}\t{:.0}", args.writers, milliseconds(start.elapsed()));
    expect(&connection.collect(&format!("SELECT count(*) FROM {table}")).await?, count)
}

/// Errors: the one number of the rows is another.
fn expect(rows: &[RecordBatch], wanted: usize) -> Result<()> {
    let numbers = rows.iter().flat_map(|batch| batch.column(0).as_any().downcast_ref::<Int64Array>());
    let found = numbers.flat_map(|numbers| numbers.iter().flatten()).next();
    if found != Some(i64::try_from(wanted)?) {
        return Err(format!("{wanted} rows are wanted, there are {found:?}").into());
    }
    Ok(())
}
