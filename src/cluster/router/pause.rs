//! How long to wait before the next try: twice as long each time up to a bound, and never as long as
//! anybody else, so that those who failed together do not come back together.

use std::{
    hash::{DefaultHasher, Hash, Hasher as _},
    time::Duration,
};

/// The first.
const SHORTEST: Duration = Duration::from_millis(50);

/// The bound.
const LONGEST: Duration = Duration::from_secs(2);

/// The pause after so many failures: between half and the whole of what is due.
pub(super) fn after(failures: u32, whose: impl Hash) -> Duration {
    let doubled = SHORTEST.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let due = doubled.min(LONGEST);
    due / 2 + part_of(due / 2, (whose, failures))
}

/// Some part of it, another one for everybody: no dice, so that a simulation can be repeated.
pub(super) fn part_of(whole: Duration, whose: impl Hash) -> Duration {
    let mut hasher = DefaultHasher::new();
    whose.hash(&mut hasher);
    whole.mul_f64((hasher.finish() >> 32) as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_differ() {
        for (failures, due) in [(0, 50), (1, 50), (2, 100), (3, 200), (6, 1600), (7, 2000)] {
            let due = Duration::from_millis(due);
            for whose in 0..100 {
                let pause = after(failures, whose);
                assert!(due / 2 <= pause && pause <= due, "{failures}: {pause:?} of {due:?}");
            }
        }
        assert!(after(u32::MAX, 1) <= LONGEST);
        let some: std::collections::HashSet<_> =
            (0..20).map(|whose| part_of(LONGEST, whose)).collect();
        assert!(some.len() > 10);
    }
}
