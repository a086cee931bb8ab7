//! What must survive a restart: small files in one directory.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory of one service. It is made for its user alone, and so is every
/// file in it, whoever made the directory.
#[derive(Clone, Debug)]
pub struct StateDir(Arc<Path>);

impl StateDir {
    /// Opens `path` and makes it when it does not exist.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Self(path.into()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file `name`, or `None` when there is none. Blocks.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.0.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file `name`: after a crash it holds the old or the new
    /// bytes, whole. Blocks until they are on the disk. Two writers of one name
    /// at once are the caller's mistake.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        replace(&self.0.join(name), bytes)
    }
}

/// What says that a process uses a directory.
const LOCK: &str = "lock";

/// A state directory is this process's alone until this is dropped, or the
/// process ends, however it ends. Services take it in the program and not
/// where they open their state, so that a test may restart one in its process.
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct StateLock(#[expect(dead_code, reason = "held, not read")] File);

impl StateLock {
    /// Takes the directory at `path`, made when it does not exist.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when another process has it: the text says
    /// what to do. Otherwise when there can be no file.
    pub fn take(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let state = StateDir::open(path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(state.path().join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!(
                    "--state {}: another process uses it; stop that one first, or give each a \
                     --state of its own",
                    path.display()
                ),
            )),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// As [`StateDir::write`], for a file anywhere.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary: PathBuf = path.with_file_name(name);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The new name is only safe once its directory is on the disk too.
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_one_holders_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge");
        let held = StateLock::take(&path).unwrap();
        let refused = StateLock::take(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let told = refused.to_string();
        assert!(told.contains(&path.display().to_string()) && told.contains("stop that one"));
        let _other = StateLock::take(dir.path().join("edge-2")).unwrap();
        drop(held);
        let _again = StateLock::take(&path).unwrap();
        // Whoever holds it works in it all the same.
        StateDir::open(&path).unwrap().write("keys", b"one").unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path().join("a/b")).unwrap();
        assert_eq!(state.read("keys").unwrap(), None);
        state.write("keys", b"one, longer").unwrap();
        state.write("keys", b"two").unwrap();
        assert_eq!(state.read("keys").unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(state.path()), 0o700);
        assert_eq!(mode(&state.path().join("keys")), 0o600);
    }
}
