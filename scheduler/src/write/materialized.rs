//! Materialized views: a query whose rows are kept as files, and what is written when its tables have changed.
//!
//! Every refresh reads the versions of its tables that it notes in the commit of its rows. The next one then knows which partitions have
//! changed. Where the view is partitioned by a key of the tables that have changed, only partitions of the same values are computed again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result as PlanResult, ScalarValue};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::expr_fn::in_list;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Distinct, Expr, Join, LogicalPlan, LogicalPlanBuilder, Operator, TableScan, Volatility, lit};
use windlass_catalog::catalog::{TableMeta, ViewDefinition};
use windlass_catalog::ddl::{CreateMaterializedView, Noun, RefreshView};
use windlass_catalog::names::TemporaryViews;
use windlass_catalog::provider::HiveTable;
use windlass_catalog::{BaseVersion, KeyPredicate, Refresh, Replaces};

use super::plan::{Counted, Files, Target, WritePlan, Writes, full_name, nothing, stored, table_spec, write};
use crate::ddl::ViewPlanner;
use crate::error::{Error, Result};

/// Values of a key that one refresh computes again by name; where more have changed, everything is.
const VALUES_MAX: usize = 1000;

/// Materialized views on the same tables that are looked through for one.
const VIEWS_MAX: usize = 10_000;

/// What a refresh has computed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Everything.
    Full,
    /// Partitions of so many values of a key.
    Partitions(usize),
    /// Nothing, because nothing has changed.
    Unchanged,
}

/// Columns of the one row that `REFRESH` returns.
pub(crate) fn refreshed_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("refresh", DataType::Utf8, true),
        Field::new("partitions", DataType::Int64, true),
        Field::new("rows", DataType::Int64, true),
    ]))
}

/// The row that `REFRESH` returns, having written `rows`.
pub(super) fn refreshed(how: How, rows: i64) -> Result<RecordBatch> {
    let (word, partitions) = match how {
        How::Full => ("full", None),
        How::Partitions(count) => ("incremental", Some(i64::try_from(count).unwrap_or(i64::MAX))),
        How::Unchanged => ("unchanged", Some(0)),
    };
    let (word, partitions, rows) = (StringArray::from(vec![word]), Int64Array::from(vec![partitions]), Int64Array::from(vec![rows]));
    Ok(RecordBatch::try_new(refreshed_schema(), vec![Arc::new(word), Arc::new(partitions), Arc::new(rows)])?)
}

/// A view's query over fixed versions of its tables.
struct Pinned {
    plan: LogicalPlan,
    refresh: Refresh,
    /// The tables as they were in these versions, by id.
    tables: BTreeMap<i64, Arc<TableMeta>>,
}

/// What is computed again.
enum Work {
    Everything,
    Nothing,
    /// The partitions in which a column of the view has one of these values.
    Partitions {
        column: Column,
        /// Position among the view's keys.
        key: usize,
        values: Vec<ScalarValue>,
    },
    /// No rows, but the versions are noted: what came did not change what the tables hold.
    Versions,
}

impl Writes<'_> {
    pub(super) async fn create_materialized_view(&self, create: &CreateMaterializedView) -> Result<(LogicalPlan, WritePlan)> {
        let operation = "CREATE MATERIALIZED VIEW";
        let plan = |target| WritePlan { target, operation, replaces: Replaces::Nothing, counted: Counted::Rows };
        let Some((table, replaced)) = self.ddl.new_materialized_view(create, &self.database(), &Definitions(self)).await? else {
            return Ok((nothing("file:///")?, plan(Target::Nowhere)));
        };
        let definition = table.view.as_ref().ok_or_else(|| Error::internal("a materialized view has no query"))?;
        let Pinned { plan: rows, refresh, .. } = self.pinned(definition).await?;
        let keys = table.keys.iter().map(|key| Arc::new(Field::new(&key.name, key.key_type.data_type(), true)));
        let fields: Vec<FieldRef> = table.schema.fields().iter().map(Arc::clone).chain(keys).collect();
        let values = columns(&rows, &fields, &table.name)?;
        let spec = table_spec(Files::of_new(&table), true);
        Ok((write(rows, values, spec)?, plan(Target::NewTable { table: Box::new(table), replaced, refresh: Some(refresh) })))
    }

    pub(super) async fn refresh(&self, refresh: &RefreshView) -> Result<(LogicalPlan, WritePlan)> {
        let mut view = self.ddl.table(&refresh.view, &self.database()).await?;
        let name = full_name(&view);
        let definition = match Noun::of(view.kind) {
            Noun::MaterializedView => view.view.clone(),
            is => return Err(Error::invalid(format!("'{name}' is a {}, which holds no rows of a query to refresh", is.name()))),
        };
        let definition = definition.ok_or_else(|| Error::internal(format!("materialized view '{name}' has no query")))?;
        let Pinned { plan: mut rows, refresh: read, tables } = self.pinned(&definition).await?;
        let mut work = Work::Everything;
        if !refresh.full && read.repeatable {
            let ids: Vec<_> = read.bases.iter().map(|base| base.table_id).collect();
            let last = self.catalog.materialized_views(Some(&ids), VIEWS_MAX).await?;
            if let Some(last) = last.into_iter().find(|last| last.view.id == view.id) {
                let versions = last.bases.iter().map(|base| (base.read.table_id, base.read.version)).collect();
                view = last.view;
                work = self.work(&view, &rows, &read.bases, &tables, &versions).await?;
            }
        }
        let (how, replaces) = match &work {
            Work::Everything => (How::Full, Replaces::Table),
            Work::Nothing => (How::Unchanged, Replaces::Nothing),
            Work::Versions => (How::Partitions(0), Replaces::Nothing),
            Work::Partitions { column, key, values } => {
                let among: Vec<_> = values.iter().filter(|value| !value.is_null()).map(|value| lit(value.clone())).collect();
                let among = (!among.is_empty()).then(|| in_list(Expr::Column(column.clone()), among, false));
                let has_null = values.iter().any(ScalarValue::is_null);
                let null = has_null.then(|| Expr::Column(column.clone()).is_null());
                let condition =
                    among.into_iter().chain(null).reduce(Expr::or).ok_or_else(|| Error::internal("no partition has changed"))?;
                rows = LogicalPlanBuilder::from(rows).filter(condition)?.build()?;
                let null = has_null.then_some(KeyPredicate::IsNull(*key));
                let replaced = null.into_iter().chain([KeyPredicate::in_list(*key, values.iter().cloned())]);
                (How::Partitions(values.len()), Replaces::Partitions(KeyPredicate::or(replaced)))
            }
        };
        let rows = match work {
            Work::Nothing | Work::Versions => nothing(&view.location)?,
            Work::Everything | Work::Partitions { .. } => {
                let values = columns(&rows, view.full_schema().fields(), &name)?;
                write(rows, values, table_spec(Files::of(&view), true))?
            }
        };
        let target = Target::View { view, refresh: read, how };
        Ok((rows, WritePlan { target, operation: "REFRESH MATERIALIZED VIEW", replaces, counted: Counted::Rows }))
    }

    /// What has to be computed again, if the last refresh read these versions.
    async fn work(
        &self,
        view: &TableMeta,
        rows: &LogicalPlan,
        bases: &[BaseVersion],
        tables: &BTreeMap<i64, Arc<TableMeta>>,
        versions: &HashMap<i64, i64>,
    ) -> Result<Work> {
        if bases.len() != versions.len() {
            return Ok(Work::Everything);
        }
        let (mut is_same, mut changed) = (true, Vec::new());
        for base in bases {
            let Some(since) = versions.get(&base.table_id) else { return Ok(Work::Everything) };
            if *since == base.version {
                continue;
            }
            is_same = false;
            // A view may have another query now; and what the text of a file means is a property of its table, which may have changed.
            let Some(table) = tables.get(&base.table_id).filter(|table| table.storage.is_parquet()) else { return Ok(Work::Everything) };
            match self.catalog.changed_partitions(table, *since).await? {
                None => return Ok(Work::Everything),
                Some(partitions) if partitions.is_empty() => {}
                Some(partitions) => changed.push((table, partitions)),
            }
        }
        if changed.is_empty() {
            return Ok(if is_same { Work::Nothing } else { Work::Versions });
        }
        for (key, declared) in view.keys.iter().enumerate() {
            let Some(column) = column_of(rows, &declared.name) else { continue };
            let mut origins = origins(rows, &column);
            // A column may come from one read by two of its keys.
            let mut seen = HashSet::new();
            origins.retain(|origin| seen.insert(std::ptr::from_ref(origin.scan)));
            let mut values = HashSet::new();
            let mut is_known = true;
            for (table, partitions) in &changed {
                let of_table: Vec<_> = origins.iter().filter(|origin| origin.table.id == table.id).collect();
                // Wherever the query reads the table, its rows come to the view's partitions of their own value.
                is_known &= of_table.len() == scans_of(rows, table.id)?;
                for Origin { table, key, .. } in of_table {
                    is_known &= table.keys.get(*key).is_some_and(|base| base.key_type == declared.key_type);
                    values.extend(partitions.iter().filter_map(|values| values.get(*key).cloned()));
                }
            }
            if is_known && (1..=VALUES_MAX).contains(&values.len()) {
                return Ok(Work::Partitions { column, key, values: values.into_iter().collect() });
            }
        }
        Ok(Work::Everything)
    }

    /// A view's query, reading one version of each of its tables, and which those are.
    async fn pinned(&self, definition: &ViewDefinition) -> Result<Pinned> {
        // Before the query is planned: a view that is replaced meanwhile seems older than it is, and then is read again.
        let mut bases = self.ddl.views_below(definition).await?;
        let plan = self.planner.definition(self.context.state().config(), definition).await?;
        let mut repeatable = is_repeatable(&plan)?;
        let mut tables = BTreeMap::<i64, Arc<TableMeta>>::new();
        let pin = |node: LogicalPlan| {
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            let provider = source_as_provider(&scan.source)?;
            let table = provider.downcast_ref::<HiveTable>();
            let Some(table) = table.filter(|table| table.is_current()) else {
                // A version that the query names stays what it is.
                repeatable &= table.is_some_and(HiveTable::is_of_the_past);
                return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
            };
            // Its log changes without the catalog's knowing.
            repeatable &= table.meta().delta.is_none();
            let version = tables.get(&table.meta().id).map_or(table.meta().version, |known| known.version);
            let pinned = table.pinned(version);
            let meta = Arc::clone(pinned.meta());
            tables.entry(meta.id).or_insert(meta);
            scan.source = provider_as_source(Arc::new(pinned));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        };
        let plan = plan.transform_down_with_subqueries(pin)?.data;
        let read = tables.values().map(|table| BaseVersion { table_id: table.id, name: full_name(table), version: table.version });
        bases.extend(read);
        Ok(Pinned { plan, refresh: Refresh { repeatable, bases }, tables })
    }
}

/// Whether a query gives the same rows whenever and wherever it is run. Aggregations over numbers that are not exact count as such.
fn is_repeatable(plan: &LogicalPlan) -> PlanResult<bool> {
    let mut repeatable = true;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::ScalarFunction(function) = expr
                    && function.func.signature().volatility != Volatility::Immutable
                {
                    repeatable = false;
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(repeatable)
}

/// The columns of a view's query as they are stored, found by their names: the query may have gained others since, by `SELECT *`.
fn columns(rows: &LogicalPlan, fields: &[FieldRef], view: &str) -> Result<Vec<Expr>> {
    let names: Vec<_> = rows.schema().fields().iter().map(|field| field.name().to_lowercase()).collect();
    let value = |field: &FieldRef| {
        let column = names.iter().position(|name| name == field.name()).ok_or_else(|| {
            Error::invalid(format!("the query of materialized view '{view}' no longer gives column '{}'", field.name()))
                .with_hint("run CREATE OR REPLACE MATERIALIZED VIEW")
        })?;
        stored(rows, column, field)
    };
    fields.iter().map(value).collect()
}

fn column_of(plan: &LogicalPlan, name: &str) -> Option<Column> {
    plan.schema().columns().into_iter().find(|column| column.name.eq_ignore_ascii_case(name))
}

/// How often a plan reads a table as it is.
fn scans_of(plan: &LogicalPlan, table_id: i64) -> PlanResult<usize> {
    let mut scans = 0;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<HiveTable>()
        {
            scans += usize::from(table.meta().id == table_id);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
}

/// A read of a table that gives rows with a value of a column from the partitions with this value alone.
struct Origin<'a> {
    scan: &'a TableScan,
    table: Arc<TableMeta>,
    /// Position of the partition key.
    key: usize,
}

/// Where rows with a value of a column come from, as far as that is known. A read that is not among these may give rows to any value.
fn origins<'a>(plan: &'a LogicalPlan, column: &Column) -> Vec<Origin<'a>> {
    let Ok(place) = plan.schema().index_of_column(column) else { return Vec::new() };
    let passed = |expr: Option<&Expr>, input: &'a LogicalPlan| match expr.map(|expr| expr.clone().unalias_nested().data) {
        Some(Expr::Column(column)) => origins(input, &column),
        _ => Vec::new(),
    };
    match plan {
        LogicalPlan::TableScan(scan) => origin(scan, place).into_iter().collect(),
        LogicalPlan::Projection(projection) => passed(projection.expr.get(place), &projection.input),
        LogicalPlan::Aggregate(aggregate) => match aggregate.group_expr.get(place) {
            Some(Expr::GroupingSet(_)) => Vec::new(),
            key => passed(key, &aggregate.input),
        },
        LogicalPlan::SubqueryAlias(alias) => match alias.input.schema().columns().get(place) {
            Some(column) => origins(&alias.input, column),
            None => Vec::new(),
        },
        LogicalPlan::Filter(filter) => {
            // `FROM a, b WHERE a.day = b.day`
            let equal = equal_to(column, split_conjunction(&filter.predicate));
            [column.clone()].into_iter().chain(equal).flat_map(|column| origins(&filter.input, &column)).collect()
        }
        LogicalPlan::Distinct(Distinct::All(input)) => origins(input, column),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => origins(&sort.input, column),
        LogicalPlan::Union(union) => {
            let of_input = |input: &'a Arc<LogicalPlan>| match input.schema().columns().get(place) {
                Some(column) => origins(input, column),
                None => Vec::new(),
            };
            union.inputs.iter().flat_map(of_input).collect()
        }
        LogicalPlan::Join(join) => origins_of_join(join, column),
        _ => Vec::new(),
    }
}

/// The table that a scan reads, and the position of the partition key that is its column at a place.
fn origin(scan: &TableScan, place: usize) -> Option<Origin<'_>> {
    let provider = source_as_provider(&scan.source).ok()?;
    let table = provider.downcast_ref::<HiveTable>()?;
    let place = scan.projection.as_ref().map_or(Some(place), |columns| columns.get(place).copied())?;
    let key = place.checked_sub(table.meta().schema.fields().len())?;
    Some(Origin { scan, table: Arc::clone(table.meta()), key })
}

/// Those of the side that the column is of; and those of the other, if it is joined by a column that equals this one.
fn origins_of_join<'a>(join: &'a Join, column: &Column) -> Vec<Origin<'a>> {
    let is_left = join.left.schema().has_column(column);
    // The other side of an outer join has NULLs in the place of its keys, whatever its partitions hold.
    let (own, other) = match (join.join_type, is_left) {
        (JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti, true) => (&join.left, &join.right),
        (JoinType::Inner | JoinType::Right | JoinType::RightSemi | JoinType::RightAnti, false) => (&join.right, &join.left),
        _ => return Vec::new(),
    };
    let pairs = join.on.iter().filter_map(|(left, right)| Some((left.try_as_col()?, right.try_as_col()?)));
    let of_pairs = pairs.filter_map(|(left, right)| match is_left {
        true => (left == column).then(|| right.clone()),
        false => (right == column).then(|| left.clone()),
    });
    let equal = of_pairs.chain(equal_to(column, join.filter.iter().flat_map(split_conjunction)));
    // A row meets no row of the other side but those with its own value, whether it is kept for that or without.
    let joined: Vec<_> = equal.filter(|equal| other.schema().has_column(equal)).collect();
    origins(own, column).into_iter().chain(joined.iter().flat_map(|equal| origins(other, equal))).collect()
}

/// Columns that conditions say to be equal to one.
fn equal_to<'a>(column: &Column, conditions: impl IntoIterator<Item = &'a Expr>) -> Vec<Column> {
    let equal = |condition: &Expr| match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(one), Expr::Column(other)) if one == column => Some(other.clone()),
            (Expr::Column(other), Expr::Column(one)) if one == column => Some(other.clone()),
            _ => None,
        },
        _ => None,
    };
    conditions.into_iter().filter_map(equal).collect()
}

/// Plans the queries of views that all shall see alike: in no session, with no settings.
struct Definitions<'a>(&'a Writes<'a>);

#[async_trait]
impl ViewPlanner for Definitions<'_> {
    async fn plan_schema(&self, view: &ViewDefinition, _: Arc<TemporaryViews>) -> Result<SchemaRef> {
        self.0.planner.definition_schema(self.0.context.state().config(), view).await
    }
}

#[cfg(test)]
mod tests;
