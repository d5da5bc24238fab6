//! What a home does for regions that hold a copy without a vote: it takes them up, tells them where their stream begins,
//! gives them what lies below, and lets them go.

use bytes::Bytes;
use hearth_protocol::{LogKind, RegionId, mesh};

use crate::copies::{CATCH_UP_ENTRIES, FRAME_ENTRY_BYTES};
use crate::core::Context;
use crate::effect::{Effect, Lane};
use crate::log::{Beginning, Log, Replica};
use crate::succession::openings_told;

impl<R: Clone> Log<R> {
    /// Another region wants to hold the log, from what it has on. One that is sent it already is asked what it has; one
    /// that lacks much is sent what comes from now on, and pulls the rest.
    pub(crate) fn follow(&mut self, peer: &RegionId, follow: &mesh::Follow, context: &mut Context<'_, R>) {
        self.ensure_replicas(context);
        let length = follow.length.min(self.durable);
        let known = self.home.replicas.get(peer).is_some_and(|replica| !replica.lapsed);
        if !known || follow.fresh {
            let reading = self.home.replicas.get(peer).is_some_and(|replica| replica.reading);
            let far = self.marked.saturating_sub(length) > context.bounds.follow_in_order;
            let conversation = self.id.kind == LogKind::Conversation;
            // What a follower has of an older epoch may be of another line.
            let same = length == 0 || follow.fresh || follow.accepted == self.epoch().0;
            let begins = !self.sends_all_to(peer) && conversation && same && (far || follow.fresh);
            let waits = self.home.replicas.get_mut(peer).and_then(|replica| replica.begin.take());
            let begin = if begins { waits.or_else(|| self.beginning(follow.fresh)) } else { None };
            let replica = Replica { acked: length, sent: length, reading, begin, ..Replica::default() };
            self.home.replicas.insert(peer.clone(), replica);
            self.send_beginnings(context);
        }
        let durable = self.durable;
        let Some(replica) = self.home.replicas.get(peer) else { return };
        if replica.sent < durable {
            self.catch_up(peer, context);
        } else if durable > 0 && replica.streams() && context.links_up.contains(peer) {
            self.send_entries(peer, durable, &[], Lane::Log(self.id), context);
        }
    }

    /// A beginning behind all that is decided; without the state where that does not fit into a frame.
    fn beginning(&self, fresh: bool) -> Option<Box<Beginning>> {
        let (tip, view) = (self.tip?, self.view.snapshot());
        let fits = view.len() <= FRAME_ENTRY_BYTES;
        let view = if fits { view } else { Bytes::new() };
        (fits || fresh).then(|| Box::new(Beginning { at: self.length, tip, view }))
    }

    /// Sends beginnings that the mark has reached: nothing below them waits for copies, so a follower may show all of
    /// what it pulls.
    pub(crate) fn send_beginnings(&mut self, context: &mut Context<'_, R>) {
        let marked = self.marked;
        let due = |(peer, replica): &(&RegionId, &Replica)| {
            replica.begin.as_ref().is_some_and(|begin| begin.at <= marked) && context.links_up.contains(*peer)
        };
        let due: Vec<RegionId> = self.home.replicas.iter().filter(due).map(|(peer, _)| peer.clone()).collect();
        for peer in due {
            let Some(replica) = self.home.replicas.get_mut(&peer) else { continue };
            let Some(begin) = replica.begin.take() else { continue };
            (replica.sent, replica.mark_sent) = (begin.at, marked);
            let mesh::Body::Append(append) = self.append_frame(begin.at, &[]) else { continue };
            let (epoch, time) = (begin.tip.epoch.0, begin.tip.time.0);
            let openings = openings_told(self.record.as_ref());
            let voters = self.record.iter().flat_map(|record| &record.voters);
            let append = mesh::Append {
                voters: voters.map(|voter| voter.as_str().to_owned()).collect(),
                previous: Bytes::copy_from_slice(&begin.tip.hash),
                begin: Some(mesh::Begin { view: begin.view, epoch, time, openings }),
                ..append
            };
            let body = mesh::Body::Append(append);
            context.effects.push(Effect::Send { peer: peer.clone(), lane: Lane::Log(self.id), body });
            self.catch_up(&peer, context);
        }
    }

    /// A follower lacks the end of a range below its stream.
    pub(crate) fn pull_asked(&self, peer: &RegionId, pull: &mesh::Pull, context: &mut Context<'_, R>) {
        if pull.from < pull.to && pull.to <= self.durable && pull.to - pull.from <= CATCH_UP_ENTRIES {
            let (from, to) = (pull.from, pull.to);
            context.effects.push(Effect::ReadForPull { log: self.id, peer: peer.clone(), from, to });
        }
    }

    /// Another region holds the log no longer. A voter stays a replica, and so does every region of a placement log.
    pub(crate) fn unfollow(&mut self, peer: &RegionId) {
        let votes = self.record.as_ref().is_none_or(|record| record.voters.contains(peer));
        if !votes && self.id.kind != LogKind::Placement {
            self.home.replicas.remove(peer);
        }
    }
}
