//! The allowed objects of one bucket.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::sync::Semaphore;

use super::cache::{Key, RANGE_BYTES_MAX, RangeCache};
use super::failed;
use super::secrets::{CleanedUpload, cleaned, cleaned_body, without_secrets};
use crate::locations::Locations;
use crate::pinned::Pin;

/// Most bytes that a read fetches before it returns. Longer ones are streamed.
const WHOLE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A bucket of which allowed objects alone can be used, by so many requests at a time.
///
/// A request holds its permit until its answer is here, never while a reader of rows takes its time: readers that wait for each other
/// would hold all permits. So answers of a known, bounded size are fetched at once.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    inner: Arc<dyn ObjectStore>,
    /// `s3://bucket`.
    store: String,
    locations: Locations,
    permits: Arc<Semaphore>,
    /// Small ranges of files that a plan knows.
    cache: Option<Arc<RangeCache>>,
}

impl Bucket {
    pub(super) fn new(
        inner: Arc<dyn ObjectStore>,
        store: String,
        locations: Locations,
        requests_max: usize,
        cache: Option<Arc<RangeCache>>,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(requests_max.min(Semaphore::MAX_PERMITS)));
        Self { inner, store, locations, permits, cache }
    }

    fn check(&self, path: &Path) -> Result<()> {
        match self.locations.allows(&self.store, path) {
            true => Ok(()),
            false => {
                let source = Box::new(self.locations.outside(&format!("{}/{path}", self.store)));
                Err(Error::PermissionDenied { path: path.to_string(), source })
            }
        }
    }

    fn check_prefix(&self, prefix: Option<&Path>) -> Result<()> {
        self.check(prefix.unwrap_or(&Path::ROOT))
    }

    async fn limited<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let _permit = self.permits.acquire().await.map_err(|closed| Error::Generic { store: "bucket", source: Box::new(closed) })?;
        request.await.map_err(|error| without_secrets(&self.store, error))
    }

    async fn request(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let is_short = matches!(&options.range, Some(GetRange::Bounded(range)) if length(range) <= WHOLE_BYTES_MAX);
        let has_body = !options.head;
        let request = async {
            let answer = self.inner.get_opts(location, options).await?;
            if is_short && has_body { whole(answer).await } else { Ok(cleaned_body(&self.store, answer)) }
        };
        self.limited(request).await
    }

    /// A range of the file that a plan knows, if need be by a request. What is not that file is not kept.
    async fn get_kept(
        &self,
        cache: Arc<RangeCache>,
        location: &Path,
        pin: Pin,
        range: Range<u64>,
        options: GetOptions,
    ) -> Result<GetResult> {
        let key = Key::new(&self.store, &pin.file, &range);
        let meta = pin.file.as_ref().clone();
        let (bucket, location) = (self.clone(), location.clone());
        let fetch = || async move {
            let answer = bucket.request(&location, options).await?;
            pin.check(&answer.meta)?;
            answer.bytes().await
        };
        let bytes = cache.read(key, fetch).await?;
        let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::new() })
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.store)
    }
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The answer with its body read.
async fn whole(answer: GetResult) -> Result<GetResult> {
    let (meta, range, attributes) = (answer.meta.clone(), answer.range.clone(), answer.attributes.clone());
    let bytes = answer.bytes().await?;
    let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes) }).boxed());
    Ok(GetResult { payload, meta, range, attributes })
}

// `get_ranges` is the trait's, which joins ranges that lie close and asks `get_opts` for the rest.
#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check(location)?;
        self.limited(self.inner.put_opts(location, payload, options)).await
    }

    /// The parts are not counted: one writer sends a few at a time.
    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.check(location)?;
        let inner = self.limited(self.inner.put_multipart_opts(location, options)).await?;
        Ok(Box::new(CleanedUpload { inner, bucket: self.store.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check(location)?;
        match (self.cache.as_ref(), options.extensions.get::<Pin>(), &options.range) {
            (Some(cache), Some(pin), Some(GetRange::Bounded(range)))
                if range.end <= pin.file.size && length(range) <= RANGE_BYTES_MAX && !options.head && pin.is_exact() =>
            {
                let (pin, range) = (pin.clone(), range.clone());
                self.get_kept(Arc::clone(cache), location, pin, range, options).await
            }
            _ => self.request(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let guard = self.clone();
        let checked = locations.map(move |location| location.and_then(|path| guard.check(&path).map(|()| path))).boxed();
        cleaned(&self.store, self.inner.delete_stream(checked))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check_prefix(prefix) {
            Ok(()) => cleaned(&self.store, self.inner.list(prefix)),
            Err(error) => failed(error),
        }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check_prefix(prefix) {
            Ok(()) => cleaned(&self.store, self.inner.list_with_offset(prefix, offset)),
            Err(error) => failed(error),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check_prefix(prefix)?;
        self.limited(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.limited(self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check(from)?;
        self.check(to)?;
        self.limited(self.inner.rename_opts(from, to, options)).await
    }
}
