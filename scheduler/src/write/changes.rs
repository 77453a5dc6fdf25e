//! `DELETE` and `UPDATE`: files that may hold rows which change are written again, with the rows as they shall be.
//!
//! Where a condition names whole partitions there is nothing to read or write: they are taken out of the catalog.

mod optimize;

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan, cast, lit, when};
use datafusion::sql::sqlparser::ast::{self, visit_expressions};
use windlass_catalog::catalog::{DataFile, TableKind, TableMeta};
use windlass_catalog::provider::HiveTable;
use windlass_catalog::prune::Pruning;
use windlass_catalog::{KeyPredicate, Replaces};
use windlass_engine::write::WriteSpec;

use super::parse::Change;
use super::plan::{Counted, Files, Target, WritePlan, Writes, assigned, full_name, nothing, table_spec, typed, write};
use super::template::{Parts, normalized, quoted};
use crate::error::{Error, Result};

/// Partitions that a `DELETE` may take out at once.
const PARTITIONS_MAX: usize = 10_000_000;

/// Files of a table in which rows may change.
pub(super) struct Touched {
    /// The table, cut down to them.
    pub(super) table: Arc<dyn TableProvider>,
    pub(super) meta: Arc<TableMeta>,
    files: Vec<DataFile>,
    /// The partitions that hold no other rows than those asked for, if it is them.
    partitions: Option<KeyPredicate>,
}

impl Touched {
    fn rows(&self) -> Option<u64> {
        self.files.iter().map(|file| file.file.rows).sum()
    }

    /// What a statement that writes these files again comes to.
    pub(super) fn replaced(self, operation: &'static str) -> WritePlan {
        let counted = Counted::Changes { before: self.rows() };
        let files = self.files.into_iter().map(|file| (file.partition_id, file.file.url)).collect();
        let replaces = Replaces::Files { read_version: self.meta.version, files };
        WritePlan { target: Target::Table(self.meta), operation, replaces, counted }
    }

    /// How the rows that come in their place are written. Errors: `Unsupported` for tables whose files are not ours.
    pub(super) fn spec(&self, operation: &str) -> Result<WriteSpec> {
        if self.meta.kind != TableKind::Managed {
            let name = full_name(&self.meta);
            return Err(Error::unsupported(format!("{operation} cannot change rows of table '{name}', which is external"))
                .with_hint("delete whole partitions, or keep the rows in a managed table: CREATE TABLE ... AS SELECT without LOCATION"));
        }
        Ok(WriteSpec { marked: true, ..table_spec(Files::of(&self.meta), true) })
    }
}

impl Writes<'_> {
    pub(super) async fn delete(&self, change: &Change) -> Result<(LogicalPlan, WritePlan)> {
        const DELETE: &str = "DELETE";
        let Some(condition) = &change.condition else {
            let table = self.table(&change.table).await?;
            let before = self.catalog.totals(&table).await?.rows;
            return taken_out(table, Replaces::Table, before);
        };
        let touched = self.touched(change).await?;
        if let Some(predicate) = &touched.partitions {
            let gone = self.catalog.partitions(&touched.meta, predicate, PARTITIONS_MAX).await?;
            let before = gone.partitions.iter().map(|partition| partition.rows).sum();
            return taken_out(Arc::clone(&touched.meta), Replaces::Partitions(predicate.clone()), before);
        }
        let spec = touched.spec(DELETE)?;
        let parts = Parts::default().table("t", change.from.clone()).expr("p", condition.clone());
        let rows = self.rows(parts.fill(r#"SELECT * FROM ":t" WHERE NOT coalesce(":p", false)"#)?).await?;
        let rows = read_from(rows, &touched.table)?;
        let mut values = columns(&rows, touched.meta.full_schema().fields())?;
        values.push(lit(0_i64).alias(MARK));
        Ok((write(rows, values, spec)?, touched.replaced(DELETE)))
    }

    pub(super) async fn update(&self, change: &Change, assignments: &[(String, ast::Expr)]) -> Result<(LogicalPlan, WritePlan)> {
        const UPDATE: &str = "UPDATE";
        let touched = self.touched(change).await?;
        let spec = touched.spec(UPDATE)?;
        let fields = touched.meta.full_schema().fields().to_vec();
        let mut parts = Parts::default().table("t", change.from.clone());
        let condition = match &change.condition {
            Some(condition) => {
                parts = parts.expr("p", condition.clone());
                r#"coalesce(":p", false)"#
            }
            None => "true",
        };
        let mut text = "SELECT *".to_owned();
        let mut set = vec![None; fields.len()];
        for (index, (name, value)) in assignments.iter().enumerate() {
            let place = place(&touched.meta, &fields, name)?;
            if set[place].replace(index).is_some() {
                return Err(Error::invalid(format!("column '{name}' is set twice")));
            }
            parts = parts.expr(index.to_string(), typed(value, fields[place].data_type()));
            // Only where the row changes: elsewhere the value may not exist.
            text.push_str(&format!(r#", CASE WHEN "{CHANGED}" THEN ":{index}" END AS ":{index}""#));
        }
        let alias = match &change.from {
            ast::TableFactor::Table { alias: Some(alias), .. } => quoted(&normalized(&alias.name)),
            _ => quoted(&touched.meta.name),
        };
        let rows = match &change.condition {
            // Conditions with subqueries are conditions of WHERE only.
            Some(asked) if has_subquery(asked) => {
                format!(r#"SELECT *, true AS "{CHANGED}" FROM ":t" WHERE ":p" UNION ALL SELECT *, false FROM ":t" WHERE NOT {condition}"#)
            }
            _ => format!(r#"SELECT *, {condition} AS "{CHANGED}" FROM ":t""#),
        };
        text.push_str(&format!(" FROM ({rows}) AS {alias}"));
        let rows = read_from(self.rows(parts.fill(&text)?).await?, &touched.table)?;
        let values = fields.iter().zip(columns(&rows, &fields)?).zip(&set).map(|((field, old), set)| match set {
            None => Ok(old),
            Some(index) => {
                let (relation, found) = rows.schema().qualified_field(fields.len() + 1 + index);
                let new = assigned(Expr::Column(Column::new(relation.cloned(), found.name())), found.data_type(), field)?;
                let old = cast(old.unalias(), field.data_type().clone());
                Ok(when(changed(&rows, fields.len()), cast(new.unalias(), field.data_type().clone())).otherwise(old)?.alias(field.name()))
            }
        });
        let mut values = values.collect::<Result<Vec<_>>>()?;
        values.push(cast(changed(&rows, fields.len()), DataType::Int64).alias(MARK));
        Ok((write(rows, values, spec)?, touched.replaced(UPDATE)))
    }

    /// The files in which rows that are to change may be.
    pub(super) async fn touched(&self, change: &Change) -> Result<Touched> {
        // For the sake of its errors.
        self.table(&change.table).await?;
        let mut parts = Parts::default().table("t", change.from.clone());
        let mut text = r#"SELECT * FROM ":t""#.to_owned();
        if let Some(condition) = &change.condition {
            parts = parts.expr("p", condition.clone());
            text.push_str(r#" WHERE ":p""#);
        }
        let plan = self.rows(parts.fill(&text)?).await?;
        let provider = first_table(&plan).ok_or_else(|| Error::internal("a table that is changed is not read"))?;
        let table = provider.downcast_ref::<HiveTable>().ok_or_else(|| Error::unsupported("only tables with files can be changed"))?;
        let state = self.context.state();
        // What has reached the scan is true of every row that changes. What is left out holds for none.
        let wanted = match has_parameters(&plan)? {
            true => Wanted { filters: Vec::new(), is_all: false },
            false => wanted(&state, &plan, &provider)?,
        };
        let (cut, files) = table.cut(&state, &wanted.filters).await?;
        let pruning = Pruning::new(&wanted.filters, &table.meta().keys);
        let is_whole = wanted.is_all && pruning.predicate != KeyPredicate::All && pruning.residual.is_empty() && pruning.data.is_empty();
        Ok(Touched { table: Arc::new(cut), meta: Arc::clone(table.meta()), files, partitions: is_whole.then_some(pruning.predicate) })
    }
}

fn has_subquery(condition: &ast::Expr) -> bool {
    let found = visit_expressions(condition, |expr| match expr {
        ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. } | ast::Expr::Subquery(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// Name of the column that says whether a row changes.
const CHANGED: &str = ":changed";
/// Name of the column that says how much it counts.
const MARK: &str = ":mark";

fn changed(rows: &LogicalPlan, place: usize) -> Expr {
    let (relation, field) = rows.schema().qualified_field(place);
    Expr::Column(Column::new(relation.cloned(), field.name()))
}

/// The first columns of `rows`, which are those of a table.
fn columns(rows: &LogicalPlan, fields: &[FieldRef]) -> Result<Vec<Expr>> {
    let column = |(place, field): (usize, &FieldRef)| {
        let (relation, found) = rows.schema().qualified_field(place);
        assigned(Expr::Column(Column::new(relation.cloned(), found.name())), found.data_type(), field)
    };
    fields.iter().enumerate().map(column).collect()
}

/// The position of a table's column.
pub(super) fn place(table: &TableMeta, fields: &[FieldRef], name: &str) -> Result<usize> {
    fields.iter().position(|field| field.name() == name).ok_or_else(|| {
        let known = fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        Error::new(windlass_proto::Kind::NotFound, format!("column '{name}' does not exist"))
            .with_hint(format!("table '{}' has columns {known}", full_name(table)))
    })
}

/// A statement that takes files out of a table and writes none.
fn taken_out(table: Arc<TableMeta>, replaces: Replaces, before: Option<u64>) -> Result<(LogicalPlan, WritePlan)> {
    let nothing = nothing(&table.location)?;
    let counted = Counted::Changes { before };
    Ok((nothing, WritePlan { target: Target::Table(table), operation: "DELETE", replaces, counted }))
}

/// The table that a query of our templates changes: the first one in its FROM.
fn first_table(plan: &LogicalPlan) -> Option<Arc<dyn TableProvider>> {
    match plan {
        LogicalPlan::TableScan(scan) => source_as_provider(&scan.source).ok(),
        other => other.inputs().first().and_then(|input| first_table(input)),
    }
}

/// The same query, reading the table that it changes from another.
pub(super) fn read_from(plan: LogicalPlan, table: &Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    if let LogicalPlan::TableScan(scan) = plan {
        return Ok(LogicalPlan::TableScan(TableScan { source: provider_as_source(Arc::clone(table)), ..scan }));
    }
    let mut inputs: Vec<_> = plan.inputs().into_iter().cloned().collect();
    let count = if matches!(plan, LogicalPlan::Union(_)) { inputs.len() } else { 1 };
    for input in inputs.iter_mut().take(count) {
        *input = read_from(input.clone(), table)?;
    }
    Ok(plan.with_new_exprs(plan.expressions(), inputs)?)
}

fn has_parameters(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= expr.exists(|part| Ok(matches!(part, Expr::Placeholder(_))))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(found)
}

/// What is known of the rows that a query gives of a table.
struct Wanted {
    /// All of them satisfy these.
    filters: Vec<Expr>,
    /// And nobody else does.
    is_all: bool,
}

fn wanted(state: &SessionState, plan: &LogicalPlan, table: &Arc<dyn TableProvider>) -> Result<Wanted> {
    let optimized = state.optimize(plan)?;
    let (mut scans, mut is_all) = (Vec::new(), true);
    optimized.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(scan) if source_as_provider(&scan.source).is_ok_and(|source| Arc::ptr_eq(&source, table)) => {
                scans.push(unnormalize_cols(scan.filters.iter().cloned()));
            }
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {}
            _ => is_all = false,
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(match <[_; 1]>::try_from(scans) {
        Ok([filters]) => Wanted { filters, is_all },
        // A condition that is never true leaves no scan.
        Err(scans) if scans.is_empty() => Wanted { filters: vec![lit(false)], is_all: false },
        Err(_) => Wanted { filters: Vec::new(), is_all: false },
    })
}
