//! What a key gives to a leg: it goes with the leg from the check of its key to the relay's end.

use std::{fmt, sync::Arc};

use crate::key::{Likeness, RelayKey};

/// What the key that a leg sent gives it. The default is an open relay's: nothing in particular.
#[derive(Clone, Default)]
pub struct Grant(Option<Arc<GrantedKey>>);

/// A key on the ring.
pub(super) struct GrantedKey {
    pub(super) label: String,
    pub(super) key: RelayKey,
    pub(super) likeness: Likeness,
}

impl Grant {
    pub(super) fn of(key: &Arc<GrantedKey>) -> Self {
        Self(Some(Arc::clone(key)))
    }

    /// What the key is called; `None` on an open relay.
    pub fn label(&self) -> Option<&str> {
        self.0.as_deref().map(|key| key.label.as_str())
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grant").field(&self.label()).finish()
    }
}
