//! Sends that wait at this edge region until their home can be reached, in the order of each user: a person may go on from
//! another device, whose sends then stand behind those of the first.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hearth_protocol::record::ParkedSend;
use hearth_protocol::{DeviceId, EntryKind, ErrorCode, LogId, Refusal, Timestamp, UserId};
use uuid::Uuid;

use crate::mutants::Mutant;

/// Bounds of the parking lot of one region.
#[derive(Clone, Copy, Debug)]
pub struct ParkingBounds {
    /// Messages in all.
    pub messages: usize,
    /// Bytes of content in all.
    pub bytes: usize,
    /// Messages of one conversation.
    pub per_conversation: usize,
    /// Milliseconds after which a send is refused `EXPIRED`.
    pub kept_milliseconds: u64,
}

impl Default for ParkingBounds {
    fn default() -> Self {
        Self {
            messages: hearth_protocol::limits::PARKED_MESSAGES,
            bytes: hearth_protocol::limits::PARKED_BYTES,
            per_conversation: hearth_protocol::limits::PARKED_PER_CONVERSATION,
            kept_milliseconds: 7 * 24 * 3_600_000,
        }
    }
}

/// One parked send in memory.
#[derive(Debug)]
pub(crate) struct Parked<R> {
    pub(crate) send: ParkedSend,
    /// Whether it is on disk: only then its device is told, and only then it goes out.
    pub(crate) durable: bool,
    /// Whether its device has its refusal, which is still being stored.
    pub(crate) told: bool,
    /// Who is to be told that it is queued.
    pub(crate) replies: Vec<R>,
    /// Other devices of the sender that sent it again meanwhile and were told that it is queued: they hear the end too.
    pub(crate) others: BTreeSet<DeviceId>,
    /// The forward under which it is on its way to the home.
    pub(crate) forward: Option<u64>,
    /// Whether its device sent it on the connection that it has now: false at a start, and once the device connects.
    pub(crate) sent_now: bool,
    /// Whether the home could not take it now: until it is offered again, later ones of its sender stay behind it.
    pub(crate) waits: bool,
}

impl<R> Parked<R> {
    /// A send that is not on disk yet, with those who are to be told of it; without any, its device did not just send it.
    pub(crate) fn new(send: ParkedSend, replies: Vec<R>) -> Self {
        let (sent_now, others) = (!replies.is_empty(), BTreeSet::new());
        Self { send, durable: false, told: false, replies, others, forward: None, sent_now, waits: false }
    }
}

/// All parked sends of a region.
#[derive(Debug)]
pub(crate) struct ParkingLot<R> {
    bounds: ParkingBounds,
    sends: BTreeMap<u64, Parked<R>>,
    by_log: BTreeMap<LogId, BTreeSet<u64>>,
    ids: BTreeMap<(LogId, UserId, Uuid), u64>,
    /// By conversation and user: how many sends are not refused.
    held: BTreeMap<(LogId, UserId), usize>,
    bytes: usize,
    next: u64,
}

impl<R> ParkingLot<R> {
    pub(crate) fn new(bounds: ParkingBounds) -> Self {
        Self {
            bounds,
            sends: BTreeMap::new(),
            by_log: BTreeMap::new(),
            ids: BTreeMap::new(),
            held: BTreeMap::new(),
            bytes: 0,
            next: 1,
        }
    }

    /// Who is still to be told that a send is queued.
    pub(crate) fn into_replies(self) -> impl Iterator<Item = R> {
        self.sends.into_values().flat_map(|parked| parked.replies)
    }

    /// How many sends wait.
    pub(crate) fn len(&self) -> usize {
        self.sends.len()
    }

    /// Whether a user has sends of a conversation here that are not refused: later ones queue behind them.
    pub(crate) fn holds(&self, log: LogId, user: &UserId) -> bool {
        !self.held.is_empty() && !Mutant::ParkedIsOvertaken.is_on() && self.held.contains_key(&(log, user.clone()))
    }

    /// The number under which a send is parked already.
    pub(crate) fn number_of(&self, log: LogId, user: &UserId, id: Uuid) -> Option<u64> {
        self.ids.get(&(log, user.clone(), id)).copied()
    }

    /// A send of a conversation by its id, whoever sent it.
    pub(crate) fn of_id(&self, log: LogId, id: Uuid) -> Option<&Parked<R>> {
        let numbers = self.by_log.get(&log).into_iter().flatten();
        numbers.filter_map(|number| self.sends.get(number)).find(|parked| parked.send.id.0 == id)
    }

    /// Whether there is room for one more send.
    ///
    /// # Errors
    /// `OVERLOADED`, naming the limit.
    pub(crate) fn check_room(&self, log: LogId, bytes: usize) -> Result<(), Refusal> {
        let refuse = |limit: String| {
            Err(Refusal::new(ErrorCode::Overloaded, "the home is out of reach and this region holds all it can")
                .with_retry_after(30)
                .with_limit(limit))
        };
        if self.sends.len() >= self.bounds.messages {
            return refuse(format!("{} parked messages a region", self.bounds.messages));
        }
        if self.bytes + bytes > self.bounds.bytes {
            return refuse(format!("{} parked bytes a region", self.bounds.bytes));
        }
        if self.by_log.get(&log).is_some_and(|numbers| numbers.len() >= self.bounds.per_conversation) {
            return refuse(format!("{} parked messages a conversation", self.bounds.per_conversation));
        }
        Ok(())
    }

    /// The next number.
    pub(crate) fn next_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(crate) fn insert(&mut self, parked: Parked<R>) {
        let number = parked.send.number;
        let log = LogId::conversation(parked.send.conversation);
        self.next = self.next.max(number + 1);
        self.bytes += parked.send.content.len();
        if parked.send.refused.is_none() {
            *self.held.entry((log, parked.send.sender.clone())).or_default() += 1;
        }
        self.by_log.entry(log).or_default().insert(number);
        self.ids.insert((log, parked.send.sender.clone(), parked.send.id.0), number);
        self.sends.insert(number, parked);
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Parked<R>> {
        self.sends.get_mut(&number)
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<Parked<R>> {
        let parked = self.sends.remove(&number)?;
        let log = LogId::conversation(parked.send.conversation);
        self.bytes -= parked.send.content.len();
        if parked.send.refused.is_none() {
            self.hold_one_less(&parked.send);
        }
        if let Some(numbers) = self.by_log.get_mut(&log) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_log.remove(&log);
            }
        }
        self.ids.remove(&(log, parked.send.sender.clone(), parked.send.id.0));
        Some(parked)
    }

    /// The conversations that have parked sends.
    pub(crate) fn logs(&self) -> Vec<LogId> {
        self.by_log.keys().copied().collect()
    }

    fn hold_one_less(&mut self, send: &ParkedSend) {
        let key = (LogId::conversation(send.conversation), send.sender.clone());
        if let Some(held) = self.held.get_mut(&key) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&key);
            }
        }
    }

    /// Turns a send into its refusal: the content goes, the reason stays. Returns what is to be stored.
    pub(crate) fn refuse(&mut self, number: u64, refusal: &Refusal) -> Option<ParkedSend> {
        let parked = self.sends.get_mut(&number).filter(|parked| parked.send.refused.is_none())?;
        parked.forward = None;
        parked.durable = false;
        self.bytes -= parked.send.content.len();
        parked.send.content = Bytes::new();
        parked.send.refused = Some((refusal.error.as_str().to_owned(), refusal.message.clone().into_owned()));
        let send = parked.send.clone();
        self.hold_one_less(&send);
        Some(send)
    }

    /// What a device has parked in a log and has not sent again on the connection that it has now, with their forwards.
    pub(crate) fn not_sent_again(&self, log: LogId, user: &UserId, device: DeviceId) -> Vec<(u64, Option<u64>)> {
        let parked = self.by_log.get(&log).into_iter().flatten().filter_map(|number| self.sends.get(number));
        let waiting = parked.filter(|parked| !parked.sent_now && parked.send.refused.is_none());
        let of_it = waiting.filter(|parked| parked.send.device == device && parked.send.sender == *user);
        of_it.map(|parked| (parked.send.number, parked.forward)).collect()
    }

    /// Gives a send a new number, behind all others. Returns what is to be stored in place of the old one.
    pub(crate) fn move_behind(&mut self, number: u64) -> Option<ParkedSend> {
        let mut parked = self.remove(number)?;
        parked.send.number = self.next_number();
        parked.durable = false;
        let send = parked.send.clone();
        self.insert(parked);
        Some(send)
    }

    /// A device connected: it sends all again that it has no answer for, in its order.
    pub(crate) fn connected(&mut self, user: &UserId, device: DeviceId) {
        let of_it = |parked: &&mut Parked<R>| parked.send.device == device && parked.send.sender == *user;
        self.sends.values_mut().filter(of_it).for_each(|parked| parked.sent_now = false);
    }

    /// Notes the forward under which a send is on its way, or that it is not any more.
    pub(crate) fn on_its_way(&mut self, number: u64, forward: Option<u64>) {
        if let Some(parked) = self.sends.get_mut(&number) {
            parked.forward = forward;
        }
    }

    /// The home could not take a send: it, and those of its sender behind it, wait for [`ParkingLot::offer_again`].
    pub(crate) fn wait(&mut self, number: u64) {
        if let Some(parked) = self.sends.get_mut(&number) {
            parked.forward = None;
            parked.waits = true;
        }
    }

    /// Sends that homes could not take may go out again. Returns their logs.
    pub(crate) fn offer_again(&mut self) -> BTreeSet<LogId> {
        let waiting = self.sends.values_mut().filter(|parked| parked.waits);
        waiting
            .map(|parked| {
                parked.waits = false;
                LogId::conversation(parked.send.conversation)
            })
            .collect()
    }

    /// The same for a log whose home is another one now.
    pub(crate) fn offer_to_another(&mut self, log: LogId) {
        for number in self.by_log.get(&log).into_iter().flatten() {
            if let Some(parked) = self.sends.get_mut(number) {
                parked.waits = false;
            }
        }
    }

    /// Sends of a conversation that may go out now, in order: on disk, not refused, not on their way, behind none of
    /// their sender that waits, and no more than leave `window` of them on their way.
    pub(crate) fn ready(&self, log: LogId, window: usize) -> Vec<u64> {
        let Some(numbers) = self.by_log.get(&log) else { return Vec::new() };
        let mut ready = Vec::new();
        let mut behind: BTreeSet<&UserId> = BTreeSet::new();
        let mut on_their_way = 0;
        for number in numbers {
            let Some(parked) = self.sends.get(number).filter(|parked| parked.send.refused.is_none()) else { continue };
            if on_their_way + ready.len() >= window || !parked.durable {
                break;
            }
            if parked.forward.is_some() {
                on_their_way += 1;
            } else if parked.waits || behind.contains(&parked.send.sender) {
                behind.insert(&parked.send.sender);
            } else {
                ready.push(*number);
            }
        }
        ready
    }

    /// Sends that waited longer than they may.
    pub(crate) fn overdue(&self, now: u64) -> Vec<u64> {
        self.sends
            .values()
            .filter(|parked| {
                parked.send.refused.is_none()
                    && now.saturating_sub(parked.send.parked_at.0) > self.bounds.kept_milliseconds
            })
            .map(|parked| parked.send.number)
            .collect()
    }

    /// Takes the content of messages that expired away: the home says how they end, which may have taken one before. An
    /// edit keeps its own, which names it beside the id. Returns what is to be stored.
    pub(crate) fn take_expired(&mut self, now: Timestamp) -> Vec<ParkedSend> {
        let mut taken = Vec::new();
        for Parked { send, durable, .. } in self.sends.values_mut() {
            let is_over = send.kind == EntryKind::Message && send.expires_at.is_some_and(|at| at <= now);
            if *durable && send.refused.is_none() && is_over {
                self.bytes -= send.content.len();
                let had_content = !std::mem::take(&mut send.content).is_empty();
                taken.extend(had_content.then(|| send.clone()));
            }
        }
        taken
    }

    /// Takes the content of messages that a user parked in a log before a time away: the user was erased there. Returns
    /// what is to be stored, and the user's edits, which are nothing without theirs.
    pub(crate) fn take_erased(&mut self, log: LogId, user: &UserId, before: Timestamp) -> (Vec<ParkedSend>, Vec<u64>) {
        let (mut taken, mut edits) = (Vec::new(), Vec::new());
        for number in self.by_log.get(&log).into_iter().flatten() {
            let Some(Parked { send, durable, .. }) = self.sends.get_mut(number) else { continue };
            let is_it = send.refused.is_none() && send.sender == *user && send.parked_at <= before;
            match send.kind {
                EntryKind::Message if *durable && is_it => {
                    self.bytes -= send.content.len();
                    let had_content = !std::mem::take(&mut send.content).is_empty();
                    taken.extend(had_content.then(|| send.clone()));
                }
                EntryKind::Edit if is_it => edits.push(*number),
                _ => {}
            }
        }
        (taken, edits)
    }

    /// Refusals that were kept for as long again as four sends may wait: their device does not come back.
    pub(crate) fn abandoned(&self, now: u64) -> Vec<u64> {
        let kept = self.bounds.kept_milliseconds.saturating_mul(5);
        let is_old = |parked: &&Parked<R>| {
            parked.send.refused.is_some() && parked.durable && now.saturating_sub(parked.send.parked_at.0) > kept
        };
        self.sends.values().filter(is_old).map(|parked| parked.send.number).collect()
    }

    /// Refusals kept for a device.
    pub(crate) fn refusals(&self, user: &UserId, device: DeviceId) -> Vec<ParkedSend> {
        self.sends
            .values()
            .filter(|parked| {
                parked.send.refused.is_some() && parked.send.device == device && parked.send.sender == *user
            })
            .map(|parked| parked.send.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::{ConversationId, MessageId, Timestamp};

    use super::*;

    fn lot(users: &[&str]) -> (ParkingLot<()>, LogId) {
        let conversation = ConversationId(Uuid::from_u128(1));
        let mut lot = ParkingLot::new(ParkingBounds::default());
        for user in users {
            let number = lot.next_number();
            let send = ParkedSend {
                number,
                conversation,
                sender: UserId::new(*user).expect("a valid name"),
                device: DeviceId(Uuid::from_u128(u128::from(number))),
                id: MessageId(Uuid::from_u128(u128::from(number))),
                content: Bytes::from_static(b"{}"),
                reply_to: None,
                expires_at: None,
                level: None,
                parked_at: Timestamp(0),
                refused: None,
                kind: EntryKind::Message,
                target: None,
                joined: None,
            };
            lot.insert(Parked { durable: true, ..Parked::new(send, Vec::new()) });
        }
        (lot, LogId::conversation(conversation))
    }

    #[test]
    fn behind_a_send_that_the_home_could_not_take_no_later_one_of_its_sender_goes_out_from_any_device_and_others_do() {
        let (mut lot, log) = lot(&["ann", "bob", "ann", "bob", "ann"]);
        let numbers = lot.ready(log, 2);
        assert_eq!(numbers.len(), 2);
        numbers.iter().for_each(|number| lot.on_its_way(*number, Some(*number)));
        lot.wait(numbers[0]);
        let others = [numbers[0] + 3];
        assert_eq!(lot.ready(log, 9), others);
        lot.offer_again();
        assert_eq!(lot.ready(log, 9), [0, 2, 3, 4].map(|step| numbers[0] + step));
    }

    #[test]
    fn who_is_erased_loses_the_texts_that_it_parked_before_and_nobody_else_does() {
        let (mut lot, log) = lot(&["ann", "bob", "ann", "ann"]);
        let numbers: Vec<u64> = lot.ready(log, 9);
        lot.get_mut(numbers[2]).expect("it is there").send.parked_at = Timestamp(9);
        lot.get_mut(numbers[3]).expect("it is there").send.kind = EntryKind::Edit;
        let ann = UserId::new("ann").expect("a valid name");
        let (taken, edits) = lot.take_erased(log, &ann, Timestamp(8));
        assert_eq!(
            (taken.iter().map(|send| send.number).collect::<Vec<_>>(), edits),
            (vec![numbers[0]], vec![numbers[3]])
        );
        let texts = numbers.iter().map(|number| lot.get_mut(*number).expect("it is there").send.content.len());
        assert_eq!(texts.collect::<Vec<_>>(), [0, 2, 2, 2]);
        assert_eq!(lot.take_erased(log, &ann, Timestamp(8)).0, [], "once is enough");
    }
}
