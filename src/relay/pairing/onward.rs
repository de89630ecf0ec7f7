//! The room when another process takes over: who leaves, who stays, and who is sent back.

use std::time::{Duration, Instant};

use super::{
    super::passage::{Departure, Traveller, Way},
    Shard, Waiting, WaitingRoom, lock,
};
use crate::wire::rendezvous::RelayUuid;

/// Whither to send the peer of a leg that waits elsewhere, and how long since when.
pub(super) struct Elsewhere {
    way: Way,
    since: Instant,
    remaining: Duration,
}

impl Elsewhere {
    /// Whether it has not given up by now.
    pub(super) fn still_waits(&self) -> bool {
        self.since.elapsed() < self.remaining
    }
}

impl WaitingRoom {
    /// From here on legs wait where `way` leads: those that are here leave, and whoever comes is
    /// sent after them.
    pub fn hand_over(&self, way: &Way) {
        for shard in &self.shards {
            // Who has hung up since the last sweep would be met there by a peer, as one that comes.
            self.sweep_shard(shard);
            // Under the lock that whoever parks takes: nobody is between.
            let mut shard = lock(shard);
            shard.onward = Some(way.clone());
            for (uuid, waiting) in std::mem::take(&mut shard.waiting) {
                self.stays(&mut shard, &uuid, waiting);
            }
            for (uuid, leg) in &shard.elsewhere {
                let remaining = leg.remaining.saturating_sub(leg.since.elapsed());
                // Nobody listens only when the other process has ended.
                let _ = way.send(Departure::Kept { uuid: uuid.clone(), remaining });
            }
        }
    }

    /// Whether another process' room has taken this one's place.
    pub fn is_handed_over(&self) -> bool {
        lock(&self.shards[0]).onward.is_some()
    }

    /// A leg of this name waits where `way` leads, and cannot leave: its peer is to be sent there.
    /// If it is here, it goes at once.
    pub fn is_kept(&self, uuid: &RelayUuid, remaining: Duration, way: &Way) {
        let mut shard = self.shard(uuid);
        let remaining = remaining.min(self.timeout());
        let leg = Elsewhere { way: way.clone(), since: Instant::now(), remaining };
        shard.elsewhere.insert(uuid.clone(), leg);
        if let Some(onward) = &shard.onward {
            let _ = onward.send(Departure::Kept { uuid: uuid.clone(), remaining });
        }
        if let Some(waiting) = shard.waiting.remove(uuid) {
            self.stays(&mut shard, uuid, waiting);
        }
    }

    /// Puts a leg into the room, unless another process' is where it belongs; whether it stayed.
    pub(super) fn stays(&self, shard: &mut Shard, uuid: &RelayUuid, waiting: Box<Waiting>) -> bool {
        let mut staying = waiting;
        let back = shard.elsewhere.remove(uuid).map(|leg| leg.way);
        for way in back.iter().chain(&shard.onward) {
            match staying.leave(uuid, way) {
                None => return false,
                Some(waiting) => staying = waiting,
            }
        }
        if let Some(onward) = &shard.onward {
            let remaining = self.timeout().saturating_sub(staying.since.elapsed());
            let _ = onward.send(Departure::Kept { uuid: uuid.clone(), remaining });
        }
        shard.waiting.insert(uuid.clone(), staying);
        true
    }
}

impl Waiting {
    /// Sends the leg away; it comes back when it cannot leave, or nobody takes it.
    fn leave(self: Box<Self>, uuid: &RelayUuid, way: &Way) -> Option<Box<Self>> {
        if way.is_closed() {
            return Some(self);
        }
        let Self { leg, target, conn_type, grant, since, ticket, id, claim } = *self;
        let leg = match leg.into_plain() {
            Ok(leg) => leg,
            Err(leg) => {
                let leg = *leg;
                let stays = Self { leg, target, conn_type, grant, since, ticket, id, claim };
                return Some(Box::new(stays));
            }
        };
        // Where it goes it is claimed anew.
        drop(claim);
        let (uuid, label) = (uuid.clone(), grant.label().map(ToOwned::to_owned));
        let (waited, place) = (since.elapsed(), Box::new(ticket));
        let traveller = Traveller { uuid, target, conn_type, label, leg, waited, place };
        // Lost only if the other process ended since it was asked.
        let _ = way.send(Departure::Leg(Box::new(traveller)));
        None
    }
}
