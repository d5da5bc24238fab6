//! The switches of the reference adapter do what they say.

use region_model::conformance::samples::{append, conversation, outbox, parked, placement, region};
use region_model::ports::{AppendOutcome, LogAppend, StoreError, Stores};
use region_store::memory::{Call, Fault, Memory};

fn memory() -> (Memory, Stores) {
    let memory = Memory::new(region("eu"));
    let stores = memory.stores();
    (memory, stores)
}

async fn apply(stores: &Stores, append: LogAppend) {
    let outcomes = stores.log.append(vec![append]).await.expect("appends");
    assert!(matches!(outcomes[..], [AppendOutcome::Applied { .. }]), "{outcomes:?}");
}

async fn length(stores: &Stores) -> u64 {
    stores.log.load(conversation(1)).await.expect("loads").length
}

fn spawn(stores: &Stores, expect: u64) -> tokio::task::JoinHandle<Result<Vec<AppendOutcome>, StoreError>> {
    let log = stores.log.clone();
    tokio::spawn(async move { log.append(vec![append(conversation(1), expect, 1)]).await })
}

#[tokio::test]
async fn faults_do_or_do_not_and_answer_as_named_and_only_once() {
    let (memory, stores) = memory();
    let attempt = || async { stores.log.append(vec![append(conversation(1), 0, 1)]).await };
    memory.fail_next(Call::Append, Fault::Unavailable);
    memory.fail_next(Call::Append, Fault::LostCall);
    memory.fail_next(Call::Append, Fault::LostAnswer);
    assert!(matches!(attempt().await, Err(StoreError::Unavailable(_))));
    assert_eq!((attempt().await, length(&stores).await), (Err(StoreError::Unknown), 0));
    assert_eq!((attempt().await, length(&stores).await), (Err(StoreError::Unknown), 1));
    apply(&stores, append(conversation(1), 1, 1)).await;
    memory.fail_next(Call::Load, Fault::LostAnswer);
    assert!(stores.log.load(conversation(1)).await.is_err());
    assert_eq!(length(&stores).await, 2);
}

#[tokio::test]
async fn held_calls_happen_at_their_release_in_their_order_while_others_go_on() {
    let (memory, stores) = memory();
    memory.hold(Call::Append);
    let calls: Vec<_> = (0..3).map(|expect| spawn(&stores, expect)).collect();
    memory.held(3).await;
    assert_eq!(length(&stores).await, 0);
    memory.release(Call::Append);
    for call in calls {
        let outcomes = call.await.expect("no panic").expect("appends");
        assert!(matches!(outcomes[..], [AppendOutcome::Applied { .. }]));
    }
    assert_eq!(length(&stores).await, 3);
}

#[tokio::test]
async fn held_answers_come_in_another_order_than_their_calls() {
    let (memory, stores) = memory();
    memory.hold_answers();
    let (order, mut answered) = tokio::sync::mpsc::channel(3);
    for expect in 0..3 {
        let (stores, order) = (stores.clone(), order.clone());
        tokio::spawn(async move {
            apply(&stores, append(conversation(1), expect, 1)).await;
            order.send(expect).await.expect("the test listens");
        });
    }
    memory.held(3).await;
    memory.release_answers();
    for expect in [2, 1, 0] {
        assert_eq!(answered.recv().await, Some(expect));
    }
}

#[tokio::test]
async fn a_crash_forgets_what_no_sync_followed() {
    let (memory, stores) = memory();
    let log = conversation(1);
    let (first, second) = (outbox(1, 1, "ann"), outbox(1, 2, "ann"));
    apply(&stores, LogAppend { outbox: vec![first.clone(), second.clone()], ..append(log, 0, 3) }).await;
    stores.parking.park(vec![parked(1), parked(2)]).await.expect("parks");
    let unsynced = |mark, epoch, item, number| {
        let stores = &stores;
        async move {
            stores.log.put_marks(vec![(log, mark)]).await.expect("takes marks");
            stores.placements.put_placements(vec![placement(log, epoch)]).await.expect("takes placements");
            stores.outbox.outbox_done(vec![item]).await.expect("forgets");
            stores.parking.unpark(vec![number]).await.expect("forgets");
        }
    };
    unsynced(1, 1, first, 1).await;
    apply(&stores, append(log, 3, 1)).await;
    unsynced(2, 2, second.clone(), 2).await;
    memory.crash();
    assert!(matches!(stores.log.load(log).await, Err(StoreError::Unavailable(_))), "the old incarnation is gone");
    let stores = memory.stores();
    assert_eq!(stores.identity.incarnation, 2);
    let loaded = stores.log.load(log).await.expect("loads");
    assert_eq!((loaded.length, loaded.mark, loaded.placement), (4, 1, Some(placement(log, 1))));
    assert_eq!(stores.outbox.outbox(None, 9).await, Ok(vec![second]));
    assert_eq!(stores.parking.parked(None, 9).await, Ok(vec![parked(2)]));
}

#[tokio::test]
async fn a_crash_loses_calls_that_are_held() {
    let (memory, stores) = memory();
    memory.hold(Call::Append);
    let call = spawn(&stores, 0);
    memory.held(1).await;
    memory.crash();
    assert_eq!(call.await.expect("no panic"), Err(StoreError::Unknown));
    assert_eq!(length(&memory.stores()).await, 0);
}

#[tokio::test]
async fn a_store_that_broke_down_answers_unavailable_until_a_crash() {
    let (memory, stores) = memory();
    apply(&stores, append(conversation(1), 0, 1)).await;
    memory.break_down("the disk is gone");
    let error = StoreError::Unavailable("the disk is gone".into());
    for _ in 0..2 {
        assert_eq!(stores.log.append(vec![append(conversation(1), 1, 1)]).await, Err(error.clone()));
        assert_eq!(stores.parking.parked(None, 1).await, Err(error.clone()));
    }
    memory.crash();
    assert_eq!(length(&memory.stores()).await, 1);
}
