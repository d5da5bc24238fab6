//! `cargo run --release -p chaos-tests --example failovers`: from the moment that a home is gone to the first ack by
//! another one, again and again.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use chaos_tests::chaos::driver::{home, process_of, unsettled};
use chaos_tests::chaos::measure::middle_and_most;
use chaos_tests::{Mesh, Peer, example, until};
use nix::sys::signal::{Signal, kill};

const HELP: &str = "\
usage: failovers [--runs N] [--how cut|kill]

Starts `hearth dev --processes`, with `failover.after` as it is by default (10 s). In each run the region that is the home
of a conversation is cut off from both others, in both directions (or killed with kill -9); a session at another region
goes on sending, one message every 50 ms, and the time until one of them is acked under a newer epoch is told. Then the
region comes back, and once the mesh is at rest the next run takes the new home away.

  --runs N    runs (20)
  --how WORD  cut or kill; without it both in turn

Exit codes: 0 each was acked within 15 s, 1 one was not, 64 usage.";

/// What design.md promises.
const WITHIN: Duration = Duration::from_secs(15);
/// Longest wait for an ack, and for the mesh to be at rest.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two messages.
const STEADY: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Cut,
    Kill,
}

fn arguments() -> Result<Option<(usize, Vec<How>)>, String> {
    let (mut runs, mut how) = (20, vec![How::Cut, How::Kill]);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        match (word.as_str(), value.as_str()) {
            ("--help" | "-h", _) => return Ok(None),
            ("--runs", _) => runs = value.parse().map_err(|_| format!("--runs {value}: a number is missing"))?,
            ("--how", "cut") => how = vec![How::Cut],
            ("--how", "kill") => how = vec![How::Kill],
            _ => return Err(format!("{word} {value} is not known")),
        }
    }
    Ok(Some((runs, how)))
}

/// The region that is the home of a conversation, and its epoch.
async fn home_of(mesh: &Mesh, group: &str) -> Option<(usize, u64)> {
    let shown = home(mesh, group).await;
    let rows = shown["regions"].as_array().filter(|rows| rows.len() == mesh.regions.len())?.clone();
    let first = (&rows[0]["home"], rows[0]["epoch"].as_u64()?);
    let agree = rows.iter().all(|row| (&row["home"], row["epoch"].as_u64()) == (first.0, Some(first.1)));
    let place = mesh.regions.iter().position(|region| *first.0 == region.id.as_str())?;
    agree.then_some((place, first.1))
}

/// Takes a region away, or brings it back.
async fn take_away(mesh: &Mesh, region: usize, how: How) -> Result<(), String> {
    let others = (0..mesh.regions.len()).filter(|other| *other != region);
    match how {
        How::Cut => {
            for other in others {
                mesh.cut(other, region).await;
            }
        }
        How::Kill => {
            let process = process_of(mesh, region).ok_or("the region has no process")?;
            kill(process, Signal::SIGKILL).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

async fn bring_back(mesh: &Mesh, region: usize, how: How) {
    match how {
        How::Cut => {
            for other in (0..mesh.regions.len()).filter(|other| *other != region) {
                mesh.heal(other, region).await;
            }
        }
        How::Kill => until("it starts", PATIENCE, || async { mesh.dev("start", region).await.code == 0 }).await,
    }
    until("the mesh is at rest", PATIENCE, || async { unsettled(mesh).await.is_none() }).await;
}

/// From the moment that the home is gone to the first ack under a newer epoch.
async fn one(mesh: &Mesh, group: &str, how: How) -> Result<Duration, String> {
    let mut found = None;
    let deadline = Instant::now() + PATIENCE;
    while found.is_none() && Instant::now() < deadline {
        found = home_of(mesh, group).await;
    }
    let (gone, epoch) = found.ok_or("the regions do not agree on the home")?;
    let speaker = Peer::connect(mesh, "ann", (gone + 1) % mesh.regions.len()).await;
    speaker.say(group, "before").await;
    let began = Instant::now();
    take_away(mesh, gone, how).await?;
    let newer = loop {
        let acked = |frame: &chaos_tests::Frame| {
            frame.value["type"] == "message.ack" && frame.value["payload"]["epoch"].as_u64() > Some(epoch)
        };
        if let Some(frame) = speaker.frames().into_iter().find(acked) {
            break frame.at;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("nothing was acked within {} s of the {how:?}", PATIENCE.as_secs()));
        }
        speaker.send(group, "while").await;
        tokio::time::sleep(STEADY).await;
    };
    let took = newer.duration_since(began);
    bring_back(mesh, gone, how).await;
    Ok(took)
}

async fn measure(runs: usize, how: &[How]) -> Result<bool, String> {
    let mesh = Mesh::quick(&["--processes"]).await;
    until("the mesh is at rest", PATIENCE, || async { unsettled(&mesh).await.is_none() }).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let mut times = Vec::new();
    for (number, how) in how.iter().cycle().take(runs).enumerate() {
        let took = one(&mesh, &group, *how).await?;
        println!("run {}: {how:?}, first ack after {:.1} s", number + 1, took.as_secs_f64());
        times.push((*how, took));
    }
    mesh.end().await;
    let told = |name: &str, of: &[Duration]| {
        if let Some((middle, most)) = middle_and_most(of) {
            let (middle, most) = (middle.as_secs_f64(), most.as_secs_f64());
            println!("{name}, {} runs: p50 {middle:.1} s, max {most:.1} s", of.len());
        }
    };
    for how in [How::Cut, How::Kill] {
        let of: Vec<Duration> = times.iter().filter(|(of, _)| *of == how).map(|(_, took)| *took).collect();
        told(&format!("{how:?}"), &of);
    }
    let all: Vec<Duration> = times.iter().map(|(_, took)| *took).collect();
    told("all", &all);
    Ok(all.iter().all(|took| *took <= WITHIN))
}

#[tokio::main]
async fn main() -> ExitCode {
    example(HELP, arguments(), async |(runs, how)| measure(runs, &how).await).await
}
