//! The client against a mock region, over real sockets.

use std::collections::HashSet;
use std::time::Duration;

use hearth_protocol::client::Content;
use hearth_protocol::{ConversationId, RegionId};
use uuid::Uuid;

use crate::chat::{ChatOptions, chat_with};
use crate::mock::{Faults, Mock};
use crate::{Address, Client, ClientOptions, Disconnect, Endpoint, Event, Events, TokenSource};

const CONVERSATION: ConversationId = ConversationId(Uuid::from_u128(42));

fn options(mock: &Mock, user: &str) -> ClientOptions {
    let address = Address { http: mock.http.clone(), ws: mock.ws.clone(), webtransport: None };
    let endpoint = Endpoint { region: RegionId::new("eu-west").expect("valid"), address };
    ClientOptions::new(vec![endpoint], TokenSource::fixed(format!("token-{user}")))
}

/// The next event that `wanted` takes; fails after 20 s.
async fn wait<T>(events: &mut Events, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let waiting = async {
        loop {
            let event = events.next().await.expect("the client runs");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the event comes")
}

async fn connected(events: &mut Events) {
    wait(events, |event| matches!(event, Event::Connected { .. }).then_some(())).await;
}

async fn rows(events: &mut Events, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        numbers.push(
            wait(events, |event| if let Event::Message(row) = event { Some(row.sequence_number) } else { None }).await,
        );
    }
    numbers
}

#[tokio::test]
async fn messages_arrive_in_order_though_the_region_leaves_holes() {
    let faults = Faults { swallowed: HashSet::from([3, 4, 9]), ..Faults::default() };
    let mock = Mock::start(faults).await;
    mock.open(CONVERSATION, &["ann", "bob"]);
    let (client, mut events) = Client::connect(options(&mock, "ann")).expect("a client");
    client.follow(CONVERSATION, 0, None).await;
    connected(&mut events).await;
    for number in 1..=12 {
        mock.say("bob", CONVERSATION, &format!("message {number}"));
    }
    assert_eq!(rows(&mut events, 12).await, (1..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cut_connection_loses_and_doubles_nothing() {
    let mock = Mock::start(Faults { cut_at_answer: Some(5), ..Faults::default() }).await;
    mock.open(CONVERSATION, &["ann", "bob"]);
    let (client, mut events) = Client::connect(options(&mock, "ann")).expect("a client");
    client.follow(CONVERSATION, 0, None).await;
    connected(&mut events).await;
    let mut sent = Vec::new();
    for number in 0..20 {
        sent.push(client.send(CONVERSATION, Content::text(format!("{number}"))).await.expect("taken"));
    }
    let mut acked = Vec::new();
    let mut disconnected = false;
    while acked.len() < sent.len() {
        let id = wait(&mut events, |event| match event {
            Event::Acked(ack) => Some(Some(ack.message_id)),
            Event::Disconnected { .. } => Some(None),
            _ => None,
        });
        match id.await {
            Some(id) => acked.push(id),
            None => disconnected = true,
        }
    }
    assert!(disconnected);
    assert_eq!(acked, sent);
    let stored = mock.message_ids(CONVERSATION);
    assert_eq!(stored, sent.iter().map(ToString::to_string).collect::<Vec<_>>());
    let auths = mock.auths();
    assert_eq!(auths[1]["resumeToken"], "resume-ann");
    assert_eq!(auths[1]["cursors"][0]["lastSequence"], 4);
}

#[tokio::test]
async fn a_slow_consumer_close_is_followed_by_a_resume_without_a_hole() {
    let mock = Mock::start(Faults::default()).await;
    mock.open(CONVERSATION, &["ann", "bob"]);
    let (client, mut events) = Client::connect(options(&mock, "ann")).expect("a client");
    client.follow(CONVERSATION, 0, None).await;
    connected(&mut events).await;
    mock.say("bob", CONVERSATION, "one");
    assert_eq!(rows(&mut events, 1).await, [1]);
    mock.close_all(4010);
    let reason =
        wait(&mut events, |event| if let Event::Disconnected { reason, .. } = event { Some(reason) } else { None });
    assert_eq!(reason.await, Disconnect::Closed { code: 4010, reason: "test".to_owned() });
    mock.say("bob", CONVERSATION, "two");
    assert_eq!(rows(&mut events, 1).await, [2]);
}

#[tokio::test]
async fn a_client_that_is_refused_for_good_ends() {
    let mock = Mock::start(Faults::default()).await;
    let (_client, mut events) = Client::connect(options(&mock, "ann")).expect("a client");
    connected(&mut events).await;
    mock.close_all(4003);
    wait(&mut events, |event| matches!(event, Event::Closed { code: 4003, .. }).then_some(())).await;
    assert!(events.next().await.is_none());
}

/// Runs `hearth chat` over a pipe; gives what it printed.
async fn talk(mock: &Mock, user: &str, to: &str, lines: &[&str]) -> String {
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    for line in lines {
        sender.send((*line).to_owned()).await.expect("room");
    }
    drop(sender);
    let options = ChatOptions {
        as_user: user.to_owned(),
        to: Some(to.to_owned()),
        url: mock.http.clone(),
        ..ChatOptions::default()
    };
    let (mut talk, mut notes) = (Vec::new(), Vec::new());
    chat_with(options, receiver, &mut talk, &mut notes).await.expect("a conversation");
    String::from_utf8(talk).expect("UTF-8")
}

#[tokio::test]
async fn a_chat_shows_acks_and_the_other_side_shows_the_messages() {
    let mock = Mock::start(Faults::default()).await;
    let ann = talk(&mock, "ann", "bob", &["hello", "are you there?"]).await;
    assert_eq!(ann, "#1 ✓ eu-west\n#2 ✓ eu-west\n");
    let bob = talk(&mock, "bob", "ann", &["yes"]).await;
    assert_eq!(bob, "ann #1: hello\nann #2: are you there?\n#3 ✓ eu-west\n");
}

#[tokio::test]
async fn a_queued_message_is_shown_as_pending_until_its_ack() {
    let mock = Mock::start(Faults { queue: true, ..Faults::default() }).await;
    mock.open(CONVERSATION, &["ann", "bob"]);
    let (client, mut events) = Client::connect(options(&mock, "ann")).expect("a client");
    connected(&mut events).await;
    let sent = client.send(CONVERSATION, Content::text("later")).await.expect("taken");
    let queued = wait(&mut events, |event| if let Event::Queued(queued) = event { Some(queued) } else { None }).await;
    assert_eq!(queued.message_id, sent);
    mock.release();
    let ack = wait(&mut events, |event| if let Event::Acked(ack) = event { Some(ack) } else { None }).await;
    assert_eq!(ack.message_id, sent);
}
