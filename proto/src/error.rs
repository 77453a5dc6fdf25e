//! The few kinds of failure a caller can act on, and their way through a gRPC status.

use prost::Message;
use tonic::{Code, Status};

/// What the caller can do about a failure. Callers match on this and never on message text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong: fix it.
    Invalid,
    /// The named thing does not exist: look elsewhere.
    NotFound,
    /// The named thing exists already.
    AlreadyExists,
    /// The caller did not prove who it is.
    Unauthenticated,
    /// The caller is known and may not do this.
    Denied,
    /// A limit is reached: wait or ask for less.
    Exhausted,
    /// A part of the cluster is away: retry.
    Unavailable,
    /// Somebody asked for the stop.
    Cancelled,
    /// A deadline passed.
    Timeout,
    /// Windlass does not do this.
    Unsupported,
    /// A bug of ours: report it.
    Internal,
}

const KINDS: [(Kind, Code, &str); 11] = [
    (Kind::Invalid, Code::InvalidArgument, "INVALID"),
    (Kind::NotFound, Code::NotFound, "NOT_FOUND"),
    (Kind::AlreadyExists, Code::AlreadyExists, "ALREADY_EXISTS"),
    (Kind::Unauthenticated, Code::Unauthenticated, "UNAUTHENTICATED"),
    (Kind::Denied, Code::PermissionDenied, "DENIED"),
    (Kind::Exhausted, Code::ResourceExhausted, "EXHAUSTED"),
    (Kind::Unavailable, Code::Unavailable, "UNAVAILABLE"),
    (Kind::Cancelled, Code::Cancelled, "CANCELLED"),
    (Kind::Timeout, Code::DeadlineExceeded, "TIMEOUT"),
    (Kind::Unsupported, Code::Unimplemented, "UNSUPPORTED"),
    (Kind::Internal, Code::Internal, "INTERNAL"),
];

impl Kind {
    /// The gRPC code that carries this kind.
    pub fn code(self) -> Code {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or(Code::Internal, |(_, code, _)| *code)
    }

    /// The kind that a gRPC code stands for; codes that Windlass never sends are `Internal`.
    pub fn from_code(code: Code) -> Self {
        KINDS.iter().find(|(_, c, _)| *c == code).map_or(Kind::Internal, |(kind, ..)| *kind)
    }

    /// The stable name shown to users and kept in query records.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("INTERNAL", |(.., name)| *name)
    }
}

/// What a status carries beside its code and message, inside [`RpcStatus`].
#[derive(Clone, PartialEq, Message)]
pub struct ErrorDetail {
    /// Query that failed; empty when none was started.
    #[prost(string, tag = "1")]
    pub query_id: String,
    /// What to do next, in one sentence; may be empty.
    #[prost(string, tag = "2")]
    pub hint: String,
    /// Line of the SQL text, from 1; 0 when unknown.
    #[prost(uint32, tag = "3")]
    pub line: u32,
    /// Column of the SQL text in characters, from 1; 0 when unknown.
    #[prost(uint32, tag = "4")]
    pub column: u32,
}

/// Bytes of a status message. It is sent twice, in headers, and plain gRPC clients refuse more than 8 KiB of those.
const MESSAGE_BYTES_MAX: usize = 2048;

/// `google.rpc.Status`, which is what `grpc-status-details-bin` must hold: Go clients replace the code of a status by `INTERNAL` if it holds
/// anything else.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<TypedDetail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct TypedDetail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl ErrorDetail {
    const TYPE_URL: &str = "type.googleapis.com/windlass.v1.ErrorDetail";

    /// A status of `kind` with this detail; the hint is repeated in the message for clients that show nothing else.
    pub fn into_status(self, kind: Kind, message: impl Into<String>) -> Status {
        let mut message = message.into();
        if !self.hint.is_empty() {
            message.push_str("; hint: ");
            message.push_str(&self.hint);
        }
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        let details = vec![TypedDetail { type_url: Self::TYPE_URL.to_owned(), value: self.encode_to_vec() }];
        let status = RpcStatus { code: kind.code() as i32, message: message.clone(), details };
        Status::with_details(kind.code(), message, status.encode_to_vec().into())
    }

    /// The detail of a status that Windlass sent; empty for any other.
    pub fn from_status(status: &Status) -> Self {
        let details = RpcStatus::decode(status.details()).unwrap_or_default().details;
        let ours = details.iter().find(|detail| detail.type_url == Self::TYPE_URL);
        ours.and_then(|detail| Self::decode(detail.value.as_slice()).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_detail_survive_the_wire() {
        for (kind, ..) in KINDS {
            assert_eq!(Kind::from_code(kind.code()), kind);
        }
        let detail = ErrorDetail { query_id: "q".into(), hint: "name a table".into(), line: 2, column: 7 };
        let status = detail.clone().into_status(Kind::NotFound, "table 't' not found");
        assert_eq!(status.message(), "table 't' not found; hint: name a table");
        assert_eq!(ErrorDetail::from_status(&status), detail);
        let standard = RpcStatus::decode(status.details()).expect("google.rpc.Status");
        assert_eq!((standard.code, standard.message.as_str()), (Code::NotFound as i32, status.message()));

        let long = ErrorDetail::default().into_status(Kind::Invalid, "é".repeat(MESSAGE_BYTES_MAX));
        assert!(long.message().len() < MESSAGE_BYTES_MAX + 8 && long.message().ends_with("é…"));
    }
}
