//! What a decision makes durable, and what may be said after that.

use hearth_protocol::Epoch;

use crate::ownership::line::{LineEntry, OpeningAt};
use crate::ownership::replica::Standing;

/// One decision: at most one atomic write, then what is said. Nothing of `then` leaves before `write` is durable; a
/// crash before that is as if the step had not happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Step<E: LineEntry> {
    /// What becomes durable, all of it or nothing.
    pub write: Option<Write<E>>,
    /// What is said then. Every one of these may be lost.
    pub then: Vec<Said<E>>,
}

impl<E: LineEntry> Step<E> {
    /// A step that only says something.
    pub(crate) fn say(said: Said<E>) -> Self {
        Self { write: None, then: vec![said] }
    }
}

/// One commit of a log, in this order: stage, put apart, adopt what is staged, append, store the standing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write<E: LineEntry> {
    /// Entries beside the log, that will replace a part of it.
    pub stage: StageWrite<E>,
    /// Entries from this sequence on leave the log with their dedup records, and are kept as a tail.
    pub apart: Option<u64>,
    /// The staged entries become part of the log.
    pub adopt: bool,
    /// Entries behind the log.
    pub append: Vec<E>,
    /// The record after it.
    pub standing: Standing<E::Chain>,
}

impl<E: LineEntry> Write<E> {
    /// A write of the record alone.
    pub(crate) fn of(standing: Standing<E::Chain>) -> Self {
        Self { stage: StageWrite::Keep, apart: None, adopt: false, append: Vec::new(), standing }
    }
}

/// What happens to the staged entries before anything else of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageWrite<E> {
    /// Nothing.
    Keep,
    /// They are forgotten.
    Drop,
    /// They are replaced by these.
    Start(Vec<E>),
    /// These follow them.
    Extend(Vec<E>),
}

/// The line of a newer epoch as far as it is known and differs from the log: it replaces the log's end once it reaches
/// the opening.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Staged<C> {
    /// Whose line.
    pub epoch: Epoch,
    /// Its first sequence: the log below it is common.
    pub first: u64,
    /// Behind its last sequence.
    pub end: u64,
    /// The hash of its last entry.
    pub last: C,
    /// Openings within it.
    pub openings: Vec<OpeningAt<C>>,
}

/// What a home sends to a replica under its epoch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Append<E: LineEntry> {
    /// The epoch.
    pub epoch: Epoch,
    /// What the epoch opened with.
    pub opening: OpeningAt<E::Chain>,
    /// Entries in order; none to tell opening and mark alone.
    pub entries: Vec<E>,
    /// Entries below it have their copies.
    pub mark: u64,
}

/// What a replica or a home says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Said<E: LineEntry> {
    /// To a home: what is on disk here. It is a copy only when `accepted` is the home's epoch and `counts` is set.
    Holds {
        /// The newest epoch whose opening this log holds.
        accepted: Epoch,
        /// Entries with nothing missing below.
        length: u64,
        /// Whether this store counts.
        counts: bool,
    },
    /// To a home: send again from here, nothing was taken that would count.
    Asks {
        /// The first sequence wanted.
        from: u64,
    },
    /// To a home or an opener: an epoch above theirs was promised here.
    Newer {
        /// That epoch.
        sealed: Epoch,
    },
    /// To a home: an entry here, of the accepted epoch, is another than the one it sent. One of the stores is broken.
    Conflict {
        /// Where.
        at: u64,
    },
    /// To an opener: nothing below `epoch` is taken here from now on.
    Sealed {
        /// The promised epoch.
        epoch: Epoch,
        /// The newest epoch whose opening this log holds.
        accepted: Epoch,
        /// Entries with nothing missing below.
        length: u64,
        /// The hash of the last of them.
        last: E::Chain,
        /// Whether this store counts.
        counts: bool,
    },
    /// To this region's sessions: shown entries from here on have left the line.
    Rewound {
        /// The first of them.
        from: u64,
    },
    /// From a home to its replicas.
    Append(Append<E>),
}
