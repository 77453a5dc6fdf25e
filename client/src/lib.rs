//! Talks to a Windlass cluster, or any Flight SQL server, and is the `windlass` command line. Links no server.
//!
//! As a library: [`Connection`] and [`RunningQuery`] run statements with progress and cancellation, [`Printer`] writes rows in eight
//! formats, [`Cluster`] runs a cluster of child processes, [`tpch`] generates benchmark data. Reading order of the command line: [`cli`],
//! [`sql`] and [`shell`] (where statements come from), [`script`] (where one ends), [`console`] (how one runs), [`up`], [`demo`], [`doctor`].
//!
//! Admission test: *does a user's machine need it, without any part of the cluster?*

pub mod cli;
pub mod complete;
pub mod connection;
pub mod console;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod highlight;
pub mod machine;
pub mod output;
pub mod progress;
pub mod query;
pub mod script;
pub mod shell;
pub mod sql;
pub mod tpch;
pub mod up;

pub use connection::{Connection, Credentials};
pub use error::{Error, Result};
pub use output::{Format, Printer};
pub use query::{Rows, RunningQuery};
pub use up::{Cluster, ClusterOptions};
