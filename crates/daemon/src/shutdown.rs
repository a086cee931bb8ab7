//! The wish that everything stops, known everywhere.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tracing::info;

/// Set once, seen by every clone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests it; again does nothing.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether it was requested.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves once it is requested, at once when it was.
    pub fn requested(&self) -> WaitForCancellationFutureOwned {
        self.0.clone().cancelled_owned()
    }

    /// A shutdown that follows this one but can be triggered by itself.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Requests it when what is returned is dropped.
    pub fn on_drop(&self) -> DropGuard {
        self.0.clone().drop_guard()
    }

    /// Lets SIGTERM and SIGINT trigger it from now on.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            info!(signal = name, "stopping");
            shutdown.trigger();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_learns_of_it() {
        let shutdown = Shutdown::new();
        let seen = shutdown.clone().requested();
        let child = shutdown.child();
        assert!(!shutdown.is_requested());
        shutdown.trigger();
        seen.await;
        child.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_child_stops_alone() {
        let shutdown = Shutdown::new();
        shutdown.child().trigger();
        assert!(!shutdown.is_requested());
    }
}
