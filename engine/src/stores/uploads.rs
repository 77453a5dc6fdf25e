//! Uploads to S3 that were begun and that nobody will complete. No listing shows them, and their parts are kept and paid for.

use std::error::Error as StdError;

use object_store::aws::{AmazonS3, AmazonS3ConfigKey, AwsAuthorizer};
use object_store::client::{HttpClient, HttpConnector, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Error, MultipartId, Result};
use url::{Position, Url};

use super::{StoreOptions, options_for};
use crate::hive_path::unescape;
use crate::locations::Locations;

/// Answers that are read of one listing, of a thousand uploads each.
const PAGES_MAX: usize = 100;

impl Locations {
    /// Aborts uploads below a location of S3: those of objects whose names `is_theirs` accepts. Other stores show none.
    ///
    /// Errors: the location is not allowed; those of the store.
    pub async fn abort_uploads(&self, location: &Url, is_theirs: impl Fn(&str) -> bool) -> Result<()> {
        let options = options_for(&self.stores, location);
        if location.scheme() != "s3" || options.anonymous {
            return Ok(());
        }
        let root = Path::from_url_path(location.path())?;
        if !self.allows(&location[..Position::BeforePath], &root) {
            return Err(failed(self.outside(location.as_str())));
        }
        let uploads = Uploads::new(&options, location.host_str().unwrap_or_default())?;
        for (path, id) in uploads.list(&root).await? {
            if path.filename().is_some_and(&is_theirs) {
                match uploads.store.abort_multipart(&path, &id).await {
                    Ok(()) | Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn failed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::Generic { store: "S3", source: source.into() }
}

struct Uploads {
    store: AmazonS3,
    client: HttpClient,
    bucket: Url,
    region: String,
}

impl Uploads {
    fn new(options: &StoreOptions, bucket: &str) -> Result<Self> {
        let builder = options.s3(bucket);
        let region = builder.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
        let url = match builder.get_config_value(&AmazonS3ConfigKey::Endpoint) {
            Some(endpoint) if options.virtual_hosted => endpoint,
            Some(endpoint) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
            None => format!("https://s3.{region}.amazonaws.com/{bucket}"),
        };
        let client = ReqwestConnector::default().connect(&options.client())?;
        Ok(Self { store: builder.build()?, client, bucket: Url::parse(&url).map_err(failed)?, region })
    }

    /// The uploads below a path.
    async fn list(&self, root: &Path) -> Result<Vec<(Path, MultipartId)>> {
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let page = self.page(root, after.as_ref()).await?;
            // Keys that are no paths are not ours.
            let paths = page.uploads.into_iter().filter_map(|(key, id)| Some((Path::parse(key).ok()?, id)));
            found.extend(paths.filter(|(path, _)| path.prefix_matches(root)));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// What to ask for.
    fn question(&self, root: &Path, after: Option<&(String, String)>) -> Url {
        let mut url = self.bucket.clone();
        url.query_pairs_mut().append_pair("encoding-type", "url");
        if let Some((key, id)) = after {
            url.query_pairs_mut().append_pair("key-marker", key).append_pair("upload-id-marker", id);
        }
        url.query_pairs_mut().append_pair("prefix", &format!("{root}/")).append_pair("uploads", "");
        // As the signature has it: '+' is a space in forms only.
        let query = url.query().unwrap_or_default().replace('+', "%20");
        url.set_query(Some(&query));
        url
    }

    async fn page(&self, root: &Path, after: Option<&(String, String)>) -> Result<Page> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = self.question(root, after).as_str().parse().map_err(failed)?;
        let credential = self.store.credentials().get_credential().await?;
        AwsAuthorizer::new(&credential, "s3", &self.region).authorize(&mut request, None);
        let response = self.client.execute(request).await.map_err(failed)?;
        let status = response.status();
        if !status.is_success() {
            return Err(failed(format!("uploads of the bucket cannot be listed: status code: {status}")));
        }
        Page::parse(&String::from_utf8_lossy(&response.into_body().bytes().await.map_err(failed)?))
    }
}

/// One answer to a listing of uploads.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    /// By key.
    uploads: Vec<(String, MultipartId)>,
    /// Key and upload after which the next answer begins.
    next: Option<(String, String)>,
}

impl Page {
    fn parse(xml: &str) -> Result<Self> {
        let is_encoded = element(xml, "EncodingType") == Some("url");
        let key = |text: &str| if is_encoded { unescape(&text.replace('+', " ")) } else { unquote(text) };
        let upload = |xml: &str| {
            let (name, id) = element(xml, "Key").zip(element(xml, "UploadId")).ok_or_else(|| failed("an upload has no key"))?;
            Ok((key(name), unquote(id)))
        };
        let uploads = xml.split("<Upload>").skip(1).map(upload).collect::<Result<_>>()?;
        let next = element(xml, "NextKeyMarker").map(key).zip(element(xml, "NextUploadIdMarker").map(unquote));
        Ok(Self { uploads, next: next.filter(|_| element(xml, "IsTruncated") == Some("true")) })
    }
}

/// The text of the first element of a name that holds nothing else.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(text, _)| text)
}

/// Undoes the quoting of XML.
fn unquote(text: &str) -> String {
    let quoted = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&#34;", "\""), ("&amp;", "&")];
    quoted.iter().fold(text.to_owned(), |text, (quoted, plain)| text.replace(quoted, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_read_as_servers_write_them() {
        let xml = "<?xml version=\"1.0\"?><ListMultipartUploadsResult><Bucket>lake</Bucket><EncodingType>url</EncodingType>\
            <NextKeyMarker>t/k%3Da%252Fb/y</NextKeyMarker><NextUploadIdMarker>i&amp;2</NextUploadIdMarker><IsTruncated>true</IsTruncated>\
            <Upload><Key>t/k%3Da%252Fb+c/x</Key><UploadId>i1</UploadId><Owner><ID>me</ID></Owner></Upload>\
            <Upload><UploadId>i&amp;2</UploadId><Key>t/k%3Da%252Fb/y</Key></Upload></ListMultipartUploadsResult>";
        let page = Page::parse(xml).unwrap();
        assert_eq!(page.uploads, [("t/k=a%2Fb c/x", "i1"), ("t/k=a%2Fb/y", "i&2")].map(|(key, id)| (key.to_owned(), id.to_owned())));
        assert_eq!(page.next, Some(("t/k=a%2Fb/y".to_owned(), "i&2".to_owned())));
        let plain = "<R><IsTruncated>false</IsTruncated><NextKeyMarker>z</NextKeyMarker><NextUploadIdMarker>z</NextUploadIdMarker>\
            <Upload><Key>t/k=50%25 &amp;+/x</Key><UploadId>i</UploadId></Upload></R>";
        assert_eq!(Page::parse(plain).unwrap(), Page { uploads: vec![("t/k=50%25 &+/x".to_owned(), "i".to_owned())], next: None });
        assert!(Page::parse("<Upload><Key>x</Key></Upload>").is_err());
        assert_eq!(Page::parse("<html>").unwrap().uploads, []);
    }
}
