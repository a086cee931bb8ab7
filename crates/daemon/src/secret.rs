//! Values that must not reach a log, and the cluster key made of one.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use spyglass_api::auth::{ClusterKey, KeyError, SHORT};
use tracing::warn;

/// Text that neither `Debug` nor an error shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

/// Why there is no cluster key.
#[derive(Debug, thiserror::Error)]
pub enum ClusterKeyError {
    /// Neither of the two ways to give it was used.
    #[error("no cluster key: give every service the same --cluster-key or --cluster-key-file")]
    Missing,
    /// Both ways were used.
    #[error("give --cluster-key or --cluster-key-file, not both")]
    Both,
    /// The file cannot be read.
    #[error("--cluster-key-file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not fit to be a key.
    #[error("{0}: use visible ASCII characters without spaces, 16 or more are best")]
    Unfit(#[from] KeyError),
}

/// The key given as `cluster_key` or in the file `cluster_key_file`, whose
/// surrounding white space does not count.
pub fn cluster_key(
    key: &Option<Secret>,
    file: &Option<PathBuf>,
) -> Result<ClusterKey, ClusterKeyError> {
    match (key, file) {
        (Some(_), Some(_)) => Err(ClusterKeyError::Both),
        (None, None) => Err(ClusterKeyError::Missing),
        (Some(key), None) => checked(key.expose()),
        (None, Some(path)) => {
            let failed = |source| ClusterKeyError::File { path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(failed)?;
            checked(text.trim())
        }
    }
}

fn checked(text: &str) -> Result<ClusterKey, ClusterKeyError> {
    let key = ClusterKey::new(text)?;
    if text.len() < SHORT {
        warn!("the cluster key has fewer than {SHORT} characters and can be guessed");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", Some(Secret::new("hunter2"))).contains("hunter2"));
    }

    #[test]
    fn the_cluster_key_comes_from_exactly_one_place() {
        let key = Some(Secret::new("correct-horse"));
        assert!(cluster_key(&key, &None).is_ok());
        assert!(matches!(cluster_key(&None, &None), Err(ClusterKeyError::Missing)));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "correct-horse\n").unwrap();
        let path = Some(file.path().to_owned());
        assert!(cluster_key(&None, &path).is_ok());
        assert!(matches!(cluster_key(&key, &path), Err(ClusterKeyError::Both)));
        let gone = Some(PathBuf::from("/nonexistent/key"));
        let error = cluster_key(&None, &gone).unwrap_err();
        assert!(error.to_string().starts_with("--cluster-key-file /nonexistent/key: "), "{error}");
    }
}
