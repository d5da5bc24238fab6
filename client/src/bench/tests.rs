//! The generator against a mock region, over real sockets.

use std::collections::HashSet;
use std::time::Duration;

use super::report::RunReport;
use super::scenario::{self, Load, Task};
use super::server::Server;
use super::*;
use crate::mock::{Faults, Mock};

#[test]
fn the_text_has_a_hundred_bytes() {
    assert_eq!(TEXT.len(), 100);
}

/// A short run on a mock: four pairs, or a group of four.
async fn run(faults: Faults, scenario: &str, load: Load) -> RunReport {
    let mock = Mock::start(faults).await;
    let rest = Rest::new(None).expect("an HTTP client");
    let server = Server::stand_in(rest.dev_regions(&mock.http).await.expect("regions"));
    let plans = match scenario {
        "b" => scenario::group(&server, &rest, 7, 4, HOME).await,
        _ => scenario::pairs(&server, &rest, 7, 4, HOME, HOME).await,
    };
    let task = Task {
        scenario,
        server: &server,
        rest: &rest,
        data: Path::new("/tmp"),
        load,
        warm_up: Duration::from_millis(50),
        time: Duration::from_millis(300),
        receipts: false,
        link: None,
    };
    task.run(7, plans.expect("plans")).await.expect("a run")
}

/// The mock syncs nothing, so only the counts are judged.
fn is_whole(report: &RunReport) -> bool {
    report.faults == tally::Faults::default()
}

async fn local<T>(future: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(future).await
}

#[tokio::test]
async fn pairs_and_groups_are_counted_whole_under_a_window() {
    for (scenario, receivers) in [("a16", 1), ("b", 3)] {
        let report = local(run(Faults::default(), scenario, Load::Full(4))).await;
        assert!(is_whole(&report) && report.sent > 100, "{report:?}");
        assert_eq!(report.receivers_per_message, receivers);
        assert!(report.messages_per_second > 100.0 && report.ack_ms.p50 > 0.0, "{report:?}");
    }
}

#[tokio::test]
async fn an_even_rate_is_kept() {
    let report = local(run(Faults::default(), "a1", Load::Paced { per_second: 500.0, burst: 1, name: "half" })).await;
    assert!(is_whole(&report), "{report:?}");
    assert!(report.sent > 100 && report.sent < 250, "{report:?}");
}

#[tokio::test]
async fn a_message_delivered_twice_fails_the_run() {
    let report = local(run(Faults { twice: true, ..Faults::default() }, "a1", Load::Full(1))).await;
    assert!(report.faults.duplicated > 0 && !report.held, "{report:?}");
}

#[tokio::test]
async fn acks_without_syncs_fail_the_run() {
    let report = local(run(Faults::default(), "a1", Load::Full(1))).await;
    assert!(!report.held && report.notes.iter().any(|note| note.contains("acks per sync")), "{report:?}");
}

#[test]
fn a_swallowed_message_is_counted_missing() {
    // Draining waits for what never comes, so this is counted without a server.
    let mut tally = tally::Tally::new(1, 0, &[0]);
    let swallowed = HashSet::from([5]);
    for counter in (0..10).filter(|counter| !swallowed.contains(counter)) {
        tally.delivered(wire::Number { run: 1, sender: 0, counter }, counter + 1);
    }
    assert_eq!(tally.faults(|_| 10), tally::Faults { missing: 1, holes: 1, ..tally::Faults::default() });
}
