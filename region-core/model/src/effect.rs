//! What the core wants done. The shell performs effects in order; everything that is in one batch may share a commit.

use std::sync::Arc;

use hearth_protocol::placement::PartitionMode;
use hearth_protocol::record::{Opening, OutboxRecord, ParkedSend};
use hearth_protocol::{Epoch, LogId, Placement, Position, Refusal, RegionId, SealedEntry, UserId, mesh};
use uuid::Uuid;

use crate::command::{Ack, Outcome};
use crate::line::Line;
use crate::ports::{DedupKey, LogAppend, TargetKey};
use crate::view::{Members, View};

/// Which of a link's streams a frame takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// By hash of the log: frames of one log keep their order.
    Log(LogId),
    /// Catch-up, behind everything else.
    Bulk,
    /// Questions and answers.
    Control,
}

/// One thing to do. `R` names whoever waits for a reply in the shell.
#[derive(Clone, Debug)]
pub enum Effect<R> {
    /// Load a log; answer with `Input::Loaded`.
    Load(LogId),
    /// Look up a dedup record; answer with `Input::Dedup`.
    Dedup(DedupKey),
    /// Look up a message that is to be changed; answer with `Input::Target`.
    Target(TargetKey),
    /// Append; answer with `Input::Appended`.
    Append(Box<LogAppend>),
    /// Remember a mark that no append carries.
    PutMark(LogId, u64),
    /// Remember a placement.
    PutPlacement(Placement),
    /// Read entries for a replica that is behind; answer with `Input::ReplicaPage`.
    ReadForReplica {
        /// The log.
        log: LogId,
        /// The replica.
        peer: RegionId,
        /// First sequence wanted.
        from: u64,
        /// Exclusive end.
        to: u64,
    },
    /// Read the end of a range that a follower lacks; answer with `Input::PullPage`.
    ReadForPull {
        /// The log.
        log: LogId,
        /// The follower.
        peer: RegionId,
        /// First sequence wanted.
        from: u64,
        /// Exclusive end.
        to: u64,
    },
    /// Read one entry to compare a retry with it; answer with `Input::RetryRead`.
    ReadForRetry {
        /// The log.
        log: LogId,
        /// The entry.
        sequence: u64,
        /// Names the question.
        ticket: u64,
    },
    /// Read hashes of entries; answer with `Input::HashesRead`.
    ReadHashes {
        /// The log.
        log: LogId,
        /// The first entry.
        sequence: u64,
        /// How many at most.
        rows: usize,
    },
    /// Read a page of a log's tail; answer with `Input::TailPage`.
    ReadTail {
        /// The log.
        log: LogId,
        /// Behind this position.
        after: Option<Position>,
        /// At most so many entries.
        rows: usize,
    },
    /// Send a frame; one to this region itself comes back as an input. It may be lost: everything that matters is sent again by cursor or timer.
    Send {
        /// To.
        peer: RegionId,
        /// On.
        lane: Lane,
        /// What.
        body: mesh::Body,
    },
    /// Answer whoever waits.
    Reply(R, Outcome),
    /// Answer a query.
    View(R, Box<LogView>),
    /// Answer another region's question about a placement.
    PlacementAnswer {
        /// Who asks.
        peer: RegionId,
        /// Its request.
        request_id: u64,
        /// What stands, by the mark.
        placement: Option<Placement>,
    },
    /// Show an entry of a conversation to the members' sessions here.
    Deliver {
        /// The conversation.
        log: LogId,
        /// The entry.
        entry: Arc<SealedEntry>,
        /// Who was a member when it was sequenced. For entries that change members: after the change.
        audience: Arc<Members>,
        /// The connection that gets the ack instead.
        skip: Option<R>,
    },
    /// The stream of a conversation begins above entries that are not here: sessions of members that may have missed
    /// some are told.
    Began {
        /// The conversation.
        log: LogId,
        /// The epoch of the stream.
        epoch: Epoch,
        /// The first sequence that was not shown here; 0 when none was.
        from: u64,
        /// The first sequence of the stream.
        at: u64,
        /// Members as last known here.
        before: Arc<Members>,
        /// Members where the stream begins.
        audience: Arc<Members>,
    },
    /// A newer epoch opened, and this region is on its line from now on: sessions of members find out what of theirs is
    /// not in it before anything of it is shown.
    LineChanged {
        /// The conversation.
        log: LogId,
        /// Where its epochs opened.
        line: Arc<Line>,
        /// Members as last known here.
        audience: Arc<Members>,
    },
    /// A conversation or a user record has its home elsewhere from now on: sessions of members here are told, and whoever
    /// decides at a home.
    HomeChanged(LogId),
    /// A user record that this region holds changed, up to the mark.
    UserChanged {
        /// The record.
        log: LogId,
        /// The entry.
        entry: Arc<SealedEntry>,
    },
    /// An item of the outbox may be told now: its entry has its copies.
    Outbox(OutboxRecord),
    /// Store a parked send (or its refusal) durably; answer with `Input::Parked`.
    Park(Box<ParkedSend>),
    /// Forget parked sends.
    Unpark(u64),
    /// Tell a device how its parked send ended, on whatever connections it has here now.
    Device {
        /// The send.
        send: Box<ParkedSend>,
        /// How it ended.
        ended: DeviceOutcome,
    },
    /// The home and a replica disagree about the entry at the replica's end.
    Fork {
        /// The log.
        log: LogId,
        /// The replica.
        peer: RegionId,
    },
}

/// How a parked send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceOutcome {
    /// Sequenced.
    Acked(Ack),
    /// Refused; the refusal is kept until the device has it.
    Refused(Refusal),
    /// The home has it and waits for copies.
    CopiesMissing(RegionId),
}

/// What this region knows of a log.
#[derive(Clone, Debug, Default)]
pub struct LogView {
    /// Where it lives.
    pub placement: Option<Placement>,
    /// Whether this region holds it, and up to where with nothing missing that the home told of.
    pub held: bool,
    /// Entries on disk here.
    pub length: u64,
    /// Entries that `view` counts: those on their way to the disk, too.
    pub decided: u64,
    /// Entries that may be shown.
    pub marked: u64,
    /// Whether the home marked entries that are not here yet.
    pub behind: bool,
    /// A range `[from, to)` below `length` that is not on disk here.
    pub open: Option<(u64, u64)>,
    /// The region-wide number of its last change.
    pub change: u64,
    /// The lowest sequence that retention left.
    pub floor: u64,
    /// Where epochs opened, oldest first.
    pub openings: Vec<Opening>,
    /// Where this region is the home: the other regions that are sent its entries.
    pub replicas: Vec<RegionId>,
    /// The folded state.
    pub view: View,
    /// What an edge does while the home is out of reach.
    pub mode: PartitionMode,
    /// Whether the home is out of the reach of this region: behind a link that is down, or here without a lease.
    pub home_out_of_reach: bool,
    /// Whether the present home took, or refused for good, all of the tail that is kept here; `None` without a tail.
    pub tail_settled: Option<bool>,
}

impl LogView {
    /// The line that this region knows of: what its copy is on, and the newest opening, which the copy may not have yet.
    #[must_use]
    pub fn line(&self) -> Line {
        match self.newer_opening() {
            Some(placed) => Line::of(self).with(placed),
            None => Line::of(self),
        }
    }

    /// The placement of a newer epoch than that whose line the copy is on, where it is known where that opens.
    fn newer_opening(&self) -> Option<&Placement> {
        let epoch = self.openings.last().map_or(Epoch(1), |opening| opening.epoch);
        self.placement.as_ref().filter(|placed| placed.epoch > epoch && placed.first != u64::MAX)
    }

    /// Whether rows `from <= sequence < to` are here: none of them is in an open range.
    #[must_use]
    pub fn has_rows(&self, from: u64, to: u64) -> bool {
        self.open.is_none_or(|(low, high)| from >= to || to <= low || from >= high)
    }

    /// Whether the copy of a region is good for what its clients read.
    #[must_use]
    pub fn is_read_at(&self, region: &RegionId) -> bool {
        let votes = self.placement.as_ref().is_none_or(|placement| placement.voters.contains(region));
        self.held && (votes || !self.behind)
    }

    /// Whether a region, whose view this is, is the log's home and has the right to number: what is not in its copy was
    /// not said.
    #[must_use]
    pub fn is_home_at(&self, region: &RegionId) -> bool {
        let is_named = self.placement.as_ref().is_some_and(|placement| placement.home == *region);
        is_named && self.held && !self.home_out_of_reach && !self.behind && self.newer_opening().is_none()
    }

    /// Who may be asked for what is not here: the home before other voters.
    pub fn holders<'a>(&'a self, me: &'a RegionId) -> impl Iterator<Item = &'a RegionId> {
        let all = self.placement.iter().flat_map(|placement| std::iter::once(&placement.home).chain(&placement.voters));
        all.filter(move |region| *region != me)
    }

    /// Entries that may be shown and are in the line that this region knows of: a copy that has not gone over to the
    /// newest epoch may have others beyond its opening.
    #[must_use]
    pub fn shown(&self) -> u64 {
        self.newer_opening().map_or(self.marked, |placed| self.marked.min(placed.first.max(1)))
    }
}

/// Names a send for the connections that wait for it.
pub type SendKey = (LogId, UserId, Uuid);
