//! When tasks are bound to slots.
//!
//! Ballista asks for tasks after every event. A round looks at every job and every executor, so with a thousand of each, rounds after each
//! task would cost more than the tasks. Rounds that are short follow each other at once; after a long one there is a pause, and what
//! happens meanwhile is for one round.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep_until, timeout};

/// Rounds up to this are no burden.
const SHORT: Duration = Duration::from_micros(500);

/// The pause after a round, in times of its length: rounds take a tenth of one core at most.
const PAUSE_FACTOR: u32 = 9;

/// Longest pause: a slot that is free waits no longer for its next task.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long a round that was asked for may take to begin; then it is asked for again.
const BEGIN_MAX: Duration = Duration::from_secs(1);

/// The rounds of one scheduler.
#[derive(Debug)]
pub struct Rounds {
    next: Mutex<Option<Instant>>,
    /// Rounds so far.
    begun: watch::Sender<u64>,
    wanted: Notify,
    /// Whether partitions may wait for slots.
    waiting: AtomicBool,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { next: Mutex::default(), begun: watch::Sender::new(0), wanted: Notify::new(), waiting: AtomicBool::new(false) }
    }
}

impl Rounds {
    /// Begins a round; if it is too early for one, remembers that it is wanted.
    pub fn begin(&self, now: Instant) -> bool {
        if self.next.lock().is_some_and(|next| now < next) {
            self.wanted.notify_one();
            return false;
        }
        self.begun.send_modify(|rounds| *rounds += 1);
        // A slot that is given back while the round looks elsewhere asks for another.
        self.waiting.store(true, Ordering::Release);
        true
    }

    /// Ends a round; `waiting` are partitions that found no slot.
    pub fn end(&self, began: Instant, now: Instant, waiting: bool) {
        let took = now.duration_since(began);
        *self.next.lock() = (took > SHORT).then(|| now + (took * PAUSE_FACTOR).min(PAUSE_MAX));
        self.waiting.store(waiting, Ordering::Release);
    }

    /// Slots were given back, and nobody else asks for a round because of it.
    pub fn slots_freed(&self) {
        if self.waiting.load(Ordering::Acquire) {
            self.wanted.notify_one();
        }
    }

    /// Has rounds begun with `ask`, one at a time, when they are wanted and due. Never returns.
    pub async fn ask_when_due<F: Future<Output = ()>>(&self, ask: impl Fn() -> F) {
        loop {
            self.wanted.notified().await;
            let mut begun = self.begun.subscribe();
            self.due().await;
            ask().await;
            let _late = timeout(BEGIN_MAX, begun.changed()).await;
        }
    }

    async fn due(&self) {
        loop {
            let next = *self.next.lock();
            match next.filter(|next| Instant::now() < *next) {
                Some(next) => sleep_until(next.into()).await,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn what_comes_in_the_pause_after_a_long_round_is_for_one_round() {
        let (rounds, start) = (Rounds::default(), Instant::now());
        let after = |micros| start + Duration::from_micros(micros);
        assert!(rounds.begin(start));
        rounds.end(start, after(500), true);
        assert!(rounds.begin(after(500)), "no pause follows a short one");
        rounds.end(after(500), after(2500), true);
        for _ in 0..1000 {
            assert!(!rounds.begin(after(20_499)));
            rounds.slots_freed();
        }
        assert!(rounds.wanted.notified().now_or_never().is_some());
        assert!(rounds.wanted.notified().now_or_never().is_none(), "once for all of them");
        assert!(rounds.begin(after(20_500)));
        rounds.end(after(20_500), after(9_000_000), true);
        assert!(rounds.begin(after(9_100_000)), "the pause is bounded");
    }

    #[test]
    fn slots_ask_for_a_round_only_if_somebody_may_wait_for_them() {
        let (rounds, now) = (Rounds::default(), Instant::now());
        assert!(rounds.begin(now));
        rounds.slots_freed();
        assert!(rounds.wanted.notified().now_or_never().is_some(), "the round may have passed by");
        rounds.end(now, now, false);
        rounds.slots_freed();
        assert!(rounds.wanted.notified().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_round_is_asked_for_once_until_it_begins() {
        let (rounds, (sender, mut asked)) = (Rounds::default(), mpsc::channel(9));
        let events = async {
            rounds.wanted.notify_one();
            asked.recv().await.unwrap();
            rounds.wanted.notify_one();
            assert!(timeout(Duration::from_millis(20), asked.recv()).await.is_err());
            assert!(rounds.begin(Instant::now()));
            asked.recv().await.unwrap();
        };
        tokio::select! {
            () = events => {}
            () = rounds.ask_when_due(|| async { sender.send(()).await.unwrap() }) => {}
        }
    }
}
