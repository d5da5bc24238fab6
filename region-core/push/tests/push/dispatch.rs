//! From a decision to the services, and what becomes of their answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use hearth_protocol::{ConversationId, DeviceId, Epoch, LogId, Position, Sequence, Timestamp, UserId};
use parking_lot::Mutex;
use region_model::push::ports::{Notice, Preview, PushJob, PushSender, Scope, Sent, Service, Subscription, Target};
use region_model::push::{Push, Showing};
use region_push::{
    CollapseKey, Directory, DispatchOptions, Dispatcher, LogSender, MemoryQueue, Said, Senders, enqueue,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

fn clock() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(now.as_millis()).unwrap())
}

/// Subscriptions in memory.
#[derive(Debug, Default)]
struct Book {
    held: Mutex<BTreeMap<Uuid, Subscription>>,
    dropped: Mutex<Vec<Uuid>>,
}

#[async_trait]
impl Directory for Book {
    async fn subscription(&self, _: &UserId, id: Uuid) -> Option<Subscription> {
        self.held.lock().get(&id).cloned()
    }

    async fn gone(&self, _: &UserId, subscription: &Subscription) {
        self.held.lock().remove(&subscription.id);
        self.dropped.lock().push(subscription.id);
    }

    async fn preview(&self, _: &PushJob) -> Option<Preview> {
        Some(Preview { title: "Ann".to_owned(), text: "Hello".to_owned() })
    }
}

/// Answers as it was told, in order, then takes everything; tells what it was given.
#[derive(Debug)]
struct Scripted {
    answers: Mutex<Vec<Sent>>,
    told: mpsc::Sender<(Instant, Uuid, Notice)>,
}

#[async_trait]
impl PushSender for Scripted {
    fn way(&self, _: &Subscription) -> String {
        "scripted".to_owned()
    }

    async fn send(&self, to: &Subscription, notice: &Notice, _: Timestamp) -> Sent {
        let sent = {
            let mut answers = self.answers.lock();
            if answers.is_empty() { Sent::Accepted } else { answers.remove(0) }
        };
        self.told.send((Instant::now(), to.id, notice.clone())).await.unwrap();
        sent
    }
}

struct Bench {
    queue: Arc<MemoryQueue>,
    book: Arc<Book>,
    dispatcher: Arc<Dispatcher>,
    told: mpsc::Receiver<(Instant, Uuid, Notice)>,
    stop: CancellationToken,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn options(said: Said) -> DispatchOptions {
    let (first_wait, longest_wait) = (Duration::from_millis(20), Duration::from_millis(100));
    DispatchOptions { said, at_once: 2, first_wait, longest_wait, tries: 3 }
}

/// A running dispatcher for so many subscriptions, whose service answers so first.
fn bench(subscriptions: u128, answers: Vec<Sent>, said: Said) -> Bench {
    let (queue, book) = (Arc::new(MemoryQueue::new(100)), Arc::new(Book::default()));
    for id in 1..=subscriptions {
        let target = Target::Fcm { registration: id.to_string() };
        let (id, device) = (Uuid::from_u128(id), DeviceId(Uuid::from_u128(id)));
        book.held.lock().insert(id, Subscription { id, device, registered_at: Timestamp(0), target });
    }
    let (tell, told) = mpsc::channel(100);
    let scripted = Scripted { answers: Mutex::new(answers), told: tell };
    let senders = Senders::from([(Service::Fcm, Arc::new(scripted) as Arc<dyn PushSender>)]);
    let key = CollapseKey::new(b"shared by all regions");
    let dispatcher = Dispatcher::new(queue.clone(), book.clone(), senders, key, options(said), Arc::new(clock));
    let (dispatcher, stop) = (Arc::new(dispatcher), CancellationToken::new());
    tokio::spawn(Arc::clone(&dispatcher).run(stop.clone()));
    Bench { queue, book, dispatcher, told, stop }
}

fn user() -> UserId {
    UserId::new("bob").unwrap()
}

fn conversation(number: u128) -> ConversationId {
    ConversationId(Uuid::from_u128(number))
}

fn push(number: u128, sequence: u64) -> Push {
    let position = Position { epoch: Epoch(1), sequence: Sequence(sequence) };
    let showing = Showing::Notify { unread: 1, mentions: false, expires_at: None };
    Push { log: LogId::conversation(conversation(number)), position, showing }
}

impl Bench {
    async fn enqueue(&self, push: &Push) {
        let subscriptions: Vec<Subscription> = self.book.held.lock().values().cloned().collect();
        let full = enqueue(&*self.queue, &user(), &subscriptions, push, clock(), Duration::from_secs(60)).await;
        assert_eq!(full, 0);
    }

    async fn next(&mut self) -> (Instant, Uuid, Notice) {
        tokio::time::timeout(PATIENCE, self.told.recv()).await.expect("in time").expect("it runs")
    }

    /// Waits until the queue is empty: the last attempt's outcome is followed by then.
    async fn settled(&self) {
        let settle = async {
            while !self.queue.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settle).await.expect("in time");
    }
}

#[tokio::test]
async fn a_decision_reaches_each_subscription_once_and_says_as_much_as_the_operator_wants() {
    for (said, detail) in [(Said::Nothing, "Nothing"), (Said::Ids, "Ids"), (Said::Preview, "Preview(Preview)")] {
        let mut bench = bench(3, Vec::new(), said);
        bench.enqueue(&push(1, 7)).await;
        let mut reached = Vec::new();
        for _ in 0..3 {
            let (_, id, notice) = bench.next().await;
            assert_eq!((notice.position.sequence.0, format!("{:?}", notice.detail)), (7, detail.to_owned()));
            let key = CollapseKey::new(b"shared by all regions");
            assert_eq!(notice.collapse, key.name(&user(), conversation(1)));
            reached.push(id.as_u128());
        }
        reached.sort_unstable();
        bench.settled().await;
        assert_eq!(reached, [1, 2, 3]);
        assert_eq!(bench.dispatcher.counters().accepted.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test]
async fn a_dead_subscription_is_dropped_and_nothing_is_sent_there_again() {
    let mut bench = bench(1, vec![Sent::Gone], Said::Ids);
    bench.enqueue(&push(1, 1)).await;
    bench.next().await;
    bench.settled().await;
    assert_eq!(*bench.book.dropped.lock(), [Uuid::from_u128(1)]);
    // A job that was queued before its subscription died.
    let dead = Subscription {
        id: Uuid::from_u128(1),
        device: DeviceId(Uuid::nil()),
        registered_at: Timestamp(0),
        target: Target::Fcm { registration: String::new() },
    };
    enqueue(&*bench.queue, &user(), &[dead], &push(1, 2), clock(), Duration::from_secs(60)).await;
    bench.settled().await;
    assert!(bench.told.try_recv().is_err());
    assert_eq!(bench.dispatcher.counters().gone.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_a_service_asks_to_wait_rests_as_long_for_all_that_goes_the_same_way() {
    let rest = Duration::from_millis(600);
    let mut bench = bench(1, vec![Sent::Wait { scope: Scope::Way, after: Some(rest) }], Said::Ids);
    bench.enqueue(&push(1, 1)).await;
    let (refused, ..) = bench.next().await;
    // Another conversation, while the way rests.
    bench.enqueue(&push(2, 1)).await;
    for _ in 0..2 {
        let (tried, ..) = bench.next().await;
        assert!(
            tried.duration_since(refused) >= rest - Duration::from_millis(5),
            "{:?}",
            tried.duration_since(refused)
        );
    }
    bench.settled().await;
    assert_eq!(bench.dispatcher.counters().accepted.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn one_subscription_rests_alone_where_the_service_says_so() {
    let rest = Sent::Wait { scope: Scope::Subscription, after: Some(Duration::from_secs(3_000)) };
    let mut bench = bench(2, vec![rest], Said::Ids);
    bench.enqueue(&push(1, 1)).await;
    let (_, first, _) = bench.next().await;
    let (_, second, _) = bench.next().await;
    assert_ne!(first, second);
    bench.settled().await;
    let counters = bench.dispatcher.counters();
    let counted = (counters.accepted.load(Ordering::Relaxed), counters.expired.load(Ordering::Relaxed));
    assert_eq!(counted, (1, 1), "the rest is longer than the push lives");
}

#[tokio::test]
async fn a_failed_attempt_comes_again_and_is_given_up_after_so_many() {
    let failed = || Sent::Failed("connect");
    let mut bench = bench(1, vec![failed(), failed(), Sent::Accepted, failed(), failed(), failed()], Said::Ids);
    for (number, attempts) in [(1, 3), (2, 3)] {
        bench.enqueue(&push(number, 1)).await;
        for _ in 0..attempts {
            bench.next().await;
        }
        bench.settled().await;
    }
    let counters = bench.dispatcher.counters();
    let counted =
        [&counters.accepted, &counters.failed, &counters.given_up].map(|counter| counter.load(Ordering::Relaxed));
    assert_eq!(counted, [1, 4, 1]);
}

#[tokio::test]
async fn what_is_refused_or_too_old_or_has_no_sender_ends_without_another_attempt() {
    let mut bench = bench(1, vec![Sent::Refused("payload")], Said::Ids);
    bench.enqueue(&push(1, 1)).await;
    bench.next().await;
    bench.settled().await;
    let (past, subscriptions) =
        (Timestamp(clock().0 - 100), bench.book.held.lock().values().cloned().collect::<Vec<_>>());
    enqueue(&*bench.queue, &user(), &subscriptions, &push(2, 1), past, Duration::from_millis(50)).await;
    let expiring = Showing::Notify { unread: 1, mentions: false, expires_at: Some(past) };
    let push = Push { showing: expiring, ..push(3, 1) };
    enqueue(&*bench.queue, &user(), &subscriptions, &push, clock(), Duration::from_secs(60)).await;
    bench.settled().await;
    let target = Target::Apns { device_token: "00".to_owned() };
    let apns = Subscription { id: Uuid::from_u128(9), target, ..subscriptions[0].clone() };
    bench.book.held.lock().insert(apns.id, apns.clone());
    enqueue(&*bench.queue, &user(), &[apns], &self::push(4, 1), clock(), Duration::from_secs(60)).await;
    bench.settled().await;
    assert!(bench.told.try_recv().is_err());
    let counters = bench.dispatcher.counters();
    let counted = (counters.given_up.load(Ordering::Relaxed), counters.expired.load(Ordering::Relaxed));
    assert_eq!(counted, (2, 2));
}

#[test]
fn what_replaces_what_is_told_without_saying_who_shares_a_conversation() {
    let key = CollapseKey::new(b"a");
    let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
    let name = key.name(&bob, conversation(1));
    assert_eq!((name.len(), &name), (22, &key.name(&bob, conversation(1))));
    for other in [
        key.name(&ann, conversation(1)),
        key.name(&bob, conversation(2)),
        CollapseKey::new(b"b").name(&bob, conversation(1)),
    ] {
        assert_ne!(other, name);
    }
}

#[tokio::test]
async fn the_log_sender_takes_every_kind_and_secrets_stay_out_of_what_is_printed() {
    let keys = (bytes::Bytes::from_static(b"secret-key"), bytes::Bytes::from_static(b"secret-auth"));
    for target in [
        Target::WebPush { endpoint: "https://secret.example".to_owned(), p256dh: keys.0, auth: keys.1 },
        Target::Apns { device_token: "secret".to_owned() },
        Target::Fcm { registration: "secret".to_owned() },
    ] {
        let to = crate::support::subscription(target);
        assert!(!format!("{to:?}").contains("secret"));
        let preview = Preview { title: "secret".to_owned(), text: "secret".to_owned() };
        let notice = crate::support::notice(region_model::push::ports::Detail::Preview(preview));
        assert!(!format!("{notice:?}").contains("secret"));
        assert_eq!(LogSender.send(&to, &notice, clock()).await, Sent::Accepted);
    }
}
