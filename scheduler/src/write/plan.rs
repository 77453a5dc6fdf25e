//! From a statement that writes to a plan, and to what becomes of its files.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::source_as_provider;
use datafusion::functions::core::expr_fn::nullif;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{self, CastKind, Query, SetExpr, Value};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use url::Url;
use windlass_catalog::catalog::{CATALOG, NewTable, TableKind, TableMeta};
use windlass_catalog::ddl::types::type_name;
use windlass_catalog::ddl::{CreateTable, PartitionValue, TableName};
use windlass_catalog::delta::check_changeable;
use windlass_catalog::provider::HiveTable;
use windlass_catalog::{Catalog, Comparison, KeyPredicate, Refresh, Replaces, keys};
use windlass_engine::evolution::{plain_type, scanned_type};
use windlass_engine::formats::FileFormat;
use windlass_engine::formats::Storage;
use windlass_engine::layout::bucket_number;
use windlass_engine::write::{SortedBy, WriteFormat, WriteSpec};
use windlass_proto::Kind;

use super::materialized::How;
use super::node::WriteNode;
use super::parse::{Copy, Insert, WriteStatement};
use crate::ddl::DdlExecutor;
use crate::error::{Error, Result};
use crate::planning::{Planner, resolve};

/// What becomes of the files of a write.
#[derive(Debug)]
pub(crate) struct WritePlan {
    /// Where they belong.
    pub(super) target: Target,
    /// The statement's words.
    pub(super) operation: &'static str,
    /// What they replace.
    pub(super) replaces: Replaces,
    /// Which rows the statement has changed.
    pub(super) counted: Counted,
}

impl WritePlan {
    /// Whether a statement can be run for so many rows of parameters at once. Errors: `Unsupported`.
    pub(crate) fn check_runs(&self, runs: usize) -> Result<()> {
        // Their rows are one write; a change would have to read what the one before has left.
        if runs > 1 && self.counted != Counted::Rows {
            return Err(Error::unsupported(format!("{} takes one row of parameters, not {runs}", self.operation))
                .with_hint("run it once per row, or MERGE INTO from a table of the rows"));
        }
        Ok(())
    }
}

/// Where files belong.
#[derive(Debug)]
pub(super) enum Target {
    /// To a table.
    Table(Arc<TableMeta>),
    /// To a table that is made of them, perhaps in the place of another.
    NewTable { table: Box<NewTable>, replaced: Option<Arc<TableMeta>>, refresh: Option<Refresh> },
    /// To a materialized view.
    View { view: Arc<TableMeta>, refresh: Refresh, how: How },
    /// To nobody: they are read where they lie.
    Location(Url),
    /// There is nothing to do.
    Nowhere,
}

/// How many rows a statement has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// All that are written.
    Rows,
    /// The sum of the marks, and those that were there before and are not written again. An updated row is marked 1; one that is inserted
    /// 2, since it makes up for a deleted one.
    Changes {
        /// Rows of the files that are replaced, if that is known.
        before: Option<u64>,
    },
}

/// What statements are planned with.
#[derive(Clone, Copy)]
pub(crate) struct Writes<'a> {
    pub(crate) context: &'a SessionContext,
    pub(crate) catalog: &'a Arc<dyn Catalog>,
    pub(crate) ddl: &'a DdlExecutor,
    pub(crate) planner: &'a Planner,
}

impl Writes<'_> {
    /// Looks up what a statement names. Errors: those of names and types.
    pub(crate) async fn resolve(&self, statement: &WriteStatement) -> Result<(LogicalPlan, WritePlan)> {
        match statement {
            WriteStatement::Insert(insert) => self.insert(insert).await,
            WriteStatement::Create { table, query } => self.create(table, query).await,
            WriteStatement::CreateMaterializedView(create) => self.create_materialized_view(create).await,
            WriteStatement::Refresh(refresh) => self.refresh(refresh).await,
            WriteStatement::Copy(copy) => self.copy(copy).await,
            WriteStatement::Delete(change) => self.delete(change).await,
            WriteStatement::Update { change, assignments } => self.update(change, assignments).await,
            WriteStatement::Merge(merge) => self.merge(merge).await,
            WriteStatement::Optimize { change, curve } => self.optimize(change, curve).await,
        }
    }

    async fn insert(&self, insert: &Insert) -> Result<(LogicalPlan, WritePlan)> {
        let table = self.table(&insert.table).await?;
        let full = table.full_schema();
        let fixed = fixed_keys(&table, &insert.partition)?;
        let is_fixed = |place: &usize| fixed.contains_key(place);
        let places = match insert.columns.as_slice() {
            [] => (0..full.fields().len()).filter(|place| !is_fixed(place)).collect::<Vec<_>>(),
            names => named_places(&table, &full, names)?,
        };
        if let Some(twice) = places.iter().find(|place| is_fixed(place)) {
            let name = full.field(*twice).name();
            return Err(Error::invalid(format!("partition key '{name}' has a value in PARTITION and is a column of the query too")));
        }
        let fields: Vec<_> = places.iter().map(|place| &full.fields()[*place]).collect();
        let mut query = insert.query.clone();
        give_types(&mut query, &fields);
        let rows = self.rows(query).await?;
        let found = rows.schema().fields().len();
        if found != places.len() {
            let names = fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            let (table, wanted) = (full_name(&table), places.len());
            return Err(Error::invalid(format!("the query gives {found} columns for {wanted} of table '{table}' ({names})")));
        }
        let value = |(place, field): (usize, &FieldRef)| match (fixed.get(&place), places.iter().position(|wanted| *wanted == place)) {
            (Some(value), _) => Ok(lit(value.clone()).alias(field.name())),
            (None, Some(column)) => stored(&rows, column, field),
            (None, None) => Ok(lit(ScalarValue::try_from(field.data_type())?).alias(field.name())),
        };
        let values = full.fields().iter().enumerate().map(value).collect::<Result<Vec<_>>>()?;
        let exchange = fixed.len() < table.keys.len();
        let replaces = match insert.overwrite {
            false => Replaces::Nothing,
            true if table.keys.is_empty() => Replaces::Table,
            true if exchange => Replaces::TouchedPartitions,
            true => Replaces::Partitions(KeyPredicate::and(fixed.iter().map(|(place, value)| {
                let key = place - table.schema.fields().len();
                if value.is_null() { KeyPredicate::IsNull(key) } else { KeyPredicate::Compare(key, Comparison::Equal, value.clone()) }
            }))),
        };
        let replaces = match version_read(&rows, table.id)? {
            Some(read_version) if insert.overwrite => Replaces::AsRead { read_version, partitions: Box::new(replaces) },
            _ => replaces,
        };
        let spec = table_spec(Files::of(&table), exchange);
        let operation = if insert.overwrite { "INSERT OVERWRITE" } else { "INSERT" };
        Ok((write(rows, values, spec)?, WritePlan { target: Target::Table(table), operation, replaces, counted: Counted::Rows }))
    }

    async fn create(&self, create: &CreateTable, query: &ast::Statement) -> Result<(LogicalPlan, WritePlan)> {
        let rows = resolve(self.context, query).await?;
        let columns = rows.schema().fields().iter().map(|field| table_column(field)).collect::<Result<Vec<_>>>()?;
        let plan = |target| WritePlan { target, operation: "CREATE TABLE AS", replaces: Replaces::Nothing, counted: Counted::Rows };
        let names: Vec<_> = columns.iter().map(|column| column.name().clone()).collect();
        let replaced = if create.or_replace { self.ddl.replaced(&create.table, &self.database()).await? } else { None };
        let Some(table) = self.ddl.new_table(create, columns, &self.database(), replaced.as_deref()).await? else {
            // Nothing is written to it.
            return Ok((nothing("file:///")?, plan(Target::Nowhere)));
        };
        let keys = table.keys.iter().map(|key| Arc::new(Field::new(&key.name, key.key_type.data_type(), true)));
        let fields: Vec<FieldRef> = table.schema.fields().iter().map(Arc::clone).chain(keys).collect();
        let value = |field: &FieldRef| {
            let column = names.iter().position(|name| name == field.name());
            stored(&rows, column.ok_or_else(|| Error::internal("a new table has a column of its own"))?, field)
        };
        let values = fields.iter().map(value).collect::<Result<Vec<_>>>()?;
        let spec = table_spec(Files::of_new(&table), true);
        Ok((write(rows, values, spec)?, plan(Target::NewTable { table: Box::new(table), replaced, refresh: None })))
    }

    async fn copy(&self, copy: &Copy) -> Result<(LogicalPlan, WritePlan)> {
        let location = self.ddl.check_location(&copy.location)?;
        let rows = self.rows(copy.query.clone()).await?;
        let columns = rows.schema().fields().iter().map(|field| table_column(field)).collect::<Result<Vec<_>>>()?;
        let is_key = |column: &Field| copy.keys.contains(column.name());
        if let Some(unknown) = copy.keys.iter().find(|key| columns.iter().all(|column| column.name() != *key)) {
            return Err(Error::invalid(format!("partition key '{unknown}' is no column of the query")));
        }
        let value = |column: usize| stored(&rows, column, &Arc::new(columns[column].clone()));
        let data = (0..columns.len()).filter(|column| !is_key(&columns[*column]));
        let keys = copy.keys.iter().filter_map(|key| columns.iter().position(|column| column.name() == key));
        let values = data.chain(keys).map(value).collect::<Result<Vec<_>>>()?;
        if values.len() == copy.keys.len() {
            return Err(Error::invalid("COPY needs a column that is not a partition key"));
        }
        let mut storage = Storage { format: copy.format, serde: copy.serde.clone(), ..Storage::default() };
        storage.make_writable(columns.len() - copy.keys.len());
        let kept = Schema::new(columns.iter().filter(|column| !is_key(column)).cloned().collect::<Vec<_>>());
        storage.validate(&copy.properties, &kept).map_err(|error| Error::invalid(error.to_string()))?;
        let spec = WriteSpec {
            location: location.to_string(),
            format: written_format(copy.format)?.into(),
            words: storage.to_write(&copy.properties),
            compression: copy.compression.clone(),
            keys: u32::try_from(copy.keys.len()).unwrap_or(u32::MAX),
            exchange: !copy.keys.is_empty(),
            ..WriteSpec::default()
        };
        let target = Target::Location(location);
        Ok((write(rows, values, spec)?, WritePlan { target, operation: "COPY", replaces: Replaces::Nothing, counted: Counted::Rows }))
    }

    /// The plan of a query.
    pub(super) async fn rows(&self, query: Box<Query>) -> Result<LogicalPlan> {
        resolve(self.context, &ast::Statement::Query(query)).await
    }

    pub(super) fn database(&self) -> String {
        self.context.state().config_options().catalog.default_schema.clone()
    }

    /// A table that rows can be written to.
    pub(super) async fn table(&self, name: &TableName) -> Result<Arc<TableMeta>> {
        if name.catalog.as_ref().is_some_and(|catalog| catalog != CATALOG) {
            return Err(Error::unsupported(format!("table '{name}' cannot be written to: it is not of catalog '{CATALOG}'")));
        }
        let database = name.database.clone().unwrap_or_else(|| self.database());
        let table = self.catalog.table(&database, &name.name).await?;
        let table = table.ok_or_else(|| Error::new(Kind::NotFound, format!("table '{database}.{}' does not exist", name.name)))?;
        match table.kind {
            TableKind::View => Err(Error::invalid(format!("'{}' is a view: write to the tables below it", full_name(&table)))),
            TableKind::MaterializedView => Err(Error::invalid(format!("'{}' is a materialized view", full_name(&table)))
                .with_hint("write to the tables below it, then REFRESH MATERIALIZED VIEW")),
            TableKind::Managed | TableKind::External => {
                check_changeable(&table)?;
                written_format(table.storage.format).map(|_| table)
            }
        }
    }
}

/// The format in which rows are written. Errors: `Unsupported` if it can only be read.
pub(super) fn written_format(format: FileFormat) -> Result<WriteFormat> {
    WriteFormat::of(format).ok_or_else(|| {
        Error::unsupported(format!("rows cannot be written as {format} files, which can only be read"))
            .with_hint("write a table STORED AS PARQUET")
    })
}

/// The plan that writes no rows.
pub(super) fn nothing(location: &str) -> Result<LogicalPlan> {
    let spec = WriteSpec { location: location.to_owned(), ..WriteSpec::default() };
    Ok(WriteNode::plan(LogicalPlanBuilder::empty(false).build()?, spec)?)
}

/// The plan that writes `values` of `rows`, all of which have names: columns of files, keys, and what else the write wants but buckets.
pub(super) fn write(rows: LogicalPlan, mut values: Vec<Expr>, spec: WriteSpec) -> Result<LogicalPlan> {
    let others = usize::from(spec.curved) + usize::from(spec.marked);
    let behind_keys = values.len() - others;
    for value in &mut values[behind_keys - spec.keys as usize..behind_keys] {
        let is_text = plain_type(&value.get_type(rows.schema())?) == DataType::Utf8;
        // The empty string and NULL are one value of a partition key, since Hive spells them alike.
        if let (true, Expr::Alias(key)) = (is_text, &*value) {
            *value = nullif(key.expr.as_ref().clone(), lit("")).alias(&key.name);
        }
    }
    let mut rows = LogicalPlanBuilder::from(rows).project(values)?.build()?;
    if spec.buckets > 0 {
        let mut columns: Vec<_> = rows.schema().columns().into_iter().map(Expr::Column).collect();
        let bucketed_by = spec.bucketed_by.iter().filter_map(|column| columns.get(*column as usize).cloned());
        let bucket = bucket_number().call([lit(spec.buckets.cast_signed())].into_iter().chain(bucketed_by).collect());
        columns.insert(behind_keys, bucket.alias(BUCKET));
        rows = LogicalPlanBuilder::from(rows).project(columns)?.build()?;
    }
    Ok(WriteNode::plan(rows, spec)?)
}

/// Name of the column that says which bucket a row belongs to.
const BUCKET: &str = ":bucket";

/// What a table says of its files.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    location: &'a str,
    columns: &'a Schema,
    keys: usize,
    properties: &'a BTreeMap<String, String>,
    storage: &'a Storage,
}

impl<'a> Files<'a> {
    pub(super) fn of(TableMeta { location, schema, keys, properties, storage, .. }: &'a TableMeta) -> Self {
        Self { location, columns: schema, keys: keys.len(), properties, storage }
    }

    pub(super) fn of_new(NewTable { location, schema, keys, properties, storage, .. }: &'a NewTable) -> Self {
        Self { location, columns: schema, keys: keys.len(), properties, storage }
    }
}

/// How files of a table are written.
pub(super) fn table_spec(files: Files<'_>, exchange: bool) -> WriteSpec {
    let Files { location, columns, keys, properties, storage } = files;
    let layout = &storage.layout;
    // Tables are made and changed so that these are there.
    let place = |name: &str| columns.index_of(name).ok().and_then(|column| u32::try_from(column).ok());
    let compression: &[&str] = match storage.is_parquet() {
        true => &["parquet.compression", "parquet.compress", "write.parquet.compression-codec"],
        false => &["write.compression", "compression", "write_compression"],
    };
    WriteSpec {
        location: location.to_owned(),
        // Looked at before a table is written to.
        format: WriteFormat::of(storage.format).unwrap_or(WriteFormat::Parquet).into(),
        words: storage.to_write(properties),
        compression: compression.iter().find_map(|name| properties.get(*name)).cloned().unwrap_or_default(),
        keys: u32::try_from(keys).unwrap_or(u32::MAX),
        exchange: exchange && keys > 0,
        buckets: layout.buckets,
        bucketed_by: layout.bucketed_by.iter().filter_map(|name| place(name)).collect(),
        sorted_by: layout
            .sorted_by
            .iter()
            .filter_map(|by| Some(SortedBy { column: place(&by.name)?, descending: by.descending }))
            .collect(),
        ..WriteSpec::default()
    }
}

/// The version in which a plan reads a table as it is; the first, if it reads several.
fn version_read(plan: &LogicalPlan, table_id: i64) -> Result<Option<i64>> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(table) = source_as_provider(&scan.source)?.downcast_ref::<HiveTable>()
            && table.meta().id == table_id
            && table.is_current()
        {
            let version = table.meta().version;
            found = Some(found.map_or(version, |found: i64| found.min(version)));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

/// A table's name for messages.
pub(super) fn full_name(table: &TableMeta) -> String {
    format!("{}.{}", table.database, table.name)
}

/// Values of keys in `PARTITION (...)`, by their places among the table's columns.
fn fixed_keys(table: &TableMeta, partition: &[(String, Option<PartitionValue>)]) -> Result<BTreeMap<usize, ScalarValue>> {
    let mut fixed = BTreeMap::new();
    let mut seen = Vec::new();
    for (name, value) in partition {
        let Some(place) = table.keys.iter().position(|key| key.name == *name) else {
            let known = table.keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>().join(", ");
            let error = Error::new(Kind::NotFound, format!("partition key '{name}' does not exist"));
            return Err(match table.keys.is_empty() {
                true => error.with_hint(format!("table '{}' is not partitioned", full_name(table))),
                false => error.with_hint(format!("table '{}' is partitioned by {known}", full_name(table))),
            });
        };
        if seen.contains(&place) {
            return Err(Error::invalid(format!("partition key '{name}' is given twice")));
        }
        seen.push(place);
        let key = &table.keys[place];
        if let Some(value) = value {
            let value = value.as_ref().map_or_else(|| keys::null(key.key_type), |text| keys::parse_value(key, text))?;
            fixed.insert(table.schema.fields().len() + place, value);
        }
    }
    if !partition.is_empty() && partition.len() < table.keys.len() {
        let missing = table.keys.iter().map(|key| key.name.as_str()).find(|name| partition.iter().all(|(given, _)| given != name));
        return Err(Error::invalid(format!("PARTITION lacks key '{}'", missing.unwrap_or_default()))
            .with_hint("name all keys, those without a value take it from the query; or leave PARTITION out"));
    }
    Ok(fixed)
}

fn named_places(table: &TableMeta, full: &Schema, names: &[String]) -> Result<Vec<usize>> {
    let mut places = Vec::with_capacity(names.len());
    for name in names {
        let Some(place) = full.fields().iter().position(|field| field.name() == name) else {
            let known = full.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::new(Kind::NotFound, format!("column '{name}' does not exist"))
                .with_hint(format!("table '{}' has columns {known}", full_name(table))));
        };
        if places.contains(&place) {
            return Err(Error::invalid(format!("column '{name}' is named twice")));
        }
        places.push(place);
    }
    Ok(places)
}

/// Parameters and texts among the rows of VALUES have the types of the columns that they go to.
fn give_types(query: &mut Query, fields: &[&FieldRef]) {
    let SetExpr::Values(values) = query.body.as_mut() else { return };
    for row in &mut values.rows {
        for (value, field) in row.content.iter_mut().zip(fields) {
            *value = typed(value, field.data_type());
        }
    }
}

/// A value; a parameter or a text is of a column's type.
pub(super) fn typed(value: &ast::Expr, data_type: &DataType) -> ast::Expr {
    let is_open = |value: &Value| matches!(value, Value::Placeholder(_) | Value::SingleQuotedString(_));
    let is_open = matches!(value, ast::Expr::Value(value) if is_open(&value.value));
    let sql_type = Parser::new(&GenericDialect {}).try_with_sql(&type_name(data_type)).and_then(|mut parser| parser.parse_data_type());
    match sql_type {
        Ok(data_type) if is_open => {
            ast::Expr::Cast { kind: CastKind::Cast, expr: Box::new(value.clone()), data_type, array: false, format: None }
        }
        _ => value.clone(),
    }
}

/// A column of rows as it is stored in a column of a table. Errors: `Invalid` if there is no telling what its values would be there.
pub(super) fn stored(rows: &LogicalPlan, column: usize, field: &FieldRef) -> Result<Expr> {
    let (relation, found) = rows.schema().qualified_field(column);
    let expr = Expr::Column(Column::new(relation.cloned(), found.name()));
    assigned(expr, found.data_type(), field)
}

/// A value of type `found` as it is stored in a column of a table.
///
/// Numbers go into columns of numbers, times into columns of times, everything that has one spelling into columns of text, and text into all
/// others: as in Hive, but what does not fit is an error, not NULL.
pub(super) fn assigned(value: Expr, found: &DataType, field: &FieldRef) -> Result<Expr> {
    let wanted = field.data_type();
    let value = match wanted {
        _ if found == wanted || *found == scanned_type(wanted) => value,
        _ if is_assignable(&plain_type(found), wanted) => datafusion::logical_expr::cast(value, wanted.clone()),
        _ => {
            let (name, found, wanted) = (field.name(), type_name(&plain_type(found)), type_name(wanted));
            return Err(Error::invalid(format!("column '{name}' of type {wanted} cannot hold values of type {found}"))
                .with_hint(format!("write CAST(... AS {wanted}) if that is what you mean")));
        }
    };
    Ok(value.alias(field.name()))
}

fn is_assignable(found: &DataType, wanted: &DataType) -> bool {
    let is_text = |data_type: &DataType| *data_type == DataType::Utf8;
    match (found, wanted) {
        (DataType::Null, _) => true,
        (found, wanted) if found == wanted => true,
        (found, DataType::Utf8) => !found.is_nested() && *found != DataType::Binary,
        (found, wanted) if is_text(found) => !wanted.is_nested(),
        (found, wanted) if found.is_numeric() && wanted.is_numeric() => true,
        (DataType::Date32 | DataType::Timestamp(..), DataType::Date32 | DataType::Timestamp(..)) => true,
        (DataType::List(found), DataType::List(wanted)) => is_assignable(found.data_type(), wanted.data_type()),
        (DataType::Map(found, _), DataType::Map(wanted, _)) => is_assignable(found.data_type(), wanted.data_type()),
        (DataType::Struct(found), DataType::Struct(wanted)) => {
            found.len() == wanted.len()
                && found
                    .iter()
                    .zip(wanted)
                    .all(|(found, wanted)| found.name() == wanted.name() && is_assignable(found.data_type(), wanted.data_type()))
        }
        (DataType::Time64(_), DataType::Time64(_)) => true,
        _ => false,
    }
}

/// The column that a new table has for one of a query. Spark reads no nanoseconds, and DataFusion's functions give nothing else, so times
/// count microseconds.
pub(crate) fn table_column(field: &Field) -> Result<Field> {
    let data_type = match plain_type(field.data_type()) {
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone),
        other => other,
    };
    let name = field.name().to_lowercase();
    match data_type {
        DataType::Null => Err(Error::invalid(format!("column '{name}' has no type")).with_hint("give it one, with CAST(NULL AS ...)")),
        DataType::Interval(_) | DataType::Duration(_) => {
            Err(Error::unsupported(format!("column '{name}' is an interval, which files cannot hold")).with_hint("CAST it to text"))
        }
        data_type => Ok(Field::new(name, data_type, true)),
    }
}
