//! Every statement, prepared once. Those that name a timestamp take the number of a change in its place (see
//! [`crate::stamps`]), so that writing one twice, or late, changes nothing.

use std::num::NonZeroI32;

use scylla::client::session::Session;
use scylla::errors::PrepareError;
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;

macro_rules! statements {
    ($($(#[$note:meta])* $name:ident = $text:literal;)*) => {
        #[derive(Debug)]
        pub(crate) struct Statements { $($(#[$note])* pub(crate) $name: PreparedStatement,)* }

        impl Statements {
            pub(crate) async fn prepare(session: &Session) -> Result<Self, PrepareError> {
                $(let mut $name = session.prepare($text).await?;
                $name.set_consistency(Consistency::LocalQuorum);
                // Written again it changes nothing: by its timestamp, or since it only reads.
                $name.set_is_idempotent(true);)*
                let mut all = Self { $($name,)* };
                all.state.set_consistency(Consistency::LocalSerial);
                all.entry_now.set_consistency(Consistency::LocalSerial);
                all.meta.set_consistency(Consistency::LocalSerial);
                Ok(all)
            }
        }
    };
}

statements! {
    // Logs. What is read here after an unknown outcome is read at `LocalSerial`.
    state = "SELECT head, epoch, mark, change, record, redo, moving, next FROM messages WHERE log = ? AND bucket = ? LIMIT 1";
    entry_now = "SELECT entry FROM messages WHERE log = ? AND bucket = ? AND sequence = ?";
    entries = "SELECT sequence, entry FROM messages WHERE log = ? AND bucket = ? AND sequence >= ? AND sequence < ? LIMIT ?";
    put_entry = "INSERT INTO messages (log, bucket, sequence, entry) VALUES (?, ?, ?, ?)";
    remove_entry = "DELETE FROM messages WHERE log = ? AND bucket = ? AND sequence = ?";
    advance = "UPDATE messages SET head = ?, mark = ?, change = ?, redo = ? WHERE log = ? AND bucket = ? IF change = ? AND head = ? AND epoch = ?";
    set_state = "UPDATE messages SET head = ?, epoch = ?, mark = ?, change = ?, record = ?, redo = ?, moving = null, next = ? WHERE log = ? AND bucket = ? IF change = ? AND head = ? AND epoch = ?";
    set_moving = "UPDATE messages SET moving = ?, change = ? WHERE log = ? AND bucket = ? IF change = ? AND head = ? AND epoch = ?";
    replace_entry = "UPDATE messages SET entry = ? WHERE log = ? AND bucket = ? AND sequence = ? IF entry = ?";
    put_log = "INSERT INTO logs (kind, shard, log, bucket) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    remove_log = "DELETE FROM logs USING TIMESTAMP ? WHERE kind = ? AND shard = ? AND log = ?";
    log_bucket = "SELECT bucket FROM logs WHERE kind = ? AND shard = ? AND log = ?";
    logs = "SELECT log FROM logs WHERE kind = ? AND shard = ? AND log > ? LIMIT ?";
    put_open_log = "INSERT INTO open_logs (shard, log) VALUES (?, ?) USING TIMESTAMP ?";
    remove_open_log = "DELETE FROM open_logs USING TIMESTAMP ? WHERE shard = ? AND log = ?";
    open_logs = "SELECT log FROM open_logs WHERE shard = ? AND log > ? LIMIT ?";
    mark = "SELECT mark FROM marks WHERE log = ?";
    put_mark = "INSERT INTO marks (log, mark) VALUES (?, ?) USING TIMESTAMP ?";
    remove_mark = "DELETE FROM marks USING TIMESTAMP ? WHERE log = ?";
    snapshot = "SELECT length, snapshot FROM snapshots WHERE log = ?";
    put_snapshot = "INSERT INTO snapshots (log, length, snapshot) VALUES (?, ?, ?) USING TIMESTAMP ?";
    remove_snapshot = "DELETE FROM snapshots USING TIMESTAMP ? WHERE log = ?";
    put_tail = "INSERT INTO tails (log, epoch, sequence, entry) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    tail = "SELECT entry FROM tails WHERE log = ? AND (epoch, sequence) > (?, ?) LIMIT ?";
    tail_entry = "SELECT entry FROM tails WHERE log = ? AND epoch = ? AND sequence = ?";
    put_tail_log = "INSERT INTO tail_logs (shard, log) VALUES (?, ?) USING TIMESTAMP ?";
    tail_logs = "SELECT log FROM tail_logs WHERE shard = ? AND log > ? LIMIT ?";
    // What is found by something else than its position.
    dedup = "SELECT record FROM dedup WHERE log = ? AND shard = ? AND id = ? AND sender = ?";
    dedup_of_id = "SELECT sender, record FROM dedup WHERE log = ? AND shard = ? AND id = ?";
    dedup_all = "SELECT log, shard, id, sender, record FROM dedup";
    put_dedup = "INSERT INTO dedup (log, shard, id, sender, record) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    remove_dedup = "DELETE FROM dedup USING TIMESTAMP ? WHERE log = ? AND shard = ? AND id = ? AND sender = ?";
    remove_dedup_shard = "DELETE FROM dedup USING TIMESTAMP ? WHERE log = ? AND shard = ?";
    changes = "SELECT change FROM changes WHERE log = ? AND bucket = ? AND target >= ? AND target < ?";
    put_change = "INSERT INTO changes (log, bucket, target, done_by, change) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    remove_change = "DELETE FROM changes USING TIMESTAMP ? WHERE log = ? AND bucket = ? AND target = ? AND done_by = ?";
    remove_changes = "DELETE FROM changes USING TIMESTAMP ? WHERE log = ? AND bucket = ?";
    changes_by = "SELECT done_by, target FROM changes_by WHERE log = ? AND bucket = ? AND done_by >= ? AND done_by < ?";
    put_change_by = "INSERT INTO changes_by (log, bucket, done_by, target) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    remove_change_by = "DELETE FROM changes_by USING TIMESTAMP ? WHERE log = ? AND bucket = ? AND done_by = ? AND target = ?";
    remove_changes_by = "DELETE FROM changes_by USING TIMESTAMP ? WHERE log = ? AND bucket = ?";
    deletes = "SELECT log, target, done_by, change FROM deletes WHERE shard = ? AND (log, target, done_by) > (?, ?, ?) LIMIT ?";
    put_delete = "INSERT INTO deletes (shard, log, target, done_by, change) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    remove_delete = "DELETE FROM deletes USING TIMESTAMP ? WHERE shard = ? AND log = ? AND target = ? AND done_by = ?";
    remove_deletes = "DELETE FROM deletes USING TIMESTAMP ? WHERE shard = ? AND log = ?";
    outbox = "SELECT item FROM outbox WHERE shard = ? AND (log, sequence, user) > (?, ?, ?) LIMIT ?";
    put_outbox = "INSERT INTO outbox (shard, log, sequence, user, item) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    remove_outbox = "DELETE FROM outbox USING TIMESTAMP ? WHERE shard = ? AND log = ? AND sequence = ? AND user = ?";
    remove_outbox_from = "DELETE FROM outbox USING TIMESTAMP ? WHERE shard = ? AND log = ? AND sequence >= ?";
    expiry_days = "SELECT day FROM expiry_days WHERE part = ? AND day <= ?";
    put_expiry_day = "INSERT INTO expiry_days (part, day) VALUES (?, ?) USING TIMESTAMP ?";
    expiries = "SELECT at, log, epoch, sequence FROM expiries WHERE day = ? AND at <= ? LIMIT ?";
    put_expiry = "INSERT INTO expiries (day, at, log, epoch, sequence) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    remove_expiry = "DELETE FROM expiries USING TIMESTAMP ? WHERE day = ? AND at = ? AND log = ? AND epoch = ? AND sequence = ?";
    // What stands beside the logs.
    placement = "SELECT placement FROM placements WHERE log = ?";
    put_first_placement = "UPDATE placements SET epoch = ?, placement = ? WHERE log = ? IF epoch = null";
    put_placement = "UPDATE placements SET epoch = ?, placement = ? WHERE log = ? IF epoch <= ?";
    cursors = "SELECT user, change, cursor FROM cursors WHERE log = ? AND user > ? LIMIT ?";
    cursor_change = "SELECT change FROM cursors WHERE log = ? AND user = ?";
    put_cursor = "INSERT INTO cursors (log, user, change, cursor) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    remove_cursors = "DELETE FROM cursors USING TIMESTAMP ? WHERE log = ?";
    parked = "SELECT send FROM parked WHERE part = ? AND number > ? LIMIT ?";
    put_parked = "INSERT INTO parked (part, number, send) VALUES (?, ?, ?) USING TIMESTAMP ?";
    remove_parked = "DELETE FROM parked USING TIMESTAMP ? WHERE part = ? AND number = ?";
    map_value = "SELECT value FROM map WHERE part = ? AND key = ?";
    map_range = "SELECT key, value FROM map WHERE part = ? AND key >= ? AND key < ? LIMIT ?";
    map_last = "SELECT key, value FROM map WHERE part = ? AND key >= ? AND key < ? ORDER BY key DESC LIMIT 1";
    put_map = "INSERT INTO map (part, key, value) VALUES (?, ?, ?) USING TIMESTAMP ?";
    remove_map = "DELETE FROM map USING TIMESTAMP ? WHERE part = ? AND key = ?";
    meta = "SELECT value FROM meta WHERE key = ?";
    set_meta = "UPDATE meta SET value = ? WHERE key = ? IF value = ?";
}

impl Statements {
    /// The scan over dedup records, so many a page.
    pub(crate) fn dedup_page(&self, rows: NonZeroI32) -> PreparedStatement {
        let mut statement = self.dedup_all.clone();
        statement.set_page_size(rows.get());
        statement
    }
}
