//! Who joins a channel above the fan-out threshold: over real sockets, from two regions at once, with a home that is
//! killed in between.

use std::collections::BTreeMap;
use std::time::Duration;

use chaos_tests::{Mesh, new_id, until, web};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Longest wait for a failover: the time out of reach, the lapse of a lease, and a busy machine.
const FAILED_OVER: Duration = Duration::from_secs(60);
/// Members of the channel at its creation: above the threshold of 100.
const MEMBERS: usize = 120;

/// A request to add a user, under a key of its own.
#[derive(Clone, Debug)]
struct Join {
    user: String,
    key: String,
}

fn joins(prefix: &str, count: usize) -> Vec<Join> {
    (0..count).map(|number| Join { user: format!("{prefix}{number}"), key: new_id() }).collect()
}

/// Asks for it at a region; `None` when no answer came.
async fn ask(mesh: &Mesh, token: &str, region: usize, path: &str, join: &Join) -> Option<web::Answer> {
    let (base, body) = (&mesh.regions[region].http, json!({ "userIds": [join.user] }));
    let key = [("Idempotency-Key", join.key.as_str())];
    web::try_call(None, base, "POST", path, Some(body), Some(token), &key).await.ok()
}

/// The rows that add members, and how often each user was added.
fn added(rows: &[Value]) -> (usize, BTreeMap<String, usize>) {
    let adds = rows.iter().filter(|row| row["change"]["action"] == "add" && row["kind"] == "member");
    let (mut entries, mut users) = (0, BTreeMap::new());
    for row in adds {
        entries += 1;
        for user in row["change"]["userIds"].as_array().expect("users") {
            *users.entry(user.as_str().expect("a user").to_owned()).or_default() += 1;
        }
    }
    (entries, users)
}

/// A channel of ann's with its home at the first region, which every region knows.
async fn channel(mesh: &Mesh) -> String {
    let names: Vec<String> = (0..MEMBERS).map(|number| format!("member{number}")).collect();
    let body = json!({ "name": "news", "type": "channel", "participantIds": names });
    let made = mesh.rest("ann", 0, "POST", "/api/v1/groups", Some(body)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let channel = made.body["conversationId"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/conversations/{channel}");
    until("every region knows the channel", FAILED_OVER, || async {
        let known = [0, 1, 2].map(|region| mesh.rest("ann", region, "GET", &path, None));
        join_all(known).await.iter().all(|answer| answer.status == 200)
    })
    .await;
    channel
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_a_channel_within_a_second_shares_an_entry_and_a_killed_home_adds_nobody_twice() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s"]).await;
    let channel = channel(&mesh).await;
    let path = format!("/api/v1/conversations/{channel}/members");
    let token = mesh.token("ann", 0).await;

    let first = joins("first", 30);
    let asked = first.iter().enumerate().map(|(number, join)| ask(&mesh, &token, number % 2, &path, join));
    for answer in join_all(asked).await {
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.body["memberCount"].as_u64().is_some_and(|count| count > MEMBERS as u64), "{answer:?}");
    }
    let (entries, users) = added(&mesh.agreed("ann", &[0, 1, 2], &channel, 1).await);
    assert!((1..=3).contains(&entries), "{entries} entries of 30 requests, in a second or two");
    assert_eq!(users, first.iter().map(|join| (join.user.clone(), 1)).collect());

    // One goes again; then the home dies while others wait for their second.
    let gone = &first[7];
    let removed = mesh.rest("ann", 1, "DELETE", &format!("{path}/{}", gone.user), None).await;
    assert_eq!(removed.status, 204, "{removed:?}");
    let second = joins("second", 20);
    let waiting = second.iter().enumerate().map(|(number, join)| ask(&mesh, &token, 1 + number % 2, &path, join));
    let killed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        kill(Pid::from_raw(mesh.regions[0].pid.expect("a process")), Signal::SIGKILL).expect("a signal");
    };
    let (answers, ()) = tokio::join!(join_all(waiting), killed);
    let told = answers.iter().flatten().filter(|answer| answer.status == 200).count();
    println!("{told} of {} were answered before the home died", second.len());
    for (number, join) in second.iter().chain([gone]).enumerate() {
        until("the next home has it", FAILED_OVER, || async {
            ask(&mesh, &token, 1 + number % 2, &path, join).await.is_some_and(|answer| answer.status == 200)
        })
        .await;
    }
    mesh.start_region(0).await;
    let wanted: BTreeMap<String, usize> = first.iter().chain(&second).map(|join| (join.user.clone(), 1)).collect();
    until("every region has each once", FAILED_OVER, || async {
        for region in 0..3 {
            match mesh.try_history("ann", region, &channel).await {
                Ok(rows) if added(&rows).1 == wanted => {}
                Ok(rows) => {
                    assert!(added(&rows).1.values().all(|times| *times == 1), "added twice: {:?}", added(&rows));
                    return false;
                }
                Err(_) => return false,
            }
        }
        true
    })
    .await;
    let members = mesh.rest("ann", 2, "GET", &format!("{path}?limit=1000"), None).await;
    let there: Vec<&str> = members.body["members"]
        .as_array()
        .expect("members")
        .iter()
        .filter_map(|member| member["userId"].as_str())
        .collect();
    assert!(!there.contains(&gone.user.as_str()), "a late retry added who had been removed");
    assert_eq!(there.len(), 1 + MEMBERS + 30 - 1 + 20);
    mesh.end().await;
}
