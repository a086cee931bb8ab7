//! Counting delays where they arise: without a lock, without allocating.
//!
//! A [`Meter`] belongs to one broadcast; whoever measures adds to it with an
//! atomic each. Every 2 s the node takes what was added and reports it to
//! control ([`reports`]). [`Histograms`] are the same since the process started,
//! over all broadcasts, for `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use spyglass_api::control::{self, DelayReport};
use spyglass_media::BroadcastId;
use spyglass_media::delay::{BUCKETS, Histogram, Stage, Tier, bucket, doublings};

/// Entries of one report. One takes 100 bytes, and 520 when every bucket has
/// counted much: less than 256 KiB in all.
pub const MAX_ENTRIES: usize = 400;

/// How often what was measured is reported.
pub const EVERY: Duration = Duration::from_secs(2);

/// Where a delay was measured.
pub type Key = (BroadcastId, Tier, Stage);

/// Delays of one stage since they were last taken.
#[derive(Debug)]
struct Counts([AtomicU32; BUCKETS]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl Counts {
    fn take(&self) -> Option<Histogram> {
        let mut taken = None;
        for (bucket, count) in self.0.iter().enumerate() {
            if count.load(Ordering::Relaxed) > 0 {
                let count = count.swap(0, Ordering::Relaxed);
                taken.get_or_insert_with(Histogram::default).add_to(bucket, count);
            }
        }
        taken
    }
}

/// The stages that nodes measure, each on one tier or both; 280 bytes each.
const MEASURED: [(Tier, Stage); 5] = [
    (Tier::Push, Stage::Upload),
    (Tier::Hls, Stage::Upload),
    (Tier::Hls, Stage::Chunking),
    (Tier::Hls, Stage::Transfer),
    (Tier::Hls, Stage::Polling),
];

/// Delays of one broadcast at one node. Whoever shares it may add at any time.
#[derive(Debug, Default)]
pub struct Meter {
    counts: [Counts; MEASURED.len()],
    shown: Histograms,
}

impl Meter {
    /// Counts into `shown` too.
    pub fn new(shown: Histograms) -> Self {
        Self { counts: Default::default(), shown }
    }

    /// One more. What only viewers measure is not counted.
    pub fn add(&self, tier: Tier, stage: Stage, delay: Duration) {
        self.shown.add(tier, stage, delay);
        if let Some(at) = MEASURED.iter().position(|&it| it == (tier, stage)) {
            self.counts[at].0[bucket(delay)].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was added since the last call.
    pub fn take(&self, broadcast: BroadcastId, into: &mut Vec<control::Delay>) {
        for (counts, (tier, stage)) in self.counts.iter().zip(MEASURED) {
            if let Some(counted) = counts.take() {
                into.push(entry((broadcast, tier, stage), &counted));
            }
        }
    }
}

/// Reports of as many messages as these entries need.
pub fn reports(entries: Vec<control::Delay>) -> Vec<DelayReport> {
    let mut entries = entries.into_iter().peekable();
    let mut reports = Vec::new();
    while entries.peek().is_some() {
        reports.push(DelayReport { delays: entries.by_ref().take(MAX_ENTRIES).collect() });
    }
    reports
}

/// As control is told.
pub fn entry((broadcast, tier, stage): Key, counted: &Histogram) -> control::Delay {
    let (buckets, counts) = counted.filled().map(|(bucket, count)| (bucket as u32, count)).unzip();
    let tier = match tier {
        Tier::Push => control::Tier::Push,
        Tier::Hls => control::Tier::Hls,
    };
    let stage = match stage {
        Stage::Upload => control::Stage::Upload,
        Stage::Chunking => control::Stage::Chunking,
        Stage::Transfer => control::Stage::Transfer,
        Stage::Polling => control::Stage::Polling,
        Stage::LastMile => control::Stage::LastMile,
        Stage::Buffering => control::Stage::Buffering,
        Stage::Total => control::Stage::Total,
    };
    let broadcast = broadcast.to_string();
    control::Delay { broadcast, tier: tier.into(), stage: stage.into(), buckets, counts }
}

/// As control reads it; `None` for what a later release measures.
pub fn read(entry: &control::Delay) -> Option<(Key, Histogram)> {
    let tier = match entry.tier() {
        control::Tier::Unspecified => return None,
        control::Tier::Push => Tier::Push,
        control::Tier::Hls => Tier::Hls,
    };
    let stage = match entry.stage() {
        control::Stage::Unspecified => return None,
        control::Stage::Upload => Stage::Upload,
        control::Stage::Chunking => Stage::Chunking,
        control::Stage::Transfer => Stage::Transfer,
        control::Stage::Polling => Stage::Polling,
        control::Stage::LastMile => Stage::LastMile,
        control::Stage::Buffering => Stage::Buffering,
        control::Stage::Total => Stage::Total,
    };
    let mut counted = Histogram::default();
    for (&bucket, &count) in entry.buckets.iter().zip(&entry.counts).take(BUCKETS) {
        counted.add_to(bucket as usize, count);
    }
    Some(((entry.broadcast.parse().ok()?, tier, stage), counted))
}

/// Since the process started, over all broadcasts: the histogram
/// `spyglass_delay_seconds{stage,tier}`. The whole way is not in it, so that
/// the stages add up to it. Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Histograms(Arc<[[Sum; Stage::ALL.len()]; Tier::ALL.len()]>);

#[derive(Debug)]
struct Sum {
    counts: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Default for Sum {
    fn default() -> Self {
        let counts = [const { AtomicU64::new(0) }; BUCKETS];
        Self { counts, micros: AtomicU64::new(0) }
    }
}

impl Histograms {
    /// Shown from now on.
    pub fn register(registry: &mut Registry) -> Self {
        let shown = Self::default();
        registry.register_collector(Box::new(shown.clone()));
        shown
    }

    /// One more.
    pub fn add(&self, tier: Tier, stage: Stage, delay: Duration) {
        if stage == Stage::Total {
            return;
        }
        let sum = &self.0[tier as usize][stage as usize];
        sum.counts[bucket(delay)].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        sum.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Sum {
    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> std::fmt::Result {
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut below = 0;
        let mut buckets: Vec<(f64, u64)> = doublings()
            .map(|(end, next)| {
                let count = counts[below..next].iter().sum();
                below = next;
                (end, count)
            })
            .collect();
        buckets.push((f64::INFINITY, counts[below..].iter().sum()));
        let count = counts.iter().sum();
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}

impl Collector for Histograms {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let mut family = encoder.encode_descriptor(
            "spyglass_delay_seconds",
            "How long each stage from the camera to the screen took",
            None,
            MetricType::Histogram,
        )?;
        for tier in Tier::ALL {
            for stage in Stage::ALL {
                let sum = &self.0[tier as usize][stage as usize];
                if sum.counts.iter().all(|count| count.load(Ordering::Relaxed) == 0) {
                    continue;
                }
                let labels = [("stage", stage.as_str()), ("tier", tier.as_str())];
                sum.encode(&mut family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_taken_is_told_once_and_read_as_it_was() {
        let meter = Meter::default();
        let id = BroadcastId::from_random([3; 16]);
        let mut expected = Histogram::default();
        for delay in [ms(0), ms(7), ms(7), ms(200_000)] {
            meter.add(Tier::Hls, Stage::Transfer, delay);
            expected.add(delay);
        }
        meter.add(Tier::Push, Stage::LastMile, ms(1));
        let mut entries = Vec::new();
        meter.take(id, &mut entries);
        assert_eq!(entries.len(), 1, "what viewers measure is none of ours");
        assert_eq!(read(&entries[0]), Some(((id, Tier::Hls, Stage::Transfer), expected)));
        let mut again = Vec::new();
        meter.take(id, &mut again);
        assert!(again.is_empty());
        let many = vec![entries[0].clone(); MAX_ENTRIES + 1];
        assert_eq!(reports(many).iter().map(|it| it.delays.len()).collect::<Vec<_>>(), [400, 1]);
    }

    #[test]
    fn a_report_fits_a_message() {
        use spyglass_api::MAX_MESSAGE;
        let mut full = Histogram::default();
        (0..BUCKETS).for_each(|bucket| full.add_to(bucket, 100_000));
        let entry = entry((BroadcastId::from_random([3; 16]), Tier::Hls, Stage::Total), &full);
        let report = DelayReport { delays: vec![entry; MAX_ENTRIES] };
        assert!(prost::Message::encoded_len(&report) < MAX_MESSAGE);
    }

    #[test]
    fn metrics_count_each_delay_once() {
        let mut registry = Registry::default();
        let shown = Histograms::register(&mut registry);
        shown.add(Tier::Hls, Stage::Polling, ms(500));
        shown.add(Tier::Hls, Stage::Polling, ms(1_500));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let has = |line: &str| assert!(text.contains(line), "{line}\n{text}");
        has("# TYPE spyglass_delay_seconds histogram");
        has("spyglass_delay_seconds_sum{stage=\"polling\",tier=\"hls\"} 2.0");
        has("spyglass_delay_seconds_count{stage=\"polling\",tier=\"hls\"} 2");
        has("spyglass_delay_seconds_bucket{le=\"0.512\",stage=\"polling\",tier=\"hls\"} 1");
        has("spyglass_delay_seconds_bucket{le=\"2.048\",stage=\"polling\",tier=\"hls\"} 2");
        has("spyglass_delay_seconds_bucket{le=\"+Inf\",stage=\"polling\",tier=\"hls\"} 2");
        assert!(!text.contains("stage=\"upload\""), "nobody measured it");
    }
}
