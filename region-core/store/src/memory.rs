//! The reference adapter: everything in memory, and a switch for every answer that a port may give.
//!
//! Nothing in here knows a clock: a call is held until the test releases it, so tests wait for events.

mod ports;
mod tables;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hearth_protocol::RegionId;
use hearth_protocol::record::StoreIdentity;
use parking_lot::Mutex;
use region_model::ports::{StoreCounters, StoreError, Stores};
use tables::Tables;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// The calls of the ports, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Call {
    Append,
    Load,
    Read,
    Dedup,
    Target,
    Changes,
    Deletes,
    TakeContent,
    Expired,
    TakeExpired,
    Scrub,
    ExpireDedup,
    Logs,
    Inspect,
    Tails,
    PutMarks,
    Remove,
    Placement,
    PutPlacements,
    Outbox,
    OutboxDone,
    Park,
    Parked,
    Unpark,
    PutCursors,
    Cursors,
    LastChanges,
    MapGet,
    MapRange,
    MapLast,
    MapWrite,
}

/// What a call does other than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Does nothing and answers `Unavailable`.
    Unavailable,
    /// Does it and answers `Unknown`.
    LostAnswer,
    /// Does nothing and answers `Unknown`.
    LostCall,
}

type Step = Box<dyn FnOnce(&mut State) + Send>;
type Delivery = Box<dyn FnOnce() + Send>;

/// A store in memory. Clones share it.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    counters: Arc<StoreCounters>,
    store: Uuid,
    region: RegionId,
    /// How many calls and answers are held, for tests that wait for it.
    held: watch::Sender<usize>,
}

struct State {
    tables: Tables,
    incarnation: u64,
    broken: Option<Arc<str>>,
    faults: HashMap<Call, VecDeque<Fault>>,
    gates: HashSet<Call>,
    /// Calls behind a gate, in the order in which they were made.
    calls: Vec<(Call, Step)>,
    holds_answers: bool,
    answers: Vec<Delivery>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("region", &self.shared.region).finish_non_exhaustive()
    }
}

/// The ports of one incarnation.
struct Handle {
    shared: Arc<Shared>,
    incarnation: u64,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("region", &self.shared.region)
            .field("incarnation", &self.incarnation)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty store of a region. The store's id follows from the region's name: tests are repeatable.
    #[must_use]
    pub fn new(region: RegionId) -> Self {
        let mut id = [0; 16];
        for (place, byte) in region.as_str().bytes().enumerate() {
            id[place % 16] ^= byte;
        }
        let store = uuid::Builder::from_custom_bytes(id).into_uuid();
        let state = State {
            tables: Tables::default(),
            incarnation: 1,
            broken: None,
            faults: HashMap::new(),
            gates: HashSet::new(),
            calls: Vec::new(),
            holds_answers: false,
            answers: Vec::new(),
        };
        let (state, held) = (Mutex::new(state), watch::Sender::new(0));
        Self { shared: Arc::new(Shared { state, counters: Arc::default(), store, region, held }) }
    }

    /// The ports of the present incarnation.
    #[must_use]
    pub fn stores(&self) -> Stores {
        let incarnation = self.shared.state.lock().incarnation;
        let handle = Arc::new(Handle { shared: Arc::clone(&self.shared), incarnation });
        Stores {
            log: Arc::clone(&handle) as _,
            placements: Arc::clone(&handle) as _,
            outbox: Arc::clone(&handle) as _,
            parking: Arc::clone(&handle) as _,
            cursors: Arc::clone(&handle) as _,
            last_changes: Arc::clone(&handle) as _,
            map: Arc::clone(&handle) as _,
            inspect: handle,
            identity: StoreIdentity { store: self.shared.store, region: self.shared.region.clone(), incarnation },
            counters: Arc::clone(&self.shared.counters),
        }
    }

    /// The next call of that kind has the fault; faults of one kind queue up.
    pub fn fail_next(&self, call: Call, fault: Fault) {
        self.shared.state.lock().faults.entry(call).or_default().push_back(fault);
    }

    /// From now on every call answers `Unavailable`, until a crash.
    pub fn break_down(&self, reason: &str) {
        self.shared.state.lock().broken = Some(Arc::from(reason));
    }

    /// Calls of that kind wait, in their order, until [`Memory::release`].
    pub fn hold(&self, call: Call) {
        self.shared.state.lock().gates.insert(call);
    }

    /// Performs the calls of that kind that wait, in their order, and holds no more.
    pub fn release(&self, call: Call) {
        let mut state = self.shared.state.lock();
        state.gates.remove(&call);
        let (released, kept) = std::mem::take(&mut state.calls).into_iter().partition(|(kind, _)| *kind == call);
        state.calls = kept;
        let released: Vec<(Call, Step)> = released;
        for (_, step) in released {
            step(&mut state);
        }
        self.shared.tell(&state);
    }

    /// From now on calls are performed at once and their answers wait for [`Memory::release_answers`].
    pub fn hold_answers(&self) {
        self.shared.state.lock().holds_answers = true;
    }

    /// Gives the answers that wait, the newest first: concurrent calls see them in an order other than theirs.
    pub fn release_answers(&self) {
        let mut state = self.shared.state.lock();
        state.holds_answers = false;
        for deliver in std::mem::take(&mut state.answers).into_iter().rev() {
            deliver();
        }
        self.shared.tell(&state);
    }

    /// Waits until that many calls and answers, or more, are held.
    pub async fn held(&self, count: usize) {
        let mut held = self.shared.held.subscribe();
        let reached = held.wait_for(|held| *held >= count).await.is_ok();
        debug_assert!(reached, "the sender lives in self");
    }

    /// The machine stops and starts again: what was not synced is forgotten, calls and answers that are held are lost
    /// (`Unknown`), ports handed out before answer `Unavailable`, and [`Memory::stores`] is the next incarnation. All
    /// switches are off again.
    pub fn crash(&self) {
        let mut state = self.shared.state.lock();
        state.tables.lose_unsynced();
        state.incarnation += 1;
        state.broken = None;
        state.faults.clear();
        state.gates.clear();
        state.calls.clear();
        state.holds_answers = false;
        state.answers.clear();
        self.shared.tell(&state);
    }
}

impl Shared {
    fn tell(&self, state: &State) {
        self.held.send_replace(state.calls.len() + state.answers.len());
    }
}

/// Calls of which the counters know.
fn commits(call: Call) -> bool {
    matches!(call, Call::Append | Call::Park | Call::Remove)
}

impl Handle {
    async fn call<T: Send + 'static>(
        &self,
        call: Call,
        operation: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let answered = {
            let mut state = self.shared.state.lock();
            if state.incarnation != self.incarnation {
                return Err(StoreError::Unavailable(Arc::from("the store has crashed")));
            }
            let (answer, answered) = oneshot::channel();
            let fault = state.faults.get_mut(&call).and_then(VecDeque::pop_front);
            let counters = Arc::clone(&self.shared.counters);
            let step = move |state: &mut State| {
                let result = perform(state, fault, operation);
                if result.is_ok() && commits(call) {
                    counters.commits.fetch_add(1, Relaxed);
                    counters.syncs.fetch_add(1, Relaxed);
                }
                // A caller that went away does not want its answer.
                let deliver = move || drop(answer.send(result));
                if state.holds_answers { state.answers.push(Box::new(deliver)) } else { deliver() }
            };
            if state.gates.contains(&call) {
                state.calls.push((call, Box::new(step)));
            } else {
                step(&mut state);
            }
            self.shared.tell(&state);
            answered
        };
        answered.await.unwrap_or(Err(StoreError::Unknown))
    }
}

fn perform<T>(
    state: &mut State,
    fault: Option<Fault>,
    operation: impl FnOnce(&mut Tables) -> T,
) -> Result<T, StoreError> {
    if let Some(reason) = &state.broken {
        return Err(StoreError::Unavailable(Arc::clone(reason)));
    }
    match fault {
        None => Ok(operation(&mut state.tables)),
        Some(Fault::Unavailable) => Err(StoreError::Unavailable(Arc::from("a fault was asked for"))),
        Some(Fault::LostCall) => Err(StoreError::Unknown),
        Some(Fault::LostAnswer) => {
            operation(&mut state.tables);
            Err(StoreError::Unknown)
        }
    }
}
