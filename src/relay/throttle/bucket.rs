//! A token bucket: so many bytes a second, and a little ahead.
//!
//! Over any span `t` no more than `rate × t + depth` goes through it. It reads no clock.

use std::time::{Duration, Instant};

/// What a bucket holds at most, as the time that its rate takes to fill it...
const AHEAD: Duration = Duration::from_millis(50);

/// ...but never less than this, so that a message of a slow relay goes at once.
pub(super) const SHALLOWEST: f64 = 65_536.0;

/// One bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    /// In bytes a second.
    rate: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        let mut bucket = Self { rate: rate as f64, level: 0.0, at: now };
        bucket.level = bucket.depth();
        bucket
    }

    /// What it holds at most.
    pub(super) fn depth(&self) -> f64 {
        (self.rate * AHEAD.as_secs_f64()).max(SHALLOWEST)
    }

    /// What is in it, as of the last refill.
    pub(super) const fn level(&self) -> f64 {
        self.level
    }

    /// Whether a new one would be no fuller.
    pub(super) fn is_full(&self) -> bool {
        self.level >= self.depth()
    }

    /// Adds what came since the last time. How much that was, even if there was no room for it.
    pub(super) fn refill(&mut self, now: Instant) -> f64 {
        let came = self.rate * now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.put_back(came);
        came
    }

    /// Goes on at another rate.
    pub(super) fn set_rate(&mut self, rate: u64, now: Instant) {
        self.refill(now);
        self.rate = rate as f64;
        self.level = self.level.min(self.depth());
    }

    /// Takes what must be there.
    pub(super) fn take(&mut self, bytes: u64) {
        debug_assert!(bytes as f64 <= self.level + 1.0, "{bytes} of {}", self.level);
        self.level -= bytes as f64;
    }

    /// Returns what was taken and not used.
    pub(super) fn put_back(&mut self, bytes: f64) {
        self.level = (self.level + bytes).min(self.depth());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_span_sees_more_than_the_rate_and_the_depth(
            rate in 1_000..1_000_000_000_u64,
            steps in prop::collection::vec((0..200_u64, 0..2_000_000_u64, any::<bool>()), 1..100),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, start);
            let (mut now, mut taken) = (start, Vec::new());
            for (millis, asked, back) in steps {
                now += Duration::from_millis(millis);
                bucket.refill(now);
                let bytes = asked.min(bucket.level() as u64);
                bucket.take(bytes);
                if back {
                    bucket.put_back(bytes as f64);
                } else {
                    taken.push((now, bytes));
                }
            }
            for (first, (since, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (at, bytes) in &taken[first..] {
                    sum += bytes;
                    let most = rate as f64 * (*at - *since).as_secs_f64() + bucket.depth();
                    prop_assert!(sum as f64 <= most + 1.0, "{sum} > {most}");
                }
            }
        }
    }

    #[test]
    fn another_rate_counts_from_when_it_was_set() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10_000_000, start);
        bucket.take(500_000);
        bucket.set_rate(1_000, start + Duration::from_millis(10));
        assert!((bucket.level() - SHALLOWEST).abs() < 1.0, "no more than it has room for");
        bucket.take(65_536);
        bucket.refill(start + Duration::from_millis(1_010));
        assert!((bucket.level() - 1_000.0).abs() < 1.0);
    }
}
