//! What scheduler and executor must agree on.
//!
//! Reading order: [`locations`] (which files a process may touch), [`stores`] (how it reaches them), [`formats`] (how rows are kept in them), [`session`] (defaults of a query and what users may set), [`dialect`] (whose SQL is spoken), [`functions`]
//! (the functions a plan may name), [`cooperation`]
//! (pauses in long joins), [`expressions`] (rewritten under their names), [`exact_casts`] (casts that lose decimal places), [`single_row`] (subqueries that are values), [`subqueries`] (subqueries in expressions), [`not_in`] (NULLs in NOT IN), [`top_rows`] (limits in subqueries), [`set_operations`] (EXCEPT ALL), [`text_casts`] (times and JSON as text), [`guards`] (conditions that shut out errors), [`zeros`] (their signs), [`evolution`] (files that differ from their table), [`annotations`] (what a plan says of a Parquet file), [`file_names`] (how it calls columns otherwise than its table), [`named_files`] (errors that name the file), [`build_sides`] (of joins without equal columns), [`compact`] (texts without the pages they came from), [`transparent`] (what is put around operators), [`footer`] (what a file says of itself), [`bounds`] (which files hold what is asked for), [`nan`] (bounds that prove nothing), [`hive_path`] (how partitions are spelled), [`layout`] (buckets and order), [`write`] (rows that become files), [`answer`] (rows that clients get), [`codec`] (operators of ours as bytes), [`page_index`] (page indexes read once), [`pinned`] (files that must not change under a plan), [`pipelined`] (rows that stream between processes), [`runtime`] (memory, spill, caches), [`config`] (how a binary's settings are layered), [`telemetry`]
//! (logs and span names), [`memory`] (the allocator), [`process`] (signals, parents and exit codes).
//!
//! Admission test: *would a query break, or an operator be surprised, if two processes held different versions of this?*

pub mod annotations;
pub mod answer;
pub mod bounds;
pub mod build_sides;
pub mod codec;
pub mod compact;
pub mod config;
pub mod cooperation;
pub mod dialect;
pub mod evolution;
pub mod exact_casts;
mod expressions;
pub mod file_names;
pub mod footer;
pub mod formats;
pub mod functions;
mod guards;
pub mod hive_path;
pub mod layout;
pub mod locations;
pub mod memory;
pub mod named_files;
mod nan;
mod not_in;
mod page_index;
pub mod pinned;
pub mod pipelined;
pub mod process;
pub mod runtime;
pub mod session;
mod set_operations;
pub mod single_row;
pub mod stores;
mod subqueries;
pub mod telemetry;
mod text_casts;
mod top_rows;
pub mod transparent;
pub mod write;
mod zeros;

pub use dialect::Dialect;
pub use locations::{LocationError, Locations};
pub use runtime::{RuntimeOptions, build_runtime};
pub use session::{EngineChoice, JoinOrder, WindlassOptions};
/// Which tasks run where; executors know the wire through this crate.
pub use windlass_proto::{pulse, roll_call};

/// Largest gRPC message between scheduler and executors, both ways. Plans list all files and shuffle locations: TPC-H q10 at scale 10
/// exceeds Ballista's 16 MiB.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
