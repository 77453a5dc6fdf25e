//! What scans have read and left out, by their metrics.

use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};
use windlass_proto::Progress;

/// Sums over scans.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scanned {
    rows: u64,
    bytes: u64,
    row_groups_pruned: u64,
}

impl Scanned {
    /// Adds what one scan has measured.
    pub fn add(&mut self, metrics: &MetricsSet) {
        for metric in metrics.iter() {
            let (name, value) = (metric.value().name(), metric.value());
            let row_groups = name.starts_with("row_groups_pruned") || name == "limit_pruned_row_groups";
            match value {
                MetricValue::OutputRows(rows) => self.rows += rows.value() as u64,
                MetricValue::PruningMetrics { pruning_metrics, .. } if row_groups => {
                    self.row_groups_pruned += pruning_metrics.pruned() as u64;
                }
                MetricValue::Count { count, .. } if row_groups => self.row_groups_pruned += count.value() as u64,
                MetricValue::Count { count, .. } if name == "bytes_scanned" => self.bytes += count.value() as u64,
                _ => {}
            }
        }
    }

    /// As a part of a progress report.
    pub fn progress(self) -> Progress {
        let Self { rows, bytes, row_groups_pruned } = self;
        Progress { rows_read: rows, bytes_read: bytes, row_groups_pruned, ..Progress::default() }
    }
}
