-- Whose projection this is. `store` is the region's store that it was made from last: numbers of changes are of one
-- store alone.
CREATE TABLE projection_of (
  region text PRIMARY KEY,
  store uuid
);

-- How far each log was projected. `kind` is 1 for conversations and 2 for records of users. `epoch` and `hash` are those
-- of the last of `length` entries, by which another line is noticed; `line` is the epoch of the last opening; `change`
-- is the region-wide number of the log's last change; up to `cursors` every cursor of the log was projected.
CREATE TABLE projected (
  kind smallint NOT NULL,
  id uuid NOT NULL,
  length bigint NOT NULL,
  epoch bigint NOT NULL,
  hash bytea NOT NULL,
  line bigint NOT NULL,
  change bigint NOT NULL,
  cursors bigint NOT NULL,
  projected_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (kind, id)
);
