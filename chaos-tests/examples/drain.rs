//! `cargo run --release -p chaos-tests --example drain`: how long it takes to empty a region of many homes and sessions.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::process::{ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chaos_tests::process::hearth;
use chaos_tests::{Mesh, example};
use hearth_client::rest::{DevRegion, Rest};
use hearth_client::{Address, Client, ClientOptions, Disconnect, Endpoint, Event, TokenSource};
use hearth_protocol::client::Content;
use hearth_protocol::{ConversationId, RegionId, UserId};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};

const HELP: &str = "\
usage: drain [--homes N] [--sessions N] [--rate N] [--over SECONDS] [--undo]

Starts `hearth dev --processes`, makes sessions of as many users at the first region, conversations between them, runs
`hearth region drain` on that region, and says how long it took until the last home had moved and the last session was
connected elsewhere. Each session has a home of its own, too: its user's record. Then a message goes through each of
some conversations.

  --homes N       conversations whose home is at the region (10,000)
  --sessions N    sessions at the region, 2 or more (10,000); the limit of open files has to allow for twice as many
  --rate N        homes that begin to move in a second, as the verb has it (1,000)
  --over SECONDS  within which sessions leave, as the verb has it (30)
  --undo          takes the drain back at the end, and says how long that took

Exit codes: 0 the region was emptied and all sessions came back elsewhere, 1 it was not, 64 usage.";

/// Calls that are under way at a time while everything is made.
const AT_ONCE: usize = 64;
/// Longest wait for sessions to be connected, first and after the drain.
const PATIENCE: Duration = Duration::from_secs(180);
/// Tries to make a conversation, beside the first.
const TRIES: u32 = 5;
/// Longest wait for the ack of one.
const ACKED_WITHIN: Duration = Duration::from_secs(10);
/// Conversations that a message is sent through at the end.
const SPOKEN_THROUGH: usize = 100;

#[derive(Clone, Debug)]
struct Asked {
    homes: usize,
    sessions: usize,
    rate: u32,
    over: u64,
    undo: bool,
}

fn arguments() -> Result<Option<Asked>, String> {
    let mut asked = Asked { homes: 10_000, sessions: 10_000, rate: 1_000, over: 30, undo: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().unwrap_or_default();
            value.parse::<usize>().map_err(|_| format!("{word} {value}: a number is missing, as in {word} 100"))
        };
        match word.as_str() {
            "--homes" => asked.homes = number()?,
            "--sessions" => asked.sessions = number()?.max(2),
            "--rate" => asked.rate = u32::try_from(number()?).map_err(|error| error.to_string())?,
            "--over" => asked.over = number()? as u64,
            "--undo" => asked.undo = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("{word} is not known")),
        }
    }
    Ok(Some(asked))
}

/// A session as its client sees it.
struct Session {
    client: Client,
    user: UserId,
    token: String,
}

/// What sessions tell: which one, and the region that it is connected to, or `None` when it lost it.
type Told = (usize, Option<RegionId>);

/// Why sessions were lost, and how many.
type Lost = Arc<Mutex<BTreeMap<String, usize>>>;

fn note(lost: &Lost, reason: &Disconnect) {
    if let Ok(mut lost) = lost.lock() {
        *lost.entry(format!("{reason:?}")).or_default() += 1;
    }
}

/// Opens a session at the first of `regions`, which tells it of the others; what becomes of it is told.
async fn open(
    number: usize,
    rest: &Rest,
    regions: &[DevRegion],
    told: &mpsc::Sender<Told>,
    acked: &Arc<AtomicBool>,
    lost: &Lost,
) -> Result<Session, String> {
    let user = UserId::new(format!("drain-{number}")).map_err(|error| error.to_string())?;
    let token = rest.dev_token(&regions[0].http, &user, 86_400).await.map_err(|error| error.to_string())?.token;
    let endpoint = |region: &DevRegion| Endpoint {
        region: region.id.clone(),
        address: Address { http: region.http.clone(), ws: region.ws.clone(), webtransport: None },
    };
    let endpoints = regions.iter().take(1).map(endpoint).collect();
    let options =
        ClientOptions { follow_feed: false, ..ClientOptions::new(endpoints, TokenSource::fixed(token.clone())) };
    let (client, mut events) = Client::connect(options).map_err(|error| error.to_string())?;
    let (told, acked, lost) = (told.clone(), Arc::clone(acked), Arc::clone(lost));
    // One after the other: a storm of connects would make some of them fail.
    while let Some(event) = events.next().await {
        match event {
            Event::Connected { region, .. } => {
                told.send((number, Some(region))).await.map_err(|error| error.to_string())?;
                break;
            }
            Event::Disconnected { reason, .. } => note(&lost, &reason),
            _ => {}
        }
    }
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let word = match event {
                Event::Connected { region, .. } => Some(region),
                Event::Disconnected { reason, .. } => {
                    lost.lock()
                        .expect("nothing panics with it")
                        .entry(format!("{reason:?}"))
                        .and_modify(|count| *count += 1)
                        .or_insert(1);
                    None
                }
                Event::Acked(_) => {
                    acked.store(true, Ordering::Relaxed);
                    continue;
                }
                _ => continue,
            };
            if told.send((number, word)).await.is_err() {
                break;
            }
        }
    });
    Ok(Session { client, user, token })
}

/// Where each session is.
#[derive(Default)]
struct Places(BTreeMap<usize, RegionId>);

impl Places {
    fn take(&mut self, (number, region): Told) {
        match region {
            Some(region) => self.0.insert(number, region),
            None => self.0.remove(&number),
        };
    }

    /// Waits until all of `count` sessions are where `fits` says.
    async fn wait(
        &mut self,
        told: &mut mpsc::Receiver<Told>,
        count: usize,
        fits: impl Fn(&RegionId) -> bool,
    ) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let there = self.0.values().filter(|region| fits(region)).count();
            if there == count {
                return Ok(());
            }
            match tokio::time::timeout_at(deadline, told.recv()).await {
                Ok(Some(word)) => self.take(word),
                Ok(None) => return Err("no client runs any more".to_owned()),
                Err(_) => return Err(format!("{there} of {count} sessions are where they should be")),
            }
            while let Ok(word) = told.try_recv() {
                self.take(word);
            }
        }
    }
}

/// Runs a verb, whose progress is shown as it comes; its last line.
async fn verb(data: &str, words: &[&str]) -> Result<Value, String> {
    let mut child = Command::new(hearth())
        .args(words)
        .args(["--json", "--data", data])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no standard output")?).lines();
    let mut last = Value::Null;
    let (began, mut shown) = (Instant::now(), Instant::now());
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        last = serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))?;
        if shown.elapsed() > Duration::from_secs(1) {
            shown = Instant::now();
            println!("{:>7.1} s  {}", began.elapsed().as_secs_f64(), last["text"].as_str().unwrap_or_default());
        }
    }
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if status.success() { Ok(last) } else { Err(format!("{}: {status}, {last}", words.join(" "))) }
}

/// Does `step` for each number below `count`, some at a time.
async fn each<T: Send + 'static, F: Future<Output = Result<T, String>> + Send + 'static>(
    count: usize,
    step: impl Fn(usize) -> F,
) -> Result<Vec<T>, String> {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::with_capacity(count);
    for number in 0..count {
        let permit = Arc::clone(&gate).acquire_owned().await.map_err(|error| error.to_string())?;
        let work = step(number);
        tasks.push(tokio::spawn(async move {
            let done = work.await;
            drop(permit);
            done
        }));
    }
    let mut made = Vec::with_capacity(count);
    for task in tasks {
        made.push(task.await.map_err(|error| error.to_string())??);
    }
    Ok(made)
}

/// The two users of a conversation: each pair once, while there are pairs enough.
fn pair(number: usize, users: usize) -> (usize, usize) {
    let first = number % users;
    (first, (first + 1 + number / users) % users)
}

/// What a run works on.
struct Run {
    data: String,
    rest: Rest,
    regions: Vec<DevRegion>,
    sessions: Vec<Session>,
    acked: Vec<Arc<AtomicBool>>,
    places: Places,
    words: mpsc::Receiver<Told>,
    lost: Lost,
}

impl Run {
    /// Opens the sessions, each of a user of its own, at the first region.
    async fn begin(mesh: &Mesh, count: usize) -> Result<Self, String> {
        let rest = Rest::new(None).map_err(|error| error.to_string())?;
        let regions = rest.dev_regions(&mesh.regions[0].http).await.map_err(|error| error.to_string())?;
        let (told, words) = mpsc::channel(65_536);
        let acked: Vec<Arc<AtomicBool>> = (0..count).map(|_| Arc::default()).collect();
        let lost = Lost::default();
        let began = Instant::now();
        let sessions = each(count, |number| {
            let (rest, regions, told) = (rest.clone(), regions.clone(), told.clone());
            let (acked, lost) = (Arc::clone(&acked[number]), Arc::clone(&lost));
            async move { open(number, &rest, &regions, &told, &acked, &lost).await }
        })
        .await?;
        let data = mesh.data().to_string_lossy().into_owned();
        let mut run = Self { data, rest, regions, sessions, acked, places: Places::default(), words, lost };
        run.all_connected(true).await?;
        println!("{count} sessions at {} after {:.1} s", run.emptied(), began.elapsed().as_secs_f64());
        Ok(run)
    }

    /// The region that is emptied.
    fn emptied(&self) -> RegionId {
        self.regions[0].id.clone()
    }

    /// Waits until all sessions are at the region that is emptied, or none of them.
    async fn all_connected(&mut self, at_it: bool) -> Result<(), String> {
        let emptied = self.emptied();
        let count = self.sessions.len();
        let waited = self.places.wait(&mut self.words, count, |region| (*region == emptied) == at_it).await;
        let lost = self.lost.lock().map_err(|error| error.to_string())?;
        waited.map_err(|error| format!("{error}; sessions were lost by {lost:?}"))
    }

    /// Makes the conversations, each with the number of a session that may speak in it.
    async fn talk(&self, homes: usize) -> Result<Vec<(usize, ConversationId)>, String> {
        let began = Instant::now();
        let made = each(homes, |number| {
            let (first, second) = pair(number, self.sessions.len());
            let (rest, base) = (self.rest.clone(), self.regions[0].http.clone());
            let (token, other) = (self.sessions[first].token.clone(), self.sessions[second].user.clone());
            async move {
                // A busy machine may not answer in time; asked again, the same conversation is found.
                let mut tries = 0;
                loop {
                    match rest.with_token(&base, &token).direct(&other).await {
                        Ok(row) => break Ok((first, row.conversation_id)),
                        Err(error) if tries == TRIES => break Err(format!("{error}: {:?}", error.source())),
                        Err(_) => tries += 1,
                    }
                }
            }
        })
        .await?;
        println!("{} conversations after {:.1} s", made.len(), began.elapsed().as_secs_f64());
        Ok(made)
    }

    /// Runs the drain; whether nothing was left.
    async fn drain(&mut self, asked: &Asked) -> Result<bool, String> {
        let (rate, over) = (asked.rate.to_string(), format!("{}s", asked.over));
        let began = Instant::now();
        let words = ["region", "drain", self.regions[0].id.as_str(), "--rate", &rate, "--over", &over];
        let drained = verb(&self.data, &words).await?;
        let took = began.elapsed().as_secs_f64();
        self.all_connected(false).await?;
        println!("drained after {took:.1} s, all sessions elsewhere after {:.1} s", began.elapsed().as_secs_f64());
        println!("{drained}");
        Ok(["homesLeft", "sessionsLeft"].iter().all(|name| count_of(&drained["counts"], name) == Some(0)))
    }

    /// Sends a message through some of the conversations; whether all were acked.
    async fn speak(&self, conversations: &[(usize, ConversationId)]) -> Result<bool, String> {
        let (mut silent, mut spoken) = (0, 0);
        for (number, conversation) in conversations.iter().take(SPOKEN_THROUGH) {
            let (session, acked) = (&self.sessions[*number], &self.acked[*number]);
            acked.store(false, Ordering::Relaxed);
            let content = Content::text("said after the drain");
            session.client.send(*conversation, content).await.map_err(|error| error.to_string())?;
            let deadline = Instant::now() + ACKED_WITHIN;
            while !acked.load(Ordering::Relaxed) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            spoken += 1;
            silent += usize::from(!acked.load(Ordering::Relaxed));
        }
        println!("{spoken} messages through conversations that moved, {silent} without an ack within 10 s");
        Ok(silent == 0)
    }
}

async fn measure(asked: &Asked) -> Result<bool, String> {
    let mesh = Mesh::quick(&["--processes"]).await;
    let mut run = Run::begin(&mesh, asked.sessions).await?;
    let conversations = run.talk(asked.homes).await?;
    let mut held = run.drain(asked).await?;
    held &= run.speak(&conversations).await?;
    if asked.undo {
        let began = Instant::now();
        let undone = verb(&run.data, &["region", "drain", run.emptied().as_str(), "--undo"]).await?;
        println!("undone after {:.1} s: {undone}", began.elapsed().as_secs_f64());
    }
    drop(run);
    mesh.end().await;
    Ok(held)
}

/// One count of a change's last line, which lists pairs of a name and a number.
fn count_of(counts: &Value, name: &str) -> Option<u64> {
    counts.get(name).and_then(Value::as_u64).or_else(|| {
        let rows = counts.as_array()?.iter();
        rows.filter(|row| row[0] == name).find_map(|row| row[1].as_u64())
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    example(HELP, arguments(), async |asked| measure(&asked).await).await
}
