//! Types of SQL that DataFusion does not know: maps, binaries, times that are said to have no zone, and JSON, which is text.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, plan_datafusion_err};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast;
use windlass_catalog::ddl::types::parse_type;
use windlass_engine::Dialect;

/// Reads them as `CREATE TABLE` does.
#[derive(Debug)]
pub struct NestedTypes;

impl TypePlanner for NestedTypes {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> Result<Option<FieldRef>> {
        let data_type = match sql_type {
            ast::DataType::Map(..)
            | ast::DataType::Binary(_)
            | ast::DataType::Blob(_)
            | ast::DataType::TimestampNtz(_)
            | ast::DataType::Varbinary(_) => parse_type(&sql_type.to_string(), Dialect::Generic)
                .map_err(|error| plan_datafusion_err!("cannot read type '{sql_type}': {}", error.message))?,
            ast::DataType::JSON => DataType::Utf8,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}
