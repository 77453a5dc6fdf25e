//! Queries made of the parts of a statement, so that they are planned like any other.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, Query, TableFactor, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

use crate::error::Error;

/// The query of a text of ours.
pub(super) fn query(text: &str) -> Result<Box<Query>, ParserError> {
    Parser::new(&GenericDialect {}).try_with_sql(text)?.parse_query()
}

/// Parts of a user's statement. In a text of ours a name in quotes that begins with `:` stands for each.
#[derive(Debug, Default)]
pub(super) struct Parts {
    exprs: HashMap<String, Expr>,
    tables: HashMap<String, TableFactor>,
}

impl Parts {
    /// `":name"` stands for an expression.
    pub(super) fn expr(mut self, name: impl AsRef<str>, expr: Expr) -> Self {
        self.exprs.insert(format!(":{}", name.as_ref()), Expr::Nested(Box::new(expr)));
        self
    }

    /// `":name"` stands for a table.
    pub(super) fn table(mut self, name: &str, table: TableFactor) -> Self {
        self.tables.insert(format!(":{name}"), table);
        self
    }

    /// The query of a text, with the parts in their places. Their places in the user's text stay what they are.
    pub(super) fn fill(mut self, text: &str) -> crate::Result<Box<Query>> {
        let mut query = query(text).map_err(|error| Error::internal(format!("cannot read '{text}': {error}")))?;
        match query.visit(&mut self) {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(query),
        }
    }
}

impl VisitorMut for Parts {
    type Break = ();

    // After the visit of what is below, so that the user's own parts are not looked through.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(name) = expr
            && let Some(part) = self.exprs.get(&name.value)
        {
            *expr = part.clone();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name: ObjectName(name), .. } = table
            && let [name] = name.as_slice()
            && let Some(part) = name.as_ident().and_then(|name| self.tables.get(&name.value))
        {
            *table = part.clone();
        }
        ControlFlow::Continue(())
    }
}

/// A name in quotes.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name that an alias or a part of a column's name stands for.
pub(super) fn normalized(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}
