//! What must hold at every moment of every run, looked at in the stores themselves.

use hearth_protocol::{EntryKind, Level, LogId, RegionId, SealedEntry, UserId, mesh};
use region_model::{Ack, Lane, Outcome};
use uuid::Uuid;

use super::{Region, Sim};

impl Sim {
    fn region(&self, id: &RegionId) -> &Region {
        self.regions.iter().find(|region| region.id == *id).expect("a region of the map")
    }

    /// How many voters have an entry on disk, the very same as the home.
    fn copies(&self, log: LogId, home: &RegionId, sequence: u64) -> usize {
        let stored = self.region(home).disk.logs.get(&log).expect("the home has the log");
        let entry = self.region(home).disk.entry(log, sequence).expect("the home has the entry");
        let voters = &stored.record.as_ref().expect("it has a record").voters;
        let has = |voter: &&RegionId| {
            self.region(voter).disk.entry(log, sequence).is_some_and(|copy| copy.hash == entry.hash)
        };
        voters.iter().filter(has).count()
    }

    /// An ack names an entry that stands in the home's log with the copies of its level, in the regions that it names.
    pub(super) fn check_ack(&self, log: LogId, ack: &Ack, sent: Option<(&UserId, Uuid)>) {
        let sequence = ack.position.sequence.0;
        let entry = self.region(&ack.home).disk.entry(log, sequence);
        let entry = entry.unwrap_or_else(|| panic!("{ack:?} of {log} names an entry that is not on the home's disk"));
        if let Some((sender, id)) = sent {
            let fixed = &entry.entry.fixed;
            assert_eq!((&fixed.sender, fixed.id), (sender, id), "{ack:?} of {log} is of another message");
            assert_eq!(fixed.level, ack.level, "{ack:?} of {log} names the entry's level");
        }
        let stored = &self.region(&ack.home).disk.logs[&log];
        let voters = stored.record.as_ref().expect("it has a record").voters.len();
        let copies = self.copies(log, &ack.home, sequence);
        assert!(copies >= ack.level.copies(voters), "{ack:?} of {log} was given with {copies} copies");
        for region in &ack.regions {
            let copy = self.region(region).disk.entry(log, sequence).is_some_and(|copy| copy.hash == entry.hash);
            assert!(copy, "{ack:?} of {log} names {region}, which has it not");
        }
    }

    pub(super) fn check_reply(&self, ticket: u64, outcome: &Outcome) {
        let (Outcome::Acked(ack), Some(command)) = (outcome, self.sent.get(&ticket)) else { return };
        let by_id = command.kind.is_sent();
        self.check_ack(command.log, ack, by_id.then_some((&command.sender, command.id)));
    }

    pub(super) fn check_answer(&self, from: usize, lane: Lane, body: &mesh::Body) {
        let (mesh::Body::Answer(answer), Lane::Log(log)) = (body, lane) else { return };
        if let Some(Outcome::Acked(ack)) = Outcome::from_answer(answer, &self.regions[from].id) {
            self.check_ack(log, &ack, None);
        }
    }

    /// What is shown has, with all before it, the copies of its level.
    pub(super) fn check_shown(&self, region: usize, log: LogId, sequence: u64) {
        let stored = &self.regions[region].disk.logs[&log];
        let record = stored.record.as_ref().expect("it has a record");
        let entry = self.regions[region].disk.entry(log, sequence).expect("what is shown is on disk");
        let level: Level = entry.entry.fixed.level;
        let copies = self.copies(log, &record.home, sequence);
        assert!(copies >= level.copies(record.voters.len()), "{log} {sequence} is shown with {copies} copies");
    }

    /// The entries of a log on a region's disk.
    pub(crate) fn entries(&self, region: usize, log: LogId) -> Vec<std::sync::Arc<SealedEntry>> {
        self.regions[region]
            .disk
            .logs
            .get(&log)
            .map(|stored| stored.entries.values().cloned().collect())
            .unwrap_or_default()
    }

    /// The ids of the messages of a log on a region's disk, in order.
    pub(crate) fn message_ids(&self, region: usize, log: LogId) -> Vec<Uuid> {
        let entries = self.entries(region, log);
        let messages = entries.iter().filter(|entry| entry.entry.fixed.kind == EntryKind::Message);
        messages.map(|entry| entry.entry.fixed.id).collect()
    }

    /// The sequences that a region showed since its last start.
    pub(crate) fn shown(&self, region: usize, log: LogId) -> Vec<u64> {
        self.regions[region].delivered.get(&log).into_iter().flatten().map(|shown| shown.sequence).collect()
    }

    /// Whether all of some regions have the same entries of a log, and have shown or marked all.
    pub(crate) fn agree(&self, regions: &[usize], log: LogId) -> bool {
        let hashes = |region: &usize| {
            let entries = self.entries(*region, log);
            (entries.last().map(|last| last.hash), entries.len() as u64)
        };
        let first = hashes(&regions[0]);
        let marked = |region: &usize| self.regions[*region].disk.logs.get(&log).map_or(0, |stored| stored.mark);
        regions.iter().all(|region| hashes(region) == first && marked(region) == first.1)
    }

    /// Runs until all of some regions have the same entries of a log and show them.
    pub(crate) fn settle(&mut self, regions: &[usize], log: LogId) {
        self.run_until("the regions agree", |sim| sim.agree(regions, log));
    }
}
