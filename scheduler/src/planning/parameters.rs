//! Parameters of a statement: what types they have, and their values.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{Cast, Placeholder, TryCast};
use datafusion::logical_expr::{Expr, LogicalPlan};
use windlass_engine::answer::schema::client_type;
use windlass_proto::Kind;

use crate::error::{Error, Result};

/// What the plan says of its placeholders' types; `None` where it says nothing, or two things.
pub(super) fn parameter_types(plan: &LogicalPlan, count: usize) -> Result<Vec<Option<DataType>>> {
    let mut hints: Vec<Vec<DataType>> = vec![Vec::new(); count];
    let mut note = |id: &str, data_type: &DataType| {
        let index = id.trim_start_matches('$').parse().ok().filter(|number| (1..=count).contains(number));
        let data_type = client_type(data_type);
        if let Some(hint) = index.map(|number: usize| &mut hints[number - 1])
            && data_type != DataType::Null
            && !hint.contains(&data_type)
        {
            hint.push(data_type);
        }
    };
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Limit(limit) = node {
            for expr in [&limit.skip, &limit.fetch].into_iter().flatten() {
                if let Expr::Placeholder(placeholder) = expr.as_ref() {
                    note(&placeholder.id, &DataType::Int64);
                }
            }
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                match expr {
                    Expr::Placeholder(Placeholder { id, field: Some(field) }) => note(id, field.data_type()),
                    Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
                        if let Expr::Placeholder(Placeholder { id, .. }) = expr.as_ref() {
                            note(id, field.data_type());
                        }
                    }
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(hints.into_iter().map(|mut hint| if hint.len() == 1 { hint.pop() } else { None }).collect())
}

/// Values per run, in order of the placeholders, cast to the types that the plan wants.
///
/// Shape: one run per row of `parameters`; one run without values for a statement without placeholders.
pub(super) fn bind(types: &[Option<DataType>], parameters: Option<&RecordBatch>, rows_max: usize) -> Result<Vec<Vec<ScalarValue>>> {
    if types.is_empty() {
        return Ok(vec![Vec::new()]);
    }
    let bound = parameters.map_or(0, RecordBatch::num_columns);
    let parameters = parameters.filter(|batch| batch.num_columns() == types.len() && batch.num_rows() > 0);
    let parameters =
        parameters.ok_or_else(|| Error::invalid(format!("the statement has {} parameters, and {bound} have values", types.len())))?;
    if parameters.num_rows() > rows_max {
        return Err(Error::new(
            Kind::Exhausted,
            format!("a query takes at most {rows_max} rows of parameters, not {}", parameters.num_rows()),
        ));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = parameters.columns().iter().zip(types).enumerate().map(|(index, (column, data_type))| {
        let cast = match data_type {
            Some(data_type) => cast_with_options(column, data_type, &options),
            None => Ok(Arc::clone(column)),
        };
        cast.map_err(|cause| Error::invalid(format!("parameter {}: {cause}", index + 1)))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let row = |index| columns.iter().map(|column| Ok(ScalarValue::try_from_array(column, index)?)).collect();
    (0..parameters.num_rows()).map(row).collect()
}
