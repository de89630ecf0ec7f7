//! How busy a pair is, and so on which plane it belongs.
//!
//! It goes over to the bulk plane after 4 MiB at more than 32 MiB/s, or 4 MiB that always left more
//! behind when its turn was over: where many share the machine, none of them is fast. It comes back
//! after a second with less than 8 MiB and hardly such a turn. Between the two it stays where it is.

use std::time::Duration;

use tokio::time::Instant;

/// So much is moved before a pair is weighed.
const PORTION: u64 = 4 << 20;

/// A portion in less time is bulk.
const QUICK: Duration = Duration::from_millis(125);

/// So many turns of a portion that left more behind are bulk too: three of four.
const BEHIND: u32 = 12;

/// How often a pair in bulk is looked at.
const WINDOW: Duration = Duration::from_secs(1);

/// Less than this in a window, and with fewer turns that left more behind, is calm.
const CALM: (u64, u32) = (8 << 20, 8);

/// What a pair moved since it was last weighed.
#[derive(Debug)]
pub(super) struct Pace {
    plane: Plane,
    since: Instant,
    bytes: u64,
    /// Turns that left more to do behind.
    behind: u32,
}

/// Where a pair's task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plane {
    /// Where it began.
    Light,
    /// On a thread of the bulk plane.
    Bulk,
    /// Where it began, and there is no other.
    Only,
}

impl Pace {
    /// A pair that comes to `plane`.
    pub(super) fn new(plane: Plane) -> Self {
        Self { plane, since: Instant::now(), bytes: 0, behind: 0 }
    }

    /// It received so much.
    pub(super) const fn moved(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// It did not come to the end of what there was.
    pub(super) const fn fell_behind(&mut self) {
        self.behind += 1;
    }

    /// Whether it is to be weighed, as [`Pace::is_bulk`] does.
    pub(super) fn is_due(&self) -> bool {
        self.plane == Plane::Light && self.bytes >= PORTION
    }

    /// Whether it belongs to the bulk plane. Begins anew.
    pub(super) fn is_bulk(&mut self, now: Instant) -> bool {
        let bulk = now - self.since <= QUICK || self.behind >= BEHIND;
        self.begin(now);
        bulk
    }

    /// When it is to be looked at, as [`Pace::is_calm`] does.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (self.plane == Plane::Bulk).then(|| self.since + WINDOW)
    }

    /// Whether it belongs to the light plane again. Begins anew.
    pub(super) fn is_calm(&mut self, now: Instant) -> bool {
        if self.next_look().is_none_or(|at| now < at) {
            return false;
        }
        let calm = self.bytes < CALM.0 && self.behind < CALM.1;
        self.begin(now);
        calm
    }

    fn begin(&mut self, now: Instant) {
        *self = Self { plane: self.plane, since: now, bytes: 0, behind: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pace: &Pace, millis: u64) -> Instant {
        pace.since + Duration::from_millis(millis)
    }

    #[test]
    fn a_quick_portion_is_bulk_and_a_slow_one_is_not() {
        let mut pace = Pace::new(Plane::Light);
        pace.moved(PORTION - 1);
        assert!(!pace.is_due());
        pace.moved(1);
        assert!(pace.is_due());
        let at = after(&pace, 125);
        assert!(pace.is_bulk(at));
        pace.moved(PORTION);
        let at = after(&pace, 126);
        assert!(!pace.is_bulk(at));
    }

    #[test]
    fn a_slow_portion_that_is_always_behind_is_bulk() {
        let mut pace = Pace::new(Plane::Light);
        pace.moved(PORTION);
        (0..BEHIND).for_each(|_| pace.fell_behind());
        let at = after(&pace, 10_000);
        assert!(pace.is_bulk(at));
    }

    #[test]
    fn between_calm_and_bulk_a_pair_stays_where_it_is() {
        // 16 MiB/s: neither enough to go nor little enough to come back.
        let mut light = Pace::new(Plane::Light);
        let mut bulk = Pace::new(Plane::Bulk);
        for _ in 0..20 {
            light.moved(PORTION);
            let at = after(&light, 250);
            assert!(!light.is_bulk(at));
            bulk.moved(4 * PORTION);
            let at = after(&bulk, 1_000);
            assert!(!bulk.is_calm(at));
        }
        bulk.moved(PORTION);
        let early = after(&bulk, 999);
        assert!(!bulk.is_calm(early));
        let at = after(&bulk, 1_000);
        assert!(bulk.is_calm(at));
    }

    #[test]
    fn without_a_bulk_plane_nobody_is_weighed() {
        let mut pace = Pace::new(Plane::Only);
        pace.moved(100 * PORTION);
        assert!(!pace.is_due() && pace.next_look().is_none());
    }
}
