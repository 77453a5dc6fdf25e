//! Names and definitions as text. Statements are printed in Hive's spelling, views in their own dialect.

use std::collections::BTreeMap;
use std::fmt;

use datafusion::arrow::datatypes::DataType;
use windlass_engine::Dialect;
use windlass_engine::layout::{Layout, SortColumn};

use super::statement::{CreateMaterializedView, CreateTable, CreateView, DatabaseName, Key, TableName};
use super::storage::serde_class;
use super::types::type_name;

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.catalog.iter().try_for_each(|catalog| write!(f, "{catalog}."))?;
        f.write_str(&self.name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let qualifiers = self.catalog.iter().chain(&self.database);
        qualifiers.map(String::as_str).try_for_each(|part| write!(f, "{part}."))?;
        f.write_str(&self.name)
    }
}

/// A name in back quotes.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A table's name with every part in back quotes.
fn quoted_table(table: &TableName) -> String {
    let parts = table.catalog.iter().chain(&table.database).chain([&table.name]);
    parts.map(|part| quoted(part)).collect::<Vec<_>>().join(".")
}

/// A string literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn comment_clause(comment: Option<&String>) -> String {
    comment.map_or_else(String::new, |comment| format!(" COMMENT {}", literal(comment)))
}

fn write_lines(f: &mut fmt::Formatter<'_>, lines: impl Iterator<Item = String>) -> fmt::Result {
    write!(f, "(\n  {}\n)", lines.collect::<Vec<_>>().join(",\n  "))
}

fn write_properties(f: &mut fmt::Formatter<'_>, properties: &BTreeMap<String, String>) -> fmt::Result {
    if properties.is_empty() {
        return Ok(());
    }
    f.write_str("\nTBLPROPERTIES ")?;
    write_lines(f, properties.iter().map(|(name, value)| format!("{} = {}", literal(name), literal(value))))
}

impl fmt::Display for CreateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let external = if self.external { "EXTERNAL " } else { "" };
        let unless = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        let replace = if self.or_replace { "OR REPLACE " } else { "" };
        write!(f, "CREATE {replace}{external}TABLE {unless}{}", quoted_table(&self.table))?;
        let column = |name: &str, data_type: &DataType, comment: Option<&String>| {
            format!("{} {}{}", quoted(name), type_name(data_type), comment_clause(comment))
        };
        if let Some(columns) = &self.columns {
            f.write_str(" ")?;
            write_lines(f, columns.iter().map(|c| column(&c.name, &c.data_type, c.comment.as_ref())))?;
        }
        if let Some(comment) = &self.comment {
            write!(f, "\nCOMMENT {}", literal(comment))?;
        }
        if let Some(keys) = &self.keys {
            f.write_str("\nPARTITIONED BY ")?;
            let key = |key: &Key| match key.key_type {
                Some(key_type) => column(&key.name, &key_type.data_type(), key.comment.as_ref()),
                None => quoted(&key.name),
            };
            write_lines(f, keys.iter().map(key))?;
        }
        let Layout { bucketed_by, buckets, sorted_by } = &self.storage.layout;
        if !bucketed_by.is_empty() {
            write!(f, "\nCLUSTERED BY ({})", bucketed_by.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))?;
        }
        if !sorted_by.is_empty() {
            let column = |sorted: &SortColumn| format!("{}{}", quoted(&sorted.name), if sorted.descending { " DESC" } else { "" });
            f.write_str(if bucketed_by.is_empty() { "\n" } else { " " })?;
            write!(f, "SORTED BY ({})", sorted_by.iter().map(column).collect::<Vec<_>>().join(", "))?;
        }
        if *buckets > 0 {
            write!(f, " INTO {buckets} BUCKETS")?;
        }
        if !self.storage.serde.is_empty() {
            write!(f, "\nROW FORMAT SERDE {}\nWITH SERDEPROPERTIES ", literal(serde_class(self.storage.format)))?;
            write_lines(f, self.storage.serde.iter().map(|(name, value)| format!("{} = {}", literal(name), literal(value))))?;
        }
        write!(f, "\nSTORED AS {}", self.storage.format)?;
        if let Some(location) = &self.location {
            write!(f, "\nLOCATION {}", literal(location))?;
        }
        write_properties(f, &self.properties)
    }
}

impl fmt::Display for CreateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

impl fmt::Display for CreateMaterializedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view.write(f, Some(&self.keys))
    }
}

impl CreateView {
    /// The statement; with keys it is one of a materialized view.
    fn write(&self, f: &mut fmt::Formatter<'_>, keys: Option<&Vec<String>>) -> fmt::Result {
        // Read in another dialect, the query would mean something else.
        if self.dialect != Dialect::default() {
            writeln!(f, "/* windlass.dialect = {} */", self.dialect)?;
        }
        let replace = if self.or_replace { "OR REPLACE " } else { "" };
        let temporary = if self.temporary { "TEMPORARY " } else { "" };
        let unless = if self.if_not_exists { "IF NOT EXISTS " } else { "" };
        let quoted = |name: &String| self.dialect.quoted(name);
        let name = self.view.catalog.iter().chain(&self.view.database).chain([&self.view.name]).map(quoted).collect::<Vec<_>>().join(".");
        let materialized = if keys.is_some() { "MATERIALIZED " } else { "" };
        write!(f, "CREATE {replace}{temporary}{materialized}VIEW {unless}{name}")?;
        let literal = |text: &str| self.dialect.literal(text);
        if !self.columns.is_empty() {
            f.write_str(" ")?;
            write_lines(
                f,
                self.columns.iter().map(|c| {
                    let comment = c.comment.as_ref().map_or_else(String::new, |comment| format!(" COMMENT {}", literal(comment)));
                    format!("{}{comment}", quoted(&c.name))
                }),
            )?;
        }
        if let Some(comment) = &self.comment {
            write!(f, "\nCOMMENT {}", literal(comment))?;
        }
        if let Some(keys) = keys.filter(|keys| !keys.is_empty()) {
            write!(f, "\nPARTITIONED BY ({})", keys.iter().map(quoted).collect::<Vec<_>>().join(", "))?;
        }
        if !self.properties.is_empty() {
            f.write_str("\nTBLPROPERTIES ")?;
            write_lines(f, self.properties.iter().map(|(name, value)| format!("{} = {}", literal(name), literal(value))))?;
        }
        write!(f, "\nAS {}", self.query)
    }
}
