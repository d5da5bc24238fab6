//! What the port for looks promises.

use hearth_protocol::LogKind;

use super::samples::{append, conversation, entry, record};
use super::{Subject, apply};
use crate::ports::{LogAppend, LogLook};

/// See the name.
pub async fn a_look_shows_what_a_read_shows_and_ids_without_records(subject: &mut dyn Subject) {
    let stores = subject.stores();
    for number in [3, 1, 2] {
        apply(&stores, vec![LogAppend { mark: 1, ..append(conversation(number), 0, 4) }]).await;
    }
    let ids = |after, limit| stores.inspect.log_ids(LogKind::Conversation, after, limit);
    assert_eq!(ids(None, 2).await, Ok(vec![conversation(1), conversation(2)]));
    assert_eq!(ids(Some(conversation(2)), 9).await, Ok(vec![conversation(3)]));
    assert_eq!(ids(Some(conversation(3)), 9).await, Ok(vec![]));
    assert_eq!(stores.inspect.log_ids(LogKind::User, Some(conversation(2)), 9).await, Ok(vec![]));
    let look = LogLook { record: record(1), length: 4, mark: 1 };
    assert_eq!(stores.inspect.look(conversation(2)).await, Ok(Some(look)));
    assert_eq!(stores.inspect.look(conversation(9)).await, Ok(None));
    assert_eq!(stores.inspect.entry(conversation(2), 3).await, Ok(Some(entry(conversation(2), 3))));
    assert_eq!(stores.inspect.entry(conversation(2), 4).await, Ok(None));
}
