//! How the settings of a binary are put together: flags over environment over file over defaults. Unknown keys fail in all of them.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that a flag names cannot be read.
    #[error("cannot read configuration file '{}'", path.display())]
    File {
        /// As given.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// A key is unknown or a value has the wrong type; the text names key and source.
    #[error("invalid configuration: {0}")]
    Layers(Box<figment::Error>),
    /// A value, or a combination of values, cannot work.
    #[error("setting '{setting}': {reason}")]
    Invalid {
        /// Name of the setting.
        setting: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl ConfigError {
    /// A setting that cannot work.
    pub fn invalid(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { setting, reason: reason.into() }
    }
}

/// Layers `flags` over variables that start with `prefix` (`__` steps into a table) over `file` over the defaults.
///
/// `flags` must serialise only what was given, or it would erase the layers below.
pub fn load<C>(file: Option<&Path>, prefix: &str, flags: &impl Serialize) -> Result<C, ConfigError>
where
    C: Default + Serialize + DeserializeOwned,
{
    let mut layers = Figment::from(Serialized::defaults(C::default()));
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::File { path: path.to_owned(), cause })?;
        layers = layers.merge(Named(path.display().to_string(), Toml::string(&text)));
    }
    layers
        .merge(Env::prefixed(prefix).split("__"))
        .merge(Serialized::defaults(flags))
        .extract()
        .map_err(|error| ConfigError::Layers(Box::new(error)))
}

/// A text that errors name after its file.
struct Named(String, figment::providers::Data<Toml>);

impl figment::Provider for Named {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(format!("file '{}'", self.0))
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        self.1.data()
    }
}

/// The configuration as TOML that [`load`] accepts, secrets masked.
pub fn print(config: &impl Serialize) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(config)
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("********")
    }
}

/// Refuses to listen beyond this host on a port that runs plans or serves files for whoever asks, unless an operator takes the risk.
pub fn require_loopback(setting: &'static str, host: IpAddr, insecure_network: bool) -> Result<(), ConfigError> {
    match host.is_loopback() || insecure_network {
        true => Ok(()),
        false => Err(ConfigError::invalid(
            setting,
            format!(
                "{host} is reachable from other hosts and this port has no authentication; use 127.0.0.1, or set 'insecure_network' where only the cluster's hosts can connect"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Example {
        port: u16,
        secret: Option<Secret>,
        limits: Limits,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        queries: u32,
        rows: u32,
    }

    impl Default for Limits {
        fn default() -> Self {
            Self { queries: 4, rows: 5 }
        }
    }

    #[derive(Serialize)]
    struct Flags {
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn flags_win_and_absent_flags_do_not() {
        let file = file("port = 1\nsecret = 's3cret'\n[limits]\nqueries = 9");
        let load = |port| load::<Example>(Some(file.path()), "WINDLASS_TEST_NOTHING_", &Flags { port }).unwrap();
        assert_eq!(load(None).port, 1);
        let config = load(Some(2));
        assert_eq!((config.port, config.limits.queries, config.limits.rows), (2, 9, 5));
        let shown = print(&config).unwrap();
        assert!(!shown.contains("s3cret") && !format!("{config:?}").contains("s3cret"), "{shown}");
    }

    #[test]
    fn unknown_keys_fail_and_name_their_source() {
        let file = file("[limits]\nquerys = 9");
        let error = load::<Example>(Some(file.path()), "WINDLASS_TEST_NOTHING_", &Flags { port: None }).unwrap_err().to_string();
        assert!(error.contains("querys") && error.contains(&file.path().display().to_string()), "{error}");
        // Cargo sets CARGO_PKG_NAME for tests, which stands in for a variable that nobody knows.
        let error = load::<Example>(None, "CARGO_PKG_", &Flags { port: None }).unwrap_err().to_string();
        assert!(error.contains("CARGO_PKG_"), "{error}");
        assert!(matches!(load::<Example>(Some(Path::new("/none")), "X_", &Flags { port: None }), Err(ConfigError::File { .. })));
    }

    #[test]
    fn strangers_are_kept_out_unless_asked_for() {
        let any = IpAddr::from([0, 0, 0, 0]);
        assert!(require_loopback("host", any, false).is_err());
        assert!(require_loopback("host", any, true).is_ok());
        assert!(require_loopback("host", IpAddr::from([127, 0, 0, 1]), false).is_ok());
    }
}
