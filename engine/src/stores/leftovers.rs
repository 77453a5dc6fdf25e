//! What crashes and deletions leave in a directory that its listing does not show: uploads that were cut off, and empty directories.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use url::Url;

use crate::locations::Locations;

impl Locations {
    /// Removes uploads below a local directory that nobody will complete: those of files whose names `is_theirs` accepts. Directories of
    /// partitions that are empty then go, too, and the directory as [`Locations::remove_empty`] has it. Other stores have none. Blocks.
    ///
    /// Errors: the directory is not allowed or cannot be read; none if it does not exist.
    pub fn remove_uploads(&self, location: &Url, warehouse: &Url, is_theirs: impl Fn(&str) -> bool) -> io::Result<()> {
        let Some(root) = self.local(location)? else { return Ok(()) };
        let (mut found, mut next) = (vec![root], 0);
        while let Some(directory) = found.get(next) {
            let entries = match fs::read_dir(directory) {
                Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
                Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            for entry in entries {
                let name = entry.file_name();
                match entry.file_type()? {
                    kind if kind.is_dir() => found.push(entry.path()),
                    kind if kind.is_file() && name.to_str().is_some_and(|name| is_upload(name) && is_theirs(name)) => {
                        remove(&entry.path())?
                    }
                    _ => {}
                }
            }
            next += 1;
        }
        // Inner ones come later.
        for directory in found.iter().rev().filter(|directory| is_partition(directory)) {
            let _not_empty = fs::remove_dir(directory);
        }
        self.remove_empty(location, warehouse)
    }

    /// Removes a local directory if it is empty, and then those above it as long as they are: directories of partitions, and whatever lies
    /// below `warehouse`. Writers make them again. Blocks.
    ///
    /// Errors: the directory is not allowed.
    pub fn remove_empty(&self, directory: &Url, warehouse: &Url) -> io::Result<()> {
        let Some(mut directory) = self.local(directory)? else { return Ok(()) };
        let warehouse = self.local(warehouse)?;
        let is_ours = |path: &Path| warehouse.as_ref().is_some_and(|warehouse| path != warehouse && path.starts_with(warehouse));
        // One that a crash has let go goes on.
        let is_gone = |path: &Path| fs::remove_dir(path).map_or_else(|error| error.kind() == ErrorKind::NotFound, |()| true);
        while (is_partition(&directory) || is_ours(&directory)) && is_gone(&directory) && directory.pop() {}
        Ok(())
    }

    fn local(&self, location: &Url) -> io::Result<Option<PathBuf>> {
        if location.scheme() != "file" {
            return Ok(None);
        }
        let path = location.to_file_path().map_err(|()| io::Error::from(ErrorKind::InvalidInput))?;
        self.check_path(location.as_str(), &path).map(Some).map_err(io::Error::other)
    }
}

/// Whether files of this name are not complete: see the local store.
fn is_upload(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Whether a directory is named as those of partitions are, `key=value`.
fn is_partition(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().contains('='))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &Path) -> Url {
        Url::from_directory_path(path).unwrap()
    }

    #[test]
    fn uploads_of_the_dead_go_and_nothing_else() {
        let (dir, locations) = crate::stores::tests::fixture();
        let root = dir.path().join("allowed").canonicalize().unwrap();
        let files =
            ["t/k=1/part-q1.parquet#1", "t/k=1/j=2/part-q1.parquet#12", "t/k=2/part-q1.parquet", "t/k=2/part-q2.parquet#1", "t/part-q1#x"];
        for file in files {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "x").unwrap();
        }
        fs::create_dir_all(root.join("t/other")).unwrap();
        let warehouse = url(&root);
        locations.remove_uploads(&url(&root.join("t")), &warehouse, |name| name.contains("q1")).unwrap();
        let left = files.map(|file| root.join(file).exists());
        assert_eq!(left, [false, false, true, true, true]);
        assert!(!root.join("t/k=1").exists() && root.join("t/other").exists());
        locations.remove_uploads(&url(&root.join("none")), &warehouse, |_| true).unwrap();
        for outside in ["secret", "allowed/sub/link"] {
            assert!(locations.remove_uploads(&url(&dir.path().join(outside)), &warehouse, |_| true).is_err(), "{outside}");
        }
    }

    #[test]
    fn empty_directories_go_up_to_the_warehouse() {
        let (dir, locations) = crate::stores::tests::fixture();
        let root = dir.path().join("allowed").canonicalize().unwrap();
        for directory in ["warehouse/d.db/t/k=1/j=2", "external/k=1/j=2", "external/k=3", "warehouse/u/k=1"] {
            fs::create_dir_all(root.join(directory)).unwrap();
            if directory.contains("/u/") {
                fs::remove_dir(root.join(directory)).unwrap();
            }
            locations.remove_empty(&url(&root.join(directory)), &url(&root.join("warehouse"))).unwrap();
        }
        assert!(root.join("warehouse").exists() && !root.join("warehouse/d.db").exists() && !root.join("warehouse/u").exists());
        assert!(root.join("external").exists() && !root.join("external/k=1").exists() && !root.join("external/k=3").exists());
        locations.remove_empty(&url(&root.join("sub")), &url(&root)).unwrap();
        assert!(root.join("sub/f").exists());
    }
}
