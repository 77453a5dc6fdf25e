//! Local files under allowed directories.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};

use super::failed;
use crate::locations::{LocationError, Locations};

/// How often a file is made anew whose directory went meanwhile.
const MAKING_TRIES: usize = 3;

/// Local files, each checked where it is used.
///
/// Writing makes missing parents. What is being written lies beside its goal under another name, which no listing shows, and moves there
/// when it is complete.
#[derive(Debug, Clone)]
pub(super) struct AllowedFiles {
    files: LocalFileSystem,
    locations: Locations,
}

impl AllowedFiles {
    pub(super) fn new(locations: Locations) -> Self {
        Self { files: LocalFileSystem::new(), locations }
    }

    fn check(&self, location: &Path) -> Result<()> {
        let denied = |error: LocationError| object_store::Error::PermissionDenied { path: location.to_string(), source: Box::new(error) };
        let path = self.files.path_to_filesystem(location)?;
        self.locations.check_path(&path.to_string_lossy(), &path).map(drop).map_err(denied)
    }

    /// Whether a file could not be made because its directory went: one that has become empty is removed beside those who write.
    fn directory_is_gone(&self, location: &Path) -> bool {
        let path = self.files.path_to_filesystem(location);
        path.is_ok_and(|path| path.parent().is_some_and(|directory| !directory.exists()))
    }

    fn check_prefix(&self, prefix: Option<&Path>) -> Result<()> {
        self.check(prefix.unwrap_or(&Path::ROOT))
    }

    /// A listing follows links inside an allowed directory, so each entry is checked; an entry outside fails the listing, because leaving
    /// it out would make rows disappear.
    fn checked<'a>(&self, listing: BoxStream<'a, Result<ObjectMeta>>) -> BoxStream<'a, Result<ObjectMeta>> {
        let guard = self.clone();
        listing.map(move |entry| entry.and_then(|meta| guard.check(&meta.location).map(|()| meta))).boxed()
    }
}

impl fmt::Display for AllowedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "local files under {}", self.locations)
    }
}

#[async_trait]
impl ObjectStore for AllowedFiles {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        for _ in 1..MAKING_TRIES {
            self.check(location)?;
            match self.files.put_opts(location, payload.clone(), options.clone()).await {
                Err(_) if self.directory_is_gone(location) => {}
                done => return done,
            }
        }
        self.files.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        for _ in 1..MAKING_TRIES {
            self.check(location)?;
            match self.files.put_multipart_opts(location, options.clone()).await {
                Err(_) if self.directory_is_gone(location) => {}
                begun => return begun,
            }
        }
        self.files.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check(location)?;
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let guard = self.clone();
        self.files.delete_stream(locations.map(move |location| location.and_then(|path| guard.check(&path).map(|()| path))).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check_prefix(prefix) {
            Ok(()) => self.checked(self.files.list(prefix)),
            Err(error) => failed(error),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check_prefix(prefix) {
            Ok(()) => self.checked(self.files.list_with_offset(prefix, offset)),
            Err(error) => failed(error),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check_prefix(prefix)?;
        let listing = self.files.list_with_delimiter(prefix).await?;
        for location in listing.objects.iter().map(|meta| &meta.location).chain(&listing.common_prefixes) {
            self.check(location)?;
        }
        Ok(listing)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.files.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.files.rename_opts(from, to, options).await
    }
}
