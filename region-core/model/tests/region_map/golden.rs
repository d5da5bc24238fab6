//! Bytes of commands, answers and a map: stored and sent, so they stay. Lines are added, never changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use hearth_protocol::record::{Record, RecordError};
use hearth_protocol::{RegionId, Slot};
use region_model::region_map::{FirstMap, MapAnswer, MapCommand, MapFact, MapRefusal, MapState, RangeOf, RegionState};

use super::{changed, founded, region, renewal, store};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

/// Compares with the file, line by line; `HEARTH_WRITE_GOLDEN=1` writes it.
fn check(file: &str, values: &[(String, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/region_map").join(file);
    if std::env::var_os("HEARTH_WRITE_GOLDEN").is_some() {
        let lines: String = values.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        std::fs::write(&path, lines).expect("the golden file can be written");
        return;
    }
    let text = std::fs::read_to_string(&path).expect("the golden file is there");
    let golden: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    for (name, value) in values {
        assert_eq!(golden.get(name.as_str()).copied(), Some(value.as_str()), "{file}: {name}");
    }
    assert_eq!(golden.len(), values.len(), "{file}: one line per value, and no other");
}

fn regions() -> Vec<RegionId> {
    vec![region("eu-west"), region("us-east"), region("ap-south")]
}

fn commands() -> Vec<(&'static str, MapCommand)> {
    let region = || region("eu-west");
    vec![
        ("found", MapCommand::Found(FirstMap::of(regions()))),
        (
            "renew",
            MapCommand::Renew { region: region(), store: store(7), incarnation: 2, counter: 300, milliseconds: 6_000 },
        ),
        (
            "take-incarnation",
            MapCommand::TakeIncarnation { region: region(), store: store(7), counter: 300, replaces: 1, term: 9 },
        ),
        ("fence", MapCommand::Fence { region: region(), term: 9 }),
        ("return", MapCommand::Return { region: region(), incarnation: 2, fence: 400 }),
        ("reassign", MapCommand::Reassign { region: region(), seen: 400 }),
        (
            "place",
            MapCommand::Place { slots: vec![Slot(1), Slot(4_095)], steward: region(), voters: regions(), seen: 400 },
        ),
        ("add-region", MapCommand::AddRegion { region: region(), seen: 400 }),
        ("activate", MapCommand::Activate { region: region(), seen: 400 }),
        ("remove-region", MapCommand::RemoveRegion { region: region(), term: 9, seen: 400 }),
        ("set-draining", MapCommand::SetDraining { region: region(), draining: true, seen: 400 }),
        ("add-map-voter", MapCommand::AddMapVoter { region: region(), seen: 400 }),
        ("remove-map-voter", MapCommand::RemoveMapVoter { region: region(), seen: 400 }),
        ("name-map-voter", MapCommand::NameMapVoter { region: region(), force: true, seen: 400 }),
    ]
}

fn answers() -> Vec<(&'static str, MapAnswer)> {
    let changed = |fact| MapAnswer::Changed { version: 300, fact };
    let refused = |reason| MapAnswer::Refused { version: 300, reason };
    vec![
        ("changed-holds", changed(MapFact::Holds)),
        ("changed-lease", changed(MapFact::LeaseOfNoGeneration { term: 9, milliseconds: 6_000 })),
        ("changed-lease-generation", changed(MapFact::Lease { term: 9, milliseconds: 6_000, generation: 300 })),
        ("changed-incarnation", changed(MapFact::Incarnation { incarnation: 2, fence: 300 })),
        ("changed-fence", changed(MapFact::Fence { fence: 300 })),
        ("changed-slots", changed(MapFact::Slots { moved: 1_366, left: 1 })),
        ("already-holds", MapAnswer::Already { version: 300, fact: MapFact::Holds }),
        ("refused-not-founded", refused(MapRefusal::NotFounded)),
        ("refused-unknown-region", refused(MapRefusal::UnknownRegion(region("sa")))),
        ("refused-state", refused(MapRefusal::State(RegionState::Removed))),
        ("refused-renewed", refused(MapRefusal::Renewed(10))),
        ("refused-lease-held", refused(MapRefusal::LeaseHeld(6_060))),
        ("refused-other-store", refused(MapRefusal::OtherStore { store: store(8), incarnation: 3, term: 9 })),
        ("refused-older-store", refused(MapRefusal::OlderStore(301))),
        ("refused-changed", refused(MapRefusal::Changed(299))),
        ("refused-range", refused(MapRefusal::Range(RangeOf::PlacementVoters))),
        ("refused-in-use", refused(MapRefusal::InUse)),
        ("refused-not-two-regions", refused(MapRefusal::NotTwoRegions)),
        ("refused-voters-changing", refused(MapRefusal::VotersChanging)),
        ("refused-out-of-reach", refused(MapRefusal::OutOfReach)),
    ]
}

/// A map with something of everything, its slots left to a digest.
fn map() -> MapState {
    let mut map = founded(&["eu-west", "us-east", "ap-south"]);
    let renewal = renewal(&map, "eu-west");
    changed(&mut map, &renewal);
    changed(&mut map, &MapCommand::Fence { region: region("us-east"), term: 0 });
    let reassign = MapCommand::Reassign { region: region("us-east"), seen: map.changed };
    changed(&mut map, &reassign);
    map
}

#[test]
fn every_command_answer_and_map_has_its_golden_bytes_and_reads_back() {
    let mut values = Vec::new();
    for (name, command) in commands() {
        assert_eq!(MapCommand::decode(&command.encode()).as_ref(), Ok(&command), "{name}");
        values.push((format!("command-{name}"), hex(&command.encode())));
    }
    for (name, answer) in answers() {
        assert_eq!(MapAnswer::decode(&answer.encode()).as_ref(), Ok(&answer), "{name}");
        values.push((format!("answer-{name}"), hex(&answer.encode())));
    }
    let encoded = map().encode();
    assert_eq!(MapState::read(&encoded).as_ref(), Ok(&map()));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &encoded);
    values.push(("map-length".to_owned(), encoded.len().to_string()));
    values.push(("map-sha256".to_owned(), hex(digest.as_ref())));
    check("golden.txt", &values);
}

#[test]
fn bytes_of_another_version_and_damaged_ones_are_errors() {
    let mut command = MapCommand::Fence { region: region("eu"), term: 9 }.encode();
    command[0] = 2;
    assert_eq!(MapCommand::decode(&command), Err(RecordError::Version(Some(2))));
    assert_eq!(MapState::read(&[]), Err(RecordError::Version(None)));
    let encoded = map().encode();
    for cut in [1, 9, encoded.len() / 2, encoded.len() - 2] {
        assert!(MapState::read(&encoded[..cut]).is_err(), "cut at {cut}");
    }
}
