//! A directory in this process' memory: for nodes that are all in one process, as in a simulation.
//! On a single node the waiting room itself is the directory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use super::{Claimed, Directory, DirectoryError, Event, Holder, Instance};
use crate::wire::rendezvous::RelayUuid;

/// The expired are looked for when there are this many, and again when there are twice as many as
/// were left.
const SWEEP_AT: usize = 1024;

/// A directory for every node that has a copy of it.
#[derive(Clone, Default)]
pub struct MemoryDirectory(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    holders: HashMap<RelayUuid, (Holder, Instant)>,
    sweep_at: usize,
    events: HashMap<Instance, mpsc::UnboundedSender<Event>>,
}

impl MemoryDirectory {
    /// What a node is told unasked, from now on.
    pub fn events(&self, node: Instance) -> mpsc::UnboundedReceiver<Event> {
        let (events, told) = mpsc::unbounded_channel();
        self.lock().events.insert(node, events);
        told
    }

    /// Forgets everything, as a server without a disk does when it is started anew.
    pub fn forget(&self) {
        let mut known = self.lock();
        known.holders.clear();
        for events in known.events.values() {
            let _ = events.send(Event::Forgotten);
        }
    }

    /// How many names are held, expired ones that nobody has looked at included.
    pub fn len(&self) -> usize {
        self.lock().holders.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A map operation that panicked left the map as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim_now(
        &self,
        uuid: &RelayUuid,
        me: &Holder,
        stale: Option<&Holder>,
        ttl: Duration,
    ) -> Claimed {
        let (now, mut known) = (Instant::now(), self.lock());
        known.sweep(now);
        let held = known.holders.get(uuid).filter(|(_, until)| *until > now);
        if let Some((holder, _)) = held.filter(|(holder, _)| holder.node != me.node) {
            if Some(holder) != stale {
                return Claimed::HeldBy(holder.clone());
            }
            if let Some(events) = known.events.get(&holder.node.instance) {
                let _ = events.send(Event::Lost(uuid.clone()));
            }
        }
        known.holders.insert(uuid.clone(), (me.clone(), now + ttl));
        Claimed::Mine
    }
}

impl Known {
    fn sweep(&mut self, now: Instant) {
        if self.holders.len() >= self.sweep_at.max(SWEEP_AT) {
            self.holders.retain(|_, (_, until)| *until > now);
            self.sweep_at = 2 * self.holders.len();
        }
    }
}

impl Directory for MemoryDirectory {
    async fn claim(
        &self,
        uuid: &RelayUuid,
        me: &Holder,
        stale: Option<&Holder>,
        ttl: Duration,
    ) -> Result<Claimed, DirectoryError> {
        Ok(self.claim_now(uuid, me, stale, ttl))
    }

    async fn release(&self, uuid: &RelayUuid, me: &Holder) -> Result<(), DirectoryError> {
        let mut known = self.lock();
        if known.holders.get(uuid).is_some_and(|(holder, _)| holder == me) {
            known.holders.remove(uuid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::directory::Node, relay::route::WaitId};

    fn holder(instance: u64, leg: u64) -> Holder {
        let node = Node { instance: Instance(instance), name: "n".into(), address: "h:1".into() };
        Holder { node: Arc::new(node), leg: WaitId(leg) }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_has_it_until_it_gives_it_back_loses_it_or_its_time_is_over() {
        let (directory, uuid) = (MemoryDirectory::default(), RelayUuid::from("uuid"));
        let (one, again, other) = (holder(1, 1), holder(1, 2), holder(2, 1));
        let mut told = directory.events(one.node.instance);
        let ttl = Duration::from_secs(30);
        let claim =
            async |me: &Holder, stale| directory.claim(&uuid, me, stale, ttl).await.unwrap();
        assert_eq!(claim(&one, None).await, Claimed::Mine);
        assert_eq!(claim(&other, None).await, Claimed::HeldBy(one.clone()));
        assert_eq!(claim(&again, None).await, Claimed::Mine, "another leg of the same node");
        directory.release(&uuid, &one).await.unwrap();
        assert_eq!(claim(&other, Some(&one)).await, Claimed::HeldBy(again.clone()));
        assert_eq!(claim(&other, Some(&again)).await, Claimed::Mine);
        assert_eq!(told.try_recv(), Ok(Event::Lost(uuid.clone())));
        tokio::time::advance(ttl).await;
        assert_eq!(claim(&one, None).await, Claimed::Mine);
        directory.release(&uuid, &one).await.unwrap();
        assert!(directory.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_again_does_not_stay() {
        let (directory, ttl) = (MemoryDirectory::default(), Duration::from_secs(30));
        for name in 0..10 * SWEEP_AT {
            let uuid = RelayUuid::from(name.to_string().as_str());
            directory.claim(&uuid, &holder(1, 1), None, ttl).await.unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(directory.len() <= 2 * SWEEP_AT, "{}", directory.len());
    }
}
