//! What is projected of a log, without a server.

#![allow(dead_code, reason = "tests share what writes logs")]

#[path = "../lines/mod.rs"]
mod lines;

use std::collections::BTreeMap;

use hearth_protocol::{ConversationId, UserId};
use lines::{Line, Step, conversation, of_conversation, of_user, user};
use proptest::prelude::*;
use region_model::view::View;
use region_postgres::{
    ConversationRow, LogRows, MemberRow, MembershipRow, NotNext, Projector, Stand, UserRow, What, project,
};

/// What the tables hold of one log, after what was written to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tables {
    stand: Option<Stand>,
    conversation: Option<ConversationRow>,
    members: BTreeMap<UserId, MemberRow>,
    user: Option<UserRow>,
    memberships: BTreeMap<ConversationId, MembershipRow>,
}

impl Tables {
    /// As the statements do it.
    fn write(&mut self, rows: LogRows) {
        assert_eq!(self.stand, rows.before);
        if rows.anew {
            *self = Self::default();
        }
        self.stand = Some(rows.after);
        match rows.what {
            What::Nothing => {}
            What::Conversation(mut row, members, gone) => {
                if let Some(before) = self.conversation.take() {
                    row.created_by = row.created_by.or(before.created_by);
                    row.last_message_at = row.last_message_at.or(before.last_message_at);
                }
                self.conversation = Some(*row);
                self.members.retain(|user, _| !gone.contains(user));
                for mut member in members {
                    let before = self.members.get(&member.user).filter(|before| before.since == member.since);
                    member.joined_at = member.joined_at.or(before.and_then(|before| before.joined_at));
                    self.members.insert(member.user.clone(), member);
                }
            }
            What::User(row, memberships) => {
                self.user = Some(*row);
                self.memberships.extend(memberships.into_iter().map(|row| (row.conversation, row)));
            }
        }
    }

    /// All entries at once.
    fn whole(line: &Line) -> Self {
        let rows = project(line.log, &line.record(), 1, line.entries.iter().map(|entry| &**entry));
        let mut tables = Self::default();
        tables.write(rows.expect("they follow each other").expect("there is something"));
        tables
    }

    /// What was written up to some length, and then the rest.
    fn then(mut self, line: &Line, from: usize) -> Self {
        let stand = self.stand.clone().expect("it stands somewhere");
        let mut view = View::Empty;
        line.entries[..from].iter().for_each(|entry| view.fold(entry));
        let mut projector = Projector::after(line.log, stand, view, from as u64);
        for entry in &line.entries[from - 1..] {
            assert!(projector.is_same_line(entry));
            projector.take(entry).expect("they follow each other");
        }
        self.write(projector.finish(&line.record(), 1).expect("there is something"));
        self
    }
}

fn line(mut line: Line, steps: &[Step]) -> Line {
    steps.iter().for_each(|step| line.step(step));
    line
}

fn shortened(line: &Line, length: usize) -> Line {
    let mut short = line.clone();
    short.entries.truncate(length);
    short
}

proptest! {
    #[test]
    fn entries_projected_some_at_a_time_give_the_rows_of_all_of_them_at_once(
        talk in proptest::collection::vec(of_conversation(), 0..40),
        record in proptest::collection::vec(of_user(), 0..40),
        cut in 0.0..1.0f64,
    ) {
        for line in [line(Line::group(1), &talk), line(Line::record_of(0), &record)] {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let from = 1 + ((line.entries.len() - 1) as f64 * cut) as usize;
            let partly = Tables::whole(&shortened(&line, from)).then(&line, from);
            prop_assert_eq!(partly, Tables::whole(&line));
        }
    }
}

#[test]
fn a_conversation_has_its_members_with_the_time_at_which_each_came() {
    let steps = [Step::Message(1), Step::Add(2, false), Step::Remove(1), Step::Role(2, true), Step::Name(5)];
    let line = line(Line::group(1), &steps);
    let tables = Tables::whole(&line);
    let row = tables.conversation.expect("a conversation");
    assert_eq!((row.kind, row.created_by, row.messages), ("group", Some(user(0)), 1));
    assert_eq!(
        (row.last_sequence, row.member_count, row.last_message_at),
        (5, 2, Some(line.entries[1].entry.fixed.time))
    );
    assert!(row.settings.contains("\"retentionDays\":30"), "{}", row.settings);
    let members: Vec<_> =
        tables.members.values().map(|row| (row.user.clone(), row.role, row.since, row.joined_at)).collect();
    let time = |at: usize| Some(line.entries[at].entry.fixed.time);
    assert_eq!(members, [(user(0), "admin", 0, time(0)), (user(2), "admin", 2, time(2))]);
}

#[test]
fn a_user_has_no_secret_of_a_device_in_its_rows() {
    let tables = Tables::whole(&line(Line::record_of(0), &[Step::Subscribed(1), Step::Joined(2)]));
    let text = format!("{tables:?}");
    assert!(!text.contains("secret") && text.contains("fcm"), "{text}");
    assert_eq!(tables.memberships.keys().copied().collect::<Vec<_>>(), [conversation(2)]);
}

#[test]
fn another_line_is_noticed_at_the_entry_up_to_which_the_log_was_projected() {
    let long = line(Line::group(1), &[Step::Message(1), Step::Message(1), Step::Message(1)]);
    let stand = Tables::whole(&long).stand.expect("it stands somewhere");
    let mut other = long.clone();
    other.fork(3);
    other.step(&Step::Message(0));
    let projector = Projector::after(long.log, stand, View::Empty, 0);
    assert!(projector.is_same_line(&long.entries[3]) && !projector.is_same_line(&other.entries[3]));
    assert!(projector.is_same_line(&other.entries[2]), "of what is below nothing is known");
}

#[test]
fn an_entry_that_does_not_name_the_one_before_it_is_not_taken() {
    let one = line(Line::group(1), &[Step::Message(1), Step::Message(1)]);
    let other = line(Line::group(1), &[Step::Message(0), Step::Message(1)]);
    let mut projector = Projector::anew(one.log, View::Empty, 0);
    assert_eq!(projector.take(&one.entries[1]), Err(NotNext), "it begins with the header");
    projector.take(&one.entries[0]).expect("the header");
    projector.take(&one.entries[1]).expect("the first");
    assert_eq!(projector.take(&other.entries[2]), Err(NotNext));
    projector.take(&one.entries[2]).expect("the second");
}
