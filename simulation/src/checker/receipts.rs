//! G10: receipts only grow, and run ahead of nothing.
//!
//! Each region tells what it knows. A session that goes on at another region may hear a cursor there that is below one
//! it heard before, until that region has heard of it, too: falling is judged for each region by itself.

use std::collections::BTreeMap;

use hearth_protocol::{ConversationId, Position};

use super::{Guarantee, Report};
use crate::history::{Event, History};

/// One member's devices: who, where, and whether it was read.
type Cursor<'a> = (ConversationId, &'a str, bool);

pub(super) fn check(history: &History, report: &mut Report) {
    if !history.events.iter().any(|(_, event)| matches!(event, Event::Receipt { .. })) {
        return;
    }
    let highest = highest(history);
    let mut said: BTreeMap<Cursor<'_>, u64> = BTreeMap::new();
    let mut region: BTreeMap<u32, usize> = BTreeMap::new();
    let mut heard: BTreeMap<(u32, Option<usize>, Cursor<'_>), Position> = BTreeMap::new();
    for (at, event) in &history.events {
        match event {
            Event::At(session, at) => {
                region.insert(*session, *at);
            }
            Event::Said { session, conversation, up_to, read } => {
                let Some(session) = history.sessions.get(*session as usize) else { continue };
                for read in [false, *read] {
                    let known = said.entry((*conversation, &session.name, read)).or_default();
                    *known = (*known).max(*up_to);
                }
            }
            Event::Receipt { session, conversation, member, up_to, read } => {
                let cursor = (*conversation, member.as_str(), *read);
                let number = up_to.sequence.0;
                let mut found = |what: &str| {
                    report.add(Guarantee::G10, format!("{at}: a cursor of {member} at {number} {what}"));
                };
                if number > highest.get(conversation).copied().unwrap_or(0) {
                    found("is above everything that anybody saw");
                }
                if number > said.get(&cursor).copied().unwrap_or(0) {
                    found("is above what its clients had said");
                }
                let known = heard.entry((*session, region.get(session).copied(), cursor)).or_insert(*up_to);
                if *up_to < *known {
                    found(&format!("fell from {} for session {session}", known.sequence.0));
                }
                *known = (*known).max(*up_to);
            }
            _ => {}
        }
    }
}

/// The highest number of each conversation that was acked, shown or read.
fn highest(history: &History) -> BTreeMap<ConversationId, u64> {
    let mut highest: BTreeMap<ConversationId, u64> = BTreeMap::new();
    let mut raise = |conversation: &ConversationId, number: u64| {
        let known = highest.entry(*conversation).or_default();
        *known = (*known).max(number);
    };
    for (_, event) in &history.events {
        match event {
            Event::Ack { conversation, acked, .. } => raise(conversation, acked.position.sequence.0),
            Event::Shown(_, conversation, position, _) => raise(conversation, position.sequence.0),
            Event::Reading { conversation, rows, .. } => {
                rows.iter().for_each(|row| raise(conversation, row.sequence));
            }
            _ => {}
        }
    }
    highest
}
