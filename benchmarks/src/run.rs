//! Runs a suite on all contenders in turn: rows first, times after.

use std::fs;
use std::time::Duration;

use crate::Result;
use crate::contender::{Contender, Setting, Started};
use crate::oracle::{Oracle, answered, within};
use crate::process::{forget_peaks, peaks};
use crate::report::{Measurement, Report, geometric_mean, load_average, milliseconds};
use crate::suite::Query;

/// `windlass-bench run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    setting: Setting,
    /// Runs of each query after the first, which warms caches; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Makes this machine forget the files it has read before each first run. Needs root.
    #[arg(long)]
    cold: bool,
    /// Only these queries, such as q01,q18.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
}

/// Runs each query on every contender in turn, so that noise of the machine meets all alike, and prints medians in milliseconds.
///
/// A time counts only for an answer that the oracle gives, too. What fails is reported and does not stop the rest.
pub async fn run(args: Args) -> Result<()> {
    let Started { data, contenders, oracle, mut report } = args.setting.open(args.setting.suite.name()).await?;
    let queries = args.setting.suite.queries(&data, &args.queries)?;
    println!("query\t{}\trows", contenders.iter().map(|contender| contender.name.as_str()).collect::<Vec<_>>().join("\t"));
    for query in &queries {
        let plan = Plan { runs: args.runs.into(), cold: args.cold, timeout: args.setting.timeout() };
        let measured = plan.measure(query, &oracle, &contenders).await?;
        let cells = measured.iter().map(|one| one.median_ms().map_or_else(|| "failed".into(), |median| format!("{median:.1}")));
        println!("{}\t{}\t{}", query.name, cells.collect::<Vec<_>>().join("\t"), measured.first().map_or(0, |one| one.rows));
        for (one, error) in measured.iter().filter_map(|one| Some((one, one.error.as_ref()?))) {
            eprintln!("{} on {}: {error}", one.query, one.contender);
        }
        report.results.extend(measured);
        args.setting.write(&report)?;
    }
    summarize(&report, &contenders);
    Ok(())
}

/// How each query is measured.
pub struct Plan {
    /// Runs after the first.
    pub runs: usize,
    /// Whether the first run reads from disk.
    pub cold: bool,
    /// When a run has failed.
    pub timeout: Duration,
}

impl Plan {
    /// One query on all contenders; what went wrong is in the measurement.
    ///
    /// Errors: caches that were to be cold cannot be.
    pub async fn measure(&self, query: &Query, oracle: &Oracle, contenders: &[Contender]) -> Result<Vec<Measurement>> {
        let right = oracle.answer(&query.sql, contenders, self.timeout).await;
        let mut measured = Vec::new();
        for contender in contenders {
            if self.cold {
                drop_caches()?;
            }
            let mut one = Measurement { load: load_average(), ..Measurement::new(&query.name, &contender.name) };
            forget_peaks(&contender.pids);
            match (&right, answered(contender, &query.sql, self.timeout).await) {
                (Err(error), _) => one.error = Some(error.clone()),
                (_, Err(error)) => one.error = Some(error),
                (Ok(right), Ok((answer, took))) => {
                    (one.rows, one.first_ms, one.error) = (answer.count, milliseconds(took), answer.difference(right));
                }
            }
            one.peak_bytes = peaks(&contender.pids);
            measured.push(one);
        }
        for run in 0..self.runs {
            // Each goes first at times: what one leaves behind, the next one meets.
            let mut pairs: Vec<_> = contenders.iter().zip(&mut measured).filter(|(_, one)| one.error.is_none()).collect();
            let start = run % pairs.len().max(1);
            pairs.rotate_left(start);
            for (contender, one) in pairs {
                forget_peaks(&contender.pids);
                match within(contender, &query.sql, false, self.timeout).await {
                    Ok(reply) if reply.count == one.rows => one.runs_ms.push(milliseconds(reply.took)),
                    Ok(reply) => one.error = Some(format!("{} rows, before {}", reply.count, one.rows)),
                    Err(error) => one.error = Some(error),
                }
                for (process, bytes) in peaks(&contender.pids) {
                    let peak = one.peak_bytes.entry(process).or_default();
                    *peak = bytes.max(*peak);
                }
            }
        }
        Ok(measured)
    }
}

/// Makes the kernel forget the files it holds in memory.
fn drop_caches() -> Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").map_err(|error| format!("cannot drop caches for --cold: {error}"))?;
    Ok(())
}

/// Totals, failures, memory, and how the first contender does against each other one on the queries that both answered.
fn summarize(report: &Report, contenders: &[Contender]) {
    let medians = |name: &str| report.of(name).map(Measurement::median_ms).collect::<Vec<_>>();
    let line = |what: &str, of: &dyn Fn(&str) -> String| {
        println!("{what}\t{}", contenders.iter().map(|contender| of(&contender.name)).collect::<Vec<_>>().join("\t"));
    };
    let Some(first) = contenders.first() else { return };
    let own = medians(&first.name);
    line("total", &|name| format!("{:.1}", medians(name).iter().flatten().sum::<f64>()));
    line("failed", &|name| medians(name).iter().filter(|median| median.is_none()).count().to_string());
    line(&format!("{} to it, geometric mean", first.name), &|name| {
        let ratios = own.iter().zip(medians(name)).filter_map(|(own, other)| Some((*own)? / other?)).collect::<Vec<_>>();
        geometric_mean(&ratios).map_or_else(|| "-".into(), |mean| format!("{mean:.2}"))
    });
    for (process, bytes) in
        contenders.iter().flat_map(|contender| report.peaks(&contender.name)).collect::<std::collections::BTreeMap<_, _>>()
    {
        println!("peak of {process}\t{:.0} MiB", bytes as f64 / f64::from(1 << 20));
    }
}
