//! Why a command ended, and the exit code that tells a script.

use std::io;

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use parquet::errors::ParquetError;
use tonic::Status;
use windlass_proto::{ErrorDetail, Kind};

use crate::output::display_width;
use crate::script::Statement;

/// Result of client operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What stopped the client. `Display` is for users; [`Error::exit_code`] is for scripts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster could not be reached, or refused who we are.
    #[error("cannot talk to '{uri}': {cause}")]
    Connection {
        /// Where we tried.
        uri: String,
        /// What the network, TLS or the login answered.
        cause: String,
        /// What to try next; may be empty.
        hint: String,
    },
    /// The cluster answered a statement with an error.
    #[error("{message}")]
    Query {
        /// What the caller can do about it.
        kind: Kind,
        /// The cluster's words, without the hint.
        message: String,
        /// Query id, hint and position.
        detail: ErrorDetail,
        /// The statement and the line of the script on which it starts, from 1, once they are known.
        source_text: Option<(String, usize)>,
    },
    /// The command line or a meta command makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Somebody pressed Ctrl-C.
    #[error("cancelled")]
    Cancelled,
    /// A local file, pipe or process failed.
    #[error("cannot {doing}: {cause}")]
    Io {
        /// What was tried, as in `write 'x.csv'`.
        doing: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A local cluster did not start or did not stay up.
    #[error("{0}")]
    Cluster(String),
    /// A process that a local cluster cannot be without ended by itself.
    #[error("{report}")]
    Ended {
        /// How, with the end of its log.
        report: String,
        /// Its exit code; 128 and the signal if it was killed.
        code: u8,
    },
    /// Rows could not be written in the chosen format.
    #[error("cannot write the rows: {0}")]
    Format(String),
}

impl Error {
    /// 1 query error, 2 usage, 3 connection, 130 cancelled, that of a process which ended; a closed pipe is the reader's wish and no error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Connection { .. } => 3,
            Self::Cancelled | Self::Query { kind: Kind::Cancelled, .. } => 130,
            Self::Io { cause, .. } if cause.kind() == io::ErrorKind::BrokenPipe => 0,
            // Nobody asked it to end: 0 would be a lie.
            Self::Ended { code, .. } => (*code).max(1),
            Self::Query { .. } | Self::Io { .. } | Self::Cluster(_) | Self::Format(_) => 1,
        }
    }

    /// Wraps an I/O error with what was tried.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        |cause| Self::Io { doing, cause }
    }

    /// The cluster at `uri` is out of reach.
    pub fn connection(uri: &str, cause: impl Into<String>) -> Self {
        Self::Connection { uri: uri.to_string(), cause: cause.into(), hint: String::new() }
    }

    /// Adds to an error of connecting what most likely helps; `anonymous` says that no user was named.
    pub fn advised(mut self, anonymous: bool) -> Self {
        if let Self::Connection { uri, cause, hint } = &mut self {
            let tls = uri.starts_with("grpc+tls:");
            // TLS errors arrive as text only.
            let advice = match cause.as_str() {
                cause if cause.contains("credentials are required") && anonymous => {
                    "name a user with --user NAME, WINDLASS_USER or grpc+tls://NAME@host:port; the password comes from WINDLASS_PASSWORD or is asked for"
                }
                cause if cause.contains("UnknownIssuer") => {
                    "name the PEM file of the authority that signed its certificate with --tls-ca FILE"
                }
                cause if cause.contains("not valid for name") => "connect by a name that the certificate is for",
                cause if cause.contains("CaUsedAsEndEntity") => {
                    "the server shows an authority's own certificate; give it one with basicConstraints=CA:FALSE, which may be self-signed"
                }
                cause if cause.contains("Connection refused") => {
                    "nothing listens there; 'windlass up' starts a cluster on this machine and prints its address"
                }
                cause if cause.contains("InvalidContentType") => "the server does not speak TLS; try grpc://",
                cause if !tls && ["connection closed", "broken pipe", "reset", "frame"].iter().any(|word| cause.contains(word)) => {
                    "if the server speaks TLS, try grpc+tls://"
                }
                _ => return self,
            };
            *hint = advice.to_string();
        }
        self
    }

    /// Sorts a gRPC status: one that never came over the wire, or that refuses a login, is a matter of the connection.
    pub fn from_status(uri: &str, status: &Status) -> Self {
        let kind = Kind::from_code(status.code());
        if status.message().starts_with("grpc-status header missing") {
            let (cause, hint) = ("the server speaks HTTP only", "clients use another port, that of the grpc:// address");
            return Self::Connection { uri: uri.to_string(), cause: cause.into(), hint: hint.into() };
        }
        if std::error::Error::source(status).is_some() {
            return Self::connection(uri, deepest(status));
        }
        let detail = ErrorDetail::from_status(status);
        let suffix = format!("; hint: {}", detail.hint);
        let message = status.message().strip_suffix(&suffix).unwrap_or_else(|| status.message()).to_string();
        if kind == Kind::Unauthenticated {
            return Self::Connection { uri: uri.to_string(), cause: message, hint: detail.hint };
        }
        Self::Query { kind, message, detail, source_text: None }
    }

    /// Sorts an error of a Flight stream.
    pub fn from_flight(uri: &str, error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Self::from_status(uri, &status),
            other => Self::connection(uri, other.to_string()),
        }
    }

    /// Adds the statement it is about, so that [`Error::report`] can point at it.
    pub fn located(mut self, statement: Statement<'_>) -> Self {
        if let Self::Query { source_text, .. } = &mut self {
            *source_text = Some((statement.sql.to_string(), statement.line));
        }
        self
    }

    /// The error as a terminal shows it: message, the line it is about with a caret, hint, query id.
    pub fn report(&self) -> String {
        let (kind, detail, source_text) = match self {
            Self::Query { kind, detail, source_text, .. } => (kind, detail, source_text),
            Self::Connection { hint, .. } if !hint.is_empty() => return format!("error: {self}\nhint: {hint}"),
            _ => return format!("error: {self}"),
        };
        let mut text = format!("error[{}]: {self}", kind.name());
        let line = usize::try_from(detail.line).unwrap_or(0);
        let source = source_text.as_ref().and_then(|(sql, first)| Some((sql.lines().nth(line.checked_sub(1)?)?, first + line - 1)));
        if let Some((source, number)) = source {
            let gutter = number.to_string();
            let column = usize::try_from(detail.column).unwrap_or(0).max(1);
            let before = source.char_indices().nth(column - 1).map_or(source, |(end, _)| &source[..end]);
            // Tabs stay tabs, so that the caret stands under the character on any terminal.
            let pad = before.split('\t').map(|text| " ".repeat(display_width(text))).collect::<Vec<_>>().join("\t");
            text.push_str(&format!("\n{gutter} | {source}\n{:width$} | {pad}^", "", width = gutter.len()));
        }
        if !detail.hint.is_empty() {
            text.push_str(&format!("\nhint: {}", detail.hint));
        }
        if !detail.query_id.is_empty() {
            text.push_str(&format!("\nquery: {}", detail.query_id));
        }
        text
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::IoError(_, cause) => Self::Io { doing: "write the rows".into(), cause },
            other => Self::Format(other.to_string()),
        }
    }
}

impl From<ParquetError> for Error {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(cause) => match cause.downcast::<io::Error>() {
                Ok(cause) => Self::Io { doing: "write the rows".into(), cause: *cause },
                Err(other) => Self::Format(other.to_string()),
            },
            other => Self::Format(other.to_string()),
        }
    }
}

/// The last cause of a chain: tonic's own words ("transport error") say nothing.
fn deepest(status: &Status) -> String {
    let mut text = status.message().to_string();
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query_error(hint: &str) -> Error {
        let detail = ErrorDetail { query_id: "q7".into(), hint: hint.into(), line: 2, column: 3 };
        Error::from_status("grpc://x", &detail.into_status(Kind::NotFound, "table 't' not found"))
    }

    #[test]
    fn caret_stands_under_the_column_and_the_hint_comes_once() {
        let report = |sql| query_error("did you mean 'tt'?").located(Statement { sql, line: 10 }).report();
        let expected = "error[NOT_FOUND]: table 't' not found\n11 | \tfrom t\n   | \t ^\nhint: did you mean 'tt'?\nquery: q7";
        assert_eq!(report("select *\n\tfrom t"), expected);
        // A wide character takes two columns, a combining one none.
        assert!(report("select *\n表te t").contains("\n11 | 表te t\n   |    ^\n"), "{}", report("select *\n表te t"));
    }

    #[test]
    fn an_address_where_no_flight_sql_is_spoken_comes_with_advice() {
        let http = Status::unimplemented("grpc-status header missing, mapped from HTTP status code 404");
        let refused = Error::connection("grpc://x", "Connection refused (os error 111)").advised(true);
        for error in [Error::from_status("grpc://x", &http), refused] {
            assert_eq!(error.exit_code(), 3);
            assert!(error.report().contains("grpc://x") && error.report().contains("\nhint: "), "{}", error.report());
        }
    }

    #[test]
    fn exit_codes_follow_the_cause() {
        let io = |kind: io::ErrorKind| Error::io("write")(kind.into());
        assert_eq!(query_error("").exit_code(), 1);
        assert_eq!(Error::Usage("x".into()).exit_code(), 2);
        assert_eq!(Error::from_status("u", &Status::unauthenticated("no")).exit_code(), 3);
        assert_eq!(Error::Ended { report: "gone".into(), code: 0 }.exit_code(), 1);
        assert_eq!(Error::from_status("u", &Status::from_error(Box::new(io::Error::other("reset")))).exit_code(), 3);
        assert_eq!(Error::from_status("u", &Status::cancelled("stopped")).exit_code(), 130);
        assert_eq!(io(io::ErrorKind::BrokenPipe).exit_code(), 0);
        assert_eq!(io(io::ErrorKind::NotFound).exit_code(), 1);
    }
}
