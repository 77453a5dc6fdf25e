//! The object stores of a process: local files and buckets, each guarded by [`Locations`], and how buckets are reached.
//!
//! Credentials come from the environment, from the machine's role or from files that an operator names; never from a statement. Errors
//! and logs repeat none of them.

mod cache;
mod credentials;
mod leftovers;
mod local;
pub(crate) mod ranges;
mod remote;
mod secrets;
mod uploads;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::stream::{BoxStream, StreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use serde::{Deserialize, Serialize};
use url::{Position, Url};

pub use self::cache::{RangeCache, RangeCounts};
use self::credentials::ProfileFile;
use self::local::AllowedFiles;
use self::remote::Bucket;
use crate::locations::{LocationError, Locations};

/// Time a server gets to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause before a request is repeated; each next one is longer, by chance up to twice.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a request is repeated.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// How often a request is repeated; the time for it usually ends before.
const RETRIES_MAX: usize = 20;

/// How a bucket is reached; one `[[stores]]` table of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreOptions {
    /// Which bucket: `s3://bucket`, `gs://bucket`, `az://container`, `abfss://container@account.dfs.core.windows.net`; `s3://` for all other
    /// buckets of the scheme.
    pub url: String,
    /// URL of the service, if it is not the cloud's own.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Whether the endpoint may be reached without TLS.
    pub allow_http: bool,
    /// Whether the bucket is part of the host's name instead of the path.
    pub virtual_hosted: bool,
    /// Whether requests are not signed: for public buckets.
    pub anonymous: bool,
    /// File with credentials instead of those of the environment or the machine's role: for S3 in the form of `~/.aws/credentials`, for GCS a
    /// service account in JSON, for Azure lines such as `account_key = ...`. It may be replaced at any time.
    pub credentials_file: Option<PathBuf>,
    /// Section of the credentials file, for S3 also of the shared one.
    pub profile: String,
    /// Requests to the bucket at the same time; others wait.
    pub requests_max: usize,
    /// Seconds one request may take, its body included.
    pub request_timeout_s: u64,
    /// Seconds in which a request that fails for no fault of ours is repeated.
    pub retry_timeout_s: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            url: String::new(),
            endpoint: None,
            region: None,
            allow_http: false,
            virtual_hosted: false,
            anonymous: false,
            credentials_file: None,
            profile: credentials::DEFAULT_PROFILE.to_owned(),
            requests_max: 64,
            request_timeout_s: 30,
            retry_timeout_s: 120,
        }
    }
}

impl StoreOptions {
    /// Errors: `Store` if no bucket can fit, or a limit lets nothing through.
    pub fn validate(&self) -> std::result::Result<(), LocationError> {
        let wrong = |reason: &str| Err(LocationError::Store { url: self.url.clone(), reason: reason.to_owned() });
        let known = ["s3://", "gs://", "az://", "abfss://"].iter().find_map(|scheme| self.url.strip_prefix(scheme));
        match known {
            None => return wrong("write the URL of a bucket: s3://, gs://, az:// or abfss://, with or without a name"),
            Some(bucket) if bucket.contains('/') => return wrong("name the bucket alone; 'allowed_locations' say which paths may be used"),
            Some(_) => {}
        }
        if self.requests_max == 0 || self.request_timeout_s == 0 {
            return wrong("'requests_max' and 'request_timeout_s' of 0 would let nothing through");
        }
        Ok(())
    }

    fn client(&self) -> ClientOptions {
        ClientOptions::new()
            .with_allow_http(self.allow_http)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(Duration::from_secs(self.request_timeout_s))
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: PAUSE_MAX, base: 2.0 },
            max_retries: RETRIES_MAX,
            retry_timeout: Duration::from_secs(self.retry_timeout_s),
        }
    }

    /// The store of a bucket, `s3://bucket`. No request is made.
    fn connect(&self, store: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
        let bucket = store.host_str().unwrap_or_default();
        match store.scheme() {
            "s3" => Ok(Arc::new(self.s3(bucket).build()?)),
            "gs" => self.connect_gcs(bucket),
            _ => self.connect_azure(store),
        }
    }

    fn s3(&self, bucket: &str) -> AmazonS3Builder {
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(self.client())
            .with_retry(self.retry())
            .with_skip_signature(self.anonymous)
            .with_virtual_hosted_style_request(self.virtual_hosted);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        let profile = match &self.credentials_file {
            Some(path) => Some((path.clone(), self.profile.clone())),
            None => credentials::shared_profile(&self.profile, |name| std::env::var_os(name)),
        };
        if let Some((path, profile)) = profile.filter(|_| !self.anonymous) {
            builder = builder.with_credentials(Arc::new(ProfileFile::new(path, profile)));
        }
        builder
    }

    fn connect_gcs(&self, bucket: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(self.client())
            .with_retry(self.retry())
            .with_skip_signature(self.anonymous);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        if let Some(path) = &self.credentials_file {
            builder = builder.with_service_account_path(path.display().to_string());
        }
        Ok(Arc::new(builder.build()?))
    }

    fn connect_azure(&self, store: &Url) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_client_options(self.client())
            .with_retry(self.retry())
            .with_skip_signature(self.anonymous);
        if let Some(path) = &self.credentials_file {
            for (key, value) in credentials::read_section(path, &self.profile)? {
                builder = builder.with_config(key.parse()?, value);
            }
        }
        let host = store.host_str().unwrap_or_default();
        builder = match &self.endpoint {
            // Containers of an endpoint are found below it, whatever host the URL names.
            Some(endpoint) if store.scheme() == "abfss" => {
                let account = host.split_once('.').map_or(host, |(account, _)| account);
                builder.with_endpoint(endpoint.clone()).with_account(account).with_container_name(store.username())
            }
            Some(endpoint) => builder.with_endpoint(endpoint.clone()).with_container_name(host),
            // Errors: a host that is none of Azure's.
            None => builder.with_url(store.as_str()),
        };
        Ok(Arc::new(builder.build()?))
    }
}

/// The stores of a process. None can be added: what a process may reach is decided when it starts.
#[derive(Debug)]
pub(crate) struct Registry {
    files: Arc<dyn ObjectStore>,
    locations: Locations,
    options: Arc<[StoreOptions]>,
    /// By scheme and bucket. Only allowed ones get in, which bounds it.
    buckets: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    /// Of all buckets.
    cache: Option<Arc<RangeCache>>,
}

impl Registry {
    pub(crate) fn new(locations: Locations, options: Arc<[StoreOptions]>, cache: Option<Arc<RangeCache>>) -> Self {
        Self { files: Arc::new(AllowedFiles::new(locations.clone())), locations, options, buckets: Mutex::default(), cache }
    }

    fn bucket(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let store = &url[..Position::BeforePath];
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = buckets.get(store) {
            return Ok(Arc::clone(known));
        }
        let options = options_for(&self.options, url);
        let failed = |error: object_store::Error| DataFusionError::Configuration(format!("store '{store}' cannot be used: {error}"));
        let inner = options.connect(url).map_err(failed)?;
        let cache = self.cache.as_ref().map(Arc::clone);
        let bucket: Arc<dyn ObjectStore> =
            Arc::new(Bucket::new(inner, store.to_owned(), self.locations.clone(), options.requests_max, cache));
        buckets.insert(store.to_owned(), Arc::clone(&bucket));
        Ok(bucket)
    }
}

impl ObjectStoreRegistry for Registry {
    /// Hands the store back unused.
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        tracing::warn!(scheme = url.scheme(), "refused to register an object store");
        Some(store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match url.scheme() {
            "file" => Ok(Arc::clone(&self.files)),
            "s3" | "gs" | "az" | "abfss" => match self.locations.allows_store(&url[..Position::BeforePath]) {
                true => self.bucket(url),
                false => {
                    let source = Box::new(self.locations.outside(&url[..Position::BeforePath]));
                    Err(DataFusionError::ObjectStore(Box::new(object_store::Error::PermissionDenied { path: String::new(), source })))
                }
            },
            scheme => {
                let error = LocationError::Scheme { location: url[..Position::BeforePath].to_owned(), scheme: scheme.to_owned() };
                Err(DataFusionError::NotImplemented(error.to_string()))
            }
        }
    }
}

/// How the store of a URL is reached. The longest fits best: the name of the bucket before the scheme alone.
fn options_for(options: &[StoreOptions], url: &Url) -> StoreOptions {
    let store = &url[..Position::BeforePath];
    let fitting = options.iter().filter(|options| options.url == store || options.url == format!("{}://", url.scheme()));
    fitting.max_by_key(|options| options.url.len()).cloned().unwrap_or_default()
}

fn failed<'a, T: Send + 'a>(error: object_store::Error) -> BoxStream<'a, object_store::Result<T>> {
    futures::stream::once(async move { Err(error) }).boxed()
}

#[cfg(test)]
pub(crate) mod tests;
