//! A round: what the pools have is divided among those that wait.

use std::{
    task::Waker,
    time::{Duration, Instant},
};

use super::{LaneId, Ledger, PORTION};
use crate::relay::throttle::{
    bucket::Bucket,
    fill::{Asker, Filled, fill},
};

/// After so long in vain, less than a portion will do.
const LONG: Duration = Duration::from_millis(250);

impl Ledger {
    /// Divides what there is among those that wait. Whom to wake is added to `wake`.
    pub(in crate::relay::throttle) fn round(&mut self, now: Instant, wake: &mut Vec<Waker>) {
        for pool in std::mem::take(&mut self.dry) {
            let pool = &mut self.pools[pool];
            pool.refill(now);
            pool.dry = false;
        }
        self.leave_queue();
        for at in 0..self.queue.len() {
            self.refresh(self.queue[at], now);
        }
        self.serve_what_is_due();
        let Filled { grants, dry } = self.divide();
        for (pool, level) in dry {
            let pool = pool as usize;
            self.pools[pool].dry = true;
            self.pools[pool].share += level as f64;
            self.dry.push(pool);
        }
        for (at, grant) in grants.into_iter().enumerate() {
            let id = self.queue[at];
            self.grant(id, grant);
            // This was its share.
            let lane = &mut self.lanes[id];
            for (&pool, seen) in lane.pools.iter().zip(&mut lane.seen) {
                *seen = self.pools[pool as usize].share;
            }
            lane.waited = Some(now);
            if let Some(wait) = &mut lane.wait
                && lane.granted >= if now - wait.since < LONG { PORTION } else { 1 }
            {
                wait.served = true;
                wake.push(wait.waker.clone());
            }
        }
        self.leave_queue();
    }

    /// Who waits no more leaves the queue.
    fn leave_queue(&mut self) {
        let Self { queue, lanes, .. } = self;
        queue.retain(|&id| {
            let lane = &mut lanes[id];
            lane.queued = lane.wait.as_ref().is_some_and(|wait| !wait.served);
            if lane.over {
                lanes.remove(id);
                return false;
            }
            lane.queued
        });
    }

    /// First those who took less than their share before.
    fn serve_what_is_due(&mut self) {
        for at in 0..self.queue.len() {
            let id = self.queue[at];
            let lane = &self.lanes[id];
            if !lane.pools.is_empty() && lane.due >= 1.0 {
                let own = lane.own.as_ref().map_or(f64::MAX, Bucket::level);
                let levels =
                    lane.pools.iter().map(|&pool| self.pools[pool as usize].bucket.level());
                let due = levels.fold(own.min(lane.due), f64::min).max(0.0);
                self.grant(id, due as u64);
            }
        }
    }

    fn divide(&self) -> Filled {
        let askers = self.queue.iter().map(|&id| {
            let lane = &self.lanes[id];
            let own = lane.own.as_ref().map(|own| own.level().max(0.0) as u64);
            Asker { most: own.unwrap_or(u64::MAX), pools: &lane.pools }
        });
        let mut left = vec![0; self.pools.capacity()];
        for (at, pool) in &self.pools {
            left[at] = (pool.bucket.level() - pool.reserve()).max(0.0) as u64;
        }
        fill(&askers.collect::<Vec<_>>(), &left)
    }

    fn grant(&mut self, id: LaneId, bytes: u64) {
        self.take(id, bytes);
        self.lanes[id].granted += bytes;
    }
}
