//! Columns of a SELECT that are made of those before them: `SELECT a + 1 AS b, b * 2 AS c`.
//!
//! A column of a table comes before one of the SELECT, and only planning knows which there are: what it does not find is looked for here.

use std::ops::ControlFlow;

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::{self, Expr, Ident, Select, SelectItem, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::Location;

use super::names::place;

/// Names that are looked for in one statement; each is planned for once more.
pub(super) const FOUND_MAX: usize = 100;

/// Puts the expression of a column of the same SELECT in the place of the name that planning did not find; whether there is one. One that
/// calls a volatile function would have two values.
pub(super) fn found(statement: &mut ast::Statement, error: &DataFusionError, is_volatile: &dyn Fn(&str) -> bool) -> bool {
    let DataFusionError::SchemaError(cause, _) = error.find_root() else { return false };
    let SchemaError::FieldNotFound { field, .. } = cause.as_ref() else { return false };
    let (None, Some(place)) = (&field.relation, place(error)) else { return false };
    let place = Location { line: place.line, column: place.column };
    VisitMut::visit(statement, &mut Selects { place, is_volatile }).is_break()
}

struct Selects<'a> {
    place: Location,
    is_volatile: &'a dyn Fn(&str) -> bool,
}

impl VisitorMut for Selects<'_> {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for item in 0..select.projection.len() {
            let (before, after) = select.projection.split_at_mut(item);
            let Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = after.first_mut() else { continue };
            let text = expr.to_string();
            if VisitMut::visit(expr, &mut Names { before, wanted: self }).is_continue() {
                continue;
            }
            let expr = expr.clone();
            if let SelectItem::UnnamedExpr(_) = after[0] {
                let is_taken =
                    |name: &str| before.iter().any(|item| named(item).is_some_and(|(taken, _)| taken.value.eq_ignore_ascii_case(name)));
                let mut free = std::iter::once(text.clone()).chain((1..).map(|number| format!("{text}_{number}")));
                let name = free.find(|name| !is_taken(name)).unwrap_or(text);
                after[0] = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
            }
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

fn named(item: &SelectItem) -> Option<(&Ident, &Expr)> {
    if let SelectItem::ExprWithAlias { expr, alias } = item { Some((alias, expr)) } else { None }
}

/// Looks for one name in an expression.
struct Names<'a> {
    before: &'a [SelectItem],
    wanted: &'a Selects<'a>,
}

impl VisitorMut for Names<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Identifier(name) = &*expr else { return ControlFlow::Continue(()) };
        if name.span.start != self.wanted.place {
            return ControlFlow::Continue(());
        }
        let folded = |name: &Ident| if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
        let mut columns = self.before.iter().filter_map(named).filter(|(alias, _)| folded(alias) == folded(name));
        match (columns.next(), columns.next()) {
            (Some((_, column)), None) if !self.calls_volatile(column) => {
                *expr = Expr::Nested(Box::new(column.clone()));
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Names<'_> {
    fn calls_volatile(&self, column: &Expr) -> bool {
        let is_volatile = |expr: &Expr| match expr {
            Expr::Function(function) if (self.wanted.is_volatile)(&function.name.to_string().to_lowercase()) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        ast::visit_expressions(column, is_volatile).is_break()
    }
}
