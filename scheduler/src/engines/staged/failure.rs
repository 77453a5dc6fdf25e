//! Kinds for failures that come back from executors as text.

use windlass_engine::pipelined::fate::PANICKED;
use windlass_proto::Kind;

use crate::Error;
use crate::error::worded;

/// What Ballista puts in front of a task's own error.
const PREFIXES: [&str; 2] = ["Task failed due to runtime execution error: ", "Task failed due to IO error: "];

/// Causes by what their `Debug` text contains, the first that fits. Ballista sends no kinds over the wire.
const CAUSES: [(&str, Kind); 17] = [
    (PANICKED, Kind::Internal),
    ("ResourcesExhausted(", Kind::Exhausted),
    // A connection that broke under a stream of rows.
    ("h2 protocol error", Kind::Unavailable),
    ("transport error", Kind::Unavailable),
    ("FetchFailed(", Kind::Unavailable),
    ("GrpcConnectionError(", Kind::Unavailable),
    ("GrpcActionError(", Kind::Unavailable),
    ("NotFound {", Kind::NotFound),
    ("ObjectStore(", Kind::Unavailable),
    ("IoError(", Kind::Unavailable),
    ("IoError {", Kind::Unavailable),
    ("NotImplemented(", Kind::Unsupported),
    ("ParquetError(", Kind::Invalid),
    ("Execution(", Kind::Invalid),
    ("IpcError(", Kind::Internal),
    ("MemoryError(", Kind::Exhausted),
    ("ArrowError(", Kind::Invalid),
];

/// The error of a query whose job failed with Ballista's `message`.
pub fn from_job(message: &str) -> Error {
    let cause = PREFIXES.iter().find_map(|prefix| message.split_once(prefix)).map_or(message, |(_, cause)| cause).trim();
    let kind = CAUSES.iter().find(|(text, _)| cause.contains(text)).map_or(Kind::Internal, |(_, kind)| *kind);
    worded(kind, &innermost(cause))
}

/// The longest quoted text of a `Debug`-printed error, which is its message; else all of it.
fn innermost(cause: &str) -> String {
    let mut best = String::new();
    let mut rest = cause;
    while let Some((_, quoted)) = rest.split_once('"') {
        let mut text = String::new();
        let mut chars = quoted.char_indices();
        let mut end = quoted.len();
        while let Some((index, c)) = chars.next() {
            match c {
                '"' => {
                    end = index + 1;
                    break;
                }
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, escaped)) => text.push(escaped),
                    None => {}
                },
                c => text.push(c),
            }
        }
        if text.len() > best.len() {
            best = text;
        }
        rest = &quoted[end..];
    }
    match best.is_empty() {
        true if cause.contains("DivideByZero") => "divide by zero".to_owned(),
        true => cause.to_owned(),
        false => best,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_messages_come_out_of_debug_text() {
        for (message, kind, text) in [
            (
                "Job failed due to stage 2 failed: Task failed due to runtime execution error: DataFusionError(ResourcesExhausted(\"no room for \\\"HashJoinInput\\\"\"))\n",
                Kind::Exhausted,
                "no room for \"HashJoinInput\"",
            ),
            (
                "Job failed due to stage 1 failed: Task failed due to runtime execution error: DataFusionError(ArrowError(DivideByZero, Some(\"\")))\n",
                Kind::Invalid,
                "divide by zero",
            ),
            (
                "Task failed due to runtime execution error: DataFusionError(ArrowError(CastError(\"Cannot cast string 'x' to value of Int64 type\"), Some(\"\")))",
                Kind::Invalid,
                "cannot cast string 'x' to value of Int64 type",
            ),
            (
                "Task failed due to runtime execution error: DataFusionError(ArrowError(IpcError(\"code: 'Unknown error', message: \\\"h2 protocol error: error reading a body from connection\\\"\"), None))",
                Kind::Unavailable,
                "code: 'Unknown error', message: \"h2 protocol error: error reading a body from connection\"",
            ),
            (
                "Task failed due to runtime execution error: DataFusionError(Execution(\"an operator or function panicked: row 7 is odd\"))",
                Kind::Internal,
                "an operator or function panicked: row 7 is odd",
            ),
            (
                "Task failed due to runtime execution error: arrowError(IoError(\"No space left on device (os error 28)\", Os { code: 28, kind: StorageFull, message: \"No space left on device\" }))",
                Kind::Exhausted,
                "a disk of the cluster is full",
            ),
            (
                "task could not be prepared or was rejected by executor",
                Kind::Internal,
                "task could not be prepared or was rejected by executor",
            ),
        ] {
            let error = from_job(message);
            assert_eq!((error.kind(), error.to_string().as_str()), (kind, text));
        }
    }
}
