//! `[pairing]`: the waiting room.

use serde::{Deserialize, Serialize};

use super::{Duration, rules::Rules};

/// The `[pairing]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PairingConfig {
    /// How long a leg waits for its peer.
    pub timeout: Duration,
    /// How many legs may wait at once; one more is refused.
    pub max_waiting: usize,
}

impl Default for PairingConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), max_waiting: 10_000 }
    }
}

impl PairingConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.timeout("pairing.timeout", self.timeout);
        rules.at_least_one("pairing.max_waiting", self.max_waiting);
    }
}
