//! A data folder that the first release made: a later binary reads it, or refuses it with the command to type.
//!
//! `tests/fixtures/data-1.tar.gz` was made by `HEARTH_MAKE_FIXTURE=1 cargo test --test fixture`.

use std::path::{Path, PathBuf};

use chaos_tests::mesh::QUICK;
use chaos_tests::{Mesh, Peer, Setup, shell};

fn archive() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data-1.tar.gz")
}

const TEXTS: [&str; 3] = ["the first words", "an answer from another region", "a word at level majority"];

async fn make() {
    let mesh = Mesh::quick(&["--fresh"]).await;
    let group = mesh.group("ann", 0, &["bob", "cem"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    ann.say(&group, TEXTS[0]).await;
    bob.say(&group, TEXTS[1]).await;
    let sent = ann
        .send_payload(serde_json::json!({
            "messageId": chaos_tests::new_id(), "conversationId": group,
            "content": {"type": "text", "text": TEXTS[2]}, "durability": "majority",
        }))
        .await;
    ann.acked(&sent).await;
    mesh.agreed("ann", &[0, 1, 2], &group, 3).await;
    let data = mesh.data();
    // A copy of the folder as a crash leaves it; sockets and ports of the run are no part of it.
    let archive = archive();
    let script = format!(
        "cd {} && tar --sparse --exclude=./lock --exclude=./mesh.json -czf {} .",
        data.display(),
        archive.display()
    );
    shell(&script);
    mesh.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_of_the_first_release_is_read_with_every_message() {
    if std::env::var_os("HEARTH_MAKE_FIXTURE").is_some() {
        make().await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    shell(&format!("tar -xzf {} -C {}", archive().display(), folder.path().display()));
    let mesh = Mesh::with(Setup { arguments: &QUICK, data: Some(folder.path()), ..Setup::default() }).await;
    let feed = mesh.rest("ann", 2, "GET", "/api/v1/conversations", None).await;
    let group = feed.body["conversations"][0]["conversationId"].as_str().expect("the group").to_owned();
    for region in 0..3 {
        let rows = mesh.history("bob", region, &group).await;
        let texts: Vec<&str> = rows.iter().filter_map(|row| row["content"]["text"].as_str()).collect();
        assert_eq!(texts, TEXTS, "region {region}");
    }
    // And it goes on: the next number is the next one.
    let ann = Peer::connect(&mesh, "ann", 0).await;
    assert_eq!(ann.say(&group, "after the upgrade").await["sequenceNumber"], 4);
    mesh.end().await;
}
