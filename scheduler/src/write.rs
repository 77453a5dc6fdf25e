//! Statements that write rows: `INSERT`, `CREATE TABLE ... AS`, `COPY`, `DELETE`, `UPDATE`, `MERGE`.
//!
//! Each is a query like any other, whose plan ends in an operator that writes files and gives their manifest
//! ([`windlass_engine::write`]). The scheduler collects the manifest and commits it to the catalog in one transaction. Until then nobody sees a
//! row; if it never comes that far, the files are garbage.
//!
//! Reading order: `parse` (the grammar), `plan` (from a statement to a plan), `changes` and `merge` (rows of a table that change: files that hold
//! some are written again), `ingest` (rows that a client streams to us), `dead_letters` (records
//! that cannot be read), `materialized` (rows of views), `node` (the write in a plan), `run` (attempts, manifest, commit), `template` (queries made of parts of a statement).

mod changes;
mod dead_letters;
mod ingest;
mod materialized;
mod merge;
mod node;
mod parse;
mod plan;
mod run;
mod template;

pub(crate) use ingest::{IfExists, IfMissing, Ingest, IngestRows};
pub(crate) use node::{WriteNode, WritePlanner};
pub(crate) use parse::{WriteStatement, insert_after_with, parse};
pub(crate) use plan::{WritePlan, Writes, table_column};
pub(crate) use run::{Committing, With, WritingEngine, result_schema};
