//! A user's record says in which conversations the user is, as their lines do.

use super::{Guarantee, Report};
use crate::history::{Event, History};

pub(super) fn check(history: &History, report: &mut Report) {
    for (_, event) in &history.events {
        let Event::MembershipEnd { conversation, user, is_member, recorded } = event else { continue };
        if is_member != recorded {
            let says = |is: &bool| if *is { "is" } else { "is not" };
            let what = format!(
                "{user} {} a member of {conversation} by its line, and {} by its own record",
                says(is_member),
                says(recorded)
            );
            report.add(Guarantee::Recorded, what);
        }
    }
}
