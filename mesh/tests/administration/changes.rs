//! Changes: thought through, made, made twice, refused.

use hearth_protocol::admin::{self, Change, Line};
use hearth_protocol::{ConversationId, RegionId};

use crate::support::{Mesh, id};

fn failover(region: &str) -> Change {
    Change::Failover { region: id(region), force: false, accept_loss: false }
}

fn drain(region: &str) -> Change {
    Change::Drain { region: id(region), over_milliseconds: 100, rate: 1_000 }
}

fn is_done(line: &Line, with_change: bool) -> bool {
    matches!(line, Line::Done { changed, .. } if *changed == with_change)
}

#[track_caller]
fn refusal(line: &Line) -> (&str, &str, Option<&RegionId>) {
    match line {
        Line::Refused { message, hint, at, .. } => (message, hint, at.as_ref()),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_refused_while_the_region_lives_and_moves_its_slots_once_it_is_down() {
    let mut mesh = Mesh::start().await;
    let (_, last) = mesh.change(0, failover("rb"), false).await;
    let (message, hint, _) = refusal(&last);
    assert!(message.contains("renews its lease") && hint.contains("hearth region drain rb"), "{message}: {hint}");
    let (_, last) = mesh.change(0, failover("ra"), false).await;
    assert!(refusal(&last).0.contains("does not fail itself over"));
    let (_, last) = mesh.change(0, failover("nowhere"), false).await;
    assert!(refusal(&last).1.contains("ra, rb, rc"));

    mesh.stop(1).await;
    let watched = mesh.regions[0].as_ref().expect("it runs").links.clone();
    mesh.until("the link is down", || !watched.is_up("rb")).await;
    let lines_before = mesh.audit(0).await.audit.len();
    let (lines, last) = mesh.change(0, failover("rb"), true).await;
    assert!(is_done(&last, false) && lines.iter().any(|line| matches!(line, Line::Plan { .. })));
    assert_eq!(mesh.state(0, "rb").await, "active", "a dry run changes nothing");
    assert_eq!(mesh.audit(0).await.audit.len(), lines_before, "and is no change to be audited");

    let (_, last) = mesh.change(0, failover("rb"), false).await;
    assert!(is_done(&last, true));
    let status = mesh.status(0).await;
    let row = status.regions.iter().find(|row| row.region.as_str() == "rb").expect("a member");
    assert_eq!((row.state.as_str(), row.slots), ("fenced", 0));
    let (_, last) = mesh.change(2, failover("rb"), false).await;
    assert!(is_done(&last, false), "twice changes nothing, asked at whichever region");
    let (_, last) = mesh.change(0, Change::Failback { region: id("rb") }, false).await;
    let (message, hint, _) = refusal(&last);
    assert!(message.contains("fenced") && hint.contains("start it"), "{message}: {hint}");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_has_a_line_when_it_begins_and_one_when_it_ends_with_who_asked() {
    let mesh = Mesh::start().await;
    let (_, last) = mesh.change(0, failover("rb"), false).await;
    refusal(&last);
    let (_, last) = mesh.change(0, drain("ra"), false).await;
    assert!(is_done(&last, true));
    let audit = mesh.audit(0).await.audit;
    let told: Vec<_> = audit.iter().map(|line| (line.who.as_str(), line.state.as_str(), &line.change)).collect();
    let (failover, drain) = (failover("rb"), drain("ra"));
    let expected =
        [("ann", "began", &failover), ("ann", "refused", &failover), ("ann", "began", &drain), ("ann", "done", &drain)];
    assert_eq!(told, expected);
    assert!(audit[1].result.contains("renews its lease") && audit[0].id == audit[1].id && audit[1].id != audit[2].id);
    let file = mesh.data.path().join("ra").join("audit").join("audit.jsonl");
    assert_eq!(std::fs::read_to_string(file).expect("the audit log").lines().count(), 4);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_cannot_be_audited_is_not_made() {
    let mesh = Mesh::start().await;
    std::fs::write(mesh.data.path().join("ra").join("audit"), b"in the way").expect("written");
    let (_, last) = mesh.change(0, drain("ra"), false).await;
    assert!(refusal(&last).0.contains("audit log"));
    assert_eq!(mesh.state(0, "ra").await, "active");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_region_stewards_nothing_takes_no_sessions_and_comes_back_when_it_is_undone() {
    let mesh = Mesh::start().await;
    let (_, last) = mesh.change(0, drain("rb"), false).await;
    assert_eq!(refusal(&last).2, Some(&id("rb")), "sessions and homes of a region are told to leave at that region");
    let (lines, _) = mesh.change(1, drain("rb"), true).await;
    assert!(lines.iter().any(|line| matches!(line, Line::Plan { text } if text.contains("slots"))));
    assert_eq!(mesh.state(1, "rb").await, "active");
    let (_, last) = mesh.change(1, drain("rb"), false).await;
    assert!(is_done(&last, true));
    let status = mesh.status(1).await;
    let row = status.regions.iter().find(|row| row.region.as_str() == "rb").expect("a member").clone();
    assert_eq!((row.state.as_str(), row.slots), ("draining", 0));
    assert!(status.node.not_ready.is_some_and(|reason| reason.contains("DRAINING")));
    let (_, last) = mesh.change(1, drain("rb"), false).await;
    assert!(is_done(&last, false), "a second drain finds nothing to do");
    let (_, last) = mesh.change(1, Change::Undrain { region: id("rb") }, false).await;
    assert!(is_done(&last, true));
    let status = mesh.status(1).await;
    let row = status.regions.iter().find(|row| row.region.as_str() == "rb").expect("a member").clone();
    assert_eq!((row.state.as_str(), row.slots, status.node.not_ready), ("active", 1_365, None));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_that_take_part_are_not_removed_and_unlisted_ones_are_not_added() {
    let mesh = Mesh::start().await;
    let (_, last) = mesh.change(0, Change::RemoveRegion { region: id("rc") }, false).await;
    assert!(refusal(&last).1.contains("hearth region drain rc"));
    let (_, last) = mesh.change(0, Change::AddRegion { region: id("rd") }, false).await;
    assert!(refusal(&last).1.contains("[[mesh.regions]]"));
    let (_, last) = mesh.change(0, Change::AddRegion { region: id("rc") }, false).await;
    assert!(is_done(&last, false));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_that_nobody_knows_is_not_moved_and_not_shown() {
    let mesh = Mesh::start().await;
    let conversation = ConversationId(uuid::Uuid::from_u128(7));
    let (_, last) = mesh.change(0, Change::MoveHome { conversation, to: id("rb") }, false).await;
    assert!(refusal(&last).0.contains("knows no conversation"));
    let path = format!("{}/{conversation}", admin::HOMES);
    let error = mesh.ann(0).get::<admin::HomeRow>(&path).await.expect_err("unknown");
    assert!(matches!(error, hearth_mesh::admin::AskError::Refused(_)), "{error}");
    mesh.end().await;
}
