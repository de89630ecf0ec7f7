//! How legs leave the waiting room without a peer: a sweep finds those that hung up or whose time is
//! over, and others are turned out.

use std::{
    net::IpAddr,
    sync::{Mutex, atomic::Ordering},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{Shard, Waiting, WaitingRoom, lock};
use crate::{net::leg::gone, wire::rendezvous::RelayUuid};

/// A leg that hung up is gone within a second: two sweeps.
const SWEEP: Duration = Duration::from_millis(500);

/// How often it is looked whether the last leg has left the room.
const LOOK: Duration = Duration::from_millis(50);

impl WaitingRoom {
    /// Sweeps until `stop` is cancelled, then closes the room: nobody's peer can come any more.
    pub async fn sweep_until(&self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.sweep().await;
            // Not by an interval: what legs may wait can change, and the pace with it.
            stop.run_until_cancelled(tokio::time::sleep(self.pace())).await;
        }
        self.close();
    }

    /// Waits until nobody waits here any more, lent or not.
    pub async fn until_empty(&self) {
        while !self.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Until the next sweep: a quarter of what legs may wait, if that is little.
    fn pace(&self) -> Duration {
        SWEEP.min(self.timeout() / 4).max(Duration::from_millis(1))
    }

    pub(super) async fn sweep(&self) {
        if self.is_empty() {
            return;
        }
        for shard in &self.shards {
            self.sweep_shard(shard);
            // Thousands that wait are no reason to let a relay wait.
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn sweep_shard(&self, shard: &Mutex<Shard>) {
        let timeout = self.timeout();
        let mut shard = lock(shard);
        shard.elsewhere.retain(|_, leg| leg.still_waits());
        let waiting = &mut shard.waiting;
        let gone = gone(waiting.values_mut().map(|one| &mut one.leg));
        let hung_up: Vec<_> = waiting
            .keys()
            .enumerate()
            .filter(|(index, _)| gone.binary_search(index).is_ok())
            .map(|(_, uuid)| uuid.clone())
            .collect();
        let mut left: Vec<_> = hung_up
            .into_iter()
            .filter_map(|uuid| waiting.remove_entry(&uuid))
            .map(|(uuid, one)| (uuid, one, "hung_up"))
            .collect();
        let late = waiting.extract_if(|_, one| one.since.elapsed() >= timeout);
        left.extend(late.map(|(uuid, one)| (uuid, one, "timeout")));
        let denied = |one: &Waiting| self.ring.still_grants(&one.grant).err();
        let unwelcome = waiting.extract_if(|_, one| denied(one).is_some());
        let unwelcome = unwelcome.map(|(uuid, one)| {
            let reason = denied(&one).map_or("key_revoked", |denied| denied.label());
            (uuid, one, reason)
        });
        left.extend(unwelcome);
        // A flood's room is given back.
        if waiting.capacity() > 64 && waiting.len() < waiting.capacity() / 4 {
            let len = waiting.len();
            waiting.shrink_to(2 * len);
        }
        drop(shard);
        for (uuid, waiting, reason) in left {
            self.left(&uuid, *waiting, reason);
        }
    }

    /// Turns out the legs that come from where `is_unwanted` says.
    pub fn turn_out(&self, is_unwanted: impl Fn(IpAddr) -> bool) {
        for shard in &self.shards {
            let unwanted = |waiting: &Waiting| is_unwanted(waiting.leg.peer().ip());
            let out: Vec<_> = lock(shard).waiting.extract_if(|_, one| unwanted(one)).collect();
            for (uuid, waiting) in out {
                self.left(&uuid, *waiting, "blocked");
            }
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for shard in &self.shards {
            let left = std::mem::take(&mut lock(shard).waiting);
            for (uuid, waiting) in left {
                self.left(&uuid, *waiting, "draining");
            }
        }
    }

    /// Records, and drops, a leg whose peer did not come.
    pub(super) fn left(&self, uuid: &RelayUuid, waiting: Waiting, reason: &'static str) {
        self.metrics.unpaired(reason);
        let (peer, waited_ms) = (waiting.leg.peer(), waiting.since.elapsed().as_millis() as u64);
        if reason == "hung_up" {
            tracing::debug!(%uuid, waited_ms, reason, "Relay request from {peer} got no peer");
        } else {
            tracing::info!(%uuid, waited_ms, reason, "Relay request from {peer} got no peer");
        }
    }
}
