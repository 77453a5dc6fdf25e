//! A running query on one terminal line.

use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use windlass_proto::{Progress, QueryState};

/// Redraws per second.
const REDRAWS: u8 = 10;
/// A query that ends sooner shows nothing: a flash helps nobody.
const SHOW_AFTER: Duration = Duration::from_millis(300);
/// Length of the bar inside, in steps.
const STEPS: u64 = 1_000;

/// The live line on standard error. Hidden when the terminal is not one.
pub struct Live {
    bar: ProgressBar,
    started: Instant,
    /// Whether the line is still to appear.
    waits: bool,
}

impl Live {
    /// A line that appears once the query has run for 0.3 s, or never when `enabled` is false.
    pub fn new(enabled: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:24.cyan/dim} {msg}").expect("the template is valid");
        bar.set_style(style);
        Self { bar, started: Instant::now(), waits: enabled }
    }

    /// Shows a snapshot.
    pub fn update(&mut self, progress: &Progress) {
        if self.waits && self.started.elapsed() > SHOW_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS));
            self.waits = false;
        }
        self.bar.set_message(line(progress, self.started.elapsed()));
        self.bar.set_position((progress.fraction() * STEPS as f64) as u64);
    }

    /// Wipes the line after Ctrl-C. The line fills the terminal's width, so the `^C` that the terminal shows stands on the next one.
    pub fn interrupted(&self) {
        self.clear();
        if !self.bar.is_hidden() {
            eprint!("\x1b[A\x1b[2K");
        }
    }

    /// Wipes the line, so that rows may follow.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(progress: &Progress, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match progress.state() {
        QueryState::Queued => format!("queued {seconds:.1} s"),
        QueryState::Planning => format!("planning {seconds:.1} s"),
        _ => {
            let Progress { stages_done, stages_total, tasks_done, tasks_total, tasks_running, .. } = progress;
            let read = read(progress);
            format!("stages {stages_done}/{stages_total}, tasks {tasks_done}/{tasks_total} ({tasks_running} running){read}, {seconds:.1} s")
        }
    }
}

/// What scans have read, behind a comma, as far as that is known.
fn read(progress: &Progress) -> String {
    match (progress.rows_read, progress.bytes_read) {
        (0, 0) => String::new(),
        (rows, 0) => format!(", read {} rows", HumanCount(rows)),
        (rows, bytes) => format!(", read {} rows, {}", HumanCount(rows), BinaryBytes(bytes)),
    }
}

/// The closing line of a query: rows, time, bytes and id.
pub fn closing(rows: u64, elapsed: Duration, progress: &Progress) -> String {
    let plural = if rows == 1 { "" } else { "s" };
    let mut text = format!("{} row{plural} in {:.3} s", HumanCount(rows), elapsed.as_secs_f64());
    text.push_str(&read(progress));
    if !progress.query_id.is_empty() {
        text.push_str(&format!(", query {}", progress.query_id));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_left_out() {
        let took = Duration::from_millis(1500);
        assert_eq!(closing(1, took, &Progress::default()), "1 row in 1.500 s");
        let state = QueryState::Running.into();
        let progress = Progress { query_id: "q1".into(), rows_read: 2_000, bytes_read: 4096, state, ..Progress::default() };
        let running = "stages 0/0, tasks 0/0 (0 running)";
        assert_eq!(line(&Progress { state, ..Progress::default() }, took), format!("{running}, 1.5 s"));
        assert_eq!(line(&progress, took), format!("{running}, read 2,000 rows, 4.00 KiB, 1.5 s"));
        assert_eq!(closing(1_000_000, took, &progress), "1,000,000 rows in 1.500 s, read 2,000 rows, 4.00 KiB, query q1");
    }
}
