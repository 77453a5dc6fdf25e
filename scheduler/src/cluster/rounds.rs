//! When tasks are bound to slots.
//!
//! A round looks at every job and every executor, so with a thousand of each, rounds after each task would cost more than the tasks. Rounds
//! that are short follow each other at once; after a long one there is a pause, and what happens meanwhile is for one round.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// Rounds up to this are no burden.
const SHORT: Duration = Duration::from_micros(500);

/// The pause after a round, in times of its length: rounds take a tenth of one core at most.
const PAUSE_FACTOR: u32 = 9;

/// Longest pause: a slot that is free waits no longer for its next task.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// A round that nobody wants begins after this: not all that Ballista does to a job is told to us, such as tasks that it lets run again.
const IDLE_MAX: Duration = Duration::from_millis(100);

/// The rounds of one scheduler.
#[derive(Debug, Default)]
pub struct Rounds {
    wanted: Notify,
    /// Whether partitions may wait for slots.
    waiting: AtomicBool,
}

impl Rounds {
    /// Asks for a round: tasks may have become ready, or slots free.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Asks for a round if somebody may wait for the slots that were given back.
    pub fn slots_freed(&self) {
        if self.waiting.load(Ordering::Acquire) {
            self.want();
        }
    }

    /// Waits until there is to be a round.
    pub async fn next(&self) {
        let _wanted_or_idle = timeout(IDLE_MAX, self.wanted.notified()).await;
        // A slot that is given back while the round looks elsewhere asks for another.
        self.waiting.store(true, Ordering::Release);
    }

    /// Ends a round; `waiting` are partitions that found no slot.
    pub fn end(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Release);
    }
}

/// How long to rest after a round that took so long.
pub fn pause_after(took: Duration) -> Duration {
    if took > SHORT { (took * PAUSE_FACTOR).min(PAUSE_MAX) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_pause_follows_a_long_round_and_is_bounded() {
        let pause = |micros| pause_after(Duration::from_micros(micros));
        assert_eq!((pause(500), pause(2_000), pause(9_000_000)), (Duration::ZERO, Duration::from_millis(18), PAUSE_MAX));
    }

    #[test]
    fn what_is_wanted_in_a_pause_is_for_one_round() {
        let rounds = Rounds::default();
        (0..1000).for_each(|_| rounds.want());
        assert!(rounds.wanted.notified().now_or_never().is_some());
        assert!(rounds.wanted.notified().now_or_never().is_none(), "once for all of them");
    }

    #[tokio::test]
    async fn slots_ask_for_a_round_only_if_somebody_may_wait_for_them() {
        let rounds = Rounds::default();
        rounds.want();
        rounds.next().await;
        rounds.slots_freed();
        assert!(rounds.wanted.notified().now_or_never().is_some(), "the round may have passed by");
        rounds.end(false);
        rounds.slots_freed();
        assert!(rounds.wanted.notified().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_round_comes_though_nobody_asks() {
        timeout(10 * IDLE_MAX, Rounds::default().next()).await.unwrap();
    }
}
