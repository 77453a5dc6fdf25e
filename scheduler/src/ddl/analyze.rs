//! `ANALYZE`: a query over the partitions of a table, run as any other, whose rows become statistics.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use futures::TryStreamExt;
use windlass_catalog::catalog::{AnalyzedPartition, CATALOG, DataFile, FilesDigest, Partition, TableMeta};
use windlass_catalog::commit::Cause;
use windlass_catalog::ddl::types::type_name;
use windlass_catalog::ddl::{Analyze, AnalyzeScope, DdlStatement};
use windlass_catalog::delta::check_changeable;
use windlass_catalog::keys::format_value;
use windlass_catalog::{Catalog, Comparison, KeyPredicate};
use windlass_proto::Kind;

use super::partitions::key_value;
use super::show::check_has_files;
use super::{DdlExecutor, Names, Row, ViewPlanner, full_name, not_found, rows_of};
use crate::engines::Run;
use crate::error::{Error, Result};

/// Sketches that one statement makes, each at most two kilobytes of the catalog and four of an executor's memory.
const SKETCHES_MAX: usize = 1 << 16;

/// Values that the query returns for each column, in this order: how many are not NULL, their sketch, their bytes, the least, the greatest.
const MEASURES: usize = 5;

/// What an `ANALYZE` has to find out.
#[derive(Debug)]
pub struct Analysis {
    statement: DdlStatement,
    catalog: Arc<dyn Catalog>,
    table: Arc<TableMeta>,
    /// Positions of the columns among those of the table.
    columns: Vec<usize>,
    /// Values of keys that were named.
    keys: Vec<(usize, ScalarValue)>,
    /// Id and files of the partitions, by their values.
    partitions: HashMap<Vec<ScalarValue>, (i64, FilesDigest)>,
}

impl DdlExecutor {
    /// What `analyze` has to find out by a query. `None` if nothing: then the statement is run like others.
    ///
    /// Errors: `NotFound` for the table, a key, a column or the partitions; `Exhausted` for more than fits into one statement.
    pub async fn analysis(&self, analyze: &Analyze, current_database: &str, planner: &dyn ViewPlanner) -> Result<Option<Analysis>> {
        let names = Names { executor: self, current_database, by: &Cause::default(), planner };
        let table = names.table(&analyze.table).await?;
        check_has_files(&table)?;
        let columns = columns(&table, &analyze.scope)?;
        if columns.is_empty() {
            return Ok(None);
        }
        check_changeable(&table)?;
        let keys = named_keys(&table, analyze)?;
        let limit = (SKETCHES_MAX / columns.len()).max(1);
        let found = self.catalog.scan(&table, &predicate(&keys), None, limit).await?;
        if found.truncated {
            let (name, columns) = (full_name(&table), columns.len());
            return Err(Error::new(
                Kind::Exhausted,
                format!("cannot analyze {columns} columns of more than {limit} partitions of table '{name}' at once"),
            )
            .with_hint("name partitions with PARTITION (key = value), or fewer columns with FOR COLUMNS"));
        }
        if found.partitions.is_empty() && !keys.is_empty() {
            return Err(no_partition(&table, &keys));
        }
        let mut files = HashMap::<i64, Vec<DataFile>>::new();
        for file in found.files {
            files.entry(file.partition_id).or_default().push(file);
        }
        // A partition without files has nothing to find.
        let partition = |partition: Partition| {
            let digest = FilesDigest::of(files.get(&partition.id)?);
            Some((partition.values, (partition.id, digest)))
        };
        Ok(Some(Analysis {
            statement: DdlStatement::Analyze(analyze.clone()),
            catalog: Arc::clone(&self.catalog),
            partitions: found.partitions.into_iter().filter_map(partition).collect(),
            table,
            columns,
            keys,
        }))
    }
}

impl Names<'_> {
    /// Shows the rows and bytes that the catalog has from footers: all that there is to say when no values are looked at.
    pub(super) async fn analyze_size(&self, analyze: &Analyze) -> Result<Row> {
        let table = self.table(&analyze.table).await?;
        check_has_files(&table)?;
        let keys = named_keys(&table, analyze)?;
        let (partitions, rows) = if keys.is_empty() {
            let totals = self.catalog().totals(&table).await?;
            (totals.partitions, totals.rows)
        } else {
            let found = self.catalog().partitions(&table, &predicate(&keys), super::PARTITIONS_MAX).await?;
            if found.partitions.is_empty() {
                return Err(no_partition(&table, &keys));
            }
            (found.partitions.len() as u64, found.partitions.iter().map(|partition| partition.rows).sum())
        };
        Ok(summary(partitions, 0, rows, 0))
    }
}

/// One line of [`super::output_schema`].
fn summary(partitions: u64, columns: usize, rows: Option<u64>, changed: u64) -> Row {
    vec![Some(partitions.to_string()), Some(columns.to_string()), rows.map(|rows| rows.to_string()), Some(changed.to_string())]
}

/// Positions of the columns whose values are looked at. What the keys hold is known.
fn columns(table: &TableMeta, scope: &AnalyzeScope) -> Result<Vec<usize>> {
    let named = match scope {
        AnalyzeScope::Size => return Ok(Vec::new()),
        AnalyzeScope::AllColumns => {
            let fields = table.schema.fields().iter().enumerate();
            return Ok(fields.filter(|(_, field)| !field.data_type().is_nested()).map(|(index, _)| index).collect());
        }
        AnalyzeScope::Columns(named) => named,
    };
    let mut columns = BTreeSet::new();
    for name in named.iter().filter(|name| table.keys.iter().all(|key| key.name != **name)) {
        let Some((index, field)) = table.schema.column_with_name(name) else {
            let known = table.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            return Err(not_found("column", name.as_str()).with_hint(format!("table '{}' has columns {known}", full_name(table))));
        };
        if field.data_type().is_nested() {
            let data_type = type_name(field.data_type());
            return Err(Error::unsupported(format!("cannot count the values of column '{name}' of type {data_type}"))
                .with_hint("leave it out, or use FOR ALL COLUMNS, which does"));
        }
        columns.insert(index);
    }
    Ok(columns.into_iter().collect())
}

/// Positions and values of keys that have one in `PARTITION (...)`.
fn named_keys(table: &TableMeta, analyze: &Analyze) -> Result<Vec<(usize, ScalarValue)>> {
    let (mut seen, mut keys) = (BTreeSet::new(), Vec::new());
    for (name, value) in &analyze.partition {
        let (index, typed) = key_value(table, name, value.as_ref().unwrap_or(&None))?;
        if !seen.insert(index) {
            return Err(Error::invalid(format!("partition key '{name}' is given twice")));
        }
        keys.extend(value.is_some().then_some((index, typed)));
    }
    Ok(keys)
}

fn predicate(keys: &[(usize, ScalarValue)]) -> KeyPredicate {
    KeyPredicate::and(keys.iter().map(|(key, value)| match value.is_null() {
        true => KeyPredicate::IsNull(*key),
        false => KeyPredicate::Compare(*key, Comparison::Equal, value.clone()),
    }))
}

fn no_partition(table: &TableMeta, keys: &[(usize, ScalarValue)]) -> Error {
    let name = |(key, value): &(usize, ScalarValue)| format!("{}={}", table.keys[*key].name, format_value(value));
    not_found("partition", keys.iter().map(name).collect::<Vec<_>>().join("/"))
        .with_hint(format!("SHOW PARTITIONS {} lists what there is", full_name(table)))
}

impl Analysis {
    /// The query: a row per partition with the values of its keys, its rows, and [`MEASURES`] per column.
    pub fn sql(&self) -> String {
        let keys: Vec<_> = self.table.keys.iter().map(|key| quoted(&key.name)).collect();
        let measures = self.columns.iter().flat_map(|index| measures(self.table.schema.field(*index)));
        let selected = keys.iter().cloned().chain(["count(*)".to_owned()]).chain(measures).enumerate();
        let selected: Vec<_> = selected.map(|(place, expression)| format!("{expression} AS \"{place}\"")).collect();
        let table = [CATALOG, &self.table.database, &self.table.name].map(quoted).join(".");
        let condition = |(key, value): &(usize, ScalarValue)| {
            let key = &self.table.keys[*key];
            match value.is_null() {
                true => format!("{} IS NULL", quoted(&key.name)),
                false => format!("{} = CAST('{}' AS {})", quoted(&key.name), format_value(value).replace('\'', "''"), key.key_type),
            }
        };
        let mut sql = format!("SELECT {} FROM {table}", selected.join(", "));
        if !self.keys.is_empty() {
            sql = format!("{sql} WHERE {}", self.keys.iter().map(condition).collect::<Vec<_>>().join(" AND "));
        }
        if !keys.is_empty() {
            sql = format!("{sql} GROUP BY {}", keys.join(", "));
        }
        sql
    }

    /// Gives what a run of the query finds to the catalog, and tells how much it was.
    pub async fn keep(&self, run: &dyn Run) -> Result<RecordBatch> {
        run.readable().await?;
        let mut found = Vec::new();
        let mut batches = run.rows().await?;
        while let Some(batch) = batches.try_next().await? {
            for row in 0..batch.num_rows() {
                found.extend(self.read(&batch, row)?);
            }
        }
        let rows = found.iter().filter_map(|(partition, _)| partition.statistics.num_rows.get_value()).sum::<usize>();
        let looked_at = found.len() as u64;
        let kept = self.catalog.put_analyzed(&self.table, found).await?;
        rows_of(&self.statement, vec![summary(kept, self.columns.len(), Some(rows as u64), looked_at - kept)])
    }

    /// What a row of the query says about its partition, and the files that the partition had. `None` for a partition that came
    /// later or has no files.
    fn read(&self, batch: &RecordBatch, row: usize) -> Result<Option<(AnalyzedPartition, FilesDigest)>> {
        let value = |place: usize| ScalarValue::try_from_array(batch.column(place), row);
        let keys = self.table.keys.iter().enumerate().map(|(place, key)| value(place)?.cast_to(&key.key_type.data_type()));
        let Some(&(partition_id, digest)) = self.partitions.get(&keys.collect::<Result<Vec<_>, _>>()?) else { return Ok(None) };
        let place = self.table.keys.len();
        let rows = count(&value(place)?)?;
        let fields = self.table.schema.fields();
        let mut statistics = vec![ColumnStatistics::new_unknown(); fields.len()];
        let mut sketches = vec![Vec::new(); fields.len()];
        for (&index, first) in self.columns.iter().zip((place + 1..).step_by(MEASURES)) {
            let field = &fields[index];
            let bound = |place| match value(place)?.cast_to(field.data_type())? {
                bound if bound.is_null() => Ok::<_, Error>(Precision::Absent),
                bound => Ok(Precision::Exact(bound)),
            };
            let values = count(&value(first)?)?;
            let bytes = value(first + 2)?;
            statistics[index] = ColumnStatistics {
                null_count: Precision::Exact(rows.saturating_sub(values)),
                byte_size: if is_text(field.data_type()) { Precision::Exact(count(&bytes)?) } else { Precision::Absent },
                min_value: bound(first + 3)?,
                max_value: bound(first + 4)?,
                ..ColumnStatistics::new_unknown()
            };
            sketches[index] = match value(first + 1)?.cast_to(&DataType::Binary)? {
                ScalarValue::Binary(Some(sketch)) => sketch,
                other => return Err(Error::internal(format!("ANALYZE found no sketch but {other}"))),
            };
        }
        let statistics = Statistics { num_rows: Precision::Exact(rows), total_byte_size: Precision::Absent, column_statistics: statistics };
        Ok(Some((AnalyzedPartition { partition_id, statistics, sketches }, digest)))
    }
}

/// Expressions over a column. What cannot be said of its type is NULL.
fn measures(field: &Field) -> [String; MEASURES] {
    let column = quoted(field.name());
    let nothing = || "CAST(NULL AS BIGINT)".to_owned();
    let bytes = if is_text(field.data_type()) { format!("sum(CAST(octet_length({column}) AS BIGINT))") } else { nothing() };
    // Bounds of text are in the footers of all writers; those of times are not, and they are what may fill a catalog.
    let has_bounds = field.data_type().primitive_width().is_some();
    let bound = |function| if has_bounds { format!("{function}({column})") } else { nothing() };
    [format!("count({column})"), format!("hll_sketch_agg({column})"), bytes, bound("min"), bound("max")]
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A count or sum; NULL is the sum of nothing.
fn count(value: &ScalarValue) -> Result<usize> {
    match value.cast_to(&DataType::UInt64)? {
        ScalarValue::UInt64(count) => Ok(usize::try_from(count.unwrap_or_default()).unwrap_or(usize::MAX)),
        other => Err(Error::internal(format!("ANALYZE found {other} where a number should be"))),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
