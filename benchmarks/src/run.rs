//! Runs a suite on all contenders in turn: rows first, times after.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use windlass_client::machine;

use crate::Result;
use crate::answer::Answer;
use crate::contender::Contender;
use crate::report::{Measurement, Report, geometric_mean};
use crate::suite::{Query, Suite};

/// `windlass-bench run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to run.
    #[arg(long, value_enum, default_value = "tpch")]
    suite: Suite,
    /// A running Windlass cluster; the tables are made in a database of the suite's name and `_bench`.
    #[arg(long)]
    uri: Option<String>,
    /// Engines of that cluster, each a contender: auto, local, staged, pipelined.
    #[arg(long = "engine", value_delimiter = ',', default_value = "auto", requires = "uri")]
    engines: Vec<String>,
    /// Settings of the Windlass sessions, `name=value`; repeatable.
    #[arg(long = "set", requires = "uri")]
    settings: Vec<String>,
    /// Also runs DataFusion in this process.
    #[arg(long)]
    datafusion: bool,
    /// Also runs a stock Ballista cluster in this process, with as many executors of one slot as there are partitions.
    #[arg(long)]
    ballista: bool,
    /// Directory of the data set [default: tpch-data or tpcds-data].
    #[arg(long)]
    data: Option<PathBuf>,
    /// Scale of TPC-H data to generate.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Partitions of the compared engines.
    #[arg(long, default_value_t = 2)]
    partitions: usize,
    /// Runs of each query after the first, which warms caches; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Only these queries, such as q01,q18.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
    /// Seconds after which a query has failed.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Writes a report here, anew after each query.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Runs each query on every contender in turn, so that noise of the machine meets all alike, and prints medians in milliseconds.
///
/// A time counts only for an answer that DataFusion gives in one process, too. What fails is reported and does not stop the rest.
pub async fn run(args: Args) -> Result<()> {
    let data = args.suite.data(args.data.as_deref(), args.scale)?;
    let queries = args.suite.queries(&data, &args.queries)?;
    let timeout = Duration::from_secs(args.timeout);
    let mut contenders = Vec::new();
    for engine in args.uri.iter().flat_map(|_| &args.engines) {
        let uri = args.uri.as_deref().unwrap_or_default();
        contenders.push(Contender::windlass(uri, engine, args.suite, &data, &args.settings, timeout).await?);
    }
    if args.datafusion {
        contenders.push(Contender::datafusion(args.partitions, args.suite, &data).await?);
    }
    if args.ballista {
        contenders.push(Contender::ballista(args.partitions, args.suite, &data).await?);
    }
    if contenders.is_empty() {
        return Err("name at least one of --uri, --datafusion, --ballista".into());
    }
    let oracle = Contender::datafusion(machine::cores(), args.suite, &data).await?;

    let mut report = Report {
        suite: args.suite.name().into(),
        started: SystemTime::UNIX_EPOCH.elapsed()?.as_secs(),
        commit: commit(),
        profile: if cfg!(debug_assertions) { "dev".into() } else { "release".into() },
        cores: machine::cores(),
        memory_bytes: machine::memory_bytes(),
        arguments: std::env::args().skip(1).collect(),
        contenders: contenders.iter().map(|contender| (contender.name.clone(), contender.configuration.clone())).collect(),
        results: Vec::new(),
    };
    println!("query\t{}\trows", contenders.iter().map(|contender| contender.name.as_str()).collect::<Vec<_>>().join("\t"));
    for query in &queries {
        let measured = measure(query, &oracle, &contenders, args.runs.into(), timeout).await;
        let cells = measured.iter().map(|one| one.median_ms().map_or_else(|| "failed".into(), |median| format!("{median:.1}")));
        println!("{}\t{}\t{}", query.name, cells.collect::<Vec<_>>().join("\t"), measured.first().map_or(0, |one| one.rows));
        for (one, error) in measured.iter().filter_map(|one| Some((one, one.error.as_ref()?))) {
            eprintln!("{} on {}: {error}", one.query, one.contender);
        }
        report.results.extend(measured);
        if let Some(path) = &args.json {
            report.write(path)?;
        }
    }
    summarize(&report, &contenders);
    Ok(())
}

/// One query on all contenders. Never fails: what went wrong is in the measurement.
async fn measure(query: &Query, oracle: &Contender, contenders: &[Contender], runs: usize, timeout: Duration) -> Vec<Measurement> {
    let right = answer(oracle, query, timeout).await.map(|(answer, _)| answer).map_err(|error| format!("the oracle failed: {error}"));
    let mut measured = Vec::new();
    for contender in contenders {
        let outcome = match (&right, answer(contender, query, timeout).await) {
            (Err(error), _) => Err((0, error.clone())),
            (_, Err(error)) => Err((0, error)),
            (Ok(right), Ok((answer, took))) => match answer.difference(right) {
                Some(difference) => Err((answer.rows.len(), difference)),
                None => Ok((answer.rows.len(), took)),
            },
        };
        let (rows, error, first_ms) = match outcome {
            Ok((rows, took)) => (rows, None, milliseconds(took)),
            Err((rows, error)) => (rows, Some(error), 0.0),
        };
        measured.push(Measurement {
            query: query.name.clone(),
            contender: contender.name.clone(),
            rows,
            error,
            first_ms,
            runs_ms: Vec::new(),
        });
    }
    for _ in 0..runs {
        for (contender, measured) in contenders.iter().zip(&mut measured).filter(|(_, measured)| measured.error.is_none()) {
            match answer(contender, query, timeout).await {
                Ok((answer, took)) if answer.rows.len() == measured.rows => measured.runs_ms.push(milliseconds(took)),
                Ok((answer, _)) => measured.error = Some(format!("{} rows, before {}", answer.rows.len(), measured.rows)),
                Err(error) => measured.error = Some(error),
            }
        }
    }
    measured
}

/// The rows, and how long they took to arrive.
async fn answer(contender: &Contender, query: &Query, timeout: Duration) -> Result<(Answer, Duration), String> {
    let start = Instant::now();
    let ran = tokio::time::timeout(timeout, contender.run(&query.sql)).await;
    let took = start.elapsed();
    let batches = ran.map_err(|_| format!("no answer within {} s", timeout.as_secs()))?.map_err(|error| error.to_string())?;
    Ok((Answer::new(&batches).map_err(|error| error.to_string())?, took))
}

/// Totals, failures, and how the first contender does against each other one on the queries that both answered.
fn summarize(report: &Report, contenders: &[Contender]) {
    let medians = |name: &str| report.results.iter().filter(|one| one.contender == name).map(Measurement::median_ms).collect::<Vec<_>>();
    let of = |line: &dyn Fn(&[Option<f64>]) -> String| {
        contenders.iter().map(|contender| line(&medians(&contender.name))).collect::<Vec<_>>().join("\t")
    };
    let Some(first) = contenders.first() else { return };
    let own = medians(&first.name);
    println!("total\t{}", of(&|medians| format!("{:.1}", medians.iter().flatten().sum::<f64>())));
    println!("failed\t{}", of(&|medians| medians.iter().filter(|median| median.is_none()).count().to_string()));
    let ratios = |medians: &[Option<f64>]| own.iter().zip(medians).filter_map(|(own, other)| Some((*own)? / (*other)?)).collect::<Vec<_>>();
    println!(
        "{} to it, geometric mean\t{}",
        first.name,
        of(&|medians| geometric_mean(&ratios(medians)).map_or_else(|| "-".into(), |mean| format!("{mean:.2}")))
    );
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
