//! The development mesh as its contract pins it: flags, outputs, codes and endpoints that no other story shows.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use chaos_tests::mesh::QUICK;
use chaos_tests::{Mesh, Peer, Setup, new_id, run, until, web};
use hearth_client::TransportKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

fn id(mesh: &Mesh, region: usize) -> &str {
    &mesh.regions[region].id
}

async fn links(mesh: &Mesh, asked: usize) -> Vec<Value> {
    let answer = mesh.plain(asked, "GET", "/api/v1/dev/links", None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body["links"].as_array().expect("rows").clone()
}

/// A row of `GET /api/v1/dev/links`.
async fn link(mesh: &Mesh, asked: usize, from: usize, to: usize) -> Value {
    let rows = links(mesh, asked).await;
    rows.into_iter().find(|row| row["from"] == id(mesh, from) && row["to"] == id(mesh, to)).expect("a row")
}

/// Every region acks a send to a conversation whose home is any other: what "ready" means.
async fn a_send_in_every_region_is_acked(mesh: &Mesh) {
    for region in 0..mesh.regions.len() {
        let user = format!("u{region}{}", &new_id()[..8]);
        let peer = Peer::connect(mesh, &user, region).await;
        for home in 0..mesh.regions.len() {
            let group = mesh.group(&user, home, &["friend"]).await;
            let ack = peer.say(&group, "is it ready").await;
            assert_eq!(ack["sequenceNumber"], 1);
        }
        let queued = peer.payloads("message.queued");
        assert!(queued.is_empty(), "region {region}: {queued:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ready_mesh_acks_a_send_in_every_region_at_once_in_one_process_and_in_many() {
    for arguments in [&[][..], &["--processes"]] {
        let mut mesh = Mesh::quick(arguments).await;
        println!("{arguments:?}: first ready after {:?}", mesh.ready_after);
        a_send_in_every_region_is_acked(&mesh).await;
        mesh.stop_region(1).await;
        mesh.start_region(1).await;
        a_send_in_every_region_is_acked(&mesh).await;
        mesh.kill().await;
        mesh.restart().await;
        println!("{arguments:?}: ready {:?} after a kill", mesh.ready_after);
        a_send_in_every_region_is_acked(&mesh).await;
        mesh.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ready_line_has_the_pinned_fields_of_every_region() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").to_string_lossy().into_owned();
    let log = folder.path().join("log");
    let arguments = ["dev", "--json", "--processes", "--regions", "a,b", "--port", "0", "--data", &data];
    let started = chaos_tests::process::Process::start(&arguments.map(str::to_owned), &[], &log).await;
    let (mut process, line) = started.expect("a ready line");
    for row in line["regions"].as_array().expect("regions") {
        let fields: Vec<&String> = row.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["data", "http", "id", "pid", "webtransport", "ws"], "{row}");
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        assert!(text("http").starts_with("http://127.0.0.1:") && Path::new(&text("data")).is_absolute(), "{row}");
        assert!(text("ws").starts_with("ws://127.0.0.1:") && text("ws").ends_with("/ws"), "{row}");
        assert!(text("webtransport").starts_with("https://") && text("webtransport").ends_with("/wt"), "{row}");
    }
    process.signal(Signal::SIGINT);
    assert_eq!(process.wait().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_listen_one_after_the_other_from_the_given_port_on_loopback_with_the_latency_of_their_oceans() {
    let mesh = Mesh::start(&["--limits", "off"]).await;
    let ports: Vec<u16> = mesh
        .regions
        .iter()
        .map(|region| region.http.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"))
        .collect();
    assert_eq!(ports, [ports[0], ports[0] + 1, ports[0] + 2]);
    let names: Vec<&str> = mesh.regions.iter().map(|region| region.id.as_str()).collect();
    assert_eq!(names, ["eu-west", "us-east", "ap-south"]);
    for (from, to, delay) in [(0, 1, 40), (1, 2, 90), (0, 2, 70)] {
        for (from, to) in [(from, to), (to, from)] {
            let row = link(&mesh, 2, from, to).await;
            let wanted = json!({ "from": id(&mesh, from), "to": id(&mesh, to), "state": "up", "delayMs": delay,
                "lossPercent": 0.0 });
            assert_eq!(row, wanted);
        }
    }
    // Taken for UDP too, which WebTransport needs; and by nobody on other addresses.
    assert!(UdpSocket::bind(("127.0.0.1", ports[0])).is_err());
    assert!(UdpSocket::bind(("127.0.0.2", ports[0])).is_ok(), "it binds 127.0.0.1 only");
    mesh.end().await;
    let other = Mesh::start(&["--regions", "one,two", "--latency", "20ms"]).await;
    assert_eq!(link(&other, 0, 1, 0).await["delayMs"], 20);
    other.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_help_names_what_can_be_asked_and_stores_are_in_the_data_folder_unless_asked_otherwise() {
    let help = run(&["dev", "--help"]).await;
    assert_eq!(help.code, 0);
    for word in ["--failover", "--failover-after", "--stores", "--cassandra", "--processes", "--anti-entropy"] {
        assert!(help.out.contains(word), "{word}: {}", help.out);
    }
    let mesh = Mesh::quick(&["--stores", "embedded", "--failover", "off"]).await;
    assert!(mesh.data().join("regions").join(id(&mesh, 0)).join("store").exists(), "in the data folder");
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fresh_empties_the_data_folder_and_touches_no_other() {
    let mut mesh = Mesh::quick(&["--regions", "eu-west"]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let token = mesh.token("ann", 0).await;
    mesh.signal(Signal::SIGINT);
    assert_eq!(mesh.wait().await, 0);
    mesh.restart().await;
    let path = format!("/api/v1/conversations/{group}");
    let http = mesh.regions[0].http.clone();
    let kept = web::call(&http, "GET", &path, None, Some(&token), &[]).await;
    assert_eq!(kept.status, 200, "a token stays valid across a restart: {kept:?}");
    mesh.kill().await;
    let archived = tempfile::tempdir().expect("a folder");
    let data = archived.path().join("data");
    std::fs::rename(mesh.data(), &data).expect("moved");
    drop(mesh);
    let fresh = Mesh::with(Setup {
        arguments: &[&QUICK[..], &["--regions", "eu-west", "--fresh"]].concat(),
        data: Some(&data),
        ..Setup::default()
    })
    .await;
    let old = web::call(&fresh.regions[0].http, "GET", &path, None, Some(&token), &[]).await;
    assert_eq!(old.status, 401, "the key of the tokens is new: {old:?}");
    assert_eq!(fresh.rest("ann", 0, "GET", &path, None).await.status, 404);
    fresh.end().await;
    let foreign = tempfile::tempdir().expect("a folder");
    std::fs::write(foreign.path().join("thesis.txt"), "the only copy").expect("written");
    let exit = run(&["dev", "--json", "--fresh", "--data", &foreign.path().to_string_lossy()]).await;
    assert_eq!(exit.code, 70, "{exit:?}");
    assert!(foreign.path().join("thesis.txt").exists());
}

fn lives(pid: i32) -> bool {
    // A process that nobody has waited for yet is gone all the same.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z') && !rest.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_processes_a_dead_region_stays_down_until_it_is_started_and_all_end_with_their_supervisor() {
    let mut mesh = Mesh::quick(&["--processes"]).await;
    let pids: Vec<i32> = mesh.regions.iter().map(|region| region.pid.expect("a process")).collect();
    kill(Pid::from_raw(pids[2]), Signal::SIGKILL).expect("a signal");
    until("the process is gone", Duration::from_secs(5), || async { !lives(pids[2]) }).await;
    // Long enough for anybody who would restart it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reached = web::try_call(None, &mesh.regions[2].http, "GET", "/livez", None, None, &[]).await;
    assert!(reached.is_err(), "{reached:?}");
    assert_eq!(mesh.dev("stop", 2).await.code, 6, "it is down already");
    mesh.start_region(2).await;
    assert_eq!(mesh.plain(2, "GET", "/readyz", None).await.status, 200);
    assert_eq!(mesh.dev("start", 2).await.code, 6, "it runs already");
    mesh.kill().await;
    for (region, pid) in mesh.regions.iter().zip(pids) {
        until("the region ends with its supervisor", Duration::from_secs(10), || async {
            // The third one has another process since it was started again.
            !lives(pid) && web::try_call(None, &region.http, "GET", "/livez", None, None, &[]).await.is_err()
        })
        .await;
    }
    assert_eq!(mesh.dev("start", 0).await.code, 7, "no mesh runs there any more");
    mesh.restart().await;
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_pair_is_cut_through_any_live_region_one_way_or_both_and_a_restart_forgets_it() {
    for arguments in [&[][..], &["--processes"]] {
        let mut mesh = Mesh::quick(arguments).await;
        let body = json!({ "from": id(&mesh, 0), "to": id(&mesh, 1), "state": "cut", "both": false });
        let answer = mesh.plain(2, "POST", "/api/v1/dev/links", Some(body)).await;
        let row = json!({ "from": id(&mesh, 0), "to": id(&mesh, 1), "state": "cut", "delayMs": 0, "lossPercent": 0.0 });
        assert_eq!((answer.status, &answer.body), (200, &json!({ "links": [row] })), "{answer:?}");
        for asked in 0..3 {
            assert_eq!(link(&mesh, asked, 0, 1).await["state"], "cut", "{arguments:?}, asked at {asked}");
            assert_eq!(link(&mesh, asked, 1, 0).await["state"], "up", "{arguments:?}, asked at {asked}");
        }
        until("the link is down", Duration::from_secs(10), || async {
            mesh.metric(1, "hearth_link_up", id(&mesh, 0)).await < 1.0
        })
        .await;
        // A region that was down meanwhile learns of it when it starts.
        mesh.stop_region(0).await;
        mesh.start_region(0).await;
        assert_eq!(link(&mesh, 0, 0, 1).await["state"], "cut", "{arguments:?}");
        let data = mesh.data().to_string_lossy().into_owned();
        let shown = run(&["dev", "link", "cut", id(&mesh, 0), id(&mesh, 1), "--json", "--data", &data]).await;
        assert_eq!(shown.json()["links"].as_array().map(Vec::len), Some(2), "a row per direction: {shown:?}");
        assert_eq!(links(&mesh, 0).await.len(), 6);
        for (body, status) in [
            (json!({ "from": id(&mesh, 0), "to": "nowhere" }), 404),
            (json!({ "from": id(&mesh, 0), "to": id(&mesh, 0) }), 400),
            (json!({ "from": id(&mesh, 0), "to": id(&mesh, 1), "state": "bent" }), 400),
            (json!({ "from": id(&mesh, 0), "to": id(&mesh, 1), "lossPercent": 101 }), 400),
            (json!({ "from": id(&mesh, 0), "to": id(&mesh, 1), "delayMs": 60_001 }), 400),
        ] {
            let answer = mesh.plain(0, "POST", "/api/v1/dev/links", Some(body.clone())).await;
            assert_eq!(answer.status, status, "{body}: {answer:?}");
        }
        mesh.kill().await;
        mesh.restart().await;
        assert!(links(&mesh, 1).await.iter().all(|row| row["state"] == "up"), "{arguments:?}");
        mesh.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_development_token_is_for_a_day_or_as_asked_and_good_in_every_region() {
    let mesh = Mesh::quick(&[]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis();
    for (body, seconds) in [(json!({ "userId": "ann" }), 86_400), (json!({ "userId": "ann", "ttlSeconds": 60 }), 60)] {
        let answer = mesh.plain(1, "POST", "/api/v1/dev/tokens", Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let fields: Vec<&String> = answer.body.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["expiresAt", "token"]);
        let expires = u128::from(answer.body["expiresAt"].as_u64().expect("a time"));
        assert!(expires.abs_diff(now + seconds * 1_000) < 60_000, "{answer:?}");
        let token = answer.body["token"].as_str().expect("a token");
        for region in &mesh.regions {
            let feed = web::call(&region.http, "GET", "/api/v1/conversations", None, Some(token), &[]).await;
            assert_eq!(feed.status, 200, "{feed:?}");
        }
    }
    let data = mesh.data().to_string_lossy().into_owned();
    let printed = run(&["dev", "token", "ann", "--data", &data]).await;
    assert_eq!((printed.code, printed.out.trim().matches('.').count()), (0, 2), "a token and nothing else");
    mesh.end().await;
}

/// Opens a WebTransport session as a page of `origin` does; a page shows where it comes from, and nothing else does.
async fn opens(url: &str, hash: [u8; 32], origin: Option<&str>) -> Result<(), String> {
    let config = wtransport::ClientConfig::builder()
        .with_bind_config(wtransport::config::IpBindConfig::LocalV4)
        .with_server_certificate_hashes([wtransport::tls::Sha256Digest::new(hash)])
        .build();
    let endpoint = wtransport::Endpoint::client(config).map_err(|error| error.to_string())?;
    let mut options = wtransport::endpoint::ConnectOptions::builder(url);
    if let Some(origin) = origin {
        options = options.add_header("origin", origin);
    }
    endpoint.connect(options.build()).await.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_page_gets_no_webtransport_session_of_the_development_mesh() {
    let mesh = Mesh::quick(&["--regions", "eu-west"]).await;
    let region = &mesh.regions[0];
    let own = Peer::connect_over(&mesh, "ann", 0, TransportKind::WebTransport).await;
    own.settled().await;
    let rest = hearth_client::rest::Rest::new(None).expect("a client");
    let hash = rest.webtransport_hashes(&region.http).await.expect("transport.json")[0];
    let (mine, path) = (region.http.clone(), region.webtransport.clone());
    for (origin, let_in) in [(None, true), (Some(mine.as_str()), true), (Some("http://evil.example"), false)] {
        let opened = opens(&path, hash, origin).await;
        assert_eq!(opened.is_ok(), let_in, "{origin:?}: {opened:?}");
    }
    drop(own);
    mesh.end().await;
}
