//! `hearth dev` as a child process: started, cut, killed and started again on the same data and ports.

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::process::{Exit, Process, Secrets, check_log, hide, log_of, run};
use crate::web::{self, Answer};

/// Meshes that run at once: each is three regions on a small machine, which stories let idle for most of their time.
static MESHES: Semaphore = Semaphore::const_new(3);
/// Tries to find free ports.
const PORT_TRIES: usize = 20;

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

impl Region {
    fn of(row: &Value) -> Self {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        Self {
            id: text("id"),
            http: text("http"),
            ws: text("ws"),
            webtransport: text("webtransport"),
            data: PathBuf::from(text("data")),
            pid: row["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()),
        }
    }
}

/// How a mesh is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// Flags of `hearth dev`.
    pub arguments: &'a [&'a str],
    /// Environment variables, such as fail points.
    pub environment: &'a [(&'a str, &'a str)],
    /// Its data folder, used as it is; a new one if absent.
    pub data: Option<&'a Path>,
}

/// A development mesh.
#[derive(Debug)]
pub struct Mesh {
    process: Option<Process>,
    folder: tempfile::TempDir,
    data: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
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

/// Flags of a mesh without latency and rate limits.
pub const QUICK: [&str; 4] = ["--latency", "none", "--limits", "off"];

fn owned(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Mesh {
    /// Starts a mesh without latency and rate limits, and with `arguments`.
    pub async fn quick(arguments: &[&str]) -> Self {
        Self::start(&[&QUICK, arguments].concat()).await
    }

    /// Starts a mesh on an empty folder once at most one other runs.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::with(Setup { arguments, ..Setup::default() }).await
    }

    /// Starts a mesh once at most one other runs.
    ///
    /// # Panics
    /// When it does not become ready.
    pub async fn with(setup: Setup<'_>) -> Self {
        let permit = MESHES.acquire().await.expect("never closed");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut mesh = Self {
            process: None,
            data: setup.data.map_or_else(|| folder.path().join("data"), Path::to_owned),
            folder,
            arguments: setup.arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            environment: owned(setup.environment),
            base: 0,
            regions: Vec::new(),
            ready_after: Duration::ZERO,
            secrets: Secrets::default(),
            _permit: permit,
        };
        for _ in 0..PORT_TRIES {
            mesh.base = free_base(regions_of(setup.arguments));
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
        self.data.clone()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// All that was logged, over all starts.
    #[must_use]
    pub fn log(&self) -> String {
        log_of(&self.log_file())
    }

    /// Environment variables of the starts from now on.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.environment = owned(environment);
    }

    /// Starts again on the same data and ports.
    ///
    /// # Panics
    /// When it does not become ready, or still runs.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        self.launch().await.unwrap_or_else(|code| panic!("the restart ended with {code}\n{}", self.log()));
    }

    async fn launch(&mut self) -> Result<(), i32> {
        let began = Instant::now();
        let (base, data) = (self.base.to_string(), self.data.to_string_lossy().into_owned());
        let mut arguments = ["dev", "--json", "--port", &base, "--data", &data].map(str::to_owned).to_vec();
        arguments.extend(self.arguments.iter().cloned());
        let (process, line) = Process::start(&arguments, &self.environment, &self.log_file()).await?;
        self.ready_after = began.elapsed();
        self.regions = line["regions"].as_array().expect("regions").iter().map(Region::of).collect();
        self.process = Some(process);
        Ok(())
    }

    /// Its process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("it runs")
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// Waits for the process to end; its exit code, -1 after a signal.
    ///
    /// # Panics
    /// When it does not run, or does not end.
    pub async fn wait(&mut self) -> i32 {
        self.process.take().expect("it runs").wait().await
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
        if self.process.is_some() {
            self.signal(Signal::SIGINT);
            assert_eq!(self.wait().await, 0, "the exit code after SIGINT");
        }
        self.check_log();
    }

    /// # Panics
    /// When a log shows a token or a text of a message.
    pub fn check_log(&self) {
        check_log(&self.log(), &self.secrets);
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
        hide(&self.secrets, &token);
        token
    }

    async fn set_link(&self, asked: usize, body: Value) {
        let answer = self.plain(asked, "POST", "/api/v1/dev/links", Some(body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Sets faults of both directions: the fields of `POST /api/v1/dev/links` beside `from` and `to`.
    pub async fn set_fault(&self, from: usize, to: usize, mut fault: Value) {
        fault["from"] = json!(self.regions[from].id);
        fault["to"] = json!(self.regions[to].id);
        self.set_link(from, fault).await;
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
    pub async fn try_history(&self, user: &str, region: usize, conversation: &str) -> Result<Vec<Value>, Answer> {
        let token = self.token(user, region).await;
        web::history(None, &self.regions[region].http, &token, conversation).await
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
        web::metric(&text, name, labels)
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
