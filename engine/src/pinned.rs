//! Files that must be the ones that a plan was made for. Rows of a file that was replaced in the meantime would be mixed with rows of the old
//! one, and statistics that pruned the plan would not be its own.
//!
//! A plan says of each file its size and the time of its last change. Plans do not carry what a store calls an entity tag, so a mark of it
//! takes the place of the digits below a millisecond, which the catalog does not keep. Where both sides have a tag, the tags decide;
//! otherwise the times, in whole seconds, because some answers of stores are no finer. Of local files the times decide, in milliseconds:
//! their tags hold numbers that another host, which sees the same directory, may have others for. Copies of a directory are the same files
//! if they keep these times: no part of a file's contents would tell that another part was changed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use sha2::{Digest, Sha256};

use crate::stores::ranges;

/// Marks there are, and nanoseconds in a millisecond.
const MARKS: u32 = 1_000_000;

/// Nanoseconds to add to the time of a file's last change, whole milliseconds, in a plan; 0 without a tag, or for a local file.
pub fn mark(url: &str, etag: Option<&str>) -> u32 {
    etag.filter(|_| !url.starts_with("file:")).map_or(0, number)
}

/// The mark of a tag, at least 1.
fn number(etag: &str) -> u32 {
    // Some answers quote a tag and others do not; some call it weak.
    let tag = etag.trim_start_matches("W/").trim_matches('"');
    let digest = Sha256::digest(tag.as_bytes());
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    u32::try_from(1 + number % u64::from(MARKS - 1)).expect("a mark is less than a million")
}

#[derive(Debug, thiserror::Error)]
#[error("file '/{0}' is not the one that the catalog knows: it was replaced or changed. MSCK REPAIR TABLE registers it again")]
struct Replaced(Path);

/// Why a file that was planned is not there.
#[derive(Debug, thiserror::Error)]
enum Gone {
    #[error("it was deleted after the catalog had got to know it. MSCK REPAIR TABLE forgets it")]
    Registered,
    #[error("the table's log lists it, but it was deleted, as VACUUM does with the files of older versions")]
    Logged,
}

/// A file as it was planned. Requests carry it to the store as an extension, so that what is kept of an answer is kept of this file.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    pub(crate) file: Arc<ObjectMeta>,
    is_local: bool,
}

/// A store as the reader of one file sees it: reading anything else than that file as it was registered is an error.
#[derive(Debug)]
pub(crate) struct PinnedFile {
    store: Arc<dyn ObjectStore>,
    pin: Pin,
}

impl PinnedFile {
    /// `is_local`: the store reads ranges of local files in a way of its own, and cheaply tells what the file is.
    pub(crate) fn of(store: Arc<dyn ObjectStore>, file: ObjectMeta, is_local: bool) -> Arc<dyn ObjectStore> {
        Arc::new(Self { store, pin: Pin { file: Arc::new(file), is_local } })
    }
}

impl Pin {
    /// Whether the plan tells the file from any other that has been or will be in its place.
    pub(crate) fn is_exact(&self) -> bool {
        !self.is_local && !self.file.last_modified.timestamp_subsec_nanos().is_multiple_of(MARKS)
    }

    /// Whether the plan has the file from a log, and says so with the beginning of time: no log knows when an object was made.
    fn knows_no_time(&self) -> bool {
        self.file.last_modified.timestamp() == 0
    }

    /// An error of the store, with what to do about a file that is not there.
    fn explained(&self, error: Error) -> Error {
        match error {
            Error::NotFound { path, .. } => {
                let source = Box::new(if self.knows_no_time() { Gone::Logged } else { Gone::Registered });
                Error::NotFound { path, source }
            }
            other => other,
        }
    }

    /// Errors: `Precondition` if what was found is another file.
    pub(crate) fn check(&self, found: &ObjectMeta) -> Result<()> {
        let (planned, changed) = (&self.file.last_modified, &found.last_modified);
        let is_same = match (planned.timestamp_subsec_nanos() % MARKS, found.e_tag.as_deref().map(number)) {
            // Its mark, if it has one, is none that a store knows.
            _ if self.knows_no_time() => true,
            _ if self.is_local => planned.timestamp_millis() == changed.timestamp_millis(),
            (0, _) | (_, None) => planned.timestamp() == changed.timestamp(),
            (mark, Some(found)) => mark == found,
        };
        // Whoever plans with the time to the nanosecond has no mark in it.
        let is_same = is_same || planned == changed;
        match is_same && found.size == self.file.size {
            true => Ok(()),
            false => {
                let source = Box::new(Replaced(self.file.location.clone()));
                Err(Error::Precondition { path: self.file.location.to_string(), source })
            }
        }
    }
}

impl fmt::Display for PinnedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.pin.file.location, self.store)
    }
}

#[async_trait]
impl ObjectStore for PinnedFile {
    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        options.extensions.insert(self.pin.clone());
        let answer = self.store.get_opts(location, options).await.map_err(|error| self.pin.explained(error))?;
        self.pin.check(&answer.meta)?;
        Ok(answer)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if self.pin.is_local {
            let bytes = self.store.get_ranges(location, ranges).await.map_err(|error| self.pin.explained(error))?;
            // Afterwards: a file that takes the place of another stays there.
            self.pin.check(&self.store.head(location).await?)?;
            return Ok(bytes);
        }
        ranges::read(ranges, |range| self.get_range(location, range)).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file and its meta as the catalog and a plan keep it.
    async fn planned(store: &Arc<dyn ObjectStore>, path: &Path, with_etag: bool) -> ObjectMeta {
        let found = store.head(path).await.unwrap();
        let whole = found.last_modified.timestamp_subsec_nanos() / 1_000_000 * 1_000_000;
        let mark = if with_etag { mark("s3://", found.e_tag.as_deref()) } else { 0 };
        let shift = std::time::Duration::from_nanos(u64::from(found.last_modified.timestamp_subsec_nanos()));
        let last_modified = found.last_modified - shift + std::time::Duration::from_nanos(u64::from(whole + mark));
        ObjectMeta { last_modified, e_tag: None, ..found }
    }

    #[test]
    fn marks_tell_tags_apart_and_not_spellings() {
        let mark = |tag| mark("s3://lake/t", Some(tag));
        assert_eq!((super::mark("s3://lake/t", None), super::mark("file:///t", Some("a"))), (0, 0));
        assert_eq!(mark("\"0x8D\""), mark("0x8D"));
        assert_eq!(mark("W/\"a\""), mark("a"));
        assert_ne!(mark("a"), mark("b"));
        assert!((1..MARKS).contains(&mark("")));
    }

    #[tokio::test]
    async fn a_replaced_file_is_an_error_however_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "1234").unwrap();
        let local: Arc<dyn ObjectStore> = Arc::new(object_store::local::LocalFileSystem::new());
        let path = Path::from_absolute_path(&file).unwrap();
        let (tagged, timed) = (planned(&local, &path, true).await, planned(&local, &path, false).await);
        let read = async |meta: &ObjectMeta, is_local| {
            let pinned = PinnedFile::of(Arc::clone(&local), meta.clone(), is_local);
            let ranges = pinned.get_ranges(&path, &[0..2, 2..4]).await.map(|parts| parts.concat());
            let whole = async { pinned.get(&path).await?.bytes().await }.await.map(|bytes| bytes.to_vec());
            (ranges, whole)
        };
        for meta in [&tagged, &timed] {
            for is_local in [true, false] {
                let (ranges, whole) = read(meta, is_local).await;
                assert_eq!((ranges.unwrap(), whole.unwrap()), (b"1234".to_vec(), b"1234".to_vec()));
            }
        }
        // Of the same size and in the same second.
        let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(dir.path().join("g"), "5678").unwrap();
        std::fs::File::open(dir.path().join("g")).unwrap().set_modified(modified).unwrap();
        std::fs::rename(dir.path().join("g"), &file).unwrap();
        let refused = |(ranges, whole): (Result<Vec<u8>>, Result<Vec<u8>>)| {
            for error in [ranges.unwrap_err(), whole.unwrap_err()] {
                assert!(matches!(error, Error::Precondition { .. }) && error.to_string().contains("replaced"), "{error}");
            }
        };
        refused(read(&tagged, false).await);
        // Another host may have another tag for a local file.
        assert!(read(&tagged, true).await.1.is_ok());
        std::fs::File::open(&file).unwrap().set_modified(modified + std::time::Duration::from_millis(2)).unwrap();
        refused(read(&timed, true).await);
        std::fs::write(&file, "56789").unwrap();
        refused(read(&timed, true).await);
        refused(read(&timed, false).await);

        std::fs::remove_file(&file).unwrap();
        let logged = ObjectMeta { last_modified: std::time::UNIX_EPOCH.into(), ..timed.clone() };
        for (meta, word) in [(&timed, "MSCK"), (&logged, "VACUUM")] {
            for is_local in [true, false] {
                let (ranges, whole) = read(meta, is_local).await;
                for error in [ranges.unwrap_err(), whole.unwrap_err()] {
                    assert!(matches!(error, Error::NotFound { .. }) && error.to_string().contains(word), "{error}");
                }
            }
        }
    }
}
