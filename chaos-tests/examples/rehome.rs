//! `cargo run --release -p chaos-tests --example rehome`: at a failover of many homes, how soon those that were just in
//! use take messages again, beside those that were not.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chaos_tests::chaos::driver::process_of;
use chaos_tests::{Mesh, example};
use hearth_client::rest::{DevRegion, Rest};
use hearth_client::{Address, Client, ClientOptions, Endpoint, Event, TokenSource};
use hearth_protocol::client::Content;
use hearth_protocol::{ConversationId, MessageId, UserId};
use nix::sys::signal::{Signal, kill};
use tokio::sync::Semaphore;

const HELP: &str = "\
usage: rehome [--homes N]

Starts `hearth dev --processes`, makes conversations whose home is the first region, has some of them used, kills that
region's process, and sends at once through those that were used and through as many that were not. Says how long after
the kill each of the two were acked, and when the last home had moved.

  --homes N   conversations (10,000)

Exit codes: 0 all were acked, and half of the used ones before half of the others; 1 not so; 64 usage.";

/// Calls that are under way at a time while everything is made.
const AT_ONCE: usize = 64;
/// Tries of a call, beside the first.
const TRIES: u32 = 5;
/// Users that talk to each other, each with each.
const USERS: usize = 500;
/// Users with a session, who speak.
const SPEAKERS: usize = 50;
/// Longest wait for what was sent to be acked, and for all homes to move.
const PATIENCE: Duration = Duration::from_secs(300);

type Acks = Arc<Mutex<BTreeMap<MessageId, Instant>>>;

/// A conversation, by the two users' numbers.
fn pair(number: usize) -> (usize, usize) {
    let first = number % USERS;
    (first, (first + 1 + number / USERS) % USERS)
}

fn user(number: usize) -> Result<UserId, String> {
    UserId::new(format!("rehome-{number}")).map_err(|error| error.to_string())
}

async fn tokens(rest: &Rest, base: &str) -> Result<Vec<String>, String> {
    let mut tokens = Vec::with_capacity(USERS);
    for number in 0..USERS {
        let token = rest.dev_token(base, &user(number)?, 86_400).await.map_err(|error| error.to_string())?;
        tokens.push(token.token);
    }
    Ok(tokens)
}

/// Makes conversations at a region, which becomes their home.
async fn talk(rest: &Rest, base: &str, tokens: &[String], homes: usize) -> Result<Vec<ConversationId>, String> {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = Vec::with_capacity(homes);
    for number in 0..homes {
        let permit = Arc::clone(&gate).acquire_owned().await.map_err(|error| error.to_string())?;
        let (first, second) = pair(number);
        let (rest, base, token, other) = (rest.clone(), base.to_owned(), tokens[first].clone(), user(second)?);
        tasks.push(tokio::spawn(async move {
            let mut tries = 0;
            let made = loop {
                match rest.with_token(&base, &token).direct(&other).await {
                    Ok(row) => break Ok(row.conversation_id),
                    Err(error) if tries == TRIES => break Err(error.to_string()),
                    Err(_) => tries += 1,
                }
            };
            drop(permit);
            made
        }));
    }
    let mut made = Vec::with_capacity(homes);
    for task in tasks {
        made.push(task.await.map_err(|error| error.to_string())??);
    }
    Ok(made)
}

/// Sessions of the speakers at a region; when what was acked is noted.
fn speakers(region: &DevRegion, tokens: &[String], acks: &Acks) -> Result<Vec<Client>, String> {
    let endpoint = Endpoint {
        region: region.id.clone(),
        address: Address { http: region.http.clone(), ws: region.ws.clone(), webtransport: None },
    };
    let open = |token: &String| {
        let source = TokenSource::fixed(token.clone());
        let options = ClientOptions { follow_feed: false, ..ClientOptions::new(vec![endpoint.clone()], source) };
        let (client, mut events) = Client::connect(options).map_err(|error| error.to_string())?;
        let acks = Arc::clone(acks);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                if let (Event::Acked(ack), Ok(mut acks)) = (event, acks.lock()) {
                    acks.entry(ack.message_id).or_insert_with(Instant::now);
                }
            }
        });
        Ok(client)
    };
    tokens.iter().take(SPEAKERS).map(open).collect()
}

/// One message of each speaker, in the conversation that `which` gives.
async fn speak(
    speakers: &[Client],
    which: impl Fn(usize) -> ConversationId,
    text: &str,
) -> Result<Vec<MessageId>, String> {
    let mut sent = Vec::with_capacity(speakers.len());
    for (number, speaker) in speakers.iter().enumerate() {
        let id = speaker.send(which(number), Content::text(text)).await.map_err(|error| error.to_string())?;
        sent.push(id);
    }
    Ok(sent)
}

/// Waits for acks; the times since `began`, ascending.
async fn acked(acks: &Acks, sent: &[MessageId], began: Instant) -> Result<Vec<Duration>, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let times: Vec<Instant> = {
            let acks = acks.lock().map_err(|error| error.to_string())?;
            sent.iter().filter_map(|id| acks.get(id).copied()).collect()
        };
        if times.len() == sent.len() {
            let mut times: Vec<Duration> = times.iter().map(|at| at.saturating_duration_since(began)).collect();
            times.sort_unstable();
            return Ok(times);
        }
        if Instant::now() > deadline {
            return Err(format!("{} of {} messages were acked", times.len(), sent.len()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn told(times: &[Duration]) -> String {
    let at = |index: usize| times.get(index).map_or(f64::NAN, Duration::as_secs_f64);
    format!("half after {:.1} s, all after {:.1} s", at(times.len() / 2), at(times.len().saturating_sub(1)))
}

async fn measure(homes: usize) -> Result<bool, String> {
    let mesh = Mesh::quick(&["--processes"]).await;
    let rest = Rest::new(None).map_err(|error| error.to_string())?;
    let regions = rest.dev_regions(&mesh.regions[0].http).await.map_err(|error| error.to_string())?;
    let tokens = tokens(&rest, &regions[0].http).await?;
    let began = Instant::now();
    let conversations = talk(&rest, &regions[0].http, &tokens, homes).await?;
    println!("{homes} homes at {} after {:.1} s", regions[0].id, began.elapsed().as_secs_f64());

    let acks = Acks::default();
    let speakers = speakers(&regions[1], &tokens, &acks)?;
    // A speaker's first conversation was made long ago, and is in use; a later one is not.
    let used = |number: usize| conversations[number];
    let others = |number: usize| conversations[number + USERS * (homes / USERS / 2)];
    for text in ["one", "another"] {
        let sent = speak(&speakers, used, text).await?;
        acked(&acks, &sent, began).await?;
    }
    let process = process_of(&mesh, 0).ok_or("the first region has no process")?;
    kill(process, Signal::SIGKILL).map_err(|error| error.to_string())?;
    let killed = Instant::now();
    let one = speak(&speakers, used, "where it was in use").await?;
    let other = speak(&speakers, others, "where it was not").await?;
    let one = acked(&acks, &one, killed).await?;
    println!("{SPEAKERS} that were in use: {}", told(&one));
    let other = acked(&acks, &other, killed).await?;
    println!("{SPEAKERS} that were not: {}", told(&other));
    let deadline = Instant::now() + PATIENCE;
    while mesh.metric(1, "hearth_home_failing_over", "").await + mesh.metric(2, "hearth_home_failing_over", "").await
        > 0.0
    {
        if Instant::now() > deadline {
            return Err("homes are left that nobody opened".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("the last home had moved after {:.1} s", killed.elapsed().as_secs_f64());
    drop(speakers);
    mesh.end().await;
    Ok(one[SPEAKERS / 2] <= other[SPEAKERS / 2])
}

fn homes() -> Result<Option<usize>, String> {
    let mut homes = 10_000;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--homes" => {
                let value = words.next().unwrap_or_default();
                homes = value.parse().map_err(|_| format!("--homes {value}: a number is missing"))?;
            }
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("{word} is not known")),
        }
    }
    if (2 * USERS..=USERS * (USERS - 1) / 2).contains(&homes) {
        return Ok(Some(homes));
    }
    Err(format!("--homes: {} to {}", 2 * USERS, USERS * (USERS - 1) / 2))
}

#[tokio::main]
async fn main() -> ExitCode {
    example(HELP, homes(), measure).await
}
