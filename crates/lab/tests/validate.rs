//! The validator against a server that keeps every rule, and against one that
//! breaks one at a time.

mod support;

use std::time::Duration;

use spyglass_lab::request::tls::Trust;
use spyglass_lab::validate::finding::Rule;
use spyglass_lab::validate::{Options, Report, run};

use support::{Breach, SLOW, Server};

async fn validated(servers: &[Server], seconds: u64) -> Report {
    let urls = servers.iter().map(|server| server.url.clone()).collect();
    let length = Duration::from_secs(seconds);
    let options = Options { urls, length, trust: Trust::default() };
    run(&options, std::future::pending(), |_| {}).await.unwrap()
}

async fn broken(breach: Breach) -> Vec<Rule> {
    let report = validated(&[Server::start(breach, true).await], 6).await;
    report.faults.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_keeps_the_rules_is_clean_to_its_end() {
    let servers = [
        Server::start(Breach::EndsAfterSegments(8), true).await,
        Server::start(Breach::EndsAfterSegments(8), true).await,
    ];
    let report = validated(&servers, 30).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(report.ended);
    // A part or a segment may be late on a busy machine.
    let late = [Rule::L3, Rule::P4];
    let unexpected = report.warnings.keys().find(|rule| !late.contains(rule));
    assert_eq!(unexpected, None, "{:#?}", report.findings);
    assert!(report.segments >= 16 && report.parts >= 30, "{report:?}");
}

#[tokio::test]
async fn redirects_are_followed_and_a_page_is_no_playlist() {
    let server = Server::start(Breach::None, true).await;
    let at = |path| server.url.replace("chunklist.m3u8", path);
    let report = validated(&[Server { url: at("elsewhere") }], 1).await;
    assert!(report.lists > 1 && report.is_clean(), "{:#?}", report.findings);
    let options =
        Options { urls: vec![at("page")], length: Duration::from_secs(1), trust: Trust::default() };
    let refused = run(&options, std::future::pending(), |_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("is no playlist"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_parts_is_polled() {
    let report = validated(&[Server::start(Breach::None, false).await], 4).await;
    assert!(report.is_clean(), "{:#?}", report.findings);
    assert!(report.versions >= 3 && report.parts == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_breach_is_found() {
    let (missing, early, part, wait, far, hint, dates, stale) = tokio::join!(
        broken(Breach::MissingSegment),
        broken(Breach::RemovedEarly),
        broken(Breach::PartDiffers),
        broken(Breach::AnswersAtOnce),
        broken(Breach::AnyWait),
        broken(Breach::NoHintedPart),
        broken(Breach::NoDates),
        broken(Breach::StalePlain),
    );
    assert_eq!(missing, [Rule::P6, Rule::P7], "neither when listed nor later");
    assert_eq!(early, [Rule::P6]);
    assert_eq!(part, [Rule::L2]);
    assert_eq!(wait, [Rule::L4]);
    assert_eq!(far, [Rule::L5]);
    assert_eq!(hint, [Rule::L7]);
    assert_eq!(dates, [Rule::P10]);
    // Segments or parts of one, by what was seen last before.
    assert!(!stale.is_empty(), "its blocked reloads alone are right");
    assert!(stale.iter().all(|rule| matches!(rule, Rule::P2 | Rule::P3)), "{stale:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_validator_fetches_itself_is_not_the_servers_silence() {
    let report = validated(&[Server::start(Breach::SlowSegments, true).await], 5).await;
    assert!(report.is_clean() && report.segments >= 6, "{:#?}", report.findings);
    // The first list's segments took six times that; a busy machine may add some.
    let silence = |what: &str| {
        let seconds = what.strip_prefix("nothing new for ")?.split(' ').next()?;
        seconds.parse::<f64>().ok()
    };
    let told = report.findings.iter().filter_map(|finding| silence(&finding.what));
    assert!(told.fold(0.0, f64::max) < 3.0 * SLOW.as_secs_f64(), "{:#?}", report.findings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_differ_are_found() {
    let honest = Server::start(Breach::None, false).await;
    let other = Server::start(Breach::OtherBytes, false).await;
    let report = validated(&[honest, other], 4).await;
    assert_eq!(report.faults.into_keys().collect::<Vec<_>>(), [Rule::P2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_of_each_pace_see_what_the_server_shows() {
    use spyglass_lab::load::{self, Pace};
    let viewed = async |pace, parts| {
        let server = Server::start(Breach::None, parts).await;
        let second = Duration::from_secs(1);
        let options = load::Options {
            trust: Trust::default(),
            url: server.url,
            viewers: 10,
            pace,
            length: 5 * second,
            ramp: second,
            pid: None,
        };
        load::run(&options, std::future::pending()).await.unwrap()
    };
    let (paper, spec, blocking) = tokio::join!(
        viewed(Pace::Paper, false),
        viewed(Pace::Spec, false),
        viewed(Pace::Blocking, true)
    );
    for report in [&paper, &spec, &blocking] {
        assert!(report.errors.is_empty(), "{report:?}");
        assert!(report.polling.count > 10 && report.chunks > 30, "{report:?}");
    }
    // Two polls each, or every part.
    assert!(paper.lists < 50 && blocking.lists > 120, "{paper:?} {blocking:?}");
    assert!(blocking.polling.p50 < paper.polling.p50, "{paper:?} {blocking:?}");
}
