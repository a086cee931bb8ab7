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

/// The faults of a series of lists, each with its second.
fn faults(series: &[(u64, &str)]) -> Vec<Rule> {
    let mut judge = Judge::new(vec!["a".to_owned()]);
    let mut found = Vec::new();
    for (second, text) in series {
        let list = List::read(text.as_bytes()).unwrap();
        found.extend(judge.see(0, Duration::from_secs(*second), list));
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
        let list = List::read(text.as_bytes()).unwrap();
        judge
            .see(server, Duration::from_secs(second), list)
            .iter()
            .map(|found| found.rule)
            .collect::<Vec<_>>()
    };
    assert_eq!(see(0, 0, plain(5, 6)), []);
    assert_eq!(see(1, 1, plain(4, 6)), [], "behind, but not against itself");
    assert_eq!(see(1, 3, plain(6, 6).replace("1-9.m4s", "other.m4s")), [Rule::P2]);
}

#[test]
fn what_is_removed_is_promised() {
    let mut judge = Judge::new(vec!["a".to_owned()]);
    for (second, first) in [(0, 5), (3, 6)] {
        judge.see(0, Duration::from_secs(second), List::read(plain(first, 6).as_bytes()).unwrap());
    }
    // Seen at 0 s; its own 3 s and the list's 18 s.
    let promise = Promise { server: 0, uri: "1-5.m4s".to_owned(), until: Duration::from_secs(21) };
    assert_eq!(judge.take_promises(), [promise]);
    assert_eq!(judge.take_promises(), []);
}

#[test]
fn a_part_is_whole_and_stays() {
    let head = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.63\n\
        #EXT-X-PART-INF:PART-TARGET=0.21\n#EXT-X-MEDIA-SEQUENCE:5\n";
    let with = |parts: &[f64]| {
        let mut list = head.to_owned();
        for (number, seconds) in parts.iter().enumerate() {
            list.push_str(&format!("#EXT-X-PART:DURATION={seconds},URI=\"1-5.{number}.m4s\"\n"));
        }
        list
    };
    assert_eq!(faults(&[(0, &with(&[0.2])), (1, &with(&[0.2, 0.2]))]), []);
    assert_eq!(faults(&[(0, &with(&[0.16, 0.2]))]), [Rule::L2]);
    assert_eq!(faults(&[(0, &with(&[0.2, 0.22]))]), [Rule::L2]);
    assert_eq!(faults(&[(0, &with(&[0.2, 0.1]))]), [], "the last of a segment");
    assert_eq!(faults(&[(0, &with(&[0.2, 0.2])), (1, &with(&[0.2]))]), [Rule::P3]);
    let closed = format!("{}#EXTINF:0.5,\n1-5.m4s\n", with(&[0.2, 0.2]));
    assert_eq!(faults(&[(0, &closed)]), [Rule::L2]);
    let near = head.replace("HOLD-BACK=0.63", "HOLD-BACK=0.4");
    assert_eq!(faults(&[(0, &near)]), [Rule::L1]);
}
