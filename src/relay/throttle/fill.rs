//! Max-min fairness by progressive filling: the water rises for all alike; who has enough, or has a
//! pool of theirs run dry, is done, and the rest share what is left. Nothing but arithmetic.
//!
//! With `n` who ask and `m` places of theirs in pools it takes `O((n + m) log (n + m))` in the worst
//! case, `O(n + m)` when all share one pool.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Somebody who asks.
#[derive(Debug, Clone)]
pub(super) struct Asker<'a> {
    /// What they can use; `u64::MAX` for as much as there is.
    pub(super) most: u64,
    /// The pools that it comes from, all at once; each an index into what is left in them.
    pub(super) pools: &'a [u32],
}

/// Who gets how much.
#[derive(Debug)]
pub(super) struct Filled {
    /// By asker.
    pub(super) grants: Vec<u64>,
    /// The pools that ran dry, and how high the water stood then: what each of their askers got
    /// whom nothing else held back.
    pub(super) dry: Vec<(u32, u64)>,
}

/// The next thing to happen as the water rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// An asker has enough.
    Enough(u32),
    /// A pool runs dry.
    Dry(u32),
}

/// A pool while it is emptied.
#[derive(Debug, Clone, Copy, Default)]
struct Pool {
    left: u64,
    /// Askers who are not done.
    open: u64,
    /// Where its askers begin in the list of all places.
    first: usize,
}

struct Filling<'a> {
    askers: &'a [Asker<'a>],
    /// `None` while the water still rises for them.
    grants: Vec<Option<u64>>,
    /// How many these are.
    open: usize,
    pools: Vec<Pool>,
    /// The askers of each pool, pool by pool.
    places: Vec<u32>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    dry: Vec<(u32, u64)>,
}

/// Divides what is left in each pool.
pub(super) fn fill(askers: &[Asker<'_>], left: &[u64]) -> Filled {
    let mut filling = Filling::new(askers, left);
    while filling.open > 0
        && let Some(Reverse((level, event))) = filling.events.pop()
    {
        match event {
            Event::Enough(asker) => filling.done(asker, level),
            Event::Dry(pool) => filling.runs_dry(pool, level),
        }
    }
    // Whom neither a pool nor their own need bounds.
    let grants = filling.grants.into_iter().map(|grant| grant.unwrap_or(u64::MAX)).collect();
    Filled { grants, dry: filling.dry }
}

impl<'a> Filling<'a> {
    fn new(askers: &'a [Asker<'a>], left: &[u64]) -> Self {
        let mut pools: Vec<_> = left.iter().map(|&left| Pool { left, ..Pool::default() }).collect();
        for pool in askers.iter().flat_map(|asker| asker.pools) {
            pools[*pool as usize].open += 1;
        }
        let mut all = 0;
        for pool in &mut pools {
            pool.first = all;
            all += pool.open as usize;
        }
        let mut places = vec![0; all];
        let mut next: Vec<_> = pools.iter().map(|pool| pool.first).collect();
        for (index, asker) in askers.iter().enumerate() {
            for &pool in asker.pools {
                places[next[pool as usize]] = index as u32;
                next[pool as usize] += 1;
            }
        }
        let enough = askers.iter().enumerate().filter(|(_, asker)| asker.most < u64::MAX);
        let enough = enough.map(|(index, asker)| (asker.most, Event::Enough(index as u32)));
        let dry = pools.iter().enumerate().filter(|(_, pool)| pool.open > 0);
        let dry = dry.map(|(index, pool)| (pool.left / pool.open, Event::Dry(index as u32)));
        let events: Vec<_> = enough.chain(dry).map(Reverse).collect();
        let (grants, open) = (vec![None; askers.len()], askers.len());
        Self { askers, grants, open, places, events: events.into(), pools, dry: Vec::new() }
    }

    fn runs_dry(&mut self, index: u32, level: u64) {
        let pool = self.pools[index as usize];
        if pool.open == 0 {
            return;
        }
        // Askers that were done at less have left more for the others.
        let runs_dry_at = pool.left / pool.open;
        if runs_dry_at > level {
            self.events.push(Reverse((runs_dry_at, Event::Dry(index))));
            return;
        }
        self.dry.push((index, level));
        let end = self.pools.get(index as usize + 1).map_or(self.places.len(), |next| next.first);
        for place in pool.first..end {
            self.done(self.places[place], level);
        }
    }

    fn done(&mut self, asker: u32, level: u64) {
        let grant = &mut self.grants[asker as usize];
        if grant.is_some() {
            return;
        }
        *grant = Some(level);
        self.open -= 1;
        for &pool in self.askers[asker as usize].pools {
            let pool = &mut self.pools[pool as usize];
            pool.left -= level;
            pool.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(askers: &[(u64, &[u32])], left: &[u64]) -> Vec<u64> {
        let askers: Vec<_> = askers.iter().map(|&(most, pools)| Asker { most, pools }).collect();
        fill(&askers, left).grants
    }

    #[test]
    fn who_wants_little_gets_it_and_the_rest_share_alike() {
        const ALL: u64 = u64::MAX;
        assert_eq!(filled(&[(10, &[0]), (ALL, &[0]), (ALL, &[0])], &[110]), [10, 50, 50]);
        // The second pool holds one of them back; the other has what that leaves.
        assert_eq!(filled(&[(ALL, &[0, 1]), (ALL, &[0])], &[100, 20]), [20, 80]);
        assert_eq!(filled(&[(5, &[]), (7, &[0])], &[0]), [5, 0]);
        assert!(filled(&[], &[5]).is_empty());
    }

    /// Up to 12 askers, and 4 pools of which each is in some.
    fn worlds() -> impl Strategy<Value = (Vec<(u64, Vec<u32>)>, Vec<u64>)> {
        let most = prop_oneof![Just(u64::MAX), 0..2_000_u64];
        let asker = (most, prop::collection::btree_set(0..4_u32, 0..4));
        let asker = asker.prop_map(|(most, pools)| (most, pools.into_iter().collect()));
        (prop::collection::vec(asker, 0..12), prop::collection::vec(0..10_000_u64, 4))
    }

    proptest! {
        #[test]
        fn it_is_within_the_pools_max_min_fair_and_leaves_nothing((askers, left) in worlds()) {
            let asked: Vec<_> =
                askers.iter().map(|(most, pools)| Asker { most: *most, pools }).collect();
            let Filled { grants, dry } = fill(&asked, &left);
            for (pool, &left) in left.iter().enumerate() {
                let of = |(asker, _): &(&Asker<'_>, &u64)| asker.pools.contains(&(pool as u32));
                let sum: u64 = asked.iter().zip(&grants).filter(of).map(|(_, grant)| grant).sum();
                prop_assert!(sum <= left, "pool {pool}: {sum} of {left}");
                // What cannot be divided evenly stays.
                if let Some((_, level)) = dry.iter().find(|(dry, _)| *dry as usize == pool) {
                    prop_assert!(left - sum < asked.len() as u64, "pool {pool} keeps some");
                    for (_, grant) in asked.iter().zip(&grants).filter(of) {
                        prop_assert!(grant <= level);
                    }
                }
            }
            for (asker, &grant) in asked.iter().zip(&grants) {
                prop_assert!(grant <= asker.most);
                // Whoever got less than they want is among those who got most of a pool that ran
                // dry: nobody there got more, so nothing could be moved to them. That is max-min.
                let held_back = dry.iter().any(|(pool, level)| {
                    asker.pools.contains(pool) && grant == *level
                });
                prop_assert!(grant == asker.most || held_back, "{asker:?} got {grant}");
            }
        }
    }
}
