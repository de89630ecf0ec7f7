//! Nodes that did not answer in time: their legs are not to hold up those for others.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::cluster::directory::Instance;

/// For how long such a node is not asked again. Then one leg asks, for all of them.
const SILENCE: Duration = Duration::from_secs(1);

/// For how long nobody has to have asked it until it is as any other again.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// The most nodes of which that is known at one time.
const MOST: usize = 1024;

/// The nodes, and when each may be asked.
#[derive(Default)]
pub(super) struct Silent(Mutex<HashMap<Instance, Instant>>);

impl Silent {
    /// Whether a node is not to be asked now. Who is told that it is, is to say what came of it.
    pub(super) fn is_silent(&self, node: Instance) -> bool {
        let now = Instant::now();
        let mut nodes = self.nodes();
        let Some(until) = nodes.get_mut(&node) else { return false };
        if *until > now {
            return true;
        }
        *until = now + SILENCE;
        false
    }

    /// It did not answer in time.
    pub(super) fn timed_out(&self, node: Instance) {
        let now = Instant::now();
        let mut nodes = self.nodes();
        nodes.retain(|_, until| *until + FORGOTTEN > now);
        if nodes.len() < MOST {
            nodes.insert(node, now + SILENCE);
        }
    }

    /// It answered, or cannot be reached, which is soon known.
    pub(super) fn answered(&self, node: Instance) {
        self.nodes().remove(&node);
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Instance, Instant>> {
        // A map operation that panicked left the map as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_asked_by_one_leg_a_second_until_it_answers() {
        let (silent, node) = (Silent::default(), Instance(1));
        assert!(!silent.is_silent(node));
        silent.timed_out(node);
        for _ in 0..3 {
            assert!(silent.is_silent(node) && !silent.is_silent(Instance(2)));
            sleep(SILENCE).await;
            assert_eq!((0..100).filter(|_| !silent.is_silent(node)).count(), 1);
        }
        silent.answered(node);
        assert!(!silent.is_silent(node) && !silent.is_silent(node));
    }

    #[tokio::test(start_paused = true)]
    async fn of_silent_nodes_only_so_many_are_known_and_not_for_ever() {
        let silent = Silent::default();
        for node in 0..2 * MOST as u64 {
            silent.timed_out(Instance(node));
        }
        assert_eq!(silent.nodes().len(), MOST);
        sleep(SILENCE + FORGOTTEN).await;
        silent.timed_out(Instance(0));
        assert_eq!(silent.nodes().len(), 1);
    }
}
