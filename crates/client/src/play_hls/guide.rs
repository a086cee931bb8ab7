//! Asks for steering documents beside the playing; what they mean is decided in
//! `steering`.

use std::time::Duration;

use http::Uri;
use http::header::RETRY_AFTER;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::steering::{self, Pathways};
use crate::Error;
use crate::http::{Answer, Ask, Http};

const MAX_DOCUMENT: usize = 64 * 1024;
const WITHIN: Duration = Duration::from_secs(5);

/// Leads a viewer from pathway to pathway, where the server offers any.
#[derive(Default)]
pub(super) struct Guide {
    pathways: Option<Pathways>,
    /// One question at most; it ends with the viewer.
    asking: JoinSet<Result<Answer, Error>>,
}

impl Guide {
    /// A multivariant playlist was read: where it begins, when it is steered.
    pub(super) fn on_index(&mut self, index: &Uri, text: &[u8]) -> Result<Option<Uri>, Error> {
        self.asking = JoinSet::new();
        let offer = std::str::from_utf8(text).ok().and_then(steering::read);
        let now = Instant::now().into_std();
        self.pathways = offer.map(|offer| Pathways::new(index, &offer, now)).transpose()?;
        Ok(self.pathways.as_ref().and_then(|ways| ways.media().cloned()))
    }

    /// Takes in an answer that came and asks again when it is time: where to
    /// play from now, when that changes. Waits for nothing.
    pub(super) fn attend(&mut self, http: &Http) -> Option<Uri> {
        let pathways = self.pathways.as_mut()?;
        let now = Instant::now().into_std();
        let moved = match self.asking.try_join_next() {
            Some(Ok(Ok(answer))) => take(pathways, &answer, now),
            // A task that ended without an answer has none either.
            Some(Ok(Err(_)) | Err(_)) => {
                pathways.on_failure(false, None, now);
                None
            }
            None => None,
        };
        if self.asking.is_empty()
            && let Some(uri) = pathways.question(now)
        {
            let http = http.clone();
            self.asking.spawn(async move { http.ask(Ask::get(&uri, MAX_DOCUMENT, WITHIN)).await });
        }
        moved
    }

    /// A chunk came.
    pub(super) fn on_chunk(&mut self, answer: &Answer) {
        if let Some(pathways) = &mut self.pathways {
            let took = answer.whole.saturating_sub(answer.first);
            pathways.on_transfer(answer.body.len(), took);
        }
    }

    /// The present pathway failed: where to play from now, unless all did.
    pub(super) fn fail(&mut self) -> Option<Uri> {
        self.pathways.as_mut()?.fail(Instant::now().into_std())
    }

    /// All failed: the next that has another chance.
    pub(super) fn around(&mut self) -> Option<Uri> {
        self.pathways.as_mut()?.around()
    }
}

fn take(pathways: &mut Pathways, answer: &Answer, now: std::time::Instant) -> Option<Uri> {
    if !answer.status.is_success() {
        let retry = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry = retry.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        pathways.on_failure(answer.status.as_u16() == 410, retry, now);
        return None;
    }
    pathways.on_document(&answer.body, now).unwrap_or_else(|error| {
        tracing::debug!(%error, "steering is not understood");
        pathways.on_failure(false, None, now);
        None
    })
}
