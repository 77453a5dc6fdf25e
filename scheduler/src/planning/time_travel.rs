//! Tables as they were: `t FOR VERSION AS OF 3`, `t FOR TIMESTAMP AS OF '2024-01-31 12:00:00'`.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, TableFactor, TableVersion};
use windlass_catalog::commit::Moment;
use windlass_catalog::ddl::{TIMESTAMP_AS_OF, VERSION_AS_OF};
use windlass_catalog::provider::HiveTable;

use crate::error::Error;

/// Lets queries name versions of tables. Nothing else reads that clause: it would be taken for the table as it is.
pub(super) fn with_time_travel(mut builder: SessionStateBuilder) -> SessionStateBuilder {
    builder.relation_planners().get_or_insert_default().push(Arc::new(TimeTravel));
    builder
}

#[derive(Debug)]
struct TimeTravel;

impl RelationPlanner for TimeTravel {
    fn plan_relation(&self, relation: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let TableFactor::Table { name, alias, version, args, .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let (by, value) = match (version, args) {
            (Some(version), _) => clause(version)?,
            (None, Some(args)) => match argument(&args.args) {
                Some(found) => found,
                None => return Ok(RelationPlanning::Original(Box::new(relation))),
            },
            (None, None) => return Ok(RelationPlanning::Original(Box::new(relation))),
        };
        let moment = moment(context, by, value)?;
        let (name, alias) = (context.object_name_to_table_reference(name.clone())?, alias.clone());
        let provider = source_as_provider(&context.context_provider().get_table_source(name.clone())?)?;
        let Some(table) = provider.downcast_ref::<HiveTable>() else {
            return Err(external(Error::unsupported(format!("'{name}' has no versions to read: only managed tables have"))));
        };
        // Under a name of its own, or two versions of a table would look like one scan to the optimizer.
        let version = versioned(&name, &moment);
        let plan = LogicalPlanBuilder::scan(version, provider_as_source(Arc::new(table.at(moment))), None)?.alias(name)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
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
            Ok(ScalarValue::Int64(Some(version))) if version > 0 => Ok(Moment::Version(version)),
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

/// A name for a version of a table.
fn versioned(name: &TableReference, moment: &Moment) -> TableReference {
    let table = match moment {
        Moment::Version(version) => format!("{}@{version}", name.table()),
        Moment::Time(ms) => format!("{}@{ms}ms", name.table()),
    };
    match (name.catalog(), name.schema()) {
        (Some(catalog), Some(schema)) => TableReference::full(catalog, schema, table),
        (None, Some(schema)) => TableReference::partial(schema, table),
        _ => TableReference::bare(table),
    }
}
