//! What all regions say at the end of a run in which clients did everything: who is there, and how much is unread. They
//! have some seconds to agree after the heal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simulation::checker::Guarantee;

use super::population::{Population, user};
use crate::{Mesh, Peer};

/// Users of whom each region is asked how much they have not read: one of so many.
const ASKED_OF: usize = 25;
/// Longest wait for all regions to say the same.
const AGREES: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// What does not hold.
pub(super) async fn look(mesh: &Mesh, population: &Population, groups: &[String]) -> Vec<(Guarantee, String)> {
    let mut faults = Vec::new();
    faults.extend(presence(mesh, population).await.map(|what| (Guarantee::G11, what)));
    for client in (0..population.clients).step_by(ASKED_OF) {
        for place in population.of(client) {
            let different = unread(mesh, &user(client), &groups[place]).await;
            faults.extend(different.map(|what| (Guarantee::G10, what)));
        }
    }
    faults
}

/// Asks every region until all say the same and `holds` of it, or the time is over; what was said last.
async fn agreed<T: PartialEq, F: Future<Output = Vec<T>>>(
    ask: impl Fn() -> F,
    holds: impl Fn(&T) -> bool,
) -> (bool, Vec<T>) {
    let deadline = Instant::now() + AGREES;
    loop {
        let said = ask().await;
        let same = said.windows(2).all(|pair| pair[0] == pair[1]) && said.iter().all(&holds);
        if same || Instant::now() >= deadline {
            return (same, said);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Every client is connected: each region says of each that it is there, and the same as the others.
async fn presence(mesh: &Mesh, population: &Population) -> Option<String> {
    let mut observers = Vec::new();
    for region in 0..mesh.regions.len() {
        observers.push(Peer::connect(mesh, &user(0), region).await);
    }
    let users: Vec<String> = (1..population.clients).map(user).collect();
    let ask = || async {
        let mut said = Vec::new();
        for observer in &observers {
            let request = crate::new_id();
            let payload = json!({ "userIds": users });
            observer.frame(json!({ "type": "presence.subscribe", "id": request, "payload": payload })).await;
            let answer = observer.expect("presence.bulk", |frame| frame["id"] == request.as_str()).await.value;
            let rows = answer["payload"]["presences"].as_array().cloned().unwrap_or_default();
            let row = |row: &Value| (row["userId"].to_string(), (row["status"].clone(), row["certainty"].clone()));
            said.push(rows.iter().map(row).collect::<BTreeMap<_, _>>());
        }
        said
    };
    let there = |said: &BTreeMap<String, (Value, Value)>| {
        said.len() == users.len()
            && said.values().all(|(status, certainty)| *status != "offline" && *certainty == "fresh")
    };
    let (same, said) = agreed(ask, there).await;
    if same {
        return None;
    }
    let of_all = said.iter().flatten().filter(|(user, is)| {
        is.0 == "offline" || is.1 != "fresh" || said.iter().any(|other| other.get(*user) != Some(is))
    });
    let first: Vec<String> = of_all.take(5).map(|(user, is)| format!("{user} is {is:?}")).collect();
    let counts: Vec<usize> = said.iter().map(BTreeMap::len).collect();
    Some(format!("{} s after the heal regions say of {counts:?} users, among it {first:?}", AGREES.as_secs()))
}

/// Every region says the same of how far a user has read a conversation, and how much is unread.
async fn unread(mesh: &Mesh, user: &str, conversation: &str) -> Option<String> {
    let ask = || async {
        let mut said = Vec::new();
        for region in 0..mesh.regions.len() {
            let path = format!("/api/v1/conversations/{conversation}");
            let row = mesh.rest(user, region, "GET", &path, None).await;
            said.push((row.status, row.body["readUpTo"].clone(), row.body["unreadCount"].clone()));
        }
        said
    };
    let (same, said) = agreed(ask, |(status, ..)| *status == 200).await;
    (!same).then(|| format!("{user} in {conversation}: regions say {said:?}"))
}
