//! What the nodes of a cluster ask of the room: who waits here, and to have a leg for a moment.
//!
//! A leg that is lent is nobody's to meet. It goes on as a relay, or leaves for good, or is put back
//! with all that it had: its place, its claim, and the time that was left to it. Whoever came
//! meanwhile is met then.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, MutexGuard, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

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
    wire::rendezvous::{ConnType, RelayUuid},
};

/// Those who are lent.
pub(super) type Away = HashMap<WaitId, Absent>;

/// What the room keeps of a leg that is lent.
pub(super) struct Absent {
    uuid: RelayUuid,
    since: Instant,
    /// It may come while the leg is away.
    claim: Option<Box<Claim>>,
}

/// A leg that is out of the room. It is put back when this is dropped.
pub struct Lent {
    room: Arc<WaitingRoom>,
    uuid: RelayUuid,
    id: WaitId,
    /// Taken out when it goes on.
    waiting: Option<Box<Waiting>>,
}

/// The same, with the places of a relay of it and the leg that it is lent to.
pub struct Reserved {
    // Given back first: the leg may need them when it is back.
    places: Places,
    lent: Lent,
}

/// What is done with a leg that is back, and with whom it met.
pub type Return = Box<dyn Fn(Match) + Send + Sync>;

impl WaitingRoom {
    /// Keeps a claim with its leg; whether that is still here. A leg that has one already keeps
    /// that.
    pub fn keep(&self, uuid: &RelayUuid, id: WaitId, claim: impl FnOnce() -> Claim) -> bool {
        let mut shard = self.shard(uuid);
        let Shard { waiting, lent, .. } = &mut *shard;
        let waiting = waiting.get_mut(uuid).filter(|waiting| waiting.id == id);
        let place = match waiting {
            Some(waiting) => Some(&mut waiting.claim),
            None => lent.get_mut(&id).map(|absent| &mut absent.claim),
        };
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

    /// The leg of this name that waits here now, or is lent.
    pub fn find(&self, uuid: &RelayUuid) -> Option<Waits> {
        let shard = self.shard(uuid);
        if let Some(waiting) = shard.waiting.get(uuid) {
            return Some(self.told(uuid.clone(), waiting));
        }
        let (id, absent) = shard.lent.iter().find(|(_, absent)| absent.uuid == *uuid)?;
        let remaining = self.timeout().saturating_sub(absent.since.elapsed());
        Some(Waits { uuid: uuid.clone(), id: *id, remaining })
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
    ) -> Result<Reserved, NotReserved> {
        loop {
            let mut lent = self.lend(uuid, |_| true).ok_or(NotReserved::Nobody)?;
            let Some(waiting) = lent.waiting.take() else { return Err(NotReserved::Nobody) };
            let Some(waiting) = self.if_fit(uuid, waiting) else { continue };
            return match self.places([&waiting.grant, newcomer]) {
                Ok(places) => {
                    lent.waiting = Some(waiting);
                    Ok(Reserved { places, lent })
                }
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
        let mut lent = self.lend(uuid, |waiting| waiting.id == id)?;
        lent.waiting = Some(self.if_fit(uuid, lent.waiting.take()?)?);
        Some(lent)
    }

    fn lend(self: &Arc<Self>, uuid: &RelayUuid, is_it: impl Fn(&Waiting) -> bool) -> Option<Lent> {
        let mut shard = self.shard(uuid);
        shard.waiting.get(uuid).filter(|waiting| is_it(waiting))?;
        let mut waiting = shard.waiting.remove(uuid)?;
        let (id, since, claim) = (waiting.id, waiting.since, waiting.claim.take());
        shard.lent.insert(id, Absent { uuid: uuid.clone(), since, claim });
        Some(Lent { room: Arc::clone(self), uuid: uuid.clone(), id, waiting: Some(waiting) })
    }

    /// Says what is done with those who come back; the first time only.
    pub fn on_return(&self, act: Return) {
        let _ = self.on_return.set(act);
    }

    /// Takes a leg back that was lent: it meets who came meanwhile, or waits on.
    fn put_back(
        &self,
        uuid: &RelayUuid,
        id: WaitId,
        mut back: Box<Waiting>,
    ) -> Result<Match, RelayError> {
        // Whom nobody wants any more was turned out of the room while this was not in it.
        if self.access.is_blocked(back.leg.peer().ip()) {
            self.left(uuid, *back, Denial::Blocked.label());
            return Err(Denial::Blocked.into());
        }
        loop {
            let mut shard = self.shard(uuid);
            if let Some(absent) = shard.lent.remove(&id) {
                back.claim = absent.claim;
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

impl Reserved {
    /// Makes a pair of the leg and one that another node has handed over.
    ///
    /// # Errors
    /// When its socket fails, or one of the two has been blocked since: who was to be turned out was
    /// in no list meanwhile.
    pub fn meet(self, comer: Comer) -> Result<Match, RelayError> {
        let peers = [self.lent.peer(), Some(comer.leg.connection.peer)];
        if peers.into_iter().flatten().any(|peer| self.lent.room.access.is_blocked(peer.ip())) {
            return Err(Denial::Blocked.into());
        }
        let Self { places, lent } = self;
        let (uuid, waiting) = lent.take()?;
        pair(uuid, *waiting, comer, places)
    }
}

impl Lent {
    /// Who it is.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.waiting.as_ref().map(|waiting| waiting.leg.peer())
    }

    /// The leg, which leaves the room for good, what its session is for, and how long it has waited.
    ///
    /// # Errors
    /// When its socket fails.
    pub fn leave(self) -> io::Result<(RelayUuid, Leg, ConnType, Duration)> {
        let (uuid, waiting) = self.take()?;
        let (conn_type, waited) = (waiting.conn_type, waiting.since.elapsed());
        Ok((uuid, waiting.leg.wake()?, conn_type, waited))
    }

    /// Hangs up on the leg: the node where its peer waits has refused it, for this reason.
    pub fn refuse(self, reason: &'static str) {
        let room = Arc::clone(&self.room);
        if let Ok((uuid, waiting)) = self.take() {
            room.left(&uuid, *waiting, reason);
        }
    }

    fn take(mut self) -> io::Result<(RelayUuid, Box<Waiting>)> {
        // There is always one: it is taken here, or by the drop.
        let waiting = self.waiting.take().ok_or(io::ErrorKind::NotFound)?;
        Ok((self.uuid.clone(), waiting))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(waiting) = self.waiting.take() else {
            let absent = self.room.shard(&self.uuid).lent.remove(&self.id);
            // Not under the lock.
            return drop(absent);
        };
        // Where no runtime is left, no leg can meet another.
        if Handle::try_current().is_err() {
            return self.room.left(&self.uuid, *waiting, RelayError::Draining.label());
        }
        match self.room.put_back(&self.uuid, self.id, waiting) {
            Ok(matched) => drop(self.room.on_return.get().map(|act| act(matched))),
            Err(refusal) => tracing::debug!(uuid = %self.uuid, "a leg is not put back: {refusal}"),
        }
    }
}

impl Waiting {
    /// As one that comes to another, which has waited longer.
    fn comes(self) -> io::Result<Comer> {
        let Self { leg, target, conn_type, grant, .. } = self;
        Ok(Comer { leg: leg.wake()?, target, conn_type, grant, via: None })
    }
}
