//! Who joins groups that are large for their regions: several requests at a time, from any region, asked again until they
//! are acked. Half of them are removed again, and their request comes late once more.

use hearth_protocol::entry::{MemberAction, Role};
use hearth_protocol::{Change, EntryKind, UserId};
use region_model::Command;
use region_model::view::View;

use crate::errands::{Done, Step, change};
use crate::history::Event as Told;
use crate::plan::SECOND;
use crate::random::Random;
use crate::world::{Event, World};

/// Visitors come this often, at least and at most.
const COME: (u64, u64) = (SECOND / 4, 2 * SECOND);
/// Requests at a time, at most.
const AT_A_TIME: usize = 4;
/// Members above which a group is large.
pub(crate) const LARGE: usize = 4;

/// How far a visitor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The request is not acked yet.
    Asked,
    /// It is.
    Joined,
    /// The removal is asked for, and behind it the request again.
    Leaves,
    /// Both are acked.
    Left,
}

#[derive(Debug)]
struct Visit {
    conversation: usize,
    user: UserId,
    /// The request that makes it a member.
    join: Command,
    stage: Stage,
}

/// All visitors of a run.
#[derive(Debug)]
pub(crate) struct Visitors {
    random: Random,
    visits: Vec<Visit>,
}

impl Visitors {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Random::of(seed, "visitors", 0), visits: Vec::new() }
    }
}

impl World {
    /// Some come to a group at the same time.
    pub(crate) fn visitors_come(&mut self) {
        if self.now >= self.plan.calm_at {
            return;
        }
        let next = self.visitors.random.between(COME.0, COME.1);
        self.after(next, Event::Visitors);
        let conversation = self.visitors.random.below(self.conversations.len());
        let of = &self.conversations[conversation];
        if of.guest.is_none() || !of.ready {
            return;
        }
        for _ in 0..=self.visitors.random.below(AT_A_TIME) {
            let region = self.visitors.random.below(self.regions.len());
            let number = self.visitors.visits.len();
            let user = UserId::new(format!("visitor{number}")).expect("a valid user id");
            let action = MemberAction::Add(Role::Member);
            let join = self.change_of_visitor(conversation, &user, action, region);
            self.trace.count(self.now, "visitor-asked", conversation as u64, number as u64);
            self.begin_errand(region, [Step::Command(Box::new(join.clone()))], Done::Visited(number));
            self.visitors.visits.push(Visit { conversation, user, join, stage: Stage::Asked });
        }
    }

    fn change_of_visitor(
        &mut self,
        conversation: usize,
        user: &UserId,
        action: MemberAction,
        region: usize,
    ) -> Command {
        let of = &self.conversations[conversation];
        let (log, sender) = (of.log, self.clients[of.admin].user.clone());
        let content = Change::Members { action, users: vec![user.clone()] }.encode();
        let id = self.visitors.random.uuid();
        change(sender, log, EntryKind::Member, id, content, self, region)
    }

    /// All that was asked for a visitor is acked.
    pub(crate) fn visited(&mut self, number: usize) {
        let visit = &self.visitors.visits[number];
        let (conversation, user, again) = (visit.conversation, visit.user.clone(), visit.join.clone());
        let stage = match visit.stage {
            Stage::Asked if self.visitors.random.percent(50) => Stage::Leaves,
            Stage::Asked => Stage::Joined,
            Stage::Leaves => Stage::Left,
            other => other,
        };
        self.visitors.visits[number].stage = stage;
        if stage == Stage::Leaves {
            let region = self.visitors.random.below(self.regions.len());
            let removal = self.change_of_visitor(conversation, &user, MemberAction::Remove, region);
            let steps = [removal, again].map(|command| Step::Command(Box::new(command)));
            self.begin_errand(region, steps, Done::Visited(number));
        }
    }

    /// Notes for each visitor whose requests were acked whether the line has it. What was refused says nothing, nor does
    /// a run in which stores were lost.
    pub(crate) fn visitors_at_the_end(&mut self) {
        if self.plan.size.stores {
            return;
        }
        let mut ends = Vec::new();
        for visit in &self.visitors.visits {
            let expected = match visit.stage {
                Stage::Joined => true,
                Stage::Left => false,
                Stage::Asked | Stage::Leaves => continue,
            };
            let of = &self.conversations[visit.conversation];
            let View::Conversation(line) = self.folded(of.log) else { continue };
            let is_member = line.members.contains_key(&visit.user);
            ends.push(Told::JoinEnd { conversation: of.id, user: visit.user.to_string(), is_member, expected });
        }
        ends.into_iter().for_each(|end| self.history.add(self.now, end));
    }
}
