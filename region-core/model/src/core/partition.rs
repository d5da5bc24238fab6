//! What an edge does with sends of a conversation whose home is out of reach, where it is not to park them.

use hearth_protocol::placement::PartitionMode;
use hearth_protocol::{ErrorCode, LogId, Refusal};

use super::homes::covers;
use super::{Now, RegionCore, Slotted, home_unreachable};
use crate::command::Command;
use crate::log::{Log, Waiter};
use crate::view::View;

impl<R: Clone + std::fmt::Debug> RegionCore<R> {
    /// Whether the home of a log is in the reach of this region: behind a link that is up, or here with a lease. A log
    /// of which no home is known here counts as in reach.
    pub(super) fn reaches_home(&self, id: LogId, now: Now) -> bool {
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return true };
        self.reaches_home_of(log, now)
    }

    /// As `reaches_home`, of a log that is at hand.
    pub(super) fn reaches_home_of(&self, log: &Log<R>, now: Now) -> bool {
        let Some(placement) = &log.placement else { return true };
        if placement.home == self.options.me {
            covers(now.right, &self.options.me, log)
        } else {
            self.links_up.contains(&placement.home)
        }
    }

    /// The refusal of a message whose home is out of reach, by the partition mode. `None` where it is parked: in mode
    /// `park`, when it is parked here already, and for a sender who is no member, who is told of no mode. What was on its
    /// way to the home does not come here: it may have been sequenced, so it is kept until that is known.
    pub(super) fn refused_by_mode(&self, command: &Command, waiter: &Waiter<R>, now: Now) -> Option<Refusal> {
        let id = command.log;
        let Some(Slotted::Ready(log)) = self.logs.get(&id) else { return None };
        let mode = log.partition_mode();
        let by_device = waiter.device().is_some() && matches!(waiter, Waiter::Local { .. });
        if mode == PartitionMode::Park || !command.kind.is_sent() || !by_device {
            return None;
        }
        if self.reaches_home(id, now) || self.lot.number_of(id, &command.sender, command.id).is_some() {
            return None;
        }
        let home = &log.placement.as_ref()?.home;
        match (&log.view, mode) {
            (View::Conversation(state), _) if !state.members.contains_key(&command.sender) => None,
            (View::Conversation(_), PartitionMode::ReadOnly) => {
                let message = format!("region {home} is out of reach, and the conversation is read-only meanwhile");
                Some(Refusal::new(ErrorCode::ReadOnly, message).with_retry_after(5))
            }
            // Who is a member is not known here: nobody is told that there is such a conversation.
            _ => Some(home_unreachable(home)),
        }
    }
}
