//! Footers and small ranges of objects in buckets, kept on this machine's disk: the next query over them makes no request.
//!
//! A range is kept under the object that a plan was made for, so what is read is always what the catalog knows. What lies on the disk is
//! the process's own and goes with it; the index is in memory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::Hasher;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::Shared;
use object_store::{Error, ObjectMeta, Result};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// Longest range that is kept: what takes less time to send than to ask for. Readers ask for half of it to find a footer.
pub(super) const RANGE_BYTES_MAX: u64 = 1024 * 1024;
/// Most ranges at one time, whatever their length: each takes some 200 bytes of memory and a file.
const RANGES_MAX: usize = 100_000;

/// Which bytes of which object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    /// A range of the object that was planned.
    pub(super) fn new(store: &str, planned: &ObjectMeta, range: &Range<u64>) -> Self {
        let mut digest = Sha256::new();
        for text in [store, planned.location.as_ref()] {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        let changed = planned.last_modified;
        digest.update(changed.timestamp().to_le_bytes());
        digest.update(changed.timestamp_subsec_nanos().to_le_bytes());
        for number in [planned.size, range.start, range.end] {
            digest.update(number.to_le_bytes());
        }
        Self(digest.finalize().into())
    }
}

/// What a cache has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RangeCounts {
    /// Reads that made no request.
    pub hits: u64,
    /// Their bytes.
    pub hit_bytes: u64,
    /// Reads that made one.
    pub misses: u64,
    /// Their bytes.
    pub miss_bytes: u64,
    /// Ranges that were on the disk and could not be read, or were not what had been written. They are misses, too.
    pub spoilt: u64,
    /// Bytes on the disk now.
    pub kept_bytes: u64,
}

/// The ranges. Dropping it leaves the files to the owner of the directory.
#[derive(Debug)]
pub struct RangeCache {
    directory: PathBuf,
    bytes_max: u64,
    kept: Mutex<Kept>,
    /// What is being fetched. Those who want it, too, wait for it.
    coming: Mutex<HashMap<Key, Shared<oneshot::Receiver<Bytes>>>>,
    hits: AtomicU64,
    hit_bytes: AtomicU64,
    misses: AtomicU64,
    miss_bytes: AtomicU64,
    spoilt: AtomicU64,
    /// Whether a write failed: it is logged once.
    failed: AtomicBool,
}

/// What lies on the disk.
#[derive(Debug, Default)]
struct Kept {
    ranges: HashMap<Key, Place>,
    /// From the longest unused on.
    by_use: BTreeMap<u64, Key>,
    bytes: u64,
    /// Numbers uses and files.
    clock: u64,
}

/// A file that holds a range.
#[derive(Debug, Clone, Copy)]
struct Place {
    file: u64,
    bytes: u64,
    checksum: u64,
    used: u64,
}

impl Kept {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn find(&mut self, key: &Key) -> Option<Place> {
        let now = self.tick();
        let place = self.ranges.get_mut(key)?;
        self.by_use.remove(&place.used);
        self.by_use.insert(now, *key);
        place.used = now;
        Some(*place)
    }

    /// Takes a range out; returns its file.
    fn remove(&mut self, key: &Key) -> Option<u64> {
        let place = self.ranges.remove(key)?;
        self.by_use.remove(&place.used);
        self.bytes -= place.bytes;
        Some(place.file)
    }

    /// Adds a range that has been written. Returns the files that must go for it.
    fn insert(&mut self, key: Key, mut place: Place, bytes_max: u64) -> Vec<u64> {
        let mut gone: Vec<u64> = self.remove(&key).into_iter().collect();
        while self.bytes + place.bytes > bytes_max || self.ranges.len() >= RANGES_MAX {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            gone.extend(self.remove(&oldest));
        }
        place.used = self.tick();
        self.by_use.insert(place.used, key);
        self.bytes += place.bytes;
        self.ranges.insert(key, place);
        gone
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells what was written from what a broken disk gives back. Nobody else writes here.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl RangeCache {
    /// Keeps up to `bytes_max` bytes in `directory`, which exists and is nobody else's.
    pub fn new(directory: PathBuf, bytes_max: u64) -> Self {
        Self {
            directory,
            bytes_max,
            kept: Mutex::default(),
            coming: Mutex::default(),
            hits: AtomicU64::new(0),
            hit_bytes: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            miss_bytes: AtomicU64::new(0),
            spoilt: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// What it has done so far.
    pub fn counts(&self) -> RangeCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RangeCounts {
            hits: count(&self.hits),
            hit_bytes: count(&self.hit_bytes),
            misses: count(&self.misses),
            miss_bytes: count(&self.miss_bytes),
            spoilt: count(&self.spoilt),
            kept_bytes: lock(&self.kept).bytes,
        }
    }

    /// The bytes of a range: from the disk, from a reader that fetches them at this moment, or fetched.
    ///
    /// Fetching goes on in a task of its own: a reader that nobody polls for a while must not stop those who wait for the same bytes.
    pub(super) async fn read<F>(self: &Arc<Self>, key: Key, fetch: impl FnOnce() -> F + Send + 'static) -> Result<Bytes>
    where
        F: Future<Output = Result<Bytes>> + Send + 'static,
    {
        let coming = {
            let mut coming = lock(&self.coming);
            match coming.get(&key) {
                Some(others) => Ok(others.clone()),
                None => {
                    let (sender, receiver) = oneshot::channel();
                    coming.insert(key, receiver.shared());
                    Err((sender, Turn { cache: Arc::clone(self), key }))
                }
            }
        };
        match coming {
            Ok(others) => match others.await {
                Ok(bytes) => {
                    self.count_hit(&bytes);
                    Ok(bytes)
                }
                // Theirs failed: the error is theirs, too.
                Err(_) => fetch().await,
            },
            Err((sender, turn)) => {
                let own = tokio::spawn(Arc::clone(self).find_or_fetch(turn, sender, fetch));
                own.await.map_err(|source| Error::JoinError { source })?
            }
        }
    }

    async fn find_or_fetch<F>(self: Arc<Self>, turn: Turn, others: oneshot::Sender<Bytes>, fetch: impl FnOnce() -> F) -> Result<Bytes>
    where
        F: Future<Output = Result<Bytes>>,
    {
        let bytes = match self.find(turn.key).await {
            Some(bytes) => {
                self.count_hit(&bytes);
                bytes
            }
            None => {
                let bytes = fetch().await?;
                self.misses.fetch_add(1, Ordering::Relaxed);
                self.miss_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.keep(turn.key, bytes.clone()).await;
                bytes
            }
        };
        // They may all be gone.
        let _ = others.send(bytes.clone());
        Ok(bytes)
    }

    fn count_hit(&self, bytes: &Bytes) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.hit_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn path(&self, file: u64) -> PathBuf {
        self.directory.join(file.to_string())
    }

    async fn find(self: &Arc<Self>, key: Key) -> Option<Bytes> {
        let place = lock(&self.kept).find(&key)?;
        let path = self.path(place.file);
        let read = spawn_blocking(move || fs::read(path)).await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
        match read {
            Ok(bytes) if bytes.len() as u64 == place.bytes && checksum(&bytes) == place.checksum => Some(bytes.into()),
            _ => {
                // Unless another range needed the room in the meantime.
                let gone = {
                    let mut kept = lock(&self.kept);
                    if kept.ranges.get(&key).is_some_and(|now| now.file == place.file) { kept.remove(&key) } else { None }
                };
                if let Some(gone) = gone {
                    self.spoilt.fetch_add(1, Ordering::Relaxed);
                    self.delete(vec![gone]).await;
                }
                None
            }
        }
    }

    /// A range that cannot be kept is none: queries do not fail for it.
    async fn keep(self: &Arc<Self>, key: Key, bytes: Bytes) {
        let length = bytes.len() as u64;
        if length > self.bytes_max {
            return;
        }
        let file = lock(&self.kept).tick();
        let path = self.path(file);
        let written = spawn_blocking(move || {
            let checksum = checksum(&bytes);
            fs::write(&path, &bytes).map(|()| checksum).inspect_err(|_| drop(fs::remove_file(&path)))
        });
        match written.await.unwrap_or_else(|ended| Err(io::Error::other(ended))) {
            Ok(checksum) => {
                let gone = lock(&self.kept).insert(key, Place { file, bytes: length, checksum, used: 0 }, self.bytes_max);
                self.delete(gone).await;
            }
            Err(error) => {
                if !self.failed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(directory = %self.directory.display(), %error, "cannot keep what was read from a bucket");
                }
            }
        }
    }

    async fn delete(&self, files: Vec<u64>) {
        if files.is_empty() {
            return;
        }
        let paths: Vec<_> = files.into_iter().map(|file| self.path(file)).collect();
        // What cannot be deleted goes with the directory.
        let _ = spawn_blocking(move || paths.iter().for_each(|path| drop(fs::remove_file(path)))).await;
    }
}

/// The right to fetch a range; however it ends, the next reader may.
struct Turn {
    cache: Arc<RangeCache>,
    key: Key,
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&self.cache.coming).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;

    fn key(number: u64) -> Key {
        let location = "t/a".into();
        let planned = ObjectMeta { location, last_modified: std::time::UNIX_EPOCH.into(), size: 100, e_tag: None, version: None };
        Key::new("s3://lake", &planned, &(number..number + 1))
    }

    /// Reads a range whose bytes are its number ten times; counts requests.
    async fn read(cache: &Arc<RangeCache>, requests: &Arc<AtomicU64>, number: u64) -> Vec<u8> {
        let requests = Arc::clone(requests);
        let fetch = move || {
            requests.fetch_add(1, Ordering::Relaxed);
            async move {
                sleep(Duration::from_millis(20)).await;
                Ok(Bytes::from(vec![number as u8; 10]))
            }
        };
        cache.read(key(number), fetch).await.unwrap().to_vec()
    }

    #[tokio::test]
    async fn a_range_is_fetched_once_and_again_when_it_is_spoilt_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(RangeCache::new(dir.path().to_owned(), 30));
        let requests = Arc::new(AtomicU64::new(0));
        let asked = || requests.load(Ordering::Relaxed);
        let files = || fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();

        let readers = (0..8).map(|_| read(&cache, &requests, 1));
        assert!(futures::future::join_all(readers).await.iter().all(|bytes| bytes == &[1; 10]));
        assert_eq!((asked(), files().len()), (1, 1), "one request for all");
        read(&cache, &requests, 1).await;
        assert_eq!(asked(), 1);
        assert_eq!((cache.counts().hits, cache.counts().misses), (8, 1));

        // Other bytes, cut off, gone.
        for (at, damage) in [&[2; 10][..], &[1; 9]].iter().enumerate() {
            fs::write(&files()[0], damage).unwrap();
            assert_eq!(read(&cache, &requests, 1).await, [1; 10]);
            assert_eq!((cache.counts().spoilt, asked(), files().len()), (at as u64 + 1, at as u64 + 2, 1));
        }
        fs::remove_file(&files()[0]).unwrap();
        assert_eq!(read(&cache, &requests, 1).await, [1; 10]);
        assert_eq!(cache.counts().spoilt, 3);

        // The longest unused goes.
        for number in [2, 3, 1, 4] {
            read(&cache, &requests, number).await;
        }
        let before = asked();
        for number in [3, 1, 4] {
            assert_eq!(read(&cache, &requests, number).await, [number as u8; 10]);
        }
        assert_eq!((asked(), files().len(), cache.counts().kept_bytes), (before, 3, 30));
        read(&cache, &requests, 2).await;
        assert_eq!(asked(), before + 1);
    }

    #[tokio::test]
    async fn errors_are_not_kept_and_stop_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Arc::new(RangeCache::new(dir.path().to_owned(), 30));
        let fails = || async {
            sleep(Duration::from_millis(5)).await;
            Err(Error::Generic { store: "test", source: "no".into() })
        };
        let requests = Arc::new(AtomicU64::new(0));
        let (failed, found) = tokio::join!(cache.read(key(1), fails), read(&cache, &requests, 1));
        assert!(failed.is_err());
        assert_eq!(found, [1; 10]);
        assert!(lock(&cache.coming).is_empty());

        // A reader that is not polled any more, as one below a join that reads its other side first.
        let mut stopped = Box::pin(read(&cache, &requests, 7));
        assert!(futures::poll!(&mut stopped).is_pending());
        assert_eq!(read(&cache, &requests, 7).await, [7; 10]);
        assert_eq!(requests.load(Ordering::Relaxed), 2);
    }
}
