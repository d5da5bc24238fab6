//! Performs the faults of a plan on the processes and links of a mesh, and looks at it from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::plan::{Kind, Plan};
use crate::mesh::Mesh;
use crate::process::run;
use crate::{until, web};

/// Longest wait for a region to serve after its start.
const STARTS: Duration = Duration::from_secs(30);
/// Slots of a mesh.
const SLOTS: f64 = 4_096.0;
/// Tries to tell a region of cuts.
const TELL_TRIES: usize = 5;
/// Between two tries of a verb that is refused because the mesh has not noticed yet.
const VERB_AGAIN: Duration = Duration::from_millis(500);

/// When a fault was on.
#[derive(Clone, Copy, Debug)]
pub struct When {
    /// Right before it was done.
    pub began: Instant,
    /// Right after it was undone.
    pub ended: Instant,
}

/// Performs a plan.
#[derive(Debug)]
pub struct Driver<'a> {
    mesh: &'a Mesh,
    plan: &'a Plan,
    /// The cuts that each region knows of.
    told: BTreeMap<usize, BTreeSet<(usize, usize)>>,
    began: BTreeMap<usize, Instant>,
    by_hand: BTreeMap<usize, JoinHandle<bool>>,
    /// What was done, by the faults' places in the plan.
    pub done: BTreeMap<usize, When>,
    /// Fences that the region map had, each by its region and number.
    pub fences: BTreeSet<(String, u64)>,
}

/// The process of a region: that child of the supervisor which serves it.
#[must_use]
pub fn process_of(mesh: &Mesh, region: usize) -> Option<Pid> {
    let supervisor = mesh.process().pid();
    let name = &mesh.regions[region].id;
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok());
    let serves = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in brackets: the state and the parent.
        let mut rest = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) = (rest.next().unwrap_or_default(), rest.next().unwrap_or_default());
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let named = line.split(|byte| *byte == 0).any(|word| word == name.as_bytes());
        state != "Z" && parent == supervisor.to_string() && named
    };
    pids.filter(|pid| *pid != supervisor).find(serves).map(Pid::from_raw)
}

impl<'a> Driver<'a> {
    /// For one mesh and one plan.
    #[must_use]
    pub fn new(mesh: &'a Mesh, plan: &'a Plan) -> Self {
        Self {
            mesh,
            plan,
            told: (0..mesh.regions.len()).map(|region| (region, BTreeSet::new())).collect(),
            began: BTreeMap::new(),
            by_hand: BTreeMap::new(),
            done: BTreeMap::new(),
            fences: BTreeSet::new(),
        }
    }

    /// Performs everything, by the plan's times from `start` on.
    ///
    /// # Panics
    /// When the mesh does not do what it is told to: a region does not start, or cuts are not taken.
    pub async fn perform(&mut self, start: Instant, say: impl Fn(&str)) {
        for step in self.plan.steps() {
            tokio::time::sleep_until((start + step.at).into()).await;
            let fault = self.plan.faults[step.fault];
            if step.begins {
                say(&format!("{fault} begins"));
                self.began.insert(step.fault, Instant::now());
                self.begin(step.fault, fault.kind).await;
                self.tell(step.at).await;
            } else {
                self.end(step.fault, fault.kind).await;
                self.tell(step.at).await;
                let (began, ended) = (self.began[&step.fault], Instant::now());
                self.done.insert(step.fault, When { began, ended });
                self.look().await;
                say(&format!("{fault} is over; {} fences so far", self.fences.len()));
            }
        }
    }

    fn signal(&self, region: usize, signal: Signal) {
        let pid = process_of(self.mesh, region).expect("a process to signal");
        kill(pid, signal).expect("a signal");
    }

    async fn begin(&mut self, number: usize, kind: Kind) {
        match kind {
            Kind::Kill(region) => self.signal(region, Signal::SIGKILL),
            Kind::Stop(region) => self.signal(region, Signal::SIGSTOP),
            Kind::FailOverByHand(region) => {
                self.signal(region, Signal::SIGKILL);
                let data = self.mesh.data().to_string_lossy().into_owned();
                let verb = fail_over(self.mesh.regions[region].id.clone(), data);
                self.by_hand.insert(number, tokio::spawn(verb));
            }
            // The directions of all faults are told together.
            Kind::Isolate(_)
            | Kind::IsolateOutward(_)
            | Kind::IsolateInward(_)
            | Kind::Cut(..)
            | Kind::CutOneWay(..) => {}
        }
    }

    async fn end(&mut self, number: usize, kind: Kind) {
        match kind {
            Kind::Kill(region) => self.start(region).await,
            Kind::Stop(region) => self.signal(region, Signal::SIGCONT),
            Kind::FailOverByHand(region) => {
                let verb = self.by_hand.remove(&number).expect("it began");
                assert!(verb.await.expect("it runs"), "the failover by hand of {region} was not made");
                self.start(region).await;
            }
            Kind::Isolate(_)
            | Kind::IsolateOutward(_)
            | Kind::IsolateInward(_)
            | Kind::Cut(..)
            | Kind::CutOneWay(..) => {}
        }
        if let Some(region) = kind.stops() {
            // It may not have heard of what was cut or healed meanwhile.
            self.told.remove(&region);
        }
    }

    async fn start(&self, region: usize) {
        let exit = self.mesh.dev("start", region).await;
        let http = self.mesh.regions[region].http.clone();
        // A link that another fault holds down keeps the verb from saying that all is well.
        until(&format!("region {region} serves after its start, which said {exit:?}"), STARTS, || async {
            let ready = web::try_call(None, &http, "GET", "/readyz", None, None, &[]).await;
            ready.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Tells every region that runs which directions are cut now.
    async fn tell(&mut self, at: Duration) {
        let (cuts, stopped) = (self.plan.cuts_at(at), self.plan.stopped_at(at));
        let all = (0..self.mesh.regions.len()).flat_map(|from| {
            let others = (0..self.mesh.regions.len()).filter(move |to| *to != from);
            others.map(move |to| (from, to))
        });
        let all: Vec<(usize, usize)> = all.collect();
        for region in (0..self.mesh.regions.len()).filter(|region| !stopped.contains(region)) {
            for direction in &all {
                let known = self.told.get(&region).map(|told| told.contains(direction));
                if known != Some(cuts.contains(direction)) {
                    self.tell_one(region, *direction, cuts.contains(direction)).await;
                }
            }
            self.told.insert(region, cuts.clone());
        }
    }

    async fn tell_one(&self, region: usize, (from, to): (usize, usize), cut: bool) {
        let (from, to) = (&self.mesh.regions[from].id, &self.mesh.regions[to].id);
        let state = if cut { "cut" } else { "up" };
        let body = json!({ "from": from, "to": to, "state": state, "both": false });
        let mut last = String::new();
        for _ in 0..TELL_TRIES {
            let path = "/api/v1/dev/links?passed=true";
            let http = &self.mesh.regions[region].http;
            match web::try_call(None, http, "POST", path, Some(body.clone()), None, &[]).await {
                Ok(answer) if answer.status == 200 => return,
                Ok(answer) => last = answer.text,
                Err(error) => last = error,
            }
            tokio::time::sleep(VERB_AGAIN).await;
        }
        panic!("region {region} does not take {body}: {last}");
    }

    /// Notes the fences that the region map has.
    pub async fn look(&mut self) {
        for row in status(self.mesh).await["regions"].as_array().into_iter().flatten() {
            if let (Some(region), Some(fence)) = (row["region"].as_str(), row["fence"].as_u64().filter(|of| *of > 0)) {
                self.fences.insert((region.to_owned(), fence));
            }
        }
    }
}

async fn fail_over(region: String, data: String) -> bool {
    let deadline = Instant::now() + super::plan::FAILS_OVER * 2;
    while Instant::now() < deadline {
        let exit = run(&["region", "failover", &region, "--json", "--data", &data]).await;
        if exit.code == 0 {
            return true;
        }
        // Its neighbours have not noticed yet that it is gone.
        tokio::time::sleep(VERB_AGAIN).await;
    }
    false
}

async fn verb(mesh: &Mesh, words: &[&str]) -> Value {
    let data = mesh.data().to_string_lossy().into_owned();
    run(&[words, &["--json", "--data", &data]].concat()).await.json()
}

/// `hearth region status`.
pub async fn status(mesh: &Mesh) -> Value {
    verb(mesh, &["region", "status"]).await
}

/// `hearth region losses`.
pub async fn losses(mesh: &Mesh) -> Value {
    verb(mesh, &["region", "losses"]).await
}

/// `hearth home show`.
pub async fn home(mesh: &Mesh, conversation: &str) -> Value {
    verb(mesh, &["home", "show", conversation]).await
}

/// Fences that the regions committed since they started.
pub async fn fences(mesh: &Mesh) -> u64 {
    let mut sum = 0.0;
    for region in 0..mesh.regions.len() {
        sum += mesh.metric(region, "hearth_map_fences_total", "").await;
    }
    // A counter is whole and small.
    sum as u64
}

/// What of the mesh has not come to rest; `None` when every region takes part and holds its lease, every slot has
/// a steward, and nothing is failing over, set apart or parked.
pub async fn unsettled(mesh: &Mesh) -> Option<String> {
    for asked in 0..mesh.regions.len() {
        let answer = web::try_call(None, &mesh.regions[asked].http, "GET", "/metrics", None, None, &[]).await;
        let Ok(answer) = answer else { return Some(format!("region {asked} does not answer")) };
        let sum = |name: &str, labels: &str| -> f64 {
            let of_it = answer.text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
            of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        if sum("hearth_region_state{", "state=\"active\"") < mesh.regions.len() as f64 {
            return Some(format!("not every region is active, says region {asked}"));
        }
        if sum("hearth_region_slots{", "") != SLOTS {
            return Some(format!("region {asked} knows slots without a steward"));
        }
        if sum("hearth_lease_seconds{", "") <= 0.0 {
            return Some(format!("region {asked} holds no lease"));
        }
        for gauge in ["hearth_home_failing_over", "hearth_home_tails", "hearth_home_parked"] {
            let value = sum(&format!("{gauge}{{"), "");
            if value > 0.0 {
                return Some(format!("{gauge} of region {asked} is {value}"));
            }
        }
    }
    None
}
