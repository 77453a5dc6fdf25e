//! Parameters of lambdas.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{AccessExpr, Expr, LambdaFunction, OneOrManyWithParens, VisitMut, VisitorMut};

use super::text;

/// `row -> row.a` is `row -> row['a']`: DataFusion looks for a table that is called as the parameter is.
pub(super) fn fields(lambda: &mut LambdaFunction) {
    let parameters = match &lambda.params {
        OneOrManyWithParens::One(parameter) => std::slice::from_ref(parameter),
        OneOrManyWithParens::Many(parameters) => parameters,
    };
    let parameters = parameters.iter().map(|parameter| parameter.name.value.to_lowercase()).collect();
    let ControlFlow::Continue(()) = VisitMut::visit(&mut lambda.body, &mut Fields(parameters));
}

struct Fields(Vec<String>);

impl VisitorMut for Fields {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::CompoundIdentifier(names) = expr
            && self.0.contains(&names[0].value.to_lowercase())
        {
            let mut names = std::mem::take(names).into_iter();
            if let Some(parameter) = names.next() {
                let access_chain = names.map(|name| AccessExpr::Dot(text(name.value))).collect();
                *expr = Expr::CompoundFieldAccess { root: Box::new(Expr::Identifier(parameter)), access_chain };
            }
        }
        ControlFlow::Continue(())
    }
}
