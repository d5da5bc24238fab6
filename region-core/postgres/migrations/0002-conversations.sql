-- Conversations that the region holds. `last_sequence` is the last entry that may be shown; `home` is the region that
-- numbers it. `created_by` and `last_message_at` are empty where the entries that say it are not here yet.
CREATE TABLE conversations (
  id uuid PRIMARY KEY,
  type text NOT NULL,
  name text,
  created_by text,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  last_message_at timestamptz,
  last_sequence bigint NOT NULL,
  messages bigint NOT NULL,
  member_count bigint NOT NULL,
  settings jsonb NOT NULL,
  durability text NOT NULL,
  partition_mode text,
  floor bigint NOT NULL,
  home text NOT NULL,
  change bigint NOT NULL
);

CREATE INDEX conversations_by_update ON conversations (updated_at DESC);

-- Members at present. `since` is the sequence of the entry that made one a member, 0 for the first ones. No reference to
-- users: their records may be in other regions.
CREATE TABLE conversation_members (
  conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  user_id text NOT NULL,
  role text NOT NULL,
  since bigint NOT NULL,
  joined_at timestamptz,
  PRIMARY KEY (conversation_id, user_id)
);

CREATE INDEX conversation_members_by_user ON conversation_members (user_id);

-- How far members are in the conversation's present line; 0 for nowhere.
CREATE TABLE cursors (
  conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  user_id text NOT NULL,
  delivered bigint NOT NULL,
  delivered_at timestamptz,
  read bigint NOT NULL,
  read_at timestamptz,
  change bigint NOT NULL,
  PRIMARY KEY (conversation_id, user_id)
);
