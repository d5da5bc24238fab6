//! Nodes that are drained: their sessions are told, each a slot of its own, and are gone in time.

use std::collections::{BTreeMap, BTreeSet};

use super::{Guarantee, Report};
use crate::history::{Event, History, SessionId};

/// Sessions are told within this of a drain's beginning, in microseconds.
const TOLD: u64 = 1_000_000;
/// So much later than it was told a session may be closed: a node looks now and then, and closes in its own time.
const GRACE: u64 = 3_000_000;
/// A node may be so much early, in parts of the time that it counts: clocks run a little wrong.
const DRIFT: u64 = 100;
/// Of the time of a drain, in such parts, no part has many more slots than its share.
const PARTS: u64 = 10;

/// A drain under way, or over.
#[derive(Debug)]
struct Drain<'a> {
    began: u64,
    within: u64,
    region: usize,
    sessions: &'a [SessionId],
}

/// What a session was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    told_at: u64,
    at: u64,
    until: u64,
}

#[derive(Debug, Default)]
struct Known<'a> {
    drains: Vec<Drain<'a>>,
    told: BTreeMap<SessionId, Told>,
    left: BTreeMap<SessionId, (u64, bool)>,
    /// When regions stood still.
    still: BTreeMap<usize, Vec<(u64, u64)>>,
    draining: BTreeSet<usize>,
    end: u64,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut known = Known { end: history.events.last().map_or(0, |(at, _)| *at), ..Known::default() };
    for (at, event) in &history.events {
        known.take(*at, event, history, report);
    }
    for drain in &known.drains {
        known.told_all(drain, history, report);
        known.spread(drain, report);
    }
}

fn name(history: &History, session: SessionId) -> &str {
    history.sessions.get(session as usize).map_or("?", |session| session.name.as_str())
}

impl<'a> Known<'a> {
    fn take(&mut self, at: u64, event: &'a Event, history: &History, report: &mut Report) {
        match event {
            Event::Drains { region, within, sessions } => {
                self.draining.insert(*region);
                self.drains.push(Drain { began: at, within: *within, region: *region, sessions });
            }
            Event::Serves(region) => drop(self.draining.remove(region)),
            Event::At(session, region) if self.draining.contains(region) => {
                let what = format!("{at}: {} begins at a node that is drained", name(history, *session));
                report.add(Guarantee::Drained, what);
            }
            Event::ToldToLeave { session, at: slot, until } => {
                let told = Told { told_at: at, at: *slot, until: *until };
                if self.told.insert(*session, told).is_some() {
                    report.add(Guarantee::Drained, format!("{at}: {} is told twice", name(history, *session)));
                }
            }
            Event::LeftNode { session, closed } => {
                self.left.insert(*session, (at, *closed));
                if *closed {
                    self.closed(at, *session, history, report);
                }
            }
            Event::StandsStill(region, true) => self.still.entry(*region).or_default().push((at, u64::MAX)),
            Event::StandsStill(region, false) => {
                if let Some(last) = self.still.get_mut(region).and_then(|spans| spans.last_mut()) {
                    last.1 = at;
                }
            }
            _ => {}
        }
    }

    /// A node closes a session: it was told so, and its time is over.
    fn closed(&self, at: u64, session: SessionId, history: &History, report: &mut Report) {
        let name = name(history, session);
        let Some(told) = self.told.get(&session) else {
            return report.add(Guarantee::Drained, format!("{at}: {name} is closed and was never told to leave"));
        };
        let early = (told.until - told.told_at) / DRIFT;
        if at < told.at || at + early < told.until {
            let what = format!("{at}: {name} is closed before its time, {} or {} at the latest", told.at, told.until);
            report.add(Guarantee::Drained, what);
        }
    }

    /// How long a region stood still in a time.
    fn stood_still(&self, region: usize, from: u64, to: u64) -> u64 {
        let spans = self.still.get(&region).into_iter().flatten();
        spans.map(|(begins, ends)| (*ends).min(to).saturating_sub((*begins).max(from))).sum()
    }

    /// Whoever was there was told in time what fits the drain, and is gone in time.
    fn told_all(&self, drain: &Drain<'_>, history: &History, report: &mut Report) {
        let ends = drain.began + drain.within;
        for session in drain.sessions {
            let name = name(history, *session);
            let mut found = |what: &str| {
                report.add(Guarantee::Drained, format!("{}: {name} {what}, drained until {ends}", drain.began));
            };
            let Some(told) = self.told.get(session).filter(|told| told.told_at <= drain.began + TOLD) else {
                found("is not told to leave");
                continue;
            };
            // Of an earlier drain that was taken back it keeps the slot.
            if told.told_at < drain.began {
                continue;
            }
            if told.at < drain.began || told.at > told.until || told.until > ends + TOLD {
                found("is told a slot that is not in the time of the drain");
            }
            let left_at = self.left.get(session).map_or(self.end, |(at, _)| *at);
            let over = told.until + told.until.saturating_sub(told.told_at) / DRIFT;
            let late = left_at.saturating_sub(over);
            if late.saturating_sub(self.stood_still(drain.region, over, left_at)) > GRACE {
                found("is there still");
            }
        }
    }

    /// Clients do not come back all at once.
    fn spread(&self, drain: &Drain<'_>, report: &mut Report) {
        let told = drain.sessions.iter().filter_map(|session| self.told.get(session));
        let mut parts: BTreeMap<u64, usize> = BTreeMap::new();
        let mut count = 0;
        for told in told.filter(|told| told.told_at >= drain.began) {
            count += 1;
            let into = told.at.saturating_sub(drain.began);
            *parts.entry(into * PARTS / drain.within.max(1)).or_default() += 1;
        }
        // Twice the share, and some more: numbers of those that are there are not all in a row.
        let most = count / 4 + 5;
        if let Some((part, many)) = parts.into_iter().find(|(_, many)| *many > most) {
            let what = format!("{}: {many} of {count} sessions have slots in part {part} of {PARTS}", drain.began);
            report.add(Guarantee::Drained, what);
        }
    }
}
