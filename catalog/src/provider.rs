//! A table of the catalog as DataFusion sees it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ScalarValue, Statistics};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use windlass_engine::WindlassOptions;
use windlass_engine::evolution::scanned_type;
use windlass_engine::formats::bad_records_schema;
use windlass_engine::layout::Layout;

use crate::analyzed::add_analyzed;
use crate::buckets::Buckets;
use crate::catalog::{
    AnalyzedPartition, Catalog, DataFile, KeyType, NewContents, NewFile, Partition, PartitionKey, Residual, ScanContents, TableMeta, Totals,
};
use crate::commit::{Advance, Moment};
use crate::error::Error;
use crate::keys::format_value;
use crate::predicate::KeyPredicate;
use crate::prune::{Pruning, is_key_only};
use crate::scan::{self, ScanFile, ScanReport, ScanReports};

/// Selections that a table remembers. A statement scans a table a few times; the rows of parameters of one statement may be many.
const SELECTIONS_MAX: usize = 16;

/// A table with files. Its scans read the files that the catalog knows; they list no directory and read no footer.
///
/// One value serves one statement: what a scan reads is asked once and stays, however often the statement is planned.
#[derive(Debug)]
pub struct HiveTable {
    catalog: Arc<dyn Catalog>,
    meta: Arc<TableMeta>,
    /// When it is read as of, if not now.
    moment: Option<Moment>,
    /// For whom it is read, if only what is new to somebody.
    since: Option<Arc<Since>>,
    /// What travels with its files, if its rows are the records that cannot be read.
    bad: Option<SchemaRef>,
    schema: SchemaRef,
    selected: Mutex<Vec<Arc<Selection>>>,
    /// Whether every scan reads what was selected first, whatever its filters.
    is_cut: bool,
}

/// What is new to a job.
#[derive(Debug)]
struct Since {
    job: String,
    /// Asked once.
    found: OnceCell<NewContents>,
}

/// What a scan reads.
#[derive(Debug, Clone)]
struct Selection {
    filters: Vec<Expr>,
    limit: Option<usize>,
    files: Vec<ScanFile>,
    partitions: Vec<Partition>,
    totals: Totals,
    analyzed: Arc<Vec<AnalyzedPartition>>,
    /// Of all files together, once somebody asked.
    statistics: OnceLock<Option<Arc<Statistics>>>,
}

impl Selection {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.file.size).sum()
    }

    /// Statistics of all files together; different values where ANALYZE counted those of `columns`.
    fn merged(&self, table: &HiveTable, columns: impl IntoIterator<Item = usize>) -> Result<Statistics> {
        let mut statistics = scan::merged_statistics(&table.meta, &table.schema, &self.files)?;
        add_analyzed(&mut statistics, &self.analyzed, columns.into_iter().filter(|column| *column < table.meta.schema.fields().len()));
        Ok(statistics)
    }
}

impl HiveTable {
    /// A table that `catalog` holds.
    pub fn new(catalog: Arc<dyn Catalog>, meta: Arc<TableMeta>) -> Self {
        // Comments and spellings are ours: they would make the schema of a result differ from what clients expect.
        let bare = |field: &Arc<Field>, data_type| Field::new(field.name(), data_type, true);
        let full = meta.full_schema();
        let (columns, keys) = full.fields().split_at(meta.schema.fields().len());
        let columns = columns.iter().map(|field| bare(field, scanned_type(field.data_type())));
        let fields = columns.chain(keys.iter().map(|field| bare(field, field.data_type().clone())));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Self { catalog, meta, moment: None, since: None, bad: None, schema, selected: Mutex::default(), is_cut: false }
    }

    /// A table that `catalog` holds, as it is now, whatever becomes of it until it is scanned. A Delta table is of one version anyway.
    pub(crate) fn of_now(catalog: Arc<dyn Catalog>, meta: &TableMeta) -> Self {
        let as_of = meta.delta.is_none().then_some(meta.version);
        Self::new(catalog, Arc::new(TableMeta { as_of, ..meta.clone() }))
    }

    /// The table as it was; its columns are those of now. That there is such a version shows when it is scanned.
    pub fn at(&self, moment: Moment) -> Self {
        let (catalog, meta, schema) = (Arc::clone(&self.catalog), Arc::clone(&self.meta), Arc::clone(&self.schema));
        Self { catalog, meta, moment: Some(moment), since: None, bad: None, schema, selected: Mutex::default(), is_cut: false }
    }

    /// The table as it was, and with the columns that it had, as far as its log knows: only of Delta tables. Errors: those of reading the
    /// log; `Invalid` if it has no such version.
    pub async fn as_logged(&self, moment: Moment) -> Result<Self> {
        let meta = self.catalog.as_of(&self.meta, moment).await?;
        let version = meta.delta.as_ref().and_then(|version| i64::try_from(version.number()).ok()).map(Moment::Version);
        Ok(Self { moment: version.or(Some(moment)), ..Self::new(Arc::clone(&self.catalog), meta) })
    }

    /// The rows that the table got since a job has read it.
    pub fn since(&self, job: &str) -> Self {
        let (catalog, meta, schema) = (Arc::clone(&self.catalog), Arc::clone(&self.meta), Arc::clone(&self.schema));
        let since = Some(Arc::new(Since { job: job.to_owned(), found: OnceCell::new() }));
        Self { catalog, meta, moment: None, since, bad: None, schema, selected: Mutex::default(), is_cut: false }
    }

    /// The records of its files that cannot be read, and why; none for tables of which there are none, whose files say what they hold.
    pub fn bad_records(&self) -> Option<Self> {
        let columns = Schema::new(self.schema.fields()[..self.meta.schema.fields().len()].to_vec());
        let bad = self.meta.storage.on_the_wire_if_bad(&self.meta.properties, &columns)?;
        let mut meta = TableMeta { schema: bad_records_schema(), ..self.meta.as_ref().clone() };
        meta.storage.layout = Layout::default();
        Some(Self { bad: Some(bad), ..Self::new(Arc::clone(&self.catalog), Arc::new(meta)) })
    }

    /// Those of [`HiveTable::bad_records`] that are in the files which a scan with these filters reads. Errors: as those of the scan.
    pub async fn bad_records_of(&self, state: &dyn Session, filters: &[Expr]) -> Result<Option<Self>> {
        let Some(bad) = self.bad_records() else { return Ok(None) };
        let Selection { files, partitions, totals, .. } = self.select(state, filters, None).await?.as_ref().clone();
        let unread = |file: ScanFile| ScanFile::new(&bad.meta, without_statistics(file.file), file.values);
        let files = files.into_iter().map(unread).collect();
        let (filters, analyzed, statistics) = (Vec::new(), Arc::default(), OnceLock::new());
        bad.remember(Selection { filters, limit: None, files, partitions, totals, analyzed, statistics });
        Ok(Some(Self { is_cut: true, ..bad }))
    }

    /// How far the job that it is read for has read it then, if it is read for one. Errors: as those of the scan.
    pub async fn advance(&self, state: &dyn Session) -> Result<Option<Advance>> {
        let Some(since) = &self.since else { return Ok(None) };
        let &NewContents { from, to, .. } = self.new_contents(state, since).await?;
        Ok(Some(Advance { table_id: self.meta.id, table: self.name(), job: since.job.clone(), from, to }))
    }

    async fn new_contents<'a>(&self, state: &dyn Session, since: &'a Since) -> Result<&'a NewContents> {
        let limit = WindlassOptions::of(state.config_options()).max_partitions_per_scan;
        Ok(since.found.get_or_try_init(|| self.catalog.new_contents(&self.meta, &since.job, limit)).await?)
    }

    /// The table as it was in one of its versions, which must be kept; unlike [`HiveTable::at`], also one whose files are not ours: it then
    /// is what the catalog knew of it.
    pub fn pinned(&self, version: i64) -> Self {
        let meta = TableMeta { as_of: Some(version), version, ..self.meta.as_ref().clone() };
        let (catalog, schema) = (Arc::clone(&self.catalog), Arc::clone(&self.schema));
        Self { catalog, meta: Arc::new(meta), moment: None, since: None, bad: None, schema, selected: Mutex::default(), is_cut: false }
    }

    /// Whether it is a table of the catalog with all that it holds now.
    pub fn is_current(&self) -> bool {
        self.meta.id != 0 && self.moment.is_none() && self.since.is_none()
    }

    /// Whether it is read as of a moment that the query names.
    pub fn is_of_the_past(&self) -> bool {
        self.moment.is_some()
    }

    /// The table cut down to the files that may hold rows which satisfy all of `filters`, and those files. Its scans read them all, whatever
    /// their own filters and limits. Errors: as those of the scan.
    pub async fn cut(&self, state: &dyn Session, filters: &[Expr]) -> Result<(Self, Vec<DataFile>)> {
        let Selection { files, partitions, totals, analyzed, .. } = self.select(state, filters, None).await?.as_ref().clone();
        let ids: HashMap<_, _> = partitions.iter().map(|partition| (&partition.values, partition.id)).collect();
        let file = |scan: &ScanFile| DataFile { partition_id: ids[&scan.values], file: scan.file.clone() };
        let found = files.iter().map(file).collect();
        let (filters, limit, statistics) = (Vec::new(), None, OnceLock::new());
        let selection = Arc::new(Selection { filters, limit, files, partitions, totals, analyzed, statistics });
        let (catalog, meta, schema) = (Arc::clone(&self.catalog), Arc::clone(&self.meta), Arc::clone(&self.schema));
        let (moment, since, bad) = (self.moment, self.since.clone(), self.bad.clone());
        Ok((Self { catalog, meta, moment, since, bad, schema, selected: Mutex::new(vec![selection]), is_cut: true }, found))
    }

    /// A table that no catalog holds, with all that is in it.
    pub(crate) fn with_contents(catalog: Arc<dyn Catalog>, meta: Arc<TableMeta>, contents: ScanContents) -> Self {
        let table = Self::new(catalog, meta);
        let files = scan::scan_files(&table.meta, &contents.partitions, contents.files);
        let ScanContents { partitions, totals, .. } = contents;
        let (analyzed, statistics) = (Arc::default(), OnceLock::new());
        table.remember(Selection { filters: Vec::new(), limit: None, files, partitions, totals, analyzed, statistics });
        table
    }

    /// Of a table that was cut, the part that lies in files which `keep` wants, by their URLs.
    pub fn with_files(&self, keep: impl Fn(&str) -> bool) -> Self {
        let narrowed = |selection: &Arc<Selection>| {
            let mut selection = selection.as_ref().clone();
            selection.files.retain(|file| keep(&file.file.url));
            selection.statistics = OnceLock::new();
            Arc::new(selection)
        };
        let selected = self.selected.lock().iter().map(narrowed).collect();
        let (catalog, meta, schema) = (Arc::clone(&self.catalog), Arc::clone(&self.meta), Arc::clone(&self.schema));
        let (moment, since, bad) = (self.moment, self.since.clone(), self.bad.clone());
        Self { catalog, meta, moment, since, bad, schema, selected: Mutex::new(selected), is_cut: self.is_cut }
    }

    /// What the catalog says of it.
    pub fn meta(&self) -> &Arc<TableMeta> {
        &self.meta
    }

    /// Bytes of the files that a scan with these filters and this limit reads. Errors: as those of the scan.
    pub async fn bytes(&self, state: &dyn Session, filters: &[Expr], limit: Option<usize>) -> Result<u64> {
        Ok(self.select(state, filters, limit).await?.bytes())
    }

    /// What a scan with these filters and this limit reads and leaves out. Errors: as those of the scan.
    pub async fn report(&self, state: &dyn Session, filters: &[Expr], limit: Option<usize>) -> Result<ScanReport> {
        let selection = self.select(state, filters, limit).await?;
        Ok(ScanReport {
            table: self.name(),
            partitions: selection.partitions.len() as u64,
            partitions_total: selection.totals.partitions,
            files: selection.files.len() as u64,
            files_total: selection.totals.files,
            bytes: selection.bytes(),
        })
    }

    /// Statistics of what a scan with these filters reads, or else of the last scan that was asked for. Does not ask the catalog: `None` if
    /// nothing was asked yet, or if the files' rows are not known.
    pub fn known_statistics(&self, filters: &[Expr]) -> Option<Arc<Statistics>> {
        let selection = {
            let selected = self.selected.lock();
            selected.iter().find(|selection| selection.filters == filters).or_else(|| selected.last()).map(Arc::clone)
        }?;
        let merge = || match selection.files.is_empty() {
            true => Some(Statistics { num_rows: Precision::Exact(0), ..Statistics::new_unknown(&self.schema) }),
            false => selection.merged(self, 0..self.schema.fields().len()).ok(),
        };
        selection.statistics.get_or_init(|| merge().map(Arc::new)).clone()
    }

    /// Rows of the table, those that scans leave out included. Does not ask the catalog: `None` if nothing was asked yet, or if it does not
    /// know.
    pub fn known_rows(&self) -> Option<u64> {
        self.selected.lock().last()?.totals.rows
    }

    /// Values of the keys at `columns`, each combination once, in the rows that a scan with these filters reads. `None` if the catalog does
    /// not know where rows are. Errors: as those of the scan.
    pub async fn key_combinations(
        &self,
        state: &dyn Session,
        filters: &[Expr],
        columns: &[usize],
    ) -> Result<Option<Vec<Vec<ScalarValue>>>> {
        let selection = self.select(state, filters, None).await?;
        let first = self.meta.schema.fields().len();
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for file in &selection.files {
            // A file of an external table that was empty when it was registered may have got rows since.
            let values = columns.iter().map(|column| file.values.get(column.checked_sub(first)?).cloned()).collect::<Option<Vec<_>>>();
            let Some(values) = values.filter(|_| file.file.rows.is_some_and(|rows| rows > 0)) else { return Ok(None) };
            if seen.insert(values.clone()) {
                found.push(values);
            }
        }
        Ok(Some(found))
    }

    async fn select(&self, state: &dyn Session, filters: &[Expr], limit: Option<usize>) -> Result<Arc<Selection>> {
        let known = |selection: &&Arc<Selection>| self.is_cut || (selection.filters == filters && selection.limit == limit);
        if let Some(known) = self.selected.lock().iter().find(known).map(Arc::clone) {
            return Ok(known);
        }
        let pruning = Pruning::new(filters, &self.meta.keys);
        if let Some(narrowed) = self.narrowed(state, &pruning, filters, limit) {
            return Ok(self.remember(narrowed));
        }
        let limit_of_partitions = WindlassOptions::of(state.config_options()).max_partitions_per_scan;
        let residual = |partitions| {
            let kept = pruning.retain(state, &self.meta.keys, partitions);
            kept.map_err(|error| Error::Invalid(format!("cannot evaluate the conditions on partition keys: {}", error.strip_backtrace())))
        };
        let residual = pruning.has_more().then_some(&residual as Residual<'_>);
        let meta = match self.moment {
            Some(moment) => self.catalog.as_of(&self.meta, moment).await?,
            None => Arc::clone(&self.meta),
        };
        let found = match &self.since {
            None => self.catalog.scan(&meta, &pruning.predicate, residual, limit_of_partitions).await?,
            Some(since) => kept(&self.new_contents(state, since).await?.contents, &pruning.predicate, residual)?,
        };
        let mut found = found;
        if self.bad.is_some() {
            // What is known is of the good records.
            found.analyzed = Vec::new();
            found.files = found
                .files
                .into_iter()
                .map(|DataFile { partition_id, file }| DataFile { partition_id, file: without_statistics(file) })
                .collect();
        }
        if found.truncated {
            return Err(self.too_many(limit_of_partitions, &found, &pruning).into());
        }
        let files = scan::scan_files(&self.meta, &found.partitions, found.files);
        let files = self.wanted_files(state, &pruning, files, limit);
        let (filters, partitions, totals) = (filters.to_vec(), found.partitions, found.totals);
        let (analyzed, statistics) = (Arc::new(found.analyzed), OnceLock::new());
        Ok(self.remember(Selection { filters, limit, files, partitions, totals, analyzed, statistics }))
    }

    /// What a scan with more filters than an earlier one reads: part of what that one found, so that a statement sees the table as it was
    /// at one moment. `None` if there was none, or if the filters cannot be evaluated here.
    fn narrowed(&self, state: &dyn Session, pruning: &Pruning, filters: &[Expr], limit: Option<usize>) -> Option<Selection> {
        let is_wider =
            |selection: &&Arc<Selection>| selection.limit.is_none() && selection.filters.iter().all(|filter| filters.contains(filter));
        let wider = self.selected.lock().iter().filter(is_wider).max_by_key(|selection| selection.filters.len()).map(Arc::clone)?;
        let kept = wider.partitions.iter().filter(|partition| pruning.predicate.evaluate(&partition.values)).cloned().collect();
        let partitions = pruning.retain(state, &self.meta.keys, kept).ok()?;
        let values: HashSet<&Vec<ScalarValue>> = partitions.iter().map(|partition| &partition.values).collect();
        let files = wider.files.iter().filter(|file| values.contains(&file.values)).cloned().collect();
        let files = self.wanted_files(state, pruning, files, limit);
        let (filters, totals, statistics) = (filters.to_vec(), wider.totals, OnceLock::new());
        // What was found in more partitions still bounds what these hold.
        let analyzed = Arc::clone(&wider.analyzed);
        Some(Selection { filters, limit, files, partitions, totals, analyzed, statistics })
    }

    /// Those of `files` that may hold rows, as many as `limit` needs.
    fn wanted_files(&self, state: &dyn Session, pruning: &Pruning, files: Vec<ScanFile>, limit: Option<usize>) -> Vec<ScanFile> {
        let mut files = scan::prune_files(state, &self.schema, &pruning.data, files);
        if let Some(buckets) = Buckets::of(&self.meta)
            && let Some(wanted) = buckets.wanted(&self.schema, &pruning.data)
        {
            files.retain(|file| buckets.of_file(&file.file).is_none_or(|bucket| wanted.contains(&bucket.number)));
        }
        match limit.filter(|_| pruning.data.is_empty()) {
            Some(limit) => scan::enough_files(files, limit),
            None => files,
        }
    }

    fn remember(&self, selection: Selection) -> Arc<Selection> {
        let selection = Arc::new(selection);
        let mut selected = self.selected.lock();
        if selected.len() == SELECTIONS_MAX {
            // Not the first: others are often a part of it.
            selected.remove(1);
        }
        selected.push(Arc::clone(&selection));
        selection
    }

    fn name(&self) -> String {
        format!("{}.{}", self.meta.database, self.meta.name)
    }

    /// The error names a key that the query says nothing about, with a value that it has.
    fn too_many(&self, limit: usize, found: &ScanContents, pruning: &Pruning) -> Error {
        let is_free = |(position, key): &(usize, &PartitionKey)| {
            let in_residual =
                pruning.residual.iter().chain(&pruning.implied).any(|expr| expr.column_refs().iter().any(|column| column.name == key.name));
            !in_residual && !mentions(&pruning.predicate, *position)
        };
        let free = self.meta.keys.iter().enumerate().find(is_free);
        let example = |position: usize| found.partitions.last().map_or_else(String::new, |last| condition(&self.meta, position, last));
        let advice = match free {
            Some((position, _)) => format!("add a condition such as {}", example(position)),
            None => format!("narrow the conditions, for example to {}", example(0)),
        };
        let (total, name) = (found.totals.partitions, self.name());
        Error::Exhausted(format!(
            "scan of table '{name}' needs more than {limit} of its {total} partitions; {advice}, or raise 'windlass.max_partitions_per_scan'"
        ))
    }
}

fn without_statistics(file: NewFile) -> NewFile {
    NewFile { rows: None, statistics: None, ..file }
}

/// The part of what was found that a predicate and then its residual keep.
fn kept(found: &ScanContents, predicate: &KeyPredicate, residual: Option<Residual<'_>>) -> Result<ScanContents, Error> {
    let partitions: Vec<_> = found.partitions.iter().filter(|partition| predicate.evaluate(&partition.values)).cloned().collect();
    let partitions = match residual {
        Some(residual) => residual(partitions)?,
        None => partitions,
    };
    let ids: HashSet<_> = partitions.iter().map(|partition| partition.id).collect();
    let files = found.files.iter().filter(|file| ids.contains(&file.partition_id)).cloned().collect();
    Ok(ScanContents { partitions, files, analyzed: Vec::new(), totals: found.totals, truncated: found.truncated })
}

/// A condition that a partition satisfies, as SQL.
fn condition(table: &TableMeta, position: usize, partition: &Partition) -> String {
    let (Some(key), Some(value)) = (table.keys.get(position), partition.values.get(position)) else { return String::new() };
    let text = format_value(value);
    let value = match key.key_type {
        _ if value.is_null() => return format!("{} IS NULL", key.name),
        KeyType::String => format!("'{}'", text.replace('\'', "''")),
        KeyType::Date | KeyType::Timestamp => format!("{} '{text}'", key.key_type.to_string().to_uppercase()),
        KeyType::Int | KeyType::BigInt | KeyType::Boolean | KeyType::Decimal(..) => text,
    };
    format!("{} = {value}", key.name)
}

/// Whether `predicate` says something about the key at a position.
fn mentions(predicate: &KeyPredicate, position: usize) -> bool {
    match predicate {
        KeyPredicate::All | KeyPredicate::Nothing => false,
        KeyPredicate::Compare(key, ..)
        | KeyPredicate::In(key, _)
        | KeyPredicate::IsNull(key)
        | KeyPredicate::IsNotNull(key)
        | KeyPredicate::Prefix(key, _) => *key == position,
        KeyPredicate::And(items) | KeyPredicate::Or(items) => items.iter().any(|item| mentions(item, position)),
    }
}

#[async_trait]
impl TableProvider for HiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let selection = self.select(state, filters, limit).await?;
        if let Some(reports) = state.config().get_extension::<ScanReports>() {
            reports.add(self.report(state, filters, limit).await?);
        }
        let statistics = match (selection.statistics.get(), projection) {
            (Some(Some(known)), _) => known.as_ref().clone(),
            (_, Some(columns)) => selection.merged(self, columns.iter().copied())?,
            (_, None) => selection.merged(self, 0..self.schema.fields().len())?,
        };
        let words = self.bad.clone().or_else(|| self.meta.storage.on_the_wire(&self.meta.properties));
        scan::read_files(state, &self.meta, &self.schema, words, (&selection.files, statistics), projection, limit).await
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match is_key_only(filter, &self.meta.keys) {
            true if !self.is_cut => TableProviderFilterPushDown::Exact,
            // Files and row groups without such rows are left out; rows are tested above the scan.
            _ => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(support).collect())
    }
}

#[cfg(test)]
mod tests;
