//! The region map as a word that reaches every running region at once, and leases that a story gives and takes.

use std::sync::Arc;

use region_model::Input;
use region_model::ownership::Right;
use region_model::region_map::{FirstMap, MapCommand, MapState};

use super::{Disk, Sim};

impl Sim {
    /// Founds the map.
    pub(crate) fn found_map(&mut self) {
        let regions = self.regions.iter().map(|region| region.id.clone()).collect();
        let mut map = MapState::default();
        map.apply(&MapCommand::Found(FirstMap::of(regions)));
        let names: Vec<_> = self.regions.iter().map(|region| region.id.clone()).collect();
        for (store, region) in (1..).zip(names) {
            let command = MapCommand::TakeIncarnation {
                region,
                store: uuid::Uuid::from_u128(store),
                counter: 1,
                replaces: 0,
                term: 0,
            };
            map.apply(&command);
        }
        self.tell_map(map);
    }

    fn change_map(&mut self, command: &MapCommand) {
        let mut map = self.region_map.as_deref().cloned().expect("the map is founded");
        let answer = map.apply(command);
        answer.fact().expect("the map takes the command");
        self.tell_map(map);
    }

    fn tell_map(&mut self, map: MapState) {
        let map = Arc::new(map);
        self.region_map = Some(Arc::clone(&map));
        for index in 0..self.regions.len() {
            self.input(index, Input::Map(Arc::clone(&map)));
        }
    }

    fn term(&self, index: usize) -> (u64, u64) {
        let map = self.region_map.as_ref().expect("the map is founded");
        let entry = map.region(&self.regions[index].id).expect("a region of the map");
        (entry.term, entry.fence)
    }

    /// The incarnation of a region's store that the map knows.
    pub(crate) fn incarnation(&self, index: usize) -> u64 {
        let map = self.region_map.as_ref().expect("the map is founded");
        let entry = map.region(&self.regions[index].id).expect("a region of the map");
        entry.store.expect("it has a store").incarnation
    }

    /// A region that is down starts over another store, which the map hears of: its slots go to others, and it holds a
    /// lease again.
    pub(crate) fn replace_store(&mut self, index: usize, disk: Disk) {
        self.regions[index].disk = disk;
        self.lapse(index);
        self.start(index);
        let region = self.regions[index].id.clone();
        let ((term, _), replaces) = (self.term(index), self.incarnation(index));
        let store = uuid::Uuid::from_u128(u128::from(self.random.next()));
        let taken = MapCommand::TakeIncarnation { region: region.clone(), store, counter: 1, replaces, term };
        self.change_map(&taken);
        let seen = self.region_map.as_ref().expect("it is founded").changed;
        self.change_map(&MapCommand::Reassign { region, seen });
        self.come_back(index);
    }

    /// A region's lease is over: nothing is acked there from here on.
    pub(crate) fn lapse(&mut self, index: usize) {
        self.regions[index].right.leased = false;
    }

    /// A region is fenced once its lease is over, and its slots go to others.
    pub(crate) fn fail_over(&mut self, index: usize) {
        self.lapse(index);
        let region = self.regions[index].id.clone();
        let (term, _) = self.term(index);
        self.change_map(&MapCommand::Fence { region: region.clone(), term });
        let seen = self.region_map.as_ref().expect("it is founded").changed;
        self.change_map(&MapCommand::Reassign { region, seen });
    }

    /// A fenced region knows of its fence, and holds a lease again.
    pub(crate) fn come_back(&mut self, index: usize) {
        let region = self.regions[index].id.clone();
        let (_, fence) = self.term(index);
        let incarnation = self.incarnation(index);
        self.change_map(&MapCommand::Return { region, incarnation, fence });
        self.regions[index].right = Right { leased: true, generation: fence };
        self.input(index, Input::Tick);
    }
}

impl Sim {
    /// On the operator's word a region goes on alone: the one voter of the map, steward and voter of every slot; all
    /// others are fenced.
    pub(crate) fn go_on_alone(&mut self, index: usize) {
        (0..self.regions.len()).filter(|other| *other != index).for_each(|other| self.lapse(other));
        let region = self.regions[index].id.clone();
        let seen = self.region_map.as_ref().expect("it is founded").changed;
        self.change_map(&MapCommand::NameMapVoter { region, force: true, seen });
        for other in (0..self.regions.len()).filter(|other| *other != index) {
            let region = self.regions[other].id.clone();
            let seen = self.region_map.as_ref().expect("it is founded").changed;
            self.change_map(&MapCommand::Reassign { region, seen });
            // It asks voters that are gone for their promises.
            self.run_for(700);
        }
        let slots = (0..hearth_protocol::Slot::COUNT).map(hearth_protocol::Slot).collect();
        self.deal_slots(slots, index, &[index]);
    }

    /// The operator's word that homes of a fenced region may be opened with fewer voters.
    pub(crate) fn accept_loss(&mut self, at: usize, of: usize) {
        let (_, fence) = self.term(of);
        let lost = self.regions[of].id.clone();
        self.input(at, Input::AcceptLoss(lost, fence));
    }

    /// The map names steward and voters of some slots' placement logs.
    pub(crate) fn deal_slots(&mut self, slots: Vec<hearth_protocol::Slot>, steward: usize, voters: &[usize]) {
        let name = |index: &usize| self.regions[*index].id.clone();
        let (steward, voters) = (name(&steward), voters.iter().map(name).collect());
        let seen = self.region_map.as_ref().expect("it is founded").changed;
        self.change_map(&MapCommand::Place { slots, steward, voters, seen });
    }
}
