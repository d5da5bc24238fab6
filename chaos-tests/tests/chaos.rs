//! Random faults on real processes and sockets under load, one run after the other: what clients saw goes to the checker.
//! Twenty runs and more: `cargo run --release -p chaos-tests --example chaos -- --help`.

use std::time::Duration;

use chaos_tests::chaos::plan::{Fault, Kind, Plan, USUAL};
use chaos_tests::chaos::{Population, Report, Verdict, run};
use tokio::sync::Mutex;

/// Each run wants the machine for itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// A conversation may be without an ack for so long while one link of its home is cut: its home goes on, and whoever is
/// connected there or at the third region is acked.
const NO_PAUSE: Duration = Duration::from_secs(5);

async fn held(plan: Plan) -> Report {
    held_by(plan, &Population::few()).await
}

async fn held_by(plan: Plan, population: &Population) -> Report {
    let _permit = ONE_AT_A_TIME.lock().await;
    let report = run(&plan, population, None, |text| println!("{text}")).await;
    assert_eq!(report.verdict(), Verdict::Held, "{}", report.story());
    println!("{}", report.json());
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_cut_off_for_thirty_seconds_under_load_loses_doubles_and_reorders_nothing() {
    held(Plan::of(1, USUAL)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_killed_under_load_and_started_again_loses_doubles_and_reorders_nothing() {
    held(Plan::of(2, USUAL)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_stopped_past_its_lease_that_goes_on_loses_doubles_and_reorders_nothing() {
    held(Plan::of(3, USUAL)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_users_who_do_all_of_chat_through_cuts_and_a_failover_lose_nothing_and_agree_at_the_end() {
    held_by(Plan::of(2, USUAL), &Population::crowd()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partial_partitions_under_load_fence_nobody_end_in_one_owner_and_lose_nothing() {
    // Each is longer than a lease and `--failover-after` together.
    let fault = |at, kind| Fault { at: Duration::from_secs(at), lasts: Duration::from_secs(10), kind };
    let faults = vec![fault(3, Kind::Cut(0, 1)), fault(17, Kind::CutOneWay(0, 1)), fault(31, Kind::CutOneWay(1, 0))];
    let report = held(Plan::named(4, faults)).await;
    // That there is one owner, that every region names the same, and that every slot has a steward, is part of a run.
    assert_eq!((report.failovers, report.fences_counted), (0, 0), "a link that is cut takes no region away");
    assert_eq!(report.losses, 0);
    assert!(report.silence < NO_PAUSE, "a conversation had no ack for {:?}", report.silence);
}
