//! A publisher that does exactly what a script says: key frames at uneven
//! distances, frames that come unevenly, silence, another clip with another
//! codec configuration, a connection that breaks.
//!
//! Its media clock is the wall clock, as an encoder's that drops what it cannot
//! send: after a silence the time stamps have jumped by it.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use spyglass_media::Track;
use spyglass_rtmp::Intent;
use tokio::time::{Instant, sleep_until};

use crate::rtmp::{Peer, tags};

/// Frames may come so much later than they are due.
const LATE_MS: u64 = 40;

/// Between two clips: the last pictures of the one are shown before the first of
/// the other.
const APART_MS: i64 = 250;

/// A clip, ready to be sent in pieces.
#[derive(Debug)]
pub struct Reel {
    /// What a decoder must have first.
    headers: Vec<(Track, Bytes)>,
    frames: Vec<(Track, u32, Bytes)>,
    /// Where to go on.
    next: usize,
}

impl Reel {
    /// Reads an FLV file with video.
    pub fn read(file: &Path) -> Self {
        let (headers, frames): (Vec<_>, Vec<_>) =
            tags(file).into_iter().partition(|(track, _, body)| is_header(*track, body));
        let headers = headers.into_iter().map(|(track, _, body)| (track, body)).collect();
        Self { headers, frames, next: 0 }
    }

    /// Goes to the next key frame, and to the first one behind the last.
    fn seek_key_frame(&mut self) {
        let ahead = self.next..self.frames.len();
        let all = ahead.chain(0..self.frames.len());
        let key = |index: &usize| is_key(&self.frames[*index]);
        self.next = all.into_iter().find(key).expect("a clip with a key frame");
    }
}

fn is_header(track: Track, body: &Bytes) -> bool {
    match track {
        Track::Video => body.get(1) == Some(&0),
        Track::Audio => body[0] >> 4 == 10 && body.get(1) == Some(&0),
    }
}

fn is_key((track, _, body): &(Track, u32, Bytes)) -> bool {
    *track == Track::Video && body[0] >> 4 == 1
}

/// See the module.
pub struct Script {
    url: String,
    peer: Option<Peer>,
    began: Instant,
    random: u64,
}

impl Script {
    /// Connects to a broadcast's publish URL.
    pub async fn connect(url: &str) -> Self {
        let peer = Peer::connect(url, Intent::Publish).await;
        Self { url: url.to_owned(), peer: Some(peer), began: Instant::now(), random: 1 }
    }

    /// Sends `length` of a clip in real time, from its next key frame on, behind
    /// its headers.
    pub async fn play(&mut self, reel: &mut Reel, length: Duration) {
        let now = self.now_ms();
        let peer = self.peer.as_mut().expect("a connection");
        for (track, body) in &reel.headers {
            peer.send(*track, now, body).await;
        }
        reel.seek_key_frame();
        let mut offset = i64::from(now) + APART_MS - i64::from(reel.frames[reel.next].1);
        let until = Instant::now() + length;
        while Instant::now() < until {
            let (track, time, body) = reel.frames[reel.next].clone();
            let time = u32::try_from(i64::from(time) + offset).unwrap_or(now);
            // SplitMix64's step: uneven, and the same in every run.
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let late = Duration::from_millis((self.random >> 33) % LATE_MS);
            sleep_until(self.began + Duration::from_millis(time.into()) + late).await;
            peer.send(track, time, &body).await;
            reel.next += 1;
            if reel.next == reel.frames.len() {
                reel.seek_key_frame();
                offset = i64::from(time) + APART_MS - i64::from(reel.frames[reel.next].1);
            }
        }
    }

    /// Nothing is sent, the connection stays.
    pub async fn stall(&mut self, length: Duration) {
        tokio::time::sleep(length).await;
    }

    /// The connection breaks; after `away` there is a new one.
    pub async fn reconnect(&mut self, away: Duration) {
        self.peer = None;
        tokio::time::sleep(away).await;
        self.peer = Some(Peer::connect(&self.url, Intent::Publish).await);
    }

    fn now_ms(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_millis()).expect("less than 49 days")
    }
}
