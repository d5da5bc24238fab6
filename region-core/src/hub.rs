//! The sessions of this region by user, and how entries reach them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hearth_protocol::client::encode_message_new;
use hearth_protocol::entry::MemberAction;
use hearth_protocol::ids::direct_conversation;
use hearth_protocol::{Change, ConversationId, DeviceId, EntryKind, SealedEntry, Timestamp, UserId};
use parking_lot::RwLock;
use region_model::session::{LineChanged, Skipped};
use region_model::typing::{Update, is_withheld};
use region_model::view::{Members, PrivacyState};
use tokio::sync::mpsc;

use crate::edge::{Connection, EdgeEvent};
use crate::rows;
use crate::runtime::wall;

/// Members of a direct conversation.
const DIRECT: usize = 2;
/// Sessions that are handed an entry of a large conversation before others have a turn.
const BATCH: usize = 256;

/// A conversation changed in a way that its members' lists show.
#[derive(Debug)]
pub(crate) struct Notice {
    pub(crate) conversation: ConversationId,
    /// Who gets `conversation.new` instead of `conversation.updated`: those who just came in.
    pub(crate) joined: Vec<UserId>,
    pub(crate) users: Concerned,
}

/// Whom a notice is for.
#[derive(Debug)]
pub(crate) enum Concerned {
    /// Members who were online when it was made.
    Users(Vec<UserId>),
    /// All members who are online when it is told.
    Members,
}

/// Connections by user.
type Users = HashMap<UserId, Vec<Arc<Connection>>>;

/// The sessions of one region.
#[derive(Debug)]
pub(crate) struct Hub {
    users: RwLock<Users>,
    /// What users with a session here withhold, of those who do.
    privacy: RwLock<HashMap<UserId, Arc<PrivacyState>>>,
    notices: mpsc::Sender<Notice>,
    /// Deliveries that a connection did not take.
    pub(crate) dropped: AtomicU64,
    /// Deliveries made.
    pub(crate) delivered: AtomicU64,
    /// Deliveries that wait for a worker ([`crate::fanout`]).
    pub(crate) waiting: AtomicU64,
}

impl Hub {
    pub(crate) fn new(notices: mpsc::Sender<Notice>) -> Self {
        let (users, privacy) = (RwLock::default(), RwLock::default());
        let (dropped, delivered, waiting) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { users, privacy, notices, dropped, delivered, waiting }
    }

    pub(crate) fn add(&self, connection: Arc<Connection>) {
        self.users.write().entry(connection.user.clone()).or_default().push(connection);
    }

    pub(crate) fn remove(&self, connection: &Connection) {
        let mut users = self.users.write();
        if let Some(connections) = users.get_mut(&connection.user) {
            connections.retain(|known| known.id != connection.id);
            if connections.is_empty() {
                users.remove(&connection.user);
                self.privacy.write().remove(&connection.user);
            }
        }
    }

    /// Takes what a user withholds from now on; of one without a session here nothing is kept.
    pub(crate) fn set_privacy(&self, user: &UserId, state: &PrivacyState) {
        let users = self.users.read();
        let mut privacy = self.privacy.write();
        if users.contains_key(user) && !state.is_empty() {
            privacy.insert(user.clone(), Arc::new(state.clone()));
        } else {
            privacy.remove(user);
        }
    }

    /// Since when a user with a session here blocks another one.
    pub(crate) fn blocked_since(&self, user: &UserId, other: &UserId) -> Option<Timestamp> {
        self.privacy.read().get(user)?.blocks.get(other).copied()
    }

    /// Whether what `sender` says in a conversation is not for `user`, who blocks it.
    pub(crate) fn blocks(&self, conversation: ConversationId, user: &UserId, sender: &UserId) -> bool {
        self.blocked_since(user, sender).is_some() && direct_conversation(user, sender) == conversation
    }

    /// Whether a user with a session here is not to hear how far `reader` is in a conversation, who blocks it.
    pub(crate) fn is_blocked_by(&self, conversation: ConversationId, user: &UserId, reader: &UserId) -> bool {
        let blocked = self.privacy.read().get(user).is_some_and(|privacy| privacy.blocked_by.contains(reader));
        blocked && direct_conversation(user, reader) == conversation
    }

    pub(crate) fn is_connected(&self, user: &UserId) -> bool {
        self.users.read().contains_key(user)
    }

    /// Shows an entry to the sessions of its audience, but not to the connection that got the ack.
    pub(crate) fn deliver(
        &self,
        conversation: ConversationId,
        sealed: &SealedEntry,
        audience: &Members,
        skip: Option<u64>,
    ) {
        let gone = removed_users(sealed);
        if sealed.sequence().0 > 0 {
            let mut event = None;
            self.each_recipient(conversation, sealed, audience, &gone, skip, |connection| {
                if let Some(event) = event.get_or_insert_with(|| message(conversation, sealed)) {
                    self.hand(connection, event);
                }
            });
        }
        self.notice(conversation, sealed, audience, gone);
    }

    /// Tells the sessions of members that messages are not shown here. Members from before hear it too: whoever was
    /// removed among them finds out by asking. `held` says that this region showed the conversation before; where it did
    /// not, a session that named the conversation in no cursor has nothing to miss and is not told.
    pub(crate) fn skipped(&self, skipped: &Skipped, held: bool, before: &Members, audience: &Members) {
        let users = self.users.read();
        let is_member = |user: &UserId| before.contains_key(user) || audience.contains_key(user);
        for (user, connections) in users.iter().filter(|(user, _)| is_member(user)) {
            for connection in connections {
                if !audience.contains_key(user) {
                    connection.left(skipped.conversation);
                }
                let skipped = Skipped { from: if held { skipped.from } else { skipped.at }, ..*skipped };
                connection.push(EdgeEvent::Skipped(skipped));
            }
        }
        let online: Vec<UserId> = users.keys().filter(|user| audience.contains_key(*user)).cloned().collect();
        drop(users);
        if held && !online.is_empty() {
            let joined = audience.keys().filter(|user| !before.contains_key(*user)).cloned().collect();
            let notice = Notice { conversation: skipped.conversation, joined, users: Concerned::Users(online) };
            // A notice that finds the queue full is left out: the change feed has it.
            if self.notices.try_send(notice).is_err() {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Tells the sessions of members which line the region is on: each finds out what of its own is not in it.
    pub(crate) fn line_changed(&self, changed: &LineChanged, audience: &Members) {
        for (_, connections) in self.users.read().iter().filter(|(user, _)| audience.contains_key(*user)) {
            for connection in connections {
                connection.push(EdgeEvent::LineChanged(changed.clone()));
            }
        }
    }

    /// The same, with pauses between batches of sessions. What comes for the conversation meanwhile has to wait.
    pub(crate) async fn deliver_in_batches(
        &self,
        conversation: ConversationId,
        sealed: &SealedEntry,
        audience: &Members,
        skip: Option<u64>,
    ) {
        let gone = removed_users(sealed);
        if sealed.sequence().0 > 0 {
            let mut recipients = Vec::new();
            self.each_recipient(conversation, sealed, audience, &gone, skip, |one| recipients.push(one.clone()));
            let event = if recipients.is_empty() { None } else { message(conversation, sealed) };
            if let Some(event) = event {
                for batch in recipients.chunks(BATCH) {
                    batch.iter().for_each(|connection| self.hand(connection, &event));
                    tokio::task::yield_now().await;
                }
            }
        }
        self.notice(conversation, sealed, audience, gone);
    }

    fn hand(&self, connection: &Connection, event: &EdgeEvent) {
        let counter = if connection.push(event.clone()) { &self.delivered } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The connections that are shown an entry.
    fn each_recipient(
        &self,
        conversation: ConversationId,
        sealed: &SealedEntry,
        audience: &Members,
        gone: &[UserId],
        skip: Option<u64>,
        mut each: impl FnMut(&Arc<Connection>),
    ) {
        let sender = Some(&sealed.entry.fixed.sender);
        let sender = sender.filter(|_| audience.len() == DIRECT && sealed.entry.fixed.kind.is_sent());
        let mut show = |(user, connections): (&UserId, &Vec<Arc<Connection>>)| {
            if sender.is_some_and(|sender| self.blocks(conversation, user, sender)) {
                // Whatever follows tells the client to pull, and its history says that this is blocked.
                return;
            }
            connections.iter().filter(|connection| Some(connection.id) != skip).for_each(&mut each);
        };
        let users = self.users.read();
        each_here(&users, audience, &mut show);
        gone.iter().filter_map(|user| users.get_key_value(user)).for_each(&mut show);
    }

    /// A conversation has another home: members who are online are told in time, as far as the queue has room. The row of
    /// a conversation that is not told of has it when it is read next.
    pub(crate) fn home_changed(&self, conversation: ConversationId) {
        if self.users.read().is_empty() {
            return;
        }
        let notice = Notice { conversation, joined: Vec::new(), users: Concerned::Members };
        if self.notices.try_send(notice).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those of the members who have a session here.
    pub(crate) fn online(&self, audience: &Members) -> Vec<UserId> {
        let mut online = Vec::new();
        each_here(&self.users.read(), audience, |(user, _)| online.push(user.clone()));
        online
    }

    fn notice(&self, conversation: ConversationId, sealed: &SealedEntry, audience: &Members, gone: Vec<UserId>) {
        for connection in gone.iter().flat_map(|user| self.of(user)) {
            connection.left(conversation);
        }
        let joined = match sealed.entry.fixed.kind {
            EntryKind::Header => audience.keys().cloned().collect(),
            EntryKind::Member => match sealed.change() {
                Some(Change::Members { action: MemberAction::Add(_), users }) => users,
                _ => Vec::new(),
            },
            EntryKind::System => Vec::new(),
            EntryKind::Message
            | EntryKind::Edit
            | EntryKind::Delete
            | EntryKind::Reaction
            | EntryKind::User
            | EntryKind::Placement => return,
        };
        let online = self.online(audience);
        if online.is_empty() && gone.is_empty() {
            return;
        }
        // A notice that finds the queue full is left out: the change feed has it.
        if self.notices.try_send(Notice { conversation, joined, users: Concerned::Users(online) }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a frame to all connections of a user.
    pub(crate) fn to_user(&self, user: &UserId, frame: &Bytes) {
        if let Some(connections) = self.users.read().get(user) {
            for connection in connections {
                connection.push(EdgeEvent::Frame(frame.clone()));
            }
        }
    }

    /// Sends a frame to all connections of a user but one. Returns how many took it.
    pub(crate) fn to_user_but(&self, user: &UserId, frame: &Bytes, except: Option<u64>) -> u64 {
        let users = self.users.read();
        let Some(connections) = users.get(user) else { return 0 };
        let others = connections.iter().filter(|connection| Some(connection.id) != except);
        others.map(|connection| u64::from(connection.push(EdgeEvent::Frame(frame.clone())))).sum()
    }

    /// What a user with a session here withholds.
    pub(crate) fn privacy_of(&self, user: &UserId) -> Option<Arc<PrivacyState>> {
        self.privacy.read().get(user).cloned()
    }

    /// The sessions of other members that may be told who types: with both of a direct conversation, of none who blocks
    /// the other.
    pub(crate) fn to_viewers(
        &self,
        of: (ConversationId, &Members),
        update: &Update,
        mut each: impl FnMut(&Arc<Connection>),
    ) {
        let (users, privacy) = (self.users.read(), self.privacy.read());
        each_here(&users, of.1, |(user, connections)| {
            let withheld = is_withheld(of, user, &update.user, privacy.get(user).map(Arc::as_ref));
            if *user != update.user && !withheld {
                connections.iter().for_each(&mut each);
            }
        });
    }

    /// Sends a frame to all connections of a device. Returns whether one took it.
    pub(crate) fn to_device(&self, user: &UserId, device: DeviceId, frame: &Bytes) -> bool {
        let users = self.users.read();
        let Some(connections) = users.get(user) else { return false };
        let mut taken = false;
        for connection in connections.iter().filter(|connection| connection.device == device) {
            taken |= connection.push(EdgeEvent::Frame(frame.clone()));
        }
        taken
    }

    /// The connections of a user.
    pub(crate) fn of(&self, user: &UserId) -> Vec<Arc<Connection>> {
        self.users.read().get(user).cloned().unwrap_or_default()
    }

    /// All connections.
    pub(crate) fn all(&self) -> Vec<Arc<Connection>> {
        self.users.read().values().flatten().cloned().collect()
    }

    /// Sends a frame to everybody.
    pub(crate) fn to_all(&self, frame: &Bytes) {
        for connection in self.users.read().values().flatten() {
            connection.push(EdgeEvent::Frame(frame.clone()));
        }
    }
}

/// The members who have a session here, and their connections.
fn each_here(users: &Users, members: &Members, each: impl FnMut((&UserId, &Vec<Arc<Connection>>))) {
    if members.len() <= users.len() {
        members.keys().filter_map(|user| users.get_key_value(user)).for_each(each);
    } else {
        users.iter().filter(|(user, _)| members.contains_key(*user)).for_each(each);
    }
}

/// An entry as sessions get it; `None` where it shows nothing.
fn message(conversation: ConversationId, sealed: &SealedEntry) -> Option<EdgeEvent> {
    let frame = encode_message_new(&rows::row(conversation, sealed, wall())?);
    Some(EdgeEvent::Message { conversation, epoch: sealed.epoch(), sequence: sealed.sequence().0, frame })
}

/// Users whom an entry removes: they are shown their removal, and nothing later.
fn removed_users(sealed: &SealedEntry) -> Vec<UserId> {
    if sealed.entry.fixed.kind != EntryKind::Member {
        return Vec::new();
    }
    match sealed.change() {
        Some(Change::Members { action: MemberAction::Remove | MemberAction::Leave, users }) => users,
        _ => Vec::new(),
    }
}
