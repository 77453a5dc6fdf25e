//! Which directories and buckets tables may use.
//!
//! Both sides enforce it: the scheduler when a statement names a location, every process again when a file is opened (see
//! [`stores`](crate::stores)). The second check follows symbolic links at the time of use. A directory must be writable only by people who
//! are trusted not to swap directories for links between check and use.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::path::Path as StorePath;
use url::{Position, Url};
use windlass_proto::Kind;

use crate::stores::{RangeCache, Registry, StoreOptions};

/// Why a location cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// Nothing that we read from.
    #[error(
        "location '{location}' uses scheme '{scheme}', which is not supported: give an absolute path, or a URL of file://, s3://, gs://, az:// or abfss://"
    )]
    Scheme {
        /// As the user wrote it.
        location: String,
        /// What stands before the colon.
        scheme: String,
    },
    /// Not under an allowed prefix once links are followed.
    #[error(
        "location '{location}' is outside of the allowed locations ({allowed}); an operator can add a prefix to the setting 'allowed_locations'"
    )]
    Outside {
        /// As the user wrote it.
        location: String,
        /// The allowed prefixes, quoted.
        allowed: String,
    },
    /// Not a usable path.
    #[error("location '{location}' is not a usable path: {reason}")]
    Malformed {
        /// As the user wrote it.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A store that is configured in a way that cannot work.
    #[error("store '{url}': {reason}")]
    Store {
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl LocationError {
    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Scheme { .. } => Kind::Unsupported,
            Self::Outside { .. } => Kind::Denied,
            Self::Malformed { .. } | Self::Store { .. } => Kind::Invalid,
        }
    }
}

/// Where tables may be. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Locations {
    prefixes: Arc<[Prefix]>,
    pub(crate) stores: Arc<[StoreOptions]>,
    cache: Option<Arc<RangeCache>>,
}

/// Everything under it is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Prefix {
    /// Absolute, without symbolic links at the time of construction.
    Directory(PathBuf),
    Objects(Objects),
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "'{}'", path.display()),
            Self::Objects(objects) => write!(f, "'{}/{}'", objects.store, objects.path),
        }
    }
}

/// What a URL of an object store names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Objects {
    /// Scheme and bucket, `s3://bucket`.
    pub(crate) store: String,
    /// Inside of the bucket.
    pub(crate) path: StorePath,
}

/// The one spelling of a scheme of object stores that has several.
fn canonical_scheme(scheme: &str) -> Option<&'static str> {
    Some(match scheme.to_ascii_lowercase().as_str() {
        "s3" | "s3a" | "s3n" => "s3",
        "gs" | "gcs" => "gs",
        "az" | "azure" => "az",
        "abfss" | "abfs" | "wasbs" | "wasb" => "abfss",
        _ => return None,
    })
}

impl Objects {
    /// Errors: `Malformed`. Its text does not repeat what may be a password.
    fn parse(text: &str, scheme: &'static str) -> Result<Self, LocationError> {
        let rest = text.split_once(':').map_or("", |(_, rest)| rest);
        let mut url = Url::parse(&format!("{scheme}:{rest}")).map_err(|error| malformed(&without_user(text), error))?;
        // Azure has two names for an account, one for each of its interfaces; what lies there is the same.
        if let Some((account, cloud)) = url.host_str().filter(|_| scheme == "abfss").and_then(|host| host.split_once(".blob.")) {
            let host = format!("{account}.dfs.{cloud}");
            url.set_host(Some(&host)).map_err(|error| malformed(&without_user(text), error))?;
        }
        let wrong = |reason: &str| Err(malformed(&without_user(text), reason));
        let is_name =
            |name: &str| !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        // Azure's URLs name the container where others name a user.
        let container = scheme == "abfss";
        if url.password().is_some() || (!container && !url.username().is_empty()) {
            return wrong("names and keys of users do not belong into a location");
        }
        if container && !is_name(url.username()) {
            return wrong("write abfss://container@account.dfs.core.windows.net/path");
        }
        if url.port().is_some() || !url.host_str().is_some_and(is_name) {
            return wrong("the name of the bucket is missing, or has other characters than letters, digits, '.', '_' and '-'");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return wrong("write '?' as %3F and '#' as %23");
        }
        let path = StorePath::from_url_path(url.path().trim_end_matches('/')).map_err(|error| malformed(text, error))?;
        Ok(Self { store: url[..Position::BeforePath].to_owned(), path })
    }

    /// With a trailing slash.
    fn url(&self) -> Result<Url, url::ParseError> {
        let mut url = Url::parse(&format!("{}/", self.store))?;
        if let Ok(mut segments) = url.path_segments_mut()
            && !self.path.as_ref().is_empty()
        {
            segments.pop_if_empty().extend(self.path.as_ref().split('/')).push("");
        }
        Ok(url)
    }
}

impl Locations {
    /// Allows everything under each prefix: a path, a `file://` URL, or a bucket with or without a path, `s3://bucket/path`. A prefix need
    /// not exist yet. No prefix allows nothing.
    pub fn new(prefixes: impl IntoIterator<Item = String>) -> Result<Self, LocationError> {
        let prefix = |text: String| {
            Ok(match place(&text)? {
                Place::Path(path) => Prefix::Directory(resolve(&text, &path)?),
                Place::Objects(objects) => Prefix::Objects(objects),
            })
        };
        let mut different = Vec::new();
        for text in prefixes {
            let prefix = prefix(text)?;
            if !different.contains(&prefix) {
                different.push(prefix);
            }
        }
        Ok(Self { prefixes: different.into(), stores: Arc::default(), cache: None })
    }

    /// The same locations, their object stores reached as described. Buckets that no description fits are reached as the environment says.
    ///
    /// Errors: `Store` if a description cannot work.
    pub fn with_stores(mut self, stores: &[StoreOptions]) -> Result<Self, LocationError> {
        for store in stores {
            store.validate()?;
        }
        self.stores = stores.into();
        Ok(self)
    }

    /// The same locations, small ranges of objects kept in `cache`.
    pub fn with_range_cache(mut self, cache: Arc<RangeCache>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Turns what a user wrote into the canonical directory URL (with a trailing slash).
    ///
    /// Relative paths start at the working directory of this process; `..` and symbolic links are followed before the check.
    /// Errors: another scheme, a path outside of the prefixes, not a path.
    pub fn check(&self, text: &str) -> Result<Url, LocationError> {
        match place(text)? {
            Place::Path(path) => {
                let path = self.check_path(text, &path)?;
                Url::from_directory_path(path).map_err(|()| malformed(text, "it cannot be written as a URL"))
            }
            Place::Objects(objects) if self.allows(&objects.store, &objects.path) => objects.url().map_err(|error| malformed(text, error)),
            Place::Objects(_) => Err(self.outside(text)),
        }
    }

    pub(crate) fn check_path(&self, text: &str, path: &Path) -> Result<PathBuf, LocationError> {
        let path = resolve(text, path)?;
        match self.prefixes.iter().any(|prefix| matches!(prefix, Prefix::Directory(directory) if path.starts_with(directory))) {
            true => Ok(path),
            false => Err(self.outside(text)),
        }
    }

    /// Whether an object, or all objects under a path, may be used.
    pub(crate) fn allows(&self, store: &str, path: &StorePath) -> bool {
        self.prefixes_in(store).any(|prefix| path.prefix_matches(prefix))
    }

    /// Whether anything in a store is allowed.
    pub(crate) fn allows_store(&self, store: &str) -> bool {
        self.prefixes_in(store).next().is_some()
    }

    fn prefixes_in<'a>(&'a self, store: &'a str) -> impl Iterator<Item = &'a StorePath> {
        self.prefixes.iter().filter_map(move |prefix| match prefix {
            Prefix::Objects(objects) if objects.store == store => Some(&objects.path),
            _ => None,
        })
    }

    pub(crate) fn outside(&self, location: &str) -> LocationError {
        LocationError::Outside { location: location.to_owned(), allowed: self.to_string() }
    }

    /// The only object stores of a process: local files and buckets under these prefixes.
    pub fn registry(&self) -> Arc<dyn ObjectStoreRegistry> {
        Arc::new(Registry::new(self.clone(), Arc::clone(&self.stores), self.cache.clone()))
    }
}

impl fmt::Display for Locations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefixes.is_empty() {
            return f.write_str("none");
        }
        for (i, prefix) in self.prefixes.iter().enumerate() {
            write!(f, "{}{prefix}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

fn malformed(location: &str, reason: impl fmt::Display) -> LocationError {
    LocationError::Malformed { location: location.to_owned(), reason: reason.to_string() }
}

/// The URL without what stands before an `@`, which may be a password.
fn without_user(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}...{}", &text[..scheme + 3], &text[at..]),
        _ => text.to_owned(),
    }
}

/// What a text names.
enum Place {
    /// Absolute; links are not followed yet.
    Path(PathBuf),
    Objects(Objects),
}

fn place(text: &str) -> Result<Place, LocationError> {
    if text.is_empty() {
        return Err(malformed(text, "it is empty"));
    }
    let scheme = text
        .split_once(':')
        .map(|(scheme, _)| scheme)
        .filter(|scheme| scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)));
    match scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("file") => {
            let url = Url::parse(text).map_err(|error| malformed(text, error))?;
            if url.query().is_some() || url.fragment().is_some() {
                return Err(malformed(text, "write '?' as %3F and '#' as %23"));
            }
            url.to_file_path().map(Place::Path).map_err(|()| malformed(text, "a file URL needs an empty host"))
        }
        Some(scheme) if text.contains("://") => match canonical_scheme(scheme) {
            Some(canonical) => Objects::parse(text, canonical).map(Place::Objects),
            None => Err(LocationError::Scheme { location: without_user(text), scheme: scheme.to_owned() }),
        },
        _ => std::path::absolute(text).map(Place::Path).map_err(|error| malformed(text, error)),
    }
}

/// Follows all links of the part of `path` that exists and appends the rest, which must not climb.
fn resolve(text: &str, path: &Path) -> Result<PathBuf, LocationError> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        match existing.canonicalize() {
            Ok(mut resolved) => {
                resolved.extend(missing.iter().rev());
                return Ok(resolved);
            }
            // A link to nothing would decide later where it leads.
            Err(error) if error.kind() == io::ErrorKind::NotFound && existing.symlink_metadata().is_err() => {
                missing.push(existing.file_name().ok_or_else(|| malformed(text, "'..' follows a directory that does not exist"))?);
                existing = existing.parent().unwrap_or_else(|| Path::new("/"));
            }
            Err(error) => return Err(malformed(text, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_inside_are_allowed() {
        let (dir, locations) = crate::stores::tests::fixture();
        let root = dir.path().canonicalize().unwrap().display().to_string();
        let kind = |text: &str| locations.check(text).map_err(|error| error.kind());
        for good in ["/allowed/new/table", "/allowed/sub/../new/table", "/allowed/new/table/"] {
            assert_eq!(kind(&format!("{root}{good}")).unwrap().as_str(), format!("file://{root}/allowed/new/table/"));
        }
        assert!(kind(&format!("file://{root}/allowed/a%20b")).unwrap().path().ends_with("/allowed/a%20b/"));
        assert!(kind(&format!("{root}/allowed/ts=10:30")).is_ok(), "a colon alone does not make a URL");
        for outside in ["/secret", "/allowed/../secret", "/allowed/sub/link", "/allowed/sub/link/deeper", "/allowedtwo", ""] {
            assert_eq!(kind(&format!("{root}{outside}")), Err(Kind::Denied), "{outside}");
        }
        for outside in ["/etc/passwd", "file:///proc/self/environ", "Cargo.toml", "/"] {
            assert_ne!(kind(outside), Ok(Url::parse("file:///").unwrap()));
            assert!(kind(outside).is_err(), "{outside}");
        }
        assert_eq!(kind(&format!("{root}/allowed/none/../../../secret")), Err(Kind::Invalid));
        assert_eq!(kind("s3://bucket/t"), Err(Kind::Denied));
        assert_eq!(kind("http://169.254.169.254/"), Err(Kind::Unsupported));
        assert_eq!(kind("file://host/t"), Err(Kind::Invalid));
        let message = locations.check("/etc").unwrap_err().to_string();
        assert!(message.contains("allowed_locations") && message.contains("/allowed'"), "{message}");
    }

    #[test]
    fn buckets_are_allowed_by_name_and_path() {
        let prefixes = ["s3://lake/raw/", "gs://all", "abfss://box@acc.dfs.core.windows.net/in"];
        let locations = Locations::new(prefixes.map(str::to_owned)).unwrap();
        let url = |text: &str| locations.check(text).map(String::from).map_err(|error| error.kind());
        for good in ["s3://lake/raw/t", "S3A://lake/raw/t/", "s3n://lake/raw/x/../t", "s3://lake/raw/%74"] {
            assert_eq!(url(good).as_deref(), Ok("s3://lake/raw/t/"), "{good}");
        }
        assert_eq!(url("s3://lake/raw").as_deref(), Ok("s3://lake/raw/"));
        assert_eq!(url("s3://lake/raw/%2e%2e%2ft"), Err(Kind::Invalid), "hidden climbing");
        assert_eq!(url("gs://all").as_deref(), Ok("gs://all/"));
        for azure in ["abfs://box@acc.dfs.core.windows.net", "wasbs://box@acc.blob.core.windows.net", "wasb://box@acc.dfs.core.windows.net"]
        {
            assert_eq!(url(&format!("{azure}/in/t")).as_deref(), Ok("abfss://box@acc.dfs.core.windows.net/in/t/"), "{azure}");
        }
        for outside in [
            "s3://lake",
            "s3://lake/rawer",
            "s3://lake/raw/../t",
            "s3://lake/raw/%2e%2e/t",
            "s3://other/raw/t",
            "s3://LAKE/raw",
            "gs://lake/raw",
        ] {
            assert_eq!(url(outside), Err(Kind::Denied), "{outside}");
        }
        for bad in
            ["s3://", "s3:///raw", "s3://lake:9000/raw", "s3://lake/raw?x=1", "s3://lake/raw#x", "s3://la ke/raw", "abfss://acc.net/in"]
        {
            assert_eq!(url(bad), Err(Kind::Invalid), "{bad}");
        }
        let message = locations.check("s3://id:s3cret@lake/raw").unwrap_err().to_string();
        assert!(!message.contains("s3cret") && message.contains("lake/raw"), "{message}");
    }
}
