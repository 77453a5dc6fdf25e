//! Whose fault a failed attempt is. Errors of executors come back as DataFusion's, those of the network as text at best.

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use windlass_engine::pipelined::fate::is_panic;

use crate::error::is_disk_full;

/// What an executor says that waits in vain for its plan: the scheduler lost the connection to another one meanwhile, or is very busy.
const NO_PLAN: &str = "timed-out while waiting for the plan";

/// Who or what is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The query, its data, or a bug in a function: another attempt would end the same way.
    Query,
    /// An executor or the network.
    Cluster,
    /// Memory: an engine that spills more may get by with what there is.
    Memory,
}

/// Whom to blame. What cannot be told is the cluster's: the other engine fails again if it is the query's after all.
pub fn blame(error: &DataFusionError) -> Blame {
    // The other engine writes more.
    if is_panic(error) || is_disk_full(&error.to_string()) {
        return Blame::Query;
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => Blame::Memory,
        DataFusionError::ArrowError(cause, _) => match cause.as_ref() {
            ArrowError::MemoryError(_) => Blame::Memory,
            ArrowError::IpcError(_) | ArrowError::IoError(..) => Blame::Cluster,
            _ => Blame::Query,
        },
        DataFusionError::ObjectStore(cause) => match cause.as_ref() {
            object_store::Error::NotFound { .. } => Blame::Query,
            _ => Blame::Cluster,
        },
        DataFusionError::Execution(text) if !text.contains(NO_PLAN) => Blame::Query,
        DataFusionError::External(cause) if cause.is::<crate::Error>() => Blame::Query,
        // An executor says so of an operator that it does not know as harmless; the other engine may.
        DataFusionError::NotImplemented(_)
        | DataFusionError::External(_)
        | DataFusionError::Execution(_)
        | DataFusionError::ExecutionJoin(_)
        | DataFusionError::Internal(_)
        | DataFusionError::IoError(_) => Blame::Cluster,
        _ => Blame::Query,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Status;

    use super::*;

    #[test]
    fn errors_of_users_are_not_tried_again_and_those_of_the_cluster_are() {
        let arrow = |error| DataFusionError::ArrowError(Box::new(error), None);
        let external = |text: &str| DataFusionError::External(text.into());
        for (error, expected) in [
            (arrow(ArrowError::DivideByZero), Blame::Query),
            (arrow(ArrowError::CastError("cannot cast 'x'".to_owned())), Blame::Query),
            (DataFusionError::Execution("cannot read file '/a': corrupt".to_owned()), Blame::Query),
            (DataFusionError::NotImplemented("the pipelined engine does not run XExec".to_owned()), Blame::Cluster),
            (DataFusionError::Execution("an operator or function panicked: row 7".to_owned()), Blame::Query),
            (DataFusionError::ResourcesExhausted("no room".to_owned()), Blame::Memory),
            (DataFusionError::IoError(std::io::Error::from_raw_os_error(28)), Blame::Query),
            (DataFusionError::Context("join".to_owned(), Box::new(DataFusionError::ResourcesExhausted("no".to_owned()))), Blame::Memory),
            (DataFusionError::External(Box::new(Status::unavailable("tcp connect error"))), Blame::Cluster),
            (external("status: Unknown, message: \"h2 protocol error\""), Blame::Cluster),
            (DataFusionError::IoError(std::io::Error::other("broken pipe")), Blame::Cluster),
            (DataFusionError::Internal("stream was already consumed".to_owned()), Blame::Cluster),
            (DataFusionError::Execution(format!("Worker::execute_task {NO_PLAN} to be set")), Blame::Cluster),
        ] {
            assert_eq!(blame(&error), expected, "{error}");
            // As it comes out of an exchange that several partitions share.
            let shared = DataFusionError::Shared(Arc::new(error));
            assert_eq!(blame(&shared), expected, "{shared}");
        }
        let ours = DataFusionError::External(Box::new(crate::Error::internal("a batch does not fit the promised schema")));
        assert_eq!(blame(&ours), Blame::Query);
    }
}
