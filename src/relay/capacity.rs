//! How many relays may be active, and the place that each has among them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::config::{Live, RelayConfig};

/// As many as `relay.max_active` says, those of other nodes included; every copy is the same one.
#[derive(Clone)]
pub struct Capacity {
    limits: Live<RelayConfig>,
    taken: Arc<AtomicUsize>,
    /// What other nodes have, as they last said.
    elsewhere: Arc<AtomicUsize>,
}

/// One of these places; given back when dropped.
#[derive(Default)]
pub struct ActivePlace(Option<Arc<AtomicUsize>>);

impl Capacity {
    /// None is taken yet.
    pub fn new(limits: Live<RelayConfig>) -> Self {
        Self { limits, taken: Arc::default(), elsewhere: Arc::default() }
    }

    /// How many are taken on this node.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Other nodes have so many relays: they count from here on.
    pub fn hear_of_others(&self, relays: usize) {
        self.elsewhere.store(relays, Ordering::Relaxed);
    }

    /// A place for one more relay.
    ///
    /// # Errors
    /// When there is none: how many there may be.
    pub fn take(&self) -> Result<ActivePlace, usize> {
        // Counted first: the place is given back also when there was none. Counted always: the
        // limit can come while relays are active.
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let before = before.saturating_add(self.elsewhere.load(Ordering::Relaxed));
        let place = ActivePlace(Some(Arc::clone(&self.taken)));
        match self.limits.get().max_active {
            0 => Ok(place),
            most if before < most => Ok(place),
            most => Err(most),
        }
    }
}

impl Drop for ActivePlace {
    fn drop(&mut self) {
        if let Some(taken) = &self.0 {
            taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for ActivePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ActivePlace")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_have_a_place_and_a_limit_that_comes_later_counts_those_that_there_are() {
        let limits = Live::new(RelayConfig::default());
        let capacity = Capacity::new(limits.clone());
        let mut places: Vec<_> = (0..5).map(|_| capacity.take().unwrap()).collect();
        limits.replace(RelayConfig { max_active: 3, ..RelayConfig::default() });
        for left in (3..5).rev() {
            assert_eq!(capacity.take().unwrap_err(), 3);
            places.pop();
            assert_eq!(places.len(), left);
        }
        assert_eq!(capacity.take().unwrap_err(), 3);
        places.pop();
        places.push(capacity.take().unwrap());
        assert_eq!(capacity.take().unwrap_err(), 3);
    }
    #[test]
    fn what_other_nodes_have_counts_until_they_say_otherwise() {
        let capacity =
            Capacity::new(Live::new(RelayConfig { max_active: 3, ..RelayConfig::default() }));
        capacity.hear_of_others(2);
        let _place = capacity.take().unwrap();
        assert_eq!((capacity.take().unwrap_err(), capacity.taken()), (3, 1));
        capacity.hear_of_others(usize::MAX);
        assert_eq!(capacity.take().unwrap_err(), 3);
        capacity.hear_of_others(1);
        let _another = capacity.take().unwrap();
        assert_eq!(capacity.take().unwrap_err(), 3);
    }
}
