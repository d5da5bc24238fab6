//! A store that is new, empty or restored counts for nothing until it has caught up (design.md 4.1): when this region
//! knows that, and how it asks to count.

use std::collections::BTreeSet;

use hearth_protocol::{LogId, Slot};

use super::{Now, RegionCore, Slotted, Waiting};
use crate::effect::Effect;
use crate::log::FIRST_INCARNATION;

/// What this region knows of its store.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// The incarnation that the region map confirmed to this process by a lease; until then nothing counts.
    pub(super) incarnation: Option<u64>,
    /// Under which generation that was.
    generation: Option<u64>,
    /// Placement logs that this region votes for and may not count for yet: nobody writes to most of them, so that
    /// their stewards do not ask.
    joining: BTreeSet<Slot>,
}

impl Store {
    /// Placement logs that it does not count for yet.
    pub(super) fn waiting(&self) -> usize {
        self.joining.len()
    }
}

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// A lease says that the map knows this store, by the generation under which it was given. What was said before
    /// that did not count, and is said again.
    pub(super) fn confirm_store(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        if !now.right.leased || self.store.generation == Some(now.right.generation) {
            return;
        }
        let me = &self.options.me;
        let incarnation = match &self.map {
            None => Some(FIRST_INCARNATION),
            Some(map) => map
                .region(me)
                .filter(|entry| entry.fence == now.right.generation)
                .map(|entry| entry.store.map_or(FIRST_INCARNATION, |store| store.incarnation)),
        };
        let Some(incarnation) = incarnation else { return };
        self.store.generation = Some(now.right.generation);
        if self.store.incarnation == Some(incarnation) {
            return;
        }
        self.store.incarnation = Some(incarnation);
        for slotted in self.logs.values_mut() {
            if let Slotted::Ready(log) = slotted {
                log.store = Some(incarnation);
            }
        }
        if let Some(map) = self.map.as_ref().filter(|_| incarnation != FIRST_INCARNATION) {
            let votes = map.slots.iter().filter(|(_, group)| group.voters.contains(&self.options.me));
            self.store.joining = votes.map(|(slot, _)| slot).collect();
        }
        self.say_again(now, effects);
        self.join_placement_logs(now, effects);
        // What it may do rests on its store, too.
        self.right_changed(now, effects);
    }

    /// Tells the homes of what is in memory what is on disk here.
    fn say_again(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let ids: Vec<LogId> = self.logs.keys().copied().filter(|id| !self.home_here(*id)).collect();
        for id in ids {
            self.with_log(id, now, effects, |log, context| {
                let home = log.record.as_ref().map(|record| record.home.clone());
                if let Some(home) = home.filter(|home| context.links_up.contains(home)) {
                    log.say(&home, false, false, context);
                }
            });
        }
    }

    /// Asks the stewards of placement logs that this region votes for to let it count: 4,096 at most.
    pub(super) fn join_placement_logs(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let slots: Vec<Slot> = self.store.joining.iter().copied().collect();
        for slot in slots {
            self.on_log(LogId::placement(slot), Waiting::Join, now, effects);
        }
    }

    /// Asks the steward of a placement log, unless this region counts for it or has no vote any more.
    pub(super) fn join_placement_log(&mut self, id: LogId, now: Now, effects: &mut Vec<Effect<R>>) {
        let store = self.store.incarnation;
        let Some(Slotted::Ready(log)) = self.logs.get_mut(&id) else { return };
        log.store = store;
        let placement = log.placement.clone().filter(|placement| placement.voters.contains(&self.options.me));
        let steward = placement.filter(|_| !log.counts()).map(|placement| placement.home);
        let Some(steward) = steward else {
            if let Some(slot) = id.placement_slot() {
                self.store.joining.remove(&slot);
            }
            return;
        };
        if self.links_up.contains(&steward) {
            self.with_log(id, now, effects, |log, context| log.say(&steward, false, false, context));
        }
    }
}
