//! `[relay]`: two paired legs and the bytes between them.

use serde::{Deserialize, Serialize};

use super::{Duration, Size};

/// The `[relay]` section.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
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
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(30),
            port_forward_idle_timeout: Duration::from_secs(3600),
            write_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
            max_message_size: Size::from_mib(16),
        }
    }
}
