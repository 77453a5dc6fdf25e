//! Credentials from files, in the form of `~/.aws/credentials`. A file may be replaced while the process runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use object_store::aws::AwsCredential;
use object_store::{CredentialProvider, Error, Result};

/// The section of a credentials file that is meant if none is named.
pub(super) const DEFAULT_PROFILE: &str = "default";

/// Errors name the file, never what is in it.
fn unusable(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Generic { store: "credentials", source: format!("credentials file '{}': {reason}", path.display()).into() }
}

/// Names and values of a section. Lines before any section belong to all.
pub(super) fn read_section(path: &Path, section: &str) -> Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).map_err(|cause| unusable(path, cause))?;
    let mut current = None;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            current = Some(name.trim());
        } else if current.is_none_or(|current| current == section) {
            let pair = line.split_once('=').ok_or_else(|| unusable(path, format!("line {} is not 'name = value'", number + 1)))?;
            found.push((pair.0.trim().to_lowercase(), pair.1.trim().to_owned()));
        }
    }
    Ok(found)
}

/// The shared credentials file and the profile in it that the tools of AWS would use now: where the environment has no keys and no web
/// identity, and the file has the profile or somebody asked for it. After it come the roles of containers and machines.
pub(super) fn shared_profile(asked: &str, variable: impl Fn(&str) -> Option<OsString>) -> Option<(PathBuf, String)> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"].into_iter().any(|name| set(name).is_some()) {
        return None;
    }
    let path = match set("AWS_SHARED_CREDENTIALS_FILE") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(set("HOME")?).join(".aws/credentials"),
    };
    let asked = if asked == DEFAULT_PROFILE { set("AWS_PROFILE").and_then(|name| name.into_string().ok()) } else { Some(asked.to_owned()) };
    match asked {
        Some(profile) => Some((path, profile)),
        None => {
            let has_keys = |values: Vec<(String, String)>| values.iter().any(|(name, _)| name == "aws_access_key_id");
            read_section(&path, DEFAULT_PROFILE).is_ok_and(has_keys).then(|| (path, DEFAULT_PROFILE.to_owned()))
        }
    }
}

/// Keys of one profile, read again when the file has changed.
#[derive(Debug)]
pub(super) struct ProfileFile {
    path: PathBuf,
    profile: String,
    last: Mutex<Option<(SystemTime, Arc<AwsCredential>)>>,
}

impl ProfileFile {
    pub(super) fn new(path: PathBuf, profile: String) -> Self {
        Self { path, profile, last: Mutex::default() }
    }

    fn read(&self) -> Result<AwsCredential> {
        let values = read_section(&self.path, &self.profile)?;
        let value = |name: &str| values.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
        let needed = |name: &str| value(name).ok_or_else(|| unusable(&self.path, format!("section '{}' has no '{name}'", self.profile)));
        Ok(AwsCredential {
            key_id: needed("aws_access_key_id")?,
            secret_key: needed("aws_secret_access_key")?,
            token: value("aws_session_token"),
        })
    }
}

#[async_trait]
impl CredentialProvider for ProfileFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> Result<Arc<AwsCredential>> {
        let changed = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).map_err(|cause| unusable(&self.path, cause))?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, credential)) = last.as_ref().filter(|(read, _)| *read == changed) {
            return Ok(Arc::clone(credential));
        }
        let credential = Arc::new(self.read()?);
        *last = Some((changed, Arc::clone(&credential)));
        Ok(credential)
    }
}
