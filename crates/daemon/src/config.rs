//! Configuration in layers: a TOML file, then the environment, then flags.
//!
//! The last two arrive as one table (the command line merges them); the file
//! is read here. A service's `Config` type holds the defaults and refuses keys
//! it does not know.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said. Part of the text already.
        source: std::io::Error,
    },
    /// The file holds something that is no configuration of this service.
    #[error("configuration {path}, line {line}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong; names the key.
        message: String,
    },
    /// A value from the environment or a flag does not fit.
    #[error("from the environment or a flag: {message}")]
    Overlay {
        /// What is wrong; names the key.
        message: String,
    },
}

/// A value of the right type that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {advice}")]
pub struct Invalid {
    /// The key in the file; the flag is the same with `--` and `-`.
    pub key: &'static str,
    /// What it may be.
    pub advice: &'static str,
}

/// Refuses limits and times of 0, with which a service would serve nobody.
///
/// # Errors
/// The first.
pub fn positive(settings: &[(&'static str, u64)]) -> Result<(), Invalid> {
    match settings.iter().find(|(_, value)| *value == 0) {
        Some((key, _)) => Err(Invalid { key, advice: "give at least 1" }),
        None => Ok(()),
    }
}

/// The configuration of one service: `file`, when there is one, with `overlay`
/// (environment and flags) on top.
pub fn load<T: DeserializeOwned>(file: Option<&Path>, overlay: Table) -> Result<T, Error> {
    let mut table = match file {
        Some(path) => read::<T>(path)?,
        None => Table::new(),
    };
    merge(&mut table, overlay);
    from_table(table)
}

/// A configuration from a table that is already whole.
pub fn from_table<T: DeserializeOwned>(table: Table) -> Result<T, Error> {
    table
        .try_into()
        .map_err(|error: toml::de::Error| Error::Overlay { message: plain(&error.to_string()) })
}

/// The tables of a file that is a valid `T` by itself, so that an error can
/// name its line.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Table, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let refused = |error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = &text.as_bytes()[..start];
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        let message = plain(error.message());
        let key = text.lines().nth(line - 1).and_then(key_of);
        let message = match key.filter(|key| !message.contains(&format!("`{key}`"))) {
            Some(key) => format!("{key}: {message}"),
            None => message,
        };
        Error::File { path: path.to_owned(), line, message }
    };
    toml::from_str::<T>(&text).map_err(refused)?;
    toml::from_str::<Table>(&text).map_err(refused)
}

/// What is wrong with the value of `key`, with where it was given: the line of
/// the file, or the flag and the environment, which win over it.
pub fn told(file: Option<&Path>, overlay: &Table, key: &str, advice: &str) -> String {
    if overlay.contains_key(key) {
        let (flag, variable) = (key.replace('_', "-"), key.to_ascii_uppercase());
        return format!("--{flag} (SPYGLASS_{variable}): {advice}");
    }
    let Some(path) = file else { return format!("{key}: {advice}") };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().position(|line| key_of(line) == Some(key));
    let line = line.map(|line| format!(", line {}", line + 1)).unwrap_or_default();
    format!("configuration {}{line}: {key}: {advice}", path.display())
}

/// The key that a line of a file gives a value to.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim().trim_matches('"');
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (!key.is_empty() && key.bytes().all(is_plain)).then_some(key)
}

/// In words for who writes the file, who need not know ours.
fn plain(text: &str) -> String {
    let mut text = one_line(text);
    for (ours, theirs) in [
        ("invalid socket address syntax", "no address with a port: give one like 127.0.0.1:8080"),
        ("expected u16", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("expected f64", "expected a number"),
    ] {
        text = text.replace(ours, theirs);
    }
    text
}

/// Lays `over` on `table`: tables key by key, everything else replaced.
pub fn merge(table: &mut Table, over: Table) {
    for (key, value) in over {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(over)) => merge(below, over),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}

fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        http: String,
        push_viewers: u32,
        control: Vec<String>,
    }

    impl Default for Config {
        fn default() -> Self {
            Self { http: "127.0.0.1:8080".into(), push_viewers: 100, control: Vec::new() }
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn table(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_overlay_wins_over_the_file_and_the_file_over_defaults() {
        let file = file("push_viewers = 5\ncontrol = ['a', 'b']");
        let overlay = table("control = ['c']");
        let config: Config = load(Some(file.path()), overlay).unwrap();
        let control = vec!["c".into()];
        assert_eq!(config, Config { push_viewers: 5, control, ..Config::default() });
        assert_eq!(load::<Config>(None, Table::new()).unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_file_line_and_name() {
        let file = file("# mine\npush_viewers = 5\npush_viewrs = 6\n");
        let error = load::<Config>(Some(file.path()), Table::new()).unwrap_err().to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
        assert!(error.contains("line 3: unknown field `push_viewrs`"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_where_it_stands() {
        let file = file("\npush_viewers = 'many'");
        let error = load::<Config>(Some(file.path()), Table::new()).unwrap_err().to_string();
        assert!(error.contains("line 2: "), "{error}");
        let error = load::<Config>(None, table("push_viewers = 'many'")).unwrap_err().to_string();
        assert!(error.contains("push_viewers"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_with_its_key_and_in_plain_words() {
        #[derive(Debug, Deserialize)]
        struct Addressed {
            #[allow(dead_code)]
            http: std::net::SocketAddr,
        }
        let wrong = file("push_viewers = 'ten'");
        let error = load::<Config>(Some(wrong.path()), Table::new()).unwrap_err().to_string();
        assert!(error.contains("line 1: push_viewers: invalid type"), "{error}");
        assert!(error.contains("expected a whole number"), "{error}");
        let wrong = file("# here\nhttp = '8080'");
        let error = load::<Addressed>(Some(wrong.path()), Table::new()).unwrap_err().to_string();
        assert!(error.contains("line 2: http: ") && error.contains("127.0.0.1:8080"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        let wrong = file("# ours\nchunk_seconds = 99.0\n");
        let given = table("chunk_seconds = 99.0");
        let of_file = told(Some(wrong.path()), &Table::new(), "chunk_seconds", "give 1 to 10");
        assert!(of_file.ends_with(", line 2: chunk_seconds: give 1 to 10"), "{of_file}");
        let of_flag = told(Some(wrong.path()), &given, "chunk_seconds", "give 1 to 10");
        assert_eq!(of_flag, "--chunk-seconds (SPYGLASS_CHUNK_SECONDS): give 1 to 10");
        assert_eq!(told(None, &Table::new(), "a", "b"), "a: b");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Config>(Some(Path::new("/nonexistent.toml")), Table::new());
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("configuration /nonexistent.toml: "), "{error}");
    }

    #[test]
    fn tables_merge_key_by_key() {
        let mut below = table("a = 1\n[t]\nx = 1\ny = 1");
        merge(&mut below, table("[t]\ny = 2"));
        assert_eq!(below, table("a = 1\n[t]\nx = 1\ny = 2"));
    }
}
