//! The hand-over between two nodes as the link does it, but for its bytes: greeting, `want`, `here`,
//! `go`, each a trip that may never arrive.

use std::{future::pending, sync::Arc, time::Duration};

use mini_rust_desk_relay_server::{
    cluster::{
        directory::Holder,
        router::{Met, Peers},
    },
    relay::route::Waits,
};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    node::{Leg, SimulatedNode},
    pairs::number,
    world::World,
};

/// `cluster.handover_timeout`.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How two nodes reach each other.
pub(super) struct Network {
    pub(super) world: Arc<World>,
    pub(super) me: Arc<SimulatedNode>,
}

impl Peers for Network {
    async fn meet(&self, holder: &Holder, leg: &Waits) -> Met {
        self.world.pairs().attempts += 1;
        let met = self.hand_over(holder, leg).await;
        if self.me.is_dead() {
            return pending().await;
        }
        if !matches!(met, Met::HandedOver | Met::Gone) {
            self.world.pairs().fails(number(&leg.uuid));
        }
        met
    }
}

impl Network {
    async fn hand_over(&self, holder: &Holder, leg: &Waits) -> Met {
        let (world, pair, timeout) = (&self.world, number(&leg.uuid), Instant::now() + TIMEOUT);
        let place = world.place_of(holder);
        if world.bars(self.me.place, place) {
            sleep_until(timeout).await;
            return Met::Unreachable;
        }
        // To be connected, and to be greeted.
        sleep(world.trip() + world.trip()).await;
        let Some(there) = world.at(place).filter(|_| !world.dial_fails()) else {
            return Met::Unreachable;
        };
        sleep(world.trip() + world.trip()).await;
        let Some(side) = self.me.side_of(pair, leg.id) else { return Met::Gone };
        // Hello and `want`: the process in that place may be another one by now.
        sleep(world.trip()).await;
        let lent = there.reserve(pair, side).filter(|_| !there.is_dead());
        let Some(lent) = lent.filter(|_| there.node == holder.node) else {
            sleep(world.trip()).await;
            return if there.is_dead() { Met::Unreachable } else { Met::Nobody };
        };
        self.with_a_peer(&there, lent, leg, timeout).await
    }

    /// The peer is lent there, until this side says `go` or the time is over.
    async fn with_a_peer(
        &self,
        there: &Arc<SimulatedNode>,
        lent: Leg,
        leg: &Waits,
        timeout: Instant,
    ) -> Met {
        let (world, pair) = (&self.world, number(&leg.uuid));
        // `here`
        sleep(world.trip()).await;
        if there.is_dead() || world.cuts(there.place, self.me.place) {
            if !there.is_dead() {
                sleep_until(timeout).await;
            }
            world.put_back(there, pair, lent);
            return Met::Unreachable;
        }
        let Some(mine) = self.me.depart(pair, leg.id) else {
            sleep(world.trip()).await;
            world.put_back(there, pair, lent);
            return Met::Gone;
        };
        // `go`
        sleep(world.trip()).await;
        self.me.leaves(mine.id);
        let is_well = !there.is_dead() && !self.me.is_dead();
        if is_well && !world.cuts(self.me.place, there.place) && !world.breaks() {
            there.leaves(lent.id);
            world.meets(pair, true);
            return Met::HandedOver;
        }
        // The pipe breaks, and the client hears of it; the peer waits on.
        world.comes_again(pair, mine.side);
        if is_well {
            sleep_until(timeout).await;
        }
        world.put_back(there, pair, lent);
        Met::HandedOver
    }
}
