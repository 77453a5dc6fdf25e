//! How much memory processes on this machine needed at most.

use std::collections::BTreeMap;
use std::fs;

/// Makes the processes and all they started forget their peaks. Best effort, as all of this: other systems than Linux tell nothing.
pub fn forget_peaks(roots: &[u32]) {
    for pid in family(roots) {
        // 5 is the peak of the resident memory, see proc(5).
        _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// The most bytes that each of the processes and all they started held since then, by name and number.
pub fn peaks(roots: &[u32]) -> BTreeMap<String, u64> {
    family(roots).into_iter().filter_map(|pid| peak(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, pid)).collect()
}

fn peak(status: &str, pid: u32) -> Option<(String, u64)> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let kib: u64 = field("VmHWM:")?.strip_suffix(" kB")?.parse().ok()?;
    Some((format!("{} {pid}", field("Name:")?), kib * 1024))
}

/// The processes and all below them.
fn family(roots: &[u32]) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name before it may hold anything, blanks and parentheses included.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = if roots.is_empty() { Vec::new() } else { pids.filter_map(|pid| Some((pid, parent(pid)?))).collect() };
    let mut family = roots.to_vec();
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        let children = parents.iter().filter(|(child, parent)| *parent == pid && !family.contains(child)).map(|(child, _)| *child);
        let children: Vec<_> = children.collect();
        family.extend(children);
        next += 1;
    }
    family
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn peaks_are_read_of_children_too() {
        assert_eq!(peak("Name:\tan executor\nVmHWM:\t    2048 kB\n", 7), Some(("an executor 7".into(), 2 << 20)));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let own = [std::process::id()];
        forget_peaks(&own);
        let peaks = peaks(&own);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(peaks.contains_key(&format!("cat {}", child.id())), "{peaks:?}");
        assert!(peaks.values().all(|bytes| *bytes > 0));
    }
}
