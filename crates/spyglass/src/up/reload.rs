//! SIGHUP: the file of `up` is read again, and every service gets of it what it
//! would take as a process of its own.

use std::path::PathBuf;

use anyhow::Context as _;
use spyglass_daemon::config;
use spyglass_daemon::reload::{Changed, Live, apply};
use tokio::signal::unix::{SignalKind, signal};
use toml::Table;
use tracing::{error, info, warn};

use super::plan::{self, Plan};

/// The services that run, and where their settings come from.
pub struct Services {
    /// The file; without one there is nothing to read again.
    pub file: Option<PathBuf>,
    /// Environment and flags.
    pub flags: Table,
    /// Control's gRPC address, as its nodes were told.
    pub grpc: String,
    /// Settings of control.
    pub control: Live<spyglass_control::Config>,
    /// Settings of the origin.
    pub origin: Live<spyglass_origin::Config>,
    /// Settings of each edge, by its index.
    pub edges: Vec<Live<spyglass_edge::Config>>,
}

impl Services {
    /// Listens to SIGHUP from now on; the future does what it asks.
    ///
    /// # Errors
    /// When the system refuses the handler.
    pub fn on_hangup(self) -> std::io::Result<impl Future<Output = ()>> {
        let mut signals = signal(SignalKind::hangup())?;
        Ok(async move {
            while signals.recv().await.is_some() {
                match self.again() {
                    Ok(changes) => changes.iter().for_each(|(service, changed)| {
                        let (now, later) = (changed.now.join(", "), changed.later.join(", "));
                        info!(service, changed = now, "configuration read again");
                        if !later.is_empty() {
                            warn!(service, keys = later, "these changes need a restart");
                        }
                    }),
                    Err(reason) => {
                        let reason = format!("{reason:#}");
                        error!(reason, "configuration not reloaded: the old one holds");
                    }
                }
            }
        })
    }

    /// Reads the file. When any part of it makes no sense nothing changes; else
    /// what changed, by service.
    fn again(&self) -> anyhow::Result<Vec<(String, Changed)>> {
        let file =
            self.file.as_ref().context("there is no file: it was started without --config")?;
        let plan = Plan::new(config::read::<plan::File>(file)?, self.flags.clone())?;
        let named = || format!("configuration {}", file.display());
        let control: spyglass_control::Config =
            config::from_table(plan.control()).with_context(named)?;
        control.check().with_context(named)?;
        let origin: spyglass_origin::Config =
            config::from_table(plan.origin(&self.grpc)).with_context(named)?;
        origin.check().with_context(named)?;
        let edges = (0..self.edges.len())
            .map(|index| config::from_table(plan.edge(index, &self.grpc)))
            .collect::<Result<Vec<spyglass_edge::Config>, _>>()
            .with_context(named)?;
        edges.iter().try_for_each(spyglass_edge::Config::check).with_context(named)?;

        let told = |result: Result<Changed, String>| result.map_err(anyhow::Error::msg);
        let mut changes = vec![
            (
                "control".to_owned(),
                told(apply(&self.control, spyglass_control::Config::RELOADED, &control))?,
            ),
            (
                "origin-1".to_owned(),
                told(apply(&self.origin, spyglass_origin::Config::RELOADED, &origin))?,
            ),
        ];
        for (index, (live, edge)) in self.edges.iter().zip(&edges).enumerate() {
            let changed = told(apply(live, spyglass_edge::Config::RELOADED, edge))?;
            changes.push((plan::edge_id(index), changed));
        }
        if plan.edges != self.edges.len() {
            let later = vec!["edges".to_owned()];
            changes.push(("up".to_owned(), Changed { later, ..Changed::default() }));
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_takes_what_it_can_and_a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("up.toml");
        let state = dir.path().join("state").display().to_string();
        let flags: Table =
            toml::from_str(&format!("state = '{state}'\nresume_seconds = 7")).unwrap();
        std::fs::write(&file, "push_viewers = 1").unwrap();
        let read = config::read::<plan::File>(&file).unwrap();
        let plan = Plan::new(read, flags.clone()).unwrap();
        let grpc = "http://127.0.0.1:9080".to_owned();
        let edge = |index| config::from_table(plan.edge(index, &grpc)).map(Live::new).unwrap();
        let services = Services {
            file: Some(file.clone()),
            flags,
            control: Live::new(config::from_table(plan.control()).unwrap()),
            origin: Live::new(config::from_table(plan.origin(&grpc)).unwrap()),
            edges: vec![edge(0), edge(1)],
            grpc: grpc.clone(),
        };
        let unchanged = services.again().unwrap();
        assert!(unchanged.iter().all(|(_, changed)| *changed == Changed::default()));

        let text = "edges = 3\npush_viewers = 2\nresume_seconds = 9\n\
                    [[edge]]\n[[edge]]\nmax_connections = 5\nhttp = '127.0.0.1:1'";
        std::fs::write(&file, text).unwrap();
        let changes = services.again().unwrap();
        let of = |name: &str| &changes.iter().find(|(service, _)| service == name).unwrap().1;
        assert_eq!(of("control").now, ["push_viewers"], "flags still win");
        assert_eq!(of("edge-1"), &Changed::default());
        assert_eq!(
            (&of("edge-2").now[..], &of("edge-2").later[..]),
            (&["max_connections".to_owned()][..], &["http".to_owned()][..])
        );
        assert_eq!(of("up").later, ["edges"]);
        assert_eq!(services.control.get().push_viewers, 2);
        assert_eq!(services.edges[1].get().max_connections, 5);

        std::fs::write(&file, "push_viewers = 3\n[control]\nchunk_seconds = 99").unwrap();
        let told = format!("{:#}", services.again().unwrap_err());
        assert!(told.contains("up.toml") && told.contains("chunk_seconds"), "{told}");
        assert_eq!(services.control.get().push_viewers, 2);
    }
}
