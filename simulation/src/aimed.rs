//! Power cuts at chosen writes: what was said before its write was on disk is a lie from then on, with nobody left who
//! could tell it again.

use crate::plan::Aim;
use crate::region::Write;
use crate::world::{Event, World};

/// What is aimed at in a region.
#[derive(Debug, Default)]
pub(crate) struct Target {
    /// The write to come at which power fails.
    pub(crate) aim: Option<Aim>,
    /// Power failed, and the fault that did it has not ended.
    pub(crate) hit: bool,
}

impl Aim {
    fn fits(self, write: &Write) -> bool {
        match (self, write) {
            (Self::Park, Write::Park(_)) => true,
            (Self::Append, Write::Append(append)) => !append.entries.is_empty(),
            (Self::Promise, Write::Append(append)) => append.promises,
            _ => false,
        }
    }
}

impl World {
    /// A region hands its store a write. Power fails once the rest of that step is done, which is before the write.
    pub(crate) fn aim(&mut self, place: usize, write: &Write) {
        let region = &mut self.regions[place];
        if region.target.aim.is_some_and(|aim| aim.fits(write)) {
            region.target.aim = None;
            let start = region.start;
            self.after(0, Event::Struck { region: place, start });
        }
    }

    /// Power fails with nothing done of what the store had to do; half of the clients there lose their devices too.
    pub(crate) fn struck(&mut self, place: usize) {
        self.trace.count(self.now, "power-cut-at-write", place as u64, 0);
        for number in 0..self.clients.len() {
            let connection = self.clients[number].connection.and_then(|id| self.connections.get(&id));
            let here = connection.is_some_and(|connection| connection.region == place);
            if here && self.clients[number].random.percent(50) {
                self.switch_device(number);
            }
        }
        let region = &mut self.regions[place];
        region.target.hit = true;
        region.writes.clear();
        self.goes_down(place, true);
    }
}
