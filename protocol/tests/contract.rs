//! The machine-readable contract against the types and the code that reads frames. `HEARTH_WRITE_CONTRACT=1` writes
//! it anew.
#![cfg(feature = "schema")]

use std::collections::BTreeSet;
use std::path::Path;

use hearth_protocol::client::{FrameError, FrameLimits, ServerFrame, parse_client_frame};
use hearth_protocol::contract::{ASYNCAPI, CLIENT_FRAMES, OPENAPI, SERVER_FRAMES, asyncapi, openapi};
use serde_json::Value;

fn is_made_from_the_types(name: &str, checked_in: &str, made: &Value) {
    let text = format!("{made:#}\n");
    if std::env::var_os("HEARTH_WRITE_CONTRACT").is_some() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract").join(name);
        std::fs::write(&file, &text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    } else {
        assert!(text == checked_in, "{name} is not what the types say: run this test with HEARTH_WRITE_CONTRACT=1");
    }
}

#[test]
fn the_checked_in_documents_are_what_the_types_say() {
    is_made_from_the_types("openapi.json", OPENAPI, &openapi());
    is_made_from_the_types("asyncapi.json", ASYNCAPI, &asyncapi());
}

/// The types of frames that a source file names before `=>` or gives to a writer.
fn named(source: &str, from: &str, to: &str) -> BTreeSet<String> {
    let part = source.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(part, _)| part);
    let arms = part.expect("the function is there").lines().filter_map(|line| line.split_once("=>"));
    let patterns = arms.map(|(pattern, _)| pattern.trim()).filter(|pattern| pattern.starts_with('"'));
    patterns.flat_map(|pattern| pattern.split('|').map(|name| name.trim().trim_matches('"').to_owned())).collect()
}

#[test]
fn the_contract_names_every_frame_that_clients_may_send_and_no_other() {
    let mut read = named(include_str!("../src/client/from_client.rs"), "fn parse_payload", "\n}\n");
    read.retain(|kind| {
        let frame = format!("{{\"type\":\"{kind}\"}}");
        let (_, parsed) = parse_client_frame(frame.as_bytes(), &FrameLimits::default());
        !matches!(parsed, Err(FrameError::Refused(refusal)) if refusal.message.contains("not served"))
    });
    let told: BTreeSet<String> = CLIENT_FRAMES.iter().map(|frame| frame.kind.to_owned()).collect();
    assert_eq!(told, read);
}

#[test]
fn the_contract_names_every_frame_that_edges_send_and_no_other() {
    let read = named(include_str!("../src/client/from_server.rs"), "pub fn parse", "\n    }\n}\n");
    let told: BTreeSet<String> = SERVER_FRAMES.iter().map(|frame| frame.kind.to_owned()).collect();
    assert_eq!(told, read);
    for kind in told {
        let known = ServerFrame::parse(&format!("{{\"type\":\"{kind}\",\"payload\":{{}}}}"));
        assert!(!matches!(known, Ok((_, None))), "{kind} is not read");
    }
}
