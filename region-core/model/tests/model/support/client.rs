//! What clients and the shell of a region do: create, send, retry, look.

use bytes::Bytes;
use hearth_protocol::entry::{ConversationKind, HistoryForNewMembers, MemberAction, Role, Settings};
use hearth_protocol::{Change, ConversationId, DeviceId, EntryKind, Header, Level, LogId, RegionId, Slot, UserId};
use region_model::view::default_settings;
use region_model::{Ack, Command, Input, LogView, Outcome, region_sender};
use uuid::Uuid;

use super::{Setup, Sim};

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).expect("a valid name")
}

/// The one device of a user.
pub(crate) fn device_of(name: &str) -> DeviceId {
    DeviceId(Uuid::from_u128(name.bytes().map(u128::from).sum()))
}

pub(crate) fn message_id(number: u64) -> Uuid {
    Uuid::from_u128(0xA000_0000 + u128::from(number))
}

/// A group of some users, of whom the first is admin.
pub(crate) fn group(settings: Settings, names: &[&str]) -> Header {
    let role = |index| if index == 0 { Role::Admin } else { Role::Member };
    Header::Conversation {
        kind: ConversationKind::Group,
        name: Some("walkers".to_owned()),
        settings,
        members: names.iter().enumerate().map(|(index, name)| (user(name), role(index))).collect(),
    }
}

pub(crate) fn group_settings() -> Settings {
    default_settings(ConversationKind::Group)
}

/// What a test says about one send; the rest has a usual value.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) sender: &'static str,
    pub(crate) id: u64,
    pub(crate) text: String,
    pub(crate) reply_to: Option<Uuid>,
    pub(crate) level: Option<Level>,
}

impl Message {
    pub(crate) fn new(sender: &'static str, id: u64) -> Self {
        Self { sender, id, text: format!("message {id}"), reply_to: None, level: None }
    }

    pub(crate) fn at(self, level: Level) -> Self {
        Self { level: Some(level), ..self }
    }

    pub(crate) fn saying(self, text: &str) -> Self {
        Self { text: text.to_owned(), ..self }
    }

    pub(crate) fn answering(self, id: u64) -> Self {
        Self { reply_to: Some(message_id(id)), ..self }
    }

    fn command(&self, log: LogId, origin: RegionId) -> Command {
        Command {
            log,
            kind: EntryKind::Message,
            sender: user(self.sender),
            id: message_id(self.id),
            content: Bytes::from(format!("{{\"text\":\"{}\"}}", self.text)),
            reply_to: self.reply_to,
            target: None,
            expires_at: None,
            level: self.level,
            origin,
            original_time: None,
            joined: None,
        }
    }
}

impl Sim {
    pub(super) fn salt(&mut self) -> [u8; 16] {
        let mut salt = [0; 16];
        salt[..8].copy_from_slice(&self.random.next().to_be_bytes());
        salt
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    /// Gives a command to a region; the ticket names its replies.
    pub(crate) fn command(&mut self, region: usize, command: Command, device: Option<DeviceId>) -> u64 {
        let ticket = self.ticket();
        let salt = self.salt();
        self.sent.insert(ticket, command.clone());
        self.input(region, Input::Command { command, salt, reply: ticket, device });
        ticket
    }

    /// A client sends a message.
    pub(crate) fn send(&mut self, region: usize, log: LogId, message: &Message) -> u64 {
        let command = message.command(log, self.regions[region].id.clone());
        self.command(region, command, Some(device_of(message.sender)))
    }

    pub(crate) fn change(
        &mut self,
        region: usize,
        log: LogId,
        sender: &UserId,
        kind: EntryKind,
        change: &Change,
    ) -> u64 {
        let id = Uuid::from_u128(0xB000_0000 + u128::from(self.tickets));
        let command = Command {
            log,
            kind,
            sender: sender.clone(),
            id,
            content: change.encode(),
            reply_to: None,
            target: None,
            expires_at: None,
            level: None,
            origin: self.regions[region].id.clone(),
            original_time: None,
            joined: None,
        };
        self.command(region, command, None)
    }

    /// A member's device sends a change of message `target` under id `id`.
    pub(crate) fn alter(
        &mut self,
        region: usize,
        log: LogId,
        sender: &'static str,
        (id, target): (u64, u64),
        what: &Change,
    ) -> u64 {
        let kind = match what {
            Change::Edit { .. } => EntryKind::Edit,
            Change::Delete { .. } => EntryKind::Delete,
            _ => EntryKind::Reaction,
        };
        let command = Command {
            log,
            kind,
            sender: user(sender),
            id: message_id(id),
            content: what.encode(),
            reply_to: None,
            target: Some(message_id(target)),
            expires_at: None,
            level: None,
            origin: self.regions[region].id.clone(),
            original_time: None,
            joined: None,
        };
        self.command(region, command, Some(device_of(sender)))
    }

    pub(crate) fn members(
        &mut self,
        region: usize,
        log: LogId,
        sender: &str,
        action: MemberAction,
        users: &[&str],
    ) -> u64 {
        let users = users.iter().map(|name| user(name)).collect();
        self.change(region, log, &user(sender), EntryKind::Member, &Change::Members { action, users })
    }

    /// Asks a region's core for something with a reply; the ticket names it.
    pub(crate) fn ask(&mut self, region: usize, input: impl FnOnce(u64) -> Input<u64>) -> u64 {
        let ticket = self.ticket();
        self.input(region, input(ticket));
        ticket
    }

    pub(crate) fn query(&mut self, region: usize, log: LogId, ask: bool) -> u64 {
        let ticket = self.ticket();
        self.input(region, Input::Query { log, ask, reply: ticket });
        ticket
    }

    /// What a region says of a log.
    pub(crate) fn view(&mut self, region: usize, log: LogId) -> LogView {
        let ticket = self.query(region, log, false);
        self.run_until("the region answers a query", |sim| sim.views.contains_key(&ticket));
        self.views[&ticket].clone()
    }

    pub(crate) fn last(&self, ticket: u64) -> Option<&Outcome> {
        self.replies.get(&ticket)?.last()
    }

    pub(crate) fn ack_of(&self, ticket: u64) -> Option<&Ack> {
        match self.last(ticket)? {
            Outcome::Acked(ack) => Some(ack),
            Outcome::Queued(..) | Outcome::Refused(_) => None,
        }
    }

    /// Runs until a command is answered for good.
    pub(crate) fn acked(&mut self, ticket: u64) -> Ack {
        self.run_until("the command is acked", |sim| {
            matches!(sim.last(ticket), Some(Outcome::Acked(_) | Outcome::Refused(_)))
        });
        self.ack_of(ticket).cloned().unwrap_or_else(|| panic!("{:?} instead of an ack", self.replies[&ticket]))
    }

    /// Runs until a command is refused; returns the code.
    pub(crate) fn refused(&mut self, ticket: u64) -> &'static str {
        self.run_until("the command is refused", |sim| {
            matches!(sim.last(ticket), Some(Outcome::Acked(_) | Outcome::Refused(_)))
        });
        match self.last(ticket) {
            Some(Outcome::Refused(refusal)) => refusal.error.as_str(),
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    /// Places a log and writes its header, as the shell of a region does. Returns the tickets of placement and header.
    pub(crate) fn create_log(&mut self, region: usize, home: usize, log: LogId, header: &Header) -> u64 {
        let placed = self.place(region, home, log);
        self.acked(placed);
        let asked = self.query(region, log, true);
        self.run_until("the placement is known", |sim| sim.views.contains_key(&asked));
        assert!(self.views[&asked].placement.is_some(), "{log} is placed");
        let created = self.header(region, log, header);
        self.acked(created);
        created
    }

    pub(crate) fn place(&mut self, region: usize, home: usize, log: LogId) -> u64 {
        let placement = self.map().first_placement(log, &self.regions[home].id, Level::Region);
        let me = region_sender(&self.regions[region].id);
        let slot = LogId::placement(Slot::of(&log));
        self.change(region, slot, &me, EntryKind::Placement, &Change::Place { replaces: None, placement })
    }

    pub(crate) fn header(&mut self, region: usize, log: LogId, header: &Header) -> u64 {
        let origin = self.regions[region].id.clone();
        let command = Command {
            log,
            kind: EntryKind::Header,
            sender: user("ann"),
            id: Uuid::from_u128(0xC000_0000),
            content: header.encode(),
            reply_to: None,
            target: None,
            expires_at: None,
            level: None,
            origin,
            original_time: None,
            joined: None,
        };
        self.command(region, command, None)
    }

    /// The same, whose new members see what comes after them.
    pub(crate) fn group_without_history(&mut self, home: usize, number: u128) -> LogId {
        let log = LogId::conversation(ConversationId(Uuid::from_u128(0xD000_0000 + number)));
        let settings = Settings { history_for_new_members: HistoryForNewMembers::None, ..group_settings() };
        self.create_log(home, home, log, &group(settings, &["ann", "ben", "cem"]));
        log
    }

    /// A group of ann, ben and cem with a home, in every region that votes for it.
    pub(crate) fn group_at(&mut self, home: usize, number: u128) -> LogId {
        let log = LogId::conversation(ConversationId(Uuid::from_u128(0xD000_0000 + number)));
        self.create_log(home, home, log, &group(group_settings(), &["ann", "ben", "cem"]));
        log
    }
}

/// A group at region 0, and the link between regions 0 and 1 cut: both sides have noticed it.
pub(crate) fn cut_off(setup: Setup) -> (Sim, LogId) {
    let mut sim = Sim::with(1, setup);
    let log = sim.group_at(0, 1);
    sim.settle(&[0, 1, 2], log);
    sim.cut(0, 1);
    sim.run_until("both sides notice", |sim| !sim.is_linked(0, 1));
    sim.run_for(5_000);
    (sim, log)
}
