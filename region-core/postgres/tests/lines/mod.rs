//! Logs that tests write: chained entries of random kinds, and what a failover makes of them.

use std::sync::Arc;

use bytes::Bytes;
use hearth_protocol::entry::{
    ConversationKind, Fixed, Forget, MemberAction, Privacy, Role, SettingsChange, content_digest,
};
use hearth_protocol::push::{PushPolicy, Subscription, Target};
use hearth_protocol::record::{LogRecord, Opening};
use hearth_protocol::{
    Change, ConversationId, DeviceId, Entry, EntryKind, Epoch, Header, Level, LogId, Position, RegionId, SealedEntry,
    Sequence, Timestamp, UserId,
};
use proptest::prelude::*;
use region_model::view::default_settings;
use uuid::Uuid;

pub(crate) fn user(number: u8) -> UserId {
    UserId::new(format!("user{number}")).expect("a valid name")
}

pub(crate) fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a valid name")
}

pub(crate) fn conversation(number: u8) -> ConversationId {
    ConversationId(Uuid::from_u128(u128::from(number) << 120 | 7))
}

/// What an entry says; the numbers name somebody or something.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Message(u8),
    Add(u8, bool),
    Remove(u8),
    Role(u8, bool),
    Name(u8),
    Invites(bool),
    Erase(u8),
    Joined(u8),
    Removed(u8),
    Resident(u8),
    Profile(Option<u8>),
    Subscribed(u8),
    Preferred(u8, bool),
    HideLastSeen(bool),
    EraseProfile,
}

pub(crate) fn of_conversation() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..9).prop_map(Step::Message),
        3 => (0u8..9, any::<bool>()).prop_map(|(who, admin)| Step::Add(who, admin)),
        2 => (0u8..9).prop_map(Step::Remove),
        2 => (0u8..9, any::<bool>()).prop_map(|(who, admin)| Step::Role(who, admin)),
        1 => any::<u8>().prop_map(Step::Name),
        1 => any::<bool>().prop_map(Step::Invites),
        1 => (0u8..9).prop_map(Step::Erase),
    ]
}

pub(crate) fn of_user() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..6).prop_map(Step::Joined),
        2 => (0u8..6).prop_map(Step::Removed),
        1 => (0u8..3).prop_map(Step::Resident),
        1 => proptest::option::of(0u8..9).prop_map(Step::Profile),
        1 => (0u8..4).prop_map(Step::Subscribed),
        1 => (0u8..6, any::<bool>()).prop_map(|(what, all)| Step::Preferred(what, all)),
        1 => any::<bool>().prop_map(Step::HideLastSeen),
        1 => Just(Step::EraseProfile),
    ]
}

fn role(admin: bool) -> Role {
    if admin { Role::Admin } else { Role::Member }
}

impl Step {
    fn change(&self, at: u64) -> (EntryKind, Option<Change>) {
        let members = |action, who: &u8| (EntryKind::Member, Some(Change::Members { action, users: vec![user(*who)] }));
        let system = |change| (EntryKind::System, Some(change));
        let record = |change| (EntryKind::User, Some(change));
        let position = Position { epoch: Epoch(1), sequence: Sequence(at) };
        match self {
            Self::Message(_) => (EntryKind::Message, None),
            Self::Add(who, admin) => members(MemberAction::Add(role(*admin)), who),
            Self::Remove(who) => members(MemberAction::Remove, who),
            Self::Role(who, admin) => members(MemberAction::Role(role(*admin)), who),
            Self::Name(what) => system(Change::Name(format!("name {what}\0"))),
            Self::Invites(allowed) => system(Change::Settings(SettingsChange {
                allow_member_invites: Some(*allowed),
                ..SettingsChange::default()
            })),
            Self::Erase(who) => system(Change::Forget(Forget::User(user(*who)))),
            Self::Joined(what) => record(Change::Joined { conversation: conversation(*what), position }),
            Self::Removed(what) => record(Change::Removed { conversation: conversation(*what), position }),
            Self::Resident(what) => {
                record(Change::Resident { region: region(&format!("r{what}")), at: Timestamp(at * 1_000) })
            }
            Self::Profile(name) => record(Change::Profile {
                display_name: Some(name.map(|name| format!("called {name}"))),
                avatar_url: None,
            }),
            Self::Subscribed(device) => {
                let target = Target::Fcm { registration: format!("secret {device}") };
                let device = DeviceId(Uuid::from_u128(u128::from(*device)));
                record(Change::Subscribed(Subscription::new(&user(0), device, target, Timestamp(at))))
            }
            Self::Preferred(what, all) => record(Change::Preferred {
                conversation: conversation(*what),
                muted_until: Some(Some(Timestamp(u64::MAX))),
                policy: Some(if *all { PushPolicy::All } else { PushPolicy::Mentions }),
            }),
            Self::HideLastSeen(hides) => record(Change::Privacy(Privacy::ShowLastSeen(!hides))),
            Self::EraseProfile => record(Change::Forget(Forget::User(user(0)))),
        }
    }

    fn sender(&self) -> UserId {
        match self {
            Self::Message(who) => user(*who),
            _ => user(0),
        }
    }
}

/// A log: all its entries, and its openings.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) log: LogId,
    pub(crate) entries: Vec<Arc<SealedEntry>>,
    openings: Vec<Opening>,
}

impl Line {
    /// A group of `user0`, an admin, and `user1`.
    pub(crate) fn group(number: u8) -> Self {
        let members = vec![(user(0), Role::Admin), (user(1), Role::Member)];
        let kind = ConversationKind::Group;
        let header =
            Header::Conversation { kind, name: Some("first".to_owned()), settings: default_settings(kind), members };
        Self::begin(LogId::conversation(conversation(number)), &header)
    }

    /// The record of a user.
    pub(crate) fn record_of(number: u8) -> Self {
        Self::begin(LogId::user(&user(number)), &Header::User { user: user(number) })
    }

    fn begin(log: LogId, header: &Header) -> Self {
        let opening = Opening { epoch: Epoch(1), first: 0, previous: [0; 32], loss: false };
        let mut line = Self { log, entries: Vec::new(), openings: vec![opening] };
        line.push(EntryKind::Header, user(0), header.encode());
        line
    }

    pub(crate) fn step(&mut self, step: &Step) {
        let (kind, change) = step.change(self.entries.len() as u64);
        let text = || Bytes::from_static(b"{\"text\":\"hello\"}");
        self.push(kind, step.sender(), change.map_or_else(text, |change| change.encode()));
    }

    fn push(&mut self, kind: EntryKind, sender: UserId, content: Bytes) {
        let sequence = self.entries.len() as u64;
        let epoch = self.openings.last().expect("an opening").epoch;
        let salt = Bytes::from_static(&[7; 16]);
        let fixed = Fixed {
            position: Position { epoch, sequence: Sequence(sequence) },
            kind,
            sender,
            id: Uuid::from_u128(u128::from(sequence) + 1),
            time: Timestamp(1_700_000_000_000 + sequence * 1_000),
            level: Level::Region,
            digest: content_digest(&salt, &content),
            previous: self.entries.last().map_or([0; 32], |last| last.hash),
            origin: region("eu"),
            reply_to: None,
            target: None,
            expires_at: None,
            original_time: None,
        };
        self.entries.push(SealedEntry::seal(Entry { fixed, content: Some((salt, content)) }));
    }

    /// A failover: entries from `first` on leave the line, and the next epoch opens there.
    pub(crate) fn fork(&mut self, first: usize) {
        self.entries.truncate(first);
        let (epoch, previous) = (Epoch(self.openings.len() as u64 + 1), self.entries[first - 1].hash);
        self.openings.push(Opening { epoch, first: first as u64, previous, loss: true });
    }

    pub(crate) fn length(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) fn record(&self) -> LogRecord {
        let epoch = self.openings.last().expect("an opening").epoch;
        LogRecord {
            home: region("eu"),
            voters: vec![region("eu")],
            accepted: epoch,
            sealed: epoch,
            openings: self.openings.clone(),
            floor: 0,
            published: 0,
            open_ranges: Vec::new(),
            incarnation: 1,
        }
    }
}
