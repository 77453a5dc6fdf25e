//! `windlass demo`: a cluster, TPC-H data, 22 answers.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::connection::{Connection, Credentials};
use crate::console::{Console, Settings};
use crate::error::{Error, Result};
use crate::script::Statement;
use crate::up::{Cluster, ClusterOptions, data_directory};
use crate::{shell, tpch};

/// Flags of `windlass demo`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Size of the data: 1 is about 1 GB as text
    #[arg(long, default_value_t = 0.1)]
    scale: f64,
    /// End after the queries instead of opening a shell
    #[arg(long)]
    exit: bool,
    #[command(flatten)]
    cluster: ClusterOptions,
}

/// Runs the command.
pub async fn run(mut options: Options) -> Result<()> {
    // A demo leaves the user's own catalog alone.
    let base = data_directory(&options.cluster)?;
    let directory = if options.cluster.data_dir.is_some() { base } else { base.join("demo") };
    options.cluster.data_dir = Some(directory.clone());

    let data = directory.join(format!("tpch-sf{}", options.scale));
    if data.exists() {
        println!("1. TPC-H data at scale {} is in {}", options.scale, data.display());
    } else {
        println!("1. Generating TPC-H data at scale {} ...", options.scale);
        let started = Instant::now();
        let volume = generate(&data, options.scale).await?;
        let took = started.elapsed().as_secs_f64();
        println!(
            "   {} rows, {} files, {} in {took:.1} s: {}",
            HumanCount(volume.rows),
            volume.files,
            BinaryBytes(volume.bytes),
            data.display()
        );
    }

    println!("2. Starting a scheduler and {} executors ...", options.cluster.executors);
    let started = Instant::now();
    let mut cluster = Cluster::start(&options.cluster).await?;
    println!("   {} in {:.1} s", cluster.uri(), started.elapsed().as_secs_f64());

    let connection = Connection::connect(&cluster.uri(), Credentials::default()).await?;
    let mut console = Console::new(connection, Settings::for_terminal())?;
    let result = Box::pin(tour(&mut console, &data)).await;
    let result = match result {
        Ok(()) if !options.exit && io::stdin().is_terminal() => {
            println!("{}", next_steps(&program(), Some(console.connection.uri()), &directory));
            Box::pin(shell::run(&mut console)).await
        }
        Ok(()) => {
            println!("{}", next_steps(&program(), None, &directory));
            Ok(())
        }
        Err(error) => Err(error),
    };
    console.connection.close().await;
    cluster.stop().await.and(result)
}

async fn tour(console: &mut Console, data: &Path) -> Result<()> {
    println!("3. Creating the tables of database 'tpch' ...");
    let started = Instant::now();
    let ddl = ["CREATE DATABASE IF NOT EXISTS tpch".to_string(), "USE tpch".to_string()];
    for sql in ddl.into_iter().chain(tpch::TABLES.iter().flat_map(|table| table.ddl(data))) {
        discard(console, &sql).await?;
    }
    println!("   {} tables in {:.1} s", tpch::TABLES.len(), started.elapsed().as_secs_f64());

    println!("4. Running the 22 queries ...");
    let queries = tpch::queries();
    let bar = bar(queries.len() as u64, "   {bar:24.cyan/dim} {pos}/{len} {msg}");
    let live = std::mem::replace(&mut console.settings.live, false);
    let mut times = Vec::new();
    for (name, sql) in queries {
        bar.set_message(format!("{name} {}", title(sql)));
        let started = Instant::now();
        let rows = discard(console, sql).await?;
        times.push((name, title(sql), rows, started.elapsed()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    console.settings.live = live;
    println!("{}", report(&times));
    Ok(())
}

/// What to do with the cluster at `uri`, or with the one that can be started again in `directory`.
fn next_steps(program: &str, uri: Option<&str>, directory: &Path) -> String {
    let here = match uri {
        Some(uri) => format!(
            "The cluster runs until you leave this shell. Try\n    \\d lineitem\n    SELECT l_shipyear, count(*) FROM lineitem GROUP BY 1 ORDER BY 1;\n    \
             EXPLAIN ANALYZE SELECT sum(l_quantity) FROM lineitem WHERE l_shipyear = 1995;\nIn another terminal\n    {program} sql {uri}"
        ),
        None => format!(
            "Next: the same cluster and tables again, and a shell on it\n    {program} up --data-dir '{}'\n    {program} sql grpc://127.0.0.1:PORT",
            directory.display()
        ),
    };
    let uri = uri.unwrap_or("grpc://127.0.0.1:PORT");
    format!(
        "\n{here}\nFrom Python (pip install adbc-driver-flightsql pyarrow)\n    from adbc_driver_flightsql import dbapi\n    \
         cursor = dbapi.connect(\"{uri}\", autocommit=True).cursor()\n    \
         print(cursor.execute(\"SELECT count(*) FROM tpch.lineitem\").fetchall())\n"
    )
}

/// This program as it was called.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "windlass".into())
}

async fn discard(console: &mut Console, sql: &str) -> Result<u64> {
    let outcome = console.discard(sql).await;
    Ok(outcome.map_err(|error| error.located(Statement { sql, line: 1 }))?.rows)
}

/// Generates beside the final place and moves it there whole, so that an interrupted run leaves nothing that looks complete.
async fn generate(data: &Path, scale: f64) -> Result<tpch::Volume> {
    let partial = data.with_extension("partial");
    remove(&partial)?;
    let rows = tpch::TABLES.iter().map(|table| table.rows(scale)).sum();
    let bar = bar(rows, "   {bar:24.cyan/dim} {human_pos} rows, {per_sec}, {elapsed}");
    let (target, progress) = (partial.clone(), bar.clone());
    let generated = tokio::task::spawn_blocking(move || tpch::generate(&target, scale, &|rows| progress.inc(rows)));
    let volume = generated.await.map_err(|error| Error::Cluster(format!("the generator failed: {error}")))??;
    bar.finish_and_clear();
    fs::rename(&partial, data).map_err(Error::io(format!("rename '{}'", partial.display())))?;
    Ok(volume)
}

/// Progress on standard error, if that is a terminal.
fn bar(steps: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr_with_hz(10));
    bar.with_style(ProgressStyle::with_template(template).expect("the template is valid"))
}

fn remove(directory: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(format!("remove '{}'", directory.display()))(error)),
        _ => Ok(()),
    }
}

/// The comment on a query's first line.
fn title(sql: &'static str) -> &'static str {
    sql.lines().next().unwrap_or_default().trim_start_matches("-- ")
}

fn report(times: &[(&str, &str, u64, Duration)]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).force_no_tty().set_header(["query", "", "rows", "seconds"]);
    for (name, title, rows, took) in times {
        table.add_row([(*name).to_string(), (*title).to_string(), rows.to_string(), format!("{:.2}", took.as_secs_f64())]);
    }
    let total: Duration = times.iter().map(|(.., took)| *took).sum();
    table.add_row(["total".into(), String::new(), String::new(), format!("{:.2}", total.as_secs_f64())].map(Cell::new));
    for column in [2, 3] {
        table.column_mut(column).expect("the table has four columns").set_cell_alignment(CellAlignment::Right);
    }
    table
}
