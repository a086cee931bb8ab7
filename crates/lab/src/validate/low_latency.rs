//! What one version of a low-latency list must have by itself: the rules L1,
//! L2 and P10 as far as the profile demands dates. What needs requests is [`super::probe`].

use super::finding::{Findings, Rule};
use super::list::{List, Segment};

/// Durations are written with a few decimals.
const ROUNDING: f64 = 0.001;

/// Parts against their segment: rounding of each.
const SUM: f64 = 0.02;

pub(crate) fn text(list: &List, findings: &mut Findings<'_>) {
    control(list, findings);
    let Some(target) = list.part_target else {
        if let Some(part) = parts(list).next() {
            findings.fault(Rule::L1, "parts without EXT-X-PART-INF", list.excerpt(part, part));
        }
        return;
    };
    dates(list, findings);
    for segment in &list.segments {
        lengths(list, segment, target, findings);
        let sum: f64 = segment.parts.iter().map(|part| part.duration).sum();
        if !segment.parts.is_empty() && (sum - segment.duration).abs() > SUM {
            let what = format!("parts of {sum:.3} s in a segment of {:.3} s", segment.duration);
            findings.fault(Rule::L2, what, lines(list, segment));
        }
    }
    lengths(list, &list.open, target, findings);
}

/// Other lists may go without dates; every one of the low-latency profile has
/// them (appendix B).
fn dates(list: &List, findings: &mut Findings<'_>) {
    let shown = !list.segments.is_empty() || !list.open.parts.is_empty();
    let mut segments = list.segments.iter().chain(std::iter::once(&list.open));
    // A delta may have skipped them.
    if shown && list.skips.is_empty() && segments.all(|segment| segment.date_ms.is_none()) {
        let what = "a low-latency list without EXT-X-PROGRAM-DATE-TIME";
        findings.fault(Rule::P10, what, list.excerpt(1, 8));
    }
}

fn parts(list: &List) -> impl Iterator<Item = usize> {
    let segments = list.segments.iter().chain(std::iter::once(&list.open));
    segments.flat_map(|segment| segment.parts.iter().map(|part| part.line))
}

fn lines(list: &List, segment: &Segment) -> Vec<String> {
    let from = segment.parts.first().map_or(segment.line, |part| part.line);
    list.excerpt(from, from + segment.parts.len() + 2)
}

fn control(list: &List, findings: &mut Findings<'_>) {
    let Some(control) = &list.control else {
        if list.part_target.is_some() && !list.ended {
            findings.fault(Rule::L1, "parts without EXT-X-SERVER-CONTROL", list.excerpt(1, 8));
        }
        return;
    };
    let line = list.line_of("#EXT-X-SERVER-CONTROL");
    let lines = || list.excerpt(line, line);
    let target = list.target.unwrap_or(1) as f64;
    if let Some(part_target) = list.part_target {
        match control.part_hold_back {
            None => findings.fault(Rule::L1, "PART-HOLD-BACK is missing", lines()),
            Some(held) if held < 2.0 * part_target - ROUNDING => {
                findings.fault(Rule::L1, "PART-HOLD-BACK is less than 2 part targets", lines());
            }
            Some(held) if held < 3.0 * part_target - ROUNDING => {
                findings.warning(Rule::L1, "PART-HOLD-BACK is less than 3 part targets", lines());
            }
            Some(_) => {}
        }
        if !control.can_block_reload {
            findings.warning(Rule::L1, "parts without CAN-BLOCK-RELOAD", lines());
        }
    }
    if control.hold_back.is_some_and(|held| held < 3.0 * target - ROUNDING) {
        findings.fault(Rule::L1, "HOLD-BACK is less than 3 target durations", lines());
    }
    if control.can_skip_until.is_some_and(|until| until < 6.0 * target - ROUNDING) {
        findings.fault(Rule::L1, "CAN-SKIP-UNTIL is less than 6 target durations", lines());
    }
}

/// Parts that another one follows in the same segment must be whole ones.
fn lengths(list: &List, segment: &Segment, target: f64, findings: &mut Findings<'_>) {
    for (index, part) in segment.parts.iter().enumerate() {
        let lines = || list.excerpt(part.line, part.line);
        if part.duration > target + ROUNDING {
            let what = format!("a part of {} s, the target is {target} s", part.duration);
            findings.fault(Rule::L2, what, lines());
        }
        let exempt = part.independent || part.gap;
        let next = segment.parts.get(index + 1);
        if let Some(next) = next.filter(|next| !next.gap && !exempt)
            && part.duration < 0.85 * target - ROUNDING
        {
            let what =
                format!("{} s, less than 85 % of {target} s, before {}", part.duration, next.uri);
            findings.fault(Rule::L2, what, lines());
        }
    }
}
