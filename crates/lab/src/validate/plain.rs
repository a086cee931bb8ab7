//! Requests for the list that wait for nothing, beside those that do.
//!
//! A player that tunes in asks plainly, and so do all that cannot block: a server
//! may answer them from another place than blocked reloads, so they are held to
//! the same stream. They run by themselves, for a reload may block for long.
//! What an answer proves is [`super::judge`]'s.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::PLAIN;
use super::Server;
use super::list::{List, MAX_LIST};
use crate::request::{Answer, Error, Http};

/// The longest and the shortest time between two requests to one server.
const LONGEST: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(200);

/// Answers that wait to be looked at; while they are so many, nobody asks.
const WAITING: usize = 32;

/// One answer, or why there is none.
pub(super) struct Heard {
    pub(super) server: usize,
    /// By the validation's clock.
    pub(super) asked: Duration,
    pub(super) at: Duration,
    pub(super) answer: Result<Answer, Error>,
}

/// One task for each server that can block; they end with this.
pub(super) struct Pollers {
    began: Instant,
    polled: Vec<usize>,
    tasks: JoinSet<()>,
    sender: mpsc::Sender<Heard>,
    heard: mpsc::Receiver<Heard>,
}

impl Pollers {
    /// None yet; `began` is when the validation's clock was zero.
    pub(super) fn new(began: Instant) -> Self {
        let (sender, heard) = mpsc::channel(WAITING);
        Self { began, polled: Vec::new(), tasks: JoinSet::new(), sender, heard }
    }

    /// Begins to ask a server, unless it is asked already: once in the time
    /// that players stay behind the end of `list`, or in a second.
    pub(super) fn start(&mut self, index: usize, server: &Server, list: &List, http: &Http) {
        if self.polled.contains(&index) {
            return;
        }
        self.polled.push(index);
        let behind = list.control.as_ref().and_then(|control| control.part_hold_back);
        let behind = behind.and_then(|held| Duration::try_from_secs_f64(held).ok());
        let mut ticks = tokio::time::interval(behind.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (http, uri, began) = (http.clone(), server.list.clone(), self.began);
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            // The first tick is now.
            loop {
                ticks.tick().await;
                let Ok(place) = sender.reserve().await else { return };
                let asked = began.elapsed();
                let answer = http.get(&uri, MAX_LIST, PLAIN).await;
                place.send(Heard { server: index, asked, at: began.elapsed(), answer });
            }
        });
    }

    /// The next answer that is there already.
    pub(super) fn next(&mut self) -> Option<Heard> {
        self.heard.try_recv().ok()
    }
}
