//! What a key gives to a leg: it goes with the leg from the check of its key to the relay's end.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use jiff::Timestamp;

use super::{
    Denied,
    account::{Account, Seat},
};
use crate::{
    config::BitRate,
    key::{Likeness, RelayKey},
};

/// What the key that a leg sent gives it. The default is an open relay's: nothing in particular.
#[derive(Clone, Default)]
pub struct Grant(Option<Arc<GrantedKey>>);

/// A key on the ring, or one that was.
pub(super) struct GrantedKey {
    pub(super) key: RelayKey,
    pub(super) likeness: Likeness,
    pub(super) account: Arc<Account>,
    /// No longer on the ring.
    pub(super) revoked: AtomicBool,
}

/// A relay's places on the keys of its legs, one if both have the same; given back when dropped.
#[derive(Default)]
pub struct Seats {
    _seats: [Option<Seat>; 2],
}

impl GrantedKey {
    /// What the key grants at this time.
    ///
    /// # Errors
    /// When it is not, or no longer, valid.
    pub(super) fn is_valid(&self, now: impl FnOnce() -> Timestamp) -> Result<(), Denied> {
        if self.revoked.load(Relaxed) {
            return Err(Denied::Revoked);
        }
        if self.account.terms().has_expired(now) {
            return Err(Denied::Expired { label: Arc::clone(&self.account.label) });
        }
        Ok(())
    }
}

impl Grant {
    pub(super) fn of(key: &Arc<GrantedKey>) -> Self {
        Self(Some(Arc::clone(key)))
    }

    pub(super) fn key(&self) -> Option<&GrantedKey> {
        self.0.as_deref()
    }

    fn account(&self) -> Option<&Arc<Account>> {
        self.0.as_deref().map(|key| &key.account)
    }

    /// What the key is called; `None` on an open relay.
    pub fn label(&self) -> Option<&str> {
        self.account().map(|account| &*account.label)
    }

    /// How fast all relays of the key may be together, as it is now: a reload changes it.
    pub fn bandwidth(&self) -> BitRate {
        self.account().map_or(BitRate::UNLIMITED, |account| account.terms().bandwidth)
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grant").field(&self.label()).finish()
    }
}

impl Seats {
    /// A relay's places: one on each key, or none at all.
    ///
    /// # Errors
    /// When a key has as many relays as it may.
    pub fn take(grants: [&Grant; 2]) -> Result<Self, Denied> {
        let seat = |account: &Arc<Account>| {
            account.seat().map(Some).ok_or_else(|| {
                let denied = Denied::Relays { label: Arc::clone(&account.label) };
                account.deny(&denied);
                denied
            })
        };
        let [first, second] = accounts(grants);
        // The first one's is given back if there is none for the second.
        let first = first.map_or(Ok(None), seat)?;
        Ok(Self { _seats: [first, second.map_or(Ok(None), seat)?] })
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seats")
    }
}

/// Counts the bytes of a relay, both ways, on the key of each of its legs; once if both have the
/// same.
pub fn charge(grants: [&Grant; 2], bytes: u64) {
    for account in accounts(grants).into_iter().flatten() {
        account.charge(bytes);
    }
}

/// The accounts of two legs, none of them twice.
fn accounts([first, second]: [&Grant; 2]) -> [Option<&Arc<Account>>; 2] {
    let (first, second) = (first.account(), second.account());
    let same = |other: &Arc<Account>| first.is_some_and(|first| Arc::ptr_eq(first, other));
    [first, second.filter(|other| !same(other))]
}
