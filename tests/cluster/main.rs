//! Tests that start the real binaries.

mod crawl;
mod delta;
mod examples;
mod faults;
mod files;
mod formats;
mod front_door;
mod layout;
mod pipelined;
mod plans;
mod recovery;
mod repository;
mod restart;
mod shell;
mod slt;
mod tpch;
mod writes;
