//! `[shutdown]`: the way down.

use serde::{Deserialize, Serialize};

use super::{Duration, rules::Rules};

/// The `[shutdown]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownConfig {
    /// How long active relays may go on after SIGTERM or SIGINT.
    pub drain_timeout: Duration,
    /// How long they may go on after another process has taken over.
    pub handover_timeout: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            drain_timeout: Duration::from_secs(30),
            handover_timeout: Duration::from_secs(12 * 3600),
        }
    }
}

impl ShutdownConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        // 0 is an answer here: close the relays at once.
        rules.wait_or_none("shutdown.drain_timeout", self.drain_timeout);
        rules.wait_or_none("shutdown.handover_timeout", self.handover_timeout);
    }
}
