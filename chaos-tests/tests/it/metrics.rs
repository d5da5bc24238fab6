//! What `/metrics` shows is what `docs/operating.md` says, and the other way round.

use std::collections::BTreeMap;
use std::path::Path;

use chaos_tests::{Mesh, Peer};

/// Families of a scrape with their types: a counter under the name of its samples.
fn scraped(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families = lines.filter_map(|line| line.split_once(' ')).map(|(name, kind)| {
        let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
        (name, kind.to_owned())
    });
    families.collect()
}

/// Families of the table in the document, with their types.
fn documented() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `hearth_"));
    let families = rows.map(|row| {
        let mut cells = row.split('|').map(str::trim);
        let name = cells.next().unwrap_or_default().trim_end_matches('`');
        (format!("hearth_{name}"), cells.next().unwrap_or_default().to_owned())
    });
    families.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_families_of_a_scrape_are_those_of_the_documentation_with_their_types_and_units() {
    let mesh = Mesh::quick(&[]).await;
    let group = mesh.group("ann", 0, &["bob"]).await;
    let (ann, bob) = (Peer::connect(&mesh, "ann", 0).await, Peer::connect(&mesh, "bob", 1).await);
    ann.say(&group, "for the metrics").await;
    bob.expect("message.new", |_| true).await;
    for region in 0..mesh.regions.len() {
        let text = mesh.plain(region, "GET", "/metrics", None).await.text;
        let families = scraped(&text);
        assert_eq!(families, documented(), "region {region}: left is the scrape, right docs/operating.md");
        for (name, kind) in &families {
            assert!(name.starts_with("hearth_"), "{name}");
            assert!(!name.contains("microseconds") && !name.contains("milliseconds"), "{name} is in base units");
            assert!(kind != "histogram" || name.ends_with("_seconds") || name.ends_with("_batch"), "{name}");
        }
        let from = format!("from=\"{}\"", mesh.regions[region].id);
        let links = text.lines().filter(|line| line.starts_with("hearth_link_bytes_total{") && line.contains(&from));
        assert_eq!(links.count(), 2, "bytes of each link by direction");
    }
    for counter in ["hearth_store_commit_seconds_total", "hearth_store_bytes_total"] {
        assert!(mesh.metric(0, counter, "").await > 0.0, "{counter}");
    }
    assert_eq!(mesh.metric(0, "hearth_store_requests_total", "").await, 0.0, "its store is in no server");
    drop((ann, bob));
    mesh.end().await;
}
