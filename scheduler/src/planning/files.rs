//! `FROM read_parquet('location')` and `FROM read_delta('location', version => 3)` spelled as the tables that they stand for.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, Ident, ObjectName, TableFactor, Value, VisitMut, VisitorMut,
};
use windlass_catalog::ddl::{TIMESTAMP_AS_OF, VERSION_AS_OF};
use windlass_catalog::files::{FILES, FUNCTIONS, READ_DELTA};
use windlass_proto::Kind;

use crate::error::{Error, Result};

/// Spells such functions of a statement. Errors: `Invalid` for other arguments, `Denied` unless files may be read.
pub fn name_files(statement: &mut ast::Statement, allowed: bool) -> Result<()> {
    match VisitMut::visit(statement, &mut Namer { allowed }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// The text in quotes that an argument is.
fn text(argument: &FunctionArg) -> Option<String> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// `version => 3` or `timestamp => '2024-01-31'` spelled as the clause of tables that it stands for.
fn as_of(argument: &FunctionArg) -> Option<FunctionArg> {
    let FunctionArg::Named { name, arg, operator } = argument else { return None };
    let clause = match name.value.to_lowercase().as_str() {
        "version" => VERSION_AS_OF,
        "timestamp" => TIMESTAMP_AS_OF,
        _ => return None,
    };
    Some(FunctionArg::Named { name: Ident::new(clause), arg: arg.clone(), operator: operator.clone() })
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
        let (location, moment) = match given.args.as_slice() {
            [location] => (text(location), None),
            [location, moment] if function == READ_DELTA => match as_of(moment) {
                Some(moment) => (text(location), Some(moment)),
                None => (None, None),
            },
            _ => (None, None),
        };
        let Some(location) = location else {
            let moment = if function == READ_DELTA { ", and then perhaps 'version => ...' or 'timestamp => ...'" } else { "" };
            return ControlFlow::Break(Error::invalid(format!("{function} takes one location in quotes{moment}")));
        };
        let parts = [Ident::new(FILES), Ident::new(function), Ident::with_quote('"', location)];
        *name = ObjectName::from(parts.to_vec());
        given.args = Vec::from_iter(moment);
        if given.args.is_empty() {
            *args = None;
        }
        ControlFlow::Continue(())
    }
}
