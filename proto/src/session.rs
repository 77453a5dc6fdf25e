//! Flight session messages (`Flight.proto`, session part) that `arrow-flight` 59 does not generate.
//!
//! Action bodies are these messages bare, without `Any`. Source: Apache Arrow `format/Flight.proto`.

use std::collections::HashMap;

/// A list of strings as an option's value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringList {
    /// The strings, in order.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// One option's value; without a value the option is unset.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionOptionValue {
    /// The value, or nothing.
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub option_value: Option<OptionValue>,
}

/// The kinds of value; the integer is `sfixed64` on the wire.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OptionValue {
    /// Text.
    #[prost(string, tag = "1")]
    String(String),
    /// Truth value.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// Integer.
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    /// Floating point.
    #[prost(double, tag = "4")]
    Double(f64),
    /// List of text.
    #[prost(message, tag = "5")]
    StringList(StringList),
}

/// Body of the `SetSessionOptions` action.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsRequest {
    /// Options to set, by name.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// Why an option was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum SetOptionError {
    /// Not stated.
    Unspecified = 0,
    /// No option has this name.
    InvalidName = 1,
    /// The option does not take this value.
    InvalidValue = 2,
    /// The option could not be set.
    Error = 3,
}

/// One option's failure.
#[derive(Clone, PartialEq, prost::Message)]
pub struct OptionFailure {
    /// The reason.
    #[prost(enumeration = "SetOptionError", tag = "1")]
    pub value: i32,
}

/// Result of the `SetSessionOptions` action: options that are absent were set.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsResult {
    /// Failures, by option name.
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, OptionFailure>,
}

/// Body of the `GetSessionOptions` action.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetSessionOptionsRequest {}

/// Result of the `GetSessionOptions` action.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetSessionOptionsResult {
    /// All options of the session, by name.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// Body of the `CloseSession` action.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseSessionRequest {}

/// How far a close got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CloseStatus {
    /// Not stated.
    Unspecified = 0,
    /// The session is closed.
    Closed = 1,
    /// The session is being closed.
    Closing = 2,
    /// The session cannot be closed.
    NotClosable = 3,
}

/// Result of the `CloseSession` action.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseSessionResult {
    /// How far it got.
    #[prost(enumeration = "CloseStatus", tag = "1")]
    pub status: i32,
}
