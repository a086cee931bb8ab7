//! The broadcast's list: from what the segmenter put out to what readers, edges
//! and the journal get.

use std::sync::Arc;

use bytes::Bytes;
use spyglass_daemon::now_utc;
use spyglass_hls::playlist::{self, Rendered};
use spyglass_hls::segmenter::Output;
use spyglass_media::Resource;
use tracing::{debug, warn};

use super::Task;
use crate::broadcast::List;
use crate::{journal, now};

impl Task {
    pub(super) fn on_outputs(&mut self, outputs: Vec<Output>) {
        if outputs.is_empty() {
            return;
        }
        let now = now();
        let mut new = Vec::new();
        let mut changed = false;
        // Parts change the list and are not worth a page of the journal: what
        // is lost of a chunk is lost with it.
        let mut lasting = false;
        {
            let mut objects = self.objects.lock();
            let Some(chunklist) = objects.as_mut() else { return };
            let utc = now_utc();
            for output in outputs {
                self.arrivals.lock().on_output(utc, &output);
                match &output {
                    Output::Init(init) => {
                        new.push((Resource::Init { epoch: init.epoch }, init.bytes.clone()));
                        self.record.lock().epoch = init.epoch;
                    }
                    Output::Chunk(chunk) => {
                        let (epoch, sequence) = (chunk.epoch, chunk.sequence);
                        new.push((Resource::Chunk { epoch, sequence }, chunk.bytes.clone()));
                    }
                    Output::Part(_) => {}
                    Output::Gap(gap) => {
                        debug!(broadcast = %self.id, sequence = gap.sequence, "no media: GAP listed");
                    }
                    Output::Warning(warning) => {
                        warn!(broadcast = %self.id, kind = warning.as_str(), "publisher: {warning}");
                    }
                }
                if matches!(output, Output::Chunk(_)) {
                    self.registry.metrics.chunk(self.id, self.record.lock().private);
                }
                lasting |= !matches!(output, Output::Part(_) | Output::Warning(_));
                changed |= chunklist.on_output(now, output);
            }
            chunklist.expire(now);
        }
        if changed || lasting {
            self.show_list();
        }
        if lasting {
            self.save(&new);
        }
    }

    /// Shows the list, and hands it to the journal.
    pub(super) fn publish_list(&mut self, new: &[(Resource, Bytes)]) {
        self.show_list();
        self.save(new);
    }

    /// Renders the list as it is now, shows it to readers, and tells the edges:
    /// in this order.
    pub(super) fn show_list(&mut self) {
        let objects = self.objects.lock();
        let Some(chunklist) = objects.as_ref() else { return };
        let Some(position) = chunklist.position() else { return };
        let snapshot = chunklist.snapshot();
        let mut list = List {
            version: chunklist.version(),
            position,
            last_parts: chunklist.last_parts(),
            part_target: chunklist.part_target(),
            rendered: Rendered { variants: Vec::new() },
            target_duration: chunklist.target_duration(),
            ended: chunklist.ended(),
            made: now(),
        };
        drop(objects);
        list.rendered = playlist::render(&snapshot);
        self.list.send_replace(Some(Arc::new(list)));
        self.registry.expire(self.id);
    }

    pub(super) fn save(&self, new: &[(Resource, Bytes)]) {
        let mut objects = self.objects.lock();
        let (list, gone) = match objects.as_mut() {
            Some(chunklist) => (Some(chunklist.save()), chunklist.evicted()),
            None => (None, Vec::new()),
        };
        drop(objects);
        let record = self.record.lock().clone();
        if !record.named {
            return;
        }
        let resume = self.life.resume();
        let page = journal::Page::new(self.id, &record, resume, self.last, list);
        self.registry.journal.save(page, new.to_vec(), gone);
    }
}
