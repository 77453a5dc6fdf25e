//! What a client may show of a running query. Travels as `app_metadata` of `FlightInfo`.

use prost::Message;

/// Where a query is in its life; the last three are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum QueryState {
    /// Waits for admission.
    Queued = 0,
    /// Is parsed, resolved and planned.
    Planning = 1,
    /// Its tasks run.
    Running = 2,
    /// All its rows are produced.
    Finished = 3,
    /// Ended with an error.
    Failed = 4,
    /// Ended because somebody asked.
    Cancelled = 5,
}

impl QueryState {
    /// Whether nothing more will happen to the query.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }

    /// The name shown in `system.runtime.queries`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Planning => "PLANNING",
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// A snapshot of one query. Counters only grow, except `tasks_running` and after a task was lost.
#[derive(Clone, PartialEq, Message)]
pub struct Progress {
    /// The query's id.
    #[prost(string, tag = "1")]
    pub query_id: String,
    /// Where it is.
    #[prost(enumeration = "QueryState", tag = "2")]
    pub state: i32,
    /// Stages of the plan; 0 until it is planned.
    #[prost(uint32, tag = "3")]
    pub stages_total: u32,
    /// Stages whose output is complete.
    #[prost(uint32, tag = "4")]
    pub stages_done: u32,
    /// Partitions of all stages: the units of work.
    #[prost(uint32, tag = "5")]
    pub tasks_total: u32,
    /// Units of work that ended well.
    #[prost(uint32, tag = "6")]
    pub tasks_done: u32,
    /// Units of work that occupy slots now.
    #[prost(uint32, tag = "7")]
    pub tasks_running: u32,
    /// Rows read by finished scan tasks, and of a pipelined query also by those that run.
    #[prost(uint64, tag = "8")]
    pub rows_read: u64,
    /// Bytes read by finished scan tasks.
    #[prost(uint64, tag = "9")]
    pub bytes_read: u64,
    /// Milliseconds since the query was accepted.
    #[prost(uint64, tag = "10")]
    pub elapsed_ms: u64,
    /// Name of the engine that runs it: `local`, `staged`; empty until chosen.
    #[prost(string, tag = "11")]
    pub engine: String,
    /// How often an engine has begun to run it.
    #[prost(uint32, tag = "12")]
    pub attempts: u32,
    /// Why it was begun again, the last time; empty if it was not.
    #[prost(string, tag = "13")]
    pub rerun_reason: String,
    /// Files that its scans were planned to read.
    #[prost(uint64, tag = "14")]
    pub files_read: u64,
    /// Files of its tables that they were not, since partition keys and statistics show that they are not needed.
    #[prost(uint64, tag = "15")]
    pub files_pruned: u64,
    /// Row groups of the files read that finished scan tasks have left out.
    #[prost(uint64, tag = "16")]
    pub row_groups_pruned: u64,
}

impl Progress {
    /// Finished share of the known work, 0 to 1.
    pub fn fraction(&self) -> f64 {
        match self.state().is_final() {
            true => 1.0,
            false => f64::from(self.tasks_done) / f64::from(self.tasks_total.max(1)),
        }
    }
}
