//! Which statements may be reading: files that went from a table stay as long as one that came before may need them.
//!
//! A statement reads what tables held when its planning began, which is before it is a query.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use windlass_catalog::Catalog;

/// All statements that are planned.
#[derive(Debug)]
pub struct Readers {
    catalog: Arc<dyn Catalog>,
    /// How many began at each moment.
    began: Mutex<BTreeMap<i64, usize>>,
}

impl Readers {
    /// Statements that will read this catalog: none yet.
    pub fn new(catalog: Arc<dyn Catalog>) -> Arc<Self> {
        Arc::new(Self { catalog, began: Mutex::default() })
    }

    /// A statement comes. It must be a query that runs, or have ended, before what this returns is dropped.
    pub fn begin(self: &Arc<Self>) -> Reader {
        let mut began = self.began.lock();
        // Whoever asks meanwhile waits for the lock, and then knows of it.
        let began_ms = self.catalog.settled_ms();
        *began.entry(began_ms).or_default() += 1;
        Reader { readers: Arc::clone(self), began_ms }
    }

    /// A moment, in milliseconds since 1970: what went before it, no statement that is planned or will come reads any more.
    pub fn oldest_ms(&self) -> i64 {
        // In this order: who comes in between sees all that is settled by then.
        let settled = self.catalog.settled_ms();
        let oldest = self.began.lock().keys().next().copied();
        oldest.map_or(settled, |oldest| oldest.min(settled))
    }
}

/// A statement that may read already, until this is dropped.
#[derive(Debug)]
pub struct Reader {
    readers: Arc<Readers>,
    began_ms: i64,
}

impl Reader {
    /// When it began, in milliseconds since 1970: what went before, it does not read.
    pub fn began_ms(&self) -> i64 {
        self.began_ms
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut began = self.readers.began.lock();
        if let Some(count) = began.get_mut(&self.began_ms) {
            *count -= 1;
            if *count == 0 {
                began.remove(&self.began_ms);
            }
        }
    }
}
