//! Sets of users in buckets, each with a number that is the same for the same users wherever they are held.

use std::collections::BTreeSet;

use hearth_protocol::UserId;

/// How many buckets: where two regions differ, one is told again.
pub(super) const BUCKETS: u32 = 64;

/// The same in every region and version: what regions compare is made of it.
pub(super) fn hash(user: &UserId, version: u64) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in user.as_str().as_bytes().iter().chain(&version.to_be_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The low bits choose the bucket of a user, and sums over many users are compared: every bit has to count.
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ hash >> 29
}

/// The bucket of a user.
pub(super) fn bucket_of(user: &UserId) -> u32 {
    u32::try_from(hash(user, 0) % u64::from(BUCKETS)).unwrap_or(0)
}

/// One number a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest(Vec<u64>);

impl Default for Digest {
    fn default() -> Self {
        Self(vec![0; BUCKETS as usize])
    }
}

impl Digest {
    /// Adds a user under a version, or takes it out again.
    pub(super) fn toggle(&mut self, user: &UserId, version: u64) {
        self.0[bucket_of(user) as usize] ^= hash(user, version);
    }

    pub(super) fn of(&self, bucket: u32) -> u64 {
        self.0.get(bucket as usize).copied().unwrap_or(0)
    }

    pub(super) fn set(&mut self, bucket: u32, value: u64) {
        if let Some(known) = self.0.get_mut(bucket as usize) {
            *known = value;
        }
    }
}

/// Users by bucket.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    users: Vec<BTreeSet<UserId>>,
    digest: Digest,
    count: usize,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { users: vec![BTreeSet::new(); BUCKETS as usize], digest: Digest::default(), count: 0 }
    }
}

impl Buckets {
    /// Adds a user; false when it was there.
    pub(super) fn insert(&mut self, user: &UserId) -> bool {
        let added = self.users[bucket_of(user) as usize].insert(user.clone());
        if added {
            self.digest.toggle(user, 0);
            self.count += 1;
        }
        added
    }

    /// Takes a user out; false when it was not there.
    pub(super) fn remove(&mut self, user: &UserId) -> bool {
        let removed = self.users[bucket_of(user) as usize].remove(user);
        if removed {
            self.digest.toggle(user, 0);
            self.count -= 1;
        }
        removed
    }

    pub(super) fn contains(&self, user: &UserId) -> bool {
        self.users[bucket_of(user) as usize].contains(user)
    }

    /// The users of a bucket.
    pub(super) fn of(&self, bucket: u32) -> impl Iterator<Item = &UserId> {
        self.users.get(bucket as usize).into_iter().flatten()
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}
