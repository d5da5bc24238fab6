//! What acks say: one position a message, one writer an epoch, copies as named, in the order of real time.

use std::collections::BTreeMap;

use hearth_protocol::{ConversationId, MessageId, Position};

use super::{Facts, Guarantee, Report};
use crate::history::{Acked, Event, History, OnDisk};

pub(super) fn check(history: &History, facts: &Facts, report: &mut Report) {
    let mut homes: BTreeMap<(ConversationId, u64), usize> = BTreeMap::new();
    let mut begun: BTreeMap<ConversationId, BTreeMap<u64, u64>> = BTreeMap::new();
    for (at, event) in &history.events {
        let Event::Ack { conversation, message, acked, on_disk, .. } = event else { continue };
        let epoch = acked.position.epoch.0;
        if let Some(home) = acked.home.filter(|_| !acked.again) {
            let known = *homes.entry((*conversation, epoch)).or_insert(home);
            if known != home {
                let names = [known, home].map(|region| name(history, region));
                report.add(
                    Guarantee::G5,
                    format!("{} and {} both acked under epoch {epoch} of {conversation}", names[0], names[1]),
                );
            }
        }
        begun.entry(*conversation).or_default().entry(epoch).or_insert(*at);
        copies(history, *conversation, *message, acked, *on_disk, report);
    }
    for (key, sent) in &facts.sent {
        if let [first, .., last] = &sent.acks[..]
            && !sent.acks.iter().any(|ack| facts.is_named(key.0, ack))
        {
            report.add(Guarantee::G3, format!("{} was acked as {first:?} and as {last:?}", key.1));
        }
        for ack in &sent.acks {
            order(key.0, key.1, ack, sent.after, report);
            stale(key.0, key.1, ack, sent.invoked, &begun, report);
        }
    }
}

fn name(history: &History, region: usize) -> &str {
    history.regions.get(region).map_or("?", String::as_str)
}

fn copies(
    history: &History,
    conversation: ConversationId,
    message: MessageId,
    acked: &Acked,
    on_disk: Option<OnDisk>,
    report: &mut Report,
) {
    let Some(on_disk) = on_disk else { return };
    let least = acked.level.copies(on_disk.voters);
    let level = acked.level.as_str();
    if on_disk.regions.len() < least {
        report.add(
            Guarantee::G6,
            format!("{message} of {conversation} was acked at {level} with {} copies on disk", on_disk.regions.len()),
        );
    }
    if !acked.regions.is_within(on_disk.regions) {
        let named: Vec<&str> = (0..history.regions.len())
            .filter(|region| [*region].into_iter().collect::<crate::history::RegionSet>().is_within(acked.regions))
            .map(|region| name(history, region))
            .collect();
        report.add(
            Guarantee::G6,
            format!("the ack of {message} at {level} names {named:?}, and not just those have it on disk"),
        );
    }
}

/// What was acked before a message was handed over stands before it.
fn order(
    conversation: ConversationId,
    message: MessageId,
    acked: &Acked,
    after: Option<Position>,
    report: &mut Report,
) {
    if let Some(before) = after.filter(|before| *before >= acked.position) {
        report.add(
            Guarantee::G2,
            format!(
                "{message} of {conversation} stands at {:?}, and was handed over after {before:?} was acked",
                acked.position
            ),
        );
    }
}

/// Nothing is acked under an epoch for a message that was handed over after a newer epoch's first ack.
fn stale(
    conversation: ConversationId,
    message: MessageId,
    acked: &Acked,
    invoked: Option<u64>,
    begun: &BTreeMap<ConversationId, BTreeMap<u64, u64>>,
    report: &mut Report,
) {
    let Some(invoked) = invoked.filter(|_| !acked.again) else { return };
    let epoch = acked.position.epoch.0;
    let newer = begun.get(&conversation).into_iter().flatten().find(|(other, at)| **other > epoch && **at < invoked);
    if let Some((newer, _)) = newer {
        report.add(
            Guarantee::G5,
            format!(
                "{message} of {conversation} was acked under epoch {epoch}, and handed over after epoch {newer} acked"
            ),
        );
    }
}
