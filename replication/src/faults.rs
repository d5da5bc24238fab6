//! Injected faults of links, per direction; shared by all regions of a process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

/// What is done to the datagrams of one direction. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultState {
    /// Datagrams disappear silently.
    pub cut: bool,
    /// Added to the way of every datagram; order is kept.
    pub delay: Duration,
    /// Share of datagrams that disappear, 0 to 100.
    pub loss_percent: f64,
}

impl FaultState {
    /// Whether datagrams pass untouched.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.cut && self.delay.is_zero() && self.loss_percent <= 0.0
    }

    /// The same with the loss brought into 0 to 100 (not-a-number is 0).
    fn in_range(self) -> Self {
        let loss_percent = if self.loss_percent.is_nan() { 0.0 } else { self.loss_percent.clamp(0.0, 100.0) };
        Self { loss_percent, ..self }
    }
}

/// One row of [`LinkFaults::get_all`].
#[derive(Clone, Debug, PartialEq)]
pub struct LinkFault {
    /// The region that sends.
    pub from: String,
    /// The region that receives.
    pub to: String,
    /// What is done to its datagrams.
    pub state: FaultState,
}

/// State of one direction, read by the socket for every send.
#[derive(Debug, Default)]
pub(crate) struct FaultCell(RwLock<FaultState>);

impl FaultCell {
    pub(crate) fn get(&self) -> FaultState {
        *self.0.read()
    }
}

type Cells = BTreeMap<(String, String), Arc<FaultCell>>;

/// Control over the faults of directed pairs. Clones share their state.
///
/// A region applies the faults of what it *sends*; a process that holds only some of the regions
/// controls only the directions out of these. The caller checks that the names are those of
/// regions: every new pair costs a little memory for good.
#[derive(Clone, Debug, Default)]
pub struct LinkFaults {
    cells: Arc<Mutex<Cells>>,
}

impl LinkFaults {
    /// No faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what happens to datagrams from `from` to `to`, from the next one on.
    /// Those already delayed keep their due time.
    pub fn set(&self, from: &str, to: &str, state: FaultState) {
        *self.cell(from, to).0.write() = state.in_range();
    }

    /// Sets both directions of a pair.
    pub fn set_both(&self, one: &str, other: &str, state: FaultState) {
        self.set(one, other, state);
        self.set(other, one, state);
    }

    /// What happens to datagrams from `from` to `to`.
    #[must_use]
    pub fn get(&self, from: &str, to: &str) -> FaultState {
        let key = (from.to_owned(), to.to_owned());
        self.cells.lock().get(&key).map(|cell| cell.get()).unwrap_or_default()
    }

    /// Every direction known here, sorted by name: those of started links and those ever set.
    #[must_use]
    pub fn get_all(&self) -> Vec<LinkFault> {
        let cells = self.cells.lock();
        cells
            .iter()
            .map(|((from, to), cell)| LinkFault { from: from.clone(), to: to.clone(), state: cell.get() })
            .collect()
    }

    /// The shared state of one direction.
    pub(crate) fn cell(&self, from: &str, to: &str) -> Arc<FaultCell> {
        Arc::clone(self.cells.lock().entry((from.to_owned(), to.to_owned())).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_seen_by_clones_and_by_cells_given_out_before() {
        let faults = LinkFaults::new();
        let cell = faults.cell("eu-west", "us-east");
        let state = FaultState { cut: true, ..FaultState::default() };
        let clone = faults.clone();
        clone.set("eu-west", "us-east", state);
        assert_eq!(cell.get(), state);
        assert_eq!(faults.get("eu-west", "us-east"), state);
        assert_eq!(faults.get("us-east", "eu-west"), FaultState::default());
    }

    #[test]
    fn all_directions_are_listed_in_order_of_names() {
        let faults = LinkFaults::new();
        faults.set_both("us-east", "eu-west", FaultState { loss_percent: 2.5, ..FaultState::default() });
        let rows: Vec<_> = faults.get_all().into_iter().map(|row| (row.from, row.to)).collect();
        assert_eq!(rows, [("eu-west".into(), "us-east".into()), ("us-east".into(), "eu-west".into())]);
    }

    #[test]
    fn loss_is_brought_into_range() {
        let faults = LinkFaults::new();
        for (given, kept) in [(f64::NAN, 0.0), (-3.0, 0.0), (250.0, 100.0), (12.5, 12.5)] {
            faults.set("a", "b", FaultState { loss_percent: given, ..FaultState::default() });
            assert_eq!(faults.get("a", "b").loss_percent, kept);
        }
    }
}
