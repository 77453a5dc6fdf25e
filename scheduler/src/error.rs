//! What can go wrong between a statement and its rows.

use datafusion::error::DataFusionError;
use windlass_proto::{ErrorDetail, Kind, QueryId};

/// Result of scheduler operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed statement. `Display` is for users; [`Error::kind`] is for callers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    detail: ErrorDetail,
}

impl Error {
    /// An error of `kind`; the message is a lower-case fragment that quotes user names.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: ErrorDetail::default() }
    }

    /// `Kind::Invalid`: the statement or its values are wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// `Kind::Unsupported`: Windlass does not do this.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// `Kind::Internal`: a broken invariant of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Adds what the user can do next.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.detail.hint = hint.into();
        self
    }

    /// Adds where in the SQL text it is; both from 1.
    pub fn at(mut self, line: u64, column: u64) -> Self {
        self.detail.line = u32::try_from(line).unwrap_or(0);
        self.detail.column = u32::try_from(column).unwrap_or(0);
        self
    }

    /// Adds the query it ended.
    pub fn in_query(mut self, id: &QueryId) -> Self {
        self.detail.query_id = id.to_string();
        self
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Hint and position.
    pub fn detail(&self) -> &ErrorDetail {
        &self.detail
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        error.detail.into_status(error.kind, error.message)
    }
}

impl From<windlass_catalog::Error> for Error {
    fn from(error: windlass_catalog::Error) -> Self {
        let mut message = error.to_string();
        if let windlass_catalog::Error::Store { cause, .. } = &error {
            message = format!("{message}: {cause}");
        }
        Self::new(error.kind(), message)
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        classify(error)
    }
}

impl From<datafusion::arrow::error::ArrowError> for Error {
    fn from(error: datafusion::arrow::error::ArrowError) -> Self {
        classify(DataFusionError::from(error))
    }
}

/// Maps DataFusion's causes to the few kinds; errors of ours that passed through DataFusion come back unchanged.
fn classify(error: DataFusionError) -> Error {
    use datafusion::arrow::error::ArrowError;
    let kind = match &error {
        DataFusionError::External(inner) => {
            if let Some(ours) = inner.downcast_ref::<Error>() {
                return ours.clone();
            }
            match inner.downcast_ref::<windlass_catalog::Error>() {
                Some(catalog) => return Error::new(catalog.kind(), catalog.to_string()),
                None => Kind::Internal,
            }
        }
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => return classify_inner(inner, &error),
        DataFusionError::Shared(inner) => return classify_inner(inner, &error),
        DataFusionError::Collection(all) => {
            return all.first().map_or_else(|| Error::internal(error.to_string()), |first| classify_inner(first, first));
        }
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::Configuration(_) => {
            Kind::Invalid
        }
        DataFusionError::ArrowError(arrow, _) => match arrow.as_ref() {
            ArrowError::MemoryError(_) => Kind::Exhausted,
            ArrowError::IoError(..) => Kind::Unavailable,
            ArrowError::IpcError(_) | ArrowError::CDataInterface(_) => Kind::Internal,
            _ => Kind::Invalid,
        },
        DataFusionError::NotImplemented(_) => Kind::Unsupported,
        DataFusionError::ResourcesExhausted(_) => Kind::Exhausted,
        DataFusionError::ObjectStore(cause) => match cause.as_ref() {
            object_store::Error::NotFound { .. } => Kind::NotFound,
            _ => Kind::Unavailable,
        },
        DataFusionError::IoError(_) => Kind::Unavailable,
        DataFusionError::Execution(_) | DataFusionError::ParquetError(_) => Kind::Invalid,
        _ => Kind::Internal,
    };
    Error::new(kind, error.strip_backtrace())
}

fn classify_inner(inner: &DataFusionError, outer: &DataFusionError) -> Error {
    let kind = match inner {
        DataFusionError::Context(_, deeper) | DataFusionError::Diagnostic(_, deeper) => classify_inner(deeper, deeper).kind,
        DataFusionError::Shared(deeper) => classify_inner(deeper, deeper).kind,
        DataFusionError::SQL(..) | DataFusionError::Plan(_) | DataFusionError::SchemaError(..) | DataFusionError::Configuration(_) => {
            Kind::Invalid
        }
        DataFusionError::Execution(_) | DataFusionError::ParquetError(_) | DataFusionError::ArrowError(..) => Kind::Invalid,
        DataFusionError::NotImplemented(_) => Kind::Unsupported,
        DataFusionError::ResourcesExhausted(_) => Kind::Exhausted,
        DataFusionError::External(deeper) => match (deeper.downcast_ref::<Error>(), deeper.downcast_ref::<windlass_catalog::Error>()) {
            (Some(ours), _) => return ours.clone(),
            (_, Some(catalog)) => return Error::new(catalog.kind(), catalog.to_string()),
            _ => Kind::Internal,
        },
        _ => Kind::Internal,
    };
    Error::new(kind, outer.strip_backtrace())
}
