//! Stories over regions whose stores are in servers. They need Cassandra (`./services up cassandra`) and a binary that has
//! CQL, named by `HEARTH`: see `docs/operations/stores.md`.

mod dev;
mod outage;
mod projection;

use std::time::Duration;

use chaos_tests::site::{Door, Keys};
use chaos_tests::{Peer, Served, Site, new_id, run};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Longest wait for what takes leases, elections and anti-entropy on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keyspace for each region, of this run alone.
fn settings() -> String {
    let node = std::env::var("HEARTH_CASSANDRA").unwrap_or_else(|_| "127.0.0.1:19042".into());
    let run = new_id().replace('-', "");
    format!("[store.cql]\nnodes = [\"{node}\"]\nkeyspace = \"story_{}_{{region}}\"\n", &run[20..])
}

async fn migrate(site: &Site, index: usize, more: &[&str]) -> Value {
    let config = site.config(index).to_string_lossy().into_owned();
    let exit = run(&[&["store", "migrate", "--json", "--config", &config], more].concat()).await;
    assert_eq!(exit.code, 0, "{exit:?}\ntype: ./services up cassandra; the binary needs --features cql");
    exit.json()
}

fn numbers(migrated: &Value) -> usize {
    migrated["migrations"].as_array().map_or(0, Vec::len)
}

async fn session(site: &Site, user: &str, region: usize) -> Peer {
    let peer = site.peer(user, region, site.token(user, 3_600)).await;
    peer.expect("connected", |_| true).await;
    peer
}

/// Says something that two regions have to have; its id.
async fn say(peer: &Peer, group: &str, text: &str) -> String {
    let content = json!({ "type": "text", "text": text });
    peer.send_payload(
        json!({ "messageId": new_id(), "conversationId": group, "durability": "regions:2", "content": content }),
    )
    .await
}

fn texts(rows: &[Value]) -> Vec<&str> {
    rows.iter().filter_map(|row| row["content"]["text"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_over_cassandra_give_one_order_and_one_killed_amid_sends_comes_back_with_all_that_was_acked() {
    let site = Site::of(&[Door::Plain; 3], Keys::Secret, &settings()).await;
    let first = migrate(&site, 0, &["--dry-run"]).await;
    assert!(numbers(&first) > 0 && first["dryRun"] == true, "{first}");
    assert_eq!(numbers(&migrate(&site, 0, &[]).await), numbers(&first), "a dry run made nothing");
    assert_eq!(numbers(&migrate(&site, 0, &["--dry-run"]).await), 0);

    let (one, two, three) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1), Served::start(&site, 2));
    let group = site.group_of("ann", &["bob", "cem"]).await;
    let (ann, bob) = (session(&site, "ann", 1).await, session(&site, "bob", 2).await);
    let mut sent = Vec::new();
    for number in 0..40 {
        let peer = if number % 2 == 0 { &ann } else { &bob };
        sent.push(say(peer, &group, &format!("text {number}")).await);
    }
    // The home of the group goes without a word.
    let mut one = one;
    one.process.signal(Signal::SIGKILL);
    one.process.wait().await;
    let one = Served::start(&site, 0).await;
    for (number, message) in sent.iter().enumerate() {
        let peer = if number % 2 == 0 { &ann } else { &bob };
        peer.acked_within(message, PATIENCE).await;
    }
    say(&ann, &group, "the last").await;
    bob.expect_within("message.new", PATIENCE, |frame| frame["payload"]["content"]["text"] == "the last").await;

    let mut histories = Vec::new();
    for region in 0..3 {
        histories.push(site.history("ann", region, &group).await);
    }
    let order = texts(&histories[0]);
    assert_eq!(order.len(), sent.len() + 1, "each once: {order:?}");
    assert!(histories.iter().all(|rows| texts(rows) == order), "{histories:?}");
    for number in (0..sent.len()).step_by(2) {
        let place = |number: usize| order.iter().position(|text| *text == format!("text {number}"));
        assert!(number == 0 || place(number) > place(number - 2), "the order of one who writes: {order:?}");
    }
    let of = async |name: &str| site.metric(1, name).await;
    let (rounds, requests) = (of("hearth_store_rounds_total").await, of("hearth_store_requests_total").await);
    assert!(
        0.0 < rounds && rounds < requests && requests < of("hearth_store_bytes_total").await,
        "what it cost is told"
    );
    drop((ann, bob));
    for served in [one, two, three] {
        served.end().await;
    }
}
