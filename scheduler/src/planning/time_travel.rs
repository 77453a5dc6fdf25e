//! Tables as they were: `t FOR VERSION AS OF 3`, `t FOR TIMESTAMP AS OF '2024-01-31 12:00:00'`; and what is new in them: `t FOR CHANGES
//! SINCE JOB 'j'`; and what cannot be read: `t FOR BAD RECORDS`.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, TableFactor, TableVersion};
use tokio::runtime::Handle;
use windlass_catalog::Advance;
use windlass_catalog::commit::Moment;
use windlass_catalog::ddl::{BAD_RECORDS_OF, CHANGES_SINCE_JOB, TIMESTAMP_AS_OF, VERSION_AS_OF};
use windlass_catalog::provider::HiveTable;

use crate::error::Error;

/// Lets queries name versions of tables. Nothing else reads that clause: it would be taken for the table as it is.
pub(super) fn with_time_travel(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.relation_planners().get_or_insert_default().push(Arc::new(TimeTravel));
    builder
}

/// The jobs that a plan reads for, each once for each table, and up to where.
pub(super) async fn advances(state: &SessionState, plan: &LogicalPlan) -> Result<Vec<Advance>> {
    let mut sources = Vec::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            sources.push(source_as_provider(&scan.source)?);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut found = Vec::<Advance>::new();
    for table in sources.iter().filter_map(|source| source.downcast_ref::<HiveTable>()) {
        if let Some(advance) = table.advance(state).await?
            && !found.contains(&advance)
        {
            found.push(advance);
        }
    }
    Ok(found)
}

#[derive(Debug)]
struct TimeTravel;

impl RelationPlanner for TimeTravel {
    fn plan_relation(&self, relation: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let TableFactor::Table { name, alias, version, args, .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if let Some(job) = args.as_ref().map(|args| job(&args.args)).transpose()?.flatten() {
            let which = format!("since {job}");
            return planned(context, name, alias, &which, "new rows to tell from others", |table| Ok(Some(table.since(&job))));
        }
        if args.as_ref().is_some_and(|args| asks_for_bad_records(&args.args)) {
            return planned(context, name, alias, "bad", "records that cannot be read", |table| Ok(table.bad_records()));
        }
        let (by, value) = match (version, args) {
            (Some(version), _) => clause(version)?,
            (None, Some(args)) => match argument(&args.args) {
                Some(found) => found,
                None => return Ok(RelationPlanning::Original(Box::new(relation))),
            },
            (None, None) => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let moment = moment(context, by, value)?;
        let which = match &moment {
            Moment::Version(version) => version.to_string(),
            Moment::Time(ms) => format!("{ms}ms"),
        };
        planned(context, name, alias, &which, "versions to read", |table| at(table, moment).map(Some))
    }
}

/// Some of the rows of a table. Errors: `Unsupported` for what has no files.
fn planned(
    context: &dyn RelationPlannerContext,
    name: &ast::ObjectName,
    alias: &Option<ast::TableAlias>,
    which: &str,
    what: &str,
    read: impl FnOnce(&HiveTable) -> Result<Option<HiveTable>>,
) -> Result<RelationPlanning> {
    let name = context.object_name_to_table_reference(name.clone())?;
    let provider = source_as_provider(&context.context_provider().get_table_source(name.clone())?)?;
    let Some(table) = provider.downcast_ref::<HiveTable>().map(read).transpose()?.flatten() else {
        return Err(external(Error::unsupported(format!("'{name}' has no {what}: only tables with files of some kinds have"))));
    };
    // Under a name of its own, or two versions of a table would look like one scan to the optimizer.
    let plan = LogicalPlanBuilder::scan(renamed(&name, which), provider_as_source(Arc::new(table)), None)?.alias(name)?.build()?;
    Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
}

/// A table as it was.
fn at(table: &HiveTable, moment: Moment) -> Result<HiveTable> {
    match table.meta().delta {
        // Its log tells the columns of that time, and has to be read for them. A thread that plans may wait.
        Some(_) => tokio::task::block_in_place(|| Handle::current().block_on(table.as_logged(moment))),
        None => Ok(table.at(moment)),
    }
}

/// What says which version it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Version,
    Time,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Version { "VERSION AS OF" } else { "TIMESTAMP AS OF" })
    }
}

/// The clause where the dialect has it.
fn clause(version: &TableVersion) -> Result<(By, &ast::Expr)> {
    match version {
        TableVersion::VersionAsOf(value) => Ok((By::Version, value)),
        TableVersion::TimestampAsOf(value) | TableVersion::ForSystemTimeAsOf(value) => Ok((By::Time, value)),
        other => Err(external(Error::unsupported(format!("'{other}' is not supported: use VERSION AS OF or TIMESTAMP AS OF")))),
    }
}

/// The clause as [`windlass_catalog::ddl::rewrite_versions`] leaves it.
fn argument(args: &[FunctionArg]) -> Option<(By, &ast::Expr)> {
    let [FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. }] = args else { return None };
    match name.value.as_str() {
        VERSION_AS_OF => Some((By::Version, value)),
        TIMESTAMP_AS_OF => Some((By::Time, value)),
        _ => None,
    }
}

/// The moment that a constant says. A time without a zone is in that of the session.
fn moment(context: &mut dyn RelationPlannerContext, by: By, value: &ast::Expr) -> Result<Moment> {
    let unusable = |what: &str| external(Error::invalid(format!("{by} needs {what}, not {value}")));
    let schema = DFSchema::empty();
    // There are no columns to name here.
    let expr = context.sql_to_expr(value.clone(), &schema).map_err(|_| unusable("a constant"))?;
    let options = context.context_provider().options();
    let simplifier =
        ExprSimplifier::new(SimplifyContext::builder().with_config_options(Arc::new(options.clone())).with_current_time().build());
    let Expr::Literal(constant, _) = simplifier.simplify(simplifier.coerce(expr, &schema)?)? else {
        return Err(unusable("a constant"));
    };
    if by == By::Version {
        return match constant.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(version))) if version >= 0 => Ok(Moment::Version(version)),
            _ => Err(unusable("the number of a version")),
        };
    }
    let zone = options.execution.time_zone.clone().unwrap_or_else(|| "UTC".to_owned());
    let in_zone = DataType::Timestamp(TimeUnit::Millisecond, Some(zone.into()));
    let is_time = matches!(
        constant.data_type(),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)
    );
    match constant.cast_to(&in_zone) {
        Ok(ScalarValue::TimestampMillisecond(Some(ms), _)) if is_time => Ok(Moment::Time(ms)),
        _ => Err(unusable("a time")),
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A name for some of the rows of a table.
fn renamed(name: &TableReference, which: &str) -> TableReference {
    let table = format!("{}@{which}", name.table());
    match (name.catalog(), name.schema()) {
        (Some(catalog), Some(schema)) => TableReference::full(catalog, schema, table),
        (None, Some(schema)) => TableReference::partial(schema, table),
        _ => TableReference::bare(table),
    }
}

/// Whether arguments are those of `FOR BAD RECORDS`.
fn asks_for_bad_records(args: &[FunctionArg]) -> bool {
    matches!(args, [FunctionArg::Named { name, .. }] if name.value == BAD_RECORDS_OF)
}

/// The job that `CHANGES SINCE JOB` names, if that is what arguments say.
fn job(args: &[FunctionArg]) -> Result<Option<String>> {
    let [FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. }] = args else { return Ok(None) };
    if name.value != CHANGES_SINCE_JOB {
        return Ok(None);
    }
    match value {
        ast::Expr::Value(literal) => match literal.value.clone().into_string() {
            Some(job) => Ok(Some(job)),
            None => Err(external(Error::invalid(format!("CHANGES SINCE JOB needs a name in quotes, not {value}")))),
        },
        _ => Err(external(Error::invalid(format!("CHANGES SINCE JOB needs a name in quotes, not {value}")))),
    }
}
