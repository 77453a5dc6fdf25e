//! Rows made of lists: `LATERAL VIEW explode(list)`, `CROSS JOIN UNNEST(list)`, and `TABLESAMPLE`.
//!
//! DataFusion plans a table in `FROM` without the tables before it, or as a subquery that refers to them, and then cannot take the
//! reference out of an `UNNEST`. Here a join with such a table is planned at once: its columns are computed over the rows before it, and
//! unnested beside them. [`spelling`](super::spelling) has put it into a nested join of its own.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, NullHandling, Result, ScalarValue, TableReference, UnnestOptions, not_impl_err, plan_err};
use datafusion::execution::SessionStateBuilder;
use datafusion::functions::core::expr_fn::{coalesce, get_field, greatest};
use datafusion::functions::math::expr_fn::random;
use datafusion::functions_nested::expr_fn::{array_length, make_array, map_entries, range};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor, TableSample, TableSampleKind,
    TableSampleMethod, TableSampleUnit, Value,
};
use windlass_engine::Dialect;
use windlass_engine::functions::get_json_object;

/// Lets a session plan rows made of lists.
pub fn with_generators(mut builder: SessionStateBuilder, dialect: Dialect) -> SessionStateBuilder {
    builder.relation_planners().get_or_insert_default().push(Arc::new(GeneratorPlanner { dialect }));
    builder
}

/// Whether a function makes rows, and needs the tables before it.
pub fn is_generator(name: &ObjectName) -> bool {
    generator(name).is_some()
}

/// What a function makes of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A row per element or entry.
    Explode,
    /// The same with its position, from 0.
    PosExplode,
    /// A row per struct of a list, a column per field.
    Inline,
    /// So many rows of the values that follow.
    Stack,
    /// A column per key of a JSON object, and no more rows.
    JsonTuple,
    /// Lists side by side.
    Unnest { ordinality: bool },
}

/// Functions of Hive's and Spark's: what each makes, and whether rows without elements are kept.
pub const GENERATORS: [(&str, Kind, bool); 8] = [
    ("explode", Kind::Explode, false),
    ("explode_outer", Kind::Explode, true),
    ("inline", Kind::Inline, false),
    ("inline_outer", Kind::Inline, true),
    ("json_tuple", Kind::JsonTuple, false),
    ("posexplode", Kind::PosExplode, false),
    ("posexplode_outer", Kind::PosExplode, true),
    ("stack", Kind::Stack, false),
];

fn generator(name: &ObjectName) -> Option<(Kind, bool)> {
    let [name] = name.0.as_slice() else { return None };
    let name = &name.as_ident()?.value;
    let found = GENERATORS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(name))?;
    Some((found.1, found.2))
}

#[derive(Debug)]
struct GeneratorPlanner {
    dialect: Dialect,
}

impl RelationPlanner for GeneratorPlanner {
    fn plan_relation(&self, mut relation: TableFactor, context: &mut dyn RelationPlannerContext) -> Result<RelationPlanning> {
        let planned = |plan, alias| Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
        if let TableFactor::Table { sample, .. } = &mut relation
            && let Some(TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) = sample.take()
        {
            return planned(sampled(context.plan(relation)?, *sample)?, None);
        }
        match relation {
            TableFactor::NestedJoin { mut table_with_joins, alias } => {
                let Some(join) = table_with_joins.joins.pop() else {
                    return Ok(RelationPlanning::Original(Box::new(TableFactor::NestedJoin { table_with_joins, alias })));
                };
                let generator = match Generator::of(join.relation) {
                    Ok(generator) => generator,
                    Err(relation) => {
                        table_with_joins.joins.push(ast::Join { relation: *relation, ..join });
                        return Ok(RelationPlanning::Original(Box::new(TableFactor::NestedJoin { table_with_joins, alias })));
                    }
                };
                let left = match table_with_joins.joins.is_empty() {
                    true => table_with_joins.relation,
                    false => TableFactor::NestedJoin { table_with_joins, alias: None },
                };
                let left = context.plan(left)?;
                planned(self.join(left, generator, join.join_operator, context)?, alias)
            }
            other => match Generator::of(other) {
                Ok(generator) => planned(self.generate(LogicalPlanBuilder::empty(true).build()?, generator, context)?, None),
                Err(original) => Ok(RelationPlanning::Original(original)),
            },
        }
    }
}

/// A table that makes rows.
struct Generator {
    kind: Kind,
    outer: bool,
    args: Vec<ast::Expr>,
    alias: Option<TableAlias>,
}

impl Generator {
    /// The generator that a table is, or the table.
    fn of(relation: TableFactor) -> std::result::Result<Self, Box<TableFactor>> {
        match relation {
            TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_offset_alias: None, with_ordinality } => {
                Ok(Self { kind: Kind::Unnest { ordinality: with_ordinality }, outer: false, args: array_exprs, alias })
            }
            TableFactor::Function { ref name, ref args, .. } => match (generator(name), plain(args)) {
                (Some((kind, outer)), Some(args)) => {
                    let TableFactor::Function { alias, .. } = relation else { return Err(Box::new(relation)) };
                    Ok(Self { kind, outer, args, alias })
                }
                _ => Err(Box::new(relation)),
            },
            TableFactor::Table { ref name, args: Some(ref args), .. } => match (generator(name), plain(&args.args)) {
                (Some((kind, outer)), Some(args)) => {
                    let TableFactor::Table { alias, .. } = relation else { return Err(Box::new(relation)) };
                    Ok(Self { kind, outer, args, alias })
                }
                _ => Err(Box::new(relation)),
            },
            other => Err(Box::new(other)),
        }
    }
}

fn plain(args: &[FunctionArg]) -> Option<Vec<ast::Expr>> {
    let plain = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    args.iter().map(plain).collect()
}

/// A column to be made, and what it is called if nobody says.
struct Made {
    expr: Expr,
    name: String,
}

impl GeneratorPlanner {
    fn join(
        &self,
        left: LogicalPlan,
        mut generator: Generator,
        operator: JoinOperator,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<LogicalPlan> {
        let is_true = |on: &ast::Expr| matches!(on, ast::Expr::Value(value) if value.value == Value::Boolean(true));
        let constraint = match operator {
            JoinOperator::CrossJoin(constraint) | JoinOperator::Inner(constraint) | JoinOperator::Join(constraint) => constraint,
            JoinOperator::Left(constraint) | JoinOperator::LeftOuter(constraint) => {
                generator.outer = true;
                constraint
            }
            other => return not_impl_err!("rows made of a list cannot be joined by {other:?}: use CROSS JOIN or LEFT JOIN ... ON TRUE"),
        };
        let outer = generator.outer;
        let plan = self.generate(left, generator, context)?;
        match constraint {
            JoinConstraint::None => Ok(plan),
            JoinConstraint::On(on) if is_true(&on) => Ok(plan),
            JoinConstraint::On(on) if !outer => {
                let on = context.sql_to_expr(on, plan.schema())?;
                LogicalPlanBuilder::from(plan).filter(on)?.build()
            }
            _ => not_impl_err!("a LEFT JOIN with rows made of a list takes ON TRUE only"),
        }
    }

    /// The rows of `left`, each with the rows that are made of it.
    fn generate(&self, left: LogicalPlan, generator: Generator, context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let Generator { kind, outer, args, alias } = generator;
        let args = args.into_iter().map(|arg| context.sql_to_expr(arg, left.schema())).collect::<Result<Vec<_>>>()?;
        let before: Vec<Expr> = left.schema().columns().into_iter().map(Expr::Column).collect();
        let (plan, made) = match kind {
            Kind::JsonTuple => (left, json_tuple(args)?),
            Kind::Stack => self.unnest(left, &before, kind, outer, stacked(args)?)?,
            _ => self.unnest(left, &before, kind, outer, args)?,
        };
        let table = alias.as_ref().map(|alias| TableReference::bare(context.normalize_ident(alias.name.clone())));
        let names: Vec<String> =
            alias.into_iter().flat_map(|alias| alias.columns).map(|column| context.normalize_ident(column.name)).collect();
        if !names.is_empty() && names.len() != made.len() {
            return plan_err!("there are {} columns in the rows that are made, and {} names for them", made.len(), names.len());
        }
        let named = made.into_iter().enumerate().map(|(index, Made { expr, name })| {
            let name = names.get(index).cloned().unwrap_or(name);
            match &table {
                Some(table) => expr.alias_qualified(Some(table.clone()), name),
                None => expr.alias(name),
            }
        });
        LogicalPlanBuilder::from(plan).project(before.into_iter().chain(named).collect::<Vec<_>>())?.build()
    }

    fn unnest(&self, left: LogicalPlan, before: &[Expr], kind: Kind, outer: bool, args: Vec<Expr>) -> Result<(LogicalPlan, Vec<Made>)> {
        if args.is_empty() || (args.len() > 1 && !matches!(kind, Kind::Unnest { .. } | Kind::Stack)) {
            return plan_err!("rows are made of one list or map here, not of {}", args.len());
        }
        let (mut lists, mut made) = (Vec::new(), Vec::new());
        for (index, arg) in args.into_iter().enumerate() {
            let name = match kind {
                Kind::Unnest { .. } => format!("UNNEST({})", arg.schema_name()),
                Kind::Stack => format!("col{index}"),
                _ => "col".to_owned(),
            };
            let hidden = hidden(index);
            let element = Expr::Column(Column::from_name(&hidden));
            let (list, data_type) = match arg.get_type(left.schema())? {
                DataType::Map(entries, _) => (map_entries(arg), Some(entries.data_type().clone())),
                DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                    // Presto makes a column of each field, the others where they are asked to.
                    let splits = kind == Kind::Inline || (matches!(kind, Kind::Unnest { .. }) && self.dialect == Dialect::Presto);
                    (arg, Some(item.data_type().clone()).filter(|_| splits))
                }
                DataType::Null => return plan_err!("rows cannot be made of NULL: cast it to the type of a list"),
                other => return plan_err!("rows are made of lists and maps, not of {other}"),
            };
            match data_type {
                Some(DataType::Struct(fields)) => made.extend(
                    fields.iter().map(|field| Made { expr: get_field(element.clone(), field.name().as_str()), name: field.name().clone() }),
                ),
                Some(other) if kind == Kind::Inline => return plan_err!("'inline' takes a list of structs, not of {other}"),
                _ => made.push(Made { expr: element, name }),
            }
            lists.push(list.alias(hidden));
        }
        let first = match kind {
            Kind::PosExplode => Some(0),
            Kind::Unnest { ordinality: true } => Some(1),
            _ => None,
        };
        if let Some(first) = first {
            let length = |list: &Expr| coalesce(vec![cast(array_length(list.clone().unalias()), DataType::Int64), lit(0_i64)]);
            let longest = match lists.as_slice() {
                [list] => length(list),
                lists => greatest(lists.iter().map(length).collect()),
            };
            let hidden = hidden(lists.len());
            let position = Expr::Column(Column::from_name(&hidden));
            lists.push(range(lit(first), longest + lit(first), lit(1_i64)).alias(hidden));
            match kind {
                Kind::PosExplode => made.insert(0, Made { expr: cast(position, DataType::Int32), name: "pos".to_owned() }),
                _ => made.push(Made { expr: position, name: "ordinality".to_owned() }),
            }
        }
        let null_handling = if outer { NullHandling::PreserveAndExpandEmpty } else { NullHandling::Drop };
        let columns = (0..lists.len()).map(|index| Column::from_name(hidden(index))).collect();
        let plan = LogicalPlanBuilder::from(left)
            .project(before.iter().cloned().chain(lists).collect::<Vec<_>>())?
            .unnest_columns_with_options(columns, UnnestOptions::new().with_null_handling(null_handling))?
            .build()?;
        Ok((plan, made))
    }
}

/// What a column is called between the projections around an unnest.
fn hidden(index: usize) -> String {
    format!("__made_{index}")
}

/// A list per column of `stack(rows, ...)`, whose values come row by row; those that are missing in the last row are NULL.
fn stacked(args: Vec<Expr>) -> Result<Vec<Expr>> {
    let (rows, values) = match args.split_first() {
        Some((Expr::Literal(rows, _), values)) => (rows.cast_to(&DataType::UInt64)?, values),
        _ => return plan_err!("'stack' takes a constant number of rows and their values"),
    };
    let ScalarValue::UInt64(Some(rows)) = rows else { return plan_err!("'stack' takes a constant number of rows") };
    let rows = match usize::try_from(rows) {
        Ok(rows) if (1..=values.len()).contains(&rows) => rows,
        _ => return plan_err!("'stack' makes from 1 row to as many as there are values, not {rows}"),
    };
    let columns = values.len().div_ceil(rows);
    let value = |place: usize| values.get(place).cloned().unwrap_or_else(|| lit(ScalarValue::Null));
    Ok((0..columns).map(|column| make_array((0..rows).map(|row| value(row * columns + column)).collect())).collect())
}

fn json_tuple(args: Vec<Expr>) -> Result<Vec<Made>> {
    let mut args = args.into_iter();
    let Some(json) = args.next().filter(|_| args.len() > 0) else {
        return plan_err!("'json_tuple' takes JSON text and at least one key");
    };
    args.enumerate()
        .map(|(index, key)| match &key {
            Expr::Literal(value, _) if value.try_as_str().flatten().is_some() => {
                Ok(Made { expr: get_json_object(json.clone(), key), name: format!("c{index}") })
            }
            other => plan_err!("the keys of 'json_tuple' are text, not {other}"),
        })
        .collect()
}

/// Some of a plan's rows.
fn sampled(plan: LogicalPlan, sample: TableSample) -> Result<LogicalPlan> {
    let TableSample { name, quantity: Some(quantity), seed: None, bucket: None, offset: None, .. } = sample else {
        return not_impl_err!("TABLESAMPLE takes a percentage or a number of rows: buckets and seeds are not supported");
    };
    let number = match &quantity.value {
        ast::Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse::<f64>().ok(),
            _ => None,
        },
        _ => None,
    };
    let percent = quantity.unit == Some(TableSampleUnit::Percent)
        || matches!((&quantity.unit, name), (None, Some(TableSampleMethod::Bernoulli | TableSampleMethod::System)));
    match (number, percent) {
        (Some(number), true) if (0.0..=100.0).contains(&number) => {
            LogicalPlanBuilder::from(plan).filter(random().lt(lit(number / 100.0)))?.build()
        }
        (Some(number), false) if quantity.unit == Some(TableSampleUnit::Rows) && number >= 0.0 && number.fract() == 0.0 => {
            LogicalPlanBuilder::from(plan).limit(0, Some(number as usize))?.build()
        }
        _ => plan_err!("TABLESAMPLE takes (n PERCENT), with n from 0 to 100, or (n ROWS), or BERNOULLI (n)"),
    }
}
