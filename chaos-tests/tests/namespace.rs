//! A real network fault beside the injected one: the kernel drops the links' datagrams, and clients see the same.

use std::process::Command;
use std::time::Duration;

use chaos_tests::{Mesh, Peer, shell};
use serde_json::json;

/// Set when this process is the one inside the namespace.
const INSIDE: &str = "HEARTH_TEST_NAMESPACE";
const WITHIN: Duration = Duration::from_secs(10);

/// A network namespace with nothing but its loopback; it ends with this.
struct Namespace(String);

impl Namespace {
    fn make() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "a network namespace needs root: run the tests as root");
        let name = format!("hearth-{}", std::process::id());
        shell(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Self(name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn blocking_the_udp_ports_with_nftables_shows_what_a_cut_link_shows() {
    let namespace = Namespace::make();
    let test = std::env::current_exe().expect("a test has a path");
    let status = Command::new("ip")
        .args(["netns", "exec", &namespace.0])
        .arg(test)
        .args(["--exact", "inside_the_namespace", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("ip runs");
    assert!(status.success(), "the story inside the namespace failed; its output is above");
}

/// What a client of us-east sees of a fault between it and eu-west: the answers in their order.
async fn seen(mesh: &Mesh, cut: impl AsyncFn(), heal: impl AsyncFn(), text: &str) -> Vec<String> {
    let group = mesh.group("ann", 0, &["bob"]).await;
    let bob = Peer::connect(mesh, "bob", 1).await;
    bob.say(&group, &format!("{text} before")).await;
    cut().await;
    let message = bob.send(&group, &format!("{text} meanwhile")).await;
    let mine = |frame: &serde_json::Value| frame["payload"]["messageId"] == message.as_str();
    let queued = bob.expect_within("message.queued", WITHIN, mine).await.value;
    let unreachable = |frame: &serde_json::Value| frame["payload"]["reachable"] == json!(false);
    let status = bob.expect_within("region.status", WITHIN, unreachable).await.value;
    heal().await;
    let ack = bob.acked_within(&message, Duration::from_secs(20)).await;
    let told = vec![
        format!("queued {}", queued["payload"]["reason"]),
        format!("unreachable {}", status["payload"]["region"]),
        format!("acked {}", ack["sequenceNumber"]),
    ];
    bob.leave().await;
    told
}

/// Runs only inside the namespace that the other test makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inside_the_namespace() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let mesh = Mesh::quick(&[]).await;
    let injected = seen(&mesh, async || mesh.cut(0, 1).await, async || mesh.heal(0, 1).await, "injected").await;
    let answer = mesh.plain(0, "GET", "/api/v1/dev/regions", None).await;
    let link = |index: usize| {
        let address = answer.body["regions"][index]["link"].as_str().expect("an address").to_owned();
        address.rsplit_once(':').expect("a port").1.to_owned()
    };
    let (home, edge) = (link(0), link(1));
    let drop_between = format!(
        "nft 'table inet chaos {{ chain c_in {{ type filter hook input priority 0; \
         udp sport {home} udp dport {edge} drop; udp sport {edge} udp dport {home} drop; }}; }}'"
    );
    let kernel =
        seen(&mesh, async || shell(&drop_between), async || shell("nft delete table inet chaos"), "kernel").await;
    assert_eq!(kernel, injected, "a fault of the kernel and an injected one are told differently");
    println!("both: {kernel:?}");
    mesh.end().await;
}
