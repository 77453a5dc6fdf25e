//! What runs before a query is planned to its end: small parts of it whose rows say what the rest need not read.
//!
//! A subquery that stands for a value becomes that value ([`values`]), and the small side of a join on partition keys tells in which
//! partitions the other side has partners ([`keys`]). Both only save time. What is large, slow or fails is left to the query, which then
//! gives its rows or its error as if nothing had been tried.
//!
//! These parts run in the scheduler while their query is planned: as many at one time as statements are planned, on the threads and the
//! memory of the local engine, and no longer than somebody waits for the plan. They read the files that the query itself then reads, as
//! tables remember what a statement's scans have found.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::concat_batches;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlan, TableSource};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use metrics::counter;
use tokio::time::Instant;
use tracing::debug;
use windlass_engine::WindlassOptions;
use windlass_engine::answer::schema::client_schema;
use windlass_proto::Kind;

use super::choice::Leaves;
use super::origins::is_volatile;
use crate::engines::{Engine, PlannedQuery};
use crate::error::Error;
use crate::metrics::PRELUDE_QUERIES_TOTAL;
use crate::query::new_query_id;

mod keys;
mod values;

/// Parts that one statement may run first.
const QUERIES_MAX: usize = 16;
/// Time that all of them together may take, as long as the query itself may take no less.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of rows that become part of a plan, which travels to every task.
const ROWS_BYTES_MAX: usize = 1024 * 1024;
/// What reading nothing but the footer of a file counts for.
const FOOTER_BYTES: u64 = 4 * 1024;

/// Runs parts of one statement's queries before the rest.
pub(super) struct Prelude<'a> {
    context: &'a Arc<SessionContext>,
    state: &'a SessionState,
    engine: &'a Arc<dyn Engine>,
    options: WindlassOptions,
    started: Instant,
    deadline: Instant,
    asked: Vec<Asked>,
    notes: Vec<String>,
}

/// A part that was run.
struct Asked {
    plan: LogicalPlan,
    /// Plans are equal whose tables only have the same name.
    sources: Vec<Arc<dyn TableSource>>,
    /// `None` if it failed, took too long or gave too much.
    rows: Option<RecordBatch>,
}

impl<'a> Prelude<'a> {
    /// For the queries of one statement, planned in `context`. `state` is the context's, of the moment that `now()` stands for; `engine` runs
    /// the parts in this process.
    pub(super) fn new(context: &'a Arc<SessionContext>, state: &'a SessionState, engine: &'a Arc<dyn Engine>) -> Self {
        let (options, started) = (WindlassOptions::of(state.config_options()), Instant::now());
        let time = match options.query_timeout_s {
            0 => TIME_MAX,
            seconds => TIME_MAX.min(Duration::from_secs(seconds)),
        };
        Self { context, state, engine, options, started, deadline: started + time, asked: Vec::new(), notes: Vec::new() }
    }

    /// Optimizes a resolved plan with what its small parts tell. Errors: those of the optimizer, of the plan as a whole.
    pub(super) async fn optimize(&mut self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        if self.options.prelude_scan_bytes_max == 0 {
            return self.state.optimize(plan);
        }
        let optimized = match self.with_values(plan).await? {
            Some(plan) => self.state.optimize(&plan)?,
            None => self.state.optimize(plan)?,
        };
        match self.options.dynamic_partition_pruning {
            true => self.with_keys(optimized).await,
            false => Ok(optimized),
        }
    }

    /// What was found out since the last call, as lines of EXPLAIN.
    pub(super) fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Time that is no longer left to the query.
    pub(super) fn elapsed(&self) -> Duration {
        if self.asked.is_empty() { Duration::ZERO } else { self.started.elapsed() }
    }

    /// Bytes that an optimized plan reads. `None` if that is not known, if it reads other things than tables with files, or if it may give
    /// other rows each time.
    async fn cost(&self, plan: &LogicalPlan) -> Option<u64> {
        let leaves = Leaves::of(plan).ok()?;
        if leaves.has_others || leaves.is_recursive || is_volatile(plan) {
            return None;
        }
        let mut bytes = 0;
        for scan in &leaves.scans {
            let report = scan.table().report(self.state, &scan.filters, scan.limit).await.ok()?;
            bytes += if scan.reads_keys_only() { report.files * FOOTER_BYTES } else { report.bytes };
        }
        Some(bytes)
    }

    /// The rows of an optimized plan, all of them, that the caller has limited. `None` if there is no telling.
    async fn ask(&mut self, plan: LogicalPlan) -> Option<RecordBatch> {
        let sources = tables(&plan);
        if let Some(asked) = self.asked.iter().find(|asked| asked.is(&plan, &sources)) {
            return asked.rows.clone();
        }
        if self.asked.len() == QUERIES_MAX {
            return None;
        }
        let late = |_| Err(Error::new(Kind::Timeout, "it takes too long"));
        let rows = tokio::time::timeout_at(self.deadline, self.run(&plan)).await.unwrap_or_else(late);
        let rows = rows.inspect_err(|error| debug!(%error, "a part of a query was not run first")).ok();
        let rows = rows.filter(|rows| rows.get_array_memory_size() <= ROWS_BYTES_MAX);
        counter!(PRELUDE_QUERIES_TOTAL, "outcome" => if rows.is_some() { "used" } else { "dropped" }).increment(1);
        self.asked.push(Asked { plan, sources, rows: rows.clone() });
        rows
    }

    async fn run(&self, plan: &LogicalPlan) -> crate::error::Result<RecordBatch> {
        let schema = client_schema(plan.schema().as_arrow());
        let run = self.engine.start(PlannedQuery {
            id: new_query_id(),
            label: "part of a query".to_owned(),
            context: Arc::clone(self.context),
            plan: plan.clone(),
            schema: Arc::clone(&schema),
        });
        // Dropped when it is late, and with it all that still runs.
        let run = run.await?;
        let rows: Vec<RecordBatch> = run.rows().await?.try_collect().await?;
        Ok(concat_batches(&schema, &rows)?)
    }
}

impl Asked {
    fn is(&self, plan: &LogicalPlan, sources: &[Arc<dyn TableSource>]) -> bool {
        let same = |(one, other): (&Arc<dyn TableSource>, &Arc<dyn TableSource>)| Arc::ptr_eq(one, other);
        self.plan == *plan && self.sources.len() == sources.len() && self.sources.iter().zip(sources).all(same)
    }
}

/// What a plan reads, in the order of a walk from the top.
pub(super) fn tables(plan: &LogicalPlan) -> Vec<Arc<dyn TableSource>> {
    let mut sources = Vec::new();
    // The visitor does not fail.
    let _infallible = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            sources.push(Arc::clone(&scan.source));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    sources
}

#[cfg(test)]
mod tests;
