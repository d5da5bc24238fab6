//! A region whose disk is replaced: what its new store holds counts once it has caught up, and then as before.

use std::time::Duration;

use chaos_tests::{Mesh, Peer, until};
use serde_json::json;

const CAUGHT_UP: Duration = Duration::from_secs(60);
const REPLACED: Duration = Duration::from_secs(30);
const MESSAGES: usize = 20;

/// Whether the region holds a lease and everything that it votes for counts.
async fn counts(mesh: &Mesh, region: usize) -> bool {
    let leased = mesh.metric(region, "hearth_lease_seconds", "").await > 0.0;
    leased && mesh.metric(region, "hearth_home_joining", "").await == 0.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_starts_over_an_empty_disk_catches_up_and_keeps_what_was_acked_when_the_next_region_dies() {
    let mesh = Mesh::quick(&["--processes", "--failover-after", "3s"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let path = format!("/api/v1/conversations/{group}");
    let changed = mesh.rest("ann", 0, "PATCH", &path, Some(json!({ "durability": "majority" }))).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let cem = Peer::connect(&mesh, "cem", 2).await;
    for number in 0..MESSAGES {
        cem.say(&group, &format!("before a disk was replaced, {number}")).await;
    }

    mesh.stop_region(1).await;
    let folder = mesh.data().join("regions").join(&mesh.regions[1].id);
    std::fs::remove_dir_all(folder.join("store")).expect("its store is there");
    mesh.start_region(1).await;
    until("its copies count again", CAUGHT_UP, || counts(&mesh, 1)).await;

    cem.say(&group, "after a disk was replaced").await;
    mesh.stop_region(0).await;
    let after = cem.send(&group, "after the home was gone").await;
    cem.acked_within(&after, REPLACED).await;
    // Without what the new store was given, the two that live would not have known the end of the line.
    let rows = mesh.agreed("cem", &[1, 2], &group, MESSAGES + 2).await;
    assert_eq!(rows.iter().filter(|row| row["kind"] == "message").count(), MESSAGES + 2);
    mesh.start_region(0).await;
    mesh.agreed("ann", &[0, 1, 2], &group, MESSAGES + 2).await;
    drop(cem);
    mesh.end().await;
}
