//! What the cluster tests share: real processes on loopback, tables with known content, and rows as text to compare.
//!
//! Reading order: [`cluster`] (the processes), [`fixtures`] (the tables), [`sql`] (statements), [`rows`] (the comparison).

pub mod cluster;
pub mod fixtures;
pub mod rows;
pub mod sql;

pub use cluster::Cluster;
