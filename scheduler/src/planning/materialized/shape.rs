//! What a plan computes, whatever names, aliases and order of clauses say it.
//!
//! Filters, projections and inner joins melt into [`Rows`]: sources, conditions and columns. What does not melt, such as an aggregation,
//! becomes a source of what stands above it. Sources are the same if what they are made of is the same, so two plans that have equal
//! [`Rows`] give equal rows. The other way round is not promised.

use std::collections::{BTreeSet, HashMap};

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, Result, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, BinaryExpr, Distinct, Expr, Join, LogicalPlan, Operator, TableScan, Volatility};
use windlass_catalog::provider::HiveTable;

/// A source, and which one it is of several of a kind.
type Source = (usize, usize);

/// What rows are made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rows {
    /// In order.
    pub(super) sources: Vec<Source>,
    /// All are true of every row. In order, each once.
    pub(super) conditions: Vec<Expr>,
    /// Over columns of the sources.
    pub(super) columns: Vec<Expr>,
}

/// An aggregation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Grouped {
    /// Of the rows that are grouped.
    pub(super) sources: Vec<Source>,
    /// Of the rows that are grouped.
    pub(super) conditions: Vec<Expr>,
    /// In order, each once.
    pub(super) keys: Vec<Expr>,
    /// In order, each once.
    pub(super) aggregates: Vec<Expr>,
}

/// What a source is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Kind {
    /// A table, by its id.
    Table(i64),
    Grouped(Grouped),
    /// Another operator over rows.
    Other {
        operator: String,
        exprs: Vec<Expr>,
        inputs: Vec<Rows>,
    },
}

/// The sources that were met; what is the same has the same number.
#[derive(Debug, Default)]
pub(super) struct Sources {
    kinds: Vec<Kind>,
    numbers: HashMap<Kind, usize>,
    /// Partition keys of the tables, by number.
    partition_keys: HashMap<usize, BTreeSet<String>>,
}

/// Begins the name of every source: no table of a query has such a name.
const MARK: char = '\0';

/// The column of a source.
fn column_of(source: Source, name: impl Into<String>) -> Expr {
    Expr::Column(Column::new(Some(TableReference::bare(format!("{MARK}{}.{}", source.0, source.1))), name))
}

/// The source and the name that [`column_of`] was made of.
fn source_of(column: &Column) -> Option<(Source, &str)> {
    let (number, which) = column.relation.as_ref()?.table().strip_prefix(MARK)?.split_once('.')?;
    Some(((number.parse().ok()?, which.parse().ok()?), &column.name))
}

/// Whether an expression still names a column of a source.
pub(super) fn names_source(expr: &Expr) -> bool {
    expr.column_refs().into_iter().any(|column| source_of(column).is_some())
}

/// The name of the key at a place of an aggregation, as a column of it.
pub(super) fn key(number: usize, place: usize) -> Expr {
    column_of((number, 0), format!("key {place}"))
}

/// The name of the aggregate at a place of an aggregation, as a column of it.
pub(super) fn aggregate(number: usize, place: usize) -> Expr {
    column_of((number, 0), format!("aggregate {place}"))
}

impl Sources {
    /// The aggregation that is all the rows are made of, with its number.
    pub(super) fn grouped(&self, rows: &Rows) -> Option<(usize, &Grouped)> {
        match rows.sources.as_slice() {
            [(number, 0)] if rows.conditions.is_empty() => match &self.kinds[*number] {
                Kind::Grouped(grouped) => Some((*number, grouped)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether an expression is a partition key of a table, passed through.
    pub(super) fn is_partition_key(&self, expr: &Expr) -> bool {
        let Expr::Column(column) = expr else { return false };
        let Some(((number, _), name)) = source_of(column) else { return false };
        match &self.kinds[number] {
            Kind::Table(_) => self.partition_keys.get(&number).is_some_and(|keys| keys.contains(name)),
            Kind::Grouped(grouped) => {
                let place = name.strip_prefix("key ").and_then(|place| place.parse::<usize>().ok());
                place.and_then(|place| grouped.keys.get(place)).is_some_and(|key| self.is_partition_key(key))
            }
            Kind::Other { .. } => false,
        }
    }

    /// Whether rows are groups of partition keys for which it makes no difference how often a row comes.
    pub(super) fn asks_for_keys(&self, rows: &Rows) -> bool {
        let Some((_, grouped)) = self.grouped(rows) else { return false };
        let ignores_repeats = |expr: &Expr| match expr {
            Expr::AggregateFunction(function) => function.params.distinct || matches!(function.func.name(), "min" | "max"),
            _ => false,
        };
        let mut exprs = grouped.keys.iter().chain(&grouped.aggregates).chain(&grouped.conditions);
        let of_keys = |expr: &Expr| expr.column_refs().into_iter().all(|column| self.is_partition_key(&Expr::Column(column.clone())));
        grouped.aggregates.iter().all(ignores_repeats) && exprs.all(of_keys)
    }

    /// What a plan computes; none where it holds something of which that cannot be said.
    pub(super) fn rows(&mut self, plan: &LogicalPlan) -> Option<Rows> {
        match plan {
            LogicalPlan::TableScan(scan) => self.table(scan),
            LogicalPlan::SubqueryAlias(alias) => self.rows(&alias.input),
            LogicalPlan::Projection(projection) => {
                let below = self.rows(&projection.input)?;
                let columns = all(&projection.expr, projection.input.schema(), &below.columns)?;
                Some(Rows { columns, ..below })
            }
            LogicalPlan::Filter(filter) => {
                let below = self.rows(&filter.input)?;
                let conditions =
                    split_conjunction(&filter.predicate).into_iter().map(|expr| resolved(expr, filter.input.schema(), &below.columns));
                let conditions = conditions.collect::<Option<Vec<_>>>()?;
                Some(Rows { conditions: in_order(below.conditions.into_iter().chain(conditions)), ..below })
            }
            LogicalPlan::Join(join) if join.join_type == JoinType::Inner && join.null_equality == NullEquality::NullEqualsNothing => {
                self.inner_join(join)
            }
            LogicalPlan::Join(join) => {
                let (left, right) = (self.rows(&join.left)?, self.rows(&join.right)?);
                let schema = join.left.schema().join(join.right.schema()).ok()?;
                let inputs = inputs([join.left.schema().fields().len(), join.right.schema().fields().len()]);
                let operator = format!("{} {:?} {}", join.join_type, join.null_equality, join.null_aware);
                let exprs = all(&conditions_of(join), &schema, &inputs)?;
                Some(self.other(Kind::Other { operator, exprs: in_order(exprs), inputs: vec![left, right] }, plan))
            }
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| self.rows(input)).collect::<Option<Vec<_>>>()?;
                Some(self.other(Kind::Other { operator: "union".to_owned(), exprs: Vec::new(), inputs }, plan))
            }
            LogicalPlan::Window(window) => {
                let below = self.rows(&window.input)?;
                let schema = window.input.schema();
                let exprs = all(&window.window_expr, schema, &inputs([schema.fields().len()]))?;
                Some(self.other(Kind::Other { operator: "window".to_owned(), exprs, inputs: vec![below] }, plan))
            }
            LogicalPlan::Aggregate(Aggregate { input, group_expr, aggr_expr, .. }) => {
                if group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
                    return None;
                }
                let below = self.rows(input)?;
                let keys = all(group_expr, input.schema(), &below.columns)?;
                let aggregates = all(aggr_expr, input.schema(), &below.columns)?;
                Some(self.group(below, keys, aggregates))
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let below = self.rows(input)?;
                let keys = below.columns.clone();
                Some(self.group(below, keys, Vec::new()))
            }
            _ => None,
        }
    }

    fn table(&mut self, scan: &TableScan) -> Option<Rows> {
        let provider = source_as_provider(&scan.source).ok()?;
        let table = provider.downcast_ref::<HiveTable>().filter(|table| table.is_current())?;
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return None;
        }
        let number = self.number(Kind::Table(table.meta().id));
        self.partition_keys.entry(number).or_insert_with(|| table.meta().keys.iter().map(|key| key.name.clone()).collect());
        let columns = scan.projected_schema.fields().iter().map(|field| column_of((number, 0), field.name())).collect();
        Some(Rows { sources: vec![(number, 0)], conditions: Vec::new(), columns })
    }

    fn inner_join(&mut self, join: &Join) -> Option<Rows> {
        let (left, right) = (self.rows(&join.left)?, self.rows(&join.right)?);
        // Of two sources of a kind, the one on the left is the first.
        let before = |number: usize| left.sources.iter().filter(|(other, _)| *other == number).count();
        let renamed = |expr: Expr| {
            let renamed = expr.transform(|expr| {
                let source = if let Expr::Column(column) = &expr { source_of(column) } else { None };
                Ok(match source {
                    Some(((number, which), name)) => Transformed::yes(column_of((number, which + before(number)), name)),
                    None => Transformed::no(expr),
                })
            });
            renamed.ok().map(|renamed| ordered(renamed.data))
        };
        let mut sources = left.sources.clone();
        sources.extend(right.sources.iter().map(|(number, which)| (*number, which + before(*number))));
        sources.sort_unstable();
        let right_columns = right.columns.into_iter().map(renamed).collect::<Option<Vec<_>>>()?;
        let right_conditions = right.conditions.into_iter().map(renamed).collect::<Option<Vec<_>>>()?;
        let columns: Vec<_> = left.columns.into_iter().chain(right_columns).collect();
        let schema = join.left.schema().join(join.right.schema()).ok()?;
        let conditions = all(&conditions_of(join), &schema, &columns)?;
        let conditions = in_order(left.conditions.into_iter().chain(right_conditions).chain(conditions));
        Some(Rows { sources, conditions, columns })
    }

    fn group(&mut self, below: Rows, keys: Vec<Expr>, aggregates: Vec<Expr>) -> Rows {
        let Rows { sources, conditions, .. } = below;
        let grouped = Grouped { sources, conditions, keys: in_order(keys.clone()), aggregates: in_order(aggregates.clone()) };
        let place = |all: &[Expr], expr: &Expr| all.iter().position(|other| other == expr).unwrap_or_default();
        let keys: Vec<_> = keys.iter().map(|expr| place(&grouped.keys, expr)).collect();
        let aggregates: Vec<_> = aggregates.iter().map(|expr| place(&grouped.aggregates, expr)).collect();
        let number = self.number(Kind::Grouped(grouped));
        let columns = keys.into_iter().map(|place| key(number, place));
        let columns = columns.chain(aggregates.into_iter().map(|place| aggregate(number, place))).collect();
        Rows { sources: vec![(number, 0)], conditions: Vec::new(), columns }
    }

    fn other(&mut self, kind: Kind, plan: &LogicalPlan) -> Rows {
        let number = self.number(kind);
        let columns = (0..plan.schema().fields().len()).map(|place| column_of((number, 0), place.to_string())).collect();
        Rows { sources: vec![(number, 0)], conditions: Vec::new(), columns }
    }

    fn number(&mut self, kind: Kind) -> usize {
        if let Some(number) = self.numbers.get(&kind) {
            return *number;
        }
        self.kinds.push(kind.clone());
        self.numbers.insert(kind, self.kinds.len() - 1);
        self.kinds.len() - 1
    }
}

/// All that a join wants to be true.
fn conditions_of(join: &Join) -> Vec<Expr> {
    let equal = join.on.iter().map(|(left, right)| left.clone().eq(right.clone()));
    equal.chain(join.filter.iter().flat_map(split_conjunction).cloned()).collect()
}

/// Names for the columns of the inputs of an operator, which have so many.
fn inputs<const N: usize>(counts: [usize; N]) -> Vec<Expr> {
    let columns = counts.into_iter().enumerate().flat_map(|(input, count)| (0..count).map(move |place| (input, place)));
    columns.map(|(input, place)| Expr::Column(Column::new_unqualified(format!("{MARK}{input}.{place}")))).collect()
}

fn all(exprs: &[Expr], schema: &DFSchema, columns: &[Expr]) -> Option<Vec<Expr>> {
    exprs.iter().map(|expr| resolved(expr, schema, columns)).collect()
}

/// An expression over the columns of an input, which are these of sources. None if it may have another value each time, or one that
/// is not of its row.
fn resolved(expr: &Expr, schema: &DFSchema, columns: &[Expr]) -> Option<Expr> {
    let mut is_known = true;
    let replaced = expr.clone().transform_down(|expr| {
        match &expr {
            Expr::Column(column) => {
                let known = schema.index_of_column(column).ok().and_then(|place| columns.get(place));
                is_known &= known.is_some();
                return Ok(Transformed::new(known.unwrap_or(&expr).clone(), true, TreeNodeRecursion::Jump));
            }
            Expr::ScalarFunction(function) => is_known &= function.func.signature().volatility != Volatility::Volatile,
            Expr::ScalarVariable(..)
            | Expr::Exists(_)
            | Expr::InSubquery(_)
            | Expr::SetComparison(_)
            | Expr::ScalarSubquery(_)
            | Expr::Placeholder(_)
            | Expr::OuterReferenceColumn(..)
            | Expr::Unnest(_)
            | Expr::HigherOrderFunction(_)
            | Expr::Lambda(_)
            | Expr::LambdaVariable(_) => is_known = false,
            _ => {}
        }
        Ok(Transformed::no(expr))
    });
    let replaced = replaced.ok()?.data;
    is_known.then(|| ordered(replaced))
}

/// The same expression without aliases, and with one order of the sides of comparisons and of sums and products.
fn ordered(expr: Expr) -> Expr {
    let turned = expr.clone().transform_up(|expr| {
        Ok(match expr {
            Expr::Alias(alias) => Transformed::yes(*alias.expr),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                let turned = match op {
                    Operator::Eq | Operator::NotEq | Operator::Plus | Operator::Multiply | Operator::And | Operator::Or => Some(op),
                    Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => op.swap(),
                    _ => None,
                };
                match turned.filter(|_| left.to_string() > right.to_string()) {
                    Some(op) => Transformed::yes(Expr::BinaryExpr(BinaryExpr { left: right, op, right: left })),
                    None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
                }
            }
            other => Transformed::no(other),
        })
    });
    turned.map_or(expr, |turned| turned.data)
}

/// Each once, in one order.
fn in_order(exprs: impl IntoIterator<Item = Expr>) -> Vec<Expr> {
    let mut exprs: Vec<_> = exprs.into_iter().map(|expr| (expr.to_string(), expr)).collect();
    exprs.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut exprs: Vec<_> = exprs.into_iter().map(|(_, expr)| expr).collect();
    exprs.dedup();
    exprs
}

/// Puts columns in the place of the expressions that they hold. None if a column of a source is left over.
pub(super) fn over(expr: &Expr, columns: &[(Expr, Expr)]) -> Result<Option<Expr>> {
    let replaced = expr.clone().transform_down(|expr| {
        Ok(match columns.iter().find(|(known, _)| *known == expr) {
            Some((_, column)) => Transformed::new(column.clone(), true, TreeNodeRecursion::Jump),
            None => Transformed::no(expr),
        })
    })?;
    Ok(Some(replaced.data).filter(|expr| !names_source(expr)))
}
