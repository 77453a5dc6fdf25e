//! Connections to other executors, kept for the next fetch.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::client_pool::{BallistaClientPool, PooledClient};
use ballista_core::error::Result;
use ballista_core::extension::BallistaConfigGrpcEndpoint;
use ballista_core::utils::GrpcClientConfig;

/// Idle connections kept to one executor.
const IDLE_MAX: usize = 16;

/// An idle connection is closed after this long.
const IDLE_TIME: Duration = Duration::from_secs(60);

type Peer = (String, u16, GrpcClientConfig);

#[derive(Default)]
struct Idle(Mutex<HashMap<Peer, Vec<(BallistaClient, Instant)>>>);

impl Idle {
    fn with<T>(&self, change: impl FnOnce(&mut HashMap<Peer, Vec<(BallistaClient, Instant)>>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn give_back(&self, peer: Peer, client: BallistaClient) {
        self.with(|idle| {
            let clients = idle.entry(peer).or_default();
            if clients.len() < IDLE_MAX {
                clients.push((client, Instant::now()));
            }
        });
    }

    fn evict(&self) {
        self.with(|idle| {
            idle.retain(|_, clients| {
                clients.retain(|(_, since)| since.elapsed() < IDLE_TIME);
                !clients.is_empty()
            });
        });
    }
}

/// A pool of connections. Each carries one fetch at a time: on a shared one, a slow reader would hold up the others.
#[derive(Clone)]
pub struct Connections {
    idle: Arc<Idle>,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connections")
    }
}

impl Connections {
    /// An empty pool, which closes idle connections while it lives. Must be called inside a tokio runtime.
    pub fn start() -> Self {
        let idle = Arc::new(Idle::default());
        let weak: Weak<Idle> = Arc::downgrade(&idle);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE_TIME / 2).await;
                match weak.upgrade() {
                    Some(idle) => idle.evict(),
                    None => break,
                }
            }
        });
        Self { idle }
    }
}

#[async_trait]
impl BallistaClientPool for Connections {
    async fn acquire(
        &self,
        host: &str,
        port: u16,
        config: &GrpcClientConfig,
        customize_endpoint: Option<Arc<BallistaConfigGrpcEndpoint>>,
    ) -> Result<PooledClient> {
        let peer = (host.to_owned(), port, config.clone());
        let client = match self.idle.with(|idle| idle.get_mut(&peer).and_then(Vec::pop)) {
            Some((client, _)) => client,
            None => {
                BallistaClient::try_new(
                    host,
                    port,
                    config.max_message_size,
                    config.use_tls,
                    customize_endpoint,
                    config.io_retries_times,
                    config.io_retry_wait_time_ms,
                    config.initial_connection_window_size,
                    config.initial_stream_window_size,
                )
                .await?
            }
        };
        let idle = Arc::clone(&self.idle);
        Ok(PooledClient::new(client, Box::new(move |client| idle.give_back(peer, client))))
    }

    async fn evict_idle(&self) {
        self.idle.evict();
    }
}
