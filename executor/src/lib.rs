//! Runs tasks; keeps, serves and deletes shuffle files.
//!
//! Ballista's executor process does the work. Here is what it does not: [`config`], [`work_dir`] (a directory of its own, removed at the
//! end), [`task`] and [`connections`] (tasks that are traced and counted), [`flight`] (shuffle files and roll calls), [`worker`]
//! (stages of pipelined queries), [`health`] (HTTP), [`drain`] (an end that costs nobody a query) and [`server`], which puts them together.

pub mod config;
pub mod connections;
pub mod drain;
pub mod error;
pub mod flight;
pub mod health;
pub mod server;
pub mod task;
pub mod work_dir;
pub mod worker;

pub use config::ExecutorConfig;
pub use error::{Error, Result};
