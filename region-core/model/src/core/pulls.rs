//! Which open ranges are pulled, and when.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::{LogId, RegionId, SealedEntry, mesh};

use super::{Following, Now, RegionCore, Slotted};
use crate::effect::{Effect, Lane};

/// Pages that are on their way to this region at a time.
const PULLS: usize = 4;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Asks for pages of open ranges, those of the most recently active logs first.
    pub(super) fn pull_next(&mut self, now: Now, effects: &mut Vec<Effect<R>>) {
        let (mut asked, mut wanted) = (0, Vec::new());
        for id in &self.open {
            let Some(Slotted::Ready(log)) = self.logs.get_mut(id) else { continue };
            let left = self.follows.get(id) == Some(&Following::Left);
            if log.wants_pull(now.monotonic) && !left {
                wanted.push((log.tip.as_ref().map(|tip| tip.time), *id));
            } else if log.ranges.asked.is_some() {
                asked += 1;
            }
        }
        wanted.sort_unstable();
        for (_, id) in wanted.into_iter().rev().take(PULLS.saturating_sub(asked)) {
            self.with_log(id, now, effects, |log, context| log.pull(context));
        }
    }
}

/// A page for a follower, read from the end of what it asked for: where it was too long for one read, its latter half
/// is read.
pub(super) fn pull_page<R>(
    log: LogId,
    peer: RegionId,
    from: u64,
    to: u64,
    entries: &[Arc<SealedEntry>],
    effects: &mut Vec<Effect<R>>,
) {
    if entries.last().is_some_and(|last| last.sequence().0 + 1 == to) {
        let entries = entries.iter().map(|entry| entry.encoded.clone()).collect();
        let pulled = mesh::Pulled { log: Bytes::copy_from_slice(&log.to_bytes()), to, entries };
        effects.push(Effect::Send { peer, lane: Lane::Bulk, body: mesh::Body::Pulled(pulled) });
    } else if !entries.is_empty() && to - from > 1 {
        effects.push(Effect::ReadForPull { log, peer, from: to - (to - from) / 2, to });
    }
}
