//! SQL in, stages and tasks out.
//!
//! Reading order: [`server`] (how a scheduler is put together), [`config`], [`flight_sql`] with [`auth`] (the front door), [`session`],
//! [`guard`] and [`statement`] (text before it is planned), [`coordinator`] (what the front door calls), [`ddl`] and [`system`] (names),
//! [`planning`], `write` (rows that become files), [`explain`], [`readers`] and [`query`] (one run of a statement), [`engines`] (what runs it), [`cluster`]
//! (executors and their slots), [`garbage`] (files that nobody needs), [`http`] and [`metrics`] (for operators).

pub mod auth;
pub mod cluster;
pub mod config;
pub mod coordinator;
pub mod ddl;
pub mod engines;
pub mod error;
pub mod explain;
pub mod flight_sql;
pub mod garbage;
pub mod guard;
pub mod http;
pub mod metrics;
pub mod planning;
pub mod query;
pub mod readers;
pub mod server;
pub mod session;
pub mod statement;
pub mod system;
mod write;

pub use config::SchedulerConfig;
pub use error::{Error, Result};
