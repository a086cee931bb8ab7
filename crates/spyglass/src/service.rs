//! `spyglass control`, `origin`, `edge`: one service in this process.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{anyhow, bail};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use spyglass_control::Control;
use spyglass_daemon::reload::Reload;
use spyglass_daemon::state::StateLock;
use spyglass_daemon::{Secret, Shutdown, config, log};
use spyglass_edge::Edge;
use spyglass_origin::Origin;

use crate::args::{Common, Files, Node, Policy, overlay, warn_of_unknown_variables};
use crate::ready;

/// `spyglass control`
#[derive(Args, Debug, Serialize)]
pub struct ControlArgs {
    #[command(flatten)]
    #[serde(skip)]
    files: Files,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    policy: Policy,
    /// What stands in watch URLs instead of the HTTP listener's address
    #[arg(long, value_name = "URL", env = "SPYGLASS_PUBLIC_HTTP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_http: Option<String>,
    /// Where nodes find this control instead of the gRPC listener's address
    #[arg(long, value_name = "URL", env = "SPYGLASS_PUBLIC_GRPC")]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_grpc: Option<String>,
    /// Where state is kept by several controls, nats://…; absent: embedded
    #[arg(long, value_name = "URL", env = "SPYGLASS_STORE", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<Secret>,
}

/// `spyglass origin`
#[derive(Args, Debug, Serialize)]
pub struct OriginArgs {
    #[command(flatten)]
    #[serde(skip)]
    files: Files,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    node: Node,
    /// Address of the RTMP listener
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_RTMP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    rtmp: Option<SocketAddr>,
    /// What broadcasters and viewers are told instead of the RTMP listener's address
    #[arg(long, value_name = "URL", env = "SPYGLASS_PUBLIC_RTMP")]
    #[serde(skip_serializing_if = "Option::is_none")]
    public_rtmp: Option<String>,
}

/// `spyglass edge`
#[derive(Args, Debug, Serialize)]
pub struct EdgeArgs {
    #[command(flatten)]
    #[serde(skip)]
    files: Files,
    #[command(flatten)]
    #[serde(flatten)]
    common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    node: Node,
    /// HTTPS for viewers, beside HTTP [default: none]
    #[arg(long, value_name = "ADDR", env = "SPYGLASS_HTTPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    https: Option<std::net::SocketAddr>,
    /// Certificate chain for HTTPS, PEM [default: a development certificate]
    #[arg(long, value_name = "FILE", env = "SPYGLASS_TLS_CERT", requires = "tls_key")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", env = "SPYGLASS_TLS_KEY", requires = "tls_cert")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,
    /// Whom to fetch from: each broadcast's origin, or through the gateways that
    /// control names [default: origin]
    #[arg(long, value_name = "FROM", value_parser = ["origin", "auto"], env = "SPYGLASS_UPSTREAM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    /// For tests: drop every expire notice
    #[arg(long, env = "SPYGLASS_IGNORE_NOTICES", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_notices: Option<bool>,
}

/// `spyglass messages`
#[derive(Args, Debug)]
pub struct MessagesArgs {
    #[command(flatten)]
    _files: Files,
    #[command(flatten)]
    _common: Common,
}

/// Control's part of the ready file.
pub fn control_entry(control: &Control) -> Value {
    let at = control.addresses();
    json!({"http": at.http, "grpc": at.grpc})
}

/// An origin's entry in the ready file.
pub fn origin_entry(origin: &Origin) -> Value {
    let at = origin.addresses();
    json!({"id": at.id, "rtmp": at.rtmp, "http": at.http, "grpc": at.grpc})
}

/// An edge's entry in the ready file.
pub fn edge_entry(edge: &Edge) -> Value {
    let at = edge.addresses();
    let mut entry = json!({"id": at.id, "http": at.http, "grpc": at.grpc});
    if let Some(https) = at.https {
        entry["https"] = https.into();
    }
    entry
}

/// Runs control to its end.
pub async fn control(args: ControlArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    ready::clear(args.files.ready_file.as_deref())?;
    let overlay = overlay(&args)?;
    let config: spyglass_control::Config =
        config::load(args.files.config.as_deref(), overlay.clone())?;
    log::init(config.log_format);
    warn_of_unknown_variables();
    config.check_addresses()?;
    config.check().map_err(|wrong| {
        let file = args.files.config.as_deref();
        anyhow::Error::msg(config::told(file, &overlay, wrong.key, wrong.advice))
    })?;
    let _alone = alone(&config.state)?;
    let control = Control::load(config).await?;
    let reload = Reload {
        file: args.files.config.clone(),
        overlay,
        live: control.live(),
        keys: spyglass_control::Config::RELOADED,
        check: |config: &spyglass_control::Config| {
            config.check_addresses().map_err(|error| error.to_string())?;
            config.check().map_err(|error| error.to_string())
        },
    };
    tokio::spawn(reload.on_hangup()?);
    let at = control.addresses();
    let entry = json!({"control": control_entry(&control), "operator_key": at.operator_key});
    let running = control.run(shutdown.clone());
    serve(running, &args.files, &at.health, entry, shutdown).await
}

/// Runs an origin to its end.
pub async fn origin(args: OriginArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    ready::clear(args.files.ready_file.as_deref())?;
    let overlay = overlay(&args)?;
    let config: spyglass_origin::Config =
        config::load(args.files.config.as_deref(), overlay.clone())?;
    log::init(config.log_format);
    warn_of_unknown_variables();
    config.check_addresses()?;
    let _alone = alone(&config.state)?;
    let origin = Origin::load(config).await?;
    let reload = Reload {
        file: args.files.config.clone(),
        overlay,
        live: origin.live(),
        keys: spyglass_origin::Config::RELOADED,
        check: |config: &spyglass_origin::Config| {
            config.check_addresses().map_err(|error| error.to_string())?;
            config.check().map_err(|error| error.to_string())
        },
    };
    tokio::spawn(reload.on_hangup()?);
    let (health, entry) = (origin.addresses().health, json!({"origins": [origin_entry(&origin)]}));
    serve(origin.run(shutdown.clone()), &args.files, &health, entry, shutdown).await
}

/// Runs an edge to its end.
pub async fn edge(args: EdgeArgs, shutdown: Shutdown) -> anyhow::Result<()> {
    ready::clear(args.files.ready_file.as_deref())?;
    let overlay = overlay(&args)?;
    let config: spyglass_edge::Config =
        config::load(args.files.config.as_deref(), overlay.clone())?;
    log::init(config.log_format);
    warn_of_unknown_variables();
    config.check_addresses()?;
    check_tls(&config)?;
    let _alone = alone(&config.state)?;
    let edge = Edge::load(config).await?;
    let reload = Reload {
        file: args.files.config.clone(),
        overlay,
        live: edge.live(),
        keys: spyglass_edge::Config::RELOADED,
        check: |config: &spyglass_edge::Config| {
            config.check_addresses().map_err(|error| error.to_string())?;
            config.check().map_err(|error| error.to_string())
        },
    };
    tokio::spawn(reload.on_hangup()?);
    let (health, entry) = (edge.addresses().health, json!({"edges": [edge_entry(&edge)]}));
    serve(edge.run(shutdown.clone()), &args.files, &health, entry, shutdown).await
}

/// Takes the state directory for this process.
///
/// # Errors
/// When another process has it, or it cannot be made or written: which flag gave
/// it and what to do.
pub fn alone(state: &Path) -> anyhow::Result<StateLock> {
    StateLock::take(state).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => error.into(),
        _ => no_state(state, &error),
    })
}

/// A state directory that cannot be used.
pub fn no_state(state: &Path, error: &std::io::Error) -> anyhow::Error {
    anyhow!(
        "--state {}: {error}: give a directory that this user can make and write in",
        state.display()
    )
}

/// Refuses a certificate that nothing would serve.
///
/// # Errors
/// When there is a certificate and no HTTPS listener.
pub fn check_tls(config: &spyglass_edge::Config) -> anyhow::Result<()> {
    match &config.tls_cert {
        Some(cert) if config.https.is_none() => bail!(
            "--tls-cert {}: nothing is served with it: give --https ADDR as well, e.g. \
             --https 0.0.0.0:8443, or leave --tls-cert and --tls-key out",
            cert.display()
        ),
        _ => Ok(()),
    }
}

/// Says that there is no such service yet.
pub fn messages(_: &MessagesArgs) -> anyhow::Result<()> {
    bail!("messages (comments and hearts) is not part of this release yet")
}

/// Runs a service; tells the ready file once its listeners answer.
async fn serve<E>(
    running: impl Future<Output = Result<(), E>>,
    files: &Files,
    health: &SocketAddr,
    entry: Value,
    shutdown: Shutdown,
) -> anyhow::Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    shutdown.on_signals()?;
    let told = async {
        ready::answers(*health, "/healthz", Duration::from_secs(10)).await?;
        ready::write(files.ready_file.as_deref(), &entry)?;
        std::future::pending::<anyhow::Result<()>>().await
    };
    tokio::select! {
        result = running => Ok(result?),
        result = told => result,
    }
}

#[cfg(test)]
mod tests {
    use spyglass_daemon::reload::{Changed, apply};

    use super::*;

    /// A service's settings as its file says them, on free ports.
    fn settings<T: serde::de::DeserializeOwned>(id: &str, state: &str) -> T {
        let listeners = "http = '127.0.0.1:0'\ngrpc = '127.0.0.1:0'\ncluster_key = 'of-this-test'";
        let table = toml::from_str(&format!("{id}\nstate = '{state}'\n{listeners}"));
        config::from_table(table.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_was_filled_in_at_the_start_is_no_change() {
        for id in ["", "id = 'some-name'"] {
            let dir = tempfile::tempdir().unwrap();
            let state = dir.path().to_str().unwrap();
            let unchanged = Ok(Changed::default());

            let config: spyglass_edge::Config = settings(id, state);
            let edge = Edge::load(config.clone()).await.unwrap();
            assert_eq!(apply(&edge.live(), &[], &config), unchanged, "edge, {id}");

            let mut config: spyglass_origin::Config = settings(id, state);
            config.rtmp.set_port(0);
            let origin = Origin::load(config.clone()).await.unwrap();
            assert_eq!(apply(&origin.live(), &[], &config), unchanged, "origin, {id}");

            let config: spyglass_control::Config = settings(id, state);
            let control = Control::load(config.clone()).await.unwrap();
            assert_eq!(apply(&control.live(), &[], &config), unchanged, "control, {id}");
        }
    }
}
