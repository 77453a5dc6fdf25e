//! `FROM read_parquet('location')` spelled as the table that it stands for.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, TableFactor, Value, VisitMut, VisitorMut,
};
use windlass_catalog::files::{FILES, FUNCTIONS};
use windlass_proto::Kind;

use crate::error::{Error, Result};

/// Spells such functions of a statement. Errors: `Invalid` for arguments that are not one location, `Denied` unless files may be read.
pub fn name_files(statement: &mut ast::Statement, allowed: bool) -> Result<()> {
    match VisitMut::visit(statement, &mut Namer { allowed }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Namer {
    allowed: bool,
}

impl VisitorMut for Namer {
    type Break = Error;

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        let TableFactor::Table { name, args, .. } = factor else { return ControlFlow::Continue(()) };
        let Some(given) = args else { return ControlFlow::Continue(()) };
        let function = name.0.first().and_then(|part| part.as_ident()).filter(|_| name.0.len() == 1).map(|name| name.value.to_lowercase());
        let known = function.and_then(|function| FUNCTIONS.into_iter().map(|(known, _)| known).find(|known| *known == function));
        let Some(function) = known else { return ControlFlow::Continue(()) };
        if !self.allowed {
            let error = Error::new(Kind::Denied, format!("{function} is turned off: queries read tables only"));
            return ControlFlow::Break(
                error.with_hint("an operator can set 'planning.read_files', or make a table with CREATE EXTERNAL TABLE"),
            );
        }
        let [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] = given.args.as_slice() else {
            return ControlFlow::Break(Error::invalid(format!("{function} takes one location in quotes")));
        };
        let Value::SingleQuotedString(location) = &value.value else {
            return ControlFlow::Break(Error::invalid(format!("{function} takes one location in quotes")));
        };
        let parts = [Ident::new(FILES), Ident::new(function), Ident::with_quote('"', location.clone())];
        *name = ObjectName::from(parts.to_vec());
        *args = None;
        ControlFlow::Continue(())
    }
}
