//! Wrong keys of one address: after too many, it has to wait before it may try again, and longer
//! each time.
//!
//! Who guesses sends a different key each time; who is set up wrongly sends the same. So the same
//! again counts a tenth, and an office whose one machine has a stale key goes on.

use std::time::Duration;

/// What a key counts that has not been sent lately.
const NEW: u64 = 10;

/// What one counts that has.
const AGAIN: u64 = 1;

/// The first wait. Each further one is twice as long, up to what is configured.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How many keys are remembered, of each a salted hash.
const REMEMBERED: usize = 8;

/// When an address has to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct BackOff {
    /// How many different keys may be wrong; 0 for any number.
    pub(super) keys: u32,
    /// In which time.
    pub(super) within: Duration,
    /// The longest wait.
    pub(super) longest: Duration,
}

/// The wrong keys of an address. Times are in nanoseconds after the table's epoch.
#[derive(Debug, Default)]
pub(super) struct WrongKeys {
    recent: [Option<u64>; REMEMBERED],
    next: usize,
    /// In nanoseconds, of which `within` is as much as may be: what is owed is worked off as time
    /// passes.
    debt: u64,
    counted_at: u64,
    waits: u32,
    wait_ends: u64,
}

impl WrongKeys {
    /// One more; whether the address has to wait from now on.
    pub(super) fn add(&mut self, key: u64, now: u64, limits: BackOff) -> bool {
        if self.is_settled(now, limits) {
            *self = Self::default();
        }
        let within = nanos(limits.within);
        let share = within / (NEW * u64::from(limits.keys.max(1)));
        let owed = share * self.weight(key);
        self.debt = self.debt(now) + owed;
        self.counted_at = now;
        // A share is rounded down, and the last key must count.
        if self.debt + share < within {
            return false;
        }
        // The next different one is one too many again.
        self.debt = within.saturating_sub(share * NEW);
        let wait = FIRST_WAIT.saturating_mul(1 << self.waits.min(20)).min(limits.longest);
        self.waits = self.waits.saturating_add(1);
        self.wait_ends = now + nanos(wait);
        true
    }

    fn weight(&mut self, key: u64) -> u64 {
        if self.recent.contains(&Some(key)) {
            return AGAIN;
        }
        self.recent[self.next] = Some(key);
        self.next = (self.next + 1) % REMEMBERED;
        NEW
    }

    fn debt(&self, now: u64) -> u64 {
        self.debt.saturating_sub(now.saturating_sub(self.counted_at))
    }

    /// How long it has yet to wait.
    pub(super) fn wait(&self, now: u64) -> Option<Duration> {
        self.wait_ends.checked_sub(now).filter(|left| *left > 0).map(Duration::from_nanos)
    }

    /// Whether it has been quiet for so long that nothing is left to remember.
    pub(super) fn is_settled(&self, now: u64, limits: BackOff) -> bool {
        let quiet_since = self.counted_at.max(self.wait_ends);
        self.debt(now) == 0 && now.saturating_sub(quiet_since) >= nanos(limits.within)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BackOff =
        BackOff { keys: 5, within: Duration::from_secs(600), longest: Duration::from_secs(60) };
    const SECOND: u64 = 1_000_000_000;

    /// Sends different keys until it has to wait: how many, and how long it waits then.
    fn guess(wrong: &mut WrongKeys, from: u64, now: u64) -> (u64, Duration) {
        let sent = (from..).take(1000).position(|key| wrong.add(key, now, LIMITS));
        (sent.expect("at last it has to wait") as u64 + 1, wrong.wait(now).unwrap())
    }

    #[test]
    fn who_guesses_waits_and_longer_each_time_up_to_a_bound() {
        let mut wrong = WrongKeys::default();
        assert_eq!(guess(&mut wrong, 0, SECOND), (5, Duration::from_secs(1)));
        let mut now = SECOND;
        for wait in [2, 4, 8, 16, 32, 60, 60, 60] {
            now = wrong.wait_ends;
            assert_eq!(wrong.wait(now), None);
            let (sent, waits) = guess(&mut wrong, now, now);
            assert!(sent <= 2, "what was worked off meanwhile is little: {sent}");
            assert_eq!(waits, Duration::from_secs(wait));
        }
        let later = now + 60 * SECOND + 600 * SECOND;
        assert!(!wrong.is_settled(later - 1, LIMITS) && wrong.is_settled(later, LIMITS));
        assert_eq!(guess(&mut wrong, 7, later), (5, Duration::from_secs(1)), "forgotten");
    }

    #[test]
    fn who_is_set_up_wrongly_counts_a_tenth() {
        let mut wrong = WrongKeys::default();
        let tries = (0..).position(|_| wrong.add(1, SECOND, LIMITS)).unwrap() + 1;
        assert!((40..=41).contains(&tries), "{tries}");
        // One each twenty seconds is worked off faster than it counts.
        let mut wrong = WrongKeys::default();
        for n in 1..10_000 {
            assert!(!wrong.add(1, n * 20 * SECOND, LIMITS), "{n}");
        }
        assert!(!wrong.add(2, 200_000 * SECOND, LIMITS));
    }

    #[test]
    fn keys_far_apart_are_no_guessing() {
        let mut wrong = WrongKeys::default();
        for n in 1..1_000 {
            assert!(!wrong.add(n, n * 121 * SECOND, LIMITS), "{n}");
        }
    }
}
