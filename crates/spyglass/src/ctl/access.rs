//! Which control to speak to, and in whose name; of `publish`, `watch` and `ctl`.

use clap::Args;
use serde::{Deserialize, Deserializer, Serialize};
use spyglass_client::Error;
use spyglass_client::api::Api;
use spyglass_daemon::Secret;

/// Where control listens when nothing else is said.
const DEFAULT: &str = "http://127.0.0.1:8080";

/// As flags, and as keys of the command's file.
#[derive(Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Access {
    /// Control's HTTP address; more of them when there are several controls [default: http://127.0.0.1:8080]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "SPYGLASS_CONTROL",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_more")]
    control: Vec<String>,
    /// The operator's key
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "SPYGLASS_OPERATOR_KEY",
        hide_env_values = true
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    operator_key: Option<Secret>,
    /// A user's token, to act as that user; wins over the operator's key
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "SPYGLASS_TOKEN",
        hide_env_values = true
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Secret>,
}

impl Access {
    /// The control, in the user's name, else the operator's, else nobody's.
    pub fn api(&self) -> Result<Api, Error> {
        let bearer = given(&self.token).or(given(&self.operator_key));
        Api::of_several(&self.urls(), bearer.map(|secret| secret.expose().to_owned()))
    }

    /// The control in a user's name, else nobody's: viewers are nobody unless
    /// they say who they are, also on the operator's terminal.
    pub fn api_as_viewer(&self) -> Result<Api, Error> {
        Api::of_several(&self.urls(), given(&self.token).map(|secret| secret.expose().to_owned()))
    }

    /// Whether requests are made in anybody's name.
    pub fn is_somebody(&self) -> bool {
        given(&self.token).or(given(&self.operator_key)).is_some()
    }

    fn urls(&self) -> Vec<&str> {
        if self.control.is_empty() {
            return vec![DEFAULT];
        }
        self.control.iter().map(String::as_str).collect()
    }
}

/// An empty one, as of a variable that is set to nothing, is none.
fn given(secret: &Option<Secret>) -> Option<&Secret> {
    secret.as_ref().filter(|secret| !secret.expose().is_empty())
}

/// In a file, `control = "…"` and `control = ["…", "…"]`.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(String),
        More(Vec<String>),
    }
    Ok(match Given::deserialize(from)? {
        Given::One(url) => vec![url],
        Given::More(urls) => urls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_one_control_or_several() {
        let urls = |file: &str| toml::from_str::<Access>(file).unwrap().control;
        assert_eq!(urls("control = 'http://a:1'"), ["http://a:1"]);
        assert_eq!(urls("control = ['http://a:1', 'http://b:1']"), ["http://a:1", "http://b:1"]);
        assert!(urls("").is_empty());
        assert!(toml::from_str::<Access>("").unwrap().api().is_ok());
        let empty = toml::from_str::<Access>("operator_key = ''").unwrap();
        assert!(!empty.is_somebody() && !empty.api().unwrap().is_somebody());
    }
}
