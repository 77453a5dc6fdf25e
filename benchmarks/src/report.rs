//! What a run leaves behind, and two of them side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use windlass_client::machine;

use crate::Result;
use crate::contender::Contender;

/// A run of a suite: where, with what, and each time that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The suite's name.
    pub suite: String,
    /// Seconds since 1970 at the start.
    pub started: u64,
    /// Commit of the checkout this was run in, with `-dirty` if it was changed; empty outside of one.
    pub commit: String,
    /// `dev` or `release`, of this program and what runs inside it.
    pub profile: String,
    /// Cores of this machine.
    pub cores: usize,
    /// Memory of this machine or container.
    pub memory_bytes: Option<u64>,
    /// Its processor and kernel, as they call themselves.
    #[serde(default)]
    pub machine: String,
    /// The command line.
    pub arguments: Vec<String>,
    /// Whose rows were right.
    #[serde(default)]
    pub oracle: String,
    /// Version and settings by contender.
    pub contenders: BTreeMap<String, BTreeMap<String, String>>,
    /// A line per query and contender, failures included.
    pub results: Vec<Measurement>,
}

/// One query on one contender.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// Name of the query.
    pub query: String,
    /// Name of the contender.
    pub contender: String,
    /// Rows of its answer.
    pub rows: usize,
    /// Why no time counts: the query failed, or gave other rows than the oracle.
    pub error: Option<String>,
    /// The first run, which warms caches.
    pub first_ms: f64,
    /// The runs after it, in order.
    pub runs_ms: Vec<f64>,
    /// How long they took together, if they were beside each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Processes that wanted this machine before the first run, averaged over a minute.
    #[serde(default)]
    pub load: f64,
    /// The most memory of each process of the contender, of those on this machine that are known.
    #[serde(default)]
    pub peak_bytes: BTreeMap<String, u64>,
}

/// Medians in milliseconds by query; none for one that failed.
type Medians<'a> = Vec<(&'a str, Option<f64>)>;

impl Measurement {
    /// Nothing measured yet.
    pub fn new(query: &str, contender: &str) -> Self {
        Self { query: query.to_owned(), contender: contender.to_owned(), ..Self::default() }
    }

    /// The time that `percent` of the runs were done within; nothing for one that failed.
    pub fn percentile_ms(&self, percent: f64) -> Option<f64> {
        let mut runs = self.runs_ms.clone();
        runs.sort_by(f64::total_cmp);
        let rank = (runs.len() as f64 * percent / 100.0).ceil() as usize;
        runs.get(rank.saturating_sub(1)).copied().filter(|_| self.error.is_none())
    }

    /// The median of the runs; nothing for one that failed.
    pub fn median_ms(&self) -> Option<f64> {
        let mut runs = self.runs_ms.clone();
        runs.sort_by(f64::total_cmp);
        let middle = runs.get(runs.len().saturating_sub(1) / 2).zip(runs.get(runs.len() / 2));
        middle.map(|(low, high)| (low + high) / 2.0).filter(|_| self.error.is_none())
    }
}

impl Report {
    /// Nothing measured yet, by this process on this machine.
    pub fn new(suite: &str, oracle: &str, contenders: &[Contender]) -> Result<Self> {
        Ok(Self {
            suite: suite.into(),
            started: SystemTime::UNIX_EPOCH.elapsed()?.as_secs(),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            profile: if cfg!(debug_assertions) { "dev".into() } else { "release".into() },
            cores: machine::cores(),
            memory_bytes: machine::memory_bytes(),
            machine: format!("{}, {}", processor().unwrap_or_default(), output("uname", &["-srm"])),
            arguments: std::env::args().skip(1).collect(),
            oracle: oracle.into(),
            contenders: contenders.iter().map(|contender| (contender.name.clone(), contender.configuration.clone())).collect(),
            results: Vec::new(),
        })
    }

    /// What was measured of one contender.
    pub fn of<'a>(&'a self, contender: &'a str) -> impl Iterator<Item = &'a Measurement> {
        self.results.iter().filter(move |one| one.contender == contender)
    }

    /// The most memory of each process of a contender.
    pub fn peaks(&self, contender: &str) -> BTreeMap<String, u64> {
        let mut peaks = BTreeMap::new();
        for (process, bytes) in self.of(contender).flat_map(|one| &one.peak_bytes) {
            let peak: &mut u64 = peaks.entry(process.clone()).or_default();
            *peak = (*peak).max(*bytes);
        }
        peaks
    }

    /// Names of the contenders, in the order of the results.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for one in &self.results {
            if !names.contains(&one.contender.as_str()) {
                names.push(&one.contender);
            }
        }
        names
    }

    /// Reads what [`write`](Self::write) wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).map_err(|error| format!("cannot read '{}': {error}", path.display()))?;
        Ok(serde_json::from_slice(&text).map_err(|error| format!("'{}' is no report: {error}", path.display()))?)
    }

    /// Writes the file whole or not at all, so that a run that is killed leaves what it had.
    pub fn write(&self, path: &Path) -> Result<()> {
        let partial = path.with_extension("partial");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(partial, path)?)
    }

    /// Medians by query of one contender, or of the first that has results.
    fn medians(&self, contender: Option<&str>) -> Result<(String, Medians<'_>)> {
        let first = self.results.first().map(|result| result.contender.as_str());
        let name = contender.or(first).ok_or("a report without results")?;
        let own = self.results.iter().filter(|result| result.contender == name);
        let medians: Medians<'_> = own.map(|result| (result.query.as_str(), result.median_ms())).collect();
        if medians.is_empty() {
            let known = self.contenders.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!("no results of '{name}'; there are: {known}").into());
        }
        Ok((name.to_owned(), medians))
    }
}

/// `windlass-bench compare`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to compare with: FILE of `windlass-bench run --json`, or FILE:CONTENDER [default: its first contender]
    base: String,
    /// What to compare: the same
    new: String,
}

/// Prints the medians of both, their ratio per query, and the geometric mean of the ratios: below 1, `new` is faster.
///
/// A query that failed on either side, or is in one of them only, is shown and has no ratio.
pub fn compare(args: &Args) -> Result<()> {
    let (base, base_contender) = open(&args.base)?;
    let (new, new_contender) = open(&args.new)?;
    let (base_name, base) = base.medians(base_contender.as_deref())?;
    let (new_name, new) = new.medians(new_contender.as_deref())?;
    println!("{:8} {base_name:>20} {new_name:>20} {:>8}", "query", "ratio");
    let (mut ratios, mut totals) = (Vec::new(), (0.0, 0.0));
    let only_new = new.iter().filter(|(query, _)| !base.iter().any(|(other, _)| other == query));
    for query in base.iter().chain(only_new).map(|(query, _)| *query) {
        let side = |medians: &Medians<'_>| medians.iter().find(|(name, _)| *name == query).map(|(_, median)| *median);
        let (old, new) = (side(&base), side(&new));
        let ratio = match (old, new) {
            (Some(Some(old)), Some(Some(new))) => {
                ratios.push(new / old);
                totals = (totals.0 + old, totals.1 + new);
                format!("{:.2}", new / old)
            }
            _ => String::new(),
        };
        println!("{query:8} {:>20} {:>20} {ratio:>8}", shown(old), shown(new));
    }
    match geometric_mean(&ratios) {
        Some(mean) => {
            let (old, new) = totals;
            println!("{:8} {:>20} {:>20} {:>8.2}", "total", shown(Some(Some(old))), shown(Some(Some(new))), new / old);
            println!("geometric mean of {} ratios: {mean:.3}", ratios.len());
        }
        None => println!("no query has a time on both sides"),
    }
    Ok(())
}

fn shown(median: Option<Option<f64>>) -> String {
    match median {
        None => "not run".into(),
        Some(None) => "failed".into(),
        Some(Some(median)) => format!("{median:.1} ms"),
    }
}

/// The report and the contender of `FILE` or `FILE:CONTENDER`.
fn open(name: &str) -> Result<(Report, Option<String>)> {
    let (file, contender) = match name.rsplit_once(':') {
        Some((file, contender)) if !Path::new(name).exists() => (file, Some(contender.to_owned())),
        _ => (name, None),
    };
    Ok((Report::read(Path::new(file))?, contender))
}

/// A duration as reports hold it.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Processes that want this machine, averaged over a minute; 0 where that is not told.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a program prints; empty if it fails.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// The mean of ratios that treats twice as fast and half as fast alike.
pub fn geometric_mean(ratios: &[f64]) -> Option<f64> {
    (!ratios.is_empty()).then(|| (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_no_median_and_means_are_geometric() {
        let mut measured = Measurement { runs_ms: vec![3.0, 1.0, 2.0], ..Measurement::new("q01", "a") };
        assert_eq!(measured.median_ms(), Some(2.0));
        measured.runs_ms.push(9.0);
        assert_eq!(measured.median_ms(), Some(2.5));
        assert_eq!([50.0, 99.0].map(|percent| measured.percentile_ms(percent)), [Some(2.0), Some(9.0)]);
        measured.error = Some("other rows".into());
        assert_eq!(measured.median_ms(), None);
        assert!((geometric_mean(&[2.0, 0.5]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }
}
