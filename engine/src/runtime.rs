//! Memory, spill files, caches and files of one process.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use crate::Locations;

/// Consumers that an out-of-memory error names.
const NAMED_CONSUMERS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(5).expect("5 is not 0");

/// Limits of one process.
#[derive(Debug, Clone)]
pub struct RuntimeOptions {
    /// Bytes that operators may reserve. Reaching it makes them spill. The process may grow to two or three times this: batches in flight
    /// and decoders are not counted.
    pub memory_limit_bytes: u64,
    /// Where operators spill; made if absent.
    pub spill_dir: PathBuf,
    /// Bytes of spill files at one time; reaching it fails the query.
    pub spill_limit_bytes: u64,
    /// Bytes of Parquet footers and page indexes kept.
    pub metadata_cache_bytes: u64,
}

/// Makes the one runtime of a process. It opens local files under `locations` and nothing else.
pub fn build_runtime(options: &RuntimeOptions, locations: &Locations) -> Result<Arc<RuntimeEnv>> {
    let bytes = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(bytes(options.memory_limit_bytes)), NAMED_CONSUMERS)))
        .with_temp_file_path(&options.spill_dir)
        .with_max_temp_directory_size(options.spill_limit_bytes)
        .with_metadata_cache_limit(bytes(options.metadata_cache_bytes))
        // File lists come from the catalog: a cached listing could only be stale.
        .with_object_list_cache_limit(0)
        .with_object_store_registry(locations.registry())
        .build_arc()
}
