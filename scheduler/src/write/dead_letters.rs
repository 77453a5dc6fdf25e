//! Records that a statement which writes could not read: they go to a table, committed with the rows.
//!
//! They are found by a scan of their own, of the files that the statement reads. Had the tasks that read the rows told of them, too, an
//! exchange would have to carry two kinds of rows, and a task that runs again would tell twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use windlass_catalog::catalog::TableMeta;
use windlass_catalog::ddl::TableName;
use windlass_catalog::provider::HiveTable;
use windlass_engine::answer::schema::client_schema;
use windlass_engine::formats::{BAD_RECORDS_TABLE, bad_records_schema};

use super::plan::{Files, Writes, assigned, full_name, table_spec, write};
use crate::error::{Error, Result};

/// Name of the column that says which table the records are of.
const TABLE_NAME: &str = "table_name";

/// A write that is committed with another.
#[derive(Debug)]
pub(crate) struct Beside {
    /// What it writes.
    pub(super) plan: LogicalPlan,
    /// The schema of its manifest.
    pub(super) schema: SchemaRef,
    /// Where it goes.
    pub(super) table: Arc<TableMeta>,
}

impl Writes<'_> {
    /// The writes of records that `plan` will not be able to read, one for each table that they go to. `plan` is optimized, so that its
    /// scans have the conditions that choose files. Errors: those of names and types.
    pub(crate) async fn dead_letters(&self, state: &SessionState, plan: &LogicalPlan) -> Result<Vec<Beside>> {
        let mut scans = Vec::new();
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                scans.push((source_as_provider(&scan.source)?, unnormalize_cols(scan.filters.iter().cloned())));
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        let mut rows = BTreeMap::<i64, (Arc<TableMeta>, Vec<LogicalPlan>)>::new();
        for (source, filters) in &scans {
            let Some(table) = source.downcast_ref::<HiveTable>() else { continue };
            let meta = table.meta();
            let (true, Some(name)) = (meta.storage.drops_bad_records(&meta.properties), meta.properties.get(BAD_RECORDS_TABLE)) else {
                continue;
            };
            let letters = self.table(&named(name, meta)).await?;
            if let Some(bad) = table.bad_records_of(state, filters).await? {
                let scan = LogicalPlanBuilder::scan("bad_records", provider_as_source(Arc::new(bad)), None)?.build()?;
                let row = letter(scan, &letters, meta)?;
                rows.entry(letters.id).or_insert_with(|| (letters, Vec::new())).1.push(row);
            }
        }
        rows.into_values().map(|(table, rows)| beside(state, table, rows)).collect()
    }
}

/// A table named by a property of another.
fn named(name: &str, of: &TableMeta) -> TableName {
    let (database, name) = name.split_once('.').unwrap_or((&of.database, name));
    TableName { catalog: None, database: Some(database.to_lowercase()), name: name.to_lowercase() }
}

/// The bad records of a table as rows of another, which may have any of their columns.
fn letter(scan: LogicalPlan, letters: &TableMeta, of: &TableMeta) -> Result<LogicalPlan> {
    let full = letters.full_schema();
    let known = bad_records_schema();
    let value = |field: &FieldRef| {
        if known.column_with_name(field.name()).is_some() {
            let (relation, found) = scan.schema().qualified_field_with_unqualified_name(field.name())?;
            return assigned(Expr::Column(Column::new(relation.cloned(), found.name())), found.data_type(), field);
        }
        match field.name().as_str() {
            TABLE_NAME => Ok(lit(full_name(of)).alias(TABLE_NAME)),
            name => Ok(lit(ScalarValue::try_from(field.data_type())?).alias(name)),
        }
    };
    let values = full.fields().iter().map(value).collect::<Result<Vec<_>>>()?;
    if known.fields().iter().all(|field| full.column_with_name(field.name()).is_none()) {
        let name = full_name(letters);
        return Err(Error::invalid(format!("table '{name}' has no column for records of table '{}' that cannot be read", full_name(of)))
            .with_hint(format!("CREATE TABLE {name} (table_name STRING, file STRING, line BIGINT, reason STRING, record STRING)")));
    }
    Ok(LogicalPlanBuilder::from(scan).project(values)?.build()?)
}

fn beside(state: &SessionState, table: Arc<TableMeta>, rows: Vec<LogicalPlan>) -> Result<Beside> {
    let several = rows.len() > 1;
    let mut rows = rows.into_iter();
    let first = rows.next().ok_or_else(|| Error::internal("no records are to be kept"))?;
    let mut all = rows.try_fold(LogicalPlanBuilder::from(first), LogicalPlanBuilder::union)?;
    if several {
        // Two scans of a table may read the same file.
        all = all.distinct()?;
    }
    let all = all.build()?;
    let values = all.schema().columns().into_iter().map(|column| Expr::Column(column.clone()).alias(column.name)).collect();
    let plan = state.optimize(&write(all, values, table_spec(Files::of(&table), true))?)?;
    let schema = client_schema(plan.schema().as_arrow());
    Ok(Beside { plan, schema, table })
}
