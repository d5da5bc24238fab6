//! What holds a message up, from what the regions that were asked know now; and who is told.

use hearth_protocol::client::{Block, BlockReason, DeliveryState, ExplanationPayload, MessageName};
use hearth_protocol::{ConversationId, Epoch, ErrorCode, MessageId, Refusal, RegionId, Timestamp, UserId};

use super::part::{EntryFacts, LogFacts, RegionPart, SessionSent};
use super::ways;
use crate::mutants::Mutant;

/// Blocks of one kind that one answer names.
const BLOCKS: usize = 16;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The user.
    pub user: &'a UserId,
    /// Whether the user's token says `role: operator`, or an administrator asks.
    pub operator: bool,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The conversation.
    pub conversation: ConversationId,
    /// The message.
    pub name: MessageName,
    /// To whom.
    pub user: &'a UserId,
}

/// What is known, over all regions that were asked.
struct Known<'a> {
    question: Question<'a>,
    parts: &'a [RegionPart],
    out_of_reach: &'a [RegionId],
    /// Where it is sequenced, by the newest word of it.
    home: Option<&'a RegionId>,
    /// The part of the home, or else of whoever holds most of the log.
    log: Option<&'a LogFacts>,
    entry: Option<&'a EntryFacts>,
    sender: Option<&'a UserId>,
}

fn block(reason: BlockReason, region: Option<&RegionId>, text: impl Into<String>) -> Block {
    let (waits_for, text) = (Vec::new(), text.into());
    Block { reason, region: region.cloned(), waits_for, link_up: None, since: None, text }
}

fn names(regions: &[RegionId]) -> String {
    regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ")
}

/// Explains where a message is, from what regions know and which of them could not be asked.
///
/// # Errors
/// `CONVERSATION_NOT_FOUND` for who is no member, `FORBIDDEN` for a member who is neither the sender nor the user,
/// `HOME_UNREACHABLE` where nobody who knows the members could be asked.
pub fn explain(
    question: Question<'_>,
    asker: Asker<'_>,
    parts: &[RegionPart],
    out_of_reach: &[RegionId],
) -> Result<ExplanationPayload, Refusal> {
    let known = Known::new(question, parts, out_of_reach);
    known.allow(asker)?;
    let about_user = asker.operator || asker.user == question.user || known.sender == Some(asker.user);
    // That one is blocked is told to nobody else than who blocks, and to operators: for the sender the user is away.
    let hides_block =
        known.is_blocked() && !asker.operator && asker.user != question.user && !Mutant::BlocksAreTold.is_on();
    if !about_user {
        // Nobody who was reached knows whose message that is: nothing of it is told.
        let nothing = Known { parts: &[], entry: None, ..known };
        return Ok(nothing.answer(DeliveryState::Waiting, vec![nothing.unknown()], true));
    }
    let (state, blocks) = known.judge(hides_block);
    Ok(known.answer(state, blocks, hides_block))
}

impl<'a> Known<'a> {
    fn new(question: Question<'a>, parts: &'a [RegionPart], out_of_reach: &'a [RegionId]) -> Self {
        let at_home = parts.iter().filter(|part| part.standing.home_here).max_by_key(|part| part.standing.numbers);
        let logs = || parts.iter().filter_map(|part| part.log.as_ref());
        let best = at_home.and_then(|part| part.log.as_ref()).filter(|log| log.held);
        let best = best.or_else(|| logs().filter(|log| log.held).max_by_key(|log| (log.marked, log.length)));
        let home = at_home.map(|part| &part.region).or_else(|| best.or_else(|| logs().next()).map(|log| &log.home));
        let entry = parts.iter().filter_map(|part| part.entry.as_ref()).max_by_key(|entry| entry.epoch);
        let waiting = || {
            let parked = parts.iter().filter_map(|part| part.standing.parked.as_ref()).map(|parked| &parked.sender);
            parked.chain(parts.iter().filter_map(|part| part.standing.forwarded.as_ref())).next()
        };
        let sender = entry.map(|entry| &entry.sender).or_else(waiting);
        Self { question, parts, out_of_reach, home, log: best, entry, sender }
    }

    fn allow(&self, asker: Asker<'_>) -> Result<(), Refusal> {
        let Some(log) = self.log else {
            return match self.home {
                None if self.out_of_reach.is_empty() => Err(Refusal::no_conversation()),
                Some(_) if asker.operator => Ok(()),
                _ => Err(Refusal::new(ErrorCode::HomeUnreachable, "no region that holds this is in reach")
                    .with_retry_after(5)),
            };
        };
        if asker.operator {
            return Ok(());
        }
        if !log.asker_is_member {
            return Err(Refusal::no_conversation());
        }
        if asker.user != self.question.user && self.sender.is_some_and(|sender| sender != asker.user) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "a message is explained to its sender, to the user whom it is for, and to operators",
            ));
        }
        Ok(())
    }

    fn is_blocked(&self) -> bool {
        self.parts.iter().any(|part| part.user.blocks_sender == Some(true))
    }

    fn part(&self, region: &RegionId) -> Option<&'a RegionPart> {
        self.parts.iter().find(|part| part.region == *region)
    }

    fn home_part(&self) -> Option<&'a RegionPart> {
        self.home.and_then(|home| self.part(home))
    }

    fn answer(&self, state: DeliveryState, blocks: Vec<Block>, user_hidden: bool) -> ExplanationPayload {
        let named = match self.question.name {
            MessageName::Id(id) => Some(id),
            MessageName::Number(_) => None,
        };
        let booked = || self.parts.iter().filter_map(|part| part.hops.as_ref()).find(|times| times.sequence > 0);
        let place = self.entry.map(|entry| (entry.sequence, entry.epoch));
        let place = place.or_else(|| booked().map(|times| (times.sequence, times.epoch)));
        ExplanationPayload {
            conversation_id: self.question.conversation,
            message_id: self.entry.map(|entry| MessageId(entry.id)).or(named),
            sequence_number: place.map(|(sequence, _)| sequence),
            epoch: place.map(|(_, epoch)| Epoch(epoch)),
            home: self.home.cloned(),
            user_id: self.question.user.clone(),
            state,
            blocks,
            hops: ways::hops(self.parts, self.home, user_hidden),
            kept: ways::kept(self.parts),
            out_of_reach: self.out_of_reach.to_vec(),
        }
    }

    /// How far it is, and why it is not further. With `as_if_away` what it would be for a user who is away.
    fn judge(&self, as_if_away: bool) -> (DeliveryState, Vec<Block>) {
        let Some(entry) = self.entry else { return (DeliveryState::Waiting, self.before_the_log()) };
        if let Some(left) = self.left_the_line(entry) {
            return (DeliveryState::Waiting, vec![left]);
        }
        if as_if_away {
            return (DeliveryState::Waiting, self.on_its_way(entry, true));
        }
        // What its clients have up to a number says nothing of what stands below what they may see.
        if let Some(later) = self.joined_later(entry) {
            return (DeliveryState::Withheld, vec![later]);
        }
        // A number says nothing of this message where another line has another one there.
        let on_its_line = || self.parts.iter().filter(|part| part.entry.is_some());
        let is_own = entry.sender == *self.question.user;
        if !is_own && on_its_line().any(|part| part.user.read.up_to >= entry.sequence) {
            return (DeliveryState::Read, Vec::new());
        }
        if !is_own && on_its_line().any(|part| part.user.delivered.up_to >= entry.sequence) {
            return (DeliveryState::Delivered, Vec::new());
        }
        if let Some(withheld) = self.withheld(entry) {
            return (DeliveryState::Withheld, vec![withheld]);
        }
        if is_own {
            let blocks = self.at_home(entry);
            let state = if blocks.is_empty() { DeliveryState::Own } else { DeliveryState::Waiting };
            return (state, blocks);
        }
        (DeliveryState::Waiting, self.on_its_way(entry, false))
    }

    fn on_its_way(&self, entry: &EntryFacts, as_if_away: bool) -> Vec<Block> {
        let mut blocks = self.at_home(entry);
        if blocks.iter().all(|block| block.reason == BlockReason::OutOfReach) {
            blocks.extend(self.at_the_user(entry, as_if_away));
        }
        blocks
    }

    /// A copy has it that has not heard of a failover: the home has another message there. It comes back with what that
    /// copy puts apart.
    fn left_the_line(&self, entry: &EntryFacts) -> Option<Block> {
        let home = self.home_part().filter(|part| part.entry.is_none())?;
        home.log.as_ref().filter(|log| log.has(entry.sequence) && entry.sequence >= log.floor)?;
        let holder = self.parts.iter().find(|part| part.entry.is_some())?;
        let (here, to) = (&holder.region, &home.region);
        let text =
            format!("{here} has it on a line that a failover left: it goes to the home {to}, to be numbered anew");
        let link_up = holder.log.as_ref().map(|log| log.reaches_home);
        Some(Block { waits_for: vec![to.clone()], link_up, ..block(BlockReason::OnItsWay, Some(here), text) })
    }

    fn joined_later(&self, entry: &EntryFacts) -> Option<Block> {
        let (member, user) = (self.log?.member?, self.question.user);
        let text = format!("{user} came later and sees what stands from {} on", member.visible_from);
        (entry.sequence < member.visible_from).then(|| block(BlockReason::JoinedLater, None, text))
    }

    /// Why it will not come to the user.
    fn withheld(&self, entry: &EntryFacts) -> Option<Block> {
        let (log, user) = (self.log?, self.question.user);
        if entry.sequence < log.floor {
            let text = format!("retention took it: the conversation begins at {} now", log.floor);
            return Some(block(BlockReason::BelowFloor, None, text));
        }
        if log.member.is_none() {
            return Some(block(BlockReason::NotAMember, None, format!("{user} is no member of the conversation")));
        }
        if self.is_blocked() {
            return Some(block(BlockReason::Blocked, None, format!("{user} blocks its sender")));
        }
        let text = "its content was deleted, expired or erased: the row comes without it";
        entry.gone.then(|| block(BlockReason::ContentGone, None, text))
    }

    fn unknown(&self) -> Block {
        let text = match self.out_of_reach {
            [] => "no region knows such a message in this conversation".to_owned(),
            away => format!("no region that was reached knows it; {} could not be asked", names(away)),
        };
        block(BlockReason::Unknown, None, text)
    }

    fn away(&self, region: &RegionId, text: String) -> Block {
        block(BlockReason::OutOfReach, Some(region), text)
    }

    /// It has no number that is known.
    fn before_the_log(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = self.parts.iter().filter_map(|part| self.at_the_edge(part)).collect();
        let waits = !blocks.is_empty();
        if blocks.iter().any(|block| block.reason == BlockReason::Refused) {
            return blocks;
        }
        blocks.extend(self.home_not_serving());
        if let Some(home) = self.home.filter(|home| self.out_of_reach.contains(home)) {
            blocks.push(self.away(home, format!("the home {home} is out of reach: whether it has it is not known")));
        }
        if !waits {
            blocks.insert(0, self.unknown());
        }
        blocks
    }

    fn at_the_edge(&self, part: &RegionPart) -> Option<Block> {
        let home = part.log.as_ref().map(|log| &log.home).or(self.home);
        let to = home.map_or_else(|| "its home".to_owned(), |home| format!("its home {home}"));
        let link_up = part.log.as_ref().map(|log| log.reaches_home);
        let waits_for: Vec<RegionId> = home.cloned().into_iter().collect();
        let here = &part.region;
        let Some(parked) = &part.standing.parked else {
            part.standing.forwarded.as_ref()?;
            let text = format!("{here} sent it to {to}, which has not answered yet");
            return Some(Block { waits_for, link_up, ..block(BlockReason::OnItsWay, Some(here), text) });
        };
        let since = Some(parked.since);
        if let Some((code, why)) = &parked.refused {
            let text = format!("it was refused ({code}: {why}); {here} keeps that until its device has it");
            return Some(Block { since, ..block(BlockReason::Refused, Some(here), text) });
        }
        let why = match link_up {
            _ if parked.on_its_way => "which has not answered yet",
            Some(false) if home == Some(here) => "which has no right to number messages now",
            Some(false) => "which it does not reach: the link is down",
            _ => "which could not take it yet: it is offered again within 5 s",
        };
        let text = format!("{here} holds it, on disk, for {to}, {why}");
        Some(Block { waits_for, link_up, since, ..block(BlockReason::Parked, Some(here), text) })
    }

    fn home_not_serving(&self) -> Option<Block> {
        let part = self.home_part()?;
        let standing = &part.standing;
        if standing.numbers || !standing.home_here {
            return None;
        }
        let why = if standing.moving { "is being moved or opened" } else { "has no lease, or was fenced" };
        let text = format!("the home {} {why}: it numbers nothing now", part.region);
        Some(block(BlockReason::HomeNotServing, Some(&part.region), text))
    }

    /// It has a number: what its home waits for.
    fn at_home(&self, entry: &EntryFacts) -> Vec<Block> {
        let marked = self.parts.iter().filter_map(|part| part.log.as_ref()).map(|log| log.marked).max().unwrap_or(0);
        let mut blocks = Vec::new();
        if marked > entry.sequence {
            return blocks;
        }
        if let Some(home) = self.home.filter(|home| self.out_of_reach.contains(home)) {
            let text = format!("the home {home} is out of reach: what it waits for is not known");
            blocks.push(self.away(home, text));
        }
        blocks.extend(self.home_not_serving());
        let Some(part) = self.home_part() else { return blocks };
        let home = &part.region;
        if part.standing.behind_another {
            let text = "it has its copies, and is shown once a message before it has its own";
            blocks.push(block(BlockReason::BehindAnother, Some(home), text));
            return blocks;
        }
        let lacks = part.standing.copies.iter().filter(|copy| copy.votes && copy.length <= entry.sequence);
        let (waits_for, links): (Vec<RegionId>, Vec<bool>) =
            lacks.map(|copy| (copy.region.clone(), copy.link_up)).unzip();
        let wanted = part.standing.copies_wanted.map_or_else(String::new, |copies| format!(" {copies} copies:"));
        let text = match waits_for.as_slice() {
            [] => format!("{home} is about to show it"),
            lacking => format!("its level asks for{wanted} not on the disk of {} yet", names(lacking)),
        };
        let link_up = (!links.is_empty()).then(|| links.iter().all(|up| *up));
        blocks.push(Block { waits_for, link_up, ..block(BlockReason::CopiesMissing, Some(home), text) });
        blocks
    }

    /// It is shown where it is: what holds it up between there and the user's clients.
    fn at_the_user(&self, entry: &EntryFacts, as_if_away: bool) -> Vec<Block> {
        let connected = self.parts.iter().filter(|part| !as_if_away && !part.user.sessions.is_empty());
        let mut blocks: Vec<Block> = connected.flat_map(|part| self.in_region(part, entry)).take(BLOCKS).collect();
        let resident: Vec<&RegionId> =
            self.parts.iter().filter_map(|part| part.user.resident.as_ref()).flatten().collect();
        let mut may_matter: Vec<&RegionId> =
            self.out_of_reach.iter().filter(|region| resident.contains(region)).collect();
        if self.parts.iter().all(|part| part.user.resident.is_none()) {
            may_matter = self.out_of_reach.iter().collect();
        }
        for region in may_matter {
            blocks.extend(self.behind_the_link(region, entry));
            let user = self.question.user;
            let text = format!("{region} is out of reach: whether {user} is connected there, and has it, is not known");
            blocks.push(self.away(region, text));
        }
        if blocks.is_empty() {
            let last_seen = self.parts.iter().filter_map(|part| part.user.last_seen).max();
            let text = format!("{} has no session: it comes when a device connects", self.question.user);
            let since = last_seen.filter(|_| !as_if_away);
            blocks.push(Block { since, ..block(BlockReason::NoSession, None, text) });
        }
        blocks
    }

    /// What the home knows of the copy of a region that could not be asked.
    fn behind_the_link(&self, region: &RegionId, entry: &EntryFacts) -> Option<Block> {
        let home = self.home_part()?;
        let copy = home.standing.copies.iter().find(|copy| copy.region == *region)?;
        (copy.length <= entry.sequence).then(|| self.replica_behind(region, Some(copy.link_up)))
    }

    fn replica_behind(&self, region: &RegionId, link_up: Option<bool>) -> Block {
        let home = self.home.map_or_else(String::new, |home| format!(" {home}"));
        let text = match link_up {
            Some(false) => format!("the copy in {region} lacks it: the link to its home{home} is down"),
            _ => format!("the copy in {region} lacks it: it is on its way from its home{home}"),
        };
        let waits_for = self.home.cloned().into_iter().collect();
        Block { waits_for, link_up, ..block(BlockReason::ReplicaBehind, Some(region), text) }
    }

    /// Why sessions of the user in a region do not have it.
    fn in_region(&self, part: &RegionPart, entry: &EntryFacts) -> Vec<Block> {
        let (region, sequence) = (&part.region, entry.sequence);
        let Some(log) = part.log.as_ref().filter(|log| log.held) else {
            let text = format!("{region}, where {} is connected, holds no copy yet", self.question.user);
            return vec![block(BlockReason::NotFollowed, Some(region), text)];
        };
        let lacks = !log.has(sequence) || part.entry.is_none();
        if lacks && !part.standing.home_here {
            return vec![self.replica_behind(region, Some(log.reaches_home))];
        }
        if log.marked <= sequence {
            let text = format!("{region} has it and has not heard that it may be shown");
            let waits_for = self.home.cloned().into_iter().collect();
            let link_up = Some(log.reaches_home);
            return vec![Block { waits_for, link_up, ..block(BlockReason::NotMarked, Some(region), text) }];
        }
        let shown = part.hops.as_ref().and_then(|times| times.shown).map(|at| Timestamp(at / 1_000));
        let sessions = part.user.sessions.iter().map(|session| match session.sent {
            Some(SessionSent::Sent) => {
                let text = format!("a session in {region} was sent it; the client has not said that it has it");
                let since = shown.filter(|shown| session.since <= *shown);
                Block { since, ..block(BlockReason::NotReceived, Some(region), text) }
            }
            Some(SessionSent::Pulls) => {
                let text = format!("a session in {region} was told to pull it, and has not said that it has it");
                block(BlockReason::SessionPulls, Some(region), text)
            }
            Some(SessionSent::Before) => {
                let text = format!("a session in {region} began after it was shown: the client has to sync");
                Block { since: Some(session.since), ..block(BlockReason::NotAskedFor, Some(region), text) }
            }
            Some(SessionSent::Waits) | None => {
                let bytes = session.waiting_bytes;
                let text = format!("a session in {region} does not take what is sent to it: {bytes} bytes wait");
                block(BlockReason::SessionSlow, Some(region), text)
            }
        });
        sessions.collect()
    }
}
