//! A configuration that is read again while the service runs (SIGHUP).
//!
//! Each service names the keys that can change without a restart; they get
//! their new values, nobody is disconnected. Every other change is told in the
//! log and waits. A file that is broken, or makes no sense, changes nothing.
//! Flags and the environment go on winning over the file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use toml::Table;
use tracing::{error, info, warn};

use crate::config::{self, from_table};

/// The configuration as it holds now; clones share it.
#[derive(Clone, Debug)]
pub struct Live<T>(Arc<watch::Sender<Arc<T>>>);

impl<T> Live<T> {
    /// As it was at the start.
    pub fn new(config: T) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(config))))
    }

    /// As it holds now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Wakes when it has changed.
    pub fn changes(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }

    /// From now on it is this.
    pub fn set(&self, config: T) {
        self.0.send_replace(Arc::new(config));
    }
}

/// Reads the configuration of one service again.
pub struct Reload<T> {
    /// The file; without one there is nothing to read again.
    pub file: Option<PathBuf>,
    /// Environment and flags.
    pub overlay: Table,
    /// What is changed.
    pub live: Live<T>,
    /// Keys that take effect at once.
    pub keys: &'static [&'static str],
    /// Refuses what the types alone let pass; the text names the key.
    pub check: fn(&T) -> Result<(), String>,
}

/// What a file changed, by its keys; values are not told, some are secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// In effect.
    pub now: Vec<String>,
    /// In effect after a restart.
    pub later: Vec<String>,
}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Reload<T> {
    /// Listens to SIGHUP from now on; [`Self::run`] does what it asks.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub fn on_hangup(self) -> io::Result<impl Future<Output = ()>> {
        let signals = signal(SignalKind::hangup())?;
        Ok(self.run(signals))
    }

    async fn run(self, mut signals: Signal) {
        while signals.recv().await.is_some() {
            match self.again() {
                Ok(changed) => {
                    info!(changed = changed.now.join(", "), "configuration read again");
                    if !changed.later.is_empty() {
                        let keys = changed.later.join(", ");
                        warn!(keys, "these changes need a restart");
                    }
                }
                Err(reason) => error!(reason, "configuration not reloaded: the old one holds"),
            }
        }
    }

    /// Reads the file and puts in effect what can be.
    ///
    /// # Errors
    /// Why nothing changed: names the file, the line and the key.
    pub fn again(&self) -> Result<Changed, String> {
        let Some(file) = &self.file else {
            return Err("there is no file: it was started without --config".to_owned());
        };
        let text = |error: config::Error| error.to_string();
        let read: T = config::load(Some(file), self.overlay.clone()).map_err(text)?;
        let named = |reason| format!("configuration {}: {reason}", file.display());
        (self.check)(&read).map_err(named)?;
        apply(&self.live, self.keys, &read).map_err(named)
    }
}

/// Puts those of `keys` in effect that `read`, which was checked, says otherwise.
///
/// # Errors
/// When it cannot be written as TOML; nothing has changed then.
pub fn apply<T: Serialize + DeserializeOwned>(
    live: &Live<T>,
    reloaded: &[&str],
    read: &T,
) -> Result<Changed, String> {
    let table = |config: &T| Table::try_from(config).map_err(|error| error.to_string());
    let (mut holds, read) = (table(&live.get())?, table(read)?);
    let mut changed = Changed::default();
    let keys: std::collections::BTreeSet<&String> = holds.keys().chain(read.keys()).collect();
    for key in keys.into_iter().filter(|key| holds.get(*key) != read.get(*key)) {
        let to =
            if reloaded.contains(&key.as_str()) { &mut changed.now } else { &mut changed.later };
        to.push(key.clone());
    }
    for key in &changed.now {
        match read.get(key) {
            Some(value) => drop(holds.insert(key.clone(), value.clone())),
            None => drop(holds.remove(key)),
        }
    }
    if !changed.now.is_empty() {
        live.set(from_table(holds).map_err(|error| error.to_string())?);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        http: String,
        push_viewers: u32,
        rate: Option<u32>,
    }

    impl Default for Config {
        fn default() -> Self {
            Self { http: "a".into(), push_viewers: 100, rate: None }
        }
    }

    fn reload(file: &tempfile::NamedTempFile, overlay: &str) -> Reload<Config> {
        let overlay: Table = toml::from_str(overlay).unwrap();
        let config = config::load(Some(file.path()), overlay.clone()).unwrap();
        Reload {
            file: Some(file.path().to_owned()),
            overlay,
            live: Live::new(config),
            keys: &["push_viewers", "rate"],
            check: |config: &Config| {
                let fits = config.push_viewers <= 5000;
                if fits { Ok(()) } else { Err("push_viewers: give at most 5000".to_owned()) }
            },
        }
    }

    fn write(file: &tempfile::NamedTempFile, text: &str) {
        std::fs::write(file.path(), text).unwrap();
    }

    #[test]
    fn what_can_change_does_and_the_rest_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reload = reload(&file, "");
        let changes = reload.live.changes();
        assert_eq!(reload.again(), Ok(Changed::default()));
        assert!(!changes.has_changed().unwrap());
        write(&file, "push_viewers = 5\nhttp = 'b'\nrate = 3");
        let changed = reload.again().unwrap();
        assert_eq!(changed.now, ["push_viewers", "rate"]);
        assert_eq!(changed.later, ["http"]);
        let wanted = Config { http: "a".into(), push_viewers: 5, rate: Some(3) };
        assert_eq!(*reload.live.get(), wanted);
        assert!(changes.has_changed().unwrap());
        write(&file, "");
        assert_eq!(reload.again().unwrap().now, ["push_viewers", "rate"]);
        assert_eq!(*reload.live.get(), Config::default());
    }

    #[test]
    fn a_broken_file_changes_nothing_and_is_named_with_its_line_and_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&file, "push_viewers = 7");
        let reload = reload(&file, "");
        let path = file.path().display().to_string();
        for (text, wanted) in [
            ("\npush_viewrs = 6", "line 2: unknown field `push_viewrs`"),
            ("push_viewers = 'six'", "line 1: "),
            ("push_viewers = 6000", "push_viewers: give at most 5000"),
        ] {
            write(&file, text);
            let told = reload.again().unwrap_err();
            assert!(told.contains(&path) && told.contains(wanted), "{told}");
            assert_eq!(reload.live.get().push_viewers, 7);
        }
        std::fs::remove_file(file.path()).unwrap();
        assert!(reload.again().unwrap_err().contains(&path));
    }

    #[test]
    fn flags_still_win() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let reload = reload(&file, "push_viewers = 9");
        write(&file, "push_viewers = 5");
        assert_eq!(reload.again(), Ok(Changed::default()));
        assert_eq!(reload.live.get().push_viewers, 9);
    }
}
