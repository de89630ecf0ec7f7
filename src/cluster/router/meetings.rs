//! The hand-overs under way: so many with all nodes, and only a part of these with each. So a node
//! that does not answer holds up the legs for itself, and nobody else's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Semaphore;

use crate::cluster::directory::Instance;

/// Hand-overs under way.
const MEETINGS: usize = 256;

/// The same with one node.
const WITH_ONE: usize = MEETINGS / 4;

/// How many there are.
pub(super) struct Meetings {
    all: Semaphore,
    // Held for map operations; never across an await. No more than there are legs that wait.
    with: Mutex<HashMap<Instance, With>>,
}

/// Those with one node.
struct With {
    places: Arc<Semaphore>,
    /// How many have one, or wait for one.
    users: usize,
}

/// In the line for one node, or at its end.
struct InLine<'a> {
    meetings: &'a Meetings,
    node: Instance,
}

impl Meetings {
    pub(super) fn new() -> Self {
        Self { all: Semaphore::new(MEETINGS), with: Mutex::default() }
    }

    /// A place for one hand-over to a node, once there is one; given back when dropped.
    pub(super) async fn place(&self, node: Instance) -> impl Sized {
        let (in_line, places) = self.enter(node);
        // Neither is ever closed. That of all comes last: who waits for a node takes none of them.
        let own = places.acquire_owned().await;
        let place = self.all.acquire().await;
        (place, own, in_line)
    }

    fn enter(&self, node: Instance) -> (InLine<'_>, Arc<Semaphore>) {
        let mut nodes = self.lock();
        let new = || With { places: Arc::new(Semaphore::new(WITH_ONE)), users: 0 };
        let with = nodes.entry(node).or_insert_with(new);
        with.users += 1;
        (InLine { meetings: self, node }, Arc::clone(&with.places))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Instance, With>> {
        // A map operation that panicked left the map as it was.
        self.with.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        let mut nodes = self.meetings.lock();
        if let Some(with) = nodes.get_mut(&self.node) {
            with.users -= 1;
            if with.users == 0 {
                nodes.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_node_has_a_part_of_all_places_and_nothing_is_kept_of_it_afterwards() {
        let meetings = Meetings::new();
        let (mut held, mut late) = (Vec::new(), Vec::new());
        for _ in 0..WITH_ONE {
            held.push(meetings.place(Instance(1)).await);
        }
        for _ in 0..2 {
            late.push(timeout(Duration::from_secs(60), meetings.place(Instance(1))).await);
        }
        assert!(late.iter().all(Result::is_err), "no more with this one");
        for node in 2..=4 {
            for _ in 0..WITH_ONE {
                held.push(meetings.place(Instance(node)).await);
            }
        }
        let full = timeout(Duration::from_secs(60), meetings.place(Instance(5))).await;
        assert!(full.is_err(), "no more at all");
        held.pop();
        let fits = timeout(Duration::from_secs(60), meetings.place(Instance(5))).await;
        assert!(fits.is_ok());
        drop((full, late, held));
        assert_eq!(meetings.lock().len(), 1);
        drop(fits);
        assert!(meetings.lock().is_empty());
        assert_eq!(meetings.all.available_permits(), MEETINGS);
    }
}
