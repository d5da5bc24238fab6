//! `hearth serve`, usable by itself: two regions from written configurations and issued certificates.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chaos_tests::mesh::{Secrets, hearth, run};
use chaos_tests::{Auth, Peer, web};
use hearth_client::{Address, TransportKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const SECRET: &str = "a secret of this story that is long enough";

fn free_tcp() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn free_udp() -> u16 {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

fn token(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({ "sub": user, "iss": "story", "aud": "chat", "exp": now + 600 });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("a token")
}

/// Writes the configuration of one of two regions; the second has TLS for clients.
fn write_config(folder: &Path, me: &str, http: u16, links: [u16; 2], tls: bool) -> String {
    let tls = if tls { format!("tls = {{ certificate = \"{me}.pem\", key = \"{me}.key\" }}\n") } else { String::new() };
    let [one, two] = links;
    let mine = if me == "eu-west" { one } else { two };
    let text = format!(
        "[region]\nid = \"{me}\"\ndata = \"data-{me}\"\n\
         [mesh]\nid = \"story\"\nlisten = \"127.0.0.1:{mine}\"\ncertificate = \"{me}.pem\"\nkey = \"{me}.key\"\nca = \"ca.pem\"\n\
         [[mesh.regions]]\nid = \"eu-west\"\naddress = \"127.0.0.1:{one}\"\n\
         [[mesh.regions]]\nid = \"us-east\"\naddress = \"127.0.0.1:{two}\"\n\
         [listen]\nhttp = \"127.0.0.1:{http}\"\n{tls}\
         [auth]\nhs256_secret_file = \"token.secret\"\nissuer = \"story\"\naudience = \"chat\"\n\
         [[auth.resume_keys]]\nid = \"1\"\nsecret_file = \"resume.secret\"\n"
    );
    let path = folder.join(format!("{me}.toml"));
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

async fn serve(config: &str) -> Child {
    let mut child = Command::new(hearth())
        .args(["serve", "--json", "--config", config])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line =
        tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.expect("in time").expect("a pipe");
    assert!(line.as_deref().unwrap_or_default().contains("\"ready\":true"), "{line:?}");
    child
}

/// Certificates and secrets of a mesh, made by the commands that operators use.
async fn prepare(folder: &Path) {
    let dir = folder.display().to_string();
    assert_eq!(run(&["ca", "init", "--dir", &dir]).await.code, 0);
    for region in ["eu-west", "us-east"] {
        let issued = run(&["ca", "issue", region, "--dir", &dir, "--ip", "127.0.0.1"]).await;
        assert_eq!(issued.code, 0, "{}", issued.err);
    }
    assert_ne!(run(&["ca", "init", "--dir", &dir]).await.code, 0, "an authority is never overwritten");
    std::fs::write(folder.join("token.secret"), SECRET).expect("a file");
    std::fs::write(folder.join("resume.secret"), "keys of resume tokens are as long as this").expect("a file");
}

fn trusting(folder: &Path) -> Arc<rustls::ClientConfig> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem")).expect("a certificate")).expect("a root");
    Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

async fn interrupted(mut child: Child) -> Option<i32> {
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("a signal");
    let ended = tokio::time::timeout(Duration::from_secs(25), child.wait()).await;
    ended.expect("it ends").expect("a child").code()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_from_written_configurations_carry_a_conversation_over_plain_and_tls_listeners() {
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path()).await;
    let (plain, secure, links) = (free_tcp(), free_tcp(), [free_udp(), free_udp()]);
    let one = write_config(folder.path(), "eu-west", plain, links, false);
    let two = write_config(folder.path(), "us-east", secure, links, true);
    let checked = run(&["config", "check", &one]).await;
    assert_eq!(checked.code, 0, "{}{}", checked.out, checked.err);
    let (eu, us) = (serve(&one).await, serve(&two).await);

    let here = Address {
        http: format!("http://127.0.0.1:{plain}"),
        ws: format!("ws://127.0.0.1:{plain}/ws"),
        webtransport: None,
    };
    let there = Address {
        http: format!("https://127.0.0.1:{secure}"),
        ws: format!("wss://127.0.0.1:{secure}/ws"),
        webtransport: None,
    };
    let auth = |user: &str| Auth { token: token(user), ..Auth::default() };
    let secrets = Secrets::default();
    let ann = Peer::open_at(&here, "ann", TransportKind::WebSocket, None, auth("ann"), secrets.clone()).await;
    let tls = Some(trusting(folder.path()));
    let bob = Peer::open_at(&there, "bob", TransportKind::WebSocket, tls, auth("bob"), secrets).await;
    ann.expect("connected", |frame| frame["region"] == "eu-west").await;
    bob.expect("connected", |frame| frame["region"] == "us-east").await;
    let body = json!({ "type": "direct", "participantIds": ["bob"] });
    let made = web::call(&here.http, "POST", "/api/v1/conversations", Some(body), Some(&token("ann")), &[]).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.body["conversationId"].as_str().expect("an id").to_owned();
    ann.say(&id, "from a plain listener").await;
    bob.expect("message.new", |frame| frame["payload"]["content"]["text"] == "from a plain listener").await;
    bob.say(&id, "from a secure one").await;
    ann.expect("message.new", |frame| frame["payload"]["sequenceNumber"] == 2).await;

    // What exists in development does not exist here, and a page of a foreign origin is not let in.
    let dev = web::call(&here.http, "POST", "/api/v1/dev/tokens", Some(json!({"userId": "eve"})), None, &[]).await;
    assert_eq!(dev.status, 404, "{}", dev.text);
    let foreign = web::call(&here.http, "GET", "/ws", None, None, &[("origin", "https://evil.example")]).await;
    assert_eq!(foreign.status, 403, "{}", foreign.text);

    assert_eq!((interrupted(eu).await, interrupted(us).await), (Some(0), Some(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_with_a_fault_is_refused_with_its_line_and_what_to_type() {
    let folder = tempfile::tempdir().expect("a folder");
    prepare(folder.path()).await;
    let config = write_config(folder.path(), "eu-west", free_tcp(), [free_udp(), free_udp()], false);
    let text = std::fs::read_to_string(&config).expect("a file").replace("[listen]\nhttp", "[listen]\nhtpp");
    let line = 1 + text.lines().position(|line| line.starts_with("htpp")).expect("the fault");
    std::fs::write(&config, text).expect("a file");
    for arguments in [vec!["config", "check", config.as_str()], vec!["serve", "--config", config.as_str()]] {
        let ended = run(&arguments).await;
        assert_ne!(ended.code, 0);
        let said = format!("{}{}", ended.out, ended.err);
        assert!(said.contains(&format!(":{line}:")) && said.contains("htpp") && said.contains("help"), "{said}");
    }
}
