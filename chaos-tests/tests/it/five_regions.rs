//! Five regions: a region keeps what it votes for or follows, and nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use chaos_tests::load::users;
use chaos_tests::{Answer, Checker, Load, Mesh, Peer, until};
use serde_json::{Value, json};

/// Bytes of a text, so that what is below a stream is pulled in several pages (1 MiB each).
const TEXT_BYTES: usize = 2_500;
/// Messages before the arrival: no page of the protocol has so many.
const BEFORE: usize = 650;
/// Messages while the arrival goes on.
const MEANWHILE: usize = 200;
/// The beginning of the first text of a load's first session.
const FIRST: &str = "words of a load of s0 number 0 ";
/// Longest wait for what takes many round trips of a small machine.
const LONG: Duration = Duration::from_secs(30);

/// Whether any file under `folder` holds `text`.
fn holds(folder: &Path, text: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.filter_map(Result::ok).map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            return holds(&path, text);
        }
        // A file that a compaction has just removed holds nothing.
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

async fn voters(mesh: &Mesh, user: &str, conversation: &str) -> Vec<usize> {
    let row = mesh.rest(user, 0, "GET", &format!("/api/v1/conversations/{conversation}"), None).await.body;
    let named = row["voters"].as_array().expect("voters").clone();
    let index = |id: &Value| mesh.regions.iter().position(|region| *id == region.id.as_str());
    named.iter().filter_map(index).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_without_members_holds_no_byte_of_a_text_until_one_arrives() {
    let mesh = Mesh::quick(&["--regions", "a,b,c,d,e"]).await;
    let group = mesh.group("ann", 0, &["dora"]).await;
    let ann = Peer::connect(&mesh, "ann", 0).await;
    let text = format!("a text to look for {}", chaos_tests::new_id());
    ann.say(&group, &text).await;
    let voters = voters(&mesh, "ann", &group).await;
    assert_eq!(voters.len(), 3, "three of five vote");
    for voter in &voters {
        let data = &mesh.regions[*voter].data;
        until("every voter has the text on disk", Duration::from_secs(15), || async { holds(data, &text) }).await;
    }
    let others: Vec<usize> = (0..5).filter(|region| !voters.contains(region)).collect();
    for other in &others {
        assert!(!holds(&mesh.regions[*other].data, &text), "region {other} holds a text that is not its");
    }
    let arrival = others[0];
    let dora = Peer::connect(&mesh, "dora", arrival).await;
    let hello = dora.frames()[0].value.clone();
    if hello["feed"] != "complete" {
        dora.expect_within("feed.complete", Duration::from_secs(15), |_| true).await;
    }
    let feed = mesh.rest("dora", arrival, "GET", "/api/v1/conversations", None).await.body;
    assert_eq!(feed["conversations"][0]["conversationId"], group.as_str(), "{feed}");
    dora.frame(json!({ "type": "history.request", "id": "h", "payload": { "conversationId": group, "limit": 10 } }))
        .await;
    let history = dora.expect("history.response", |frame| frame["id"] == "h").await.value;
    assert_eq!(history["payload"]["messages"][0]["content"]["text"], text.as_str());
    let live = ann.say(&group, "a text for one who has arrived").await;
    dora.expect("message.new", |frame| frame["payload"]["messageId"] == live["messageId"]).await;
    let data = &mesh.regions[arrival].data;
    until("the region of the arrival follows", Duration::from_secs(15), || async { holds(data, &text) }).await;
    for other in &others[1..] {
        assert!(!holds(&mesh.regions[*other].data, &text), "region {other} holds a text that is not its");
    }
    dora.say(&group, "an answer from where she arrived").await;
    drop((ann, dora));
    mesh.end().await;
}

/// What a session was shown of a conversation, read as its client does.
struct Shown {
    last: Option<u64>,
    jumps: usize,
}

/// Reads what a session was shown when its client had everything up to `have`: ascending, and every jump announced
/// before it, from no later number than the first that lacks.
fn shown(peer: &Peer, conversation: &str, have: Option<u64>) -> Shown {
    let (mut last, mut told, mut jumps) = (have, None::<u64>, 0);
    for frame in peer.frames().into_iter().map(|frame| frame.value) {
        let payload = &frame["payload"];
        if payload["conversationId"] != conversation {
            continue;
        }
        match frame["type"].as_str() {
            Some("message.new") => {
                let sequence = payload["sequenceNumber"].as_u64().expect("a number");
                if let Some(last) = last {
                    assert!(sequence > last, "{}: {sequence} after {last}", peer.user);
                    if sequence > last + 1 {
                        let from = told.unwrap_or(u64::MAX);
                        assert!(from <= last + 1, "{}: {sequence} after {last}, told {told:?}", peer.user);
                        jumps += 1;
                    }
                }
                (last, told) = (Some(sequence), None);
            }
            Some("sync.required" | "sync.gap") => {
                let from = payload["fromSequence"].as_u64().expect("a number");
                told = Some(told.map_or(from, |told| told.min(from)));
            }
            _ => {}
        }
    }
    Shown { last, jumps }
}

/// The history of a conversation at a region that has nobody to ask.
async fn try_history_alone(mesh: &Mesh, user: &str, region: usize, conversation: &str) -> Result<Vec<Value>, Answer> {
    let others = || (0..mesh.regions.len()).filter(|other| *other != region);
    for other in others() {
        mesh.cut(region, other).await;
    }
    let rows = mesh.try_history(user, region, conversation).await;
    for other in others() {
        mesh.heal(region, other).await;
    }
    rows
}

/// The history of a conversation at a region that may be pulling it: complete as far as it goes, whoever answers.
async fn history_meanwhile(mesh: &Mesh, user: &str, region: usize, conversation: &str) -> Vec<Value> {
    let deadline = Instant::now() + LONG;
    loop {
        match mesh.try_history(user, region, conversation).await {
            Ok(rows) => {
                let numbers: Vec<u64> = rows.iter().filter_map(|row| row["sequenceNumber"].as_u64()).collect();
                assert!(numbers.iter().copied().eq(1..=rows.len() as u64), "a hole or another order: {numbers:?}");
                return rows;
            }
            Err(answer) => assert!(answer.status == 503 && Instant::now() < deadline, "{answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A mesh of five, a long group of `dora` and `eve` among others, of which `dora` has the beginning, and its load.
struct Long {
    mesh: Mesh,
    group: String,
    load: Load,
    /// Dora as she was at the group's home.
    dora: Peer,
    /// A region that holds nothing of the group.
    arrival: usize,
}

impl Long {
    async fn new() -> Self {
        let mesh = Mesh::quick(&["--regions", "a,b,c,d,e"]).await;
        let group = mesh.group("s0", 0, &["s1", "dora", "eve"]).await;
        let dora = Peer::connect(&mesh, "dora", 0).await;
        let load = Load::at(&mesh, 0, &users(2), &group, TEXT_BYTES).await;
        load.until_acked(20).await;
        dora.leave().await;
        load.until_acked(BEFORE).await;
        let voters = voters(&mesh, "s0", &group).await;
        let arrival = (0..5).find(|region| !voters.contains(region)).expect("three of five vote");
        assert!(!holds(&mesh.regions[arrival].data, FIRST), "the region of the arrival saw the group before");
        for other in (0..5).filter(|other| *other != arrival) {
            mesh.set_fault(other, arrival, json!({ "delayMs": 40 })).await;
        }
        Self { mesh, group, load, dora, arrival }
    }

    /// Dora arrives where nobody was before, with what she has.
    async fn arrive(&self) -> (Peer, u64) {
        let have = shown(&self.dora, &self.group, None).last.expect("dora saw something at home");
        let cursors = json!([{ "conversationId": self.group, "epoch": 1, "lastSequence": have }]);
        let token = self.dora.resume_token();
        (Peer::resume(&self.mesh, &self.dora, self.arrival, &token, cursors).await, have)
    }

    /// Waits until the region of the arrival has the conversation's first text: it is the last one that is pulled.
    async fn until_pulled(&self) {
        let data = &self.mesh.regions[self.arrival].data;
        until("everything below the stream is pulled", LONG, || async { holds(data, FIRST) }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_arrives_in_a_long_conversation_sees_it_live_at_once_misses_nothing_untold_and_brings_all_of_it() {
    let long = Long::new().await;
    let (mesh, group, arrival) = (&long.mesh, &long.group, long.arrival);
    let began = Instant::now();
    let (dora, have) = long.arrive().await;
    let eve = Peer::connect(mesh, "eve", arrival).await;
    let at_arrival = long.load.acked();
    for peer in [&dora, &eve] {
        let new = |frame: &Value| frame["payload"]["sequenceNumber"].as_u64() > Some(BEFORE as u64);
        let live = peer.expect("message.new", new).await;
        println!("{}: live after {:?}", peer.user, live.at.duration_since(began));
    }
    let rows = history_meanwhile(mesh, "dora", arrival, group).await;
    assert!(rows.len() >= BEFORE, "{} rows", rows.len());
    long.until_pulled().await;
    println!("everything pulled after {:?}", began.elapsed());
    long.load.until_acked(at_arrival + MEANWHILE).await;

    let Long { mesh, load, dora: at_home, group, .. } = long;
    let senders = load.end_acked(LONG).await;
    let sent: usize = senders.iter().map(|peer| peer.tally().sent).sum();
    let last = senders[0].say(&group, "the last one of a long load").await;
    for peer in [&dora, &eve] {
        peer.expect_within("message.new", LONG, |frame| frame["payload"]["messageId"] == last["messageId"]).await;
    }
    let (of_dora, of_eve) = (shown(&dora, &group, Some(have)), shown(&eve, &group, None));
    assert!(of_dora.jumps > 0, "dora missed more than a resume shows, and this story shows nothing");
    println!("{sent} sent; announced jumps: dora {}, eve {}", of_dora.jumps, of_eve.jumps);
    let rows = mesh.agreed("s0", &[0, 1, 2, 3, 4], &group, sent + 1).await;
    assert_eq!(rows.len(), sent + 1, "as many rows as sends");
    let mut checker = Checker::default();
    [&at_home, &dora, &eve].into_iter().for_each(|peer| checker.observe(peer));
    senders.iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, std::slice::from_ref(&rows));

    mesh.stop_region(arrival).await;
    mesh.start_region(arrival).await;
    let alone = try_history_alone(&mesh, "dora", arrival, &group).await.expect("it has all of it by itself");
    checker.check(&group, &[rows, alone]);
    let cursors = json!([{ "conversationId": group, "epoch": 1, "lastSequence": sent + 1 }]);
    let again = Peer::resume(&mesh, &dora, arrival, &dora.resume_token(), cursors).await;
    again.expect_within("sync.complete", LONG, |_| true).await;
    senders[0].say(&group, "one more after the restart").await;
    again.expect_within("message.new", LONG, |_| true).await;
    assert_eq!(shown(&again, &group, Some(sent as u64 + 1)).jumps, 0);
    drop((senders, at_home, dora, eve, again));
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_killed_while_it_pulls_a_long_conversation_has_all_of_it_after_its_start() {
    let long = Long::new().await;
    for other in (0..5).filter(|other| *other != long.arrival) {
        long.mesh.set_fault(other, long.arrival, json!({ "delayMs": 250 })).await;
    }
    let (dora, have) = long.arrive().await;
    let new = |frame: &Value| frame["payload"]["sequenceNumber"].as_u64() > Some(BEFORE as u64);
    dora.expect_within("message.new", LONG, new).await;
    let Long { mut mesh, group, load, dora: at_home, arrival } = long;
    mesh.kill().await;
    println!("killed with everything pulled: {}", holds(&mesh.regions[arrival].data, FIRST));
    let mut checker = Checker::default();
    for peer in load.end().await {
        peer.ended(LONG).await;
        checker.observe(&peer);
    }
    dora.ended(LONG).await;
    mesh.restart().await;
    let seen = shown(&dora, &group, Some(have)).last.expect("dora saw it live");
    let cursors = json!([{ "conversationId": group, "epoch": 1, "lastSequence": seen }]);
    let again = Peer::resume(&mesh, &dora, arrival, &dora.resume_token(), cursors).await;
    again.expect_within("sync.complete", LONG, |_| true).await;
    let sender = Peer::connect(&mesh, "s0", 0).await;
    let last = sender.say(&group, "one more after the kill").await;
    again.expect_within("message.new", LONG, |frame| frame["payload"]["messageId"] == last["messageId"]).await;
    shown(&again, &group, Some(seen));
    let rows = mesh.agreed("s0", &[0, 1, 2, 3, 4], &group, checker.acked() + 1).await;
    until("the region has all of it by itself", LONG, || async {
        let alone = try_history_alone(&mesh, "dora", arrival, &group).await;
        let whole = alone.is_ok_and(|alone| alone == rows);
        if !whole {
            // Every try breaks the links: what it waits for needs them for a while.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        whole
    })
    .await;
    [&at_home, &dora, &again, &sender].into_iter().for_each(|peer| checker.observe(peer));
    checker.check(&group, &[rows]);
    drop((at_home, dora, again, sender));
    mesh.end().await;
}
