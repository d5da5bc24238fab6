//! A user's record says in which conversations the user is, as their lines do; and lines say of who was added what was
//! acked last.

use super::{Guarantee, Report};
use crate::history::{Event, History};

pub(super) fn check(history: &History, report: &mut Report) {
    for (_, event) in &history.events {
        match event {
            Event::MembershipEnd { conversation, user, is_member, recorded } if is_member != recorded => {
                let says = |is: &bool| if *is { "is" } else { "is not" };
                let what = format!(
                    "{user} {} a member of {conversation} by its line, and {} by its own record",
                    says(is_member),
                    says(recorded)
                );
                report.add(Guarantee::Recorded, what);
            }
            Event::JoinEnd { conversation, user, is_member: false, expected: true } => {
                report.add(
                    Guarantee::G1,
                    format!("{user} was added to {conversation} by an acked request, and is not in it"),
                );
            }
            Event::JoinEnd { conversation, user, is_member: true, expected: false } => {
                let what = "by a request that came again";
                report.add(Guarantee::G3, format!("{user} was removed from {conversation}, and is in it again {what}"));
            }
            _ => {}
        }
    }
}
