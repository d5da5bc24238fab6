//! What regions say at the end of a story: the rows of every conversation, its epochs and its loss statements.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hearth_protocol::{ConversationId, Epoch, Position, Sequence};
use uuid::Uuid;

use super::driver;
use crate::checker::Reading;
use crate::{Checker, Mesh};

/// Longest wait for all regions to give the same of a conversation.
const AGREES: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Reads every conversation to its end through every region as `reader`, once they agree or their time is over; who gave nothing.
pub async fn read_all(mesh: &Mesh, reader: &str, groups: &[String], pass: u32) -> (Vec<Reading>, Vec<String>) {
    let (mut readings, mut silent) = (Vec::new(), Vec::new());
    for conversation in groups {
        let deadline = Instant::now() + AGREES;
        loop {
            let mut of_it = Vec::new();
            let mut refused = Vec::new();
            for region in 0..mesh.regions.len() {
                match mesh.try_history(reader, region, conversation).await {
                    Ok(rows) => of_it.push(Reading { region, pass, conversation: conversation.clone(), rows }),
                    Err(answer) => refused.push(format!("region {region} gives {} of {conversation}", answer.text)),
                }
            }
            let ids = |reading: &Reading| reading.rows.iter().map(|row| row["messageId"].clone()).collect::<Vec<_>>();
            let same = of_it.windows(2).all(|pair| ids(&pair[0]) == ids(&pair[1]));
            if (same && refused.is_empty()) || Instant::now() >= deadline {
                readings.extend(of_it);
                silent.extend(refused);
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    (readings, silent)
}

/// What regions say of the epochs of the conversations.
#[derive(Debug, Default)]
pub struct Openings {
    /// Every epoch that opened.
    pub opened: BTreeMap<ConversationId, BTreeSet<u64>>,
    /// How many loss statements there are.
    pub losses: usize,
    /// What does not hold: two homes of a conversation, or none.
    pub owners: Vec<String>,
}

/// With two of three voters sealed, what two regions had is covered; `losses` does not say more.
const COVERED: usize = 2;

/// What regions say of the conversations' epochs; loss statements are noted in `checker`.
pub async fn openings(mesh: &Mesh, groups: &[String], checker: &mut Checker) -> Openings {
    let mut found = Openings::default();
    let losses = driver::losses(mesh).await["losses"].as_array().cloned().unwrap_or_default();
    for conversation in groups {
        let shown = driver::home(mesh, conversation).await;
        let rows = shown["regions"].as_array().cloned().unwrap_or_default();
        let owners: BTreeSet<String> = rows.iter().map(|row| format!("{} at {}", row["home"], row["epoch"])).collect();
        if owners.len() != 1 || rows.len() != mesh.regions.len() {
            found.owners.push(format!("{conversation} belongs to {owners:?}, say {} regions", rows.len()));
        }
        let mut opened: BTreeMap<u64, u64> = BTreeMap::new();
        for opening in rows.iter().flat_map(|row| row["copy"]["openings"].as_array().into_iter().flatten()) {
            if let (Some(epoch), Some(first)) = (opening[0].as_u64(), opening[1].as_u64()) {
                opened.insert(epoch, first);
            }
        }
        for loss in losses.iter().filter(|loss| loss["log"] == conversation.as_str()) {
            let (epoch, first) = (loss["epoch"].as_u64().unwrap_or(0), loss["first"].as_u64().unwrap_or(0));
            // The winner had accepted the epoch that opened before in its line.
            let before = opened.range(..epoch).next_back().map_or(0, |(before, _)| *before);
            let from = Position { epoch: Epoch(before), sequence: Sequence(first) };
            checker.loss(conversation, from, epoch, COVERED);
            found.losses += 1;
        }
        let id = ConversationId(Uuid::try_parse(conversation).unwrap_or_default());
        found.opened.insert(id, opened.into_keys().collect());
    }
    found
}
