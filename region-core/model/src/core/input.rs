//! What a core is set up with, and what happens to it.

use std::sync::Arc;

use hearth_protocol::record::{DedupRecord, ParkedSend};
use hearth_protocol::{DeviceId, LogId, RegionId, RegionMap, SealedEntry, Timestamp, UserId, mesh};

use crate::command::Command;
use crate::ownership::Right;
use crate::parking::ParkingBounds;
use crate::ports::{DedupKey, LoadedLog, TargetFound, TargetKey};
use crate::region_map::MapState;
use crate::view::Bounds;

/// The time, as the shell read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back.
    pub monotonic: u64,
    /// Wall clock: decorates only.
    pub wall: Timestamp,
    /// The right to sequence, as this region's lease gives it. Read after what came before was done on disk: what is
    /// acked in this turn is acked under it.
    pub right: Right,
}

/// How a region's core is set up.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// This region.
    pub me: RegionId,
    /// The mesh.
    pub map: RegionMap,
    /// Bounds of decisions.
    pub bounds: Bounds,
    /// Bounds of the parking lot.
    pub parking: ParkingBounds,
    /// Logs that may be in memory; above it idle ones leave.
    pub loaded_logs: usize,
    /// Within how many milliseconds a send is answered, at the latest by `message.queued` or a refusal, while the
    /// store here works. Default of the product: 5,000.
    pub answer_milliseconds: u64,
}

impl CoreOptions {
    /// A forward that is not answered within this is parked. The rest of the time is for the disk and the client.
    pub(super) fn forward_patience(&self) -> u64 {
        self.answer_milliseconds * 7 / 10
    }

    /// A question to a steward that is not answered within this is given up.
    pub(super) fn lookup_patience(&self) -> u64 {
        self.answer_milliseconds * 6 / 10
    }

    /// A send whose copies are not known within this is answered by `COPIES_MISSING`: before the edge gives the home
    /// up.
    pub(super) fn copies_patience(&self) -> u64 {
        self.answer_milliseconds * 6 / 10
    }
}

/// What happens to a region.
#[derive(Debug)]
pub enum Input<R> {
    /// Somebody here wants an entry appended somewhere.
    Command {
        /// What.
        command: Command,
        /// Fresh entropy for the content's salt.
        salt: [u8; 16],
        /// Whom to answer.
        reply: R,
        /// The device, for messages: they may be parked.
        device: Option<DeviceId>,
    },
    /// Somebody here wants to know of a log. With `ask`, a log unknown here is asked of its steward.
    Query {
        /// The log.
        log: LogId,
        /// Whether the steward may be asked.
        ask: bool,
        /// Whom to answer.
        reply: R,
    },
    /// The answer to `Effect::Load`.
    Loaded(LogId, Box<LoadedLog>),
    /// The answer to `Effect::Dedup`.
    Dedup(DedupKey, Option<DedupRecord>),
    /// The answer to `Effect::Target`.
    Target(TargetKey, Box<TargetFound>),
    /// The answer to `Effect::Append`.
    Appended {
        /// The log.
        log: LogId,
        /// Entries on disk now.
        length: u64,
        /// The region-wide number of this change.
        change: u64,
        /// Appends among it that change which ranges are open.
        ranges: usize,
        /// Appends among it with [`crate::ports::LogAppend::promises`].
        promises: usize,
    },
    /// The answer to `Effect::ReadHashes`.
    HashesRead {
        /// The log.
        log: LogId,
        /// The sequence that was asked for.
        sequence: u64,
        /// Entries from there on; empty when it is not there.
        entries: Vec<Arc<SealedEntry>>,
    },
    /// The answer to `Effect::ReadTail`.
    TailPage {
        /// The log.
        log: LogId,
        /// Entries of its tail behind those that were read before; none at the end.
        entries: Vec<Arc<SealedEntry>>,
    },
    /// Logs of which the store keeps a tail, when the region started.
    TailsAtStart(Vec<LogId>),
    /// The region map, whenever it changed.
    Map(Arc<MapState>),
    /// An operator moves the home of a log.
    Move {
        /// The log.
        log: LogId,
        /// Where to: one of its voters.
        to: RegionId,
        /// Whom to answer: by a view once it moved, or a refusal.
        reply: R,
    },
    /// An operator changes the voters of a log whose home is here, and may move the home to one of them (design.md 4.7).
    ChangeVoters {
        /// The log.
        log: LogId,
        /// The home from then on: one of the new voters, and it may stay.
        to: RegionId,
        /// The new voters. Those that are new take a copy first.
        voters: Vec<RegionId>,
        /// Whom to answer: by a view once it is so, or a refusal.
        reply: R,
    },
    /// The operator's word that homes of a fenced region may be opened with fewer voters than their acks ask for
    /// (design.md 4.4): the region, and the version of the map that fenced it.
    AcceptLoss(RegionId, u64),
    /// The answer to `Effect::ReadForReplica`.
    ReplicaPage {
        /// The log.
        log: LogId,
        /// The replica.
        peer: RegionId,
        /// First sequence read.
        from: u64,
        /// What was read.
        entries: Vec<Arc<SealedEntry>>,
    },
    /// The answer to `Effect::ReadForPull`.
    PullPage {
        /// The log.
        log: LogId,
        /// The follower.
        peer: RegionId,
        /// First sequence read.
        from: u64,
        /// Exclusive end that was asked for.
        to: u64,
        /// What was read.
        entries: Vec<Arc<SealedEntry>>,
    },
    /// The answer to `Effect::ReadForRetry`.
    RetryRead(u64, Option<Arc<SealedEntry>>),
    /// The answer to `Effect::Park`.
    Parked(u64),
    /// What the parking lot held when the region started. Comes before any command: it brings the numbers in use.
    ParkedAtStart(Vec<ParkedSend>),
    /// A device connected here: it is told of refusals that are kept for it.
    DeviceConnected(UserId, DeviceId),
    /// A device has been told of a refusal.
    RefusalTold(u64),
    /// A user was erased in a conversation at a time: what it parked here before loses its text.
    Erased(LogId, UserId, Timestamp),
    /// A link came up.
    LinkUp(RegionId),
    /// A link went down.
    LinkDown(RegionId),
    /// A frame of another region.
    Frame {
        /// Which.
        peer: RegionId,
        /// What it says.
        body: Box<mesh::Body>,
        /// The entries of an `Append` or a `Pulled`, decoded.
        entries: Vec<Arc<SealedEntry>>,
        /// Fresh entropy for the salt of a `Forward`.
        salt: [u8; 16],
    },
    /// This region wants to hold a log, or no longer.
    Follow {
        /// The log.
        log: LogId,
        /// `false` ends it.
        hold: bool,
    },
    /// The store dropped its copy of a log that this region follows no longer: it leaves memory too.
    Forget(LogId),
    /// Logs whose home is here, with replicas elsewhere: compared with what each replica has.
    CompareHomes(RegionId, Vec<mesh::Length>),
    /// Time passes; about every 100 ms.
    Tick,
    /// The anti-entropy period passed.
    AntiEntropy,
}
