//! What can go wrong with names.

use windlass_proto::Kind;

/// Result of a catalog operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed catalog operation. `Display` is for users.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A thing of some kind ("table", "database", "partition") does not exist.
    #[error("{what} '{name}' does not exist")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name as asked for.
        name: String,
    },
    /// The name is taken.
    #[error("{what} '{name}' already exists")]
    AlreadyExists {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The request makes no sense; the text says what to do instead.
    #[error("{0}")]
    Invalid(String),
    /// Windlass does not do this; the text says so.
    #[error("{0}")]
    Unsupported(String),
    /// A limit is reached; the text says which and how to ask for less.
    #[error("{0}")]
    Exhausted(String),
    /// A path or location outside of what the configuration allows.
    #[error("{0}")]
    Denied(String),
    /// Somebody else changed the table in between.
    #[error("table '{table}' was changed by another statement; run it again")]
    Conflict {
        /// Qualified table name.
        table: String,
    },
    /// A job was moved by somebody else while a statement read for it.
    #[error("job '{job}' has read table '{table}' on in another statement; run it again")]
    Advanced {
        /// The job.
        job: String,
        /// Qualified table name.
        table: String,
    },
    /// A write was given up before it was committed.
    #[error("the files that query '{query}' wrote cannot be committed: the write was given up; run it again")]
    Abandoned {
        /// The query.
        query: String,
    },
    /// A data file cannot be read or does not fit its table.
    #[error("file {url}: {reason}")]
    File {
        /// The file.
        url: String,
        /// Why, naming the column where it matters.
        reason: String,
    },
    /// The store failed.
    #[error("catalog store failed while it tried to {action}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// The database's error.
        #[source]
        cause: sqlx::Error,
    },
    /// Listing or reading an object store failed.
    #[error("cannot read {url}: {cause}")]
    ObjectStore {
        /// What was read.
        url: String,
        /// The store's error.
        #[source]
        cause: object_store::Error,
    },
    /// A bug of ours.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::Invalid(_) | Self::File { .. } => Kind::Invalid,
            Self::Unsupported(_) => Kind::Unsupported,
            Self::Exhausted(_) => Kind::Exhausted,
            Self::Denied(_) => Kind::Denied,
            Self::Store { cause, .. } if is_full(cause) => Kind::Exhausted,
            Self::Conflict { .. } | Self::Advanced { .. } | Self::Abandoned { .. } | Self::Store { .. } => Kind::Unavailable,
            Self::ObjectStore { cause, .. } => match cause {
                object_store::Error::NotFound { .. } => Kind::NotFound,
                object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Kind::Denied,
                object_store::Error::Precondition { .. } => Kind::Invalid,
                _ => Kind::Unavailable,
            },
            Self::Internal(_) => Kind::Internal,
        }
    }
}

/// Whether the disk that holds the catalog has no room: SQLite's code for it.
fn is_full(cause: &sqlx::Error) -> bool {
    cause.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "13")
}

impl From<Error> for datafusion::error::DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}
