//! Work that goes on for as long as the scheduler lives.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::sleep;
use tracing::error;

/// Pause before work that panicked is begun again.
const PAUSE: Duration = Duration::from_millis(300);

/// Does what ends only when it is told to. If it panics it is begun again, because without it all queries would wait for ever.
pub(super) async fn lasting<F>(what: &'static str, begin: impl Fn() -> F)
where
    F: Future<Output = ()>,
{
    while AssertUnwindSafe(begin()).catch_unwind().await.is_err() {
        error!(what, "a part of the staged engine panicked, and begins again");
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn what_panics_begins_again_until_it_ends() {
        let begun = Cell::new(0);
        lasting("test", || async {
            begun.set(begun.get() + 1);
            assert!(begun.get() > 1, "on purpose");
        })
        .await;
        assert_eq!(begun.get(), 2);
    }
}
