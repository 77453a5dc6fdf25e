//! Whether an attempt gets on while somebody waits for its rows. Executors are asked; what their answers mean is decided without a clock, so
//! that a scheduler which was stopped for a while blames nobody for it.

use std::fmt;
use std::time::Duration;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use futures::{StreamExt, stream};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::Request;
use tonic::metadata::MetadataMap;
use tracing::debug;
use url::Url;
use windlass_engine::pipelined::QueryToken;
use windlass_proto::pulse::{ACTION, Pulse};

use super::members::Members;
use super::plan::Links;

/// How often executors are asked until an attempt counts as stalled.
const QUESTIONS: u32 = 8;

/// How long one executor may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Executors that are asked at the same time.
const ASKED_AT_ONCE_MAX: usize = 32;

/// How an attempt can be stalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The executor at this position has not answered at all.
    Silent(usize),
    /// None has run code of it.
    Idle,
}

/// What earlier answers have shown.
#[derive(Debug)]
struct Watch {
    last: Vec<Pulse>,
    unanswered: Vec<u32>,
    idle: u32,
}

impl Watch {
    fn new(executors: usize) -> Self {
        Self { last: vec![Pulse::default(); executors], unanswered: vec![0; executors], idle: 0 }
    }

    /// Takes note of the answers to one question, in the order of the executors.
    fn observe(&mut self, answers: &[Option<Pulse>]) -> Option<Trouble> {
        let mut gets_on = false;
        for (executor, answer) in answers.iter().enumerate() {
            match answer {
                Some(pulse) => {
                    gets_on |= pulse.is_busy() || *pulse != self.last[executor];
                    (self.last[executor], self.unanswered[executor]) = (*pulse, 0);
                }
                None => self.unanswered[executor] += 1,
            }
        }
        self.idle = if gets_on { 0 } else { self.idle + 1 };
        match self.unanswered.iter().position(|unanswered| *unanswered >= QUESTIONS) {
            Some(executor) => Some(Trouble::Silent(executor)),
            None => (self.idle >= QUESTIONS).then_some(Trouble::Idle),
        }
    }
}

/// Why an attempt is given up.
#[derive(Debug)]
pub struct Stall {
    executor: Option<String>,
    limit: Duration,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit.as_secs();
        match &self.executor {
            Some(executor) => write!(f, "executor {executor} has not answered for {limit} s"),
            None => write!(f, "no executor has got on for {limit} s"),
        }
    }
}

/// Waits until no executor has got on with an attempt for `limit`, or one has not answered for as long.
pub async fn stalled(members: &Members, token: &QueryToken, links: &Links, limit: Duration) -> Stall {
    let mut watch = Watch::new(members.len());
    let pause = limit / QUESTIONS;
    let mut due = interval_at(Instant::now() + pause, pause);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let answers = pulses(members, token, links, pause.min(ANSWER_MAX)).await;
        let executor = match watch.observe(&answers) {
            Some(Trouble::Silent(executor)) => members.ids().nth(executor).map(str::to_owned),
            Some(Trouble::Idle) => None,
            None => continue,
        };
        return Stall { executor, limit };
    }
}

/// Asks all executors of an attempt, each of which has `limit` to answer. In their order.
pub async fn pulses(members: &Members, token: &QueryToken, links: &Links, limit: Duration) -> Vec<Option<Pulse>> {
    // Not mapped by the stream, whose closures the compiler takes for less general than they are.
    let asked: Vec<_> = members.urls().map(|url| ask(url, token, links, limit)).collect();
    stream::iter(asked).buffered(ASKED_AT_ONCE_MAX).collect().await
}

/// Asks one executor; nothing if it does not answer within `limit`.
async fn ask(url: &Url, token: &QueryToken, links: &Links, limit: Duration) -> Option<Pulse> {
    let asked = async {
        let metadata = MetadataMap::from_headers(token.headers(links.key.as_ref())?);
        let action = Action { r#type: ACTION.to_owned(), body: Vec::new().into() };
        let request = Request::from_parts(metadata, tonic::Extensions::default(), action);
        let mut results = FlightServiceClient::new(links.channels.channel(url)?).do_action(request).await?.into_inner();
        let answer = results.message().await?.ok_or("an empty answer")?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Pulse::from_bytes(&answer.body)?)
    };
    timeout(limit, asked).await.ok()?.inspect_err(|error| debug!(%url, error, "an executor does not tell how a query gets on")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse(entered: u64, left: u64) -> Option<Pulse> {
        Some(Pulse { entered, left, ..Pulse::default() })
    }

    /// The last finding of so many equal answers.
    fn last(watch: &mut Watch, answers: &[Option<Pulse>], times: u32) -> Option<Trouble> {
        (0..times).map(|_| watch.observe(answers)).last().flatten()
    }

    #[test]
    fn an_attempt_that_no_executor_gets_on_with_is_stalled() {
        let mut watch = Watch::new(2);
        let waits = [pulse(7, 7), pulse(3, 3)];
        assert_eq!(last(&mut watch, &waits, QUESTIONS), None, "the first answer is news");
        assert_eq!(last(&mut watch, &[pulse(7, 7), pulse(4, 4)], QUESTIONS), None, "one of them gets on");
        assert_eq!(last(&mut watch, &[pulse(7, 7), pulse(4, 4)], 1), Some(Trouble::Idle));
        // Executors that know nothing of it will not get on.
        assert_eq!(last(&mut Watch::new(2), &[pulse(0, 0), pulse(0, 0)], QUESTIONS), Some(Trouble::Idle));
    }

    #[test]
    fn code_that_runs_for_long_is_no_stall_and_silence_is() {
        let mut watch = Watch::new(2);
        let computes = [pulse(8, 7), pulse(3, 3)];
        assert_eq!(last(&mut watch, &computes, 10 * QUESTIONS), None);
        assert_eq!(last(&mut watch, &[computes[0], None], QUESTIONS - 1), None);
        assert_eq!(last(&mut watch, &computes, 1), None, "it has answered again");
        assert_eq!(last(&mut watch, &[computes[0], None], QUESTIONS), Some(Trouble::Silent(1)), "whatever the other does");
    }
}
