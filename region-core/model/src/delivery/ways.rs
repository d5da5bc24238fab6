//! The hops of a message, over all regions that were asked, in the order of its way.

use hearth_protocol::client::{Hop, HopKind, KeptHops};
use hearth_protocol::{RegionId, Timestamp};

use super::part::{RegionPart, SessionSent};

const MICROS: u64 = 1_000;

fn hop(kind: HopKind, region: &RegionId, to: Option<&RegionId>, micros: u64) -> Hop {
    let part = u16::try_from(micros % MICROS).unwrap_or(0);
    Hop { hop: kind, region: Some(region.clone()), to: to.cloned(), at: Timestamp(micros / MICROS), micros: Some(part) }
}

/// Whether a region handed the message to a session of the user when it was shown there: one that was there then, and
/// was sent it.
fn handed(part: &RegionPart, shown: u64) -> bool {
    part.user.sessions.iter().any(|session| {
        session.since.0 <= shown / MICROS && matches!(session.sent, Some(SessionSent::Sent | SessionSent::Pulls))
    })
}

fn of_region(part: &RegionPart, home: Option<&RegionId>, hops: &mut Vec<Hop>) {
    let Some(times) = &part.hops else { return };
    let (came, durable) = match times.numbered {
        true => (None, HopKind::HomeAppend),
        false => (times.came, HopKind::ReplicaApply),
    };
    let here = [
        (HopKind::EdgeIn, times.taken, None),
        (HopKind::Queued, times.queued, None),
        (HopKind::Forwarded, times.forwarded, home),
        (HopKind::Acked, times.acked, None),
        (HopKind::LinkIn, came, None),
        (durable, times.durable, None),
        (HopKind::EdgeOut, times.shown.filter(|shown| handed(part, *shown)), None),
    ];
    hops.extend(here.into_iter().filter_map(|(kind, at, to)| Some(hop(kind, &part.region, to, at?))));
    hops.extend(times.out.iter().map(|(to, at)| hop(HopKind::LinkOut, &part.region, Some(to), *at)));
}

/// The hops. What concerns the user is left out where `user_hidden`.
pub(super) fn hops(parts: &[RegionPart], home: Option<&RegionId>, user_hidden: bool) -> Vec<Hop> {
    let mut hops = Vec::new();
    parts.iter().for_each(|part| of_region(part, home, &mut hops));
    let told = |kind, at: Timestamp| Hop { hop: kind, region: None, to: None, at, micros: None };
    // Where a region has another message at its number, cursors passed that one.
    let on_its_line = || parts.iter().filter(|part| part.entry.is_some());
    let received = on_its_line().filter_map(|part| part.user.delivered.passed).min();
    let read = on_its_line().filter_map(|part| part.user.read.passed).min();
    hops.extend(received.map(|at| told(HopKind::ClientReceived, at)));
    hops.extend(read.map(|at| told(HopKind::ClientRead, at)));
    if user_hidden {
        hops.retain(|hop| hop.hop < HopKind::EdgeOut);
    }
    hops.sort_by_key(|hop| (hop.hop, hop.at, hop.micros));
    hops
}

/// From when on each region knows hops.
pub(super) fn kept(parts: &[RegionPart]) -> Vec<KeptHops> {
    let of = |part: &RegionPart| KeptHops {
        region: part.region.clone(),
        since: Timestamp(part.kept.since.div_ceil(MICROS)),
        why: part.kept.why,
    };
    parts.iter().map(of).collect()
}
