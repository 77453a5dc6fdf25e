//! Notices when a job cannot end by itself. Pure.

use std::time::{Duration, Instant};

/// A job that could run and does not is reminded after this.
const NUDGE_AFTER: Duration = Duration::from_secs(3);

/// A job that could run and does not is started again after this. Resolving a stage takes milliseconds; this leaves room for a busy scheduler.
const RESTART_AFTER: Duration = Duration::from_secs(8);

/// A job that has no executor is given up after this.
const NO_EXECUTOR_AFTER: Duration = Duration::from_secs(12);

/// A job that is still being planned is given up after this.
const PLANNING_MAX: Duration = Duration::from_secs(60);

/// What is seen of a job at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    /// Its stages are being made.
    Planning,
    /// Its tasks run, wait or are missing.
    Running {
        /// Tasks that run on executors which are alive.
        running: usize,
        /// Partitions that wait for a slot.
        pending: usize,
        /// Slots that no job uses.
        free_slots: u32,
        /// Executors that take tasks.
        executors: usize,
    },
}

/// What to do about a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// Ask the scheduler to look for work once more.
    Nudge,
    /// Cancel it and run the query again.
    Restart,
    /// End the query: there are no executors.
    NoExecutors,
    /// End the query: it cannot be planned in time.
    PlanningTooLong,
}

/// How a job can be stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Planning,
    NoExecutors,
    Idle,
}

/// Watches one job.
#[derive(Debug, Default)]
pub struct Watchdog {
    since: Option<(Trouble, Instant)>,
    nudged: bool,
}

impl Watchdog {
    /// Takes note of what is seen at `now` and says what to do.
    pub fn observe(&mut self, pulse: Pulse, now: Instant) -> Verdict {
        let Some(trouble) = trouble(pulse) else {
            *self = Self::default();
            return Verdict::Wait;
        };
        let since = match self.since {
            Some((same, since)) if same == trouble => since,
            _ => {
                *self = Self { since: Some((trouble, now)), nudged: false };
                now
            }
        };
        let lasted = now.saturating_duration_since(since);
        match trouble {
            Trouble::Planning if lasted >= PLANNING_MAX => Verdict::PlanningTooLong,
            Trouble::NoExecutors if lasted >= NO_EXECUTOR_AFTER => Verdict::NoExecutors,
            Trouble::Idle if lasted >= RESTART_AFTER => Verdict::Restart,
            Trouble::Idle if lasted >= NUDGE_AFTER && !self.nudged => {
                self.nudged = true;
                Verdict::Nudge
            }
            _ => Verdict::Wait,
        }
    }
}

fn trouble(pulse: Pulse) -> Option<Trouble> {
    match pulse {
        Pulse::Planning => Some(Trouble::Planning),
        Pulse::Running { executors: 0, .. } => Some(Trouble::NoExecutors),
        // A task may take as long as it needs.
        Pulse::Running { running, .. } if running > 0 => None,
        // Other jobs use all slots: this one is in the queue.
        Pulse::Running { pending, free_slots: 0, .. } if pending > 0 => None,
        Pulse::Running { .. } => Some(Trouble::Idle),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(pulses: &[(u64, Pulse)]) -> Vec<Verdict> {
        let (start, mut watchdog) = (Instant::now(), Watchdog::default());
        pulses.iter().map(|(second, pulse)| watchdog.observe(*pulse, start + Duration::from_secs(*second))).collect()
    }

    fn running(running: usize, pending: usize, free_slots: u32, executors: usize) -> Pulse {
        Pulse::Running { running, pending, free_slots, executors }
    }

    #[test]
    fn an_idle_job_is_nudged_once_then_restarted() {
        let idle = running(0, 2, 2, 2);
        let seen = verdicts(&[(0, idle), (2, idle), (3, idle), (5, idle), (8, idle)]);
        assert_eq!(seen, [Verdict::Wait, Verdict::Wait, Verdict::Nudge, Verdict::Wait, Verdict::Restart]);
        let lost_stage = running(0, 0, 3, 3);
        assert_eq!(verdicts(&[(0, lost_stage), (8, lost_stage)])[1], Verdict::Restart, "nothing runs and nothing can");
    }

    #[test]
    fn any_progress_starts_the_clock_again() {
        let (idle, busy) = (running(0, 2, 2, 2), running(1, 2, 0, 2));
        assert_eq!(verdicts(&[(0, idle), (7, busy), (9, idle), (11, idle)])[3], Verdict::Wait);
    }

    #[test]
    fn long_tasks_and_full_clusters_are_no_trouble() {
        for healthy in [running(1, 0, 5, 3), running(0, 4, 0, 3)] {
            assert_eq!(verdicts(&[(0, healthy), (86_400, healthy)])[1], Verdict::Wait);
        }
    }

    #[test]
    fn without_executors_or_a_plan_it_ends() {
        let alone = running(0, 4, 0, 0);
        assert_eq!(verdicts(&[(0, alone), (12, alone)])[1], Verdict::NoExecutors);
        assert_eq!(verdicts(&[(0, Pulse::Planning), (60, Pulse::Planning)])[1], Verdict::PlanningTooLong);
        assert_eq!(verdicts(&[(0, Pulse::Planning), (60, running(0, 1, 1, 1))])[1], Verdict::Wait, "planning has ended");
    }
}
