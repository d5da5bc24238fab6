//! What homes elsewhere told of their logs, beside what is in the logs.

use std::collections::{BTreeMap, BTreeSet};

use hearth_protocol::{LogId, RegionId};

/// Logs of one home that are known to be as long as it said, at most; of more it says so again.
const COMPARED: usize = 262_144;

#[derive(Debug, Default)]
pub(super) struct Told {
    /// Marks, of logs that are being read again.
    pub(super) marks: BTreeMap<LogId, u64>,
    /// By home, logs of which all that it had was here when it compared, since its link came up. What it has said since
    /// came in order behind that, or was compared again.
    compared: BTreeMap<RegionId, BTreeSet<LogId>>,
}

impl Told {
    /// A home said how long its log is, and whether all of that is here.
    pub(super) fn compared(&mut self, home: &RegionId, log: LogId, is_here: bool) {
        if !is_here {
            if let Some(logs) = self.compared.get_mut(home) {
                logs.remove(&log);
            }
            return;
        }
        let logs = self.compared.entry(home.clone()).or_default();
        if logs.len() >= COMPARED {
            logs.clear();
        }
        logs.insert(log);
    }

    pub(super) fn has_compared(&self, home: &RegionId, log: LogId) -> bool {
        self.compared.get(home).is_some_and(|logs| logs.contains(&log))
    }

    /// A link went down: what its home says meanwhile is not heard.
    pub(super) fn link_down(&mut self, home: &RegionId) {
        self.compared.remove(home);
    }
}

#[cfg(test)]
mod tests {
    use hearth_protocol::ConversationId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_a_home_compared_counts_until_its_link_goes_or_it_has_more() {
        let [eu, us] = ["eu", "us"].map(|name| RegionId::new(name).unwrap());
        let [one, two] = [1, 2].map(|number| LogId::conversation(ConversationId(Uuid::from_u128(number))));
        let mut told = Told::default();
        assert!(!told.has_compared(&eu, one), "a link that came up says nothing");
        told.compared(&eu, one, true);
        told.compared(&eu, two, true);
        assert!(told.has_compared(&eu, one) && !told.has_compared(&us, one), "a new home compares again");
        told.compared(&eu, one, false);
        assert!(!told.has_compared(&eu, one) && told.has_compared(&eu, two));
        told.link_down(&eu);
        assert!(!told.has_compared(&eu, two));
    }
}
