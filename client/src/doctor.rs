//! `windlass doctor`: what would stop a cluster here, and how to fix it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use indicatif::BinaryBytes;
use windlass_proto::VERSION;

use crate::error::{Error, Result};
use crate::machine;
use crate::up::{ClusterOptions, data_directory, sibling};

/// Shuffle and spill files of a small query; less free disk is a warning.
const DISK_FREE_MIN: u64 = 10 << 30;
/// Below this, not even the catalog and the logs are safe.
const DISK_FREE_BROKEN: u64 = 256 << 20;
/// Tables, shuffle files and connections of one process.
const OPEN_FILES_MIN: u64 = 4_096;
const MEMORY_MIN: u64 = 2 << 30;
/// Clocks that differ more confuse tokens, logs and heartbeats.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5);

/// Flags of `windlass doctor`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
}

enum Finding {
    Good(String),
    /// Works, but not well: what, and the fix.
    Weak(String, String),
    /// Does not work: what, and the fix.
    Broken(String, String),
}

use Finding::{Broken, Good, Weak};

/// Runs the command. Errors: `Cluster` if something is broken.
pub fn run(options: &Options) -> Result<()> {
    let mut findings = vec![("windlass", Good(format!("version {VERSION}")))];
    findings.extend(["windlass-scheduler", "windlass-executor"].map(|program| (program, version(program))));
    match data_directory(&options.cluster) {
        Ok(directory) => findings.extend([("disk", disk(&directory)), ("clock", clock(&directory))]),
        Err(error) => findings.push(("disk", Broken(error.to_string(), "choose a writable directory with --data-dir".into()))),
    }
    findings.push(("flight port", port(options.cluster.flight_port, "--flight-port")));
    findings.push(("http port", port(options.cluster.http_port, "--http-port")));
    findings.extend([("open files", open_files()), ("memory", memory(&options.cluster))]);

    let mut broken = 0;
    for (name, finding) in &findings {
        let (mark, text, fix) = match finding {
            Good(text) => ("ok", text, None),
            Weak(text, fix) => ("weak", text, Some(fix)),
            Broken(text, fix) => ("BROKEN", text, Some(fix)),
        };
        broken += usize::from(mark == "BROKEN");
        println!("{mark:7} {name:19} {text}");
        if let Some(fix) = fix {
            println!("{:27} fix: {fix}", "");
        }
    }
    if broken == 0 { Ok(()) } else { Err(Error::Cluster(format!("{broken} of {} checks found something broken", findings.len()))) }
}

/// The three programs of one build belong together: plans and shuffles have no other version.
fn version(program: &str) -> Finding {
    let fix = || "build all programs together: cargo build --workspace".to_string();
    let path = match sibling(program) {
        Ok(path) => path,
        Err(error) => return Broken(error.to_string(), fix()),
    };
    let output = match Command::new(&path).arg("--version").output() {
        Ok(output) => output,
        Err(error) => return Broken(format!("'{}' does not start: {error}", path.display()), fix()),
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
    match said.split_whitespace().last() == Some(VERSION) {
        true => Good(format!("version {VERSION}, {}", path.display())),
        false => Broken(format!("'{}' says '{said}', not version {VERSION}", path.display()), fix()),
    }
}

fn disk(directory: &Path) -> Finding {
    let shown = directory.display();
    match machine::disk_free_bytes(directory) {
        Err(error) => Broken(format!("cannot look at '{shown}': {error}"), "choose another directory with --data-dir".into()),
        Ok(free) => {
            let text = format!("{} free in '{shown}'", BinaryBytes(free));
            let fix = || "free some space, or choose a larger disk with --data-dir".to_string();
            if free < DISK_FREE_BROKEN {
                Broken(text, fix())
            } else if free < DISK_FREE_MIN {
                Weak(text, fix())
            } else {
                Good(text)
            }
        }
    }
}

/// This machine's clock against the build and against the disk, which may be another machine's.
fn clock(directory: &Path) -> Finding {
    let fix = || "set the clock and keep it set: timedatectl set-ntp true".to_string();
    let now = SystemTime::now();
    let built = std::env::current_exe().and_then(fs::metadata).and_then(|program| program.modified());
    if built.is_ok_and(|built| built > now + CLOCK_SKEW_MAX) {
        return Broken("the clock is behind the time at which this program was built".into(), fix());
    }
    let probe = directory.join(".clock");
    let written = fs::write(&probe, []).and_then(|()| fs::metadata(&probe)).and_then(|file| file.modified());
    let _ = fs::remove_file(&probe);
    match written {
        Err(error) => {
            Broken(format!("cannot write in '{}': {error}", directory.display()), "choose another directory with --data-dir".into())
        }
        Ok(written) => {
            let skew = written.duration_since(now).unwrap_or_else(|earlier| earlier.duration());
            match skew > CLOCK_SKEW_MAX {
                true => Weak(format!("the clock and the disk's differ by {} s", skew.as_secs()), fix()),
                false => Good("plausible, and equal to the disk's".into()),
            }
        }
    }
}

fn port(port: u16, flag: &str) -> Finding {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) if port == 0 => Good("any free one".into()),
        Ok(_) => Good(format!("{port} is free")),
        Err(error) => Broken(format!("cannot listen on {port}: {error}"), format!("choose another with {flag}, or 0 for any free one")),
    }
}

fn open_files() -> Finding {
    match machine::open_files() {
        Err(error) => Weak(format!("unknown: {error}"), "see ulimit -n".into()),
        Ok((now, _)) if now >= OPEN_FILES_MIN => Good(format!("{now} per process")),
        Ok((now, most)) => {
            Weak(format!("{now} per process; wide shuffles need more"), format!("ulimit -n {}", most.clamp(OPEN_FILES_MIN, 1 << 16)))
        }
    }
}

fn memory(options: &ClusterOptions) -> Finding {
    let wanted = options.memory.map(|each| each.saturating_mul(options.executors.into()));
    match (machine::memory_bytes(), wanted) {
        (None, _) => Weak("unknown".into(), "say how much each executor may use with --memory".into()),
        (Some(have), Some(wanted)) if wanted > have => {
            Broken(format!("{} for the executors, {} here", BinaryBytes(wanted), BinaryBytes(have)), "lower --memory or --executors".into())
        }
        (Some(have), _) if have < MEMORY_MIN => {
            Weak(format!("{} in all", BinaryBytes(have)), "expect queries to spill; start one executor with --executors 1".into())
        }
        (Some(have), _) => Good(format!("{} in all, {} cores", BinaryBytes(have), machine::cores())),
    }
}
