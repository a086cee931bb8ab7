//! What a viewer tells of the last stages of the way.

use std::time::Duration;

use serde_json::{Value, json};

/// Samples in one report.
pub const MAX_SAMPLES: usize = 20;

/// The longest delay that control takes.
const LONGEST: Duration = Duration::from_secs(300);

/// What was measured of one key frame or chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelaySample {
    /// On the way from the server; nothing while not known.
    pub last_mile: Option<Duration>,
    /// From arriving to being shown.
    pub buffering: Duration,
    /// From the capture stamp to being shown, in milliseconds, by whatever
    /// clocks; nothing without a stamp.
    pub total_ms: Option<i64>,
}

impl DelaySample {
    /// `offset`: how much control's clock is ahead of this one, in
    /// milliseconds. The broadcaster's is taken to agree with control's. As long
    /// as that is not known, or the sum makes no sense, the total is not either.
    pub(crate) fn by(&mut self, offset: Option<i64>) {
        let total = self.total_ms.zip(offset).map(|(total, offset)| total.saturating_add(offset));
        self.total_ms = total.filter(|total| *total >= 0);
    }

    /// As control takes it: what it would refuse is left out.
    pub(crate) fn to_json(self) -> Value {
        let seconds = |delay: Duration| (delay <= LONGEST).then_some(delay.as_secs_f64());
        let total = self.total_ms.and_then(|ms| u64::try_from(ms).ok());
        json!({
            "last_mile": self.last_mile.and_then(seconds),
            "buffering": seconds(self.buffering),
            "total": total.map(Duration::from_millis).and_then(seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_needs_a_clock() {
        let sample = DelaySample {
            last_mile: None,
            buffering: Duration::from_millis(1_500),
            total_ms: Some(-4_000),
        };
        let by = |offset| {
            let mut sample = sample;
            sample.by(offset);
            sample.to_json()
        };
        let told = |total: Value| json!({"last_mile": null, "buffering": 1.5, "total": total});
        assert_eq!(by(None), told(Value::Null));
        assert_eq!(by(Some(0)), told(Value::Null), "shown before it was captured");
        assert_eq!(by(Some(6_000)), told(json!(2.0)));
        assert_eq!(by(Some(400_000)), told(Value::Null), "longer than control takes");
    }
}
