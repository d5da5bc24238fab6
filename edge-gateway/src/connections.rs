//! How many connections there are, in all and by address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    most: usize,
    most_per_address: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One counted connection; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    inner: Arc<Inner>,
    counts_in_total: bool,
    address: Option<IpAddr>,
}

impl Connections {
    pub(crate) fn new(most: usize, most_per_address: usize) -> Self {
        Self { inner: Arc::new(Inner { most, most_per_address, open: Mutex::default() }) }
    }

    /// A place for a connection, counted for `address` if it is told; `None` when there is no room.
    pub(crate) fn place(&self, address: Option<IpAddr>) -> Option<Place> {
        self.take(true, address)
    }

    /// A place for one more session of an address behind a proxy whose connection is counted already.
    pub(crate) fn forwarded(&self, address: IpAddr) -> Option<Place> {
        self.take(false, Some(address))
    }

    fn take(&self, counts_in_total: bool, address: Option<IpAddr>) -> Option<Place> {
        let mut open = self.inner.open.lock();
        if counts_in_total && open.total >= self.inner.most {
            return None;
        }
        if let Some(address) = address {
            let count = open.by_address.entry(address).or_default();
            if *count >= self.inner.most_per_address {
                return None;
            }
            *count += 1;
        }
        open.total += usize::from(counts_in_total);
        Some(Place { inner: Arc::clone(&self.inner), counts_in_total, address })
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
        let connections = Connections::new(3, 2);
        let one: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();
        let first = connections.place(Some(one)).unwrap();
        let _second = connections.place(Some(one)).unwrap();
        assert!(connections.place(Some(one)).is_none());
        let _third = connections.place(Some(other)).unwrap();
        assert!(connections.place(None).is_none());
        drop(first);
        assert!(connections.place(Some(one)).is_some());
        assert!(connections.forwarded(one).is_some());
    }
}
