//! A part of the configuration that may change while the relay runs: one holder, many readers.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// What is in force of a section. Its copies share it; who reads it keeps nothing of it for longer
/// than one connection, one relay or one round, so that a change is seen by the next.
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Live<T> {
    /// Holds `value` until it is replaced.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// What is in force now. Not to be held across an await.
    pub fn get(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// The same, to be kept for one connection or one relay.
    pub fn share(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Puts `value` in force.
    pub fn replace(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Default for Live<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}
