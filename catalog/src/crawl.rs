//! Where tables lie below a directory of which nothing is known: what the crawler finds before it looks into a file.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use url::Url;
use windlass_engine::formats::format_of_name;

use crate::delta::LOG_DIRECTORY;
use crate::discover::{is_visible, object_path, object_url};
use crate::error::{Error, Result};

/// Files that one crawl lists.
pub const FILES_MAX: usize = 500_000;

/// A directory whose files seem to be those of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTable {
    /// URL with a trailing slash.
    pub location: String,
    /// The directories from the crawled one to this one; none if it is the crawled one itself.
    pub folders: Vec<String>,
    /// All files below it.
    pub files: Vec<ObjectMeta>,
    /// Whether a Delta log says which of them are the table's.
    pub is_delta: bool,
    /// Whether its files lie beside the directories of other tables, so that a table of them would hold those, too.
    pub is_loose: bool,
}

/// The tables below a location, ordered by their directories.
///
/// The directory above the first `key=value` directory, or above one that is named like a number or a date, is a table's. So is one that
/// holds files; what lies below it is the table's as well, unless it is of another kind. All that lies beside a Delta log is its table's.
/// Errors: `Exhausted` above [`FILES_MAX`] files; `ObjectStore`.
pub async fn tables_below(location: &Url, store: &dyn ObjectStore) -> Result<Vec<FoundTable>> {
    let root = object_path(location.as_str())?;
    let failed = |cause| Error::ObjectStore { url: location.to_string(), cause };
    let (mut files, mut logged) = (Vec::new(), BTreeSet::new());
    let mut listing = store.list(Some(&root));
    while let Some(file) = listing.try_next().await.map_err(failed)? {
        logged.extend(beside_log(&file.location, &root));
        // Stores keep empty objects in the place of directories.
        if file.size == 0 || !is_visible(&file.location, &root) {
            continue;
        }
        files.push(file);
        if files.len() > FILES_MAX {
            return Err(Error::Exhausted(format!(
                "'{location}' holds more than {FILES_MAX} files: crawl the directories below it one by one"
            )));
        }
    }
    let mut homes: BTreeMap<_, _> = logged.into_iter().map(|folders| (folders, Home { is_delta: true, ..Home::default() })).collect();
    for file in files {
        let (folders, has_keys) = home(&file.location, &root, |folders| homes.get(folders).is_some_and(|home| home.is_delta));
        let home = homes.entry(folders).or_default();
        home.has_keys |= has_keys;
        home.files.push(file);
    }
    let table = |(folders, home, is_loose): (Vec<String>, Home, bool)| {
        // Not joined, which would escape what is escaped already.
        let path = Path::parse(format!("{root}/{}", folders.join("/")));
        let path = path.map_err(|error| Error::Invalid(format!("'{}' is not a usable directory: {error}", folders.join("/"))))?;
        let location = format!("{}/", object_url(location, &path));
        Ok(FoundTable { location, folders, files: home.files, is_delta: home.is_delta, is_loose })
    };
    tables(homes).into_iter().map(table).collect()
}

/// A directory that files belong to.
#[derive(Debug, Default)]
struct Home {
    files: Vec<ObjectMeta>,
    /// Whether they lie in `key=value` directories below it.
    has_keys: bool,
    is_delta: bool,
}

impl Home {
    fn is_like(&self, other: &Self) -> bool {
        let format = |home: &Self| home.files.first().map(|file| format_of_name(file.location.as_ref()));
        !self.has_keys && !other.has_keys && !self.is_delta && !other.is_delta && format(self) == format(other)
    }
}

/// The directories from `root` to a file.
fn folders(file: &Path, root: &Path) -> Vec<String> {
    let mut folders: Vec<String> = file.prefix_match(root).into_iter().flatten().map(|part| part.as_ref().to_owned()).collect();
    folders.pop();
    folders
}

/// The directories from `root` to that of the Delta table whose log a file is of, if it is of one.
fn beside_log(file: &Path, root: &Path) -> Option<Vec<String>> {
    let mut folders = folders(file, root);
    let is_commit = file.filename().is_some_and(|name| name.ends_with(".json") || name.ends_with(".checkpoint.parquet"));
    (is_commit && folders.pop()? == LOG_DIRECTORY).then_some(folders)
}

/// The directories from `root` to that of the table that a file belongs to, and whether directories of keys follow.
fn home(file: &Path, root: &Path, is_delta: impl Fn(&[String]) -> bool) -> (Vec<String>, bool) {
    let mut folders = folders(file, root);
    if let Some(end) = (0..=folders.len()).find(|end| is_delta(&folders[..*end])) {
        folders.truncate(end);
        return (folders, false);
    }
    let is_partition = |folder: &String| folder.contains('=') || folder.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let end = folders.iter().position(is_partition).unwrap_or(folders.len());
    let has_keys = folders.get(end).is_some_and(|folder| folder.contains('='));
    folders.truncate(end);
    (folders, has_keys)
}

/// Homes of tables, those within others of the same kind taken for a part of these; with the question whether one is loose.
fn tables(mut homes: BTreeMap<Vec<String>, Home>) -> Vec<(Vec<String>, Home, bool)> {
    let mut found = Vec::new();
    while let Some((folders, mut home)) = homes.pop_first() {
        // They follow it in order.
        let below: Vec<_> = homes.keys().take_while(|other| other.starts_with(&folders)).cloned().collect();
        let is_loose = !home.is_delta && below.iter().any(|other| !home.is_like(&homes[other]));
        for part in below.iter().filter(|_| !is_loose && !home.is_delta) {
            home.files.extend(homes.remove(part).into_iter().flat_map(|part| part.files));
        }
        found.push((folders, home, is_loose));
    }
    found
}

/// The name of a table in a directory: its letters in lower case, and `_` for what no name should have.
pub fn table_name<'a>(folders: impl IntoIterator<Item = &'a str>) -> String {
    let fits = |letter: char| if letter.is_alphanumeric() { letter } else { '_' };
    folders.into_iter().map(|folder| folder.to_lowercase().chars().map(fits).collect::<String>()).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    async fn found(paths: &[&str]) -> Vec<String> {
        let store = InMemory::new();
        for path in paths {
            store.put(&Path::from(format!("lake/{path}")), "x".into()).await.unwrap();
        }
        let tables = tables_below(&Url::parse("memory:///lake/").unwrap(), &store).await.unwrap();
        let line = |table: FoundTable| {
            assert!(table.location.ends_with('/'), "{}", table.location);
            let kind = [(table.is_delta, " delta"), (table.is_loose, " loose")].map(|(is, word)| if is { word } else { "" });
            format!("{} {}{}", table.folders.join("/"), table.files.len(), kind.concat())
        };
        tables.into_iter().map(line).collect()
    }

    #[tokio::test]
    async fn directories_say_where_tables_begin() {
        let orders = ["orders/dt=1/a.csv", "orders/dt=2/h=1/b.csv", "orders/_SUCCESS", "orders/.tmp/c.csv"];
        assert_eq!(found(&orders).await, ["orders 2"]);
        assert_eq!(found(&["a/one.json", "a/deep/two.json", "b/2024/01/x", "b/2024/02/y", "c/2024-01-01/z"]).await, ["a 2", "b 2", "c 1"]);
        assert_eq!(found(&["read.csv", "k/x=1/a.csv", "l/b.csv"]).await, [" 1 loose", "k 1", "l 1"]);
        assert_eq!(found(&["x=1/a.csv", "x=2/a.csv"]).await, [" 2"]);
        assert_eq!(found(&["a.csv", "sub/b.parquet", "sub/c.parquet"]).await, [" 1 loose", "sub 2"]);
        let delta = ["d/_delta_log/0.json", "d/k=1/a.parquet", "d/b/c.parquet", "e.parquet"];
        assert_eq!(found(&delta).await, [" 1 loose", "d 2 delta"]);
        assert_eq!(found(&["_delta_log/0.json", "a.parquet", "b/_delta_log/0.json"]).await, [" 1 delta", "b 0 delta"]);
        assert_eq!(found(&[]).await, [""; 0]);
        assert_eq!(table_name(["Web Logs", "2-x"]), "web_logs_2_x");
    }
}
