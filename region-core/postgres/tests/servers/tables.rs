//! What the tables hold, and what they are to hold, in the same words.

use std::collections::BTreeSet;

use hearth_protocol::Timestamp;
use region_postgres::{What, project};
use tokio_postgres::Client;

use crate::lines::Line;

const CONVERSATIONS: &str = "SELECT concat_ws('|', 'conversation', id, type, coalesce(name, '-'), created_by, \
  (1000 * extract(epoch FROM created_at))::bigint, (1000 * extract(epoch FROM updated_at))::bigint, coalesce((1000 * extract(epoch FROM last_message_at))::bigint::text, '-'), last_sequence, \
  messages, member_count, settings->>'allowMemberInvites', durability, coalesce(partition_mode, '-'), floor, home) \
  FROM conversations";
const MEMBERS: &str = "SELECT concat_ws('|', 'member', conversation_id, user_id, role, since, \
  coalesce((1000 * extract(epoch FROM joined_at))::bigint::text, '-')) FROM conversation_members";
const USERS: &str = "SELECT concat_ws('|', 'user', id, coalesce(display_name, '-'), coalesce(avatar_url, '-'), \
  (1000 * extract(epoch FROM created_at))::bigint, (1000 * extract(epoch FROM updated_at))::bigint, coalesce((1000 * extract(epoch FROM last_active_at))::bigint::text, '-'), \
  hides_last_seen, erased) FROM users";
const REGIONS: &str = "SELECT concat_ws('|', 'region', user_id, region, (1000 * extract(epoch FROM last_connect))::bigint) FROM user_regions";
const PREFERENCES: &str = "SELECT concat_ws('|', 'preference', user_id, conversation_id, policy, \
  coalesce((1000 * extract(epoch FROM muted_until))::bigint::text, '-')) FROM push_preferences";
const SUBSCRIPTIONS: &str = "SELECT concat_ws('|', 'subscription', user_id, id, device_id, service, \
  (1000 * extract(epoch FROM registered_at))::bigint) FROM push_subscriptions";
const MEMBERSHIPS: &str =
    "SELECT concat_ws('|', 'membership', user_id, conversation_id, joined, epoch, sequence) FROM user_conversations";
const STANDS: &str = "SELECT concat_ws('|', 'stand', id, length, epoch, encode(hash, 'hex'), line) FROM projected";

/// Everything that is projected of entries.
pub(crate) async fn found(client: &Client) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for query in [CONVERSATIONS, MEMBERS, USERS, REGIONS, PREFERENCES, SUBSCRIPTIONS, MEMBERSHIPS, STANDS] {
        rows.extend(of(client, query).await);
    }
    rows
}

async fn of(client: &Client, query: &str) -> Vec<String> {
    let rows = client.query(query, &[]).await.unwrap_or_else(|error| panic!("{error:?} of {query}"));
    rows.iter().map(|row| row.get(0)).collect()
}

fn at(time: Option<Timestamp>) -> String {
    // Of times beyond the year 9999 its end is told.
    time.map_or("-".to_owned(), |time| time.0.min(253_402_300_799_999).to_string())
}

fn text(value: Option<&String>) -> String {
    value.map_or("-".to_owned(), |text| text.replace('\0', "\u{fffd}"))
}

/// What the fold of these logs says.
pub(crate) fn folded<'a>(lines: impl IntoIterator<Item = &'a Line>) -> BTreeSet<String> {
    lines.into_iter().flat_map(of_line).collect()
}

fn of_line(line: &Line) -> Vec<String> {
    let rows = project(line.log, &line.record(), 1, line.entries.iter().map(|entry| &**entry));
    let rows = rows.expect("they follow each other").expect("there is something");
    let (id, stand) = (line.log.id, &rows.after);
    let hash: String = stand.hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut told = vec![format!("stand|{id}|{}|{}|{hash}|{}", stand.length, stand.epoch, stand.line)];
    match rows.what {
        What::Nothing => {}
        What::Conversation(row, members, _) => {
            let invites = row.settings.contains("\"allowMemberInvites\":true");
            told.push(format!(
                "conversation|{id}|{}|{}|{}|{}|{}|{}|{}|{}|{}|{invites}|{}|{}|{}|{}",
                row.kind,
                text(row.name.as_ref()),
                row.created_by.expect("there is a header"),
                at(Some(row.created_at)),
                at(Some(row.updated_at)),
                at(row.last_message_at),
                row.last_sequence,
                row.messages,
                row.member_count,
                row.durability,
                row.partition_mode.unwrap_or("-"),
                row.floor,
                row.home,
            ));
            told.extend(members.into_iter().map(|member| {
                format!("member|{id}|{}|{}|{}|{}", member.user, member.role, member.since, at(member.joined_at))
            }));
        }
        What::User(row, memberships) => {
            let user = &row.id;
            let bool = |value: bool| if value { "t" } else { "f" };
            told.push(format!(
                "user|{user}|{}|{}|{}|{}|{}|{}|{}",
                text(row.display_name.as_ref()),
                text(row.avatar_url.as_ref()),
                at(Some(row.created_at)),
                at(Some(row.updated_at)),
                at(row.last_active_at),
                bool(row.hides_last_seen),
                bool(row.erased),
            ));
            told.extend(row.regions.iter().map(|(region, time)| format!("region|{user}|{region}|{}", at(Some(*time)))));
            told.extend(row.preferences.iter().map(|(conversation, policy, until)| {
                format!("preference|{user}|{conversation}|{policy}|{}", at(*until))
            }));
            told.extend(row.subscriptions.iter().map(|one| {
                format!("subscription|{user}|{}|{}|{}|{}", one.id, one.device, one.service, at(Some(one.registered_at)))
            }));
            told.extend(memberships.into_iter().map(|row| {
                let (epoch, sequence) = row.position;
                format!("membership|{user}|{}|{}|{epoch}|{sequence}", row.conversation, bool(row.joined))
            }));
        }
    }
    told
}
