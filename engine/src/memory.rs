//! The allocator and the stacks of our binaries.
//!
//! Each binary declares [`Allocator`] as its `#[global_allocator]` and calls [`set_up`] first thing.

use std::ffi::c_int;

/// The allocator type for `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay`, which the bindings do not name; the number is the same in mimalloc 2 and 3.
const PURGE_DELAY: c_int = 15;

/// Stack of every thread that does not ask for another size. DataFusion recurses over plans and expressions, and an expression of the largest
/// permitted depth overflows the usual 2 MiB. Only touched pages cost memory.
const STACK_BYTES: usize = 32 << 20;

/// Prepares the process. Must be the first thing that `main` does: no other thread may run yet.
pub fn set_up() {
    keep_freed_pages();
    // SAFETY: no other thread runs, so none reads the environment. The standard library reads it when the first thread is made.
    unsafe { std::env::set_var("RUST_MIN_STACK", STACK_BYTES.to_string()) };
}

/// Keeps pages that were freed instead of giving them back to the kernel.
///
/// Queries free and allocate the same gigabytes again and again; without this a quarter to a half of a large query's time goes into the
/// kernel handing out zeroed pages (TPC-H at scale 10 on two cores: 98 s without, 72 s with).
fn keep_freed_pages() {
    // SAFETY: sets an integer that mimalloc reads atomically.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}

/// What this process may use of the machine's memory: all of it, or the limit of its container (cgroup 2 or 1).
pub fn available_bytes() -> u64 {
    let read = |path| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| machine_bytes(&text));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    // Without a limit the files say `max` or a number beyond any machine.
    let container = limits.into_iter().filter_map(|path| read(path)?.trim().parse().ok()).min();
    machine.into_iter().chain(container).min().unwrap_or(FALLBACK_BYTES)
}

/// Assumed where the machine does not say.
const FALLBACK_BYTES: u64 = 2 << 30;

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_its_memory_in_kibibytes() {
        assert_eq!(machine_bytes("MemTotal:       24690000 kB\nMemFree: 1 kB\n"), Some(24_690_000 * 1024));
        assert_eq!(machine_bytes("MemFree: 1 kB\n"), None);
        assert!(available_bytes() > 0);
    }

    #[test]
    fn freed_pages_are_kept() {
        keep_freed_pages();
        // SAFETY: reads an integer.
        assert_eq!(unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }, -1);
    }
}
