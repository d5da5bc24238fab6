//! Presence under load: users in groups who see each other step away and come back, each change seen by twenty.
//!
//! Presence tells states, at most one a second and user: of changes that come closer together, as after a pause of the
//! machine, a subscriber may see none but the last. Those are counted; too many of them, or a wrong state, fail the run.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use hearth_protocol::UserId;
use hearth_protocol::client::{PresenceBulkPayload, PresenceStatus};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;

use super::generator::{self, Incoming, Link, Plan};
use super::report::{Latency, PresenceReport};
use super::run::histogram;
use super::server::{Server, cpu};
use super::wire;
use super::{BenchError, TEXT};
use crate::rest::Rest;

/// Members of a group: each is seen by all others.
const MEMBERS: usize = 21;
const GROUPS: usize = 400;
/// Changes a second over all users: each user's come 1.4 s apart, so that every one of them is told, and what a stall holds up
/// is made up for within a few.
const PER_SECOND: f64 = 6_000.0;
/// Calls and connections opened at once.
const AT_ONCE: usize = 32;
/// How long the last changes may take to be told.
const DRAIN: Duration = Duration::from_secs(15);
/// How long all subscriptions may take to be answered, and those who came to be told of.
const READY: Duration = Duration::from_secs(120);
/// Nobody is told of those who came any more when nothing came for so long: a change is told within a second.
const QUIET: Duration = Duration::from_secs(3);
/// One of so many changes may go untold since others came close behind it.
const UNTOLD: u64 = 20;
/// What a frame begins with, up to the name of a user of this run.
const BEFORE_USER: &str = r#"{"type":"presence.update","payload":{"userId":""#;
/// What follows the name where the user is away, and where it is online.
const AWAY: &[u8] = br#"","status":"away""#;
const ONLINE: &[u8] = br#"","status":"online""#;

fn name(run: u32, number: usize) -> String {
    format!("bench-{run:x}-p{number}")
}

/// The part of an answer that is read.
#[derive(Debug, Deserialize)]
struct Envelope {
    payload: PresenceBulkPayload,
}

/// What a connection was told of a user.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    changes: u32,
    /// Whether it is away, by the last word; `None` while it is not there.
    is_away: Option<bool>,
}

/// What was sent and seen.
#[derive(Debug)]
struct Counts {
    started: Instant,
    before_number: String,
    /// By user: changes sent, and when the last of them was.
    sent: Vec<u32>,
    sent_at: Vec<u64>,
    /// By connection and place in its group.
    seen: Vec<[Seen; MEMBERS]>,
    /// When the last update came.
    last_at: u64,
    measuring: Option<u64>,
    updates: u64,
    latency: Histogram<u64>,
    notes: Vec<String>,
    stopped: bool,
}

impl Counts {
    fn new(run: u32, users: usize) -> Self {
        let named = name(run, 0);
        Self {
            started: Instant::now(),
            before_number: format!("{BEFORE_USER}{}", &named[..named.len() - 1]),
            sent: vec![0; users],
            sent_at: vec![0; users],
            seen: vec![[Seen::default(); MEMBERS]; users],
            last_at: 0,
            measuring: None,
            updates: 0,
            latency: histogram(),
            notes: Vec::new(),
            stopped: false,
        }
    }

    /// Microseconds since the run began.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn note(&mut self, text: String) {
        if self.notes.len() < 5 {
            self.notes.push(text);
        }
    }

    /// Takes a frame that a connection got.
    fn take(&mut self, connection: usize, payload: &[u8], now: u64) {
        let Some((number, is_away)) = self.told(payload).filter(|(number, _)| *number < self.sent.len()) else {
            return self.other(connection, payload);
        };
        if number / MEMBERS != connection / MEMBERS {
            return self.note(format!("connection {connection} was told of a user of another group"));
        }
        self.last_at = now;
        let seen = &mut self.seen[connection][number % MEMBERS];
        *seen = Seen { changes: seen.changes + 1, is_away };
        if self.measuring.is_some_and(|since| self.sent_at[number] >= since) && !self.stopped {
            self.updates += 1;
            self.latency.saturating_record(now.saturating_sub(self.sent_at[number]).max(1));
        }
    }

    /// Of whom an update is, and whether it is away.
    fn told(&self, payload: &[u8]) -> Option<(usize, Option<bool>)> {
        let rest = payload.strip_prefix(self.before_number.as_bytes())?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        let number = std::str::from_utf8(&rest[..end]).ok()?.parse::<usize>().ok()?;
        let is_away = rest[end..].starts_with(AWAY);
        Some((number, (is_away || rest[end..].starts_with(ONLINE)).then_some(is_away)))
    }

    fn other(&mut self, connection: usize, payload: &[u8]) {
        if payload.starts_with(br#"{"type":"presence.bulk""#) {
            self.answered(connection, payload);
        } else if payload.starts_with(br#"{"type":"error""#) || payload.starts_with(br#"{"type":"close""#) {
            self.note(String::from_utf8_lossy(&payload[..payload.len().min(160)]).into_owned());
        }
    }

    /// A subscription was answered.
    fn answered(&mut self, connection: usize, payload: &[u8]) {
        let Ok(Envelope { payload: PresenceBulkPayload { presences } }) = serde_json::from_slice(payload) else {
            return self.note("an answer to a subscription cannot be read".to_owned());
        };
        for presence in presences {
            let number = presence.user_id.as_str().rsplit('p').next().and_then(|number| number.parse::<usize>().ok());
            let Some(number) = number.filter(|number| number / MEMBERS == connection / MEMBERS) else { continue };
            let is_there = presence.status != PresenceStatus::Offline;
            self.seen[connection][number % MEMBERS].is_away =
                is_there.then_some(presence.status == PresenceStatus::Away);
        }
    }

    /// How many users somebody who subscribes to them does not take for online.
    fn missing(&self) -> usize {
        let online = |seen: &&Seen| seen.is_away == Some(false);
        let missing = |seen: &[Seen; MEMBERS]| (MEMBERS - 1).saturating_sub(seen.iter().filter(online).count());
        self.seen.iter().map(missing).sum()
    }

    /// Changes that somebody was not told of, users whom somebody takes for what they are not, and those of whom somebody
    /// was told more often than they changed.
    fn untold(&self) -> (u64, u64, u64) {
        let (mut untold, mut wrong, mut more) = (0, 0, 0);
        for (connection, seen) in self.seen.iter().enumerate() {
            let group = connection / MEMBERS * MEMBERS;
            for (place, seen) in seen.iter().enumerate().filter(|(place, _)| group + place != connection) {
                let sent = self.sent[group + place];
                untold += u64::from(sent.saturating_sub(seen.changes));
                wrong += u64::from(seen.is_away != Some(is_away_after(sent)));
                more += u64::from(seen.changes > sent);
            }
        }
        (untold, wrong, more)
    }
}

/// A user's first change is to step away, the second to come back.
fn is_away_after(changes: u32) -> bool {
    !changes.is_multiple_of(2)
}

/// Groups of users, each member at the next region.
async fn plans(server: &Server, rest: &Rest, run: u32) -> Result<Vec<Plan>, BenchError> {
    let regions = &server.regions;
    let user = |number| UserId::new(name(run, number)).map_err(|error| BenchError::Server { what: error.to_string() });
    let groups: Vec<Vec<Plan>> = stream::iter(0..GROUPS)
        .map(|group| async move {
            let numbers = group * MEMBERS..(group + 1) * MEMBERS;
            let users: Vec<UserId> = numbers.map(user).collect::<Result<_, _>>()?;
            let home = &regions[group % regions.len()];
            let mut plans = Vec::new();
            for (place, user) in users.iter().enumerate() {
                let token = rest.dev_token(&home.http, user, 86_400).await?.token;
                plans.push(Plan {
                    host: super::scenario::host_of(&regions[place % regions.len()].ws),
                    token,
                    conversation: String::new(),
                    base: 0,
                    sender: None,
                    hears: Vec::new(),
                });
            }
            rest.with_token(&home.http, &plans[0].token).create_group("bench", &users[1..]).await?;
            Ok::<_, BenchError>(plans)
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(groups.into_iter().flatten().collect())
}

/// Reads a connection until it ends.
async fn read(connection: usize, incoming: Incoming, counts: Rc<RefCell<Counts>>) {
    let Incoming { mut read, early } = incoming;
    let mut filled = early.len();
    let mut buffer = early;
    buffer.resize(filled + 16 * 1024, 0);
    while let Ok(length @ 1..) = read.read(&mut buffer[filled..]).await {
        filled += length;
        let mut counts = counts.borrow_mut();
        let now = counts.now();
        let mut taken = 0;
        loop {
            match wire::first_frame(&buffer[taken..filled]) {
                Ok(Some(frame)) => {
                    counts.take(connection, &buffer[taken + frame.start..taken + frame.end], now);
                    taken += frame.end;
                }
                Ok(None) => break,
                Err(error) => return counts.note(error.to_string()),
            }
        }
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
        if filled == buffer.len() {
            buffer.resize(filled * 2, 0);
        }
    }
    let mut counts = counts.borrow_mut();
    if !counts.stopped {
        counts.note(format!("connection {connection} ended"));
    }
}

/// Has users step away and come back in turn, at an even rate.
async fn change(links: Rc<Vec<Rc<Link>>>, counts: Rc<RefCell<Counts>>) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    let mut made = 0usize;
    while !counts.borrow().stopped {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * PER_SECOND) as usize;
        let mut counts = counts.borrow_mut();
        while made < due {
            // Neighbours in time are of different groups.
            let turn = made % links.len();
            let number = turn % GROUPS * MEMBERS + turn / GROUPS;
            let status = if is_away_after(counts.sent[number] + 1) { "away" } else { "online" };
            let frame = format!(r#"{{"type":"presence.set","payload":{{"status":"{status}"}}}}"#);
            links[number].append_text(frame.as_bytes());
            counts.sent[number] += 1;
            counts.sent_at[number] = counts.now();
            if links[number].flush().is_err() {
                counts.note("a connection takes nothing".to_owned());
            }
            made += 1;
        }
    }
}

async fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !holds() {
        if began.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Makes the run.
pub(super) async fn presence(
    server: &Server,
    rest: &Rest,
    run: u32,
    (warm_up, time): (Duration, Duration),
) -> Result<PresenceReport, BenchError> {
    let plans = plans(server, rest, run).await?;
    let counts = Rc::new(RefCell::new(Counts::new(run, plans.len())));
    let opened = generator::open_all(&plans, TEXT, AT_ONCE).await?;
    let mut tasks = JoinSet::new();
    let mut links = Vec::new();
    for (index, (link, half)) in opened.into_iter().enumerate() {
        tasks.spawn_local(read(index, half, Rc::clone(&counts)));
        let others = (index / MEMBERS * MEMBERS..(index / MEMBERS + 1) * MEMBERS).filter(|other| *other != index);
        let users: Vec<String> = others.map(|other| name(run, other)).collect();
        let frame = serde_json::json!({"type": "presence.subscribe", "payload": {"userIds": users}}).to_string();
        link.append_text(frame.as_bytes());
        link.flush()
            .map_err(|error| BenchError::Connect { host: plans[index].host.clone(), what: error.to_string() })?;
        links.push(link);
    }
    tasks.spawn_local(generator::heartbeats(links.clone()));
    let users = links.len();
    // A region that finds only later that two share a group says so later, so that answers alone are not enough.
    if !until(READY, || counts.borrow().missing() == 0).await {
        return Err(BenchError::Server {
            what: format!("{} times one of {users} users is not seen to be there", counts.borrow().missing()),
        });
    }
    // Those who were subscribed to while they came are told of, too: what is seen counts from behind that.
    tokio::time::sleep(QUIET).await;
    let is_quiet = || {
        let counts = counts.borrow();
        counts.now() > counts.last_at + u64::try_from(QUIET.as_micros()).unwrap_or(u64::MAX)
    };
    if !until(READY, is_quiet).await {
        return Err(BenchError::Server { what: "presence does not come to rest with nobody changing it".to_owned() });
    }
    counts.borrow_mut().seen.iter_mut().flatten().for_each(|seen| seen.changes = 0);
    tasks.spawn_local(change(Rc::new(links), Rc::clone(&counts)));
    tokio::time::sleep(warm_up).await;
    let before = (cpu(Some(server.pid())).unwrap_or_default(), cpu(None).unwrap_or_default(), Instant::now());
    let since = counts.borrow().now();
    counts.borrow_mut().measuring = Some(since);
    tokio::time::sleep(time).await;
    let seconds = before.2.elapsed().as_secs_f64();
    let after = (cpu(Some(server.pid())).unwrap_or_default(), cpu(None).unwrap_or_default());
    counts.borrow_mut().stopped = true;
    until(DRAIN, || counts.borrow().untold().1 == 0).await;
    let report = report(&counts.borrow(), server, seconds, (after.0 - before.0, after.1 - before.1));
    tasks.shutdown().await;
    Ok(report)
}

fn report(counts: &Counts, server: &Server, seconds: f64, (served, own): (Duration, Duration)) -> PresenceReport {
    let (untold, wrong, more) = counts.untold();
    let mut notes = counts.notes.clone();
    if more > 0 {
        notes.push(format!("{more} times somebody was told more often of a user than it changed"));
    }
    let subscribers = (MEMBERS - 1) as u64;
    let made = counts.sent.iter().map(|sent| u64::from(*sent)).sum::<u64>() * subscribers;
    let transitions = counts.updates as f64 / subscribers as f64;
    PresenceReport {
        scenario: "presence",
        stores: server.stores,
        regions: server.regions.len(),
        users: counts.sent.len(),
        subscribers,
        offered_per_second: PER_SECOND,
        seconds,
        transitions_per_second: transitions / seconds,
        updates_per_second: counts.updates as f64 / seconds,
        update_ms: Latency::of(&counts.latency),
        server_cpu_ms_per_thousand: served.as_secs_f64() * 1e6 / transitions.max(1.0),
        server_cpu_percent: served.as_secs_f64() / seconds * 100.0,
        generator_cpu_percent: own.as_secs_f64() / seconds * 100.0,
        untold,
        wrong,
        held: wrong == 0 && untold <= made / UNTOLD && counts.updates > 0 && notes.is_empty(),
        notes,
    }
}
