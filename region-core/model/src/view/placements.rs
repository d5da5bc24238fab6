//! A placement log: where the logs of one slot live.

use std::collections::BTreeMap;

use hearth_protocol::{Change, LogId, Placement, Refusal, SealedEntry};
use serde::{Deserialize, Serialize};

use super::Decision;
use crate::command::Command;
use crate::few::FewMap;
use crate::mutants::Mutant;

/// A placement and the entry that made it. It counts once the mark is above that entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedAt {
    /// The placement.
    pub placement: Placement,
    /// The entry's sequence.
    pub sequence: u64,
}

/// The state of a placement log after some entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementState {
    /// By log. Boxed: of the many that a slot may place, one moves when another comes in between.
    pub placed: FewMap<LogId, Box<PlacedAt>>,
}

/// [`PlacedAt`] as version 1 stored it.
#[derive(Deserialize)]
struct PlacedAtV1 {
    placement: hearth_protocol::placement::PlacementV1,
    sequence: u64,
}

impl PlacementState {
    /// Reads the state as a snapshot of version 1 holds it.
    pub(super) fn from_first_version(bytes: &[u8]) -> Option<Self> {
        let placed: BTreeMap<LogId, PlacedAtV1> = postcard::from_bytes(bytes).ok()?;
        let now = |PlacedAtV1 { placement, sequence }| Box::new(PlacedAt { placement: placement.into(), sequence });
        Some(Self { placed: placed.into_iter().map(|(log, placed)| (log, now(placed))).collect() })
    }

    pub(super) fn fold(&mut self, sealed: &SealedEntry) {
        if let Some(Change::Place { placement, .. }) = sealed.change() {
            let sequence = sealed.sequence().0;
            self.placed.insert(placement.log, Box::new(PlacedAt { placement, sequence }));
        }
    }

    /// The loser of a race is told that a placement stands: it reads it, and goes on from there.
    pub(super) fn decide(&self, command: &Command) -> Decision {
        let Some(Change::Place { replaces, placement }) = Change::decode(&command.content) else {
            return Decision::refuse(Refusal::invalid("not a placement"));
        };
        match (self.placed.get(&placement.log), replaces) {
            (None, None) => Decision::change(&Change::Place { replaces, placement }),
            (Some(known), Some(epoch)) if known.placement.epoch == epoch && placement.epoch > epoch => {
                Decision::change(&Change::Place { replaces, placement })
            }
            (Some(_), None) if Mutant::PlacedTwice.is_on() => Decision::change(&Change::Place { replaces, placement }),
            (Some(_), _) => Decision::AlreadySo,
            (None, Some(_)) => Decision::refuse(Refusal::invalid("there is no placement to replace")),
        }
    }
}
