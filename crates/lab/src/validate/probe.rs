//! Requests that show how a low-latency server treats waits, deltas and hints:
//! rules L4 to L7.

use std::time::{Duration, Instant};

use http::StatusCode;

use super::finding::{Finding, Findings, Rule};
use super::list::{List, MAX_LIST};
use super::{PLAIN, Server};
use crate::request::{Answer, Http, resolve, with_query};

/// When the first round is made.
pub(super) const FIRST: Duration = Duration::from_secs(2);

/// Between rounds.
pub(super) const EVERY: Duration = Duration::from_secs(15);

/// What must not wait may take this long.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Largest part, in bytes.
const MAX_PART: usize = 16 * 1024 * 1024;

/// One of each probe against the server whose newest list is `list`.
pub(super) async fn round(
    http: &Http,
    server: &Server,
    list: &List,
    began: Instant,
    found: &mut Vec<Finding>,
) {
    let mut findings = Findings::new(began.elapsed(), &server.name, found);
    let ask = async |query: &str| {
        let uri = with_query(&server.list, query);
        http.get(&uri, MAX_LIST, PLAIN).await.map_err(|error| error.to_string())
    };

    let far = format!("_HLS_msn={}", list.end().saturating_add(100));
    let far_part = format!("_HLS_msn={}&_HLS_part=100000", list.end());
    let impossible = [("_HLS_part=0", true), (far.as_str(), false), (far_part.as_str(), false)];
    for (query, must) in impossible {
        let answer = ask(query).await;
        let what = match &answer {
            // The segment was whole meanwhile: behind its last part stands the
            // next one's first (rule L4).
            Ok(answer)
                if query == far_part
                    && answer.took <= AT_ONCE
                    && read(answer).is_ok_and(|now| now.end() > list.end()) =>
            {
                continue;
            }
            Ok(answer) if answer.status != StatusCode::BAD_REQUEST => {
                format!("?{query} answers {}", answer.status)
            }
            Ok(answer) if answer.took > AT_ONCE => format!("?{query} took {:?}", answer.took),
            Ok(_) => continue,
            Err(error) => format!("?{query}: {error}"),
        };
        match must {
            true => findings.fault(Rule::L5, what, vec![]),
            false => findings.warning(Rule::L5, what, vec![]),
        }
    }

    let old = format!("_HLS_msn={}", list.first().saturating_sub(1));
    match ask(&old).await.map(|answer| (answer.took, read(&answer))) {
        Ok((took, Ok(whole))) if took <= AT_ONCE && whole.end() >= list.end() => {}
        Ok((took, Ok(_))) => {
            let what = format!("?{old}: a list that is older, or came after {took:?}");
            findings.fault(Rule::L4, what, vec![]);
        }
        Ok((_, Err(error))) | Err(error) => {
            findings.fault(Rule::L4, format!("?{old}: {error}"), vec![]);
        }
    }

    delta(&ask("_HLS_skip=YES").await, list, &mut findings);
    hint(http, server, list, &mut findings).await;
}

fn read(answer: &Answer) -> Result<List, String> {
    if !answer.status.is_success() {
        return Err(format!("answers {}", answer.status));
    }
    List::read(&answer.body).map_err(|error| error.to_string())
}

/// Rule L6.
fn delta(answer: &Result<Answer, String>, before: &List, findings: &mut Findings<'_>) {
    let list = match answer.as_ref().map_err(Clone::clone).and_then(read) {
        Ok(list) => list,
        Err(error) => return findings.fault(Rule::L6, format!("?_HLS_skip=YES: {error}"), vec![]),
    };
    let may = before.control.as_ref().and_then(|control| control.can_skip_until);
    let lines = || list.excerpt(1, 12);
    match (may, list.skips.as_slice()) {
        // Too short to skip anything, or ended meanwhile.
        (_, []) => {}
        (None, _) => findings.fault(Rule::L6, "a delta where none is announced", lines()),
        (Some(until), [skipped]) => {
            if list.first() < before.sequence || list.end() < before.end() {
                findings.fault(Rule::L6, format!("{skipped} skipped do not add up"), lines());
            }
            if list.duration() < until - list.target.unwrap_or(1) as f64 {
                findings.fault(Rule::L6, "it skips what is younger than allowed", lines());
            }
            let differs = list.numbered().any(|(number, segment)| {
                let held = before.numbered().find(|(other, _)| *other == number);
                held.is_some_and(|(_, held)| held.uri != segment.uri)
            });
            if differs {
                findings.fault(Rule::L6, "its segments are not those of the whole list", lines());
            }
        }
        (Some(_), _) => findings.fault(Rule::L6, "more than one EXT-X-SKIP", lines()),
    }
}

/// Rule L7: the hinted part can be asked for now, comes, and is then listed.
async fn hint(http: &Http, server: &Server, list: &List, findings: &mut Findings<'_>) {
    let end = list.lines.len();
    let lines = || list.excerpt(end.saturating_sub(3), end);
    if list.part_hints.len() > 1 {
        findings.fault(Rule::L7, "more than one hinted part", lines());
    }
    let Some(hint) = list.part_hints.first() else { return };
    let Ok(uri) = resolve(&server.list, hint) else {
        return findings.fault(Rule::L7, format!("{hint} is no URI"), lines());
    };
    let within = Duration::from_secs(list.target.unwrap_or(4).saturating_mul(3));
    let came = match http.get(&uri, MAX_PART, within).await {
        Ok(answer) if answer.status.is_success() => true,
        Ok(answer) if answer.status == StatusCode::NOT_FOUND => false,
        Ok(answer) => {
            return findings.fault(Rule::L7, format!("{hint} answers {}", answer.status), lines());
        }
        Err(error) => return findings.fault(Rule::L7, format!("{hint}: {error}"), lines()),
    };
    let query = format!("_HLS_msn={}&_HLS_part={}", list.end(), list.open.parts.len());
    let next = http.get(&with_query(&server.list, &query), MAX_LIST, within).await;
    let next = next.map_err(|error| error.to_string()).and_then(|answer| read(&answer));
    let Ok(next) = next else { return };
    let segments = next.segments.iter().chain(std::iter::once(&next.open));
    let listed = segments.flat_map(|segment| &segment.parts).any(|part| part.uri == *hint);
    match (came, listed) {
        (true, false) if !next.ended => {
            findings.fault(Rule::L7, format!("{hint} came and is not listed"), lines());
        }
        (false, true) => {
            findings.fault(Rule::L7, format!("{hint} answered 404 and is then listed"), lines());
        }
        // Taken back: the stream ended or broke off.
        _ => {}
    }
}
