//! Reports as one page for a browser, with everything in it: tables, plots and how to run them again.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::Result;
use crate::report::{Measurement, Report, geometric_mean};

const STYLE: &str = include_str!("page.css");

/// Sizes of plots, in their own units.
const WIDTH: f64 = 960.0;
const LABEL_WIDTH: f64 = 150.0;
const LINE_HEIGHT: f64 = 22.0;
const AXIS_HEIGHT: f64 = 28.0;
/// Colours of contenders in the style sheet, used in turn.
const COLOURS: usize = 8;

/// `windlass-bench report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files of `--json`
    #[arg(required = true)]
    reports: Vec<PathBuf>,
    /// The page to write
    #[arg(long, short, default_value = "benchmarks.html")]
    output: PathBuf,
}

/// Writes the page, a section for each report.
pub fn run(args: &Args) -> Result<()> {
    let reports = args.reports.iter().map(|path| Report::read(path)).collect::<Result<Vec<_>>>()?;
    fs::write(&args.output, page(&reports)).map_err(|error| format!("cannot write '{}': {error}", args.output.display()))?;
    println!("{}", args.output.display());
    Ok(())
}

fn page(reports: &[Report]) -> String {
    let sections = reports.iter().map(section).collect::<String>();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Windlass benchmarks</title>\n<style>\n{STYLE}</style>\n<main>\n<h1>Windlass benchmarks</h1>\n{sections}</main>\n</html>\n"
    )
}

fn section(report: &Report) -> String {
    let names = report.names();
    let memory = report.memory_bytes.map_or_else(String::new, |bytes| format!(", {:.0} GiB", bytes as f64 / f64::from(1 << 30)));
    let facts = format!(
        "{} · {} cores{memory} · {} · {} build{} · rows as {}",
        day(report.started),
        report.cores,
        report.machine,
        report.profile,
        if report.commit.is_empty() { String::new() } else { format!(" of {}", report.commit) },
        report.oracle,
    );
    let plot = if report.results.iter().any(|one| one.seconds.is_some()) { latencies(report, &names) } else { medians(report, &names) };
    format!(
        "<section>\n<h2>{}</h2>\n<p class=\"facts\">{}</p>\n{}{}<figure>{plot}</figure>\n{}{}{}</section>\n",
        text(&report.suite),
        text(&facts),
        legend(&names),
        summary(report, &names),
        failures(report),
        times(report, &names),
        settings(report),
    )
}

fn legend(names: &[&str]) -> String {
    let entry = |(number, name): (usize, &&str)| format!("<span class=\"c{}\"><i></i>{}</span>", number % COLOURS, text(name));
    format!("<p class=\"legend\">{}</p>\n", names.iter().enumerate().map(entry).collect::<String>())
}

/// What `run` prints below its table.
fn summary(report: &Report, names: &[&str]) -> String {
    let medians = |name: &str| report.of(name).map(Measurement::median_ms).collect::<Vec<_>>();
    let own = names.first().map(|first| medians(first)).unwrap_or_default();
    let mut rows = String::new();
    for name in names {
        let of = medians(name);
        let both: Vec<(f64, f64)> = own.iter().zip(&of).filter_map(|(own, other)| Some(((*own)?, (*other)?))).collect();
        let ratios: Vec<f64> = both.iter().map(|(own, other)| own / other).collect();
        let sums = both.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
        let peak = report
            .peaks(name)
            .into_values()
            .max()
            .map_or_else(|| "–".into(), |bytes| format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)));
        let failed = of.iter().filter(|median| median.is_none()).count();
        _ = writeln!(
            rows,
            "<tr><th>{}<td>{}<td>{}<td>{:.2}<td>{}<td>{failed}<td>{peak}",
            text(name),
            seconds(of.iter().flatten().sum()),
            of.iter().flatten().count(),
            sums.0 / sums.1,
            geometric_mean(&ratios).map_or_else(|| "–".into(), |mean| format!("{mean:.2}")),
        );
    }
    let first = names.first().map(|name| text(name)).unwrap_or_default();
    format!(
        "<table class=\"summary\"><tr><th><th>sum of medians<th>of queries<th>{first} to it<th>geometric mean<th>failed<th>most memory of a process\n\
         {rows}</table>\n"
    )
}

/// A line per query: a dot for each contender's median, a stroke from its fastest to its slowest run.
fn medians(report: &Report, names: &[&str]) -> String {
    let mut queries: Vec<&str> = Vec::new();
    for one in &report.results {
        if !queries.contains(&one.query.as_str()) {
            queries.push(&one.query);
        }
    }
    let all = report.results.iter().filter(|one| one.error.is_none()).flat_map(|one| one.runs_ms.iter().copied());
    let Some(axis) = Axis::over(all) else { return String::new() };
    let height = AXIS_HEIGHT + LINE_HEIGHT * queries.len() as f64;
    let mut marks = axis.grid(height);
    for (row, query) in queries.iter().enumerate() {
        let y = AXIS_HEIGHT + LINE_HEIGHT * (row as f64 + 0.5);
        _ = write!(marks, "<text class=\"label\" x=\"{}\" y=\"{:.1}\">{}</text>", LABEL_WIDTH - 12.0, y + 4.0, text(query));
        for (number, name) in names.iter().enumerate() {
            let Some(one) = report.of(name).find(|one| one.query == *query) else { continue };
            let Some(((median, low), high)) = one.median_ms().zip(one.percentile_ms(0.0)).zip(one.percentile_ms(100.0)) else { continue };
            // Beside each other where they would cover each other.
            let y = y + (number as f64 - (names.len() as f64 - 1.0) / 2.0) * (LINE_HEIGHT - 8.0) / names.len() as f64;
            _ = write!(
                marks,
                "<g class=\"c{}\"><title>{} on {}: {median:.1} ms ({low:.1} to {high:.1})</title>\
                 <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\"/></g>",
                number % COLOURS,
                text(query),
                text(name),
                axis.x(low),
                axis.x(high),
                axis.x(median),
            );
        }
    }
    svg(height, &marks)
}

/// A curve per measurement: the share of queries that were done within a time.
fn latencies(report: &Report, names: &[&str]) -> String {
    const HEIGHT: f64 = 320.0;
    let all = report.results.iter().flat_map(|one| one.runs_ms.iter().copied());
    let Some(axis) = Axis::over(all) else { return String::new() };
    let y = |share: f64| HEIGHT - 8.0 - share * (HEIGHT - AXIS_HEIGHT - 8.0);
    let mut marks = axis.grid(HEIGHT);
    for share in [0.0, 0.5, 0.95, 1.0] {
        let label = format!("{:.0} %", share * 100.0);
        _ = write!(marks, "<text class=\"label\" x=\"{}\" y=\"{:.1}\">{label}</text>", LABEL_WIDTH - 12.0, y(share) + 4.0);
        _ = write!(marks, "<line class=\"grid\" x1=\"{LABEL_WIDTH}\" x2=\"{WIDTH}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>", y(share));
    }
    for (number, name) in names.iter().enumerate() {
        for one in report.of(name) {
            let percents = (0..=200).map(|half| f64::from(half) / 2.0);
            let points =
                percents.filter_map(|percent| Some(format!("{:.1},{:.1}", axis.x(one.percentile_ms(percent)?), y(percent / 100.0))));
            let points = points.collect::<Vec<_>>().join(" ");
            let title = format!("{} on {name}", one.query);
            _ = write!(marks, "<g class=\"c{}\"><title>{}</title><polyline points=\"{points}\"/></g>", number % COLOURS, text(&title));
        }
    }
    svg(HEIGHT, &marks)
}

/// Milliseconds on a logarithmic scale.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) =
            values.filter(|value| *value > 0.0).fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        (high > 0.0).then(|| Self { low: (low * 0.9).log10(), high: (high * 1.1).log10() })
    }

    fn x(&self, value: f64) -> f64 {
        LABEL_WIDTH + (WIDTH - LABEL_WIDTH - 8.0) * (value.max(f64::MIN_POSITIVE).log10() - self.low) / (self.high - self.low)
    }

    /// Lines at 1, 2 and 5 of every power of ten.
    fn grid(&self, height: f64) -> String {
        let mut marks = String::new();
        let powers = self.low.floor() as i32..=self.high.ceil() as i32;
        for value in powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10.0_f64.powi(power))) {
            if (self.low..=self.high).contains(&value.log10()) {
                let x = self.x(value);
                _ = write!(marks, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{height}\"/>", AXIS_HEIGHT - 6.0);
                _ = write!(marks, "<text class=\"tick\" x=\"{x:.1}\" y=\"14\">{}</text>", seconds(value));
            }
        }
        marks
    }
}

fn svg(height: f64, marks: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">{marks}</svg>")
}

fn failures(report: &Report) -> String {
    let line =
        |one: &Measurement| Some(format!("<li><b>{} on {}</b> {}\n", text(&one.query), text(&one.contender), text(one.error.as_ref()?)));
    let lines = report.results.iter().filter_map(line).collect::<String>();
    if lines.is_empty() { lines } else { format!("<h3>Failed</h3>\n<ul class=\"failures\">{lines}</ul>\n") }
}

/// All that was measured, in numbers.
fn times(report: &Report, names: &[&str]) -> String {
    let mut rows = String::new();
    for name in names {
        for one in report.of(name) {
            let shown = |time: Option<f64>| time.map_or_else(|| "–".into(), |time| format!("{time:.1}"));
            let rate = one.seconds.map_or_else(String::new, |seconds| format!("{:.1}", one.runs_ms.len() as f64 / seconds));
            let percentiles = [50.0, 95.0, 99.0, 100.0].map(|percent| shown(one.percentile_ms(percent))).join("<td>");
            _ = writeln!(
                rows,
                "<tr><th>{}<th>{}<td>{}<td>{:.1}<td>{}<td>{percentiles}<td>{}<td>{rate}",
                text(&one.query),
                text(name),
                one.rows,
                one.first_ms,
                shown(one.median_ms()),
                one.runs_ms.len(),
            );
        }
    }
    format!(
        "<details><summary>All times</summary><table><tr><th>query<th><th>rows<th>first ms<th>median<th>p50<th>p95<th>p99<th>most<th>runs\
         <th>per second\n{rows}</table></details>\n"
    )
}

fn settings(report: &Report) -> String {
    let mut lists = format!("<p>windlass-bench {}</p>", text(&report.arguments.join(" ")));
    for (name, settings) in &report.contenders {
        let entries = settings.iter().map(|(name, value)| format!("<tr><th>{}<td class=\"text\">{}\n", text(name), text(value)));
        _ = writeln!(lists, "<h3>{}</h3><table>{}</table>", text(name), entries.collect::<String>());
    }
    format!("<details><summary>Versions and settings</summary>{lists}</details>\n")
}

/// A time in the unit that suits it.
fn seconds(milliseconds: f64) -> String {
    let (value, unit) = if milliseconds < 1_000.0 { (milliseconds, "ms") } else { (milliseconds / 1e3, "s") };
    let digits = if value >= 100.0 || value.fract() == 0.0 { 0 } else { 2 };
    format!("{value:.digits$} {unit}")
}

/// The day of a second since 1970.
fn day(second: u64) -> String {
    let days = i32::try_from(second / 86_400).unwrap_or_default();
    datafusion::scalar::ScalarValue::Date32(Some(days)).to_string()
}

/// Text as a page holds it.
fn text(plain: &str) -> String {
    plain.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_page_shows_times_and_failures_and_runs_no_text_as_code() {
        let fast = Measurement { runs_ms: vec![20.0, 10.0, 30.0], rows: 4, ..Measurement::new("q01", "a") };
        let failed = Measurement { error: Some("no <table>".into()), ..Measurement::new("q01", "b & c") };
        let report = Report {
            suite: "tpch".into(),
            started: 86_400,
            commit: String::new(),
            profile: "dev".into(),
            cores: 2,
            memory_bytes: Some(1 << 30),
            machine: String::new(),
            arguments: Vec::new(),
            oracle: "duckdb".into(),
            contenders: BTreeMap::new(),
            results: vec![fast, failed],
        };
        let page = page(&[report]);
        assert!(page.contains("1970-01-02 · 2 cores, 1 GiB"), "{page}");
        assert!(page.contains("<title>q01 on a: 20.0 ms (10.0 to 30.0)</title>"), "{page}");
        assert!(page.contains("<b>q01 on b &amp; c</b> no &lt;table&gt;"), "{page}");
        assert_eq!(page.matches("<circle").count(), 1);
    }
}
