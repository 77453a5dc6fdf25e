//! What crosses a wire between Windlass processes and their clients.
//!
//! Reading order: [`ids`] (typed identifiers), [`error`] (kinds of failure and how they travel in a gRPC status), [`progress`] (what a
//! client may show of a running query), [`session`] (the Flight SQL session messages that `arrow-flight` does not generate), [`roll_call`]
//! (which tasks an executor says it runs), [`pulse`] (whether those of a pipelined query get on).
//!
//! Admission test: *would another process have to decode it?* If not, it belongs to the room where it was born.

pub mod error;
pub mod ids;
pub mod progress;
pub mod pulse;
pub mod roll_call;
pub mod session;

pub use error::{ErrorDetail, Kind};
pub use ids::{QueryId, SessionId};
pub use progress::{Progress, QueryState};

/// Version of this build; scheduler and executors of one cluster must agree on it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
