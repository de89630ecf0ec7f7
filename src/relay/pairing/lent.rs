//! What the nodes of a cluster ask of the room: who waits here, and to have a leg for a moment.
//!
//! A leg that is lent is nobody's to meet. It goes on as a relay, or leaves for good, or is put back
//! with all that it had: its place, its claim, and the time that was left to it. Whoever came
//! meanwhile is met then.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, MutexGuard, atomic::Ordering},
};

use super::{
    super::{
        request::{Match, NotReserved, RelayError, WaitId, Waits},
        route::{Claim, Details},
    },
    Comer, Places, Shard, Waiting, WaitingRoom, lock, pair,
};
use crate::{
    key_ring::Grant,
    net::{access::Denial, leg::Leg},
    wire::rendezvous::RelayUuid,
};

/// The claims of those who are lent: a claim may come while its leg is away.
pub(super) type Claims = HashMap<WaitId, Option<Box<Claim>>>;

/// A leg that is out of the room. To be given back by [`WaitingRoom::put_back`]; if dropped it is
/// hung up on.
pub struct Lent {
    waiting: Box<Waiting>,
    away: Away,
}

/// Where the claim is kept of a leg that is lent; given back when dropped.
struct Away {
    room: Arc<WaitingRoom>,
    uuid: RelayUuid,
    id: WaitId,
}

impl WaitingRoom {
    /// Keeps a claim with its leg; whether that is still here. A leg that has one already keeps
    /// that.
    pub fn keep(&self, uuid: &RelayUuid, id: WaitId, claim: impl FnOnce() -> Claim) -> bool {
        let mut shard = self.shard(uuid);
        let Shard { waiting, lent, .. } = &mut *shard;
        let waiting = waiting.get_mut(uuid).filter(|waiting| waiting.id == id);
        let place = waiting.map(|waiting| &mut waiting.claim).or_else(|| lent.get_mut(&id));
        place.map(|place| place.get_or_insert_with(|| Box::new(claim()))).is_some()
    }

    /// All that wait here now, in no order. Who is lent is told of when it is back.
    pub fn waiting(&self) -> Vec<Waits> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            all.extend(
                shard.waiting.iter().map(|(uuid, waiting)| self.told(uuid.clone(), waiting)),
            );
        }
        all
    }

    /// The leg of this name that waits here now.
    pub fn waits(&self, uuid: &RelayUuid) -> Option<Waits> {
        self.shard(uuid).waiting.get(uuid).map(|waiting| self.told(uuid.clone(), waiting))
    }

    /// What another node has to know of a leg that waits here.
    pub fn details(&self, uuid: &RelayUuid, id: WaitId) -> Option<Details> {
        let shard = self.shard(uuid);
        let waiting = shard.waiting.get(uuid).filter(|waiting| waiting.id == id)?;
        Some(Details {
            target: waiting.target.clone(),
            conn_type: waiting.conn_type,
            label: waiting.grant.label().map(ToOwned::to_owned),
            peer: waiting.leg.peer(),
            transport: waiting.leg.transport,
            tls: waiting.leg.connection.socket.is_tls(),
            waited: waiting.since.elapsed(),
        })
    }

    /// Lends whoever waits under this name, with the places of a relay of it and a leg of another
    /// node that has this grant.
    ///
    /// # Errors
    /// When nobody waits, or no relay can be made of the two.
    pub fn reserve(
        self: &Arc<Self>,
        uuid: &RelayUuid,
        newcomer: &Grant,
    ) -> Result<(Lent, Places), NotReserved> {
        loop {
            let Lent { waiting, away } = self.lend(uuid, |_| true).ok_or(NotReserved::Nobody)?;
            let Some(waiting) = self.if_fit(uuid, waiting) else { continue };
            return match self.places([&waiting.grant, newcomer]) {
                Ok(places) => Ok((Lent { waiting, away }, places)),
                Err(refusal) => {
                    // Both are told at once: neither could be paired.
                    self.left(uuid, *waiting, refusal.label());
                    Err(refusal.into())
                }
            };
        }
    }

    /// Lends this leg, which is to leave for another node.
    pub fn depart(self: &Arc<Self>, uuid: &RelayUuid, id: WaitId) -> Option<Lent> {
        let Lent { waiting, away } = self.lend(uuid, |waiting| waiting.id == id)?;
        let waiting = self.if_fit(uuid, waiting)?;
        Some(Lent { waiting, away })
    }

    fn lend(self: &Arc<Self>, uuid: &RelayUuid, is_it: impl Fn(&Waiting) -> bool) -> Option<Lent> {
        let mut shard = self.shard(uuid);
        let (uuid, mut waiting) = match shard.waiting.get(uuid) {
            Some(waiting) if is_it(waiting) => shard.waiting.remove_entry(uuid)?,
            _ => return None,
        };
        let id = waiting.id;
        shard.lent.insert(id, waiting.claim.take());
        Some(Lent { waiting, away: Away { room: Arc::clone(self), uuid, id } })
    }

    /// Takes a leg back that was lent: it meets who came meanwhile, or waits on.
    ///
    /// # Errors
    /// When it must go: because the room is closed, or no relay can be made of the two that meet.
    pub fn put_back(self: &Arc<Self>, lent: Lent) -> Result<Match, RelayError> {
        let Lent { waiting: mut back, away } = lent;
        let uuid = &away.uuid;
        // Whom nobody wants any more was turned out of the room while this was not in it.
        if self.access.is_blocked(back.leg.peer().ip()) {
            self.left(uuid, *back, Denial::Blocked.label());
            return Err(Denial::Blocked.into());
        }
        loop {
            let mut shard = self.shard(uuid);
            if let Some(claim) = shard.lent.remove(&away.id) {
                back.claim = claim;
            }
            // As for one that parks.
            if self.closed.load(Ordering::Relaxed) {
                drop(shard);
                self.left(uuid, *back, RelayError::Draining.label());
                return Err(RelayError::Draining);
            }
            let Some(other) = shard.waiting.remove(uuid) else {
                return Ok(Match::Parked(self.enter(shard, uuid.clone(), back)));
            };
            drop(shard);
            let Some(other) = self.if_fit(uuid, other) else { continue };
            let Some(first) = self.if_fit(uuid, back) else {
                back = other;
                continue;
            };
            return match self.places([&first.grant, &other.grant]) {
                Ok(places) => pair(uuid.clone(), *first, other.comes()?, places),
                Err(refusal) => {
                    self.left(uuid, *first, refusal.label());
                    self.left(uuid, *other, refusal.label());
                    Err(refusal)
                }
            };
        }
    }

    /// The leg waits in the room, or where that has moved to.
    pub(super) fn enter(
        &self,
        mut shard: MutexGuard<'_, Shard>,
        uuid: RelayUuid,
        waiting: Box<Waiting>,
    ) -> Option<Waits> {
        let told = self.told(uuid, &waiting);
        self.stays(&mut shard, &told.uuid, waiting).then_some(told)
    }

    fn told(&self, uuid: RelayUuid, waiting: &Waiting) -> Waits {
        let remaining = self.timeout().saturating_sub(waiting.since.elapsed());
        Waits { uuid, id: waiting.id, remaining }
    }

    /// The leg, if it can be met. The key of whoever comes has just been checked; this one's was
    /// when it came.
    pub(super) fn if_fit(
        &self,
        uuid: &RelayUuid,
        mut waiting: Box<Waiting>,
    ) -> Option<Box<Waiting>> {
        let reason = match self.ring.still_grants(&waiting.grant) {
            _ if !waiting.leg.is_alive() => "hung_up",
            Err(denied) => denied.label(),
            Ok(()) => return Some(waiting),
        };
        self.left(uuid, *waiting, reason);
        None
    }
}

impl Lent {
    /// The name that it gave.
    pub const fn uuid(&self) -> &RelayUuid {
        &self.away.uuid
    }

    /// Makes a pair of it and a leg that another node has handed over.
    ///
    /// # Errors
    /// When its socket fails.
    pub fn meet(self, comer: Comer, places: Places) -> Result<Match, RelayError> {
        pair(self.away.uuid.clone(), *self.waiting, comer, places)
    }

    /// The leg, which leaves the room for good.
    ///
    /// # Errors
    /// When its socket fails.
    pub fn leave(self) -> io::Result<(RelayUuid, Leg)> {
        Ok((self.away.uuid.clone(), self.waiting.leg.wake()?))
    }
}

impl Waiting {
    /// As one that comes to another, which has waited longer.
    fn comes(self) -> io::Result<Comer> {
        let Self { leg, target, conn_type, grant, .. } = self;
        Ok(Comer { leg: leg.wake()?, target, conn_type, grant, via: None })
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let claim = self.room.shard(&self.uuid).lent.remove(&self.id);
        // Not under the lock.
        drop(claim);
    }
}
