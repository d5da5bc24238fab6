//! What messages cost the stores, by the counters that a region's `/metrics` tells.

use serde::Serialize;

/// Where the server under load keeps what is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BenchStores {
    /// In files of its data folder.
    #[default]
    Embedded,
    /// In servers.
    Production,
}

impl BenchStores {
    /// As `hearth dev --stores` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Production => "production",
        }
    }
}

/// Counters at one moment, over all regions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counters {
    commits: f64,
    requests: f64,
    pub(super) rounds: f64,
    bytes: f64,
    statements: f64,
}

impl Counters {
    /// Adds what one region's `/metrics` tells. What a page does not have adds nothing.
    pub(super) fn add(&mut self, metrics: &str) {
        for line in metrics.lines() {
            let Some((name, value)) = line.split_once('{').zip(line.rsplit_once(' ')).map(|(a, b)| (a.0, b.1)) else {
                continue;
            };
            let counter = match name {
                "hearth_store_commits_total" => &mut self.commits,
                "hearth_store_requests_total" => &mut self.requests,
                "hearth_store_rounds_total" => &mut self.rounds,
                "hearth_store_bytes_total" => &mut self.bytes,
                "hearth_metadata_statements_total" => &mut self.statements,
                _ => continue,
            };
            *counter += value.parse().unwrap_or(0.0);
        }
    }
}

/// What one message cost the stores of all regions, in the mean. Whatever else the regions did meanwhile is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Costs {
    /// Commits: with embedded stores records of the journal, with servers appends to logs.
    pub commits: f64,
    /// Requests to the CQL servers.
    pub requests: f64,
    /// Of these, conditional writes, each a round of consensus.
    pub rounds: f64,
    /// Bytes of the journal, or of values sent to the CQL servers.
    pub bytes: f64,
    /// SQL statements of the projection of metadata. Nothing waits for them.
    pub sql_statements: f64,
}

impl Costs {
    pub(super) fn between(before: &Counters, after: &Counters, messages: f64) -> Self {
        let each = |before: f64, after: f64| (after - before).max(0.0) / messages.max(1.0);
        Self {
            commits: each(before.commits, after.commits),
            requests: each(before.requests, after.requests),
            rounds: each(before.rounds, after.rounds),
            bytes: each(before.bytes, after.bytes),
            sql_statements: each(before.statements, after.statements),
        }
    }

    /// A line of the table.
    pub(super) fn words(&self, stores: BenchStores) -> String {
        let Self { commits, requests, rounds, bytes, sql_statements } = self;
        match stores {
            BenchStores::Embedded => format!("a message: {commits:.3} commits, {bytes:.0} bytes of journal"),
            BenchStores::Production => format!(
                "a message: {requests:.2} CQL requests, {rounds:.3} of them rounds of consensus, {bytes:.0} bytes of \
                 values; {sql_statements:.3} SQL statements"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_the_growth_of_the_counters_of_all_regions_by_the_messages() {
        let page = |rounds: u64, bytes: u64| {
            format!(
                "# TYPE hearth_store_rounds counter\nhearth_store_rounds_total{{region=\"eu-west\"}} {rounds}\n\
                 hearth_store_bytes_total{{region=\"eu-west\"}} {bytes}\nhearth_other_total{{region=\"eu-west\"}} 9\nx 1\n"
            )
        };
        let (mut before, mut after) = (Counters::default(), Counters::default());
        before.add(&page(10, 1_000));
        for _ in 0..2 {
            after.add(&page(15, 2_000));
        }
        let costs = Costs::between(&before, &after, 100.0);
        assert_eq!((costs.rounds, costs.bytes, costs.requests), (0.2, 30.0, 0.0));
        assert_eq!(Costs::between(&after, &before, 100.0), Costs::default(), "a region that was started anew");
    }
}
