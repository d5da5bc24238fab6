//! What will happen in a run, as data: the mesh, the clients, and every fault with its times. A shrinker takes things
//! out of it; what is left happens at the same times as before.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// Microseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000;
/// Faults begin from here on: conversations are made before.
const FIRST_FAULT: u64 = 3 * SECOND;
/// Events of the history for each time that a client does something.
const EVENTS_OF_AN_ACT: u64 = 10;
/// Room is made for no more events than this beforehand.
const MOST_EVENTS: usize = 1 << 22;
/// Of a run, in percent: faults end and clients send up to here; the rest shows that everything comes to its end.
const CALM_AFTER: u64 = 85;

/// What goes wrong, or is done by an operator. Regions are named by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// Nothing passes between two regions.
    Cut(usize, usize),
    /// Nothing passes from one region to another; back it does.
    CutOneWay(usize, usize),
    /// A region is cut off from all others.
    Isolate(usize),
    /// A part of the frames between two regions is lost: in a hundred, so many.
    Loss(usize, usize, u64),
    /// Frames between two regions come twice.
    Duplicate(usize, usize),
    /// Frames between two regions take long and overtake each other where they are of different logs.
    Reorder(usize, usize),
    /// The process dies: what it had handed to the store is done up to some point, unheard.
    Crash(usize),
    /// The machine loses power: what was not synced is gone.
    PowerCut(usize),
    /// The process stands still and goes on.
    Pause(usize),
    /// Every operation of the store takes this many times longer.
    SlowDisk(usize, u64),
    /// The next sync fails: the region stops, and comes back later.
    FailedSync(usize),
    /// The wall clock jumps by milliseconds, and back.
    ClockJump(usize, i64),
    /// The region's clients lose their connections at once.
    Disconnect(usize),
    /// The home of a conversation, by number, moves to a region.
    Move(usize, usize),
    /// All homes of a region move away.
    Drain(usize),
    /// The machine is gone with its disk: the region comes back over an empty store.
    StoreLost(usize),
    /// The machine is gone with its disk: the region comes back over a copy that is so many seconds old or older.
    StoreRestored(usize, u64),
    /// The voters of a conversation, by number, are from now on so many of the regions, from this one on.
    Voters(usize, usize, usize),
    /// An operator erases a client, by number, in a conversation of its own, by number.
    Erase(usize, usize),
    /// The floor of a conversation, by number, goes up: of what stands above it, over so many in a hundred.
    Floor(usize, u64),
    /// A region is out of reach of all others, and an operator there fences it by hand as soon as the map lets it.
    FenceByHand(usize),
    /// The machine loses power the moment that the region hands its store such a write: nothing of that is done.
    PowerCutAt(usize, Aim),
    /// The node of a region is drained within so many seconds, and serves again at the end: sessions leave it, homes stay.
    DrainNode(usize, u64),
}

/// The write at which power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aim {
    /// A send is parked.
    Park,
    /// A home or a replica appends entries.
    Append,
    /// A voter promises to take nothing below an epoch.
    Promise,
}

impl FaultKind {
    /// All names, in the order of the table.
    pub const NAMES: [&'static str; 23] = [
        "cut",
        "cut-one-way",
        "isolate",
        "loss",
        "duplicate",
        "reorder",
        "crash",
        "power-cut",
        "pause",
        "slow-disk",
        "failed-sync",
        "clock-jump",
        "disconnect",
        "move",
        "drain",
        "store-lost",
        "store-restored",
        "voters",
        "erase",
        "floor",
        "fence-by-hand",
        "power-cut-at",
        "drain-node",
    ];
    /// Those that happen only in a plan that was asked for them.
    pub const ASKED_FOR: [&'static str; 7] =
        ["store-lost", "store-restored", "voters", "erase", "floor", "fence-by-hand", "power-cut-at"];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut(..) => "cut",
            Self::CutOneWay(..) => "cut-one-way",
            Self::Isolate(_) => "isolate",
            Self::Loss(..) => "loss",
            Self::Duplicate(..) => "duplicate",
            Self::Reorder(..) => "reorder",
            Self::Crash(_) => "crash",
            Self::PowerCut(_) => "power-cut",
            Self::Pause(_) => "pause",
            Self::SlowDisk(..) => "slow-disk",
            Self::FailedSync(_) => "failed-sync",
            Self::ClockJump(..) => "clock-jump",
            Self::Disconnect(_) => "disconnect",
            Self::Move(..) => "move",
            Self::Drain(_) => "drain",
            Self::StoreLost(_) => "store-lost",
            Self::StoreRestored(..) => "store-restored",
            Self::Voters(..) => "voters",
            Self::Erase(..) => "erase",
            Self::Floor(..) => "floor",
            Self::FenceByHand(_) => "fence-by-hand",
            Self::PowerCutAt(..) => "power-cut-at",
            Self::DrainNode(..) => "drain-node",
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its place in the whole plan of its seed: what a replay line names it by.
    pub number: u32,
    /// When it begins, in microseconds.
    pub at: u64,
    /// How long it lasts, in microseconds.
    pub lasts: u64,
    /// What.
    pub kind: FaultKind,
}

/// How large a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Simulated seconds, 10 to 86,400.
    pub seconds: u64,
    /// Regions, 2 to 6.
    pub regions: usize,
    /// Clients, 2 to 1,000.
    pub clients: usize,
    /// Milliseconds after which a client does something, in the mean, 10 to 60,000.
    pub pace: u64,
    /// Whether regions are cut off one after the other, so that homes fail over again and again.
    pub successions: bool,
    /// Whether one region loses its store now and then.
    pub stores: bool,
    /// Whether conversations get other voters now and then.
    pub voters: bool,
    /// Whether clients are erased, and floors raised, now and then.
    pub erasures: bool,
    /// Whether regions are out of reach and fenced by hand now and then.
    pub by_hand: bool,
    /// Whether power fails at chosen writes now and then.
    pub aimed: bool,
    /// Whether groups are large for their regions, and many join them.
    pub joins: bool,
}

/// Clients act this often unless told otherwise: with what faults hold up, each sends more than once a second.
pub const PACE: u64 = 400;

impl Default for Size {
    fn default() -> Self {
        Self {
            seconds: 120,
            regions: 3,
            clients: 50,
            pace: PACE,
            successions: false,
            stores: false,
            voters: false,
            erasures: false,
            by_hand: false,
            aimed: false,
            joins: false,
        }
    }
}

/// What will happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where all chances come from.
    pub seed: u64,
    /// How large it is.
    pub size: Size,
    /// The faults, by their times; drains of nodes behind all others.
    pub faults: Vec<Fault>,
    /// The clients that take part, by number.
    pub clients: Vec<usize>,
    /// When clients stop sending and every fault has ended, in microseconds.
    pub calm_at: u64,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64, size: Size) -> Self {
        let calm_at = size.seconds * SECOND * CALM_AFTER / 100;
        let mut random = Random::of(seed, "faults", 0);
        let mut faults = Vec::new();
        let mut at = FIRST_FAULT;
        loop {
            at += random.between(SECOND / 2, 9 * SECOND / 2);
            if at + SECOND >= calm_at {
                break;
            }
            let (kind, lasts) = draw(&mut random, size.regions);
            let number = u32::try_from(faults.len()).unwrap_or(u32::MAX);
            faults.push(Fault { number, at, lasts: lasts.min(calm_at - at), kind });
        }
        if size.successions {
            succeed(&mut faults, &mut random, size.regions, calm_at);
        }
        // Of chances of their own: the plan is otherwise the one without them.
        if size.stores {
            lose_stores(&mut faults, seed, size.regions, calm_at);
        }
        if size.voters {
            change_voters(&mut faults, seed, size.regions, calm_at);
        }
        if size.erasures {
            erase(&mut faults, seed, size.clients, calm_at);
        }
        if size.by_hand {
            fence_by_hand(&mut faults, seed, size.regions, calm_at);
        }
        if size.aimed {
            cut_power_at_writes(&mut faults, seed, size.regions, calm_at);
        }
        for (number, fault) in (0..).zip(&mut faults) {
            fault.number = number;
        }
        // Behind the others, so that those keep the numbers that they had before nodes were drained.
        drain_nodes(&mut faults, seed, size.regions, calm_at);
        Self { seed, size, faults, clients: (0..size.clients).collect(), calm_at }
    }

    /// Only these faults, by number.
    #[must_use]
    pub fn with_faults(mut self, numbers: &[u32]) -> Self {
        self.faults.retain(|fault| numbers.contains(&fault.number));
        self
    }

    /// Only these clients.
    #[must_use]
    pub fn with_clients(mut self, numbers: &[usize]) -> Self {
        self.clients.retain(|client| numbers.contains(client));
        self
    }

    /// Stops sending and heals at this second, if that is earlier.
    #[must_use]
    pub fn calm_from(mut self, second: u64) -> Self {
        self.calm_at = self.calm_at.min(second * SECOND);
        self.faults.retain(|fault| fault.at < self.calm_at);
        for fault in &mut self.faults {
            fault.lasts = fault.lasts.min(self.calm_at - fault.at);
        }
        self
    }

    /// When the run is over unless something is still to come to its end, in microseconds.
    #[must_use]
    pub fn ends_at(&self) -> u64 {
        self.calm_at + self.size.seconds * SECOND * (100 - CALM_AFTER) / 100
    }

    /// About as many events as its history will have, rather more: what clients do is seen by others several times.
    pub(crate) fn history_events(&self) -> usize {
        let acts = self.clients.len() as u64 * self.size.seconds * 1_000 / self.size.pace.max(1);
        usize::try_from(acts * EVENTS_OF_AN_ACT).unwrap_or(0).min(MOST_EVENTS)
    }

    /// What to type to see this very run again.
    #[must_use]
    pub fn replay(&self) -> String {
        let Size { seconds, regions, clients, pace, successions, stores, voters, erasures, by_hand, aimed, joins } =
            self.size;
        let whole = Self::new(self.seed, self.size);
        let mut line =
            format!("hearth sim --seed {} --seconds {seconds} --regions {regions} --clients {clients}", self.seed);
        if pace != PACE {
            line += &format!(" --pace {pace}");
        }
        let asked_for = [
            (successions, " --successions"),
            (stores, " --stores"),
            (voters, " --voters"),
            (erasures, " --erasures"),
            (by_hand, " --by-hand"),
            (aimed, " --aimed"),
            (joins, " --joins"),
        ];
        line.extend(asked_for.into_iter().filter(|(asked, _)| *asked).map(|(_, flag)| flag));
        let list = |numbers: Vec<String>| if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
        if self.calm_at != whole.calm_at {
            line += &format!(" --calm-from {}", self.calm_at / SECOND);
        }
        if self.faults.len() != whole.faults.len() {
            line += &format!(" --faults {}", list(self.faults.iter().map(|fault| fault.number.to_string()).collect()));
        }
        if self.clients != whole.clients {
            line += &format!(" --only-clients {}", list(self.clients.iter().map(ToString::to_string).collect()));
        }
        line
    }
}

/// Instead of what keeps regions apart by chance, one region after the other is out of reach for longer than its lease;
/// the next one goes about when it comes back, so that who seals meets lines of more than one epoch.
fn succeed(faults: &mut Vec<Fault>, random: &mut Random, regions: usize, calm_at: u64) {
    let apart = |kind: FaultKind| {
        matches!(kind, FaultKind::Isolate(_) | FaultKind::Pause(_) | FaultKind::PowerCut(_) | FaultKind::FailedSync(_))
    };
    faults.retain(|fault| !apart(fault.kind) && fault.number % 2 == 0);
    let (mut at, mut region) = (FIRST_FAULT, random.below(regions));
    while at + 3 * SECOND < calm_at {
        let lasts = random.between(14 * SECOND, 22 * SECOND);
        let kind = match random.below(4) {
            0 => FaultKind::Pause(region),
            1 => FaultKind::Crash(region),
            _ => FaultKind::Isolate(region),
        };
        faults.push(Fault { number: 0, at, lasts: lasts.min(calm_at - at), kind });
        at += lasts + random.between(0, 5 * SECOND);
        at -= random.between(0, 3 * SECOND);
        region = (region + 1 + random.below(regions - 1)) % regions;
    }
    faults.sort_by_key(|fault| fault.at);
}

/// One region of a run loses its store again and again, with time between to catch up: two that lose theirs may lose
/// both copies of what was acked with two.
fn lose_stores(faults: &mut Vec<Fault>, seed: u64, regions: usize, calm_at: u64) {
    let mut random = Random::of(seed, "stores", 0);
    let region = random.below(regions);
    let mut at = FIRST_FAULT + random.between(8 * SECOND, 25 * SECOND);
    while at + 3 * SECOND < calm_at {
        let lasts = random.between(SECOND, 14 * SECOND);
        let kind = match random.below(2) {
            0 => FaultKind::StoreLost(region),
            _ => FaultKind::StoreRestored(region, random.between(5, 40)),
        };
        faults.push(Fault { number: 0, at, lasts: lasts.min(calm_at - at), kind });
        at += lasts + random.between(15 * SECOND, 40 * SECOND);
    }
    faults.sort_by_key(|fault| fault.at);
}

/// Conversations get two or three voters of their own now and then.
fn change_voters(faults: &mut Vec<Fault>, seed: u64, regions: usize, calm_at: u64) {
    let mut random = Random::of(seed, "voters", 0);
    let mut at = FIRST_FAULT;
    loop {
        at += random.between(SECOND, 7 * SECOND);
        if at + 5 * SECOND >= calm_at {
            break;
        }
        let kind = FaultKind::Voters(random.below(1_000), random.below(regions), 2 + random.below(2));
        faults.push(Fault { number: 0, at, lasts: 5 * SECOND, kind });
    }
    faults.sort_by_key(|fault| fault.at);
}

/// Clients are erased now and then, each in one of its conversations, and floors raised.
fn erase(faults: &mut Vec<Fault>, seed: u64, clients: usize, calm_at: u64) {
    let mut random = Random::of(seed, "erasures", 0);
    let mut at = FIRST_FAULT;
    loop {
        at += random.between(SECOND, 5 * SECOND);
        if at + SECOND >= calm_at {
            break;
        }
        let kind = match random.below(2) {
            0 => FaultKind::Erase(random.below(clients), random.below(1_000)),
            _ => FaultKind::Floor(random.below(1_000), random.between(1, 99)),
        };
        faults.push(Fault { number: 0, at, lasts: SECOND, kind });
    }
    faults.sort_by_key(|fault| fault.at);
}

/// A region is out of reach and fenced by hand now and then, in the mean sooner than it would be without anybody's help.
fn fence_by_hand(faults: &mut Vec<Fault>, seed: u64, regions: usize, calm_at: u64) {
    let mut random = Random::of(seed, "by-hand", 0);
    let mut at = FIRST_FAULT;
    loop {
        at += random.between(2 * SECOND, 20 * SECOND);
        if at + 3 * SECOND >= calm_at {
            break;
        }
        let lasts = random.between(6 * SECOND, 16 * SECOND).min(calm_at - at);
        faults.push(Fault { number: 0, at, lasts, kind: FaultKind::FenceByHand(random.below(regions)) });
        at += lasts;
    }
    faults.sort_by_key(|fault| fault.at);
}

/// Power fails now and then at the moment of a write: one region is aimed at after the other.
fn cut_power_at_writes(faults: &mut Vec<Fault>, seed: u64, regions: usize, calm_at: u64) {
    let mut random = Random::of(seed, "aimed", 0);
    let mut at = FIRST_FAULT;
    loop {
        at += random.between(SECOND, 8 * SECOND);
        if at + 3 * SECOND >= calm_at {
            break;
        }
        let lasts = random.between(2 * SECOND, 12 * SECOND).min(calm_at - at);
        let aim = [Aim::Park, Aim::Append, Aim::Promise][random.below(3)];
        faults.push(Fault { number: 0, at, lasts, kind: FaultKind::PowerCutAt(random.below(regions), aim) });
        at += lasts;
    }
    faults.sort_by_key(|fault| fault.at);
}

/// The node of a region is drained now and then. Some drains are taken back before they are over.
fn drain_nodes(faults: &mut Vec<Fault>, seed: u64, regions: usize, calm_at: u64) {
    let mut random = Random::of(seed, "drains", 0);
    let mut at = FIRST_FAULT;
    loop {
        at += random.between(5 * SECOND, 20 * SECOND);
        if at + 3 * SECOND >= calm_at {
            break;
        }
        let within = random.between(1, 10);
        let lasts = random.between(SECOND, (within + 5) * SECOND).min(calm_at - at);
        let number = u32::try_from(faults.len()).unwrap_or(u32::MAX);
        faults.push(Fault { number, at, lasts, kind: FaultKind::DrainNode(random.below(regions), within) });
        at += lasts;
    }
}

/// One fault and how long it lasts.
fn draw(random: &mut Random, regions: usize) -> (FaultKind, u64) {
    let one = random.below(regions);
    let other = (one + 1 + random.below(regions - 1)) % regions;
    let long = random.between(SECOND, 12 * SECOND);
    match random.below(19) {
        0 | 1 => (FaultKind::Cut(one, other), long),
        2 | 3 => (FaultKind::CutOneWay(one, other), long),
        4 => (FaultKind::Isolate(one), 2 * long),
        5 => (FaultKind::Loss(one, other, random.between(2, 40)), long),
        6 => (FaultKind::Duplicate(one, other), long),
        7 => (FaultKind::Reorder(one, other), long),
        8 | 9 => (FaultKind::Crash(one), long),
        10 => (FaultKind::PowerCut(one), long),
        11 => (FaultKind::Pause(one), random.between(SECOND / 10, 12 * SECOND)),
        12 => (FaultKind::SlowDisk(one, random.between(5, 200)), long),
        13 => (FaultKind::FailedSync(one), long),
        14 => {
            let jump = i64::try_from(random.between(0, 120_000)).unwrap_or(0) - 60_000;
            (FaultKind::ClockJump(one, jump), long)
        }
        15 => (FaultKind::Disconnect(one), SECOND),
        16 | 17 => (FaultKind::Move(random.below(1_000), one), 5 * SECOND),
        _ => (FaultKind::Drain(one), 5 * SECOND),
    }
}
