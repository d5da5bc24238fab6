//! Stores that are lost or restored: copies are kept as an operator would keep them, and the history is told what is gone
//! for good, so that nobody is blamed for it.

use std::collections::BTreeSet;

use hearth_protocol::{ConversationId, LogId, LogKind, MessageId};

use crate::disk::Disk;
use crate::history;
use crate::plan::SECOND;
use crate::world::{Event, World};

/// A copy of each store is made this often.
const COPY: u64 = 10 * SECOND;
/// So many are kept of each.
const COPIES: usize = 8;
/// An answer of a store that is lost may still be on its way, or be counted already, for so long.
const ON_ITS_WAY: u64 = 15 * SECOND;

/// What was kept of a region's stores.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    /// Copies with the times of which they are, oldest first.
    copies: Vec<(u64, Disk)>,
    /// The stores that were replaced, and when that was.
    before: Vec<(u64, Disk)>,
    /// How many were replaced by empty ones: it names the present one.
    lost: u64,
}

impl Stores {
    /// Names the store that the region has now.
    pub(crate) fn name(&self, place: usize) -> uuid::Uuid {
        uuid::Uuid::from_u128(0xE000 + place as u128 + (u128::from(self.lost) << 32))
    }

    /// Stores that were replaced and that an ack may rest on: a moment ago, and ever if the ack is a repeated one, of a
    /// message that had its copies when it was acked first.
    pub(crate) fn before(&self, now: u64, again: bool) -> impl Iterator<Item = &Disk> {
        self.before.iter().filter(move |(at, _)| again || now < at + ON_ITS_WAY).map(|(_, disk)| disk)
    }
}

impl World {
    /// Makes a copy of a region's store, as it would stand after a power cut.
    pub(crate) fn copy_store(&mut self, place: usize) {
        self.after(COPY, Event::CopyStore(place));
        let mut copy = self.regions[place].disk.clone();
        copy.lose_unsynced();
        let stores = &mut self.regions[place].stores;
        if stores.copies.len() == COPIES {
            stores.copies.remove(0);
        }
        stores.copies.push((self.now, copy));
    }

    /// A region that does not run gets another store: the newest copy of `before` that is older than its last renewal of
    /// the lease, or an empty one. A copy that is newer than that is taken for the same store (design.md 4.1), so an
    /// operator may not use one.
    pub(crate) fn replace_store(&mut self, place: usize, before: Option<u64>) {
        let entry = self.service.known(&self.regions[place].id);
        let counter = entry.map_or(0, |entry| entry.counter);
        let region = &mut self.regions[place];
        let copies = region.stores.copies.iter().rev();
        let copy = before.and_then(|before| {
            copies.into_iter().find(|(at, disk)| *at <= before && disk.counter < counter).map(|(_, disk)| disk.clone())
        });
        let restored = copy.is_some();
        if !restored {
            region.stores.lost += 1;
            region.stores.copies.clear();
        }
        let old = std::mem::replace(&mut region.disk, copy.unwrap_or_default());
        region.keeper.map = std::sync::Arc::default();
        self.trace.count(self.now, if restored { "store-restored" } else { "store-lost" }, place as u64, counter);
        self.tell_what_is_gone(place, &old);
        self.push_store_gone(place, &old);
        self.history.add(self.now, history::Event::MediaGone(place));
        self.regions[place].stores.before.push((self.now, old));
    }

    fn tell_what_is_gone(&mut self, place: usize, old: &Disk) {
        let mut gone = Vec::new();
        // Numbers begin again with a copy: what is there under one may be another send.
        let kept: BTreeSet<_> =
            self.regions[place].disk.parked.values().map(|send| (send.conversation, send.id)).collect();
        for send in old.parked.values().filter(|send| !kept.contains(&(send.conversation, send.id))) {
            gone.push(history::Event::ParkedGone(send.conversation, send.id));
        }
        for (log, stored) in &old.logs {
            let Some(conversation) = conversation_of(*log) else { continue };
            for entry in stored.entries.values().chain(stored.tail.values()) {
                let elsewhere = self.regions.iter().any(|region| region.disk.holds_somewhere(*log, entry));
                if !elsewhere {
                    gone.push(history::Event::CopyGone(conversation, MessageId(entry.entry.fixed.id)));
                }
            }
        }
        for event in gone {
            self.history.add(self.now, event);
        }
    }
}

fn conversation_of(log: LogId) -> Option<ConversationId> {
    (log.kind == LogKind::Conversation).then_some(ConversationId(log.id))
}
