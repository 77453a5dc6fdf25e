//! Tests that start the real binaries.

mod examples;
mod files;
mod formats;
mod front_door;
mod pipelined;
mod plans;
mod recovery;
mod repository;
mod restart;
mod shell;
mod slt;
mod tpch;
mod writes;
