//! How many connections there are, in all and by address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use hearth_protocol::{ErrorCode, Refusal};
use parking_lot::Mutex;
use region_core::Bucket;

/// Addresses whose new connections are counted, about 64 bytes each; of more, those are forgotten that made none lately.
const ADDRESSES: usize = 100_000;

/// Counts connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    most: usize,
    most_per_address: usize,
    /// New connections of one address a minute; 0: no limit.
    per_minute: u64,
    started: Instant,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    rates: HashMap<IpAddr, Bucket>,
}

/// Why there is no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The node has as many as it takes.
    Node(usize),
    /// One address has as many as it may.
    Address(usize),
    /// One address makes as many a minute as it may.
    Rate {
        /// Connections a minute.
        per_minute: u64,
        /// In how many milliseconds there is room for one.
        wait: u64,
    },
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        let (message, limit) = match full {
            Full::Rate { per_minute, wait } => {
                let refusal = Self::new(ErrorCode::RateLimited, "too many new connections of this address");
                let seconds = wait.div_ceil(1_000).max(1);
                return refusal.with_retry_after(seconds).with_limit(format!("connects_per_minute: {per_minute}"));
            }
            Full::Node(most) => ("this node has as many connections as it takes", format!("{most} connections")),
            Full::Address(most) => ("too many connections of this address", format!("connections_per_address: {most}")),
        };
        Self::new(ErrorCode::Overloaded, message).with_retry_after(10).with_limit(limit)
    }
}

/// One counted connection; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    inner: Arc<Inner>,
    counts_in_total: bool,
    address: Option<IpAddr>,
}

impl Connections {
    pub(crate) fn new(most: usize, most_per_address: usize, per_minute: u32) -> Self {
        let (per_minute, started) = (u64::from(per_minute), Instant::now());
        Self { inner: Arc::new(Inner { most, most_per_address, per_minute, started, open: Mutex::default() }) }
    }

    /// A place for a connection, counted for `address` if it is told.
    ///
    /// # Errors
    /// [`Full`] when there is no room.
    pub(crate) fn place(&self, address: Option<IpAddr>) -> Result<Place, Full> {
        self.take(true, address)
    }

    /// A place for one more session of an address behind a proxy whose connection is counted already.
    ///
    /// # Errors
    /// [`Full`] when there is no room.
    pub(crate) fn forwarded(&self, address: IpAddr) -> Result<Place, Full> {
        self.take(false, Some(address))
    }

    fn take(&self, counts_in_total: bool, address: Option<IpAddr>) -> Result<Place, Full> {
        let mut open = self.inner.open.lock();
        if counts_in_total && open.total >= self.inner.most {
            return Err(Full::Node(self.inner.most));
        }
        if let Some(address) = address {
            self.count(&mut open, address)?;
            let count = open.by_address.entry(address).or_default();
            if *count >= self.inner.most_per_address {
                return Err(Full::Address(self.inner.most_per_address));
            }
            *count += 1;
        }
        open.total += usize::from(counts_in_total);
        drop(open);
        Ok(Place { inner: Arc::clone(&self.inner), counts_in_total, address })
    }
}

impl Connections {
    /// Counts a new connection of an address.
    fn count(&self, open: &mut Open, address: IpAddr) -> Result<(), Full> {
        let per_minute = self.inner.per_minute;
        if per_minute == 0 {
            return Ok(());
        }
        let now = u64::try_from(self.inner.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if open.rates.len() >= ADDRESSES && !open.rates.contains_key(&address) {
            open.rates.retain(|_, rate| !rate.is_full(now));
            if open.rates.len() >= ADDRESSES {
                // Sooner a burst too much than no memory.
                open.rates.clear();
            }
        }
        let rate = open.rates.entry(address).or_insert_with(|| Bucket::full(per_minute, now));
        rate.take(now).map_err(|wait| Full::Rate { per_minute, wait })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.inner.open.lock();
        open.total -= usize::from(self.counts_in_total);
        if let Some(address) = self.address
            && let Some(count) = open.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_and_neither_bound_is_passed() {
        let connections = Connections::new(3, 2, 0);
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();
        let first = connections.place(Some(one)).unwrap();
        let _second = connections.place(Some(one)).unwrap();
        assert_eq!(connections.place(Some(one)).err(), Some(Full::Address(2)));
        let _third = connections.place(Some(other)).unwrap();
        assert_eq!(connections.place(None).err(), Some(Full::Node(3)));
        drop(first);
        let again = connections.place(Some(one)).unwrap();
        assert_eq!(connections.forwarded(one).err(), Some(Full::Address(2)));
        drop(again);
        assert!(connections.forwarded(one).is_ok());
    }

    #[test]
    fn an_address_makes_so_many_connections_a_minute_and_is_told_when_it_may_again() {
        let connections = Connections::new(100, 100, 3);
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        for _ in 0..3 {
            drop(connections.place(Some(one)).unwrap());
        }
        let full = connections.place(Some(one)).unwrap_err();
        let refusal = Refusal::from(full);
        assert_eq!(refusal.error, ErrorCode::RateLimited);
        assert!(refusal.retry_after.is_some_and(|seconds| (1..=20).contains(&seconds)), "{refusal:?}");
        assert!(connections.place(Some("10.0.0.2".parse().unwrap())).is_ok(), "others have their own");
        assert!(connections.place(None).is_ok(), "what a proxy makes is counted by the addresses that it names");
    }
}
