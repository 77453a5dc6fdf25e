//! What a name means: databases, tables, partitions, files and statistics; where they are kept; how a scan is planned from them.
//!
//! Reading order: [`catalog`] (the trait and its words), [`commit`] (how contents change), [`predicate`] (what a store can be asked), `store/`
//! (SQLite), `ddl/` (the statements that change names), `discover` (what files say of themselves), `crawl` (where tables
//! lie), `delta` (tables whose log says what they hold), `analyzed` (what ANALYZE found), `prune`, `buckets`, `order`
//! and `provider` (the bridge to DataFusion), `files` (files that are no table's).
//!
//! Admission test: *does it say what a name means?*

mod analyzed;
pub mod buckets;
pub mod catalog;
pub mod commit;
pub mod crawl;
pub mod ddl;
pub mod delta;
pub mod discover;
pub mod error;
pub mod files;
mod information_schema;
pub mod keys;
pub mod names;
pub mod order;
pub mod predicate;
pub mod provider;
pub mod prune;
pub mod scan;
pub mod store;

pub use catalog::Catalog;
pub use commit::{Advance, BaseVersion, EndedWrite, Refresh, Replaces, Write, WriteIntent, WrittenFile};
pub use delta::DeltaCatalog;
pub use error::{Error, Result};
pub use predicate::{Comparison, KeyPredicate};
pub use store::SqliteCatalog;
