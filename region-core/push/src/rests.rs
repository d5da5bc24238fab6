//! What rests, because a service asked for it.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_protocol::Timestamp;

/// Ways and subscriptions that rest at a time. Of more nothing is remembered: their jobs wait, and the next attempt asks.
const MOST: usize = 4_096;

/// Who rests until when.
#[derive(Debug, Default)]
pub(crate) struct Rests(BTreeMap<String, u64>);

impl Rests {
    /// Nothing is sent by this name before `after` has passed.
    pub(crate) fn rest(&mut self, name: String, after: Duration, now: Timestamp) {
        if self.0.len() >= MOST {
            self.0.retain(|_, until| *until > now.0);
        }
        if self.0.len() < MOST || self.0.contains_key(&name) {
            let until = now.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            let rests = self.0.entry(name).or_default();
            *rests = until.max(*rests);
        }
    }

    /// Until when one of these names rests.
    pub(crate) fn until(&self, names: [&str; 2], now: Timestamp) -> Option<Timestamp> {
        names
            .iter()
            .filter_map(|name| self.0.get(*name))
            .max()
            .filter(|until| **until > now.0)
            .map(|until| Timestamp(*until))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_lasts_as_long_as_the_longest_that_was_asked_for_and_so_many_are_remembered() {
        let mut rests = Rests::default();
        rests.rest("a".to_owned(), Duration::from_secs(5), Timestamp(1_000));
        rests.rest("a".to_owned(), Duration::from_secs(1), Timestamp(2_000));
        assert_eq!(rests.until(["a", "b"], Timestamp(5_999)), Some(Timestamp(6_000)));
        assert_eq!(rests.until(["b", "a"], Timestamp(6_000)), None);
        for number in 0..MOST + 10 {
            rests.rest(number.to_string(), Duration::from_secs(5), Timestamp(5_000));
        }
        assert_eq!(rests.0.len(), MOST);
        rests.rest("new".to_owned(), Duration::from_secs(5), Timestamp(20_000));
        assert_eq!(rests.0.len(), 1, "those that are over make room");
    }
}
