//! Media: their bytes are there as long as a message shows them, whoever is shown it may have them and nobody else, and
//! they go when nothing shows them any more (docs/media.md).

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{ConversationId, MessageId, UserId};
use region_model::media::ports::MediaObject;

use super::{Facts, Guarantee, Report};
use crate::history::{Event, History, MediaAnswer};

/// What was acked so long before somebody was asked what became of the media is known to it, in microseconds: a cut link is
/// noticed within less. What is sent with media that are on their way out is not looked at.
const KNOWN: u64 = 8_000_000;

#[derive(Debug, Default)]
struct Known {
    /// Media whose bytes came.
    came: BTreeSet<MediaObject>,
    /// Media whose bytes went, and when it was asked before that.
    taken: BTreeMap<MediaObject, u64>,
    /// Regions that lost a store.
    gone: BTreeSet<usize>,
    /// Media that are there at the end.
    there: BTreeSet<MediaObject>,
}

pub(super) fn check(history: &History, facts: &Facts, report: &mut Report) {
    let mut known = Known::default();
    for (at, event) in &history.events {
        match event {
            Event::MediaCame(media) => drop(known.came.insert(*media)),
            Event::MediaGone(region) => drop(known.gone.insert(*region)),
            Event::MediaTaken { media, shown, asked_at } => {
                if let Some(message) = known_of(shown, media.conversation, *asked_at, facts) {
                    found(report, *at, *media, &format!("go while {message} shows them"));
                }
                known.taken.insert(*media, *asked_at);
            }
            Event::MediaAsked { user, media, answer, is_member, shown, is_own } => {
                known.asked(*at, (user, *media, *answer), *is_member, !shown.is_empty(), *is_own, report);
            }
            Event::MediaEnd { .. } => known.end(*at, event, facts, report),
            _ => {}
        }
    }
}

fn found(report: &mut Report, at: u64, media: MediaObject, what: &str) {
    report.add(Guarantee::Media, format!("{at}: media {} of {} {what}", media.id, media.conversation));
}

/// One of these messages that was acked long enough before a time to be known. What was acked on a line that was lost, and
/// was noted by nobody who has the media, is known to nobody until it comes back.
fn known_of(shown: &[(MessageId, bool)], of: ConversationId, asked_at: u64, facts: &Facts) -> Option<MessageId> {
    let is_known = |(message, noted): &&(MessageId, bool)| {
        let Some(sent) = facts.sent.get(&(of, *message)) else { return false };
        let was_lost = || sent.acks.iter().any(|acked| facts.may_be_lost(of, acked.position));
        sent.acked_at.is_some_and(|acked_at| acked_at + KNOWN <= asked_at) && (*noted || !was_lost())
    };
    shown.iter().find(is_known).map(|(message, _)| *message)
}

impl Known {
    fn asked(
        &self,
        at: u64,
        (user, media, answer): (&UserId, MediaObject, MediaAnswer),
        is_member: bool,
        is_shown: bool,
        is_own: bool,
        report: &mut Report,
    ) {
        let at_the_end = self.there.contains(&media);
        let wrong = match answer {
            MediaAnswer::Given(_) if !is_member => "are given to one who is no member",
            MediaAnswer::Given(_) if !is_shown && !is_own => "are given to one who is shown nothing that carries them",
            MediaAnswer::NotShown if is_shown => "are refused to one who is shown a message that carries them",
            MediaAnswer::Later | MediaAnswer::None if is_shown && at_the_end => "are out of reach at the end",
            MediaAnswer::Given(false) if is_shown && at_the_end => "are given by a link to nothing",
            _ => return,
        };
        found(report, at, media, &format!("{wrong}: {user}"));
    }

    fn end(&mut self, at: u64, event: &Event, facts: &Facts, report: &mut Report) {
        let Event::MediaEnd { media, region, has_bytes, has_record, is_kept, shown } = event else { return };
        if *has_bytes {
            self.there.insert(*media);
        }
        if !is_kept && (*has_bytes || *has_record) {
            let what = if *has_bytes { "are still there" } else { "have a record still" };
            found(report, at, *media, &format!("{what}, and nothing shows them"));
        }
        if *has_bytes || shown.is_empty() || self.gone.contains(region) || !self.came.contains(media) {
            return;
        }
        let known = match self.taken.get(media) {
            Some(asked_at) => known_of(shown, media.conversation, *asked_at, facts),
            None => shown.first().map(|(message, _)| *message),
        };
        if let Some(message) = known {
            found(report, at, *media, &format!("are gone, and {message} shows them"));
        }
    }
}
