//! A batch of logs in one transaction: prepared statements, sent one behind the other without waiting for answers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deadpool_postgres::{Client, Transaction};
use futures_util::future::try_join_all;
use hearth_protocol::{LogId, LogKind, Timestamp, UserId};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::rows::{ConversationRow, CursorRow, LogRows, MemberRow, MembershipRow, Stand, UserRow, What};
use crate::statements;

/// Rows of one statement.
const ROWS: usize = 2_000;
/// Statements under way at a time. Their order is that in which they are first polled.
const PIPELINE: usize = 24;
/// The last time that a timestamp is taken for, in milliseconds: the end of the year 9999.
const LAST_TIME: u64 = 253_402_300_799_999;

type Parameters = Vec<Box<dyn ToSql + Sync + Send>>;

/// A statement with its values.
#[derive(Debug)]
struct Write {
    text: &'static str,
    parameters: Parameters,
}

pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn time(value: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(value.0.min(LAST_TIME))
}

fn column<T: ToSql + Sync + Send + 'static>(values: impl Iterator<Item = T>) -> Box<dyn ToSql + Sync + Send> {
    Box::new(values.collect::<Vec<T>>())
}

/// A text as the server takes it: it knows no character of number 0, which people may well type.
fn text(value: &str) -> String {
    value.replace('\0', "\u{fffd}")
}

fn name(user: &UserId) -> String {
    user.as_str().to_owned()
}

/// The kind of a log as the tables have it; `None` for one that is not projected.
pub(crate) fn kind(kind: LogKind) -> Option<i16> {
    match kind {
        LogKind::Conversation => Some(1),
        LogKind::User => Some(2),
        LogKind::Placement => None,
    }
}

/// What is projected of each of these logs.
pub(crate) fn stands(rows: &[Row]) -> BTreeMap<LogId, Stand> {
    let whole = |row: &Row, at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or(0);
    let stand = |row: &Row| {
        let kind = if row.get::<_, i16>(0) == 1 { LogKind::Conversation } else { LogKind::User };
        // A hash of another length is that of no entry: the log is projected anew.
        let hash = row.get::<_, &[u8]>(4).try_into().unwrap_or([0; 32]);
        let (length, epoch) = (whole(row, 2), whole(row, 3));
        let stand = Stand { length, epoch, hash, line: whole(row, 5), change: whole(row, 6), cursors: whole(row, 7) };
        (LogId { kind, id: row.get(1) }, stand)
    };
    rows.iter().map(stand).collect()
}

/// Kinds and ids of logs, as two arrays.
pub(crate) fn keys(logs: impl Iterator<Item = LogId>) -> (Vec<i16>, Vec<Uuid>) {
    logs.filter_map(|log| Some((kind(log.kind)?, log.id))).unzip()
}

/// The lock of whoever writes a schema.
pub(crate) fn lock_of(schema: &str) -> String {
    format!("hearth projection of {schema}")
}

/// Statements of a transaction beside those that write: its begin and end, the lock, and how far the logs are.
const AROUND: usize = 4;

/// Writes what still stands as the batch found it; which logs those are, and how many statements that took. The others
/// were written by somebody else meanwhile.
pub(crate) async fn write(
    client: &mut Client,
    schema: &str,
    batch: Vec<LogRows>,
) -> Result<(Vec<LogId>, usize), Error> {
    let stands_of = client.prepare_cached(statements::STANDS).await?;
    let lock = client.prepare_cached(statements::LOCK).await?;
    let transaction = client.transaction().await?;
    let (key, (kinds, ids)) = (lock_of(schema), keys(batch.iter().map(|rows| rows.log)));
    let locking: [&(dyn ToSql + Sync); 1] = [&key];
    let looking: [&(dyn ToSql + Sync); 2] = [&kinds, &ids];
    // The second sees what was committed before the first was given.
    let (_, found) = tokio::try_join!(transaction.execute(&lock, &locking), transaction.query(&stands_of, &looking))?;
    let found = stands(&found);
    let batch: Vec<LogRows> = batch.into_iter().filter(|rows| found.get(&rows.log) == rows.before.as_ref()).collect();
    let writes = writes(&batch);
    let statements = AROUND + writes.len();
    pipelined(&transaction, writes).await?;
    transaction.commit().await?;
    Ok((batch.iter().map(|rows| rows.log).collect(), statements))
}

async fn pipelined(transaction: &Transaction<'_>, writes: Vec<Write>) -> Result<(), Error> {
    let mut prepared = Vec::with_capacity(writes.len());
    for write in writes {
        prepared.push((transaction.prepare_cached(write.text).await?, write.parameters));
    }
    let mut prepared = prepared.into_iter().peekable();
    while prepared.peek().is_some() {
        let some = prepared.by_ref().take(PIPELINE);
        try_join_all(
            some.map(|(statement, parameters)| async move { transaction.execute_raw(&statement, parameters).await }),
        )
        .await?;
    }
    Ok(())
}

/// The statements of a batch, in an order in which each finds what it refers to.
fn writes(batch: &[LogRows]) -> Vec<Write> {
    let mut writes = Vec::new();
    let anew = |kind| {
        let of_kind = batch.iter().filter(move |rows| rows.anew && rows.log.kind == kind);
        of_kind.map(|rows| rows.log.id).collect::<Vec<Uuid>>()
    };
    put(&mut writes, statements::DROP_CONVERSATIONS, &anew(LogKind::Conversation), |ids| {
        vec![column(ids.iter().copied())]
    });
    put(&mut writes, statements::DROP_USERS, &anew(LogKind::User), |ids| vec![column(ids.iter().copied())]);
    of_conversations(&mut writes, batch);
    of_users(&mut writes, batch);
    let projected: Vec<(LogId, &Stand)> = batch.iter().map(|rows| (rows.log, &rows.after)).collect();
    put(&mut writes, statements::PROJECTED, &projected, |rows| {
        let (kinds, ids) = keys(rows.iter().map(|(log, _)| *log));
        let of = |value: fn(&Stand) -> u64| column(rows.iter().map(|(_, stand)| number(value(stand))));
        vec![
            Box::new(kinds),
            Box::new(ids),
            of(|stand| stand.length),
            of(|stand| stand.epoch),
            column(rows.iter().map(|(_, stand)| stand.hash.to_vec())),
            of(|stand| stand.line),
            of(|stand| stand.change),
            of(|stand| stand.cursors),
        ]
    });
    writes
}

/// Adds a statement for every so many rows.
fn put<T>(writes: &mut Vec<Write>, text: &'static str, rows: &[T], columns: impl Fn(&[T]) -> Parameters) {
    writes.extend(rows.chunks(ROWS).map(|rows| Write { text, parameters: columns(rows) }));
}

fn of_conversations(writes: &mut Vec<Write>, batch: &[LogRows]) {
    let (mut conversations, mut members, mut gone, mut cursors) = (vec![], vec![], vec![], vec![]);
    for rows in batch {
        if let What::Conversation(conversation, present, left) = &rows.what {
            conversations.push(&**conversation);
            members.extend(present.iter().map(|member| (rows.log.id, member)));
            gone.extend(left.iter().map(|user| (rows.log.id, user)));
        }
        cursors.extend(rows.cursors.iter().map(|cursor| (rows.log.id, cursor)));
    }
    put(writes, statements::CONVERSATIONS, &conversations, conversation_columns);
    put(writes, statements::MEMBERS_GONE, &gone, |rows: &[(Uuid, &UserId)]| {
        vec![column(rows.iter().map(|(id, _)| *id)), column(rows.iter().map(|(_, user)| name(user)))]
    });
    put(writes, statements::MEMBERS, &members, |rows: &[(Uuid, &MemberRow)]| {
        vec![
            column(rows.iter().map(|(id, _)| *id)),
            column(rows.iter().map(|(_, row)| name(&row.user))),
            column(rows.iter().map(|(_, row)| row.role)),
            column(rows.iter().map(|(_, row)| number(row.since))),
            column(rows.iter().map(|(_, row)| row.joined_at.map(time))),
        ]
    });
    put(writes, statements::CURSORS, &cursors, |rows: &[(Uuid, &CursorRow)]| {
        vec![
            column(rows.iter().map(|(id, _)| *id)),
            column(rows.iter().map(|(_, row)| name(&row.user))),
            column(rows.iter().map(|(_, row)| number(row.delivered.0))),
            column(rows.iter().map(|(_, row)| row.delivered.1.map(time))),
            column(rows.iter().map(|(_, row)| number(row.read.0))),
            column(rows.iter().map(|(_, row)| row.read.1.map(time))),
            column(rows.iter().map(|(_, row)| number(row.change))),
        ]
    });
}

fn conversation_columns(rows: &[&ConversationRow]) -> Parameters {
    vec![
        column(rows.iter().map(|row| row.id.0)),
        column(rows.iter().map(|row| row.kind)),
        column(rows.iter().map(|row| row.name.as_deref().map(text))),
        column(rows.iter().map(|row| row.created_by.as_ref().map(name))),
        column(rows.iter().map(|row| time(row.created_at))),
        column(rows.iter().map(|row| time(row.updated_at))),
        column(rows.iter().map(|row| row.last_message_at.map(time))),
        column(rows.iter().map(|row| number(row.last_sequence))),
        column(rows.iter().map(|row| number(row.messages))),
        column(rows.iter().map(|row| number(row.member_count))),
        column(rows.iter().map(|row| row.settings.clone())),
        column(rows.iter().map(|row| row.durability)),
        column(rows.iter().map(|row| row.partition_mode)),
        column(rows.iter().map(|row| number(row.floor))),
        column(rows.iter().map(|row| row.home.as_str().to_owned())),
        column(rows.iter().map(|row| number(row.change))),
    ]
}

fn of_users(writes: &mut Vec<Write>, batch: &[LogRows]) {
    let mut users: Vec<(Uuid, &UserRow)> = Vec::new();
    let mut memberships: Vec<(&UserId, &MembershipRow)> = Vec::new();
    for rows in batch {
        if let What::User(user, of_it) = &rows.what {
            users.push((rows.log.id, user));
            memberships.extend(of_it.iter().map(|membership| (&user.id, membership)));
        }
    }
    put(writes, statements::USERS, &users, |rows| {
        vec![
            column(rows.iter().map(|(_, row)| name(&row.id))),
            column(rows.iter().map(|(record, _)| *record)),
            column(rows.iter().map(|(_, row)| row.display_name.as_deref().map(text))),
            column(rows.iter().map(|(_, row)| row.avatar_url.as_deref().map(text))),
            column(rows.iter().map(|(_, row)| time(row.created_at))),
            column(rows.iter().map(|(_, row)| time(row.updated_at))),
            column(rows.iter().map(|(_, row)| row.last_active_at.map(time))),
            column(rows.iter().map(|(_, row)| row.hides_last_seen)),
            column(rows.iter().map(|(_, row)| row.erased)),
        ]
    });
    for text in [statements::REGIONS_GONE, statements::PREFERENCES_GONE, statements::SUBSCRIPTIONS_GONE] {
        put(writes, text, &users, |rows| vec![column(rows.iter().map(|(_, row)| name(&row.id)))]);
    }
    let regions: Vec<_> = users.iter().flat_map(|(_, row)| row.regions.iter().map(|at| (&row.id, at))).collect();
    put(writes, statements::REGIONS, &regions, |rows| {
        vec![
            column(rows.iter().map(|(user, _)| name(user))),
            column(rows.iter().map(|(_, (region, _))| region.as_str().to_owned())),
            column(rows.iter().map(|(_, (_, at))| time(*at))),
        ]
    });
    let preferences: Vec<_> =
        users.iter().flat_map(|(_, row)| row.preferences.iter().map(|wants| (&row.id, wants))).collect();
    put(writes, statements::PREFERENCES, &preferences, |rows| {
        vec![
            column(rows.iter().map(|(user, _)| name(user))),
            column(rows.iter().map(|(_, (id, _, _))| id.0)),
            column(rows.iter().map(|(_, (_, policy, _))| *policy)),
            column(rows.iter().map(|(_, (_, _, until))| until.map(time))),
        ]
    });
    let subscriptions: Vec<_> =
        users.iter().flat_map(|(_, row)| row.subscriptions.iter().map(|one| (&row.id, one))).collect();
    put(writes, statements::SUBSCRIPTIONS, &subscriptions, |rows| {
        vec![
            column(rows.iter().map(|(_, one)| one.id)),
            column(rows.iter().map(|(user, _)| name(user))),
            column(rows.iter().map(|(_, one)| one.device)),
            column(rows.iter().map(|(_, one)| one.service)),
            column(rows.iter().map(|(_, one)| time(one.registered_at))),
        ]
    });
    put(writes, statements::MEMBERSHIPS, &memberships, |rows| {
        vec![
            column(rows.iter().map(|(user, _)| name(user))),
            column(rows.iter().map(|(_, row)| row.conversation.0)),
            column(rows.iter().map(|(_, row)| row.joined)),
            column(rows.iter().map(|(_, row)| number(row.position.0))),
            column(rows.iter().map(|(_, row)| number(row.position.1))),
        ]
    });
}
