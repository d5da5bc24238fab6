//! `[limits]`: every bound of the region, its default and the range that it may be set to.

use std::time::Duration;

use serde::Deserialize;

use crate::values::{duration, size};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// The longest that a message may be held.
pub(crate) const LONGEST_PARKED: Duration = Duration::from_secs(30 * DAY);
const KIB: usize = 1024;
const MIB: u64 = 1 << 20;

/// Every bound of a region. A refusal names the limit by the name that it has here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A frame from a client, in bytes; default 64 KiB. Over it: close 4400.
    #[serde(deserialize_with = "size::deserialize")]
    pub frame_bytes: usize,
    /// The text of a message, in bytes of UTF-8; default 16 KiB.
    #[serde(deserialize_with = "size::deserialize")]
    pub text_bytes: usize,
    /// Nesting of JSON from clients; default 32.
    pub json_depth: usize,
    /// The body of a REST request, in bytes; default 1 MiB.
    #[serde(deserialize_with = "size::deserialize")]
    pub rest_body_bytes: usize,
    /// Members of a group; default 1,000.
    pub group_members: usize,
    /// Members of a channel; default 100,000.
    pub channel_members: usize,
    /// Users in one request that adds members; default 1,000.
    pub members_per_request: usize,
    /// Members above which a conversation is large; default 100: its entries go to sessions by workers, its receipts are
    /// summarised, and requests to add members that come within a second share an entry.
    pub fanout_threshold: usize,
    /// Messages of a user per minute at one region; default 100, 0 switches the rate limit off.
    pub messages_per_minute: u32,
    /// New messages of a conversation per minute, counted at its home; default 6,000, 0 switches the rate limit off.
    pub conversation_messages_per_minute: u32,
    /// Refusals of a session within a minute after which it is closed with 4029; default 1,000, 0 never.
    pub refusals_per_minute: u32,
    /// Users in one `presence.subscribe`; default 500.
    pub presence_per_frame: usize,
    /// Presence subscriptions of a session; default 10,000.
    pub presence_subscriptions: usize,
    /// Client sessions of this node; default 50,000. Over it: `OVERLOADED`. An eighth and 1,000 more connections are
    /// taken for REST; over that, too: `OVERLOADED`.
    pub sessions: usize,
    /// Connections from one address, sessions and REST together; default 10,000. Over it: `OVERLOADED`. Of trusted
    /// forwarders it counts the sessions of each address that they name.
    pub connections_per_address: usize,
    /// New connections from one address per minute; default 6,000, 0 is no limit. Over it: `RATE_LIMITED`.
    pub connects_per_minute: u32,
    /// Sessions that are opened at a time of clients that log in, and of clients that resume; default 128 and 512. The
    /// others wait; over 8 s: `OVERLOADED`.
    pub logins_at_once: usize,
    /// See `logins_at_once`.
    pub resumes_at_once: usize,
    /// Frames that wait for one slow session; default 8,192. Over it the session is closed with 4010.
    pub session_queue_frames: usize,
    /// Bytes of frames that wait for one slow session; default 1 MiB. Over it the session is closed with 4010. As many
    /// may wait behind the replays of a resume; over it the client is told to pull.
    #[serde(deserialize_with = "size::deserialize")]
    pub session_queue_bytes: usize,
    /// Missed messages of a conversation that a resume replays; default 100. More: `sync.required`.
    pub replay_messages: usize,
    /// Missed messages of a conversation above which a resume announces `sync.gap`; default 1,000.
    pub gap_messages: usize,
    /// Messages that this region holds for homes out of reach; default 10,000. Over it: `OVERLOADED`.
    pub parked_messages: usize,
    /// Bytes of those; default 64 MiB.
    #[serde(deserialize_with = "size::deserialize")]
    pub parked_bytes: u64,
    /// Those of one conversation; default 1,000.
    pub parked_per_conversation: usize,
    /// How long a message may be held before it is refused as `EXPIRED`; default 7 days, at most 30.
    #[serde(deserialize_with = "duration::deserialize")]
    pub parked_for: Duration,
    /// How long a retry of a message is recognised; default 90 days, longer than `parked_for`.
    #[serde(deserialize_with = "duration::deserialize")]
    pub dedup_window: Duration,
    /// How often the texts of deleted messages are taken out of the store and its files; default 1 h.
    #[serde(deserialize_with = "duration::deserialize")]
    pub content_sweep: Duration,
    /// How long a day of a conversation's `retentionDays` lasts; default 1 d, shorter to rehearse what retention does.
    #[serde(deserialize_with = "duration::deserialize")]
    pub retention_day: Duration,
    /// How long a region keeps following for a user who was connected to it; default 30 days.
    #[serde(deserialize_with = "duration::deserialize")]
    pub resident_for: Duration,
    /// How long a resume token is accepted; default 7 days.
    #[serde(deserialize_with = "duration::deserialize")]
    pub resume_for: Duration,
    /// Logs of conversations and users held in memory; default 10,000. Over it the one longest unused
    /// is dropped and read again when needed.
    pub loaded_logs: usize,
    /// Messages that went through this region, and moves of receipts, whose steps are remembered for `delivery.explain`
    /// and `hearth why`; default 200,000, which is about 37 MB once so many went through within an hour. The oldest go
    /// first, and answers say so.
    pub explained_messages: usize,
    /// How often a client shall send a heartbeat; default 30 s.
    #[serde(deserialize_with = "duration::deserialize")]
    pub heartbeat_interval: Duration,
    /// Silence of a client after which its session is closed with 4008; default 90 s.
    #[serde(deserialize_with = "duration::deserialize")]
    pub heartbeat_timeout: Duration,
    /// Time for the first `auth` frame; default 5 s. After it: close 4001.
    #[serde(deserialize_with = "duration::deserialize")]
    pub auth_timeout: Duration,
    /// Time within which a send is answered, at the latest by `message.queued`; default 5 s. A home elsewhere has seven
    /// tenths of it before the send is parked, copies have six tenths before `COPIES_MISSING`.
    #[serde(deserialize_with = "duration::deserialize")]
    pub answer_timeout: Duration,
    /// How long a `typing.start` holds; default 5 s. Without effect in this release, in which it is always 5 s.
    #[serde(deserialize_with = "duration::deserialize")]
    pub typing_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: 64 * KIB,
            text_bytes: 16 * KIB,
            json_depth: 32,
            rest_body_bytes: 1024 * KIB,
            group_members: 1_000,
            channel_members: 100_000,
            members_per_request: 1_000,
            fanout_threshold: 100,
            messages_per_minute: 100,
            conversation_messages_per_minute: 6_000,
            refusals_per_minute: 1_000,
            presence_per_frame: 500,
            presence_subscriptions: 10_000,
            sessions: 50_000,
            connections_per_address: 10_000,
            connects_per_minute: 6_000,
            logins_at_once: 128,
            resumes_at_once: 512,
            session_queue_frames: 8_192,
            session_queue_bytes: 1024 * KIB,
            replay_messages: 100,
            gap_messages: 1_000,
            parked_messages: 10_000,
            parked_bytes: 64 * MIB,
            parked_per_conversation: 1_000,
            parked_for: Duration::from_secs(7 * DAY),
            dedup_window: Duration::from_secs(90 * DAY),
            content_sweep: Duration::from_secs(HOUR),
            retention_day: Duration::from_secs(DAY),
            resident_for: Duration::from_secs(30 * DAY),
            resume_for: Duration::from_secs(7 * DAY),
            loaded_logs: 10_000,
            explained_messages: 200_000,
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(90),
            auth_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            typing_for: Duration::from_secs(5),
        }
    }
}

/// A number or size with the range that it must lie in.
pub(crate) struct Bounded<T> {
    pub(crate) key: &'static str,
    pub(crate) value: T,
    pub(crate) least: T,
    pub(crate) most: T,
}

impl<T: PartialOrd> Bounded<T> {
    pub(crate) fn holds(&self) -> bool {
        self.least <= self.value && self.value <= self.most
    }
}

fn count(key: &'static str, value: usize, least: u64, most: u64) -> Bounded<u64> {
    Bounded { key, value: u64::try_from(value).unwrap_or(u64::MAX), least, most }
}

/// How often in a minute; 0 switches it off.
fn rate(key: &'static str, value: u32) -> Bounded<u64> {
    Bounded { key, value: u64::from(value), least: 0, most: 1_000_000 }
}

fn time(key: &'static str, value: Duration, least: u64, most: u64) -> Bounded<Duration> {
    Bounded { key, value, least: Duration::from_secs(least), most: Duration::from_secs(most) }
}

impl Limits {
    pub(crate) fn numbers(&self) -> Vec<Bounded<u64>> {
        vec![
            count("frame_bytes", self.frame_bytes, 1024, MIB),
            count("text_bytes", self.text_bytes, 1, MIB),
            count("json_depth", self.json_depth, 4, 128),
            count("rest_body_bytes", self.rest_body_bytes, 1024, 64 * MIB),
            count("group_members", self.group_members, 2, 100_000),
            count("channel_members", self.channel_members, 2, 1_000_000),
            count("members_per_request", self.members_per_request, 1, 10_000),
            count("fanout_threshold", self.fanout_threshold, 1, 100_000),
            rate("messages_per_minute", self.messages_per_minute),
            rate("conversation_messages_per_minute", self.conversation_messages_per_minute),
            rate("refusals_per_minute", self.refusals_per_minute),
            rate("connects_per_minute", self.connects_per_minute),
            count("logins_at_once", self.logins_at_once, 1, 1_000_000),
            count("resumes_at_once", self.resumes_at_once, 1, 1_000_000),
            count("presence_per_frame", self.presence_per_frame, 1, 10_000),
            count("presence_subscriptions", self.presence_subscriptions, 1, 1_000_000),
            count("sessions", self.sessions, 1, 10_000_000),
            count("connections_per_address", self.connections_per_address, 1, 10_000_000),
            count("session_queue_frames", self.session_queue_frames, 16, 1_000_000),
            count("session_queue_bytes", self.session_queue_bytes, 64 * 1024, 1024 * MIB),
            count("replay_messages", self.replay_messages, 1, 10_000),
            count("gap_messages", self.gap_messages, 1, 1_000_000),
            count("parked_messages", self.parked_messages, 1, 100_000_000),
            Bounded { key: "parked_bytes", value: self.parked_bytes, least: MIB, most: 1024 * 1024 * MIB },
            count("parked_per_conversation", self.parked_per_conversation, 1, 100_000_000),
            count("loaded_logs", self.loaded_logs, 16, 100_000_000),
            count("explained_messages", self.explained_messages, 1, 100_000_000),
        ]
    }

    pub(crate) fn times(&self) -> Vec<Bounded<Duration>> {
        vec![
            time("parked_for", self.parked_for, MINUTE, LONGEST_PARKED.as_secs()),
            time("dedup_window", self.dedup_window, DAY, 3650 * DAY),
            time("content_sweep", self.content_sweep, 1, DAY),
            time("retention_day", self.retention_day, 1, DAY),
            time("resident_for", self.resident_for, HOUR, 365 * DAY),
            time("resume_for", self.resume_for, MINUTE, 30 * DAY),
            time("heartbeat_interval", self.heartbeat_interval, 1, HOUR),
            time("heartbeat_timeout", self.heartbeat_timeout, 2, 3 * HOUR),
            time("auth_timeout", self.auth_timeout, 1, 5 * MINUTE),
            time("answer_timeout", self.answer_timeout, 1, MINUTE),
            time("typing_for", self.typing_for, 1, MINUTE),
        ]
    }

    /// Pairs of keys of which the first may not be greater than the second.
    pub(crate) fn orders(&self) -> Vec<(&'static str, &'static str, bool)> {
        vec![
            ("text_bytes", "frame_bytes", self.text_bytes <= self.frame_bytes),
            ("group_members", "channel_members", self.group_members <= self.channel_members),
            ("presence_per_frame", "presence_subscriptions", self.presence_per_frame <= self.presence_subscriptions),
            ("replay_messages", "gap_messages", self.replay_messages <= self.gap_messages),
            ("parked_per_conversation", "parked_messages", self.parked_per_conversation <= self.parked_messages),
            ("parked_for", "dedup_window", self.parked_for <= self.dedup_window),
            ("heartbeat_interval", "heartbeat_timeout", self.heartbeat_interval <= self.heartbeat_timeout),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_in_its_range_and_order() {
        let limits = Limits::default();
        for number in limits.numbers() {
            assert!(number.holds(), "{}", number.key);
        }
        for time in limits.times() {
            assert!(time.holds(), "{}", time.key);
        }
        for (small, great, holds) in limits.orders() {
            assert!(holds, "{small} {great}");
        }
    }
}
