//! The region map: leases against clocks that run wrong, commands that come late or twice, bytes for good.

mod commands;
mod failover;
mod golden;
mod leases;
mod replays;
mod world;

use hearth_protocol::RegionId;
use region_model::region_map::{FirstMap, MapAnswer, MapCommand, MapState};
use uuid::Uuid;

fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a valid name")
}

fn store(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A map of these regions, each with its first store, numbered from 1.
fn founded(names: &[&str]) -> MapState {
    let mut map = MapState::default();
    let regions: Vec<RegionId> = names.iter().map(|name| region(name)).collect();
    assert!(map.apply(&MapCommand::Found(FirstMap::of(regions.clone()))).changed());
    for (number, region) in (1..).zip(regions) {
        let take = MapCommand::TakeIncarnation { region, store: store(number), counter: 0, replaces: 0, term: 0 };
        assert!(map.apply(&take).changed());
    }
    map
}

/// The next renewal of a region, as its store would ask for it.
fn renewal(map: &MapState, name: &str) -> MapCommand {
    let mark = map.region(&region(name)).expect("known").store.expect("it has a store");
    MapCommand::Renew {
        region: region(name),
        store: mark.store,
        incarnation: mark.incarnation,
        counter: mark.counter + 1,
        milliseconds: 6_000,
    }
}

fn term(map: &MapState, name: &str) -> u64 {
    map.region(&region(name)).expect("known").term
}

fn changed(map: &mut MapState, command: &MapCommand) -> MapAnswer {
    let answer = map.apply(command);
    assert!(answer.changed(), "{command:?}: {answer:?}");
    answer
}
