//! G11: nobody is told that a user is gone who was there all the time, and at the end everybody says what is so.

use std::collections::BTreeMap;

use hearth_protocol::client::PresenceStatus;

use super::{Guarantee, Report};
use crate::history::{Event, History, SessionId};

/// What is told may be so old, in microseconds: frames are held back for as long by a cut that nobody has noticed yet.
const OLD: u64 = 20_000_000;
/// At the end, what changed within this is not judged, in microseconds.
const SETTLED: u64 = 6_000_000;

/// What is so of one user.
#[derive(Debug, Default)]
struct User {
    sessions: BTreeMap<SessionId, PresenceStatus>,
    /// Until when it was offline last.
    absent_until: Option<u64>,
    changed: u64,
    /// When a session of it ended last: whoever hears of that, and does not reach where it went, may say that it is gone,
    /// unsure.
    ended: Option<u64>,
}

impl User {
    fn status(&self) -> PresenceStatus {
        self.sessions.values().max().copied().unwrap_or_default()
    }
}

fn is_gone(status: PresenceStatus) -> bool {
    status == PresenceStatus::Offline
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut users: BTreeMap<&str, User> = BTreeMap::new();
    // When a session was told last that a user is there, and up to when that was known.
    let mut there: BTreeMap<(SessionId, &str), (u64, u64)> = BTreeMap::new();
    for (at, event) in &history.events {
        match event {
            Event::There { session, user, status } => {
                let of = users.entry(user).or_default();
                let before = of.status();
                of.sessions.insert(*session, *status);
                if is_gone(*status) {
                    of.ended = Some(*at);
                }
                if is_gone(before) {
                    of.absent_until = Some(*at);
                }
                if before != of.status() {
                    of.changed = *at;
                }
            }
            Event::PresenceTold { session, user, status, sure, .. } if is_gone(*status) => {
                let Some((told, as_of)) = there.remove(&(*session, user.as_str())) else { continue };
                let lately = |at: Option<u64>, since: u64| at.is_some_and(|at| at + OLD >= since);
                let absent = users.get(user.as_str()).is_none_or(|of| {
                    is_gone(of.status()) || lately(of.absent_until, told) || (!sure && lately(of.ended, as_of))
                });
                if !absent {
                    let what = format!("{at}: session {session} is told that {user} is gone: it is there");
                    report.add(Guarantee::G11, what);
                }
            }
            Event::PresenceTold { session, user, as_of, .. } => {
                there.insert((*session, user), (*at, *as_of));
            }
            Event::PresenceEnd { who, user, status, sure } => {
                let Some(of) = users.get(user.as_str()).filter(|of| of.changed + SETTLED <= *at) else { continue };
                if of.status() != *status {
                    let is = of.status();
                    report.add(Guarantee::G11, format!("{at}: {who} takes {user} for {status:?}, and it is {is:?}"));
                } else if !sure {
                    report.add(Guarantee::G11, format!("{at}: {who} is not sure of {user} long after the heal"));
                }
            }
            _ => {}
        }
    }
}
