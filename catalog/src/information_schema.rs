//! `information_schema` as DataFusion has it, with the comments of columns, which it has not.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{Array, AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::information_schema::{INFORMATION_SCHEMA, InformationSchemaProvider};
use datafusion::catalog::{CatalogProvider, MemTable, SchemaProvider, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use crate::catalog::{CATALOG, Catalog};
use crate::names::StatementCatalogs;

/// A catalog with `information_schema` among its databases.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) catalog: Arc<dyn CatalogProvider>,
    /// What is described.
    pub(crate) all: StatementCatalogs,
}

impl CatalogProvider for Described {
    fn schema_names(&self) -> Vec<String> {
        self.catalog.schema_names()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if !name.eq_ignore_ascii_case(INFORMATION_SCHEMA) {
            return self.catalog.schema(name);
        }
        let listed = InformationSchemaProvider::new(Arc::new(self.all.clone()));
        Some(Arc::new(InformationSchema { listed, catalog: self.all.warehouse() }))
    }
}

#[derive(Debug)]
struct InformationSchema {
    listed: InformationSchemaProvider,
    catalog: Arc<dyn Catalog>,
}

#[async_trait]
impl SchemaProvider for InformationSchema {
    fn table_names(&self) -> Vec<String> {
        self.listed.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let name = name.to_lowercase();
        match self.listed.table(&name).await? {
            Some(columns) if name == "columns" => self.with_comments(columns).await.map(Some),
            listed => Ok(listed),
        }
    }

    async fn table_type(&self, name: &str) -> Result<Option<TableType>> {
        self.listed.table_type(&name.to_lowercase()).await
    }

    fn table_exist(&self, name: &str) -> bool {
        self.listed.table_exist(&name.to_lowercase())
    }
}

impl InformationSchema {
    /// The columns as they are now, each with its comment.
    async fn with_comments(&self, columns: Arc<dyn TableProvider>) -> Result<Arc<dyn TableProvider>> {
        let listed = columns.schema();
        let fields = listed.fields().iter().map(Arc::clone).chain([Arc::new(Field::new("comment", DataType::Utf8, true))]);
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut known = HashMap::new();
        let mut described = Vec::new();
        for batch in SessionContext::new().read_table(columns)?.collect().await? {
            let text = |column: usize, row: usize| batch.column(column).as_string::<i32>().value(row);
            let mut comments = Vec::with_capacity(batch.num_rows());
            for row in 0..batch.num_rows() {
                let (catalog, database, table, column) = (text(0, row), text(1, row), text(2, row), text(3, row));
                let key = (database.to_owned(), table.to_owned());
                if catalog == CATALOG && !known.contains_key(&key) {
                    let found = self.catalog.table(database, table).await?;
                    known.insert(key.clone(), found.map(|table| table.full_schema()));
                }
                let schema = known.get(&key).filter(|_| catalog == CATALOG).and_then(Option::as_ref);
                let field = schema.and_then(|schema| schema.field_with_name(column).ok());
                comments.push(field.and_then(|field| field.metadata().get("comment").cloned()));
            }
            let columns = batch.columns().iter().map(Arc::clone).chain([Arc::new(StringArray::from(comments)) as Arc<dyn Array>]);
            described.push(RecordBatch::try_new(Arc::clone(&schema), columns.collect())?);
        }
        Ok(Arc::new(MemTable::try_new(schema, vec![described])?))
    }
}
