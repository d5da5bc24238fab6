//! Sends, retries and acks while everything is well.

use crate::support::{Message, Sim};

#[test]
fn sends_at_the_home_and_at_another_region_get_consecutive_numbers_and_every_region_ends_with_the_same_entries() {
    for seed in 0..5 {
        let mut sim = Sim::new(seed);
        let log = sim.group_at(0, 1);
        let tickets: Vec<u64> = (0..30)
            .map(|id| {
                sim.run_for(id % 4);
                sim.send(usize::try_from(id % 3).expect("small"), log, &Message::new(["ann", "ben", "cem"][usize::try_from(id % 3).expect("small")], id))
            })
            .collect();
        let mut numbers: Vec<u64> = tickets.iter().map(|ticket| sim.acked(*ticket).position.sequence.0).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=30).collect::<Vec<_>>());
        sim.settle(&[0, 1, 2], log);
        for region in 0..3 {
            assert_eq!(sim.shown(region, log), (0..=30).collect::<Vec<_>>());
        }
    }
}
