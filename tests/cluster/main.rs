//! Tests that start the real binaries.

mod files;
mod front_door;
mod pipelined;
mod plans;
mod recovery;
mod repository;
mod restart;
mod shell;
mod slt;
mod tpch;
