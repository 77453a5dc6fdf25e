//! What can go wrong between a statement and its rows.

use std::any::Any;

use datafusion::arrow::error::ArrowError;
use datafusion::common::utils::datafusion_strsim::levenshtein;
use datafusion::common::{Column, SchemaError};
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

    /// What is told of a panic, which is logged, too. `what` panicked.
    pub fn panicked(what: &str, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("no message");
        tracing::error!(text, "{what} panicked");
        Self::internal(format!("{what} panicked: {text}")).with_hint("this is a bug of windlass; please report it")
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

    /// Tells first why the statement had been run again on the staged engine, which ended with this.
    pub fn after(mut self, first: &Self) -> Self {
        if self.kind != Kind::Cancelled && !self.message.contains(&first.message) {
            self.message = format!("{}; run again staged: {}", first.message, self.message);
        }
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
        let told = Self::new(error.kind(), message);
        match (error.kind(), error) {
            (Kind::Exhausted, windlass_catalog::Error::Store { .. }) => told.with_hint("free some space on the scheduler's disk"),
            _ => told,
        }
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        classify(&error)
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        arrow(&error)
    }
}

/// Maps DataFusion's causes to the few kinds; errors of ours that passed through DataFusion come back unchanged.
fn classify(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => classify(inner),
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(all) => all.first().map_or_else(|| Error::internal("no errors at all"), classify),
        DataFusionError::External(inner) => external(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => arrow(inner),
        DataFusionError::SchemaError(inner, _) => schema(inner),
        DataFusionError::SQL(inner, _) => worded(Kind::Invalid, &inner.to_string()),
        DataFusionError::Plan(text) | DataFusionError::Configuration(text) | DataFusionError::Execution(text) => {
            worded(Kind::Invalid, text)
        }
        DataFusionError::ParquetError(cause) => worded(Kind::Invalid, &cause.to_string()),
        DataFusionError::NotImplemented(text) => worded(Kind::Unsupported, text),
        DataFusionError::ResourcesExhausted(text) => worded(Kind::Exhausted, text),
        DataFusionError::IoError(cause) => worded(Kind::Unavailable, &cause.to_string()),
        DataFusionError::ObjectStore(cause) => match cause.as_ref() {
            object_store::Error::NotFound { .. } => worded(Kind::NotFound, &cause.to_string()),
            object_store::Error::PermissionDenied { source, .. } | object_store::Error::Unauthenticated { source, .. } => {
                worded(Kind::Denied, &source.to_string())
            }
            object_store::Error::Precondition { source, .. } => worded(Kind::Invalid, &source.to_string()),
            _ => worded(Kind::Unavailable, &cause.to_string()),
        },
        DataFusionError::Internal(text) | DataFusionError::Substrait(text) | DataFusionError::Ffi(text) => worded(Kind::Internal, text),
        DataFusionError::ExecutionJoin(cause) => worded(Kind::Internal, &cause.to_string()),
    }
}

fn external(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if let Some(ours) = error.downcast_ref::<Error>() {
        ours.clone()
    } else if let Some(catalog) = error.downcast_ref::<windlass_catalog::Error>() {
        Error::new(catalog.kind(), catalog.to_string())
    } else if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        classify(inner)
    } else if let Some(inner) = error.downcast_ref::<ArrowError>() {
        arrow(inner)
    } else {
        worded(Kind::Internal, &error.to_string())
    }
}

fn arrow(error: &ArrowError) -> Error {
    match error {
        ArrowError::ExternalError(inner) => external(inner.as_ref()),
        ArrowError::DivideByZero => Error::invalid("divide by zero"),
        ArrowError::MemoryError(text) => worded(Kind::Exhausted, text),
        ArrowError::IoError(text, _) => worded(Kind::Unavailable, text),
        ArrowError::IpcError(text) | ArrowError::CDataInterface(text) => worded(Kind::Internal, text),
        other => worded(Kind::Invalid, &other.to_string()),
    }
}

fn schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error = Error::invalid(format!("column '{}' not found", field.flat_name()));
            let names = |columns: &[Column]| columns.iter().map(shown).collect::<Vec<_>>().join(", ");
            match (nearest(field, valid_fields), valid_fields.len()) {
                (_, 0) => error.with_hint("no columns can be named here"),
                (Some(near), _) => error.with_hint(format!("did you mean '{}'?", shown(near))),
                (None, ..=COLUMNS_NAMED_MAX) => error.with_hint(format!("columns here are {}", names(valid_fields))),
                (None, count) => {
                    let (first, more) = (&valid_fields[..COLUMNS_NAMED_MAX], count - COLUMNS_NAMED_MAX);
                    error.with_hint(format!("columns here are {} and {more} more", names(first)))
                }
            }
        }
        SchemaError::AmbiguousReference { field } => Error::invalid(format!("column '{}' is ambiguous", field.name))
            .with_hint(format!("put the name of its table in front: table.{}", field.name)),
        other => worded(Kind::Invalid, &other.to_string()),
    }
}

/// Columns that an error lists.
const COLUMNS_NAMED_MAX: usize = 20;

/// A column as a user would write it: with its table, without the catalog.
fn shown(column: &Column) -> String {
    match &column.relation {
        Some(table) => format!("{}.{}", table.table(), column.name),
        None => column.name.clone(),
    }
}

/// The column whose name is at least as much alike as different.
fn nearest<'a>(wanted: &Column, columns: &'a [Column]) -> Option<&'a Column> {
    let distance = |column: &Column| levenshtein(&wanted.name.to_lowercase(), &column.name.to_lowercase());
    let near = columns.iter().map(|column| (distance(column), column)).min_by_key(|(distance, _)| *distance);
    near.filter(|(distance, column)| 2 * distance <= column.name.chars().count()).map(|(_, column)| column)
}

/// What DataFusion, Arrow and Parquet put in front of their messages.
const PREFIXES: [&str; 18] = [
    "Arrow error: ",
    "Cast error: ",
    "Compute error: ",
    "Error during planning: ",
    "Execution error: ",
    "External error: ",
    "External: ",
    "Internal error: ",
    "Invalid argument error: ",
    "Invalid or Unsupported Configuration: ",
    "IO error: ",
    "Object Store error: ",
    "Parquet error: ",
    "Parser error: ",
    "Resources exhausted: ",
    "Schema error: ",
    "SQL error: ",
    "This feature is not implemented: ",
];

/// What DataFusion says with values of its program: how it starts, what is said instead, and what to do.
const IN_OUR_WORDS: [(&str, &str, &str); 6] = [
    (
        "substring without for/from is not valid",
        "substring needs a position",
        "write substring(text, from) or substring(text FROM from FOR length)",
    ),
    (
        "Physical plan does not support logical expression WindowFunction",
        "a window function cannot stand here",
        "compute it in a subquery and filter that, or use QUALIFY",
    ),
    (
        "Physical plan does not support logical expression AggregateFunction",
        "an aggregate function cannot stand here",
        "use HAVING, or compute it in a subquery",
    ),
    (
        "Physical plan does not support logical expression OuterReferenceColumn",
        "a subquery cannot use columns of the tables around it here",
        "write it as a join, or with a window function",
    ),
    (
        "Physical plan does not support logical expression InSubquery",
        "IN with a subquery cannot stand here",
        "use it in WHERE, or join the subquery",
    ),
    ("Physical plan does not support logical expression Exists", "EXISTS cannot stand here", "use it in WHERE, or join the subquery"),
];

/// Where it may be missing.
const SPACE: &str = "free some space: for tables, in 'work_dir' of the executors or 'data_dir' of the scheduler";

/// What systems and DataFusion say of a disk without room: a part of it, what is said instead, and what to do.
const DISK_FULL: [(&str, &str, &str); 3] = [
    ("No space left on device", "a disk of the cluster is full", SPACE),
    ("Disk quota exceeded", "a disk quota of the cluster is used up", SPACE),
    (
        "exceeded the allowable limit",
        "spill files have reached 'spill_limit_bytes'",
        "raise it, or have the query keep less: fewer rows, columns or groups",
    ),
];

/// Whether a text tells of a disk without room: trying again would not help.
pub fn is_disk_full(text: &str) -> bool {
    DISK_FULL.iter().any(|(part, told, _)| text.contains(part) || text.contains(told))
}

/// The text without what DataFusion and Arrow put in front of a cause within it.
fn without_inner_prefixes(text: &str) -> String {
    PREFIXES.iter().fold(text.to_owned(), |text, prefix| text.replace(&format!(": {prefix}"), ": "))
}

/// An error in our manner of speaking: one line, the innermost cause, advice as a hint.
pub fn worded(kind: Kind, text: &str) -> Error {
    let text = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    let mut text = text.rsplit("\ncaused by\n").next().unwrap_or_default().trim();
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest.trim_start();
    }
    if let Some((function, causes)) = text.split_once(" failed to match any signature, errors: ") {
        let cause = causes.split("Error during planning: ").find(|cause| !cause.is_empty()).unwrap_or_default();
        let cause = cause.split(". This issue").next().unwrap_or_default().trim_end_matches([',', '.']);
        return Error::new(kind, format!("{} does not take these arguments", decapitalized(function))).with_hint(decapitalized(cause));
    }
    let (text, hint) = match (text.split_once("Did you mean "), text.split_once("You might need to add explicit type casts.")) {
        (Some((text, near)), _) => (text, format!("did you mean {}", near.lines().next().unwrap_or_default())),
        (None, Some((text, _))) => (text, "cast the arguments to types that it takes".to_owned()),
        (None, None) => (text, String::new()),
    };
    let text = &without_inner_prefixes(text);
    if let Some((pattern, fault)) = text.strip_prefix("regex parse error:").and_then(|text| text.split_once("error: ")) {
        let pattern = pattern.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        return Error::invalid(format!("'{pattern}' is not a regular expression: {}", fault.trim()));
    }
    if let Some((_, column)) = text.split_once("While expanding wildcard, column ")
        && let Some((column, _)) = column.split_once(" must appear in the GROUP BY clause")
    {
        return Error::new(kind, format!("column {} must appear in GROUP BY or in an aggregate function", column.replace('"', "'")));
    }
    if let Some((_, message, hint)) = IN_OUR_WORDS.iter().find(|(start, ..)| text.starts_with(start)) {
        return Error::invalid(*message).with_hint(*hint);
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches(['.', ',', ':']);
    if let Some((_, told, hint)) = DISK_FULL.iter().find(|(part, ..)| line.contains(part)) {
        return Error::new(Kind::Exhausted, *told).with_hint(*hint);
    }
    let message = decapitalized(line);
    match (kind, hint.is_empty()) {
        (Kind::Internal, true) => Error::new(kind, message).with_hint("this is a bug of windlass; please report it"),
        (_, true) => Error::new(kind, message),
        (_, false) => Error::new(kind, message).with_hint(hint),
    }
}

/// The text with a small first letter, unless it begins with a name or an abbreviation.
fn decapitalized(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(second)) if first.is_ascii_uppercase() && (second.is_lowercase() || second == ' ') => {
            format!("{}{}", first.to_ascii_lowercase(), &text[1..])
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::{DFSchema, TableReference};

    use super::*;

    #[test]
    fn the_innermost_cause_is_told_in_one_line() {
        let cast = || ArrowError::CastError("Cannot cast string 'x' to value of Int64 type".to_owned());
        let deep =
            DataFusionError::from(ArrowError::ExternalError(Box::new(DataFusionError::from(cast()).context("Optimizer rule 'a' failed"))));
        for (error, kind, text, hint) in [
            (deep, Kind::Invalid, "cannot cast string 'x' to value of Int64 type", ""),
            (DataFusionError::from(ArrowError::DivideByZero), Kind::Invalid, "divide by zero", ""),
            (
                DataFusionError::Context(
                    "a".to_owned(),
                    Box::new(DataFusionError::Plan("Invalid function 'cuont'.\nDid you mean 'count'?".to_owned())),
                ),
                Kind::Invalid,
                "invalid function 'cuont'",
                "did you mean 'count'?",
            ),
            (
                DataFusionError::Plan(
                    "Function 'sum' failed to match any signature, errors: Error during planning: Function 'sum' requires Int64, but received \
                     String.,Error during planning: Function 'sum' requires UInt64. This issue was likely caused by a bug"
                        .to_owned(),
                ),
                Kind::Invalid,
                "function 'sum' does not take these arguments",
                "function 'sum' requires Int64, but received String",
            ),
            (DataFusionError::Execution("Arrow error: Parser error: SUM(x)\n  is wrong.".to_owned()), Kind::Invalid, "SUM(x) is wrong", ""),
            (
                DataFusionError::External("regex parse error:
    a(
     ^
error: unclosed group".into()),
                Kind::Invalid,
                "'a(' is not a regular expression: unclosed group",
                "",
            ),
            (
                DataFusionError::Plan("Cannot get result type: Invalid argument error: Invalid operation: Int * Float".to_owned()),
                Kind::Invalid,
                "cannot get result type: Invalid operation: Int * Float",
                "",
            ),
            (
                DataFusionError::Plan(
                    "Column in SELECT must be in GROUP BY or an aggregate function: While expanding wildcard, column \"t.a\" must appear in the \
                     GROUP BY clause or must be part of an aggregate function, currently only \"count(Int64(1))\" appears"
                        .to_owned(),
                ),
                Kind::Invalid,
                "column 't.a' must appear in GROUP BY or in an aggregate function",
                "",
            ),
            (
                DataFusionError::NotImplemented("Physical plan does not support logical expression WindowFunction(WindowFunction {".to_owned()),
                Kind::Invalid,
                "a window function cannot stand here",
                "compute it in a subquery and filter that, or use QUALIFY",
            ),
            (DataFusionError::External(Box::new(Error::unsupported("no").with_hint("yes"))), Kind::Unsupported, "no", "yes"),
            (
                std::io::Error::other("The used disk space during the spilling process has exceeded the allowable limit of 1 GB").into(),
                Kind::Exhausted,
                "spill files have reached 'spill_limit_bytes'",
                "raise it, or have the query keep less: fewer rows, columns or groups",
            ),
            (
                DataFusionError::from(ArrowError::IoError(
                    "No space left on device (os error 28)".to_owned(),
                    std::io::ErrorKind::StorageFull.into(),
                )),
                Kind::Exhausted,
                "a disk of the cluster is full",
                SPACE,
            ),
        ] {
            let error = Error::from(error);
            assert_eq!((error.kind(), error.to_string().as_str(), error.detail().hint.as_str()), (kind, text, hint));
        }
    }

    #[test]
    fn the_first_of_two_errors_is_told_first() {
        let first = Error::new(Kind::Unavailable, "executor 7 was lost");
        let second = Error::invalid("cannot cast 'x'").with_hint("mend it").after(&first);
        assert_eq!(second.to_string(), "executor 7 was lost; run again staged: cannot cast 'x'");
        assert_eq!((second.kind(), second.detail().hint.as_str()), (Kind::Invalid, "mend it"));
        assert_eq!(second.clone().after(&first).to_string(), second.to_string(), "once is enough");
        let cancelled = Error::new(Kind::Cancelled, "the query was cancelled");
        assert_eq!(cancelled.after(&first).to_string(), "the query was cancelled");
    }

    #[test]
    fn a_column_that_is_missing_has_neighbours() {
        use datafusion::arrow::datatypes::{DataType, Field, Schema};
        let fields = ["name", "price"].map(|name| Field::new(name, DataType::Int64, true));
        let schema =
            DFSchema::try_from_qualified_schema(TableReference::full("hive", "default", "t"), &Schema::new(fields.to_vec())).unwrap();
        for (name, hint) in [("nmae", "did you mean 't.name'?"), ("zzz", "columns here are t.name, t.price")] {
            let error = Error::from(schema.field_with_unqualified_name(name).unwrap_err());
            assert_eq!((error.to_string(), error.detail().hint.as_str()), (format!("column '{name}' not found"), hint));
        }
    }
}
