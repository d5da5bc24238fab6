//! Rates: what a user sends is refused at a node when it is too much and not otherwise, a retry counts not again, and what
//! a region holds for its home is not refused for coming too fast.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hearth_protocol::{ConversationId, MessageId, UserId};

use super::{Guarantee, Report};
use crate::history::{Event, History};

/// A minute and what clocks are wrong by in it, in microseconds.
const MINUTE: u64 = 60_600_000;
/// Ids of a user whose retries are free.
const RECENT: usize = 256;
/// Free retries, as a multiple of the limit.
const RETRIES: usize = 10;

/// A message.
type Key = (ConversationId, MessageId);

/// What one process of a node has taken of one user.
#[derive(Debug, Default)]
struct Taken {
    recent: VecDeque<Key>,
    first: VecDeque<u64>,
    again: VecDeque<u64>,
}

/// How many of these were within the last minute.
fn lately(times: &mut VecDeque<u64>, at: u64) -> usize {
    while times.front().is_some_and(|first| first + MINUTE < at) {
        times.pop_front();
    }
    times.len()
}

impl Taken {
    /// Why an answer is wrong.
    fn judge(&mut self, key: Key, at: u64, limit: usize, taken: bool) -> Option<&'static str> {
        let again = self.recent.contains(&key);
        let times = if again { &mut self.again } else { &mut self.first };
        let limit = if again { limit * RETRIES } else { limit };
        let before = lately(times, at);
        if !taken {
            return (before < limit).then_some(if again {
                "is refused though it counted before"
            } else {
                "is refused"
            });
        }
        times.push_back(at);
        if !again {
            self.recent.push_back(key);
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
        }
        // A full bucket, and what comes into it in that time.
        (before > 2 * limit + limit / 50).then_some("is taken")
    }
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut taken_of: BTreeMap<((usize, u64), &UserId), Taken> = BTreeMap::new();
    let mut held: BTreeSet<Key> = BTreeSet::new();
    for (at, event) in &history.events {
        match event {
            Event::Counted { process, user, conversation, message, per_minute, taken } => {
                let of = taken_of.entry((*process, user)).or_default();
                let limit = usize::try_from(*per_minute).unwrap_or(usize::MAX);
                if let Some(what) = of.judge((*conversation, *message), *at, limit, *taken) {
                    let before = of.first.len();
                    let what = format!(
                        "{at}: {message} of {user} in {conversation} {what}, {before} of {limit} having been taken within a minute"
                    );
                    report.add(Guarantee::Limits, what);
                }
            }
            Event::Queued(_, conversation, message) => drop(held.insert((*conversation, *message))),
            Event::Invoke(_, conversation, message) => drop(held.remove(&(*conversation, *message))),
            Event::Limited(conversation, message) if held.contains(&(*conversation, *message)) => {
                let what = format!("{at}: {message} of {conversation} is held, and refused for coming too fast");
                report.add(Guarantee::Limits, what);
            }
            _ => {}
        }
    }
}
