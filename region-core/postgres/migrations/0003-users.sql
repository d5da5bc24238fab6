-- Users whose records the region holds. `record` is the id of the record's log; `last_active_at` is the last recorded
-- connect of any device.
CREATE TABLE users (
  id text PRIMARY KEY,
  record uuid NOT NULL UNIQUE,
  display_name text,
  avatar_url text,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  last_active_at timestamptz,
  hides_last_seen boolean NOT NULL,
  erased boolean NOT NULL
);

-- Regions where devices of a user were connected.
CREATE TABLE user_regions (
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  region text NOT NULL,
  last_connect timestamptz NOT NULL,
  PRIMARY KEY (user_id, region)
);

-- Conversations as the user's record says it, those that were left too, with where in the conversation that was.
CREATE TABLE user_conversations (
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  conversation_id uuid NOT NULL,
  joined boolean NOT NULL,
  epoch bigint NOT NULL,
  sequence bigint NOT NULL,
  PRIMARY KEY (user_id, conversation_id)
);

-- What a user wants to be woken for in a conversation, where that is not the default.
CREATE TABLE push_preferences (
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  conversation_id uuid NOT NULL,
  policy text NOT NULL,
  muted_until timestamptz,
  PRIMARY KEY (user_id, conversation_id)
);

-- Devices that are to be woken. Endpoints, keys and tokens stay in the record: who has them can send there.
CREATE TABLE push_subscriptions (
  id uuid PRIMARY KEY,
  user_id text NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  device_id uuid NOT NULL,
  service text NOT NULL,
  registered_at timestamptz NOT NULL
);

CREATE INDEX push_subscriptions_by_user ON push_subscriptions (user_id);

-- The change feed of each user: its conversations with the number of their last change, or of the change that moved the
-- user's own cursor, when that was later; 0 for those that the region does not hold. It is made when it is read: a row
-- for each member would be written at each message.
CREATE VIEW change_feed AS
SELECT u.user_id, u.conversation_id, greatest(coalesce(c.change, 0), coalesce(k.change, 0)) AS change
FROM user_conversations u
LEFT JOIN conversations c ON c.id = u.conversation_id
LEFT JOIN cursors k ON k.conversation_id = c.id AND k.user_id = u.user_id
WHERE u.joined;
