//! No bytes make a decoder panic: whatever a peer, a client or a bad disk hands over is refused or read.

use bytes::Bytes;
use hearth_protocol::client::{FrameLimits, ServerFrame, parse_client_frame};
use hearth_protocol::mesh::MeshFrame;
use hearth_protocol::record::{
    DedupRecord, LogRecord, MediaRecord, MediaScanRecord, OutboxRecord, ParkedSend, PushJobRecord, PushRecord, Record,
    StoreIdentity,
};
use hearth_protocol::{Change, Header, LogId, Placement, SealedEntry};
use proptest::prelude::*;
use prost::Message as _;

fn decode_everything(bytes: &[u8]) {
    let _ = SealedEntry::decode(Bytes::copy_from_slice(bytes));
    let _ = Change::decode(bytes);
    let _ = hearth_protocol::joins::decode_joins(bytes);
    let _ = Header::decode(bytes);
    let _ = LogRecord::decode(bytes);
    let _ = DedupRecord::decode(bytes);
    let _ = ParkedSend::decode(bytes);
    let _ = OutboxRecord::decode(bytes);
    let _ = StoreIdentity::decode(bytes);
    let _ = PushRecord::decode(bytes);
    let _ = PushJobRecord::decode(bytes);
    let _ = MediaRecord::decode(bytes);
    let _ = MediaScanRecord::decode(bytes);
    let _ = <Placement as Record>::decode(bytes);
    let _ = LogId::from_bytes(bytes);
    let _ = MeshFrame::decode(bytes);
    let _ = parse_client_frame(bytes, &FrameLimits::default());
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ServerFrame::parse(text);
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

fn golden_bytes() -> Vec<Vec<u8>> {
    let hex_files = [
        include_str!("entries.txt"),
        include_str!("changes.txt"),
        include_str!("headers.txt"),
        include_str!("records.txt"),
        include_str!("mesh_frames.txt"),
    ];
    let json_files = [include_str!("frames_of_clients.txt"), include_str!("frames_of_edges.txt")];
    let hex = hex_files.iter().flat_map(|file| file.lines()).filter_map(|line| line.split(' ').nth(1)).map(unhex);
    let json = json_files.iter().flat_map(|file| file.lines()).filter_map(|line| line.split_once(' '));
    hex.chain(json.map(|(_, text)| text.as_bytes().to_vec())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_decoder_panics_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_everything(&bytes);
        let mut versioned = bytes;
        versioned.insert(0, 1);
        decode_everything(&versioned);
    }

    #[test]
    fn no_decoder_panics_on_golden_bytes_that_were_damaged(
        pick in any::<prop::sample::Index>(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let all = golden_bytes();
        let mut bytes = pick.get(&all).clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        decode_everything(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        decode_everything(&bytes);
    }
}
