//! Why a key does not let a leg in, or no longer.

use std::sync::Arc;

use crate::key::KeyFault;

/// Why a leg is refused for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is none of the keys.
    Wrong(KeyFault),
    /// It is one of them, and grants nothing now.
    Denied(Denied),
}

/// Why a key that is, or was, one of ours grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its time is over.
    #[error("the key {label:?} has expired: give it a later expires, or the client a new key")]
    Expired {
        /// Which.
        label: Arc<str>,
    },
    /// It has as many relays as it may.
    #[error("the key {label:?} has as many relays at once as its max_relays allows")]
    Relays {
        /// Which.
        label: Arc<str>,
    },
    /// It has carried what it may this month.
    #[error("the key {label:?} has used up its monthly_traffic")]
    Traffic {
        /// Which.
        label: Arc<str>,
    },
    /// It was taken away while the leg waited.
    #[error("its key is no longer one of this relay's")]
    Revoked,
}

impl Denied {
    /// Those that are counted by key, by their names.
    pub const COUNTED: [&'static str; 3] = ["key_expired", "key_quota_relays", "key_quota_traffic"];

    /// Where it is counted.
    pub(super) const fn index(&self) -> Option<usize> {
        match self {
            Self::Expired { .. } => Some(0),
            Self::Relays { .. } => Some(1),
            Self::Traffic { .. } => Some(2),
            Self::Revoked => None,
        }
    }

    /// Its name as a metric's label.
    pub const fn label(&self) -> &'static str {
        match self.index() {
            Some(index) => Self::COUNTED[index],
            None => "key_revoked",
        }
    }
}

impl From<KeyFault> for Refusal {
    fn from(fault: KeyFault) -> Self {
        Self::Wrong(fault)
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}
