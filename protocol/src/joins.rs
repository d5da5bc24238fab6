//! Requests to add members that share one entry.
//!
//! A conversation with many members takes the requests of a second in one entry (protocol.md, "Limits"). Its content is
//! the change of members as of one request, and behind it stands whose users came under which idempotency key: what reads
//! the change alone leaves that out.

use bytes::Bytes;
use uuid::Uuid;

use crate::entry::{CHANGE_VERSION, Change, EntryKind, MemberAction, Role, SealedEntry};
use crate::ids::UserId;

/// One request to add members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// Its idempotency key.
    pub id: Uuid,
    /// Whom it makes members.
    pub users: Vec<UserId>,
}

/// The stored form of requests of one user in one entry, which has the id of the first. Of one request it is that of its
/// change alone.
#[must_use]
pub fn encode_joins(requests: &[JoinRequest]) -> Bytes {
    let users = requests.iter().flat_map(|request| request.users.iter().cloned()).collect();
    let change = Change::Members { action: MemberAction::Add(Role::Member), users }.encode();
    if requests.len() < 2 {
        return change;
    }
    let shares: Vec<(Uuid, usize)> = requests.iter().map(|request| (request.id, request.users.len())).collect();
    Bytes::from(postcard::to_extend(&shares, change.to_vec()).expect("ids and numbers always encode"))
}

/// Reads [`encode_joins`] of several requests; empty for any other content.
#[must_use]
pub fn decode_joins(content: &[u8]) -> Vec<JoinRequest> {
    let Some((&CHANGE_VERSION, change)) = content.split_first() else { return Vec::new() };
    let Ok((change, behind)) = postcard::take_from_bytes::<Change>(change) else { return Vec::new() };
    let Change::Members { action: MemberAction::Add(_), users } = change else { return Vec::new() };
    let shares: Vec<(Uuid, usize)> = match behind {
        [] => return Vec::new(),
        behind => postcard::from_bytes(behind).unwrap_or_default(),
    };
    let mut users = users.into_iter();
    let requests =
        shares.into_iter().map(|(id, share)| JoinRequest { id, users: users.by_ref().take(share).collect() });
    requests.collect()
}

impl SealedEntry {
    /// The requests that share it; empty where it is of one.
    #[must_use]
    pub fn join_requests(&self) -> Vec<JoinRequest> {
        match self.content().filter(|_| self.entry.fixed.kind == EntryKind::Member) {
            Some(content) => decode_joins(content),
            None => Vec::new(),
        }
    }

    /// The ids under which it is known: its own, and those of the other requests that share it.
    pub fn ids(&self) -> impl Iterator<Item = Uuid> + use<> {
        let others = self.join_requests().into_iter().skip(1).map(|request| request.id);
        std::iter::once(self.entry.fixed.id).chain(others)
    }
}
