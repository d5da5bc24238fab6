//! The contract of [`crate::ports::MapStore`].

use bytes::Bytes;

use super::{Subject, join_all};
use crate::ports::{MapChange, MapStore, MapSync};

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'k', number])
}

fn value(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number; 3])
}

fn put(number: u8) -> MapChange {
    MapChange::Put(key(number), value(number))
}

async fn keys(store: &dyn MapStore, from: u8, to: u8, rows: usize) -> Vec<u8> {
    let rows = store.range(key(from), key(to), rows).await.expect("reads");
    assert!(rows.iter().all(|(key, stored)| *stored == value(key[1])));
    rows.iter().map(|(key, _)| key[1]).collect()
}

/// See the name: ranges have an exclusive end, and a change of a key hides the one before in the same write.
pub async fn keys_of_the_map_are_put_ranged_and_taken_away_in_order(subject: &mut dyn Subject) {
    let store = subject.stores().map;
    assert_eq!(store.get(key(1)).await, Ok(None));
    assert_eq!(store.last(key(0), key(9)).await, Ok(None));
    store.write([5, 1, 3].map(put).to_vec(), MapSync::Disk).await.expect("writes");
    store.write(vec![put(2), MapChange::Remove(key(7))], MapSync::Kernel).await.expect("writes");
    assert_eq!(store.get(key(2)).await, Ok(Some(value(2))));
    assert_eq!(keys(&*store, 0, 9, 9).await, [1, 2, 3, 5]);
    assert_eq!(keys(&*store, 2, 5, 9).await, [2, 3]);
    assert_eq!(keys(&*store, 0, 9, 2).await, [1, 2]);
    assert!(keys(&*store, 5, 2, 9).await.is_empty());
    assert_eq!(store.last(key(0), key(5)).await, Ok(Some((key(3), value(3)))));
    assert_eq!(store.last(key(6), key(9)).await, Ok(None));
    let changes = vec![MapChange::Remove(key(1)), put(4), MapChange::Remove(key(4)), MapChange::Remove(key(5)), put(5)];
    store.write(changes, MapSync::Disk).await.expect("writes");
    assert_eq!(keys(&*store, 0, 9, 9).await, [2, 3, 5]);
    store.write(Vec::new(), MapSync::Disk).await.expect("nothing is a write, too");
}

/// See the name.
pub async fn writes_of_the_map_keep_their_order_and_are_there_after_a_reopen(subject: &mut dyn Subject) {
    {
        let store = subject.stores().map;
        let write = |number: u8| store.write(vec![MapChange::Put(key(1), value(number)), put(number)], MapSync::Disk);
        let writes = (2..40).map(write).collect();
        assert!(join_all(writes).await.into_iter().all(|written| written.is_ok()));
        assert_eq!(store.get(key(1)).await, Ok(Some(value(39))));
        // A later write on disk keeps the ones before that were with the kernel only.
        store.write(vec![put(50)], MapSync::Kernel).await.expect("writes");
        store.write(vec![put(51)], MapSync::Disk).await.expect("writes");
    }
    subject.reopen();
    let store = subject.stores().map;
    assert_eq!(store.get(key(1)).await, Ok(Some(value(39))));
    assert_eq!(keys(&*store, 2, 60, 99).await.len(), 40);
    assert_eq!(store.last(key(0), key(60)).await, Ok(Some((key(51), value(51)))));
}
