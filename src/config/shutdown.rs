//! `[shutdown]`: the way down.

use serde::{Deserialize, Serialize};

use super::{Duration, rules::Rules};

/// The `[shutdown]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long active relays may go on after SIGTERM or SIGINT.
    pub drain_timeout: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { drain_timeout: Duration::from_secs(30) }
    }
}

impl ShutdownConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        // 0 is an answer here: close the relays at once.
        rules.wait_or_none("shutdown.drain_timeout", self.drain_timeout);
    }
}
