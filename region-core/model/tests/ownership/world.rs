//! A mesh around the real decision types: regions with their disks, a network, the region map and one placement.

use hearth_protocol::{Epoch, Level};
use region_model::ownership::{
    Append, Flaw, Held, Home, LineEntry, Migration, Opener, OpeningAt, Placing, Replica, Right, Rules, Said,
    StageWrite, Standing, Write,
};

use crate::entry::{Entry, Packet, insert};

/// How far an exploration goes and what is wrong in it.
#[derive(Clone, Debug)]
pub(crate) struct Bounds {
    /// Regions, the voters first.
    pub(crate) regions: u8,
    /// Voters of the first placement: regions 0 to this.
    pub(crate) voters: u8,
    /// The level of each message; message 1 is the first.
    pub(crate) messages: Vec<Level>,
    /// The conversation's level, which only the mark may ask for in addition.
    pub(crate) conversation: Level,
    /// The lowest level above `region` that the placement names.
    pub(crate) lowest: Level,
    pub(crate) failovers: u8,
    pub(crate) crashes: u8,
    pub(crate) moves: Moves,
    pub(crate) replacements: Replacements,
    /// Promises that voters give to stewards which never place.
    pub(crate) strays: u8,
    /// A fence does not wait for the lease: drift beyond every bound.
    pub(crate) wrong_clocks: bool,
    /// A fence makes the lease lapse in the same step, and the region renews it at once, as another generation. It
    /// leaves out states in which less can happen; what a lease is for (G5) needs them.
    pub(crate) lapse_with_fence: bool,
    /// The operator opens with one sealed voter.
    pub(crate) accept_loss: bool,
    /// Seals are in memory only.
    pub(crate) seal_forgotten: bool,
    /// The mark moves and is told.
    pub(crate) marks: bool,
    /// Messages are placements, appended only onto the one that they replace: 1 and 2 want the same epoch, 3 the next.
    pub(crate) placements: bool,
    /// Tails are offered.
    pub(crate) readmission: bool,
    /// From every state it is tried whether a majority side can go on.
    pub(crate) progress: bool,
    pub(crate) flaws: Vec<Flaw>,
    /// Of the properties, only those whose names begin so; all when empty.
    pub(crate) judged: Vec<&'static str>,
}

/// Moves of an exploration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moves {
    /// How many begin.
    pub(crate) count: u8,
    /// Where one may go: the new home and its voters.
    pub(crate) targets: Vec<(u8, Vec<u8>)>,
}

/// Stores that are lost and replaced.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Replacements {
    /// How many.
    pub(crate) count: u8,
    /// Whether an older copy comes back instead of an empty store.
    pub(crate) older: bool,
}

impl Bounds {
    pub(crate) fn new(voters: u8, messages: &[Level], failovers: u8) -> Self {
        Self {
            regions: voters,
            voters,
            messages: messages.to_vec(),
            conversation: Level::Region,
            lowest: Level::TwoRegions,
            failovers,
            crashes: 0,
            moves: Moves::default(),
            replacements: Replacements::default(),
            strays: 0,
            wrong_clocks: false,
            accept_loss: false,
            lapse_with_fence: false,
            seal_forgotten: false,
            marks: false,
            placements: false,
            readmission: false,
            progress: false,
            flaws: Vec::new(),
            judged: Vec::new(),
        }
    }

    /// With something wrong.
    pub(crate) fn flawed(mut self, flaws: &[Flaw]) -> Self {
        self.flaws = flaws.to_vec();
        self
    }

    /// The messages that a client may send: those of one level are alike, so a second is sent only after the first.
    pub(crate) fn sendable(&self, net: &[Packet]) -> u8 {
        let all = short(self.messages.len() as u64);
        if self.placements || self.messages.windows(2).any(|two| two[0] != two[1]) {
            return all;
        }
        let sent = net.iter().map(|packet| match packet {
            Packet::Append { entry, .. } => entry.message,
            Packet::Mark { .. } | Packet::Holds { .. } => 0,
        });
        all.min(sent.filter(|message| *message <= all).max().unwrap_or(0) + 1)
    }

    pub(crate) fn level_of(&self, message: u8) -> Level {
        self.messages.get(usize::from(message) - 1).copied().unwrap_or(Level::TwoRegions)
    }

    /// The highest level in use: what a move has to copy for.
    pub(crate) fn highest(&self) -> Level {
        self.messages.iter().copied().max().unwrap_or(Level::TwoRegions).max(self.lowest)
    }
}

impl Rules for Bounds {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaws.contains(&flaw)
    }
}

/// One region: what is on its disk, then what lives in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Region {
    pub(crate) replica: Replica<Entry>,
    pub(crate) log: Vec<Entry>,
    pub(crate) staged: Vec<Entry>,
    pub(crate) tails: Vec<Vec<Entry>>,
    /// Dedup records that outlived their entries; only under that flaw.
    pub(crate) outlived: Vec<Entry>,
    /// The home, and the generation under which it was opened.
    pub(crate) home: Option<(Home<u8, u32>, u8)>,
    pub(crate) moving: Option<Migration<u8, u32>>,
    /// The generation that the lease is held for.
    pub(crate) lease: Option<u8>,
}

impl Region {
    /// One that holds nothing.
    pub(crate) fn empty() -> Self {
        Self {
            replica: Replica::new(Standing::empty()),
            log: Vec::new(),
            staged: Vec::new(),
            tails: Vec::new(),
            outlived: Vec::new(),
            home: None,
            moving: None,
            lease: Some(0),
        }
    }

    pub(crate) fn right(&self) -> Right {
        Right { leased: self.lease.is_some(), generation: u64::from(self.lease.unwrap_or(0)) }
    }

    /// Whether the home here may sequence: its lease is of the generation that it was opened under.
    pub(crate) fn may_sequence(&self, bounds: &Bounds) -> bool {
        self.home.as_ref().is_some_and(|(home, generation)| {
            home.is_open(self.replica.standing()) || bounds.has(Flaw::CountAfterSeal) && self.lease == Some(*generation)
        }) && self.lease.is_some_and(|lease| {
            bounds.has(Flaw::FenceForgiven) || self.home.as_ref().is_some_and(|(_, generation)| lease == *generation)
        })
    }
}

/// A message that was acked: where, and at which level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Acked {
    pub(crate) epoch: u8,
    pub(crate) sequence: u8,
    pub(crate) message: u8,
    pub(crate) level: Level,
}

/// What was done so far, against the bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Counts {
    pub(crate) failovers: u8,
    pub(crate) crashes: u8,
    pub(crate) strays: u8,
    pub(crate) moves: u8,
    pub(crate) replacements: u8,
}

/// What must not happen and cannot be seen in the state afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Alarms {
    /// An ack of an epoch after a newer one had opened.
    pub(crate) stale_ack: bool,
    /// An ack while fewer voters than its level asks for held the entry under an accepted epoch of its home.
    pub(crate) dishonest_ack: bool,
    /// An epoch opened without an acked entry that its loss statement does not name.
    pub(crate) unnamed_loss: bool,
    /// A replica found its accepted line to be another than its home's.
    pub(crate) conflict: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) regions: Vec<Region>,
    pub(crate) net: Vec<Packet>,
    pub(crate) placing: Placing<u8, u32>,
    /// The region map: how often each region was fenced.
    pub(crate) generations: Vec<u8>,
    pub(crate) opener: Option<Opener<u8, u32>>,
    pub(crate) acks: Vec<Acked>,
    /// Entries shown anywhere, when marks move.
    pub(crate) shown: Vec<Entry>,
    pub(crate) readmitted: bool,
    pub(crate) counts: Counts,
    pub(crate) alarms: Alarms,
}

/// The conversation's epoch that a message of a placement log stands for.
pub(crate) fn placed_epoch(message: u8) -> u8 {
    if message <= 2 { 1 } else { message - 1 }
}

pub(crate) fn short(number: u64) -> u8 {
    u8::try_from(number).expect("models are small")
}

impl World {
    pub(crate) fn begin(bounds: &Bounds) -> Self {
        let opening = OpeningAt { epoch: Epoch(1), first: 0, previous: 0 };
        let placing = Placing { home: 0, generation: 0, opening, voters: (0..bounds.voters).collect() };
        let mut world = Self {
            regions: vec![Region::empty(); usize::from(bounds.regions)],
            net: Vec::new(),
            placing,
            generations: vec![0; usize::from(bounds.regions)],
            opener: None,
            acks: Vec::new(),
            shown: Vec::new(),
            readmitted: false,
            counts: Counts::default(),
            alarms: Alarms::default(),
        };
        world.open(bounds, 0);
        world
    }

    pub(crate) fn region(&mut self, region: u8) -> &mut Region {
        &mut self.regions[usize::from(region)]
    }

    pub(crate) fn fenced(&self, region: u8, generation: u64) -> bool {
        u64::from(self.generations[usize::from(region)]) != generation
    }

    /// One atomic write of a region.
    pub(crate) fn commit(&mut self, bounds: &Bounds, region: u8, write: Option<Write<Entry>>) {
        let at = self.region(region);
        let Some(write) = write else { return };
        assert_eq!(write.standing, *at.replica.standing(), "a step's record is what the replica goes on with");
        match write.stage {
            StageWrite::Keep => {}
            StageWrite::Drop => at.staged.clear(),
            StageWrite::Start(entries) => at.staged = entries,
            StageWrite::Extend(entries) => at.staged.extend(entries),
        }
        if let Some(from) = write.apart {
            let tail = at.log.split_off(usize::try_from(from).expect("small"));
            if bounds.has(Flaw::DedupOutlivesRewind) {
                at.outlived.extend(tail.iter().copied());
            }
            if !bounds.has(Flaw::TailDropped) && !at.tails.contains(&tail) {
                at.tails.push(tail);
            }
        }
        if write.adopt {
            at.log.append(&mut at.staged);
        }
        at.log.extend(write.append);
        // What stays in memory of a home that a newer epoch closed decides nothing: drop it, so that states are fewer.
        let closed = |home: &Home<u8, u32>| at.replica.standing().sealed > home.epoch();
        if at.home.as_ref().is_some_and(|(home, _)| closed(home)) && at.moving.is_none() {
            at.home = None;
        }
        self.show(bounds, region);
    }

    /// What a region's sessions may see.
    fn show(&mut self, bounds: &Bounds, region: u8) {
        if !bounds.marks {
            return;
        }
        let at = &self.regions[usize::from(region)];
        let marked = match bounds.has(Flaw::PlacementBeforeMark) {
            true => at.log.len(),
            false => usize::try_from(at.replica.standing().mark).expect("small").min(at.log.len()),
        };
        for entry in &at.log[..marked] {
            insert(&mut self.shown, *entry);
        }
    }

    /// What a home does after anything changed that it counts: ack, move the mark, tell it.
    pub(crate) fn settle(&mut self, bounds: &Bounds, region: u8) {
        let at = &self.regions[usize::from(region)];
        let Some((home, _)) = &at.home else { return };
        let (right, length, standing) = (at.may_sequence(bounds), at.log.len() as u64, at.replica.standing());
        let acked: Vec<Entry> =
            at.log.iter().filter(|entry| home.may_ack(standing, *entry, length, right, bounds)).copied().collect();
        let outlived: Vec<Entry> =
            at.outlived.iter().filter(|entry| home.may_ack(standing, *entry, length, right, bounds)).copied().collect();
        let epoch = home.epoch();
        for entry in acked.into_iter().chain(outlived) {
            self.ack(region, epoch, entry);
        }
        if bounds.marks && right {
            self.advance(bounds, region);
        }
    }

    fn advance(&mut self, bounds: &Bounds, region: u8) {
        let at = self.region(region);
        let Some((home, _)) = &mut at.home else { return };
        let log = &at.log;
        let level = |sequence: u64| log[usize::try_from(sequence).expect("small")].level.max(bounds.conversation);
        let moved = home.advance(&mut at.replica, log.len() as u64, level, bounds.conversation, bounds);
        if moved {
            let told: Append<Entry> = home.append_of(Vec::new());
            insert(&mut self.net, Packet::Mark { opening: told.opening, mark: short(told.mark) });
            self.show(bounds, region);
        }
    }

    /// Records an ack, and whether it was honest and the epoch the newest.
    pub(crate) fn ack(&mut self, region: u8, epoch: Epoch, entry: Entry) {
        let acked = Acked { epoch: entry.epoch, sequence: entry.sequence, message: entry.message, level: entry.level };
        let newer = self.regions.iter().any(|other| other.replica.standing().accepted > epoch);
        if self.acks.binary_search(&acked).is_err() {
            self.alarms.stale_ack |= newer;
            let holds = |voter: &&u8| {
                let other = &self.regions[usize::from(**voter)];
                **voter == region || other.replica.standing().accepted >= epoch && other.log.contains(&entry)
            };
            let voters = &self.placing.voters;
            if voters.iter().filter(holds).count() < entry.level.copies(voters.len()) && !newer {
                self.alarms.dishonest_ack = true;
            }
            insert(&mut self.acks, acked);
        }
    }

    /// A region opens the epoch that the placement names it for.
    pub(crate) fn open(&mut self, bounds: &Bounds, region: u8) -> bool {
        let placing = self.placing.clone();
        let at = self.region(region);
        let right = at.right();
        let opened = Home::open(&region, &placing, right, &mut at.replica, at.log.as_slice(), bounds);
        let Ok((home, step)) = opened else { return false };
        at.moving = None;
        at.home = Some((home, short(placing.generation)));
        self.commit(bounds, region, step.write);
        let at = &self.regions[usize::from(region)];
        for entry in at.log.clone() {
            insert(&mut self.net, Packet::Append { opening: placing.opening, entry });
        }
        self.settle(bounds, region);
        true
    }

    /// A replica takes a packet of a home.
    pub(crate) fn take(&mut self, bounds: &Bounds, region: u8, append: &Append<Entry>) {
        let at = self.region(region);
        let Ok(step) = at.replica.handle_append(at.log.as_slice(), append, bounds) else {
            unreachable!("a log in memory has all hashes")
        };
        self.commit(bounds, region, step.write);
        for said in step.then {
            match said {
                Said::Holds { accepted, length, counts }
                    if accepted == append.epoch || bounds.has(Flaw::CountUnaccepted) =>
                {
                    let (accepted, length) = (short(accepted.0), short(length));
                    insert(&mut self.net, Packet::Holds { from: region, accepted, length, counts });
                }
                Said::Conflict { .. } => self.alarms.conflict = true,
                _ => {}
            }
        }
    }

    /// Whether the home that the placement names has opened.
    pub(crate) fn open_home(&self) -> Option<&Region> {
        let at = &self.regions[usize::from(self.placing.home)];
        at.home.as_ref().filter(|(home, _)| home.epoch() == self.placing.epoch()).map(|_| at)
    }

    /// The next entry of a home.
    pub(crate) fn next_entry(&self, bounds: &Bounds, region: u8, message: u8) -> Option<Entry> {
        let at = &self.regions[usize::from(region)];
        let (home, _) = at.home.as_ref()?;
        let previous = at.log.hash_before(at.log.len() as u64).ok()?.unwrap_or(0);
        Some(Entry {
            epoch: short(home.epoch().0),
            sequence: short(at.log.len() as u64),
            message,
            level: bounds.level_of(message),
            previous,
        })
    }

    /// A home numbers a message.
    pub(crate) fn number(&mut self, bounds: &Bounds, region: u8, message: u8) -> bool {
        let Some(entry) = self.next_entry(bounds, region, message) else { return false };
        let at = self.region(region);
        let Some((home, _)) = &at.home else { return false };
        let Some(step) = home.append(&at.replica, vec![entry]) else { return false };
        let opening = home.append_of::<Entry>(Vec::new()).opening;
        self.commit(bounds, region, step.write);
        insert(&mut self.net, Packet::Append { opening, entry });
        self.settle(bounds, region);
        true
    }

    /// Whether a placement may follow what the log of its steward has, marked or not.
    pub(crate) fn may_place(&self, bounds: &Bounds, region: u8, message: u8) -> bool {
        let last = self.regions[usize::from(region)].log.last().map_or(0, |entry| placed_epoch(entry.message));
        !bounds.placements || bounds.has(Flaw::PlacementUnconditional) || placed_epoch(message) == last + 1
    }

    /// Whether a message is known to the home's dedup.
    pub(crate) fn knows(&self, bounds: &Bounds, region: u8, message: u8) -> bool {
        let at = &self.regions[usize::from(region)];
        !bounds.has(Flaw::NoDedup) && at.log.iter().chain(&at.outlived).any(|entry| entry.id() == Some(message))
    }
}
