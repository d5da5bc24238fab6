//! How much a home takes at a time: parked messages wait for room, and a conversation has a rate.

use hearth_protocol::{EntryKind, ErrorCode, LogKind, Refusal, limits};

use crate::bucket::Bucket;
use crate::command::{Command, Outcome};
use crate::core::Context;
use crate::home::answer;
use crate::log::{Log, Waiter};

/// Parked messages that wait for room at one home; above it more are refused `OVERLOADED`, and stay parked.
const PACED: usize = 4_096;

/// A parked message that waits for room.
#[derive(Clone, Debug)]
pub(crate) struct Paced<R> {
    pub(crate) command: Command,
    pub(crate) salt: [u8; 16],
    pub(crate) waiter: Waiter<R>,
}

impl<R: Clone> Log<R> {
    /// Whether one more entry may wait for copies.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.len() + self.home.submits.len() + self.home.joins.len() < limits::UNMARKED_ENTRIES
    }

    /// Keeps a parked message until there is room: refused, it could be overtaken by the next one of its device. One
    /// that comes again, since its region did not hear of it for a while, stays where it stands.
    pub(crate) fn pace(&mut self, command: Command, salt: [u8; 16], waiter: Waiter<R>, context: &mut Context<'_, R>) {
        let same = |paced: &&mut Paced<R>| paced.command.id == command.id && paced.command.sender == command.sender;
        if let Some(paced) = self.home.paced.iter_mut().find(same) {
            *paced = Paced { command, salt, waiter };
        } else if self.home.paced.len() < PACED {
            self.home.paced.push_back(Paced { command, salt, waiter });
        } else {
            answer(waiter, Outcome::Refused(no_room()), context.effects, self.id);
        }
    }

    /// Takes parked messages up as far as there is room.
    pub(crate) fn take_paced(&mut self, context: &mut Context<'_, R>) {
        while self.may_ack(context)
            && self.has_room()
            && let Some(Paced { command, salt, waiter }) = self.home.paced.pop_front()
        {
            self.admit(command, salt, waiter, context);
        }
    }

    /// Counts a new message of a conversation; what dedup answered was answered before. One that was parked was promised,
    /// and one that comes back after a failover was acked: they are taken in any case, and what comes after pays.
    ///
    /// # Errors
    /// `RATE_LIMITED` with the time after which one is taken again.
    pub(crate) fn count(&mut self, command: &Command, parked: bool, context: &Context<'_, R>) -> Result<(), Refusal> {
        let limit = u64::from(context.bounds.conversation_messages_per_minute);
        if limit == 0 || self.id.kind != LogKind::Conversation || command.kind != EntryKind::Message {
            return Ok(());
        }
        let now = context.now.monotonic;
        let rate = self.home.rate.get_or_insert_with(|| Box::new(Bucket::full(limit, now)));
        if parked || command.original_time.is_some() {
            rate.overdraw(now);
            return Ok(());
        }
        rate.take(now).map_err(|wait| {
            Refusal::new(ErrorCode::RateLimited, "too many messages in this conversation, slow down")
                .with_limit(format!("conversation_messages_per_minute: {limit}"))
                .with_retry_after(wait.div_ceil(1_000).max(1))
        })
    }
}

/// The refusal of one entry more than may wait.
pub(crate) fn no_room() -> Refusal {
    Refusal::new(ErrorCode::Overloaded, "too many entries of this log wait for copies")
        .with_retry_after(5)
        .with_limit(format!("{} entries", limits::UNMARKED_ENTRIES))
}
