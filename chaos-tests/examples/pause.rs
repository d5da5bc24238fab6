//! `cargo run --release -p chaos-tests --example pause`: for how long a steady sender hears no ack while the home of its
//! conversation moves.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chaos_tests::chaos::measure::middle_and_most;
use chaos_tests::load::users;
use chaos_tests::{Checker, Load, Mesh, Peer, example, run};
use serde_json::json;

const HELP: &str = "\
usage: pause [--moves N] [--latency none|default] [--load N]

Starts `hearth dev --processes`; one session sends a message every 10 ms into a conversation whose home moves from the
first region to the second and back by `hearth home move`, while other sessions load each region with conversations of
their own. Of each move it takes the longest time between two acks that overlaps it or the six seconds after it, by
which what was parked has gone out, too; and of the second after those the same, as what is usual without a move. At the
end every message has to stand where its ack said.

  --moves N       moves (60)
  --latency WORD  delay of the links: none, or default, which is 40 ms each way between these two regions (none)
  --load N        sessions at each region that send into other conversations, about 200 messages a second each (1)

Exit codes: 0 all moved and everything was acked, 1 not so, 64 usage.";

/// Between two messages of the steady sender.
const STEADY: Duration = Duration::from_millis(10);
/// What belongs to a move after its verb has said that it is done: a forward without an answer is parked after 3.5 s, and
/// what is parked is offered again each second.
const AFTER: Duration = Duration::from_secs(6);
/// How long one looks at acks without a move.
const STILL: Duration = Duration::from_secs(1);
/// Longest wait for all to be acked at the end.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
struct Asked {
    moves: usize,
    latency: String,
    load: usize,
}

fn arguments() -> Result<Option<Asked>, String> {
    let mut asked = Asked { moves: 60, latency: "none".to_owned(), load: 1 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(None);
        }
        let value = words.next().ok_or_else(|| format!("{word}: a value is missing"))?;
        let number = || value.parse::<usize>().map_err(|_| format!("{word} {value}: a number is missing"));
        match word.as_str() {
            "--moves" => asked.moves = number()?.max(1),
            "--load" => asked.load = number()?,
            "--latency" if ["none", "default"].contains(&value.as_str()) => asked.latency = value,
            _ => return Err(format!("{word} {value} is not known")),
        }
    }
    Ok(Some(asked))
}

/// The longest time between two acks, of those times that overlap a span.
fn longest(acks: &[Instant], from: Instant, to: Instant) -> Duration {
    let gaps = acks.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
    gaps.map(|pair| pair[1].duration_since(pair[0])).max().unwrap_or_default()
}

fn told(name: &str, times: &[Duration]) {
    let (middle, most) = middle_and_most(times).unwrap_or_default();
    let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
    println!("{name}, {} times: p50 {:.0} ms, max {:.0} ms", times.len(), millis(middle), millis(most));
}

async fn loads(mesh: &Mesh, sessions: usize) -> Vec<Load> {
    let mut loads = Vec::new();
    for region in 0..mesh.regions.len() {
        let names: Vec<String> = users(sessions).iter().map(|name| format!("{name}-{region}")).collect();
        let group = mesh.group("eve", region, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        loads.push(Load::at(mesh, region, &names, &group, 100).await);
    }
    loads
}

/// Moves the home there and back; the spans in which it went away from the sender's region, in which it came back there,
/// and spans without a move.
///
/// # Errors
/// Which move failed.
async fn moves(mesh: &Mesh, group: &str, count: usize) -> Result<[Vec<(Instant, Instant)>; 3], String> {
    let data = mesh.data().to_string_lossy().into_owned();
    let (mut away, mut back, mut still) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..count {
        let to = &mesh.regions[(number + 1) % 2].id;
        let began = Instant::now();
        let exit = run(&["home", "move", group, "--to", to, "--json", "--data", &data]).await;
        if exit.code != 0 {
            return Err(format!("move {number} to {to}: {exit:?}"));
        }
        tokio::time::sleep(AFTER).await;
        let over = Instant::now();
        if number % 2 == 0 { &mut away } else { &mut back }.push((began, over));
        tokio::time::sleep(STILL).await;
        still.push((over, Instant::now()));
    }
    Ok([away, back, still])
}

async fn measure(asked: &Asked) -> Result<(), String> {
    let mesh = Mesh::start(&["--latency", &asked.latency, "--limits", "off", "--processes"]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let loads = if asked.load > 0 { loads(&mesh, asked.load).await } else { Vec::new() };
    let ann = std::sync::Arc::new(Peer::connect(&mesh, "ann", 0).await);
    let sender = tokio::spawn({
        let (ann, group) = (ann.clone(), group.clone());
        async move {
            let mut tick = tokio::time::interval(STEADY);
            for number in 0_u64.. {
                tick.tick().await;
                ann.send(&group, &format!("{number}")).await;
            }
        }
    });
    tokio::time::sleep(STILL).await;
    let began = Instant::now();
    let spans = moves(&mesh, &group, asked.moves).await;
    let (took, others) = (began.elapsed(), loads.iter().map(Load::acked).sum::<usize>());
    sender.abort();
    let [away, back, still] = spans?;
    if !ann.tallied(PATIENCE, |tally| tally.outstanding() == 0).await {
        return Err(format!("not all was acked: {:?}", ann.tally()));
    }
    // What was handed on twice is acked twice.
    let mut known = BTreeSet::new();
    let frames = ann.frames().into_iter().filter(|frame| frame.value["type"] == "message.ack");
    let first = frames.filter(|frame| known.insert(frame.value["payload"]["messageId"].to_string()));
    let acks: Vec<Instant> = first.map(|frame| frame.at).collect();
    let times = |spans: &[(Instant, Instant)]| -> Vec<Duration> {
        spans.iter().map(|(from, to)| longest(&acks, *from, *to)).collect()
    };
    println!("{} acked, {} of other sessions, in {:.0} s", acks.len(), others, took.as_secs_f64());
    told("longest time between two acks, home moves away from the sender's region", &times(&away));
    told("home moves to the sender's region", &times(&back));
    told("without a move", &times(&still));
    for load in loads {
        load.end().await;
    }
    let rows = mesh.agreed("ann", &[0, 1, 2], &group, acks.len()).await;
    let mut checker = Checker::default();
    checker.observe(&ann);
    let faults = checker.faults(&group, &[rows]);
    mesh.end().await;
    if faults.is_empty() { Ok(()) } else { Err(json!(faults).to_string()) }
}

#[tokio::main]
async fn main() -> ExitCode {
    example(HELP, arguments(), async |asked| measure(&asked).await.map(|()| true)).await
}
