//! What lines say of members, and what users' own records say of it: a home tells each change on, from what it wrote
//! down with the entry.

use std::collections::BTreeSet;

use hearth_protocol::{LogId, UserId};
use region_model::view::View;

use crate::history::Event;
use crate::world::World;

impl World {
    /// Notes for each conversation and client what the line says at the end, and what the client's record says. What a
    /// region still has to tell is left out, and so is all of it where stores were lost with what they had to tell.
    pub(crate) fn memberships_at_the_end(&mut self) {
        if self.plan.size.stores {
            return;
        }
        let owed: BTreeSet<(LogId, UserId)> = self
            .regions
            .iter()
            .flat_map(|region| region.disk.outbox.values().map(|item| (item.log, item.user.clone())))
            .collect();
        let records: Vec<(UserId, View)> =
            self.clients.iter().map(|client| (client.user.clone(), self.folded(LogId::user(&client.user)))).collect();
        let mut ends = Vec::new();
        for conversation in self.conversations.iter().filter(|conversation| conversation.ready) {
            let View::Conversation(line) = self.folded(conversation.log) else { continue };
            for (user, record) in records.iter().filter(|(user, _)| !owed.contains(&(conversation.log, user.clone()))) {
                let recorded = match record {
                    View::User(state) => state.conversations.get(&conversation.id).is_some_and(|of_it| of_it.joined),
                    _ => false,
                };
                let (user, is_member) = (user.to_string(), line.members.contains_key(user));
                ends.push(Event::MembershipEnd { conversation: conversation.id, user, is_member, recorded });
            }
        }
        ends.into_iter().for_each(|end| self.history.add(self.now, end));
    }

    /// What the longest copy of a log comes to.
    pub(crate) fn folded(&self, log: LogId) -> View {
        let copies = self.regions.iter().filter_map(|region| region.disk.logs.get(&log));
        let mut view = View::Empty;
        for entry in copies.max_by_key(|copy| copy.length()).into_iter().flat_map(|copy| copy.entries.values()) {
            view.fold(entry);
        }
        view
    }
}
