//! gRPC channels and servers with the limits that all services share.
//!
//! Either side notices within ten seconds that the other's machine is gone
//! (HTTP/2 pings), and no call waits for more than 2 s to connect. Deadlines of
//! single calls stand where they are made.

use std::time::Duration;

use spyglass_api::auth::{Attach, ClusterKey};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

/// A channel that attaches the cluster key to every call.
pub type Client = InterceptedService<Channel, Attach>;

const CONNECT: Duration = Duration::from_secs(2);
const PING: Duration = Duration::from_secs(5);

/// Streams that one peer may have open: fetches of an edge, mostly.
const STREAMS: u32 = 1_000;

/// Largest header list accepted, in bytes.
const HEADERS: u32 = 16 * 1024;

/// A URL that no channel can be made of.
#[derive(Debug, thiserror::Error)]
#[error("{url}: not a gRPC address: give http://HOST:PORT")]
pub struct Error {
    /// As it was given.
    pub url: String,
}

/// How much a peer may send before we have read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Windows {
    /// For small messages.
    #[default]
    Messages,
    /// For objects: 4 MiB a stream and 16 MiB a connection, so that a chunk
    /// does not wait for a round trip.
    Objects,
}

/// A channel to `url`; it connects with the first call and again after every
/// loss.
pub fn channel(url: &str, key: &ClusterKey, windows: Windows) -> Result<Client, Error> {
    let error = || Error { url: url.to_owned() };
    let uri: http::Uri = url.parse().map_err(|_| error())?;
    if uri.scheme_str() != Some("http") || uri.authority().is_none() {
        return Err(error());
    }
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADERS);
    let endpoint = match windows {
        Windows::Messages => endpoint,
        Windows::Objects => endpoint
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(16 * 1024 * 1024),
    };
    Ok(InterceptedService::new(endpoint.connect_lazy(), Attach(key.clone())))
}

/// A server to add services to. Each service sets its own message limit and
/// requires the cluster key.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .http2_max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
}

/// The listener's connections, for `serve_with_incoming`.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(PING * 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_an_http_url_with_a_host_makes_a_channel() {
        let key = ClusterKey::new("correct-horse").unwrap();
        assert!(channel("http://127.0.0.1:9080", &key, Windows::Messages).is_ok());
        for url in ["127.0.0.1:9080", "rtmp://host:1935/live", "", "http://"] {
            let error = channel(url, &key, Windows::Messages).unwrap_err();
            assert!(error.to_string().contains("give http://HOST:PORT"), "{error}");
        }
    }
}
