//! What a benchmark found, for people and for programs.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::costs::{BenchStores, Costs};
use super::tally::Faults;

/// Milliseconds at three percentiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// One in a hundred takes longer.
    pub p99: f64,
    /// One in a thousand takes longer.
    pub p999: f64,
}

impl Latency {
    /// Of a histogram in microseconds.
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Self { p50: at(0.5), p99: at(0.99), p999: at(0.999) }
    }

    pub(super) fn minus(self, milliseconds: f64) -> Self {
        Self { p50: self.p50 - milliseconds, p99: self.p99 - milliseconds, p999: self.p999 - milliseconds }
    }
}

/// One run of one scenario under one load.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunReport {
    /// `a1`, `a16`, `b`, `c`, `fanout` or `fanout-received`.
    pub scenario: String,
    /// Where the server kept what is durable.
    pub stores: BenchStores,
    /// How many regions the mesh had; each conversation has a voter in each.
    pub regions: usize,
    /// `full` (each sender keeps its window outstanding), `half` (half of what `full` reached: the senders in turn, each
    /// as many at once as its window has) or `even` (half of what `full` reached, in single messages).
    pub load: &'static str,
    /// Connections that send.
    pub senders: usize,
    /// Connections that each message is delivered to.
    pub receivers_per_message: u64,
    /// Messages outstanding for each sender; at a paced load: the most that were, over all senders.
    pub in_flight: u64,
    /// How long was measured.
    pub seconds: f64,
    /// Sent in all, warm-up included.
    pub sent: u64,
    /// Sent, durably acked and delivered to everybody, in a second.
    pub messages_per_second: f64,
    /// Frames that receivers got in a second.
    pub deliveries_per_second: f64,
    /// From send to ack, in milliseconds. At a paced load counted from the time when the message was due.
    pub ack_ms: Latency,
    /// From send to each receiver, likewise.
    pub delivery_ms: Latency,
    /// CPU time of the server process for 1,000 messages, in milliseconds.
    pub server_cpu_ms_per_thousand: f64,
    /// Of one core.
    pub server_cpu_percent: f64,
    /// Of one core.
    pub generator_cpu_percent: f64,
    /// Kernel-counted syncs while it was measured; where stores are in servers, conditional writes.
    pub syncs: u64,
    /// Acks for each of them.
    pub acks_per_sync: f64,
    /// What counted them.
    pub sync_source: &'static str,
    /// The smoothed echo of the link between edge and home while it was measured, from the edge's `/metrics`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_round_trip_ms: Option<f64>,
    /// `ack_ms` without that round trip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_minus_link_ms: Option<Latency>,
    /// What the stores did for each message.
    pub costs: Costs,
    /// Counted exactly over all messages sent.
    pub(super) faults: Faults,
    /// What a good run does not show.
    pub notes: Vec<String>,
    /// Whether nothing was missing, twice, late or acked without a sync.
    pub held: bool,
}

/// The last 1,000 messages of 10,000, as five pages.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PagesReport {
    /// `d`.
    pub scenario: &'static str,
    /// Where the server kept what is durable.
    pub stores: BenchStores,
    /// Messages in the conversation.
    pub messages: u64,
    /// Rows of one page.
    pub rows: u64,
    /// How often the five pages were read.
    pub rounds: usize,
    /// One page over a kept-alive connection.
    pub page_ms: Latency,
    /// All five, one after the other.
    pub five_pages_ms: Latency,
    /// What was wrong with what came.
    pub notes: Vec<String>,
    /// Whether every round gave exactly the last 1,000 positions.
    pub held: bool,
}

/// Users who step away and come back, each change seen by others.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PresenceReport {
    /// `presence`.
    pub scenario: &'static str,
    /// Where the server kept what is durable.
    pub stores: BenchStores,
    /// How many regions the mesh had; neighbours in a group are at different ones.
    pub regions: usize,
    /// Connections, each of a user of its own.
    pub users: usize,
    /// Who sees each change.
    pub subscribers: u64,
    /// Changes made in a second.
    pub offered_per_second: f64,
    /// How long was measured.
    pub seconds: f64,
    /// Changes seen by all subscribers in a second.
    pub transitions_per_second: f64,
    /// Frames that subscribers got in a second.
    pub updates_per_second: f64,
    /// From `presence.set` to each subscriber.
    pub update_ms: Latency,
    /// CPU time of the server process for 1,000 changes, in milliseconds.
    pub server_cpu_ms_per_thousand: f64,
    /// Of one core.
    pub server_cpu_percent: f64,
    /// Of one core.
    pub generator_cpu_percent: f64,
    /// Changes that a subscriber was not told of, since others came close behind them.
    pub untold: u64,
    /// Users whom a subscriber takes for what they are not at the end, or was told of more often than it changed.
    pub wrong: u64,
    /// What a good run does not show.
    pub notes: Vec<String>,
    /// Whether nothing was wrong, and at most one change of twenty was untold.
    pub held: bool,
}

impl PresenceReport {
    fn row(&self, text: &mut String) {
        text.push_str(&format!(
            "presence on {}, {} stores: {} users, {:.0} changes/s offered, {:.0}/s seen by {} each ({:.0} frames/s), update ms {}, \
             server {:.1} ms of cpu/1000 and {:.0} %, bench {:.0} %  {}\n",
            self.regions,
            self.stores.name(),
            self.users,
            self.offered_per_second,
            self.transitions_per_second,
            self.subscribers,
            self.updates_per_second,
            triple(self.update_ms),
            self.server_cpu_ms_per_thousand,
            self.server_cpu_percent,
            self.generator_cpu_percent,
            verdict(self.held),
        ));
        if self.untold + self.wrong > 0 {
            text.push_str(&format!("      {} untold, {} wrong\n", self.untold, self.wrong));
        }
        notes(&self.notes, text);
    }
}

/// What a client missed, asked for in one go.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissedReport {
    /// `sync`.
    pub scenario: &'static str,
    /// Where the server kept what is durable.
    pub stores: BenchStores,
    /// Messages missed.
    pub messages: u64,
    /// Conversations that they are of.
    pub conversations: u64,
    /// How often it was asked, each way.
    pub rounds: usize,
    /// `POST /sync` over a kept-alive connection.
    pub rest_ms: Latency,
    /// From the TCP connection to `sync.complete` of a session that brings its cursors.
    pub session_ms: Latency,
    /// What was wrong with what came.
    pub notes: Vec<String>,
    /// Whether every round gave all of it.
    pub held: bool,
}

/// Clients that came all at once.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StormReport {
    /// Clients that got in.
    pub sessions: u64,
    /// Sessions a second, from the first try to the last success.
    pub per_second: f64,
    /// From a client's first try to its `connected`; of those that come back to `sync.complete`.
    pub ms: Latency,
    /// The slowest of them.
    pub slowest_ms: f64,
    /// Tries that were refused or broke off.
    pub tried_again: u64,
    /// CPU time of the server process for 1,000 sessions, in milliseconds; 0 where several storms share it.
    pub server_cpu_ms_per_thousand: f64,
}

/// Sessions that come at once, are idle, and come back at once.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsReport {
    /// `sessions`.
    pub scenario: &'static str,
    /// Whether they came over TLS.
    pub tls: bool,
    /// Sessions, each of a user of its own, every two with a direct conversation.
    pub sessions: u64,
    /// Growth of the server's resident memory for each session: its user and half a conversation included.
    pub bytes_a_session: u64,
    /// That part of it which was there before the sessions came.
    pub bytes_of_users_and_conversations: u64,
    /// All come for the first time.
    pub logins: StormReport,
    /// All were dropped and come back, with a cursor each.
    pub resumes: StormReport,
    /// Others who come for the first time meanwhile.
    pub logins_meanwhile: StormReport,
    /// What a good run does not show.
    pub notes: Vec<String>,
    /// Whether everybody got in, and whoever came back was served exactly.
    pub held: bool,
}

impl StormReport {
    fn words(&self) -> String {
        format!(
            "{} at {:.0}/s, ms {}, slowest {:.0}, {} tried again, {:.0} ms of cpu/1000",
            self.sessions,
            self.per_second,
            triple(self.ms),
            self.slowest_ms,
            self.tried_again,
            self.server_cpu_ms_per_thousand,
        )
    }
}

impl SessionsReport {
    fn row(&self, text: &mut String) {
        text.push_str(&format!(
            "sessions {}: {} idle, {:.1} KB each ({:.1} KB of it users and conversations)  {}\n",
            if self.tls { "over TLS" } else { "plain" },
            self.sessions,
            self.bytes_a_session as f64 / 1_000.0,
            self.bytes_of_users_and_conversations as f64 / 1_000.0,
            verdict(self.held),
        ));
        let storms =
            [("logins", &self.logins), ("resumes", &self.resumes), ("logins meanwhile", &self.logins_meanwhile)];
        for (name, storm) in storms {
            text.push_str(&format!("      {name}: {}\n", storm.words()));
        }
        notes(&self.notes, text);
    }
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// In the order in which they ran.
    pub runs: Vec<RunReport>,
    /// Scenario d.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pages: Vec<PagesReport>,
    /// Scenario presence, on one region and on three.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub presence: Vec<PresenceReport>,
    /// Scenario sync.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<MissedReport>,
    /// Scenario sessions, plain and over TLS.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionsReport>,
    /// Bytes of each text.
    pub text_bytes: usize,
    /// Cores of the machine, shared by server and generator.
    pub cores: usize,
    /// The file system under the server's data.
    pub file_system: String,
    /// Whether every run held.
    pub held: bool,
}

impl RunReport {
    /// Its lines of the table.
    fn row(&self, text: &mut String) {
        text.push_str(&format!(
            "{:<16}{:<11}{:>4}{:>6}{:>11.0}{:>11.0}  {:<25}{:<25}{:>6.1} ms{:>7.0}%{:>7.0}%{:>10.1}  {}\n",
            self.scenario,
            self.stores.name(),
            self.regions,
            self.load,
            self.messages_per_second,
            self.deliveries_per_second,
            triple(self.ack_ms),
            triple(self.delivery_ms),
            self.server_cpu_ms_per_thousand,
            self.server_cpu_percent,
            self.generator_cpu_percent,
            self.acks_per_sync,
            verdict(self.held),
        ));
        text.push_str(&format!("      {}\n", self.costs.words(self.stores)));
        if let (Some(link), Some(over)) = (self.link_round_trip_ms, self.ack_minus_link_ms) {
            text.push_str(&format!("      link round trip {link:.2} ms; ack minus link {} ms\n", triple(over)));
        }
        if self.faults != Faults::default() {
            text.push_str(&format!(
                "      missing {}, twice or unknown {}, out of order {}, holes {}\n",
                self.faults.missing, self.faults.duplicated, self.faults.out_of_order, self.faults.holes
            ));
        }
        notes(&self.notes, text);
    }
}

impl Report {
    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}-byte texts; server and generator share {} cores; data on {}\n\n\
             {:<16}{:<11}{:>4}{:>6}{:>11}{:>11}  {:<25}{:<25}{:>9}{:>8}{:>8}{:>10}  {}\n",
            self.text_bytes,
            self.cores,
            self.file_system,
            "run",
            "stores",
            "reg",
            "load",
            "messages/s",
            "frames/s",
            "ack ms p50/p99/p99.9",
            "delivery p50/p99/p99.9",
            "cpu/1000",
            "server",
            "bench",
            "acks/sync",
            "verdict",
        );
        self.runs.iter().for_each(|run| run.row(&mut text));
        self.others(&mut text);
        let mut told = Vec::new();
        for run in self.runs.iter().filter(|run| !run.sync_source.is_empty()) {
            if !told.contains(&run.sync_source) {
                told.push(run.sync_source);
            }
        }
        if !told.is_empty() {
            text.push_str(&format!("\nsyncs by {}. ", told.join("; by ")));
        }
        text.push_str(
            "full keeps each sender's window outstanding. half is half that rate, the senders in turn, a window at once; \
             even is half\nthat rate in single messages. In both, latencies count from when a message was due.\n",
        );
        text.push_str(
            "The link's round trip is the smoothed ping echo that the edge's /metrics gave during the run.\n",
        );
        text
    }

    /// Lines of what is no run of messages.
    fn others(&self, text: &mut String) {
        for pages in &self.pages {
            text.push_str(&format!(
                "d    {} stores: last 1,000 of {} as five pages of {}: one page {} ms, all five {} ms  {}\n",
                pages.stores.name(),
                pages.messages,
                pages.rows,
                triple(pages.page_ms),
                triple(pages.five_pages_ms),
                verdict(pages.held),
            ));
            notes(&pages.notes, text);
        }
        self.presence.iter().for_each(|presence| presence.row(text));
        for missed in &self.missed {
            text.push_str(&format!(
                "sync, {} stores, of {} messages over {} conversations: by REST {} ms, by a session that comes back {} ms  {}\n",
                missed.stores.name(),
                missed.messages,
                missed.conversations,
                triple(missed.rest_ms),
                triple(missed.session_ms),
                verdict(missed.held),
            ));
            notes(&missed.notes, text);
        }
        self.sessions.iter().for_each(|sessions| sessions.row(text));
    }
}

fn verdict(held: bool) -> &'static str {
    if held { "held" } else { "FAILED" }
}

/// What a good run does not show, each on a line of its own.
fn notes(notes: &[String], text: &mut String) {
    notes.iter().for_each(|note| text.push_str(&format!("      {note}\n")));
}

fn triple(latency: Latency) -> String {
    format!("{:.1} / {:.1} / {:.1}", latency.p50, latency.p99, latency.p999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_in_milliseconds() {
        let mut histogram = Histogram::new_with_bounds(1, 120_000_000, 3).expect("bounds");
        for value in 1..=1_000u64 {
            histogram.record(value * 10).expect("in bounds");
        }
        let latency = Latency::of(&histogram);
        assert!((latency.p50 - 5.0).abs() < 0.05 && (latency.p99 - 9.9).abs() < 0.05, "{latency:?}");
        assert_eq!(triple(latency.minus(1.0)), "4.0 / 8.9 / 9.0");
    }
}
