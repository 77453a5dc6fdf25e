//! The statements that show or change names, in the spellings of Hive, Spark, Athena and DataFusion: text in, [`DdlStatement`] out.
//!
//! Nothing here knows which names exist; the scheduler runs the statements against a [`Catalog`](crate::Catalog). Lexing, scalar
//! types and the query of a view are sqlparser's; the clauses around them are parsed here, because sqlparser knows no `MSCK`, no
//! partition predicates and no clause order but its own.
//!
//! Reading order: [`statement`] (what can be said), `display` (how it is printed), `parse` (the grammar), `cursor` (tokens with positions),
//! `storage` (formats), `pattern` (of names), `call` (procedures), `versions` (tables as they were), [`types`] (SQL types to Arrow and
//! back).

mod call;
mod cursor;
mod display;
mod parse;
mod pattern;
pub mod statement;
mod storage;
#[cfg(test)]
mod tests;
pub mod types;
mod versions;

use std::fmt;

use windlass_proto::Kind;

pub use call::{Call, parse_call};
pub use parse::{key_type, parse};
pub use pattern::Pattern;
pub use statement::{
    Age, Alteration, Analyze, AnalyzeScope, Column, ColumnChange, Condition, Crawl, CreateDatabase, CreateMaterializedView, CreateTable,
    CreateView, DatabaseName, DdlStatement, Key, KillQuery, Like, NewPartitionSpec, Noun, PartitionValue, PartitionValues, RefreshView,
    RepairMode, TableName, Vacuum, ViewColumn,
};
pub use versions::{BAD_RECORDS_OF, CHANGES_SINCE_JOB, TIMESTAMP_AS_OF, VERSION_AS_OF, rewrite_versions};

/// How deep the parser may recurse into the query of a view; a level of parentheses takes about three steps.
pub const QUERY_DEPTH_MAX: usize = 300;

/// A statement that is not understood or not supported, and where in its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// `Invalid`, or `Unsupported` for what other engines do and this one does not.
    pub kind: Kind,
    /// For users.
    pub message: String,
    /// Line of the text, from 1; 0 if unknown.
    pub line: u64,
    /// Character of the line, from 1; 0 if unknown.
    pub column: u64,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if self.line > 0 { write!(f, " (line {}, column {})", self.line, self.column) } else { Ok(()) }
    }
}

impl std::error::Error for ParseError {}
