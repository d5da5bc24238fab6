//! What ownership needs to know of an entry and of a log.

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use hearth_protocol::{EntryKind, Epoch, Level, SealedEntry, UserId};
use uuid::Uuid;

/// An entry as the decisions see it: a link of a hash chain with an id.
pub trait LineEntry: Clone + Debug + Eq {
    /// Its hash. The default value stands before the first entry of a log.
    type Chain: Copy + Debug + Default + Eq + Ord + Hash;
    /// What deduplicates it.
    type Id: Clone + Debug + Eq + Ord + Hash;

    /// The epoch under which it was numbered.
    fn epoch(&self) -> Epoch;
    /// Its place in the log, from 0.
    fn sequence(&self) -> u64;
    /// The hash of the entry before it.
    fn previous(&self) -> Self::Chain;
    /// Its own hash.
    fn chain(&self) -> Self::Chain;
    /// The level that its ack asks for: the greater of its own and the conversation's.
    fn level(&self) -> Level;
    /// What deduplicates it; `None` for headers and placements.
    fn id(&self) -> Option<Self::Id>;
}

impl LineEntry for Arc<SealedEntry> {
    type Chain = hearth_protocol::Hash;
    type Id = (UserId, Uuid);

    fn epoch(&self) -> Epoch {
        self.entry.fixed.position.epoch
    }

    fn sequence(&self) -> u64 {
        self.entry.fixed.position.sequence.0
    }

    fn previous(&self) -> Self::Chain {
        self.entry.fixed.previous
    }

    fn chain(&self) -> Self::Chain {
        self.hash
    }

    fn level(&self) -> Level {
        self.entry.fixed.level
    }

    fn id(&self) -> Option<Self::Id> {
        let fixed = &self.entry.fixed;
        let named = !matches!(fixed.kind, EntryKind::Header | EntryKind::Placement);
        named.then(|| (fixed.sender.clone(), fixed.id))
    }
}

/// Where an epoch opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpeningAt<C> {
    /// The epoch.
    pub epoch: Epoch,
    /// The first sequence of it: the number of entries that it opened with.
    pub first: u64,
    /// The hash of the entry before that; the default value for an empty log.
    pub previous: C,
}

/// A hash that a decision asks for is on disk: the shell reads the entry at this sequence and asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hash of the entry at {0} has to be read first")]
pub struct Unread(pub u64);

/// The log of a replica as decided, on disk or on its way there.
pub trait Held<E: LineEntry> {
    /// How many entries it has.
    fn length(&self) -> u64;

    /// The hash of the entry at `sequence`, which is below the length.
    ///
    /// # Errors
    /// [`Unread`] when it is not in memory.
    fn hash_at(&self, sequence: u64) -> Result<E::Chain, Unread>;

    /// The epoch of the last entry; `None` for an empty log.
    fn last_epoch(&self) -> Option<Epoch>;

    /// The hash of the entry before `sequence`; `None` when the log ends below that.
    ///
    /// # Errors
    /// [`Unread`] when it is not in memory.
    fn hash_before(&self, sequence: u64) -> Result<Option<E::Chain>, Unread> {
        match sequence {
            0 => Ok(Some(E::Chain::default())),
            beyond if beyond > self.length() => Ok(None),
            inside => self.hash_at(inside - 1).map(Some),
        }
    }
}

impl<E: LineEntry> Held<E> for [E] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn hash_at(&self, sequence: u64) -> Result<E::Chain, Unread> {
        let entry = usize::try_from(sequence).ok().and_then(|index| self.get(index));
        entry.map(LineEntry::chain).ok_or(Unread(sequence))
    }

    fn last_epoch(&self) -> Option<Epoch> {
        self.last().map(LineEntry::epoch)
    }
}
