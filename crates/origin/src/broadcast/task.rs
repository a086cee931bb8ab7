//! The task that owns one broadcast.
//!
//! It carries inputs to the machines (life, timeline, fan-out, segmenter,
//! chunklist) and does what they return; it holds no opinions of its own. What
//! becomes of the segmenter's output is `task/list.rs`.

mod list;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use spyglass_daemon::delay::Meter;
use spyglass_daemon::now_utc;
use spyglass_hls::chunklist::{self, Chunklist};
use spyglass_hls::segmenter::{self, Codec, Resume, Segmenter};
use spyglass_media::delay::{Stage, Tier};
use spyglass_media::{
    BroadcastId, Frame, MediaTime, Position, Track, UtcTime, Version, ViewerId, find_capture,
};
use spyglass_rtmp::{Message, flv, timeline::Timeline};
use spyglass_token::PublishGrant;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    Arrival, Broadcast, Candidate, INPUTS, Input, List, Order, PlayAnswer, PublishAnswer, Record,
};
use crate::arrivals::Arrivals;
use crate::fanout::Fanout;
use crate::journal;
use crate::life::{Action, ConnectionId, Life, Phase};
use crate::registry::Registry;
use crate::revival::{resumed, unseen};
use crate::seats::{Seats, Taken};
use crate::send_queue::{Packet, Pushed};
use crate::viewer::{CloseReason, Mailbox};
use crate::{now, sleep_until};

/// One [`SEAM`] before the first frame, which so stands at one second: far
/// enough from zero that a composition offset or a track that starts a little
/// earlier never makes it negative.
const FIRST: MediaTime = MediaTime::from_millis(750);

/// From the last frame of a connection to the first of the next. Pictures are
/// shown later than they are decoded, by their composition offsets: the last of
/// the one must come before the first of the other.
const SEAM: Duration = Duration::from_millis(250);

/// What a broadcast starts with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub id: BroadcastId,
    pub record: Record,
    /// As the journal had it.
    pub restored: Option<journal::Restored>,
    /// What no number may begin below, whatever the journal had.
    pub floor: Resume,
}

/// Starts the task of a broadcast.
pub(crate) fn spawn(registry: &Arc<Registry>, setup: Setup) -> Arc<Broadcast> {
    let (inputs, receiver) = mpsc::channel(INPUTS);
    let (list, lists) = watch::channel(None);
    let broadcast = Arc::new(Broadcast {
        id: setup.id,
        inputs,
        list: lists,
        objects: Arc::new(Mutex::new(None)),
        record: Arc::new(Mutex::new(setup.record.clone())),
        arrivals: Arc::default(),
        delays: Arc::new(Meter::new(registry.metrics.delays.clone())),
        digests: super::Digests::default(),
    });
    let task = Task::new(Arc::clone(registry), &broadcast, setup, list);
    let (registry, id) = (Arc::clone(registry), broadcast.id);
    tokio::spawn(async move {
        if tokio::spawn(task.run(receiver)).await.is_err() {
            registry.revive(id).await;
        }
    });
    broadcast
}

struct Task {
    registry: Arc<Registry>,
    id: BroadcastId,
    life: Life,
    record: Arc<Mutex<Record>>,
    objects: Arc<Mutex<Option<Chunklist>>>,
    arrivals: Arc<Mutex<Arrivals>>,
    delays: Arc<Meter>,
    list: watch::Sender<Option<Arc<List>>>,
    /// Present once a publisher's token has told the chunk length.
    segmenter: Option<Segmenter>,
    floor: Resume,
    timeline: Timeline,
    last: MediaTime,
    /// Which tracks have told their codec on this connection.
    configured: [bool; 2],
    fanout: Fanout,
    candidates: HashMap<ConnectionId, Candidate>,
    orders: Option<mpsc::Sender<Order>>,
    seats: Seats,
}

impl Task {
    fn new(
        registry: Arc<Registry>,
        broadcast: &Arc<Broadcast>,
        setup: Setup,
        list: watch::Sender<Option<Arc<List>>>,
    ) -> Self {
        let mut limits = registry.live.get().life_limits();
        if let Some(restored) = &setup.restored {
            limits.resume = restored.resume;
        }
        let life = Life::new(limits, setup.record.phase, now());
        let mut last = FIRST;
        let mut segmenter = None;
        let mut floor = setup.floor;
        if let Some(restored) = setup.restored {
            last = restored.last;
            floor = floor.and(&restored.floor.unwrap_or_default());
            if let (Some(mut chunklist), Some(config)) = (restored.chunklist, setup.record.cut()) {
                chunklist.set_window(registry.live.get().window_chunks);
                segmenter = resumed(&mut chunklist, config, setup.record.phase, (now(), now_utc()));
                *broadcast.objects.lock() = Some(chunklist);
            }
        }
        let fanout = Fanout::new(registry.live.get().gop_cache_bytes());
        let mut task = Self {
            id: setup.id,
            life,
            record: Arc::clone(&broadcast.record),
            objects: Arc::clone(&broadcast.objects),
            arrivals: Arc::clone(&broadcast.arrivals),
            delays: Arc::clone(&broadcast.delays),
            list,
            segmenter,
            floor,
            timeline: Timeline::new(last),
            last,
            configured: [false; 2],
            fanout,
            candidates: HashMap::new(),
            orders: None,
            seats: Seats::default(),
            registry,
        };
        task.record.lock().phase = task.life.phase();
        task.publish_list(&[]);
        task
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        while self.life.phase() != Phase::Gone {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = sleep_until(deadline) => self.on_deadline(),
                input = inputs.recv() => match input {
                    Some(Input::Stop(stopped)) => {
                        self.stop();
                        // Nobody may wait any more.
                        let _ = stopped.send(());
                        return;
                    }
                    Some(input) => self.on_input(input),
                    None => return,
                },
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let segmenter = self.segmenter.as_ref().and_then(Segmenter::next_deadline);
        [self.life.next_deadline(), self.fanout.next_deadline(), segmenter]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_deadline(&mut self) {
        let now = now();
        if let Some(packet) = self.fanout.on_deadline(now) {
            self.push(&packet);
        }
        if let Some(segmenter) = &mut self.segmenter {
            let outputs = segmenter.on_deadline(now);
            self.on_outputs(outputs);
        }
        let actions = self.life.on_deadline(now);
        self.carry_out(actions);
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Publish(candidate) => self.on_publish(candidate),
            Input::Media(from, message) if self.life.publisher() == Some(from) => {
                let actions = self.life.on_alive(from);
                self.carry_out(actions);
                self.on_media(from, message);
            }
            Input::Metadata(from, body) if self.life.publisher() == Some(from) => {
                self.fanout.on_metadata(body);
            }
            Input::Media(..) | Input::Metadata(..) => {}
            Input::Alive(from) => {
                let actions = self.life.on_alive(from);
                self.carry_out(actions);
            }
            Input::Closed(from) => {
                self.candidates.remove(&from);
                let actions = self.life.on_closed(now(), from);
                self.carry_out(actions);
            }
            Input::Play(arrival) => self.on_play(arrival),
            Input::Left(mailbox) => self.on_left(&mailbox),
            Input::Expect { private, memo } => self.on_expect(private, memo),
            Input::End => {
                let actions = self.life.on_end(now());
                self.carry_out(actions);
            }
            Input::Revoke(viewer) => self.on_revoke(viewer),
            Input::Held(version, position) => self.on_held(version, position),
            // The task's last, which `run` does.
            Input::Stop(_) => {}
        }
    }

    // ---- publishers

    fn on_publish(&mut self, candidate: Candidate) {
        let id = candidate.connection;
        self.candidates.insert(id, candidate);
        let actions = self.life.on_publisher(now(), id);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Accept(id) => self.accept(id),
                Action::RefuseBusy(id) => self.answer(id, PublishAnswer::Busy),
                Action::RefuseEnded(id) => self.answer(id, PublishAnswer::Ended),
                Action::Ping(_) => self.order(Order::Ping),
                Action::Cut(_) => {
                    self.order(Order::Cut);
                    self.orders = None;
                }
                Action::Enter(phase) => self.enter(phase),
            }
        }
    }

    fn answer(&mut self, id: ConnectionId, answer: PublishAnswer) {
        if let Some(candidate) = self.candidates.remove(&id) {
            // A peer that has gone meanwhile needs no answer.
            let _ = candidate.answer.send(answer);
        }
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A full channel holds an order already; a closed one needs none.
            let _ = orders.try_send(order);
        }
    }

    fn accept(&mut self, id: ConnectionId) {
        let Some(candidate) = self.candidates.remove(&id) else { return };
        self.life.set_resume(Duration::from_millis(candidate.grant.resume_ms.into()));
        self.orders = Some(candidate.orders);
        self.open_media(&candidate.grant);
        self.configured = [false; 2];
        self.timeline.restart(self.last + SEAM);
        self.fanout.on_publisher();
        self.arrivals.lock().on_publisher();
        if let Some(segmenter) = &mut self.segmenter {
            segmenter.on_publisher(now());
        }
        let _ = candidate.answer.send(PublishAnswer::Accepted);
    }

    fn open_media(&mut self, grant: &PublishGrant) {
        let chunk = Duration::from_millis(grant.chunk_ms.into()).clamp(CHUNK_MIN, CHUNK_MAX);
        let part = match grant.part_ms {
            0 => Duration::ZERO,
            millis => Duration::from_millis(millis.into()).clamp(PART_MIN, PART_MAX),
        };
        let config = {
            let mut record = self.record.lock();
            record.private = grant.private;
            record.fill = grant.fill;
            record.named = true;
            // The first token's word holds for the broadcast's life, whatever
            // becomes of its list: the directory has told it (P1).
            let known = record.cut();
            known.unwrap_or_else(|| {
                record.chunk = Some(chunk);
                record.part = part;
                segmenter::Config { chunk, part }
            })
        };
        if self.segmenter.is_none() {
            self.floor = self.floor.and(&self.registry.floor(grant));
            let window = self.registry.live.get().window_chunks;
            let chunklist = chunklist::Config { window, ..chunklist::Config::of(&config) };
            *self.objects.lock() = Some(Chunklist::new(chunklist, &self.floor));
            self.segmenter = Some(Segmenter::new(config, self.floor));
        }
        self.registry.announce(self.id);
    }

    // ---- media

    fn on_media(&mut self, from: ConnectionId, message: Message) {
        let body = match flv::parse(message.track, &message.body) {
            Ok(body) => body,
            Err(error) => {
                warn!(broadcast = %self.id, %error, "publisher sends what is no media: cut");
                self.order(Order::Cut);
                return;
            }
        };
        match body {
            flv::Body::VideoConfig(record) => self.on_codec(Track::Video, record, message.body),
            flv::Body::AudioConfig(record) => self.on_codec(Track::Audio, record, message.body),
            flv::Body::Video { key, composition_ms, sample } => {
                let captured = if key { find_capture(&sample) } else { None };
                let composition = composition_ms.saturating_mul(90);
                self.on_frame(message, key, composition, sample, captured);
            }
            flv::Body::Audio { sample } => self.on_frame(message, true, 0, sample, None),
            flv::Body::EndOfSequence | flv::Body::Empty => {}
            flv::Body::Unsupported { codec } => {
                warn!(broadcast = %self.id, codec, connection = from.0,
                    "codec not supported: set the encoder to H.264 video and AAC audio");
                self.order(Order::Cut);
            }
        }
    }

    fn on_codec(&mut self, track: Track, record: Bytes, body: Bytes) {
        self.configured[track as usize] = true;
        self.fanout.on_codec(track, body);
        if let Some(segmenter) = &mut self.segmenter {
            segmenter.on_codec(match track {
                Track::Video => Codec::Video(record),
                Track::Audio => Codec::Audio(record),
            });
        }
    }

    fn on_frame(
        &mut self,
        message: Message,
        key: bool,
        composition: i32,
        sample: Bytes,
        captured: Option<UtcTime>,
    ) {
        if !self.configured[message.track as usize] {
            return;
        }
        let mapped = self.timeline.map(message.timestamp);
        let frame = Frame {
            track: message.track,
            dts: mapped.time,
            composition,
            key,
            body: message.body,
            sample,
            captured,
        };
        self.last = self.last.max(frame.dts);
        let (now, utc) = (now(), now_utc());
        let has_video = self.configured[Track::Video as usize];
        let upload = self.arrivals.lock().on_frame(utc, &frame, has_video);
        if let Some(upload) = upload {
            self.delays.add(Tier::Push, Stage::Upload, upload);
        }
        if let Some(packet) = self.fanout.on_frame(now, &frame) {
            self.push(&packet);
        }
        let Some(segmenter) = &mut self.segmenter else { return };
        if mapped.jumped {
            segmenter.on_jump();
        }
        let outputs = segmenter.on_frame(now, utc, &frame);
        if segmenter.started() {
            let actions = self.life.on_frame(now);
            self.carry_out(actions);
        }
        self.on_outputs(outputs);
    }

    fn push(&mut self, packet: &Packet) {
        for mailbox in self.seats.taken() {
            match mailbox.push(packet.clone()) {
                Pushed::Queued | Pushed::Skipped => {}
                Pushed::Lost(frames) => {
                    self.registry.metrics.frames_dropped.inc_by(frames.into());
                }
                Pushed::Evicted => {
                    info!(broadcast = %self.id, viewer = %mailbox.viewer, "push viewer too slow");
                }
            }
        }
    }

    // ---- phases

    fn enter(&mut self, phase: Phase) {
        info!(broadcast = %self.id, phase = phase.as_str(), "broadcast");
        let at = now_utc();
        {
            let mut record = self.record.lock();
            record.phase = phase;
            match phase {
                Phase::Live => _ = record.started.get_or_insert(at),
                Phase::Ended => record.ended = Some(at),
                Phase::Created | Phase::Interrupted | Phase::Gone => {}
            }
        }
        match phase {
            Phase::Ended => {
                self.finish();
                if self.list.borrow().is_none() {
                    // Nothing was ever listed, so there is nothing to keep.
                    self.life.forget(now());
                }
            }
            Phase::Gone => {
                *self.objects.lock() = None;
                self.list.send_replace(None);
                self.save(&[]);
            }
            Phase::Created | Phase::Live | Phase::Interrupted => self.save(&[]),
        }
        self.registry.on_phase(self.id, at);
    }

    fn finish(&mut self) {
        let now = now();
        if let Some(mut segmenter) = self.segmenter.take() {
            let outputs = segmenter.on_end(now);
            self.on_outputs(outputs);
        }
        if let Some(chunklist) = self.objects.lock().as_mut() {
            chunklist.on_end(now);
        }
        self.publish_list(&[]);
        for candidate in std::mem::take(&mut self.candidates).into_values() {
            let _ = candidate.answer.send(PublishAnswer::Ended);
        }
        for mailbox in self.seats.clear() {
            mailbox.close(CloseReason::Ended);
            self.registry.attachment.lease_ended(mailbox.lease());
        }
    }

    /// This process stops. What has come of the open chunk is listed and goes to
    /// the journal as a chunk, so that nothing that was shown is lost; the next
    /// process goes on behind it.
    fn stop(&mut self) {
        let now = now();
        if let Some(segmenter) = &mut self.segmenter {
            let outputs = segmenter.on_end(now);
            self.on_outputs(outputs);
        }
        if let Some(publisher) = self.life.publisher() {
            let actions = self.life.on_closed(now, publisher);
            self.carry_out(actions);
        }
    }

    // ---- viewers

    fn on_play(&mut self, arrival: Arrival) {
        let Arrival { mailbox, answer } = arrival;
        let verdict = self.admit(&mailbox);
        // A viewer who has gone meanwhile reports it with Left.
        let _ = answer.send(verdict);
    }

    fn admit(&mut self, mailbox: &Arc<Mailbox>) -> PlayAnswer {
        if matches!(self.life.phase(), Phase::Ended | Phase::Gone) {
            return PlayAnswer::Ended;
        }
        match self.seats.take(mailbox) {
            Taken::Refused => return PlayAnswer::SeatTaken,
            Taken::Free => {}
            Taken::From(previous) => {
                previous.close(CloseReason::Replaced);
                if previous.viewer != mailbox.viewer {
                    self.registry.attachment.lease_ended(previous.lease());
                }
            }
        }
        for packet in self.fanout.backlog() {
            mailbox.push(packet.clone());
        }
        self.registry.attachment.lease_begun(mailbox.lease());
        PlayAnswer::Accepted
    }

    fn on_left(&mut self, mailbox: &Arc<Mailbox>) {
        if self.seats.leave(mailbox) {
            self.registry.attachment.lease_ended(mailbox.lease());
        }
    }

    fn on_revoke(&mut self, viewer: ViewerId) {
        for mailbox in self.seats.taken().filter(|mailbox| mailbox.viewer == viewer) {
            mailbox.close(CloseReason::Revoked);
        }
    }

    // ---- control and edges

    fn on_expect(&mut self, private: bool, memo: Bytes) {
        {
            let mut record = self.record.lock();
            record.private = private;
            record.named = true;
            record.memo = memo;
        }
        self.registry.announce(self.id);
        self.save(&[]);
    }

    /// An edge holds what this origin never made: the state behind this
    /// process is older than what was served. Nothing already named is named
    /// again for other bytes, so the list starts anew beyond it.
    fn on_held(&mut self, version: Version, position: Option<Position>) {
        let unpublished = self.life.publisher().is_none() && self.life.phase() != Phase::Ended;
        let objects = self.objects.lock();
        let newer = objects.as_ref().is_none_or(|list| !list.covers(version, position));
        drop(objects);
        if !unpublished || !newer {
            return;
        }
        warn!(broadcast = %self.id, %version, "an edge holds more than this origin's state: going on beyond it");
        self.floor = self.floor.and(&unseen(version, position));
        *self.objects.lock() = None;
        self.segmenter = None;
        self.list.send_replace(None);
    }
}

const CHUNK_MIN: Duration = Duration::from_secs(1);
const CHUNK_MAX: Duration = Duration::from_secs(10);
const PART_MIN: Duration = Duration::from_millis(100);
const PART_MAX: Duration = Duration::from_secs(1);
