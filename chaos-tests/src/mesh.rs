//! `hearth dev` as a child process: started, cut, killed and started again on the same data and ports.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::web::{self, Answer};

/// Meshes that run at once: each is three regions on a small machine.
static MESHES: Semaphore = Semaphore::const_new(2);
/// Longest wait for a ready line. The contract's times are measured by hand: a busy machine must not fail a story.
const READY: Duration = Duration::from_secs(30);
/// Longest wait for a process to end.
const END: Duration = Duration::from_secs(30);
/// Tries to find free ports.
const PORT_TRIES: usize = 20;

/// The binary under test: `HEARTH`, or the one built beside this test.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn hearth() -> PathBuf {
    if let Some(path) = std::env::var_os("HEARTH") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a test has a path");
    let binary = test.parent().and_then(Path::parent).expect("target/release/deps").join("hearth");
    assert!(binary.exists(), "{} is missing: run ./test, or cargo build --release", binary.display());
    binary
}

/// How a process ended.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Exit {
    /// Standard output as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.out.trim()).unwrap_or(Value::Null)
    }
}

/// Runs the binary to its end.
///
/// # Panics
/// When it does not end within 30 s.
pub async fn run(arguments: &[&str]) -> Exit {
    let child = Command::new(hearth())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let ended = tokio::time::timeout(END, child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("hearth {arguments:?} does not end")).expect("it runs");
    Exit {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A region as the ready line names it.
#[derive(Clone, Debug)]
pub struct Region {
    /// Its name.
    pub id: String,
    /// `http://127.0.0.1:port`.
    pub http: String,
    /// `ws://…/ws`.
    pub ws: String,
    /// `https://…/wt`.
    pub webtransport: String,
    /// Its data folder.
    pub data: PathBuf,
    /// With `--processes`, its process.
    pub pid: Option<i32>,
}

/// Strings that no log may show: tokens and message texts.
pub type Secrets = Arc<Mutex<BTreeSet<String>>>;

/// A development mesh.
#[derive(Debug)]
pub struct Mesh {
    child: Option<Child>,
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    base: u16,
    /// As the last ready line had them.
    pub regions: Vec<Region>,
    /// How long the last start took.
    pub ready_after: Duration,
    /// What no log may show.
    pub secrets: Secrets,
    _permit: SemaphorePermit<'static>,
}

/// A base port after which `count` ports are free for TCP and UDP. Another process may still take one first.
fn free_base(count: usize) -> u16 {
    for _ in 0..1_000 {
        let base: u16 = rand::random_range(10_000..30_000);
        let free = (0..count).all(|index| {
            let port = base + u16::try_from(index).expect("few regions");
            TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
        });
        if free {
            return base;
        }
    }
    panic!("no free ports");
}

fn regions_of(arguments: &[&str]) -> usize {
    let named = arguments.iter().position(|argument| *argument == "--regions");
    named.map_or(3, |at| arguments[at + 1].split(',').count())
}

impl Mesh {
    /// Starts a mesh without latency and rate limits, and with `arguments`.
    pub async fn quick(arguments: &[&str]) -> Self {
        Self::start(&[&["--latency", "none", "--limits", "off"], arguments].concat()).await
    }

    /// Starts a mesh on an empty folder once at most one other runs.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::prepared(arguments, |_| {}).await
    }

    /// Starts a mesh on a data folder from an archive (`tar.gz`).
    ///
    /// # Panics
    /// When the archive does not unpack, or the mesh does not become ready.
    pub async fn on_archive(archive: &Path, arguments: &[&str]) -> Self {
        Self::prepared(arguments, |data| {
            std::fs::create_dir_all(data).expect("a folder");
            let unpack = std::process::Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(data).status();
            assert!(unpack.expect("tar runs").success(), "{} does not unpack", archive.display());
        })
        .await
    }

    async fn prepared(arguments: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let permit = MESHES.acquire().await.expect("never closed");
        let mut mesh = Self {
            child: None,
            folder: tempfile::tempdir().expect("a temporary folder"),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            base: 0,
            regions: Vec::new(),
            ready_after: Duration::ZERO,
            secrets: Secrets::default(),
            _permit: permit,
        };
        prepare(&mesh.data());
        for _ in 0..PORT_TRIES {
            mesh.base = free_base(regions_of(arguments));
            match mesh.launch().await {
                Ok(()) => return mesh,
                Err(3) => {}
                Err(code) => panic!("hearth dev ended with {code} instead of a ready line\n{}", mesh.log()),
            }
        }
        panic!("no ports to start on");
    }

    /// Where the mesh keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// All that was logged, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Starts again on the same data and ports.
    ///
    /// # Panics
    /// When it does not become ready, or still runs.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "it still runs");
        self.launch().await.unwrap_or_else(|code| panic!("the restart ended with {code}\n{}", self.log()));
    }

    async fn launch(&mut self) -> Result<(), i32> {
        let began = Instant::now();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("a log file");
        let mut child = Command::new(hearth())
            .args(["dev", "--json", "--port", &self.base.to_string(), "--data"])
            .arg(self.data())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let line = tokio::time::timeout(READY, lines.next_line()).await.expect("a line within 30 s").expect("a pipe");
        let line: Value = serde_json::from_str(&line.unwrap_or_default()).unwrap_or(Value::Null);
        if line["ready"] != json!(true) {
            let status = child.wait().await.expect("it ends");
            return Err(status.code().unwrap_or(-1));
        }
        self.ready_after = began.elapsed();
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        self.regions = line["regions"]
            .as_array()
            .expect("regions")
            .iter()
            .map(|row| Region {
                id: text(row, "id"),
                http: text(row, "http"),
                ws: text(row, "ws"),
                webtransport: text(row, "webtransport"),
                data: PathBuf::from(text(row, "data")),
                pid: row["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()),
            })
            .collect();
        self.child = Some(child);
        Ok(())
    }

    /// Sends a signal to the process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        kill(Pid::from_raw(i32::try_from(id).expect("a process id")), signal).expect("a signal");
    }

    /// Waits for the process to end; its exit code, -1 after a signal.
    ///
    /// # Panics
    /// When it does not end within 30 s.
    pub async fn wait(&mut self) -> i32 {
        let mut child = self.child.take().expect("it runs");
        let ended = tokio::time::timeout(END, child.wait()).await;
        ended.unwrap_or_else(|_| panic!("the mesh does not end\n{}", self.log())).expect("it ends").code().unwrap_or(-1)
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait().await;
    }

    /// Ends it as an operator does, and looks at what it has logged.
    ///
    /// # Panics
    /// When it does not end with 0, or a log shows a token or a text.
    pub async fn end(mut self) {
        if self.child.is_some() {
            self.signal(Signal::SIGINT);
            assert_eq!(self.wait().await, 0, "the exit code after SIGINT");
        }
        self.check_log();
    }

    /// # Panics
    /// When a log shows a token or a text of a message.
    pub fn check_log(&self) {
        let log = self.log();
        for secret in self.secrets.lock().expect("no panic holds it").iter() {
            assert!(!log.contains(secret.as_str()), "a log shows a token or a text of {} bytes", secret.len());
        }
        assert!(!log.contains("panicked at"), "something panicked:\n{log}");
    }

    /// `hearth dev VERB REGION`.
    pub async fn dev(&self, verb: &str, region: usize) -> Exit {
        let data = self.data();
        run(&["dev", verb, &self.regions[region].id, "--data", &data.to_string_lossy()]).await
    }

    /// `hearth dev stop`, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn stop_region(&self, region: usize) {
        let exit = self.dev("stop", region).await;
        assert_eq!(exit.code, 0, "{exit:?}");
    }

    /// `hearth dev start`, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_region(&self, region: usize) {
        let exit = self.dev("start", region).await;
        assert_eq!(exit.code, 0, "{exit:?}");
    }

    /// One request to a region, without credentials.
    pub async fn plain(&self, region: usize, method: &str, path: &str, body: Option<Value>) -> Answer {
        web::call(&self.regions[region].http, method, path, body, None, &[]).await
    }

    /// One request to a region as `user`.
    pub async fn rest(&self, user: &str, region: usize, method: &str, path: &str, body: Option<Value>) -> Answer {
        let token = self.token(user, region).await;
        web::call(&self.regions[region].http, method, path, body, Some(&token), &[]).await
    }

    /// A token for a day.
    pub async fn token(&self, user: &str, region: usize) -> String {
        self.token_for(user, region, 86_400).await
    }

    /// A token for `seconds`.
    ///
    /// # Panics
    /// When the region gives none.
    pub async fn token_for(&self, user: &str, region: usize, seconds: u64) -> String {
        let body = json!({ "userId": user, "ttlSeconds": seconds });
        let answer = self.plain(region, "POST", "/api/v1/dev/tokens", Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let token = answer.body["token"].as_str().expect("a token").to_owned();
        self.secrets.lock().expect("no panic holds it").insert(token.clone());
        token
    }

    async fn set_link(&self, asked: usize, body: Value) {
        let answer = self.plain(asked, "POST", "/api/v1/dev/links", Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Cuts both directions.
    pub async fn cut(&self, from: usize, to: usize) {
        let (from_id, to_id) = (&self.regions[from].id, &self.regions[to].id);
        self.set_link(from, json!({ "from": from_id, "to": to_id, "state": "cut" })).await;
    }

    /// Cuts what `from` sends to `to`.
    pub async fn cut_one_way(&self, from: usize, to: usize) {
        let (from_id, to_id) = (&self.regions[from].id, &self.regions[to].id);
        self.set_link(from, json!({ "from": from_id, "to": to_id, "state": "cut", "both": false })).await;
    }

    /// Heals both directions.
    pub async fn heal(&self, from: usize, to: usize) {
        let (from_id, to_id) = (&self.regions[from].id, &self.regions[to].id);
        self.set_link(from, json!({ "from": from_id, "to": to_id, "state": "up" })).await;
    }

    /// A group of `user` and `others` made at `region`, which becomes its home.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn group(&self, user: &str, region: usize, others: &[&str]) -> String {
        let body = json!({ "name": "a story", "participantIds": others });
        let answer = self.rest(user, region, "POST", "/api/v1/groups", Some(body)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["conversationId"].as_str().expect("an id").to_owned()
    }

    /// The whole history of a conversation at a region, ascending.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn history(&self, user: &str, region: usize, conversation: &str) -> Vec<Value> {
        self.try_history(user, region, conversation).await.unwrap_or_else(|answer| panic!("{answer:?}"))
    }

    /// As [`Mesh::history`].
    ///
    /// # Errors
    /// The answer that is no history.
    ///
    /// # Panics
    /// When an answer lacks its rows.
    pub async fn try_history(&self, user: &str, region: usize, conversation: &str) -> Result<Vec<Value>, Answer> {
        let token = self.token(user, region).await;
        let (mut rows, mut after) = (Vec::new(), 0);
        loop {
            let path = format!("/api/v1/conversations/{conversation}/messages?after={after}&limit=200");
            let answer = web::call(&self.regions[region].http, "GET", &path, None, Some(&token), &[]).await;
            if answer.status != 200 {
                return Err(answer);
            }
            let page = answer.body["messages"].as_array().expect("messages").clone();
            after = page.last().and_then(|row| row["sequenceNumber"].as_u64()).unwrap_or(after);
            let done = page.is_empty() || answer.body["hasMore"] != json!(true);
            rows.extend(page);
            if done {
                return Ok(rows);
            }
        }
    }

    /// The histories of `regions`, once all hold `count` rows at least and agree. A region whose links still come up may
    /// say 503 meanwhile.
    ///
    /// # Panics
    /// When they do not agree within 30 s.
    pub async fn agreed(&self, user: &str, regions: &[usize], conversation: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut histories = Vec::new();
            for region in regions {
                match self.try_history(user, *region, conversation).await {
                    Ok(rows) => histories.push(rows),
                    Err(answer) => assert_eq!(answer.status, 503, "{answer:?}"),
                }
            }
            let ids = |rows: &Vec<Value>| rows.iter().map(|row| row["messageId"].clone()).collect::<Vec<_>>();
            let whole = histories.len() == regions.len() && histories[0].len() >= count;
            if whole && histories.iter().all(|rows| ids(rows) == ids(&histories[0])) {
                return histories.swap_remove(0);
            }
            let lengths: Vec<usize> = histories.iter().map(Vec::len).collect();
            assert!(Instant::now() < deadline, "regions do not agree on {count} rows: {lengths:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The sum of a metric's samples whose line contains `labels`.
    pub async fn metric(&self, region: usize, name: &str, labels: &str) -> f64 {
        let text = self.plain(region, "GET", "/metrics", None).await.text;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the end of the mesh's log:");
            tail.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}
