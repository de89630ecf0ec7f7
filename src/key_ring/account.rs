//! What is counted under one label, and how much of it there may be. An account outlives its key:
//! relays go on when the key is changed or taken away, and a month's traffic stays used.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use jiff::Timestamp;

use super::Denied;
use crate::config::{BitRate, KeyConfig, Size};

/// What an operator allows a key. Without any of it, a key is good for everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Terms {
    /// From when on it lets nobody in.
    pub(super) expires: Option<Timestamp>,
    pub(super) bandwidth: BitRate,
    pub(super) max_relays: Option<u32>,
    /// In bytes.
    pub(super) monthly_traffic: Option<u64>,
}

/// The counts of one label.
pub(super) struct Account {
    pub(super) label: Arc<str>,
    terms: ArcSwap<Terms>,
    active: AtomicU32,
    /// Bytes since the start.
    bytes: AtomicU64,
    /// Bytes of this month that are in the ledger's file.
    saved: AtomicU64,
    /// Bytes of this month that are not, or not yet.
    unsaved: AtomicU64,
    /// Bytes of this month that this process has counted.
    here: AtomicU64,
    elsewhere: Others,
    /// By [`Denied::index`].
    denied: [AtomicU64; Denied::COUNTED.len()],
}

/// What other nodes have of a label, as they last said.
#[derive(Default)]
struct Others {
    is_known: AtomicBool,
    active: AtomicU32,
    /// Bytes of this month that all other processes have counted, those that have ended included.
    month: AtomicU64,
}

/// A place for one relay on an account; given back when dropped.
pub(super) struct Seat(Arc<Account>);

impl From<&KeyConfig> for Terms {
    fn from(key: &KeyConfig) -> Self {
        Self {
            expires: key.expires.map(crate::config::Expiry::get),
            bandwidth: key.bandwidth,
            max_relays: key.max_relays,
            monthly_traffic: key.monthly_traffic.map(|size: Size| size.get() as u64),
        }
    }
}

impl Terms {
    /// Good for everything.
    pub(super) const FREE: Self = Self {
        expires: None,
        bandwidth: BitRate::UNLIMITED,
        max_relays: None,
        monthly_traffic: None,
    };

    pub(super) const fn have_quotas(&self) -> bool {
        self.max_relays.is_some() || self.monthly_traffic.is_some()
    }

    pub(super) fn has_expired(&self, now: impl FnOnce() -> Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now())
    }
}

impl Account {
    /// A new one, of whose month the file has `saved` bytes.
    pub(super) fn new(label: &str, saved: u64) -> Arc<Self> {
        Arc::new(Self {
            label: label.into(),
            terms: ArcSwap::default(),
            active: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
            saved: AtomicU64::new(saved),
            unsaved: AtomicU64::new(0),
            here: AtomicU64::new(0),
            elsewhere: Others::default(),
            denied: Default::default(),
        })
    }

    pub(super) fn terms(&self) -> arc_swap::Guard<Arc<Terms>> {
        self.terms.load()
    }

    pub(super) fn set_terms(&self, terms: &Terms) {
        self.terms.store(Arc::new(terms.clone()));
    }

    /// A place for one more relay; `None` when all are taken.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seat> {
        let max = self.terms().max_relays.unwrap_or(u32::MAX);
        let others = self.elsewhere.active.load(Relaxed);
        let one_more = |active: u32| (active.saturating_add(others) < max).then_some(active + 1);
        self.active.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        Some(Seat(Arc::clone(self)))
    }

    pub(super) fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Counts bytes of its relays.
    pub(super) fn charge(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
        self.unsaved.fetch_add(bytes, Relaxed);
        self.here.fetch_add(bytes, Relaxed);
    }

    /// Bytes of this month that this process has counted.
    pub(super) fn here(&self) -> u64 {
        self.here.load(Relaxed)
    }

    /// Other nodes have so many relays of it; and all that there were have carried so many bytes
    /// this month, which do not become fewer when a node forgets some.
    pub(super) fn hear_of_others(&self, active: u32, month: u64) {
        self.elsewhere.active.store(active, Relaxed);
        self.elsewhere.month.fetch_max(month, Relaxed);
        self.elsewhere.is_known.store(true, Relaxed);
    }

    /// What all nodes have together: relays, and bytes of this month; `None` without others.
    pub(super) fn of_all(&self) -> Option<(u32, u64)> {
        let active = self.active().saturating_add(self.elsewhere.active.load(Relaxed));
        self.elsewhere.is_known.load(Relaxed).then(|| (active, self.used_by_all()))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// What of this month's traffic has been used, as far as this node knows by itself.
    pub(super) fn used(&self) -> u64 {
        self.saved.load(Relaxed).saturating_add(self.unsaved.load(Relaxed))
    }

    /// The same with what others have. What the file knows of earlier processes is in both, and
    /// counts once.
    fn used_by_all(&self) -> u64 {
        let month = self.elsewhere.month.load(Relaxed);
        self.used().max(month.saturating_add(self.here()))
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.terms().monthly_traffic.is_some_and(|limit| self.used_by_all() >= limit)
    }

    pub(super) fn unsaved(&self) -> u64 {
        self.unsaved.load(Relaxed)
    }

    /// The file has `total` bytes of this month now, `fresh` of which were unsaved. Traffic may be
    /// counted meanwhile; for an instant `fresh` counts twice, rather than not at all.
    pub(super) fn settle(&self, fresh: u64, total: u64) {
        self.saved.store(total, Relaxed);
        self.unsaved.fetch_sub(fresh, Relaxed);
    }

    /// Begins a month, and gives what of the last one is unsaved.
    pub(super) fn turn_over(&self) -> u64 {
        for month in [&self.saved, &self.here, &self.elsewhere.month] {
            month.store(0, Relaxed);
        }
        self.unsaved.swap(0, Relaxed)
    }

    pub(super) fn deny(&self, denied: &Denied) {
        if let Some(index) = denied.index() {
            self.denied[index].fetch_add(1, Relaxed);
        }
    }

    pub(super) fn denied(&self) -> [u64; Denied::COUNTED.len()] {
        std::array::from_fn(|index| self.denied[index].load(Relaxed))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(terms: Terms) -> Arc<Account> {
        let account = Account::new("office", 100);
        account.set_terms(&terms);
        account
    }

    #[test]
    fn relays_of_other_nodes_take_seats() {
        let account = account(Terms { max_relays: Some(3), ..Terms::FREE });
        assert_eq!(account.of_all(), None);
        account.hear_of_others(2, 0);
        let seat = account.seat().unwrap();
        assert!(account.seat().is_none());
        assert_eq!(account.of_all(), Some((3, 100)));
        drop(seat);
        account.hear_of_others(u32::MAX, 0);
        assert!(account.seat().is_none());
        account.hear_of_others(0, 0);
        let _seats = [account.seat().unwrap(), account.seat().unwrap(), account.seat().unwrap()];
    }

    #[test]
    fn traffic_counts_once_whether_the_file_or_another_node_tells_of_it() {
        let account = account(Terms { monthly_traffic: Some(1000), ..Terms::FREE });
        account.charge(50);
        assert_eq!(account.of_all(), None);
        // The 100 that the file knows are among these.
        account.hear_of_others(0, 300);
        assert_eq!(account.of_all(), Some((0, 350)));
        account.hear_of_others(0, 20);
        assert_eq!(account.of_all(), Some((0, 350)), "what was carried stays so");
        assert_eq!(account.used(), 150);
        account.hear_of_others(0, 949);
        assert!(!account.is_used_up());
        account.charge(1);
        assert!(account.is_used_up());
        assert_eq!(account.turn_over(), 51);
        assert_eq!((account.of_all(), account.is_used_up()), (Some((0, 0)), false));
    }
}
