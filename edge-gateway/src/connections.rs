//! How many connections there are, in all and by address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use hearth_protocol::{ErrorCode, Refusal};
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

/// Why there is no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The node has as many as it takes.
    Node(usize),
    /// One address has as many as it may.
    Address(usize),
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        let (message, limit) = match full {
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
    pub(crate) fn new(most: usize, most_per_address: usize) -> Self {
        Self { inner: Arc::new(Inner { most, most_per_address, open: Mutex::default() }) }
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
            let count = open.by_address.entry(address).or_default();
            if *count >= self.inner.most_per_address {
                return Err(Full::Address(self.inner.most_per_address));
            }
            *count += 1;
        }
        open.total += usize::from(counts_in_total);
        Ok(Place { inner: Arc::clone(&self.inner), counts_in_total, address })
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
        assert_eq!(connections.place(Some(one)).err(), Some(Full::Address(2)));
        let _third = connections.place(Some(other)).unwrap();
        assert_eq!(connections.place(None).err(), Some(Full::Node(3)));
        drop(first);
        let again = connections.place(Some(one)).unwrap();
        assert_eq!(connections.forwarded(one).err(), Some(Full::Address(2)));
        drop(again);
        assert!(connections.forwarded(one).is_ok());
    }
}
