//! Which local directories tables may use, and an object store that reaches nothing else.
//!
//! Both sides enforce it: the scheduler when a statement names a location, every process again when a file is opened. The second check
//! follows symbolic links at the time of use. A prefix must be writable only by people who are trusted not to swap directories for links
//! between check and use.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions,
};
use url::Url;
use windlass_proto::Kind;

/// Why a location cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocationError {
    /// Not a path and not a `file://` URL.
    #[error("location '{location}' uses scheme '{scheme}'; this version reads local files only: give an absolute path or a file:// URL")]
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
}

impl LocationError {
    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Scheme { .. } => Kind::Unsupported,
            Self::Outside { .. } => Kind::Denied,
            Self::Malformed { .. } => Kind::Invalid,
        }
    }
}

/// The directories that tables may use. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Locations {
    /// Absolute, without symbolic links at the time of construction.
    prefixes: Arc<[PathBuf]>,
}

impl Locations {
    /// Allows everything under each prefix (a path or a `file://` URL). A prefix need not exist yet. No prefix allows nothing.
    pub fn new(prefixes: impl IntoIterator<Item = String>) -> Result<Self, LocationError> {
        Ok(Self { prefixes: prefixes.into_iter().map(|text| resolve(&text, &local_path(&text)?)).collect::<Result<_, _>>()? })
    }

    /// Turns what a user wrote into the canonical directory URL (with a trailing slash).
    ///
    /// Relative paths start at the working directory of this process; `..` and symbolic links are followed before the check.
    /// Errors: another scheme, a path outside of the prefixes, not a path.
    pub fn check(&self, text: &str) -> Result<Url, LocationError> {
        let path = self.check_path(text, &local_path(text)?)?;
        Url::from_directory_path(path).map_err(|()| malformed(text, "it cannot be written as a URL"))
    }

    fn check_path(&self, text: &str, path: &Path) -> Result<PathBuf, LocationError> {
        let path = resolve(text, path)?;
        match self.prefixes.iter().any(|prefix| path.starts_with(prefix)) {
            true => Ok(path),
            false => Err(LocationError::Outside { location: text.to_owned(), allowed: self.to_string() }),
        }
    }

    /// The only object stores of a process: local files under these prefixes.
    pub fn registry(&self) -> Arc<dyn ObjectStoreRegistry> {
        Arc::new(Registry { files: Arc::new(AllowedFiles { files: LocalFileSystem::new(), locations: self.clone() }) })
    }
}

impl fmt::Display for Locations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefixes.is_empty() {
            return f.write_str("none");
        }
        for (i, prefix) in self.prefixes.iter().enumerate() {
            write!(f, "{}'{}'", if i == 0 { "" } else { ", " }, prefix.display())?;
        }
        Ok(())
    }
}

fn malformed(location: &str, reason: impl fmt::Display) -> LocationError {
    LocationError::Malformed { location: location.to_owned(), reason: reason.to_string() }
}

/// The absolute path that a text means; links are not followed yet.
fn local_path(text: &str) -> Result<PathBuf, LocationError> {
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
            url.to_file_path().map_err(|()| malformed(text, "a file URL needs an empty host"))
        }
        Some(scheme) if text.contains("://") => Err(LocationError::Scheme { location: text.to_owned(), scheme: scheme.to_owned() }),
        _ => std::path::absolute(text).map_err(|error| malformed(text, error)),
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

/// A registry with one store that cannot be replaced.
#[derive(Debug)]
struct Registry {
    files: Arc<dyn ObjectStore>,
}

impl ObjectStoreRegistry for Registry {
    /// Hands the store back unused: what a process may reach is decided when it starts.
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        tracing::warn!(%url, "refused to register an object store");
        Some(store)
    }

    fn get_store(&self, url: &Url) -> datafusion::error::Result<Arc<dyn ObjectStore>> {
        match url.scheme() {
            "file" => Ok(Arc::clone(&self.files)),
            scheme => {
                let error = LocationError::Scheme { location: url.to_string(), scheme: scheme.to_owned() };
                Err(DataFusionError::NotImplemented(error.to_string()))
            }
        }
    }
}

/// Local files, each checked where it is used.
#[derive(Debug, Clone)]
struct AllowedFiles {
    files: LocalFileSystem,
    locations: Locations,
}

impl AllowedFiles {
    fn check(&self, location: &StorePath) -> object_store::Result<()> {
        let denied = |error: LocationError| object_store::Error::PermissionDenied { path: location.to_string(), source: Box::new(error) };
        let path = self.files.path_to_filesystem(location)?;
        self.locations.check_path(&path.to_string_lossy(), &path).map(drop).map_err(denied)
    }

    fn check_prefix(&self, prefix: Option<&StorePath>) -> object_store::Result<()> {
        self.check(prefix.unwrap_or(&StorePath::ROOT))
    }

    /// A listing follows links inside an allowed directory, so each entry is checked; an entry outside fails the listing, because leaving
    /// it out would make rows disappear.
    fn checked<'a>(&self, listing: BoxStream<'a, object_store::Result<ObjectMeta>>) -> BoxStream<'a, object_store::Result<ObjectMeta>> {
        let guard = self.clone();
        listing.map(move |entry| entry.and_then(|meta| guard.check(&meta.location).map(|()| meta))).boxed()
    }
}

impl fmt::Display for AllowedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local files under {}", self.locations)
    }
}

fn failed<'a, T: Send + 'a>(error: object_store::Error) -> BoxStream<'a, object_store::Result<T>> {
    futures::stream::once(async move { Err(error) }).boxed()
}

#[async_trait]
impl ObjectStore for AllowedFiles {
    async fn put_opts(&self, location: &StorePath, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.check(location)?;
        self.files.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &StorePath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.check(location)?;
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &StorePath, options: GetOptions) -> object_store::Result<GetResult> {
        self.check(location)?;
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &StorePath, ranges: &[Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        self.check(location)?;
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<StorePath>>,
    ) -> BoxStream<'static, object_store::Result<StorePath>> {
        let guard = self.clone();
        self.files.delete_stream(locations.map(move |location| location.and_then(|path| guard.check(&path).map(|()| path))).boxed())
    }

    fn list(&self, prefix: Option<&StorePath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.check_prefix(prefix) {
            Ok(()) => self.checked(self.files.list(prefix)),
            Err(error) => failed(error),
        }
    }

    fn list_with_offset(&self, prefix: Option<&StorePath>, offset: &StorePath) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.check_prefix(prefix) {
            Ok(()) => self.checked(self.files.list_with_offset(prefix, offset)),
            Err(error) => failed(error),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&StorePath>) -> object_store::Result<ListResult> {
        self.check_prefix(prefix)?;
        let listing = self.files.list_with_delimiter(prefix).await?;
        for location in listing.objects.iter().map(|meta| &meta.location).chain(&listing.common_prefixes) {
            self.check(location)?;
        }
        Ok(listing)
    }

    async fn copy_opts(&self, from: &StorePath, to: &StorePath, options: CopyOptions) -> object_store::Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.files.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &StorePath, to: &StorePath, options: RenameOptions) -> object_store::Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.files.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    /// `allowed/` with a file and a link that leaves it, beside `secret/` with a file.
    fn fixture() -> (tempfile::TempDir, Locations) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["allowed", "secret", "allowed/sub"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("f"), name).unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("secret"), dir.path().join("allowed/sub/link")).unwrap();
        let locations = Locations::new([dir.path().join("allowed").display().to_string()]).unwrap();
        (dir, locations)
    }

    #[test]
    fn only_paths_that_stay_inside_are_allowed() {
        let (dir, locations) = fixture();
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
        assert_eq!(kind("s3://bucket/t"), Err(Kind::Unsupported));
        assert_eq!(kind("http://169.254.169.254/"), Err(Kind::Unsupported));
        assert_eq!(kind("file://host/t"), Err(Kind::Invalid));
        let message = locations.check("/etc").unwrap_err().to_string();
        assert!(message.contains("allowed_locations") && message.contains("/allowed'"), "{message}");
    }

    #[tokio::test]
    async fn the_store_checks_again_and_knows_no_other_scheme() {
        let (dir, locations) = fixture();
        let registry = locations.registry();
        let store = registry.get_store(&Url::parse("file:///").unwrap()).unwrap();
        let path = |name: &str| StorePath::from_absolute_path(dir.path().join(name)).unwrap();
        assert!(store.head(&path("allowed/f")).await.is_ok());
        for name in ["secret/f", "allowed/sub/link/f"] {
            let error = store.get(&path(name)).await.unwrap_err();
            assert!(matches!(error, object_store::Error::PermissionDenied { .. }), "{error}");
            assert!(store.put(&path(name), "x".into()).await.is_err());
        }
        assert!(store.list(Some(&path("allowed"))).try_collect::<Vec<_>>().await.is_err(), "the link leads outside");
        assert!(store.list(Some(&path("secret"))).try_collect::<Vec<_>>().await.is_err());
        assert!(store.list(None).try_collect::<Vec<_>>().await.is_err());

        registry.register_store(&Url::parse("memory://").unwrap(), Arc::clone(&store));
        for url in ["memory://", "http://example.com", "s3://bucket"] {
            assert!(registry.get_store(&Url::parse(url).unwrap()).is_err());
        }
    }
}
