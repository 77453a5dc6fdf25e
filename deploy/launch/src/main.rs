//! Builds the workspace's programs, then becomes `windlass` with the arguments it was given.
//!
//! Behind `cargo demo`. Cargo can run one program but builds only what that program depends on, and `windlass` depends on no server. The
//! whole workspace is built, so that dependencies get the features they have in `cargo test --workspace` and are compiled once.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let Ok(here) = env::current_exe() else {
        eprintln!("cannot find this program's own path");
        return ExitCode::FAILURE;
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut build = Command::new(cargo);
    // What Cargo tells a program that it runs would make the build scripts of some crates run again, and half of the dependencies with them.
    for (name, _) in env::vars_os().filter(|(name, _)| is_told_by_cargo(&name.to_string_lossy())) {
        build.env_remove(name);
    }
    build.args(["build", "--workspace", "--bins", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml")]);
    if here.parent().is_some_and(|directory| directory.ends_with("release")) {
        build.arg("--release");
    }
    match build.status() {
        Ok(status) if status.success() => {}
        Ok(status) => return ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            return ExitCode::FAILURE;
        }
    }
    // Cargo put this program where it puts the others, whatever the target directory is.
    let windlass = here.with_file_name("windlass");
    let error = Command::new(&windlass).args(env::args_os().skip(1)).exec();
    eprintln!("cannot start '{}': {error}", windlass.display());
    ExitCode::FAILURE
}

fn is_told_by_cargo(variable: &str) -> bool {
    ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|prefix| variable.starts_with(prefix))
}
