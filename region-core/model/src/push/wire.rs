//! What is said between the two homes and the edge, as links carry it.

use std::collections::BTreeSet;

use bytes::Bytes;
use hearth_protocol::{DeviceId, Epoch, LogId, LogKind, Position, Sequence, Timestamp, UserId, mesh};
use uuid::Uuid;

use super::desk::Wish;
use super::offers::{Offered, Offers, Wanted};

/// Users named in one part of a frame.
const USERS: usize = 1_000;

fn position(epoch: u64, sequence: u64) -> Position {
    Position { epoch: Epoch(epoch), sequence: Sequence(sequence) }
}

/// What a link brought about push, if it is that.
#[must_use]
pub fn of_body(body: &mesh::Body) -> Option<&mesh::Push> {
    if let mesh::Body::Push(frame) = body { Some(frame) } else { None }
}

/// The conversation that a part of a frame is about.
#[must_use]
pub fn conversation_of(log: &[u8]) -> Option<LogId> {
    LogId::from_bytes(log).filter(|log| log.kind == LogKind::Conversation)
}

/// A wish in parts of bounded length; the first of them says that the others are all.
fn watches(wish: &Wish) -> Vec<mesh::PushWatch> {
    let log = Bytes::copy_from_slice(&wish.log.to_bytes());
    let user = |wanted: &Wanted| mesh::PushWatcher {
        user: wanted.user.as_str().to_owned(),
        epoch: wanted.after.epoch.0,
        sequence: wanted.after.sequence.0,
        since: wanted.since.map_or(0, |since| since.0.max(1)),
        taken_over: wanted.taken_over,
    };
    if wish.users.is_empty() {
        return vec![mesh::PushWatch { log, users: Vec::new(), fresh: true }];
    }
    let part = |(at, users): (usize, &[Wanted])| mesh::PushWatch {
        log: log.clone(),
        users: users.iter().map(user).collect(),
        fresh: wish.fresh && at == 0,
    };
    wish.users.chunks(USERS).enumerate().map(part).collect()
}

/// Wishes to one region in frames of bounded length, in their order.
#[must_use]
pub fn of_wishes(wishes: &[Wish]) -> Vec<mesh::Push> {
    let mut frames = Vec::new();
    let mut part = mesh::Push::default();
    let mut users = 0;
    for watch in wishes.iter().flat_map(watches) {
        users += watch.users.len() + 1;
        part.watches.push(watch);
        if users >= USERS {
            users = 0;
            frames.push(std::mem::take(&mut part));
        }
    }
    if !part.watches.is_empty() {
        frames.push(part);
    }
    frames
}

/// For whom a conversation's messages are wanted, and from where.
#[must_use]
pub fn wanted(watch: &mesh::PushWatch) -> Vec<Wanted> {
    let wanted = |user: &mesh::PushWatcher| {
        Some(Wanted {
            user: UserId::new(&user.user).ok()?,
            after: position(user.epoch, user.sequence),
            since: (user.since > 0).then_some(Timestamp(user.since)),
            taken_over: user.taken_over,
        })
    };
    watch.users.iter().filter_map(wanted).collect()
}

/// What a device of a user shows.
#[must_use]
pub fn of_view(user: &UserId, device: DeviceId, shown: Option<LogId>) -> mesh::Push {
    let view = mesh::PushView {
        user: user.as_str().to_owned(),
        device: Bytes::copy_from_slice(device.0.as_bytes()),
        log: shown.map_or_else(Bytes::new, |log| Bytes::copy_from_slice(&log.to_bytes())),
    };
    mesh::Push { views: vec![view], ..mesh::Push::default() }
}

/// Whose device shows what.
#[must_use]
pub fn viewed(view: &mesh::PushView) -> Option<(UserId, DeviceId, Option<LogId>)> {
    let (user, device) = (UserId::new(&view.user).ok()?, Uuid::from_slice(&view.device).ok()?);
    Some((user, DeviceId(device), LogId::from_bytes(&view.log)))
}

/// A conversation's messages on offer.
#[must_use]
pub fn of_offers(log: LogId, offers: &Offers) -> mesh::Push {
    let text = |user: &UserId| user.as_str().to_owned();
    let item = |item: &Offered| mesh::PushOffer {
        epoch: item.position.epoch.0,
        sequence: item.position.sequence.0,
        message: Bytes::copy_from_slice(item.message.as_bytes()),
        sender: text(&item.sender),
        mentions: item.mentions.iter().map(text).collect(),
        sequenced_at: item.sequenced_at.0,
        expires_at: item.expires_at.map_or(0, |at| at.0),
    };
    let part = |read: &Position| mesh::Reached { epoch: read.epoch.0, up_to: read.sequence.0, at: 0 };
    let reads = |(user, parts): &(UserId, Vec<Position>)| mesh::MemberReceipts {
        user: text(user),
        delivered: Vec::new(),
        read: parts.iter().map(part).collect(),
    };
    let start = |(user, at): &(UserId, Position)| mesh::PushWatcher {
        user: text(user),
        epoch: at.epoch.0,
        sequence: at.sequence.0,
        ..mesh::PushWatcher::default()
    };
    let offers = mesh::PushOffers {
        log: Bytes::copy_from_slice(&log.to_bytes()),
        from: offers.from,
        to: offers.to,
        epoch: offers.epoch.0,
        begins: offers.begins,
        items: offers.items.iter().map(item).collect(),
        reads: offers.reads.iter().map(reads).collect(),
        gone: offers.gone.iter().map(text).collect(),
        starts: offers.starts.iter().map(start).collect(),
    };
    mesh::Push { offers: vec![offers], ..mesh::Push::default() }
}

/// What was offered. What does not read is left out.
#[must_use]
pub fn offers(offers: &mesh::PushOffers) -> Offers {
    let name = |text: &String| UserId::new(text).ok();
    let item = |item: &mesh::PushOffer| {
        Some(Offered {
            position: position(item.epoch, item.sequence),
            message: Uuid::from_slice(&item.message).ok()?,
            sender: name(&item.sender)?,
            mentions: item.mentions.iter().filter_map(name).collect::<BTreeSet<UserId>>(),
            sequenced_at: Timestamp(item.sequenced_at),
            expires_at: (item.expires_at > 0).then_some(Timestamp(item.expires_at)),
        })
    };
    let reads = |member: &mesh::MemberReceipts| {
        let parts = member.read.iter().map(|part| position(part.epoch, part.up_to)).collect();
        Some((name(&member.user)?, parts))
    };
    let start = |start: &mesh::PushWatcher| Some((name(&start.user)?, position(start.epoch, start.sequence)));
    Offers {
        from: offers.from,
        to: offers.to,
        epoch: Epoch(offers.epoch),
        begins: offers.begins,
        items: offers.items.iter().filter_map(item).collect(),
        reads: offers.reads.iter().filter_map(reads).collect(),
        gone: offers.gone.iter().filter_map(name).collect(),
        starts: offers.starts.iter().filter_map(start).collect(),
    }
}
