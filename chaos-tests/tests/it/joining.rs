//! Regions that come into a running mesh as processes of their own, and leave it; and an operator's word whose node is
//! killed before all of it is done.

use std::process::Stdio;
use std::time::Duration;

use chaos_tests::chaos::driver::process_of;
use chaos_tests::process::hearth;
use chaos_tests::site::{Door, Keys, REGIONS};
use chaos_tests::{Exit, Mesh, Peer, Served, Site, new_id, run, until, web};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// Longest wait for what takes leases, elections and anti-entropy on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who types verbs, and at which nodes.
struct Operator<'a> {
    site: &'a Site,
    nodes: Vec<String>,
}

impl Operator<'_> {
    async fn types(&self, verb: &[&str]) -> Exit {
        let path = |name: &str| self.site.path(name).to_string_lossy().into_owned();
        let files = [path("admins/ann.admin.pem"), path("admins/ann.admin.key"), path("ca/ca.pem")];
        let mut words = [verb, &["--json", "--cert", &files[0], "--key", &files[1], "--ca", &files[2]]].concat();
        for node in &self.nodes {
            words.extend(["--admin", node]);
        }
        let exit = run(&words).await;
        println!("hearth {}: {} {} {}", verb.join(" "), exit.code, exit.out, exit.err);
        exit
    }

    /// The last line of a change that succeeds.
    async fn changes(&self, verb: &[&str]) -> Value {
        let exit = self.types(verb).await;
        assert_eq!(exit.code, 0, "{exit:?}");
        serde_json::from_str(exit.out.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{exit:?}"))
    }

    async fn row(&self, region: &str) -> Value {
        let status = self.types(&["region", "status"]).await.json();
        let rows = status["regions"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row["region"] == region).unwrap_or(Value::Null)
    }

    /// The voters of a conversation, as every node that is asked knows them.
    async fn voters(&self, group: &str) -> Vec<Vec<String>> {
        voters(&self.types(&["home", "show", group]).await)
    }
}

fn voters(shown: &Exit) -> Vec<Vec<String>> {
    let name = |voter: &Value| voter.as_str().unwrap_or_default().to_owned();
    let of = |row: &Value| row["voters"].as_array().into_iter().flatten().map(name).collect();
    shown.json()["regions"].as_array().into_iter().flatten().map(of).collect()
}

/// Says something that two regions have to have; the ack.
async fn say_to_two(peer: &Peer, group: &str, text: &str) -> Value {
    let content = json!({ "type": "text", "text": text });
    let payload =
        json!({ "messageId": new_id(), "conversationId": group, "durability": "regions:2", "content": content });
    let message = peer.send_payload(payload).await;
    peer.acked_within(&message, PATIENCE).await
}

async fn session(site: &Site, user: &str, region: usize) -> Peer {
    let peer = site.peer(user, region, site.token(user, 3_600)).await;
    peer.expect("connected", |_| true).await;
    peer
}

/// Three regions that run, the nodes of an operator, and a group of ann, bob and cem at home in the first.
async fn three(site: &Site) -> Vec<Served> {
    let path = |name: &str| site.path(name).to_string_lossy().into_owned();
    let words = ["ca", "issue", "admin", "--name", "ann", "--dir", &path("ca"), "--out", &path("admins")];
    let issued = run(&words).await;
    assert_eq!(issued.code, 0, "{issued:?}");
    let (one, two, three) = tokio::join!(Served::start(site, 0), Served::start(site, 1), Served::start(site, 2));
    vec![one, two, three]
}

/// Restarts one region after the other, so that each reads its configuration.
async fn restart_each(site: &Site, served: Vec<Served>) -> Vec<Served> {
    let mut again = Vec::new();
    for (index, one) in served.into_iter().enumerate() {
        one.end().await;
        again.push(Served::start(site, index).await);
    }
    again
}

fn nodes(served: &[Served]) -> Vec<String> {
    served.iter().map(|one| one.administration.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_joins_a_running_mesh_votes_becomes_a_home_and_stays_when_another_region_is_removed() {
    let settings = "[failover]\nautomatic = false\n";
    let mut site = Site::of(&[Door::Plain; 3], Keys::Secret, settings).await;
    let served = three(&site).await;
    let group = site.group_of("ann", &["bob", "cem"]).await;
    let ann = session(&site, "ann", 0).await;
    say_to_two(&ann, &group, "before there was a fourth").await;
    drop(ann);
    site.add(Door::Plain).await;
    let (mut served, new) = (restart_each(&site, served).await, REGIONS[3]);
    let mut operator = Operator { site: &site, nodes: nodes(&served) };
    let follows = async || operator.types(&["region", "add", new]).await.code == 0;
    until("it follows, once the restarted regions have a leader", PATIENCE, follows).await;
    assert_eq!(operator.row(new).await["state"], "following");

    served.push(Served::start(&site, 3).await);
    operator.nodes = nodes(&served);
    let takes_part = async || {
        operator.types(&["region", "add", new]).await.code == 0 && operator.row(new).await["state"] == "active"
    };
    until("it takes part, once it is in reach", PATIENCE, takes_part).await;
    let again = operator.changes(&["region", "add", new]).await;
    assert_eq!(again["changed"], false, "{again}");
    let (ann, cem) = (session(&site, "ann", 0).await, session(&site, "cem", 3).await);
    let ack = say_to_two(&ann, &group, "carried to the fourth").await;
    cem.expect_within("message.new", PATIENCE, |frame| frame["payload"]["messageId"] == ack["messageId"]).await;
    let moved = operator.changes(&["home", "move", &group, "--to", new]).await;
    assert_eq!(moved["changed"], true, "{moved}");
    assert_eq!(say_to_two(&cem, &group, "from the new home").await["home"], new);
    let voters = operator.voters(&group).await;
    assert!(voters.len() == 4 && voters.iter().all(|of| of.len() == 3 && of.contains(&new.to_owned())), "{voters:?}");
    let steward = operator.changes(&["region", "failback", new]).await;
    assert!(steward["changed"] == true && operator.row(new).await["slots"].as_u64() > Some(900), "{steward}");

    a_region_leaves(&site, &mut served, 1, &group).await;
    for peer in [&ann, &cem] {
        say_to_two(peer, &group, "with three again").await;
    }
    let rows = site.history("ann", 3, &group).await;
    assert_eq!(rows.iter().filter(|row| row["kind"] == "message").count(), 5, "{rows:?}");
    drop((ann, cem));
    for one in served {
        one.end().await;
    }
}

/// Empties a region, stops it, and removes it: of what it voted for others vote in its place.
async fn a_region_leaves(site: &Site, served: &mut Vec<Served>, index: usize, group: &str) {
    let (gone, name) = (served.remove(index), REGIONS[index]);
    let mut operator = Operator { site, nodes: [nodes(served), vec![gone.administration.clone()]].concat() };
    operator.changes(&["region", "drain", name, "--over", "1s"]).await;
    gone.end().await;
    operator.nodes = nodes(served);
    let removed = async || operator.types(&["region", "remove", name, "--rate", "500"]).await.code == 0;
    until("it is removed, once its lease has lapsed", PATIENCE, removed).await;
    let voters = operator.voters(group).await;
    let fits = |of: &Vec<String>| of.len() == 3 && !of.contains(&name.to_owned());
    assert!(voters.len() == 3 && voters.iter().all(fits), "{voters:?}");
}

async fn at(mesh: &Mesh, verb: &[&str]) -> Exit {
    let data = mesh.data().to_string_lossy().into_owned();
    let exit = run(&[verb, &["--json", "--data", &data]].concat()).await;
    println!("hearth {}: {} {} {}", verb.join(" "), exit.code, exit.out, exit.err);
    exit
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_voters_two_are_left_when_a_region_is_removed_and_both_have_to_have_what_two_regions_ack() {
    let mesh = Mesh::quick(&["--failover", "off", "--processes"]).await;
    let names: Vec<String> = mesh.regions.iter().map(|region| region.id.clone()).collect();
    let mut groups = Vec::new();
    for region in 0..3 {
        groups.push(mesh.group("ann", region, &["bob"]).await);
    }
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    for group in &groups {
        say_to_two(&ann, group, "with three").await;
    }
    assert_eq!(at(&mesh, &["region", "drain", &names[2], "--over", "1s"]).await.code, 0);
    mesh.stop_region(2).await;
    let removed = async || at(&mesh, &["region", "remove", &names[2], "--rate", "500"]).await.code == 0;
    until("it is removed, once its lease has lapsed", PATIENCE, removed).await;
    let again = at(&mesh, &["region", "remove", &names[2]]).await;
    assert_eq!(again.code, 0, "{again:?}");
    for group in &groups {
        let voters = voters(&at(&mesh, &["home", "show", group]).await);
        let left = |of: &Vec<String>| of.len() == 2 && !of.contains(&names[2]);
        assert!(voters.len() == 2 && voters.iter().all(left), "{voters:?}");
        let ack = say_to_two(&bob, group, "with two").await;
        assert_eq!(ack["durability"]["regions"].as_array().map(Vec::len), Some(2), "{ack}");
    }
    // What two regions have to have waits while there is one.
    mesh.stop_region(1).await;
    let content = json!({ "type": "text", "text": "waits for the other" });
    let payload =
        json!({ "messageId": new_id(), "conversationId": groups[0], "durability": "regions:2", "content": content });
    let message = ann.send_payload(payload).await;
    ann.expect_within("message.queued", PATIENCE, |frame| frame["payload"]["messageId"] == message.as_str()).await;
    mesh.start_region(1).await;
    ann.acked_within(&message, PATIENCE).await;
    drop((ann, bob));
    mesh.end().await;
}

/// Conversations that a node is killed amid.
const HOMES: usize = 150;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_amid_the_operators_word_of_a_loss_goes_on_by_it_when_it_starts_again() {
    let mesh = Mesh::quick(&["--failover", "off", "--processes"]).await;
    let names: Vec<String> = mesh.regions.iter().map(|region| region.id.clone()).collect();
    let mut groups = Vec::new();
    for _ in 0..HOMES {
        groups.push(mesh.group("ann", 0, &["cem"]).await);
    }
    let ann = Peer::connect(&mesh, "ann", 0).await;
    for group in &groups {
        say_to_two(&ann, group, "before").await;
    }
    mesh.agreed("cem", &[0, 2], &groups[HOMES - 1], 1).await;
    drop(ann);
    mesh.stop_region(0).await;
    mesh.stop_region(1).await;
    let data = mesh.data().to_string_lossy().into_owned();
    let mut word = Command::new(hearth())
        .args(["region", "failover", &names[0], "--accept-loss", "--force", "--json", "--data", &data])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(word.stdout.take().expect("piped")).lines();
    // The word is on disk, and voters that are gone are waited for.
    while let Some(line) = lines.next_line().await.expect("a pipe") {
        println!("{line}");
        if line.contains("wait to be opened") {
            break;
        }
    }
    kill(process_of(&mesh, 2).expect("a process"), Signal::SIGKILL).expect("a signal");
    assert!(!word.wait().await.expect("it ends").success(), "it was cut off");
    println!("{:?}", mesh.dev("start", 2).await);
    until("the last region serves again", PATIENCE, || async {
        let ready = web::try_call(None, &mesh.regions[2].http, "GET", "/readyz", None, None, &[]).await;
        ready.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let cem = Peer::connect(&mesh, "cem", 2).await;
    for group in &groups {
        let message = cem.send(group, "it goes on without a word").await;
        let ack = cem.acked_within(&message, PATIENCE).await;
        assert_eq!(ack["home"], names[2].as_str(), "{ack}");
    }
    let again = at(&mesh, &["region", "failover", &names[0], "--accept-loss", "--force"]).await;
    assert_eq!(again.code, 0, "{again:?}");
    drop(cem);
    mesh.end().await;
}
