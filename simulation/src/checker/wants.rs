//! What users wanted to be woken for, as their records said it, with the time that it takes until whoever decides knows.

use std::collections::BTreeMap;

use hearth_protocol::push::Preferences;
use hearth_protocol::{ConversationId, UserId};
use uuid::Uuid;

use crate::history::{Event, History, InForce};

/// The home of a record decides by a change so long after it said that it stands, in microseconds: it looks at what has
/// changed ten times a second.
const LOOKED_AT: u64 = 500_000;
/// Clocks of regions may be off by so much against each other, in microseconds.
const CLOCKS: u64 = 6_000_000;

/// What whoever decides under an epoch may take for so at a time: what it has to know of last, and what came behind that.
fn may_be<T: Copy>(said: &[InForce<T>], first: T, at: u64, epoch: u64) -> impl Iterator<Item = T> {
    let is_known = |of: &InForce<T>| of.known.saturating_add(LOOKED_AT) <= at && of.epoch <= epoch;
    let (sure, later) = match said.iter().rposition(is_known) {
        Some(place) => (said[place].what, &said[place + 1..]),
        None => (first, said),
    };
    std::iter::once(sure).chain(later.iter().filter(move |of| of.from <= at).map(|of| of.what))
}

/// What is known of all users at the end.
#[derive(Debug, Default)]
pub(super) struct Wants<'a> {
    preferences: BTreeMap<(&'a UserId, ConversationId), &'a [InForce<Preferences>]>,
    subscriptions: BTreeMap<&'a UserId, &'a [InForce<Option<Uuid>>]>,
    asked: BTreeMap<&'a UserId, u64>,
}

impl<'a> Wants<'a> {
    pub(super) fn of(history: &'a History) -> Self {
        let mut wants = Self::default();
        for (_, event) in &history.events {
            match event {
                Event::PushEnd { user, conversation, wants: said, .. } => {
                    wants.preferences.insert((user, *conversation), said);
                }
                Event::Subscribed { user, subscriptions, first_asked } => {
                    wants.subscriptions.insert(user, subscriptions);
                    wants.asked.insert(user, *first_asked);
                }
                _ => {}
            }
        }
        wants
    }

    /// Whether anything is known of a user and a conversation.
    pub(super) fn knows(&self, pair: (&UserId, ConversationId)) -> bool {
        self.preferences.contains_key(&pair)
    }

    /// The preferences that may be in force where somebody decides.
    pub(super) fn preferences(
        &self,
        pair: (&UserId, ConversationId),
        at: u64,
        epoch: u64,
    ) -> impl Iterator<Item = Preferences> {
        let said = self.preferences.get(&pair).copied().unwrap_or_default();
        may_be(said, Preferences::default(), at, epoch)
    }

    /// Whether a user may be subscribed with this where somebody decides or sends; `None`: with anything.
    pub(super) fn may_be_subscribed(&self, user: &UserId, with: Option<Uuid>, at: u64, epoch: u64) -> bool {
        self.subscriptions.get(user).is_none_or(|said| {
            may_be(said, None, at, epoch).flatten().any(|subscription| with.is_none_or(|with| with == subscription))
        })
    }

    /// Whether a user may have been without a subscription at some moment of a time.
    pub(super) fn may_be_without(&self, user: &UserId, from: u64, to: u64) -> bool {
        let Some(said) = self.subscriptions.get(user) else { return false };
        let first = InForce { epoch: 0, from: 0, known: 0, what: None };
        let all: Vec<&InForce<Option<Uuid>>> = std::iter::once(&first).chain(said.iter()).collect();
        let ends = all.iter().skip(1).map(|next| next.known.saturating_add(LOOKED_AT)).chain([u64::MAX]);
        all.iter().zip(ends).any(|(of, end)| of.what.is_none() && of.from <= to && end >= from)
    }

    /// Whether what a user was subscribed with may have changed since a time.
    pub(super) fn may_have_changed(&self, user: &UserId, since: u64) -> bool {
        let said = self.subscriptions.get(user).copied().unwrap_or_default();
        said.iter().any(|of| of.known.saturating_add(LOOKED_AT) >= since)
    }

    /// From when on a user has surely been subscribed, by all clocks; `None`: it is not sure that it is.
    pub(super) fn subscribed_since(&self, user: &UserId) -> Option<u64> {
        let Some(said) = self.subscriptions.get(user) else { return Some(0) };
        let first = said.iter().rposition(|of| of.what.is_none()).map_or(0, |last| last + 1);
        let begun = said.get(first).filter(|of| of.known < u64::MAX)?;
        Some(begun.known.saturating_add(CLOCKS))
    }

    /// Whether what was said by a time was said before a subscription that was on its way by another one: it wakes nobody
    /// where nothing was decided before.
    pub(super) fn is_before_one(&self, user: &UserId, said_by: u64, on_its_way: u64) -> bool {
        let said = self.subscriptions.get(user).copied().unwrap_or_default();
        said.iter().any(|of| of.from <= on_its_way && said_by <= of.known.saturating_add(CLOCKS))
    }

    /// Whether what was said by a time was surely said before a user first asked to be subscribed.
    pub(super) fn is_before_all(&self, user: &UserId, said_by: u64) -> bool {
        self.asked.get(user).is_some_and(|asked| said_by.saturating_add(CLOCKS) <= *asked)
    }
}
