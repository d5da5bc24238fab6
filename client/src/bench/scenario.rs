//! The scenarios: who talks to whom, under which load, and what is measured.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use hearth_protocol::rest::HistoryQuery;
use hearth_protocol::{ConversationId, UserId};
use tokio::task::JoinSet;

use super::costs::{BenchStores, Costs, Counters};
use super::generator::{self, Link, Plan};
use super::report::{Latency, PagesReport, RunReport};
use super::run::{Run, histogram};
use super::server::{Server, cpu};
use super::syncs::Syncs;
use super::{BenchError, TEXT};
use crate::rest::{Rest, RestError};

/// How long everything sent may take to arrive after the last send.
const DRAIN: Duration = Duration::from_secs(20);
/// Calls and connections opened at once while a run is set up.
const AT_ONCE: usize = 16;
/// Bytes that the connections of a run read at once: in all, and each.
const READ_BYTES_IN_ALL: usize = 32 * 1024 * 1024;
const MIN_READ_BYTES: usize = 8 * 1024;
const MAX_READ_BYTES: usize = 64 * 1024;
/// By how many seconds the counts of acks and of syncs may be apart at either end: perf tells every 100 ms.
const SKEW_SECONDS: f64 = 0.2;

/// Who is heard by so many waits for them: acks come at once, and sessions that are thousands of messages behind are told
/// to pull, which these connections do not.
const MANY: u64 = 100;
/// Messages that they may be behind in the mean.
const BEHIND: u64 = 256;

/// How a run sends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// Each sender keeps this many messages outstanding.
    Full(u64),
    /// So many messages a second, over all senders, whatever comes back. A sender whose turn it is sends `burst`
    /// messages: as many as it may have outstanding, or single ones.
    Paced {
        /// Messages a second, over all senders.
        per_second: f64,
        /// Messages of one turn, 1 or more.
        burst: u64,
        /// What the report calls it.
        name: &'static str,
    },
}

/// One run to be made.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) scenario: &'a str,
    pub(super) server: &'a Server,
    pub(super) rest: &'a Rest,
    pub(super) data: &'a std::path::Path,
    pub(super) load: Load,
    pub(super) warm_up: Duration,
    pub(super) time: Duration,
    /// Whether those who get messages say once a second that they stored them.
    pub(super) receipts: bool,
    /// Region whose `/metrics` tells the round trip to the second.
    pub(super) link: Option<(&'a str, &'a str)>,
}

pub(super) fn user(text: String) -> Result<UserId, BenchError> {
    UserId::new(text).map_err(|error| BenchError::Server { what: error.to_string() })
}

pub(super) fn host_of(ws: &str) -> String {
    ws.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned()
}

/// `pairs` direct conversations, made at region `home`; senders connect to `edge`, receivers to `home`.
pub(super) async fn pairs(
    server: &Server,
    rest: &Rest,
    run: u32,
    count: u16,
    home: &str,
    edge: &str,
) -> Result<Vec<Plan>, BenchError> {
    let (home, edge) = (server.region(home)?, server.region(edge)?);
    let made: Vec<[Plan; 2]> = stream::iter(0..count)
        .map(|number| async move {
            let (sender, receiver) =
                (user(format!("bench-{run:x}-s{number}"))?, user(format!("bench-{run:x}-r{number}"))?);
            let token = rest.dev_token(&home.http, &sender, 86_400).await?.token;
            let other = rest.dev_token(&home.http, &receiver, 86_400).await?.token;
            let row = rest.with_token(&home.http, &token).direct(&receiver).await?;
            let conversation = row.conversation_id.to_string();
            let plan = |host: &str, token, sender, hears| Plan {
                host: host_of(host),
                token,
                conversation: conversation.clone(),
                base: row.last_sequence,
                sender,
                hears,
            };
            Ok::<_, BenchError>([
                plan(&edge.ws, token, Some(number), vec![]),
                plan(&home.ws, other, None, vec![number]),
            ])
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(made.into_iter().flatten().collect())
}

/// One group whose members all send and hear each other.
pub(super) async fn group(
    server: &Server,
    rest: &Rest,
    run: u32,
    count: u16,
    home: &str,
) -> Result<Vec<Plan>, BenchError> {
    let home = server.region(home)?;
    let users: Vec<UserId> =
        (0..count).map(|number| user(format!("bench-{run:x}-g{number}"))).collect::<Result<_, _>>()?;
    let mut tokens = Vec::new();
    for member in &users {
        tokens.push(rest.dev_token(&home.http, member, 86_400).await?.token);
    }
    let row = rest.with_token(&home.http, &tokens[0]).create_group("bench", &users[1..]).await?;
    let plans = (0..count).zip(tokens).map(|(number, token)| Plan {
        host: host_of(&home.ws),
        token,
        conversation: row.conversation_id.to_string(),
        base: row.last_sequence,
        sender: Some(number),
        hears: (0..count).filter(|other| *other != number).collect(),
    });
    Ok(plans.collect())
}

/// A channel in which one sends, and `members` others are connected.
pub(super) async fn channel(
    server: &Server,
    rest: &Rest,
    run: u32,
    members: u16,
    home: &str,
) -> Result<Vec<Plan>, BenchError> {
    let home = server.region(home)?;
    let users: Vec<UserId> =
        (0..=members).map(|number| user(format!("bench-{run:x}-f{number}"))).collect::<Result<_, _>>()?;
    let tokens: Vec<String> = stream::iter(&users)
        .map(|user| async { Ok::<_, BenchError>(rest.dev_token(&home.http, user, 86_400).await?.token) })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let row = rest.with_token(&home.http, &tokens[0]).create_channel("bench", &users[1..]).await?;
    let plans = tokens.into_iter().enumerate().map(|(number, token)| Plan {
        host: host_of(&home.ws),
        token,
        conversation: row.conversation_id.to_string(),
        base: row.last_sequence,
        sender: (number == 0).then_some(0),
        hears: if number == 0 { vec![] } else { vec![0] },
    });
    Ok(plans.collect())
}

/// The open connections of a run.
pub(super) struct Field {
    pub(super) run: Rc<RefCell<Run>>,
    links: Vec<Rc<Link>>,
    pub(super) tasks: JoinSet<()>,
}

impl Field {
    pub(super) async fn open(id: u32, plans: &[Plan]) -> Result<Self, BenchError> {
        let run = Rc::new(RefCell::new(Run::new(id, plans)));
        let opened = generator::open_all(plans, TEXT, AT_ONCE).await?;
        let mut tasks = JoinSet::new();
        let mut links = Vec::new();
        let read_bytes = (READ_BYTES_IN_ALL / plans.len().max(1)).clamp(MIN_READ_BYTES, MAX_READ_BYTES);
        for (link, incoming) in opened {
            tasks.spawn_local(generator::drive(Rc::clone(&link), incoming, Rc::clone(&run), read_bytes));
            links.push(link);
        }
        tasks.spawn_local(generator::heartbeats(links.clone()));
        Ok(Self { run, links, tasks })
    }

    pub(super) fn start(&mut self, load: Load) {
        match load {
            Load::Full(window) => {
                self.run.borrow_mut().keep_window(window);
                for link in &self.links {
                    let mut run = self.run.borrow_mut();
                    let now = run.now();
                    generator::refill(link, &mut run, now);
                    // A broken connection is noticed by its reader.
                    let _ = link.flush();
                }
            }
            Load::Paced { per_second, burst, .. } => {
                self.run.borrow_mut().pace();
                self.tasks.spawn_local(generator::pace(self.links.clone(), Rc::clone(&self.run), per_second, burst));
            }
        }
    }

    /// Sends no more and waits until everything arrived, or for as long as draining may take.
    pub(super) async fn drain(&self, receivers: u64) {
        self.run.borrow_mut().stop();
        let started = std::time::Instant::now();
        while !self.run.borrow().is_drained(receivers) && started.elapsed() < DRAIN {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What comes twice comes a little later than what comes once.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.run.borrow_mut().finish();
    }
}

/// What is read before and after the measured time.
struct Snapshot {
    server: Duration,
    own: Duration,
    syncs: u64,
}

impl Snapshot {
    fn take(pid: u32, syncs: &Syncs) -> Self {
        Self { server: cpu(Some(pid)).unwrap_or_default(), own: cpu(None).unwrap_or_default(), syncs: syncs.count() }
    }
}

/// What is read twice, and how long was measured between.
struct Measured {
    seconds: f64,
    before: (Counters, Snapshot),
    after: (Snapshot, Counters),
}

impl Task<'_> {
    /// Makes the run.
    pub(super) async fn run(&self, id: u32, plans: Vec<Plan>) -> Result<RunReport, BenchError> {
        let receivers = plans.iter().map(|plan| plan.hears.len()).max().unwrap_or(0) as u64;
        let syncs = Syncs::start(self.server.pid(), self.data).await;
        let mut field = Field::open(id, &plans).await?;
        if receivers >= MANY {
            field.run.borrow_mut().wait_for(receivers, BEHIND);
            field.tasks.spawn_local(generator::refills(field.links.clone(), Rc::clone(&field.run)));
        }
        field.start(self.load);
        if self.receipts {
            let links = field.links.clone();
            field.tasks.spawn_local(generator::receipts(links, Rc::clone(&field.run)));
        }
        tokio::time::sleep(self.warm_up).await;
        // The pages of counters are read outside of what is measured.
        let before = (self.counters().await, Snapshot::take(self.server.pid(), &syncs));
        field.run.borrow_mut().measure();
        let link = self.wait_and_watch_link().await;
        let seconds = field.run.borrow_mut().measured();
        let after = (Snapshot::take(self.server.pid(), &syncs), self.counters().await);
        field.drain(receivers).await;
        let mut report = self.report(&field, receivers, &Measured { seconds, before, after });
        report.sync_source = match self.server.stores {
            BenchStores::Embedded => syncs.source(),
            BenchStores::Production => "hearth_store_rounds_total: conditional writes of stores in servers",
        };
        if let Some(round_trip) = link {
            report.link_round_trip_ms = Some(round_trip);
            report.ack_minus_link_ms = Some(report.ack_ms.minus(round_trip));
        }
        syncs.stop().await;
        field.tasks.shutdown().await;
        Ok(report)
    }

    /// What all regions counted so far.
    async fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        for region in &self.server.regions {
            counters.add(&self.rest.metrics(&region.http).await.unwrap_or_default());
        }
        counters
    }

    fn report(&self, field: &Field, receivers: u64, measured: &Measured) -> RunReport {
        let Measured { seconds, before: (counted, before), after: (after, counted_after) } = measured;
        let seconds = *seconds;
        let mut run = field.run.borrow_mut();
        let faults = run.faults();
        let messages = (run.acks as f64).min(run.deliveries as f64 / receivers.max(1) as f64);
        // Where stores are in servers, rounds of consensus are what makes a message durable.
        let syncs = match self.server.stores {
            BenchStores::Embedded => after.syncs - before.syncs,
            BenchStores::Production => (counted_after.rounds - counted.rounds).max(0.0) as u64,
        };
        let server = (after.server - before.server).as_secs_f64();
        let acks_per_sync = run.acks as f64 / syncs.max(1) as f64;
        let senders = field.links.iter().filter(|link| link.sender.is_some()).count();
        let (load, in_flight) = match self.load {
            Load::Full(window) => ("full", window * senders as u64),
            Load::Paced { name, .. } => (name, run.most_outstanding()),
        };
        let mut notes = run.take_notes();
        let synced = run.acks == 0 || acks_per_sync <= in_flight as f64 * (1.0 + SKEW_SECONDS / seconds);
        if !synced {
            notes.push(format!("{acks_per_sync:.1} acks per sync, but only {in_flight} messages were in flight"));
        }
        if run.acks == 0 {
            notes.push("nothing was acked".to_owned());
        }
        RunReport {
            scenario: self.scenario.to_owned(),
            stores: self.server.stores,
            regions: self.server.regions.len(),
            load,
            senders,
            receivers_per_message: receivers,
            in_flight,
            seconds,
            sent: run.total_sent(),
            messages_per_second: messages / seconds,
            deliveries_per_second: run.deliveries as f64 / seconds,
            ack_ms: Latency::of(&run.ack_latency),
            delivery_ms: Latency::of(&run.delivery_latency),
            server_cpu_ms_per_thousand: server * 1e6 / messages.max(1.0),
            server_cpu_percent: server / seconds * 100.0,
            generator_cpu_percent: (after.own - before.own).as_secs_f64() / seconds * 100.0,
            syncs,
            acks_per_sync,
            sync_source: "",
            link_round_trip_ms: None,
            ack_minus_link_ms: None,
            costs: Costs::between(counted, counted_after, run.acks as f64),
            faults,
            notes,
            held: faults == super::tally::Faults::default() && synced && run.acks > 0,
        }
    }

    /// Waits for the measured time; meanwhile reads the link's round trip ten times a second. Gives its median.
    async fn wait_and_watch_link(&self) -> Option<f64> {
        let end = tokio::time::Instant::now() + self.time;
        let Some((edge, home)) = self.link else {
            tokio::time::sleep_until(end).await;
            return None;
        };
        let base = &self.server.region(edge).ok()?.http;
        let mut seen = Vec::new();
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        while tokio::time::Instant::now() < end {
            ticks.tick().await;
            if let Ok(text) = self.rest.metrics(base).await {
                seen.extend(round_trip_ms(&text, edge, home));
            }
        }
        seen.sort_by(f64::total_cmp);
        seen.get(seen.len() / 2).copied()
    }
}

/// The round trip from one region to another in a metrics page, in milliseconds.
fn round_trip_ms(metrics: &str, edge: &str, home: &str) -> Option<f64> {
    let named = |line: &&str| {
        let labels = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
        let values: Vec<_> = labels.split(',').filter_map(|label| label.split_once('=')).collect();
        let has = |region: &str| values.iter().any(|(_, value)| value.trim_matches('"') == region);
        let from = values.iter().find(|(name, _)| matches!(*name, "from" | "region"));
        has(home) && from.is_none_or(|(_, value)| value.trim_matches('"') == edge)
    };
    let mut lines = metrics.lines().filter(|line| line.starts_with("hearth_link_round_trip_seconds{"));
    let value: f64 = lines.find(named)?.rsplit(' ').next()?.parse().ok()?;
    Some(value * 1_000.0)
}

/// Reads the last 1,000 of 10,000 messages as five pages, `rounds` times.
pub(super) async fn pages(server: &Server, rest: &Rest, id: u32, home: &str) -> Result<PagesReport, BenchError> {
    const MESSAGES: u64 = 10_000;
    const ROWS: u64 = 200;
    const ROUNDS: usize = 40;
    let plans = pairs(server, rest, id, 1, home, home).await?;
    let mut field = Field::open(id, &plans).await?;
    field.run.borrow_mut().end_after(MESSAGES);
    field.start(Load::Full(64));
    while field.run.borrow().total_sent() < MESSAGES {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    field.drain(1).await;
    let mut notes = field.run.borrow_mut().take_notes();
    let last = plans[0].base + field.run.borrow().total_sent();
    field.tasks.shutdown().await;
    let base = &server.region(home)?.http;
    let conversation: ConversationId = plans[0]
        .conversation
        .parse()
        .map_err(|_| BenchError::Server { what: "a conversation id is no UUID".to_owned() })?;
    let api = rest.with_token(base, &plans[0].token);
    let (mut page_ms, mut five_ms) = (histogram(), histogram());
    for _ in 0..ROUNDS {
        let started = std::time::Instant::now();
        let mut before = None;
        let mut seen = Vec::new();
        for _ in 0..5 {
            let page_started = std::time::Instant::now();
            let page = api.history(conversation, &HistoryQuery { before, after: None, limit: Some(ROWS) }).await?;
            page_ms.saturating_record(u64::try_from(page_started.elapsed().as_micros()).unwrap_or(u64::MAX));
            before = page.messages.first().map(|row| row.sequence_number);
            seen.extend(page.messages.iter().rev().map(|row| row.sequence_number));
        }
        five_ms.saturating_record(u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX));
        if !seen.iter().copied().eq((last - 999..=last).rev()) {
            notes.push(format!("five pages gave {} rows, not the last 1,000 positions", seen.len()));
        }
    }
    notes.truncate(5);
    Ok(PagesReport {
        scenario: "d",
        stores: server.stores,
        messages: last,
        rows: ROWS,
        rounds: ROUNDS,
        page_ms: Latency::of(&page_ms),
        five_pages_ms: Latency::of(&five_ms),
        held: notes.is_empty(),
        notes,
    })
}

impl From<RestError> for BenchError {
    fn from(error: RestError) -> Self {
        Self::Server { what: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_that_of_the_link_to_the_home() {
        let metrics = "# TYPE hearth_link_round_trip_seconds gauge\n\
            hearth_link_round_trip_seconds{from=\"us-east\",to=\"ap-south\"} 0.18\n\
            hearth_link_round_trip_seconds{from=\"eu-west\",to=\"us-east\"} 0.5\n\
            hearth_link_round_trip_seconds{from=\"us-east\",to=\"eu-west\"} 0.0205\n";
        assert_eq!(round_trip_ms(metrics, "us-east", "eu-west"), Some(20.5));
        let by_peer = "hearth_link_round_trip_seconds{peer=\"eu-west\"} 0.02\n";
        assert_eq!(round_trip_ms(by_peer, "us-east", "eu-west"), Some(20.0));
        assert_eq!(round_trip_ms(by_peer, "us-east", "ap-south"), None);
    }

    #[test]
    fn a_host_is_what_stands_between_scheme_and_path() {
        assert_eq!(host_of("ws://127.0.0.1:8081/ws"), "127.0.0.1:8081");
    }
}
