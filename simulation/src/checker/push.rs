//! Push: a user is woken for what it has missed, once, and for nothing else (docs/push.md).
//!
//! Whoever decides may decide again what is forgotten with the power or a store, and another home of the user's record
//! what the one before decided: its decisions begin where the home of the conversation says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hearth_protocol::push::{Preferences, PushPolicy};
use hearth_protocol::{ConversationId, MessageId, Position, Timestamp, UserId};
use region_model::push::Withheld;

use super::wants::Wants;
use super::{Facts, Guarantee, Report};
use crate::history::{Did, Event, History, ReadRow};

/// A view may be counted for so long after it ended, in microseconds: as long as views count, and a frame's way.
const VIEW_COUNTS: u64 = 100_000_000;
/// A view of so long, in microseconds, is known to whoever decides, and was so before the message's grace began.
const KNOWN: u64 = 8_000_000;
/// Where a new home of a record knows nothing it begins with the last minute, in microseconds; clocks may be off by some
/// seconds.
const MINUTE: u64 = 54_000_000;
/// What was decided is sent within this, in microseconds: a service may not take it at first.
const SENT: u64 = 8_000_000;
/// Ids of decided messages that are remembered a user.
const REMEMBERED: usize = 256;

/// A user and a conversation.
type Pair<'a> = (&'a UserId, ConversationId);

/// One decision.
#[derive(Clone, Copy, Debug)]
struct Decided {
    at: u64,
    position: Position,
    withheld: Option<Withheld>,
    by: (usize, u64, u64),
    wall: Timestamp,
    /// How many were made for the user before it.
    number: usize,
}

/// What is so of a user and a conversation.
#[derive(Debug, Default)]
struct Of {
    /// Until when it was in view; `u64::MAX` while it is.
    viewed: Option<u64>,
    read: Vec<Position>,
    forgot: Option<u64>,
    /// Where it began anew, and when, and what was shown then.
    starts: Vec<(u64, Position, u64)>,
    /// The newest push that a service was sent, when, and whether it says that there is something.
    sent: Option<(u64, Position, bool)>,
    /// The highest position that a service was sent something about, or that was too old.
    sent_up_to: Option<(u64, Position)>,
}

/// Whether one cursor says all that another one says.
fn covers(cursor: Position, position: Position) -> bool {
    cursor.epoch >= position.epoch && cursor.sequence >= position.sequence
}

/// What the line says of a message.
#[derive(Clone, Copy, Debug)]
struct Line<'a> {
    row: &'a ReadRow,
}

#[derive(Debug, Default)]
struct Known<'a> {
    of: BTreeMap<Pair<'a>, Of>,
    wants: Wants<'a>,
    spans: BTreeMap<Pair<'a>, &'a [(u64, u64)]>,
    names: BTreeSet<(ConversationId, MessageId, &'a UserId)>,
    decided: BTreeMap<(&'a UserId, ConversationId, MessageId), Vec<Decided>>,
    count: BTreeMap<&'a UserId, usize>,
    rows: BTreeMap<(ConversationId, MessageId), Line<'a>>,
    in_view: BTreeMap<&'a UserId, ConversationId>,
    clocks_jumped: bool,
}

pub(super) fn check(history: &History, facts: &Facts, report: &mut Report) {
    let mut known = Known { wants: Wants::of(history), ..Known::default() };
    if !known.gather(history) {
        return;
    }
    for (at, event) in &history.events {
        known.take(*at, event, facts, report);
    }
    for (at, event) in &history.events {
        if let Event::PushEnd { user, conversation, decides: Some(decides), .. } = event {
            known.missed(user, *conversation, facts, report);
            known.left_showing(*at, user, *conversation, *decides, report);
        }
    }
    known.unsent(history, report);
}

impl<'a> Known<'a> {
    /// What is so all the time, or at the end. Returns whether anything was decided.
    fn gather(&mut self, history: &'a History) -> bool {
        let mut any = false;
        // Readers that were given the same share it.
        let mut taken: BTreeMap<ConversationId, &Arc<Vec<ReadRow>>> = BTreeMap::new();
        for (_, event) in &history.events {
            match event {
                Event::PushEnd { user, conversation, spans, .. } => {
                    any = true;
                    self.spans.insert((user, *conversation), spans);
                }
                Event::PushDecided { .. } => any = true,
                Event::Names(conversation, message, user) => drop(self.names.insert((*conversation, *message, user))),
                Event::Read { conversation, rows, .. } => {
                    if taken.insert(*conversation, rows).is_some_and(|before| Arc::ptr_eq(before, rows)) {
                        continue;
                    }
                    let messages = rows.iter().filter(|row| row.did == Did::Message);
                    self.rows.extend(messages.map(|row| ((*conversation, row.message), Line { row })));
                }
                Event::FaultBegins(_, "clock-jump") => self.clocks_jumped = true,
                _ => {}
            }
        }
        any
    }

    fn take(&mut self, at: u64, event: &'a Event, facts: &Facts, report: &mut Report) {
        match event {
            Event::Screen(user, shown) => {
                if let Some(before) = self.in_view.remove(user) {
                    self.of.entry((user, before)).or_default().viewed = Some(at);
                }
                if let Some(shown) = shown {
                    self.in_view.insert(user, *shown);
                    self.of.entry((user, *shown)).or_default().viewed = Some(u64::MAX);
                }
            }
            Event::ReadUpTo(user, conversation, up_to) => {
                self.of.entry((user, *conversation)).or_default().read.push(*up_to);
            }
            Event::PushForgot(user, conversation) => {
                self.of.entry((user, *conversation)).or_default().forgot = Some(at);
            }
            Event::PushStart(user, conversation, start, shown) => {
                self.of.entry((user, *conversation)).or_default().starts.push((at, *start, *shown));
            }
            Event::PushSent { user, conversation, position, notify, is_over, .. } => {
                self.sent(at, event, report);
                let of = self.of.entry((user, *conversation)).or_default();
                if !is_over {
                    of.sent = Some((at, *position, *notify));
                }
                let before = of.sent_up_to.map(|(_, before)| before);
                of.sent_up_to = Some((at, before.max(Some(*position)).unwrap_or_default()));
            }
            Event::PushDecided { user, conversation, message, position, withheld, by, in_view_since, wall } => {
                let number = self.count.entry(user).or_default();
                *number += 1;
                let (position, withheld, by, wall, number) = (*position, *withheld, *by, *wall, *number);
                let decided = Decided { at, position, withheld, by, wall, number };
                self.again((user, *conversation), *message, decided, report);
                if withheld.is_none() {
                    self.pushed((user, *conversation), *message, decided, *in_view_since, facts, report);
                } else {
                    self.withheld((user, *conversation), *message, decided, report);
                }
                self.unsubscribed((user, *conversation), *message, decided, facts, report);
                self.decided.entry((user, *conversation, *message)).or_default().push(decided);
            }
            _ => {}
        }
    }

    /// Whether it is decided twice by one who knows of the first time.
    fn again(&self, (user, conversation): Pair<'a>, message: MessageId, decided: Decided, report: &mut Report) {
        let forgot = self.of.get(&(user, conversation)).and_then(|of| of.forgot);
        for before in self.decided.get(&(user, conversation, message)).into_iter().flatten() {
            // Of who is without a subscription nothing is remembered.
            let forgotten = forgot.is_some_and(|forgot| forgot >= before.at)
                || self.wants.may_be_without(user, before.at, decided.at);
            let same_home = (before.by.0, before.by.1) == (decided.by.0, decided.by.1) && !forgotten;
            let same_process = same_home && before.by == decided.by;
            let same_place = before.position == decided.position;
            let lately = decided.number - before.number < REMEMBERED;
            let woken = before.withheld.is_none();
            // What was withheld at once behind something that waits is not kept, and decided again by the next process.
            let knows = same_place && (same_process || (same_home && woken));
            if knows || (same_process && woken && decided.withheld.is_none() && lately) {
                let what = format!(
                    "{}: {message} of {conversation} was decided for {user}: {before:?}, and is again: {decided:?}",
                    decided.at
                );
                report.add(Guarantee::Push, what);
            }
        }
    }

    fn is_named(&self, (user, conversation): Pair<'a>, message: MessageId) -> bool {
        self.names.contains(&(conversation, message, user))
    }

    /// Why a user would not be woken whatever happens, by all that may be known of what it wants.
    fn unwanted(&self, pair: Pair<'a>, message: MessageId, decided: Decided) -> Vec<Option<Withheld>> {
        let is_named = self.is_named(pair, message);
        let why = |Preferences { policy, muted_until }| {
            if muted_until.is_some_and(|until| until > decided.wall) {
                return Some(Withheld::Muted);
            }
            if policy == PushPolicy::None {
                return Some(Withheld::Unwanted);
            }
            (policy == PushPolicy::Mentions && !is_named).then_some(Withheld::NotMentioned)
        };
        self.wants.preferences(pair, decided.at, decided.by.1).map(why).collect()
    }

    /// Nothing is decided of who has no subscription, nor, at first, of what was said before there was one.
    fn unsubscribed(&self, pair: Pair<'a>, message: MessageId, decided: Decided, facts: &Facts, report: &mut Report) {
        let (user, conversation) = pair;
        let (at, (_, epoch, _)) = (decided.at, decided.by);
        if !self.wants.may_be_subscribed(user, None, at, epoch) {
            let what = format!("{at}: {message} of {conversation} is decided for {user}, who is not subscribed");
            report.add(Guarantee::Push, what);
        }
        // What a failover took away and comes back is said anew.
        let there = facts.sent.get(&(conversation, message)).filter(|sent| {
            let first = sent.acks.first().map(|ack| ack.position);
            first == Some(decided.position)
        });
        let acked_at = there.and_then(|sent| sent.acked_at);
        // What nobody was shown then, since a mark was lost with the power, is shown first when somebody is woken for it.
        let start = self.of.get(&pair).and_then(|of| of.starts.last());
        let was_shown = start.is_none_or(|(_, _, shown)| decided.position.sequence.0 < *shown);
        let early = was_shown && acked_at.is_some_and(|acked_at| self.wants.is_before_all(user, acked_at));
        if early && decided.withheld.is_none() && !self.clocks_jumped {
            let what = format!("{at}: {user} is woken for {message} of {conversation}, said before it subscribed");
            report.add(Guarantee::Push, what);
        }
    }

    /// Pushes go to subscriptions that hold.
    fn sent(&self, at: u64, event: &Event, report: &mut Report) {
        let Event::PushSent { user, conversation, subscription, epoch: Some(epoch), is_over: false, .. } = event else {
            return;
        };
        if !self.wants.may_be_subscribed(user, Some(*subscription), at, *epoch) {
            let what = format!("{at}: {user} is sent to {subscription}, which is over, what is of {conversation}");
            report.add(Guarantee::Push, what);
        }
    }

    fn is_in(&self, pair: Pair<'a>, sequence: u64) -> bool {
        self.spans.get(&pair).is_none_or(|spans| spans.iter().any(|(from, to)| (*from..*to).contains(&sequence)))
    }

    fn pushed(
        &self,
        pair: Pair<'a>,
        message: MessageId,
        decided: Decided,
        in_view_since: Option<u64>,
        facts: &Facts,
        report: &mut Report,
    ) {
        let (user, conversation) = pair;
        let mut found = |what: &str| {
            let at = decided.at;
            report.add(Guarantee::Push, format!("{at}: {user} is woken for {message} of {conversation}, {what}"));
        };
        if let [Some(why), ..] = self.unwanted(pair, message, decided)[..]
            && !self.unwanted(pair, message, decided).contains(&None)
        {
            found(&format!("which is {}", why.label()));
        }
        if in_view_since.is_some_and(|since| since + KNOWN < decided.at) {
            found("which it had in view all the time");
        }
        let Some(Line { row }) = self.rows.get(&(conversation, message)) else { return };
        if row.sender == user.as_str() {
            found("which it wrote");
        }
        let stands = row.sequence == decided.position.sequence.0 && !facts.losses.contains_key(&conversation);
        if stands && !self.is_in(pair, row.sequence) {
            found("where it was no member");
        }
    }

    fn withheld(&self, pair: Pair<'a>, message: MessageId, decided: Decided, report: &mut Report) {
        let Some(why) = decided.withheld else { return };
        let unwanted = self.unwanted(pair, message, decided).contains(&Some(why));
        let none = Of::default();
        let of = self.of.get(&pair).unwrap_or(&none);
        let row = self.rows.get(&(pair.1, message)).map(|line| line.row);
        let so = match why {
            Withheld::Own => row.is_none_or(|row| row.sender == pair.0.as_str()),
            Withheld::InView => of.viewed.is_some_and(|until| until.saturating_add(VIEW_COUNTS) >= decided.at),
            Withheld::Read => of.read.iter().any(|cursor| covers(*cursor, decided.position)),
            Withheld::Muted | Withheld::NotMentioned => unwanted,
            Withheld::Unwanted => {
                let left = self.spans.get(&pair).is_none_or(|spans| spans.iter().any(|(_, to)| *to < u64::MAX));
                left || unwanted
            }
            Withheld::Stale => row.is_none_or(|row| row.text.is_none() || row.expires.is_some() || row.bare),
            // It may still wait at its other position: judged at the end.
            Withheld::Repeated => true,
        };
        if !so && self.wants.knows(pair) {
            let (at, (user, conversation), why) = (decided.at, pair, why.label());
            let what = format!("{at}: {user} is not woken for {message} of {conversation} as {why}, which is not so");
            report.add(Guarantee::Push, what);
        }
    }

    /// At the end something was decided of each message that stands where the user has been a member since. Of what came
    /// before it left it is woken for nothing any more.
    fn missed(&self, user: &'a UserId, conversation: ConversationId, facts: &Facts, report: &mut Report) {
        let pair = (user, conversation);
        let since = self.spans.get(&pair).and_then(|spans| spans.last()).filter(|(_, to)| *to == u64::MAX);
        let (Some((since, _)), Some(subscribed)) = (since, self.wants.subscribed_since(user)) else { return };
        let low = MessageId(uuid::Uuid::nil());
        for ((_, message), Line { row }) in
            self.rows.range((conversation, low)..).take_while(|((of, _), _)| *of == conversation)
        {
            let invoked = facts.sent.get(&(conversation, *message)).and_then(|sent| sent.invoked).unwrap_or(0);
            if row.sender == user.as_str() || row.sequence < *since || invoked < subscribed {
                continue;
            }
            // What is withheld as repeated is decided at another position, or by the next process if this one ended before.
            let mut all = self.decided.get(&(user, conversation, *message)).into_iter().flatten();
            let decided = all.any(|decided| decided.withheld != Some(Withheld::Repeated));
            if decided || self.began_above(pair, *message, row, facts) {
                continue;
            }
            let what = format!(
                "{user} was never told of {message}, {} of {conversation}, and nothing was decided",
                row.sequence
            );
            report.add(Guarantee::Push, what);
        }
    }

    /// Whether somebody who knew nothing of earlier decisions began above a message that was older than a minute then, or
    /// than the user's subscription.
    fn began_above(&self, pair: Pair<'a>, message: MessageId, row: &ReadRow, facts: &Facts) -> bool {
        let acked_at = facts.sent.get(&(pair.1, message)).and_then(|sent| sent.acked_at).unwrap_or(0);
        let above = |(at, start, _): &(u64, Position, u64)| {
            let is_old = acked_at + MINUTE <= *at || self.wants.is_before_one(pair.0, acked_at, *at);
            start.sequence.0 >= row.sequence && (self.clocks_jumped || is_old)
        };
        self.of.get(&pair).is_some_and(|of| of.starts.iter().any(above))
    }

    /// What was decided goes out, or is too old by then.
    fn unsent(&self, history: &History, report: &mut Report) {
        let settled = |(at, event): &(u64, Event)| match event {
            Event::PushEnd { decides: Some(_), .. } => Some(*at),
            _ => None,
        };
        let Some(end) = history.events.iter().find_map(settled) else { return };
        for ((user, conversation, message), all) in &self.decided {
            let Some(last) = all.iter().rfind(|decided| decided.withheld.is_none()) else { continue };
            if last.at + SENT > end {
                continue;
            }
            let Some(of) = self.of.get(&(*user, *conversation)) else { continue };
            let sent = of.sent_up_to.is_some_and(|(at, up_to)| at >= last.at && up_to >= last.position);
            let forgotten = of.forgot.is_some_and(|forgot| forgot >= last.at);
            // A job for a subscription that is over is not sent.
            if !sent && !forgotten && !self.wants.may_have_changed(user, last.at) {
                let what = format!("that {user} is woken for {message} of {conversation} was never sent: {last:?}");
                report.add(Guarantee::Push, what);
            }
        }
    }

    /// What devices show is taken away once it is read, by whoever had it shown.
    fn left_showing(
        &self,
        at: u64,
        user: &'a UserId,
        conversation: ConversationId,
        decides: (usize, u64),
        report: &mut Report,
    ) {
        let Some(of) = self.of.get(&(user, conversation)) else { return };
        let Some((sent_at, position, true)) = of.sent else { return };
        let low = (user, conversation, MessageId(uuid::Uuid::nil()));
        let mut pushed = self.decided.range(low..).take_while(|((of, at, _), _)| (*of, *at) == (user, conversation));
        let by_others = pushed.any(|(_, all)| {
            all.iter().any(|decided| decided.position == position && (decided.by.0, decided.by.1) != decides)
        });
        let forgotten = of.forgot.is_some() || self.wants.may_have_changed(user, sent_at);
        let read = of.read.iter().any(|cursor| covers(*cursor, position));
        if read && !by_others && !forgotten {
            let what = format!(
                "{at}: {user} has read {conversation} up to {position:?}, shown since {sent_at}, which is shown still"
            );
            report.add(Guarantee::Push, what);
        }
    }
}
