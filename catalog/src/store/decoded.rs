//! Statistics of files, decoded once: a scan of a table of many columns would spend more time on them than on everything else.

use std::sync::Arc;

use datafusion::common::Statistics;
use moka::future::Cache;

use super::contents::decode_statistics;

/// Encoded bytes of the statistics that are kept decoded, which takes some times as much.
const BYTES_MAX: u64 = 32 * 1024 * 1024;

/// The bytes are the key, so that nothing in here is ever stale.
#[derive(Debug, Clone)]
pub(super) struct DecodedStatistics(Cache<(usize, Arc<[u8]>), Arc<Statistics>>);

impl DecodedStatistics {
    pub(super) fn new() -> Self {
        let weigh = |(_, bytes): &(usize, Arc<[u8]>), _: &Arc<Statistics>| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(BYTES_MAX).weigher(weigh).build())
    }

    /// Statistics of `columns` columns; `None` for bytes that cannot be read.
    pub(super) async fn get(&self, bytes: Arc<[u8]>, columns: usize) -> Option<Arc<Statistics>> {
        let key = (columns, bytes);
        if let Some(known) = self.0.get(&key).await {
            return Some(known);
        }
        let decoded = Arc::new(decode_statistics(&key.1, columns)?);
        self.0.insert(key, Arc::clone(&decoded)).await;
        Some(decoded)
    }
}
