//! A directory of this process's own, removed when it ends, and later by others if it could not.
//!
//! `work_dir/<executor id>/` holds `shuffle/`, `spill/`, `ranges/` and a `lock` that the process holds while it lives. Ballista trusts the files it
//! finds there, so nobody else may write to it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::error::{Error, Result};

const LOCK: &str = "lock";

/// The directory; dropping it removes it.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes the directory of executor `id` in `base` and removes those of processes that died.
    pub fn create(base: &Path, id: &str) -> Result<Self> {
        let failed = |cause| Error::WorkDir { path: base.to_owned(), cause };
        private_dirs(base).map_err(failed)?;
        // One process at a time here, so that nobody takes a directory for abandoned before its owner has locked it.
        let turn = File::create(base.join(LOCK)).map_err(failed)?;
        turn.lock().map_err(failed)?;
        remove_abandoned(base).map_err(failed)?;
        let path = base.join(id);
        for part in ["shuffle", "spill", "ranges"] {
            private_dirs(&path.join(part)).map_err(failed)?;
        }
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { path, _lock: lock })
    }

    /// Leaves the directory to the next executor here, which removes it after this process has ended: tasks may still write to it.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Where Ballista keeps shuffle files.
    pub fn shuffle(&self) -> PathBuf {
        self.path.join("shuffle")
    }

    /// Where ranges of objects are kept.
    pub fn ranges(&self) -> PathBuf {
        self.path.join("ranges")
    }

    /// Where operators spill.
    pub fn spill(&self) -> PathBuf {
        self.path.join("spill")
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove work directory; the next executor here will");
        }
    }
}

fn private_dirs(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Only directories with a lock that nobody holds: anything else is not ours.
fn remove_abandoned(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)? {
        let path = entry?.path();
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                info!(path = %path.display(), "removing the work directory of an executor that died");
                fs::remove_dir_all(&path)?;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_abandoned_directories_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().join("work");
        fs::create_dir_all(base.join("dead/shuffle/job")).unwrap();
        File::create(base.join("dead").join(LOCK)).unwrap();
        fs::create_dir_all(base.join("not-ours")).unwrap();

        let first = WorkDir::create(&base, "first").unwrap();
        let second = WorkDir::create(&base, "second").unwrap();
        assert!(!base.join("dead").exists());
        assert!(base.join("not-ours").exists());
        assert!(first.shuffle().is_dir() && second.spill().is_dir(), "the living stay");
        assert_eq!(fs::metadata(first.shuffle()).unwrap().permissions().mode() & 0o777, 0o700);
        drop(first);
        assert!(!base.join("first").exists());
    }
}
