//! Views: how they are made, and what they may stand on.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Tokenizer;
use windlass_catalog::Error as CatalogError;
use windlass_catalog::catalog::{Contents, NewTable, TableChange, TableKind, TableMeta, ViewDefinition};
use windlass_catalog::ddl::{Column, CreateView, Noun, QUERY_DEPTH_MAX, TableName, rewrite_versions};
use windlass_engine::Dialect;
use windlass_engine::formats::Storage;

use super::show::check_noun;
use super::{Names, Outcome, already_exists, skipped};
use crate::error::{Error, Result};

/// Views that one view may stand on, directly or not.
const VIEWS_BELOW_MAX: usize = 1000;

impl Names<'_> {
    pub(super) async fn create_view(&self, create: &CreateView) -> Result<Outcome> {
        let (database, name) = self.qualify(&create.view)?;
        if create.temporary {
            return match self.planner.temporary_views().contains_key(&name) {
                true if create.if_not_exists => Ok(skipped("view", &create.view)),
                true if !create.or_replace => Err(already_exists("temporary view", name)),
                _ => {
                    let (view, _) = self.plan_view(create, &database, &name).await?;
                    Ok(Outcome::TemporaryView(name, Some(view)))
                }
            };
        }
        let existing = self.catalog().table(&database, &name).await?;
        if let Some(existing) = &existing {
            if create.if_not_exists {
                return Ok(skipped("view", &create.view));
            }
            if !create.or_replace {
                return Err(already_exists("view", format!("{database}.{name}")));
            }
            check_noun(existing, Noun::View)?;
        }
        let (view, schema) = self.plan_view(create, &database, &name).await?;
        if let Some(existing) = existing {
            if existing.comment == create.comment && existing.properties == create.properties {
                self.change(&existing, "CREATE OR REPLACE VIEW", TableChange::View { view, schema }).await?;
                return Ok(Outcome::Done(None));
            }
            self.catalog().drop_table(&existing, &self.by.doing("CREATE OR REPLACE VIEW")).await?;
        }
        let view = NewTable {
            database,
            name,
            kind: TableKind::View,
            location: String::new(),
            schema,
            keys: Vec::new(),
            comment: create.comment.clone(),
            properties: create.properties.clone(),
            storage: Storage::default(),
            view: Some(view),
        };
        match self.catalog().create_table(view, Contents::default(), &self.by.doing("CREATE VIEW")).await {
            Err(CatalogError::AlreadyExists { .. }) if create.if_not_exists => Ok(skipped("view", &create.view)),
            done => done.map(|_| Outcome::Done(None)).map_err(Error::from),
        }
    }

    /// The definition and the columns of a view. Where the statement names the columns otherwise than the query does, the query is
    /// wrapped, so that a stored query alone says what the view's columns are.
    pub(super) async fn plan_view(&self, create: &CreateView, database: &str, name: &str) -> Result<(ViewDefinition, SchemaRef)> {
        let mut view =
            ViewDefinition { sql: create.query.clone(), default_database: self.current_database.to_owned(), dialect: create.dialect };
        self.check_acyclic(&view, (database, name)).await?;
        // What all shall see cannot stand on what one session sees.
        let temporary = if create.temporary { self.planner.temporary_views() } else { Arc::default() };
        let schema = self.planner.plan_schema(&view, temporary).await?;
        if !create.columns.is_empty() && create.columns.len() != schema.fields().len() {
            let (named, selected) = (create.columns.len(), schema.fields().len());
            return Err(Error::invalid(format!("view '{database}.{name}' names {named} columns, but its query has {selected}")));
        }
        if create.columns.iter().zip(schema.fields()).any(|(column, field)| column.name != *field.name()) {
            let columns = create.columns.iter().map(|column| create.dialect.quoted(&column.name)).collect::<Vec<_>>().join(", ");
            // A line of its own for the bracket: the query may end in a comment.
            view.sql = format!("SELECT * FROM (\n{}\n) AS {} ({columns})", view.sql, create.dialect.quoted(name));
        }
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        for (column, field) in create.columns.iter().zip(&mut fields) {
            *field = Column { name: column.name.clone(), data_type: field.data_type().clone(), comment: column.comment.clone() }.to_field();
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = fields.iter().find(|field| !names.insert(field.name().to_lowercase())) {
            return Err(Error::invalid(format!("view '{database}.{name}' would have two columns named '{}'", twice.name()))
                .with_hint("give one of them another name with AS"));
        }
        Ok((view, Arc::new(Schema::new(fields))))
    }

    /// Gives a view another query.
    pub(super) async fn redefine(&self, table: &TableMeta, query: &str, dialect: Dialect) -> Result<()> {
        let create = CreateView {
            view: TableName::of(table),
            temporary: false,
            or_replace: true,
            if_not_exists: false,
            columns: Vec::new(),
            comment: table.comment.clone(),
            properties: table.properties.clone(),
            query: query.to_owned(),
            dialect,
        };
        let (view, schema) = self.plan_view(&create, &table.database, &table.name).await?;
        self.change(table, "ALTER VIEW", TableChange::View { view, schema }).await?;
        Ok(())
    }

    /// Refuses a view that would be read through itself, which nothing could plan.
    pub(super) async fn check_acyclic(&self, definition: &ViewDefinition, view: (&str, &str)) -> Result<()> {
        let mut queries = vec![definition.clone()];
        let mut seen = HashSet::new();
        while let Some(query) = queries.pop() {
            for (database, name) in referenced_tables(&query)? {
                if (database.as_str(), name.as_str()) == view {
                    return Err(Error::invalid(format!("view '{}.{}' cannot be read from itself", view.0, view.1)));
                }
                if seen.len() >= VIEWS_BELOW_MAX {
                    return Err(Error::invalid(format!(
                        "view '{}.{}' stands on more than {VIEWS_BELOW_MAX} tables and views",
                        view.0, view.1
                    )));
                }
                if seen.insert((database.clone(), name.clone())) {
                    queries.extend(self.catalog().table(&database, &name).await?.and_then(|table| table.view.clone()));
                }
            }
        }
        Ok(())
    }
}

/// Tables of our catalog that a query names, with their databases.
pub(super) fn referenced_tables(query: &ViewDefinition) -> Result<Vec<(String, String)>> {
    let grammar = query.dialect.grammar();
    let malformed = |error: ParserError| Error::from(DataFusionError::from(error));
    let mut tokens = Tokenizer::new(grammar, &query.sql).tokenize_with_location().map_err(|error| malformed(error.into()))?;
    rewrite_versions(&mut tokens, query.dialect);
    let mut parser = Parser::new(grammar).with_recursion_limit(QUERY_DEPTH_MAX).with_tokens_with_locations(tokens);
    let mut tables = Vec::new();
    for statement in parser.parse_statements().map_err(malformed)? {
        let (references, _) = resolve_table_references(&Statement::Statement(Box::new(statement)), true)?;
        let own = references.into_iter().filter(|table| super::own_catalog(table.catalog()).is_ok());
        tables.extend(own.map(|table| (table.schema().unwrap_or(&query.default_database).to_lowercase(), table.table().to_lowercase())));
    }
    Ok(tables)
}
