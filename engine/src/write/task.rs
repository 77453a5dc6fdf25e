//! What a task does with one partition of a write's input.
//!
//! The first partitions of the table that rows come for get a file each, which stays open. Rows of all others are sorted, spilling where
//! memory is short, and written when the input has ended, one file at a time. So the number of partitions has no limit, and few of them
//! cost no sort. Rows of a table whose files are sorted come in order, and need one open file. A bucket is to all this a partition more.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{concat_batches, sum, take_record_batch};
use datafusion::arrow::datatypes::{Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::common::{HashMap, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, Time};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use url::Url;
use uuid::Uuid;

use super::file::{FileKind, OpenFile, Written};
use super::{FILE_BYTES, ManifestLine, WriteSpec};
use crate::evolution::plain_type;
use crate::hive_path::directories;
use crate::layout::file_name;

/// Files open at one time. Each holds some megabytes, and what it was given since its last row group.
const OPEN_MAX: usize = 64;

/// Files that are being completed at one time: on an object store that takes a while.
const CLOSING_MAX: usize = 4;

/// Where memory is short, the largest file is closed; not if it holds less than this, or there would be a file per batch.
const CLOSED_BYTES_MIN: usize = 1024 * 1024;

/// Rows that are told apart at once: a partition's share of them is written in one go, and each go has its price.
const ROWS_AT_ONCE: usize = 64 * 1024;

/// The same in bytes, for long rows.
const BYTES_AT_ONCE: usize = 16 * 1024 * 1024;

/// Batches that wait for the sort.
const WAITING_MAX: usize = 2;

/// One partition of the input, on its way into files.
pub(super) struct Task {
    spec: Arc<WriteSpec>,
    kind: FileKind,
    /// Directory of the table.
    root: Path,
    /// Names of the keys.
    keys: Vec<String>,
    /// Of the input.
    schema: SchemaRef,
    manifest_schema: SchemaRef,
    partition: usize,
    context: Arc<TaskContext>,
    reservation: MemoryReservation,
    converter: RowConverter,
    open: HashMap<Box<[u8]>, OpenPartition>,
    others: Option<Others>,
    begun: Begun,
    lines: Vec<ManifestLine>,
    next_file: usize,
    files: Count,
    bytes: Count,
    time: Time,
}

/// A partition of the table, or a bucket of one: its values and its directory.
#[derive(Debug, Clone)]
struct Place {
    keys: Vec<ScalarValue>,
    directory: Path,
    bucket: Option<u32>,
}

/// A partition of the table whose rows go into a file right away. There is no file before the first row, nor after the last one was full.
struct OpenPartition {
    place: Place,
    file: Option<OpenFile>,
}

impl Task {
    pub(super) fn new(
        spec: Arc<WriteSpec>,
        schema: SchemaRef,
        manifest_schema: SchemaRef,
        partition: usize,
        metrics: &ExecutionPlanMetricsSet,
        context: Arc<TaskContext>,
    ) -> Result<Self> {
        let external = |cause: String| DataFusionError::Configuration(format!("cannot write to '{}': {cause}", spec.location));
        let url = Url::parse(&spec.location).map_err(|cause| external(cause.to_string()))?;
        let store = context.runtime_env().object_store_registry.get_store(&url)?;
        let root = Path::from_url_path(url.path()).map_err(|cause| external(cause.to_string()))?;
        let columns = spec.file_columns(schema.fields().len());
        let key_fields = &schema.fields()[columns..columns + spec.keys as usize];
        let groups = schema.fields()[columns..columns + spec.groups()].iter();
        let converter = RowConverter::new(groups.map(|field| SortField::new(field.data_type().clone())).collect())?;
        let file_schema = Arc::new(Schema::new(schema.fields()[..columns].to_vec()));
        let reservation = MemoryConsumer::new(format!("WriteExec[{partition}]")).with_can_spill(true).register(context.memory_pool());
        Ok(Self {
            kind: FileKind::new(Arc::clone(&store), &spec, file_schema)?,
            root,
            keys: key_fields.iter().map(|field| field.name().clone()).collect(),
            schema,
            manifest_schema,
            partition,
            context,
            reservation,
            converter,
            open: HashMap::new(),
            others: None,
            begun: Begun { store, paths: Vec::new(), closing: JoinSet::new() },
            lines: Vec::new(),
            next_file: 0,
            files: MetricBuilder::new(metrics).global_counter("files_written"),
            bytes: MetricBuilder::new(metrics).global_counter("bytes_written"),
            time: MetricBuilder::new(metrics).subset_time("write_time", partition),
            spec,
        })
    }

    /// Writes all rows. What was written is removed if this does not come to its end.
    pub(super) async fn run(mut self, input: SendableRecordBatchStream) -> Result<RecordBatch> {
        match self.spec.is_sorted() {
            true => self.write_sorted(input).await?,
            false => self.write_unsorted(input).await?,
        }
        while let Some(closed) = self.begun.closing.join_next().await {
            self.closed(closed)?;
        }
        let manifest = ManifestLine::encode(&self.lines, &self.manifest_schema)?;
        self.begun.paths.clear();
        Ok(manifest)
    }

    /// Writes rows that come in any order.
    async fn write_unsorted(&mut self, mut input: SendableRecordBatchStream) -> Result<()> {
        // Rows of one partition need not be told apart.
        let rows_at_once = if self.spec.groups() == 0 { 0 } else { ROWS_AT_ONCE };
        let (mut waiting, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(batch) = input.try_next().await? {
            rows += batch.num_rows();
            bytes += get_record_batch_memory_size(&batch);
            waiting.push(batch);
            if rows >= rows_at_once || bytes >= BYTES_AT_ONCE {
                self.write_all(std::mem::take(&mut waiting)).await?;
                (rows, bytes) = (0, 0);
            }
        }
        self.write_all(waiting).await?;
        let open = std::mem::take(&mut self.open);
        for OpenPartition { place, file } in open.into_values() {
            self.close(file, &place).await?;
        }
        if let Some(others) = self.others.take() {
            self.write_sorted(others.sorted().await?).await?;
        }
        Ok(())
    }

    async fn write_all(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let time = self.time.clone();
        let _timer = time.timer();
        match batches.as_slice() {
            [] => Ok(()),
            [batch] => self.write(batch).await,
            _ => self.write(&concat_batches(&self.schema, &batches)?).await,
        }
    }

    /// Writes rows of open partitions, and hands the rest to the sort.
    async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let rows = self.group_rows(batch)?;
        let mut here = Vec::<(Box<[u8]>, Vec<u32>)>::new();
        let mut elsewhere = Vec::new();
        let mut places = HashMap::<&[u8], Option<usize>>::new();
        let mut opened = self.open.len();
        for row in 0..batch.num_rows() {
            let key = rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
            let place = *places.entry(key).or_insert_with(|| {
                let known = self.open.contains_key(key);
                if !known && opened == OPEN_MAX {
                    return None;
                }
                opened += usize::from(!known);
                here.push((key.into(), Vec::new()));
                Some(here.len() - 1)
            });
            match place {
                Some(place) => here[place].1.push(row as u32),
                None => elsewhere.push(row as u32),
            }
        }
        for (key, rows) in here {
            let first = rows[0] as usize;
            let part = select(batch, rows)?;
            let mut partition = match self.open.remove(&key) {
                Some(partition) => partition,
                None => OpenPartition { place: self.place(batch, first)?, file: None },
            };
            self.append(&part, &mut partition).await?;
            self.open.insert(key, partition);
        }
        if !elsewhere.is_empty() {
            let rest = select(batch, elsewhere)?;
            if self.others.is_none() {
                self.others = Some(Others::start(&self.schema, self.ordering()?, &self.context)?);
            }
            if let Some(others) = &self.others {
                others.add(rest).await?;
            }
        }
        self.reserve().await
    }

    /// Writes rows that are sorted by partition and bucket.
    async fn write_sorted(&mut self, mut sorted: SendableRecordBatchStream) -> Result<()> {
        let mut current: Option<(Box<[u8]>, OpenPartition)> = None;
        while let Some(batch) = sorted.try_next().await? {
            let time = self.time.clone();
            let _timer = time.timer();
            let rows = self.group_rows(&batch)?;
            let group = |row| rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
            let mut start = 0;
            while start < batch.num_rows() {
                let key = group(start);
                let end = match &rows {
                    Some(_) => (start + 1..batch.num_rows()).find(|row| group(*row) != key).unwrap_or_else(|| batch.num_rows()),
                    None => batch.num_rows(),
                };
                let mut partition = match current.take() {
                    Some((open, partition)) if *open == *key => partition,
                    before => {
                        if let Some((_, OpenPartition { place, file })) = before {
                            self.close(file, &place).await?;
                        }
                        OpenPartition { place: self.place(&batch, start)?, file: None }
                    }
                };
                self.append(&batch.slice(start, end - start), &mut partition).await?;
                current = Some((key.into(), partition));
                start = end;
            }
            let held = current.as_ref().and_then(|(_, partition)| partition.file.as_ref()).map_or(0, OpenFile::memory);
            self.reservation.resize(held);
        }
        match current {
            Some((_, OpenPartition { place, file })) => self.close(file, &place).await,
            None => Ok(()),
        }
    }

    /// Keys and buckets of rows, comparable; none if the table has neither.
    fn group_rows(&self, batch: &RecordBatch) -> Result<Option<Rows>> {
        let columns = self.spec.file_columns(batch.num_columns());
        let groups = &batch.columns()[columns..columns + self.spec.groups()];
        Ok(if groups.is_empty() { None } else { Some(self.converter.convert_columns(groups)?) })
    }

    /// The partition and bucket that a row belongs to.
    fn place(&self, batch: &RecordBatch, row: usize) -> Result<Place> {
        let columns = self.spec.file_columns(batch.num_columns());
        let key = |index: usize| {
            let value = ScalarValue::try_from_array(batch.column(columns + index), row)?;
            value.cast_to(&plain_type(&value.data_type()))
        };
        let keys = (0..self.keys.len()).map(key).collect::<Result<Vec<_>>>()?;
        let below = directories(self.keys.iter().map(String::as_str).zip(&keys));
        let directory = match below.is_empty() {
            true => Ok(self.root.clone()),
            // Not `Path::from`, which would escape what is escaped already.
            false => Path::parse(format!("{}/{below}", self.root)),
        };
        let directory = directory.map_err(|cause| DataFusionError::External(Box::new(cause)))?;
        let bucket = (self.spec.buckets > 0).then(|| batch.column(columns + self.keys.len()).as_primitive::<Int32Type>().value(row));
        Ok(Place { keys, directory, bucket: bucket.map(i32::unsigned_abs) })
    }

    /// Adds rows of one partition to its file, and closes it if it is large enough.
    async fn append(&mut self, rows: &RecordBatch, partition: &mut OpenPartition) -> Result<()> {
        let columns = self.spec.file_columns(rows.num_columns());
        let marks = self.spec.marked.then(|| rows.column(rows.num_columns() - 1).as_primitive::<Int64Type>());
        let changed = marks.and_then(sum).unwrap_or_default();
        let file = match &mut partition.file {
            Some(file) => file,
            None => partition.file.insert(self.file(&partition.place)?),
        };
        file.write(&rows.project(&(0..columns).collect::<Vec<_>>())?, changed).await?;
        if file.size() >= FILE_BYTES {
            let file = partition.file.take();
            self.close(file, &partition.place).await?;
        }
        Ok(())
    }

    fn file(&mut self, place: &Place) -> Result<OpenFile> {
        let WriteSpec { query, .. } = self.spec.as_ref();
        let (partition, number, extension) = (self.partition, self.next_file, self.spec.extension()?);
        let unique = format!("{query}-{partition}-{number}-{}", Uuid::new_v4().simple());
        let name = file_name(&unique, place.bucket, &extension);
        self.next_file += 1;
        let path = place.directory.clone().join(name);
        self.begun.paths.push(path.clone());
        OpenFile::new(&self.kind, path)
    }

    /// Completes a file while others are written.
    async fn close(&mut self, file: Option<OpenFile>, place: &Place) -> Result<()> {
        let Some(file) = file else { return Ok(()) };
        while self.begun.closing.len() >= CLOSING_MAX {
            if let Some(closed) = self.begun.closing.join_next().await {
                self.closed(closed)?;
            }
        }
        let place = place.clone();
        self.begun.closing.spawn(async move { Ok((file.finish().await?, place)) });
        Ok(())
    }

    fn closed(&mut self, closed: Result<Result<(Written, Place)>, tokio::task::JoinError>) -> Result<()> {
        let (file, place) = closed.map_err(|cause| DataFusionError::ExecutionJoin(Box::new(cause)))??;
        self.files.add(1);
        self.bytes.add(usize::try_from(file.size).unwrap_or(usize::MAX));
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.lines.push(ManifestLine {
            path: file.path.into(),
            directory: place.directory.into(),
            size: count(file.size),
            modified_ms: file.modified_ms,
            etag: file.etag,
            rows: count(file.rows),
            changed: file.changed,
            statistics: file.statistics,
            keys: place.keys,
        });
        Ok(())
    }

    /// Accounts for what the open files hold, and closes the largest ones where there is no room for it.
    async fn reserve(&mut self) -> Result<()> {
        loop {
            let held = |partition: &OpenPartition| partition.file.as_ref().map_or(0, OpenFile::memory);
            let total = self.open.values().map(held).sum();
            if self.reservation.try_resize(total).is_ok() {
                return Ok(());
            }
            let largest =
                self.open.values_mut().max_by_key(|partition| held(partition)).filter(|largest| held(largest) >= CLOSED_BYTES_MIN);
            let Some(largest) = largest else {
                // Little, for certain: no file holds much.
                self.reservation.resize(total);
                return Ok(());
            };
            let (file, place) = (largest.file.take(), largest.place.clone());
            self.close(file, &place).await?;
        }
    }

    fn ordering(&self) -> Result<LexOrdering> {
        let first = self.spec.file_columns(self.schema.fields().len());
        let column = |index: usize| PhysicalSortExpr::new_default(Arc::new(Column::new(self.schema.field(index).name(), index)));
        LexOrdering::new((first..first + self.spec.groups()).map(column))
            .ok_or_else(|| DataFusionError::Internal("a table without partition keys and buckets has one partition".to_owned()))
    }
}

/// The given rows, which are in order. No copy if they lie side by side.
fn select(batch: &RecordBatch, rows: Vec<u32>) -> Result<RecordBatch> {
    let (first, last) = (rows[0] as usize, rows[rows.len() - 1] as usize);
    if last - first + 1 == rows.len() {
        return Ok(batch.slice(first, rows.len()));
    }
    Ok(take_record_batch(batch, &UInt32Array::from(rows))?)
}

/// Rows of partitions that have no open file, being sorted.
struct Others {
    rows: mpsc::Sender<RecordBatch>,
    sorting: SpawnedTask<Result<SendableRecordBatchStream>>,
}

impl Others {
    fn start(schema: &SchemaRef, ordering: LexOrdering, context: &Arc<TaskContext>) -> Result<Self> {
        let (rows, received) = mpsc::channel(WAITING_MAX);
        let received = Received { schema: Arc::clone(schema), rows: Mutex::new(Some(received)) };
        let input = StreamingTableExec::try_new(Arc::clone(schema), vec![Arc::new(received)], None, [], false, None)?;
        let mut sorted = SortExec::new(ordering, Arc::new(input)).execute(0, Arc::clone(context))?;
        // A sort takes its input when its first row is asked for.
        let sorting = SpawnedTask::spawn(async move {
            let first = sorted.next().await;
            let schema = sorted.schema();
            let all = stream::iter(first).chain(sorted);
            Ok(Box::pin(RecordBatchStreamAdapter::new(schema, all)) as SendableRecordBatchStream)
        });
        Ok(Self { rows, sorting })
    }

    /// Errors: none of its own; a sort that failed says why at the end.
    async fn add(&self, batch: RecordBatch) -> Result<()> {
        let _failed = self.rows.send(batch).await;
        Ok(())
    }

    async fn sorted(self) -> Result<SendableRecordBatchStream> {
        drop(self.rows);
        self.sorting.join().await.map_err(|cause| DataFusionError::ExecutionJoin(Box::new(cause)))?
    }
}

/// The input of the sort.
struct Received {
    schema: SchemaRef,
    rows: Mutex<Option<mpsc::Receiver<RecordBatch>>>,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received")
    }
}

impl PartitionStream for Received {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = self.rows.try_lock().ok().and_then(|mut rows| rows.take());
        let rows = stream::unfold(rows, async |rows| {
            let mut rows = rows?;
            let batch = rows.recv().await?;
            Some((Ok(batch), Some(rows)))
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}

/// Files that a task has begun. Those that are left when it is dropped are removed: nobody will be told of them.
struct Begun {
    store: Arc<dyn ObjectStore>,
    paths: Vec<Path>,
    /// Those that are being completed.
    closing: JoinSet<Result<(Written, Place)>>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        let (store, paths) = (Arc::clone(&self.store), std::mem::take(&mut self.paths));
        let mut closing = std::mem::take(&mut self.closing);
        if let (false, Ok(runtime)) = (paths.is_empty(), Handle::try_current()) {
            runtime.spawn(async move {
                // What is under way cannot be called back, and would come after its removal.
                while closing.join_next().await.is_some() {}
                for path in paths {
                    match store.delete(&path).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(error) => tracing::debug!(%error, %path, "cannot remove a file of a write that ended early"),
                    }
                }
            });
        }
    }
}
