//! Whether a change made queries slower: two builds in turn on one machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Result;
use crate::contender::Contender;
use crate::oracle::OracleKind;
use crate::report::{Measurement, Report};
use crate::run::Plan;
use crate::suite::Suite;

/// What a cluster gets to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// `windlass-bench gate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory with the programs of the build to compare with
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Directory with those of the build in question
    #[arg(long, value_name = "DIR")]
    head: PathBuf,
    /// What to run.
    #[arg(long, value_enum, default_value = "tpch")]
    suite: Suite,
    /// Whose rows are right.
    #[arg(long, value_enum, default_value = "datafusion")]
    oracle: OracleKind,
    /// Directory of the data set [default: the suite's name and -data]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Scale of data to generate.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Runs of each query and build after the first.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Only these queries, such as q01,q18.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
    /// By how many percent the sum of the medians may grow.
    #[arg(long, default_value_t = 5.0)]
    limit: f64,
    /// Writes a report here, anew after each query.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// `windlass up` of one build, with a data directory of its own.
struct Cluster {
    child: Child,
    uri: String,
    _directory: TempDir,
}

/// Runs each query on both builds in turn, and fails if the sum of the medians of `head` is larger by more than the limit, or if a query
/// fails there that does not on `base`.
pub async fn run(args: Args) -> Result<()> {
    let data = args.suite.data(args.data.as_deref(), args.scale)?;
    let oracle = args.oracle.start(args.suite, &data).await?;
    let clusters = [Cluster::start(&args.base, &data).await?, Cluster::start(&args.head, &data).await?];
    let plan = Plan { runs: args.runs.into(), cold: false, timeout: Duration::from_secs(300) };
    let mut contenders = Vec::new();
    for (name, cluster) in ["base", "head"].into_iter().zip(&clusters) {
        contenders.push(Contender::windlass(name, &cluster.uri, args.suite, &data, plan.timeout).await?);
    }
    let mut report = Report::new(args.suite.name(), args.oracle.name(), &contenders)?;
    println!("query\tbase\thead\tratio");
    let (mut totals, mut broken) = ((0.0, 0.0), Vec::new());
    for query in args.suite.queries(&data, &args.queries)? {
        let measured = plan.measure(&query, &oracle, &contenders).await?;
        let [base, head] = ["base", "head"].map(|name| measured.iter().find(|one| one.contender == name).and_then(Measurement::median_ms));
        match (base, head) {
            (Some(base), Some(head)) => {
                totals = (totals.0 + base, totals.1 + head);
                println!("{}\t{base:.1}\t{head:.1}\t{:.2}", query.name, head / base);
            }
            (Some(_), None) => broken.push(query.name.clone()),
            _ => {}
        }
        for (one, error) in measured.iter().filter_map(|one| Some((one, one.error.as_ref()?))) {
            eprintln!("{} on {}: {error}", one.query, one.contender);
        }
        report.results.extend(measured);
        if let Some(path) = &args.json {
            report.write(path)?;
        }
    }
    for cluster in clusters {
        cluster.stop().await?;
    }
    let (base, head) = totals;
    let growth = (head / base - 1.0) * 100.0;
    println!("total\t{base:.1}\t{head:.1}\t{:.3}", head / base);
    if !broken.is_empty() {
        return Err(format!("{} failed, which did not before", broken.join(", ")).into());
    }
    if !growth.is_finite() || growth > args.limit {
        return Err(format!("{growth:.1} % slower, {} % are allowed", args.limit).into());
    }
    Ok(())
}

impl Cluster {
    async fn start(programs: &Path, data: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let program = programs.join("windlass");
        let mut command = Command::new(&program);
        command.args(["up", "--executors", "2", "--slots", "1", "--data-dir"]).arg(directory.path()).arg("--allow-location").arg(data);
        let mut child = command
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start '{}': {error}", program.display()))?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?.unwrap_or_default();
        let uri = line.strip_prefix("ready ").and_then(|line| line.split_whitespace().next());
        let uri = uri.ok_or_else(|| format!("'{} up' did not start", program.display()))?.to_owned();
        Ok(Self { child, uri, _directory: directory })
    }

    async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid)?), nix::sys::signal::Signal::SIGTERM)?;
        }
        tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.map_err(|_| "a cluster did not stop")??;
        Ok(())
    }
}
