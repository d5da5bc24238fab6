//! Frames between regions: prost bytes, their tags for good.

use bytes::Bytes;
use hearth_protocol::mesh::{
    self, Ack, Answer, ApiCall, Append, Appended, Begin, Body, Follow, Forward, Length, Lengths, MapAsk, MapTell,
    MeshFrame, Opening, Pull, Pulled, Question, Refusals, Refused, Request, Response, Seal, Sealed,
};
use prost::Message as _;

use crate::sample::{check, hex, log, time, uuid};

fn log_bytes() -> Bytes {
    Bytes::copy_from_slice(&log().to_bytes())
}

fn answers() -> Vec<(&'static str, Body)> {
    let ack = Ack {
        epoch: 2,
        sequence: 300,
        time: 1_790_000_000_123,
        home: "eu-west".to_owned(),
        level: 2,
        regions: vec!["eu-west".to_owned(), "us-east".to_owned()],
        duplicate: true,
    };
    let refused = Refused {
        error: "OVERLOADED".to_owned(),
        message: "full".to_owned(),
        retry_after: 5,
        limit: "10000 parked".to_owned(),
    };
    let answer = Answer { forward_id: 7, ..Answer::default() };
    vec![
        ("answer-ack", Body::Answer(Answer { ack: Some(ack), ..answer.clone() })),
        ("answer-refused", Body::Answer(Answer { refused: Some(refused), ..answer.clone() })),
        ("answer-copies-missing", Body::Answer(Answer { copies_missing: true, ..answer })),
    ]
}

fn logs() -> Vec<(&'static str, Body)> {
    let append = Append {
        log: log_bytes(),
        epoch: 2,
        opening: 100,
        opening_hash: Bytes::from_static(&[9; 32]),
        first: 300,
        entries: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        mark: 299,
        voters: vec!["eu-west".to_owned(), "us-east".to_owned()],
        ..Append::default()
    };
    let mark =
        Append { entries: Vec::new(), voters: Vec::new(), previous: Bytes::from_static(&[7; 32]), ..append.clone() };
    let length = Length { log: log_bytes(), epoch: 2, length: 301, hash: Bytes::from_static(&[8; 32]), mark: 299 };
    let appended =
        Appended { log: log_bytes(), accepted: 2, length: 301, resend: true, fork: true, ..Appended::default() };
    let follow = Follow { log: log_bytes(), length: 301, unfollow: true, fresh: false, accepted: 0 };
    let begin = Begin { view: Bytes::from_static(b"view"), epoch: 2, time: 1_790_000_000_123, openings: Vec::new() };
    let opening = Opening { epoch: 1, first: 0, previous: Bytes::from_static(&[0; 32]), loss: false };
    let opened = Opening { epoch: 2, first: 120, previous: Bytes::from_static(&[6; 32]), loss: true };
    let begin_told = Begin { openings: vec![opening, opened], ..begin.clone() };
    vec![
        ("append", Body::Append(append)),
        ("append-without-entries", Body::Append(mark.clone())),
        ("appended", Body::Appended(appended.clone())),
        ("appended-above", Body::Appended(Appended { above: 400, ..appended.clone() })),
        ("appended-newer", Body::Appended(Appended { resend: false, fork: false, newer: 3, ..appended.clone() })),
        ("appended-joining", Body::Appended(Appended { resend: false, fork: false, joining: 2, ..appended })),
        ("append-joins", Body::Append(Append { joins: 2, ..mark.clone() })),
        ("lengths", Body::Lengths(Lengths { logs: vec![length] })),
        ("follow", Body::Follow(follow.clone())),
        ("follow-fresh", Body::Follow(Follow { unfollow: false, fresh: true, ..follow.clone() })),
        ("follow-accepted", Body::Follow(Follow { unfollow: false, accepted: 2, ..follow })),
        ("append-begin", Body::Append(Append { begin: Some(begin), ..mark.clone() })),
        ("append-begin-openings", Body::Append(Append { begin: Some(begin_told), ..mark })),
        ("pull", Body::Pull(Pull { log: log_bytes(), from: 100, to: 300 })),
        ("pulled", Body::Pulled(Pulled { log: log_bytes(), to: 300, entries: vec![Bytes::from_static(b"one")] })),
    ]
}

fn seals() -> Vec<(&'static str, Body)> {
    let sealed = Sealed {
        log: log_bytes(),
        epoch: 3,
        accepted: 2,
        length: 301,
        last: Bytes::from_static(&[8; 32]),
        counts: true,
        newer: 0,
    };
    let newer = Sealed { log: log_bytes(), epoch: 3, newer: 4, ..Sealed::default() };
    vec![
        ("seal", Body::Seal(Seal { log: log_bytes(), epoch: 3 })),
        ("sealed", Body::Sealed(sealed)),
        ("sealed-newer", Body::Sealed(newer)),
    ]
}

fn questions() -> Vec<(&'static str, Body)> {
    let asked = |question| Body::Request(Request { request_id: 9, question: Some(question) });
    let call = ApiCall { user: "ann".to_owned(), call: Bytes::from_static(b"{}") };
    let refusals = Refusals {
        user: "ann".to_owned(),
        device: Bytes::copy_from_slice(uuid(3).as_bytes()),
        told: vec![Bytes::copy_from_slice(uuid(2).as_bytes())],
    };
    vec![
        ("request-placement", asked(Question::Placement(log_bytes()))),
        ("request-api", asked(Question::Api(call))),
        ("request-refusals", asked(Question::Refusals(refusals))),
        ("response", Body::Response(Response { request_id: 9, status: 200, body: Bytes::from_static(b"{}") })),
        ("map-ask", Body::MapAsk(MapAsk { request_id: 300, body: Bytes::from_static(b"\x01ask") })),
        ("map-tell", Body::MapTell(MapTell { request_id: 300, body: Bytes::from_static(b"\x01tell") })),
    ]
}

fn frames() -> Vec<(&'static str, Body)> {
    let forward = Forward {
        forward_id: 7,
        log: log_bytes(),
        kind: 1,
        sender: "ann".to_owned(),
        id: Bytes::copy_from_slice(uuid(2).as_bytes()),
        content: Bytes::from_static(br#"{"type":"text","text":"hello"}"#),
        reply_to: Bytes::copy_from_slice(uuid(4).as_bytes()),
        expires_at: 1_790_000_000_123,
        level: 2,
        origin: "us-east".to_owned(),
        parked: false,
        original_time: 0,
        round: 0,
        place: 0,
        target: Bytes::new(),
        joined: 0,
    };
    let target = Bytes::copy_from_slice(uuid(5).as_bytes());
    let edit = Forward { kind: 2, target, ..forward.clone() };
    let parked = Forward { parked: true, ..forward.clone() };
    let in_round = Forward { round: 77, place: 2, ..forward.clone() };
    let under_membership = Forward { joined: 8, ..parked.clone() };
    let tail = Forward { original_time: 1_790_000_000_100, ..parked.clone() };
    let forwards = [
        ("forward", Body::Forward(forward)),
        ("forward-parked", Body::Forward(parked)),
        ("forward-tail", Body::Forward(tail)),
        ("forward-round", Body::Forward(in_round)),
        ("forward-edit", Body::Forward(edit)),
        ("forward-joined", Body::Forward(under_membership)),
    ];
    let logged = seals().into_iter().chain(answers()).chain(logs());
    forwards.into_iter().chain(logged).chain(questions()).chain(receipts()).chain(presence()).chain(push()).collect()
}

fn receipts() -> Vec<(&'static str, Body)> {
    let reached = |epoch, up_to| mesh::Reached { epoch, up_to, at: time().0 };
    let members = vec![mesh::MemberReceipts {
        user: "bob".to_owned(),
        delivered: vec![reached(1, 99), reached(2, 300)],
        read: vec![reached(2, 200)],
    }];
    let log = Bytes::copy_from_slice(&log().to_bytes());
    let told = mesh::Receipts { log: log.clone(), members, ..mesh::Receipts::default() };
    let claimed = mesh::Receipts { claimed: true, ..told.clone() };
    let asked = mesh::Receipts { answer: true, after: "ann".to_owned(), to: "cid".to_owned(), ..told.clone() };
    let typing = mesh::Typing { log: log.clone(), user: "bob".to_owned(), typing: true };
    let digests = mesh::ReceiptDigests { logs: vec![mesh::ReceiptDigest { log, digest: 0x0102_0304_0506_0708 }] };
    vec![
        ("receipts", Body::Receipts(told)),
        ("receipts-asked", Body::Receipts(asked)),
        ("receipts-claimed", Body::Receipts(claimed)),
        ("receipt-digests", Body::ReceiptDigests(digests)),
        ("typing", Body::Typing(typing)),
    ]
}

fn presence() -> Vec<(&'static str, Body)> {
    let incarnation = 0x0102_0304_0506_0708;
    let asks = mesh::Presence {
        incarnation,
        add: vec!["ann".to_owned()],
        drop: vec!["bob".to_owned()],
        whole: vec![mesh::PresenceBucket { bucket: 7, users: vec!["cid".to_owned()] }],
        wanted: vec![3, 63],
        ..mesh::Presence::default()
    };
    let entry = mesh::PresenceEntry {
        user: "ann".to_owned(),
        version: 300,
        status: 1,
        device_type: 3,
        last_seen: time().0,
        hides_last_seen: false,
    };
    let row = mesh::PresenceDigestRow { bucket: 7, asked: 0x0a0b_0c0d, told: 0x0102_0304_0506_0708 };
    let tells = mesh::Presence {
        incarnation,
        entries: vec![entry],
        digest: Some(mesh::PresenceDigest { rows: vec![row] }),
        compared: true,
        ..mesh::Presence::default()
    };
    vec![("presence-asks", Body::Presence(asks)), ("presence-tells", Body::Presence(tells))]
}

fn push() -> Vec<(&'static str, Body)> {
    let wants =
        mesh::PushWatcher { user: "bob".to_owned(), epoch: 2, sequence: 300, since: time().0, taken_over: true };
    let watch = mesh::PushWatch { log: log_bytes(), users: vec![wants.clone()], fresh: true };
    let offer = mesh::PushOffer {
        epoch: 2,
        sequence: 301,
        message: Bytes::copy_from_slice(uuid(2).as_bytes()),
        sender: "ann".to_owned(),
        mentions: vec!["bob".to_owned()],
        sequenced_at: time().0,
        expires_at: time().0 + 1,
    };
    let read = vec![mesh::Reached { epoch: 2, up_to: 200, at: time().0 }];
    let reads = vec![mesh::MemberReceipts { user: "bob".to_owned(), delivered: Vec::new(), read }];
    let offers = mesh::PushOffers {
        log: log_bytes(),
        from: 301,
        to: 303,
        epoch: 2,
        begins: true,
        items: vec![offer],
        reads,
        gone: vec!["cid".to_owned()],
        starts: vec![mesh::PushWatcher { since: 0, taken_over: false, ..wants }],
    };
    let device = Bytes::copy_from_slice(uuid(3).as_bytes());
    let view = mesh::PushView { user: "bob".to_owned(), device, log: log_bytes() };
    vec![
        ("push-watches", Body::Push(mesh::Push { watches: vec![watch], ..mesh::Push::default() })),
        ("push-offers", Body::Push(mesh::Push { offers: vec![offers], ..mesh::Push::default() })),
        ("push-views", Body::Push(mesh::Push { views: vec![view], ..mesh::Push::default() })),
    ]
}

#[test]
fn every_frame_between_regions_has_its_golden_bytes_and_reads_back() {
    let mut values = Vec::new();
    for (name, body) in frames() {
        let frame = MeshFrame { body: Some(body) };
        let bytes = frame.encode_to_vec();
        assert_eq!(MeshFrame::decode(bytes.as_slice()).expect("it reads back"), frame, "{name}");
        values.push((name, hex(&bytes)));
    }
    check("mesh_frames.txt", &values);
}

#[test]
fn unknown_fields_and_unknown_kinds_of_frames_are_skipped() {
    for (name, body) in frames() {
        let frame = MeshFrame { body: Some(body) };
        let mut bytes = frame.encode_to_vec();
        // Field 200, length-delimited, of a later version.
        bytes.extend([0xc2, 0x0c, 3, 1, 2, 3]);
        assert_eq!(MeshFrame::decode(bytes.as_slice()).expect("it reads"), frame, "{name}");
    }
    let only_later = MeshFrame::decode([0xc2, 0x0c, 3, 1, 2, 3].as_slice()).expect("it reads");
    assert_eq!(only_later.body, None);
}

#[test]
fn frames_of_the_map_are_known_by_their_first_byte() {
    for (name, body) in frames() {
        let of_the_map = matches!(body, Body::MapAsk(_) | Body::MapTell(_));
        let bytes = MeshFrame { body: Some(body) }.encode_to_vec();
        assert_eq!(MeshFrame::may_be_of_the_map(&bytes), of_the_map, "{name}");
    }
    assert!(!MeshFrame::may_be_of_the_map(&[]));
}
