//! What this machine offers.

use std::fs;
use std::io;
use std::num::NonZero;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Memory this process may use: the machine's, or its container's limit; `None` where neither is told.
pub fn memory_bytes() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    let machine = meminfo.as_deref().and_then(total_of);
    // cgroup 2, then 1; without a limit they say `max` or a number beyond any machine.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let container = limits.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    machine.into_iter().chain(container).min()
}

/// Bytes that an ordinary user may still write under `path`.
pub fn disk_free_bytes(path: &Path) -> io::Result<u64> {
    let disk = statvfs(path)?;
    Ok(disk.blocks_available() as u64 * disk.fragment_size() as u64)
}

/// Files that a process may have open: now, and at most if it asks.
pub fn open_files() -> io::Result<(u64, u64)> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?)
}

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_measured() {
        assert_eq!(total_of("MemTotal:       24690000 kB\nMemFree: 1 kB\n"), Some(24_690_000 * 1024));
        assert!(disk_free_bytes(Path::new("/no/such/place")).is_err());
        assert!(open_files().unwrap().0 > 0);
    }
}
