//! Every bound of the product, in one place. Those that operators may set are defaults here and fields in `config`.

/// Wire integers stay below 2^53: the greatest sequence number.
pub const SEQUENCE: u64 = (1 << 53) - 1;
/// Days that messages may be kept at most.
pub const RETENTION_DAYS: u32 = 3_650;
/// Bytes of one client frame.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Bytes of the text of one message.
pub const TEXT_BYTES: usize = 16 * 1024;
/// Depth of the JSON of a frame or a body.
pub const JSON_DEPTH: usize = 32;
/// Bytes of a REST body.
pub const BODY_BYTES: usize = 1024 * 1024;
/// Members of a group.
pub const GROUP_MEMBERS: usize = 1_000;
/// Members of a channel.
pub const CHANNEL_MEMBERS: usize = 100_000;
/// Users named by one membership request.
pub const MEMBERS_PER_REQUEST: usize = 1_000;
/// Requests to add members that share one entry.
pub const JOINS_OF_AN_ENTRY: usize = 1_000;
/// Members above which a conversation is large.
pub const FANOUT_THRESHOLD: usize = 100;
/// Messages of one user in a minute.
pub const MESSAGES_PER_MINUTE: u32 = 100;
/// Refusals within a minute after which a session is closed (4029).
pub const REFUSALS_PER_MINUTE: u32 = 1_000;
/// Rows of one history page, and the default.
pub const HISTORY_ROWS: usize = 200;
/// Default rows of one history page.
pub const HISTORY_ROWS_DEFAULT: usize = 50;
/// Rows of one page of the change feed.
pub const FEED_ROWS: usize = 200;
/// Members of one page.
pub const MEMBERS_ROWS: usize = 1_000;
/// Rows per conversation of one sync answer.
pub const SYNC_ROWS: usize = 200;
/// Default rows per conversation of one sync answer.
pub const SYNC_ROWS_DEFAULT: usize = 100;
/// Conversations named by one sync request or by the cursors of one resume.
pub const SYNC_CONVERSATIONS: usize = 1_000;
/// Missed messages that a resume sends itself; above it the client pulls.
pub const REPLAY_ROWS: u64 = 100;
/// Missed messages above which a gap is announced first.
pub const REPLAY_GAP_ROWS: u64 = 1_000;
/// Own messages that one `message.delivered` names; how far it goes is in the frame in any case.
pub const RECEIPT_MESSAGES: usize = 100;
/// Users in one `presence.subscribe` or `presence.unsubscribe`.
pub const PRESENCE_PER_FRAME: usize = 500;
/// Users whose presence one connection is told.
pub const PRESENCE_SUBSCRIPTIONS: usize = 10_000;
/// Characters of a group's name.
pub const NAME_CHARACTERS: usize = 100;
/// Entries of one log that may wait for copies before sends are refused `OVERLOADED`.
pub const UNMARKED_ENTRIES: usize = 10_000;
/// Parked messages of a region.
pub const PARKED_MESSAGES: usize = 10_000;
/// Parked bytes of a region.
pub const PARKED_BYTES: usize = 64 * 1024 * 1024;
/// Parked messages of one conversation in a region.
pub const PARKED_PER_CONVERSATION: usize = 1_000;
/// Entries that a new follower of a conversation lacks at most, to be sent all of them in order.
pub const FOLLOW_IN_ORDER: u64 = 256;
/// Bytes of one inter-region frame.
pub const MESH_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of `metadata` in a message's content, as JSON.
pub const METADATA_BYTES: usize = 16 * 1024;
/// Users mentioned by one message.
pub const MENTIONS: usize = 100;
/// Bytes of the emoji of a reaction.
pub const EMOJI_BYTES: usize = 64;
/// Different emoji that one message shows.
pub const EMOJI_OF_A_MESSAGE: usize = 50;
/// Edits and reactions of one message, taken-back ones too; above it only taking away is sequenced.
pub const CHANGES_OF_A_MESSAGE: usize = 1_000;
/// Versions of a message that its edit history shows: the newest.
pub const EDITS_SHOWN: usize = 100;
/// Push subscriptions of one user.
pub const PUSH_SUBSCRIPTIONS: usize = 32;
/// Conversations of one user with preferences that are not the default.
pub const PUSH_PREFERENCES: usize = 10_000;
/// Characters of an APNs device token in hexadecimal.
pub const APNS_TOKEN_CHARACTERS: usize = 200;
/// Characters of an FCM registration token.
pub const FCM_TOKEN_CHARACTERS: usize = 4_096;
/// Characters of a URL in content or profile.
pub const URL_CHARACTERS: usize = 2_048;
/// Users that a user blocks.
pub const BLOCKED_USERS: usize = 10_000;
