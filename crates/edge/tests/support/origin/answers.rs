//! What the origin answers to Watch and Fetch.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use spyglass_api::upstream::upstream_server::Upstream;
use spyglass_api::upstream::{
    Encoding, FetchRequest, FetchResponse, Header, Heartbeat, Playlist, Snapshot, Variant,
    WatchRequest, WatchResponse, fetch_response, watch_request, watch_response,
};
use spyglass_media::{BroadcastId, Position, Resource, Version};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Fault, Origin, version};
use crate::support::exactly;

impl Origin {
    fn list(&self, id: BroadcastId, least: Version) -> Result<Vec<FetchResponse>, Status> {
        let script = self.script.lock();
        let live = script.broadcasts.get(&id).ok_or_else(|| Status::not_found("no broadcast"))?;
        let mut revision = live.revision;
        if revision == 0 || version(revision) < least {
            return Err(Status::unavailable("nothing that new"));
        }
        if script.fault == Fault::TooOld {
            revision = revision.saturating_sub(1);
        }
        let end = if live.ended { "#EXT-X-ENDLIST\n" } else { "" };
        let media = match script.texts.get(&id) {
            Some(text) => text.clone(),
            None => format!("#EXTM3U\nrevision {revision}\n1-{revision}.m4s\n{end}"),
        };
        let mut bodies = vec![
            (Playlist::MediaDelta, Encoding::Identity, format!("(delta){media}")),
            (Playlist::Media, Encoding::Identity, media.clone()),
            (Playlist::Media, Encoding::Gzip, format!("(gzip){media}")),
            (Playlist::Multivariant, Encoding::Identity, "#EXTM3U\nchunklist.m3u8\n".to_owned()),
            (Playlist::Multivariant, Encoding::Gzip, "(gzip)".to_owned()),
        ];
        if script.texts.contains_key(&id) {
            bodies.retain(|(playlist, encoding, _)| {
                *playlist != Playlist::MediaDelta && *encoding == Encoding::Identity
            });
        }
        let header = Header {
            length: bodies.iter().map(|(.., body)| body.len() as u64).sum(),
            version: Some(version(revision).into()),
            position: Some(live.position.unwrap_or(Position::closed(revision)).into()),
            target_duration_ms: live.entry.target_duration_ms,
            ended: live.ended,
            variants: bodies
                .iter()
                .map(|(playlist, encoding, body)| Variant {
                    playlist: (*playlist).into(),
                    encoding: (*encoding).into(),
                    length: body.len() as u64,
                })
                .collect(),
            incarnation: script.incarnation,
            age_ms: 0,
            part_target_ms: live.position.map_or(0, |_| 210),
            last_parts: live.last_parts,
            digest: Bytes::new(),
            unconfirmed_ms: 0,
            ready_age_us: None,
        };
        let whole: String = bodies.into_iter().map(|(.., body)| body).collect();
        Ok(answer(header, whole.into()))
    }
}

fn answer(header: Header, body: Bytes) -> Vec<FetchResponse> {
    let mut answers = vec![fetch_response::Response::Header(header)];
    let slices = body.len().div_ceil(spyglass_api::MAX_SLICE);
    answers.extend((0..slices).map(|i| {
        let from = i * spyglass_api::MAX_SLICE;
        let to = body.len().min(from + spyglass_api::MAX_SLICE);
        fetch_response::Response::Slice(body.slice(from..to))
    }));
    answers.into_iter().map(|response| FetchResponse { response: Some(response) }).collect()
}

fn spoil(mut answers: Vec<FetchResponse>, fault: Fault) -> Vec<FetchResponse> {
    match fault {
        Fault::Truncate => {
            if let Some(fetch_response::Response::Slice(last)) =
                &mut answers.last_mut().unwrap().response
            {
                last.truncate(last.len() / 2);
            }
        }
        Fault::Excess => answers.extend(answers.last().cloned()),
        Fault::Rubbish => {
            answers[0].response = Some(fetch_response::Response::Slice("rubbish".into()));
        }
        Fault::Corrupt => {
            if let Some(fetch_response::Response::Slice(last)) =
                &mut answers.last_mut().unwrap().response
            {
                let mut bytes = last.to_vec();
                bytes[0] ^= 1;
                *last = bytes.into();
            }
        }
        _ => {}
    }
    answers
}

#[tonic::async_trait]
impl Upstream for Origin {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;
    type FetchStream = ReceiverStream<Result<FetchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        if !self.script.lock().watchable {
            return Err(Status::unavailable("a fault"));
        }
        let mut requests = request.into_inner();
        let (answers, receiver) = mpsc::channel(1_024);
        let mut changed = self.changed.subscribe();
        let this = self.clone();
        let mut told = self.tell.subscribe();
        tokio::spawn(async move {
            let send = |response| answers.try_send(Ok(WatchResponse { response: Some(response) }));
            let (entries, revocations) = {
                let script = this.script.lock();
                let entries = script.broadcasts.values().map(|live| live.entry.clone());
                (entries.collect(), script.revocations.clone())
            };
            let snapshot = Snapshot { entries, revocations, last: true };
            send(watch_response::Response::Snapshot(snapshot)).unwrap();
            this.set(|script| script.watches += 1);
            let mut mine = HashSet::new();
            let mut beat = tokio::time::interval(Duration::from_millis(200));
            loop {
                tokio::select! {
                    response = told.recv() => {
                        let response = response.unwrap();
                        let wanted = match &response {
                            watch_response::Response::Expire(expire) => {
                                mine.contains(&expire.broadcast.parse().unwrap())
                            }
                            _ => true,
                        };
                        if wanted && send(response).is_err() {
                            return;
                        }
                    }
                    _ = changed.changed() => {
                        if !this.script.lock().watchable {
                            return;
                        }
                    }
                    _ = beat.tick() => {
                        if this.script.lock().beats {
                            let current = mine.iter().map(|id| this.expire(*id)).collect();
                            let beat = watch_response::Response::Heartbeat(Heartbeat { current, adrift: Vec::new() });
                            if send(beat).is_err() {
                                return;
                            }
                        }
                    }
                    request = requests.message() => match request {
                        Ok(Some(WatchRequest {
                            request: Some(watch_request::Request::Interest(interest)),
                        })) => {
                            for holding in interest.add {
                                let id = holding.broadcast.parse().unwrap();
                                mine.insert(id);
                                this.set(|script| {
                                    if let Some(version) = holding.version {
                                        script.held.insert(id, version.into());
                                    }
                                });
                                if this.script.lock().notices {
                                    let _ = send(watch_response::Response::Expire(this.expire(id)));
                                }
                            }
                            for id in interest.drop {
                                mine.remove(&id.parse().unwrap());
                            }
                            this.set(|script| script.interests = mine.clone());
                        }
                        Ok(Some(_)) => {}
                        _ => return,
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch(
        &self,
        request: Request<FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let request = request.into_inner();
        let id = request.broadcast.parse().unwrap();
        let resource = Resource::from(request.object.unwrap());
        self.set(|script| script.fetches.push((id, resource)));
        let (fault, delay) = {
            let script = self.script.lock();
            (script.fault, script.delay)
        };
        exactly(delay).await;
        let answers = match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Unavailable => return Err(Status::unavailable("a fault")),
            _ => match resource {
                Resource::Chunklist => {
                    self.list(id, request.least.map(Version::from).unwrap_or_default())?
                }
                resource => {
                    let object = self.script.lock().objects.get(&(id, resource)).cloned();
                    let body = object.ok_or_else(|| Status::not_found("no object"))?;
                    let digest = match resource {
                        Resource::Chunk { .. } if body.len() > spyglass_api::MAX_SLICE => {
                            Bytes::copy_from_slice(&Sha256::digest(&body))
                        }
                        _ => Bytes::new(),
                    };
                    answer(Header { length: body.len() as u64, digest, ..Header::default() }, body)
                }
            },
        };
        let answers = spoil(answers, fault);
        let (sender, receiver) = mpsc::channel(answers.len().max(1));
        let this = self.clone();
        tokio::spawn(async move {
            for (i, answer) in answers.into_iter().enumerate() {
                // The header and a slice are out.
                match fault {
                    Fault::Stall if i == 2 => this.wait(|it| it.fault != Fault::Stall).await,
                    Fault::Break | Fault::BreakOnce if i == 2 => {
                        if fault == Fault::BreakOnce {
                            this.fault(Fault::None);
                        }
                        let _ = sender.send(Err(Status::internal("broken off"))).await;
                        return;
                    }
                    _ => {}
                }
                // The edge may have left.
                let _ = sender.send(Ok(answer)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
