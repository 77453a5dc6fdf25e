//! A write while it runs: its rows become files, its manifest is collected, and a commit makes the files visible.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::runtime_env::RuntimeEnv;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, Span, info, warn};
use url::Url;
use windlass_catalog::catalog::NewFile;
use windlass_catalog::discover::{object_path, object_url};
use windlass_catalog::{Catalog, Write, WriteIntent, WrittenFile};
use windlass_engine::write::ManifestLine;
use windlass_proto::{Kind, Progress, QueryId};

use super::node::WriteNode;
use super::plan::{Counted, Target, WritePlan};
use crate::engines::{Cluster, Engine, PlannedQuery, Run};
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

/// What a write needs beside an engine.
#[derive(Debug)]
pub(crate) struct Committing {
    pub(crate) plan: WritePlan,
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
            ended: watch::Sender::new(None),
            cancel: cancel.clone(),
            is_committing: AtomicBool::new(false),
            executors,
        });
        let writing = Arc::clone(&shared).drive(Arc::clone(&self.commit), self.second.clone(), query);
        tokio::spawn(writing.instrument(Span::current()));
        Ok(Arc::new(Writing { shared, _cancels: cancel.drop_guard() }))
    }

    async fn explain(&self, query: PlannedQuery) -> Result<Vec<(String, String)>> {
        self.engine.explain(query).await
    }
}

/// A run that writes. Dropping it cancels it, unless its commit has begun.
struct Writing {
    shared: Arc<Shared>,
    _cancels: DropGuard,
}

struct Shared {
    /// The attempt that runs.
    run: Mutex<Arc<dyn Run>>,
    /// Rows that were changed, once that is known.
    ended: watch::Sender<Option<Result<i64>>>,
    cancel: CancellationToken,
    /// From here on the write is no longer cancelled: whether its rows are visible is the catalog's affair.
    is_committing: AtomicBool,
    /// Those that were there at the start and may write; none if nobody else does.
    executors: HashSet<String>,
}

impl Shared {
    async fn drive(self: Arc<Self>, commit: Arc<Committing>, second: Option<Arc<dyn Engine>>, query: PlannedQuery) {
        let id = query.id.clone();
        let outcome = async {
            let manifest = self.cancel.run_until_cancelled(self.write(second, query)).await.unwrap_or_else(|| Err(cancelled()))?;
            self.is_committing.store(true, Ordering::Release);
            // Read after the flag is up: a cancel either sees the flag or is seen here.
            if self.cancel.is_cancelled() {
                return Err(cancelled());
            }
            let files: HashSet<_> = manifest.iter().map(|line| line.path.clone()).collect();
            let rows = commit.commit(&id, manifest).await?;
            if !self.executors.is_empty() {
                tokio::spawn(Arc::clone(&commit).clean_up(id.clone(), files, self.executors.clone()));
            }
            Ok(rows)
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            // Its tasks first, so that no file comes after the last one was removed.
            let run = Arc::clone(&self.run.lock());
            run.cancel().await;
            run.close().await;
            commit.give_up(&id).await;
        }
        self.ended.send_replace(Some(outcome));
    }

    /// The manifest of an attempt that came to its end.
    async fn write(&self, second: Option<Arc<dyn Engine>>, query: PlannedQuery) -> Result<Vec<ManifestLine>> {
        let first = Arc::clone(&self.run.lock());
        match (manifest(first.as_ref()).await, second) {
            // The engine can repeat it no more, but nobody has seen a row of it.
            (Err(error), Some(engine)) if error.kind() == Kind::Unavailable => {
                warn!(query = %query.id, %error, "a write was lost: writing everything again");
                first.close().await;
                let second = engine.start(query).await?;
                *self.run.lock() = Arc::clone(&second);
                manifest(second.as_ref()).await
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

fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "the query was cancelled")
}

/// Reads the manifest of a run.
async fn manifest(run: &dyn Run) -> Result<Vec<ManifestLine>> {
    tokio::select! {
        outcome = run.finished() => outcome?,
        () = run.full() => {}
    }
    let mut rows = run.rows().await?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    while let Some(batch) = rows.try_next().await? {
        bytes += batch.get_array_memory_size();
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
        run.progress()
    }

    async fn finished(&self) -> Result<()> {
        self.shared.ended().await.map(drop)
    }

    async fn rows(&self) -> Result<SendableRecordBatchStream> {
        let rows = Int64Array::from(vec![self.shared.ended().await?]);
        Rows(RecordBatch::try_new(result_schema(), vec![Arc::new(rows)])?).rows().await
    }

    fn affected_rows(&self) -> Option<i64> {
        self.shared.ended.borrow().as_ref()?.as_ref().ok().copied()
    }

    async fn analysis(&self) -> Result<Option<String>> {
        self.shared.ended().await?;
        let run = Arc::clone(&self.shared.run.lock());
        run.analysis().await
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
            Target::Location(_) | Target::Nowhere => return Ok(()),
        };
        Ok(self.catalog.begin_write(WriteIntent { query_id: query.to_string(), location, table_id }).await?)
    }

    /// Makes the files visible. Returns how many rows the statement has changed.
    async fn commit(&self, query: &QueryId, manifest: Vec<ManifestLine>) -> Result<i64> {
        let rows = self.changed(&manifest);
        let files = manifest.len();
        let write = |location: &str, manifest| -> Result<Write> {
            Ok(Write {
                query_id: query.to_string(),
                operation: self.plan.operation.to_owned(),
                user: self.user.clone(),
                replaces: self.plan.replaces.clone(),
                files: written(location, manifest)?,
            })
        };
        match &self.plan.target {
            Target::Table(table) => drop(self.catalog.commit_write(table, write(&table.location, manifest)?).await?),
            Target::NewTable { table, replaced } => {
                let write = write(&table.location, manifest)?;
                if let Some(replaced) = replaced {
                    self.catalog.drop_table(replaced).await?;
                }
                drop(self.catalog.create_table_as(table.as_ref().clone(), write).await?);
            }
            Target::Location(_) | Target::Nowhere => {}
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
        let given_up = match &self.plan.target {
            Target::Table(_) | Target::NewTable { .. } => self.catalog.abandon_write(query.as_str()).await.map_err(Error::from),
            Target::Location(location) => self.remove(location, query, |_| true).await,
            Target::Nowhere => Ok(()),
        };
        if let Err(error) = given_up {
            warn!(%query, %error, "files of a write that ended early are left behind");
        }
    }

    fn executors(&self) -> HashSet<String> {
        self.cluster.executors().into_iter().map(|executor| executor.id).collect()
    }

    /// Removes what executors that died have left of their tasks, which others have run again. Living ones clean up behind themselves.
    async fn clean_up(self: Arc<Self>, query: QueryId, committed: HashSet<String>, executors: HashSet<String>) {
        tokio::time::sleep(MISSED_AFTER).await;
        if executors.is_subset(&self.executors()) {
            return;
        }
        let location = match &self.plan.target {
            Target::Table(table) => &table.location,
            Target::NewTable { table, .. } => &table.location,
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
            },
        })
    };
    manifest.into_iter().map(file).collect()
}
