use std::collections::BTreeMap;
use std::time::Duration;

use hearth_protocol::{ConversationId, Epoch, Position, Sequence, Timestamp, UserId};
use proptest::prelude::*;
use region_model::push::Showing;
use region_model::push::ports::{JobId, PushJob, PushQueue as _, Put};
use region_push::MemoryQueue;
use uuid::Uuid;

const LOAN: Duration = Duration::from_millis(100);

fn job(subscription: u128, conversation: u128, sequence: u64) -> PushJob {
    PushJob {
        user: UserId::new("bob").unwrap(),
        subscription: Uuid::from_u128(subscription),
        conversation: ConversationId(Uuid::from_u128(conversation)),
        position: Position { epoch: Epoch(1), sequence: Sequence(sequence) },
        showing: Showing::Clear,
        not_after: Timestamp(u64::MAX),
        tries: 0,
    }
}

fn sequences(taken: &[(JobId, PushJob)]) -> Vec<u64> {
    taken.iter().map(|(_, job)| job.position.sequence.0).collect()
}

#[tokio::test]
async fn a_later_job_of_a_subscription_and_conversation_takes_the_place_of_the_one_that_waits() {
    let queue = MemoryQueue::new(10);
    assert_eq!(queue.put(job(1, 1, 1), Timestamp(5)).await, Put::Queued);
    assert_eq!(queue.put(job(1, 2, 2), Timestamp(6)).await, Put::Queued);
    assert_eq!(queue.put(job(2, 1, 3), Timestamp(7)).await, Put::Queued);
    assert_eq!(queue.put(job(1, 1, 4), Timestamp(9)).await, Put::Replaced);
    assert!(queue.take(Timestamp(4), LOAN, 10).await.is_empty());
    assert_eq!(sequences(&queue.take(Timestamp(9), LOAN, 10).await), [4, 2, 3], "place and time stay");
}

#[tokio::test]
async fn a_full_queue_takes_no_more_and_still_replaces() {
    let queue = MemoryQueue::new(2);
    queue.put(job(1, 1, 1), Timestamp(0)).await;
    let lent = queue.take(Timestamp(0), LOAN, 1).await;
    queue.put(job(1, 2, 2), Timestamp(0)).await;
    assert_eq!(queue.put(job(1, 3, 3), Timestamp(0)).await, Put::Full, "a lent job counts");
    assert_eq!(queue.put(job(1, 2, 4), Timestamp(0)).await, Put::Replaced);
    queue.done(lent[0].0).await;
    assert_eq!(queue.put(job(1, 3, 3), Timestamp(0)).await, Put::Queued);
    assert_eq!(queue.len(), 2);
}

#[tokio::test]
async fn a_job_whose_loan_is_over_comes_again_or_the_newer_one_behind_it() {
    let queue = MemoryQueue::new(10);
    queue.put(job(1, 1, 1), Timestamp(0)).await;
    queue.put(job(1, 2, 2), Timestamp(0)).await;
    let lent = queue.take(Timestamp(0), LOAN, 10).await;
    assert_eq!(queue.put(job(1, 2, 3), Timestamp(0)).await, Put::Queued, "a lent one is not replaced");
    assert_eq!(queue.put(job(1, 2, 4), Timestamp(0)).await, Put::Replaced);
    assert!(queue.take(Timestamp(99), LOAN, 10).await.is_empty(), "two under way could overtake each other");
    assert_eq!(queue.next_due().await, Some(Timestamp(100)));
    assert_eq!(sequences(&queue.take(Timestamp(100), LOAN, 10).await), [1, 4]);
    for (id, _) in lent {
        queue.done(id).await;
    }
    assert_eq!(queue.len(), 2, "whoever had them lent before ends nothing of them");
}

#[tokio::test]
async fn what_waits_behind_a_lent_job_is_lent_once_that_is_done() {
    let queue = MemoryQueue::new(2);
    queue.put(job(1, 1, 1), Timestamp(0)).await;
    let lent = queue.take(Timestamp(0), LOAN, 10).await;
    assert_eq!(queue.put(job(1, 1, 2), Timestamp(5)).await, Put::Queued);
    assert_eq!(queue.put(job(1, 2, 3), Timestamp(5)).await, Put::Full);
    queue.done(lent[0].0).await;
    assert!(queue.take(Timestamp(4), LOAN, 10).await.is_empty());
    assert_eq!(sequences(&queue.take(Timestamp(5), LOAN, 10).await), [2]);
    assert_eq!(queue.len(), 1);
}

#[tokio::test]
async fn a_job_that_is_tried_later_gives_way_to_a_newer_one_and_keeps_its_patience() {
    let queue = MemoryQueue::new(10);
    queue.put(job(1, 1, 1), Timestamp(0)).await;
    let lent = queue.take(Timestamp(0), LOAN, 1).await;
    queue.put(job(1, 1, 2), Timestamp(0)).await;
    queue.later(lent[0].0, Timestamp(50), 3).await;
    assert!(queue.take(Timestamp(49), LOAN, 9).await.is_empty(), "the newer one waits as long");
    let again = queue.take(Timestamp(50), LOAN, 9).await;
    assert_eq!((sequences(&again), again[0].1.tries), (vec![2], 3));
    queue.done(lent[0].0).await;
    assert_eq!(queue.len(), 1, "an old id ends nothing");
}

#[tokio::test]
async fn whoever_waits_for_a_change_hears_of_what_was_put_before_and_after() {
    let queue = std::sync::Arc::new(MemoryQueue::new(10));
    queue.put(job(1, 1, 1), Timestamp(0)).await;
    queue.changed().await;
    let waiting = tokio::spawn({
        let queue = std::sync::Arc::clone(&queue);
        async move { queue.changed().await }
    });
    queue.put(job(1, 2, 1), Timestamp(0)).await;
    waiting.await.unwrap();
}

proptest! {
    #[test]
    fn every_job_is_sent_or_replaced_by_a_newer_one_and_so_many_wait(
        steps in proptest::collection::vec((0..4u8, 1..4u128, 1..3u128, 0..120u64), 1..80),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (queue, mut now, mut sequence) = (MemoryQueue::new(4), 0, 0);
            let mut newest: BTreeMap<(Uuid, ConversationId), u64> = BTreeMap::new();
            let mut sent = BTreeMap::new();
            let mut lent = Vec::new();
            let finish = |sent: &mut BTreeMap<_, u64>, job: &PushJob, in_time: bool| {
                let last: &mut u64 = sent.entry((job.subscription, job.conversation)).or_default();
                assert!(!in_time || job.position.sequence.0 >= *last, "an older one after a newer one");
                *last = job.position.sequence.0.max(*last);
            };
            for (step, subscription, conversation, later) in steps {
                now += later;
                match step {
                    0 | 1 => {
                        sequence += 1;
                        let job = job(subscription, conversation, sequence);
                        let key = (job.subscription, job.conversation);
                        if queue.put(job, Timestamp(now)).await != Put::Full {
                            newest.insert(key, sequence);
                        }
                    }
                    2 => {
                        let taken = queue.take(Timestamp(now), LOAN, 2).await;
                        lent.extend(taken.into_iter().map(|(id, job)| (id, job, now + 100)));
                    }
                    _ => {
                        if let Some((id, job, until)) = lent.pop() {
                            if later % 2 == 0 {
                                queue.later(id, Timestamp(now + later), 1).await;
                            } else {
                                finish(&mut sent, &job, now < until);
                                queue.done(id).await;
                            }
                        }
                    }
                }
                assert!(queue.len() <= 4);
            }
            // Twice: what is lent, and what stands behind it.
            for _ in 0..2 {
                now += 1_000;
                for (id, job) in queue.take(Timestamp(now), LOAN, 100).await {
                    finish(&mut sent, &job, true);
                    queue.done(id).await;
                }
            }
            assert!(queue.is_empty());
            for (key, sequence) in newest {
                assert!(sent.get(&key).is_some_and(|sent| *sent >= sequence), "{key:?} {sequence}");
            }
        });
    }
}
