//! `hearth bench`: messages a second that were sent, durably acked **and** delivered, counted one by one.
//!
//! The generator is this process, the server a child of it; both share the machine's cores, and both CPU times are
//! told. A run fails when one message is missing or twice, or when there were more acks for each kernel-counted sync
//! than messages in flight: then acks did not wait for the disk.

mod compare;
mod costs;
mod generator;
mod median;
mod missed;
mod opening;
mod presence;
mod report;
mod run;
mod scenario;
mod served;
mod server;
mod sessions;
mod syncs;
mod tally;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use compare::{CompareError, CompareOptions, Comparison, Row, compare};
pub use costs::{BenchStores, Costs};
pub use median::Median;
pub use report::{Latency, MissedReport, PagesReport, PresenceReport, Report, RunReport, SessionsReport, StormReport};
use scenario::{Load, Task};
use server::Server;
use tokio::signal::unix::{SignalKind, signal};

use crate::rest::Rest;

/// The text of every message: 100 bytes.
const TEXT: &str =
    "The quick brown fox jumps over the lazy dog, and then it sits down by the hearth to rest for a while";
/// Senders, and as many receivers, of scenarios a and c.
const PAIRS: u16 = 200;
/// Members of the group of scenario b.
const GROUP: u16 = 10;
const HOME: &str = "eu-west";
const EDGE: &str = "us-east";
const THREE_REGIONS: &str = "eu-west,us-east,ap-south";

/// Members of the channel of scenario fanout, beside the one who sends, and messages that it has outstanding.
const LISTENERS: u16 = 1_000;
const FAN_OUT_WINDOW: u64 = 4;
/// What can be measured. Those after `d` run when they are named.
pub const SCENARIOS: [&str; 11] =
    ["a1", "a16", "b", "c1", "c", "d", "presence", "fanout", "fanout-received", "sync", "sessions"];

/// What `hearth bench` was asked for.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The `hearth` executable whose `dev` is put under load; this process's own by default.
    pub executable: PathBuf,
    /// Of [`SCENARIOS`]; empty means `a1`, `a16`, `b`, `c1`, `c` and `d`.
    pub scenarios: Vec<String>,
    /// Where the server keeps what is durable, one after the other; embedded by default. Scenario `sessions` is measured
    /// with embedded stores alone.
    pub stores: Vec<BenchStores>,
    /// Sessions of scenario `sessions`, 2 to 20,000. Default 10,000.
    pub sessions: usize,
    /// How long each run is measured, in seconds, 1 or more. Default 10.
    pub seconds: u64,
    /// How long each run warms up before, in seconds. Default 2.
    pub warm_up_seconds: u64,
    /// Whether a, b and d also run on three regions. Default true; c1 and c always do.
    pub three_regions: bool,
    /// JSON on stdout in place of the table.
    pub json: bool,
    /// Where the server's data go, in a folder of their own that is removed; the system's temporary folder by default.
    pub data: PathBuf,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            executable: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("hearth")),
            scenarios: Vec::new(),
            stores: vec![BenchStores::Embedded],
            sessions: 10_000,
            seconds: 10,
            warm_up_seconds: 2,
            three_regions: true,
            json: false,
            data: std::env::temp_dir(),
        }
    }
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There is no such scenario.
    #[error("there is no scenario {asked}: use --scenario with one of {}", SCENARIOS.join(", "))]
    Scenario {
        /// As given.
        asked: String,
    },
    /// The server did not start, or did not do what setting up needs.
    #[error("the server: {what}")]
    Server {
        /// What happened.
        what: String,
    },
    /// A connection could not be opened.
    #[error("connecting to {host}: {what}")]
    Connect {
        /// Where to.
        host: String,
        /// What happened.
        what: String,
    },
    /// SIGINT or SIGTERM came. The server is stopped, and its data are removed.
    #[error("interrupted: nothing was measured to its end")]
    Interrupted,
    /// The generator's thread or runtime could not be started, or panicked.
    #[error("the generator's thread ended")]
    Thread,
}

/// Measures, and prints the table or JSON to stdout and progress to stderr. True when every run held: the caller
/// exits with 1 otherwise.
///
/// # Errors
/// [`BenchError`] when nothing could be measured.
pub async fn bench(options: BenchOptions) -> Result<bool, BenchError> {
    let json = options.json;
    let report = measure(options).await?;
    if json {
        println!("{}", serde_json::to_string(&report).expect("a report holds only string keys"));
    } else {
        print!("{}", report.table());
    }
    Ok(report.held)
}

/// Measures; progress goes to stderr.
///
/// # Errors
/// [`BenchError`] when nothing could be measured.
pub async fn measure(options: BenchOptions) -> Result<Report, BenchError> {
    if let Some(asked) = options.scenarios.iter().find(|asked| !SCENARIOS.contains(&asked.as_str())) {
        return Err(BenchError::Scenario { asked: asked.clone() });
    }
    let (done, report) = tokio::sync::oneshot::channel();
    // One thread does it all, so that nothing in the hot path is locked or shared.
    std::thread::spawn(move || {
        let result = runtime_of().and_then(|runtime| {
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, async {
                tokio::select! {
                    report = Bench::new(&options).run() => report,
                    () = interrupted() => Err(BenchError::Interrupted),
                }
            })
        });
        if result.is_err() {
            let _ = runtime_of().map(|runtime| runtime.block_on(forget(&options)));
        }
        // Whoever asked may have stopped waiting.
        let _ = done.send(result);
    });
    report.await.map_err(|_| BenchError::Thread)?
}

fn runtime_of() -> Result<tokio::runtime::Runtime, BenchError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|_| BenchError::Thread)
}

fn data_of(options: &BenchOptions) -> PathBuf {
    options.data.join(format!("hearth-bench-{}", std::process::id()))
}

/// Drops what runs left in servers. Their folder is there as long as something is.
async fn forget(options: &BenchOptions) -> Result<(), BenchError> {
    let data = data_of(options);
    if data.exists() { Server::forget(&options.executable, &data).await } else { Ok(()) }
}

/// Resolves when somebody wants it to end; never where no signal can be waited for.
async fn interrupted() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The runs of one invocation.
struct Bench<'a> {
    options: &'a BenchOptions,
    stores: BenchStores,
    data: PathBuf,
    run: u32,
    runs: Vec<RunReport>,
    pages: Vec<PagesReport>,
    presence: Vec<PresenceReport>,
    missed: Vec<MissedReport>,
    sessions: Vec<SessionsReport>,
}

impl<'a> Bench<'a> {
    fn new(options: &'a BenchOptions) -> Self {
        Self {
            options,
            stores: BenchStores::default(),
            data: data_of(options),
            run: rand::random::<u32>() & 0x7fff_ff00,
            runs: Vec::new(),
            pages: Vec::new(),
            presence: Vec::new(),
            missed: Vec::new(),
            sessions: Vec::new(),
        }
    }

    async fn run(mut self) -> Result<Report, BenchError> {
        std::fs::create_dir_all(&self.options.data)
            .map_err(|error| BenchError::Server { what: format!("{}: {error}", self.options.data.display()) })?;
        let file_system = file_system(&self.options.data);
        let rest = Rest::new(None)?;
        for stores in &self.options.stores {
            self.stores = *stores;
            self.local(&rest, HOME).await?;
            if self.options.three_regions {
                self.local(&rest, THREE_REGIONS).await?;
            }
            self.across(&rest).await?;
            self.presence(&rest).await?;
            self.fan_out(&rest).await?;
            self.missed(&rest).await?;
            forget(self.options).await?;
        }
        self.stores = BenchStores::Embedded;
        self.sessions(&rest).await?;
        let held = self.runs.iter().all(|run| run.held)
            && self.pages.iter().all(|pages| pages.held)
            && self.presence.iter().all(|presence| presence.held)
            && self.missed.iter().all(|missed| missed.held)
            && self.sessions.iter().all(|sessions| sessions.held);
        Ok(Report {
            runs: self.runs,
            pages: self.pages,
            presence: self.presence,
            missed: self.missed,
            sessions: self.sessions,
            text_bytes: TEXT.len(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            file_system,
            held,
        })
    }

    async fn server(&self, regions: &str, latency: &str) -> Result<Server, BenchError> {
        Server::start(&self.options.executable, self.stores, (regions, latency), &self.data).await
    }

    fn wants(&self, scenario: &str) -> bool {
        self.options.scenarios.is_empty() || self.asks(scenario)
    }

    /// Whether it was named.
    fn asks(&self, scenario: &str) -> bool {
        self.options.scenarios.iter().any(|asked| asked == scenario)
    }

    /// a, b and d: everybody at one region.
    async fn local(&mut self, rest: &Rest, regions: &str) -> Result<(), BenchError> {
        let one = !regions.contains(',');
        let wanted = ["a1", "a16", "b"].iter().any(|scenario| self.wants(scenario)) || (one && self.wants("d"));
        if !wanted {
            return Ok(());
        }
        let server = self.server(regions, "none").await?;
        for (scenario, window) in [("a1", 1), ("a16", 16), ("b", 16)] {
            if self.wants(scenario) {
                self.full_and_half(scenario, &server, rest, window, None).await?;
            }
        }
        if one && self.wants("d") {
            self.run += 1;
            self.pages.push(scenario::pages(&server, rest, self.run, HOME).await?);
        }
        server.stop().await;
        Ok(())
    }

    /// c1 and c: senders at one region, homes at another, 20 ms of round trip between them.
    async fn across(&mut self, rest: &Rest) -> Result<(), BenchError> {
        for (scenario, window) in [("c1", 1), ("c", 16)] {
            if self.wants(scenario) {
                let server = self.server(THREE_REGIONS, "10ms").await?;
                self.full_and_half(scenario, &server, rest, window, Some((EDGE, HOME))).await?;
                server.stop().await;
            }
        }
        Ok(())
    }

    /// Users who step away and come back: all at one region, then spread over three.
    async fn presence(&mut self, rest: &Rest) -> Result<(), BenchError> {
        if !self.asks("presence") {
            return Ok(());
        }
        let times =
            (Duration::from_secs(self.options.warm_up_seconds), Duration::from_secs(self.options.seconds.max(1)));
        let regions = if self.options.three_regions { vec![HOME, THREE_REGIONS] } else { vec![HOME] };
        for regions in regions {
            self.run += 1;
            let server = self.server(regions, "none").await?;
            let report = presence::presence(&server, rest, self.run, times).await?;
            eprintln!(
                "presence on {}: {:.0} changes/s seen by {}{}",
                report.regions,
                report.transitions_per_second,
                report.subscribers,
                if report.held { "" } else { ", FAILED" }
            );
            self.presence.push(report);
            server.stop().await;
        }
        Ok(())
    }

    /// One sends, and 1,000 are connected; then they say once a second what they have stored, too.
    async fn fan_out(&mut self, rest: &Rest) -> Result<(), BenchError> {
        for (scenario, receipts) in [("fanout", false), ("fanout-received", true)] {
            if !self.asks(scenario) {
                continue;
            }
            self.run += 1;
            let server = self.server(HOME, "none").await?;
            let plans = scenario::channel(&server, rest, self.run, LISTENERS, HOME).await?;
            let load = Load::Full(FAN_OUT_WINDOW);
            let report = Task { receipts, ..self.task(scenario, &server, rest, load) }.run(self.run, plans).await?;
            progress(&report);
            self.runs.push(report);
            server.stop().await;
        }
        Ok(())
    }

    /// A client that missed 1,000 messages.
    async fn missed(&mut self, rest: &Rest) -> Result<(), BenchError> {
        if self.asks("sync") {
            self.run += 1;
            let server = self.server(HOME, "none").await?;
            self.missed.push(missed::missed(&server, rest, self.run, HOME).await?);
            server.stop().await;
        }
        Ok(())
    }

    /// Sessions that are idle, come at once and come back at once: plain, then over TLS.
    async fn sessions(&mut self, rest: &Rest) -> Result<(), BenchError> {
        if !self.asks("sessions") {
            return Ok(());
        }
        let count = self.options.sessions;
        for encrypted in [false, true] {
            self.run += 2;
            let (server, trust) = if encrypted {
                let (server, trust) = Server::start_tls(&self.options.executable, &self.data, count).await?;
                (server, Some(trust))
            } else {
                (self.server(HOME, "none").await?, None)
            };
            let rest = match &trust {
                Some(trust) => Rest::new(Some(Arc::clone(trust)))?,
                None => rest.clone(),
            };
            let report = sessions::sessions(&server, &rest, trust, self.run, count).await?;
            server.stop().await;
            eprintln!("sessions, TLS {encrypted}: {} bytes each", report.bytes_a_session);
            self.sessions.push(report);
        }
        Ok(())
    }

    fn task<'t>(&'t self, scenario: &'t str, server: &'t Server, rest: &'t Rest, load: Load) -> Task<'t> {
        Task {
            scenario,
            server,
            rest,
            data: &self.data,
            load,
            warm_up: Duration::from_secs(self.options.warm_up_seconds),
            time: Duration::from_secs(self.options.seconds.max(1)),
            receipts: false,
            link: None,
        }
    }

    /// As fast as the window allows; at half that rate, in bursts of the window; where the window has several messages,
    /// also at half that rate in single messages, which takes the batching of every socket away.
    async fn full_and_half(
        &mut self,
        scenario: &str,
        server: &Server,
        rest: &Rest,
        window: u64,
        link: Option<(&str, &str)>,
    ) -> Result<(), BenchError> {
        let mut loads = VecDeque::from([Load::Full(window)]);
        while let Some(load) = loads.pop_front() {
            self.run += 1;
            let plans = match scenario {
                "b" => scenario::group(server, rest, self.run, GROUP, HOME).await?,
                _ => scenario::pairs(server, rest, self.run, PAIRS, HOME, link.map_or(HOME, |(edge, _)| edge)).await?,
            };
            let task = Task { link, ..self.task(scenario, server, rest, load) };
            let report = task.run(self.run, plans).await?;
            progress(&report);
            if matches!(load, Load::Full(_)) {
                let per_second = report.messages_per_second / 2.0;
                loads.push_back(Load::Paced { per_second, burst: window, name: "half" });
                if window > 1 {
                    loads.push_back(Load::Paced { per_second, burst: 1, name: "even" });
                }
            }
            self.runs.push(report);
        }
        Ok(())
    }
}

fn progress(report: &RunReport) {
    eprintln!(
        "{} on {} at {} load: {:.0} messages/s, {:.0} deliveries/s{}",
        report.scenario,
        report.regions,
        report.load,
        report.messages_per_second,
        report.deliveries_per_second,
        if report.held { "" } else { ", FAILED" }
    );
}

/// The kind of file system under a folder, as `/proc/mounts` names it: a sync on a tmpfs means nothing.
fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((PathBuf::from(fields.nth(1)?), fields.next()?.to_owned()))
    });
    let under = mounted.filter(|(at, _)| folder.starts_with(at));
    under.max_by_key(|(at, _)| at.components().count()).map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}
