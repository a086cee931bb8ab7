use super::*;
use crate::validate::finding::Severity;

/// A live list of 3 s segments from `first`, `count` of them.
fn text(first: u64, count: u64, change: impl Fn(u64, &mut String)) -> String {
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-MAP:URI=\"1-init.mp4\"\n"
    );
    for number in first..first + count {
        let (minute, second) = (number * 3 / 60, number * 3 % 60);
        let mut segment = format!(
            "#EXT-X-PROGRAM-DATE-TIME:2026-11-21T05:{minute:02}:{second:02}.000Z\n#EXTINF:3.0,\n1-{number}.m4s\n"
        );
        change(number, &mut segment);
        text.push_str(&segment);
    }
    text
}

fn plain(first: u64, count: u64) -> String {
    text(first, count, |_, _| {})
}

/// A reload whose answer came at once, for the next part.
fn at(second: u64) -> Request {
    let at = Duration::from_secs(second);
    Request { asked: at, at, for_next: true }
}

fn read(text: &str) -> List {
    List::read(text.as_bytes()).unwrap()
}

/// The faults of a series of lists, each with its second.
fn faults(series: &[(u64, &str)]) -> Vec<Rule> {
    let mut judge = Judge::new(vec!["a".to_owned()]);
    let mut found = Vec::new();
    for (second, text) in series {
        found.extend(judge.see(0, at(*second), read(text)));
    }
    let faults = found.iter().filter(|finding| finding.severity == Severity::Fault);
    faults.map(|finding| finding.rule).collect()
}

#[test]
fn a_list_that_slides_in_time_is_clean() {
    let lists: Vec<String> = (0..20).map(|step| plain(step, 6)).collect();
    let series: Vec<_> = (0..).step_by(3).zip(lists.iter().map(String::as_str)).collect();
    assert_eq!(faults(&series), []);
}

#[test]
fn each_breach_names_its_rule() {
    let good = plain(5, 6);
    let after = |text: String| faults(&[(0, &good), (3, &text)]);
    let replaced = |from: &str, to: &str| after(plain(6, 6).replace(from, to));
    assert_eq!(after(plain(6, 6)), []);
    assert_eq!(replaced("DURATION:4", "DURATION:5"), [Rule::P1]);
    assert_eq!(replaced("#EXTINF:3.0,\n1-11", "#EXTINF:4.6,\n1-11"), [Rule::P1]);
    assert_eq!(after(plain(4, 7)), [Rule::P2]);
    assert_eq!(after(plain(5, 5)), [Rule::P2], "a segment was taken back");
    assert_eq!(replaced("1-8.m4s", "1-88.m4s"), [Rule::P2]);
    assert_eq!(replaced("3.0,\n1-8", "2.5,\n1-8"), [Rule::P3]);
    assert_eq!(after(plain(8, 4)), []);
    assert_eq!(after(plain(9, 3)), [Rule::P5]);
    assert_eq!(
        replaced("#EXT-X-MAP:URI=\"1-", "#EXT-X-DISCONTINUITY-SEQUENCE:1\n#EXT-X-MAP:URI=\"1-")[0],
        Rule::P8
    );
    assert_eq!(replaced("#EXT-X-VERSION:6", "#EXT-X-VERSION:3"), [Rule::P13]);
    assert_eq!(
        replaced("#EXT-X-VERSION:6", "#EXT-X-VERSION:6\n#EXT-X-PLAYLIST-TYPE:EVENT"),
        [Rule::P11]
    );
    let init =
        replaced("1-11.m4s", "1-11.m4s\n#EXT-X-MAP:URI=\"2-init.mp4\"\n#EXTINF:3.0,\n2-12.m4s");
    assert_eq!(init, [Rule::P8]);
    let back = text(6, 6, |number, segment| {
        if number == 11 {
            *segment = segment.replace("05:00:33", "05:00:31");
        }
    });
    assert_eq!(after(back), [Rule::P10]);
}

#[test]
fn silence_is_told_once_and_ends_with_the_stream() {
    let list = plain(5, 6);
    let series: Vec<_> = (0..20).map(|second| (second, list.as_str())).collect();
    assert_eq!(faults(&series), [Rule::P4]);
    let ended = format!("{list}#EXT-X-ENDLIST\n");
    let mut series = vec![(0, list.as_str())];
    series.extend((1..20).map(|second| (second, ended.as_str())));
    assert_eq!(faults(&series), []);
    let late = plain(6, 6);
    assert_eq!(faults(&[(0, &list), (1, &ended), (2, &late)]), [Rule::P11]);
}

#[test]
fn servers_must_agree_and_each_has_its_own_time() {
    let mut judge = Judge::new(vec!["a".to_owned(), "b".to_owned()]);
    let mut see = |server, second, text: String| {
        let found = judge.see(server, at(second), read(&text));
        found.iter().map(|found| found.rule).collect::<Vec<_>>()
    };
    assert_eq!(see(0, 0, plain(5, 6)), []);
    assert_eq!(see(1, 1, plain(4, 6)), [], "behind, but not against itself");
    assert_eq!(see(1, 3, plain(6, 6).replace("1-9.m4s", "other.m4s")), [Rule::P2]);
}

#[test]
fn what_is_removed_is_promised() {
    let mut judge = Judge::new(vec!["a".to_owned()]);
    for (second, first) in [(0, 5), (3, 6)] {
        judge.see(0, at(second), read(&plain(first, 6)));
    }
    // Seen at 0 s; its own 3 s and the list's 18 s.
    let promise = Promise { server: 0, uri: "1-5.m4s".to_owned(), until: Duration::from_secs(21) };
    assert_eq!(judge.take_promises(), [promise]);
    assert_eq!(judge.take_promises(), []);
}

const LOW: &str = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n\
    #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.63\n\
    #EXT-X-PART-INF:PART-TARGET=0.21\n#EXT-X-MEDIA-SEQUENCE:5\n\
    #EXT-X-PROGRAM-DATE-TIME:2026-11-21T05:00:00Z\n";

/// A low-latency list of one open segment.
fn parts(parts: &[f64]) -> String {
    let mut list = LOW.to_owned();
    for (number, seconds) in parts.iter().enumerate() {
        list.push_str(&format!("#EXT-X-PART:DURATION={seconds},URI=\"1-5.{number}.m4s\"\n"));
    }
    list
}

#[test]
fn a_part_is_whole_and_stays() {
    assert_eq!(faults(&[(0, &parts(&[0.2])), (1, &parts(&[0.2, 0.2]))]), []);
    assert_eq!(faults(&[(0, &parts(&[0.16, 0.2]))]), [Rule::L2]);
    assert_eq!(faults(&[(0, &parts(&[0.2, 0.22]))]), [Rule::L2]);
    assert_eq!(faults(&[(0, &parts(&[0.2, 0.1]))]), [], "the last of a segment");
    assert_eq!(faults(&[(0, &parts(&[0.2, 0.2])), (1, &parts(&[0.2]))]), [Rule::P3]);
    let closed = format!("{}#EXTINF:0.5,\n1-5.m4s\n", parts(&[0.2, 0.2]));
    assert_eq!(faults(&[(0, &closed)]), [Rule::L2]);
    let near = LOW.replace("HOLD-BACK=0.63", "HOLD-BACK=0.4");
    assert_eq!(faults(&[(0, &near)]), [Rule::L1]);
}

#[test]
fn low_latency_has_dates_and_other_lists_may_have_none() {
    let undated = |text: String| -> String {
        let lines = text.lines().filter(|line| !line.contains("DATE-TIME"));
        lines.map(|line| format!("{line}\n")).collect()
    };
    assert_eq!(faults(&[(0, &undated(plain(5, 6)))]), []);
    assert_eq!(faults(&[(0, &undated(parts(&[0.2])))]), [Rule::P10]);
    assert_eq!(faults(&[(0, &undated(LOW.to_owned()))]), [], "nothing that could have one");
}

#[test]
fn only_a_wait_for_the_next_part_is_silence() {
    let silence = |second: Request| {
        let mut judge = Judge::new(vec!["a".to_owned()]);
        judge.see(0, at(0), read(&parts(&[0.2])));
        let found = judge.see(0, second, read(&parts(&[0.2, 0.2])));
        found.iter().any(|found| found.rule == Rule::L3)
    };
    let asked = |asked, for_next| Request {
        asked: Duration::from_millis(asked),
        at: Duration::from_millis(1_560),
        for_next,
    };
    assert!(silence(asked(20, true)));
    assert!(!silence(asked(1_500, true)), "it was fetching segments until then");
    assert!(!silence(asked(20, false)), "it waited for a later part");
}

/// What plain requests at server 0 are told, each with when it was asked and
/// answered, in milliseconds; its Age; and the list. Reloads got `plain(6, 6)` after 3 s
/// there and `plain(7, 6)` after 6 s at the other server.
fn beside(requests: &[(u64, u64, Option<u64>, &str)]) -> Vec<Rule> {
    let mut judge = Judge::new(vec!["a".to_owned(), "b".to_owned()]);
    for (server, second, first) in [(0, 0, 5), (0, 3, 6), (1, 0, 5), (1, 3, 6), (1, 6, 7)] {
        assert_eq!(judge.see(server, at(second), read(&plain(first, 6))), []);
    }
    let mut found = Vec::new();
    for (asked, at, age, text) in requests {
        let span = (Duration::from_millis(*asked), Duration::from_millis(*at));
        found.extend(judge.see_plain(0, span, *age, read(text)));
    }
    found.iter().map(|found| found.rule).collect()
}

#[test]
fn a_plain_list_is_not_older_than_one_that_was_there_when_it_was_asked_for() {
    let (older, same, newer) = (&*plain(5, 6), &*plain(6, 6), &*plain(7, 6));
    assert_eq!(beside(&[(3_100, 3_110, None, same), (6_010, 6_020, None, newer)]), []);
    assert_eq!(beside(&[(3_100, 3_110, None, older)]), [Rule::P2]);
    assert_eq!(beside(&[(2_900, 3_100, None, older)]), [], "asked before it was there");
    // A cache may keep it for half a target duration, and must say so.
    assert_eq!(beside(&[(4_000, 4_010, Some(1), older)]), []);
    assert_eq!(beside(&[(5_500, 5_510, Some(60), older)]), [Rule::P2]);
    // Not one plain answer after another: those have one URL.
    assert_eq!(
        beside(&[(3_100, 3_110, Some(0), same), (3_200, 3_210, Some(0), older)]),
        [Rule::P2]
    );
    // Once for as long as it lasts.
    let lasts = [3_100, 3_300, 3_500].map(|at| (at, at, None, older));
    assert_eq!(beside(&lasts), [Rule::P2]);
    let again =
        [(3_100, 3_100, None, older), (3_300, 3_300, None, same), (3_500, 3_500, None, older)];
    assert_eq!(beside(&again), [Rule::P2, Rule::P2]);
    let without_end =
        [(3_100, 3_110, None, &*format!("{same}#EXT-X-ENDLIST\n")), (3_200, 3_210, None, same)];
    assert_eq!(beside(&without_end), [Rule::P11]);
}

#[test]
fn a_plain_list_is_no_further_behind_another_server_than_caches_may_keep_it() {
    let same = &*plain(6, 6);
    assert_eq!(beside(&[(8_000, 8_010, None, same)]), []);
    assert_eq!(beside(&[(8_400, 8_410, None, same), (8_600, 8_610, None, same)]), [Rule::L10]);
}

#[test]
fn a_plain_list_keeps_the_other_rules_too() {
    let other = plain(6, 6).replace("1-9.m4s", "other.m4s");
    assert_eq!(beside(&[(3_100, 3_110, None, &other), (3_200, 3_210, None, &other)]), [Rule::P2]);
}
