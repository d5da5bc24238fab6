//! What is asked of the tables. Rows come as one array a column, so that a statement takes as many as there are.

pub(crate) const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";

pub(crate) const STANDS: &str = "SELECT kind, id, length, epoch, hash, line, change, cursors FROM projected \
  WHERE (kind, id) IN (SELECT * FROM unnest($1::smallint[], $2::uuid[]))";

pub(crate) const PROJECTED: &str = "INSERT INTO projected (kind, id, length, epoch, hash, line, change, cursors) \
  SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bigint[], $7::bigint[], \
  $8::bigint[]) \
  ON CONFLICT (kind, id) DO UPDATE SET length = excluded.length, epoch = excluded.epoch, hash = excluded.hash, \
  line = excluded.line, change = excluded.change, cursors = excluded.cursors, projected_at = now()";

pub(crate) const DROP_CONVERSATIONS: &str = "DELETE FROM conversations WHERE id = ANY($1::uuid[])";

pub(crate) const DROP_USERS: &str = "DELETE FROM users WHERE record = ANY($1::uuid[])";

/// Of a log that is projected further, what was said by entries before is kept.
pub(crate) const CONVERSATIONS: &str = "INSERT INTO conversations (id, type, name, created_by, created_at, updated_at, \
  last_message_at, last_sequence, messages, member_count, settings, durability, partition_mode, floor, home, change) \
  SELECT id, type, name, created_by, created_at, updated_at, last_message_at, last_sequence, messages, member_count, \
  settings::jsonb, durability, partition_mode, floor, home, change FROM unnest($1::uuid[], $2::text[], $3::text[], \
  $4::text[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::bigint[], $9::bigint[], $10::bigint[], \
  $11::text[], $12::text[], $13::text[], $14::bigint[], $15::text[], $16::bigint[]) AS t (id, type, name, created_by, \
  created_at, updated_at, last_message_at, last_sequence, messages, member_count, settings, durability, partition_mode, \
  floor, home, change) \
  ON CONFLICT (id) DO UPDATE SET type = excluded.type, name = excluded.name, \
  created_by = coalesce(excluded.created_by, conversations.created_by), created_at = excluded.created_at, \
  updated_at = excluded.updated_at, \
  last_message_at = coalesce(excluded.last_message_at, conversations.last_message_at), \
  last_sequence = excluded.last_sequence, messages = excluded.messages, member_count = excluded.member_count, \
  settings = excluded.settings, durability = excluded.durability, partition_mode = excluded.partition_mode, \
  floor = excluded.floor, home = excluded.home, change = excluded.change";

pub(crate) const MEMBERS_GONE: &str = "DELETE FROM conversation_members m \
  USING unnest($1::uuid[], $2::text[]) AS t (conversation_id, user_id) \
  WHERE m.conversation_id = t.conversation_id AND m.user_id = t.user_id";

pub(crate) const MEMBERS: &str = "INSERT INTO conversation_members (conversation_id, user_id, role, since, joined_at) \
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[]) \
  ON CONFLICT (conversation_id, user_id) DO UPDATE SET role = excluded.role, since = excluded.since, \
  joined_at = CASE WHEN conversation_members.since = excluded.since \
  THEN coalesce(excluded.joined_at, conversation_members.joined_at) ELSE excluded.joined_at END";

pub(crate) const CURSORS: &str = "INSERT INTO cursors (conversation_id, user_id, delivered, delivered_at, read, read_at, \
  change) SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bigint[], \
  $6::timestamptz[], $7::bigint[]) \
  ON CONFLICT (conversation_id, user_id) DO UPDATE SET delivered = excluded.delivered, \
  delivered_at = excluded.delivered_at, read = excluded.read, read_at = excluded.read_at, change = excluded.change \
  WHERE (cursors.*) IS DISTINCT FROM (excluded.*)";

pub(crate) const USERS: &str = "INSERT INTO users (id, record, display_name, avatar_url, created_at, updated_at, \
  last_active_at, hides_last_seen, erased) SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[], \
  $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::boolean[], $9::boolean[]) \
  ON CONFLICT (id) DO UPDATE SET record = excluded.record, display_name = excluded.display_name, \
  avatar_url = excluded.avatar_url, created_at = excluded.created_at, updated_at = excluded.updated_at, \
  last_active_at = excluded.last_active_at, hides_last_seen = excluded.hides_last_seen, erased = excluded.erased";

/// What a user has few of is written whole each time.
pub(crate) const REGIONS_GONE: &str = "DELETE FROM user_regions WHERE user_id = ANY($1::text[])";
pub(crate) const PREFERENCES_GONE: &str = "DELETE FROM push_preferences WHERE user_id = ANY($1::text[])";
pub(crate) const SUBSCRIPTIONS_GONE: &str = "DELETE FROM push_subscriptions WHERE user_id = ANY($1::text[])";

pub(crate) const REGIONS: &str = "INSERT INTO user_regions (user_id, region, last_connect) \
  SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[])";

pub(crate) const PREFERENCES: &str = "INSERT INTO push_preferences (user_id, conversation_id, policy, muted_until) \
  SELECT * FROM unnest($1::text[], $2::uuid[], $3::text[], $4::timestamptz[])";

pub(crate) const SUBSCRIPTIONS: &str = "INSERT INTO push_subscriptions (id, user_id, device_id, service, registered_at) \
  SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::timestamptz[])";

pub(crate) const MEMBERSHIPS: &str = "INSERT INTO user_conversations (user_id, conversation_id, joined, epoch, sequence) \
  SELECT * FROM unnest($1::text[], $2::uuid[], $3::boolean[], $4::bigint[], $5::bigint[]) \
  ON CONFLICT (user_id, conversation_id) DO UPDATE SET joined = excluded.joined, epoch = excluded.epoch, \
  sequence = excluded.sequence";

/// Logs of a kind between two places, both optional, the lower one left out, that are none of those named.
pub(crate) const GONE: &str = "SELECT id FROM projected WHERE kind = $1 AND ($2::uuid IS NULL OR id > $2) \
  AND ($3::uuid IS NULL OR id <= $3) AND NOT id = ANY($4::uuid[])";

pub(crate) const FORGET: &str = "DELETE FROM projected WHERE kind = $1 AND id = ANY($2::uuid[])";

pub(crate) const IDENTITY: &str = "SELECT region, store FROM projection_of";

pub(crate) const OWN: &str = "INSERT INTO projection_of (region) VALUES ($1) ON CONFLICT DO NOTHING";

/// Numbers of changes of one store say nothing of another one's: everything is looked at again.
pub(crate) const OTHER_STORE: &str = "UPDATE projected SET change = 0, cursors = 0";
pub(crate) const STORE: &str = "UPDATE projection_of SET store = $1";
