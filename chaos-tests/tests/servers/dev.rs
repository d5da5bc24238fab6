//! The development mesh over servers.

use std::path::Path;

use chaos_tests::mesh::QUICK;
use chaos_tests::{Mesh, Peer, Setup, run};
use serde_json::Value;

use crate::projection::{connect, schemas, until_projected};
use crate::texts;

fn remembered(data: &Path) -> String {
    std::fs::read_to_string(data.join("stores.json")).expect("the folder remembers its servers")
}

/// The id that the names of a folder carry in servers.
fn id(data: &Path) -> String {
    let remembered: Value = serde_json::from_str(&remembered(data)).expect("JSON");
    remembered["id"].as_str().expect("an id").to_owned()
}

async fn says(mesh: &Mesh, user: &str, region: usize, group: &str, text: &str) {
    let peer = Peer::connect(mesh, user, region).await;
    peer.say(group, text).await;
}

async fn history(mesh: &Mesh, region: usize, group: &str) -> Vec<String> {
    texts(&mesh.history("ann", region, group).await).into_iter().map(str::to_owned).collect()
}

/// A mesh of two regions over servers, on a folder or a new one.
async fn over_servers(data: Option<&Path>, more: &[&str]) -> Mesh {
    let flags = ["--stores", "production", "--regions", "eu-west,us-east"];
    let arguments = [&QUICK[..], &flags, more].concat();
    Mesh::with(Setup { arguments: &arguments, data, ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_over_servers_keeps_what_was_acked_over_a_kill_and_fresh_drops_its_keyspaces_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let other = over_servers(None, &[]).await;
    let kept = other.group("ann", 0, &["bob"]).await;
    says(&other, "ann", 1, &kept, "of another folder").await;

    let mut mesh = over_servers(Some(&data), &[]).await;
    let first = id(&data);
    let metadata = connect().await;
    assert_ne!(first, id(&other.data()), "each folder has names of its own");
    let group = mesh.group("ann", 0, &["bob"]).await;
    says(&mesh, "ann", 1, &group, "before the kill").await;
    for region in ["eu_west", "us_east"] {
        until_projected(&metadata, &format!("dev_{first}_{region}"), &group, (&["ann", "bob"], 1)).await;
    }
    mesh.kill().await;
    mesh.restart().await;
    says(&mesh, "bob", 0, &group, "after it").await;
    assert_eq!(history(&mesh, 0, &group).await, ["before the kill", "after it"]);
    mesh.end().await;

    // Its stores are in servers, and stay there.
    let path = data.to_string_lossy().into_owned();
    let exit = run(&["dev", "--json", "--port", "0", "--data", &path]).await;
    assert_eq!(exit.code, 2, "{exit:?}");
    assert!(exit.out.contains("--stores production"), "{exit:?}");

    let emptied = over_servers(Some(&data), &["--fresh"]).await;
    let second = id(&data);
    assert_ne!(first, second);
    assert_eq!(schemas(&metadata, &first).await, 0, "its metadata went with it");
    let answer = emptied.try_history("ann", 0, &group).await;
    assert!(answer.is_err_and(|answer| answer.status == 404), "what was there is gone");
    emptied.end().await;
    // Under the name of before there is nothing: one who starts there finds an empty keyspace.
    std::fs::write(data.join("stores.json"), remembered(&data).replace(&second, &first)).expect("written");
    let again = over_servers(Some(&data), &[]).await;
    let answer = again.try_history("ann", 0, &group).await;
    assert!(answer.is_err_and(|answer| answer.status == 404), "the keyspaces of before were dropped");
    again.end().await;

    assert_eq!(history(&other, 1, &kept).await, ["of another folder"]);
    assert_eq!(schemas(&metadata, &id(&other.data())).await, 2, "and no other's");
    other.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_whose_servers_do_not_answer_does_not_start_and_says_what_to_type() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data").to_string_lossy().into_owned();
    // Nobody listens at the port for discarding.
    let flags = ["--stores", "production", "--cassandra", "127.0.0.1:9"];
    let exit = run(&[&["dev", "--json", "--port", "0", "--data", &data][..], &flags].concat()).await;
    assert_eq!(exit.code, 70, "{exit:?}");
    assert!(exit.out.contains("./services up cassandra") && exit.out.contains("127.0.0.1:9"), "{exit:?}");
}
