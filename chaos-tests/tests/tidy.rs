//! Rules that the compiler does not know: arrows between packages, names that only one place may use, sizes, links in
//! documents. Every failure names the file and what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a function and of a file. The lists below hold what was longer when the rule came, with its length then:
/// an entry may shrink or go, and none may be added.
const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 600;
const LONG_FUNCTIONS: [(&str, &str, usize); 1] = [("client/src/bench/report.rs", "table", 71)];
const LONG_FILES: [(&str, usize); 0] = [];

/// Which of our packages each package may name, development dependencies included (ARCHITECTURE.md).
const ARROWS: [(&str, &[&str]); 17] = [
    ("hearth", &["hearth-mesh", "hearth-client", "hearth-config", "hearth-protocol", "simulation", "chaos-tests"]),
    (
        "chaos-tests",
        &["hearth-mesh", "hearth-client", "hearth-config", "hearth-protocol", "region-model", "simulation"],
    ),
    ("simulation", &["region-model", "hearth-protocol"]),
    (
        "hearth-mesh",
        &[
            "edge-gateway",
            "region-core",
            "region-store",
            "region-cql",
            "region-postgres",
            "region-model",
            "region-map",
            "region-push",
            "region-media",
            "replication",
            "hearth-config",
            "hearth-protocol",
        ],
    ),
    ("hearth-client", &["hearth-protocol"]),
    ("edge-gateway", &["region-core", "hearth-protocol", "hearth-config"]),
    ("region-core", &["region-model", "region-store", "replication", "hearth-protocol", "hearth-config"]),
    ("region-store", &["region-model", "hearth-protocol"]),
    ("region-cql", &["region-model", "hearth-protocol"]),
    ("region-postgres", &["region-model", "region-store", "hearth-protocol"]),
    ("region-map", &["region-model", "region-store", "hearth-protocol"]),
    ("region-push", &["region-model", "hearth-protocol"]),
    ("region-media", &["region-model", "hearth-protocol"]),
    ("region-model", &["hearth-protocol"]),
    ("replication", &["hearth-protocol", "hearth-config"]),
    ("hearth-config", &["hearth-protocol"]),
    ("hearth-protocol", &[]),
];

/// Packages that a pure package may not use outside its tests: they bring sockets, clocks, entropy or a runtime.
const IMPURE: [&str; 12] = [
    "tokio",
    "tokio-util",
    "quinn",
    "rustls",
    "rand",
    "getrandom",
    "axum",
    "hyper",
    "reqwest",
    "fjall",
    "scylla",
    "tokio-postgres",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Files of the project by their path from the root; build output and hidden folders are left out, but not `.ci`.
fn files(extensions: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(&folder).expect("the folder can be read") {
            let path = file.expect("the folder can be read").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                let own = !name.starts_with('.') || name == ".ci";
                if own && !["target", "node_modules", "__pycache__"].contains(&name.as_str()) {
                    folders.push(path);
                }
                continue;
            }
            let extension = path.extension().map_or("", |extension| extension.to_str().unwrap_or(""));
            if extensions.contains(&extension) {
                let short = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.insert(short, fs::read_to_string(&path).expect("the file is UTF-8"));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The manifests: package name to (path, names in `[dependencies]`, names in `[dev-dependencies]`).
fn manifests() -> BTreeMap<String, (String, BTreeSet<String>, BTreeSet<String>)> {
    let mut packages = BTreeMap::new();
    for (path, text) in files(&["toml"]).into_iter().filter(|(path, _)| path.ends_with("Cargo.toml")) {
        let (mut section, mut name) = ("", String::new());
        let (mut normal, mut dev) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']);
            } else if section == "package" && line.starts_with("name = ") {
                name = line.trim_start_matches("name = ").trim_matches('"').to_owned();
            } else if let Some((key, _)) = line.split_once(['.', ' ', '=']).filter(|(key, _)| !key.starts_with('#')) {
                match section {
                    "dependencies" | "build-dependencies" => normal.insert(key.to_owned()),
                    "dev-dependencies" => dev.insert(key.to_owned()),
                    _ => false,
                };
            }
        }
        packages.insert(name, (path, normal, dev));
    }
    packages
}

#[test]
fn packages_depend_on_each_other_as_the_architecture_says() {
    let packages = manifests();
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    let ours: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(ours, arrows.keys().copied().collect(), "ARROWS lists every package of the workspace");
    for (name, (path, normal, dev)) in &packages {
        for dependency in normal.union(dev).filter(|dependency| ours.contains(dependency.as_str())) {
            assert!(arrows[name.as_str()].contains(&dependency.as_str()), "{path}: {name} may not use {dependency}");
        }
    }
}

#[test]
fn pure_packages_bring_no_socket_clock_entropy_or_runtime() {
    let packages = manifests();
    for name in ["hearth-protocol", "region-model", "simulation"] {
        let (path, normal, _) = &packages[name];
        for dependency in IMPURE {
            assert!(!normal.contains(dependency), "{path}: {name} is pure and may not use {dependency}");
        }
    }
    for (path, text) in files(&["rs"]) {
        if path.starts_with("protocol/src") || path.starts_with("region-core/model/src") {
            for forbidden in ["Instant::now", "SystemTime::now", "std::net::", "std::thread::", "Uuid::new_v4"] {
                assert!(!text.contains(forbidden), "{path} is pure: {forbidden} belongs into a shell");
            }
        }
    }
}

/// Each rule: a word in code, and where it may stand. Tests may name anything.
#[test]
fn only_one_place_names_each_foreign_thing() {
    let rules: [(&str, &[&str]); 8] = [
        ("quinn::", &["replication/src/", "edge-gateway/src/webtransport_server.rs", "edge-gateway/src/transport/"]),
        ("wtransport::", &["edge-gateway/src/webtransport_server.rs", "edge-gateway/src/transport/", "client/src/"]),
        ("tungstenite::", &["edge-gateway/src/transport/", "client/src/", "chaos-tests/src/"]),
        ("fjall::", &["region-core/store/src/"]),
        ("scylla::", &["region-core/cql/"]),
        ("tokio_postgres::", &["region-core/postgres/"]),
        ("deadpool_postgres::", &["region-core/postgres/"]),
        ("openraft::", &["region-core/map/src/"]),
    ];
    for (path, text) in files(&["rs"]).into_iter().filter(|(path, _)| !is_test(path)) {
        for (word, places) in &rules {
            let used = text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word));
            assert!(!used || places.iter().any(|place| path.starts_with(place)), "{path} may not name {word}");
        }
        let transports = text.contains("wtransport::") || text.contains("tungstenite::");
        let client_shell = path.starts_with("client/src/transport/") || path.starts_with("client/src/mock/");
        assert!(
            !path.starts_with("client/") || !transports || client_shell,
            "{path}: client/src/transport names these"
        );
    }
}

/// The simulator implements ports over the code that ships: it decides nothing by what a frame, an entry or a refusal
/// says. It may make such values, and never matches one.
#[test]
fn the_simulator_matches_no_protocol_enum() {
    let mut enums = BTreeSet::new();
    for (_, text) in files(&["rs"]).into_iter().filter(|(path, _)| path.starts_with("protocol/src/")) {
        enums.extend(
            text.lines()
                .filter_map(|line| line.trim_start().strip_prefix("pub enum "))
                .filter_map(|rest| rest.split([' ', '<', '{']).next().map(str::to_owned)),
        );
    }
    assert!(enums.contains("Body") && enums.contains("EntryKind") && enums.len() > 10, "{enums:?}");
    for (path, text) in files(&["rs"]).into_iter().filter(|(path, _)| path.starts_with("simulation/src/")) {
        for line in text.lines() {
            let arm = line.split_once("=>").map(|(pattern, _)| pattern);
            let matched = line.split_once("matches!(").map(|(_, rest)| rest);
            let bound =
                line.split_once("let ").and_then(|(_, rest)| rest.split_once(" = ")).map(|(pattern, _)| pattern);
            let pattern = arm.or(matched).or(bound).unwrap_or_default();
            let named = enums.iter().find(|name| pattern.contains(&format!("{name}::")));
            assert!(named.is_none(), "{path} matches {named:?}: that belongs into region-model\n{line}");
        }
    }
}

#[test]
fn the_store_commits_in_one_function() {
    let commits: Vec<String> = files(&["rs"])
        .into_iter()
        .filter(|(path, _)| path.starts_with("region-core/store/src/"))
        .flat_map(|(path, text)| std::iter::repeat_n(path, text.matches(".commit()").count()))
        .collect();
    assert_eq!(
        commits,
        ["region-core/store/src/embedded/batch.rs"],
        "a commit without a sync must have no second door"
    );
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.contains("/mock/")
}

/// Name and length of each function, from its `fn` line to the brace at the same indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        let mut words = line.trim_start().split([' ', '(', '<']).skip_while(|word| {
            matches!(*word, "pub" | "crate)" | "super)" | "async" | "const" | "") || word.starts_with("in ")
        });
        if words.next() != Some("fn") || !line.ends_with(['{', '(', '>', ',']) {
            continue;
        }
        let close = format!("{indentation}}}");
        let length = lines[at..].iter().position(|later| **later == close).map_or(0, |offset| offset + 1);
        found.push((words.next().unwrap_or("").to_owned(), length));
    }
    found
}

#[test]
fn functions_and_files_are_short_and_the_exceptions_only_shrink() {
    let mut seen_functions = BTreeMap::new();
    let mut seen_files = BTreeMap::new();
    for (path, text) in files(&["rs"]) {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            seen_files.insert(path.clone(), lines);
        }
        for (name, length) in functions(&text).into_iter().filter(|(_, length)| *length > FUNCTION_LINES) {
            seen_functions.insert((path.clone(), name), length);
        }
    }
    for ((path, name), length) in seen_functions {
        let allowed = LONG_FUNCTIONS.iter().find(|entry| entry.0 == path && entry.1 == name).map(|entry| entry.2);
        assert!(
            allowed.is_some_and(|most| length <= most),
            "{path}: {name} has {length} lines, {FUNCTION_LINES} at most"
        );
    }
    for (path, lines) in seen_files {
        let allowed = LONG_FILES.iter().find(|entry| entry.0 == path).map(|entry| entry.1);
        assert!(allowed.is_some_and(|most| lines <= most), "{path} has {lines} lines, {FILE_LINES} at most");
    }
}

#[test]
fn nothing_is_left_for_later_in_the_sources() {
    // Put together here, so that this file does not contain them.
    let words = [["TO", "DO"], ["FIX", "ME"], ["unimple", "mented!("], ["to", "do!("]].map(|parts| parts.concat());
    for (path, text) in files(&["rs", "md", "toml", "js", "mjs", "py"]) {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{path} contains {word}");
        }
    }
}

#[test]
fn no_file_names_a_registry_or_a_path_of_one_machine() {
    let hosts =
        [["crates", ".io"], ["npmjs", ".org"], ["pypi", ".org"], ["deb.debian", ".org"], ["proxy.golang", ".org"]]
            .map(|parts| parts.concat());
    let paths = [["/ro", "ot/"], ["/ho", "me/"], ["/wo", "rk/"]].map(|parts| parts.concat());
    for (path, text) in files(&["rs", "md", "toml", "js", "mjs", "py", "json", "txt", "html", "css"]) {
        let host = hosts.iter().find(|host| text.contains(host.as_str()));
        assert!(host.is_none(), "{path} names {host:?}: packages are named, registries are not");
        let absolute = paths.iter().find(|absolute| text.contains(&format!("\"{absolute}")));
        assert!(absolute.is_none(), "{path} has a path that begins with {absolute:?}");
    }
}

/// Targets of `[text](target)` outside code blocks.
fn links(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            if let Some(target) = line[at + 2..].split(')').next() {
                found.push(target.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_link_in_a_document_leads_to_a_file() {
    for (path, text) in files(&["md"]) {
        let folder = root().join(&path).parent().expect("a folder").to_owned();
        for target in links(&text).into_iter().filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or("").to_owned();
            assert!(folder.join(&file).exists(), "{path}: nothing is at {target}");
        }
    }
}

#[test]
fn the_architecture_names_every_package() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("it is there");
    for name in manifests().keys() {
        assert!(text.contains(&format!("`{name}`")), "ARCHITECTURE.md does not list {name}");
    }
}

#[test]
fn every_test_that_a_document_names_exists() {
    let sources: Vec<String> = files(&["rs"]).into_values().collect();
    for (document, least) in [("docs/guarantees.md", 30), ("docs/development-mesh.md", 15)] {
        let text = fs::read_to_string(root().join(document)).expect("it is there");
        let is_name = |word: &&str| {
            let plain = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            plain && word.matches('_').count() > 3
        };
        let names: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
        for name in &names {
            let definition = format!("fn {name}(");
            let defined = sources.iter().any(|source| source.contains(&definition));
            assert!(defined, "{document} names {name}, which is not there");
        }
        assert!(names.len() > least, "{document} names {} tests", names.len());
    }
}
