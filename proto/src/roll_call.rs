//! What an executor answers when the scheduler asks which tasks it runs, and for which jobs: a Flight action whose body is the executor's id, one result.
//!
//! The id is asked for because names of jobs open shuffle files, and because another executor may have taken the address.

use prost::{DecodeError, Message};

/// Name of the action.
pub const ACTION: &str = "windlass.running-tasks";

/// A task's name; no two attempts share one.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TaskName {
    /// The job, an attempt of a query.
    #[prost(string, tag = "1")]
    pub job: String,
    /// The stage.
    #[prost(uint64, tag = "2")]
    pub stage: u64,
    /// Its number in the stage.
    #[prost(uint64, tag = "3")]
    pub task: u64,
}

/// The answer.
#[derive(Clone, PartialEq, Message)]
pub struct RunningTasks {
    /// Tasks that have started and have not handed in how they ended.
    #[prost(message, repeated, tag = "1")]
    pub tasks: Vec<TaskName>,
    /// Jobs of which it may have files.
    #[prost(string, repeated, tag = "2")]
    pub jobs: Vec<String>,
}

impl RunningTasks {
    /// The answer as it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Reads an answer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(bytes)
    }
}
