//! What an executor answers when the scheduler asks whether the tasks of a pipelined query get on: a Flight action without a body, whose
//! headers name the attempt as those of its stages do; one result.

use prost::{DecodeError, Message};

/// Name of the action.
pub const ACTION: &str = "windlass.pulse";

/// The answer; that of an executor which has no such tasks is all zero.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Pulse {
    /// How often code of the attempt has been entered since it came here.
    #[prost(uint64, tag = "1")]
    pub entered: u64,
    /// How often it has been left.
    #[prost(uint64, tag = "2")]
    pub left: u64,
    /// Rows that its scans have read so far.
    #[prost(uint64, tag = "3")]
    pub rows_read: u64,
}

impl Pulse {
    /// Whether code of the attempt was running when this was taken.
    pub fn is_busy(&self) -> bool {
        self.entered != self.left
    }

    /// The answer as it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Reads an answer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(bytes)
    }
}
