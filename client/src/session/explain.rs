//! Questions about the way of a message that wait for their answers.

use std::collections::{BTreeSet, VecDeque};

use hearth_protocol::client::{ExplainRequest, ExplanationPayload};
use hearth_protocol::{ErrorCode, Refusal};

use super::{Phase, Session, frames};

/// Questions that may wait for their answers.
const QUESTIONS: usize = 16;
/// What the ids of their requests begin with.
const PREFIX: &str = "explain-";

/// The answer to a question.
pub type Explained = Result<Box<ExplanationPayload>, Refusal>;

/// Questions by number, and answers that nobody took yet; together at most [`QUESTIONS`].
#[derive(Debug, Default)]
pub(super) struct Questions {
    next: u64,
    asked: BTreeSet<u64>,
    answers: VecDeque<(u64, Explained)>,
}

fn not_connected() -> Refusal {
    Refusal::new(ErrorCode::HomeUnreachable, "there is no session to ask by: ask again once it is connected")
        .with_retry_after(1)
}

impl Questions {
    /// The connection that they went out on is gone.
    pub(super) fn give_up(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        self.answers.extend(asked.into_iter().map(|number| (number, Err(not_connected()))));
    }

    /// Whether an answer is to one of them.
    pub(super) fn answer(&mut self, id: Option<&str>, explained: Explained) -> bool {
        let number = id.and_then(|id| id.strip_prefix(PREFIX)).and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| self.asked.remove(number)) else { return false };
        self.answers.push_back((number, explained));
        true
    }
}

impl Session {
    /// Asks where a message is on its way to a user. The answer is given by [`Session::take_explained`] under the number
    /// that is returned.
    ///
    /// # Errors
    /// `HOME_UNREACHABLE` without a session that lives, `OVERLOADED` while 16 questions wait.
    pub fn explain(&mut self, request: &ExplainRequest) -> Result<u64, Refusal> {
        if !matches!(self.phase, Phase::Live { .. }) {
            return Err(not_connected());
        }
        if self.questions.asked.len() + self.questions.answers.len() >= QUESTIONS {
            let refusal = Refusal::new(ErrorCode::Overloaded, "too many questions wait for their answers");
            return Err(refusal.with_retry_after(1).with_limit(format!("{QUESTIONS} questions at a time")));
        }
        self.questions.next += 1;
        let number = self.questions.next;
        self.questions.asked.insert(number);
        self.frames.push_back(frames::explain(&format!("{PREFIX}{number}"), request));
        Ok(number)
    }

    /// An explanation came. One that nobody waits for is dropped.
    pub(super) fn explained(&mut self, id: Option<&str>, explanation: Box<ExplanationPayload>) {
        let _ = self.questions.answer(id, Ok(explanation));
    }

    /// The next answer that came.
    pub fn take_explained(&mut self) -> Option<(u64, Explained)> {
        self.questions.answers.pop_front()
    }
}
