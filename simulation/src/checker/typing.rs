//! Typing: who types is told to the members who look, at most once a second, and for as long as it is so (docs/typing.md).
//!
//! Times are microseconds of the run. Regions count milliseconds by clocks that may be 0.9 % off, and look at what is over
//! every 100 ms.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, UserId};

use super::{Guarantee, Report};
use crate::history::{Event, History, SessionId};

const SECOND: u64 = 1_000_000;
/// Starts that a session is told are so far apart.
const TOLD_EVERY: u64 = 980_000;
/// Whoever was told that a user types is told that it does not within this: for a second starts are not told again, and
/// what another region told is over 5 s and 2 s after the last.
const OVER: u64 = 83 * SECOND / 10;
/// What another region told of a start is over so long after it was heard.
const TYPES_FOR: u64 = 7 * SECOND;
/// How late a start may be heard: two ways, and up to a second at each region on them.
const LATE: u64 = 2 * SECOND;
/// The same where links were cut lately: what a link holds is lost 4 s later at most, a frame may be 2 s late besides and
/// come twice, and there are two links on a way.
const LATE_AFTER_CUTS: u64 = 14 * SECOND;
/// So long after the last fault nothing of it is left on a link.
const QUIET: u64 = 10 * SECOND;
/// What was held for a session is told when it is back.
const BACK: u64 = SECOND / 10;
/// Words of a user's earlier session may be under way for so long.
const EARLIER_SESSION: u64 = 20 * SECOND;

/// That a session takes a user for typing.
#[derive(Clone, Copy, Debug)]
struct Shown {
    at: u64,
    /// How long its region had stood still until then.
    stood: u64,
    /// Whether it was told since it began to look, or came back, and not by a start.
    by_look: bool,
    /// Whether the end may have come while its user was no member, and was told nothing.
    excused: bool,
}

/// What a session looks at.
#[derive(Debug)]
struct Looks<'a> {
    user: &'a UserId,
    region: usize,
    view: Option<ConversationId>,
    aside: bool,
    /// When it began to look at this.
    since: u64,
    /// When it said last what it looks at, or came back.
    looked: u64,
    shown: BTreeMap<&'a UserId, Shown>,
}

/// What a user said in a conversation.
#[derive(Debug, Default)]
struct Words {
    /// When it started last, and how long regions had stood still until then.
    started: Option<(u64, u64)>,
    stopped: Option<u64>,
    sessions: BTreeMap<SessionId, u64>,
}

/// How long something has gone on: since when, and what went on before.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    count: usize,
    since: u64,
    before: u64,
}

impl Span {
    fn change(&mut self, at: u64, begins: bool) {
        self.before = self.total(at);
        self.since = at;
        self.count = if begins { self.count + 1 } else { self.count.saturating_sub(1) };
    }

    fn total(&self, at: u64) -> u64 {
        self.before + if self.count > 0 { at - self.since } else { 0 }
    }
}

#[derive(Debug, Default)]
struct Known<'a> {
    sessions: BTreeMap<SessionId, Looks<'a>>,
    words: BTreeMap<(ConversationId, &'a UserId), Words>,
    /// Who of a direct conversation is not told of whom.
    parted: BTreeSet<(ConversationId, &'a UserId, &'a UserId)>,
    out: BTreeSet<(usize, ConversationId, &'a UserId)>,
    /// Who may have been removed, and is told no ends.
    leaving: BTreeSet<(ConversationId, &'a UserId)>,
    still: BTreeMap<usize, Span>,
    any_still: Span,
    faults: Span,
}

pub(super) fn check(history: &History, report: &mut Report) {
    let mut known = Known::default();
    let mut end = 0;
    for (at, event) in &history.events {
        known.take(*at, event, report);
        end = *at;
    }
    let sessions = std::mem::take(&mut known.sessions);
    for (session, looks) in &sessions {
        known.overdue(*session, looks, end, report);
    }
}

fn found(at: u64, what: &str, report: &mut Report) {
    report.add(Guarantee::Typing, format!("{at}: {what}"));
}

impl<'a> Known<'a> {
    fn take(&mut self, at: u64, event: &'a Event, report: &mut Report) {
        match event {
            Event::Typed { session, user, conversation, typing } => {
                let words = self.words.entry((*conversation, user)).or_default();
                if *typing {
                    words.started = Some((at, self.any_still.total(at)));
                } else {
                    words.stopped = Some(at);
                }
                words.sessions.insert(*session, at);
            }
            Event::InView { session, user, region, conversation, aside } => {
                self.looks(at, *session, (user, *region), (*conversation, *aside), report);
            }
            Event::TypingTold { session, user, conversation, typing } => {
                self.told(at, *session, (*conversation, user), *typing, report);
            }
            Event::TypingReached { user, conversation, since, sessions } => {
                self.reached(at, (*conversation, user), *since, sessions, report);
            }
            Event::Blocks(conversation, user, other) => {
                self.parted.extend([(*conversation, user, other), (*conversation, other, user)]);
            }
            Event::ShownOut { region, conversation, user, is_out: true } => {
                self.out.insert((*region, *conversation, user));
                let here = |looks: &&mut Looks<'_>| looks.user == user && looks.region == *region;
                for looks in self.sessions.values_mut().filter(here).filter(|looks| looks.view == Some(*conversation)) {
                    looks.shown.clear();
                }
            }
            Event::ShownOut { region, conversation, user, is_out: false } => {
                self.out.remove(&(*region, *conversation, user));
            }
            Event::Leaves(conversation, user, true) => drop(self.leaving.insert((*conversation, user))),
            Event::Leaves(conversation, user, false) => self.is_back((*conversation, user)),
            Event::StandsStill(region, begins) => {
                self.still.entry(*region).or_default().change(at, *begins);
                self.any_still.change(at, *begins);
            }
            Event::FaultBegins(..) => self.faults.change(at, true),
            Event::FaultEnds(_) => self.faults.change(at, false),
            _ => {}
        }
    }

    /// Who is a member again may have missed the ends of whoever typed before.
    fn is_back(&mut self, (conversation, user): (ConversationId, &'a UserId)) {
        if self.leaving.remove(&(conversation, user)) {
            let looks = |looks: &&mut Looks<'_>| looks.user == user && looks.view == Some(conversation);
            let shown = self.sessions.values_mut().filter(looks).flat_map(|looks| looks.shown.values_mut());
            shown.for_each(|shown| shown.excused = true);
        }
    }

    fn stood(&self, region: usize, at: u64) -> u64 {
        self.still.get(&region).map_or(0, |still| still.total(at))
    }

    /// Until when others may take a user for typing after its last start.
    fn over(&self, of: (ConversationId, &'a UserId), at: u64) -> Option<u64> {
        let (started, stood) = self.words.get(&of)?.started?;
        Some(started + TYPES_FOR + self.late(at) + self.any_still.total(at) - stood)
    }

    fn late(&self, at: u64) -> u64 {
        // Before the first fault nothing has changed: since the beginning.
        let quiet = self.faults.count == 0 && (self.faults.since == 0 || self.faults.since + QUIET <= at);
        if quiet { LATE } else { LATE_AFTER_CUTS }
    }

    fn looks(
        &mut self,
        at: u64,
        session: SessionId,
        (user, region): (&'a UserId, usize),
        (view, aside): (Option<ConversationId>, bool),
        report: &mut Report,
    ) {
        let before = self.sessions.remove(&session);
        if let Some(before) = &before {
            self.overdue(session, before, at, report);
        }
        let same = before.filter(|before| before.view == view && view.is_some());
        let since = same.as_ref().map_or(at, |before| before.since);
        let shown = same.map(|before| before.shown).unwrap_or_default();
        if view.is_some() {
            self.sessions.insert(session, Looks { user, region, view, aside, since, looked: at, shown });
        }
    }

    /// Whether a session takes somebody for typing for longer than it may.
    fn overdue(&self, session: SessionId, looks: &Looks<'a>, at: u64, report: &mut Report) {
        let (Some(conversation), false) = (looks.view, looks.aside) else { return };
        if self.leaving.contains(&(conversation, looks.user)) {
            return;
        }
        for (user, shown) in &looks.shown {
            self.still_shown(session, looks, (conversation, user), *shown, at, report);
        }
    }

    fn still_shown(
        &self,
        session: SessionId,
        looks: &Looks<'a>,
        (conversation, user): (ConversationId, &'a UserId),
        shown: Shown,
        at: u64,
        report: &mut Report,
    ) {
        let stood = self.stood(looks.region, at) - shown.stood;
        let told_until = shown.at + OVER + stood;
        let until = self.over((conversation, user), at).map_or(told_until, |over| over.min(told_until));
        if !shown.excused && at > until.max(looks.looked + BACK + stood) {
            let told = shown.at;
            let what = format!("session {session} takes {user} for typing in {conversation} still, as told at {told}");
            found(at, &what, report);
        }
    }

    fn told(
        &mut self,
        at: u64,
        session: SessionId,
        (conversation, user): (ConversationId, &'a UserId),
        typing: bool,
        report: &mut Report,
    ) {
        let word = if typing { "types" } else { "types no longer" };
        let about = format!("session {session} is told that {user} {word} in {conversation}");
        let looks = self.sessions.remove(&session);
        let Some(mut looks) = looks.filter(|looks| looks.view == Some(conversation) && !looks.aside) else {
            return found(at, &format!("{about}, which it does not look at"), report);
        };
        if looks.user == user {
            found(at, &format!("{about}, which is itself"), report);
        }
        if self.parted.contains(&(conversation, looks.user, user)) {
            found(at, &format!("{about}, where one blocks the other"), report);
        }
        if self.out.contains(&(looks.region, conversation, looks.user)) {
            found(at, &format!("{about}, where it is no member"), report);
        }
        let before = looks.shown.remove(user);
        let leaving = self.leaving.contains(&(conversation, looks.user));
        if let Some(before) = before.filter(|_| !leaving) {
            self.still_shown(session, &looks, (conversation, user), before, at, report);
        }
        let by_look = looks.looked == at;
        if !typing && before.is_none() && !by_look {
            found(at, &format!("{about}, and was not told that it does"), report);
        }
        if typing {
            self.started((conversation, user), at, &about, report);
            if let Some(before) = before.filter(|before| !by_look && !before.by_look && at < before.at + TOLD_EVERY) {
                found(at, &format!("{about}, again after {}", before.at), report);
            }
            let stood = self.stood(looks.region, at);
            looks.shown.insert(user, Shown { at, stood, by_look, excused: false });
        }
        self.sessions.insert(session, looks);
    }

    /// Whether a user who is said to type started lately.
    fn started(&self, of: (ConversationId, &'a UserId), at: u64, about: &str, report: &mut Report) {
        let over = self.over(of, at);
        if over.is_none_or(|over| at > over) {
            found(at, &format!("{about}, which was over at {over:?}"), report);
        }
    }

    /// Everybody in reach who looks knows of a start.
    fn reached(
        &self,
        at: u64,
        of: (ConversationId, &'a UserId),
        since: u64,
        sessions: &[SessionId],
        report: &mut Report,
    ) {
        let Some(words) = self.words.get(&of) else { return };
        let lately = words.sessions.values().filter(|last| **last + EARLIER_SESSION > since).count();
        if lately > 1 || words.stopped.is_some_and(|stopped| stopped >= since) {
            return;
        }
        let (conversation, user) = of;
        for session in sessions {
            let Some(looks) = self.sessions.get(session) else { continue };
            let looked = looks.view == Some(conversation) && !looks.aside && looks.looked < since;
            let parted = self.parted.contains(&(conversation, looks.user, user)) || looks.user == user;
            if looked && !parted && !looks.shown.contains_key(user) {
                found(at, &format!("session {session} was not told that {user} types in {conversation}"), report);
            }
        }
    }
}
