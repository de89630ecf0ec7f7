//! The legs that wait here, as far as the router has to know of them: for each a few words, gone
//! with it, and the name given back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use crate::{
    relay::route::{Claim, WaitId, Waits},
    wire::rendezvous::RelayUuid,
};

/// The legs. No more than wait here.
pub(super) struct Known {
    // Held for map operations; never across an await.
    legs: Mutex<HashMap<WaitId, Leg>>,
    releases: mpsc::Sender<Release>,
    /// How many names are on their way back.
    releasing: AtomicUsize,
    /// Names that could not be given back, until the directory can be asked again. No more than
    /// there may be on their way.
    unheard: Mutex<Vec<Release>>,
}

/// A name to be given back: it was held for this leg, or may have been.
pub(super) struct Release {
    pub(super) uuid: RelayUuid,
    pub(super) id: WaitId,
    /// It was tried before, and is not tried once more.
    again: bool,
}

/// What is known of one.
#[derive(Default)]
struct Leg {
    /// As of which generation of the directory's memory the name is its own.
    held: Option<u64>,
    /// The directory may have the name as its own, whether that is known or not: it is given back.
    /// To one that has lost it that costs nothing but the question.
    owes: bool,
    /// A task is at it.
    pursued: bool,
    /// It has lost its name while one was.
    lost: bool,
    /// How many hand-overs of it have failed.
    failures: u32,
}

/// Kept with a leg for as long as it waits.
struct Kept {
    known: Arc<Known>,
    uuid: RelayUuid,
    id: WaitId,
}

/// A leg that nobody else pursues. Whoever has this does.
pub(super) struct Pursued {
    known: Arc<Known>,
    pub(super) leg: Waits,
    /// It holds its name, and anybody may take it up.
    settled: bool,
}

impl Known {
    /// Nobody, and names go back by `releases`.
    pub(super) fn new(releases: mpsc::Sender<Release>) -> Arc<Self> {
        let (legs, unheard) = Default::default();
        Arc::new(Self { legs, releases, releasing: AtomicUsize::new(0), unheard })
    }

    /// Makes a leg known, if it is not, and takes it up, if nobody else has and it does not hold
    /// its name. `keep` gives it what it has to keep, and says whether it still waits.
    pub(super) fn take_up(
        self: &Arc<Self>,
        leg: &Waits,
        generation: u64,
        keep: impl FnOnce(Claim) -> bool,
    ) -> Option<Pursued> {
        let is_new = {
            let mut legs = self.lock();
            let is_new = !legs.contains_key(&leg.id);
            let known = legs.entry(leg.id).or_default();
            if known.pursued || known.held == Some(generation) {
                return None;
            }
            known.pursued = true;
            is_new
        };
        let kept = || Kept { known: Arc::clone(self), uuid: leg.uuid.clone(), id: leg.id };
        // Not under the lock: what is not kept is dropped, and makes the leg unknown again.
        if is_new && !keep(Box::new(kept())) {
            return None;
        }
        Some(Pursued { known: Arc::clone(self), leg: leg.clone(), settled: false })
    }

    /// Another node has taken the name of this leg, or may have. Whether somebody has to take it up.
    pub(super) fn loses(&self, id: WaitId) -> bool {
        let mut legs = self.lock();
        let Some(leg) = legs.get_mut(&id) else { return false };
        leg.held = None;
        leg.lost |= leg.pursued;
        !leg.pursued
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WaitId, Leg>> {
        // A map operation that panicked left the map as it was.
        self.legs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(&self, uuid: &RelayUuid, id: WaitId) {
        self.send(Release { uuid: uuid.clone(), id, again: false });
    }

    fn send(&self, release: Release) {
        // Who finds the queue full leaves a name behind that expires by itself, and that another
        // takes over once it has asked for the leg.
        self.releasing.fetch_add(1, Ordering::Relaxed);
        if self.releases.try_send(release).is_err() {
            self.released();
        }
    }

    /// A name was not given back: it is tried once more when the directory can be asked again, or
    /// at once if by now it `is_back`. Nobody waits for that.
    pub(super) fn not_released(&self, release: Release, is_back: impl Fn() -> bool) {
        if !release.again {
            let release = Release { again: true, ..release };
            let mut unheard = self.unheard();
            // Under the lock: who finds that it is back looks here after that.
            if is_back() {
                self.send(release);
            } else if unheard.len() < self.releases.max_capacity() {
                unheard.push(release);
            }
        }
        self.released();
    }

    /// The directory can be asked again.
    pub(super) fn release_again(&self) {
        for release in std::mem::take(&mut *self.unheard()) {
            self.send(release);
        }
    }

    fn unheard(&self) -> MutexGuard<'_, Vec<Release>> {
        // The same.
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name is back.
    pub(super) fn released(&self) {
        self.releasing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether nobody waits, and every name is back.
    pub(super) fn is_idle(&self) -> bool {
        self.len() == 0 && self.releasing.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let left = self.known.lock().remove(&self.id);
        if left.is_some_and(|leg| leg.owes) {
            self.known.release(&self.uuid, self.id);
        }
    }
}

impl Pursued {
    /// Whether the leg waits here still.
    pub(super) fn still_waits(&self) -> bool {
        self.known.lock().contains_key(&self.leg.id)
    }

    /// The name is the leg's, as of this generation: whoever comes next may take the leg up. `false`
    /// when the name has been lost meanwhile, or the directory has forgotten it, so that it is to be
    /// claimed once more. A leg that has gone gives it back.
    pub(super) fn holds(&mut self, generation: u64, now: impl Fn() -> u64) -> bool {
        let mut legs = self.known.lock();
        let Some(leg) = legs.get_mut(&self.leg.id) else {
            drop(legs);
            self.known.release(&self.leg.uuid, self.leg.id);
            return true;
        };
        (leg.held, leg.owes) = (Some(generation), true);
        // Under the lock: who finds that the directory has forgotten looks here after that.
        leg.pursued = std::mem::take(&mut leg.lost) || now() != generation;
        self.settled = !leg.pursued;
        self.settled
    }

    /// It was asked for the name, and nothing is known of the answer.
    pub(super) fn may_hold(&self) {
        match self.known.lock().get_mut(&self.leg.id) {
            Some(leg) => leg.owes = true,
            None => self.known.release(&self.leg.uuid, self.leg.id),
        }
    }

    /// One more hand-over of it has failed. How many that makes.
    pub(super) fn failed(&self) -> u32 {
        let mut legs = self.known.lock();
        legs.get_mut(&self.leg.id).map_or(0, |leg| {
            leg.failures = leg.failures.saturating_add(1);
            leg.failures
        })
    }
}

impl Drop for Pursued {
    fn drop(&mut self) {
        if !self.settled
            && let Some(leg) = self.known.lock().get_mut(&self.leg.id)
        {
            leg.pursued = false;
        }
    }
}
