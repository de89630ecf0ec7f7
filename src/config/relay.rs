//! `[relay]`: two paired legs and the bytes between them.

use serde::{Deserialize, Serialize};

use super::{Duration, Size, rules::Rules};

/// The `[relay]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// How many relays may be active at once; 0 for any number.
    pub max_active: usize,
    /// A relay that moved no byte for this long is closed.
    pub idle_timeout: Duration,
    /// The same for port forwards and RDP, which are quiet by nature.
    pub port_forward_idle_timeout: Duration,
    /// A leg that takes none of the bytes waiting for it for this long is closed.
    pub write_timeout: Duration,
    /// TCP keepalive: how long a quiet connection waits before it is probed.
    pub keepalive: Duration,
    /// The largest message that crosses between a WebSocket leg and another.
    pub max_message_size: Size,
    /// Whether bulk between two TCP legs goes through the kernel alone, where the system can.
    pub kernel_splice: bool,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            max_active: 0,
            idle_timeout: Duration::from_secs(30),
            port_forward_idle_timeout: Duration::from_secs(3600),
            write_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
            max_message_size: Size::from_mib(16),
            kernel_splice: true,
        }
    }
}

impl RelayConfig {
    pub(super) fn validate(&self, rules: &mut Rules) {
        rules.timeout("relay.idle_timeout", self.idle_timeout);
        rules.timeout("relay.port_forward_idle_timeout", self.port_forward_idle_timeout);
        rules.timeout("relay.write_timeout", self.write_timeout);
        // What Linux takes as TCP_KEEPIDLE.
        let (least, most) = (Duration::from_secs(1), Duration::from_secs(32_767));
        rules.between("relay.keepalive", self.keepalive, least, most);
        // The protocol's header has 30 bits for the length.
        let (least, most) = (Size::from_kib(64), Size::from_bytes(0x3FFF_FFFF));
        rules.between("relay.max_message_size", self.max_message_size, least, most);
    }
}
