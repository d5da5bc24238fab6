//! Bytes that openraft and serde decide are kept as they are: an upgrade that changes them must be seen.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use crate::mesh::{Mesh, region};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A region alone is the same every time. `HEARTH_WRITE_GOLDEN=1` writes the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_entries_and_votes_keep_their_bytes() {
    let mesh = Mesh::start(&["eu"], Duration::ZERO).await;
    mesh.all_hold_leases().await;
    let store = mesh.stores[&region("eu")].0.stores().map;
    let keys: [(&str, &'static [u8]); 5] = [
        ("founding", b"l\0\0\0\0\0\0\0\0"),
        ("blank", b"l\0\0\0\0\0\0\0\x01"),
        ("found", b"l\0\0\0\0\0\0\0\x02"),
        ("vote", b"vote"),
        ("self", b"self"),
    ];
    let mut lines = String::new();
    for (name, key) in keys {
        let value = store.get(Bytes::from_static(key)).await.expect("reads").expect("it is there");
        lines.push_str(&format!("{name} {}\n", hex(&value)));
    }
    mesh.stop().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/map/golden.txt");
    if std::env::var_os("HEARTH_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &lines).expect("the golden file can be written");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("the golden file is there"), lines);
}
