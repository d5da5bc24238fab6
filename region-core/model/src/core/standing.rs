//! What this region knows now of one message and of those who wait for it, for an explanation.

use hearth_protocol::client::MessageName;
use hearth_protocol::{LogId, RegionId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Now, RegionCore, Slotted};

/// A send that is held here for its home.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedStanding {
    /// Whose.
    pub sender: UserId,
    /// Since when.
    pub since: Timestamp,
    /// Whether it is on its way to its home now.
    pub on_its_way: bool,
    /// The refusal that waits for its device: code and text.
    pub refused: Option<(String, String)>,
}

/// What a home knows of another region's copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStanding {
    /// Where.
    pub region: RegionId,
    /// Whether it counts for durability.
    pub votes: bool,
    /// Entries that are on its disk, as it said.
    pub length: u64,
    /// Whether the link there is up.
    pub link_up: bool,
}

/// What a region knows now of a message; of a log that is not in memory little.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Whether the log has its home here.
    pub home_here: bool,
    /// Whether this region may number its entries now.
    pub numbers: bool,
    /// Whether its home is being moved away from here, or opened here.
    pub moving: bool,
    /// How many copies its level asks for, where it is above the mark here and this is its home.
    pub copies_wanted: Option<usize>,
    /// Whether the entry has those copies, and waits for one before it.
    pub behind_another: bool,
    /// At its home: the copies of other regions.
    pub copies: Vec<CopyStanding>,
    /// A send that is held here.
    pub parked: Option<ParkedStanding>,
    /// The sender of a message that is on its way to its home from here.
    pub forwarded: Option<UserId>,
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// What stands of a message. Changes nothing.
    #[must_use]
    pub fn standing(&self, log: LogId, name: MessageName, sequence: Option<u64>, now: Now) -> Standing {
        let mut standing = Standing {
            numbers: self.numbers(log, now),
            moving: self.opens(log) || self.moves.contains_key(&log),
            ..Standing::default()
        };
        if let MessageName::Id(id) = name {
            standing.parked = self.parked_standing(log, id.0);
            standing.forwarded = self.forwarded_by(log, id.0);
        }
        let Some(Slotted::Ready(held)) = self.logs.get(&log) else { return standing };
        standing.home_here = held.placement.as_ref().is_some_and(|placement| placement.home == self.options.me);
        let voters = held.record.as_ref().map(|record| record.voters.as_slice()).unwrap_or_default();
        if !standing.home_here {
            return standing;
        }
        let copies = held.home.replicas.iter().map(|(region, replica)| CopyStanding {
            region: region.clone(),
            votes: voters.contains(region),
            length: replica.acked,
            link_up: self.links_up.contains(region),
        });
        standing.copies = copies.collect();
        let pending = sequence.and_then(|sequence| held.pending_at(sequence));
        if let Some(pending) = pending {
            let level = pending.entry.entry.fixed.level;
            let sequence = pending.entry.sequence().0;
            standing.copies_wanted = Some(level.copies(voters.len()));
            standing.behind_another = sequence < held.covered(level, &self.options.me);
        }
        standing
    }

    fn parked_standing(&self, log: LogId, id: Uuid) -> Option<ParkedStanding> {
        let parked = self.lot.of_id(log, id)?;
        let send = &parked.send;
        Some(ParkedStanding {
            sender: send.sender.clone(),
            since: send.parked_at,
            on_its_way: parked.forward.is_some(),
            refused: send.refused.clone(),
        })
    }

    fn forwarded_by(&self, log: LogId, id: Uuid) -> Option<UserId> {
        let of_it =
            |command: &crate::command::Command| command.log == log && command.id == id && command.kind.is_sent();
        let forwarded = self.forwards.values().find(|forwarded| of_it(&forwarded.command))?;
        Some(forwarded.command.sender.clone())
    }
}
