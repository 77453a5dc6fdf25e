//! `MERGE`: the target is joined with the source, each row takes the first clause that applies to it, and files that hold rows which may
//! match are written again.

use std::ops::ControlFlow;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Column;
use datafusion::logical_expr::conditional_expressions::CaseBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit, when};
use datafusion::sql::sqlparser::ast::{self, TableFactor, visit_expressions};
use windlass_catalog::Replaces;
use windlass_catalog::catalog::TableMeta;
use windlass_catalog::ddl::TableName;
use windlass_engine::functions::only_match;
use windlass_engine::write::WriteSpec;

use super::changes::{place, read_from};
use super::parse::{Change, conjuncts};
use super::plan::{Counted, Target, WritePlan, Writes, assigned, full_name, typed, write};
use super::template::{Parts, normalized, quoted};
use crate::error::{Error, Result};

/// `MERGE INTO target USING source ON condition WHEN ...`
#[derive(Debug, Clone)]
pub(crate) struct Merge {
    pub(super) table: TableName,
    /// As in the statement, with its alias.
    pub(super) target: TableFactor,
    /// Likewise.
    pub(super) source: TableFactor,
    pub(super) on: ast::Expr,
    pub(super) clauses: Vec<When>,
}

/// What becomes of a row.
#[derive(Debug, Clone)]
pub(super) enum When {
    /// A row of the target that matches, or with `by_source` does not, is changed.
    Update { by_source: bool, condition: Option<ast::Expr>, set: Vec<(String, ast::Expr)> },
    /// Likewise, goes.
    Delete { by_source: bool, condition: Option<ast::Expr> },
    /// A row of the source that does not match is added; without columns, all in their order.
    Insert { condition: Option<ast::Expr>, columns: Vec<String>, values: Vec<ast::Expr> },
}

impl When {
    fn is_insert(&self) -> bool {
        matches!(self, Self::Insert { .. })
    }

    fn is_by_source(&self) -> bool {
        matches!(self, Self::Update { by_source: true, .. } | Self::Delete { by_source: true, .. })
    }

    fn condition(&self) -> Option<&ast::Expr> {
        let (Self::Update { condition, .. } | Self::Delete { condition, .. } | Self::Insert { condition, .. }) = self;
        condition.as_ref()
    }

    /// Which rows of the join it is about.
    fn rows(&self) -> &'static str {
        match self {
            Self::Insert { .. } => r#"":there" IS NULL"#,
            Self::Update { by_source: true, .. } | Self::Delete { by_source: true, .. } => r#"":given" IS NULL"#,
            Self::Update { .. } | Self::Delete { .. } => r#"":there" AND ":given""#,
        }
    }
}

/// A row is marked so many where it is inserted; see [`Counted::Changes`].
const INSERTED: i64 = 2;

impl Writes<'_> {
    pub(super) async fn merge(&self, merge: &Merge) -> Result<(LogicalPlan, WritePlan)> {
        const MERGE: &str = "MERGE";
        let names = [alias(&merge.target)?, alias(&merge.source)?];
        let change = Change { table: merge.table.clone(), from: merge.target.clone(), condition: merge.condition_of_target(&names) };
        let touched = self.touched(&change).await?;
        let spec = touched.spec(MERGE)?;
        let fields = touched.meta.full_schema().fields().to_vec();
        let Join { parts, text, given } = merge.join(&names, &touched.meta, &fields)?;
        let rows = read_from(self.rows(parts.fill(&text)?).await?, &touched.table)?;
        let (kept, written) = merge.decide(&rows, &fields, &given)?;
        let rows = LogicalPlanBuilder::from(rows).filter(kept)?.build()?;
        if merge.changes_rows() {
            return Ok((write(rows, written, spec)?, touched.replaced(MERGE)));
        }
        let spec = WriteSpec { marked: false, ..spec };
        let plan = WritePlan { target: Target::Table(touched.meta), operation: MERGE, replaces: Replaces::Nothing, counted: Counted::Rows };
        Ok((write(rows, written, spec)?, plan))
    }
}

/// The query that joins target and source.
///
/// Its rows: the columns of the target, whether there is a row of it, the clause, the number of matches, and values by clause.
struct Join {
    parts: Parts,
    text: String,
    /// For each clause the columns of the target that it gives a value, and where in the row that is.
    given: Vec<Vec<(usize, usize)>>,
}

impl Merge {
    /// Whether rows that are there may change or go.
    fn changes_rows(&self) -> bool {
        self.clauses.iter().any(|clause| !clause.is_insert())
    }

    /// What the condition says of the target alone: other rows cannot match.
    fn condition_of_target(&self, names: &[String; 2]) -> Option<ast::Expr> {
        match self.clauses.iter().any(When::is_by_source) {
            true => None,
            false => all_of(conjuncts(&self.on).into_iter().filter(|expr| side(expr, &names[..1]).is_some()).cloned()),
        }
    }

    fn join(&self, names: &[String; 2], table: &TableMeta, fields: &[FieldRef]) -> Result<Join> {
        let [target, source] = names.each_ref().map(|name| quoted(name));
        let mut parts =
            Parts::default().table("target", self.target.clone()).table("source", self.source.clone()).expr("on", self.on.clone());
        let applies = |(index, clause): (usize, &When)| {
            let condition = clause.condition().map_or_else(String::new, |_| format!(r#" AND ":when{index}""#));
            format!("WHEN {}{condition} THEN {index}", clause.rows())
        };
        let which = format!("CASE {} END", self.clauses.iter().enumerate().map(applies).collect::<Vec<_>>().join(" "));
        let mut selected: Vec<String> = fields.iter().map(|field| format!("{target}.{}", quoted(field.name()))).collect();
        selected.push(r#"":there""#.to_owned());
        selected.push(format!(r#"CAST({which} AS BIGINT) AS ":which""#));
        // A row of the target has as many matches as the source has rows with its keys, where the condition compares keys alone. Otherwise
        // rows are numbered, which one task does.
        let keys = if self.changes_rows() { source_keys(&self.on, names) } else { None };
        let (matches, in_target, in_source) = match &keys {
            _ if !self.changes_rows() => (r#"CAST(1 AS BIGINT) AS ":matches""#, "", String::new()),
            Some(keys) => {
                for (index, key) in keys.iter().enumerate() {
                    parts = parts.expr(format!("key{index}"), (*key).clone());
                }
                let keys = (0..keys.len()).map(|index| format!(r#"":key{index}""#)).collect::<Vec<_>>().join(", ");
                // Rows of the source that match nothing may have the same keys.
                (
                    r#"CASE WHEN ":there" THEN ":matches" END AS ":matches""#,
                    "",
                    format!(r#", count(*) OVER (PARTITION BY {keys}) AS ":matches""#),
                )
            }
            None => (
                r#"count(*) OVER (PARTITION BY ":row", CASE WHEN ":row" IS NULL THEN ":given_row" END) AS ":matches""#,
                r#", row_number() OVER () AS ":row""#,
                r#", row_number() OVER () AS ":given_row""#.to_owned(),
            ),
        };
        selected.push(matches.to_owned());
        let mut given = Vec::new();
        for (index, clause) in self.clauses.iter().enumerate() {
            if let Some(condition) = clause.condition() {
                parts = parts.expr(format!("when{index}"), condition.clone());
            }
            let mut places = Vec::new();
            for (place, value) in values(clause, table, fields)? {
                let name = format!("value{index}_{place}");
                parts = parts.expr(&name, typed(value, fields[place].data_type()));
                places.push((place, selected.len()));
                // Only where the clause applies: elsewhere the value may not exist.
                selected.push(format!(r#"CASE WHEN ({which}) = {index} THEN ":{name}" END AS ":{name}""#));
            }
            given.push(places);
        }
        let join = if self.clauses.iter().any(When::is_insert) { "FULL" } else { "LEFT" };
        let text = format!(
            r#"SELECT {} FROM (SELECT *, true AS ":there"{in_target} FROM ":target") AS {target} {join} JOIN (SELECT *, true AS ":given"{in_source} FROM ":source") AS {source} ON ":on""#,
            selected.join(", "),
        );
        Ok(Join { parts, text, given })
    }

    /// Which rows of the join are written, and their columns, the mark among them if rows change.
    fn decide(&self, rows: &LogicalPlan, fields: &[FieldRef], given: &[Vec<(usize, usize)>]) -> Result<(Expr, Vec<Expr>)> {
        let column = |place: usize| {
            let (relation, field) = rows.schema().qualified_field(place);
            Expr::Column(Column::new(relation.cloned(), field.name()))
        };
        let clause = only_match().call(vec![column(fields.len() + 2), column(fields.len() + 1)]);
        let of = |kind: fn(&When) -> bool| {
            let indexes = self.clauses.iter().enumerate().filter(|(_, clause)| kind(clause)).map(|(index, _)| lit(index as i64));
            clause.clone().in_list(indexes.collect(), false).is_true()
        };
        let inserted = of(When::is_insert);
        let mut written = Vec::new();
        for (place, field) in fields.iter().enumerate() {
            let mut value = None;
            for (index, places) in given.iter().enumerate() {
                let Some((_, at)) = places.iter().find(|(given, _)| *given == place) else { continue };
                let (_, found) = rows.schema().qualified_field(*at);
                let new = cast(assigned(column(*at), found.data_type(), field)?.unalias(), field.data_type().clone());
                value = Some(match value {
                    None => when(clause.clone().eq(lit(index as i64)), new),
                    Some(mut cases) => CaseBuilder::when(&mut cases, clause.clone().eq(lit(index as i64)), new),
                });
            }
            // A row that is inserted has NULL here already: there is no row of the target.
            let old = cast(column(place), field.data_type().clone());
            let value = match value {
                None => old,
                Some(mut cases) => cases.otherwise(old)?,
            };
            written.push(value.alias(field.name()));
        }
        if !self.changes_rows() {
            return Ok((inserted, written));
        }
        let changed = clause.clone().is_not_null().is_true();
        written.push(when(inserted.clone(), lit(INSERTED)).otherwise(cast(changed, DataType::Int64))?.alias(":mark"));
        let deleted = of(|clause| matches!(clause, When::Delete { .. }));
        Ok((inserted.or(column(fields.len()).is_true().and(!deleted)), written))
    }
}

/// Which of some tables an expression is about, if it is about one alone, or about none.
fn side(expr: &ast::Expr, names: &[String]) -> Option<Option<usize>> {
    let mut found = None;
    let walked = visit_expressions(expr, |part| {
        let place = match part {
            ast::Expr::CompoundIdentifier(parts) => {
                names.iter().position(|name| parts.first().is_some_and(|first| normalized(first) == *name))
            }
            // There is no telling whose column it is without looking names up.
            ast::Expr::Identifier(_) | ast::Expr::Subquery(_) | ast::Expr::InSubquery { .. } | ast::Expr::Exists { .. } => None,
            _ => return ControlFlow::Continue(()),
        };
        if place.is_none() || found.is_some_and(|found| Some(found) != place) {
            return ControlFlow::Break(());
        }
        found = place;
        ControlFlow::Continue(())
    });
    walked.is_continue().then_some(found)
}

/// What the source compares with the target, if the condition does nothing but compare the two, and test the target.
fn source_keys<'a>(on: &'a ast::Expr, names: &[String; 2]) -> Option<Vec<&'a ast::Expr>> {
    let mut keys = Vec::new();
    for condition in conjuncts(on) {
        if let ast::Expr::BinaryOp { left, op: ast::BinaryOperator::Eq, right } = condition {
            match (side(left, names)?, side(right, names)?) {
                (Some(0), Some(1)) => keys.push(right.as_ref()),
                (Some(1), Some(0)) => keys.push(left.as_ref()),
                (Some(0) | None, Some(0) | None) => {}
                _ => return None,
            }
        } else if !matches!(side(condition, names)?, Some(0) | None) {
            return None;
        }
    }
    (!keys.is_empty()).then_some(keys)
}

fn all_of(exprs: impl IntoIterator<Item = ast::Expr>) -> Option<ast::Expr> {
    let and = |left, right| ast::Expr::BinaryOp { left: Box::new(left), op: ast::BinaryOperator::And, right: Box::new(right) };
    exprs.into_iter().reduce(and)
}

/// Positions of the columns that a clause gives values, with the values.
fn values<'a>(clause: &'a When, table: &TableMeta, fields: &[FieldRef]) -> Result<Vec<(usize, &'a ast::Expr)>> {
    let pairs: Vec<(usize, &ast::Expr)> = match clause {
        When::Delete { .. } => Vec::new(),
        When::Update { set, .. } => set.iter().map(|(name, value)| Ok((place(table, fields, name)?, value))).collect::<Result<_>>()?,
        When::Insert { columns, values, .. } => {
            let places = match columns.is_empty() {
                true => (0..fields.len()).collect(),
                false => columns.iter().map(|name| place(table, fields, name)).collect::<Result<Vec<_>>>()?,
            };
            if places.len() != values.len() {
                let (given, wanted) = (values.len(), places.len());
                return Err(Error::invalid(format!("INSERT gives {given} values for {wanted} columns of table '{}'", full_name(table))));
            }
            places.into_iter().zip(values).collect()
        }
    };
    match pairs.iter().enumerate().find(|(index, (place, _))| pairs[..*index].iter().any(|(before, _)| before == place)) {
        Some((_, (place, _))) => Err(Error::invalid(format!("column '{}' is set twice", fields[*place].name()))),
        None => Ok(pairs),
    }
}

/// The name under which conditions know a table.
fn alias(table: &TableFactor) -> Result<String> {
    match table {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => Ok(normalized(&alias.name)),
        TableFactor::Table { name, alias: None, .. } => {
            let last = name.0.last().and_then(|part| part.as_ident());
            last.map(normalized).ok_or_else(|| Error::invalid("MERGE needs a table with a name"))
        }
        _ => Err(Error::invalid("the source of MERGE needs a name: USING (...) AS s")),
    }
}
