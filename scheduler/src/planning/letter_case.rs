//! Columns of tables in quotes: `SELECT "OrderId" FROM orders`.
//!
//! Tables have names in lower case, whereas a query may name columns of its own in any, and only planning knows which of them is meant: what it
//! does not find as it is spelled is looked for in lower case.

use std::ops::ControlFlow;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::{self, Expr, Ident, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::names::place;

/// Puts the name that planning did not find in lower case; whether it was not.
pub(super) fn found(statement: &mut ast::Statement, error: &DataFusionError) -> bool {
    let DataFusionError::SchemaError(cause, _) = error.find_root() else { return false };
    let SchemaError::FieldNotFound { field, .. } = cause.as_ref() else { return false };
    let folded = field.name.to_lowercase();
    if folded == field.name {
        return false;
    }
    // Not every error of planning knows where it is, and some are of text that is not the user's.
    let place = field.spans.first().map(|span| span.start).or_else(|| place(error));
    let place = place.map(|place| Location { line: place.line, column: place.column });
    let mut name = Name { place, name: &field.name, folded, is_found: false };
    let done = VisitMut::visit(statement, &mut name);
    if done.is_continue() && place.is_some() {
        name.place = None;
        let _all = VisitMut::visit(statement, &mut name);
    }
    name.is_found
}

/// A name at a place, or wherever it stands.
struct Name<'a> {
    place: Option<Location>,
    name: &'a str,
    folded: String,
    is_found: bool,
}

impl VisitorMut for Name<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let parts: &mut [Ident] = match expr {
            Expr::Identifier(name) => std::slice::from_mut(name),
            Expr::CompoundIdentifier(names) => names,
            _ => return ControlFlow::Continue(()),
        };
        if self.place.is_some_and(|place| parts.first().is_none_or(|first| first.span.start != place)) {
            return ControlFlow::Continue(());
        }
        if let Some(part) = parts.iter_mut().find(|part| part.quote_style.is_some() && part.value == self.name) {
            part.value.clone_from(&self.folded);
            self.is_found = true;
        }
        if self.is_found && self.place.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
