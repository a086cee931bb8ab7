//! Fetches named objects from an upstream, whole and checked.
//!
//! Nothing here is believed: the announced length, the slices, the variants
//! and the version are compared, and what does not fit is rubbish that no
//! viewer sees. Deadlines are given by the caller.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use spyglass_api::upstream::upstream_client::UpstreamClient;
use spyglass_api::upstream::{
    self, Encoding, FetchRequest, Header, Playlist, fetch_request, fetch_response,
};
use spyglass_api::{MAX_MESSAGE, MAX_SLICE};
use spyglass_daemon::grpc::Client;
use spyglass_media::{BroadcastId, NodeId, Position, Resource, Version};
use tonic::{Code, Request, Status, Streaming};

use crate::respond::{BlockingLifetime, Forms, Lists};
use crate::slot::{Meta, Span};

/// Largest list, all variants together, in bytes.
const MAX_LIST: u64 = 4 * 1024 * 1024;

/// Target durations that make sense (chunks are 1 to 10 s).
const TARGETS: std::ops::RangeInclusive<u32> = 500..=60_000;

/// Why a fetch brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Upstream says that it does not exist.
    Missing,
    /// Upstream has nothing new enough yet.
    NotYet,
    /// No answer in time.
    Deadline,
    /// No connection, or it broke.
    Unreachable,
    /// Upstream refuses the cluster key.
    Unauthenticated,
    /// A gateway did not take the request in time.
    Silent,
    /// A gateway is none for this broadcast.
    NoGateway,
    /// What a gateway has is behind what is known here.
    Behind,
    /// Upstream failed in some other way.
    Upstream,
    /// The answer ended before its announced length.
    Truncated,
    /// The answer makes no sense, for this reason.
    Rubbish(&'static str),
}

impl Failure {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotYet => "not_yet",
            Self::Deadline => "deadline",
            Self::Unreachable => "unreachable",
            Self::Unauthenticated => "unauthenticated",
            Self::Silent => "silent",
            Self::NoGateway => "no_gateway",
            Self::Behind => "behind",
            Self::Upstream => "upstream",
            Self::Truncated => "truncated",
            Self::Rubbish(_) => "rubbish",
        }
    }

    /// Whether asking again at once may help: the connection was an old one.
    pub const fn is_transport(self) -> bool {
        matches!(self, Self::Unreachable | Self::Truncated)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::NotFound => Self::Missing,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::DeadlineExceeded | Code::Cancelled => Self::Deadline,
            // tonic says so as well when there is no connection; only a server
            // that answered says it without a cause.
            Code::Unavailable if std::error::Error::source(&status).is_none() => Self::NotYet,
            Code::Unavailable => Self::Unreachable,
            Code::Unknown | Code::Internal => Self::Unreachable,
            Code::FailedPrecondition => Self::NoGateway,
            Code::OutOfRange => Self::Rubbish("message too large"),
            _ => Self::Upstream,
        }
    }
}

/// Sees an object while it comes.
pub trait Passing: Send {
    /// So many bytes are announced; an error ends the fetch.
    fn on_header(&mut self, header: &Header, length: usize) -> Result<(), Failure>;
    /// These of them have come, the first of them `at` this offset.
    fn on_slice(&mut self, at: usize, slice: &Bytes);
}

/// Looks away.
impl Passing for () {
    fn on_header(&mut self, _: &Header, _: usize) -> Result<(), Failure> {
        Ok(())
    }

    fn on_slice(&mut self, _: usize, _: &Bytes) {}
}

/// An upstream to fetch from; clones share the channel.
#[derive(Clone, Debug)]
pub struct Fetcher {
    client: UpstreamClient<Client>,
    largest: u64,
    me: NodeId,
    patience: Option<Duration>,
}

impl Fetcher {
    /// Over this channel, objects of at most `largest` bytes, for the edge `me`.
    /// An upstream that has not taken a request after `patience` is given up.
    pub fn new(channel: Client, largest: u64, me: NodeId, patience: Option<Duration>) -> Self {
        let client = UpstreamClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Self { client, largest, me, patience }
    }

    /// A broadcast's lists, at least as new as `least`.
    pub async fn lists(
        &self,
        broadcast: BroadcastId,
        least: Version,
        deadline: Instant,
    ) -> Result<(Meta, Lists), Failure> {
        let passing = &mut ();
        let fetched =
            self.fetch(broadcast, Resource::Chunklist, Some(least), MAX_LIST, deadline, passing);
        let (header, body) = fetched.await?;
        read_lists(&header, &body)
    }

    /// An init, chunk or part. `passing` sees it come.
    pub async fn object(
        &self,
        broadcast: BroadcastId,
        resource: Resource,
        deadline: Instant,
        passing: &mut impl Passing,
    ) -> Result<Bytes, Failure> {
        let largest = self.largest;
        let fetched = self.fetch(broadcast, resource, None, largest, deadline, passing).await?;
        Ok(fetched.1)
    }

    async fn fetch(
        &self,
        broadcast: BroadcastId,
        resource: Resource,
        least: Option<Version>,
        largest: u64,
        deadline: Instant,
        passing: &mut impl Passing,
    ) -> Result<(Header, Bytes), Failure> {
        let mut client = self.client.clone();
        let mut request = Request::new(FetchRequest {
            broadcast: broadcast.to_string(),
            object: Some(fetch_request::Object::from(resource)),
            least: least.map(Into::into),
            path: vec![self.me.to_string()],
        });
        let now = tokio::time::Instant::now().into_std();
        // So that the upstream stops waiting too.
        request.set_timeout(deadline.saturating_duration_since(now));
        let call = async {
            let begin = client.fetch(request);
            // A gateway takes a request at once, however long it then waits.
            let begun = match self.patience {
                Some(patience) => tokio::time::timeout(patience, begin).await,
                None => Ok(begin.await),
            };
            let mut stream = begun.map_err(|_| Failure::Silent)??.into_inner();
            let header = header(&mut stream, largest).await?;
            receive(&mut stream, header, passing).await
        };
        let outcome = tokio::time::timeout_at(deadline.into(), call).await;
        outcome.unwrap_or(Err(Failure::Deadline))
    }
}

/// What is announced.
async fn header(
    stream: &mut Streaming<upstream::FetchResponse>,
    largest: u64,
) -> Result<Header, Failure> {
    let first = stream.message().await?.and_then(|message| message.response);
    let Some(fetch_response::Response::Header(header)) = first else {
        return Err(Failure::Rubbish("no header"));
    };
    if header.length > largest {
        return Err(Failure::Rubbish("too large"));
    }
    Ok(header)
}

/// Exactly as many bytes as the header announces, in one piece.
async fn receive(
    stream: &mut Streaming<upstream::FetchResponse>,
    header: Header,
    passing: &mut impl Passing,
) -> Result<(Header, Bytes), Failure> {
    let length = usize::try_from(header.length).map_err(|_| Failure::Rubbish("too large"))?;
    passing.on_header(&header, length)?;
    let mut missing = length;
    let mut body = BytesMut::new();
    let mut whole = None;
    while let Some(message) = stream.message().await? {
        let Some(fetch_response::Response::Slice(slice)) = message.response else {
            return Err(Failure::Rubbish("not a slice"));
        };
        if slice.len() > MAX_SLICE || slice.len() > missing {
            return Err(Failure::Rubbish("more than announced"));
        }
        passing.on_slice(length - missing, &slice);
        missing -= slice.len();
        if slice.len() == length {
            // Small enough for one slice: its memory is good as it is.
            whole = Some(slice);
        } else {
            if body.capacity() == 0 {
                body.reserve(length);
            }
            body.extend_from_slice(&slice);
        }
    }
    if missing > 0 {
        return Err(Failure::Truncated);
    }
    Ok((header, whole.unwrap_or_else(|| body.freeze())))
}

fn read_lists(header: &Header, body: &Bytes) -> Result<(Meta, Lists), Failure> {
    let version = header.version.ok_or(Failure::Rubbish("no version"))?.into();
    if !TARGETS.contains(&header.target_duration_ms) {
        return Err(Failure::Rubbish("target duration"));
    }
    let mut found: [[Option<Bytes>; 2]; 3] = Default::default();
    let mut rest = body.clone();
    for variant in &header.variants {
        let length = usize::try_from(variant.length).ok().filter(|length| *length <= rest.len());
        let bytes = rest.split_to(length.ok_or(Failure::Rubbish("variants"))?);
        let playlist = match Playlist::try_from(variant.playlist) {
            Ok(Playlist::Media) => 0,
            Ok(Playlist::Multivariant) => 1,
            Ok(Playlist::MediaDelta) => 2,
            // Playlists of a later release.
            _ => continue,
        };
        let encoding = match Encoding::try_from(variant.encoding) {
            Ok(Encoding::Identity) => 0,
            Ok(Encoding::Gzip) => 1,
            _ => continue,
        };
        found[playlist][encoding] = Some(bytes);
    }
    if !rest.is_empty() {
        return Err(Failure::Rubbish("variants"));
    }
    let [media, index, [delta, delta_gzip]] = found;
    let span = media[0].as_deref().and_then(Span::read);
    let forms = |resource, [identity, gzip]: [Option<Bytes>; 2]| {
        let identity = identity.ok_or(Failure::Rubbish("a playlist is missing"))?;
        Ok::<_, Failure>(Forms::new(resource, identity, gzip))
    };
    // An age beyond a week is somebody's broken clock.
    let age = Duration::from_millis(header.age_ms).min(Duration::from_secs(7 * 24 * 3600));
    let unconfirmed = Duration::from_millis(header.unconfirmed_ms).min(age);
    let meta = Meta {
        version,
        position: header.position.map(Position::from),
        target: Duration::from_millis(header.target_duration_ms.into()),
        ended: header.ended,
        incarnation: header.incarnation,
        age: age - unconfirmed,
        unconfirmed,
        part_target: (header.part_target_ms > 0)
            .then(|| Duration::from_millis(header.part_target_ms.into())),
        last_parts: header.last_parts,
    };
    let lists = Lists {
        meta,
        media: forms(Resource::Chunklist, media)?,
        delta: delta.map(|delta| Forms::new(Resource::Chunklist, delta, delta_gzip)),
        index: forms(Resource::Index, index)?,
        blocking: BlockingLifetime::new(meta.target),
        span,
    };
    Ok((meta, lists))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::negotiate::Terms;
    use spyglass_api::upstream::Variant;

    fn variant(playlist: Playlist, encoding: Encoding, length: u64) -> Variant {
        Variant { playlist: playlist.into(), encoding: encoding.into(), length }
    }

    fn header() -> Header {
        Header {
            length: 10,
            version: Some(Version { epoch: 1, revision: 2 }.into()),
            position: Some(Position::closed(7).into()),
            target_duration_ms: 4_000,
            variants: vec![
                variant(Playlist::Media, Encoding::Identity, 4),
                variant(Playlist::MediaDelta, Encoding::Identity, 1),
                variant(Playlist::Media, Encoding::Gzip, 2),
                variant(Playlist::Multivariant, Encoding::Identity, 3),
            ],
            age_ms: 1_500,
            ..Header::default()
        }
    }

    #[test]
    fn one_fetch_divides_into_its_variants() {
        let body = Bytes::from_static(b"mmmmdggiii");
        let (meta, lists) = read_lists(&header(), &body).unwrap();
        assert_eq!(meta.version, Version { epoch: 1, revision: 2 });
        assert_eq!((meta.position, meta.age.as_millis()), (Some(Position::closed(7)), 1_500));
        let mut gzip = http::HeaderMap::new();
        gzip.insert("accept-encoding", http::HeaderValue::from_static("gzip"));
        let (plain, gzip) = (Terms::default(), Terms::read(&gzip));
        assert_eq!(lists.media.choose(&plain).body(), "mmmm");
        assert_eq!(lists.delta.as_ref().unwrap().choose(&gzip).body(), "d");
        assert_eq!(lists.media.choose(&gzip).body(), "gg");
        assert_eq!(lists.index.choose(&gzip).body(), "iii");
    }

    #[test]
    fn rubbish_is_refused() {
        let body = Bytes::from_static(b"mmmmdggiii");
        let spoil = |spoil: fn(&mut Header)| {
            let mut header = header();
            spoil(&mut header);
            read_lists(&header, &body).unwrap_err()
        };
        assert_eq!(spoil(|h| h.version = None), Failure::Rubbish("no version"));
        assert_eq!(spoil(|h| h.target_duration_ms = 0), Failure::Rubbish("target duration"));
        assert_eq!(spoil(|h| h.variants[0].length = 11), Failure::Rubbish("variants"));
        assert_eq!(spoil(|h| h.variants[0].length = u64::MAX), Failure::Rubbish("variants"));
        assert_eq!(spoil(|h| h.variants[3].length = 2), Failure::Rubbish("variants"));
        let missing = Failure::Rubbish("a playlist is missing");
        assert_eq!(spoil(|h| h.variants[3].playlist = 99), missing);
        assert_eq!(spoil(|h| h.variants[0].encoding = 99), missing);
    }
}
