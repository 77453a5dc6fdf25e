//! A write while it runs: its rows become files, its manifest is collected, and a commit makes the files visible.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, Span, info, warn};
use url::Url;
use windlass_catalog::catalog::NewFile;
use windlass_catalog::discover::{object_path, object_url};
use windlass_catalog::{Advance, Catalog, Refresh, Replaces, Write, WriteIntent, WrittenFile};
use windlass_engine::write::ManifestLine;
use windlass_proto::{Kind, Progress, QueryId};

use super::dead_letters::Beside;
use super::materialized::{How, refreshed};
use super::node::WriteNode;
use super::plan::{Counted, Target, WritePlan};
use crate::engines::{Cluster, Earlier, Engine, PlannedQuery, Run};
use crate::error::{Error, Result};
use crate::query::rows::Rows;

/// Bytes of the manifest of one statement, which the scheduler holds until it is committed: some hundred thousand files.
const MANIFEST_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The engine that writes in this process.
const LOCAL: &str = "local";

/// How long after its death an executor is missed, at the latest.
const MISSED_AFTER: Duration = Duration::from_secs(15);

/// Files of a failed write that are removed at one time.
const REMOVALS_MAX: usize = 16;

/// What Flight SQL says of a number of rows that is not known.
const UNKNOWN: i64 = -1;

/// What a statement that writes returns: the number of rows that it changed.
pub(crate) fn result_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("rows", DataType::Int64, true)]))
}

/// What is committed with a write.
#[derive(Debug, Default)]
pub(crate) struct With {
    /// Jobs that it reads for.
    pub(crate) advances: Vec<Advance>,
    /// Other writes, which follow it.
    pub(crate) beside: Vec<Beside>,
}

/// What a write needs beside an engine.
#[derive(Debug)]
pub(crate) struct Committing {
    pub(crate) plan: WritePlan,
    pub(crate) with: With,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) runtime: Arc<RuntimeEnv>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) user: String,
}

/// An engine whose runs end with a commit.
#[derive(Debug)]
pub(crate) struct WritingEngine {
    /// Who runs the plan.
    pub(crate) engine: Arc<dyn Engine>,
    /// Who runs it again when the first has lost executors; none if its rows come only once.
    pub(crate) second: Option<Arc<dyn Engine>>,
    pub(crate) commit: Arc<Committing>,
}

#[async_trait]
impl Engine for WritingEngine {
    fn name(&self) -> &'static str {
        self.engine.name()
    }

    async fn start(&self, mut query: PlannedQuery) -> Result<Arc<dyn Run>> {
        query.plan = WriteNode::for_query(&query.plan, &query.id)?;
        self.commit.begin(&query.id).await?;
        let executors = if self.name() == LOCAL { HashSet::new() } else { self.commit.executors() };
        let first = match self.engine.start(query.clone()).await {
            Ok(run) => run,
            Err(error) => {
                self.commit.give_up(&query.id).await;
                return Err(error);
            }
        };
        let cancel = CancellationToken::new();
        let shared = Arc::new(Shared {
            run: Mutex::new(first),
            earlier: Mutex::default(),
            ended: watch::Sender::new(None),
            cancel: cancel.clone(),
            is_committing: AtomicBool::new(false),
            was_repeated: AtomicBool::new(false),
            executors,
        });
        let engines = (Arc::clone(&self.engine), self.second.clone());
        let writing = Arc::clone(&shared).drive(Arc::clone(&self.commit), engines, query);
        tokio::spawn(writing.instrument(Span::current()));
        let how = match &self.commit.plan.target {
            Target::View { how, .. } => Some(*how),
            _ => None,
        };
        Ok(Arc::new(Writing { shared, how, _cancels: cancel.drop_guard() }))
    }

    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>> {
        self.engine.explain(query).await
    }
}

/// A run that writes. Dropping it cancels it, unless its commit has begun.
struct Writing {
    shared: Arc<Shared>,
    /// What is computed again, if it refreshes a view.
    how: Option<How>,
    _cancels: DropGuard,
}

struct Shared {
    /// The attempt that runs.
    run: Mutex<Arc<dyn Run>>,
    /// Those that it took over from.
    earlier: Mutex<Earlier>,
    /// Rows that were changed, once that is known.
    ended: watch::Sender<Option<Result<i64>>>,
    cancel: CancellationToken,
    /// From here on the write is no longer cancelled: whether its rows are visible is the catalog's affair.
    is_committing: AtomicBool,
    /// Whether tasks that came to their end count no more.
    was_repeated: AtomicBool,
    /// Those that were there at the start and may write; none if nobody else does.
    executors: HashSet<String>,
}

impl Shared {
    async fn drive(self: Arc<Self>, commit: Arc<Committing>, engines: (Arc<dyn Engine>, Option<Arc<dyn Engine>>), query: PlannedQuery) {
        let id = query.id.clone();
        let outcome = async {
            let writing = self.write(engines, &commit.with.beside, query);
            let (manifest, beside) = self.cancel.run_until_cancelled(writing).await.unwrap_or_else(|| Err(cancelled()))?;
            self.is_committing.store(true, Ordering::Release);
            // Read after the flag is up: a cancel either sees the flag or is seen here.
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            let files: HashSet<_> = manifest.iter().map(|line| line.path.clone()).collect();
            let rows = commit.commit(&id, manifest, beside).await?;
            let was_repeated = self.was_repeated.load(Ordering::Relaxed);
            tokio::spawn(Arc::clone(&commit).clean_up(id.clone(), files, self.executors.clone(), was_repeated));
            Ok(rows)
        };
        let outcome = AssertUnwindSafe(outcome).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|panic| Err(Error::panicked("the write", panic.as_ref())));
        if outcome.is_err() {
            // Its tasks first, so that no file comes after the last one was removed.
            let run = Arc::clone(&self.run.lock());
            run.cancel().await;
            run.close().await;
            commit.give_up(&id).await;
        }
        self.ended.send_replace(Some(outcome));
    }

    /// The manifest, and those of the writes beside it.
    async fn write(
        &self,
        (engine, second): (Arc<dyn Engine>, Option<Arc<dyn Engine>>),
        beside: &[Beside],
        query: PlannedQuery,
    ) -> Result<(Vec<ManifestLine>, Vec<Vec<ManifestLine>>)> {
        let manifest = self.attempts(second.clone(), query.clone()).await?;
        let mut others = Vec::with_capacity(beside.len());
        for (place, Beside { plan, schema, .. }) in beside.iter().enumerate() {
            let plan = WriteNode::for_query(plan, &id_beside(&query.id, place))?;
            let query = PlannedQuery { plan, schema: Arc::clone(schema), ..query.clone() };
            let done = Arc::clone(&self.run.lock());
            done.close().await;
            let run = engine.start(query.clone()).await?;
            *self.run.lock() = run;
            others.push(self.attempts(second.clone(), query).await?);
        }
        Ok((manifest, others))
    }

    /// The manifest of an attempt that came to its end.
    async fn attempts(&self, second: Option<Arc<dyn Engine>>, query: PlannedQuery) -> Result<Vec<ManifestLine>> {
        let first = Arc::clone(&self.run.lock());
        match (manifest(first.as_ref()).await, second) {
            // The engine can repeat it no more, but nobody has seen a row of it.
            (Err(error), Some(engine)) if error.kind() == Kind::Unavailable => {
                warn!(query = %query.id, %error, "a write was lost: writing everything again");
                let earlier = Earlier::of(&first.progress(), &error);
                first.close().await;
                self.was_repeated.store(true, Ordering::Relaxed);
                let second = engine.start(query).await.map_err(|second| second.after(&error))?;
                *self.earlier.lock() = earlier;
                *self.run.lock() = Arc::clone(&second);
                manifest(second.as_ref()).await.map_err(|second| second.after(&error))
            }
            (outcome, _) => outcome,
        }
    }

    async fn ended(&self) -> Result<i64> {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        ended.ok().flatten().unwrap_or_else(|| Err(cancelled()))
    }
}

/// What a write beside that of a query is called: files of both have the query's id in their names.
fn id_beside(query: &QueryId, place: usize) -> QueryId {
    QueryId::new(format!("{query}-{place}"))
}

fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "the query was cancelled")
}

/// Reads the manifest of a run.
async fn manifest(run: &dyn Run) -> Result<Vec<ManifestLine>> {
    run.readable().await?;
    let mut rows = run.rows().await?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = rows.try_next().await? {
        bytes += get_record_batch_memory_size(&batch);
        if bytes > MANIFEST_BYTES_MAX {
            return Err(Error::new(Kind::Exhausted, format!("the statement writes too many files at once, more than {}", lines.len()))
                .with_hint("write fewer partitions at once, or use fewer partition keys"));
        }
        lines.extend(ManifestLine::decode(&batch)?);
    }
    Ok(lines)
}

#[async_trait]
impl Run for Writing {
    fn progress(&self) -> Progress {
        let run = Arc::clone(&self.shared.run.lock());
        self.shared.earlier.lock().before(run.progress())
    }

    async fn finished(&self) -> Result<()> {
        self.shared.ended().await.map(drop)
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        let rows = self.shared.ended().await?;
        let batch = match self.how {
            Some(how) => refreshed(how, rows)?,
            None => RecordBatch::try_new(result_schema(), vec![Arc::new(Int64Array::from(vec![rows]))])?,
        };
        Rows(batch).rows().await
    }

    fn affected_rows(&self) -> Option<i64> {
        self.shared.ended.borrow().as_ref()?.as_ref().ok().copied()
    }

    async fn analysis(&self) -> Result<Option<String>> {
        self.shared.ended().await?;
        let run = Arc::clone(&self.shared.run.lock());
        run.analysis().await
    }

    async fn measured(&self) {
        let run = Arc::clone(&self.shared.run.lock());
        run.measured().await;
    }

    async fn cancel(&self) {
        self.shared.cancel.cancel();
        if self.shared.is_committing.load(Ordering::Acquire) {
            // What it comes to is known in a moment.
            let _outcome = self.shared.ended().await;
        }
    }

    async fn close(&self) {
        self.cancel().await;
        let run = Arc::clone(&self.shared.run.lock());
        run.close().await;
    }
}

impl Committing {
    /// Tells the catalog that files will come.
    async fn begin(&self, query: &QueryId) -> Result<()> {
        let (location, table_id) = match &self.plan.target {
            Target::Table(table) => (table.location.clone(), Some(table.id)),
            Target::NewTable { table, .. } => (table.location.clone(), None),
            Target::Location(location) => (location.to_string(), None),
            Target::View { how: How::Unchanged, .. } | Target::Nowhere => return Ok(()),
            Target::View { view, .. } => (view.location.clone(), Some(view.id)),
        };
        self.catalog.begin_write(WriteIntent { query_id: query.to_string(), location, table_id }).await?;
        for (place, Beside { table, .. }) in self.with.beside.iter().enumerate() {
            let (query_id, location) = (id_beside(query, place).to_string(), table.location.clone());
            self.catalog.begin_write(WriteIntent { query_id, location, table_id: Some(table.id) }).await?;
        }
        Ok(())
    }

    /// Makes the files visible. Returns how many rows the statement has changed.
    async fn commit(&self, query: &QueryId, manifest: Vec<ManifestLine>, others: Vec<Vec<ManifestLine>>) -> Result<i64> {
        let mut beside = Vec::new();
        for (place, (Beside { table, .. }, manifest)) in self.with.beside.iter().zip(others).enumerate() {
            let query_id = id_beside(query, place).to_string();
            if manifest.is_empty() {
                self.catalog.forget_write(&query_id).await?;
                continue;
            }
            let (user, files) = (self.user.clone(), written(&table.location, manifest)?);
            let (operation, replaces) = ("BAD RECORDS".to_owned(), Replaces::Nothing);
            let write = Write { query_id, operation, user, replaces, files, refresh: None, advances: Vec::new(), beside: Vec::new() };
            beside.push((Arc::clone(table), write));
        }
        let rows = self.changed(&manifest);
        let files = manifest.len();
        let write = |location: &str, manifest, refresh: Option<&Refresh>| -> Result<Write> {
            Ok(Write {
                query_id: query.to_string(),
                operation: self.plan.operation.to_owned(),
                user: self.user.clone(),
                replaces: self.plan.replaces.clone(),
                files: written(location, manifest)?,
                refresh: refresh.cloned(),
                advances: self.with.advances.clone(),
                beside: beside.clone(),
            })
        };
        match &self.plan.target {
            Target::Table(table) => drop(self.catalog.commit_write(table, write(&table.location, manifest, None)?).await?),
            Target::NewTable { table, replaced, refresh } => {
                let write = write(&table.location, manifest, refresh.as_ref())?;
                drop(self.catalog.create_table_as(table.as_ref().clone(), replaced.as_deref(), write).await?);
            }
            Target::View { how: How::Unchanged, .. } => {}
            Target::View { view, refresh, .. } => {
                drop(self.catalog.commit_write(view, write(&view.location, manifest, Some(refresh))?).await?);
            }
            Target::Location(location) => {
                // No catalog says which files count: what a task has left that was run again goes first.
                let wanted: HashSet<&str> = manifest.iter().map(|line| line.path.as_str()).collect();
                self.remove(location, query, |path| !wanted.contains(path.as_ref())).await?;
                for (table, write) in beside {
                    self.catalog.commit_write(&table, write).await?;
                }
                self.catalog.forget_write(query.as_str()).await?;
            }
            Target::Nowhere => {}
        }
        info!(%query, rows, files, operation = self.plan.operation, "write committed");
        Ok(rows)
    }

    fn changed(&self, manifest: &[ManifestLine]) -> i64 {
        let rows: i64 = manifest.iter().map(|line| line.rows).sum();
        match self.plan.counted {
            Counted::Rows => rows,
            Counted::Changes { before: None } => UNKNOWN,
            Counted::Changes { before: Some(before) } => {
                let marks: i64 = manifest.iter().map(|line| line.changed).sum();
                marks + i64::try_from(before).unwrap_or(i64::MAX) - rows
            }
        }
    }

    /// The write will not be committed.
    async fn give_up(&self, query: &QueryId) {
        let given_up = async {
            self.catalog.abandon_write(query.as_str()).await?;
            for place in 0..self.with.beside.len() {
                self.catalog.abandon_write(id_beside(query, place).as_str()).await?;
            }
            match &self.plan.target {
                Target::Location(location) => self.remove(location, query, |_| true).await,
                Target::Table(_) | Target::NewTable { .. } | Target::View { .. } | Target::Nowhere => Ok(()),
            }
        };
        if let Err(error) = given_up.await {
            warn!(%query, %error, "files of a write that ended early are left behind");
        }
    }

    fn executors(&self) -> HashSet<String> {
        self.cluster.executors().into_iter().map(|executor| executor.id).collect()
    }

    /// Removes what tasks have left that were run again, because their executor died or another engine took over. Other tasks clean up
    /// behind themselves. If this process dies before it knows, the collection of garbage looks for it.
    async fn clean_up(self: Arc<Self>, query: QueryId, committed: HashSet<String>, executors: HashSet<String>, was_repeated: bool) {
        if !executors.is_empty() {
            tokio::time::sleep(MISSED_AFTER).await;
        }
        if !was_repeated && executors.is_subset(&self.executors()) {
            if let Err(error) = self.catalog.forget_write(query.as_str()).await {
                warn!(%query, %error, "a write that is committed is kept in mind");
            }
            return;
        }
        let location = match &self.plan.target {
            Target::Table(table) => &table.location,
            Target::NewTable { table, .. } => &table.location,
            Target::View { view, .. } => &view.location,
            Target::Location(location) => location.as_str(),
            Target::Nowhere => return,
        };
        let removed = async {
            let location = Url::parse(location).map_err(|cause| Error::internal(format!("location '{location}' is no URL: {cause}")))?;
            self.remove(&location, &query, |path| !committed.contains(path.as_ref())).await
        };
        if let Err(error) = removed.await {
            warn!(%query, %error, "files of executors that died are left behind");
        }
    }

    /// Removes files that a query has written to a location.
    async fn remove(&self, location: &Url, query: &QueryId, is_unwanted: impl Fn(&Path) -> bool) -> Result<()> {
        let store = self.runtime.object_store_registry.get_store(location)?;
        let root = object_path(location.as_str())?;
        let unreadable = |cause| Error::from(windlass_catalog::Error::ObjectStore { url: location.to_string(), cause });
        let is_of_query = |path: &Path| path.filename().is_some_and(|name| name.contains(query.as_str())) && is_unwanted(path);
        let files = store.list(Some(&root)).try_filter(|file| std::future::ready(is_of_query(&file.location)));
        let remove = async |path: Path| match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(cause) => Err(cause),
        };
        files.map_ok(|file| file.location).try_for_each_concurrent(REMOVALS_MAX, remove).await.map_err(unreadable)
    }
}

/// The files of a manifest, as a catalog knows them.
fn written(location: &str, manifest: Vec<ManifestLine>) -> Result<Vec<WrittenFile>> {
    let base = Url::parse(location).map_err(|cause| Error::internal(format!("location '{location}' is no URL: {cause}")))?;
    let url = |path: &str| -> Result<String> {
        let path = Path::parse(path).map_err(|cause| Error::internal(format!("'{path}' is no path: {cause}")))?;
        Ok(object_url(&base, &path))
    };
    let file = |line: ManifestLine| {
        Ok(WrittenFile {
            partition_location: format!("{}/", url(&line.directory)?),
            values: line.keys,
            file: NewFile {
                url: url(&line.path)?,
                size: line.size.unsigned_abs(),
                modified_ms: line.modified_ms,
                etag: line.etag,
                rows: Some(line.rows.unsigned_abs()),
                statistics: line.statistics.map(Arc::new),
                kept_rows: None,
            },
        })
    };
    manifest.into_iter().map(file).collect()
}
