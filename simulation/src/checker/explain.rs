//! Explanations: what is said of where a message is agrees with what the history shows, to whom it may be told
//! (docs/delivery.md).

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::client::{BlockReason, DeliveryState, ExplanationPayload, Hop, HopKind};
use hearth_protocol::{ConversationId, Epoch, Position, RegionId, Sequence, UserId};

use super::{Facts, Guarantee, Key, Report};
use crate::history::{Acked, AskedRegion, Event, Explained, History, SessionId};

/// Steps of one region of which the first comes no later than the second, by its clock.
const IN_ORDER: [(HopKind, HopKind); 3] = [
    (HopKind::LinkIn, HopKind::ReplicaApply),
    (HopKind::ReplicaApply, HopKind::EdgeOut),
    (HopKind::HomeAppend, HopKind::EdgeOut),
];
/// Likewise, of a message that had one number all the time: under another one it goes another way.
const IN_ORDER_OF_ONE_NUMBER: [(HopKind, HopKind); 5] = [
    (HopKind::EdgeIn, HopKind::Queued),
    (HopKind::EdgeIn, HopKind::Forwarded),
    (HopKind::EdgeIn, HopKind::Acked),
    (HopKind::HomeAppend, HopKind::Acked),
    (HopKind::HomeAppend, HopKind::LinkOut),
];
/// Steps that only the region of a sender's session takes.
const OF_THE_EDGE: [HopKind; 4] = [HopKind::EdgeIn, HopKind::Queued, HopKind::Forwarded, HopKind::Acked];
/// What a message waits for while something is in trouble.
const TROUBLES: [BlockReason; 9] = [
    BlockReason::Parked,
    BlockReason::OnItsWay,
    BlockReason::HomeNotServing,
    BlockReason::CopiesMissing,
    BlockReason::BehindAnother,
    BlockReason::ReplicaBehind,
    BlockReason::NotMarked,
    BlockReason::OutOfReach,
    BlockReason::Unknown,
];
/// What tells of sessions, and so whether the user is there.
const OF_SESSIONS: [BlockReason; 5] = [
    BlockReason::SessionSlow,
    BlockReason::SessionPulls,
    BlockReason::NotAskedFor,
    BlockReason::NotReceived,
    BlockReason::Blocked,
];

/// What is known of a message that somebody asked for.
#[derive(Debug, Default)]
struct Message<'a> {
    sender: Option<&'a str>,
    /// Where it was handed over.
    at: BTreeSet<usize>,
    /// Who was shown it, and where.
    shown: BTreeSet<(&'a str, usize)>,
    /// Acks that sessions heard, and where.
    acks: Vec<(usize, &'a Acked)>,
}

/// What is known when somebody asks.
#[derive(Debug, Default)]
struct Known<'a> {
    sessions: Vec<(&'a str, usize)>,
    messages: BTreeMap<Key, Message<'a>>,
    /// When something was acked first under an epoch.
    begun: BTreeMap<(ConversationId, Epoch), u64>,
    /// Who was told that something was left out.
    told: BTreeSet<(&'a str, Option<ConversationId>)>,
    /// How far users have said to be: delivered and read.
    said: BTreeMap<(&'a str, ConversationId), (u64, u64)>,
    /// When the clock of a region was set last.
    clocks: BTreeMap<usize, u64>,
    blocks: BTreeSet<(ConversationId, &'a UserId, &'a UserId)>,
}

pub(super) fn check(history: &History, facts: &Facts, report: &mut Report) {
    let asked = history.events.iter().filter_map(|(_, event)| match event {
        Event::Explained(explained) => Some(((explained.conversation, explained.message), Message::default())),
        _ => None,
    });
    let mut known = Known { messages: asked.collect(), ..Known::default() };
    if known.messages.is_empty() {
        return;
    }
    let place = |name: &str| history.regions.iter().position(|region| region == name).unwrap_or(usize::MAX);
    let names = history.sessions.iter().map(|session| session.name.split_once(" at ").unwrap_or((&session.name, "")));
    known.sessions = names.map(|(user, region)| (user, place(region))).collect();
    for (at, event) in &history.events {
        known.take(*at, event);
        let Event::Explained(explained) = event else { continue };
        let Some(of) = known.messages.get(&(explained.conversation, explained.message)) else { continue };
        let Some(answer) = &explained.answer else {
            if explained.settled {
                add(report, *at, explained, "is not explained at the end");
            }
            continue;
        };
        let invoked = facts.sent.get(&(explained.conversation, explained.message)).and_then(|sent| sent.invoked);
        Case { at: *at, regions: &history.regions, known: &known, of, explained, answer, invoked }.judge(facts, report);
    }
}

fn add(report: &mut Report, at: u64, explained: &Explained, what: &str) {
    let Explained { message, conversation, user, asker, .. } = explained;
    let what = format!("{at}: {message} of {conversation} for {user}, asked by {asker}: {what}");
    report.add(Guarantee::Explained, what);
}

impl<'a> Known<'a> {
    fn session(&self, session: SessionId) -> (&'a str, usize) {
        self.sessions.get(session as usize).copied().unwrap_or(("", usize::MAX))
    }

    fn take(&mut self, at: u64, event: &'a Event) {
        match event {
            Event::Invoke(session, conversation, message) => {
                let (user, region) = self.session(*session);
                if let Some(of) = self.messages.get_mut(&(*conversation, *message)) {
                    of.sender = Some(user);
                    of.at.insert(region);
                }
            }
            Event::Ack { session, conversation, message, acked, .. } => {
                let (_, region) = self.session(*session);
                self.begun.entry((*conversation, acked.position.epoch)).or_insert(at);
                if let Some(of) = self.messages.get_mut(&(*conversation, *message)) {
                    of.acks.push((region, acked));
                }
            }
            Event::Shown(session, conversation, _, message) => {
                let of = self.session(*session);
                if let Some(known) = self.messages.get_mut(&(*conversation, *message)) {
                    known.shown.insert(of);
                }
            }
            Event::Told(session, conversation) => drop(self.told.insert((self.session(*session).0, *conversation))),
            Event::Said { session, conversation, up_to, read } => {
                let (user, _) = self.session(*session);
                let (delivered, was_read) = self.said.entry((user, *conversation)).or_default();
                *delivered = (*delivered).max(*up_to);
                *was_read = (*was_read).max(if *read { *up_to } else { 0 });
            }
            Event::ClockSet(region) => drop(self.clocks.insert(*region, at)),
            Event::Blocks(conversation, user, blocked) => drop(self.blocks.insert((*conversation, user, blocked))),
            _ => {}
        }
    }
}

/// One answer, with what is known when it is given.
struct Case<'a> {
    at: u64,
    regions: &'a [String],
    known: &'a Known<'a>,
    of: &'a Message<'a>,
    explained: &'a Explained,
    answer: &'a ExplanationPayload,
    /// When the message was handed over first.
    invoked: Option<u64>,
}

impl Case<'_> {
    fn judge(&self, facts: &Facts, report: &mut Report) {
        self.shape(report);
        if !self.is_told_all() {
            return self.told_nothing(report);
        }
        self.hides_blocks(report);
        self.state(report);
        self.position(facts, report);
        self.reasons(report);
        for asked in &self.explained.asked {
            self.steps_of(asked, report);
        }
    }

    fn found(&self, report: &mut Report, what: &str) {
        add(report, self.at, self.explained, what);
    }

    fn place(&self, region: &RegionId) -> Option<usize> {
        self.regions.iter().position(|known| known == region.as_str())
    }

    fn asked(&self, place: usize) -> Option<&AskedRegion> {
        self.explained.asked.iter().find(|asked| asked.region == place)
    }

    fn says(&self, reason: BlockReason) -> bool {
        self.answer.blocks.iter().any(|block| block.reason == reason)
    }

    fn waits(&self) -> bool {
        self.answer.state == DeliveryState::Waiting
    }

    fn has_arrived(&self) -> bool {
        self.answer.state == DeliveryState::Delivered || self.answer.state == DeliveryState::Read
    }

    /// What waits or does not come says why, and nothing else does. No region is asked and out of reach.
    fn shape(&self, report: &mut Report) {
        let has_why = self.waits() || self.answer.state == DeliveryState::Withheld;
        if has_why == self.answer.blocks.is_empty() {
            self.found(report, &format!("{:?} for {:?}", self.answer.state, self.answer.blocks));
        }
        let away = self.answer.out_of_reach.iter().filter_map(|region| self.place(region));
        let all: BTreeSet<usize> = self.explained.asked.iter().map(|asked| asked.region).chain(away).collect();
        if all.len() != self.explained.asked.len() + self.answer.out_of_reach.len() || all.len() != self.regions.len() {
            self.found(report, "of some region it does not say whether that was asked, or says both");
        }
    }

    /// Whether who asks is the sender, the user or an operator.
    fn is_told_all(&self) -> bool {
        let Explained { asker, user, operator, .. } = self.explained;
        *operator || asker == user || self.of.sender == Some(asker.as_str())
    }

    fn told_nothing(&self, report: &mut Report) {
        let only_unknown = self.answer.blocks.iter().all(|block| block.reason == BlockReason::Unknown);
        if !only_unknown || !self.answer.hops.is_empty() || self.answer.sequence_number.is_some() {
            self.found(report, "one who neither sent it nor is whom it is for is told of it");
        }
    }

    /// That a user blocks the sender is told to nobody but itself and operators.
    fn hides_blocks(&self, report: &mut Report) {
        let Explained { asker, user, operator, conversation, .. } = self.explained;
        if *operator || asker == user || !self.known.blocks.contains(&(*conversation, user, asker)) {
            return;
        }
        let of_user = self.answer.hops.iter().any(|hop| hop.hop >= HopKind::EdgeOut);
        if of_user || !self.waits() || self.answer.blocks.iter().any(|block| OF_SESSIONS.contains(&block.reason)) {
            let (state, blocks) = (self.answer.state, &self.answer.blocks);
            self.found(report, &format!("whom the user blocks is told {state:?} {blocks:?}"));
        }
    }

    /// A user has a message, or has read it, when a client of it says so, which was shown it or told that it lacks some.
    fn state(&self, report: &mut Report) {
        let (user, conversation) = (self.explained.user.as_str(), self.explained.conversation);
        let is_own = self.of.sender == Some(user);
        if self.answer.state == DeliveryState::Own && !is_own {
            self.found(report, "it is not of the user");
        }
        let sequence = self.answer.sequence_number.unwrap_or(u64::MAX);
        let (delivered, read) = self.known.said.get(&(user, conversation)).copied().unwrap_or_default();
        let of_clients = |kind| self.answer.hops.iter().any(|hop| hop.hop == kind);
        let says_read = self.answer.state == DeliveryState::Read || of_clients(HopKind::ClientRead);
        let says_delivered = self.has_arrived() || of_clients(HopKind::ClientReceived);
        if (says_read && read < sequence) || (says_delivered && delivered < sequence) {
            self.found(report, &format!("it is {:?}, and no client of the user has said so", self.answer.state));
        }
        let told = [Some(conversation), None].iter().any(|of| self.known.told.contains(&(user, *of)));
        let shown = self.of.shown.iter().any(|(of, _)| *of == user);
        if self.has_arrived() && !shown && !told && !is_own {
            self.found(report, &format!("it is {:?}, and no client of the user was shown it", self.answer.state));
        }
    }

    fn says_position(&self) -> Option<Position> {
        let (sequence, epoch) = (self.answer.sequence_number?, self.answer.epoch?);
        Some(Position { epoch, sequence: Sequence(sequence) })
    }

    /// What was acked and is in no loss statement stands where the ack said. A copy may be on an older line.
    fn position(&self, facts: &Facts, report: &mut Report) {
        let Some(says) = self.says_position() else { return };
        let kept = self.of.acks.iter().map(|(_, acked)| acked.position);
        let conversation = self.explained.conversation;
        let kept = kept.filter(|position| !facts.may_be_lost(conversation, *position)).max();
        if let Some(acked) = kept.filter(|acked| says != *acked && says.epoch >= acked.epoch) {
            self.found(report, &format!("it stands at {says:?}, and was acked as {acked:?}"));
        }
    }

    /// What holds it up is so, by what the regions that were asked have.
    fn reasons(&self, report: &mut Report) {
        let knows = self.explained.asked.iter().find(|asked| asked.has.is_some() || asked.waits);
        if let Some(asked) = knows.filter(|_| self.says(BlockReason::Unknown)) {
            self.found(report, &format!("it is unknown, and {} has it", self.regions[asked.region]));
        }
        let Explained { conversation, user, operator, .. } = self.explained;
        let blocks = |(of, by, _): &(ConversationId, &UserId, &UserId)| of == conversation && *by == user;
        let is_hidden = !operator && self.known.blocks.iter().any(blocks);
        let connected = self.explained.asked.iter().find(|asked| asked.connected && !is_hidden);
        if let Some(asked) = connected.filter(|_| self.says(BlockReason::NoSession)) {
            self.found(report, &format!("the user has no session, and has one in {}", self.regions[asked.region]));
        }
        for block in self.answer.blocks.iter().filter(|block| block.reason == BlockReason::ReplicaBehind) {
            let asked = block.region.as_ref().and_then(|region| self.asked(self.place(region)?));
            if asked.is_some_and(|asked| asked.has.is_some() && asked.has == self.says_position()) {
                self.found(report, &format!("the copy of {:?} lacks it, and has it", block.region));
            }
        }
        let trouble = self.answer.blocks.iter().find(|block| TROUBLES.contains(&block.reason));
        if let Some(block) = trouble.filter(|_| self.explained.settled && self.waits()) {
            self.found(report, &format!("at the end it waits: {block:?}"));
        }
    }

    /// The ack of a message that had one number all the time: it was handed over after something else was acked under that
    /// epoch. `None` for others, and where the answer is of another position.
    fn only_ack(&self) -> Option<&Acked> {
        let acked = self.ack()?;
        let begun = self.known.begun.get(&(self.explained.conversation, acked.position.epoch))?;
        (*begun < self.invoked?).then_some(acked)
    }

    /// The ack of the position that is answered.
    fn ack(&self) -> Option<&Acked> {
        let acks = || self.of.acks.iter().map(|(_, acked)| *acked);
        let there = acks().filter(|acked| Some(acked.position) == self.says_position());
        there.min_by_key(|acked| acked.again)
    }

    /// When a step was taken at a region, in microseconds by its clock.
    fn time(&self, place: usize, kind: HopKind) -> Option<u64> {
        let of = self.answer.hops.iter().filter(|hop| hop.hop == kind);
        let of = of.filter(|hop| hop.region.as_ref().and_then(|region| self.place(region)) == Some(place));
        of.map(|hop| hop.at.0 * 1_000 + u64::from(hop.micros.unwrap_or(0))).min()
    }

    /// What a region says of the steps that a message took there.
    fn steps_of(&self, asked: &AskedRegion, report: &mut Report) {
        let (place, name) = (asked.region, &self.regions[asked.region]);
        let taken = |kind| self.time(place, kind).is_some();
        // A copy that a failover left sends what it has of the old line to the new home (210077 with --successions).
        let handed_over = |kind: &HopKind| *kind == HopKind::Forwarded || self.of.at.contains(&place);
        if let Some(kind) = OF_THE_EDGE.into_iter().find(|kind| taken(*kind) && !handed_over(kind)) {
            self.found(report, &format!("{kind:?} in {name}, where it was not handed over"));
        }
        let user = self.explained.user.as_str();
        let told = [Some(self.explained.conversation), None].iter().any(|of| self.known.told.contains(&(user, *of)));
        let handed = told || self.of.shown.contains(&(user, place)) || self.of.sender == Some(user);
        if taken(HopKind::EdgeOut) && !handed {
            self.found(report, &format!("it was handed to the user in {name}, which was not shown it there"));
        }
        let only = self.only_ack();
        let home = |acked: &Acked| acked.home.filter(|_| !acked.again);
        if taken(HopKind::HomeAppend) && only.and_then(home).is_some_and(|home| home != place) {
            self.found(report, &format!("{name} numbered it, and another region did"));
        }
        let clock_was_set = self.known.clocks.get(&place).is_some_and(|set| Some(*set) >= self.invoked);
        if !clock_was_set {
            self.in_time(asked, report);
        }
        if clock_was_set || self.invoked.is_none_or(|invoked| invoked < asked.known_since) {
            return;
        }
        self.in_order(place, only.is_some(), report);
        if self.ack().and_then(home) == Some(place) && !taken(HopKind::HomeAppend) {
            self.found(report, &format!("{name} numbered it, and does not say when"));
        }
        if only.is_some() && !taken(HopKind::Acked) && self.of.acks.iter().any(|(region, _)| *region == place) {
            self.found(report, &format!("it was acked in {name}, which does not say when"));
        }
    }

    /// No step was taken before the message was handed over, or after it was asked for.
    fn in_time(&self, asked: &AskedRegion, report: &mut Report) {
        let (name, Some(invoked)) = (&self.regions[asked.region], self.invoked) else { return };
        let of_region = |hop: &&Hop| hop.region.as_ref().is_some_and(|region| region.as_str() == name);
        for hop in self.answer.hops.iter().filter(of_region) {
            let taken = (hop.at.0 * 1_000 + u64::from(hop.micros.unwrap_or(0))).saturating_sub(asked.ahead);
            if taken < invoked || taken > self.at {
                self.found(report, &format!("{:?} in {name} at {taken}, and it was handed over at {invoked}", hop.hop));
            }
        }
    }

    fn in_order(&self, place: usize, of_one_number: bool, report: &mut Report) {
        let came_here_alone = self.of.at.len() == 1 && self.of.at.contains(&place);
        let first = came_here_alone.then_some((HopKind::EdgeIn, HopKind::HomeAppend));
        let more = IN_ORDER_OF_ONE_NUMBER.into_iter().chain(first).filter(|_| of_one_number);
        for (before, after) in IN_ORDER.into_iter().chain(more) {
            let (Some(first), Some(second)) = (self.time(place, before), self.time(place, after)) else { continue };
            if first > second {
                let name = &self.regions[place];
                self.found(report, &format!("in {name} {before:?} at {first} comes after {after:?} at {second}"));
            }
        }
    }
}
