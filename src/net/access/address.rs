//! One address: what it has open, how fast it comes, and which keys it got wrong.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    Denial,
    back_off::{BackOff, WrongKeys},
};

/// How many wrong keys of one address are logged at once, and then in a minute.
const TOLD: u32 = 20;

/// From one of these to the next, in nanoseconds.
const TOLD_EVERY: u64 = 60_000_000_000 / TOLD as u64;

/// What one address may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at once; 0 for any number.
    pub(super) connections: u32,
    /// Waiting legs at once; 0 for any number.
    pub(super) waiting: u32,
    /// New connections a second; 0 for any number.
    pub(super) rate: u32,
    /// New connections at once, after a pause.
    pub(super) burst: u32,
    /// When it has to wait because of wrong keys.
    pub(super) back_off: BackOff,
}

/// What is known of an address. Everybody who has a connection from there has a share in it; the
/// table has one. Times are in nanoseconds after the table's epoch.
#[derive(Debug, Default)]
pub(super) struct Address {
    open: AtomicU32,
    waiting: AtomicU32,
    /// Since it was last forgotten.
    refused: AtomicU32,
    connections: Pace,
    told: Pace,
    // Held for arithmetic only.
    wrong: Mutex<Option<Box<WrongKeys>>>,
}

/// When all that came would have come, had it kept to its rate.
#[derive(Debug, Default)]
struct Pace(AtomicU64);

/// A connection's place among those of its address; given back when dropped. One that is not
/// limited has none.
#[derive(Debug, Default)]
pub struct AddressPermit(Option<Arc<Address>>);

/// A waiting leg's place among those of its address; given back when dropped.
#[derive(Debug, Default)]
pub struct WaitingPlace(Option<Arc<Address>>);

/// What the admin API tells of an address.
#[derive(Debug, Clone, Copy)]
pub struct AddressState {
    /// Connections open now.
    pub open: u32,
    /// Legs waiting now.
    pub waiting: u32,
    /// Refused since it was last forgotten.
    pub refused: u32,
    /// How long it has yet to wait because of wrong keys.
    pub back_off: Option<Duration>,
}

impl Limits {
    /// Whether there is one.
    pub(super) const fn exist(&self) -> bool {
        self.connections > 0 || self.waiting > 0 || self.rate > 0 || self.back_off.keys > 0
    }

    /// From one connection to the next at the full rate, in nanoseconds.
    fn interval(&self) -> u64 {
        1_000_000_000 / u64::from(self.rate.max(1))
    }

    /// How far ahead of the rate a burst may get.
    pub(super) fn ahead(&self) -> u64 {
        self.interval() * u64::from(self.burst.saturating_sub(1))
    }
}

impl Pace {
    /// Counts one more, unless it comes too soon.
    fn step(&self, now: u64, interval: u64, ahead: u64) -> bool {
        let counted = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |due| {
            let due = due.max(now);
            (due - now <= ahead).then(|| due + interval)
        });
        counted.is_ok()
    }

    /// How far it is ahead of its rate.
    fn debt(&self, now: u64) -> u64 {
        self.0.load(Ordering::Relaxed).saturating_sub(now)
    }
}

impl Address {
    /// A place for one more connection.
    pub(super) fn open(self: Arc<Self>, now: u64, limits: Limits) -> Result<AddressPermit, Denial> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let permit = AddressPermit(Some(Arc::clone(&self)));
        if limits.connections > 0 && before >= limits.connections {
            return self.refuse(Denial::Connections { limit: limits.connections });
        }
        let in_time = || self.connections.step(now, limits.interval(), limits.ahead());
        if limits.rate > 0 && !in_time() {
            return self.refuse(Denial::Rate { limit: limits.rate });
        }
        Ok(permit)
    }

    fn refuse<T>(&self, denial: Denial) -> Result<T, Denial> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(denial)
    }

    /// Whether a wrong key of it may be logged.
    pub(super) fn may_be_told(&self, now: u64) -> bool {
        self.told.step(now, TOLD_EVERY, TOLD_EVERY * u64::from(TOLD - 1))
    }

    /// How far it is ahead of its rate.
    pub(super) fn debt(&self, now: u64) -> u64 {
        self.connections.debt(now)
    }

    /// Whether there are wrong keys to be remembered.
    pub(super) fn has_offended(&self, now: u64, limits: Limits) -> bool {
        self.wrong().as_ref().is_some_and(|wrong| !wrong.is_settled(now, limits.back_off))
    }

    /// How long it has yet to wait because of wrong keys.
    pub(super) fn wait(&self, now: u64) -> Option<Duration> {
        self.wrong().as_ref().and_then(|wrong| wrong.wait(now))
    }

    pub(super) fn state(&self, now: u64) -> AddressState {
        AddressState {
            open: self.open.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            back_off: self.wait(now),
        }
    }

    fn wrong(&self) -> MutexGuard<'_, Option<Box<WrongKeys>>> {
        // What a panic left is still arithmetic.
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressPermit {
    /// Whether the address is counted at all.
    #[cfg(test)]
    pub(super) const fn is_counted(&self) -> bool {
        self.0.is_some()
    }

    /// Takes the connection out of what its address' rate has counted.
    pub(super) fn forgive(&self, limits: Limits) {
        if let Some(address) = &self.0
            && limits.rate > 0
        {
            let due = |due: u64| Some(due.saturating_sub(limits.interval()));
            let _ = address.connections.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due);
        }
    }

    /// A place for one more leg that waits.
    pub(super) fn wait(&self, limits: Limits) -> Result<WaitingPlace, Denial> {
        let Some(address) = &self.0 else { return Ok(WaitingPlace::default()) };
        let before = address.waiting.fetch_add(1, Ordering::Relaxed);
        let place = WaitingPlace(Some(Arc::clone(address)));
        if limits.waiting > 0 && before >= limits.waiting {
            return address.refuse(Denial::Waiting { limit: limits.waiting });
        }
        Ok(place)
    }

    /// Whether a key of it is looked at now.
    pub(super) fn may_try(&self, now: u64) -> Result<(), Denial> {
        match self.0.as_ref().and_then(|address| Some((address, address.wait(now)?))) {
            Some((address, _)) => address.refuse(Denial::BackOff),
            None => Ok(()),
        }
    }

    /// Its key was wrong; whether the address has to wait from now on.
    pub(super) fn wrong_key(&self, key: u64, now: u64, limits: Limits) -> bool {
        let Some(address) = &self.0 else { return false };
        address.refused.fetch_add(1, Ordering::Relaxed);
        let mut wrong = address.wrong();
        wrong.get_or_insert_default().add(key, now, limits.back_off)
    }

    /// Its key was right: what others of its address got wrong was no guessing.
    pub(super) fn right_key(&self) {
        if let Some(address) = &self.0 {
            *address.wrong() = None;
        }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Some(address) = &self.0 {
            address.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        if let Some(address) = &self.0 {
            address.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
