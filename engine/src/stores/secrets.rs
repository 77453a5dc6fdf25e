//! Errors of buckets without what would let their readers in: users and logs get to see them.

use std::error::Error as StdError;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::{Error, GetResult, GetResultPayload, MultipartUpload, PutPayload, PutResult, Result, UploadPart};

/// How errors spell answers to credentials that are not accepted.
const REFUSALS: [&str; 2] = ["status code: 401", "status code: 403"];
/// Before what signs a URL of Azure, which errors repeat.
const SIGNATURES: [&str; 2] = ["?sig=", "&sig="];

type Cause = Box<dyn StdError + Send + Sync>;

/// An error of the store `s3://bucket`. What it says to credentials that it refuses repeats parts of them: the documents that it answers with are
/// left out, and so are signatures of URLs.
pub(super) fn without_secrets(bucket: &str, error: Error) -> Error {
    let refused = |path: String| {
        let source = format!("'{bucket}' refuses the credentials of this process").into();
        Error::PermissionDenied { path, source }
    };
    match error {
        Error::PermissionDenied { path, .. } | Error::Unauthenticated { path, .. } => refused(path),
        // Answers to listings are not told apart.
        Error::Generic { store, source } => {
            let text = source.to_string();
            let document = ["<?xml", "<Error", "<!DOCTYPE"].iter().filter_map(|start| text.find(start)).min();
            match document {
                _ if REFUSALS.iter().any(|status| text.contains(status)) => refused(String::new()),
                Some(start) => Error::Generic { store, source: unsigned(text[..start].trim_end_matches([' ', ':']).into()) },
                None => Error::Generic { store, source: unsigned(source) },
            }
        }
        Error::NotFound { path, source } => Error::NotFound { path, source: unsigned(source) },
        Error::AlreadyExists { path, source } => Error::AlreadyExists { path, source: unsigned(source) },
        Error::Precondition { path, source } => Error::Precondition { path, source: unsigned(source) },
        Error::NotModified { path, source } => Error::NotModified { path, source: unsigned(source) },
        // No answers to requests.
        other => other,
    }
}

/// A cause, as text without signatures if it has any.
fn unsigned(cause: Cause) -> Cause {
    let mut text = cause.to_string();
    let mut from = 0;
    while let Some(start) = SIGNATURES.iter().filter_map(|signature| text[from..].find(signature)).min() {
        from += start + SIGNATURES[0].len();
        let length = text[from..].find(|c: char| !c.is_ascii_alphanumeric() && !"%+/=-_.".contains(c)).unwrap_or(text.len() - from);
        text.replace_range(from..from + length, "...");
    }
    if from == 0 { cause } else { text.into() }
}

/// Answers without secrets in their errors.
pub(super) fn cleaned<'a, T: Send + 'a>(bucket: &str, answers: BoxStream<'a, Result<T>>) -> BoxStream<'a, Result<T>> {
    let bucket = bucket.to_owned();
    answers.map(move |answer| answer.map_err(|error| without_secrets(&bucket, error))).boxed()
}

/// An answer whose body gives no secrets away when it breaks off.
pub(super) fn cleaned_body(bucket: &str, answer: GetResult) -> GetResult {
    let payload = match answer.payload {
        GetResultPayload::Stream(body) => GetResultPayload::Stream(cleaned(bucket, body)),
        file @ GetResultPayload::File(..) => file,
    };
    GetResult { payload, ..answer }
}

/// An upload whose errors give no secrets away.
#[derive(Debug)]
pub(super) struct CleanedUpload {
    pub(super) inner: Box<dyn MultipartUpload>,
    pub(super) bucket: String,
}

#[async_trait]
impl MultipartUpload for CleanedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, bucket) = (self.inner.put_part(data), self.bucket.clone());
        Box::pin(async move { part.await.map_err(|error| without_secrets(&bucket, error)) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await.map_err(|error| without_secrets(&self.bucket, error))
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await.map_err(|error| without_secrets(&self.bucket, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_failed_and_no_secrets() {
        let said = |text: &str| without_secrets("az://lake", Error::Generic { store: "Azure", source: text.into() }).to_string();
        let url = "POST http://host/lake?comp=batch&sp=rwd&sig=o6OE%2FZf+/s=&sv=1 in 7 s";
        assert_eq!(said(url), "Generic Azure error: POST http://host/lake?comp=batch&sp=rwd&sig=...&sv=1 in 7 s");
        assert!(said("GET http://host/?sig=o6OE: status code: 403").contains("refuses the credentials"));
        assert_eq!(said("500: <?xml version=\"1.0\"?><SignatureProvided>o6OE"), "Generic Azure error: 500");
        let lost = Error::NotFound { path: "t/sig=1".to_owned(), source: "GET http://host/t/sig=1?sig=o6OE".into() };
        let lost = without_secrets("az://lake", lost);
        assert!(matches!(&lost, Error::NotFound { path, .. } if path == "t/sig=1"));
        assert!(lost.to_string().contains("/t/sig=1?sig=...") && !lost.to_string().contains("o6OE"), "{lost}");
    }
}
