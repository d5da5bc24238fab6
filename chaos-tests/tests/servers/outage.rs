//! A region whose servers stop, and those of nobody else: what it says meanwhile, what goes on, and what is there when they
//! are back. It has a Cassandra of its own, which `./services` starts in a folder of the story's.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chaos_tests::site::{Door, Keys};
use chaos_tests::{Answer, Checker, Peer, Served, Site, new_id, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::session;

/// Between two sends of a session.
const PACE: Duration = Duration::from_millis(50);
/// For how long Cassandra stands still, and how long it is gone before it is started again.
const STOPPED: Duration = Duration::from_secs(30);
const GONE: Duration = Duration::from_secs(8);
/// Longest wait for a server that comes back, a failover, or a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a read is refused within while the store does not answer.
const SOON: Duration = Duration::from_secs(5);
/// What the process may grow by in an outage.
const GROWTH_KIB: usize = 200 * 1024;
/// What a send may be told instead of an ack: all of it says when to send again.
const FOR_NOW: [&str; 3] = ["STORE_UNAVAILABLE", "OVERLOADED", "HOME_UNREACHABLE"];

/// A Cassandra of the story's own.
struct Cassandra {
    data: tempfile::TempDir,
    base: u16,
}

impl Cassandra {
    fn start() -> Self {
        let started = Self { data: tempfile::tempdir().expect("a folder"), base: rand::random_range(310..=380) * 100 };
        started.up();
        started
    }

    fn services(&self, verb: &str, more: &[&str]) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
        let data = self.data.path().to_string_lossy().into_owned();
        let output = Command::new(root.join("services"))
            .args([verb, "cassandra", "--data", &data])
            .args(more)
            .output()
            .expect("./services runs");
        assert!(output.status.success(), "./services {verb}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts it, or starts it again over its data; it answers then.
    fn up(&self) {
        self.services("up", &["--base", &self.base.to_string()]);
    }

    fn node(&self) -> String {
        format!("127.0.0.1:{}", self.base + 42)
    }

    fn pid(&self) -> Pid {
        let run = std::fs::read_to_string(self.data.path().join("cassandra.run")).expect("it was started");
        Pid::from_raw(run.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a process id"))
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal");
    }
}

impl Drop for Cassandra {
    fn drop(&mut self) {
        // A stopped one takes no other signal, and a story that failed may have left it so, or without one.
        let _ = kill(self.pid(), Signal::SIGCONT);
        self.services("down", &[]);
    }
}

/// What a process has in memory.
fn resident_kib(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Sends to every conversation in turn until it is told to stop.
fn sending(peer: &Arc<Peer>, conversations: &[&str], stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    let (peer, stop) = (peer.clone(), stop.clone());
    let conversations: Vec<String> = conversations.iter().map(|id| (*id).to_owned()).collect();
    tokio::spawn(async move {
        for number in 0_usize.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let content = json!({ "type": "text", "text": format!("{} says {number}", peer.user) });
            let conversation = &conversations[number % conversations.len()];
            peer.send_payload(json!({ "messageId": new_id(), "conversationId": conversation, "content": content }))
                .await;
            tokio::time::sleep(PACE).await;
        }
    })
}

/// A region that is looked at all the time: the most that its process had in memory.
struct Watched {
    most_kib: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn new(pid: i32) -> Self {
        let most_kib = Arc::new(AtomicUsize::new(0));
        let most = most_kib.clone();
        let task = tokio::spawn(async move {
            loop {
                most.fetch_max(resident_kib(pid), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self { most_kib, task }
    }

    fn end(self) -> usize {
        self.task.abort();
        self.most_kib.load(Ordering::Relaxed)
    }
}

/// Three regions, of which the first has a Cassandra of its own and the others keep their stores in their folders; a
/// conversation with its home at the first, one with its home at the third, and a member at each, who all send all the time.
struct Story {
    site: Site,
    served: Vec<Served>,
    conversations: [String; 2],
    peers: Vec<Arc<Peer>>,
    stop: Arc<AtomicBool>,
    senders: Vec<tokio::task::JoinHandle<()>>,
    cassandra: Cassandra,
}

impl Story {
    async fn begin() -> Self {
        let cassandra = tokio::task::spawn_blocking(Cassandra::start).await.expect("Cassandra starts");
        let limits = "[limits]\nmessages_per_minute = 100000\nconversation_messages_per_minute = 100000\n";
        let site = Site::of(&[Door::Plain; 3], Keys::Secret, limits).await;
        let config = std::fs::read_to_string(site.config(0)).expect("written");
        let store = format!("{config}[store.cql]\nnodes = [\"{}\"]\nkeyspace = \"outage\"\n", cassandra.node());
        std::fs::write(site.config(0), store).expect("written");
        let (one, two, three) = tokio::join!(Served::start(&site, 0), Served::start(&site, 1), Served::start(&site, 2));
        let here = site.group_of("ann", &["bob", "cem"]).await;
        let body = json!({ "name": "elsewhere", "participantIds": ["ann", "bob"] });
        let answer = site.rest(Some("cem"), 2, "POST", "/api/v1/groups", Some(body), &[]).await;
        let there = answer.body["conversationId"].as_str().expect("a group").to_owned();
        let mut peers = Vec::new();
        for (region, user) in ["ann", "bob", "cem"].iter().enumerate() {
            peers.push(Arc::new(session(&site, user, region).await));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let senders = peers.iter().map(|peer| sending(peer, &[&here, &there], &stop)).collect();
        Self { site, served: vec![one, two, three], conversations: [here, there], peers, stop, senders, cassandra }
    }

    fn pid(&self) -> i32 {
        self.served[0].process.pid()
    }

    /// Acks of a session so far, in one conversation.
    fn acks(&self, peer: usize, conversation: usize) -> usize {
        let acked = self.peers[peer].payloads("message.ack");
        acked.iter().filter(|ack| ack["conversationId"] == self.conversations[conversation].as_str()).count()
    }

    async fn until_acked(&self, what: &str, peer: usize, conversation: usize, more: usize) {
        let before = self.acks(peer, conversation);
        until(what, PATIENCE, || async { self.acks(peer, conversation) >= before + more }).await;
    }

    /// Any question to the region whose servers stop.
    async fn ask(&self, path: &str) -> Answer {
        let user = path.starts_with("/api").then_some("ann");
        self.site.rest(user, 0, "GET", path, None, &[]).await
    }

    async fn metric(&self, name: &str) -> f64 {
        let answer = self.ask("/metrics").await;
        let line = answer.text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
    }

    async fn until_ready(&self, ready: bool) {
        let status = if ready { 200 } else { 503 };
        until(&format!("/readyz is {status}"), PATIENCE, || async { self.ask("/readyz").await.status == status }).await;
    }

    /// What the region says while its store does not answer.
    async fn hears_of_the_outage(&self) {
        self.until_ready(false).await;
        let ready = self.ask("/readyz").await;
        assert!(ready.text.contains("STORE_UNAVAILABLE"), "{ready:?}");
        assert_eq!(self.ask("/livez").await.status, 200, "the process lives");
        let began = Instant::now();
        let read = self.ask(&format!("/api/v1/conversations/{}/messages?limit=10", self.conversations[0])).await;
        assert!(began.elapsed() < SOON, "a read waits for {:?}", began.elapsed());
        assert_eq!((read.status, &read.body["error"]), (503, &json!("STORE_UNAVAILABLE")), "{read:?}");
        assert!(read.body["retryAfter"].is_u64(), "{read:?}");
        assert!((self.metric("hearth_store_away").await - 1.0).abs() < f64::EPSILON);
        assert!(self.metric("hearth_region_ready").await.abs() < f64::EPSILON);
        let refused = || self.peers[0].tally().refused.get("STORE_UNAVAILABLE").copied().unwrap_or(0);
        let before = refused();
        until("sends are refused", SOON, || async { refused() > before + 5 }).await;
    }

    /// Everybody is acked again, in both conversations.
    async fn goes_on(&self) {
        for (peer, conversation) in [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)] {
            self.until_acked("acks go on", peer, conversation, 20).await;
        }
    }

    /// Takes Cassandra away and starts it again.
    async fn is_without(&self, how: &str, away: impl FnOnce(&Cassandra)) {
        let elsewhere = self.acks(2, 1);
        tokio::task::block_in_place(|| away(&self.cassandra));
        self.hears_of_the_outage().await;
        tokio::time::sleep(GONE).await;
        tokio::task::block_in_place(|| self.cassandra.up());
        let (back, meanwhile) = (Instant::now(), self.acks(2, 1) - elsewhere);
        self.until_ready(true).await;
        println!("{how}: {meanwhile} acks elsewhere, ready again {:?} after the server was", back.elapsed());
        self.goes_on().await;
        println!("all acked again after {:?}", back.elapsed());
    }

    /// Ends the load; every send ends.
    async fn settle(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            sender.await.expect("a sender");
        }
        for peer in &self.peers {
            let ended = peer.tallied(PATIENCE, |tally| tally.outstanding() == 0).await;
            assert!(ended, "{}: {:?}, closed {:?}", peer.user, peer.tally(), peer.closed());
            let tally = peer.tally();
            println!("{}: {tally:?}, queued {}", peer.user, peer.payloads("message.queued").len());
            assert!(tally.refused.keys().all(|code| FOR_NOW.contains(&code.as_str())), "{tally:?}");
        }
    }

    /// Every region has the same, and what was acked is there once and in order.
    async fn check(&self) {
        let mut checker = Checker::default();
        self.peers.iter().for_each(|peer| checker.observe(peer));
        for conversation in &self.conversations {
            let mut histories: Vec<Vec<Value>> = Vec::new();
            let deadline = Instant::now() + PATIENCE;
            while histories.is_empty() || histories.iter().any(|rows| rows.len() != histories[0].len()) {
                assert!(Instant::now() < deadline, "the regions differ");
                tokio::time::sleep(Duration::from_millis(500)).await;
                histories.clear();
                for region in 0..3 {
                    histories.push(self.site.history("bob", region, conversation).await);
                }
            }
            println!("{conversation}: {} rows", histories[0].len());
            checker.check(conversation, &histories);
        }
        println!("{} acked", checker.acked());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_outlasts_its_cassandra_paused_ended_and_killed_under_load_and_keeps_all_that_was_acked() {
    let mut story = Story::begin().await;
    story.goes_on().await;
    let (pid, before) = (story.pid(), resident_kib(story.pid()));

    let memory = Watched::new(pid);
    let elsewhere = story.acks(2, 1);
    story.cassandra.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    story.hears_of_the_outage().await;
    println!("told after {:?}", stopped.elapsed());
    tokio::time::sleep(STOPPED.saturating_sub(stopped.elapsed())).await;
    let meanwhile = story.acks(2, 1) - elsewhere;
    assert!(meanwhile > 100, "the conversations of other regions went on: {meanwhile} acks");
    story.cassandra.signal(Signal::SIGCONT);
    let back = Instant::now();
    story.until_ready(true).await;
    println!("stopped for {STOPPED:?}: {meanwhile} acks elsewhere, ready again after {:?}", back.elapsed());
    story.goes_on().await;
    println!("all acked again after {:?}", back.elapsed());

    // Ended as an operator does it, which also has the tables on disk: with the settings of `services.d` a kill soon after
    // they were made would take them.
    story.is_without("ended", |cassandra| cassandra.services("down", &[])).await;
    story.is_without("killed", |cassandra| cassandra.signal(Signal::SIGKILL)).await;
    let most = memory.end();
    println!("resident: {before} KiB before, at most {most} KiB");
    assert!(most < before + GROWTH_KIB, "{before} KiB grew to {most} KiB");
    assert_eq!(story.pid(), pid, "the process never ended");

    story.settle().await;
    story.check().await;
    let log = chaos_tests::process::log_of(&story.site.path("eu-west.log"));
    let told = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    let (begins, ends) = (told("the store does not answer"), told("the store answers again"));
    println!("{begins} outages told, {ends} ends");
    assert!(begins >= 3 && begins == ends, "{log}");
    drop(story.peers);
    for served in story.served {
        served.end().await;
    }
}
