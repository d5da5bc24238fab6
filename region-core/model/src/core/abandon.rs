//! The end of a region whose store failed: nobody is left waiting.

use super::{RegionCore, Slotted, Waiting};
use crate::log::Waiter;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Ends the core; gives everybody in this region who waits for an answer. What happened to what they asked is not
    /// known: they ask again, with the same id, wherever they can.
    #[must_use]
    pub fn abandon(self) -> Vec<R> {
        let mut replies = Vec::new();
        let mut take = |waiter: Waiter<R>| {
            if let Waiter::Local { reply, .. } = waiter {
                replies.push(reply);
            }
        };
        let mut waiting = Vec::new();
        for slotted in self.logs.into_values() {
            match slotted {
                Slotted::Loading(inputs) => waiting.extend(inputs),
                Slotted::Ready(log) => {
                    log.pending.into_iter().flat_map(|mut pending| pending.take_waiters()).for_each(&mut take);
                    log.home.into_waiters().for_each(&mut take);
                }
            }
        }
        waiting.extend(self.lookups.into_values().flat_map(|lookup| lookup.waiting));
        let mut queries = Vec::new();
        waiting.extend(self.held.into_values().flatten());
        queries.extend(self.moves.into_values().map(|moving| moving.reply));
        self.retries.into_values().map(|check| check.waiter).for_each(&mut take);
        for input in waiting {
            match input {
                Waiting::Command { waiter, .. } => take(waiter),
                Waiting::Query { reply, .. } | Waiting::Move { reply, .. } => queries.push(reply),
                _ => {}
            }
        }
        replies.extend(queries);
        replies.extend(self.forwards.into_values().filter_map(|forwarded| forwarded.reply));
        replies.extend(self.lot.into_replies());
        replies
    }
}
